/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a vfio-user client lets the function reach by DMA: its DMA_MAP and DMA_UNMAP requests as a
 * table, and the memory in it that can be mapped as a struct vdpa_iotlb.
 */

#ifndef MODEL_DMA_TABLE_H
#define MODEL_DMA_TABLE_H

#include <stdint.h>

#include "vdpa_memory.h"

/* Ranges of one client, those that cannot be mapped included. */
#define DMA_RANGES_MAX 1024

struct dma_range {
	uint64_t address, size, offset;
	int fd; /* -1: not to be reached by us, which is no error until a descriptor points there */
};

struct dma_table {
	unsigned int n;
	struct dma_range ranges[DMA_RANGES_MAX]; /* by ascending address, disjoint */
	struct vdpa_iotlb *iotlb;		 /* those with a file; NULL: none */
};

/*
 * Take a range in; fd is the caller's, duplicated (-1: none). 0; -EINVAL for one that is empty or
 * wraps around; -EEXIST for one that overlaps; -ENOSPC for too many; what vdpa_iotlb_create() says.
 * The table is as it was then.
 */
int dma_table_map(struct dma_table *t, uint64_t address, uint64_t size, uint64_t offset, int fd);

/*
 * The iotlb without [address, address + size), in *after, for whoever must let go of it first.
 * 0; -ENOENT when no range lies in it; -EINVAL when it would cut one in two.
 */
int dma_table_without(const struct dma_table *t, uint64_t address, uint64_t size,
		      struct vdpa_iotlb **after);
/* Then remove the ranges; takes over `after`. */
void dma_table_unmap(struct dma_table *t, uint64_t address, uint64_t size,
		     struct vdpa_iotlb *after);
/* Remove everything. */
void dma_table_clear(struct dma_table *t);

#endif /* MODEL_DMA_TABLE_H */
