/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* VIRTIO_F_SUSPEND of vdpa-model (virtio 1.4, 3.4), as a driver meets it in the status. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model_test.h"
#include "virtio_compat.h"

#define SUSPEND	  RTE_BIT64(VIRTIO_F_SUSPEND)
#define S_RUNS	  (S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
#define S_STANDS  (S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_SUSPEND)
#define S_SUSPEND VIRTIO_CONFIG_S_SUSPEND

static void
offer_suspend(struct vp_params *params)
{
	params->features |= SUSPEND;
}

static int
setup_suspend(void **state)
{
	return setup_kind(state, NULL, VP_PAGE, offer_suspend);
}

static void
set_status(struct owner *o, uint8_t value)
{
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, value);
}

static void
run_with(struct owner *o, uint64_t features)
{
	negotiate(o, FEATURES | features);
	set_status(o, S_RUNS);
	assert_int_equal(status(o), S_RUNS);
}

static void
a_running_device_suspends_and_goes_on(void **state)
{
	struct owner *o = *state;

	run_with(o, SUSPEND);
	set_status(o, S_RUNS | S_SUSPEND);
	assert_int_equal(status(o), S_STANDS);
	assert_int_equal(o->suspends, 1);
	/* Once more: no effect. */
	set_status(o, S_STANDS);
	assert_int_equal(o->suspends, 1);
	assert_int_equal(status(o), S_STANDS);
	set_status(o, S_STANDS | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(status(o), S_RUNS);
	assert_int_equal(o->resumes, 1);
	assert_int_equal(o->starts, 1);
	/* And without the bit, as a driver may write that clears it. */
	set_status(o, S_RUNS | S_SUSPEND);
	set_status(o, S_RUNS);
	assert_int_equal(status(o), S_RUNS);
	assert_int_equal(o->resumes, 2);
	assert_int_equal(o->starts, 1);
}

static void
suspend_needs_its_feature_and_a_running_device(void **state)
{
	struct owner *o = *state;

	run_with(o, 0);
	set_status(o, S_RUNS | S_SUSPEND);
	assert_int_equal(status(o), S_RUNS);
	negotiate(o, FEATURES | SUSPEND);
	set_status(o, S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | S_SUSPEND);
	assert_int_equal(status(o), S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	/* Both at once: it starts. */
	set_status(o, S_RUNS | S_SUSPEND);
	assert_int_equal(status(o), S_RUNS);
	assert_int_equal(o->suspends, 0);
}

static void
a_suspended_device_ignores_its_configuration_and_new_queues(void **state)
{
	struct owner *o = *state;

	run_with(o, SUSPEND);
	set_status(o, S_RUNS | S_SUSPEND);
	wr(o, VP_DEVICE_OFFSET, 1, 0x5a);
	assert_int_equal(o->config[0], 0);
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(o->started_queue, -1);
	set_status(o, S_STANDS | VIRTIO_CONFIG_S_DRIVER_OK);
	wr(o, VP_DEVICE_OFFSET, 1, 0x5a);
	assert_int_equal(o->config[0], 0x5a);
}

static void
a_reset_ends_the_suspension(void **state)
{
	struct owner *o = *state;

	run_with(o, SUSPEND);
	set_status(o, S_RUNS | S_SUSPEND);
	set_status(o, 0);
	assert_int_equal(status(o), 0);
	run_with(o, SUSPEND);
	assert_int_equal(o->resumes, 0);
	assert_int_equal(o->starts, 2);
}

static void
a_device_that_cannot_needs_a_reset(void **state)
{
	struct owner *o = *state;

	run_with(o, SUSPEND);
	o->suspend_rc = -EIO;
	set_status(o, S_RUNS | S_SUSPEND);
	assert_true((status(o) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
	set_status(o, 0);
	o->suspend_rc = 0;
	o->resume_rc = -EIO;
	run_with(o, SUSPEND);
	set_status(o, S_RUNS | S_SUSPEND);
	set_status(o, S_RUNS);
	assert_true((status(o) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
}

static void
faults_of_suspension_show_in_the_status(void **state)
{
	struct owner *o = *state;

	run_with(o, SUSPEND);
	o->model.fault = MODEL_FAULT_BIT(SUSPEND_NEVER_COMPLETES);
	set_status(o, S_RUNS | S_SUSPEND);
	assert_int_equal(status(o), S_RUNS | S_SUSPEND);
	assert_int_equal(o->suspends, 0);
	set_status(o, 0);
	run_with(o, SUSPEND);
	o->model.fault = MODEL_FAULT_BIT(RESUME_NEVER_COMPLETES);
	set_status(o, S_RUNS | S_SUSPEND);
	set_status(o, S_STANDS | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(status(o), S_STANDS);
	set_status(o, 0);
	run_with(o, SUSPEND);
	o->model.fault = MODEL_FAULT_BIT(SUSPEND_FAILS);
	set_status(o, S_RUNS | S_SUSPEND);
	assert_true((status(o) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup_suspend, teardown)
	const struct CMUnitTest tests[] = {
		WITH(a_running_device_suspends_and_goes_on),
		WITH(suspend_needs_its_feature_and_a_running_device),
		WITH(a_suspended_device_ignores_its_configuration_and_new_queues),
		WITH(a_reset_ends_the_suspension),
		WITH(a_device_that_cannot_needs_a_reset),
		WITH(faults_of_suspension_show_in_the_status),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
