/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Functions that offer VIRTIO_F_SUSPEND (virtio 1.4, 3.4): they stand still and go on by their
 * status, and those that do not, in time, have failed.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

#define SUSPEND	 RTE_BIT64(VIRTIO_F_SUSPEND)
#define S_RUNS	 0x0f
#define S_STANDS 0x1b

/* Of pairs; off: features that it does not offer otherwise. */
static void
add_suspendable(struct fixture *f, uint16_t pairs, uint64_t off)
{
	fake_virtio_init(&f->v, "v0", pairs);
	f->v.features = (f->v.features & ~off) | SUSPEND;
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.features = V1 | (pairs > 1 ? MQ : 0);
	fake_guest_set_queues(&f->guest, (uint16_t)(2 * pairs));
	start(f);
}

static void
assert_failed(struct fixture *f, const char *text)
{
	char why[256];

	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	if (strstr(why, text) == NULL)
		fail_msg("'%s' does not say '%s'", why, text);
}

static void
a_function_that_offers_it_stands_still_and_goes_on(void **state)
{
	struct fixture *f = *state;

	add_suspendable(f, 2, 0);
	assert_true(vdpa_get_capabilities(f->vdev)->suspend);
	/* Between the driver and the device. */
	assert_false(virtio_has(vdpa_get_device_features(f->vdev), VIRTIO_F_SUSPEND));
	assert_true(virtio_has(f->v.driver_features, VIRTIO_F_SUSPEND));
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_int_equal(f->v.status, S_STANDS);
	assert_false(vdpa_virtio_vq_runs(vdpa_virtio_device(f->vdev), 0));
	/* A kick waits for the end of it. */
	virtio_device_kick(device(f), 1);
	assert_int_equal(f->v.vq[1].kicks, 0);
	assert_int_equal(vdpa_resume(f->vdev), 0);
	assert_int_equal(f->v.status, S_RUNS);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(f->v.vq[i].kicks, 1);
	/* All of it again, and a stop of a suspended device. */
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.status, 0);
	start(f);
	virtio_device_kick(device(f), 1);
	assert_int_equal(f->v.vq[1].kicks, 1);
}

static void
a_function_without_it_cannot_suspend(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	start(f);
	assert_false(vdpa_get_capabilities(f->vdev)->suspend);
	assert_int_equal(vdpa_suspend(f->vdev), -EOPNOTSUPP);
	assert_int_equal(f->v.status, S_RUNS);
}

static void
a_suspended_device_is_given_no_command(void **state)
{
	struct fixture *f = *state;
	unsigned int commands;

	add_suspendable(f, 2, 0);
	commands = f->v.commands;
	assert_int_equal(f->v.pairs, 2);
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_int_equal(f->vdev->config->set_vq_enable(f->vdev, 2, false), 0);
	assert_int_equal(f->vdev->config->set_vq_enable(f->vdev, 3, false), 0);
	assert_int_equal(f->v.commands, commands);
	assert_int_equal(vdpa_resume(f->vdev), 0);
	assert_int_equal(f->v.pairs, 1);
}

static void
a_suspended_device_keeps_its_queues(void **state)
{
	struct fixture *f = *state;

	add_suspendable(f, 2, 0);
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_refused(f->vdev->config->set_vq_ready(f->vdev, 2, false), EOPNOTSUPP,
		       "a queue of a suspended device");
	/* What else is written to the status does not resume it. */
	assert_int_equal(f->vdev->config->set_status(f->vdev, S_RUNS | VIRTIO_CONFIG_S_FAILED), 0);
	assert_int_equal(f->v.status, S_STANDS | VIRTIO_CONFIG_S_FAILED);
}

static void
a_device_that_does_not_suspend_has_failed(void **state)
{
	struct fixture *f = *state;
	uint64_t began;

	add_suspendable(f, 1, 0);
	f->v.never_suspends = true;
	began = now_ms();
	assert_refused(vdpa_suspend(f->vdev), ETIMEDOUT, "does not suspend within 60 ms");
	assert_true(now_ms() - began < 5000);
	assert_failed(f, "does not suspend within 60 ms");
	/* Another session, and no more of it. */
	EVENTUALLY(f->v.status == 0);
	f->v.never_suspends = false;
	start(f);
	assert_int_equal(vdpa_suspend(f->vdev), 0);
}

static void
a_device_that_fails_to_suspend_has_failed(void **state)
{
	struct fixture *f = *state;

	add_suspendable(f, 1, 0);
	f->v.fails_to_suspend = true;
	assert_refused(vdpa_suspend(f->vdev), EIO, "it needs a reset");
	assert_failed(f, "does not suspend");
}

static void
a_device_that_does_not_resume_has_failed(void **state)
{
	struct fixture *f = *state;

	add_suspendable(f, 1, 0);
	f->v.never_resumes = true;
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_refused(vdpa_resume(f->vdev), ETIMEDOUT, "does not resume within 60 ms");
	assert_failed(f, "does not resume within 60 ms");
}

static void
set_index(struct fixture *f, uint64_t ring, uint16_t idx)
{
	uint16_t *p = vdpa_iotlb_range(f->guest.tlb, ring + 2, sizeof(*p));

	assert_non_null(p);
	*p = idx;
}

/* Two buffers are under way when the queue stops: the device has not taken them. */
static void
a_queue_of_a_suspended_device_stands_at_its_used_index(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	add_suspendable(f, 1, RTE_BIT64(VIRTIO_F_RING_RESET));
	assert_false(vdpa_get_capabilities(f->vdev)->late_vqs);
	for (unsigned int i = 0; i < 2; i++) {
		set_index(f, f->guest.vqs[i].driver, (uint16_t)(102 + i));
		set_index(f, f->guest.vqs[i].device, (uint16_t)(100 + i));
	}
	/* The index has come round. */
	set_index(f, f->guest.vqs[1].device, 0);
	set_index(f, f->guest.vqs[1].driver, 2);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), 0);
	assert_int_equal(at.split.avail_index, 100);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
	assert_int_equal(at.split.avail_index, 0);
	assert_int_not_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	/* It goes on only with all its queues, so that it was reset, when it stood still. */
	assert_int_equal(f->v.status, 0);
	assert_true(f->v.was_suspended);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_function_that_offers_it_stands_still_and_goes_on),
		T(a_function_without_it_cannot_suspend),
		T(a_suspended_device_is_given_no_command),
		T(a_suspended_device_keeps_its_queues),
		T(a_device_that_does_not_suspend_has_failed),
		T(a_device_that_fails_to_suspend_has_failed),
		T(a_device_that_does_not_resume_has_failed),
		T(a_queue_of_a_suspended_device_stands_at_its_used_index),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
