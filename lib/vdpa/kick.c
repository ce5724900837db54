/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Kicks by software: the relay from a kick eventfd to the device, and the data of a kick where the
 * driver of the guest has negotiated VIRTIO_F_NOTIFICATION_DATA (virtio 1.2, 2.9). An eventfd
 * carries none, but the ring says it: how far the guest has come. Owns the relays.
 *
 * Each relay holds a reference to the memory that it reads, so that it stays mapped whatever the
 * front end does with its table. A guest that writes nonsense into its ring misleads its own device
 * only; the device must look at the ring in any case.
 */

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <linux/virtio_config.h>

#include <rte_byteorder.h>

#include "device_priv.h"

#ifndef VIRTIO_F_NOTIFICATION_DATA
#define VIRTIO_F_NOTIFICATION_DATA 38
#endif

/* Split: the index in the avail ring (virtio 1.2, 2.7.6). */
#define AVAIL_IDX 2

/* Packed: a descriptor, its flags, and the one that tells its lap (2.8.1, 2.8.13). */
#define PACKED_DESC  16
#define PACKED_FLAGS 14
#define PACKED_AVAIL (1u << 7)

/* A packed ring may begin a new lap while it is looked at; once more is enough for all but a guest
 * that laps us again, and kicks again for it. */
#define PACKED_TRIES 3

#define WRAP_SHIFT     15
#define POSITION_SHIFT 16

static bool
has_feature(const struct vdpa_device *vdev, unsigned int bit)
{
	return (vdev->core->features & RTE_BIT64(bit)) != 0;
}

static bool
carries_data(const struct vdpa_device *vdev)
{
	return has_feature(vdev, VIRTIO_F_NOTIFICATION_DATA) &&
	       vdev->config->kick_vq_with_data != NULL;
}

static uint16_t
split_position(const uint8_t *avail)
{
	return rte_le_to_cpu_16(__atomic_load_n((const uint16_t *)(const void *)(avail + AVAIL_IDX),
						__ATOMIC_ACQUIRE));
}

/* The lap in which a descriptor was written last, by the driver, or by the device that used it. */
static bool
lap_of(const uint8_t *ring, uint32_t at)
{
	const void *flags = ring + (size_t)at * PACKED_DESC + PACKED_FLAGS;

	return (rte_le_to_cpu_16(__atomic_load_n((const uint16_t *)flags, __ATOMIC_ACQUIRE)) &
		PACKED_AVAIL) != 0;
}

/*
 * What the driver writes next. Up to there the ring is of the present lap, from there on of the one
 * before (or zero, as before the first). From the start of the ring at each kick: any number of
 * laps may have passed without one, when the device wanted none, so that where it stood at the last
 * kick says nothing. Nor by bisection: of a chain that is being written the head comes last, and
 * what follows it must not be taken for available.
 */
static uint16_t
packed_position(const uint8_t *ring, uint32_t num)
{
	uint32_t at = 0;
	bool lap = false;

	for (unsigned int i = 0; i < PACKED_TRIES; i++) {
		lap = lap_of(ring, 0);
		for (at = 1; at < num && lap_of(ring, at) == lap; at++)
			;
		if (lap_of(ring, 0) == lap)
			break;
	}
	/* Full: the next lap begins. */
	if (at == num) {
		at = 0;
		lap = !lap;
	}
	return (uint16_t)(at | (uint32_t)lap << WRAP_SHIFT);
}

/* Where a queue's ring lies, by the memory in force. Without a reference to it. Under the lock. */
static void
find_ring(const struct vdpa_device *vdev, uint16_t idx, struct vdpa_kick_ring *ring)
{
	const struct vdpa_vq_config *conf = &vdev->core->vqs[idx].conf;
	struct vdpa_iotlb *tlb = vdev->core->iotlb;

	*ring = (struct vdpa_kick_ring){
		.tlb = tlb, .num = conf->num, .packed = has_feature(vdev, VIRTIO_F_RING_PACKED)};
	if (tlb != NULL && conf->num != 0)
		ring->va = ring->packed ? vdpa_iotlb_range(tlb, conf->desc,
							   (uint64_t)PACKED_DESC * conf->num)
					: vdpa_iotlb_range(tlb, conf->driver,
							   AVAIL_IDX + sizeof(uint16_t));
}

