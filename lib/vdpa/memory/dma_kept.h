/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What of a DMA domain outlives the process: a transport whose mappings stay when the process that
 * made them has ended has them written down, and the next process begins with them (dma_kept.c).
 * Private to the library.
 */

#ifndef DMA_KEPT_H
#define DMA_KEPT_H

#include "vdpa_dma.h"

/* A mapping of the transport: where it is, and which memory. */
struct vdpa_dma_kept {
	uint64_t iova, size;  /* whole pages of the IOMMU */
	uint64_t dev, ino;    /* of the file */
	uint64_t offset;      /* in the file */
	uint64_t is_readonly; /* the device cannot write there */
};

/*
 * Call changed(arg) before each mapping is made and after each one that was taken away, with the
 * domain's lock held, and once now; NULL: no longer. A mapping that fails is there for a moment.
 */
void vdpa_dma_keep(struct vdpa_dma_domain *dom, void (*changed)(void *arg), void *arg);

/* From changed(): call fn for each mapping by ascending IOVA, while it returns 0. What it returned.
 */
int vdpa_dma_kept_each(struct vdpa_dma_domain *dom,
		       int (*fn)(const struct vdpa_dma_kept *m, void *arg), void *arg);

/* 0; -EPROTO with a message that begins with name, for mappings that no domain with such pages has:
 * not ascending, overlapping, wrapping around, or not of whole pages. */
int vdpa_dma_kept_check(const char *name, uint64_t page_size, const struct vdpa_dma_kept *m,
			size_t n);

/*
 * Before the domain has users: a former process has made these mappings. A table that claims memory
 * of one uses it as it is, after adopt() has made it this process'; what is claimed by nobody goes
 * with vdpa_dma_kept_drop(). maps_are_more: the domain takes max_mappings beside them.
 *
 * adopt: the memory is mapped at m->va now, in this process, and is m->fd's. 0; -ENOENT: there is
 * no such mapping, and it is made anew; -EPROTO: other memory may be there, and the table is
 * refused; another negative errno: it is there, and works as before. With m->fd -1 it says only
 * whether there is one, as far as that can be known.
 *
 * 0; -EPROTO as vdpa_dma_kept_check(), -ENOMEM.
 */
int vdpa_dma_kept_restore(struct vdpa_dma_domain *dom, const struct vdpa_dma_kept *m, size_t n,
			  bool maps_are_more,
			  int (*adopt)(void *arg, const struct vdpa_dma_mapping *m));

/* Whether the transport has one of these mappings at all, or there is none: one that has none of
 * them is not what the former process had. Before a table claims any. */
bool vdpa_dma_kept_is_domain(struct vdpa_dma_domain *dom);

/*
 * Memory of the driver's own that a former process has mapped at this IOVA, by its file: as
 * vdpa_dma_alloc() gave it. fd is taken over, on failure too. -ENOENT: it is not mapped there;
 * -EPROTO for another file or size, or what adopt() says so of; -ENOMEM.
 */
int vdpa_dma_kept_own(struct vdpa_dma_domain *dom, uint64_t iova, int fd,
		      const struct vdpa_dma_owner *owner, struct vdpa_dma_buf *buf);

/* What a former process had mapped, and what nobody claims, is unmapped. 0; what cannot be is
 * logged, and tried again before the next guest comes. */
int vdpa_dma_kept_drop(struct vdpa_dma_domain *dom);

#endif /* DMA_KEPT_H */
