/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device from reset to reset: which features belong to the guest and which to us, the order of a
 * start, how queues are kicked, and what is said of where they stand.
 *
 * Where a queue stands is the parent's word only while nothing moves: suspended, or not run yet. A
 * parent that cannot suspend is not asked; the core looks at the rings then, as for a virtio
 * function, and keeps shadow rings where those do not say it.
 */

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include <rte_byteorder.h>

#include "error_priv.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_vdpa.h"
#include "vhost_vdpa_compat.h"
#include "virtio_compat.h"

static bool
is_packed(const struct vhost_vdpa *dev)
{
	return vv_has(dev->features, VIRTIO_F_RING_PACKED);
}

int
vv_device_set_features(struct vhost_vdpa *dev, uint64_t features)
{
	/* Ours to accept, whatever the guest does: the kernel stands between the device and all
	 * memory. */
	uint64_t own = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM), ctrl = vv_ctrl_features(dev);

	/* The place of the control queue depends on it: as the guest has it. */
	if (!vv_has(features, VIRTIO_NET_F_MQ))
		ctrl &= ~RTE_BIT64(VIRTIO_NET_F_MQ);
	dev->features = features;
	dev->negotiated = features | (dev->info.features & own) | ctrl;
	return vv_kernel_set_features(&dev->kernel, dev->negotiated);
}

/* Kicks. */

void
vv_device_kick(struct vhost_vdpa *dev, uint16_t idx)
{
	struct vv_queue *q = &dev->vqs[idx];

	pthread_mutex_lock(&dev->kick_lock);
	if (q->doorbell != NULL)
		*q->doorbell = rte_cpu_to_le_16(idx);
	else if (q->kick_fd >= 0 || q->own_kick >= 0)
		vdpa_eventfd_signal(q->kick_fd >= 0 ? q->kick_fd : q->own_kick);
	pthread_mutex_unlock(&dev->kick_lock);
}

/* What the kernel waits for: the guest's eventfd, or one of ours where a kick of ours has no other
 * way. */
static int
apply_kick(struct vhost_vdpa *dev, uint16_t idx, int guest)
{
	struct vv_queue *q = &dev->vqs[idx];
	int own = -1, rc;

	if (guest < 0 && q->ready && q->doorbell == NULL) {
		own = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (own < 0)
			return vdpa_error(errno, "eventfd: %s", strerror(errno));
	}
	rc = vv_kernel_set_vq_kick(&dev->kernel, idx, guest >= 0 ? guest : own);
	if (rc < 0) {
		if (own >= 0)
			close(own);
		return rc;
	}
	pthread_mutex_lock(&dev->kick_lock);
	q->kick_fd = guest;
	if (q->own_kick >= 0)
		close(q->own_kick);
	q->own_kick = own;
	pthread_mutex_unlock(&dev->kick_lock);
	return 0;
}

int
vv_device_set_kick(struct vhost_vdpa *dev, uint16_t idx, int fd)
{
	return apply_kick(dev, idx, fd);
}

static void
map_doorbell(struct vhost_vdpa *dev, uint16_t idx)
{
	volatile uint16_t *doorbell = vv_kernel_map_doorbell(&dev->kernel, idx);

	pthread_mutex_lock(&dev->kick_lock);
	dev->vqs[idx].doorbell = doorbell;
	pthread_mutex_unlock(&dev->kick_lock);
}

/* All eventfds of the queue out of the kernel's hands and ours. */
static void
release_vq(struct vhost_vdpa *dev, uint16_t idx)
{
	struct vv_queue *q = &dev->vqs[idx];

	if (dev->kernel.fd >= 0) {
		if ((q->kick_fd >= 0 || q->own_kick >= 0) &&
		    vv_kernel_set_vq_kick(&dev->kernel, idx, -1) < 0)
			VDPA_LOG(WARNING, "%s", vdpa_error_message());
		if (vv_kernel_set_vq_call(&dev->kernel, idx, -1) < 0)
			VDPA_LOG(WARNING, "%s", vdpa_error_message());
	}
	pthread_mutex_lock(&dev->kick_lock);
	q->kick_fd = -1;
	if (q->own_kick >= 0)
		close(q->own_kick);
	q->own_kick = -1;
	vv_kernel_unmap_doorbell(q->doorbell);
	q->doorbell = NULL;
	pthread_mutex_unlock(&dev->kick_lock);
	q->num = 0;
	q->ready = q->enabled = q->ran = false;
}

