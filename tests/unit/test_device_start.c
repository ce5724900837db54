/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The core's rules of starts: one that fails is unwound, kicks are relayed, queues come late. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "device_test.h"

/* Fail each op of a start in turn: the start says so, and nothing is left behind. */
static void
start_unwinds_wherever_it_fails(void **state)
{
	struct fixture *f = *state;
	unsigned int fds = count_fds(), at;

	for (at = 1; at < 1000; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		f->fake->failed_op = NULL;
		if (vdpa_device_start(f->vdev, &f->start) == 0)
			break;
		assert_non_null(f->fake->failed_op);
		assert_non_null(strstr(vdpa_error_message(), "fake0"));
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
		nothing_is_left(f);
		assert_int_equal(count_fds(), fds);
	}
	/* 4 statuses, features, map, config_cb, 5 for each of 2 queues; kicks are relayed or an op.
	 */
	assert_in_range(at, 4 + 3 + 2 * 5 + 1, 4 + 3 + 2 * 6 + 1);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	f->fake->fail_at = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	nothing_is_left(f);
}

/* The driver knows why; what the core could say of it is less. */
static void
the_message_of_an_op_is_kept(void **state)
{
	struct fixture *f = *state;

	f->fake->sets_message = true;
	for (unsigned int at = 1;; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start(f->vdev, &f->start) == 0)
			break;
		if (strstr(f->fake->failed_op, "_vq_") != NULL)
			assert_non_null(strstr(vdpa_error_message(), "fake0: queue "));
		else
			assert_string_equal(vdpa_error_message(), "fake0: the fan has stopped");
		assert_non_null(strstr(vdpa_error_message(), ": the fan has stopped"));
	}
	/* An old message is not taken for the op's. */
	f->fake->sets_message = false;
	f->fake->calls = 0;
	f->fake->fail_at = 1;
	vdpa_error(EIO, "something else");
	assert_int_equal(vdpa_suspend(f->vdev), -EIO);
	assert_string_equal(vdpa_error_message(), "fake0: suspend: Input/output error");
}

static int
setup_own_kick(void **state)
{
	return setup_with(state, true);
}

static void
a_device_that_does_not_reset_is_failed_until_it_does(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->fail_reset = true;
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_true((vdpa_get_status(f->vdev) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ETIMEDOUT);
	/* It may still reach the memory, which therefore stays mapped. */
	assert_true(f->tlb->refcnt > 1);
	f->fake->fail_reset = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
kicks_are_relayed_until_the_queue_stops(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;
	unsigned int kicks;

	f->vqs[1].kick_fd = -1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	eventfd_write(f->kick_fd[0], 1);
	EVENTUALLY(__atomic_load_n(&f->fake->vq[0].kicks, __ATOMIC_SEQ_CST) == 1);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	kicks = f->fake->vq[0].kicks;
	eventfd_write(f->kick_fd[0], 1);
	usleep(20000);
	assert_int_equal(f->fake->vq[0].kicks, kicks);
}

static void
an_eventfd_is_refused_where_kicks_carry_data(void **state)
{
	struct fixture *f = *state;

	f->start.features = V1 | UINT64_C(1) << VIRTIO_F_NOTIFICATION_DATA;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "queue 0: kicks carry data"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	for (unsigned int i = 0; i < f->start.nvqs; i++)
		f->vqs[i].kick_fd = -1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, f->kick_fd[0]), -EOPNOTSUPP);
	/* Nor does the core kick by itself: it does not know the position. */
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, -1), 0);
	assert_int_equal(f->fake->vq[0].kicks, 0);
}

static void
a_device_that_waits_for_eventfds_itself_takes_them_beside_data(void **state)
{
	struct fixture *f = *state;

	f->start.features = V1 | UINT64_C(1) << VIRTIO_F_NOTIFICATION_DATA;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, f->kick_fd[2]), 0);
	assert_int_equal(f->fake->vq[0].kicks, 1);
}

