/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Memory of the core's own beside the guest's: where it lies in the table of a device that takes
 * whole tables, that the guest's comes no nearer than its end, and when it is freed. In a DMA
 * domain its place is the domain's matter (test_dma_own.c).
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"

#define PAGE	  UINT64_C(4096)
#define GUEST	  UINT64_C(0x100000)
#define FILE_SIZE UINT64_C(0x400000)
#define TOP	  (UINT64_C(1) << 47)
#define V1	  RTE_BIT64(VIRTIO_F_VERSION_1)

struct fixture {
	struct fake_device *fake;
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb; /* what was set last */
	struct vdpa_vq_config vqs[FAKE_VQS];
	struct vdpa_start_config start;
	int fd;
	unsigned int freed, fds;
	/* Of a driver that maps ranges. */
	uint64_t mapped[16];
	unsigned int n_mapped;
};

static struct vdpa_iova_range reach;
static struct fixture *fixture;

static struct vdpa_iova_range
get_iova_range(struct vdpa_device *vdev)
{
	return reach;
}

static int
dma_map(struct vdpa_device *vdev, uint32_t asid, const struct vdpa_mem_region *r)
{
	assert_true(fixture->n_mapped < RTE_DIM(fixture->mapped));
	fixture->mapped[fixture->n_mapped++] = r->iova;
	return 0;
}

static int
dma_unmap(struct vdpa_device *vdev, uint32_t asid, const struct vdpa_mem_region *r)
{
	for (unsigned int i = 0; i < fixture->n_mapped; i++)
		if (fixture->mapped[i] == r->iova) {
			fixture->mapped[i] = fixture->mapped[--fixture->n_mapped];
			return 0;
		}
	fail_msg("0x%lx is not mapped", (unsigned long)r->iova);
	return -ENOENT;
}

static struct vdpa_mem_region_spec
spec(const struct fixture *f, uint64_t iova, uint64_t size)
{
	return (struct vdpa_mem_region_spec){
		.iova = iova, .uaddr = iova, .size = size, .fd = f->fd};
}

/* Other memory of the guest's. What vdpa_device_set_memory() says. */
static int
set_memory(struct fixture *f, const struct vdpa_mem_region_spec *specs, unsigned int n)
{
	struct vdpa_iotlb *tlb;
	int rc;

	assert_int_equal(vdpa_iotlb_create(f->tlb, specs, n, &tlb), 0);
	rc = vdpa_device_set_memory(f->vdev, tlb);
	if (rc == 0) {
		vdpa_iotlb_put(f->tlb);
		f->tlb = tlb;
	} else {
		vdpa_iotlb_put(tlb);
	}
	return rc;
}

static struct fixture *
make(bool maps_ranges)
{
	struct fixture *f = fixture = calloc(1, sizeof(*f));
	struct vdpa_mem_region_spec guest;

	f->fds = count_fds();
	f->fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->fd, FILE_SIZE), 0);
	f->fake = fake_device_new("soft0", false);
	f->fake->freed = &f->freed;
	f->vdev = &f->fake->vdev;
	if (maps_ranges) {
		f->vdev->core->ops.set_map = NULL;
		f->vdev->core->ops.dma_map = dma_map;
		f->vdev->core->ops.dma_unmap = dma_unmap;
	}
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	guest = spec(f, GUEST, FILE_SIZE);
	assert_int_equal(set_memory(f, &guest, 1), 0);
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		f->vqs[i] = (struct vdpa_vq_config){.ready = i < 2,
						    .enabled = true,
						    .num = 8,
						    .desc = GUEST + i * 0x1000,
						    .driver = GUEST + i * 0x1000 + 0x400,
						    .device = GUEST + i * 0x1000 + 0x800,
						    .kick_fd = -1,
						    .call_fd = -1};
	f->start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->tlb, .vqs = f->vqs, .nvqs = FAKE_VQS};
	return f;
}

static int
setup(void **state)
{
	*state = make(false);
	return 0;
}

static int
setup_ranges(void **state)
{
	*state = make(true);
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	assert_true(LIST_EMPTY(&f->vdev->core->own));
	vdpa_unregister_device(f->vdev);
	vdpa_put_device(f->vdev);
	assert_int_equal(f->freed, 1);
	assert_int_equal(f->n_mapped, 0);
	vdpa_iotlb_put(f->tlb);
	close(f->fd);
	assert_int_equal(count_fds(), f->fds);
	free(f);
	return 0;
}

