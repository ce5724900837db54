/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The register file of vdpa-model as a driver meets it, with an owner that notes what it is asked
 * for; the table of DMA ranges, interrupts and the names of faults.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>

#include "test_util.h"

#include "dma_table.h"
#include "interrupt.h"
#include "model_fault.h"
#include "vdpa.h"
#include "virtio_pci.h"

#define NVQS	  5
#define QUEUE_MAX 256
#define VECTORS	  6
#define DEV_LEN	  10
#define FEATURES  (RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_RING_RESET) | 0x21)
#define S_DRIVER  (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER)

/* The owner: what it was asked for, and what it answers. */
struct owner {
	struct vp_function vp;
	uint32_t fault;
	uint64_t features;
	unsigned int starts, resets, routes, intx_calls, master_calls;
	int set_features_rc, start_rc, start_queue_rc;
	int started_queue, stopped_queue, rung_queue;
	uint32_t rung_data;
	uint8_t config[DEV_LEN];
};

static int
own_set_features(void *arg, uint64_t features)
{
	struct owner *o = arg;

	o->features = features;
	return o->set_features_rc;
}

static int
own_start(void *arg)
{
	struct owner *o = arg;

	o->starts++;
	return o->start_rc;
}

static void
own_reset(void *arg)
{
	struct owner *o = arg;

	o->resets++;
}

static int
own_start_queue(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->started_queue = idx;
	return o->start_queue_rc;
}

static void
own_stop_queue(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->stopped_queue = idx;
}

static void
own_route(void *arg, uint16_t idx)
{
	struct owner *o = arg;

	o->routes++;
}

static void
own_intx(void *arg)
{
	struct owner *o = arg;

	o->intx_calls++;
}

static void
own_bus_master(void *arg)
{
	struct owner *o = arg;

	o->master_calls++;
}

static void
own_notify(void *arg, uint16_t idx, uint32_t data)
{
	struct owner *o = arg;

	o->rung_queue = idx;
	o->rung_data = data;
}

static int
own_read_device(void *arg, size_t offset, void *buf, size_t len)
{
	struct owner *o = arg;

	assert_true(offset + len <= DEV_LEN);
	memcpy(buf, o->config + offset, len);
	return 0;
}

static int
own_write_device(void *arg, size_t offset, const void *buf, size_t len)
{
	struct owner *o = arg;

	assert_true(offset + len <= DEV_LEN);
	memcpy(o->config + offset, buf, len);
	return 0;
}

static const struct vp_ops own_ops = {
	.set_features = own_set_features,
	.start = own_start,
	.reset = own_reset,
	.start_queue = own_start_queue,
	.stop_queue = own_stop_queue,
	.route_queue = own_route,
	.intx = own_intx,
	.bus_master = own_bus_master,
	.notify = own_notify,
	.read_device = own_read_device,
	.write_device = own_write_device,
};

static int
setup_with(void **state, uint32_t mult)
{
	struct owner *o = test_calloc(1, sizeof(*o));
	const struct vp_params params = {
		.device_id = 1,
		.features = FEATURES,
		.nvqs = NVQS,
		.queue_size_max = QUEUE_MAX,
		.vectors = VECTORS,
		.notify_mult = mult,
		.device_size = DEV_LEN,
		.fault = &o->fault,
		.ops = &own_ops,
		.arg = o,
	};

	o->started_queue = o->stopped_queue = o->rung_queue = -1;
	*state = o;
	return vp_init(&o->vp, &params);
}

static int
setup(void **state)
{
	return setup_with(state, VP_PAGE);
}

static int
setup_shared(void **state)
{
	return setup_with(state, 4);
}

static int
teardown(void **state)
{
	struct owner *o = *state;

	vp_fini(&o->vp);
	test_free(o);
	return 0;
}

/* Little endian host: the tests run where the packages do. */
static uint64_t
rd(struct owner *o, uint64_t offset, size_t len)
{
	uint64_t value = 0;

	vp_bar_read(&o->vp, VP_BAR_VIRTIO, offset, &value, len);
	return value;
}

static void
wr(struct owner *o, uint64_t offset, size_t len, uint64_t value)
{
	vp_bar_write(&o->vp, VP_BAR_VIRTIO, offset, &value, len);
}

static uint32_t
cfg(struct owner *o, uint64_t offset, size_t len)
{
	uint32_t value = 0;

	vp_config_read(&o->vp, offset, &value, len);
	return value;
}

