/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The path by a shadow virtqueue: the layout of its ring, the inflight area, and where the guest's
 * ring stands when it ends. Moving the buffers is shadow.c.
 *
 * A shadow can begin anywhere in the guest's ring, as the device's begins at its beginning; and
 * wherever it ends it knows what the device has had. Buffers that the device had taken are given
 * back to the ring, so that whoever goes on there executes them. A net device uses its buffers in
 * order, so that these are the last ones. Of another class requests may end in any order: so they
 * are tracked in an inflight area (vhost-user), the front end's where it gave one, else one of our
 * own, which the next shadow in this process finds and no other host does. Where the device
 * outlives the process, the area of each ring is one that does, too (vdpa_vq_inflight.own): then
 * the next process takes from it what this one had under way when it was killed, and executes it
 * again.
 */

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include <rte_byteorder.h>

#include "device_priv.h"
#include "path_mover.h"
#include "paths.h"
#include "shadow.h"
#include "vdpa_log.h"
#include "virtio_compat.h"

/* Entries of indirect tables for the device: a chain cannot be longer. At least, and a slot. */
#define TABLES_MIN	4096
#define TABLES_PER_SLOT 8

/* An inflight area of our own, from the end of one shadow to the next on the same ring. */
struct held {
	bool packed;
	uint32_t num;
	uint64_t desc;
	struct vdpa_vq_state state;
	unsigned int in_flight; /* 0: nothing is kept */
	_Alignas(16) uint8_t area[];
};

/* Where the parts of the device's ring lie in the memory. */
struct layout {
	size_t driver, device, tables, size;
	uint32_t entries;
};

static struct layout
lay_out(const struct vdpa_device *vdev, uint64_t features, uint32_t num)
{
	bool packed = (features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_ring_size size = vdpa_ring_size(packed, num);
	size_t align = RTE_MAX(vdev->core->vq_align, 64u);
	struct layout l;

	l.driver = RTE_ALIGN_CEIL(size.desc, align);
	l.device = RTE_ALIGN_CEIL(l.driver + size.driver, align);
	l.tables = RTE_ALIGN_CEIL(l.device + size.device, align);
	l.entries = (features & RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC)) != 0
			    ? RTE_MAX((uint32_t)TABLES_MIN, TABLES_PER_SLOT * num)
			    : 0;
	l.size = l.tables + (size_t)l.entries * 16;
	return l;
}

static void
place_ring(const struct vdpa_own_buf *mem, const struct layout *l, struct vdpa_vring_params *ring,
	   struct vdpa_vq_config *dev)
{
	uint8_t *va = mem->va;

	ring->desc = va;
	ring->driver = va + l->driver;
	ring->device = va + l->device;
	ring->tables = l->entries > 0 ? va + l->tables : NULL;
	ring->tables_iova = mem->iova + l->tables;
	ring->tables_entries = l->entries;
	dev->desc = mem->iova;
	dev->driver = mem->iova + l->driver;
	dev->device = mem->iova + l->device;
}

/* Whether a ring goes on as it stood when the requests of an area were held. A guest that begins
 * anew may come to the same place of a split ring, where none of them was used. */
static bool
is_where_it_stood(const struct vdpa_core_vq *vq, const struct held *held, bool packed,
		  const struct vdpa_vq_config *guest)
{
	const uint16_t *used;

	if (held->in_flight == 0 || held->packed != packed || held->num != guest->num ||
	    held->desc != guest->desc || !vdpa_place_is_same(packed, &held->state, &guest->state))
		return false;
	if (packed)
		return true;
	used = vdpa_iotlb_range(vq->vdev->core->iotlb,
				guest->device + offsetof(struct vring_used, idx), sizeof(*used));
	return used != NULL && rte_le_to_cpu_16(__atomic_load_n(used, __ATOMIC_RELAXED)) ==
				       (uint16_t)(held->state.split.avail_index - held->in_flight);
}

/* The area that tracks what is in flight; NULL for none. */
static int
track(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest, bool packed,
      struct vdpa_vq_inflight *inflight)
{
	size_t size = vdpa_vq_inflight_size(packed, guest->num);
	struct held *held = vq->held;

