/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A virtio device from reset to reset: which features belong to the guest and which to us, the
 * order of a start, virtqueues that come late or go early, and what can be said of where they
 * stand.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "error_priv.h"
#include "vdpa_log.h"
#include "vdpa_stats.h"
#include "virtio_priv.h"

bool
virtio_device_suspends(const struct virtio_device *dev)
{
	/* Where queue_enable stops queues, they keep their places, which is more. */
	return virtio_has(dev->hw_features, VIRTIO_F_SUSPEND) &&
	       !dev->pub->kind->queue_enable_stops;
}

/* Whether the device is not to be notified, nor to be given commands. */
static bool
stands_still(const struct virtio_device *dev)
{
	return dev->suspended && virtio_device_suspends(dev);
}

static void
set_suspended(struct virtio_device *dev, bool suspended)
{
	__atomic_store_n(&dev->suspended, suspended, __ATOMIC_SEQ_CST);
}

int
virtio_device_set_features(struct virtio_device *dev, uint64_t features)
{
	/* Ours to accept, whatever the guest does: an IOMMU stands between the device and all
	 * memory, queues come and go one by one where they can, and the device can stand still. */
	uint64_t own = RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) | RTE_BIT64(VIRTIO_F_RING_RESET) |
		       (virtio_device_suspends(dev) ? RTE_BIT64(VIRTIO_F_SUSPEND) : 0);
	uint64_t ctrl = virtio_ctrl_features(dev);

	if (!virtio_has(features, VIRTIO_F_VERSION_1))
		return vdpa_error(EINVAL, "a driver without VIRTIO_F_VERSION_1 is not served");
	/* The place of the control queue depends on it: as the guest has it. */
	if (!virtio_has(features, VIRTIO_NET_F_MQ))
		ctrl &= ~RTE_BIT64(VIRTIO_NET_F_MQ);
	dev->features = features;
	dev->negotiated = features | (dev->hw_features & own) | ctrl;
	if (dev->hw.adopts) {
		uint64_t negotiated, guest = virtio_kept_features(dev, &negotiated);

		if (guest != features || negotiated != dev->negotiated)
			return vdpa_error(EPROTO,
					  "the device runs with the features 0x%" PRIx64
					  ", and not 0x%" PRIx64 ": it is not taken over",
					  guest, features);
	}
	virtio_pci_set_features(&dev->hw, dev->negotiated);
	return vdpa_virtio_pci_check(&dev->hw);
}

/* Everything that must stand before the device may run; unwound by a reset. */
static int
prepare(struct virtio_device *dev)
{
	int rc;

	/* What is there belongs to a start that failed: no second one over it. */
	if (dev->prepared)
		return vdpa_error(EPROTO, "a start has failed, and the device was not reset");
	dev->prepared = true;
	rc = virtio_ctrl_setup(dev);
	/* The control queue's doorbell is known only now. */
	if (rc == 0)
		virtio_pci_map_doorbells(&dev->hw);
	if (rc == 0 && dev->hw.adopts)
		rc = virtio_kept_check_queues(dev);
	/* From here on the next process may find it running. */
	virtio_kept_write(dev);
	if (rc == 0)
		rc = vdpa_pci_set_bus_master(dev->hw.pci, true);
	return rc;
}

void
virtio_device_kick(struct virtio_device *dev, uint16_t idx)
{
	struct virtio_queue *q = &dev->vqs[idx];

	/* Not before DRIVER_OK (3.1.1), nor while it is suspended (3.4.1): the queues are kicked
	 * when that is over. */
	if (!__atomic_load_n(&dev->running, __ATOMIC_SEQ_CST) ||
	    __atomic_load_n(&dev->suspended, __ATOMIC_SEQ_CST))
		return;
	virtio_count(&q->kicks);
	virtio_pci_kick(&dev->hw, q->info.doorbell, idx);
}

/* For what may have been made available before the queue ran. Of a queue whose kicks carry data the
 * consumer alone knows the position, and writes the doorbell itself. */
static void
kick_first(struct virtio_device *dev, uint16_t idx)
{
	if (!dev->hw.notification_data)
		virtio_pci_kick(&dev->hw, dev->vqs[idx].info.doorbell, idx);
}

static int
run(struct virtio_device *dev)
{
	if ((vdpa_virtio_pci_get_status(&dev->hw) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0)
		return vdpa_virtio_pci_check(&dev->hw) < 0
			       ? vdpa_virtio_pci_check(&dev->hw)
			       : vdpa_error(EIO, VIRTIO_NEEDS_RESET_TEXT);
	/* From here on kicks go through; the queues are kicked once for those that came before. */
	__atomic_store_n(&dev->running, true, __ATOMIC_SEQ_CST);
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		if (!dev->vqs[i].ready)
			continue;
		dev->vqs[i].ran = true;
		kick_first(dev, i);
	}
	return virtio_ctrl_start(dev);
}