static void
cfg_write(struct owner *o, uint64_t offset, size_t len, uint32_t value)
{
	vp_config_write(&o->vp, offset, &value, len);
}

static void
select_queue(struct owner *o, uint16_t idx)
{
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, idx);
}

static void
negotiate(struct owner *o, uint64_t features)
{
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER);
	for (unsigned int i = 0; i < 2; i++) {
		wr(o, VIRTIO_PCI_COMMON_GFSELECT, 4, i);
		wr(o, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static uint8_t
status(struct owner *o)
{
	return (uint8_t)rd(o, VIRTIO_PCI_COMMON_STATUS, 1);
}

static void
run(struct owner *o)
{
	negotiate(o, FEATURES);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1,
	   S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
}

/* Configuration space. */

static uint8_t
find_cap(struct owner *o, uint8_t id, uint8_t type)
{
	unsigned int n = 0;

	for (uint32_t at = cfg(o, PCI_CAPABILITY_LIST, 1); at != 0; at = cfg(o, at + 1, 1)) {
		assert_true(at >= 0x40 && at % 4 == 0 && n++ < 48);
		if (cfg(o, at, 1) == id && (id != PCI_CAP_ID_VNDR || cfg(o, at + 3, 1) == type))
			return (uint8_t)at;
	}
	return 0;
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
		assert_int_equal(vp_bar_shown(&o->vp, bars[i].bar), bars[i].size);
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

	assert_false(vp_bus_master(&o->vp));
	cfg_write(o, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_true(vp_bus_master(&o->vp));
	cfg_write(o, PCI_COMMAND, 1, 0);
	assert_false(vp_bus_master(&o->vp));
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

/* Common configuration. */

static void
features_come_in_halves(void **state)
{
	struct owner *o = *state;
	uint64_t seen = 0;

	for (unsigned int i = 0; i < 3; i++) {
		wr(o, VIRTIO_PCI_COMMON_DFSELECT, 4, i);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DFSELECT, 4), i);
		if (i < 2)
			seen |= rd(o, VIRTIO_PCI_COMMON_DF, 4) << (32 * i);
		else
			assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DF, 4), 0);
	}
	assert_int_equal(seen, FEATURES);
	negotiate(o, FEATURES);
	assert_int_equal(o->features, FEATURES);
	assert_true(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
	/* Fixed from then on. */
	wr(o, VIRTIO_PCI_COMMON_GF, 4, 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_GF, 4), FEATURES >> 32);
}

static void
features_ok_is_for_good_features(void **state)
{
	struct owner *o = *state;

	negotiate(o, FEATURES | RTE_BIT64(50));
	assert_false(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
	negotiate(o, 0x21);
	assert_false(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
	o->set_features_rc = -EINVAL;
	negotiate(o, FEATURES);
	assert_false(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
	/* DRIVER_OK without it has no effect. */
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(status(o), S_DRIVER);
	assert_int_equal(o->starts, 0);
}

static void
status_bits_stay_until_reset(void **state)
{
	struct owner *o = *state;

	run(o);
	assert_int_equal(o->starts, 1);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	assert_int_equal(status(o),
			 S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
	/* A second DRIVER_OK does not start it twice; NEEDS_RESET is not the driver's to set. */
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0x4f);
	assert_int_equal(o->starts, 1);
	assert_false(status(o) & VIRTIO_CONFIG_S_NEEDS_RESET);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), 0);
	assert_int_equal(o->resets, 2);
}

static void
device_that_does_not_start_needs_reset(void **state)
{
	struct owner *o = *state;

	o->start_rc = -EFAULT;
	run(o);
	assert_true(status(o) & VIRTIO_CONFIG_S_NEEDS_RESET);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), 0);
}

static void
failure_is_told_to_a_running_driver_only(void **state)
{
	struct owner *o = *state;

	assert_false(vp_needs_reset(&o->vp));
	assert_int_equal(status(o), 0);
	negotiate(o, FEATURES);
	assert_false(vp_needs_reset(&o->vp));
	run(o);
	assert_true(vp_needs_reset(&o->vp));
	assert_true(status(o) & VIRTIO_CONFIG_S_NEEDS_RESET);
}

