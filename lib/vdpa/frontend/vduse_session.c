/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the consumer is told of a VDUSE device: the features at FEATURES_OK, memory and rings once
 * both are there, the status. It decides when the device starts.
 *
 * The kernel says that a ring is ready, and that memory is, in no message: a driver of its own maps
 * its first buffer after DRIVER_OK, and a user of /dev/vhost-vdpa-N may enable a ring after it.
 * Both have happened when the ring is kicked. So at DRIVER_OK what is complete starts, and a first
 * kick has the rest looked at again.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>
#include <rte_byteorder.h>

#include "error_priv.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vdpa_memory.h"
#include "vduse_priv.h"

static void
complain(struct vduse_device *dev, const char *what)
{
	VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vduse: %s: %s", dev->vdev->name, what,
			 vdpa_error_cause(vdpa_error_message(), dev->vdev->name, -1));
}

static int
take_features(struct vduse_device *dev)
{
	uint64_t features = 0;

	if (vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_DEV_GET_FEATURES, &features) < 0)
		return vdpa_error(errno, "%s: features: %m", dev->vdev->name);
	if ((features & ~dev->features) != 0)
		return vdpa_error(EINVAL, "%s: features 0x%" PRIx64 " were not offered",
				  dev->vdev->name, features & ~dev->features);
	/* The core translates addresses for the device, always. */
	return vdpa_consumer_set_features(dev->consumer,
					  features & ~RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
}

static bool
is_packed(const struct vduse_device *dev)
{
	return (vdpa_consumer_get_features(dev->consumer) & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

/* Where a ring is to start, as SET_VRING_BASE has it. */
static uint32_t
base_of(const struct vduse_device *dev, const struct vduse_vq_info *info)
{
	if (!is_packed(dev))
		return info->split.avail_index;
	return (info->packed.last_avail_idx & 0x7fffu) |
	       (info->packed.last_avail_counter & 1u) << 15 |
	       (info->packed.last_used_idx & 0x7fffu) << 16 |
	       (uint32_t)(info->packed.last_used_counter & 1) << 31;
}

static int
give_fds(struct vduse_device *dev, struct vduse_vq *vq)
{
	int kick = vdpa_fd_dup(vq->kick_fd, dev->vdev->name), call, rc;

	if (kick < 0)
		return kick;
	rc = vdpa_consumer_set_vq_kick(dev->consumer, vq->idx, kick);
	if (rc < 0)
		return rc;
	call = vdpa_fd_dup(vq->call_fd, dev->vdev->name);
	return call < 0 ? call : vdpa_consumer_set_vq_call(dev->consumer, vq->idx, call);
}

/* Tell of one ring. 1: it was told of; 0: it is not ready. */
static int
tell_vq(struct vduse_device *dev, struct vduse_vq *vq)
{
	struct vduse_vq_info info = {.index = vq->idx};
	struct vdpa_consumer_vq_addr addr;
	uint32_t base;
	int rc;

	if (vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_VQ_GET_INFO, &info) < 0)
		return vdpa_error(errno, "queue %u: %m", vq->idx);
	if (!info.ready || info.num == 0)
		return 0;
	addr = (struct vdpa_consumer_vq_addr){.desc = info.desc_addr,
					      .driver = info.driver_addr,
					      .device = info.device_addr,
					      .log = UINT64_MAX};
	base = base_of(dev, &info);
	rc = vdpa_consumer_set_vq_num(dev->consumer, vq->idx, info.num);
	if (rc == 0)
		rc = vdpa_consumer_set_vq_addr(dev->consumer, vq->idx, &addr);
	if (rc == 0 && dev->resumed)
		rc = vdpa_consumer_resume_vq(dev->consumer, vq->idx, base, true);
	else if (rc == 0)
		rc = vdpa_consumer_set_vq_base(dev->consumer, vq->idx, base);
	if (rc == 0)
		rc = give_fds(dev, vq);
	return rc < 0 ? rc : 1;
}

/* Tell of all rings that the consumer does not have. */
static void
tell_vqs(struct vduse_device *dev, bool told[])
{
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		int rc;

		if (dev->vqs[i].joined)
			continue;
		rc = tell_vq(dev, &dev->vqs[i]);
		if (rc < 0)
			VDPA_LOG_LIMITED(
				&dev->log, ERR, "%s: vduse: queue %u is not started: %s",
				dev->vdev->name, i,
				vdpa_error_cause(vdpa_error_message(), dev->vdev->name, i));
		told[i] = rc > 0;
	}
}

