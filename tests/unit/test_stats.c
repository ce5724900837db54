/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Statistics: what the core counts itself, what it takes from a driver, what it says to be unknown,
 * and how it looks at rings that a guest writes. On other paths than the direct one, see
 * test_session_paths.c.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>
#include <jansson.h>
#include <linux/virtio_net.h>

#include "clock.h"
#include "device_test.h"
#include "paths.h"

static void *
memory_at(struct fixture *f, uint64_t iova)
{
	return vdpa_iotlb_range(f->tlb, iova, 8);
}

static void
put_idx(struct fixture *f, uint64_t ring, uint16_t idx)
{
	memcpy((uint8_t *)memory_at(f, ring) + 2, &idx, sizeof(idx));
}

static struct vdpa_queue_stats
of_queue(struct fixture *f, uint16_t idx)
{
	struct vdpa_queue_stats s[FAKE_VQS];

	for (uint16_t i = 0; i < FAKE_VQS; i++)
		vdpa_device_get_vq_stats(f->vdev, i, &s[i]);
	vdpa_device_look_at_rings(f->vdev, s, FAKE_VQS);
	return s[idx];
}

static uint64_t
of_device(struct fixture *f, enum vdpa_device_stat_id id)
{
	struct vdpa_device_stats s;

	vdpa_device_get_stats(f->vdev, &s);
	assert_true(s.known[id]);
	return s.value[id];
}

static bool
device_knows(struct fixture *f, enum vdpa_device_stat_id id)
{
	struct vdpa_device_stats s;

	vdpa_device_get_stats(f->vdev, &s);
	return s.known[id];
}

static void
starts_stops_failures_and_memory_are_counted(void **state)
{
	struct fixture *f = *state;

	assert_false(device_knows(f, VDPA_DEVICE_STAT_START_US));
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_MEMORY_BYTES), 0);
	for (unsigned int i = 1; i <= 3; i++) {
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STARTS), i);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STOPS), i - 1);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_MEMORY_BYTES), MEM_SIZE);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_MEMORY_REGIONS), 1);
		assert_true(of_device(f, VDPA_DEVICE_STAT_START_US) > 0);
		/* What suspends and goes on has not stopped. */
		assert_int_equal(vdpa_suspend(f->vdev), 0);
		assert_int_equal(vdpa_resume(f->vdev), 0);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STARTS), i);
		assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STOPS), i);
	}
	/* A start that fails is none, and leaves the last one's duration. */
	f->fake->fail_at = f->fake->calls + 3;
	assert_true(vdpa_device_start(f->vdev, &f->start) < 0);
	f->fake->fail_at = 0;
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STARTS), 3);

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_FAILURES), 0);
	vdpa_device_fail(f->vdev, 1, EIO, "broken");
	vdpa_device_fail(f->vdev, 1, EIO, "broken again, by the same cause");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_FAILURES), 1);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_STOPS), 4);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_MEMORY_BYTES), 0);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_MEMORY_REGIONS), 0);
}

static void
connections_are_known_of_a_front_end_that_counts_them(void **state)
{
	struct fixture *f = *state;

	assert_false(device_knows(f, VDPA_DEVICE_STAT_CONNECTIONS));
	vdpa_device_add_connections(f->vdev, 0);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_CONNECTIONS), 0);
	vdpa_device_add_connections(f->vdev, 1);
	vdpa_device_add_connections(f->vdev, 1);
	assert_int_equal(of_device(f, VDPA_DEVICE_STAT_CONNECTIONS), 2);
}

static void
kick(struct fixture *f, uint16_t idx)
{
	unsigned int before = f->fake->vq[idx].kicks;

	eventfd_write(f->kick_fd[idx], 1);
	EVENTUALLY(__atomic_load_n(&f->fake->vq[idx].kicks, __ATOMIC_SEQ_CST) == before + 1);
}

static void
relayed_kicks_are_all_until_the_doorbell_is_given(void **state)
{
	struct fixture *f = *state;
	struct vdpa_queue_stats s;

	for (unsigned int round = 0; round < 2; round++) {
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		for (unsigned int i = 0; i < 5; i++)
			kick(f, 0);
		kick(f, 1);
		s = of_queue(f, 0);
		assert_true(s.known[VDPA_QUEUE_STAT_KICKS]);
		assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS], 5 * (round + 1));
		assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS_RELAYED], 5 * (round + 1));
		assert_int_equal(of_queue(f, 1).value[VDPA_QUEUE_STAT_KICKS], round + 1);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_doorbell_given(f->vdev, 0);
	kick(f, 0);
	s = of_queue(f, 0);
	assert_false(s.known[VDPA_QUEUE_STAT_KICKS]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS_RELAYED], 11);
	assert_true(of_queue(f, 1).known[VDPA_QUEUE_STAT_KICKS]);
	/* What went there does not come to be known later. */
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_false(of_queue(f, 0).known[VDPA_QUEUE_STAT_KICKS]);
}