static void
queue_registers_are_the_selected_queues(void **state)
{
	struct owner *o = *state;

	for (uint16_t i = 0; i < NVQS; i++) {
		select_queue(o, i);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_NOFF, 2), i);
		wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 16u << i);
		wr(o, VIRTIO_PCI_COMMON_Q_DESCLO, 4, 0x1000u * (i + 1));
		wr(o, VIRTIO_PCI_COMMON_Q_DESCHI, 4, i);
		wr(o, VIRTIO_PCI_COMMON_Q_AVAILLO, 8, 0x100000000ull + i);
		wr(o, VIRTIO_PCI_COMMON_Q_USEDLO, 4, 7);
	}
	for (uint16_t i = 0; i < NVQS; i++) {
		select_queue(o, i);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16u << i);
		assert_int_equal(o->vp.queues[i].desc, ((uint64_t)i << 32) + 0x1000u * (i + 1));
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_AVAILLO, 8), 0x100000000ull + i);
		assert_int_equal(o->vp.queues[i].device, 7);
	}
	/* Too large, none, and not there. */
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, QUEUE_MAX + 1);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16u << (NVQS - 1));
	select_queue(o, NVQS);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_NUMQ, 2), NVQS);
}

static void
enabled_queue_is_fixed(void **state)
{
	struct owner *o = *state;

	negotiate(o, FEATURES);
	wr(o, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x1000);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0x2000);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_DESCLO, 8), 0x1000);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
	/* Before DRIVER_OK it is not started by itself. */
	assert_int_equal(o->started_queue, -1);
}

static void
queue_is_reset_and_enabled_again(void **state)
{
	struct owner *o = *state;

	run(o);
	select_queue(o, 2);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 32);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, 3);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(o->started_queue, 2);
	wr(o, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	assert_int_equal(o->stopped_queue, 2);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_RESET, 2), 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_MSIX, 2), VP_NO_VECTOR);
	o->started_queue = -1;
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(o->started_queue, 2);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void
queue_reset_needs_its_feature(void **state)
{
	struct owner *o = *state;

	negotiate(o, RTE_BIT64(VIRTIO_F_VERSION_1));
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_Q_RESET, 2, 1);
	assert_int_equal(o->stopped_queue, -1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void
late_queue_that_does_not_start_reads_disabled(void **state)
{
	struct owner *o = *state;

	run(o);
	o->start_queue_rc = -EFAULT;
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
}

static void
vectors_are_granted_within_the_table(void **state)
{
	struct owner *o = *state;

	wr(o, VIRTIO_PCI_COMMON_MSIX, 2, VECTORS - 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_MSIX, 2), VECTORS - 1);
	wr(o, VIRTIO_PCI_COMMON_MSIX, 2, VECTORS);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_MSIX, 2), VP_NO_VECTOR);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, 2);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_MSIX, 2), 2);
	assert_int_equal(o->routes, 1);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, VP_NO_VECTOR);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_MSIX, 2), VP_NO_VECTOR);
}

static void
reading_the_isr_acknowledges(void **state)
{
	struct owner *o = *state;

	vp_raise_isr(&o->vp, 1);
	vp_raise_isr(&o->vp, VIRTIO_PCI_ISR_CONFIG);
	assert_true(vp_intx_level(&o->vp));
	assert_int_equal(cfg(o, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	assert_int_equal(rd(o, VP_ISR_OFFSET, 1), 3);
	assert_int_equal(rd(o, VP_ISR_OFFSET, 1), 0);
	assert_false(vp_intx_level(&o->vp));
	vp_raise_isr(&o->vp, 1);
	cfg_write(o, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(vp_intx_level(&o->vp));
}

static void
generation_tells_of_changed_configuration(void **state)
{
	struct owner *o = *state;
	uint64_t before = rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1);

	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1), before);
	o->config[DEV_LEN - 1] = 9;
	assert_int_equal(rd(o, VP_DEVICE_OFFSET + DEV_LEN - 1, 1), 9);
	assert_int_not_equal(rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1), before);
	/* What is past the configuration reads zero, and goes nowhere. */
	assert_int_equal(rd(o, VP_DEVICE_OFFSET + DEV_LEN - 1, 4), 9);
	wr(o, VP_DEVICE_OFFSET + DEV_LEN - 1, 4, UINT32_MAX);
	assert_int_equal(o->config[DEV_LEN - 1], 0xff);
}

