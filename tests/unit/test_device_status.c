/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The core's rules of status, features and rings: steps out of order are refused. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "device_test.h"

static void
status_bits_are_set_in_order(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_set_status(f->vdev, 0x01), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_CONFIGURING);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0f), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_set_status(f->vdev, 0), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	assert_int_equal(f->fake->status, 0);
}

/* Every transition from every reachable status: what is not an allowed step is refused and changes
 * nothing. */
static void
every_illegal_status_transition_is_refused(void **state)
{
	static const uint8_t path[] = {0x00, 0x01, 0x03, 0x0b, 0x0f};
	struct fixture *f = *state;
	unsigned int refused = 0;

	for (unsigned int at = 0; at < sizeof(path); at++) {
		for (unsigned int to = 1; to < 256; to++) {
			bool forward = at + 1 < sizeof(path) && to == path[at + 1];
			bool same = to == path[at];
			/* ACKNOWLEDGE and DRIVER may come together; a driver may give up at any
			 * time. */
			bool both = at == 0 && to == 0x03;
			bool gives_up = (to & 0x80) != 0;

			assert_int_equal(vdpa_reset(f->vdev), 0);
			for (unsigned int i = 1; i <= at; i++) {
				if (path[i] == 0x0b)
					assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
				assert_int_equal(vdpa_set_status(f->vdev, path[i]), 0);
			}
			if (to == 0x0b && at == 2)
				assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
			if (gives_up)
				continue;
			if (forward || same || both) {
				assert_int_equal(vdpa_set_status(f->vdev, (uint8_t)to), 0);
				continue;
			}
			assert_int_equal(vdpa_set_status(f->vdev, (uint8_t)to), -EPROTO);
			assert_int_equal(f->fake->status, path[at]);
			assert_int_equal(vdpa_get_status(f->vdev), path[at]);
			refused++;
		}
	}
	/* 5 statuses x 127 values without FAILED, less 4 steps, 4 repeats, 1 double step. */
	assert_int_equal(refused, 5 * 127 - 9);
}

static void
features_ok_that_does_not_stick_is_an_error(void **state)
{
	struct fixture *f = *state;

	f->fake->sticky_status = true;
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "refuses the features"));
}

static void
features_are_fixed_after_features_ok(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), -EPROTO);
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), -EPROTO);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1 | 1), -EINVAL);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), -EPROTO);
	assert_int_equal(f->fake->features, V1);
}

static void
ring_setup_is_refused_before_features_ok_and_while_ready(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state initial = {0};

	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 64), -EPROTO);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 64), -EBUSY);
	assert_int_equal(vdpa_set_vq_address(f->vdev, 0, 0x10000, 0x11000, 0x12000), -EBUSY);
	assert_int_equal(vdpa_set_vq_state(f->vdev, 0, &initial), -EBUSY);
	/* A queue that is not ready, on a device that takes none after DRIVER_OK. */
	assert_int_equal(vdpa_set_vq_num(f->vdev, 3, 64), -EBUSY);
	assert_int_equal(vdpa_set_vq_num(f->vdev, FAKE_VQS, 64), -EINVAL);
	/* Suspended: the state may be set. */
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_int_equal(vdpa_set_vq_state(f->vdev, 0, &initial), 0);
	assert_int_equal(vdpa_resume(f->vdev), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
bad_rings_are_refused_with_the_reason(void **state)
{
	static const struct {
		uint32_t num;
		uint64_t desc, driver, device;
		int rc;
		const char *says;
	} bad[] = {
		{0, 0x10000, 0x11000, 0x12000, -EINVAL, "size 0"},
		{2, 0x10000, 0x11000, 0x12000, -EINVAL, "allowed are 4 to 256"},
		{96, 0x10000, 0x11000, 0x12000, -EINVAL, "power of two"},
		{512, 0x10000, 0x11000, 0x12000, -EINVAL, "allowed are 4 to 256"},
		{64, 0x10008, 0x11000, 0x12000, -EINVAL, "aligned"},
		{64, 0x10000, 0x11001, 0x12000, -EINVAL, "aligned"},
		{64, 0x10000, 0x11000, 0x12002, -EINVAL, "aligned"},
		{64, 0x0, 0x11000, 0x12000, -EFAULT, "outside guest memory"},
		{64, 0x10000 + MEM_SIZE - 16, 0x11000, 0x12000, -EFAULT, "outside guest memory"},
		{64, 0x10000, 0x10000 + MEM_SIZE - 2, 0x12000, -EFAULT, "avail ring"},
		{64, 0x10000, 0x11000, 0xfffffffffffffff0, -EFAULT, "used ring"},
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		f->vqs[1].num = bad[i].num;
		f->vqs[1].desc = bad[i].desc;
		f->vqs[1].driver = bad[i].driver;
		f->vqs[1].device = bad[i].device;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), bad[i].rc);
		assert_non_null(strstr(vdpa_error_message(), bad[i].says));
		assert_non_null(strstr(vdpa_error_message(), "fake0: queue 1"));
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(status_bits_are_set_in_order),
		TEST(every_illegal_status_transition_is_refused),
		TEST(features_ok_that_does_not_stick_is_an_error),
		TEST(features_are_fixed_after_features_ok),
		TEST(ring_setup_is_refused_before_features_ok_and_while_ready),
		TEST(bad_rings_are_refused_with_the_reason),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
