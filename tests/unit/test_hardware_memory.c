/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the core does with guest memory for devices like a standard virtio function. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "hardware_test.h"

static bool
is_mapped(const struct fixture *f, unsigned int region)
{
	for (unsigned int i = 0; i < f->transport.n; i++)
		if (f->transport.mapped[i] == IOVA(region))
			return true;
	return false;
}

static void
memory_is_mapped_once_whatever_starts_and_stops(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 50; i++) {
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		assert_true(is_mapped(f, 0) && is_mapped(f, 1));
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
	/* A device that fails and does reset, too. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_fail(f->vdev, -1, EIO, "broken");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->transport.maps, 2);
	assert_int_equal(f->transport.unmaps, 0);
	vdpa_unregister_device(f->vdev);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(f->tlb->refcnt, 1);
}

/* As a front end says it before it starts the device, and again and again. */
static void
memory_is_set_in_any_state(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *again = table(f, f->tlb, 0x3), *less = table(f, f->tlb, 0x1);

	assert_int_equal(vdpa_device_set_memory(f->vdev, f->tlb), 0);
	assert_int_equal(f->transport.n, 2);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, again), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.maps, 2);
	/* What a front end takes back from a device that stands still is given back. */
	assert_int_equal(vdpa_device_set_memory(f->vdev, less), 0);
	assert_true(is_mapped(f, 0) && !is_mapped(f, 1));
	vdpa_device_fail(f->vdev, -1, EIO, "broken");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(vdpa_device_set_memory(f->vdev, again), 0);
	assert_true(is_mapped(f, 1));
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	vdpa_unregister_device(f->vdev);
	assert_int_equal(vdpa_device_set_memory(f->vdev, again), -ENODEV);
	assert_int_equal(again->refcnt, 1);
	vdpa_iotlb_put(again);
	vdpa_iotlb_put(less);
}

/* Device and guest of the next binding have nothing to do with the last one's. */
static void
nothing_of_a_binding_is_left_at_its_end(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *next = table(f, NULL, 0x4);

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->fake->dma_releases, 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(f->tlb->refcnt, 1);
	assert_int_equal(f->fake->dma_releases, 1);
	/* A mapping that stays keeps the next front end out. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->transport.unmaps = 0;
	f->transport.fail_unmap = 2;
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), -EIO);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_int_equal(vdpa_device_set_memory(f->vdev, next), -EIO);
	f->start.iotlb = next;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EIO);
	assert_int_equal(f->transport.n, 1);
	assert_false(is_mapped(f, 2));
	f->transport.fail_unmap = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, next), 0);
	vdpa_unregister_device(f->vdev);
	vdpa_iotlb_put(next);
}

static void
a_start_that_fails_maps_nothing_twice(void **state)
{
	struct fixture *f = *state;
	unsigned int at;

	for (at = 1; at < 100; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start(f->vdev, &f->start) == 0)
			break;
		assert_in_range(f->transport.maps, 0, 2);
		assert_int_equal(f->transport.unmaps, 0);
	}
	assert_in_range(at, 10, 99);
	f->fake->fail_at = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(f->tlb->refcnt, 1);
	f->transport.maps = 0;
	f->transport.fail_map = 2;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "hw0: "));
	assert_non_null(strstr(vdpa_error_message(), "the IOMMU is full"));
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
}

static void
a_device_that_does_not_reset_is_kept_out_by_the_iommu(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->fail_reset = true;
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	assert_non_null(strstr(vdpa_error_message(), "does not reset"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_int_equal(f->transport.n, 0);
	/* It is harmless: the process need not keep the memory. */
	assert_int_equal(f->tlb->refcnt, 1);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ETIMEDOUT);
	f->fake->fail_reset = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->transport.n, 2);
}

static void
memory_that_cannot_be_unmapped_fails_the_device_until_it_can(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->transport.fail_unmap = 2;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "the IOMMU does not answer"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_int_equal(f->transport.n, 1);
	assert_true(f->tlb->refcnt > 1);
	/* What is unmapped already is not unmapped again. */
	f->transport.fail_unmap = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(f->transport.unmaps, 3);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
}

