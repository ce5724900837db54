/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a driver says of its device: refused when it is registered, and not first at a start. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "steps.h"

struct fixture {
	struct vdpa_config_ops ops; /* of a software device, to be changed */
};

static struct {
	uint16_t max, min, size[FAKE_VQS];
	uint32_t align;
	uint64_t features;
} says;

static uint16_t
get_vq_num_max(struct vdpa_device *vdev)
{
	return says.max;
}

static uint16_t
get_vq_num_min(struct vdpa_device *vdev)
{
	return says.min;
}

static uint16_t
get_vq_size(struct vdpa_device *vdev, uint16_t idx)
{
	return says.size[idx];
}

static uint32_t
get_vq_align(struct vdpa_device *vdev)
{
	return says.align;
}

static uint64_t
get_features(struct vdpa_device *vdev)
{
	return says.features;
}

static int
log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used_iova)
{
	return 0;
}

static int
log_call(struct vdpa_device *vdev)
{
	return 0;
}

static int
map_piece(struct vdpa_device *vdev, uint32_t asid, const struct vdpa_mem_region *region)
{
	return 0;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct fake_device *fake = fake_device_new("fake0", false);

	assert_non_null(fake);
	f->ops = *fake->vdev.config;
	vdpa_put_device(&fake->vdev);
	says.max = 256;
	says.min = 4;
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		says.size[i] = 256;
	says.align = 64;
	says.features = UINT64_C(1) << VIRTIO_F_VERSION_1;
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	free(*state);
	return 0;
}

/* Drop op, and say what the message is; then it is there again. */
#define REFUSED(f, op, value, message)                                                             \
	do {                                                                                       \
		struct vdpa_config_ops ops_ = (f)->ops;                                            \
		ops_.op = (value);                                                                 \
		errno = 0;                                                                         \
		assert_null(vdpa_alloc_device_size(sizeof(struct fake_device), "d0", &ops_));      \
		assert_int_equal(errno, EINVAL);                                                   \
		assert_string_equal(vdpa_error_message(), message);                                \
	} while (0)

static void
ops_that_belong_together_are_there_together(void **state)
{
	struct fixture *f = *state;

	REFUSED(f, resume, NULL, "d0: the driver has suspend and lacks resume");
	REFUSED(f, suspend, NULL, "d0: the driver has resume and lacks suspend");
	REFUSED(f, log_start, log_start, "d0: the driver has log_start and lacks log_stop");
	REFUSED(f, log_stop, log_call, "d0: the driver has log_stop and lacks log_start");
	REFUSED(f, log_sync, log_call, "d0: the driver has log_sync and lacks log_start");
	REFUSED(f, dma_map, map_piece, "d0: the driver has dma_map and lacks dma_unmap");
	REFUSED(f, dma_unmap, map_piece, "d0: the driver has dma_unmap and lacks dma_map");
	f->ops.dma_unmap = map_piece;
	REFUSED(f, dma_map, map_piece,
		"d0: the driver has set_map and dma_map: allowed is one of them");
}

static void
every_mandatory_op_is_there(void **state)
{
	struct fixture *f = *state;

#define LACKS(op) REFUSED(f, op, NULL, "d0: the driver lacks " #op)
	LACKS(set_vq_address);
	LACKS(set_vq_num);
	LACKS(kick_vq);
	LACKS(set_vq_cb);
	LACKS(set_vq_ready);
	LACKS(set_vq_state);
	LACKS(get_vq_state);
	LACKS(get_vq_count);
	LACKS(get_vq_num_max);
	LACKS(get_device_features);
	LACKS(set_driver_features);
	LACKS(get_device_id);
	LACKS(get_vendor_id);
	LACKS(get_status);
	LACKS(set_status);
	LACKS(reset);
	LACKS(get_config_size);
	LACKS(get_config);
#undef LACKS
}

/* Register a device of these ops; it is gone again. */
static int
try_register(struct fixture *f, uint64_t backend)
{
	struct vdpa_device *vdev =
		vdpa_alloc_device_size(sizeof(struct fake_device), "d0", &f->ops);
	int rc;

	assert_non_null(vdev);
	((struct fake_device *)vdev)->backend_features = backend;
	rc = vdpa_register_device(vdev);
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
	return rc;
}

static void
features_are_those_of_a_modern_device(void **state)
{
	struct fixture *f = *state;

	f->ops.get_device_features = get_features;
	assert_int_equal(try_register(f, 0), 0);
	says.features = 0x20;
	assert_int_equal(try_register(f, 0), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "d0: device features 0x20 without VIRTIO_F_VERSION_1, which every "
			    "device has here");
}