static struct vdpa_own_buf *
alloc_with(struct fixture *f, size_t size, size_t more)
{
	struct vdpa_own_buf *buf;

	vdpa_device_lock(f->vdev);
	buf = vdpa_own_alloc(f->vdev, size, more);
	vdpa_device_unlock(f->vdev);
	return buf;
}

static struct vdpa_own_buf *
alloc(struct fixture *f, size_t size)
{
	return alloc_with(f, size, 0);
}

static void
drop(struct fixture *f, struct vdpa_own_buf *buf, bool reachable)
{
	vdpa_device_lock(f->vdev);
	vdpa_own_free(f->vdev, buf, reachable);
	vdpa_device_unlock(f->vdev);
}

static void
settle(struct fixture *f)
{
	vdpa_device_lock(f->vdev);
	vdpa_own_settle(f->vdev);
	vdpa_device_unlock(f->vdev);
}

/* In the device's table. */
static bool
device_has(struct fixture *f, uint64_t iova, uint64_t size)
{
	return vdpa_iotlb_range(f->fake->tlb, iova, size) != NULL;
}

static void
it_is_one_region_more_of_the_device_s_table(void **state)
{
	struct fixture *f = *state;
	struct vdpa_own_buf *a = alloc(f, 3 * PAGE), *b = alloc(f, 100);
	uint8_t *seen;

	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal(a->iova, TOP - 3 * PAGE);
	assert_int_equal(b->iova, TOP - 4 * PAGE);
	assert_int_equal(b->size, PAGE);
	assert_int_equal(f->fake->tlb->n, 3);
	assert_true(device_has(f, GUEST, FILE_SIZE));
	/* The same memory, of zeroes; and not the guest's to name. */
	seen = vdpa_iotlb_range(f->fake->tlb, a->iova, 3 * PAGE);
	assert_non_null(seen);
	for (unsigned int i = 0; i < 3 * PAGE; i++)
		assert_int_equal(seen[i], 0);
	memset(a->va, 0x5a, 3 * PAGE);
	assert_int_equal(seen[3 * PAGE - 1], 0x5a);
	assert_null(vdpa_iotlb_range(f->vdev->core->iotlb, a->iova, 1));
	/* Nobody who gets the file takes pages away under us. */
	assert_true(ftruncate(a->area->dma.fd, 0) < 0);
	drop(f, a, false);
	assert_int_equal(f->fake->tlb->n, 2);
	assert_true(device_has(f, b->iova, PAGE));
	drop(f, b, false);
	assert_int_equal(f->fake->tlb->n, 1);
}

/* By trial of each page. */
static uint64_t
highest_hole(const struct fixture *f, const uint64_t *own, const uint64_t *own_size,
	     unsigned int n_own, uint64_t size)
{
	uint64_t first = RTE_MAX(RTE_ALIGN_CEIL(reach.first, PAGE), PAGE), found = 0;

	for (uint64_t at = first; at + size - 1 <= reach.last; at += PAGE) {
		bool fits = true;

		for (unsigned int i = 0; i < f->tlb->n; i++)
			fits = fits && (at + size <= f->tlb->regions[i]->iova ||
					f->tlb->regions[i]->iova + f->tlb->regions[i]->size <= at);
		for (unsigned int i = 0; i < n_own; i++)
			fits = fits && (at + size <= own[i] || own[i] + own_size[i] <= at);
		if (fits)
			found = at;
	}
	return found;
}

