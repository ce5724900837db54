/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where the queues of a device stand that is reset to stop one of them, and that knows it: asked
 * before the reset, kept, and loaded by the next start. And what has suspend, and cannot suspend.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "hardware_test.h"

#define PACKED	  (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define USED_DESC (1u << 7 | 1u << 15)

static void
start_telling(struct fixture *f, uint64_t features)
{
	f->fake->tells_places = true;
	f->start.features |= features;
	for (unsigned int i = 0; features != 0 && i < FAKE_VQS; i++)
		f->vqs[i].state.packed.last_avail_counter =
			f->vqs[i].state.packed.last_used_counter = 1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
}

/* Of a packed ring in use the rings tell nothing. */
static struct vdpa_vq_state
packed_at(uint16_t idx)
{
	return (struct vdpa_vq_state){.packed = {.last_avail_idx = idx,
						 .last_used_idx = idx,
						 .last_avail_counter = 1,
						 .last_used_counter = 1}};
}

static void
use_packed(struct fixture *f, unsigned int idx, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++)
		put16(f, f->vqs[idx].desc + i * 16u + 14, USED_DESC);
	f->fake->vq[idx].state = packed_at(n);
}

static void
places_that_the_device_tells_outlive_its_reset(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place[2], expect;

	start_telling(f, PACKED);
	use_packed(f, 0, 3);
	use_packed(f, 1, 5);
	for (unsigned int i = 0; i < 2; i++) {
		expect = packed_at((uint16_t)(3 + 2 * i));
		assert_int_equal(vdpa_device_stop_vq(f->vdev, (uint16_t)i, &place[i]), 0);
		assert_memory_equal(&place[i], &expect, sizeof(expect));
	}
	assert_int_equal(f->fake->status, 0);
	/* And it goes on there. */
	f->vqs[0].state = place[0];
	f->vqs[1].state = place[1];
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_memory_equal(&f->fake->vq[1].state, &expect, sizeof(expect));
}

static void
go_on(void *arg)
{
	struct fixture *f = arg;

	put16(f, f->vqs[0].device + 2, 9);
}

/* It could be reset only, and has used two more between its word and that. */
static void
a_place_told_by_a_queue_that_runs_catches_up(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;

	start_telling(f, 0);
	split_ring(f, 0, 12, 7);
	split_ring(f, 1, 65535, 65535);
	f->fake->vq[0].state.split.avail_index = 7;
	/* More was taken than was used; the device says that it would go on behind it. */
	f->fake->vq[1].state.split.avail_index = 2;
	f->fake->on_reset = go_on;
	f->fake->on_reset_arg = f;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	f->fake->on_reset = NULL;
	assert_int_equal(place.split.avail_index, 9);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
	assert_int_equal(place.split.avail_index, 2);
}

static void
go_on_packed(void *arg)
{
	struct fixture *f = arg;

	put16(f, f->vqs[0].desc + 3 * 16 + 14, USED_DESC);
}

/* Nobody knows how far: not the place that was told, nor any that a ring of this size has. */
static void
a_packed_queue_that_went_on_has_no_place(void **state)
{
	struct vdpa_vq_state place;
	struct fixture *f = *state;

	start_telling(f, PACKED);
	use_packed(f, 0, 3);
	f->fake->on_reset = go_on_packed;
	f->fake->on_reset_arg = f;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	f->fake->on_reset = NULL;
	assert_true(place.packed.last_avail_idx >= f->vqs[0].num);
	assert_true(place.packed.last_used_idx >= f->vqs[0].num);
	/* Nor does anybody begin there. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &f->vqs[1].state), 0);
	f->vqs[0].state = place;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "queue 0: it stopped with buffers in flight"));
}

static void
queues_are_stopped_before_they_are_asked(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;

	f->fake->stops_vqs = true;
	start_telling(f, 0);
	f->fake->calls = 0;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	/* set_vq_ready and get_vq_state of two. */
	assert_int_equal(f->fake->calls, 4);
}

static void
a_device_that_fails_to_tell_one_place_is_asked_for_no_other(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;

	start_telling(f, 0);
	split_ring(f, 0, 7, 7);
	split_ring(f, 1, 5, 5);
	f->fake->calls = 0;
	f->fake->fail_at = 1;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &place), 0);
	assert_int_equal(f->fake->calls, 1);
	assert_string_equal(f->fake->failed_op, "fake_get_vq_state");
	assert_int_equal(place.split.avail_index, 7);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
	assert_int_equal(place.split.avail_index, 5);
}

