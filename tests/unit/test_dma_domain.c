/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* DMA domains: what is mapped once for all users, what is refused, and how many mappings there may
 * be. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "iommu_test.h"

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
		cmocka_unit_test(limits_that_make_no_sense_are_refused),
		cmocka_unit_test(what_cannot_be_unmapped_does_not_stop_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
