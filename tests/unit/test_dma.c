/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DMA domains, over ops that note what is mapped and can be made to fail.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"

#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_dma.h"

#define PAGE 4096ULL

/* What a device would reach. */
struct fake_iommu {
	struct vdpa_dma_mapping at[16];
	unsigned int n;
	int map_err, unmap_err; /* errno, 0: works */
};

static int
fake_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct fake_iommu *f = arg;

	if (f->map_err != 0)
		return vdpa_error(f->map_err, "fake: not mapped");
	assert_true(m->fd >= 0);
	for (unsigned int i = 0; i < f->n; i++)
		assert_true(m->iova > f->at[i].iova + f->at[i].size - 1 ||
			    f->at[i].iova > m->iova + m->size - 1);
	f->at[f->n++] = *m;
	return 0;
}

static int
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

static struct vdpa_dma_domain *
domain(struct fake_iommu *f)
{
	const struct vdpa_dma_limits limits = {
		.ranges = ranges, .n_ranges = 2, .page_size = PAGE, .max_mappings = 4};
	struct vdpa_dma_domain *dom;

	memset(f, 0, sizeof(*f));
	assert_int_equal(vdpa_dma_domain_create("fake/0", &ops, f, &limits, &dom), 0);
	return dom;
}

/* A region of guest memory as the table would have it; nothing dereferences va. */
static struct vdpa_mem_region
region(uint64_t iova, uint64_t size, ino_t ino)
{
	return (struct vdpa_mem_region){.iova = iova,
					.size = size,
					.va = (uint8_t *)(uintptr_t)0x10000000,
					.fd = 7,
					.dev = 1,
					.ino = ino};
}

static void
a_region_is_mapped_once_for_all_users(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	/* Another table's view of the same memory. */
	struct vdpa_mem_region r = region(0x100000, 4 * PAGE, 5), same = r;
	struct vdpa_dma_stats stats;

	same.va += 0x1000000;
	same.fd = 8;
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_map(dom, &same), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.at[0].iova, r.iova);
	assert_int_equal(f.at[0].size, r.size);
	assert_ptr_equal(f.at[0].va, r.va);
	assert_int_equal(f.at[0].fd, 7);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.maps, 1);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(stats.bytes_mapped, 4 * PAGE);

	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(vdpa_dma_unmap(dom, &same), 0);
	assert_int_equal(f.n, 0);
	assert_int_equal(vdpa_dma_unmap(dom, &same), -ENOENT);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.unmaps, 1);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bytes_mapped, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
