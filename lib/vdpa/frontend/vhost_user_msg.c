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
#include <inttypes.h>
#include <stdio.h>

#include <rte_bitops.h>

#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

static int
take_index(struct vhu_received *req, int64_t *shown)
{
	const struct vhu_msg *msg = req->msg;
	uint32_t idx;
	uint16_t n;

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
	n = vdpa_consumer_usable_vqs(req->s->consumer);
	if (idx >= n)
		return vdpa_error(EINVAL, "the device has %u queues", n);
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

	if (row == NULL)
		return vdpa_vhu_not_served(msg->request);
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
	return take_index(req, shown);
}

static bool
wants_ack(const struct vhu_received *req)
{
	return (req->msg->flags & VHU_FLAGS_NEED_REPLY) != 0 &&
	       (req->s->protocol & VHU_PROTOCOL(REPLY_ACK)) != 0;
}

/* REPLY_ACK's reply: 0 for success. */
static enum vhu_verdict
acknowledge(struct vhu_received *req, bool success)
{
	req->msg->payload.u64 = success ? 0 : 1;
	req->msg->size = sizeof(req->msg->payload.u64);
	return VHU_VERDICT_REPLY;
}

/*
 * Refuse it. A reply of type u64 is understood only for requests that have none of their own, and
 * a connection that does nothing but offend is not worth keeping.
 */
static enum vhu_verdict
refuse(struct vhu_received *req, int rc, int64_t idx)
{
	struct vhu_session *s = req->s;
	const char *device = s->dev->vdev->name, *why = vdpa_vhu_why(s->dev, idx);
	bool known = req->row != NULL;
	char name[sizeof("request 4294967295")];

	snprintf(name, sizeof(name), "request %u", req->msg->request);
	if (idx >= 0)
		VDPA_LOG_LIMITED(&s->dev->log, ERR,
				 "%s: vhost-user: queue %" PRId64 ": %s refused: %s", device, idx,
				 known ? req->row->name : name, why);
	else
		VDPA_LOG_LIMITED(&s->dev->log, ERR, "%s: vhost-user: %s refused: %s", device,
				 known ? req->row->name : name, why);
	if (++s->refusals == VHU_REFUSALS_MAX)
		VDPA_LOG_LIMITED(&s->dev->log, ERR,
				 "%s: vhost-user: %u messages refused, closing the connection",
				 device, s->refusals);
	if (!known || (req->row->effect & VHU_EFFECT_REPLY) != 0 || rc == -EPROTO ||
	    s->refusals >= VHU_REFUSALS_MAX || !wants_ack(req))
		return VHU_VERDICT_CLOSE;
	return acknowledge(req, false);
}

/* Close what no handler has taken. False: too many do not close, of these or of those that the
 * handler has let go of, so nothing more is to be read. */
static bool
close_fds(struct vhu_received *req)
{
	struct vhu_device *dev = req->s->dev;

	for (unsigned int i = 0; i < req->nfds; i++)
		(void)vdpa_close_foreign(dev->fds, req->fds[i]);
	if (!vdpa_fd_account_full(dev->fds))
		return true;
	VDPA_LOG_LIMITED(&dev->log, ERR,
			 "%s: vhost-user: %u file descriptors that front ends have sent do not "
			 "close, closing the connection",
			 dev->vdev->name, vdpa_fd_account_waiting(dev->fds));
	return false;
}

/* Of a connection that is kept: the message was carried out, and this is its reply. What follows
 * from it is for the next process, too, should this one not come to it. */
static void
record(struct vhu_received *req, enum vhu_verdict verdict)
{
	struct vhu_session *s = req->s;
	struct vhu_msg reply;

	if (!s->dev->kept.on || s->kept == NULL || verdict == VHU_VERDICT_CLOSE)
		return;
	s->kept->done += req->len;
	reply = *req->msg;
	reply.flags = VHU_FLAGS_VERSION | VHU_FLAGS_REPLY;
	if (vdpa_vhu_record_write(s->dev, verdict == VHU_VERDICT_REPLY ? &reply : NULL,
				  req->reply_id) < 0)
		vdpa_vhu_kept_stop(s->dev, vdpa_vhu_why(s->dev, -1));
}

enum vhu_verdict
vdpa_vhu_handle(struct vhu_received *req)
{
	struct vhu_session *s = req->s;
	const struct vhu_msg *msg = req->msg;
	uint64_t value = msg->size >= sizeof(value) ? msg->payload.u64 : 0;
	enum vhu_verdict verdict = VHU_VERDICT_DONE;
	int64_t idx = -1;
	int rc;

	req->row = vdpa_vhu_row(msg->request);
	rc = check_row(req, &idx);
	if (rc == 0)
		rc = req->row->handle(req);
	if (rc < 0) {
		verdict = refuse(req, rc, idx);
		if (!close_fds(req))
			return VHU_VERDICT_CLOSE;
		record(req, verdict);
		return verdict;
	}
	if (idx >= 0)
		VDPA_LOG(DEBUG, "%s: vhost-user: queue %" PRId64 ": %s 0x%" PRIx64,
			 s->dev->vdev->name, idx, req->row->name, value);
	else
		VDPA_LOG(DEBUG, "%s: vhost-user: %s 0x%" PRIx64, s->dev->vdev->name, req->row->name,
			 value);
	if (!close_fds(req))
		return VHU_VERDICT_CLOSE;
	if (s->dev->kept.on && s->kept != NULL)
		vdpa_vhu_record_note(req);
	if ((req->row->effect & VHU_EFFECT_REPLY) != 0)
		verdict = VHU_VERDICT_REPLY;
	/* What was negotiated by this very message counts: SET_PROTOCOL_FEATURES may ask, too. */
	else if (wants_ack(req))
		verdict = acknowledge(req, true);
	record(req, verdict);
	if ((req->row->effect & VHU_EFFECT_ADVANCE) != 0)
		vdpa_vhu_session_advance(s);
	/* What has come of it may end with the process. */
	vdpa_vhu_record_look(s->dev);
	return verdict;
}
