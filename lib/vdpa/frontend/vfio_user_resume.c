/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The process after the one that had a vfio-user connection: doorbells that the client has mapped,
 * function and consumer by the record, then what was under way: bytes that were read, descriptors
 * that came with them, a reply that has not left. Nothing of what was kept is believed.
 */

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <rte_common.h>

#include "restart.h"
#include "stored_fd.h"
#include "vdpa_args.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfio_user_device.h"
#include "vfio_user_kept_priv.h"
#include "vfio_user_server_priv.h"
#include "vhost_user_priv.h"

/* The doorbells that the client has mapped. */
static int
resume_doorbells(struct vfu_kept *k)
{
	int fd, rc;

	if (!k->dev->doorbells.poll)
		return 0;
	fd = vdpa_restart_take(k->dev->vdev->name, VFU_KEPT_DOORBELLS);
	if (fd < 0)
		return fd;
	rc = vdpa_vfus_bells_adopt(&k->dev->doorbells, fd);
	if (rc < 0)
		vdpa_close_stray(fd);
	return rc;
}

static int
resume_fd(void *arg, uint64_t message, vdpa_wire_id id, int fd)
{
	struct vfu_server *s = arg;

	if (s->n_fds == RTE_DIM(s->fds) || message != s->params.kept->done) {
		(void)vdpa_close_foreign(s->account, fd);
		return vdpa_error(EPROTO, "the descriptors of its messages are not what was kept");
	}
	s->ids[s->n_fds] = id;
	s->fds[s->n_fds++] = fd;
	return 0;
}

/* A reply that has not left as a whole. What the file says is read once. */
static int
resume_reply(struct vfu_server *s)
{
	struct vfu_kept *k = s->params.kept;
	const struct vfu_kept_shared *shared = k->shared;
	const struct region_info {
		struct vfio_user_header hdr;
		struct vfio_user_region_info info;
	} __attribute__((packed)) *reply = (const void *)s->out;
	uint32_t last = __atomic_load_n(&shared->out.msg_len, __ATOMIC_ACQUIRE);
	uint64_t sent = __atomic_load_n(&shared->sent, __ATOMIC_ACQUIRE);
	uint32_t len = shared->reply_len;

	if (shared->reply_for != k->done || len == 0)
		return 0;
	if (last > 0)
		sent = shared->out_at + last;
	if (len > sizeof(s->out) || len < sizeof(struct vfio_user_header) || sent > len)
		return vdpa_error(EPROTO, "its last reply is not what was kept");
	if (sent == len)
		return 0;
	memcpy(s->out, shared->reply, len);
	s->out_len = len;
	s->out_sent = (size_t)sent;
	/* With its first byte. */
	if (sent == 0 && shared->reply_fd != 0 && len >= sizeof(*reply) &&
	    reply->hdr.command == VFIO_USER_DEVICE_GET_REGION_INFO) {
		struct vfu_region region = {.fd = -1};

		s->params.ops->region_info(s->params.arg, reply->info.index, &region);
		s->out_fd = region.fd;
	}
	VDPA_LOG(INFO, "%s: vfio-user: command %u was carried out and is answered now",
		 s->params.name, reply->hdr.command);
	return 0;
}

/* What the connection names is in the store. */
static int
note_named(struct vfu_kept *k)
{
	int rc = vdpa_wire_note(&k->live, k->intx, k->done);

	for (unsigned int i = 0; i < VFU_DMA_FILES_MAX && rc == 0; i++)
		rc = vdpa_wire_note(&k->live, k->files[i], k->done);
	for (uint16_t i = 0; i < k->dev->irqs.n_vectors && rc == 0; i++)
		rc = vdpa_wire_note(&k->live, k->vectors[i], k->done);
	return rc;
}