static int
setup_own_kick(void **state)
{
	return setup_with(state, true);
}

static void
kicks_that_only_the_device_sees_are_its_to_tell(void **state)
{
	static const struct vdpa_stat told[] = {{VDPA_QSTAT_KICKS, 7}};
	struct fixture *f = *state;
	struct vdpa_queue_stats s;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	s = of_queue(f, 0);
	assert_false(s.known[VDPA_QUEUE_STAT_KICKS]);
	assert_false(s.known[VDPA_QUEUE_STAT_INTERRUPTS]);
	f->fake->vq_stats = told;
	f->fake->n_vq_stats = 1;
	s = of_queue(f, 0);
	assert_true(s.known[VDPA_QUEUE_STAT_KICKS]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS], 7);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS_RELAYED], 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
what_a_driver_reports_is_sorted_by_name(void **state)
{
	static const struct vdpa_stat told[] = {{"own_one", 1},
						{VDPA_QSTAT_COMPLETED_DESC, 2},
						{VDPA_QSTAT_ERRORS, 3},
						{"packets_of_its_own", 4},
						{VDPA_QSTAT_PACKETS, 5}};
	struct fixture *f = *state;
	struct vdpa_queue_stats s = of_queue(f, 0);

	assert_false(s.known[VDPA_QUEUE_STAT_PACKETS]);
	assert_false(s.known[VDPA_QUEUE_STAT_ERRORS]);
	assert_int_equal(s.n_vendor, 0);
	f->fake->vq_stats = told;
	f->fake->n_vq_stats = RTE_DIM(told);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	s = of_queue(f, 0);
	assert_int_equal(s.n_vendor, 2);
	assert_string_equal(s.vendor[0].name, "own_one");
	assert_string_equal(s.vendor[1].name, "packets_of_its_own");
	assert_true(s.known[VDPA_QUEUE_STAT_PACKETS] && s.known[VDPA_QUEUE_STAT_COMPLETED_DESC]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_PACKETS], 5);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_COMPLETED_DESC], 2);
	assert_false(s.known[VDPA_QUEUE_STAT_BYTES]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_ERRORS], 3);
	/* A failure that names the queue is an error of it. */
	vdpa_device_fail(f->vdev, 0, EFAULT, "a descriptor outside of the guest's memory");
	assert_int_equal(of_queue(f, 0).value[VDPA_QUEUE_STAT_ERRORS], 4);
	assert_int_equal(of_queue(f, 1).value[VDPA_QUEUE_STAT_ERRORS], 3);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

/* Rings. */

static void
ring_is(struct fixture *f, uint16_t avail, uint16_t used)
{
	put_idx(f, f->vqs[0].driver, avail);
	put_idx(f, f->vqs[0].device, used);
}

static void
the_depth_of_a_ring_is_what_its_indexes_say(void **state)
{
	static const struct {
		uint16_t avail, used, depth;
	} rings[] = {{0, 0, 0}, {10, 3, 7}, {64, 0, 64}, {5, 65530, 11}, {0x8000, 0x7fff, 1}};
	struct fixture *f = *state;
	struct vdpa_queue_stats s = of_queue(f, 0);

	/* Not set up: nothing is in it. */
	assert_true(s.known[VDPA_QUEUE_STAT_RING_SIZE] && s.known[VDPA_QUEUE_STAT_RING_DEPTH]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_RING_SIZE], 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (unsigned int i = 0; i < RTE_DIM(rings); i++) {
		ring_is(f, rings[i].avail, rings[i].used);
		s = of_queue(f, 0);
		assert_int_equal(s.value[VDPA_QUEUE_STAT_RING_SIZE], 64);
		assert_true(s.known[VDPA_QUEUE_STAT_RING_DEPTH]);
		assert_int_equal(s.value[VDPA_QUEUE_STAT_RING_DEPTH], rings[i].depth);
	}
	assert_int_equal(of_queue(f, 2).value[VDPA_QUEUE_STAT_RING_SIZE], 0);
	/* Indexes that no ring can have. */
	ring_is(f, 65, 0);
	s = of_queue(f, 0);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_RING_SIZE], 64);
	assert_false(s.known[VDPA_QUEUE_STAT_RING_DEPTH]);
	ring_is(f, 0, 1);
	assert_false(of_queue(f, 0).known[VDPA_QUEUE_STAT_RING_DEPTH]);
	ring_is(f, 0, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(of_queue(f, 0).value[VDPA_QUEUE_STAT_RING_SIZE], 0);
}

