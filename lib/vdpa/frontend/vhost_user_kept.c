/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection that outlives the process: what of a device is kept, and how the next process goes
 * on. Its bytes and its descriptors are the wire's (kept_wire.c), what was said the record's
 * (vhost_user_record.c). Owns the inflight areas of front ends that have none.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "clock.h"
#include "error_priv.h"
#include "restart.h"
#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vdpa_virtqueue.h"
#include "vhost_user_priv.h"
#include "vhost_user_record.h"

#define LISTENER "listener"
#define AREAS	 "areas"

/* Bytes from the last message that was carried out on. */
#define WIRE_INPUT 1024u
/* Names of descriptors of a read. */
#define WIRE_IDS   16u

_Static_assert(WIRE_INPUT >= 2 * VHU_INPUT_MAX, "all that is read on");

void
vdpa_vhu_kept_stop(struct vhu_device *dev, const char *why)
{
	if (!dev->kept.on)
		return;
	dev->kept.on = false;
	/* Where it is given up already, that has been said. */
	if (!vdpa_restart_is_given_up(dev->vdev->name))
		VDPA_LOG(WARNING, "%s: vhost-user: does not go on in the next process: %s",
			 dev->vdev->name, why);
	if (!vdpa_restart_holds())
		vdpa_wire_end(&dev->kept.wire);
	/* Nor is its function, which its driver keeps. */
	vdpa_restart_give_up(dev->vdev->name, why);
}

/* The wire and the areas. */

static int
make_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = vdpa_wire_make(&k->wire);

	if (rc == 0)
		rc = vdpa_kept_file_make(dev->vdev->name, AREAS, k->stride * dev->nvqs, &k->areas);
	if (rc == 0)
		rc = vdpa_kept_state_make(&k->state, dev->vdev);
	return rc;
}

static int
take_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = vdpa_wire_take(&k->wire);

	if (rc == 0)
		rc = vdpa_kept_file_take(dev->vdev->name, AREAS, k->stride * dev->nvqs, &k->areas);
	if (rc == 0)
		rc = vdpa_kept_state_take(&k->state, dev->vdev);
	return rc;
}

static void
drop_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;

	vdpa_wire_unmap(&k->wire);
	vdpa_kept_state_drop(&k->state);
	vdpa_vhu_shm_unmap(k->areas);
	k->areas = NULL;
}

/* What a former process has left of the device, with the files that belong to it. */
static int
find_former(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = vdpa_vhu_record_read(dev, &k->former);

	if (rc == 0) {
		/* Whether or not the rest goes on. */
		dev->files.folder_was_made = k->former->folder_made;
		rc = take_files(dev);
	}
	if (rc == -ENOENT && k->former == NULL)
		return rc;
	if (rc < 0) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		VDPA_LOG(ERR, "%s: vhost-user: what the former process has left does not go on: %s",
			 dev->vdev->name, vdpa_vhu_why(dev, -1));
		free(k->former);
		k->former = NULL;
		drop_files(dev);
		vdpa_error_restore(&error);
	}
	return rc;
}

int
vdpa_vhu_kept_init(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	bool is_new;
	int rc;

	if (!vdpa_restart_is_on())
		return 0;
	k->stride = vdpa_kept_area_stride(dev->vdev);
	k->wire =
		(struct vdpa_wire){.device = dev->vdev->name, .ids = WIRE_IDS, .input = WIRE_INPUT};
	/* Before the driver puts anything there. */
	rc = find_former(dev);
	/* The other process has it as it was. */
	if (rc < 0 && rc != -ENOENT && vdpa_restart_holds())
		return rc;
	is_new = rc < 0;
	if (is_new)
		vdpa_restart_forget(dev->vdev->name);
	rc = vdpa_vhu_planned_choose(dev);
	if (rc == 0 && is_new)
		rc = make_files(dev);
	if (rc < 0) {
		VDPA_LOG(NOTICE, "%s: vhost-user: starts anew in the next process: %s",
			 dev->vdev->name, vdpa_vhu_why(dev, -1));
		vdpa_restart_says(dev->vdev->name, vdpa_vhu_why(dev, -1));
		vdpa_restart_forget(dev->vdev->name);
		drop_files(dev);
		free(k->former);
		k->former = NULL;
		return 0;
	}
	k->on = true;
	return 0;
}