/* With a function that was brought to what the former process knew: what was under way then. */
static int
resume_messages(struct vfu_server *s)
{
	struct vfu_kept *k = s->params.kept;
	uint64_t received = k->done;
	ssize_t n;
	int rc = note_named(k);

	if (rc < 0)
		return rc;
	n = vdpa_wire_resume(&k->wire, k->done, s->in, sizeof(s->in), &received);
	if (n < 0)
		return (int)n;
	s->in_len = (size_t)n;
	rc = vdpa_wire_resume_fds(&k->wire, k->done, received, RTE_DIM(s->fds), &k->live, resume_fd,
				  s);
	if (rc == 0)
		rc = resume_reply(s);
	if (rc == 0)
		rc = vdpa_vfus_record_write(k->dev);
	if (rc == 0)
		vdpa_wire_prune(&k->wire, &k->live);
	return rc;
}

static int
resume_connection(struct vfu_server *s, int fd)
{
	struct vfu_kept *k = s->params.kept;
	const struct vfu_record *former = k->former;
	struct vdpa_peer peer;
	int rc;

	rc = vdpa_vfus_planned_check(k, former);
	if (rc < 0)
		return rc;
	if (!vdpa_vhu_is_stream(fd) || !vdpa_wire_is_of(&k->wire, former->serial))
		return vdpa_error(EPROTO, "what it has left is not its connection");
	(void)vdpa_peer_of_socket(fd, &peer);
	rc = s->params.ops->connected(s->params.arg, &peer);
	if (rc < 0)
		return rc;
	s->client.fd = fd;
	s->version_done = former->version_done;
	k->wire.serial = former->serial;
	/* What changed nothing that is recorded has no record. */
	k->done = RTE_MAX(former->done, __atomic_load_n(&k->shared->done, __ATOMIC_ACQUIRE));
	rc = resume_doorbells(k);
	if (rc == 0)
		rc = vdpa_vfus_record_apply(k->dev, former);
	if (rc < 0)
		return rc;
	if (vdpa_vfus_planned_is(k)) {
		rc = resume_messages(s);
		return rc < 0 ? rc : vdpa_vfus_planned_go_on(k);
	}
	k->resumed = former->queues;
	rc = vdpa_vfus_record_start(k->dev);
	k->resumed = NULL;
	return rc < 0 ? rc : resume_messages(s);
}

bool
vdpa_vfus_kept_resume(struct vfu_server *s)
{
	struct vfu_kept *k = s->params.kept;
	const char *name = s->params.name;
	int fd, rc;

	if (k == NULL || !k->on || k->former == NULL)
		return false;
	if (!k->former->has_connection) {
		/* What a process that was killed had not given up yet. */
		vdpa_restart_del(name, VFU_KEPT_CONNECTION);
		vdpa_wire_prune(&k->wire, NULL);
		vdpa_restart_taken(name);
		return false;
	}
	fd = vdpa_restart_take(name, VFU_KEPT_CONNECTION);
	rc = k->former->cold[0] != '\0' ? vdpa_error(EOPNOTSUPP, "%s", k->former->cold)
	     : fd < 0			? fd
					: resume_connection(s, fd);
	if (rc == 0) {
		vdpa_restart_taken(name);
		VDPA_LOG_LIMITED(&s->lines, INFO, "%s: vfio-user: goes on with its connection",
				 name);
		return true;
	}
	VDPA_LOG(ERR, "%s: vfio-user: its connection does not go on: %s", name,
		 vdpa_vfus_why(k->dev));
	for (unsigned int i = 0; i < s->n_fds; i++)
		(void)vdpa_close_foreign(s->account, s->fds[i]);
	s->n_fds = 0;
	s->in_len = s->out_len = s->out_sent = 0;
	s->out_fd = -1;
	s->client.fd = -1;
	s->version_done = false;
	if (k->dev->consumer != NULL)
		s->params.ops->disconnected(s->params.arg);
	vdpa_vfus_kept_forget(k);
	/* Another process may yet go on with it. */
	if (fd >= 0 && vdpa_restart_holds())
		close(fd);
	else if (fd >= 0)
		(void)vdpa_close_connection(s->account, fd);
	vdpa_restart_del(name, VFU_KEPT_CONNECTION);
	vdpa_wire_prune(&k->wire, NULL);
	return false;
}
