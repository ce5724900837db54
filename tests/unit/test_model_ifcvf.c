/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The registers of vdpa-model's function like ifcvf, as its driver meets them. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model_test.h"

#define LM_BAR	    4
#define F_PLATFORM  RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM)
#define F_OFFERED   (RTE_BIT64(VIRTIO_F_VERSION_1) | F_PLATFORM | 0x21)
#define S_RUNNING   (S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
#define QUEUE_STATE 0x20
#define LOG_START   0x10
#define LOG_END	    0x18

static uint64_t
lm_rd(struct owner *o, uint64_t offset, size_t len)
{
	uint64_t value = 0;

	vdpa_vp_bar_read(&o->vp, LM_BAR, offset, &value, len);
	return value;
}

static void
lm_wr(struct owner *o, uint64_t offset, size_t len, uint64_t value)
{
	vdpa_vp_bar_write(&o->vp, LM_BAR, offset, &value, len);
}

static int
setup_pairs(void **state)
{
	return setup_kind(state, &vp_kind_ifcvf, VP_PAGE, NULL);
}

static void
transitional(struct vp_params *params)
{
	params->pci_id = 0x1af41000;
	params->pci_sub = 0x80860001;
}

static int
setup_transitional(void **state)
{
	return setup_kind(state, &vp_kind_ifcvf, VP_PAGE, transitional);
}

static void
other_layout(struct vp_params *params)
{
	((struct owner *)params->arg)->model.ring_state = MODEL_RING_STATE_QUEUE;
}

static int
setup_other_layout(void **state)
{
	return setup_kind(state, &vp_kind_ifcvf, VP_PAGE, other_layout);
}

static void
start(struct owner *o)
{
	negotiate(o, F_OFFERED);
	for (uint16_t i = 0; i < NVQS; i++) {
		wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, i);
		wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	}
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_RUNNING);
}

static void
function_has_its_ids_and_bars(void **state)
{
	struct owner *o = *state;
	uint8_t at = find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_COMMON_CFG);

	assert_int_equal(cfg(o, PCI_VENDOR_ID, 4), 0x10411af4);
	assert_int_equal(cfg(o, PCI_SUBSYSTEM_VENDOR_ID, 4), 0x001a8086);
	assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_BAR, 1), 0);
	assert_int_equal(vdpa_vp_bar_shown(&o->vp, LM_BAR), VP_PAGE);
	for (unsigned int bar = 0; bar < 6; bar++) {
		cfg_write(o, PCI_BASE_ADDRESS_0 + 4 * bar, 4, UINT32_MAX);
		assert_int_equal(cfg(o, PCI_BASE_ADDRESS_0 + 4 * bar, 4),
				 vdpa_vp_bar_shown(&o->vp, bar) != 0
					 ? (uint32_t) - (int32_t)vdpa_vp_bar_shown(&o->vp, bar)
					 : 0);
	}
}

static void
block_is_its_own_at_every_offset(void **state)
{
	struct owner *o = *state;
	uint8_t buf[64];

	for (uint64_t at = 0; at < 0x120; at++)
		for (size_t len = 1; len <= sizeof(buf); len += 3) {
			memset(buf, (int)(at * 7 + len), sizeof(buf));
			vdpa_vp_bar_write(&o->vp, LM_BAR, at, buf, len);
			vdpa_vp_bar_read(&o->vp, LM_BAR, at, buf, len);
		}
	/* Nothing of it has reached virtio's registers. */
	assert_int_equal(status(o), 0);
	assert_int_equal(o->rung_queue, -1);
}

static void
platform_access_is_needed(void **state)
{
	struct owner *o = *state;

	assert_int_equal(o->vp.params.features, F_OFFERED);
	negotiate(o, F_OFFERED & ~F_PLATFORM);
	assert_false(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
	negotiate(o, F_OFFERED);
	assert_true(status(o) & VIRTIO_CONFIG_S_FEATURES_OK);
}

static void
queue_of_fewer_than_64_is_not_enabled(void **state)
{
	struct owner *o = *state;

	negotiate(o, F_OFFERED);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 32);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), 32);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 64);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void
smaller_queues_make_no_function(void **state)
{
	struct vp_params params = {.kind = &vp_kind_ifcvf,
				   .device_id = 1,
				   .nvqs = 2,
				   .queue_size_max = 32,
				   .vectors = 1,
				   .notify_mult = VP_PAGE};
	struct vp_function vp;

	assert_int_equal(vdpa_vp_init(&vp, &params), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "queue_size 32"));
}

static void
check_layout(struct owner *o, const uint64_t *at, size_t len)
{
	for (uint16_t i = 0; i < NVQS; i++)
		lm_wr(o, at[i], len, len == 4 ? (1000u + i) | (3000u + i) << 16 : 1000u + i);
	assert_int_equal(o->placed, (1u << NVQS) - 1);
	for (uint16_t i = 0; i < NVQS; i++) {
		uint64_t place = 1000u + i;

		assert_int_equal(o->places[i].split.avail_index, place);
		/* The function looks the used index up: nothing is in flight. */
		assert_int_equal(lm_rd(o, at[i], len), len == 4 ? place | place << 16 : place);
		assert_int_equal(lm_rd(o, at[i], 2), place);
	}
	/* Between them, and behind, is nothing. */
	o->placed = 0;
	for (uint64_t other = QUEUE_STATE; other < VP_PAGE; other += 2) {
		bool is_one = false;

		for (uint16_t i = 0; i < NVQS; i++)
			is_one |= other == at[i];
		if (!is_one)
			lm_wr(o, other, 2, 7);
		if (!is_one)
			lm_wr(o, other, len, 7);
	}
	assert_int_equal(o->placed, 0);
}

