/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The indexes of a split ring in guest memory (virtio 1.2, 2.7.6 and 2.7.8). Each is read once. */

#ifndef VDPA_RING_INDEX_H
#define VDPA_RING_INDEX_H

#include <rte_byteorder.h>

#include "vdpa_memory.h"

/* Behind the flags. */
#define VDPA_RING_IDX_AT 2

/* The index of the avail or used ring that lies there. False where it is not in memory (tlb NULL:
 * there is none). */
static inline bool
vdpa_ring_read_idx(const struct vdpa_iotlb *tlb, uint64_t ring, uint16_t *idx)
{
	const uint16_t *p =
		tlb != NULL ? vdpa_iotlb_range(tlb, ring + VDPA_RING_IDX_AT, sizeof(*p)) : NULL;

	if (p == NULL)
		return false;
	*idx = rte_le_to_cpu_16(__atomic_load_n(p, __ATOMIC_ACQUIRE));
	return true;
}

/* How far a split ring was made available. False where it is not in memory. */
static inline bool
vdpa_ring_avail_idx(const struct vdpa_iotlb *tlb, uint64_t avail_ring, uint16_t *idx)
{
	return vdpa_ring_read_idx(tlb, avail_ring, idx);
}

/* How far a split ring was used. False where its used ring is no longer in memory. */
static inline bool
vdpa_ring_used_idx(const struct vdpa_iotlb *tlb, uint64_t used_ring, uint16_t *idx)
{
	return vdpa_ring_read_idx(tlb, used_ring, idx);
}

#endif /* VDPA_RING_INDEX_H */
