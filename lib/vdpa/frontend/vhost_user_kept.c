/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection that outlives the process. Its bytes and its descriptors are in the store before
 * they leave the socket, and whether a reply has left is known afterwards, whenever the process is
 * killed. Owns the wire, a file in memory that the next process maps, and the inflight areas of
 * front ends that have none.
 *
 * What makes that certain is that the kernel carries a system call to its end before SIGKILL ends
 * the process: recvmmsg(2) and sendmmsg(2) write how many bytes went through into memory of the
 * caller's, and that memory is the wire. So
 *
 *   a message is looked at (MSG_PEEK), its descriptors are put into the store, and the wire says
 *   which message they are of; then recvmmsg() takes the bytes into the wire;
 *   the message is carried out and recorded with its reply (vhost_user_record.c);
 *   the wire says for which message sendmmsg() is called, and that says that the reply has left.
 *
 * A message that was taken and not recorded is carried out again: all that it has changed ended
 * with the process. One that was recorded is not, and its reply is sent if it has not left.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
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

#define LISTENER   "listener"
#define CONNECTION "connection"
#define WIRE	   "wire"
#define AREAS	   "areas"
#define FD_PREFIX  "fd."

#define WIRE_MAGIC UINT64_C(0x6572697764707675)
/* Bytes from the last message that was carried out on; a power of two. */
#define WIRE_INPUT 1024u
/* Reads with descriptors whose messages were not carried out yet. */
#define WIRE_FDS   4
#define AREA_ALIGN ((size_t)64)

_Static_assert(WIRE_INPUT >= 2 * VHU_INPUT_MAX, "all that is read on");

/* Descriptors that came with a read. Places are counted from the connection's beginning. */
struct wire_fds {
	uint64_t message; /* that they are of */
	uint64_t read;	  /* where that read began */
	uint32_t n;
	uint32_t padding;
};

struct vhu_wire {
	uint64_t magic;
	uint64_t serial;   /* of the connection */
	uint64_t received; /* bytes that have left the socket, but for the last read's */
	uint64_t in_at;	   /* what it was before that read, or will be */
	struct mmsghdr in; /* msg_len: of that read */
	uint64_t out_for;  /* the place behind the message that out is the reply to */
	struct mmsghdr out;
	struct wire_fds fds[WIRE_FDS];
	uint8_t input[WIRE_INPUT]; /* by place, modulo its size */
};

/* What the wire says is written in this order: the next process reads what was stored before the
 * process ended. */
#define WIRE_SET(field, value) __atomic_store_n(&(field), value, __ATOMIC_RELEASE)

static void
fd_name(char buf[VDPA_RESTART_WHAT_MAX], uint64_t serial, vhu_kept_id id)
{
	snprintf(buf, VDPA_RESTART_WHAT_MAX, FD_PREFIX "%" PRIx64 ".%" PRIx64, serial, id);
}

static int
put_fd(struct vhu_device *dev, vhu_kept_id id, int fd)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, dev->kept.serial, id);
	return vdpa_restart_put(dev->vdev->name, what, fd);
}

void
vdpa_vhu_kept_del_fd(struct vhu_device *dev, vhu_kept_id id)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, dev->kept.serial, id);
	vdpa_restart_del(dev->vdev->name, what);
}

int
vdpa_vhu_kept_take_fd(struct vhu_device *dev, vhu_kept_id id)
{
	char what[VDPA_RESTART_WHAT_MAX];

	fd_name(what, dev->kept.serial, id);
	return vdpa_restart_take(dev->vdev->name, what);
}

void
vdpa_vhu_kept_stop(struct vhu_device *dev, const char *why)
{
	if (!dev->kept.on)
		return;
	dev->kept.on = false;
	VDPA_LOG(WARNING, "%s: vhost-user: does not go on in the next process: %s", dev->vdev->name,
		 why);
	vdpa_restart_says(dev->vdev->name, why);
	if (dev->kept.wire != NULL && !vdpa_restart_holds())
		WIRE_SET(dev->kept.wire->magic, 0);
	vdpa_restart_forget(dev->vdev->name);
}

/* The wire and the areas. */

