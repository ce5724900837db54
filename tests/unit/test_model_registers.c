/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The registers of vdpa-model as a driver meets them: common configuration, doorbells, and faults.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model_test.h"

static void
select_queue(struct owner *o, uint16_t idx)
{
	wr(o, VIRTIO_PCI_COMMON_Q_SELECT, 2, idx);
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

	assert_false(vdpa_vp_needs_reset(&o->vp));
	assert_int_equal(status(o), 0);
	negotiate(o, FEATURES);
	assert_false(vdpa_vp_needs_reset(&o->vp));
	run(o);
	assert_true(vdpa_vp_needs_reset(&o->vp));
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

static uint16_t
size_of_queue(void *arg, uint16_t idx)
{
	return idx == 1 ? QUEUE_MAX / 2 : QUEUE_MAX;
}

static void
give_sizes(struct vp_params *params)
{
	static struct vp_ops sized;

	sized = *params->ops;
	sized.queue_size_max = size_of_queue;
	params->ops = &sized;
}

static int
setup_sizes(void **state)
{
	return setup_kind(state, NULL, VP_PAGE, give_sizes);
}

static void
a_queue_is_as_large_as_it_may_be(void **state)
{
	struct owner *o = *state;

	for (unsigned int round = 0; round < 2; round++) {
		select_queue(o, 0);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX);
		select_queue(o, 1);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX / 2);
		wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, QUEUE_MAX);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), QUEUE_MAX / 2);
		wr(o, VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
		assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_SIZE, 2), 16);
		/* A reset gives it back its size. */
		wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	}
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

	vdpa_vp_raise_isr(&o->vp, 1);
	vdpa_vp_raise_isr(&o->vp, VIRTIO_PCI_ISR_CONFIG);
	assert_true(vdpa_vp_intx_level(&o->vp));
	assert_int_equal(cfg(o, PCI_STATUS, 2) & PCI_STATUS_INTERRUPT, PCI_STATUS_INTERRUPT);
	assert_int_equal(rd(o, VP_ISR_OFFSET, 1), 3);
	assert_int_equal(rd(o, VP_ISR_OFFSET, 1), 0);
	assert_false(vdpa_vp_intx_level(&o->vp));
	vdpa_vp_raise_isr(&o->vp, 1);
	cfg_write(o, PCI_COMMAND, 2, PCI_COMMAND_INTX_DISABLE);
	assert_false(vdpa_vp_intx_level(&o->vp));
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

/* Faults. */

static void
faults_show_in_registers(void **state)
{
	struct owner *o = *state;
	uint8_t at = find_cap(o, PCI_CAP_ID_VNDR, VIRTIO_PCI_CAP_COMMON_CFG);
	uint64_t generation;

	o->model.fault = MODEL_FAULT_BIT(QUEUE_NEVER_ENABLES);
	wr(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);

	o->model.fault = MODEL_FAULT_BIT(FEATURES_REFUSED);
	negotiate(o, FEATURES);
	assert_int_equal(status(o), S_DRIVER);

	o->model.fault = MODEL_FAULT_BIT(RESET_NEVER_COMPLETES);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), S_DRIVER);
	o->model.fault = 0;
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, 0);
	assert_int_equal(status(o), 0);

	o->model.fault = MODEL_FAULT_BIT(NO_VECTOR);
	wr(o, VIRTIO_PCI_COMMON_Q_MSIX, 2, 1);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_Q_MSIX, 2), VP_NO_VECTOR);

	o->model.fault = MODEL_FAULT_BIT(UNSTABLE_GENERATION);
	generation = rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	assert_int_not_equal(rd(o, VIRTIO_PCI_COMMON_CFGGENERATION, 1), generation);

	o->model.fault = MODEL_FAULT_BIT(BAD_CAPABILITY);
	assert_int_equal(cfg(o, at + VIRTIO_PCI_CAP_OFFSET, 4), 0x8000);
	o->model.fault = MODEL_FAULT_BIT(SMALL_BAR);
	assert_int_equal(vdpa_vp_bar_shown(&o->vp, VP_BAR_VIRTIO), 0x2000);

	o->model.fault = MODEL_FAULT_BIT(ALL_ONES);
	assert_int_equal(rd(o, VIRTIO_PCI_COMMON_STATUS, 4), UINT32_MAX);
	assert_int_equal(cfg(o, 0, 4), UINT32_MAX);
	wr(o, VIRTIO_PCI_COMMON_STATUS, 1, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	o->model.fault = 0;
	assert_int_equal(status(o), 0);
}

static void
fault_names_are_parsed_and_told(void **state)
{
	uint32_t mask, all = 0;
	char text[MODEL_FAULT_TEXT_MAX];

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

int
main(void)
{
#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WITH(features_come_in_halves),
		WITH(features_ok_is_for_good_features),
		WITH(status_bits_stay_until_reset),
		WITH(device_that_does_not_start_needs_reset),
		WITH(failure_is_told_to_a_running_driver_only),
		WITH(queue_registers_are_the_selected_queues),
		cmocka_unit_test_setup_teardown(a_queue_is_as_large_as_it_may_be, setup_sizes,
						teardown),
		WITH(enabled_queue_is_fixed),
		WITH(queue_is_reset_and_enabled_again),
		WITH(queue_reset_needs_its_feature),
		WITH(late_queue_that_does_not_start_reads_disabled),
		WITH(vectors_are_granted_within_the_table),
		WITH(reading_the_isr_acknowledges),
		WITH(generation_tells_of_changed_configuration),
		WITH(doorbell_names_queue_and_data),
		WITH(faults_show_in_registers),
		cmocka_unit_test(fault_names_are_parsed_and_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
