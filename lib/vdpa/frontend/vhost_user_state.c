/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DEVICE_STATE: the front end takes the state of its device along when it moves its guest. It gives
 * a file descriptor for the bytes (SET_DEVICE_STATE_FD) and asks when they are through whether all
 * was well (CHECK_DEVICE_STATE); a state that is to be loaded is read as a whole, checked and taken
 * at that moment. Both run on the device's work queue; the bytes have a thread of their own.
 *
 * What is refused is answered with an error and one log line, and the connection goes on: the front
 * end gives the migration up, and its guest runs on where it was.
 */

#include <errno.h>
#include <stdlib.h>

#include "vdpa_log.h"
#include "vhost_user_priv.h"

/* How long CHECK_DEVICE_STATE waits for the end of the bytes: the front end has sent or read them
 * all before it asks. */
#define CHECK_MS 5000

static int
answer(struct vhu_received *req, uint64_t value)
{
	req->msg->payload.u64 = value;
	req->msg->size = sizeof(value);
	return 0;
}

/* With vdpa_error_message(). */
static int
answer_error(struct vhu_received *req, uint64_t value)
{
	struct vhu_device *dev = req->s->dev;

	VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vhost-user: %s failed: %s", dev->vdev->name,
			 req->row->name, vdpa_vhu_why(dev, -1));
	return answer(req, value);
}

/* No more of an earlier stream; one whose thread does not end is in the way of the next, since a
 * front end must not make more of them. */
static int
end_stream(struct vhu_device *dev)
{
	if (dev->stream == NULL)
		return 0;
	if (!vdpa_vhu_stream_has_ended(dev->stream))
		return vdpa_error(EBUSY, "%s: an earlier state is still being moved",
				  dev->vdev->name);
	vdpa_vhu_stream_close(dev->stream);
	dev->stream = NULL;
	return 0;
}

static int
begin(struct vhu_received *req)
{
	const struct vhu_device_state *what = &req->msg->payload.device_state;
	struct vhu_session *s = req->s;
	struct vhu_device *dev = s->dev;
	bool loads = what->direction == VHU_DEVICE_STATE_LOAD;
	uint8_t *buf;
	size_t len;
	int rc;

	if (what->direction > VHU_DEVICE_STATE_LOAD || what->phase != VHU_DEVICE_STATE_STOPPED)
		return vdpa_error(EINVAL,
				  "direction %u, phase %u: known are save (0) and load (1) of a "
				  "device that is stopped (0)",
				  what->direction, what->phase);
	rc = end_stream(dev);
	if (rc < 0)
		return rc;
	if (!loads) {
		rc = vdpa_consumer_save_state(s->consumer, &buf, &len);
		if (rc < 0)
			return rc;
	} else if (vdpa_consumer_is_running(s->consumer)) {
		return vdpa_error(EBUSY, "the device runs; its queues must be stopped first");
	}
	rc = loads ? vdpa_vhu_stream_read(req->fds[0], &dev->stream)
		   : vdpa_vhu_stream_write(req->fds[0], buf, len, &dev->stream);
	if (rc < 0)
		return rc;
	req->fds[0] = -1;
	s->move = loads ? VHU_MOVE_LOAD : VHU_MOVE_SAVE;
	return 0;
}

int
vdpa_vhu_set_device_state_fd(struct vhu_received *req)
{
	return begin(req) < 0 ? answer_error(req, VHU_DEVICE_STATE_NOFD | VHU_DEVICE_STATE_ERROR)
			      : answer(req, VHU_DEVICE_STATE_NOFD);
}

static int
finish(struct vhu_received *req)
{
	struct vhu_session *s = req->s;
	struct vhu_device *dev = s->dev;
	const uint8_t *bytes;
	size_t len;
	int rc;

	if (s->move == VHU_MOVE_NONE)
		return vdpa_error(EPROTO, "no SET_DEVICE_STATE_FD came before");
	rc = vdpa_vhu_stream_wait(dev->stream, CHECK_MS);
	if (rc == -EINPROGRESS) {
		vdpa_vhu_stream_abandon(dev->stream);
		return vdpa_error(ETIMEDOUT, "the state is not through %d ms after it should be",
				  CHECK_MS);
	}
	if (rc < 0)
		return rc;
	bytes = vdpa_vhu_stream_bytes(dev->stream, &len);
	if (s->move == VHU_MOVE_LOAD)
		rc = vdpa_consumer_load_state(s->consumer, bytes, len);
	if (rc == 0)
		VDPA_LOG_LIMITED(&dev->log, NOTICE, "%s: vhost-user: state %s, %zu bytes",
				 dev->vdev->name, s->move == VHU_MOVE_LOAD ? "loaded" : "saved",
				 len);
	return rc;
}

int
vdpa_vhu_check_device_state(struct vhu_received *req)
{
	int rc = finish(req);

	rc = rc < 0 ? answer_error(req, VHU_DEVICE_STATE_ERROR) : answer(req, 0);
	req->s->move = VHU_MOVE_NONE;
	(void)end_stream(req->s->dev);
	return rc;
}
