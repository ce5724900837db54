/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Queues of devices like a standard virtio function, which start together, stop together, and say
 * nothing of where they stand.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "hardware_test.h"

static void
call_eventfds_are_swapped_without_touching_anything_else(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->calls = 0;
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 0, f->fd[0]), 0);
	assert_int_equal(f->fake->calls, 1);
	assert_int_equal(f->fake->vq[0].call_fd, f->fd[0]);
	assert_int_equal(f->fake->resets, 2);
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 0, -1), 0);
}

static void
the_first_stop_stops_all_and_each_says_where(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 0, 70, 70);
	split_ring(f, 1, 9, 5);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 70);
	assert_int_equal(f->fake->status, 0);
	/* What the front end still says of the other has no effect, and is no error. */
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 1, -1), 0);
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 1, false), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, f->tlb), 0);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "stops as a whole"));
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 5);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), -EPROTO);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* A driver that begins anew finds a device that works. One that goes on is refused: the
	 * device took buffers of which it is not known whether they were used. */
	f->vqs[1].state = vqst;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
	assert_non_null(
		strstr(vdpa_error_message(), "hw0: queue 1: it stopped with buffers in flight"));
	f->vqs[1].state.split.avail_index = 0;
	split_ring(f, 1, 0, 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_false(is_on_shadow(f, 1));
}

static void
a_queue_goes_on_in_the_middle_by_a_shadow(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 1, 5, 5);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 5);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->vqs[1].state = vqst;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_true(!is_on_shadow(f, 0) && is_on_shadow(f, 1));
	/* And the shadow says where. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 5);
	/* Where shadows are ruled out it does not. */
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->transport.n, 2);
	for (enum vdpa_migration mode = VDPA_MIGRATION_LOG; mode <= VDPA_MIGRATION_OFF; mode++) {
		vdpa_device_set_migration(f->vdev, mode);
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
		assert_non_null(strstr(vdpa_error_message(),
				       "hw0: queue 1: it goes on in the middle of its ring"));
		assert_int_equal(f->transport.n, 2);
	}
}

static void
a_place_in_the_middle_is_never_told_as_the_beginning(void **state)
{
	static const uint16_t used_desc = 1u << 7 | 1u << 15, avail_desc = 1u << 7;
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	/* Untouched, but for buffers that the guest has made available: from the beginning. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 0, 8, 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* Used 65536 times. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 0, 3, 65535);
	split_ring(f, 0, 3, 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_not_equal(vqst.split.avail_index, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* A packed ring, untouched and used. */
	f->start.features |= UINT64_C(1) << 34;
	for (unsigned int i = 0; i < 2; i++)
		f->vqs[i].state.packed.last_avail_counter =
			f->vqs[i].state.packed.last_used_counter = 1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	put16(f, f->vqs[0].desc + 14, avail_desc);
	put16(f, f->vqs[1].desc + 14, used_desc);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_memory_equal(&vqst, &f->vqs[0].state, sizeof(vqst));
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
	f->vqs[1].state = vqst;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
}

static void
a_queue_that_can_be_reset_stops_and_starts_alone(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	f->fake->resets_vqs = true;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 0, 7, 7);
	split_ring(f, 1, 7, 7);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 7);
	assert_true(!f->fake->vq[0].ready && f->fake->vq[1].ready);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(f->transport.n, 2);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 0, &f->vqs[0]), 0);
	assert_true(f->fake->vq[0].ready);
	assert_int_equal(f->fake->resets, 2);
	assert_false(is_on_shadow(f, 0));
	/* It began anew, whatever its ring says; the other goes on in the middle. */
	split_ring(f, 0, 0, 0);
	/* Another one was never set up, and is as late as ever: the device starts again. */
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(f->fake->resets, 4);
	assert_true(!is_on_shadow(f, 0) && is_on_shadow(f, 1) && !is_on_shadow(f, 2));
}

static void
a_late_queue_restarts_a_device_that_has_done_nothing(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 0, 8, 0);
	for (uint16_t i = 0; i < 8; i++)
		put16(f, f->vqs[0].driver + 4 + 2 * i, i);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready && f->fake->vq[2].ready);
	assert_int_equal(f->transport.n, 2);
}

static void
a_late_queue_takes_the_others_to_shadows_where_they_stand(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	split_ring(f, 1, 1, 1);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_true(!is_on_shadow(f, 0) && is_on_shadow(f, 1) && !is_on_shadow(f, 2));
}

/* Two buffers, of which the device has used the later one. */
static void
use_out_of_order(struct fixture *f, unsigned int idx)
{
	split_ring(f, idx, 2, 1);
	put16(f, f->vqs[idx].driver + 4, 0);
	put16(f, f->vqs[idx].driver + 6, 1);
	put16(f, f->vqs[idx].device + 4, 1);
}

static void
a_late_queue_is_refused_where_another_s_place_is_not_known(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->calls = f->fake->resets = 0;
	use_out_of_order(f, 1);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "hw0: queue 1 has been used"));
	/* The others do not notice. */
	assert_int_equal(f->fake->calls + f->fake->resets, 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready);
}

