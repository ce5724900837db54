/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Memory of the core's own in a device's reach, beside the guest's: own_memory.c. Under the
 * device's lock. */

#ifndef VDPA_OWN_MEMORY_H
#define VDPA_OWN_MEMORY_H

#include "vdpa_dma.h"

struct vdpa_device;

/* A piece of an area, in whole pages. */
struct vdpa_own_buf {
	void *va;
	uint64_t iova;
	size_t size; /* bytes */
	struct vdpa_own_area *area;
	LIST_ENTRY(vdpa_own_buf) next;
};

/*
 * What is mapped at once. Pieces of it are taken from its beginning on, or are those that were
 * freed, but for what the device may reach still. It is unmapped when all are freed, or, where it
 * may not be yet, retired.
 */
struct vdpa_own_area {
	struct vdpa_dma_buf dma;
	size_t taken;	     /* bytes that pieces have had */
	unsigned int pieces; /* that are in use */
	bool reachable;	     /* a piece was freed while the device may reach it */
	bool retired;	     /* nobody gets any of it: unmapped by vdpa_own_settle() */
	LIST_HEAD(, vdpa_own_buf) freed;
	LIST_ENTRY(vdpa_own_area) next;
};

/*
 * Allocate size bytes, zeroed, where no guest memory is, for the device to read and write. Where an
 * area has to be mapped for it, it gets so many bytes more for what comes next, if it can and no
 * piece was freed yet. NULL
 * with vdpa_error_message() and errno: ENOMEM, ENOSPC where there is no room among the IOVAs, or
 * what mapping says.
 */
struct vdpa_own_buf *vdpa_own_alloc(struct vdpa_device *vdev, size_t size, size_t more);
/* reachable: the device may still write there, as its reset has failed: then the memory is freed
 * once it cannot. NULL: no-op. */
void vdpa_own_free(struct vdpa_device *vdev, struct vdpa_own_buf *buf, bool reachable);

/*
 * A start, or a change of paths under traffic: between these two what is freed stays mapped, and
 * what was reserved is there to be allocated, so that while a queue stands still no memory is
 * mapped or unmapped, and all queues have one area. The end frees what was reserved and not used,
 * and what was freed.
 */
void vdpa_own_begin_change(struct vdpa_device *vdev);
/* How many bytes an allocation of so many takes. */
size_t vdpa_own_size(size_t size);
/* For allocations of so many bytes together (vdpa_own_size()), in one area; 0: none. 0 or a
 * negative errno, as vdpa_own_alloc(). */
int vdpa_own_reserve(struct vdpa_device *vdev, size_t size);
void vdpa_own_end_change(struct vdpa_device *vdev);
/* The memory of the binding ends, and a change with it. */
void vdpa_own_abandon_change(struct vdpa_device *vdev);

/* What a device that takes whole tables (set_map) is to be given for this table of the guest's: a
 * table with our memory in it, with a reference for the caller. tlb NULL: ours alone, NULL where
 * there is none. 0 or a negative errno with vdpa_error_message(). */
int vdpa_own_compose(struct vdpa_device *vdev, struct vdpa_iotlb *tlb, struct vdpa_iotlb **out);

/* No memory is in the device's reach any more: free what was kept for that. In a change its end
 * does so. */
void vdpa_own_settle(struct vdpa_device *vdev);

#endif /* VDPA_OWN_MEMORY_H */