/* A file in memory of that size, mapped and in the store. */
static int
make_file(struct vhu_device *dev, const char *what, size_t size, struct vhu_shm **shm)
{
	int fd = memfd_create(what, MFD_CLOEXEC | MFD_ALLOW_SEALING), rc;

	if (fd < 0)
		return vdpa_error(errno, "memfd: %m");
	rc = ftruncate(fd, (off_t)size) < 0 ||
			     fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0
		     ? vdpa_error(errno, "memfd: %m")
		     : vdpa_vhu_shm_map(shm, fd, 0, size);
	if (rc == 0) {
		rc = vdpa_restart_put(dev->vdev->name, what, fd);
		if (rc < 0) {
			vdpa_vhu_shm_unmap(*shm);
			*shm = NULL;
		}
	}
	close(fd);
	return rc;
}

static int
take_file(struct vhu_device *dev, const char *what, size_t size, struct vhu_shm **shm)
{
	int fd = vdpa_restart_take(dev->vdev->name, what), rc;

	if (fd < 0)
		return fd;
	rc = vdpa_vhu_shm_map(shm, fd, 0, size);
	close(fd);
	return rc;
}

static size_t
area_stride(const struct vhu_device *dev)
{
	uint32_t num = vdpa_get_vq_num_max(dev->vdev);

	return RTE_ALIGN_CEIL(
		RTE_MAX(vdpa_vq_inflight_size(false, num), vdpa_vq_inflight_size(true, num)),
		AREA_ALIGN);
}

static int
make_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = make_file(dev, WIRE, sizeof(*k->wire), &k->wire_file);

	if (rc == 0)
		rc = make_file(dev, AREAS, k->stride * dev->nvqs, &k->areas);
	if (rc == 0)
		k->wire = (struct vhu_wire *)(void *)k->wire_file->addr;
	return rc;
}

static int
take_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = take_file(dev, WIRE, sizeof(*k->wire), &k->wire_file);

	if (rc == 0)
		rc = take_file(dev, AREAS, k->stride * dev->nvqs, &k->areas);
	if (rc == 0)
		k->wire = (struct vhu_wire *)(void *)k->wire_file->addr;
	return rc;
}

static void
drop_files(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;

	vdpa_vhu_shm_unmap(k->wire_file);
	vdpa_vhu_shm_unmap(k->areas);
	k->wire_file = k->areas = NULL;
	k->wire = NULL;
}

