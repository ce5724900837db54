/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* An IOMMU that notes what is mapped and can be made to fail, for tests of DMA domains. Include it
 * after cmocka.h. */

#ifndef IOMMU_TEST_H
#define IOMMU_TEST_H

#include <errno.h>
#include <string.h>

#include "dma_test.h"
#include "test_util.h"

#include "vdpa.h"
#include "vdpa_args.h"

/* What a device would reach. */
struct fake_iommu {
	struct vdpa_dma_mapping at[64];
	unsigned int n;
	int map_err, unmap_err; /* errno, 0: works */
	unsigned int maps_ok;	/* so many maps work before map_err */
};

static inline int
fake_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_iommu *f = arg;

	if (f->map_err != 0 && f->maps_ok-- == 0) {
		f->maps_ok = 0;
		return vdpa_error(f->map_err, "fake: not mapped");
	}
	assert_true(m->fd >= 0);
	for (unsigned int i = 0; i < f->n; i++)
		assert_true(m->iova > f->at[i].iova + f->at[i].size - 1 ||
			    f->at[i].iova > m->iova + m->size - 1);
	f->at[f->n++] = *m;
	return 0;
}

static inline int
fake_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_iommu *f = arg;

	if (f->unmap_err != 0)
		return vdpa_error(f->unmap_err, "fake: not unmapped");
	for (unsigned int i = 0; i < f->n; i++) {
		if (f->at[i].iova == m->iova && f->at[i].size == m->size) {
			f->at[i] = f->at[--f->n];
			return 0;
		}
	}
	fail_msg("0x%llx was not mapped", (unsigned long long)m->iova);
	return -ENOENT;
}

static const struct vdpa_dma_ops ops = {.map = fake_map, .unmap = fake_unmap};

/* intel-iommu's with 39 bits. */
static const struct vdpa_dma_range ranges[] = {{0, 0xfedfffff}, {0xfef00000, (1ULL << 39) - 1}};

static inline struct vdpa_dma_domain *
domain(struct fake_iommu *f)
{
	const struct vdpa_dma_limits limits = {
		.ranges = ranges, .n_ranges = 2, .page_size = PAGE, .max_mappings = 4};
	struct vdpa_dma_domain *dom;

	memset(f, 0, sizeof(*f));
	assert_int_equal(vdpa_dma_domain_create("fake/0", &ops, f, &limits, &dom), 0);
	return dom;
}

/* Regions [first, last] of one file by pages, IOVA being the offset in it. */
static inline struct vdpa_mem_region
pages(uint64_t first, uint64_t last, ino_t ino)
{
	struct vdpa_mem_region r = region(first * PAGE, (last - first + 1) * PAGE, ino);

	r.offset = r.iova;
	r.va += r.iova;
	return r;
}

#endif /* IOMMU_TEST_H */