static void
hotplug_while_running_maps_only_what_changed(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *more = table(f, f->tlb, 0x7), *less = table(f, more, 0x5);

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, more), 0);
	assert_int_equal(f->transport.maps, 3);
	assert_int_equal(f->transport.unmaps, 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, less), 0);
	assert_int_equal(f->transport.maps, 3);
	assert_int_equal(f->transport.unmaps, 1);
	assert_true(is_mapped(f, 0) && !is_mapped(f, 1) && is_mapped(f, 2));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.n, 2);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	vdpa_iotlb_put(more);
	vdpa_iotlb_put(less);
}

/* What vhost-user's memory slots allow. */
#define SLOTS 509

/* The fixture's regions 0 and 1, and pages of one file behind them: SLOTS in all, but for every
 * step-th where step is not 0. */
static struct vdpa_iotlb *
slots_table(struct fixture *f, const struct vdpa_iotlb *old, int fd, unsigned int step)
{
	struct vdpa_mem_region_spec specs[SLOTS];
	struct vdpa_iotlb *tlb = NULL;
	unsigned int n = 0;

	for (unsigned int i = 0; i < SLOTS; i++)
		if (i < 2 || step == 0 || i % step != 0)
			specs[n++] =
				(struct vdpa_mem_region_spec){.iova = IOVA(i),
							      .uaddr = IOVA(i),
							      .size = i < 2 ? REGION_SIZE : 4096,
							      .offset = i < 2 ? 0 : i * 4096u,
							      .fd = i < 2 ? f->fd[i] : fd};
	assert_int_equal(vdpa_iotlb_create(old, specs, n, &tlb), 0);
	return tlb;
}

static void
hundreds_of_regions_come_and_go(void **state)
{
	struct fixture *f = *state;
	int fd = memfd_create("slots", MFD_CLOEXEC);
	const struct vdpa_mem_region_spec more = {
		.iova = IOVA(SLOTS), .uaddr = IOVA(SLOTS), .size = 4096, .fd = fd};
	struct vdpa_iotlb *slots, *half, *added, *removed;

	assert_int_equal(ftruncate(fd, SLOTS * 4096), 0);
	slots = slots_table(f, f->tlb, fd, 0);
	half = slots_table(f, slots, fd, 2);
	assert_int_equal(vdpa_iotlb_add(slots, &more, &added), 0);
	assert_int_equal(vdpa_iotlb_remove(added, IOVA(300), IOVA(300), 4096, &removed), 0);
	f->start.iotlb = slots;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->transport.n, SLOTS);
	/* One more is one map, one less is one unmap. */
	assert_int_equal(vdpa_device_set_memory(f->vdev, added), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, removed), 0);
	assert_int_equal(f->transport.maps, SLOTS + 1);
	assert_int_equal(f->transport.unmaps, 1);
	assert_true(is_mapped(f, SLOTS) && !is_mapped(f, 300) && is_mapped(f, 301));
	assert_int_equal(vdpa_device_set_memory(f->vdev, slots), 0);
	/* Every other is to go, the 200th stays: those before come back. */
	f->transport.unmaps = 0;
	f->transport.fail_unmap = 200;
	assert_int_equal(vdpa_device_set_memory(f->vdev, half), -EIO);
	assert_int_equal(f->transport.n, SLOTS);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	/* What a stop leaves mapped is known one by one, and unmapped by the next. */
	f->transport.unmaps = 0;
	f->transport.fail_unmap = 150;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), -EIO);
	assert_int_equal(f->transport.n, SLOTS - 149);
	f->transport.unmaps = 0;
	f->transport.fail_unmap = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.unmaps, SLOTS - 149);
	assert_int_equal(f->transport.n, 0);
	/* A start that stops in the middle, too. */
	f->transport.maps = 0;
	f->transport.fail_map = 400;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ENOSPC);
	assert_int_equal(f->transport.n, 0);
	vdpa_iotlb_put(slots);
	vdpa_iotlb_put(half);
	vdpa_iotlb_put(added);
	vdpa_iotlb_put(removed);
	close(fd);
}

