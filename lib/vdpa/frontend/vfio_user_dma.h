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

#ifndef VFIO_USER_DMA_H
#define VFIO_USER_DMA_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "vdpa_consumer.h"

/* Ranges of one client that do not join, those that cannot be mapped included. */
#define VFU_DMA_RANGES_MAX 65536
/* Different files that they lie in. */
#define VFU_DMA_FILES_MAX  64
/* Of ranges with a file: address, size and offset. */
#define VFU_DMA_ALIGN	   4096

struct vfu_dma_file {
	int fd;
	dev_t dev;
	ino_t ino;
	unsigned int ranges; /* in it; 0: the entry is free */
	bool kernel;	     /* a VDUSE domain's */
};

/* Zero-initialise it. */
struct vfu_dma {
	struct vdpa_consumer *consumer; /* whose memory it is; NULL: nobody's yet */
	void *ranges;			/* of tsearch(3): struct vfu_dma_range, disjoint */
	unsigned int n;
	unsigned int n_mapped; /* of them, those with a file */
	uint64_t mapped_size;  /* and their bytes */
	struct vfu_dma_file files[VFU_DMA_FILES_MAX];
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
int vdpa_vfus_dma_map(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset, int fd);
/* The same for memory that the device only reads. It joins memory of its kind only. */
int vdpa_vfus_dma_map_readonly(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset,
			       int fd);

/* Whether [address, address + size) is this memory already. A client that goes on with another
 * process' connection asks so, by mapping it once more. */
bool vdpa_vfus_dma_has(struct vfu_dma *t, uint64_t address, uint64_t size, uint64_t offset, int fd,
		       bool readonly);

/*
 * Take [address, address + size) out: whole ranges, and parts of them. 0; -EINVAL when it is empty,
 * wraps around or cuts a range with a file between pages; -ENOENT when no range lies in it; -ENOSPC
 * or -ENOMEM when it cuts one in two and there is no room for both. The table is as it was then.
 */
int vdpa_vfus_dma_unmap(struct vfu_dma *t, uint64_t address, uint64_t size);

/*
 * The memory of all ranges that can be reached, NULL for none, in *iotlb: the table's until the
 * next call. 0 or what vdpa_iotlb_create() says; *iotlb is as it was the last time then.
 */
int vdpa_vfus_dma_iotlb(struct vfu_dma *t, struct vdpa_iotlb **iotlb);

/* Let go of the memory until it is asked for again: nobody uses it. */
void vdpa_vfus_dma_drop_iotlb(struct vfu_dma *t);

/* A range as it is seen from outside. */
struct vfu_dma_view {
	uint64_t first, last, offset;
	int file; /* in files; -1: it cannot be reached */
	bool readonly;
};

/* Each range, by ascending address. */
void vdpa_vfus_dma_for_each(const struct vfu_dma *t,
			    void (*fn)(const struct vfu_dma_view *v, void *arg), void *arg);

/* Take everything out; the iotlb stays until it is asked for again. */
void vdpa_vfus_dma_unmap_all(struct vfu_dma *t);
/* Both. */
void vdpa_vfus_dma_clear(struct vfu_dma *t);

#endif /* VFIO_USER_DMA_H */