void
vdpa_vhu_kept_fini(struct vhu_device *dev)
{
	drop_files(dev);
	free(dev->kept.former);
	dev->kept.former = NULL;
}

bool
vdpa_vhu_kept_leaves(const struct vhu_device *dev)
{
	return dev->kept.on && vdpa_restart_leaves() && !vdpa_restart_is_given_up(dev->vdev->name);
}

bool
vdpa_vhu_kept_is_others(const struct vhu_device *dev)
{
	return vdpa_vhu_kept_leaves(dev) || vdpa_restart_holds();
}

void
vdpa_vhu_kept_end(struct vhu_device *dev)
{
	if (dev->kept.on && !vdpa_vhu_kept_leaves(dev))
		vdpa_restart_forget(dev->vdev->name);
}

/* The listening socket. */

/* Whether fd listens at the device's path, and its file is the one that it had. */
static int
check_listener(const struct vhu_device *dev, int fd, const struct vhu_record *former,
	       struct vdpa_listen *l)
{
	struct sockaddr_un un = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(un) - 1, optlen = sizeof(int);
	int listens = 0;
	struct stat st;

	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &optlen) < 0 || !listens ||
	    getsockname(fd, (struct sockaddr *)&un, &len) < 0 || un.sun_family != AF_UNIX ||
	    strncmp(un.sun_path, dev->path, sizeof(un.sun_path)) != 0)
		return vdpa_error(EPROTO, "what it has left is not the socket of %s", dev->path);
	if (lstat(dev->path, &st) < 0 || !S_ISSOCK(st.st_mode) ||
	    st.st_dev != former->listener.dev || st.st_ino != former->listener.ino)
		return vdpa_error(ENOENT, "somebody has removed or replaced %s", dev->path);
	*l = (struct vdpa_listen){.fd = fd, .adopted = true, .dev = st.st_dev, .ino = st.st_ino};
	snprintf(l->path, sizeof(l->path), "%s", dev->path);
	return 0;
}

int
vdpa_vhu_kept_listener(struct vhu_device *dev)
{
	const struct vhu_record *former = dev->kept.former;
	int fd, rc;

	if (!dev->kept.on || former == NULL || !former->has_listener)
		return -ENOENT;
	fd = vdpa_restart_take(dev->vdev->name, LISTENER);
	rc = fd < 0 ? fd : check_listener(dev, fd, former, &dev->socket.listen);
	if (rc == 0)
		return 0;
	VDPA_LOG(WARNING, "%s: vhost-user: the former process' socket is made anew: %s",
		 dev->vdev->name, vdpa_vhu_why(dev, -1));
	/* Nobody can have connected there in the meantime: it would be their connection that ends.
	 */
	vdpa_restart_del(dev->vdev->name, LISTENER);
	/* What closes it need not have done so when its path is looked at. */
	if (fd >= 0 && !vdpa_restart_holds())
		(void)shutdown(fd, SHUT_RDWR);
	(void)vdpa_close_foreign(dev->fds, fd);
	return -ENOENT;
}