other_memory_at_the_same_iova_is_refused(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r = region(0x100000, 4 * PAGE, 5), other;

	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	/* Another file; another offset; a part; more; a bit of its end. */
	other = region(0x100000, 4 * PAGE, 6);
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x100000-0x103fff overlaps 0x100000-0x103fff, "
			    "which is mapped to other memory: functions of one IOMMU group serve "
			    "one guest");
	other = r;
	other.offset = PAGE;
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	other = region(0x101000, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	other = region(0xff000, 8 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	other = region(0x103000, 2 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	assert_int_equal(vdpa_dma_unmap(dom, &other), -ENOENT);
	/* The neighbours on both sides are free. */
	other = region(0x104000, PAGE, 6);
	assert_int_equal(vdpa_dma_map(dom, &other), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &other), 0);
	other = region(0xff000, PAGE, 6);
	assert_int_equal(vdpa_dma_map(dom, &other), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &other), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	vdpa_dma_domain_destroy(dom);
}

static void
reserved_iovas_are_named(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r;

	r = region(0xfec00000, 0x400000, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0xfec00000-0xfeffffff overlaps "
			    "0xfee00000-0xfeefffff, which the IOMMU reserves");
	r = region(0xfee00000, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "overlaps 0xfee00000-0xfeefffff"));
	r = region(0xfeeff000, 2 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "overlaps 0xfee00000-0xfeefffff"));
	r = region((1ULL << 39) - PAGE, 2 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x7ffffff000-0x8000000fff ends above "
			    "0x7fffffffff, the last that the IOMMU translates");
	r = region(1ULL << 40, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "is above 0x7fffffffff"));
	/* Up to the edge on both sides. */
	r = region(0xfedff000, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	r = region(0xfef00000, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
odd_regions_are_refused(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r;

	r = region(0x100800, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "pages of 0x1000"));
	r = region(0x100000, PAGE + 8, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	r = region(0x100000, PAGE, 5);
	r.offset = 0x200;
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	r = region(0x100000, 0, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	r = region(-PAGE, 2 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "wraps around"));
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

/* libblkio's memory: the device gets the page in which it ends. */
static void
a_region_that_ends_within_a_page_is_mapped_to_its_end(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r = region(0x100000, 30240, 5), other;
	struct vdpa_dma_stats stats;

	r.map = r.va;
	r.map_len = 8 * PAGE;
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(f.at[0].size, 8 * PAGE);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.bytes_mapped, 8 * PAGE);
	/* The same memory, by whatever size of its last page it is called. */
	other = region(0x100000, 8 * PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &other), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(vdpa_dma_unmap(dom, &other), 0);
	/* Another region in that page is none that the IOMMU can tell apart. */
	other = region(0x100000 + 30240, 2528, 5);
	other.offset = 30240;
	assert_int_equal(vdpa_dma_map(dom, &other), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x107620-0x107fff, offset 0x7620 in its file, "
			    "does not begin with one of the IOMMU's pages of 0x1000");
	other = region(0x107000, PAGE, 6);
	assert_int_equal(vdpa_dma_map(dom, &other), -EBUSY);
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	assert_int_equal(f.n, 0);
	/* A file of smaller pages than the IOMMU's has no more to give. */
	r.size = PAGE / 2;
	r.map_len = PAGE / 2;
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x100000-0x1007ff ends within one of the "
			    "IOMMU's pages of 0x1000, which its file does not fill");
	/* Up to the last byte that the IOMMU translates, and no further. */
	r = region((1ULL << 39) - 2 * PAGE, PAGE + 8, 5);
	r.map = r.va;
	r.map_len = 2 * PAGE;
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	r = region(-PAGE + 8, 16, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -EINVAL);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

/* As many as VFIO's type1 maps by default. */
#define MANY 65535

static int
count_map(void *arg, const struct vdpa_dma_mapping *m)
{
	++*(unsigned int *)arg;
	return 0;
}

static int
count_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	--*(unsigned int *)arg;
	return 0;
}

static void
as_many_regions_as_the_iommu_takes_are_mapped(void **state)
{
	static const struct vdpa_dma_ops counting = {.map = count_map, .unmap = count_unmap};
	const struct vdpa_dma_limits limits = {.page_size = PAGE, .max_mappings = MANY};
	struct vdpa_dma_domain *dom;
	struct vdpa_mem_region r;
	unsigned int mapped = 0;

	assert_int_equal(vdpa_dma_domain_create("fake/4", &counting, &mapped, &limits, &dom), 0);
	for (unsigned int i = 0; i < MANY; i++) {
		r = region((i + 1) * 2 * PAGE, PAGE, 5);
		assert_int_equal(vdpa_dma_map(dom, &r), 0);
	}
	assert_int_equal(mapped, MANY);
	r = region(0, PAGE, 5);
	assert_int_equal(vdpa_dma_map(dom, &r), -ENOSPC);
	for (unsigned int i = MANY; i-- > 0;) {
		r = region((i + 1) * 2 * PAGE, PAGE, 5);
		r.iova += PAGE;
		assert_int_equal(vdpa_dma_unmap(dom, &r), -ENOENT);
		r.iova -= PAGE;
		assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	}
	assert_int_equal(mapped, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
what_the_transport_says_is_passed_on(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r = region(0x100000, PAGE, 5);
	struct vdpa_dma_buf buf = {0};
	unsigned int fds = count_fds();

	f.map_err = ENOMEM;
	assert_int_equal(vdpa_dma_map(dom, &r), -ENOMEM);
	assert_string_equal(vdpa_error_message(), "fake: not mapped");
	assert_int_equal(vdpa_dma_alloc(dom, 1, &buf), -ENOMEM);
	assert_null(buf.va);
	assert_int_equal(count_fds(), fds);
	f.map_err = 0;
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	/* Not unmapped: still mapped, and unmapped at the next try. */
	f.unmap_err = EIO;
	assert_int_equal(vdpa_dma_unmap(dom, &r), -EIO);
	assert_int_equal(f.n, 1);
	f.unmap_err = 0;
	assert_int_equal(vdpa_dma_unmap(dom, &r), 0);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
the_number_of_mappings_is_limited(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r[5];

	for (unsigned int i = 0; i < 5; i++) {
		r[i] = region((10 - i) * 0x100000, PAGE, 5);
		assert_int_equal(vdpa_dma_map(dom, &r[i]), i < 4 ? 0 : -ENOSPC);
	}
	assert_int_equal(vdpa_dma_unmap(dom, &r[2]), 0);
	assert_int_equal(vdpa_dma_map(dom, &r[4]), 0);
	/* One more user of a mapping is no more mapping. */
	assert_int_equal(vdpa_dma_map(dom, &r[4]), 0);
	vdpa_dma_domain_destroy(dom);
	assert_int_equal(f.n, 0);
}

static void
own_memory_takes_the_highest_hole(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	const uint64_t top = 1ULL << 39;
	struct vdpa_mem_region r = region(top - 4 * PAGE, PAGE, 5);
	struct vdpa_dma_buf a, b, c;
	unsigned int fds = count_fds();

	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &a), 0);
	assert_int_equal(a.iova, top - 2 * PAGE);
	/* One page is left above the guest's memory, too few for two. */
	assert_int_equal(vdpa_dma_alloc(dom, PAGE + 1, &b), 0);
	assert_int_equal(b.size, 2 * PAGE);
	assert_int_equal(b.iova, top - 6 * PAGE);
	assert_int_equal(vdpa_dma_alloc(dom, 100, &c), 0);
	assert_int_equal(c.size, PAGE);
	assert_int_equal(c.iova, top - 3 * PAGE);
	for (unsigned int i = 0; i < b.size; i++)
		assert_int_equal(((uint8_t *)b.va)[i], 0);
	memset(b.va, 0x5a, b.size);
	/* Nobody who gets the file takes pages away under us. */
	assert_true(ftruncate(b.fd, 0) < 0);

	r = region(b.iova, PAGE, 9);
	assert_int_equal(vdpa_dma_map(dom, &r), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "the driver's own memory"));
	assert_int_equal(vdpa_dma_unmap(dom, &r), -ENOENT);

	vdpa_dma_free(dom, &b);
	assert_null(b.va);
	vdpa_dma_free(dom, &b);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &b), 0);
	assert_int_equal(b.iova, top - 6 * PAGE);
	vdpa_dma_free(dom, &a);
	vdpa_dma_free(dom, &b);
	vdpa_dma_free(dom, &c);
	assert_int_equal(f.n, 1);
	assert_int_equal(count_fds(), fds);
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
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &a), 0);
	assert_int_equal(a.iova, 0x2000);
	assert_int_equal(vdpa_dma_alloc(dom, 2 * PAGE, &b), -ENOSPC);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, &b), 0);
	assert_int_equal(b.iova, 0x6000);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, &c), 0);
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
		assert_int_equal(vdpa_dma_alloc(dom, 3 * PAGE, &buf[i]), 0);
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