static void
ring_state_in_pairs(void **state)
{
	static const uint64_t at[NVQS] = {0x20, 0x24, 0x60, 0x64, 0xa0};

	check_layout(*state, at, 4);
}

static void
ring_state_a_queue(void **state)
{
	static const uint64_t at[NVQS] = {0x20, 0x24, 0x28, 0x2c, 0x30};

	check_layout(*state, at, 2);
}

static void
avail_index_alone_places_a_queue(void **state)
{
	struct owner *o = *state;

	lm_wr(o, 0x64, 2, 0xfffe);
	assert_int_equal(o->placed, 1u << 3);
	assert_int_equal(o->places[3].split.avail_index, 0xfffe);
	lm_wr(o, 0x64, 8, 1);
	assert_int_equal(o->places[3].split.avail_index, 0xfffe);
}

static void
any_place_is_read_back(void **state)
{
	struct owner *o = *state;

	for (unsigned int n = 0; n < 10000; n++) {
		uint16_t idx = (uint16_t)(random() % NVQS), place = (uint16_t)random();
		uint64_t at = QUEUE_STATE + idx / 2 * 0x40 + idx % 2 * 4;

		lm_wr(o, at, 4, place | (uint64_t)(random() & 0xffff) << 16);
		assert_int_equal(o->places[idx].split.avail_index, place);
		assert_int_equal(lm_rd(o, at, 4), place | (uint32_t)place << 16);
	}
}

static void
disabled_queue_stops_and_keeps_its_place(void **state)
{
	struct owner *o = *state;

	start(o);
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 3);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(o->stopped_queue, 3);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	/* Its registers stay, and can be written again. */
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX);
	o->stopped_queue = -1;
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(o->stopped_queue, -1);
	lm_wr(o, 0x64, 4, 0x00090009);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(o->started_queue, 3);
	assert_int_equal(o->places[3].split.avail_index, 9);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 1);
}

static void
log_begins_and_ends_by_control(void **state)
{
	struct owner *o = *state;

	lm_wr(o, LOG_START, 4, 0x89abc000);
	lm_wr(o, LOG_START + 4, 4, 0x1234567);
	lm_wr(o, LOG_END, 8, UINT64_C(0x123456789abd000));
	assert_int_equal(o->logs, 0);
	lm_wr(o, 0, 4, 1);
	assert_int_equal(o->logs, 1);
	assert_true(o->log_on);
	assert_int_equal(o->log_start, UINT64_C(0x123456789abc000));
	assert_int_equal(o->log_end, UINT64_C(0x123456789abd000));
	assert_int_equal(lm_rd(o, 0, 4), 1);
	assert_int_equal(lm_rd(o, LOG_START, 8), UINT64_C(0x123456789abc000));
	assert_int_equal(lm_rd(o, LOG_END + 4, 4), 0x1234567);
	/* Addresses are taken over by control only, which may be written by a byte. */
	lm_wr(o, LOG_END, 8, UINT64_C(0x123456789abe000));
	assert_int_equal(o->logs, 1);
	lm_wr(o, 0, 1, 1);
	assert_int_equal(o->log_end, UINT64_C(0x123456789abe000));
	lm_wr(o, 0, 1, 0);
	assert_false(o->log_on);
}

static void
status_says_what_is_pending(void **state)
{
	struct owner *o = *state;

	assert_int_equal(lm_rd(o, 8, 4), 0);
	o->log_pending = true;
	assert_int_equal(lm_rd(o, 8, 4), 1);
	lm_wr(o, 8, 4, 0);
	assert_int_equal(lm_rd(o, 8, 4), 1);
}

static void
reset_clears_the_block(void **state)
{
	struct owner *o = *state;

	lm_wr(o, LOG_START, 8, 0x1000);
	lm_wr(o, LOG_END, 8, 0x2000);
	lm_wr(o, 0, 4, 1);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(o->resets, 1);
	assert_int_equal(lm_rd(o, 0, 4), 0);
	assert_int_equal(lm_rd(o, LOG_START, 8), 0);
	assert_int_equal(lm_rd(o, LOG_END, 8), 0);
}

static void
block_is_gone_with_the_function(void **state)
{
	struct owner *o = *state;

	o->model.fault = MODEL_FAULT_BIT(ALL_ONES);
	assert_int_equal(lm_rd(o, 0, 4), UINT32_MAX);
	lm_wr(o, 0, 4, 1);
	assert_int_equal(o->logs, 0);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup_pairs, teardown)
	const struct CMUnitTest tests[] = {
		WITH(function_has_its_ids_and_bars),
		WITH(block_is_its_own_at_every_offset),
		WITH(platform_access_is_needed),
		WITH(queue_of_fewer_than_64_is_not_enabled),
		cmocka_unit_test(smaller_queues_make_no_function),
		WITH(ring_state_in_pairs),
		cmocka_unit_test_setup_teardown(ring_state_a_queue, setup_transitional, teardown),
		cmocka_unit_test_setup_teardown(ring_state_a_queue, setup_other_layout, teardown),
		WITH(avail_index_alone_places_a_queue),
		WITH(any_place_is_read_back),
		WITH(disabled_queue_stops_and_keeps_its_place),
		WITH(log_begins_and_ends_by_control),
		WITH(status_says_what_is_pending),
		WITH(reset_clears_the_block),
		WITH(block_is_gone_with_the_function),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
