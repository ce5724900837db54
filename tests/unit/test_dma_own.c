/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Memory of our own in DMA domains: where it is placed, and that it gives way. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "iommu_test.h"

static void
own_memory_takes_the_highest_hole(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	const uint64_t top = 1ULL << 39;
	struct vdpa_mem_region r = region(top - 4 * PAGE, PAGE, 5);
	struct vdpa_dma_buf a, b, c;
	unsigned int fds = count_fds();

	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &a), 0);
	assert_int_equal(a.iova, top - 2 * PAGE);
	/* One page is left above the guest's memory, too few for two. */
	assert_int_equal(vdpa_dma_alloc(dom, PAGE + 1, NULL, &b), 0);
	assert_int_equal(b.size, 2 * PAGE);
	assert_int_equal(b.iova, top - 6 * PAGE);
	assert_int_equal(vdpa_dma_alloc(dom, 100, NULL, &c), 0);
	assert_int_equal(c.size, PAGE);
	assert_int_equal(c.iova, top - 3 * PAGE);
	for (unsigned int i = 0; i < b.size; i++)
		assert_int_equal(((uint8_t *)b.va)[i], 0);
	memset(b.va, 0x5a, b.size);
	/* Nobody who gets the file takes pages away under us. */
	assert_true(ftruncate(b.fd, 0) < 0);

	r = region(b.iova, PAGE, 9);
	assert_int_equal(set(&u, &r, 1), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "the driver's own memory"));

	vdpa_dma_free(dom, &b);
	assert_null(b.va);
	vdpa_dma_free(dom, &b);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &b), 0);
	assert_int_equal(b.iova, top - 6 * PAGE);
	vdpa_dma_free(dom, &a);
	vdpa_dma_free(dom, &b);
	vdpa_dma_free(dom, &c);
	assert_int_equal(f.n, 1);
	assert_int_equal(count_fds(), fds);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
	assert_int_equal(f.n, 0);
}

static void
own_memory_skips_reserved_iovas(void **state)
{
	static const struct vdpa_dma_range two[] = {{0x1000, 0x3fff}, {0x6000, 0x6fff}};
	const struct vdpa_dma_limits limits = {.ranges = two, .n_ranges = 2, .page_size = PAGE};
	struct fake_iommu f = {.n = 0};
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf a, b, c;

	assert_int_equal(vdpa_dma_domain_create("fake/1", &ops, &f, &limits, &dom), 0);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &a), 0);
	assert_int_equal(a.iova, 0x2000);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, NULL, &b), -ENOSPC);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &b), 0);
	assert_int_equal(b.iova, 0x6000);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &c), 0);
	assert_int_equal(c.iova, 0x1000);
	vdpa_dma_free(dom, &a);
	vdpa_dma_free(dom, &b);
	vdpa_dma_free(dom, &c);
	vdpa_dma_domain_destroy(dom);
}

static void
own_memory_is_aligned_to_large_iommu_pages(void **state)
{
	const uint64_t large = 1 << 20;
	const struct vdpa_dma_limits limits = {.page_size = large};
	struct fake_iommu f = {.n = 0};
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf buf[4];

	assert_int_equal(vdpa_dma_domain_create("fake/2", &ops, &f, &limits, &dom), 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(vdpa_dma_alloc(dom, 3 * PAGE, NULL, &buf[i]), 0);
		assert_int_equal(buf[i].size, large);
		assert_int_equal((uintptr_t)buf[i].va % large, 0);
		assert_int_equal(buf[i].iova % large, 0);
		/* No address past it is 2^64. */
		assert_true(buf[i].iova + buf[i].size != 0);
		memset(buf[i].va, 1, buf[i].size);
	}
	for (unsigned int i = 0; i < 4; i++)
		vdpa_dma_free(dom, &buf[i]);
	vdpa_dma_domain_destroy(dom);
}

/* The own memory of a test, that moves or says why not. */
struct own {
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_buf buf;
	struct vdpa_dma_owner owner;
	unsigned int moves;
	bool stays;
};

static int
own_move(void *arg)
{
	struct own *own = arg;
	struct vdpa_dma_buf to;
	int rc;

	if (own->stays)
		return vdpa_error(EBUSY, "its queue is in use");
	own->moves++;
	rc = vdpa_dma_alloc(own->dom, own->buf.size, &own->owner, &to);
	if (rc < 0)
		return rc;
	vdpa_dma_free(own->dom, &own->buf);
	own->buf = to;
	return 0;
}

static void
own_memory_gives_way_at_every_boundary(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0"), other = join(dom, "v1");
	struct own own = {.dom = dom, .owner = {.user = u.user, .move = own_move, .arg = &own}};
	const uint64_t at = (1ULL << 39) - 2 * PAGE;
	/* Where a region begins and ends, in pages from where the memory begins; two are its own.
	 */
	static const struct {
		int first, last;
		bool hits;
	} cases[] = {{-2, -1, false}, {-1, -1, false}, {-1, 0, true}, {0, 0, true},
		     {0, 1, true},    {1, 1, true},    {-1, 1, true}, {-9, 1, true}};

	for (unsigned int i = 0; i < 8; i++) {
		struct vdpa_mem_region r =
			region(at + (uint64_t)cases[i].first * PAGE,
			       (uint64_t)(cases[i].last - cases[i].first + 1) * PAGE, 5);

		assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &own.owner, &own.buf), 0);
		assert_int_equal(own.buf.iova, at);
		own.moves = 0;
		/* In use, it stays, and the region is refused by name. */
		own.stays = true;
		assert_int_equal(set(&u, &r, 1), cases[i].hits ? -EBUSY : 0);
		if (cases[i].hits) {
			char expect[256];

			snprintf(expect, sizeof(expect),
				 "fake/0: memory of v0 at IOVA 0x%llx-0x%llx overlaps "
				 "0x7fffffe000-0x7fffffffff, which is the driver's own memory and "
				 "cannot be moved: its queue is in use",
				 (unsigned long long)r.iova,
				 (unsigned long long)(r.iova + r.size - 1));
			assert_string_equal(vdpa_error_message(), expect);
		}
		assert_int_equal(f.n, cases[i].hits ? 1 : 2);
		/* Another device's change does not reach into this one. */
		own.stays = false;
		assert_int_equal(set(&u, NULL, 0), 0);
		assert_int_equal(set(&other, &r, 1), cases[i].hits ? -EBUSY : 0);
		assert_int_equal(set(&other, NULL, 0), 0);
		assert_int_equal(own.moves, 0);
		assert_int_equal(set(&u, &r, 1), 0);
		assert_int_equal(own.moves, cases[i].hits);
		assert_true(own.buf.iova + own.buf.size <= r.iova ||
			    own.buf.iova > r.iova + r.size - 1);
		assert_int_equal(f.n, 2);
		vdpa_dma_free(dom, &own.buf);
		assert_int_equal(set(&u, NULL, 0), 0);
		assert_int_equal(f.n, 0);
	}
	leave(&u);
	leave(&other);
	vdpa_dma_domain_destroy(dom);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(own_memory_takes_the_highest_hole),
		cmocka_unit_test(own_memory_skips_reserved_iovas),
		cmocka_unit_test(own_memory_is_aligned_to_large_iommu_pages),
		cmocka_unit_test(own_memory_gives_way_at_every_boundary),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