static void
doorbell_names_queue_and_data(void **state)
{
	struct owner *o = *state;

	wr(o, VP_NOTIFY_OFFSET + 2 * VP_PAGE, 4, 0x80050002);
	assert_int_equal(o->rung_queue, 2);
	assert_int_equal(o->rung_data, 0x80050002);
	o->rung_queue = -1;
	wr(o, VP_NOTIFY_OFFSET + 2 * VP_PAGE + 8, 4, 2);
	wr(o, VP_NOTIFY_OFFSET + 2 * VP_PAGE, 8, 2);
	wr(o, VP_NOTIFY_OFFSET + NVQS * VP_PAGE, 2, NVQS);
	assert_int_equal(o->rung_queue, -1);
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
		vp_bar_read(&o->vp, bar, 0, &value, sizeof(value));
		assert_int_equal(value, UINT32_MAX);
		vp_bar_write(&o->vp, bar, 0, &value, sizeof(value));
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
				vp_bar_write(&o->vp, VP_BAR_VIRTIO, at, buf, len);
				vp_bar_read(&o->vp, VP_BAR_VIRTIO, at, buf, len);
				vp_bar_write(&o->vp, VP_BAR_MSIX, at, buf, len);
				vp_bar_read(&o->vp, VP_BAR_MSIX, at, buf, len);
				vp_config_write(&o->vp, at * 4, buf, len);
				vp_config_read(&o->vp, at * 4, buf, len);
			}
		run(o);
	}
}

/* Faults. */

static void
faults_show_in_registers(void **state)
{
	struct owner *o = *state;
	uint8_t at = find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_COMMON_CFG);
	uint64_t generation;

	o->fault = MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);

	o->fault = MODEL_FAULT_BIT(FEATURES_REFUSED);
	negotiate(o, FEATURES);
	assert_int_equal(status(o), S_DRIVER);

	o->fault = MODEL_FAULT_BIT(RESET_NEVER_COMPLETES);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), S_DRIVER);
	o->fault = 0;
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), 0);

	o->fault = MODEL_FAULT_BIT(NO_VECTOR);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_MSIX, 2), VP_NO_VECTOR);

	o->fault = MODEL_FAULT_BIT(UNSTABLE_GENERATION);
	generation = rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	assert_int_not_equal(rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);

	o->fault = MODEL_FAULT_BIT(BAD_CAPABILITY);
	assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_OFFSET, 4), 0x8000);
	o->fault = MODEL_FAULT_BIT(SMALL_BAR);
	assert_int_equal(vp_bar_shown(&o->vp, VP_BAR_VIRTIO), 0x2000);

	o->fault = MODEL_FAULT_BIT(ALL_ONES);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_STATUS, 4), UINT32_MAX);
	assert_int_equal(cfg(o, 0, 4), UINT32_MAX);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	o->fault = 0;
	assert_int_equal(status(o), 0);
}

static void
fault_names_are_parsed_and_told(void **state)
{
	uint32_t mask, all = 0;
	char text[512];

	assert_int_equal(model_fault_parse("none", &mask), 0);
	assert_int_equal(mask, 0);
	assert_int_equal(model_fault_parse("no_reply,all_ones", &mask), 0);
	assert_int_equal(mask, MODEL_FAULT_BIT(NO_REPLY) | MODEL_FAULT_BIT(ALL_ONES));
	model_fault_format(mask, text, sizeof(text));
	assert_string_equal(text, "all_ones,no_reply");
	for (unsigned int i = 0; i < MODEL_FAULT_COUNT; i++) {
		assert_true(strlen(model_fault_help(i)) > 0);
		assert_int_equal(model_fault_parse(model_fault_name(i), &mask), 0);
		all |= mask;
	}
	assert_int_equal(__builtin_popcount(all), MODEL_FAULT_COUNT);
	model_fault_format(all, text, sizeof(text));
	assert_int_equal(model_fault_parse(text, &mask), 0);
	assert_int_equal(mask, all);
	assert_int_equal(model_fault_parse("no_reply,", &mask), -EINVAL);
	assert_int_equal(model_fault_parse("no_such", &mask), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "'no_such'"));
}

/* DMA ranges. */

#define MB (1ull << 20)

static struct dma_table table;

static int
memory(void)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, 4 * MB), 0);
	return fd;
}

/* The memory as the device would have it now. */
static struct vdpa_iotlb *
iotlb(void)
{
	struct vdpa_iotlb *tlb;

	assert_int_equal(dma_table_iotlb(&table, &tlb), 0);
	return tlb;
}

