/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The config ops of a kernel's vDPA device: each hands over to a request (vv_kernel_*) or to what
 * needs more than one of them (vv_device_*). What the core has checked by now is not checked again:
 * queue indexes, the order of steps, sizes, rings within guest memory, features.
 *
 * Not there, because Linux has no request for it: get_generation, get_vendor_id (0), reset_vq, a
 * dirty log. get_vq_notification is not there on purpose: Linux maps a doorbell for writing only,
 * which no VMM does, and its file is the whole device, with our memory in its reach.
 */

#include <errno.h>

#include <linux/virtio_ids.h>

#include "vhost_vdpa.h"

/* Virtqueues. */

static int
vv_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		  uint64_t device)
{
	return vv_kernel_set_vq_address(&vv_dev(vdev)->kernel, idx, desc, driver, device);
}

static int
vv_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	int rc = vv_kernel_set_vq_num(&vv_dev(vdev)->kernel, idx, num);

	if (rc == 0)
		vv_dev(vdev)->vqs[idx].num = num;
	return rc;
}

static void
vv_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
	vv_device_kick(vv_dev(vdev), idx);
}

static int
vv_set_vq_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return vv_device_set_kick(vv_dev(vdev), idx, fd);
}

static int
vv_set_vq_cb(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	vv_count(&vv_dev(vdev)->vqs[idx].call_swaps);
	return vv_kernel_set_vq_call(&vv_dev(vdev)->kernel, idx, fd);
}

static int
vv_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	return vv_device_set_ready(vv_dev(vdev), idx, ready);
}

static int
vv_set_vq_enable(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	return vv_device_set_enable(vv_dev(vdev), idx, enable);
}

static int
vv_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return vv_device_set_state(vv_dev(vdev), idx, state);
}

static int
vv_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	return vv_device_get_state(vv_dev(vdev), idx, state);
}

static int
add_stat(struct vdpa_stat *stats, unsigned int n, int at, const char *name, uint64_t value)
{
	if ((unsigned int)at < n)
		stats[at] = (struct vdpa_stat){.name = name, .value = value};
	return at + 1;
}

static int
vv_get_vendor_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
		       unsigned int n)
{
	return add_stat(stats, n, 0, "call_swaps", vv_counted(&vv_dev(vdev)->vqs[idx].call_swaps));
}

/* The device. */

static uint16_t
vv_get_vq_count(struct vdpa_device *vdev)
{
	return vv_dev(vdev)->nvqs;
}

static uint16_t
vv_get_vq_num_max(struct vdpa_device *vdev)
{
	return vv_dev(vdev)->num_max;
}

static uint16_t
vv_get_vq_size(struct vdpa_device *vdev, uint16_t idx)
{
	return vv_dev(vdev)->vqs[idx].size_max;
}

static uint64_t
vv_get_device_features(struct vdpa_device *vdev)
{
	return vv_dev(vdev)->offered;
}

static int
vv_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	return vv_device_set_features(vv_dev(vdev), features);
}

static int
vv_set_config_cb(struct vdpa_device *vdev, int fd)
{
	return vv_kernel_set_config_call(&vv_dev(vdev)->kernel, fd);
}

static uint32_t
vv_get_device_id(struct vdpa_device *vdev)
{
	return vv_dev(vdev)->info.device_id;
}

static uint32_t
vv_get_vendor_id(struct vdpa_device *vdev)
{
	return 0;
}

static uint8_t
vv_get_status(struct vdpa_device *vdev)
{
	return vv_kernel_get_status(&vv_dev(vdev)->kernel);
}

static int
vv_set_status(struct vdpa_device *vdev, uint8_t status)
{
	return vv_device_set_status(vv_dev(vdev), status);
}

static int
vv_reset(struct vdpa_device *vdev)
{
	return vv_device_reset(vv_dev(vdev));
}

static int
vv_suspend(struct vdpa_device *vdev)
{
	return vv_device_suspend(vv_dev(vdev));
}

static int
vv_resume(struct vdpa_device *vdev)
{
	return vv_device_resume(vv_dev(vdev));
}

static size_t
vv_get_config_size(struct vdpa_device *vdev)
{
	return vv_dev(vdev)->config_size;
}

static int
vv_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	return vv_device_read_config(vv_dev(vdev), offset, buf, len);
}

static int
vv_set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len)
{
	/* All of it is read-only there (5.1.4). */
	if (vv_dev(vdev)->info.device_id == VIRTIO_ID_NET)
		return -EOPNOTSUPP;
	return vv_kernel_set_config(&vv_dev(vdev)->kernel, offset, buf, len);
}

static struct vdpa_iova_range
vv_get_iova_range(struct vdpa_device *vdev)
{
	const struct vv_parent *info = &vv_dev(vdev)->info;

	return (struct vdpa_iova_range){.first = info->iova_first, .last = info->iova_last};
}

static int
vv_get_stats(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	struct vhost_vdpa *dev = vv_dev(vdev);
	uint64_t swaps = 0;
	int i;

	for (uint16_t q = 0; q < dev->nvqs; q++)
		swaps += vv_counted(&dev->vqs[q].call_swaps);
	i = add_stat(stats, n, 0, "call_swaps", swaps);
	return add_stat(stats, n, i, "ctrl_commands", vv_counted(&dev->ctrl.commands));
}

static void
vv_release_dma(struct vdpa_device *vdev)
{
	vv_ctrl_release(vv_dev(vdev));
}

/* Linux resets the device when its last descriptor is closed; what it is the parent says. */
static int
vv_can_restart(struct vdpa_device *vdev)
{
	(void)vdev;
	return 0;
}

struct vdpa_config_ops
vv_ops(bool suspends)
{
	return (struct vdpa_config_ops){
		.size = sizeof(struct vdpa_config_ops),
		.set_vq_address = vv_set_vq_address,
		.set_vq_num = vv_set_vq_num,
		.kick_vq = vv_kick_vq,
		.set_vq_kick = vv_set_vq_kick,
		.set_vq_cb = vv_set_vq_cb,
		.set_vq_ready = vv_set_vq_ready,
		/* The core does it by a suspension where there is one. */
		.set_vq_enable = suspends ? NULL : vv_set_vq_enable,
		.set_vq_state = vv_set_vq_state,
		.get_vq_state = vv_get_vq_state,
		.get_vendor_vq_stats = vv_get_vendor_vq_stats,
		.get_vq_count = vv_get_vq_count,
		.get_vq_num_max = vv_get_vq_num_max,
		.get_vq_size = vv_get_vq_size,
		.get_device_features = vv_get_device_features,
		.set_driver_features = vv_set_driver_features,
		.set_config_cb = vv_set_config_cb,
		.get_device_id = vv_get_device_id,
		.get_vendor_id = vv_get_vendor_id,
		.get_status = vv_get_status,
		.set_status = vv_set_status,
		.reset = vv_reset,
		.suspend = suspends ? vv_suspend : NULL,
		.resume = suspends ? vv_resume : NULL,
		.get_config_size = vv_get_config_size,
		.get_config = vv_get_config,
		.set_config = vv_set_config,
		.get_iova_range = vv_get_iova_range,
		.get_stats = vv_get_stats,
		.release_dma = vv_release_dma,
		.free = vv_free,
		.can_restart = vv_can_restart,
	};
}