	*inflight = guest->inflight;
	/* What a stop could not put back there. */
	if (inflight->own && held != NULL) {
		if (is_where_it_stood(vq, held, packed, guest))
			memcpy(inflight->addr, held->area, size);
		free(held);
		vq->held = NULL;
	}
	if (inflight->addr != NULL || vq->vdev->config->get_device_id(vq->vdev) == VIRTIO_ID_NET)
		return 0;
	/* What was held is executed now, where the guest's ring goes on as it stood. */
	if (held == NULL || !is_where_it_stood(vq, held, packed, guest)) {
		free(held);
		vq->held = held = calloc(1, sizeof(*held) + size);
		if (held == NULL)
			return vdpa_error(ENOMEM, "out of memory");
	}
	held->packed = packed;
	held->num = guest->num;
	held->desc = guest->desc;
	held->in_flight = 0;
	*inflight = (struct vdpa_vq_inflight){.addr = held->area, .size = size};
	return 0;
}

static void
say_held(const struct vdpa_core_vq *vq, unsigned int n)
{
	VDPA_LOG_LIMITED(&vq->vdev->core->log, WARNING,
			 "%s: queue %u: stopped with %u requests that the device has not finished: "
			 "they are executed again when it goes on here, and lost where it goes on "
			 "elsewhere",
			 vq->vdev->name, vdpa_path_mover_idx(vq), n);
}

bool
vdpa_path_hold(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest, uint16_t used,
	       const uint16_t *heads, unsigned int n, struct vdpa_vq_state *state)
{
	size_t size = vdpa_vq_inflight_size(false, guest->num);
	struct held *held;

	if (vq->vdev->config->get_device_id(vq->vdev) == VIRTIO_ID_NET)
		return false;
	held = calloc(1, sizeof(*held) + size);
	if (held == NULL)
		return false;
	(void)vdpa_vq_inflight_store(&(struct vdpa_vq_inflight){.addr = held->area, .size = size},
				     guest->num, used, heads, n);
	memset(state, 0, sizeof(*state));
	state->split.avail_index = (uint16_t)(used + n);
	held->num = guest->num;
	held->desc = guest->desc;
	held->state = *state;
	held->in_flight = n;
	free(vq->held);
	vq->held = held;
	say_held(vq, n);
	return true;
}

bool
vdpa_path_holds(const struct vdpa_core_vq *vq, const struct vdpa_vq_state *state)
{
	const struct held *held = vq->held;

	return held != NULL && held->in_flight > 0 &&
	       vdpa_place_is_same(held->packed, &held->state, state);
}

/* The device's ring: as large as the guest's where it may be. */
static uint32_t
ring_num(const struct vdpa_core_vq *vq, bool packed, uint32_t num)
{
	num = RTE_MAX(num, vq->vdev->core->vq_num_min);
	num = RTE_MIN(num, vq->num_max);
	return packed ? num : rte_align32prevpow2(num);
}