/* A reach of few pages, with the guest's memory anywhere in it, at any byte that it may be at. */
static void
it_lies_in_the_highest_hole_whatever_is_around(void **state)
{
	struct fixture *f = *state;
	unsigned int full = 0;

	srandom(7);
	f->vdev->core->ops.get_iova_range = get_iova_range;
	for (unsigned int round = 0; round < 300; round++) {
		struct vdpa_mem_region_spec specs[6];
		uint64_t at = 0, own_at[40], own_size[40];
		struct vdpa_own_buf *own[40];
		unsigned int n = 0, n_own = 0;

		reach.first = (uint64_t)(random() % 5) * PAGE + (random() % 3) * 8;
		at = reach.first;
		while (n < 1 + (unsigned int)random() % 6 && n < RTE_DIM(specs)) {
			at += (uint64_t)(random() % 4) * PAGE / 2 + (random() % 4) * 8;
			at = RTE_ALIGN_CEIL(at, UINT64_C(8));
			specs[n] = spec(f, at, (uint64_t)(1 + random() % (3 * PAGE / 8)) * 8);
			at += specs[n++].size;
		}
		reach.last = at + (uint64_t)(random() % 12) * PAGE / 2 - 1;
		assert_int_equal(set_memory(f, specs, n), 0);
		for (;;) {
			uint64_t size = (1 + (uint64_t)random() % 3) * PAGE;
			uint64_t want = highest_hole(f, own_at, own_size, n_own, size);

			own[n_own] = alloc(f, size);
			if (own[n_own] == NULL) {
				assert_int_equal(errno, ENOSPC);
				assert_int_equal(want, 0);
				full++;
				break;
			}
			own_at[n_own] = own[n_own]->iova;
			own_size[n_own] = own[n_own]->size;
			assert_int_equal(own_at[n_own], want);
			assert_true(device_has(f, want, size));
			n_own++;
		}
		/* In any order. */
		while (n_own > 0) {
			unsigned int i = (unsigned int)random() % n_own;

			drop(f, own[i], false);
			own[i] = own[--n_own];
		}
		assert_int_equal(f->fake->tlb->n, n);
	}
	assert_int_equal(full, 300);
	f->vdev->core->ops.get_iova_range = NULL;
}

static void
memory_that_comes_where_ours_lies_is_refused_alone(void **state)
{
	struct fixture *f = *state;
	struct vdpa_own_buf *own = alloc(f, 4 * PAGE);
	const uint64_t at = own->iova, size = own->size;
	const struct {
		uint64_t iova, size;
		bool comes;
	} regions[] = {
		{at - PAGE, PAGE, true},
		{at - PAGE, PAGE + 8, false},
		{at, 8, false},
		{at + size - 8, 8, false},
		{at + size, PAGE, true},
		{at + size - 8, PAGE, false},
		{at, size, false},
		{at - 8, size + 16, false},
		{at + PAGE, 2 * PAGE, false},
		{at - 8, 8, true},
		{at + size, FILE_SIZE, true},
		{at - FILE_SIZE, FILE_SIZE, true},
	};
	struct vdpa_mem_region_spec specs[2] = {spec(f, GUEST, FILE_SIZE)};

	for (unsigned int i = 0; i < RTE_DIM(regions); i++) {
		struct vdpa_iotlb *before = f->fake->tlb;

		specs[1] = spec(f, regions[i].iova, regions[i].size);
		if (regions[i].comes) {
			assert_int_equal(set_memory(f, specs, 2), 0);
			assert_int_equal(f->fake->tlb->n, 3);
			assert_true(device_has(f, regions[i].iova, regions[i].size));
		} else {
			assert_int_equal(set_memory(f, specs, 2), -EBUSY);
			assert_non_null(strstr(vdpa_error_message(), "soft0: memory 0x"));
			assert_non_null(strstr(vdpa_error_message(), "shadow rings lie at 0x"));
			assert_ptr_equal(f->fake->tlb, before);
		}
		/* What there was stays. */
		assert_true(device_has(f, GUEST, FILE_SIZE));
		assert_true(device_has(f, at, size));
		assert_int_equal(set_memory(f, specs, 1), 0);
	}
	drop(f, own, false);
}

static void
a_device_that_does_not_take_it_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned int fds = count_fds();
	struct vdpa_own_buf *own;

	f->fake->calls = 0;
	f->fake->fail_at = 1;
	assert_null(alloc(f, PAGE));
	assert_int_equal(errno, EIO);
	assert_string_equal(f->fake->failed_op, "fake_set_map");
	assert_true(LIST_EMPTY(&f->vdev->core->own));
	assert_int_equal(count_fds(), fds);
	/* And it is kept while it may be used, if the device does not give it back. */
	own = alloc(f, PAGE);
	assert_non_null(own);
	f->fake->calls = 0;
	drop(f, own, false);
	assert_true(device_has(f, TOP - PAGE, PAGE));
	assert_non_null(LIST_FIRST(&f->vdev->core->own));
	memset(LIST_FIRST(&f->vdev->core->own)->dma.va, 1, PAGE);
	f->fake->fail_at = 0;
	settle(f);
	assert_false(device_has(f, TOP - PAGE, PAGE));
	assert_int_equal(count_fds(), fds);
}