static void
a_late_queue_restarts_a_device_that_tells_places(void **state)
{
	struct fixture *f = *state;

	start_telling(f, 0);
	split_ring(f, 0, 7, 7);
	split_ring(f, 1, 5, 5);
	f->fake->vq[0].state.split.avail_index = 7;
	f->fake->vq[1].state.split.avail_index = 5;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	for (unsigned int i = 0; i < 3; i++)
		assert_true(f->fake->vq[i].ready);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 7);
	assert_int_equal(f->fake->vq[1].state.split.avail_index, 5);
	assert_int_equal(f->fake->vq[2].state.split.avail_index, 0);
}

static void
a_late_queue_fails_a_device_whose_place_is_lost(void **state)
{
	struct fixture *f = *state;
	char why[256];

	start_telling(f, PACKED);
	use_packed(f, 0, 3);
	f->fake->on_reset = go_on_packed;
	f->fake->on_reset_arg = f;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EIO);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	f->fake->on_reset = NULL;
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "did not start again: where queue 0 stopped is not known"));
}

/* suspend that says "cannot". */

static struct fake_device *
start_other(struct fixture *f)
{
	struct fake_device *fake = fake_device_new("soft0", false);

	fake->no_suspend = true;
	assert_int_equal(vdpa_register_device(&fake->vdev), 0);
	assert_int_equal(vdpa_device_start(&fake->vdev, &f->start), 0);
	fake->resets = 0;
	return fake;
}

static void
delete_other(struct fake_device *fake)
{
	vdpa_unregister_device(&fake->vdev);
	vdpa_put_device(&fake->vdev);
}

static void
a_device_that_cannot_suspend_after_all_is_reset(void **state)
{
	struct fixture *f = *state;
	struct fake_device *fake = start_other(f);
	struct vdpa_vq_state place;

	fake->vq[0].state.split.avail_index = 4;
	fake->vq[1].state.split.avail_index = 6;
	assert_int_equal(vdpa_device_stop_vq(&fake->vdev, 0, &place), 0);
	assert_int_equal(place.split.avail_index, 4);
	assert_int_equal(vdpa_device_get_state(&fake->vdev), VDPA_STATE_IDLE);
	assert_int_equal(fake->resets, 1);
	assert_int_equal(vdpa_device_stop_vq(&fake->vdev, 1, &place), 0);
	assert_int_equal(place.split.avail_index, 6);
	delete_other(fake);
}

static void
a_late_queue_restarts_a_device_that_cannot_suspend_after_all(void **state)
{
	struct fixture *f = *state;
	struct fake_device *fake = start_other(f);

	fake->vq[1].state.split.avail_index = 6;
	assert_int_equal(vdpa_device_start_vq(&fake->vdev, 2, &f->vqs[2]), 0);
	assert_true(fake->vq[2].ready);
	assert_int_equal(fake->vq[1].state.split.avail_index, 6);
	assert_int_equal(vdpa_device_enable_vq(&fake->vdev, 1, false), 0);
	assert_int_equal(vdpa_device_get_state(&fake->vdev), VDPA_STATE_RUNNING);
	delete_other(fake);
}

/* The caller of the step itself hears it. */
static void
a_suspension_that_cannot_be_is_refused(void **state)
{
	struct fixture *f = *state;
	struct fake_device *fake = start_other(f);

	assert_int_equal(vdpa_suspend(&fake->vdev), -EOPNOTSUPP);
	assert_string_equal(vdpa_error_message(), "soft0: the firmware is too old");
	assert_int_equal(vdpa_device_get_state(&fake->vdev), VDPA_STATE_RUNNING);
	delete_other(fake);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(places_that_the_device_tells_outlive_its_reset),
		TEST(a_place_told_by_a_queue_that_runs_catches_up),
		TEST(a_packed_queue_that_went_on_has_no_place),
		TEST(queues_are_stopped_before_they_are_asked),
		TEST(a_device_that_fails_to_tell_one_place_is_asked_for_no_other),
		TEST(a_late_queue_restarts_a_device_that_tells_places),
		TEST(a_late_queue_fails_a_device_whose_place_is_lost),
		TEST(a_device_that_cannot_suspend_after_all_is_reset),
		TEST(a_late_queue_restarts_a_device_that_cannot_suspend_after_all),
		TEST(a_suspension_that_cannot_be_is_refused),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
