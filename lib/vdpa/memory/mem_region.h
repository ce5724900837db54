/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Regions of guest memory, between the files that own them: mem_window.c (places in our address
 * space that keep the order of IOVAs), mem_budget.c (how many mappings there may be), mem_region.c
 * (files and mappings) and mem_table.c (tables), each using those before it.
 */

#ifndef MEM_REGION_H
#define MEM_REGION_H

#include "vdpa_memory.h"

/* A region as it was asked for, with what fstat() said of its file. */
struct mem_region_request {
	const struct vdpa_mem_region_spec *spec;
	dev_t dev;
	ino_t ino;
};

/* Whether two regions lie in one file. */
static inline bool
mem_region_same_file(const struct vdpa_mem_region *a, const struct vdpa_mem_region *b)
{
	return a->ino == b->ino && a->dev == b->dev && a->generation == b->generation;
}

/* mem_window.c */

/* Whether a page of it was lost, or of its window. */
bool mem_region_faulted(const struct vdpa_mem_region *r);
/* Move a region's mapping, whose first byte is of the IOVA `first`, to where its neighbours are; it
 * stays where it is if it cannot be. */
void mem_window_put_in_order(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
			     struct vdpa_mem_region *r, uint64_t first);
/* Give the place of a region back. */
void mem_window_leave(struct vdpa_mem_region *r);

/* mem_region.c */

/* What is wrong with one region by itself. The request receives the specification and the file. */
int mem_region_check(struct mem_region_request *req, const struct vdpa_mem_region_spec *s);
/* Map a region anew; `old` and `now` may have its file, and `now` is the table that it is for, or,
 * NULL, `old` is what that had. */
int mem_region_map(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
		   const struct mem_region_request *req, struct vdpa_mem_region **out);
struct vdpa_mem_region *mem_region_get(struct vdpa_mem_region *r);
void mem_region_put(struct vdpa_mem_region *r);

#endif /* MEM_REGION_H */