static void
it_is_kept_from_a_device_that_does_not_reset(void **state)
{
	struct fixture *f = *state;
	struct vdpa_own_area *own;
	unsigned int fds = count_fds();

	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	f->start.iotlb = f->tlb;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->fake->tlb->n, 2);
	own = LIST_FIRST(&f->vdev->core->own);
	assert_non_null(own);
	f->fake->fail_reset = true;
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	/* It may write there still. */
	assert_false(LIST_EMPTY(&f->vdev->core->own));
	memset(own->dma.va, 1, own->dma.size);
	f->fake->fail_reset = false;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_true(LIST_EMPTY(&f->vdev->core->own));
	assert_int_equal(count_fds(), fds);
}

static void
queues_on_shadows_outlive_a_region_that_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec specs[3] = {spec(f, GUEST, FILE_SIZE)};
	const struct vdpa_own_area *own;
	struct vdpa_vq_state place;

	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	f->start.iotlb = f->tlb;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	LIST_FOREACH (own, &f->vdev->core->own, next) {
		specs[1] = spec(f, own->dma.iova, 8);
		assert_int_equal(set_memory(f, specs, 2), -EBUSY);
	}
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	specs[1] = spec(f, GUEST + 2 * FILE_SIZE, FILE_SIZE);
	assert_int_equal(set_memory(f, specs, 2), 0);
	assert_int_equal(f->fake->tlb->n, 3);
	/* The area goes with the last queue that has a piece of it. */
	for (uint16_t i = 0; i < 2; i++) {
		assert_int_equal(vdpa_device_stop_vq(f->vdev, i, &place), 0);
		assert_int_equal(place.split.avail_index, 0);
		assert_int_equal(f->fake->tlb->n, 3 - i);
	}
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->fake->tlb->n, 2);
}

static struct vdpa_own_buf *
piece(struct fixture *f, size_t size)
{
	struct vdpa_own_buf *buf = alloc(f, size);

	assert_non_null(buf);
	memset(buf->va, 0x5a, buf->size);
	return buf;
}

static void
reserve(struct fixture *f, size_t size)
{
	vdpa_device_lock(f->vdev);
	vdpa_own_begin_change(f->vdev);
	assert_int_equal(vdpa_own_reserve(f->vdev, size), 0);
	vdpa_device_unlock(f->vdev);
}

static void
end_change(struct fixture *f)
{
	vdpa_device_lock(f->vdev);
	vdpa_own_end_change(f->vdev);
	vdpa_device_unlock(f->vdev);
}

static void
pieces_of_what_was_reserved_are_one_region(void **state)
{
	struct fixture *f = *state;
	struct vdpa_own_buf *a, *b, *c;

	reserve(f, 4 * PAGE);
	assert_int_equal(f->fake->tlb->n, 2);
	a = piece(f, 100);
	b = piece(f, 3 * PAGE);
	assert_int_equal(a->iova, TOP - 4 * PAGE);
	assert_int_equal(b->iova, a->iova + PAGE);
	assert_ptr_equal((uint8_t *)b->va, (uint8_t *)a->va + PAGE);
	assert_int_equal(f->fake->tlb->n, 2);
	/* More than was reserved. */
	c = piece(f, PAGE);
	assert_int_equal(c->iova, TOP - 5 * PAGE);
	assert_int_equal(f->fake->tlb->n, 3);
	/* Freed in a change: mapped until its end. */
	drop(f, c, false);
	drop(f, a, false);
	assert_true(device_has(f, TOP - 5 * PAGE, PAGE));
	assert_true(device_has(f, TOP - 4 * PAGE, PAGE));
	end_change(f);
	assert_int_equal(f->fake->tlb->n, 2);
	assert_true(device_has(f, TOP - 4 * PAGE, 4 * PAGE));
	/* A piece that was freed is there again, empty; no more is mapped for what may come. */
	c = alloc_with(f, PAGE, 8 * PAGE);
	assert_int_equal(c->iova, TOP - 4 * PAGE);
	for (unsigned int i = 0; i < PAGE; i++)
		assert_int_equal(((uint8_t *)c->va)[i], 0);
	drop(f, c, false);
	c = alloc_with(f, 2 * PAGE, 8 * PAGE);
	assert_int_equal(c->iova, TOP - 6 * PAGE);
	assert_int_equal(c->area->dma.size, 2 * PAGE);
	drop(f, c, false);
	/* A piece that the device may reach: all of it stays, out of the device's table or not. */
	drop(f, b, true);
	assert_non_null(LIST_FIRST(&f->vdev->core->own));
	settle(f);
	assert_int_equal(f->fake->tlb->n, 1);
	/* Nobody takes any of it. */
	reserve(f, PAGE);
	end_change(f);
	assert_int_equal(f->fake->tlb->n, 1);
}

