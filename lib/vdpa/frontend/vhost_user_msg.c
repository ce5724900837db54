/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One vhost-user message: whose file descriptors it brings, whether it is what its row of the table
 * says (vhost_user_requests.c), and what becomes of it. A message that fails a check or its handler
 * is refused: one log line with device, queue and cause; the reply carries the error where the
 * front end asked for one (REPLY_ACK), else the connection ends. It has had no effect then.
 *
 * Who owns a file descriptor: all of a message's are taken over here, whatever becomes of it. A
 * handler that keeps one puts -1 in its place; the rest is closed at the end.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include <rte_bitops.h>

#include "vdpa_compat.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user_request.h"

static int
take_index(struct vhu_received *req, int64_t *shown)
{
	const struct vhu_msg *msg = req->msg;
	uint32_t idx;

	switch (req->row->index) {
	case VHU_INDEX_STATE:
		idx = msg->payload.state.index;
		break;
	case VHU_INDEX_ADDR:
		idx = msg->payload.addr.index;
		break;
	case VHU_INDEX_FILE:
		idx = msg->payload.u64 & VHU_FILE_INDEX_MASK;
		break;
	default:
		return 0;
	}
	*shown = idx;
	if (idx >= req->s->nrings)
		return vdpa_error(EINVAL, "the device has %u queues", req->s->nrings);
	req->idx = (uint16_t)idx;
	return 0;
}

/* What the row says, before anybody looks into the payload. */
static int
check_row(struct vhu_received *req, int64_t *shown)
{
	const struct vhu_msg *msg = req->msg;
	const struct vhu_row *row = req->row;
	uint32_t flags = msg->flags;
	struct pollfd out = {.fd = req->s->fd, .events = POLLOUT};

	if (row == NULL)
		return vdpa_error(EOPNOTSUPP, "the request is unknown");
	if ((flags & ~(VHU_FLAGS_VERSION_MASK | VHU_FLAGS_NEED_REPLY)) != 0 ||
	    (flags & VHU_FLAGS_VERSION_MASK) != VHU_FLAGS_VERSION)
		return vdpa_error(EPROTO, "flags 0x%x", flags);
	if (msg->size < row->size_min || msg->size > row->size_max)
		return row->size_min == row->size_max
			       ? vdpa_error(EPROTO, "payload of %u bytes, expected %u", msg->size,
					    row->size_min)
			       : vdpa_error(EPROTO, "payload of %u bytes, expected %u to %u",
					    msg->size, row->size_min, row->size_max);
	if (req->nfds < row->fds_min || req->nfds > row->fds_max)
		return vdpa_error(EPROTO, "%u file descriptors, expected %u to %u", req->nfds,
				  row->fds_min, row->fds_max);
	if (row->protocol != 0 && (req->s->protocol & row->protocol) == 0)
		return vdpa_error(EPROTO, "its protocol feature was not negotiated");
	/* A front end that asks and does not read the answers would hold up everybody's messages.
	 */
	if (((row->effect & VHU_EFFECT_REPLY) != 0 || (flags & VHU_FLAGS_NEED_REPLY) != 0) &&
	    poll(&out, 1, 0) != 1)
		return vdpa_error(EAGAIN, "the front end does not read its replies");
	return take_index(req, shown);
}

/*
 * Refuse it. A reply of type u64 is understood only for requests that have none of their own, and
 * a connection that is not read, or does nothing but offend, is not worth keeping.
 */
static int
refuse(struct vhu_received *req, int rc, int64_t idx)
{
	struct vhu_session *s = req->s;
	const char *device = s->dev->vdev->name, *why = vdpa_vhu_why(s->dev, idx);
	bool known = req->row != NULL;
	char name[sizeof("request 4294967295")];

	snprintf(name, sizeof(name), "request %u", req->msg->request);
	if (idx >= 0)
		VDPA_LOG(ERR, "%s: vhost-user: queue %" PRId64 ": %s refused: %s", device, idx,
			 known ? req->row->name : name, why);
	else
		VDPA_LOG(ERR, "%s: vhost-user: %s refused: %s", device,
			 known ? req->row->name : name, why);
	if (++s->refusals == VHU_REFUSALS_MAX)
		VDPA_LOG(ERR, "%s: vhost-user: %u messages refused, closing the connection", device,
			 s->refusals);
	if (!known || (req->row->effect & VHU_EFFECT_REPLY) != 0 || rc == -EAGAIN ||
	    rc == -EPROTO || s->refusals >= VHU_REFUSALS_MAX)
		req->msg->flags &= ~VHU_FLAGS_NEED_REPLY;
	if ((req->msg->flags & VHU_FLAGS_NEED_REPLY) == 0)
		s->refused = true;
	return RTE_VHOST_MSG_RESULT_ERR;
}