void
vdpa_vhu_kept_listens(struct vhu_device *dev)
{
	int fd = dev->socket.listen.fd, rc = 0;

	if (!dev->kept.on)
		return;
	if (fd >= 0)
		rc = vdpa_restart_put(dev->vdev->name, LISTENER, fd);
	if (rc == 0 && dev->session == NULL)
		rc = vdpa_vhu_record_write(dev, NULL, 0);
	if (rc < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
}

void
vdpa_vhu_kept_listens_no_more(struct vhu_device *dev)
{
	if (!dev->kept.on || vdpa_restart_leaves())
		return;
	if (dev->session == NULL && vdpa_vhu_record_write(dev, NULL, 0) < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
	vdpa_restart_del(dev->vdev->name, LISTENER);
}

/* The connection. */

void
vdpa_vhu_kept_connected(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc;

	if (!k->on)
		return;
	vdpa_wire_begin(&k->wire);
	memset(k->areas->addr, 0, k->areas->len);
	vdpa_kept_state_clear(&k->state);
	rc = vdpa_vhu_planned_is(dev)
		     ? 0
		     : vdpa_restart_put(dev->vdev->name, VHU_KEPT_CONNECTION, dev->conn.fd);
	if (rc == 0)
		rc = vdpa_vhu_record_write(dev, NULL, 0);
	if (rc < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
}

void
vdpa_vhu_kept_disconnected(struct vhu_device *dev, const struct vhu_kept_session *s)
{
	if (!dev->kept.on || vdpa_restart_leaves())
		return;
	if (vdpa_vhu_record_write(dev, NULL, 0) < 0) {
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
		return;
	}
	vdpa_restart_del(dev->vdev->name, VHU_KEPT_CONNECTION);
	for (unsigned int i = 0; s != NULL && i < s->live.n; i++)
		vdpa_wire_del_fd(&dev->kept.wire, s->live.live[i].id);
	/* Those of a former process, too. */
	vdpa_wire_prune(&dev->kept.wire, NULL);
}

int
vdpa_vhu_kept_own_fd(struct vhu_device *dev, int fd, vhu_kept_id *id)
{
	struct vhu_kept_session *s = dev->session->kept;
	int rc;

	*id = s->done * WIRE_IDS + WIRE_IDS - 1;
	rc = vdpa_wire_put_fd(&dev->kept.wire, *id, fd);
	return rc < 0 ? rc : vdpa_wire_note(&s->live, *id, s->done);
}

ssize_t
vdpa_vhu_kept_look(struct vhu_conn *conn, struct msghdr *hdr)
{
	struct vhu_device *dev = conn->session->dev;
	ssize_t n;
	int rc;

	if (!dev->kept.on)
		return recvmsg(conn->fd, hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK);
	n = vdpa_wire_look(&dev->kept.wire, conn->fd, hdr, &conn->session->kept->live,
			   VHU_MSG_FDS_MAX, &rc);
	if (rc < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
	return n;
}

int
vdpa_vhu_kept_take(struct vhu_conn *conn, size_t n, unsigned int nfds, size_t message)
{
	struct vhu_device *dev = conn->session->dev;
	uint64_t done = conn->session->kept->done;
	uint8_t spare[VHU_INPUT_MAX];

	if (!dev->kept.on)
		return vdpa_wire_receive_plainly(conn->fd, spare, n, nfds);
	return vdpa_wire_receive(&dev->kept.wire, conn->fd, n, nfds, done + message - conn->at,
				 done, &conn->session->kept->live);
}

ssize_t
vdpa_vhu_kept_reply(struct vhu_conn *conn, const struct vhu_msg *msg, int fd)
{
	struct vhu_device *dev = conn->session->dev;

	if (!dev->kept.on)
		return vdpa_vhu_send(conn->fd, msg, fd);
	return vdpa_vhu_send_noted(conn->fd, msg, fd,
				   vdpa_wire_reply(&dev->kept.wire, conn->session->kept->done));
}

/* An area is looked at again after so long, and a ring given up after so long. */
#define DRAIN_LOOK_US 500
#define DRAIN_US      10000000

static unsigned int
under_way(struct vhu_session *s, uint16_t idx, uint64_t below, uint64_t *next)
{
	const struct vhu_kept *k = &s->dev->kept;
	const struct vdpa_vq_inflight area = {.addr = k->areas->addr + idx * k->stride,
					      .size = k->stride};
	uint64_t features = vdpa_consumer_get_features(s->consumer);
	struct vdpa_consumer_vq_facts f;

	vdpa_consumer_get_vq_facts(s->consumer, idx, &f);
	return vdpa_vq_inflight_count(&area, (features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0,
				      f.num, below, next);
}

static void
drain_ring(struct vhu_session *s, uint16_t idx, bool all, int64_t until_us)
{
	struct vhu_kept_ring *ring;
	uint64_t below;

	if (s->kept == NULL || s->inflight != NULL || vdpa_device_puts_back(s->dev->vdev))
		return;
	ring = &s->kept->rings[idx];
	below = all ? UINT64_MAX : ring->taken_again;
	while (below > 0 && under_way(s, idx, below, NULL) > 0 &&
	       vdpa_consumer_has_vq(s->consumer, idx)) {
		if (vdpa_now_us() > until_us) {
			VDPA_LOG(ERR, "%s: vhost-user: queue %u: requests do not end within %d s",
				 s->dev->vdev->name, idx, DRAIN_US / 1000000);
			return;
		}
		usleep(DRAIN_LOOK_US);
	}
	ring->taken_again = 0;
}

void
vdpa_vhu_kept_drain(struct vhu_session *s, uint16_t idx, bool all)
{
	drain_ring(s, idx, all, vdpa_now_us() + DRAIN_US);
}

void
vdpa_vhu_kept_drain_all(struct vhu_session *s)
{
	int64_t until_us = vdpa_now_us() + DRAIN_US;

	for (uint16_t i = 0; i < s->nrings; i++)
		drain_ring(s, i, false, until_us);
}

/* What the rings' areas say before anything runs. */
static void
note_under_way(struct vhu_session *s, const struct vhu_record *former)
{
	for (unsigned int i = 0; i < former->nrings && s->inflight == NULL; i++) {
		uint16_t idx = former->rings[i].idx;
		uint64_t next;

		if (former->rings[i].facts.runs && under_way(s, idx, UINT64_MAX, &next) > 0)
			s->kept->rings[idx].taken_again = next;
	}
}

/* The next process. */

/* Bytes that were taken and not carried out. */
static int
resume_input(struct vhu_device *dev, uint64_t done, uint64_t *received)
{
	struct vhu_conn *conn = &dev->conn;
	ssize_t n = vdpa_wire_resume(&dev->kept.wire, done, conn->input, VHU_INPUT_MAX, received);

	if (n < 0)
		return (int)n;
	conn->at = 0;
	conn->end = (size_t)n;
	return 0;
}

/* A descriptor of theirs: of the message at the beginning, or of one other behind it. */
static int
resume_fd(void *arg, uint64_t message, vhu_kept_id id, int fd)
{
	struct vhu_device *dev = arg;
	struct vhu_conn *conn = &dev->conn;
	unsigned int at = conn->nfds + conn->nfds_later;
	size_t place = (size_t)(message - conn->session->kept->done);

	if (at >= VHU_MSG_FDS_MAX || (conn->nfds_later > 0 && place != conn->later_at)) {
		(void)vdpa_close_foreign(dev->fds, fd);
		return vdpa_error(EPROTO, "the descriptors of its messages are not what was kept");
	}
	conn->fds[at] = fd;
	conn->ids[at] = id;
	if (place == 0) {
		conn->nfds++;
	} else {
		conn->nfds_later++;
		conn->later_at = place;
	}
	return 0;
}

static int
resume_reply(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *former)
{
	size_t len = VHU_HDR_SIZE + former->reply.size, sent;
	int fd = -1;
	ssize_t n;

	if (!former->has_reply)
		return 0;
	if (vdpa_wire_replied(&dev->kept.wire, former->connection.done, &sent))
		return sent == len ? 0
				   : vdpa_error(EPROTO, "the front end does not read its replies");
	if (former->reply_fd != 0) {
		fd = vdpa_wire_take_fd(&dev->kept.wire, former->reply_fd);
		if (fd < 0)
			return fd;
	}
	n = vdpa_vhu_kept_reply(&dev->conn, &former->reply, fd);
	if (fd >= 0)
		close(fd);
	VDPA_LOG(INFO, "%s: vhost-user: request %u was carried out and is answered now",
		 dev->vdev->name, former->reply.request);
	return n == (ssize_t)len ? 0 : vdpa_error(EPIPE, "a reply cannot be sent");
}

/* What the record names is in the store. */
static int
note_named(struct vhu_kept_session *s, const struct vhu_record *r)
{
	const vhu_kept_id others[] = {r->log, r->inflight, r->channel, r->reply_fd};
	int rc = 0;

	for (unsigned int i = 0; i < RTE_DIM(others) && rc == 0; i++)
		rc = vdpa_wire_note(&s->live, others[i], s->done);
	for (unsigned int i = 0; i < r->nregions && rc == 0; i++)
		rc = vdpa_wire_note(&s->live, r->regions[i].id, s->done);
	for (unsigned int i = 0; i < r->nrings && rc == 0; i++) {
		rc = vdpa_wire_note(&s->live, r->rings[i].kick, s->done);
		if (rc == 0)
			rc = vdpa_wire_note(&s->live, r->rings[i].call, s->done);
		if (rc == 0)
			rc = vdpa_wire_note(&s->live, r->rings[i].err, s->done);
	}
	return rc;
}

/* With a session that was brought to what the former process knew: what was under way then. */
static int
resume_messages(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *former)
{
	uint64_t done = former->connection.done, received = done;
	int rc;

	rc = note_named(s->kept, former);
	if (rc == 0)
		rc = resume_input(dev, done, &received);
	if (rc == 0)
		rc = vdpa_wire_resume_fds(&dev->kept.wire, done, received, VHU_MSG_FDS_MAX,
					  &s->kept->live, resume_fd, dev);
	if (rc == 0)
		rc = vdpa_vhu_record_write(dev, former->has_reply ? &former->reply : NULL,
					   former->reply_fd);
	if (rc == 0)
		rc = resume_reply(dev, s, former);
	if (rc == 0)
		vdpa_wire_prune(&dev->kept.wire, &s->kept->live);
	return rc;
}

static int
resume_connection(struct vhu_device *dev, int fd, struct vhu_session **s)
{
	const struct vhu_record *former = dev->kept.former;
	struct vhu_kept *k = &dev->kept;
	struct vdpa_peer peer;
	int rc;

	rc = vdpa_vhu_planned_check(dev, former);
	if (rc < 0)
		return rc;
	if (!vdpa_vhu_is_stream(fd) || !vdpa_wire_is_of(&k->wire, former->connection.serial))
		return vdpa_error(EPROTO, "what it has left is not its connection");
	(void)vdpa_peer_of_socket(fd, &peer);
	rc = vdpa_consumer_admit(dev->vdev, &peer);
	if (rc < 0)
		return rc;
	k->wire.serial = former->connection.serial;
	*s = vdpa_vhu_session_new(dev, &peer);
	if (*s == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&dev->lock);
	dev->conn.fd = fd;
	dev->conn.session = dev->session = *s;
	pthread_mutex_unlock(&dev->lock);
	/* Its queues were on shadows, which have ended: it is stopped before anything that it was
	 * given is executed again, and goes on by the front end's area. */
	if (former->inflight != 0 && !vdpa_device_tracks_inflight(dev->vdev))
		vdpa_device_drop_left(dev->vdev);
	rc = vdpa_vhu_record_apply(dev, *s, former);
	if (rc < 0)
		return rc;
	if (vdpa_vhu_planned_is(dev)) {
		rc = resume_messages(dev, *s, former);
		return rc < 0 ? rc : vdpa_vhu_planned_go_on(dev, *s);
	}
	note_under_way(*s, former);
	rc = vdpa_vhu_record_start(dev, *s);
	return rc < 0 ? rc : resume_messages(dev, *s, former);
}

static bool
resume(struct vhu_device *dev)
{
	const struct vhu_record *former = dev->kept.former;
	struct vhu_session *s = NULL;
	int fd, rc;

	if (!dev->kept.on || former == NULL)
		return false;
	if (!former->has_connection) {
		/* What a process that was killed had not given up yet. */
		vdpa_restart_del(dev->vdev->name, VHU_KEPT_CONNECTION);
		vdpa_wire_prune(&dev->kept.wire, NULL);
		vdpa_restart_taken(dev->vdev->name);
		return false;
	}
	fd = vdpa_restart_take(dev->vdev->name, VHU_KEPT_CONNECTION);
	rc = former->cold[0] != '\0' ? vdpa_error(EOPNOTSUPP, "%s", former->cold)
	     : fd < 0		     ? fd
				     : resume_connection(dev, fd, &s);
	if (rc == 0) {
		vdpa_restart_taken(dev->vdev->name);
		return true;
	}
	VDPA_LOG(ERR, "%s: vhost-user: its connection does not go on: %s", dev->vdev->name,
		 vdpa_vhu_why(dev, -1));
	pthread_mutex_lock(&dev->lock);
	dev->session = NULL;
	dev->conn.fd = -1;
	pthread_mutex_unlock(&dev->lock);
	dev->conn.session = NULL;
	for (unsigned int i = 0; i < dev->conn.nfds + dev->conn.nfds_later; i++)
		(void)vdpa_close_foreign(dev->fds, dev->conn.fds[i]);
	dev->conn.nfds = dev->conn.nfds_later = 0;
	dev->conn.at = dev->conn.end = 0;
	/* Another process may yet go on with it. */
	if (fd >= 0 && vdpa_restart_holds())
		close(fd);
	else if (fd >= 0)
		(void)vdpa_close_connection(dev->fds, fd);
	if (s != NULL)
		vdpa_vhu_session_free(s);
	vdpa_restart_del(dev->vdev->name, VHU_KEPT_CONNECTION);
	vdpa_wire_prune(&dev->kept.wire, NULL);
	return false;
}

bool
vdpa_vhu_kept_resume(struct vhu_device *dev)
{
	bool resumed = resume(dev);

	/* What runs and is nobody's. */
	vdpa_device_drop_left(dev->vdev);
	return resumed;
}