/* The kernel's bits 4 and 5 are suspend and resume. */
static void
what_ops_say_is_not_said_by_bits(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(try_register(f, 1u << VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK), 0);
	assert_int_equal(try_register(f, 1u << 4 | 1u << VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK),
			 -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "d0: backend features 0x10 are unknown"));
}

static void
limits_of_queues_agree_with_each_other(void **state)
{
	static const struct {
		uint16_t max, min, size;
		uint32_t align;
		int rc;
		const char *message;
	} cases[] = {
		{256, 4, 256, 1, 0, NULL},
		{32768, 32768, 32768, 65536, 0, NULL},
		{256, 4, 64, 4096, 0, NULL},
		{0, 1, 1, 1, -EINVAL, "d0: queues of up to 0, allowed are 1 to 32768"},
		{32769, 1, 1, 1, -EINVAL, "d0: queues of up to 32769, allowed are 1 to 32768"},
		{256, 4, 512, 1, -EINVAL,
		 "d0: queue 2: of 4 to 512, where the device's are of up to 256"},
		{256, 64, 32, 1, -EINVAL,
		 "d0: queue 2: of 64 to 32, where the device's are of up to 256"},
		{256, 0, 256, 1, -EINVAL,
		 "d0: queue 0: of 0 to 256, where the device's are of up to 256"},
		{256, 4, 256, 0, -EINVAL,
		 "d0: queues aligned to 0, allowed are powers of two up to 65536"},
		{256, 4, 256, 48, -EINVAL,
		 "d0: queues aligned to 48, allowed are powers of two up to 65536"},
		{256, 4, 256, 131072, -EINVAL,
		 "d0: queues aligned to 131072, allowed are powers of two up to 65536"},
	};
	struct fixture *f = *state;

	f->ops.get_vq_num_max = get_vq_num_max;
	f->ops.get_vq_num_min = get_vq_num_min;
	f->ops.get_vq_size = get_vq_size;
	f->ops.get_vq_align = get_vq_align;
	for (unsigned int i = 0; i < RTE_DIM(cases); i++) {
		says.max = cases[i].max;
		says.min = cases[i].min;
		for (unsigned int q = 0; q < FAKE_VQS; q++)
			says.size[q] = q == 2 ? cases[i].size : says.max;
		says.align = cases[i].align;
		assert_int_equal(try_register(f, 0), cases[i].rc);
		if (cases[i].message != NULL)
			assert_string_equal(vdpa_error_message(), cases[i].message);
	}
}

static void
each_queue_has_its_own_limits(void **state)
{
	struct fixture *f = *state;
	struct vdpa_device *vdev;

	f->ops.get_vq_num_max = get_vq_num_max;
	f->ops.get_vq_num_min = get_vq_num_min;
	f->ops.get_vq_size = get_vq_size;
	f->ops.get_vq_align = get_vq_align;
	says.size[1] = 64;
	vdev = vdpa_alloc_device_size(sizeof(struct fake_device), "d0", &f->ops);
	assert_int_equal(vdpa_register_device(vdev), 0);
	assert_int_equal(vdpa_check_vq_num(vdev, 0, false, 256), 0);
	assert_int_equal(vdpa_check_vq_num(vdev, 1, false, 64), 0);
	assert_int_equal(vdpa_check_vq_num(vdev, 1, false, 128), -EINVAL);
	assert_string_equal(vdpa_error_message(), "d0: queue 1: size 128, allowed are 4 to 64");
	assert_int_equal(vdpa_check_vq_num(vdev, 1, false, 2), -EINVAL);
	assert_int_equal(vdpa_check_vq_num(vdev, 1, false, 48), -EINVAL);
	assert_int_equal(vdpa_check_vq_num(vdev, 1, true, 48), 0);
	assert_int_equal(vdpa_check_vq_align(vdev, 0, false, 0x40, 2, 0x80), 0);
	assert_int_equal(vdpa_check_vq_align(vdev, 0, false, 0x10, 2, 0x80), -EINVAL);
	assert_string_equal(vdpa_error_message(),
			    "d0: queue 0: descriptor table at 0x10 is not aligned to 64");
	assert_int_equal(vdpa_check_vq_align(vdev, 0, false, 0x40, 2, 0x84), -EINVAL);
	assert_int_equal(vdpa_check_vq_align(vdev, 0, false, 0x40, 1, 0x80), -EINVAL);
	assert_int_equal(vdpa_check_vq_align(vdev, 0, true, 0x40, 2, 0x80), -EINVAL);
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(ops_that_belong_together_are_there_together),
		TEST(every_mandatory_op_is_there),
		TEST(features_are_those_of_a_modern_device),
		TEST(what_ops_say_is_not_said_by_bits),
		TEST(limits_of_queues_agree_with_each_other),
		TEST(each_queue_has_its_own_limits),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