static void
a_change_of_memory_that_fails_is_taken_back(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *more = table(f, f->tlb, 0x7), *other;
	int fd = f->fd[1];

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	/* Nothing was taken away yet. */
	f->transport.maps = 0;
	f->transport.fail_map = 1;
	assert_int_equal(vdpa_device_set_memory(f->vdev, more), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "the IOMMU is full"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(f->transport.unmaps, 0);
	/* Other memory comes where region 1 was, which is unmapped before, and cannot come back:
	 * the device is missing memory, which nobody hides. */
	f->fd[1] = f->fd[2];
	other = table(f, f->tlb, 0x3);
	f->fd[1] = fd;
	assert_int_equal(vdpa_device_set_memory(f->vdev, other), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "the IOMMU is full"));
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	f->transport.fail_unmap = f->transport.fail_map = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	vdpa_iotlb_put(more);
	vdpa_iotlb_put(other);
}

/* Only the first map fails: what was taken away for the change comes back. */
static int
map_fails_once(void *arg, const struct vdpa_dma_mapping *m)
{
	struct transport *t = arg;

	if (t->maps + 1 == t->fail_map) {
		t->maps++;
		return vdpa_error(ENOSPC, "the IOMMU is full");
	}
	t->fail_map = t->fail_map > t->maps ? t->fail_map : 0;
	return transport_map(arg, m);
}

static void
memory_taken_away_for_a_failed_change_comes_back(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_fails_once, .unmap = transport_unmap};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = *state;
	struct vdpa_iotlb *other = table(f, f->tlb, 0x5);
	struct vdpa_dma_domain *dma;
	struct fake_device *fake;
	unsigned int freed = 0;

	assert_int_equal(vdpa_dma_domain_create("once", &ops, &f->transport, &limits, &dma), 0);
	fake = fake_hardware_new("hw1", dma, false);
	fake->freed = &freed;
	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	assert_int_equal(vdpa_device_start(&fake->vdev, &f->start), 0);
	f->transport.fail_map = 3;
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, other), -ENOSPC);
	assert_int_equal(vdpa_device_get_state(&fake->vdev), VDPA_STATE_RUNNING);
	assert_true(is_mapped(f, 0) && is_mapped(f, 1) && !is_mapped(f, 2));
	vdpa_unregister_device(&fake->vdev);
	assert_int_equal(f->transport.n, 0);
	vdpa_put_device(&fake->vdev);
	assert_int_equal(freed, 1);
	vdpa_dma_domain_destroy(dma);
	vdpa_iotlb_put(other);
}

/* Two functions of one IOMMU group, each served to a front end. */
static void
devices_that_share_a_domain_serve_one_guest(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *same = table(f, NULL, 0x7), *stranger = table(f, NULL, 0x4);
	struct fake_device *fake = fake_hardware_new("hw1", f->dma, false);
	struct vdpa_start_config start = f->start;
	struct vdpa_vq_config vqs[FAKE_VQS] = {0};
	unsigned int freed = 0;

	fake->freed = &freed;
	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	start.vqs = vqs;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	/* Beside the first one's memory, so that nothing overlaps: in reach of its device. */
	start.iotlb = stranger;
	assert_int_equal(vdpa_device_start(&fake->vdev, &start), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), "serve one guest"));
	assert_true(is_mapped(f, 0) && is_mapped(f, 1) && !is_mapped(f, 2));
	/* Its own table, and a region more. */
	start.iotlb = same;
	assert_int_equal(vdpa_device_start(&fake->vdev, &start), 0);
	assert_true(is_mapped(f, 2));
	/* The last one's memory counts, whoever came first; and another guest may follow. */
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, stranger), 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EBUSY);
	assert_int_equal(vdpa_device_stop(&fake->vdev), 0);
	/* Its guest may boot again: the memory is still its own. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EBUSY);
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);

	vdpa_unregister_device(&fake->vdev);
	vdpa_put_device(&fake->vdev);
	assert_int_equal(freed, 1);
	vdpa_iotlb_put(same);
	vdpa_iotlb_put(stranger);
}

/* A driver with a translation of its own, which is noted where a transport's would be. */
static struct transport *driver_table;

static int
driver_dma_map(struct vdpa_device *vdev, uint32_t asid, const struct vdpa_mem_region *r)
{
	const struct vdpa_dma_mapping m = {.iova = r->iova, .size = r->size};

	assert_non_null(r->va);
	assert_true(r->fd >= 0);
	return transport_map(driver_table, &m);
}