static void
a_disabled_queue_goes_on_where_it_stopped(void **state)
{
	struct fixture *f = *state;

	for (unsigned int late = 0; late < 2; late++) {
		f->vdev->core->can.late_vqs = late != 0;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		f->fake->vq[0].state.split.avail_index = 42;
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, false), 0);
		assert_false(f->fake->vq[0].ready);
		assert_true(f->fake->vq[1].ready);
		/* What becomes of the device meanwhile does not lose it. */
		if (!late)
			assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
		else
			f->fake->vq[0].state.split.avail_index = 0;
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, true), 0);
		assert_true(f->fake->vq[0].ready);
		assert_int_equal(f->fake->vq[0].state.split.avail_index, 42);
		assert_int_equal(f->fake->vq[0].kick_fd, f->fake->vq[1].kick_fd);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
}

static void
a_failed_restart_for_a_late_queue_leaves_the_others_running(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	/* The second op: reading where the first queue stands. */
	f->fake->calls = 0;
	f->fake->fail_at = 2;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EIO);
	assert_string_equal(f->fake->failed_op, "fake_get_vq_state");
	assert_non_null(strstr(vdpa_error_message(), "queue 0: get_vq_state"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_false(f->fake->suspended);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready);
}

/* Whatever fails on the way: the device goes on, or it is FAILED and its front end hears of it. */
static void
a_failed_restart_never_leaves_a_device_idle_unheard(void **state)
{
	struct fixture *f = *state;
	unsigned int failed = 0;

	f->vdev->core->can.late_vqs = false;
	for (unsigned int at = 1;; at++) {
		f->fake->fail_at = 0;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]) == 0)
			break;
		assert_in_range(at, 1, 100);
		if (vdpa_device_get_state(f->vdev) != VDPA_STATE_RUNNING) {
			EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
			failed++;
		}
		f->fake->fail_at = 0;
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
	/* Suspend and the two states let it go on; the steps of the start do not. */
	assert_true(failed > 10);
}

static void
a_late_queue_restarts_a_device_that_cannot_take_it(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->vq[0].state.split.avail_index = 77;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready && f->fake->vq[2].ready);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 77);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EBUSY);
}

static void
a_late_queue_starts_alone_where_the_device_can(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = true;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (unsigned int at = 1;; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]) == 0)
			break;
		assert_true(at < 20);
		assert_false(f->fake->vq[2].ready && f->fake->failed_op == NULL);
		assert_int_equal(f->fake->vq[2].call_fd, -1);
		assert_null(f->vdev->core->vqs[2].relay.loop);
		assert_true(f->fake->vq[0].ready);
	}
	assert_true(f->fake->vq[2].ready);
}

static void
other_queues_keep_running_when_one_stops(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	/* Stopping one queue of a device that only stops as a whole: suspended, read, resumed. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->vq[0].state.split.avail_index = 5;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 5);
	assert_false(f->fake->vq[0].ready);
	assert_true(f->fake->vq[1].ready);
	assert_false(f->fake->suspended);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), -EPROTO);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(start_unwinds_wherever_it_fails),
		cmocka_unit_test_setup_teardown(start_unwinds_wherever_it_fails, setup_own_kick,
						teardown),
		TEST(a_device_that_does_not_reset_is_failed_until_it_does),
		TEST(kicks_are_relayed_until_the_queue_stops),
		TEST(an_eventfd_is_refused_where_kicks_carry_data),
		cmocka_unit_test_setup_teardown(
			a_device_that_waits_for_eventfds_itself_takes_them_beside_data,
			setup_own_kick, teardown),
		TEST(the_message_of_an_op_is_kept),
		TEST(a_disabled_queue_goes_on_where_it_stopped),
		TEST(a_failed_restart_for_a_late_queue_leaves_the_others_running),
		TEST(a_failed_restart_never_leaves_a_device_idle_unheard),
		TEST(a_late_queue_restarts_a_device_that_cannot_take_it),
		TEST(a_late_queue_starts_alone_where_the_device_can),
		TEST(other_queues_keep_running_when_one_stops),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