static void
a_packed_ring_does_not_say_its_depth(void **state)
{
	struct fixture *f = *state;
	struct vdpa_queue_stats s;

	f->fake->more_features = RTE_BIT64(VIRTIO_F_RING_PACKED);
	f->start.features |= RTE_BIT64(VIRTIO_F_RING_PACKED);
	for (unsigned int i = 0; i < 2; i++)
		vdpa_place_set_initial(true, &f->vqs[i].state);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	s = of_queue(f, 0);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_RING_SIZE], 64);
	assert_false(s.known[VDPA_QUEUE_STAT_RING_DEPTH]);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
a_device_that_is_at_work_is_not_waited_for(void **state)
{
	struct fixture *f = *state;
	struct vdpa_queue_stats s;
	uint64_t begin;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	kick(f, 0);
	vdpa_device_lock(f->vdev);
	begin = now_ns();
	s = of_queue(f, 0);
	assert_in_range(now_ns() - begin, VDPA_RINGS_WAIT_US * 500, UINT64_C(1000000000));
	vdpa_device_unlock(f->vdev);
	assert_false(s.known[VDPA_QUEUE_STAT_RING_SIZE]);
	assert_false(s.known[VDPA_QUEUE_STAT_RING_DEPTH]);
	assert_int_equal(s.value[VDPA_QUEUE_STAT_KICKS], 1);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

/* JSON. */

static json_t *
parsed(char *text)
{
	json_t *root = json_loads(text, 0, NULL);

	assert_non_null(text);
	assert_non_null(root);
	free(text);
	return root;
}

static json_t *
field_of_queue(json_t *root, unsigned int q, const char *name)
{
	return json_object_get(json_array_get(json_object_get(root, "queues"), q), name);
}

static void
what_is_not_known_is_null_and_what_makes_no_sense_is_left_out(void **state)
{
	struct fixture *f = *state;
	json_t *root, *device;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	root = parsed(vdpa_dev_stats("fake0"));
	device = json_object_get(root, "device");
	assert_string_equal(json_string_value(json_object_get(device, "state")), "running");
	assert_int_equal(json_integer_value(json_object_get(device, "starts")), 1);
	assert_true(json_is_null(json_object_get(device, "connections")));
	assert_string_equal(json_string_value(field_of_queue(root, 0, "queue_type")), "rx");
	assert_string_equal(json_string_value(field_of_queue(root, 1, "queue_type")), "tx");
	assert_string_equal(json_string_value(field_of_queue(root, 0, "path")), "direct");
	assert_true(json_is_null(field_of_queue(root, 0, "packets")));
	assert_true(json_is_null(field_of_queue(root, 0, "interrupts")));
	assert_int_equal(json_integer_value(field_of_queue(root, 0, "ring_size")), 64);
	assert_int_equal(json_integer_value(field_of_queue(root, 0, "kicks")), 0);
	assert_null(field_of_queue(root, 0, "requests"));
	json_decref(root);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_null(vdpa_dev_stats("nobody"));
	assert_int_equal(errno, ENODEV);
}

static void
no_vstats(const char *name, unsigned int qidx, int err, const char *why)
{
	assert_null(vdpa_dev_vstats(name, qidx));
	assert_int_equal(errno, err);
	assert_non_null(strstr(vdpa_error_message(), why));
}

static void
vstats_are_those_of_iproute2(void **state)
{
	static const struct vdpa_stat told[] = {{VDPA_QSTAT_RECEIVED_DESC, 12},
						{VDPA_QSTAT_COMPLETED_DESC, 11}};
	struct fixture *f = *state;
	char *text;

	no_vstats("nobody", 0, ENODEV, "nobody");
	no_vstats("fake0", 0, EAGAIN, "not negotiated");
	no_vstats("fake0", VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX + 1, ERANGE, "32769");
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	no_vstats("fake0", 0, EOPNOTSUPP, "does not count");
	no_vstats("fake0", FAKE_VQS, EINVAL, "there are 4");
	f->fake->vq_stats = told;
	f->fake->n_vq_stats = RTE_DIM(told);
	text = vdpa_dev_vstats("fake0", 1);
	assert_string_equal(text,
			    "{\"queue_type\":\"tx\",\"received_desc\":12,\"completed_desc\":11}");
	free(text);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(starts_stops_failures_and_memory_are_counted),
		TEST(connections_are_known_of_a_front_end_that_counts_them),
		TEST(relayed_kicks_are_all_until_the_doorbell_is_given),
		cmocka_unit_test_setup_teardown(kicks_that_only_the_device_sees_are_its_to_tell,
						setup_own_kick, teardown),
		TEST(what_a_driver_reports_is_sorted_by_name),
		TEST(the_depth_of_a_ring_is_what_its_indexes_say),
		TEST(a_packed_ring_does_not_say_its_depth),
		TEST(a_device_that_is_at_work_is_not_waited_for),
		TEST(what_is_not_known_is_null_and_what_makes_no_sense_is_left_out),
		TEST(vstats_are_those_of_iproute2),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
