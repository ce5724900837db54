/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The registers of vdpa-model's function like octep, as its driver meets them, and its faults. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "model_test.h"

#define BAR	      4
#define PENDING	      0x8000u
#define S_RUNNING     (S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
#define F_OFFERED     (FEATURES | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM))
#define F_PACKED      RTE_BIT64(VIRTIO_F_RING_PACKED)
#define SIGNATURE     UINT64_C(0x3355ffaafeedfeed)
#define MBOX	      (VP_DEVICE_OFFSET + 64)
#define MBOX_STATUS   (MBOX + 8)
#define MBOX_DATA     (MBOX + 24)
#define MBOX_DONE     1u
#define MBOX_ERROR(e) ((uint32_t)(e) << 1 | MBOX_DONE)
#define LATE_MS	      30

static uint64_t
bar_rd(struct owner *o, uint64_t offset, size_t len)
{
	uint64_t value = 0;

	vdpa_vp_bar_read(&o->vp, BAR, offset, &value, len);
	return value;
}

static void
packed_too(struct vp_params *params)
{
	params->features |= F_PACKED;
}

static int
setup_octep(void **state)
{
	return setup_kind(state, &vp_kind_octep, VP_PAGE, packed_too);
}

static int
setup_octep_shared(void **state)
{
	return setup_kind(state, &vp_kind_octep, 8, packed_too);
}

static void
slow(struct vp_params *params)
{
	((struct owner *)params->arg)->model.ready_ms = LATE_MS;
}

static int
setup_slow(void **state)
{
	return setup_kind(state, &vp_kind_octep, VP_PAGE, slow);
}

static uint64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* Reads of a register until it has a value; 0: it never had. */
static unsigned int
reads_until(struct owner *o, uint64_t at, size_t len, uint64_t value)
{
	uint64_t end = now_ms() + 20 * LATE_MS;

	for (unsigned int n = 1; now_ms() < end; n++)
		if (rd(o, at, len) == value)
			return n;
	return 0;
}

static unsigned int
select_octep(struct owner *o, uint64_t at, size_t len, uint32_t value)
{
	wr(o, at, len, value | PENDING);
	return reads_until(o, at, len, value);
}

static void
octep_reset(struct owner *o)
{
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0x80);
	assert_int_equal(status(o), 0);
}

static void
octep_negotiate(struct owner *o, uint64_t features)
{
	octep_reset(o);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_not_equal(select_octep(o, VIRTIO_PCI_COMMON_GFSELECT, 4, i), 0);
		wr(o, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)(features >> (32 * i)));
	}
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	assert_int_equal(status(o), S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
}

static void
ask_mbox(struct owner *o, uint16_t id, uint32_t idx, uint64_t words)
{
	wr(o, MBOX_DATA, 4, idx);
	wr(o, MBOX_DATA + 4, 8, words);
	wr(o, MBOX_STATUS, 4, 0);
	wr(o, MBOX + 2, 2, id);
	wr(o, MBOX + 6, 2, 0xdead);
}

/* The answer's status; 0: none came. */
static uint32_t
answer(struct owner *o)
{
	uint64_t end = now_ms() + 20 * LATE_MS;
	uint32_t value = 0;

	while (value == 0 && now_ms() < end)
		value = (uint32_t)rd(o, MBOX_STATUS, 4);
	if (value != 0)
		assert_int_equal(rd(o, MBOX + 6, 2), 0xbeef);
	return value;
}

static void
virtio_is_in_the_bar_alone(void **state)
{
	static const struct {
		uint8_t type;
		uint32_t offset, len;
	} caps[] = {{VIRTIO_PCI_CAP_COMMON_CFG, 0x1000, VP_COMMON_LEN},
		    {VIRTIO_PCI_CAP_ISR_CFG, 0x2000, 1},
		    {VIRTIO_PCI_CAP_DEVICE_CFG, 0x3000, 64 + 36},
		    {VIRTIO_PCI_CAP_NOTIFY_CFG, 0x4000, NVQS * VP_PAGE},
		    {9, 0, 0}};
	struct owner *o = *state;
	unsigned int seen = 0;

	assert_int_equal(cfg(o, PCI_VENDOR_ID, 4), 0xb903177d);
	for (unsigned int i = 0; i < RTE_DIM(caps); i++)
		assert_int_equal(find_cap(o, PCI_CAP_ID_VNDR, caps[i].type), 0);
	assert_int_equal(find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_PCI_CFG), 0);
	assert_int_not_equal(find_cap(o, PCI_CAP_ID_MSIX, 0), 0);

	assert_int_equal(bar_rd(o, 0, 8), SIGNATURE);
	for (uint64_t at = bar_rd(o, 0x34, 1); at != 0; at = bar_rd(o, at + 1, 1)) {
		assert_int_equal(bar_rd(o, at, 1), PCI_CAP_ID_VNDR);
		for (unsigned int i = 0; i < RTE_DIM(caps); i++) {
			if (bar_rd(o, at + 3, 1) != caps[i].type)
				continue;
			seen++;
			if (caps[i].type == 9) {
				assert_int_equal(bar_rd(o, at + 4, 2), 0x177d);
				assert_int_equal(bar_rd(o, at + 6, 1), 0);
				assert_int_equal(bar_rd(o, at + 8, 8), 1);
				continue;
			}
			assert_int_equal(bar_rd(o, at + 4, 1), BAR);
			assert_int_equal(bar_rd(o, at + 8, 4), caps[i].offset);
			assert_int_equal(bar_rd(o, at + 12, 4), caps[i].len);
			if (caps[i].type == VIRTIO_PCI_CAP_NOTIFY_CFG)
				assert_int_equal(bar_rd(o, at + 16, 4), VP_PAGE);
		}
	}
	assert_int_equal(seen, RTE_DIM(caps));
}