/* For what may have been made available before. */
static void
kick_all(struct vhost_vdpa *dev)
{
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (dev->vqs[i].ready)
			vv_device_kick(dev, i);
}

/* Start and stop. */

/* Everything that must stand before the device may run; unwound by a reset. */
static int
prepare(struct vhost_vdpa *dev)
{
	int rc;

	if (dev->prepared)
		return vdpa_error(EPROTO, "a start has failed, and the device was not reset");
	dev->prepared = true;
	rc = vv_ctrl_setup(dev);
	return rc == 0 ? vv_dma_renew(dev) : rc;
}

static int
run(struct vhost_vdpa *dev)
{
	dev->running = true;
	for (uint16_t i = 0; i < dev->nvqs; i++)
		dev->vqs[i].ran = dev->vqs[i].ready;
	kick_all(dev);
	return vv_ctrl_start(dev);
}

int
vv_device_set_status(struct vhost_vdpa *dev, uint8_t status)
{
	bool starts = (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !dev->running;
	int rc = starts ? prepare(dev) : 0;

	if (rc == 0)
		rc = vv_kernel_set_status(&dev->kernel, status);
	return rc == 0 && starts ? run(dev) : rc;
}

int
vv_device_reset(struct vhost_vdpa *dev)
{
	int rc = vv_kernel_set_status(&dev->kernel, 0);
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	dev->running = dev->suspended = false;
	/* The guest's eventfds go in any case. */
	for (uint16_t i = 0; i < dev->nvqs; i++)
		release_vq(dev, i);
	vv_ctrl_reset(dev);
	if (dev->kernel.fd >= 0 && vv_kernel_set_config_call(&dev->kernel, -1) < 0)
		VDPA_LOG(WARNING, "%s", vdpa_error_message());
	if (rc == 0)
		dev->prepared = false;
	dev->maps_lost = !vv_kernel_has(&dev->kernel, VHOST_BACKEND_F_IOTLB_PERSIST);
	dev->features = dev->negotiated = 0;
	/* Whoever takes it away waits for this; it also resets the device, and unmaps all. */
	if (__atomic_load_n(&dev->gone, __ATOMIC_ACQUIRE))
		vv_kernel_close(&dev->kernel);
	vdpa_error_restore(&error);
	return rc;
}

/* It may do what it was asked for at any later time. */
static int
fail(struct vhost_vdpa *dev, int rc)
{
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	vdpa_device_fail(&dev->vdev, -1, rc, "%s", error.text);
	vdpa_error_restore(&error);
	return rc;
}

/* While it runs. A device that does not understand how many pairs there are has failed. */
static int
update_pairs(struct vhost_vdpa *dev)
{
	bool had_ctrl = dev->ctrl.on;
	int rc = dev->suspended ? 0 : vv_ctrl_update_pairs(dev);

	return rc < 0 && had_ctrl && !dev->ctrl.on ? fail(dev, rc) : rc;
}

int
vv_device_suspend(struct vhost_vdpa *dev)
{
	int rc;

	if (dev->suspended)
		return 0;
	rc = vv_kernel_suspend(&dev->kernel);
	if (rc == 0)
		dev->suspended = true;
	else if (rc != -EOPNOTSUPP)
		fail(dev, rc);
	return rc;
}

int
vv_device_resume(struct vhost_vdpa *dev)
{
	int rc = vv_kernel_resume(&dev->kernel);

	if (rc < 0)
		return fail(dev, rc);
	dev->suspended = false;
	/* For what was made available, and for what was enabled and disabled, meanwhile. */
	kick_all(dev);
	return update_pairs(dev);
}

/* Virtqueues. */

static int
enable(struct vhost_vdpa *dev, uint16_t idx)
{
	struct vv_queue *q = &dev->vqs[idx];
	int rc;

	if (dev->info.device_id == VIRTIO_ID_NET && !vv_has(dev->features, VIRTIO_NET_F_MQ) &&
	    idx >= 2)
		return vdpa_error(EINVAL, "a second queue pair needs VIRTIO_NET_F_MQ");
	/* Linux takes neither size nor addresses then. */
	if (dev->running && !dev->suspended)
		return vdpa_error(EBUSY, "the device runs, and takes no queue");
	if (q->doorbell == NULL)
		map_doorbell(dev, idx);
	q->ready = true;
	rc = apply_kick(dev, idx, q->kick_fd);
	if (rc == 0)
		rc = vv_kernel_set_vq_ready(&dev->kernel, idx, true);
	q->ready = q->enabled = rc == 0;
	q->ran = rc == 0 && dev->running;
	return rc;
}

static int
disable(struct vhost_vdpa *dev, uint16_t idx)
{
	int rc;

	/* Of one that stands still a queue can go where the parent lets queues be enabled and
	 * disabled after DRIVER_OK; a virtio device behind it does not. */
	if (dev->running && !(dev->suspended &&
			      vv_kernel_has(&dev->kernel, VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK)))
		return vdpa_error(EOPNOTSUPP, "a queue of this device stops only with the device");
	rc = vv_kernel_set_vq_ready(&dev->kernel, idx, false);
	if (rc == 0)
		dev->vqs[idx].ready = false;
	return rc;
}

int
vv_device_set_ready(struct vhost_vdpa *dev, uint16_t idx, bool ready)
{
	if (dev->vqs[idx].ready == ready)
		return 0;
	return ready ? enable(dev, idx) : disable(dev, idx);
}

/* A queue that is disabled keeps its place in the ring, and the device goes on with what the guest
 * puts there: nothing, as it has been set to use fewer pairs, or stops next. */
int
vv_device_set_enable(struct vhost_vdpa *dev, uint16_t idx, bool on)
{
	struct vv_queue *q = &dev->vqs[idx];
	bool was = q->enabled;
	int rc;

	if (on == was)
		return 0;
	q->enabled = on;
	rc = dev->running ? update_pairs(dev) : 0;
	if (rc < 0)
		q->enabled = was;
	return rc;
}

int
vv_device_set_state(struct vhost_vdpa *dev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return vv_kernel_set_vq_state(&dev->kernel, idx, is_packed(dev), state);
}

int
vv_device_get_state(struct vhost_vdpa *dev, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vv_queue *q = &dev->vqs[idx];

	if (q->ran && dev->vdev.config->suspend == NULL)
		return vdpa_error(EOPNOTSUPP, "where it stopped is not known: the parent does not "
					      "suspend");
	return vv_kernel_get_vq_state(&dev->kernel, idx, is_packed(dev), q->num, state);
}

/* Configuration. */

/* Write a field of ours over what was read. */
static void
overlay(size_t offset, void *buf, size_t len, size_t at, const void *field, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (at + i >= offset && at + i < offset + len)
			((uint8_t *)buf)[at + i - offset] = ((const uint8_t *)field)[i];
}

int
vv_device_read_config(struct vhost_vdpa *dev, size_t offset, void *buf, size_t len)
{
	uint16_t pairs = rte_cpu_to_le_16(dev->nvqs / 2);
	int rc = vv_kernel_get_config(&dev->kernel, offset, buf, len);

	if (rc < 0 || dev->info.device_id != VIRTIO_ID_NET)
		return rc;
	if (dev->has_mac)
		overlay(offset, buf, len, offsetof(struct virtio_net_config, mac), dev->mac,
			sizeof(dev->mac));
	if (vv_has(dev->offered, VIRTIO_NET_F_MQ))
		overlay(offset, buf, len, offsetof(struct virtio_net_config, max_virtqueue_pairs),
			&pairs, sizeof(pairs));
	return 0;
}