static void
ranges_come_and_go(void **state)
{
	unsigned int fds = count_fds();
	int fd = memory();

	assert_null(iotlb());
	assert_int_equal(dma_table_map(&table, 2 * MB, MB, MB, fd), 0);
	assert_int_equal(dma_table_map(&table, 0, MB, 0, fd), 0);
	assert_int_equal(dma_table_map(&table, MB, MB, 0, -1), 0);
	assert_int_equal(table.n, 3);
	assert_int_equal(iotlb()->n, 2);
	assert_non_null(vdpa_iotlb_range(iotlb(), 3 * MB - 8, 8));
	assert_null(vdpa_iotlb_range(iotlb(), MB, 8));
	assert_int_equal(dma_table_unmap(&table, 0, MB), 0);
	assert_null(vdpa_iotlb_range(iotlb(), 0, 8));
	/* One request may take several. */
	assert_int_equal(dma_table_unmap(&table, 0, 3 * MB), 0);
	assert_int_equal(table.n, 0);
	assert_null(iotlb());
	assert_int_equal(dma_table_map(&table, 0, MB, 0, fd), 0);
	assert_non_null(iotlb());
	dma_table_clear(&table);
	assert_null(iotlb());
	close(fd);
	assert_int_equal(count_fds(), fds);
}

static void
bad_ranges_change_nothing(void **state)
{
	int fd = memory(), sealed = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING), ro;
	char path[32];
	unsigned int fds;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(ro >= 0);
	assert_int_equal(ftruncate(sealed, MB), 0);
	assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);
	assert_int_equal(dma_table_map(&table, MB, 2 * MB, 0, fd), 0);
	fds = count_fds();
	assert_int_equal(dma_table_map(&table, 0, 0, 0, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, UINT64_MAX - 1, 3, 0, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, 0, MB + 1, 0, fd), -EEXIST);
	assert_int_equal(dma_table_map(&table, 2 * MB, 4096, 0, -1), -EEXIST);
	assert_int_equal(dma_table_map(&table, 3 * MB - 1, MB, 0, -1), -EEXIST);
	/* Past the end of the file, or of all addresses. */
	assert_int_equal(dma_table_map(&table, 8 * MB, 8 * MB, 0, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, 8 * MB, MB, UINT64_MAX - 4095, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, UINT64_MAX - 4095, 4096, 0, fd), -EINVAL);
	/* Part of a page. */
	assert_int_equal(dma_table_map(&table, 8 * MB + 8, 4096, 0, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, 8 * MB, 4088, 0, fd), -EINVAL);
	assert_int_equal(dma_table_map(&table, 8 * MB, 4096, 8, fd), -EINVAL);
	/* What the core could not map, or not write. */
	assert_int_equal(dma_table_map(&table, 8 * MB, 4096, 0, ro), -EACCES);
	assert_int_equal(dma_table_map(&table, 8 * MB, 4096, 0, 99), -EINVAL);
	assert_int_equal(dma_table_map(&table, 8 * MB, 4096, 0, sealed), -EACCES);
	assert_int_equal(dma_table_unmap(&table, 2 * MB + 8, MB), -EINVAL);
	assert_int_equal(dma_table_unmap(&table, MB, 8), -EINVAL);
	assert_int_equal(dma_table_unmap(&table, 8 * MB, MB), -ENOENT);
	assert_int_equal(dma_table_unmap(&table, 0, 0), -EINVAL);
	assert_int_equal(dma_table_unmap(&table, 2, UINT64_MAX), -EINVAL);
	assert_int_equal(table.n, 1);
	assert_int_equal(table.mapped_size, 2 * MB);
	assert_int_equal(count_fds(), fds);
	/* Up to the last byte there is. */
	assert_int_equal(dma_table_map(&table, UINT64_MAX - 4095, 4096, 0, -1), 0);
	assert_int_equal(dma_table_unmap(&table, UINT64_MAX - 4095, 4096), 0);
	dma_table_clear(&table);
	close(ro);
	close(sealed);
	close(fd);
}

/* As a client with an IOMMU of its guest maps: page by page, in the order of need. */
#define PAGES 10000

static void
shuffle(unsigned int *order, unsigned int n)
{
	uint64_t random = 1;

	for (unsigned int i = 0; i < n; i++)
		order[i] = i;
	for (unsigned int i = n; i > 1; i--) {
		unsigned int j, swapped = order[i - 1];

		random = random * 6364136223846793005u + 1442695040888963407u;
		j = (unsigned int)(random >> 33) % i;
		order[i - 1] = order[j];
		order[j] = swapped;
	}
}