static void
firmware_takes_its_time(void **state)
{
	struct owner *o = *state;
	uint64_t first = now_ms();

	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(bar_rd(o, 0, 8), SIGNATURE & UINT32_MAX);
		while (bar_rd(o, 0, 8) != SIGNATURE)
			assert_true(now_ms() < first + 100 * LATE_MS);
		assert_true(now_ms() + 1 >= first + LATE_MS);
		/* A reset of the device is none of the firmware; one of the function is. */
		octep_reset(o);
		assert_int_equal(bar_rd(o, 0, 8), SIGNATURE);
		vdpa_vp_function_reset(&o->vp);
		first = now_ms();
	}
}

static void
selectors_are_acknowledged(void **state)
{
	struct owner *o = *state;

	wr(o, VIRTIO_PCI_COMMON_DFSELECT, 4, 1 | PENDING);
	/* Before that all is as selected before. */
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DF, 4), F_OFFERED & UINT32_MAX);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DFSELECT, 4), 1 | PENDING);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DFSELECT, 4), 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_DF, 4), (F_OFFERED | F_PACKED) >> 32);
	for (uint16_t i = 0; i < NVQS; i++) {
		assert_int_equal(select_octep(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, i), 2);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_NOFF, 2), i);
	}
	/* Without the bit nothing is selected. */
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SELECT, 2), NVQS - 1);
	assert_int_equal(select_octep(o, VIRTIO_PCI_COMMON_GFSELECT, 4, 1), 2);
	octep_negotiate(o, F_OFFERED);
	assert_int_equal(o->features, F_OFFERED);
}

static void
only_0x80_resets(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	assert_int_equal(o->resets, 1);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
	octep_reset(o);
	assert_int_equal(o->resets, 2);
}

static void
mailbox_sets_and_gets_split_state(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	assert_int_equal(rd(o, MBOX_STATUS, 4), MBOX_DONE);
	for (unsigned int n = 0; n < 1000; n++) {
		uint16_t idx = (uint16_t)(random() % NVQS), place = (uint16_t)random();

		ask_mbox(o, 1, idx, place);
		assert_int_equal(answer(o), MBOX_DONE);
		assert_true(o->placed & 1u << idx);
		assert_int_equal(o->places[idx].split.avail_index, place);
		ask_mbox(o, 2, idx, UINT64_MAX);
		assert_int_equal(answer(o), MBOX_DONE);
		assert_int_equal(rd(o, MBOX_DATA, 4), idx);
		assert_int_equal(rd(o, MBOX_DATA + 4, 8), place);
	}
}

static void
mailbox_sets_and_gets_packed_state(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED | F_PACKED);
	for (unsigned int n = 0; n < 1000; n++) {
		uint32_t word = (uint32_t)random() << 1 ^ (uint32_t)random();
		struct vdpa_vq_state *s = &o->places[3];

		ask_mbox(o, 1, 3, word);
		assert_int_equal(answer(o), MBOX_DONE);
		assert_int_equal(s->packed.last_avail_counter, word & 1);
		assert_int_equal(s->packed.last_avail_idx, word >> 1 & 0x7fff);
		assert_int_equal(s->packed.last_used_counter, word >> 16 & 1);
		assert_int_equal(s->packed.last_used_idx, word >> 17);
		ask_mbox(o, 2, 3, 0);
		assert_int_equal(answer(o), MBOX_DONE);
		assert_int_equal(rd(o, MBOX_DATA + 4, 8), word);
	}
}

