/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where a virtqueue stands, by what its rings in guest memory say: for devices that can neither
 * report nor load it, as no standard virtio device can. Reads only, each value once; the guest may
 * write what it likes there, and then misleads its own queue.
 */

#include <stdlib.h>
#include <string.h>

#include <rte_byteorder.h>

#include "ring_index.h"
#include "ring_watch.h"
#include "session_priv.h"

/* Split ring: flags and index (ring_index.h) before the entries (virtio 1.2, 2.7.6 and 2.7.8). */
#define RING_ENTRIES 4
#define USED_ELEM    8

/* Packed ring: a descriptor, and its two flags (2.8.1). */
#define PACKED_DESC  16
#define PACKED_FLAGS 14
#define PACKED_AVAIL (1u << 7)
#define PACKED_USED  (1u << 15)

static bool
is_zero(const uint8_t *p, size_t len)
{
	return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

/* Not there where there is no memory at all. */
static const void *
range(const struct vdpa_iotlb *tlb, uint64_t iova, uint64_t len)
{
	return tlb != NULL ? vdpa_iotlb_range(tlb, iova, len) : NULL;
}

bool
vdpa_ring_is_used_up(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf)
{
	uint16_t avail, used;

	/* What is no ring any more has nothing that would come. */
	return !vdpa_ring_used_idx(tlb, conf->device, &used) ||
	       !vdpa_ring_avail_idx(tlb, conf->driver, &avail) || avail == used ||
	       (uint16_t)(avail - used) > conf->num;
}

/* The index alone would look the same after 65536 buffers; the entries would not. */
static bool
split_is_fresh(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf)
{
	size_t len = (size_t)USED_ELEM * conf->num;
	const uint8_t *entries = range(tlb, conf->device + RING_ENTRIES, len);
	uint16_t used;

	return entries != NULL && vdpa_ring_used_idx(tlb, conf->device, &used) && used == 0 &&
	       is_zero(entries, len);
}

/* No descriptor was used in the first round, nor is any left of a later one: each is either
 * untouched or made available in the first round. */
static bool
packed_is_fresh(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf)
{
	const uint8_t *ring = range(tlb, conf->desc, (uint64_t)PACKED_DESC * conf->num);

	if (ring == NULL)
		return false;
	for (uint32_t i = 0; i < conf->num; i++) {
		uint8_t desc[PACKED_DESC];
		uint16_t flags;

		memcpy(desc, ring + (size_t)i * PACKED_DESC, sizeof(desc));
		memcpy(&flags, desc + PACKED_FLAGS, sizeof(flags));
		flags = rte_le_to_cpu_16(flags);
		if ((flags & (PACKED_AVAIL | PACKED_USED)) != PACKED_AVAIL &&
		    !is_zero(desc, sizeof(desc)))
			return false;
	}
	return true;
}

bool
vdpa_ring_is_fresh(const struct vdpa_iotlb *tlb, bool packed, const struct vdpa_vq_config *conf)
{
	return packed ? packed_is_fresh(tlb, conf) : split_is_fresh(tlb, conf);
}

/* Whether the buffers that a device has not used are those that were made available last. */
static bool
split_is_in_order(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf)
{
	struct vdpa_ring_watch *w = malloc(sizeof(*w));
	bool known = w != NULL && vdpa_ring_watch(tlb, conf, w);

	free(w);
	return known;
}

bool
vdpa_ring_stopped_at(const struct vdpa_iotlb *tlb, bool packed, const struct vdpa_vq_config *conf,
		     struct vdpa_vq_state *state)
{
	uint16_t avail, used;

	memset(state, 0, sizeof(*state));
	if (packed) {
		if (!packed_is_fresh(tlb, conf)) {
			/* No place at all, of a ring that is smaller than the largest. */
			state->packed.last_avail_idx = VDPA_VQ_NUM_MAX - 1;
			state->packed.last_used_idx = VDPA_VQ_NUM_MAX - 1;
			return false;
		}
		state->packed.last_avail_counter = state->packed.last_used_counter = 1;
		return true;
	}
	if (!vdpa_ring_used_idx(tlb, conf->device, &used) ||
	    !vdpa_ring_avail_idx(tlb, conf->driver, &avail)) {
		/* Nobody knows: any place but the beginning. */
		state->split.avail_index = 1;
		return false;
	}
	state->split.avail_index = used;
	if (avail == used || split_is_fresh(tlb, conf) || split_is_in_order(tlb, conf))
		return true;
	/* In the middle, though the index has come round to the beginning. */
	if (used == 0)
		state->split.avail_index = avail;
	return false;
}

/* A descriptor that was used has both flags as the used wrap counter of its round. */
static bool
packed_has_gone_on(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf,
		   const struct vdpa_vq_state *state)
{
	uint64_t at = conf->desc + (uint64_t)PACKED_DESC * state->packed.last_used_idx;
	const uint16_t *p = range(tlb, at + PACKED_FLAGS, sizeof(*p));
	uint16_t both = PACKED_AVAIL | PACKED_USED, flags;

	if (p == NULL || state->packed.last_used_idx >= conf->num)
		return true;
	flags = rte_le_to_cpu_16(__atomic_load_n(p, __ATOMIC_ACQUIRE)) & both;
	return flags == (state->packed.last_used_counter != 0 ? both : 0);
}

bool
vdpa_ring_catch_up(const struct vdpa_iotlb *tlb, bool packed, const struct vdpa_vq_config *conf,
		   struct vdpa_vq_state *state)
{
	uint16_t used;

	if (packed)
		return !packed_has_gone_on(tlb, conf, state);
	if (vdpa_ring_used_idx(tlb, conf->device, &used) &&
	    (int16_t)(used - state->split.avail_index) > 0)
		state->split.avail_index = used;
	return true;
}
