/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The config ops of a virtio-pci function: each hands over to the registers (vdpa_virtio_pci_*) or
 * to what needs more than one of them (virtio_device_*, virtio_irq_*). doc/driver-guide.md goes
 * through it.
 *
 * What the core has checked by now is not checked again: queue indexes, the order of steps, sizes
 * within get_vq_num_max(), rings within guest memory, features within get_device_features().
 */

#include <errno.h>

#include <rte_common.h>

#include "virtio_priv.h"

/* Virtqueues. */

static int
virtio_vdpa_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
			   uint64_t device)
{
	struct vdpa_virtio_vq_conf *conf = &virtio_dev(vdev)->vqs[idx].conf;

	conf->desc = desc;
	conf->driver = driver;
	conf->device = device;
	return 0;
}

static int
virtio_vdpa_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	virtio_dev(vdev)->vqs[idx].conf.num = (uint16_t)num;
	return 0;
}

static void
virtio_vdpa_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
	virtio_device_kick(virtio_dev(vdev), idx);
}

static int
virtio_vdpa_set_vq_cb(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return virtio_irq_set_call(virtio_dev(vdev), idx, fd);
}

static int
virtio_vdpa_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	return virtio_device_set_ready(virtio_dev(vdev), idx, ready);
}

static int
virtio_vdpa_set_vq_enable(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	return virtio_device_set_enable(virtio_dev(vdev), idx, enable);
}

static int
virtio_vdpa_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return virtio_device_check_state(virtio_dev(vdev), state);
}

static int
virtio_vdpa_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	return virtio_device_get_state(virtio_dev(vdev), idx, state);
}

static int
virtio_vdpa_reset_vq(struct vdpa_device *vdev, uint16_t idx)
{
	return virtio_device_set_ready(virtio_dev(vdev), idx, false);
}

static int
virtio_vdpa_get_vendor_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
				unsigned int n)
{
	return virtio_device_vq_stats(virtio_dev(vdev), idx, stats, n);
}

static int
virtio_vdpa_get_vq_notification(struct vdpa_device *vdev, uint16_t idx,
				struct vdpa_notification_area *area)
{
	struct virtio_device *dev = virtio_dev(vdev);

	/* Who gives it away for good may ask before the first start. */
	virtio_pci_map_doorbells(&dev->hw);
	return virtio_pci_doorbell_page(&dev->hw, dev->vqs[idx].info.doorbell, area);
}

/* The device. */

static uint16_t
virtio_vdpa_get_vq_count(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->nvqs;
}

static uint16_t
virtio_vdpa_get_vq_num_max(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->num_max;
}

static uint16_t
virtio_vdpa_get_vq_size(struct vdpa_device *vdev, uint16_t idx)
{
	struct virtio_device *dev = virtio_dev(vdev);

	return RTE_MIN(dev->vqs[idx].info.num_max, dev->num_max);
}

static uint64_t
virtio_vdpa_get_device_features(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->offered;
}

static uint64_t
virtio_vdpa_get_backend_features(struct vdpa_device *vdev)
{
	bool late = virtio_device_stops_queues(virtio_dev(vdev), virtio_dev(vdev)->hw_features);

	return late ? RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK) : 0;
}

static int
virtio_vdpa_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	return virtio_device_set_features(virtio_dev(vdev), features);
}

static int
virtio_vdpa_set_config_cb(struct vdpa_device *vdev, int fd)
{
	virtio_irq_set_config(virtio_dev(vdev), fd);
	return 0;
}

static uint32_t
virtio_vdpa_get_device_id(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->hw.type;
}

static uint32_t
virtio_vdpa_get_vendor_id(struct vdpa_device *vdev)
{
	return vdpa_pci_get_id(virtio_dev(vdev)->hw.pci)->vendor;
}

static uint8_t
virtio_vdpa_get_status(struct vdpa_device *vdev)
{
	return vdpa_virtio_pci_get_status(&virtio_dev(vdev)->hw);
}

static int
virtio_vdpa_set_status(struct vdpa_device *vdev, uint8_t status)
{
	return virtio_device_set_status(virtio_dev(vdev), status);
}

static int
virtio_vdpa_reset(struct vdpa_device *vdev)
{
	return virtio_device_reset(virtio_dev(vdev));
}

static int
virtio_vdpa_cut_off(struct vdpa_device *vdev)
{
	/* Doorbells and interrupts went with the reset that failed. */
	return vdpa_pci_cut_off(virtio_dev(vdev)->hw.pci);
}

static void
virtio_vdpa_release_dma(struct vdpa_device *vdev)
{
	virtio_ctrl_release(virtio_dev(vdev));
	virtio_irq_release(virtio_dev(vdev));
	virtio_pci_unmap_doorbells(&virtio_dev(vdev)->hw);
}

static int
virtio_vdpa_suspend(struct vdpa_device *vdev)
{
	return virtio_device_suspend(virtio_dev(vdev));
}

static int
virtio_vdpa_resume(struct vdpa_device *vdev)
{
	return virtio_device_resume(virtio_dev(vdev));
}

/* Configuration. */

static size_t
virtio_vdpa_get_config_size(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->config_size;
}

static int
virtio_vdpa_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	return virtio_device_read_config(virtio_dev(vdev), offset, buf, len);
}

static int
virtio_vdpa_set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len)
{
	struct vdpa_virtio_pci *hw = &virtio_dev(vdev)->hw;

	/* All of it is read-only there (5.1.4). */
	if (hw->type == VIRTIO_ID_NET)
		return -EOPNOTSUPP;
	return vdpa_virtio_pci_write_config(hw, (uint32_t)offset, buf, (uint32_t)len);
}