static void
mailbox_answers_what_it_looked_at_once(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	ask_mbox(o, 1, 2, 7);
	assert_int_equal(rd(o, MBOX_STATUS, 4), 0);
	assert_int_equal(o->placed, 0);
	assert_int_equal(rd(o, MBOX_STATUS, 4), MBOX_DONE);
	assert_int_equal(o->placed, 1u << 2);
}

static void
mailbox_refuses_what_cannot_be(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	ask_mbox(o, 1, NVQS, 7);
	assert_int_equal(answer(o), MBOX_ERROR(EINVAL));
	ask_mbox(o, 2, UINT32_MAX, 7);
	assert_int_equal(answer(o), MBOX_ERROR(EINVAL));
	ask_mbox(o, 3, 0, 7);
	assert_int_equal(answer(o), MBOX_ERROR(EOPNOTSUPP));
	/* A running queue keeps its place, and tells it. */
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_RUNNING);
	ask_mbox(o, 1, 0, 7);
	assert_int_equal(answer(o), MBOX_ERROR(EBUSY));
	ask_mbox(o, 2, 0, 7);
	assert_int_equal(answer(o), MBOX_DONE);
	assert_int_equal(o->placed, 0);
}

static void
mailbox_takes_no_request_while_it_is_free(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	wr(o, MBOX_DATA, 4, 1);
	wr(o, MBOX_DATA + 4, 4, 9);
	wr(o, MBOX + 2, 2, 1);
	wr(o, MBOX + 6, 2, 0xdead);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(rd(o, MBOX_STATUS, 4), MBOX_DONE);
	assert_int_equal(rd(o, MBOX + 6, 2), 0xdead);
	assert_int_equal(o->placed, 0);
	/* One that the driver gives up is not done. */
	ask_mbox(o, 1, 1, 9);
	wr(o, MBOX_STATUS, 4, MBOX_DONE);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(rd(o, MBOX_STATUS, 4), MBOX_DONE);
	assert_int_equal(o->placed, 0);
}

static void
disabled_queue_stops(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	select_octep(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 3);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, S_RUNNING);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_int_equal(o->stopped_queue, 3);
	ask_mbox(o, 1, 3, 11);
	assert_int_equal(answer(o), MBOX_DONE);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(o->started_queue, 3);
	assert_int_equal(o->places[3].split.avail_index, 11);
}

static void
check_flags(struct owner *o, uint64_t step)
{
	for (uint16_t i = 0; i < NVQS; i++) {
		uint64_t doorbell = VP_NOTIFY_OFFSET + i * step;

		o->flags[i] = 1;
		assert_int_equal(rd(o, doorbell, 8), UINT64_C(1) << 32);
		assert_int_equal(rd(o, doorbell + 4, 4), 1);
		wr(o, doorbell + 4, 4, 0);
		assert_int_equal(o->flags[i], 0);
		assert_int_equal(rd(o, doorbell + 4, 4), 0);
		assert_int_equal(o->rung_queue, i == 0 ? -1 : i - 1);
		wr(o, doorbell, 2, i);
		assert_int_equal(o->rung_queue, i);
		wr(o, doorbell, 4, 0x50000u | i);
		assert_int_equal(o->rung_data, 0x50000u | i);
		assert_int_equal(o->flags[i], 0);
	}
	wr(o, VP_NOTIFY_OFFSET + NVQS * step + 4, 4, 1);
}

static void
flags_lie_behind_doorbells(void **state)
{
	check_flags(*state, VP_PAGE);
}

static void
flags_lie_between_shared_doorbells(void **state)
{
	check_flags(*state, 8);
}

static void
every_access_is_harmless(void **state)
{
	struct owner *o = *state;
	uint8_t buf[128];

	for (unsigned int n = 0; n < 100000; n++) {
		uint64_t at = (uint64_t)random() % 0x4100;
		size_t len = 1 + (size_t)random() % sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = (uint8_t)random();
		if (random() % 2 == 0)
			vdpa_vp_bar_write(&o->vp, BAR, at, buf, len);
		vdpa_vp_bar_read(&o->vp, BAR, at, buf, len);
	}
}

static void
parameters_without_room_make_no_function(void **state)
{
	struct vp_params params = {.kind = &vp_kind_octep,
				   .device_id = 1,
				   .nvqs = 2,
				   .queue_size_max = 32,
				   .vectors = 9,
				   .notify_mult = VP_PAGE,
				   .device_size = 12};
	struct vp_function vp;

	assert_int_equal(vdpa_vp_init(&vp, &params), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "vectors 9"));
	params.vectors = 8;
	params.device_size = 65;
	assert_int_equal(vdpa_vp_init(&vp, &params), -EINVAL);
	params.device_size = 64;
	params.notify_mult = 4;
	assert_int_equal(vdpa_vp_init(&vp, &params), -EINVAL);
}

/* Faults. */

