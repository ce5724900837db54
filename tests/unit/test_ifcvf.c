/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The ifcvf driver: where a queue begins and stopped in both layouts of the ring state, queues that
 * stop by queue_enable, the log, and a BAR 4 that is something else.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

#include "steps.h"

#define LM_BAR	     4
#define LM_SIZE	     0x1000
#define LM_CONTROL   0x00
#define LM_LOG_START 0x10
#define LM_LOG_END   0x18
#define ENABLE	     28 /* queue_enable, in the common configuration */
#define WRITES	     2048
#define HIGH_IOVA    0x10000000 /* of memory that comes later */
#define HIGH_LOG     0x4000	/* bytes of a log up to there */

/* What was written to the function, in order. */
static struct written {
	unsigned int region;
	uint64_t offset;
	uint32_t value;
} writes[WRITES];
static unsigned int n_writes;
static fake_pci_write_fn write_through;

static void
record(struct fake_pci *f, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct written *w = &writes[n_writes++];

	assert_in_range(n_writes, 0, WRITES);
	*w = (struct written){.region = region, .offset = offset};
	memcpy(&w->value, buf, RTE_MIN(len, sizeof(w->value)));
	write_through(f, region, offset, buf, len);
}

static void
watch_writes(struct fixture *f)
{
	n_writes = 0;
	write_through = f->v.pci.on_write;
	f->v.pci.on_write = record;
}

/* A net function with the block, found by its ids. */
static void
init_ifcvf(struct fixture *f, uint16_t device, uint16_t subsystem)
{
	fake_virtio_init_bar(&f->v, "v0", 2, 2);
	fake_pci_add_bar(&f->v.pci, LM_BAR, LM_SIZE, false);
	fake_pci_set_ids(&f->v.pci, 0x1af4, device, 0x8086, subsystem);
	f->guest.start.nvqs = 4;
	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].ready = true;
}

static void
add_ifcvf(struct fixture *f)
{
	init_ifcvf(f, 0x1041, 0x001a);
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_capabilities(f->vdev)->suspend, true);
}

static void *
lm(struct fixture *f, uint64_t offset)
{
	return &f->v.pci.bar[LM_BAR].mem[offset];
}

static uint64_t
lm64(struct fixture *f, uint64_t offset)
{
	uint64_t value;

	memcpy(&value, lm(f, offset), sizeof(value));
	return value;
}

/* Ring state. */

static void
the_wide_ring_state_has_avail_and_used(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;
	uint32_t value;

	add_ifcvf(f);
	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].state.split.avail_index = (uint16_t)(0xfff0 + 7 * i);
	start(f);
	for (uint16_t i = 0; i < 4; i++) {
		uint16_t at = (uint16_t)(0xfff0 + 7 * i);

		memcpy(&value, lm(f, 0x20 + i / 2 * 0x40 + i % 2 * 4), sizeof(value));
		assert_int_equal(value, at | (uint32_t)at << 16);
	}
	/* Taken up to 0x1260, of which 0x1250 were used: the rest is to be taken again. */
	value = 0x12501260;
	memcpy(lm(f, 0x64), &value, sizeof(value));
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 3, &place), 0);
	assert_int_equal(place.split.avail_index, 0x1250);
	assert_int_equal(f->v.vq[3].enable, 0);
	assert_int_equal(f->v.vq[2].enable, 1);
}

static void
the_narrow_ring_state_has_avail(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;
	uint16_t value;

	init_ifcvf(f, 0x1000, 0x0001);
	assert_int_equal(add(f, WORDS), 0);
	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].state.split.avail_index = (uint16_t)(100 + i);
	memset(lm(f, 0x20), 0xee, 0x20);
	start(f);
	for (uint16_t i = 0; i < 4; i++) {
		memcpy(&value, lm(f, 0x20 + 4 * i), sizeof(value));
		assert_int_equal(value, 100 + i);
		/* And nothing beside it. */
		memcpy(&value, lm(f, 0x22 + 4 * i), sizeof(value));
		assert_int_equal(value, 0xeeee);
	}
	value = 0xabcd;
	memcpy(lm(f, 0x20 + 4), &value, sizeof(value));
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
	assert_int_equal(place.split.avail_index, 0xabcd);
}

