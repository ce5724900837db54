/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Control messages of a VDUSE device: the kernel writes a request and holds up whoever caused it
 * until the answer, 30 s by default (/sys/class/vduse/NAME/msg_timeout); a device that does not
 * answer is given up by the kernel for good. The control loop sees that there is one, a job on the
 * device's work queue reads and answers it, as each may wait for the device.
 *
 * A start is made after the answer to DRIVER_OK: interrupts are not taken before that.
 */

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>

#include "error_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vduse_priv.h"

/* Messages after which the job makes way for those of other devices. */
#define MESSAGES_MAX 64

static int
get_vq_state(struct vduse_device *dev, const struct vduse_dev_request *req,
	     struct vduse_dev_response *resp)
{
	uint32_t idx = req->vq_state.index, base;

	if (idx >= dev->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u of %u", dev->vdev->name, idx, dev->nvqs);
	resp->vq_state.index = idx;
	base = vdpa_consumer_get_vq_base(dev->consumer, (uint16_t)idx, false);
	if ((vdpa_consumer_get_features(dev->consumer) & RTE_BIT64(VIRTIO_F_RING_PACKED)) == 0) {
		resp->vq_state.split.avail_index = (uint16_t)base;
		return 0;
	}
	resp->vq_state.packed.last_avail_idx = base & 0x7fff;
	resp->vq_state.packed.last_avail_counter = (base >> 15) & 1;
	resp->vq_state.packed.last_used_idx = (base >> 16) & 0x7fff;
	resp->vq_state.packed.last_used_counter = (uint16_t)(base >> 31);
	return 0;
}

/* The consumer stops what is not in memory any more, and starts nothing: a ring that was waiting
 * for its memory is looked at when it is kicked. */
static int
update_iotlb(struct vduse_device *dev)
{
	bool complete;
	int rc;

	vdpa_vduse_memory_renew(dev);
	dev->memory.named = true;
	rc = vdpa_vduse_memory_load(dev, &complete);
	if (rc < 0)
		vdpa_vduse_memory_forget(dev);
	return rc;
}

static const char *
request_name(uint32_t type)
{
	switch (type) {
	case VDUSE_GET_VQ_STATE:
		return "GET_VQ_STATE";
	case VDUSE_SET_STATUS:
		return "SET_STATUS";
	case VDUSE_UPDATE_IOTLB:
		return "UPDATE_IOTLB";
	default:
		return "a request";
	}
}

void
vdpa_vduse_handle(struct vduse_device *dev, const struct vduse_dev_request *req,
		  struct vduse_dev_response *resp)
{
	int rc;

	*resp = (struct vduse_dev_response){.request_id = req->request_id};
	switch (req->type) {
	case VDUSE_GET_VQ_STATE:
		rc = get_vq_state(dev, req, resp);
		break;
	case VDUSE_SET_STATUS:
		rc = vdpa_vduse_set_status(dev, req->s.status);
		break;
	case VDUSE_UPDATE_IOTLB:
		rc = update_iotlb(dev);
		break;
	default:
		rc = vdpa_error(EOPNOTSUPP, "%s: type %u is unknown", dev->vdev->name, req->type);
		break;
	}
	resp->result = rc < 0 ? VDUSE_REQ_RESULT_FAILED : VDUSE_REQ_RESULT_OK;
	if (rc < 0)
		VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vduse: %s failed: %s", dev->vdev->name,
				 request_name(req->type),
				 vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1));
}

/* The kernel takes nothing of the device any more; for good, so that no successor takes it up. From
 * any thread. */
static void
give_up(struct vduse_device *dev, const char *why)
{
	if (__atomic_exchange_n(&dev->broken, true, __ATOMIC_ACQ_REL))
		return;
	vdpa_vduse_record_break(dev);
	VDPA_LOG(ERR, "%s: vduse: the device is dead to the kernel: %s; delete it and add it again",
		 dev->vdev->name, why);
}

/* Nobody has the device any more: it stops, and reaches no memory. */
static void
end(struct vduse_device *dev)
{
	dev->status = 0;
	vdpa_vduse_stop(dev);
	vdpa_vduse_memory_forget(dev);
}

/* Read one request and answer it. False: there is none, or will be none. */
static bool
serve(struct vduse_device *dev)
{
	struct vduse_dev_response resp;
	struct vduse_dev_request req;
	ssize_t n = read(dev->fd, &req, sizeof(req));
	bool starts;

	if (n < 0 && errno == EINTR)
		return true;
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n != (ssize_t)sizeof(req)) {
		give_up(dev, n < 0 ? strerror(errno) : "a short request");
		return false;
	}
	vdpa_vduse_handle(dev, &req, &resp);
	/* ENOENT: whoever waited for the answer was killed. */
	if (write(dev->fd, &resp, sizeof(resp)) < 0 && errno != ENOENT)
		VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vduse: answer to %s: %s", dev->vdev->name,
				 request_name(req.type), strerror(errno));
	starts = req.type == VDUSE_SET_STATUS && resp.result == VDUSE_REQ_RESULT_OK &&
		 !vdpa_consumer_is_running(dev->consumer);
	if (starts)
		vdpa_vduse_try_start(dev);
	return true;
}

void
vdpa_vduse_messages_run(struct vdpa_work *work)
{
	struct vduse_device *dev = work->arg;

	if (dev->resumes)
		vdpa_vduse_resume(dev);
	dev->resumes = false;
	for (unsigned int i = 0; i < MESSAGES_MAX && !vdpa_vduse_is_broken(dev); i++) {
		if (serve(dev))
			continue;
		if (vdpa_vduse_is_broken(dev))
			break;
		vdpa_event_rearm(&dev->event);
		return;
	}
	if (vdpa_vduse_is_broken(dev)) {
		end(dev);
		return;
	}
	vdpa_work_post(vdpa_get_work_queue(dev->vdev), work);
}

/* On the control loop. */
void
vdpa_vduse_readable(struct vdpa_event *ev, uint32_t revents)
{
	struct vduse_device *dev = ev->arg;

	/* The kernel says so when an answer did not come in time. The job stops the device. */
	if ((revents & EPOLLERR) != 0)
		give_up(dev, "an answer came too late");
	vdpa_work_post(vdpa_get_work_queue(dev->vdev), &dev->messages);
}
