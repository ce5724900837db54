/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Changes of DMA domains by ranges: what stays, what is replaced, and who may not wait for it. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "iommu_test.h"

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

/* Its devices would reach what the guest before has left. */
static void
a_new_guest_waits_for_what_the_last_one_left(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 16);
	struct user a = join(dom, "a"), b = join(dom, "b"), c = join(dom, "c");
	struct vdpa_mem_region first = pages(0, 3, 5), third = pages(4, 7, 5);
	struct vdpa_mem_region next = pages(8, 11, 9);

	assert_int_equal(set(&a, &first, 1), 0);
	f.unmap_err = EIO;
	assert_int_equal(set(&a, NULL, 0), -EIO);
	/* Another device's front end, and that after the first device is gone. */
	assert_int_equal(set(&b, &next, 1), -EIO);
	leave(&a);
	assert_int_equal(set(&b, &next, 1), -EIO);
	assert_int_equal(f.n, 1);
	f.unmap_err = 0;
	assert_int_equal(set(&b, &next, 1), 0);
	assert_int_equal(f.n, 1);
	assert_int_equal(f.at[0].iova, next.iova);

	/* The devices of a guest that goes on are not held up by one of them. */
	assert_int_equal(set(&b, &third, 1), 0);
	assert_int_equal(set(&c, (struct vdpa_mem_region[]){first, third}, 2), 0);
	f.unmap_err = EIO;
	assert_int_equal(set(&c, NULL, 0), -EIO);
	assert_int_equal(set(&b, (struct vdpa_mem_region[]){third, pages(8, 11, 5)}, 2), 0);
	f.unmap_err = 0;
	leave(&b);
	leave(&c);
	assert_int_equal(f.n, 0);
	vdpa_dma_domain_destroy(dom);
}

/* What is retained for one is mapped anew for another, which cannot be: no fault of the first. */
static void
one_that_stops_does_not_fail_for_another_ones_memory(void **state)
{
	struct fake_iommu f;
	struct vdpa_dma_domain *dom = chunked(&f, 64);
	struct user stops = join(dom, "v0"), other = join(dom, "v1");
	struct vdpa_mem_region r = pages(0, 31, 5);

	assert_int_equal(vdpa_dma_set_running(stops.user, true), 0);
	assert_int_equal(set(&stops, &r, 1), 0);
	r = pages(0, 9, 5);
	assert_int_equal(set(&other, &r, 1), 0);
	assert_int_equal(set(&stops, NULL, 0), 0);
	f.map_err = ENOMEM;
	assert_int_equal(vdpa_dma_set_running(stops.user, false), 0);
	assert_false(vdpa_dma_is_broken(stops.user));
	assert_true(vdpa_dma_is_broken(other.user));
	f.map_err = 0;
	assert_int_equal(vdpa_dma_set_running(other.user, true), 0);
	assert_false(vdpa_dma_is_broken(other.user));
	assert_int_equal(f.n, 1);
	leave(&stops);
	leave(&other);
	vdpa_dma_domain_destroy(dom);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_region_split_merged_grown_or_shrunk_keeps_what_stays),
		cmocka_unit_test(other_memory_in_a_mapping_replaces_it_and_no_more),
		cmocka_unit_test(a_mapping_that_another_device_uses_is_not_replaced),
		cmocka_unit_test(what_cannot_all_be_mapped_is_refused_before_anything_is),
		cmocka_unit_test(a_large_change_holds_nobody_up),
		cmocka_unit_test(users_in_several_threads_agree),
		cmocka_unit_test(a_new_guest_waits_for_what_the_last_one_left),
		cmocka_unit_test(one_that_stops_does_not_fail_for_another_ones_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
