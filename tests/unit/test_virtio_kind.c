/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a driver states of its functions (struct vdpa_virtio_kind), and what the service tells it.
 */

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

#define VENDOR 0x7777

static const struct vdpa_virtio_kind *the_kind;

static int
own_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci, const char *name,
	const struct vdpa_args *args)
{
	return vdpa_virtio_add(the_kind, mdev, pci, name, args);
}

static const struct vdpa_param own_params[] = {VDPA_VIRTIO_PARAMS, {0}};
static const struct vdpa_pci_match own_ids[] = {{VDPA_PCI_DEVICE(VENDOR, 1)}, {0}};
static struct vdpa_driver own = {
	.name = "own", .params = own_params, .pci_ids = own_ids, .pci_add = own_add};

static int
own_setup(void **state)
{
	assert_int_equal(vdpa_register_driver(&own), 0);
	return setup(state);
}

static int
own_teardown(void **state)
{
	int rc = teardown(state);

	vdpa_unregister_driver(&own);
	return rc;
}

static uint32_t
own_vendor_id(struct vdpa_device *vdev)
{
	return VENDOR;
}

static void
ops_replace_those_of_the_service(void **state)
{
	static const struct vdpa_config_ops ops = {.size = sizeof(ops),
						   .get_vendor_id = own_vendor_id};
	static const struct vdpa_virtio_kind kind = {.ops = &ops};
	struct fixture *f = *state;

	the_kind = &kind;
	add_net(f, 1, WORDS "driver own");
	assert_int_equal(f->vdev->config->get_vendor_id(f->vdev), VENDOR);
	assert_int_equal(vdpa_get_device_id(f->vdev), VIRTIO_ID_NET);
}

static void
a_table_without_its_size_is_refused(void **state)
{
	static const struct vdpa_config_ops ops = {.get_vendor_id = own_vendor_id};
	static const struct vdpa_virtio_kind kind = {.ops = &ops};
	struct fixture *f = *state;

	the_kind = &kind;
	fake_virtio_init(&f->v, "v0", 1);
	assert_refused(add(f, WORDS "driver own"), EINVAL, "has a size of 0 bytes");
}

static void
a_table_with_ops_of_a_later_version_is_refused(void **state)
{
	static const struct {
		struct vdpa_config_ops ops;
		uintptr_t later;
	} table = {.ops = {.size = sizeof(table), .get_vendor_id = own_vendor_id}, .later = 1};
	static const struct vdpa_virtio_kind kind = {.ops = &table.ops};
	struct fixture *f = *state;

	the_kind = &kind;
	fake_virtio_init(&f->v, "v0", 1);
	assert_refused(add(f, WORDS "driver own"), E2BIG, "ops of a later version");
}

/* Whether a queue that is ready and disabled may move its place. */
static bool
disabled_queue_runs(struct fixture *f, const struct vdpa_virtio_kind *kind)
{
	the_kind = kind;
	add_net(f, 2, WORDS "driver own");
	start(f);
	assert_true(vdpa_virtio_vq_runs(vdpa_virtio_device(f->vdev), 2));
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 2, false), 0);
	return vdpa_virtio_vq_runs(vdpa_virtio_device(f->vdev), 2);
}

static void
a_disabled_queue_runs_on_where_nothing_stops_it(void **state)
{
	static const struct vdpa_virtio_kind kind;

	assert_true(disabled_queue_runs(*state, &kind));
}

static void
a_disabled_queue_stands_still_where_queue_enable_stops_it(void **state)
{
	static const struct vdpa_virtio_kind kind = {.queue_enable_stops = true};

	assert_false(disabled_queue_runs(*state, &kind));
}

static uint64_t flags; /* of interrupts, a bit a queue; __atomic */

static bool
take_flag(struct vdpa_virtio_device *dev, uint16_t idx)
{
	uint64_t bit = RTE_BIT64(idx);

	return (__atomic_fetch_and(&flags, ~bit, __ATOMIC_SEQ_CST) & bit) != 0;
}

/* An interrupt that stays in the function may be the last one it raises for the queue. */
static void
interrupts_are_taken_back_also_where_nobody_listens(void **state)
{
	static const struct vdpa_virtio_kind kind = {.take_interrupt = take_flag};
	struct fixture *f = *state;
	struct pollfd called = {.fd = f->guest.call[0], .events = POLLIN};

	the_kind = &kind;
	add_net(f, 1, WORDS "driver own");
	start(f);
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 1, -1), 0);
	__atomic_store_n(&flags, 3, __ATOMIC_SEQ_CST);
	assert_true(fake_virtio_interrupt(&f->v, 1));
	EVENTUALLY((__atomic_load_n(&flags, __ATOMIC_SEQ_CST) & 2) == 0);
	/* Of the other queue nothing was said, and its vector is another. */
	assert_int_equal(__atomic_load_n(&flags, __ATOMIC_SEQ_CST), 1);
	/* A start may have signalled it. */
	(void)vdpa_eventfd_take(f->guest.call[0]);
	assert_true(fake_virtio_interrupt(&f->v, 0));
	EVENTUALLY(poll(&called, 1, 0) == 1);
	assert_int_equal(__atomic_load_n(&flags, __ATOMIC_SEQ_CST), 0);
}

#define OWN(test) cmocka_unit_test_setup_teardown(test, own_setup, own_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		OWN(ops_replace_those_of_the_service),
		OWN(a_table_without_its_size_is_refused),
		OWN(a_table_with_ops_of_a_later_version_is_refused),
		OWN(a_disabled_queue_runs_on_where_nothing_stops_it),
		OWN(a_disabled_queue_stands_still_where_queue_enable_stops_it),
		OWN(interrupts_are_taken_back_also_where_nobody_listens),
	};

	return cmocka_run_group_tests_name("virtio_kind", tests, group_setup, group_teardown);
}
