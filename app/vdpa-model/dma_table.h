/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a vfio-user client lets the function reach by DMA: its DMA_MAP and DMA_UNMAP requests as a
 * table, and the memory in it that can be mapped as a struct vdpa_iotlb.
 *
 * A client behind an IOMMU that translates maps page by page. Ranges whose addresses and offsets in
 * the same file follow each other are therefore one range, and each request costs the logarithm of
 * their number. The iotlb is made when it is asked for; from then on it follows the ranges, by what
 * changed, until it is dropped.
 */

#ifndef MODEL_DMA_TABLE_H
#define MODEL_DMA_TABLE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vdpa_memory.h"

/* Ranges of one client that do not join, those that cannot be mapped included. */
#define DMA_RANGES_MAX 65536
/* Different files that they lie in. */
#define DMA_FILES_MAX  64
/* Of ranges with a file: address, size and offset. */
#define DMA_ALIGN      4096

struct dma_file {
	int fd;
	dev_t dev;
	ino_t ino;
	unsigned int ranges; /* in it; 0: the entry is free */
};

/* Zero-initialise it. */
struct dma_table {
	void *ranges; /* of tsearch(3): struct dma_range, disjoint */
	unsigned int n;
	unsigned int n_mapped; /* of them, those with a file */
	uint64_t mapped_size;  /* and their bytes */
	struct dma_file files[DMA_FILES_MAX];
	struct vdpa_iotlb *iotlb; /* as it was asked for last; NULL: none */
	bool follows;		  /* it has every change of the ranges since */
	uint64_t steps;		  /* ranges looked at in all searches */
	uint64_t builds;	  /* how often the iotlb was made of all ranges */
};

/*
 * Take a range in; fd is the caller's, duplicated (-1: not to be reached by us, which is no error
 * until a descriptor points there). 0; -EINVAL for one that is empty, wraps around, is not aligned,
 * ends behind its file or whose file is not in memory; -EACCES for a file that cannot be read and
 * written; -EEXIST for one that overlaps; -E2BIG for more than VDPA_MEM_SIZE_MAX; -ENOSPC for too
 * many; -ENOMEM. The table is as it was then.
 */
int dma_table_map(struct dma_table *t, uint64_t address, uint64_t size, uint64_t offset, int fd);
/* The same for memory that the device only reads. It joins memory of its kind only. */
int dma_table_map_readonly(struct dma_table *t, uint64_t address, uint64_t size, uint64_t offset,
			   int fd);

/*
 * Take [address, address + size) out: whole ranges, and parts of them. 0; -EINVAL when it is empty,
 * wraps around or cuts a range with a file between pages; -ENOENT when no range lies in it; -ENOSPC
 * or -ENOMEM when it cuts one in two and there is no room for both. The table is as it was then.
 */
int dma_table_unmap(struct dma_table *t, uint64_t address, uint64_t size);

/*
 * The memory of all ranges that can be reached, NULL for none, in *iotlb: the table's until the
 * next call. 0 or what vdpa_iotlb_create() says; *iotlb is as it was the last time then.
 */
int dma_table_iotlb(struct dma_table *t, struct vdpa_iotlb **iotlb);

/* Let go of the memory until it is asked for again: nobody uses it. */
void dma_table_drop_iotlb(struct dma_table *t);

/* Take everything out; the iotlb stays until it is asked for again. */
void dma_table_unmap_all(struct dma_table *t);
/* Both. */
void dma_table_clear(struct dma_table *t);

#endif /* MODEL_DMA_TABLE_H */
