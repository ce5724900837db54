/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A function of fake_pci's for the tests of lib/vdpa/pci. Include it after cmocka.h. */

#ifndef PCI_TEST_H
#define PCI_TEST_H

#include "fake_pci.h"

#define PAGE 4096ULL

static struct fake_pci fake;

/* A function with a register BAR 2, a BAR 4 that can be mapped, and 4 vectors. */
static inline int
setup(void **state)
{
	fake_pci_init(&fake, "a");
	fake_pci_add_bar(&fake, 2, 16384, false);
	fake_pci_add_bar(&fake, 4, 4 * PAGE, true);
	fake_pci_add_msix(&fake, 4, 2, 0x1000, 0x2000);
	fake.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 1;
	fake.nr_irqs[VFIO_PCI_ERR_IRQ_INDEX] = 1;
	fake.nr_irqs[VFIO_PCI_REQ_IRQ_INDEX] = 1;
	return 0;
}

static inline int
teardown(void **state)
{
	fake_pci_fini(&fake);
	return 0;
}

static inline struct vdpa_pci *
open_fake(void)
{
	struct vdpa_pci *pci;

	assert_int_equal(vdpa_pci_open("fake/a", NULL, &pci), 0);
	return pci;
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif /* PCI_TEST_H */