static void
pages_in_any_order_become_few_ranges(void **state)
{
	static unsigned int order[PAGES];
	unsigned int fds = count_fds(), most = 0;
	uint64_t steps, worst = 0;
	int fd = memory();

	assert_int_equal(ftruncate(fd, PAGES * 4096), 0);
	shuffle(order, PAGES);
	for (unsigned int i = 0; i < PAGES; i++) {
		/* Four blocks, which do not follow each other in the file. */
		uint64_t page = order[i], block = page / (PAGES / 4);
		uint64_t offset = (page + PAGES - block * (PAGES / 2)) % PAGES * 4096;

		steps = table.steps;
		assert_int_equal(dma_table_map(&table, page * 4096, 4096, offset, fd), 0);
		worst = table.steps - steps > worst ? table.steps - steps : worst;
		most = table.n > most ? table.n : most;
	}
	assert_int_equal(table.n, 4);
	assert_int_equal(table.mapped_size, PAGES * 4096);
	/* No request looked at more than a few paths through the tree, of 2 log2(n) ranges. */
	print_message("%u ranges at most, %" PRIu64 " looked at for one page at most\n", most,
		      worst);
	assert_true(most > 1000);
	assert_true(worst <= 5 * 2 * 12);
	/* And nothing was mapped for it, but one descriptor kept. */
	assert_null(table.iotlb);
	assert_int_equal(count_fds(), fds + 2);
	assert_int_equal(iotlb()->n, 4);
	assert_non_null(vdpa_iotlb_range(iotlb(), 4096, 1000 * 4096));

	/* The other way: every page by itself again, in another order. */
	worst = 0;
	for (unsigned int i = PAGES; i-- > 0;) {
		steps = table.steps;
		assert_int_equal(dma_table_unmap(&table, order[i] * 4096ull, 4096), 0);
		worst = table.steps - steps > worst ? table.steps - steps : worst;
	}
	assert_true(worst <= 5 * 2 * 12);
	assert_int_equal(table.n, 0);
	assert_int_equal(table.mapped_size, 0);
	assert_null(iotlb());
	close(fd);
	assert_int_equal(count_fds(), fds);
	dma_table_clear(&table);
}

/* The device runs: it is told of every page, and of nothing but that page. */
static void
memory_in_use_follows_page_by_page(void **state)
{
	static unsigned int order[1000];
	const struct vdpa_mem_region *other;
	uint64_t builds = table.builds;
	int fd = memory();

	shuffle(order, 1000);
	assert_int_equal(dma_table_map(&table, 1024 * MB, MB, 0, fd), 0);
	other = iotlb()->regions[0];
	for (unsigned int i = 0; i < 1000; i++) {
		uint64_t at = order[i] * 4096ull;

		assert_int_equal(dma_table_map(&table, at, 4096, at % (2 * MB), fd), 0);
		assert_non_null(vdpa_iotlb_range(iotlb(), at, 4096));
		assert_ptr_equal(iotlb()->regions[iotlb()->n - 1], other);
	}
	assert_int_equal(table.n, 3);
	assert_int_equal(iotlb()->n, 3);
	for (unsigned int i = 1000; i-- > 0;) {
		uint64_t at = order[i] * 4096ull;

		assert_int_equal(dma_table_unmap(&table, at, 4096), 0);
		assert_null(vdpa_iotlb_range(iotlb(), at, 8));
		assert_int_equal(iotlb()->n, table.n);
	}
	assert_ptr_equal(iotlb()->regions[0], other);
	assert_int_equal(dma_table_unmap(&table, 1024 * MB, MB), 0);
	assert_null(iotlb());
	/* Made of all once, not with each of 2,001 changes. */
	assert_int_equal(table.builds - builds, 1);
	dma_table_clear(&table);
	close(fd);
}

static void
ranges_join_only_where_memory_goes_on(void **state)
{
	int fd = memory(), other = memory(), same = dup(fd);

	assert_int_equal(dma_table_map(&table, MB, 4096, MB, fd), 0);
	/* Another place of the file, another file, none. */
	assert_int_equal(dma_table_map(&table, MB + 4096, 4096, MB, fd), 0);
	assert_int_equal(dma_table_map(&table, MB - 4096, 4096, MB - 4096, other), 0);
	assert_int_equal(dma_table_map(&table, MB - 8192, 4096, 0, -1), 0);
	assert_int_equal(table.n, 4);
	/* The same file by another descriptor. */
	assert_int_equal(dma_table_unmap(&table, MB + 4096, 4096), 0);
	assert_int_equal(dma_table_map(&table, MB + 4096, 4096, MB + 4096, same), 0);
	assert_int_equal(table.n, 3);
	assert_int_equal(dma_table_map(&table, MB - 12288, 4096, 0, -1), 0);
	assert_int_equal(table.n, 3);
	dma_table_clear(&table);
	close(same);
	close(other);
	close(fd);
}