static void
use_the_later_buffer(void *arg)
{
	use_out_of_order(arg, 0);
}

static void
a_buffer_used_while_the_device_stops_for_a_late_queue_fails_it(void **state)
{
	struct fixture *f = *state;
	char why[256];

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->on_reset = use_the_later_buffer;
	f->fake->on_reset_arg = f;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EIO);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "did not start again"));
	assert_non_null(strstr(why, "where queue 0 stopped is not known"));
	f->fake->on_reset = NULL;
}

static void
break_down(void *arg)
{
	vdpa_device_fail(((struct fixture *)arg)->vdev, -1, -EIO, "it broke down");
}

/* A reset forgets what was reported before: it is more than a restart can mend. */
static void
a_device_that_fails_while_it_stops_for_a_late_queue_does_not_go_on(void **state)
{
	struct fixture *f = *state;
	char why[256];

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->on_reset = break_down;
	f->fake->on_reset_arg = f;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "it broke down"));
	f->fake->on_reset = NULL;
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "it broke down"));
}

static void
a_queue_that_cannot_be_disabled_runs_on(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->calls = f->fake->resets = 0;
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, false), 0);
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, true), 0);
	assert_int_equal(f->fake->calls + f->fake->resets, 0);
	assert_true(f->fake->vq[0].ready);
}

static void
post(struct vdpa_work *work)
{
	sem_post(work->arg);
}

/* Wait for what the device has to do. */
static void
flush(struct vdpa_device *vdev)
{
	sem_t sem;
	struct vdpa_work work = {.run = post, .arg = &sem};

	sem_init(&sem, 0, 0);
	vdpa_work_post(&vdev->core->work, &work);
	sem_wait(&sem);
	vdpa_work_cancel(&work);
	sem_destroy(&sem);
}

static void
a_queue_that_does_not_stop_fails_the_device_at_once(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;
	char why[256];

	f->fake->resets_vqs = true;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->calls = 0;
	f->fake->fail_at = 1;
	f->fake->resets = 0;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), -EIO);
	assert_string_equal(f->fake->failed_op, "hw_reset_vq");
	/* Nobody has to wait for the control loop, nor for what the next queue would cost. */
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_int_equal(f->fake->status, 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), -EIO);
	assert_int_equal(f->fake->calls, 1);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_string_equal(why, "queue 0: it does not stop: reset_vq: Input/output error (EIO)");
	flush(f->vdev);
	assert_int_equal(f->fake->resets, 1);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
}

static void
hang(void *arg)
{
	sem_t *sems = arg;

	sem_post(&sems[0]);
	sem_wait(&sems[1]);
}

/* The reset of one that does not answer takes its time-outs. */
static void
a_failed_device_that_hangs_holds_up_no_other(void **state)
{
	struct fixture *f = *state;
	struct fake_device *other = fake_device_new("other", false);
	int kick = eventfd(0, EFD_NONBLOCK);
	sem_t sems[2];

	sem_init(&sems[0], 0, 0);
	sem_init(&sems[1], 0, 0);
	assert_int_equal(vdpa_register_device(&other->vdev), 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->vqs[0].kick_fd = kick;
	assert_int_equal(vdpa_device_start(&other->vdev, &f->start), 0);
	f->fake->on_reset = hang;
	f->fake->on_reset_arg = sems;
	vdpa_device_fail(f->vdev, -1, ETIMEDOUT, "it is stuck");
	sem_wait(&sems[0]);
	eventfd_write(kick, 1);
	EVENTUALLY(__atomic_load_n(&other->vq[0].kicks, __ATOMIC_SEQ_CST) == 1);
	vdpa_device_fail(&other->vdev, -1, EIO, "it fails, too");
	EVENTUALLY(vdpa_device_get_state(&other->vdev) == VDPA_STATE_FAILED);
	assert_int_not_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	f->fake->on_reset = NULL;
	sem_post(&sems[1]);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);

	vdpa_unregister_device(&other->vdev);
	vdpa_put_device(&other->vdev);
	close(kick);
	sem_destroy(&sems[0]);
	sem_destroy(&sems[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(call_eventfds_are_swapped_without_touching_anything_else),
		TEST(the_first_stop_stops_all_and_each_says_where),
		TEST(a_queue_goes_on_in_the_middle_by_a_shadow),
		TEST(a_place_in_the_middle_is_never_told_as_the_beginning),
		TEST(a_queue_that_can_be_reset_stops_and_starts_alone),
		TEST(a_late_queue_restarts_a_device_that_has_done_nothing),
		TEST(a_late_queue_takes_the_others_to_shadows_where_they_stand),
		TEST(a_late_queue_is_refused_where_another_s_place_is_not_known),
		TEST(a_buffer_used_while_the_device_stops_for_a_late_queue_fails_it),
		TEST(a_device_that_fails_while_it_stops_for_a_late_queue_does_not_go_on),
		TEST(a_queue_that_cannot_be_disabled_runs_on),
		TEST(a_queue_that_does_not_stop_fails_the_device_at_once),
		TEST(a_failed_device_that_hangs_holds_up_no_other),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