/* False: the device has failed, with its cause. */
static bool
read_data(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_kick_ring *ring, uint32_t *data)
{
	uint16_t position;

	if (ring->va == NULL) {
		vdpa_device_fail(vdev, idx, EFAULT,
				 "kicks carry data, and its ring is outside guest memory");
		return false;
	}
	position = ring->packed ? packed_position(ring->va, ring->num) : split_position(ring->va);
	if (vdpa_iotlb_faulted(ring->tlb)) {
		vdpa_device_fail(vdev, idx, EFAULT, "the front end has taken back guest memory");
		return false;
	}
	*data = idx | (uint32_t)position << POSITION_SHIFT;
	return true;
}

uint32_t
vdpa_vq_notification_data(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_kick_ring ring;
	uint32_t data = idx;

	find_ring(vdev, idx, &ring);
	read_data(vdev, idx, &ring, &data);
	return data;
}

void
vdpa_session_kick(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_kick_ring ring;
	uint32_t data;

	if (!carries_data(vdev)) {
		vdev->config->kick_vq(vdev, idx);
		return;
	}
	find_ring(vdev, idx, &ring);
	if (read_data(vdev, idx, &ring, &data))
		vdev->config->kick_vq_with_data(vdev, data);
}

/* The fallback for doorbells that cannot be given away: one read, one op call for a kick. */
static void
relay_kick(struct vdpa_event *ev, uint32_t revents)
{
	struct vdpa_core_vq *vq = ev->arg;
	struct vdpa_device *vdev = vq->vdev;
	uint16_t idx = (uint16_t)(vq - vdev->core->vqs);
	uint32_t data;

	if (!vdpa_eventfd_take(ev->fd)) {
		/* Not an eventfd after all: it would wake us for ever. Deleted last, nobody waits
		 * for this call from then on. */
		vdpa_device_fail(vdev, idx, errno, "the kick file descriptor cannot be read");
		vdpa_event_del(ev);
		return;
	}
	if (!vq->kick_data)
		vdev->config->kick_vq(vdev, idx);
	else if (read_data(vdev, idx, &vq->kick_ring, &data))
		vdev->config->kick_vq_with_data(vdev, data);
}

/* While no handler runs. */
static int
start_relay(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	vq->kick_data = carries_data(vdev);
	if (vq->kick_data) {
		struct vdpa_iotlb *old = vq->kick_ring.tlb;

		find_ring(vdev, idx, &vq->kick_ring);
		vdpa_iotlb_get(vq->kick_ring.tlb);
		vdpa_iotlb_put(old);
	}
	return VDPA_OP(vdev, idx, "kick relay",
		       vdpa_event_add(vdpa_event_loop_control(), &vq->relay));
}

void
vdpa_session_vq_detach(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	vdpa_event_del(&vq->relay);
	vdpa_iotlb_put(vq->kick_ring.tlb);
	vq->kick_ring = (struct vdpa_kick_ring){0};
	vq->kick_data = false;
}

int
vdpa_session_attach_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	if (vdev->config->set_vq_kick != NULL)
		return VDPA_OP(vdev, idx, "set_vq_kick", vdev->config->set_vq_kick(vdev, idx, fd));
	vdpa_session_vq_detach(vdev, idx);
	if (fd < 0)
		return 0;
	vq->relay =
		(struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = relay_kick, .arg = vq};
	return start_relay(vdev, idx);
}

void
vdpa_session_memory_changed(struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++) {
		struct vdpa_core_vq *vq = &vdev->core->vqs[i];
		int rc;

		if (!vq->kick_data || vq->kick_ring.tlb == vdev->core->iotlb)
			continue;
		/* What is signalled meanwhile is still there afterwards. */
		vdpa_event_del(&vq->relay);
		rc = start_relay(vdev, i);
		if (rc < 0)
			vdpa_device_fail(vdev, i, rc, "%s", vdpa_error_message());
	}
}