static void
a_packed_ring_goes_on_by_a_shadow_or_begins_anew(void **state)
{
	struct fixture *f = *state;

	add_ifcvf(f);
	f->guest.start.features = V1 | MQ | PACKED;
	start(f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->guest.vqs[1].state.packed.last_avail_idx = f->guest.vqs[1].state.packed.last_used_idx =
		5;
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	assert_true(!is_on_shadow(f, 0) && is_on_shadow(f, 1));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_OFF);
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EOPNOTSUPP,
		       "queue 1: it goes on in the middle of its ring");
}

static void
suspended_queues_stand_still_and_go_on(void **state)
{
	struct fixture *f = *state;

	add_ifcvf(f);
	start(f);
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	for (uint16_t i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].enable, 0);
		f->v.vq[i].kicks = 0;
	}
	assert_int_equal(vdpa_resume(f->vdev), 0);
	for (uint16_t i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].enable, 1);
		assert_int_equal(f->v.vq[i].kicks, 1);
	}
}

/* The log. */

static void
mark(struct fixture *f, uint64_t page)
{
	uint8_t *bits = fake_pci_dma(&f->v.pci, lm64(f, LM_LOG_START) + page / 8, 1);

	assert_non_null(bits);
	assert_true(lm64(f, LM_LOG_START) + page / 8 < lm64(f, LM_LOG_END));
	*bits |= (uint8_t)(1 << page % 8);
}

static bool
is_marked(const uint8_t *bits, uint64_t page)
{
	return (bits[page / 8] >> page % 8 & 1) != 0;
}

static void
written_pages_come_into_the_log(void **state)
{
	uint64_t used[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
	uint8_t bits[HIGH_LOG] = {0}, other[HIGH_LOG] = {0};
	struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits), .fd = -1};
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec[2];
	struct vdpa_iotlb *larger;
	unsigned int mapped, at = 0, stopped = 0;

	add_ifcvf(f);
	start(f);
	mapped = f->v.pci.n_mapped;
	assert_int_equal(vdpa_device_set_log(f->vdev, &log, used), 0);
	assert_int_equal(lm64(f, LM_CONTROL) & 1, 1);
	assert_int_equal(f->v.pci.n_mapped, mapped + 1);
	mark(f, 0x105);

	/* Another: the function goes on as it is, and no page is missed. */
	watch_writes(f);
	log.bitmap = other;
	assert_int_equal(vdpa_device_set_log(f->vdev, &log, used), 0);
	assert_int_equal(n_writes, 0);
	assert_true(is_marked(bits, 0x105) || is_marked(other, 0x105));

	/* Memory that needs a larger one: queues stand still while the function's changes. */
	mark(f, 0x106);
	spec[0] = spec[1] = (struct vdpa_mem_region_spec){
		.iova = MEM_IOVA, .size = MEM_SIZE, .fd = f->guest.mem_fd};
	spec[1].iova = spec[1].uaddr = HIGH_IOVA;
	assert_int_equal(vdpa_iotlb_create(NULL, spec, 2, &larger), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, larger), 0);
	vdpa_iotlb_put(larger);
	assert_true(is_marked(other, 0x106));
	assert_int_equal(f->v.pci.n_mapped, mapped + 2);
	for (; at < n_writes && !(writes[at].region == LM_BAR && writes[at].offset == LM_CONTROL);
	     at++)
		if (writes[at].region == 2 && writes[at].offset == ENABLE && writes[at].value == 0)
			stopped++;
	assert_int_equal(stopped, 4);
	for (uint16_t i = 0; i < 4; i++)
		assert_int_equal(f->v.vq[i].enable, 1);

	/* The last page, written before the stop. */
	mark(f, HIGH_IOVA >> 12);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_true(is_marked(other, HIGH_IOVA >> 12));
	assert_int_equal(lm64(f, LM_CONTROL) & 1, 0);
	assert_int_equal(f->v.pci.n_mapped, mapped + 1);
	end_binding(f);
}

