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
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

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

static int
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

static void
a_region_is_mapped_once_for_all_users(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	/* Another table's view of the same memory. */
	struct vdpa_mem_region r = region(0x100000, 4 * PAGE, 5), same = r;
	struct user a = join(dom, "a"), b = join(dom, "b");
	struct vdpa_dma_stats stats;

	same.va += 0x1000000;
	same.fd = 8;
	assert_int_equal(set(&a, &r, 1), 0);
	assert_int_equal(set(&b, &same, 1), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.at[0].iova, r.iova);
	assert_int_equal(f.at[0].size, r.size);
	assert_ptr_equal(f.at[0].va, r.va);
	assert_int_equal(f.at[0].fd, 7);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.maps, 1);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(stats.bytes_mapped, 4 * PAGE);

	assert_int_equal(set(&a, NULL, 0), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(set(&b, NULL, 0), 0);
	assert_int_equal(f.n, 0);
	assert_int_equal(set(&b, NULL, 0), 0);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.unmaps, 1);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bytes_mapped, 0);
	leave(&a);
	leave(&b);
	vdpa_dma_domain_destroy(dom);
}

static void
tables_that_contradict_each_other_are_refused(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct vdpa_mem_region r = region(0x100000, 4 * PAGE, 5), two[2] = {r, r};
	struct user a = join(dom, "v0"), b = join(dom, "v1");

	assert_int_equal(set(&a, &r, 1), 0);
	/* Another guest, whose memory lies elsewhere. */
	two[0] = region(0x200000, PAGE, 6);
	assert_int_equal(set(&b, two, 1), -EBUSY);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory of v1 at IOVA 0x200000-0x200fff is none of the guest's "
			    "that v0 has: devices of one IOMMU group serve one guest");
	/* The same guest by its first region. Then another file; another offset. */
	two[0] = region(0x100000, PAGE, 5);
	two[1] = region(0x103000, 2 * PAGE, 6);
	assert_int_equal(set(&b, two, 2), -EBUSY);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory of v1 at IOVA 0x103000-0x104fff overlaps "
			    "0x100000-0x103fff of v0, which is other memory: devices of one IOMMU "
			    "group serve one guest");
	two[1].ino = 5;
	assert_int_equal(set(&b, two, 2), -EBUSY);
	assert_int_equal(f.n, 1);
	/* A part of the same, and more. */
	two[1].offset = 3 * PAGE;
	assert_int_equal(set(&b, two, 2), 0);
	assert_int_equal(f.n, 2);
	/* What the first has is the later one's too. */
	r = region(0x100000, 8 * PAGE, 5);
	assert_int_equal(set(&a, &r, 1), 0);
	assert_int_equal(f.n, 3);
	two[0] = region(0x108000, PAGE, 6);
	assert_int_equal(set(&b, two, 1), 0);
	leave(&b);
	assert_int_equal(f.n, 3);
	leave(&a);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
reserved_iovas_are_named(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r;

	r = region(0xfec00000, 0x400000, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0xfec00000-0xfeffffff overlaps "
			    "0xfee00000-0xfeefffff, which the IOMMU reserves");
	r = region(0xfee00000, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "overlaps 0xfee00000-0xfeefffff"));
	r = region(0xfeeff000, 2 * PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "overlaps 0xfee00000-0xfeefffff"));
	r = region((1ULL << 39) - PAGE, 2 * PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x7ffffff000-0x8000000fff ends above "
			    "0x7fffffffff, the last that the IOMMU translates");
	r = region(1ULL << 40, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "is above 0x7fffffffff"));
	/* Up to the edge on both sides. */
	r = region(0xfedff000, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(set(&u, NULL, 0), 0);
	r = region(0xfef00000, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(set(&u, NULL, 0), 0);
	assert_int_equal(f.n, 0);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
}

static void
odd_regions_are_refused(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r;

	r = region(0x100800, PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "pages of 0x1000"));
	r = region(0x100000, PAGE + 8, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	r = region(0x100000, PAGE, 5);
	r.offset = 0x200;
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	r = region(0x100000, 0, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	r = region(-PAGE, 2 * PAGE, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "wraps around"));
	assert_int_equal(f.n, 0);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
}

/* libblkio's memory: the device gets the page in which it ends. */
static void
a_region_that_ends_within_a_page_is_mapped_to_its_end(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r = region(0x100000, 30240, 5), other;
	struct vdpa_dma_stats stats;

	r.map = r.va;
	r.map_len = 8 * PAGE;
	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(f.at[0].size, 8 * PAGE);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.bytes_mapped, 8 * PAGE);
	/* The same memory, by whatever size of its last page it is called. */
	other = region(0x100000, 8 * PAGE, 5);
	assert_int_equal(set(&u, &other, 1), 0);
	assert_int_equal(f.n, 1);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.maps, 1);
	/* Another region in that page is none that the IOMMU can tell apart. */
	other = region(0x100000 + 30240, 2528, 5);
	other.offset = 30240;
	assert_int_equal(set(&u, &other, 1), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x107620-0x107fff, offset 0x7620 in its file, "
			    "does not begin with one of the IOMMU's pages of 0x1000");
	assert_int_equal(set(&u, NULL, 0), 0);
	assert_int_equal(f.n, 0);
	/* A file of smaller pages than the IOMMU's has no more to give. */
	r.size = PAGE / 2;
	r.map_len = PAGE / 2;
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "fake/0: memory at IOVA 0x100000-0x1007ff ends within one of the "
			    "IOMMU's pages of 0x1000, which its file does not fill");
	/* Up to the last byte that the IOMMU translates, and no further. */
	r = region((1ULL << 39) - 2 * PAGE, PAGE + 8, 5);
	r.map = r.va;
	r.map_len = 2 * PAGE;
	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(set(&u, NULL, 0), 0);
	r = region(-PAGE + 8, 16, 5);
	assert_int_equal(set(&u, &r, 1), -EINVAL);
	assert_int_equal(f.n, 0);
	leave(&u);
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

