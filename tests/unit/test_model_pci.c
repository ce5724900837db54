/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The configuration space of vdpa-model as a driver meets it, and accesses wherever they go. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model_test.h"

static int
setup_shared(void **state)
{
	return setup_with(state, 4);
}

static void
header_says_what_it_is(void **state)
{
	struct owner *o = *state;

	assert_int_equal(cfg(o, PCI_VENDOR_ID, 2), 0x1af4);
	assert_int_equal(cfg(o, PCI_DEVICE_ID, 2), 0x1041);
	assert_int_equal(cfg(o, PCI_REVISION_ID, 1), 1);
	assert_int_equal(cfg(o, PCI_CLASS_DEVICE, 2), 0x0200);
	assert_int_equal(cfg(o, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST, PCI_STATUS_CAP_LIST);
	assert_int_equal(cfg(o, PCI_INTERRUPT_PIN, 1), 1);
	/* The header is not the driver's. */
	cfg_write(o, PCI_VENDOR_ID, 4, 0);
	assert_int_equal(cfg(o, PCI_VENDOR_ID, 4), 0x10411af4);
	assert_int_equal(cfg(o, 0x100, 4), 0);
	assert_int_equal(cfg(o, VP_CONFIG_SIZE, 4), UINT32_MAX);
}

static void
bars_tell_their_size(void **state)
{
	static const struct {
		unsigned int bar;
		uint32_t size, flags;
	} bars[] = {{VP_BAR_MSIX, 0x1000, 0},
		    {VP_BAR_PBA, 0x1000, 0},
		    /* 3 pages and one for each queue. */
		    {VP_BAR_VIRTIO, 0x8000,
		     PCI_BASE_ADDRESS_MEM_TYPE_64 | PCI_BASE_ADDRESS_MEM_PREFETCH}};
	struct owner *o = *state;

	for (unsigned int i = 0; i < RTE_DIM(bars); i++) {
		uint64_t at = PCI_BASE_ADDRESS_0 + 4 * bars[i].bar;

		cfg_write(o, at, 4, UINT32_MAX);
		assert_int_equal(cfg(o, at, 4), ~(bars[i].size - 1) | bars[i].flags);
		cfg_write(o, at, 4, 0xfe008000);
		assert_int_equal(cfg(o, at, 4), 0xfe008000 | bars[i].flags);
		assert_int_equal(vdpa_vp_bar_shown(&o->vp, bars[i].bar), bars[i].size);
	}
	cfg_write(o, PCI_BASE_ADDRESS_5, 4, UINT32_MAX);
	assert_int_equal(cfg(o, PCI_BASE_ADDRESS_5, 4), UINT32_MAX);
	cfg_write(o, PCI_BASE_ADDRESS_0, 4, UINT32_MAX);
	assert_int_equal(cfg(o, PCI_BASE_ADDRESS_0, 4), 0);
}

static void
capabilities_lie_in_the_bar(void **state)
{
	static const struct {
		uint8_t type;
		uint32_t offset, len;
	} caps[] = {{VIRTIO_PCI_CAP_COMMON_CFG, 0, VP_COMMON_LEN},
		    {VIRTIO_PCI_CAP_ISR_CFG, 0x1000, 1},
		    {VIRTIO_PCI_CAP_DEVICE_CFG, 0x2000, DEV_LEN},
		    {VIRTIO_PCI_CAP_NOTIFY_CFG, 0x3000, NVQS * VP_PAGE}};
	struct owner *o = *state;

	for (unsigned int i = 0; i < RTE_DIM(caps); i++) {
		uint8_t at = find_cap(o, PCI_CAP_ID_VNDR, caps[i].type);

		assert_int_not_equal(at, 0);
		assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_BAR, 1), VP_BAR_VIRTIO);
		assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_OFFSET, 4), caps[i].offset);
		assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_LENGTH, 4), caps[i].len);
	}
	assert_int_equal(cfg(o,
			     find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_NOTIFY_CFG) +
				     VIRTIO_PCI_NOTIFY_CAP_MULT,
			     4),
			 VP_PAGE);
	assert_int_not_equal(find_cap(o, PCI_CAP_ID_EXP, 0), 0);
	assert_int_equal(cfg(o, find_cap(o, PCI_CAP_ID_MSIX, 0) + PCI_MSIX_FLAGS, 2), VECTORS - 1);
}

static void
shared_doorbells_fill_one_page(void **state)
{
	struct owner *o = *state;

	assert_int_equal(o->vp.notify_len, VP_PAGE);
	wr(o, VP_NOTIFY_OFFSET + 4 * 3, 2, 3);
	assert_int_equal(o->rung_queue, 3);
	/* Between two doorbells, and past the last. */
	o->rung_queue = -1;
	wr(o, VP_NOTIFY_OFFSET + 2, 2, 0);
	wr(o, VP_NOTIFY_OFFSET + 4 * NVQS, 2, 0);
	assert_int_equal(o->rung_queue, -1);
}