/* The first queue is enabled, and no further one. */
static void
enable_one(struct fake_pci *f, unsigned int region, uint64_t offset, const void *buf, size_t len)
{
	struct fake_virtio *v = (struct fake_virtio *)(void *)f;

	write_through(f, region, offset, buf, len);
	if (region == v->bar && offset == ENABLE && *(const uint16_t *)buf == 1)
		v->never_enables = true;
}

static void
queues_that_do_not_all_go_on_stand_still(void **state)
{
	struct fixture *f = *state;

	add_ifcvf(f);
	start(f);
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	write_through = f->v.pci.on_write;
	f->v.pci.on_write = enable_one;
	assert_refused(vdpa_resume(f->vdev), EIO, "does not enable queue 1");
	for (uint16_t i = 0; i < 4; i++)
		assert_int_equal(f->v.vq[i].enable, 0);
	f->v.pci.on_write = write_through;
	f->v.never_enables = false;
	assert_int_equal(vdpa_resume(f->vdev), 0);
	assert_int_equal(f->v.vq[3].enable, 1);
}

/* Stopped for a larger bitmap, the queues do not go on: nobody but us knows. */
static void
queues_that_do_not_go_on_with_another_bitmap_fail_the_device(void **state)
{
	uint64_t used[4] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
	uint8_t bits[HIGH_LOG] = {0};
	struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits), .fd = -1};
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec[2];
	struct vdpa_iotlb *larger;
	uint64_t log_start_at;

	add_ifcvf(f);
	start(f);
	assert_int_equal(vdpa_device_set_log(f->vdev, &log, used), 0);
	spec[0] = spec[1] = (struct vdpa_mem_region_spec){
		.iova = MEM_IOVA, .size = MEM_SIZE, .fd = f->guest.mem_fd};
	spec[1].iova = spec[1].uaddr = HIGH_IOVA;
	assert_int_equal(vdpa_iotlb_create(NULL, spec, 2, &larger), 0);
	f->v.never_enables = true;
	/* It logs to the one that it had as long as it is not reset. */
	vdpa_device_lock(f->vdev);
	log_start_at = lm64(f, LM_LOG_START);
	assert_refused(vdpa_step_map(f->vdev, larger), EIO, "does not enable queue 0");
	assert_int_equal(lm64(f, LM_LOG_START), log_start_at);
	assert_int_equal(lm64(f, LM_CONTROL) & 1, 1);
	vdpa_device_unlock(f->vdev);
	vdpa_iotlb_put(larger);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(lm64(f, LM_CONTROL) & 1, 0);
	end_binding(f);
}

/* Queue 1 does not stop, and queue 0, which has, does not go on. */
static void
ignore_enables(struct fake_pci *pci, unsigned int region, uint64_t offset, const void *buf,
	       size_t len)
{
	struct fake_virtio *v = (struct fake_virtio *)pci;
	const uint8_t *enable = buf;

	if (region == v->bar && offset == ENABLE && (*enable != 0 || v->queue_select == 1))
		return;
	write_through(pci, region, offset, buf, len);
}

static void
a_suspension_that_cannot_be_taken_back_fails_the_device(void **state)
{
	struct fixture *f = *state;

	add_ifcvf(f);
	start(f);
	write_through = f->v.pci.on_write;
	f->v.pci.on_write = ignore_enables;
	assert_refused(vdpa_suspend(f->vdev), ETIMEDOUT, "does not disable queue 1");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
}

/* What is refused, and what is done without. */