/* One region of the file more each time, and one less, as front ends with memory slots have it:
 * what is searched and moved does not grow with the square of what is mapped. */
static void
as_many_regions_as_the_iommu_takes_are_mapped(void **state)
{
	static const struct vdpa_dma_ops counting = {.map = count_map, .unmap = count_unmap};
	const struct vdpa_dma_limits limits = {.page_size = PAGE, .max_mappings = MANY};
	struct vdpa_mem_region *r = calloc(MANY + 1, sizeof(*r));
	struct vdpa_dma_domain *dom;
	unsigned int mapped = 0;
	struct user u;

	assert_int_equal(vdpa_dma_domain_create("fake/4", &counting, &mapped, &limits, &dom), 0);
	u = join(dom, "v0");
	for (unsigned int i = 0; i < MANY + 1; i++)
		r[i] = region((i + 1) * 2 * PAGE, PAGE, 5);
	assert_int_equal(set(&u, r, MANY), 0);
	assert_int_equal(mapped, MANY);
	assert_int_equal(set(&u, r, MANY + 1), -ENOSPC);
	assert_int_equal(mapped, MANY);
	/* All of them in one go where one has to make room. */
	assert_int_equal(set(&u, r + 1, MANY), 0);
	assert_int_equal(mapped, MANY);
	assert_int_equal(set(&u, r, MANY / 2), 0);
	assert_int_equal(mapped, MANY / 2);
	leave(&u);
	assert_int_equal(mapped, 0);
	vdpa_dma_domain_destroy(dom);
	free(r);
}

static void
what_the_transport_says_is_passed_on(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r = region(0x100000, PAGE, 5);
	struct vdpa_dma_buf buf = {0};
	unsigned int fds = count_fds();

	f.map_err = ENOMEM;
	assert_int_equal(set(&u, &r, 1), -ENOMEM);
	assert_string_equal(vdpa_error_message(), "fake: not mapped");
	assert_int_equal(vdpa_dma_alloc(dom, 1, NULL, &buf), -ENOMEM);
	assert_null(buf.va);
	assert_int_equal(count_fds(), fds);
	f.map_err = 0;
	assert_int_equal(set(&u, &r, 1), 0);
	/* Not unmapped: still mapped, and unmapped at the next try. */
	f.unmap_err = EIO;
	assert_int_equal(set(&u, NULL, 0), -EIO);
	assert_int_equal(f.n, 1);
	f.unmap_err = 0;
	assert_int_equal(set(&u, NULL, 0), 0);
	assert_int_equal(f.n, 0);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
}