static int
driver_dma_unmap(struct vdpa_device *vdev, uint32_t asid, const struct vdpa_mem_region *r)
{
	const struct vdpa_dma_mapping m = {.iova = r->iova, .size = r->size};

	return transport_unmap(driver_table, &m);
}

static void
a_driver_that_maps_gets_the_difference_of_ranges(void **state)
{
	struct fixture *f = *state;
	struct fake_device *fake = fake_device_new("maps", false);
	struct vdpa_config_ops ops = *fake->vdev.config;
	/* Region 0 in two parts, of which the second ends where a page does not. */
	const struct vdpa_mem_region_spec parts[] = {
		{.iova = IOVA(0), .uaddr = IOVA(0), .size = 0x8000, .fd = f->fd[0]},
		{.iova = IOVA(0) + 0x8000,
		 .uaddr = IOVA(1),
		 .size = 0x7ff8,
		 .offset = 0x8000,
		 .fd = f->fd[0]}};
	struct vdpa_iotlb *split, *more = table(f, f->tlb, 0x7);
	unsigned int freed = 0;

	driver_table = &f->transport;
	ops.set_map = NULL;
	ops.dma_map = driver_dma_map;
	ops.dma_unmap = driver_dma_unmap;
	fake->vdev.config = &ops;
	fake->freed = &freed;
	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	assert_int_equal(vdpa_device_start(&fake->vdev, &f->start), 0);
	assert_int_equal(f->transport.maps, 2);
	/* What stays is not touched, what goes as a whole is unmapped as it was mapped. */
	assert_int_equal(vdpa_iotlb_create(NULL, parts, 2, &split), 0);
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, split), 0);
	assert_int_equal(f->transport.maps, 2);
	assert_int_equal(f->transport.unmaps, 1);
	assert_true(is_mapped(f, 0) && !is_mapped(f, 1));
	/* A failure leaves what was there. */
	f->transport.fail_map = 4;
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, more), -ENOSPC);
	assert_true(is_mapped(f, 0) && !is_mapped(f, 1) && !is_mapped(f, 2));
	f->transport.fail_map = 0;
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, more), 0);
	assert_true(is_mapped(f, 0) && is_mapped(f, 1) && is_mapped(f, 2));
	/* Its reset leaves it, the end of the binding takes all of it away. */
	f->transport.unmaps = 0;
	assert_int_equal(vdpa_device_stop(&fake->vdev), 0);
	assert_int_equal(f->transport.unmaps, 0);
	assert_int_equal(vdpa_device_set_memory(&fake->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	assert_int_equal(more->refcnt, 1);
	f->transport.unmaps = 0;
	/* Memory that one which does not reset may still use stays in the process. */
	assert_int_equal(vdpa_device_start(&fake->vdev, &f->start), 0);
	fake->fail_reset = true;
	assert_int_equal(vdpa_device_stop(&fake->vdev), -ETIMEDOUT);
	assert_true(f->tlb->refcnt > 1);
	vdpa_unregister_device(&fake->vdev);
	vdpa_put_device(&fake->vdev);
	assert_int_equal(freed, 1);
	assert_int_equal(f->transport.unmaps, 0);
	f->transport.n = 0;
	vdpa_iotlb_put(split);
	vdpa_iotlb_put(more);
}

static void
a_device_needs_one_way_to_map_and_no_more(void **state)
{
	struct fixture *f = *state;
	struct fake_device *none = fake_hardware_new("none", NULL, false);
	struct fake_device *both = fake_device_new("both", false);

	assert_int_equal(vdpa_register_device(&none->vdev), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "neither set_map nor dma_map"));
	both->vdev.dma = f->dma;
	assert_int_equal(vdpa_register_device(&both->vdev), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "set_map and gives a DMA domain"));
	vdpa_put_device(&none->vdev);
	vdpa_put_device(&both->vdev);
}

/* Queue 1 in region 1, the other in region 0. */
static void
move_queue_1(struct fixture *f)
{
	f->vqs[1].desc = IOVA(1);
	f->vqs[1].driver = IOVA(1) + 0x400;
	f->vqs[1].device = IOVA(1) + 0x800;
}