static void
too_small_or_incomplete_functions_are_refused(void **state)
{
	struct fixture *f = *state;

	init_ifcvf(f, 0x1041, 0x001a);
	f->v.features &= ~RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM);
	assert_refused(add(f, WORDS), ENOTSUP, "does not offer VIRTIO_F_ACCESS_PLATFORM");
	f->v.features |= RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM);
	assert_refused(add(f, WORDS "queue_size 32"), EINVAL,
		       "queues of 32 entries, ifcvf needs 64");
	f->v.pci.bar[LM_BAR].size = 0x40;
	assert_refused(add(f, WORDS), EPROTO, "too few for the ring state of 4 queues");
	assert_null(f->v.pci.open);
}

static void
a_queue_below_the_smallest_size_is_refused(void **state)
{
	struct fixture *f = *state;

	add_ifcvf(f);
	f->guest.vqs[1].num = 32;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EINVAL, "64");
}

/* Add, start, stop and delete a function whose structures are in BAR 4. */
static void
live_with_virtio_in_bar_4(struct fixture *f, const char *words)
{
	fake_virtio_init(&f->v, "v0", 2);
	fake_pci_set_ids(&f->v.pci, 0x1af4, 0x1041, 0x8086, 0x001a);
	watch_writes(f);
	assert_int_equal(add(f, words), 0);
	f->guest.start.nvqs = 4;
	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].ready = true;
	start(f);
	assert_false(vdpa_get_capabilities(f->vdev)->suspend);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* No ring state: only the beginning. */
	go_on_at(f, 0, 1);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_OFF);
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EOPNOTSUPP,
		       "queue 0: it goes on in the middle of its ring");
	go_on_at(f, 0, 0);
	assert_int_equal(vdpa_dev_del("v0"), 0);
}

static void
a_bar_4_with_virtio_in_it_is_written_as_virtio_only(void **state)
{
	static struct written plain[WRITES];
	struct fixture *f = *state;
	unsigned int n;

	live_with_virtio_in_bar_4(f, WORDS "driver virtio");
	n = n_writes;
	memcpy(plain, writes, sizeof(plain));
	fake_virtio_fini(&f->v);
	live_with_virtio_in_bar_4(f, WORDS "driver ifcvf");
	assert_int_equal(n_writes, n);
	for (unsigned int i = 0; i < n; i++) {
		assert_int_equal(writes[i].region, plain[i].region);
		assert_int_equal(writes[i].offset, plain[i].offset);
		assert_int_equal(writes[i].value, plain[i].value);
	}
}

static void
a_bar_4_with_msi_x_in_it_is_not_written(void **state)
{
	struct fixture *f = *state;

	/* Where the table is: the first word of the capability that has it. */
	init_ifcvf(f, 0x1041, 0x001a);
	for (unsigned int at = f->v.pci.config[0x34]; at != 0; at = f->v.pci.config[at + 1])
		if (f->v.pci.config[at] == 0x11)
			f->v.pci.config[at + 8] |= LM_BAR; /* the pending bits */
	f->v.pci.bar[LM_BAR].size = 0x2000;
	watch_writes(f);
	assert_int_equal(add(f, WORDS), 0);
	assert_false(vdpa_get_capabilities(f->vdev)->suspend);
	start(f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	for (unsigned int i = 0; i < n_writes; i++)
		assert_int_not_equal(writes[i].region, LM_BAR);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_wide_ring_state_has_avail_and_used),
		T(the_narrow_ring_state_has_avail),
		T(a_packed_ring_goes_on_by_a_shadow_or_begins_anew),
		T(suspended_queues_stand_still_and_go_on),
		T(written_pages_come_into_the_log),
		T(a_suspension_that_cannot_be_taken_back_fails_the_device),
		T(queues_that_do_not_all_go_on_stand_still),
		T(queues_that_do_not_go_on_with_another_bitmap_fail_the_device),
		T(too_small_or_incomplete_functions_are_refused),
		T(a_queue_below_the_smallest_size_is_refused),
		T(a_bar_4_with_virtio_in_it_is_written_as_virtio_only),
		T(a_bar_4_with_msi_x_in_it_is_not_written),
	};

	return cmocka_run_group_tests_name("ifcvf", tests, group_setup, group_teardown);
}