static void
unmapping_splits_a_range(void **state)
{
	int fd = memory();
	uint8_t *va;

	assert_null(iotlb());
	assert_int_equal(dma_table_map(&table, MB, MB, 0, fd), 0);
	va = vdpa_iotlb_range(iotlb(), MB, MB);
	assert_non_null(va);
	va[0] = 1;
	va[MB / 2 + 4096] = 2;
	assert_int_equal(dma_table_unmap(&table, MB + MB / 2, 4096), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(table.mapped_size, MB - 4096);
	assert_int_equal(iotlb()->n, 2);
	assert_null(vdpa_iotlb_range(iotlb(), MB + MB / 2, 8));
	assert_non_null(vdpa_iotlb_range(iotlb(), MB, MB / 2));
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB, 1), 1);
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB + MB / 2 + 4096, 1), 2);
	/* The ends of both, over the hole. */
	assert_int_equal(dma_table_unmap(&table, MB + MB / 2 - 4096, 3 * 4096), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(table.mapped_size, MB - 3 * 4096);
	/* Back again, and whole. */
	assert_int_equal(dma_table_map(&table, MB + MB / 2 - 4096, 3 * 4096, MB / 2 - 4096, fd), 0);
	assert_int_equal(table.n, 1);
	assert_int_equal(table.mapped_size, MB);
	assert_int_equal(*(uint8_t *)vdpa_iotlb_range(iotlb(), MB + MB / 2 + 4096, 1), 2);
	dma_table_clear(&table);
	close(fd);
}

/* Pages of a ring: up in addresses, down in the file but for two, told of while the device has the
 * pages before. */
static void
pages_that_do_not_join_are_one_ring(void **state)
{
	static const uint64_t offsets[] = {10 * 4096, 8 * 4096, 9 * 4096, 7 * 4096};
	struct vdpa_iotlb *used[4];
	int fd = memory();

	assert_null(iotlb());
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int k = (i + 1) % 4;

		assert_int_equal(dma_table_map(&table, 0xffffc000 + k * 4096, 4096, offsets[k], fd),
				 0);
		used[i] = vdpa_iotlb_get(iotlb());
	}
	assert_int_equal(table.n, 3);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	for (unsigned int i = 0; i < 4; i++)
		vdpa_iotlb_put(used[i]);
	memset(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384), 1, 16384);
	/* Taken away and back; then everything, told of at once. */
	assert_int_equal(dma_table_unmap(&table, 0xffffd000, 4096), 0);
	assert_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	assert_int_equal(dma_table_map(&table, 0xffffd000, 4096, 8 * 4096, fd), 0);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	dma_table_drop_iotlb(&table);
	assert_non_null(vdpa_iotlb_range(iotlb(), 0xffffc000, 16384));
	/* Memory at the end of a window joins what does not keep its order, and only that. */
	assert_int_equal(dma_table_map(&table, 2 * VDPA_MEM_WINDOW - 4096, 4096, 0, fd), 0);
	assert_int_equal(dma_table_map(&table, 2 * VDPA_MEM_WINDOW, 4096, 4096, fd), 0);
	assert_int_equal(table.n, 5);
	dma_table_clear(&table);
	close(fd);
}

/* As a guest's IOMMU maps what its driver only sends. */
static void
memory_for_reading_is_read_and_joins_its_kind(void **state)
{
	int fd = memory();

	assert_int_equal(dma_table_map(&table, MB, 4096, MB, fd), 0);
	assert_int_equal(dma_table_map_readonly(&table, MB + 4096, 4096, MB + 4096, fd), 0);
	assert_int_equal(dma_table_map_readonly(&table, MB + 8192, 4096, MB + 8192, fd), 0);
	assert_int_equal(table.n, 2);
	assert_int_equal(iotlb()->n, 2);
	assert_false(iotlb()->regions[0]->readonly);
	assert_true(iotlb()->regions[1]->readonly);
	assert_non_null(vdpa_iotlb_range(iotlb(), MB + 4096, 8192));
	dma_table_clear(&table);
	close(fd);
}