static void
the_number_of_mappings_is_limited(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r[5];
	struct vdpa_dma_stats stats;

	for (unsigned int i = 0; i < 5; i++)
		r[i] = region((i + 1) * 0x100000, PAGE, 5);
	assert_int_equal(set(&u, r, 5), -ENOSPC);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.maps, 0);
	assert_int_equal(set(&u, r, 4), 0);
	/* One more makes room for one less, and gives it back if the new one does not come. */
	f.map_err = EIO;
	f.maps_ok = 0;
	assert_int_equal(set(&u, r + 1, 4), -EIO);
	assert_int_equal(f.n, 3);
	assert_true(vdpa_dma_is_broken(u.user));
	f.map_err = 0;
	assert_int_equal(vdpa_dma_set_running(u.user, true), 0);
	assert_false(vdpa_dma_is_broken(u.user));
	assert_int_equal(f.n, 4);
	assert_int_equal(set(&u, r + 1, 4), 0);
	assert_int_equal(f.n, 4);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
	assert_int_equal(f.n, 0);
}

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
	struct user u;

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
	limits.ranges = NULL;
	limits.n_ranges = 0;
	limits.chunk_size = 3 * PAGE;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), -EINVAL);
	limits.chunk_size = 0;
	limits.n_ranges = 2;
	/* What no hole separates is one range. */
	limits.ranges = adjacent;
	assert_int_equal(vdpa_dma_domain_create("fake/3", &ops, &f, &limits, &dom), 0);
	u = join(dom, "v0");
	assert_int_equal(set(&u, &r, 1), 0);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
	vdpa_dma_domain_destroy(NULL);
}

static void
what_cannot_be_unmapped_does_not_stop_the_end(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = domain(&f);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r = region(0x100000, PAGE, 5);
	struct vdpa_dma_buf a, b;
	unsigned int fds = count_fds();

	assert_int_equal(set(&u, &r, 1), 0);
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &a), 0);
	f.unmap_err = EIO;
	vdpa_dma_free(dom, &a);
	assert_null(a.va);
	/* Its IOVA is not given to somebody else. */
	assert_int_equal(vdpa_dma_alloc(dom, PAGE, NULL, &b), 0);
	assert_int_equal(b.iova, (1ULL << 39) - 2 * PAGE);
	vdpa_dma_free(dom, &b);
	assert_int_equal(count_fds(), fds);
	leave(&u);
	vdpa_dma_domain_destroy(dom);
}

/* Regions [first, last] of one file by pages, IOVA being the offset in it. */
static struct vdpa_mem_region
pages(uint64_t first, uint64_t last, ino_t ino)
{
	struct vdpa_mem_region r = region(first * PAGE, (last - first + 1) * PAGE, ino);

	r.offset = r.iova;
	r.va += r.iova;
	return r;
}

static struct vdpa_dma_domain *
chunked(struct fake_iommu *f, uint64_t chunk_pages)
{
	const struct vdpa_dma_limits limits = {.page_size = PAGE, .chunk_size = chunk_pages * PAGE};
	struct vdpa_dma_domain *dom;

	memset(f, 0, sizeof(*f));
	assert_int_equal(vdpa_dma_domain_create("fake/5", &ops, f, &limits, &dom), 0);
	return dom;
}

/* Maps and unmaps so far. */
static void
assert_calls(struct vdpa_dma_domain *dom, uint64_t maps, uint64_t unmaps)
{
	struct vdpa_dma_stats stats;

	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.maps, maps);
	assert_int_equal(stats.unmaps, unmaps);
}

static void
a_region_split_merged_grown_or_shrunk_keeps_what_stays(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 64);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r[3];
	struct vdpa_dma_stats stats;

	assert_int_equal(vdpa_dma_set_running(u.user, true), 0);
	r[0] = pages(0, 31, 5);
	assert_int_equal(set(&u, r, 1), 0);
	assert_calls(dom, 1, 0);
	/* Split. */
	r[0] = pages(0, 9, 5);
	r[1] = pages(10, 31, 5);
	assert_int_equal(set(&u, r, 2), 0);
	assert_calls(dom, 1, 0);
	/* A hole in the middle, as firmware makes it; it is retained, and back without a call. */
	r[1] = pages(12, 31, 5);
	assert_int_equal(set(&u, r, 2), 0);
	assert_calls(dom, 1, 0);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.bytes_mapped, 32 * PAGE);
	assert_int_equal(stats.bytes_retained, 2 * PAGE);
	r[1] = pages(10, 31, 5);
	assert_int_equal(set(&u, r, 2), 0);
	assert_calls(dom, 1, 0);
	/* Merged, and grown: only what is new. */
	r[0] = pages(0, 39, 5);
	assert_int_equal(set(&u, r, 1), 0);
	assert_calls(dom, 2, 0);
	assert_int_equal(f.at[1].iova, 32 * PAGE);
	assert_int_equal(f.at[1].size, 8 * PAGE);
	assert_int_equal(f.at[1].offset, 32 * PAGE);
	/* Shrunk: of what goes as a whole nothing is left. */
	r[0] = pages(0, 15, 5);
	assert_int_equal(set(&u, r, 1), 0);
	assert_calls(dom, 2, 1);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.bytes_retained, 16 * PAGE);
	assert_int_equal(stats.replaced, 0);
	/* What is retained goes when the device does not run. */
	assert_int_equal(vdpa_dma_set_running(u.user, false), 0);
	assert_calls(dom, 3, 2);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.bytes_mapped, 16 * PAGE);
	assert_int_equal(stats.bytes_retained, 0);
	leave(&u);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
