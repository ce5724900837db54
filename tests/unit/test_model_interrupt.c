/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The interrupts of vdpa-model. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_test.h"

/* Interrupts. */

static uint64_t
taken(int fd)
{
	eventfd_t count;

	return eventfd_read(fd, &count) == 0 ? count : 0;
}

static void
intx_is_masked_when_signalled(void **state)
{
	struct vfu_irqs irqs;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), ours = dup(fd);

	assert_int_equal(vdpa_vfus_irqs_init(&irqs, 2), 0);
	vdpa_vfus_irqs_set_intx(&irqs, true);
	/* Up before anybody listened. */
	vdpa_vfus_irqs_set_intx_fd(&irqs, ours);
	assert_int_equal(taken(fd), 1);
	vdpa_vfus_irqs_set_intx(&irqs, true);
	assert_int_equal(taken(fd), 0);
	vdpa_vfus_irqs_mask_intx(&irqs, false);
	assert_int_equal(taken(fd), 1);
	vdpa_vfus_irqs_set_intx(&irqs, false);
	vdpa_vfus_irqs_mask_intx(&irqs, false);
	assert_int_equal(taken(fd), 0);
	/* With MSI-X there is no line. */
	irqs.msix_on = true;
	vdpa_vfus_irqs_set_intx(&irqs, true);
	assert_int_equal(taken(fd), 0);
	assert_int_equal(vdpa_vfus_irqs_fd(&irqs, 1), -1);
	assert_int_equal(vdpa_vfus_irqs_fd(&irqs, VP_NO_VECTOR), -1);
	vdpa_vfus_irqs_fini(&irqs);
	assert_int_equal(fcntl(ours, F_GETFD), -1);
	close(fd);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(intx_is_masked_when_signalled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