static void
limits_that_make_no_sense_are_refused(void **state)
{
	static const struct vdpa_dma_range reversed = {2, 1};
	static const struct vdpa_dma_range overlap[] = {{0, 0xfff}, {0xfff, 0x1fff}};
	static const struct vdpa_dma_range adjacent[] = {{0, 0xfff}, {0x1000, 0x1fff}};
	struct vdpa_dma_limits limits = {.page_size = 0};
	struct fake_iommu f = {.n = 0};
	struct vdpa_mem_region r = region(0, 2 * PAGE, 5);
	struct vdpa_dma_domain *dom;

	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), -EINVAL);
	limits.page_size = 3 * PAGE;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), -EINVAL);
	limits.page_size = PAGE;
	limits.n_ranges = 1;
	limits.ranges = &reversed;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), -EINVAL);
	limits.n_ranges = 2;
	limits.ranges = overlap;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), -EINVAL);
	/* What no hole separates is one range. */
	limits.ranges = adjacent;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), 0);
	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	vdpa_dma_domain_destroy(dom);
	vdpa_dma_domain_destroy(NULL);
}

static void
what_cannot_be_unmapped_does_not_stop_the_end(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r = region(0x100000, PAGE, 5);
	struct vdpa_dma_buf a, b;
	unsigned int fds = count_fds();

	assert_int_equal(vdpa_dma_map(dom, &r), 0);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, &a), 0);
	f.unmap_err = EIO;
	vdpa_dma_free(dom, &a);
	assert_null(a.va);
	/* Its IOVA is not given to somebody else. */
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, &b), 0);
	assert_int_equal(b.iova, (1ULL << 39) - 2 * PAGE);
	vdpa_dma_free(dom, &b);
	assert_int_equal(count_fds(), fds);
	vdpa_dma_domain_destroy(dom);
}