/* Kicks until now. Before memory and rings are looked at: one that comes later is for what these
 * did not have yet, and has to show in the eventfd. */
static void
take_kicks(struct vduse_device *dev)
{
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (!dev->vqs[i].joined && dev->vqs[i].kick_fd >= 0)
			(void)vdpa_eventfd_take(dev->vqs[i].kick_fd);
}

/* A queue that is not started goes on being watched. */
static void
watch_on(struct vduse_device *dev)
{
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (!dev->vqs[i].joined && dev->vqs[i].kick_fd >= 0)
			vdpa_event_rearm(&dev->vqs[i].kick_ev);
}

void
vdpa_vduse_try_start(struct vduse_device *dev)
{
	uint8_t *areas;
	size_t stride;
	bool *told, complete;

	if ((dev->status & VIRTIO_CONFIG_S_DRIVER_OK) == 0)
		return;
	take_kicks(dev);
	if (vdpa_vduse_memory_load(dev, &complete) < 0)
		complain(dev, "memory");
	told = calloc(dev->nvqs, sizeof(*told));
	if (!complete || told == NULL) {
		free(told);
		watch_on(dev);
		return;
	}
	areas = vdpa_vduse_record_areas(dev, &stride);
	if (areas != NULL && !vdpa_consumer_is_running(dev->consumer) &&
	    vdpa_consumer_set_inflight(dev->consumer, areas, stride, dev->nvqs, false) < 0)
		complain(dev, "inflight area");
	tell_vqs(dev, told);
	vdpa_consumer_set_status(dev->consumer, dev->status);
	vdpa_consumer_advance(dev->consumer);
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		if (!told[i])
			continue;
		vdpa_vduse_vq_join(&dev->vqs[i]);
		/* What was used was perhaps not said before the process ended. */
		if (dev->resumed)
			vdpa_eventfd_signal(dev->vqs[i].call_fd);
	}
	free(told);
	watch_on(dev);
}

void
vdpa_vduse_kicked_run(struct vdpa_work *work)
{
	vdpa_vduse_try_start(work->arg);
}

static int
arm(struct vduse_device *dev)
{
	int rc = 0;

	for (uint16_t i = 0; i < dev->nvqs && rc == 0; i++)
		rc = vdpa_vduse_vq_arm(&dev->vqs[i]);
	for (uint16_t i = 0; i < dev->nvqs && rc < 0; i++)
		vdpa_vduse_vq_disarm(&dev->vqs[i]);
	return rc;
}

void
vdpa_vduse_stop(struct vduse_device *dev)
{
	vdpa_consumer_reset(dev->consumer);
	for (uint16_t i = 0; i < dev->nvqs; i++)
		vdpa_vduse_vq_disarm(&dev->vqs[i]);
}

int
vdpa_vduse_set_status(struct vduse_device *dev, uint8_t status)
{
	uint8_t added = status & ~dev->status;
	uint8_t cleared = dev->status & ~status & ~VIRTIO_CONFIG_S_NEEDS_RESET;
	int rc = 0;

	/* A driver clears none of them but by a reset (virtio 1.2, 2.1.1): DRIVER_OK would come
	 * twice. */
	if (status != 0 && cleared != 0)
		return vdpa_error(EINVAL, "%s: status 0x%x after 0x%x, without a reset",
				  dev->vdev->name, status, dev->status);
	if (status == 0) {
		vdpa_vduse_stop(dev);
		vdpa_vduse_record_reset(dev);
		vdpa_vduse_memory_renew(dev);
		dev->resumed = false;
		/* Linux keeps the files of a user that has closed /dev/vhost-vdpa-N. */
		dev->memory.named = false;
		if (dev->mode != VDUSE_MODE_VIRTIO)
			vdpa_vduse_memory_forget(dev);
	}
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		rc = take_features(dev);
	if (rc == 0 && (added & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
		rc = arm(dev);
	if (rc < 0)
		return rc;
	/* DRIVER_OK waits for memory. */
	vdpa_consumer_set_status(dev->consumer, vdpa_consumer_is_running(dev->consumer)
							? status
							: status & ~VIRTIO_CONFIG_S_DRIVER_OK);
	dev->status = status;
	vdpa_vduse_record_status(dev, status);
	return 0;
}

void
vdpa_vduse_resume(struct vduse_device *dev)
{
	uint8_t status = vdpa_vduse_record_get_status(dev);

	dev->memory.named = true;
	if (vdpa_vduse_set_status(dev, status) < 0) {
		complain(dev, "does not go on where the process before it was");
		return;
	}
	vdpa_vduse_try_start(dev);
}