static void
pci_access_capability_reaches_the_bar(void **state)
{
	struct owner *o = *state;
	uint8_t at = find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG);

	cfg_write(o, at + VIRTIO_PCI_CAP_BAR, 1, VP_BAR_VIRTIO);
	cfg_write(o, at + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_NUMQ);
	cfg_write(o, at + VIRTIO_PCI_CAP_LENGTH, 4, 2);
	assert_int_equal(cfg(o, at + 16, 2), NVQS);
	cfg_write(o, at + VIRTIO_PCI_CAP_OFFSET, 4, VIRTIO_PCI_COMMON_STATUS);
	cfg_write(o, at + VIRTIO_PCI_CAP_LENGTH, 4, 1);
	cfg_write(o, at + 16, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(status(o), VIRTIO_CONFIG_S_ACKNOWLEDGE);
	/* Nowhere. */
	cfg_write(o, at + VIRTIO_PCI_CAP_BAR, 1, 9);
	cfg_write(o, at + 16, 1, 0);
	cfg_write(o, at + VIRTIO_PCI_CAP_BAR, 1, VP_BAR_VIRTIO);
	cfg_write(o, at + VIRTIO_PCI_CAP_LENGTH, 4, 3);
	cfg_write(o, at + 16, 1, 0);
	assert_int_equal(status(o), VIRTIO_CONFIG_S_ACKNOWLEDGE);
}

static void
bus_master_is_told(void **state)
{
	struct owner *o = *state;

	assert_false(vdpa_vp_bus_master(&o->vp));
	cfg_write(o, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_true(vdpa_vp_bus_master(&o->vp));
	cfg_write(o, PCI_COMMAND, 1, 0);
	assert_false(vdpa_vp_bus_master(&o->vp));
	assert_int_equal(o->master_calls, 2);
}

static void
flr_resets_function_and_device(void **state)
{
	struct owner *o = *state;
	uint8_t at = find_cap(o, PCI_CAP_ID_EXP, 0);

	cfg_write(o, PCI_COMMAND, 2, PCI_COMMAND_MASTER | PCI_COMMAND_MEMORY);
	run(o);
	cfg_write(o, at + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_BCR_FLR);
	assert_int_equal(status(o), 0);
	assert_int_equal(cfg(o, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg(o, at + PCI_EXP_DEVCTL, 2), 0);
}

static void
accesses_outside_have_no_effect(void **state)
{
	static const uint64_t offsets[] = {0x7fff, 0x8000, UINT64_MAX - 1, UINT64_MAX};
	struct owner *o = *state;

	for (unsigned int i = 0; i < RTE_DIM(offsets); i++) {
		assert_int_equal(rd(o, offsets[i], 4), UINT32_MAX);
		wr(o, offsets[i], 4, 0);
	}
	for (unsigned int bar = 0; bar < 8; bar++) {
		uint32_t value = 0;

		if (bar == VP_BAR_VIRTIO || bar == VP_BAR_MSIX || bar == VP_BAR_PBA)
			continue;
		vdpa_vp_bar_read(&o->vp, bar, 0, &value, sizeof(value));
		assert_int_equal(value, UINT32_MAX);
		vdpa_vp_bar_write(&o->vp, bar, 0, &value, sizeof(value));
	}
}

static void
every_length_at_every_offset_is_harmless(void **state)
{
	struct owner *o = *state;
	uint8_t buf[128];

	for (unsigned int round = 0; round < 2; round++) {
		for (uint64_t at = 0; at < 80; at++)
			for (size_t len = 1; len <= sizeof(buf); len += 3) {
				memset(buf, (int)(at + len), sizeof(buf));
				vdpa_vp_bar_write(&o->vp, VP_BAR_VIRTIO, at, buf, len);
				vdpa_vp_bar_read(&o->vp, VP_BAR_VIRTIO, at, buf, len);
				vdpa_vp_bar_write(&o->vp, VP_BAR_MSIX, at, buf, len);
				vdpa_vp_bar_read(&o->vp, VP_BAR_MSIX, at, buf, len);
				vdpa_vp_config_write(&o->vp, at * 4, buf, len);
				vdpa_vp_config_read(&o->vp, at * 4, buf, len);
			}
		run(o);
	}
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH(header_says_what_it_is),
		WITH(bars_tell_their_size),
		WITH(capabilities_lie_in_the_bar),
		cmocka_unit_test_setup_teardown(shared_doorbells_fill_one_page, setup_shared,
						teardown),
		WITH(pci_access_capability_reaches_the_bar),
		WITH(bus_master_is_told),
		WITH(flr_resets_function_and_device),
		WITH(accesses_outside_have_no_effect),
		WITH(every_length_at_every_offset_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