static uint32_t
virtio_vdpa_get_generation(struct vdpa_device *vdev)
{
	return virtio_pci_get_generation(&virtio_dev(vdev)->hw);
}

static int
virtio_vdpa_get_stats(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	return virtio_device_stats(virtio_dev(vdev), stats, n);
}

static int
virtio_vdpa_save_state(struct vdpa_device *vdev, void *buf, size_t *len)
{
	return virtio_parts_save(virtio_dev(vdev), buf, len);
}

static int
virtio_vdpa_load_state(struct vdpa_device *vdev, const void *buf, size_t len)
{
	return virtio_parts_load(virtio_dev(vdev), buf, len);
}

static int
virtio_vdpa_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		      const uint64_t *used_iova)
{
	return virtio_log_start(virtio_dev(vdev), log);
}

static int
virtio_vdpa_log_sync(struct vdpa_device *vdev)
{
	return virtio_log_sync(virtio_dev(vdev));
}

static int
virtio_vdpa_log_stop(struct vdpa_device *vdev)
{
	return virtio_log_stop(virtio_dev(vdev));
}

static int
virtio_vdpa_can_restart(struct vdpa_device *vdev)
{
	return virtio_kept_begin(virtio_dev(vdev));
}

static int
virtio_vdpa_adopt(struct vdpa_device *vdev)
{
	return virtio_dev(vdev)->hw.adopts ? 0 : -ENOENT;
}

static int
virtio_vdpa_leave(struct vdpa_device *vdev)
{
	return virtio_device_leave(virtio_dev(vdev));
}

static const struct vdpa_config_ops ops = {
	.size = sizeof(ops),
	.set_vq_address = virtio_vdpa_set_vq_address,
	.set_vq_num = virtio_vdpa_set_vq_num,
	.kick_vq = virtio_vdpa_kick_vq,
	.set_vq_cb = virtio_vdpa_set_vq_cb,
	.set_vq_ready = virtio_vdpa_set_vq_ready,
	.set_vq_enable = virtio_vdpa_set_vq_enable,
	.set_vq_state = virtio_vdpa_set_vq_state,
	.get_vq_state = virtio_vdpa_get_vq_state,
	.reset_vq = virtio_vdpa_reset_vq,
	.get_vendor_vq_stats = virtio_vdpa_get_vendor_vq_stats,
	.get_vq_notification = virtio_vdpa_get_vq_notification,
	.get_vq_count = virtio_vdpa_get_vq_count,
	.get_vq_num_max = virtio_vdpa_get_vq_num_max,
	.get_vq_size = virtio_vdpa_get_vq_size,
	.get_device_features = virtio_vdpa_get_device_features,
	.get_backend_features = virtio_vdpa_get_backend_features,
	.set_driver_features = virtio_vdpa_set_driver_features,
	.set_config_cb = virtio_vdpa_set_config_cb,
	.get_device_id = virtio_vdpa_get_device_id,
	.get_vendor_id = virtio_vdpa_get_vendor_id,
	.get_status = virtio_vdpa_get_status,
	.set_status = virtio_vdpa_set_status,
	.reset = virtio_vdpa_reset,
	.cut_off = virtio_vdpa_cut_off,
	.suspend = virtio_vdpa_suspend,
	.resume = virtio_vdpa_resume,
	.get_config_size = virtio_vdpa_get_config_size,
	.get_config = virtio_vdpa_get_config,
	.set_config = virtio_vdpa_set_config,
	.get_generation = virtio_vdpa_get_generation,
	.get_stats = virtio_vdpa_get_stats,
	.log_start = virtio_vdpa_log_start,
	.log_sync = virtio_vdpa_log_sync,
	.log_stop = virtio_vdpa_log_stop,
	.release_dma = virtio_vdpa_release_dma,
	.free = virtio_device_free,
	.save_state = virtio_vdpa_save_state,
	.load_state = virtio_vdpa_load_state,
	.can_restart = virtio_vdpa_can_restart,
	.adopt = virtio_vdpa_adopt,
	.leave = virtio_vdpa_leave,
};

const struct vdpa_config_ops *
vdpa_virtio_ops(void)
{
	return &ops;
}

/* What a driver may ask. */

uint64_t
vdpa_virtio_hw_features(const struct vdpa_virtio_device *dev)
{
	return dev->core->hw_features;
}

uint64_t
vdpa_virtio_features(const struct vdpa_virtio_device *dev)
{
	return dev->core->negotiated;
}

bool
vdpa_virtio_is_packed(const struct vdpa_device *vdev)
{
	const struct vdpa_virtio_device *dev = (const void *)vdev;

	return virtio_has(dev->core->negotiated, VIRTIO_F_RING_PACKED);
}

const struct vdpa_virtio_vq_info *
vdpa_virtio_vq_info(const struct vdpa_virtio_device *dev, uint16_t idx)
{
	return &dev->core->vqs[idx].info;
}

const struct vdpa_virtio_vq_conf *
vdpa_virtio_vq_conf(const struct vdpa_virtio_device *dev, uint16_t idx)
{
	return &dev->core->vqs[idx].conf;
}

bool
vdpa_virtio_vq_runs(const struct vdpa_virtio_device *dev, uint16_t idx)
{
	const struct virtio_queue *q = &dev->core->vqs[idx];

	return dev->core->running && !dev->core->suspended && q->ready &&
	       (q->enabled || !dev->kind->queue_enable_stops);
}