static struct layout
layout_of(const struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest)
{
	const uint64_t features = vq->vdev->core->features;
	const bool packed = (features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	return lay_out(vq->vdev, features, ring_num(vq, packed, guest->num));
}

static size_t
memory(const struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest)
{
	return layout_of(vq, guest).size;
}

static int
start(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest, struct vdpa_vq_config *dev)
{
	struct vdpa_device_core *core = vq->vdev->core;
	bool packed = (core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	bool guest_packed = (core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_mover_params params;
	struct vdpa_mover_path *path;
	const struct layout l = layout_of(vq, guest);
	int rc;

	dev->num = ring_num(vq, packed, guest->num);
	dev->inflight = (struct vdpa_vq_inflight){0};
	/* A disabled queue is one that is not given anything, unless the device wants to know. */
	dev->enabled = guest->enabled || !core->can.vq_enable;
	vdpa_place_set_initial(packed, &dev->state);
	path = vdpa_path_mover_begin(vq, l.size, guest, dev, &params, &rc);
	if (path == NULL)
		return rc;
	params.ring = (struct vdpa_vring_params){
		.features = core->features, .num = dev->num, .place = dev->state};
	place_ring(path->memory, &l, &params.ring, dev);
	rc = track(vq, guest, guest_packed, &params.guest.inflight);
	if (rc == 0)
		rc = vdpa_shadow_create(&params, &path->mover);
	if (rc < 0) {
		vdpa_path_mover_give_up(vq, path, NULL, false);
		return rc;
	}
	vdpa_path_mover_enter(vq, path, guest, dev);
	return 0;
}

static bool
drain(struct vdpa_core_vq *vq, unsigned int ms)
{
	struct vdpa_mover_path *path = vq->path_data;

	if (!path->runs)
		return true;
	return vdpa_shadow_drain(path->mover, vq->hands_over ? 0 : ms) || vq->hands_over;
}

/* From an area that the next start begins anew. */
static void
keep_own(struct vdpa_core_vq *vq, const struct vdpa_vq_state *state, unsigned int in_flight)
{
	bool packed = (vq->vdev->core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	size_t size = vdpa_vq_inflight_size(packed, vq->conf.num);
	struct held *held = calloc(1, sizeof(*held) + size);

	if (held == NULL) {
		VDPA_LOG_LIMITED(&vq->vdev->core->log, ERR,
				 "%s: queue %u: out of memory: %u requests are lost",
				 vq->vdev->name, vdpa_path_mover_idx(vq), in_flight);
		return;
	}
	*held = (struct held){.packed = packed,
			      .num = vq->conf.num,
			      .desc = vq->conf.desc,
			      .state = *state,
			      .in_flight = in_flight};
	memcpy(held->area, vq->conf.inflight.addr, size);
	free(vq->held);
	vq->held = held;
	say_held(vq, in_flight);
}

/* The front end of an area of ours goes on with the ring alone, so all goes back there, but what
 * was overtaken by requests that the device has used. */
static void
put_back(struct vdpa_core_vq *vq, struct vdpa_mover *mover, struct vdpa_vq_state *state)
{
	bool packed = (vq->vdev->core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	unsigned int left;

	if (vdpa_shadow_put_back(mover, state) == 0)
		return;
	left = vdpa_vq_inflight_count(&vq->conf.inflight, packed, vq->conf.num, UINT64_MAX, NULL);
	if (left > 0)
		keep_own(vq, state, left);
}

/* What was in flight stays with us where the area is ours. */
static void
hold(struct vdpa_core_vq *vq, const struct vdpa_vq_state *state, unsigned int in_flight)
{
	struct held *held = vq->held;

	if (held == NULL || vq->conf.inflight.addr != NULL)
		return;
	held->state = *state;
	held->in_flight = in_flight;
	if (in_flight > 0)
		say_held(vq, in_flight);
}

static int
stop(struct vdpa_core_vq *vq, struct vdpa_vq_state *state, bool reachable)
{
	struct vdpa_device *vdev = vq->vdev;
	struct vdpa_mover_path *path = vq->path_data;
	unsigned int in_flight = 0;
	int rc = vdpa_shadow_end(path->mover, state, &in_flight);

	if (rc == 0 && vq->conf.inflight.own) {
		put_back(vq, path->mover, state);
	} else if (rc == 0) {
		hold(vq, state, in_flight);
	} else {
		VDPA_LOG_LIMITED(&vdev->core->log, WARNING,
				 "%s: queue %u: stopped with %u buffers that the device had not "
				 "used, and has used later ones: where it stands cannot be said",
				 vdev->name, vdpa_path_mover_idx(vq), in_flight);
		rc = -EOPNOTSUPP;
	}
	vdpa_path_mover_give_up(vq, path, &vdpa_path_shadow, reachable);
	return rc;
}

static void
leave(struct vdpa_core_vq *vq, bool begin)
{
	const struct vdpa_mover_path *path = vq->path_data;

	vdpa_shadow_leave(path->mover, begin);
}

#define SHADOW_OPS                                                                                 \
	.own = VDPA_OWN_ALL, .keeps_place = true, .keeps_account = true, .memory = memory,         \
	.start = start, .run = vdpa_path_mover_run, .drain = drain, .stop = stop,                  \
	.enable = vdpa_path_mover_enable, .leave = leave, .set_kick = vdpa_path_mover_set_kick,    \
	.set_call = vdpa_path_mover_set_call, .set_memory = vdpa_path_mover_set_memory,            \
	.set_log = vdpa_path_mover_set_log, .get_stats = vdpa_path_mover_get_stats

const struct vdpa_path vdpa_path_shadow = {.name = "shadow", SHADOW_OPS};
const struct vdpa_path vdpa_path_shadow_inflight = {.name = "shadow (inflight)", SHADOW_OPS};