other_memory_in_a_mapping_replaces_it_and_no_more(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 16);
	struct user u = join(dom, "v0");
	struct vdpa_mem_region r[3];
	struct vdpa_dma_stats stats;

	assert_int_equal(vdpa_dma_set_running(u.user, true), 0);
	r[0] = pages(0, 63, 5);
	assert_int_equal(set(&u, r, 1), 0);
	assert_calls(dom, 4, 0);
	r[0] = pages(0, 19, 5);
	r[1] = pages(20, 21, 6);
	r[2] = pages(22, 63, 5);
	assert_int_equal(set(&u, r, 3), 0);
	/* Of the chunk: one mapping less, two for its rest, one for the new. */
	assert_calls(dom, 7, 1);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.replaced, 1);
	assert_int_equal(stats.bytes_mapped, 64 * PAGE);
	assert_int_equal(stats.bytes_retained, 0);
	/* What goes as a whole is not replaced. */
	r[1] = pages(20, 21, 7);
	assert_int_equal(set(&u, r, 3), 0);
	assert_calls(dom, 8, 2);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.replaced, 1);
	leave(&u);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static void
a_mapping_that_another_device_uses_is_not_replaced(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 64);
	struct user a = join(dom, "v0"), b = join(dom, "v1");
	struct vdpa_mem_region r[2] = {pages(0, 31, 5)};

	assert_int_equal(set(&a, r, 1), 0);
	r[0] = pages(0, 9, 5);
	assert_int_equal(set(&b, r, 1), 0);
	assert_int_equal(vdpa_dma_set_running(b.user, true), 0);
	r[1] = pages(16, 31, 6);
	assert_int_equal(set(&a, r, 2), -EBUSY);
	assert_string_equal(vdpa_error_message(),
			    "fake/5: memory of v0 at IOVA 0x10000-0x1ffff comes into the mapping "
			    "0x0-0x1ffff, of which v1 uses another part");
	assert_calls(dom, 1, 0);
	assert_int_equal(vdpa_dma_set_running(b.user, false), 0);
	assert_int_equal(set(&a, r, 2), 0);
	assert_calls(dom, 3, 1);
	leave(&a);
	assert_int_equal(f.n, 1);
	leave(&b);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

static int
check_100_pages(void *arg, uint64_t bytes)
{
	struct fake_iommu *f = arg;

	for (unsigned int i = 0; i < f->n; i++)
		bytes += f->at[i].size;
	return bytes > 100 * PAGE ? vdpa_error(ENOMEM, "fake: no more is locked") : 0;
}

