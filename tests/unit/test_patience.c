/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How long a device may keep a thread waiting, on a clock that the test sets. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "patience.h"

#define TIMEOUT_MS 1000u
#define S	   INT64_C(1000000)
/* Of the longest sleep, at most. */
#define COUNTS_US  (VDPA_PATIENCE_SLEEP_US + VDPA_PATIENCE_SLACK_US)

static void
one_wait_lasts_one_time_out(void **state)
{
	struct vdpa_patience p;

	vdpa_patience_init(&p, TIMEOUT_MS, 0);
	assert_int_equal(vdpa_patience_begin(&p, 0), S);
	assert_int_equal(vdpa_patience_draw(&p, S), S);
	assert_int_equal(vdpa_patience_late_us(&p), S - VDPA_PATIENCE_FREE_US);
}

static void
what_is_drawn_grows_back(void **state)
{
	struct vdpa_patience p;

	vdpa_patience_init(&p, TIMEOUT_MS, 0);
	for (int i = 0; i < 3; i++) {
		vdpa_patience_begin(&p, i * S);
		vdpa_patience_draw(&p, (i + 1) * S);
	}
	assert_true(vdpa_patience_begin(&p, 3 * S) < S);
	assert_int_equal(vdpa_patience_begin(&p, 100 * S), S);
	assert_int_equal(vdpa_patience_late_us(&p), 0);
}

static void
a_machine_that_stands_still_draws_little(void **state)
{
	struct vdpa_patience p;
	int64_t now = 0;

	vdpa_patience_init(&p, TIMEOUT_MS, now);
	vdpa_patience_begin(&p, now);
	now += 5 * S;
	vdpa_patience_slept(&p, VDPA_PATIENCE_SLEEP_US, 5 * S);
	assert_int_equal(vdpa_patience_draw(&p, now), COUNTS_US);
	assert_int_equal(vdpa_patience_late_us(&p), COUNTS_US - VDPA_PATIENCE_FREE_US);
	/* Nor is it time in which anything grows back. */
	vdpa_patience_begin(&p, now);
	assert_int_equal(vdpa_patience_late_us(&p),
			 COUNTS_US - VDPA_PATIENCE_FREE_US - COUNTS_US / VDPA_PATIENCE_REFILL);
}

static void
a_busy_machine_does(void **state)
{
	struct vdpa_patience p;

	for (int64_t more_us = -1; more_us <= 1; more_us++) {
		int64_t took_us = COUNTS_US + more_us;

		vdpa_patience_init(&p, TIMEOUT_MS, 0);
		vdpa_patience_begin(&p, 0);
		vdpa_patience_slept(&p, VDPA_PATIENCE_SLEEP_US, took_us);
		assert_int_equal(vdpa_patience_draw(&p, took_us), RTE_MIN(took_us, COUNTS_US));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_wait_lasts_one_time_out),
		cmocka_unit_test(what_is_drawn_grows_back),
		cmocka_unit_test(a_machine_that_stands_still_draws_little),
		cmocka_unit_test(a_busy_machine_does),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