/* The end of a start that has found the device running. */
static void
taken_over(struct virtio_device *dev)
{
	virtio_kept_settle(dev, true);
	virtio_irq_signal_own(dev);
}

int
virtio_device_set_status(struct virtio_device *dev, uint8_t status)
{
	bool starts = (status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && !dev->running;
	int rc = starts ? prepare(dev) : 0;

	if (rc < 0)
		return rc;
	/* DRIVER_OK would resume it. */
	if (stands_still(dev))
		status = (uint8_t)((status & ~VIRTIO_CONFIG_S_DRIVER_OK) | VIRTIO_CONFIG_S_SUSPEND);
	vdpa_virtio_pci_set_status(&dev->hw, status);
	rc = vdpa_virtio_pci_check(&dev->hw);
	if (rc < 0)
		return rc;
	if (starts) {
		bool adopts = dev->hw.adopts;

		rc = run(dev);
		if (rc == 0 && adopts)
			taken_over(dev);
		return rc;
	}
	/* The core looks whether the device has kept the bit. */
	if ((status & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !dev->irq.on &&
	    (vdpa_virtio_pci_get_status(&dev->hw) & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		return virtio_irq_setup(dev);
	return 0;
}

int
virtio_device_reset(struct virtio_device *dev)
{
	int rc;

	__atomic_store_n(&dev->running, false, __ATOMIC_SEQ_CST);
	set_suspended(dev, false);
	/* What a former process has left is not taken over. */
	virtio_kept_let_be(dev);
	virtio_kept_settle(dev, false);
	rc = dev->is_left ? 0 : virtio_pci_reset(&dev->hw);
	/* The guest's eventfds go in any case; memory of ours that the device knows stays with it
	 * until it has let go. */
	virtio_irq_teardown(dev, rc == 0);
	if (rc < 0 || dev->hw.doorbells.own_fd)
		virtio_pci_unmap_doorbells(&dev->hw);
	dev->ctrl.on = false;
	if (rc == 0) {
		dev->prepared = false;
		rc = vdpa_pci_set_bus_master(dev->hw.pci, false);
		virtio_ctrl_reset(dev);
	}
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct virtio_queue *q = &dev->vqs[i];

		q->conf = (struct vdpa_virtio_vq_conf){0};
		q->ready = q->enabled = q->ran = false;
	}
	dev->features = dev->negotiated = 0;
	return rc;
}

/* All queues that are ready and enabled run, or stand still. */
static int
enable_queues(struct virtio_device *dev, bool on)
{
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < dev->nvqs; i++)
		if (dev->vqs[i].ready && dev->vqs[i].enabled)
			rc = vdpa_virtio_pci_vq_set_enable(&dev->hw, i, on);
	return rc;
}

/* All of them, or as before; a device of which some do neither has failed. */
static int
run_or_stand(struct virtio_device *dev, bool on)
{
	int rc = enable_queues(dev, on);
	struct vdpa_error_saved error;

	if (rc < 0) {
		vdpa_error_save(&error);
		if (enable_queues(dev, !on) < 0)
			vdpa_device_fail(dev->vdev, -1, rc, "%s", error.text);
		vdpa_error_restore(&error);
	}
	return rc;
}

/* While it runs. A device that does not understand how many pairs there are has failed. */
static int
update_pairs(struct virtio_device *dev)
{
	bool had_ctrl = dev->ctrl.on;
	int rc = stands_still(dev) ? 0 : virtio_ctrl_update_pairs(dev);

	if (rc < 0 && had_ctrl && !dev->ctrl.on)
		vdpa_device_fail(dev->vdev, -1, rc, "%s", vdpa_error_message());
	return rc;
}

/* It may do what it was asked for at any later time. */
static int
fail_suspension(struct virtio_device *dev, int rc)
{
	struct vdpa_error_saved error;

	vdpa_error_save(&error);
	vdpa_device_fail(dev->vdev, -1, rc, "%s", error.text);
	vdpa_error_restore(&error);
	return rc;
}

int
virtio_device_suspend(struct virtio_device *dev)
{
	bool by_queues = dev->pub->kind->queue_enable_stops;
	int rc;

	if (dev->suspended)
		return 0;
	if (!by_queues && !virtio_has(dev->negotiated, VIRTIO_F_SUSPEND))
		return vdpa_error(EOPNOTSUPP, "the device does not suspend");
	if (by_queues) {
		rc = run_or_stand(dev, false);
		if (rc == 0)
			set_suspended(dev, true);
		return rc;
	}
	/* Kicks are to be over before. */
	set_suspended(dev, true);
	rc = virtio_pci_suspend(&dev->hw);
	return rc < 0 ? fail_suspension(dev, rc) : 0;
}

int
virtio_device_resume(struct virtio_device *dev)
{
	bool by_queues = dev->pub->kind->queue_enable_stops;
	int rc = by_queues ? run_or_stand(dev, true) : virtio_pci_resume(&dev->hw);

	if (rc < 0)
		return by_queues ? rc : fail_suspension(dev, rc);
	set_suspended(dev, false);
	/* For what was made available meanwhile. */
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (dev->vqs[i].ready && dev->vqs[i].enabled)
			kick_first(dev, i);
	/* And what was enabled and disabled. */
	return by_queues ? 0 : update_pairs(dev);
}

/* Virtqueues. */

uint16_t
virtio_device_queues(const struct virtio_device *dev)
{
	/* Without MQ there is one pair, and perhaps the control queue in the place of the next. */
	bool one_pair =
		dev->hw.type == VIRTIO_ID_NET && !virtio_has(dev->features, VIRTIO_NET_F_MQ);

	return one_pair ? 2 : dev->nvqs;
}

bool
virtio_device_stops_queues(const struct virtio_device *dev, uint64_t features)
{
	return virtio_has(features, VIRTIO_F_RING_RESET) || dev->pub->kind->queue_enable_stops;
}

/* On return the function uses the queue's rings no more. */
static int
stop_vq(struct virtio_device *dev, uint16_t idx)
{
	return dev->pub->kind->queue_enable_stops
		       ? vdpa_virtio_pci_vq_set_enable(&dev->hw, idx, false)
		       : virtio_pci_vq_reset(&dev->hw, idx);
}

static int
enable(struct virtio_device *dev, uint16_t idx)
{
	struct virtio_queue *q = &dev->vqs[idx];
	int rc;

	if (idx >= virtio_device_queues(dev))
		return vdpa_error(EINVAL, "a second queue pair needs VIRTIO_NET_F_MQ");
	if (stands_still(dev))
		return vdpa_error(EBUSY, "the device is suspended, and takes no queue");
	q->conf.vector = virtio_irq_vector(dev, idx);
	rc = virtio_pci_vq_enable(&dev->hw, idx, &q->conf);
	if (rc < 0)
		return rc;
	q->ready = q->enabled = true;
	if (!dev->running)
		return 0;
	q->ran = true;
	kick_first(dev, idx);
	rc = update_pairs(dev);
	if (rc < 0) {
		char why[256];

		/* Not started: the device must not use it. Only where queues come late. */
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		q->ready = q->enabled = false;
		if (stop_vq(dev, idx) < 0)
			vdpa_device_fail(dev->vdev, idx, EIO, "%s", vdpa_error_message());
		rc = vdpa_error(rc, "%s", why);
	}
	return rc;
}

static int
disable(struct virtio_device *dev, uint16_t idx)
{
	struct virtio_queue *q = &dev->vqs[idx];
	int rc;

	if (!virtio_device_stops_queues(dev, dev->negotiated))
		return vdpa_error(EOPNOTSUPP, "a queue of this device stops only with the device");
	/* It need not look at its registers then (3.4.2). */
	if (stands_still(dev))
		return vdpa_error(EOPNOTSUPP,
				  "a queue of a suspended device stops only with the device");
	q->ready = false;
	/* The device gets the command first: it is not to wait for buffers there. */
	if (dev->running && update_pairs(dev) < 0)
		VDPA_LOG(WARNING, "%s", vdpa_error_message());
	rc = stop_vq(dev, idx);
	/* It may still use the ring. */
	if (rc < 0)
		q->ready = true;
	return rc;
}

int
virtio_device_set_ready(struct virtio_device *dev, uint16_t idx, bool ready)
{
	if (dev->vqs[idx].ready == ready)
		return 0;
	return ready ? enable(dev, idx) : disable(dev, idx);
}

/* A queue stands still, or goes on, where queue_enable does that. */
static int
move_or_hold(struct virtio_device *dev, uint16_t idx, bool on)
{
	struct virtio_queue *q = &dev->vqs[idx];
	int rc;

	if (!dev->pub->kind->queue_enable_stops || !q->ready || dev->suspended)
		return 0;
	rc = vdpa_virtio_pci_vq_set_enable(&dev->hw, idx, on);
	if (rc == 0 && on && dev->running)
		kick_first(dev, idx);
	return rc;
}

/*
 * Other devices know of no such thing, but for pairs of a net device. A queue that is disabled
 * keeps its place in the ring, and the device goes on with what the guest puts there: nothing, as
 * it has been set to use fewer pairs, or stops next.
 */
int
virtio_device_set_enable(struct virtio_device *dev, uint16_t idx, bool on)
{
	struct virtio_queue *q = &dev->vqs[idx];
	bool was = q->enabled;
	int rc;

	if (on == was)
		return 0;
	rc = move_or_hold(dev, idx, on);
	if (rc < 0)
		return rc;
	q->enabled = on;
	rc = dev->running ? update_pairs(dev) : 0;
	if (rc < 0) {
		struct vdpa_error_saved error;

		q->enabled = was;
		vdpa_error_save(&error);
		if (move_or_hold(dev, idx, was) < 0)
			vdpa_device_fail(dev->vdev, idx, rc, "%s", error.text);
		vdpa_error_restore(&error);
	}
	return rc;
}

int
virtio_device_check_state(const struct virtio_device *dev, const struct vdpa_vq_state *state)
{
	bool packed = virtio_has(dev->features, VIRTIO_F_RING_PACKED);
	unsigned int at = packed ? state->packed.last_avail_idx : state->split.avail_index;

	/* It stands where it stands. */
	if (dev->hw.adopts)
		return 0;
	if (packed ? at == 0 && state->packed.last_used_idx == 0 &&
			     state->packed.last_avail_counter == 1 &&
			     state->packed.last_used_counter == 1
		   : at == 0)
		return 0;
	return vdpa_error(EOPNOTSUPP,
			  "starts at %u%s: a virtio device can only start at 0; migration needs "
			  "shadow rings, which uvdpa does not have yet",
			  at, packed ? " of a later lap" : "");
}

int
virtio_device_get_state(struct virtio_device *dev, uint16_t idx, struct vdpa_vq_state *state)
{
	/* What was taken and not yet used is lost with a reset, and nothing says which it was. */
	if (dev->vqs[idx].ran)
		return vdpa_error(EOPNOTSUPP,
				  "where it stopped is not known: a virtio device cannot tell");
	*state = (struct vdpa_vq_state){0};
	if (virtio_has(dev->features, VIRTIO_F_RING_PACKED))
		state->packed.last_avail_counter = state->packed.last_used_counter = 1;
	return 0;
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
virtio_device_read_config(struct virtio_device *dev, size_t offset, void *buf, size_t len)
{
	uint16_t pairs = rte_cpu_to_le_16(dev->nvqs / 2), mtu = rte_cpu_to_le_16(dev->mtu);
	int rc = vdpa_virtio_pci_read_config(&dev->hw, (uint32_t)offset, buf, (uint32_t)len);

	if (rc < 0 || dev->hw.type != VIRTIO_ID_NET)
		return rc;
	if (dev->has_mac)
		overlay(offset, buf, len, offsetof(struct virtio_net_config, mac), dev->mac,
			sizeof(dev->mac));
	if (virtio_has(dev->offered, VIRTIO_NET_F_MQ))
		overlay(offset, buf, len, offsetof(struct virtio_net_config, max_virtqueue_pairs),
			&pairs, sizeof(pairs));
	if (dev->has_mtu)
		overlay(offset, buf, len, offsetof(struct virtio_net_config, mtu), &mtu,
			sizeof(mtu));
	return 0;
}

/* Statistics. */

static int
add_stat(struct vdpa_stat *stats, unsigned int n, int at, const char *name, uint64_t value)
{
	if ((unsigned int)at < n)
		stats[at] = (struct vdpa_stat){.name = name, .value = value};
	return at + 1;
}

int
virtio_device_vq_stats(struct virtio_device *dev, uint16_t idx, struct vdpa_stat *stats,
		       unsigned int n)
{
	struct virtio_queue *q = &dev->vqs[idx];
	int i = 0;

	/* A vector that goes straight to the guest nobody counts here. */
	if (!__atomic_load_n(&q->direct, __ATOMIC_RELAXED))
		i = add_stat(stats, n, i, VDPA_QSTAT_INTERRUPTS, virtio_counted(&q->interrupts));
	return add_stat(stats, n, i, "call_swaps", virtio_counted(&q->call_swaps));
}

int
virtio_device_stats(struct virtio_device *dev, struct vdpa_stat *stats, unsigned int n)
{
	uint64_t kicks = 0, swaps = 0;
	int i = 0;

	for (uint16_t q = 0; q < dev->nvqs; q++) {
		kicks += virtio_counted(&dev->vqs[q].kicks);
		swaps += virtio_counted(&dev->vqs[q].call_swaps);
	}
	i = add_stat(stats, n, i, "kicks_relayed", kicks);
	i = add_stat(stats, n, i, "interrupts_relayed", virtio_counted(&dev->irq.relayed));
	i = add_stat(stats, n, i, "call_swaps", swaps);
	i = add_stat(stats, n, i, "vectors", __atomic_load_n(&dev->irq.n, __ATOMIC_RELAXED));
	return add_stat(stats, n, i, "ctrl_commands", virtio_counted(&dev->ctrl.commands));
}
