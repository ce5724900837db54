/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The interrupts of a PCI function: vectors, what they signal, parked ones, and the INTx line. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "pci_test.h"

static void
vectors_are_what_both_function_and_system_have(void **state)
{
	struct vdpa_pci *pci;

	pci = open_fake();
	assert_int_equal(vdpa_pci_nr_vectors(pci), 4);
	vdpa_pci_close(pci);
	fake.nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX] = 3;
	pci = open_fake();
	assert_int_equal(vdpa_pci_nr_vectors(pci), 3);
	assert_int_equal(vdpa_pci_msix_enable(pci, 4), -EINVAL);
	assert_int_equal(vdpa_pci_msix_enable(pci, 0), -EINVAL);
	vdpa_pci_close(pci);
	fake.nr_irqs[VFIO_PCI_MSIX_IRQ_INDEX] = 4000;
	pci = open_fake();
	assert_int_equal(vdpa_pci_nr_vectors(pci), 4);
	vdpa_pci_close(pci);
	fake.config[0x34] = 0;
	pci = open_fake();
	assert_int_equal(vdpa_pci_nr_vectors(pci), 0);
	vdpa_pci_close(pci);
}

static void
a_vector_signals_its_eventfd_until_it_is_swapped_or_masked(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);
	uint64_t n;

	assert_int_equal(vdpa_pci_msix_set(pci, 0, a), -EINVAL);
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	assert_int_equal(fake.config[0x43] & 0xc0, 0x80); /* enabled, not masked */
	assert_int_equal(fake.n_msix, 3);
	assert_false(fake_pci_raise(&fake, 1));
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), -EBUSY);
	assert_int_equal(vdpa_pci_msix_set(pci, 1, a), 0);
	assert_true(fake_pci_raise(&fake, 1));
	assert_int_equal(read(a, &n, 8), 8);
	assert_int_equal(vdpa_pci_msix_set(pci, 1, b), 0);
	assert_true(fake_pci_raise(&fake, 1));
	assert_int_equal(read(b, &n, 8), 8);
	assert_int_equal(read(a, &n, 8), -1);
	assert_int_equal(vdpa_pci_msix_set(pci, 1, -1), 0);
	assert_false(fake_pci_raise(&fake, 1));
	assert_int_equal(vdpa_pci_msix_set(pci, 3, a), -EINVAL);
	assert_int_equal(vdpa_pci_intx_set(pci, a), -EBUSY);
	vdpa_pci_msix_disable(pci);
	assert_false(fake.msix_on);
	assert_int_equal(fake.config[0x43] & 0x80, 0);
	vdpa_pci_msix_disable(pci);
	fake.irq_err = ENOSPC;
	assert_int_equal(vdpa_pci_msix_enable(pci, 2), -ENOSPC);
	fake.irq_err = 0;
	assert_int_equal(vdpa_pci_msix_enable(pci, 2), 0);
	vdpa_pci_close(pci);
	assert_false(fake.msix_on);
	close(a);
	close(b);
}

static void
parked_vectors_wake_nobody_and_are_taken_over(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int fd = eventfd(0, EFD_NONBLOCK);
	unsigned int calls;

	vdpa_pci_msix_park(pci);
	assert_false(fake.msix_on);
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	assert_int_equal(vdpa_pci_msix_set(pci, 1, fd), 0);
	vdpa_pci_msix_park(pci);
	assert_true(fake.msix_on);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(fake.msix[i], -1);
		assert_false(fake_pci_raise(&fake, i));
	}
	assert_int_equal(vdpa_pci_msix_set(pci, 1, fd), -EINVAL);
	calls = fake.irq_calls + fake.answered;
	vdpa_pci_msix_park(pci);
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	assert_int_equal(fake.irq_calls + fake.answered, calls);
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), -EBUSY);
	assert_int_equal(vdpa_pci_msix_set(pci, 1, fd), 0);
	assert_true(fake_pci_raise(&fake, 1));
	vdpa_pci_msix_disable(pci);
	assert_false(fake.msix_on);
	vdpa_pci_close(pci);
	close(fd);
}

static void
park_three(struct vdpa_pci *pci)
{
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	vdpa_pci_msix_park(pci);
	assert_true(fake.msix_on);
}

static void
what_needs_them_off_turns_parked_vectors_off(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int fd = eventfd(0, EFD_NONBLOCK);

	park_three(pci);
	assert_int_equal(vdpa_pci_msix_enable(pci, 2), 0);
	assert_int_equal(fake.n_msix, 2);
	vdpa_pci_msix_disable(pci);
	park_three(pci);
	vdpa_pci_msix_disable(pci);
	assert_false(fake.msix_on);
	park_three(pci);
	assert_int_equal(vdpa_pci_intx_set(pci, fd), 0);
	assert_false(fake.msix_on);
	assert_int_equal(vdpa_pci_intx_set(pci, -1), 0);
	park_three(pci);
	assert_int_equal(vdpa_pci_reset(pci), 0);
	assert_false(fake.msix_on);
	/* Not taken for parked any more. */
	assert_int_equal(vdpa_pci_msix_enable(pci, 3), 0);
	assert_true(fake.msix_on);
	/* Where they cannot be masked, the eventfds are forgotten all the same. */
	fake.irq_err = EIO;
	vdpa_pci_msix_park(pci);
	fake.irq_err = 0;
	assert_int_equal(vdpa_pci_msix_set(pci, 1, fd), -EINVAL);
	park_three(pci);
	vdpa_pci_close(pci);
	assert_false(fake.msix_on);
	pci = open_fake();
	park_three(pci);
	assert_int_equal(vdpa_pci_cut_off(pci), -EOPNOTSUPP);
	assert_false(fake.msix_on);
	vdpa_pci_close(pci);
	close(fd);
}

static void
the_line_is_masked_until_it_is_unmasked(void **state)
{
	struct vdpa_pci *pci = open_fake();
	int fd = eventfd(0, EFD_NONBLOCK);

	assert_int_equal(vdpa_pci_intx_unmask(pci), -EINVAL);
	assert_int_equal(vdpa_pci_intx_set(pci, fd), 0);
	assert_int_equal(vdpa_pci_msix_enable(pci, 1), -EBUSY);
	assert_true(fake_pci_raise_intx(&fake));
	assert_false(fake_pci_raise_intx(&fake));
	assert_int_equal(vdpa_pci_intx_unmask(pci), 0);
	assert_true(fake_pci_raise_intx(&fake));
	assert_int_equal(vdpa_pci_intx_set(pci, -1), 0);
	assert_int_equal(fake.intx, -1);
	assert_int_equal(vdpa_pci_intx_set(pci, fd), 0);
	vdpa_pci_close(pci);
	assert_int_equal(fake.intx, -1);
	fake.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 0;
	pci = open_fake();
	assert_int_equal(vdpa_pci_intx_set(pci, fd), -EOPNOTSUPP);
	vdpa_pci_close(pci);
	close(fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		test(vectors_are_what_both_function_and_system_have),
		test(a_vector_signals_its_eventfd_until_it_is_swapped_or_masked),
		test(parked_vectors_wake_nobody_and_are_taken_over),
		test(what_needs_them_off_turns_parked_vectors_off),
		test(the_line_is_masked_until_it_is_unmasked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