static void
a_queue_whose_memory_goes_stops_and_the_others_run_on(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *less = table(f, f->tlb, 0x1);
	struct vdpa_vq_state at;

	move_queue_1(f);
	f->fake->resets_vqs = true;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 1, 9, 9);
	assert_int_equal(vdpa_device_set_memory(f->vdev, less), 0);
	assert_true(f->fake->vq[0].ready && !f->fake->vq[1].ready);
	assert_false(vdpa_device_vq_is_lost(f->vdev, 0));
	assert_true(vdpa_device_vq_is_lost(f->vdev, 1));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_false(is_mapped(f, 1));
	/* What the front end still says of it has no effect. */
	f->fake->calls = 0;
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 1, f->fd[0]), 0);
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 1, f->fd[0]), 0);
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 1, false), 0);
	assert_int_equal(f->fake->calls, 0);
	/* Where it stood was read while it could be. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
	assert_int_equal(at.split.avail_index, 9);
	assert_false(vdpa_device_vq_is_lost(f->vdev, 1));
	assert_int_equal(vdpa_device_start_vq(f->vdev, 1, &f->vqs[1]), -EFAULT);
	assert_int_equal(vdpa_device_set_memory(f->vdev, f->tlb), 0);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 1, &f->vqs[1]), 0);
	/* No memory at all: nobody runs on, and nobody asks a ring that is not there. */
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
	assert_int_equal(at.split.avail_index, 9);
	assert_int_equal(f->transport.n, 0);
	vdpa_iotlb_put(less);
}

static void
a_queue_that_cannot_stop_alone_fails_the_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;
	char why[256];

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_int_equal(f->fake->status, 0);
	assert_int_equal(f->transport.n, 0);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "queue 0: descriptor table at 0x100000"));
	assert_non_null(strstr(why, "outside guest memory, and it cannot be stopped alone"));
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), -EIO);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
}

static void
a_ring_is_looked_at_again_when_its_size_changes(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *less = table(f, f->tlb, 0x1);
	uint64_t end = IOVA(0) + REGION_SIZE;

	assert_int_equal(vdpa_set_status(f->vdev, 0x1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x3), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0xb), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, f->tlb), 0);
	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 8), 0);
	assert_int_equal(vdpa_set_vq_address(f->vdev, 0, end - 8 * 16, IOVA(0), IOVA(0) + 0x800),
			 0);
	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 16), -EFAULT);
	assert_non_null(strstr(vdpa_error_message(), "descriptor table"));
	assert_int_equal(f->fake->vq[0].num, 8);
	/* Nor does it become ready where its memory has gone meanwhile. */
	assert_int_equal(vdpa_set_vq_num(f->vdev, 1, 8), 0);
	assert_int_equal(vdpa_set_vq_address(f->vdev, 1, IOVA(1), IOVA(1) + 0x400, IOVA(1) + 0x800),
			 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, less), 0);
	assert_int_equal(vdpa_set_vq_ready(f->vdev, 1, true), -EFAULT);
	assert_false(f->fake->vq[1].ready);
	assert_int_equal(vdpa_set_vq_ready(f->vdev, 0, true), 0);
	vdpa_iotlb_put(less);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(memory_is_mapped_once_whatever_starts_and_stops),
		TEST(memory_is_set_in_any_state),
		TEST(nothing_of_a_binding_is_left_at_its_end),
		TEST(a_queue_whose_memory_goes_stops_and_the_others_run_on),
		TEST(a_queue_that_cannot_stop_alone_fails_the_device),
		TEST(a_ring_is_looked_at_again_when_its_size_changes),
		TEST(a_start_that_fails_maps_nothing_twice),
		TEST(a_device_that_does_not_reset_is_kept_out_by_the_iommu),
		TEST(memory_that_cannot_be_unmapped_fails_the_device_until_it_can),
		TEST(hotplug_while_running_maps_only_what_changed),
		TEST(hundreds_of_regions_come_and_go),
		TEST(a_change_of_memory_that_fails_is_taken_back),
		TEST(memory_taken_away_for_a_failed_change_comes_back),
		TEST(devices_that_share_a_domain_serve_one_guest),
		TEST(a_driver_that_maps_gets_the_difference_of_ranges),
		TEST(a_device_needs_one_way_to_map_and_no_more),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