static void
too_many_ranges_are_refused(void **state)
{
	int fd = memory();
	uint64_t i;

	for (i = 0; i < DMA_RANGES_MAX - 1; i++)
		assert_int_equal(dma_table_map(&table, i * 2 * MB, 4096, i % 512 * 4096, fd), 0);
	assert_int_equal(dma_table_map(&table, i * 2 * MB, 2 * 4096, 0, -1), 0);
	assert_int_equal(table.n, DMA_RANGES_MAX);
	assert_int_equal(dma_table_map(&table, (i + 1) * 2 * MB, 4096, 0, fd), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "more than 65536 DMA ranges"));
	assert_int_equal(dma_table_map(&table, (i + 1) * 2 * MB, 4096, 0, -1), -ENOSPC);
	/* One that joins is none more, one that is split is. */
	assert_int_equal(dma_table_map(&table, 4096, 4096, 4096, fd), 0);
	assert_int_equal(dma_table_map(&table, 8192, 4096, 8192, fd), 0);
	assert_int_equal(dma_table_unmap(&table, 4096, 4096), -ENOSPC);
	assert_int_equal(table.n, DMA_RANGES_MAX);
	dma_table_clear(&table);
	for (i = 0; i <= DMA_FILES_MAX; i++) {
		int one = memory();

		assert_int_equal(dma_table_map(&table, i * 2 * MB, 4096, 0, one),
				 i < DMA_FILES_MAX ? 0 : -ENOSPC);
		close(one);
	}
	dma_table_clear(&table);
	close(fd);
}

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
	struct model_interrupts irqs;
	int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), ours = dup(fd);

	assert_int_equal(model_interrupts_init(&irqs, 2), 0);
	model_interrupts_set_intx(&irqs, true);
	/* Up before anybody listened. */
	model_interrupts_set_intx_fd(&irqs, ours);
	assert_int_equal(taken(fd), 1);
	model_interrupts_set_intx(&irqs, true);
	assert_int_equal(taken(fd), 0);
	model_interrupts_mask_intx(&irqs, false);
	assert_int_equal(taken(fd), 1);
	model_interrupts_set_intx(&irqs, false);
	model_interrupts_mask_intx(&irqs, false);
	assert_int_equal(taken(fd), 0);
	/* With MSI-X there is no line. */
	irqs.msix_on = true;
	model_interrupts_set_intx(&irqs, true);
	assert_int_equal(taken(fd), 0);
	assert_int_equal(model_interrupts_fd(&irqs, 1), -1);
	assert_int_equal(model_interrupts_fd(&irqs, VP_NO_VECTOR), -1);
	model_interrupts_fini(&irqs);
	assert_int_equal(fcntl(ours, F_GETFD), -1);
	close(fd);
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
		WITH(features_come_in_halves),
		WITH(features_ok_is_for_good_features),
		WITH(status_bits_stay_until_reset),
		WITH(device_that_does_not_start_needs_reset),
		WITH(failure_is_told_to_a_running_driver_only),
		WITH(queue_registers_are_the_selected_queues),
		WITH(enabled_queue_is_fixed),
		WITH(queue_is_reset_and_enabled_again),
		WITH(queue_reset_needs_its_feature),
		WITH(late_queue_that_does_not_start_reads_disabled),
		WITH(vectors_are_granted_within_the_table),
		WITH(reading_the_isr_acknowledges),
		WITH(generation_tells_of_changed_configuration),
		WITH(doorbell_names_queue_and_data),
		WITH(accesses_outside_have_no_effect),
		WITH(every_length_at_every_offset_is_harmless),
		WITH(faults_show_in_registers),
		cmocka_unit_test(fault_names_are_parsed_and_told),
		cmocka_unit_test(ranges_come_and_go),
		cmocka_unit_test(bad_ranges_change_nothing),
		cmocka_unit_test(pages_in_any_order_become_few_ranges),
		cmocka_unit_test(memory_in_use_follows_page_by_page),
		cmocka_unit_test(ranges_join_only_where_memory_goes_on),
		cmocka_unit_test(unmapping_splits_a_range),
		cmocka_unit_test(pages_that_do_not_join_are_one_ring),
		cmocka_unit_test(memory_for_reading_is_read_and_joins_its_kind),
		cmocka_unit_test(too_many_ranges_are_refused),
		cmocka_unit_test(intx_is_masked_when_signalled),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