/* What a former process has left of the device, with the files that belong to it. */
static int
find_former(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = vdpa_vhu_record_read(dev, &k->former);

	if (rc == 0)
		rc = take_files(dev);
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
	k->stride = area_stride(dev);
	/* Before the driver puts anything there. */
	rc = find_former(dev);
	/* The other process has it as it was. */
	if (rc < 0 && rc != -ENOENT && vdpa_restart_holds())
		return rc;
	is_new = rc < 0;
	if (is_new)
		vdpa_restart_forget(dev->vdev->name);
	rc = vdpa_device_can_restart(dev->vdev);
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
	*l = (struct vdpa_listen){.fd = fd, .dev = st.st_dev, .ino = st.st_ino};
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
	if (fd >= 0)
		close(fd);
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

static bool
is_no_front_ends(const char *what, void *arg)
{
	return strncmp(what, FD_PREFIX, strlen(FD_PREFIX)) != 0;
}

void
vdpa_vhu_kept_connected(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc;

	if (!k->on)
		return;
	k->serial++;
	memset(k->wire, 0, sizeof(*k->wire));
	k->wire->serial = k->serial;
	WIRE_SET(k->wire->magic, WIRE_MAGIC);
	memset(k->areas->addr, 0, k->areas->len);
	rc = vdpa_restart_put(dev->vdev->name, CONNECTION, dev->conn.fd);
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
	vdpa_restart_del(dev->vdev->name, CONNECTION);
	for (unsigned int i = 0; s != NULL && i < s->nlive; i++)
		vdpa_vhu_kept_del_fd(dev, s->live[i].id);
	/* Those of a former process, too. */
	vdpa_restart_prune(dev->vdev->name, is_no_front_ends, NULL);
}

static int
note_live(struct vhu_kept_session *s, vhu_kept_id id, uint64_t read_end)
{
	if (id == 0)
		return 0;
	if (s->nlive == s->live_room) {
		unsigned int room = s->live_room * 2 + 16;
		struct vhu_kept_live *live = reallocarray(s->live, room, sizeof(*live));

		if (live == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		s->live = live;
		s->live_room = room;
	}
	s->live[s->nlive++] = (struct vhu_kept_live){.id = id, .read_end = read_end};
	return 0;
}

int
vdpa_vhu_kept_own_fd(struct vhu_device *dev, int fd, vhu_kept_id *id)
{
	struct vhu_kept_session *s = dev->session->kept;
	int rc;

	*id = s->done * 16 + 15;
	rc = put_fd(dev, *id, fd);
	return rc < 0 ? rc : note_live(s, *id, s->done);
}

vhu_kept_id
vdpa_vhu_kept_fd_id(const struct vhu_device *dev, unsigned int n)
{
	return dev->kept.wire->received * 16 + n + 1;
}

/* Put the descriptors that a look at the socket has brought; what is refused for them is none of
 * the store's. */
static int
put_fds(struct vhu_device *dev, struct msghdr *hdr, uint64_t read_end)
{
	struct vhu_kept_session *s = dev->session->kept;
	unsigned int count = 0;
	int rc = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c != NULL; c = CMSG_NXTHDR(hdr, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n && rc == 0 && count < VHU_MSG_FDS_MAX; i++) {
			vhu_kept_id id = vdpa_vhu_kept_fd_id(dev, count++);
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (!vdpa_fd_can_be_kept(fd))
				continue;
			rc = put_fd(dev, id, fd);
			if (rc == 0)
				rc = note_live(s, id, read_end);
		}
	}
	return rc;
}

ssize_t
vdpa_vhu_kept_look(struct vhu_conn *conn, struct msghdr *hdr)
{
	struct vhu_device *dev = conn->session->dev;
	ssize_t n = recvmsg(conn->fd, hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | MSG_PEEK);

	if (n > 0 && dev->kept.on && put_fds(dev, hdr, dev->kept.wire->received + (uint64_t)n) < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
	return n;
}

/* Where the wire says which message the descriptors of a read are of. */
static struct wire_fds *
free_fds(struct vhu_wire *wire, uint64_t done)
{
	for (unsigned int i = 0; i < WIRE_FDS; i++)
		if (wire->fds[i].n == 0 || wire->fds[i].read >= wire->received ||
		    wire->fds[i].message < done)
			return &wire->fds[i];
	return NULL;
}

bool
vdpa_vhu_kept_take(struct vhu_conn *conn, size_t n, unsigned int nfds, size_t message)
{
	struct vhu_device *dev = conn->session->dev;
	const struct vhu_kept_session *s = conn->session->kept;
	uint8_t spare[VHU_INPUT_MAX];
	struct iovec iov[2] = {{.iov_base = spare, .iov_len = n}};
	struct mmsghdr local = {0}, *in = &local;
	struct vhu_wire *wire = dev->kept.wire;

	if (dev->kept.on) {
		size_t at = wire->received & (WIRE_INPUT - 1), first = RTE_MIN(n, WIRE_INPUT - at);

		if (nfds > 0) {
			struct wire_fds *fds = free_fds(wire, s->done);

			if (fds == NULL)
				return false;
			WIRE_SET(fds->n, 0);
			fds->message = s->done + message - conn->at;
			fds->read = wire->received;
			WIRE_SET(fds->n, nfds);
		}
		WIRE_SET(wire->in_at, wire->received);
		iov[0] = (struct iovec){.iov_base = wire->input + at, .iov_len = first};
		iov[1] = (struct iovec){.iov_base = wire->input, .iov_len = n - first};
		in = &wire->in;
	}
	in->msg_hdr = (struct msghdr){.msg_iov = iov, .msg_iovlen = iov[1].iov_len > 0 ? 2 : 1};
	if (recvmmsg(conn->fd, in, 1, MSG_DONTWAIT, NULL) != 1 || in->msg_len != n)
		return false;
	if (dev->kept.on) {
		WIRE_SET(wire->received, wire->in_at + n);
		WIRE_SET(wire->in.msg_len, 0);
	}
	return true;
}

ssize_t
vdpa_vhu_kept_reply(struct vhu_conn *conn, const struct vhu_msg *msg, int fd)
{
	struct vhu_device *dev = conn->session->dev;
	struct vhu_wire *wire = dev->kept.wire;

	if (!dev->kept.on)
		return vdpa_vhu_send(conn->fd, msg, fd);
	WIRE_SET(wire->out.msg_len, 0);
	WIRE_SET(wire->out_for, conn->session->kept->done);
	return vdpa_vhu_send_noted(conn->fd, msg, fd, &wire->out);
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

void
vdpa_vhu_kept_drain(struct vhu_session *s, uint16_t idx, bool all)
{
	int64_t until_us = vdpa_now_us() + DRAIN_US;
	struct vhu_kept_ring *ring;
	uint64_t below;

	if (s->kept == NULL || s->inflight != NULL)
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

/* Bytes that were taken and not carried out. What the wire says is read once: whoever else has it
 * may change it meanwhile. *received: bytes that have left the socket. */
static int
resume_input(struct vhu_device *dev, uint64_t done, uint64_t *received)
{
	struct vhu_wire *wire = dev->kept.wire;
	struct vhu_conn *conn = &dev->conn;
	uint32_t last = __atomic_load_n(&wire->in.msg_len, __ATOMIC_ACQUIRE);
	uint64_t in_at = __atomic_load_n(&wire->in_at, __ATOMIC_ACQUIRE);
	uint64_t got = __atomic_load_n(&wire->received, __ATOMIC_ACQUIRE);

	if (last > 0)
		got = in_at + last;
	if (last > VHU_INPUT_MAX || got < done || got - done > VHU_INPUT_MAX)
		return vdpa_error(EPROTO, "the bytes of its connection are not what was kept");
	WIRE_SET(wire->received, got);
	WIRE_SET(wire->in.msg_len, 0);
	conn->at = 0;
	conn->end = (size_t)(got - done);
	for (size_t i = 0; i < conn->end; i++)
		conn->input[i] = wire->input[(done + i) & (WIRE_INPUT - 1)];
	*received = got;
	return 0;
}

static int
compare_reads(const void *a, const void *b)
{
	const struct wire_fds *x = a, *y = b;

	return x->read < y->read ? -1 : x->read > y->read;
}

/* Their descriptors, in the order in which they came. */
static int
resume_fds(struct vhu_device *dev, struct vhu_session *s, uint64_t done, uint64_t received)
{
	struct vhu_conn *conn = &dev->conn;
	struct wire_fds reads[WIRE_FDS];

	memcpy(reads, dev->kept.wire->fds, sizeof(reads));
	qsort(reads, WIRE_FDS, sizeof(reads[0]), compare_reads);
	for (unsigned int pass = 0; pass < 2; pass++)
		for (unsigned int i = 0; i < WIRE_FDS; i++) {
			const struct wire_fds *f = &reads[i];
			bool first = f->message == done;

			if (f->n == 0 || f->read >= received || f->message < done ||
			    first != (pass == 0))
				continue;
			if (f->n > VHU_MSG_FDS_MAX || f->message - done >= conn->end ||
			    conn->nfds + f->n > VHU_MSG_FDS_MAX || conn->nfds_later > 0)
				return vdpa_error(
					EPROTO, "the descriptors of its messages are not what was "
						"kept");
			for (uint32_t j = 0; j < f->n; j++) {
				vhu_kept_id id = f->read * 16 + j + 1;
				unsigned int at = conn->nfds + conn->nfds_later;
				int fd = vdpa_vhu_kept_take_fd(dev, id);

				if (fd < 0)
					return fd;
				conn->fds[at] = fd;
				conn->ids[at] = id;
				if (first)
					conn->nfds++;
				else
					conn->nfds_later++;
				if (note_live(s->kept, id, received) < 0)
					return -ENOMEM;
			}
			if (!first)
				conn->later_at = (size_t)(f->message - done);
		}
	return 0;
}

static int
resume_reply(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *former)
{
	struct vhu_wire *wire = dev->kept.wire;
	size_t len = VHU_HDR_SIZE + former->reply.size;
	int fd = -1;
	ssize_t n;

	if (!former->has_reply)
		return 0;
	if (wire->out_for == former->connection.done && wire->out.msg_len != 0)
		return wire->out.msg_len == len
			       ? 0
			       : vdpa_error(EPROTO, "the front end does not read its replies");
	if (former->reply_fd != 0) {
		fd = vdpa_vhu_kept_take_fd(dev, former->reply_fd);
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

struct wanted {
	const struct vhu_device *dev;
	const struct vhu_kept_session *s;
};

static bool
is_wanted(const char *what, void *arg)
{
	const struct wanted *w = arg;
	char name[VDPA_RESTART_WHAT_MAX];

	if (is_no_front_ends(what, NULL))
		return true;
	for (unsigned int i = 0; i < w->s->nlive; i++) {
		fd_name(name, w->dev->kept.serial, w->s->live[i].id);
		if (strcmp(what, name) == 0)
			return true;
	}
	return false;
}

/* What the record names is in the store. */
static int
note_named(struct vhu_kept_session *s, const struct vhu_record *r)
{
	const vhu_kept_id others[] = {r->log, r->inflight, r->channel, r->reply_fd};
	int rc = 0;

	for (unsigned int i = 0; i < RTE_DIM(others) && rc == 0; i++)
		rc = note_live(s, others[i], s->done);
	for (unsigned int i = 0; i < r->nregions && rc == 0; i++)
		rc = note_live(s, r->regions[i].id, s->done);
	for (unsigned int i = 0; i < r->nrings && rc == 0; i++) {
		rc = note_live(s, r->rings[i].kick, s->done);
		if (rc == 0)
			rc = note_live(s, r->rings[i].call, s->done);
		if (rc == 0)
			rc = note_live(s, r->rings[i].err, s->done);
	}
	return rc;
}

/* With a session that was brought to what the former process knew: what was under way then. */
static int
resume_messages(struct vhu_device *dev, struct vhu_session *s, const struct vhu_record *former)
{
	uint64_t done = former->connection.done, received = done;
	struct wanted w = {.dev = dev, .s = s->kept};
	int rc;

	rc = note_named(s->kept, former);
	if (rc == 0)
		rc = resume_input(dev, done, &received);
	if (rc == 0)
		rc = resume_fds(dev, s, done, received);
	if (rc == 0)
		rc = vdpa_vhu_record_write(dev, former->has_reply ? &former->reply : NULL,
					   former->reply_fd);
	if (rc == 0)
		rc = resume_reply(dev, s, former);
	if (rc == 0)
		vdpa_restart_prune(dev->vdev->name, is_wanted, &w);
	return rc;
}

static int
resume_connection(struct vhu_device *dev, int fd, struct vhu_session **s)
{
	const struct vhu_record *former = dev->kept.former;
	struct vhu_kept *k = &dev->kept;
	struct vdpa_peer peer;
	int rc;

	if (former->cold[0] != '\0')
		return vdpa_error(EOPNOTSUPP, "%s", former->cold);
	if (!vdpa_vhu_is_stream(fd) || k->wire->magic != WIRE_MAGIC ||
	    k->wire->serial != former->connection.serial)
		return vdpa_error(EPROTO, "what it has left is not its connection");
	(void)vdpa_peer_of_socket(fd, &peer);
	rc = vdpa_consumer_admit(dev->vdev, &peer);
	if (rc < 0)
		return rc;
	k->serial = former->connection.serial;
	*s = vdpa_vhu_session_new(dev, &peer);
	if (*s == NULL)
		return -ENOMEM;
	pthread_mutex_lock(&dev->lock);
	dev->conn.fd = fd;
	dev->conn.session = dev->session = *s;
	pthread_mutex_unlock(&dev->lock);
	rc = vdpa_vhu_record_apply(dev, *s, former);
	if (rc == 0) {
		note_under_way(*s, former);
		rc = vdpa_vhu_record_start(dev, *s, former);
	}
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
		vdpa_restart_del(dev->vdev->name, CONNECTION);
		vdpa_restart_prune(dev->vdev->name, is_no_front_ends, NULL);
		vdpa_restart_taken(dev->vdev->name);
		return false;
	}
	fd = vdpa_restart_take(dev->vdev->name, CONNECTION);
	rc = fd < 0 ? fd : resume_connection(dev, fd, &s);
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
	vdpa_restart_del(dev->vdev->name, CONNECTION);
	vdpa_restart_prune(dev->vdev->name, is_no_front_ends, NULL);
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