static void
what_is_likely_to_come_is_mapped_with_it_where_it_can_be(void **state)
{
	struct fixture *f = *state;
	struct vdpa_own_buf *a, *b, *c;

	f->vdev->core->ops.get_iova_range = get_iova_range;
	/* Six pages beside the guest's memory. */
	reach = (struct vdpa_iova_range){.first = GUEST, .last = GUEST + FILE_SIZE + 6 * PAGE - 1};
	a = alloc_with(f, PAGE, 2 * PAGE);
	b = alloc_with(f, 2 * PAGE, PAGE);
	assert_int_equal(f->fake->tlb->n, 2);
	assert_int_equal(b->iova, a->iova + PAGE);
	c = alloc_with(f, 3 * PAGE, PAGE);
	assert_non_null(c);
	assert_int_equal(c->iova, a->iova - 3 * PAGE);
	assert_int_equal(f->fake->tlb->n, 3);
	assert_null(alloc_with(f, 1, 0));
	assert_int_equal(errno, ENOSPC);
	drop(f, a, false);
	drop(f, b, false);
	drop(f, c, false);
	assert_int_equal(f->fake->tlb->n, 1);
	f->vdev->core->ops.get_iova_range = NULL;
}

/* Each set_map of a device that runs may stop it for a while. */
static void
a_start_maps_once_for_all_queues(void **state)
{
	struct fixture *f = *state;
	unsigned int direct, shadow;

	for (uint16_t i = 0; i < FAKE_VQS; i++)
		f->vqs[i].ready = true;
	f->start.iotlb = f->tlb;
	f->fake->set_maps = 0;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	direct = f->fake->set_maps;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	f->fake->set_maps = 0;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	shadow = f->fake->set_maps;
	assert_int_equal(shadow, direct + 1);
	assert_int_equal(f->fake->tlb->n, 2);
	f->fake->set_maps = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->fake->set_maps, 1);
}

static void
queues_of_a_start_lie_apart_where_no_hole_is_for_all(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->ops.get_iova_range = get_iova_range;
	reach = (struct vdpa_iova_range){.first = GUEST - PAGE,
					 .last = GUEST + FILE_SIZE + PAGE - 1};
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_SHADOW);
	f->start.iotlb = f->tlb;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->fake->tlb->n, 3);
	assert_true(device_has(f, GUEST - PAGE, PAGE));
	assert_true(device_has(f, GUEST + FILE_SIZE, PAGE));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->vdev->core->ops.get_iova_range = NULL;
}

static void
a_driver_that_maps_ranges_gets_it_as_one_more(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec specs[2] = {spec(f, GUEST, FILE_SIZE)};
	struct vdpa_own_buf *own = alloc(f, 3 * PAGE);
	uint64_t at;

	assert_non_null(own);
	at = own->iova;
	assert_int_equal(f->n_mapped, 2);
	assert_int_equal(f->mapped[1], at);
	specs[1] = spec(f, at + PAGE, PAGE);
	assert_int_equal(set_memory(f, specs, 2), -EBUSY);
	assert_int_equal(f->n_mapped, 2);
	drop(f, own, false);
	assert_int_equal(f->n_mapped, 1);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->n_mapped, 0);
}

#define T(test)	       cmocka_unit_test_setup_teardown(test, setup, teardown)
#define T_RANGES(test) cmocka_unit_test_setup_teardown(test, setup_ranges, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(it_is_one_region_more_of_the_device_s_table),
		T(it_lies_in_the_highest_hole_whatever_is_around),
		T(memory_that_comes_where_ours_lies_is_refused_alone),
		T(a_device_that_does_not_take_it_leaves_nothing),
		T(it_is_kept_from_a_device_that_does_not_reset),
		T(queues_on_shadows_outlive_a_region_that_is_refused),
		T(pieces_of_what_was_reserved_are_one_region),
		T(what_is_likely_to_come_is_mapped_with_it_where_it_can_be),
		T(a_start_maps_once_for_all_queues),
		T(queues_of_a_start_lie_apart_where_no_hole_is_for_all),
		T_RANGES(a_driver_that_maps_ranges_gets_it_as_one_more),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
