/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The names of types and of their feature bits, ours and iproute2's. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <linux/virtio_ids.h>

#include "feature_names.h"
#include "virtio_type.h"

static void
a_bit_is_named_by_the_type_that_has_it(void **state)
{
	assert_string_equal(feature_name(VIRTIO_ID_NET, 1), "GUEST_CSUM");
	assert_string_equal(feature_name(VIRTIO_ID_BLOCK, 1), "SIZE_MAX");
	assert_string_equal(feature_name(VIRTIO_ID_GPU, 1), "EDID");
	assert_string_equal(feature_name(VIRTIO_ID_CRYPTO, 1), "CIPHER_STATELESS_MODE");
	assert_null(feature_name(VIRTIO_ID_INPUT, 1));
	assert_null(feature_name(0, 1));
}

static void
a_bit_of_the_ring_has_its_name_in_every_type(void **state)
{
	for (uint32_t type = 0; type < 64; type++)
		assert_string_equal(feature_name(type, 34), "RING_PACKED");
}

static void
iproute2_knows_net_and_the_ring_and_no_more(void **state)
{
	assert_string_equal(feature_name_iproute2(VIRTIO_ID_NET, 5), "MAC");
	assert_string_equal(feature_name_iproute2(VIRTIO_ID_NET, 24), "NOTIFY_ON_EMPTY");
	assert_string_equal(feature_name_iproute2(VIRTIO_ID_NET, 27), "ANY_LAYOUT");
	assert_string_equal(feature_name_iproute2(VIRTIO_ID_NET, 63), "SPEED_DUPLEX");
	assert_string_equal(feature_name_iproute2(VIRTIO_ID_BLOCK, 28), "RING_INDIRECT_DESC");
	assert_string_equal(feature_name_iproute2(0, 38), "NOTIFICATION_DATA");
	/* Bits without a name, and those that came later. */
	for (unsigned int bit = 0; bit < 64; bit++)
		if (bit == 4 || bit == 6 || bit == 25 || bit == 26 || bit == 30 || bit == 31 ||
		    (bit >= 39 && bit <= 56) || bit == 58 || bit == 59)
			assert_null(feature_name_iproute2(VIRTIO_ID_NET, bit));
		else
			assert_non_null(feature_name_iproute2(VIRTIO_ID_NET, bit));
	assert_null(feature_name_iproute2(VIRTIO_ID_BLOCK, 1));
	assert_null(feature_name_iproute2(VIRTIO_ID_BLOCK, 27));
	assert_null(feature_name_iproute2(0, 63));
}

static void
every_type_with_names_of_bits_has_a_name(void **state)
{
	const char *unknown = virtio_type(UINT32_MAX)->name;

	for (uint32_t type = 0; type < 64; type++)
		if (feature_name(type, 0) != NULL || feature_name(type, 1) != NULL)
			assert_string_not_equal(virtio_type(type)->name, unknown);
	assert_string_equal(virtio_type(VIRTIO_ID_GPU)->name, "gpu");
	assert_string_equal(virtio_type(VIRTIO_ID_INPUT)->name, "input");
	assert_string_equal(virtio_type(VIRTIO_ID_CRYPTO)->name, "crypto");
}

static void
what_lies_behind_a_configuration_is_not_part_of_it(void **state)
{
	assert_int_equal(virtio_type(VIRTIO_ID_GPU)->config_size, 16);
	assert_int_equal(virtio_type(VIRTIO_ID_BALLOON)->config_size, 16);
	assert_int_equal(virtio_type(VIRTIO_ID_SCMI)->config_size, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_bit_is_named_by_the_type_that_has_it),
		cmocka_unit_test(a_bit_of_the_ring_has_its_name_in_every_type),
		cmocka_unit_test(iproute2_knows_net_and_the_ring_and_no_more),
		cmocka_unit_test(every_type_with_names_of_bits_has_a_name),
		cmocka_unit_test(what_lies_behind_a_configuration_is_not_part_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