/* What each thread of the test does: the same regions as the others, in its own order. */
static void *
map_and_unmap(void *arg)
{
	struct vdpa_dma_domain *dom = arg;
	struct vdpa_mem_region r[3];
	unsigned long failed = 0;

	for (unsigned int i = 0; i < 3; i++)
		r[i] = region((i + 1) * 0x100000, 2 * PAGE, 5);
	for (unsigned int round = 0; round < 300; round++) {
		struct vdpa_dma_buf buf;

		for (unsigned int i = 0; i < 3; i++)
			failed += vdpa_dma_map(dom, &r[(i + round) % 3]) != 0;
		/* One mapping is left to share: it may be taken. */
		if (vdpa_dma_alloc(dom, PAGE, &buf) == 0)
			vdpa_dma_free(dom, &buf);
		for (unsigned int i = 0; i < 3; i++)
			failed += vdpa_dma_unmap(dom, &r[i]) != 0;
	}
	return (void *)failed;
}

static void
users_in_several_threads_agree(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_dma_stats stats;
	pthread_t threads[4];
	void *failed;

	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, map_and_unmap, dom), 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(f.n, 0);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bytes_mapped, 0);
	assert_true(stats.maps == stats.unmaps);
	vdpa_dma_domain_destroy(dom);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_region_is_mapped_once_for_all_users),
		cmocka_unit_test(other_memory_at_the_same_iova_is_refused),
		cmocka_unit_test(reserved_iovas_are_named),
		cmocka_unit_test(odd_regions_are_refused),
		cmocka_unit_test(a_region_that_ends_within_a_page_is_mapped_to_its_end),
		cmocka_unit_test(as_many_regions_as_the_iommu_takes_are_mapped),
		cmocka_unit_test(what_the_transport_says_is_passed_on),
		cmocka_unit_test(the_number_of_mappings_is_limited),
		cmocka_unit_test(own_memory_takes_the_highest_hole),
		cmocka_unit_test(own_memory_skips_reserved_iovas),
		cmocka_unit_test(own_memory_is_aligned_to_large_iommu_pages),
		cmocka_unit_test(limits_that_make_no_sense_are_refused),
		cmocka_unit_test(what_cannot_be_unmapped_does_not_stop_the_end),
		cmocka_unit_test(users_in_several_threads_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