static void
what_cannot_all_be_mapped_is_refused_before_anything_is(void **state)
{
	static const struct vdpa_dma_ops limited = {
		.map = fake_map, .unmap = fake_unmap, .check = check_100_pages};
	const struct vdpa_dma_limits limits = {
		.page_size = PAGE, .chunk_size = 8 * PAGE, .ranges = ranges, .n_ranges = 2};
	struct fake_iommu f = {.n = 0};
	struct vdpa_dma_domain *dom;
	struct vdpa_mem_region r[2] = {pages(0, 49, 5), pages(64, 120, 5)};
	struct user u;

	assert_int_equal(vdpa_dma_domain_create("fake/6", &limited, &f, &limits, &dom), 0);
	u = join(dom, "v0");
	assert_int_equal(set(&u, r, 2), -ENOMEM);
	assert_string_equal(vdpa_error_message(), "fake: no more is locked");
	r[1] = pages(0xfee00, 0xfee01, 5);
	assert_int_equal(set(&u, r, 2), -EINVAL);
	assert_calls(dom, 0, 0);
	/* What is there counts, and makes room where it has to. */
	assert_int_equal(set(&u, r, 1), 0);
	r[1] = pages(64, 113, 5);
	assert_int_equal(set(&u, r, 2), 0);
	r[0] = pages(128, 177, 6);
	assert_int_equal(set(&u, (struct vdpa_mem_region[]){r[1], r[0]}, 2), 0);
	assert_int_equal(f.n, 7 + 7);
	leave(&u);
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

/* A transport that takes its time, and somebody who wants the domain meanwhile. */
struct slow {
	struct fake_iommu f;
	struct user *other;
	pthread_t thread;
	bool started, done;
	unsigned int maps, done_at; /* of how many maps it was done before */
};

static void *
other_leaves(void *arg)
{
	struct slow *s = arg;

	__atomic_store_n(&s->started, true, __ATOMIC_SEQ_CST);
	vdpa_dma_set(s->other->user, NULL);
	__atomic_store_n(&s->done, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static int
slow_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct slow *s = arg;

	if (s->other != NULL) {
		if (s->maps++ == 0)
			assert_int_equal(pthread_create(&s->thread, NULL, other_leaves, s), 0);
		while (!__atomic_load_n(&s->started, __ATOMIC_SEQ_CST))
			usleep(100);
		if (!__atomic_load_n(&s->done, __ATOMIC_SEQ_CST)) {
			usleep(5000);
			s->done_at = s->maps;
		}
	}
	return fake_map(&s->f, m);
}

static int
slow_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	return fake_unmap(&((struct slow *)arg)->f, m);
}

static void
a_large_change_holds_nobody_up(void **state)
{
	static const struct vdpa_dma_ops slow_ops = {.map = slow_map, .unmap = slow_unmap};
	const struct vdpa_dma_limits limits = {.page_size = PAGE, .chunk_size = PAGE};
	struct slow s = {.started = false};
	struct vdpa_dma_domain *dom;
	struct vdpa_mem_region r = pages(0, 49, 5), first = pages(0, 0, 5);
	struct user a, b;

	assert_int_equal(vdpa_dma_domain_create("slow", &slow_ops, &s, &limits, &dom), 0);
	a = join(dom, "v0");
	b = join(dom, "v1");
	assert_int_equal(set(&b, &first, 1), 0);
	s.other = &b;
	assert_int_equal(set(&a, &r, 1), 0);
	assert_int_equal(pthread_join(s.thread, NULL), 0);
	/* Not after all the chunks. */
	assert_in_range(s.done_at, 1, 48);
	assert_int_equal(s.f.n, 50);
	leave(&a);
	leave(&b);
	assert_int_equal(s.f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

/* What each thread of the test does: the same regions as the others, in its own order. */
static void *
change_and_leave(void *arg)
{
	struct vdpa_dma_domain *dom = arg;
	struct user u = join(dom, "v");
	unsigned long failed = 0;

	for (unsigned int round = 0; round < 300; round++) {
		struct vdpa_mem_region r[2] = {pages(0, 20 + round % 7, 5), pages(40, 50, 5)};
		struct vdpa_dma_buf buf;

		failed += set(&u, r, 1 + round % 2) != 0;
		if (vdpa_dma_alloc(dom, PAGE, NULL, &buf) == 0)
			vdpa_dma_free(dom, &buf);
		if (round % 3 == 0)
			failed += set(&u, NULL, 0) != 0;
	}
	leave(&u);
	return (void *)failed;
}

static void
users_in_several_threads_agree(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 8);
	struct vdpa_dma_stats stats;
	pthread_t threads[4];
	void *failed;

	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, change_and_leave, dom), 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(pthread_join(threads[i], &failed), 0);
		assert_null(failed);
	}
	assert_int_equal(f.n, 0);
	vdpa_dma_get_stats(dom, &stats);
	assert_int_equal(stats.mappings, 0);
	assert_int_equal(stats.bytes_mapped, 0);
	assert_int_equal(stats.bytes_retained, 0);
	assert_true(stats.maps == stats.unmaps);
	vdpa_dma_domain_destroy(dom);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_region_is_mapped_once_for_all_users),
		cmocka_unit_test(tables_that_contradict_each_other_are_refused),
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
		cmocka_unit_test(a_region_split_merged_grown_or_shrunk_keeps_what_stays),
		cmocka_unit_test(other_memory_in_a_mapping_replaces_it_and_no_more),
		cmocka_unit_test(a_mapping_that_another_device_uses_is_not_replaced),
		cmocka_unit_test(what_cannot_all_be_mapped_is_refused_before_anything_is),
		cmocka_unit_test(own_memory_gives_way_at_every_boundary),
		cmocka_unit_test(a_large_change_holds_nobody_up),
		cmocka_unit_test(users_in_several_threads_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
