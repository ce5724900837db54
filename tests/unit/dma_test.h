/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Tables of memory that is not there, for tests of DMA domains. Include it after cmocka.h. */

#ifndef DMA_TEST_H
#define DMA_TEST_H

#include <stdlib.h>
#include <string.h>

#include "vdpa_dma.h"

#define PAGE 4096ULL

/* A region of guest memory as the table would have it; nothing dereferences va. */
static inline struct vdpa_mem_region
region(uint64_t iova, uint64_t size, ino_t ino)
{
	return (struct vdpa_mem_region){.iova = iova,
					.size = size,
					.va = (uint8_t *)(uintptr_t)0x10000000,
					.fd = 7,
					.dev = 1,
					.ino = ino};
}

/* A table of copies of regions, which are in order; to be freed by table_free() only. */
static inline struct vdpa_iotlb *
table_of(const struct vdpa_mem_region *regions, unsigned int n)
{
	size_t head = sizeof(struct vdpa_iotlb) + n * sizeof(struct vdpa_mem_region *);
	struct vdpa_iotlb *tlb;
	struct vdpa_mem_region *copies;

	head = (head + 15) & ~(size_t)15;
	tlb = calloc(1, head + n * sizeof(*copies));
	assert_non_null(tlb);
	copies = (void *)((uint8_t *)tlb + head);
	tlb->refcnt = 1;
	tlb->n = n;
	for (unsigned int i = 0; i < n; i++) {
		copies[i] = regions[i];
		tlb->regions[i] = &copies[i];
	}
	return tlb;
}

/* Nobody has kept a reference. */
static inline void
table_free(struct vdpa_iotlb *tlb)
{
	if (tlb == NULL)
		return;
	assert_int_equal(tlb->refcnt, 1);
	free(tlb);
}

/* What a user has in a domain, and the table of it. */
struct user {
	struct vdpa_dma_user *user;
	struct vdpa_iotlb *tlb;
};

static inline struct user
join(struct vdpa_dma_domain *dom, const char *name)
{
	struct user u = {.tlb = NULL};

	assert_int_equal(vdpa_dma_join(dom, name, &u.user), 0);
	return u;
}

/* Set so many regions; the table before is freed, if it is not in force any more. */
static inline int
set(struct user *u, const struct vdpa_mem_region *regions, unsigned int n)
{
	struct vdpa_iotlb *tlb = n > 0 ? table_of(regions, n) : NULL;
	int rc = vdpa_dma_set(u->user, tlb);

	if (rc == 0 || n == 0) {
		table_free(u->tlb);
		u->tlb = tlb;
	} else {
		table_free(tlb);
	}
	return rc;
}

static inline void
leave(struct user *u)
{
	vdpa_dma_leave(u->user);
	table_free(u->tlb);
	*u = (struct user){.user = NULL};
}

#endif /* DMA_TEST_H */
