/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The skeleton's unit test, by the test kit: a function in memory (fake_virtio.h), whose registers
 * are looked at, and a guest without a machine (fake_guest.h). It is linked with skeleton.c, whose
 * driver registers itself when the program starts; the function is named fake/v0.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include <fake_guest.h>
#include <fake_virtio.h>

#define PAIRS 2
#define WORDS "name v0 mgmtdev fake/v0 timeout_ms 60 "

struct fixture {
	struct fake_virtio v;
	struct fake_guest guest;
	struct vdpa_device *vdev;
};

/* A function with virtio in virtio_bar, and a BAR 4 with registers where that is another. */
static void
make_function(struct fixture *f, unsigned int virtio_bar)
{
	fake_virtio_init_bar(&f->v, "v0", PAIRS, virtio_bar);
	if (virtio_bar != 4) {
		fake_pci_add_bar(&f->v.pci, 4, 0x1000, false);
		memset(f->v.pci.bar[4].mem, 0xee, 0x1000);
	}
	fake_pci_set_ids(&f->v.pci, 0x1af4, 0x1041, 0x1234, 0x0001);
}

static void
add(struct fixture *f, const char *words)
{
	if (vdpa_dev_add(words) < 0)
		fail_msg("%s", vdpa_error_message());
	f->vdev = vdpa_find_device("v0");
	vdpa_put_device(f->vdev); /* the bus has one, until dev del */
	fake_guest_set_queues(&f->guest, 2 * PAIRS);
	f->guest.start.features |= UINT64_C(1) << VIRTIO_NET_F_MQ;
}

static void
refused(const char *words, int err, const char *text)
{
	assert_int_equal(vdpa_dev_add(words), -err);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' does not say '%s'", vdpa_error_message(), text);
}

static uint16_t *
ring_state(struct fixture *f, uint16_t idx)
{
	return (uint16_t *)(void *)&f->v.pci.bar[4].mem[0x20 + 4 * idx];
}

static uint64_t
stat_of(struct fixture *f, const char *name)
{
	struct vdpa_stat stats[32];
	int n = f->vdev->config->get_stats(f->vdev, stats, 32);

	for (int i = 0; i < n; i++)
		if (strcmp(stats[i].name, name) == 0)
			return stats[i].value;
	fail_msg("no statistic %s", name);
	return 0;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	fake_guest_init(&f->guest);
	*state = f;
	return 0;
}

/* Whatever a test did, nothing of it is left. */
static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_dev_del("v0");
	assert_null(f->v.pci.open);
	assert_int_equal(f->v.pci.n_mapped, 0);
	fake_virtio_fini(&f->v);
	fake_guest_fini(&f->guest);
	free(f);
	return 0;
}

static void
a_queue_starts_anywhere_and_says_where_it_stopped(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state place;

	make_function(f, 2);
	add(f, WORDS);
	for (uint16_t i = 0; i < 2 * PAIRS; i++)
		f->guest.vqs[i].state.split.avail_index = (uint16_t)(0xfffe + i);
	fake_guest_start(&f->guest, f->vdev);
	for (uint16_t i = 0; i < 2 * PAIRS; i++) {
		assert_int_equal(*ring_state(f, i), (uint16_t)(0xfffe + i));
		assert_int_equal(ring_state(f, i)[1], 0xeeee);
		assert_int_equal(f->v.vq[i].enable, 1);
	}
	assert_int_equal(stat_of(f, "places"), 2 * PAIRS);

	*ring_state(f, 1) = 0x1234;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &place), 0);
	assert_int_equal(place.split.avail_index, 0x1234);
	assert_int_equal(f->v.vq[1].enable, 0);
	assert_int_equal(f->v.vq[0].enable, 1);
}

static void
a_packed_ring_begins_at_its_beginning_only(void **state)
{
	struct fixture *f = *state;

	make_function(f, 2);
	add(f, WORDS);
	f->guest.start.features |= UINT64_C(1) << VIRTIO_F_RING_PACKED;
	fake_guest_start(&f->guest, f->vdev);
	assert_int_equal(vdpa_suspend(f->vdev), -EOPNOTSUPP);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->guest.vqs[0].state.packed.last_avail_idx = 3;
	f->guest.vqs[0].state.packed.last_used_idx = 3;
	/* Elsewhere a shadow virtqueue begins, and the function at its beginning all the same. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	assert_int_equal(*ring_state(f, 0), 0xeeee);
}

static void
without_ring_state_bar_4_is_left_alone(void **state)
{
	struct fixture *f = *state;

	make_function(f, 2);
	add(f, WORDS "ring_state off");
	assert_false(vdpa_get_capabilities(f->vdev)->suspend);
	fake_guest_start(&f->guest, f->vdev);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->guest.vqs[0].state.split.avail_index = 1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
	for (unsigned int i = 0; i < 0x1000; i++)
		assert_int_equal(f->v.pci.bar[4].mem[i], 0xee);
}

static void
a_bar_4_that_is_something_else_is_refused(void **state)
{
	struct fixture *f = *state;

	make_function(f, 4);
	refused(WORDS, ENOTSUP, "fake/v0: BAR 4 has structures of virtio or MSI-X");
	assert_null(f->v.pci.open);
	add(f, WORDS "ring_state off");
	fake_guest_start(&f->guest, f->vdev);
}

static void
a_bar_4_that_is_too_small_is_refused(void **state)
{
	struct fixture *f = *state;

	make_function(f, 2);
	f->v.pci.bar[4].size = 0x20;
	refused(WORDS, EPROTO, "fake/v0: BAR 4 is too small for the ring state of 4 queues");
}

/* Faults of the fake are members of it: see fake_pci.h and fake_virtio.h. */
static void
a_function_that_is_pulled_out_ends_the_start(void **state)
{
	struct fixture *f = *state;

	make_function(f, 2);
	add(f, WORDS);
	f->v.pci.all_ones = true;
	assert_true(vdpa_device_start(f->vdev, &f->guest.start) < 0);
}

static int
group_setup(void **state)
{
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_queue_starts_anywhere_and_says_where_it_stopped),
		T(a_packed_ring_begins_at_its_beginning_only),
		T(without_ring_state_bar_4_is_left_alone),
		T(a_bar_4_that_is_something_else_is_refused),
		T(a_bar_4_that_is_too_small_is_refused),
		T(a_function_that_is_pulled_out_ends_the_start),
	};

	return cmocka_run_group_tests_name("skeleton", tests, group_setup, group_teardown);
}