static void
signature_may_be_wrong(void **state)
{
	struct owner *o = *state;

	o->model.fault = MODEL_FAULT_BIT(WRONG_SIGNATURE);
	assert_int_not_equal(bar_rd(o, 0, 4), SIGNATURE & UINT32_MAX);
	o->model.fault = 0;
	assert_int_equal(bar_rd(o, 0, 8), SIGNATURE);
}

static void
capability_may_point_past_the_bar(void **state)
{
	struct owner *o = *state;
	uint64_t at = bar_rd(o, 0x34, 1);

	o->model.fault = MODEL_FAULT_BIT(BAD_CAPABILITY);
	while (bar_rd(o, at + 3, 1) != VIRTIO_PCI_CAP_COMMON_CFG)
		at = bar_rd(o, at + 1, 1);
	assert_int_equal(bar_rd(o, at + 8, 4), vdpa_vp_bar_shown(&o->vp, BAR));
	o->model.fault = MODEL_FAULT_BIT(SMALL_BAR);
	assert_int_equal(vdpa_vp_bar_shown(&o->vp, BAR), 0x3000);
}

static void
selector_may_never_be_acknowledged(void **state)
{
	struct owner *o = *state;

	o->model.fault = MODEL_FAULT_BIT(SELECTOR_NEVER);
	assert_int_equal(select_octep(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 3), 0);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_NOFF, 2), 0);
	o->model.fault = 0;
	assert_int_equal(reads_until(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 3), 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_NOFF, 2), 3);
	/* Nor does it outlive a reset. */
	o->model.fault = MODEL_FAULT_BIT(SELECTOR_NEVER);
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, 2 | PENDING);
	octep_reset(o);
	o->model.fault = 0;
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SELECT, 2), 0);
}

static void
selector_may_be_late(void **state)
{
	struct owner *o = *state;
	uint64_t first = now_ms();

	o->model.delay_ms = LATE_MS;
	o->model.fault = MODEL_FAULT_BIT(SELECTOR_LATE);
	assert_int_not_equal(select_octep(o, VIRTIO_PCI_COMMON_DFSELECT, 4, 1), 0);
	assert_true(now_ms() + 1 >= first + LATE_MS);
}

static void
mailbox_may_never_answer(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	o->model.fault = MODEL_FAULT_BIT(MAILBOX_NEVER);
	ask_mbox(o, 1, 0, 5);
	assert_int_equal(answer(o), 0);
	o->model.fault = 0;
	assert_int_equal(answer(o), MBOX_DONE);
	assert_int_equal(o->places[0].split.avail_index, 5);
}

static void
mailbox_may_be_late(void **state)
{
	struct owner *o = *state;
	uint64_t first;

	octep_negotiate(o, F_OFFERED);
	o->model.delay_ms = LATE_MS;
	o->model.fault = MODEL_FAULT_BIT(MAILBOX_LATE);
	first = now_ms();
	ask_mbox(o, 1, 0, 5);
	assert_int_equal(answer(o), MBOX_DONE);
	assert_true(now_ms() + 1 >= first + LATE_MS);
}

static void
mailbox_may_answer_errors(void **state)
{
	struct owner *o = *state;

	octep_negotiate(o, F_OFFERED);
	o->model.fault = MODEL_FAULT_BIT(MAILBOX_ERROR);
	ask_mbox(o, 1, 0, 5);
	assert_int_equal(answer(o), MBOX_ERROR(EIO));
	assert_int_equal(o->placed, 0);
}

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup_octep, teardown)
	const struct CMUnitTest tests[] = {
		WITH(virtio_is_in_the_bar_alone),
		cmocka_unit_test_setup_teardown(firmware_takes_its_time, setup_slow, teardown),
		WITH(selectors_are_acknowledged),
		WITH(only_0x80_resets),
		WITH(mailbox_sets_and_gets_split_state),
		WITH(mailbox_sets_and_gets_packed_state),
		WITH(mailbox_answers_what_it_looked_at_once),
		WITH(mailbox_refuses_what_cannot_be),
		WITH(mailbox_takes_no_request_while_it_is_free),
		WITH(disabled_queue_stops),
		WITH(flags_lie_behind_doorbells),
		cmocka_unit_test_setup_teardown(flags_lie_between_shared_doorbells,
						setup_octep_shared, teardown),
		WITH(every_access_is_harmless),
		cmocka_unit_test(parameters_without_room_make_no_function),
		WITH(signature_may_be_wrong),
		WITH(capability_may_point_past_the_bar),
		WITH(selector_may_never_be_acknowledged),
		WITH(selector_may_be_late),
		WITH(mailbox_may_never_answer),
		WITH(mailbox_may_be_late),
		WITH(mailbox_may_answer_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
