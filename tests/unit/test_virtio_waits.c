/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Every wait of the virtio driver ends: devices that do not reset, that are gone, that have failed.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

/* Waits. */

static void
a_reset_that_never_ends_is_bounded(void **state)
{
	struct fixture *f = *state;
	uint64_t began;

	add_net(f, 1, WORDS);
	start(f);
	f->v.never_resets = true;
	began = now_ms();
	assert_refused(vdpa_device_stop(f->vdev), ETIMEDOUT, "does not reset within 60 ms");
	assert_true(now_ms() - began < 5000);
	assert_int_equal(f->v.pci.resets, 1);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	/* It reaches no memory, and nobody hears of it. */
	assert_false(bus_master(f));
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_resets = false;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.n_mapped, 0);
	start(f);
}

static void
what_does_not_reset_and_cannot_be_reset_reaches_no_memory(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.pci.can_reset = false;
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	f->v.never_resets = true;
	assert_refused(vdpa_device_stop(f->vdev), ETIMEDOUT, "does not reset within 60 ms");
	assert_false(bus_master(f));
	/* The guest's memory is out of its reach; what it has of the driver's is the control
	 * queue. */
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_resets = false;
}

static void
a_reset_of_the_function_helps_where_the_device_does_not(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	start(f);
	f->v.never_resets = f->v.resets_by_function = true;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.resets, 1);
	end_binding(f);
	start(f);
	assert_true(bus_master(f));
}

/* The thread that waits is shared: what is borne with once is not every time. */
static void
resets_that_end_late_again_and_again_exhaust_the_patience(void **state)
{
	enum { CYCLES = 40, TIMEOUT_MS = 60 };
	struct fixture *f = *state;
	unsigned int short_waits = 0;

	add_net(f, 1, WORDS);
	f->v.resets_by_function = true;
	for (unsigned int i = 0; i < CYCLES; i++) {
		uint64_t began;

		start(f);
		f->v.never_resets = true;
		began = now_ms();
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		/* On a busy machine some take longer; without a limit for all none is shorter. */
		short_waits += now_ms() - began < TIMEOUT_MS / 2;
	}
	assert_int_equal(f->v.pci.resets, CYCLES);
	assert_true(short_waits >= CYCLES / 5);
}

static void
a_queue_that_never_resets_is_bounded(void **state)
{
	struct fixture *f = *state;
	unsigned int short_waits = 0;
	struct vdpa_vq_state at;

	add_net(f, 4, WORDS);
	start(f);
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_stop_vq(f->vdev, 1, &at), ETIMEDOUT,
		       "the device does not reset queue 1 within 60 ms");
	/* The others are not waited for one by one. */
	for (uint16_t i = 2; i < 8; i++) {
		uint64_t began = now_ms();

		assert_true(vdpa_device_stop_vq(f->vdev, i, &at) < 0);
		short_waits += now_ms() - began < 30;
	}
	assert_true(short_waits >= 3);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	start(f);
}

static void
a_device_that_is_gone_is_no_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	f->v.pci.all_ones = true;
	assert_refused(vdpa_device_stop(f->vdev), ENODEV, "fake/v0");
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
}

static void
a_removal_fails_the_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	assert_true(f->v.pci.req >= 0);
	eventfd_write(f->v.pci.req, 1);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "asks for fake/v0 back"));
}

static void
a_device_that_needs_a_reset_has_failed(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	fake_virtio_change_config(&f->v, VIRTIO_CONFIG_S_NEEDS_RESET);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "needs a reset"));
	EVENTUALLY(f->v.status == 0);
	start(f);
}

static void
a_device_that_dies_when_it_has_failed_is_gone(void **state)
{
	struct fixture *f = *state;
	char why[512];

	add_net(f, 1, WORDS);
	start(f);
	fake_virtio_change_config(&f->v, VIRTIO_CONFIG_S_NEEDS_RESET);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	EVENTUALLY(f->v.status == 0);
	assert_false(vdpa_device_is_gone(f->vdev));
	/* The next register that is read finds out. */
	f->v.pci.all_ones = true;
	assert_true(vdpa_device_stop(f->vdev) < 0);
	EVENTUALLY(vdpa_device_is_gone(f->vdev));
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "before that: "));
	assert_non_null(strstr(why, "needs a reset"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_reset_that_never_ends_is_bounded),
		T(what_does_not_reset_and_cannot_be_reset_reaches_no_memory),
		T(a_reset_of_the_function_helps_where_the_device_does_not),
		T(resets_that_end_late_again_and_again_exhaust_the_patience),
		T(a_queue_that_never_resets_is_bounded),
		T(a_device_that_is_gone_is_no_device),
		T(a_removal_fails_the_device),
		T(a_device_that_needs_a_reset_has_failed),
		T(a_device_that_dies_when_it_has_failed_is_gone),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