/*
 * Take over the message's file descriptors. Where rte_vhost keeps them is known by version only, so
 * what lies there is believed only when it looks as rte_vhost leaves it: a number, that many open
 * descriptors, and -1 in the rest.
 */
static int
take_fds(struct vhu_received *req, int *fds, int *nfds)
{
	int n = *nfds;

	if (n < 0 || n > VHU_MSG_FDS_MAX)
		goto bad;
	for (int i = 0; i < VHU_MSG_FDS_MAX; i++)
		if (i < n ? fds[i] < 0 || fcntl(fds[i], F_SETFD, FD_CLOEXEC) < 0 : fds[i] != -1)
			goto bad;
	for (int i = 0; i < n; i++) {
		req->fds[i] = fds[i];
		fds[i] = -1;
	}
	req->nfds = (unsigned int)n;
	*nfds = 0;
	return 0;

bad:
	return vdpa_error(EPROTO, "the file descriptors are not where this DPDK should have them");
}

/* -EPROTO ends the connection: too many do not close. */
static int
close_fds(struct vhu_received *req)
{
	bool full = false;

	for (unsigned int i = 0; i < req->nfds; i++)
		full |= vdpa_close_foreign(req->s->dev->fds, req->fds[i]) < 0;
	req->nfds = 0;
	return full ? vdpa_error(EPROTO,
				 "%u file descriptors that the front end has sent do not "
				 "close",
				 vdpa_fd_account_waiting(req->s->dev->fds))
		    : 0;
}

int
vdpa_vhu_handle(struct vhu_session *s, struct vhu_msg *msg, int *fds, int *nfds)
{
	struct vhu_received req = {.s = s, .msg = msg, .row = vdpa_vhu_row(msg->request)};
	bool reply;
	uint64_t value = msg->size >= sizeof(value) ? msg->payload.u64 : 0;
	int64_t idx = -1;
	int rc;

	if ((s->protocol & VHU_PROTOCOL(REPLY_ACK)) == 0)
		msg->flags &= ~VHU_FLAGS_NEED_REPLY;
	rc = take_fds(&req, fds, nfds);
	if (rc == 0)
		rc = check_row(&req, &idx);
	if (rc == 0) {
		vdpa_vhu_session_poll_failure(s);
		rc = req.row->handle(&req);
	}
	if (rc == 0 && (req.row->effect & VHU_EFFECT_NOTE) != 0)
		vdpa_vhu_ring_note(s, req.idx);
	if (rc < 0 || (req.row->effect & VHU_EFFECT_REPLY) == 0) {
		int full;

		if (rc < 0)
			refuse(&req, rc, idx);
		full = close_fds(&req);
		if (full < 0)
			refuse(&req, full, idx);
		if (rc < 0 || full < 0)
			return RTE_VHOST_MSG_RESULT_ERR;
	}
	if (idx >= 0)
		VDPA_LOG(DEBUG, "%s: vhost-user: queue %" PRId64 ": %s 0x%" PRIx64,
			 s->dev->vdev->name, idx, req.row->name, value);
	else
		VDPA_LOG(DEBUG, "%s: vhost-user: %s 0x%" PRIx64, s->dev->vdev->name, req.row->name,
			 value);
	reply = (req.row->effect & VHU_EFFECT_REPLY) != 0;
	if (reply && req.nfds > 0) {
		fds[0] = req.fds[0];
		*nfds = 1;
		return RTE_VHOST_MSG_RESULT_REPLY;
	}
	if ((req.row->effect & VHU_EFFECT_ADVANCE) != 0)
		vdpa_vhu_session_advance(s);
	return reply ? RTE_VHOST_MSG_RESULT_REPLY : RTE_VHOST_MSG_RESULT_OK;
}
