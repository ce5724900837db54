/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The consumer of a function: DRIVER_OK, queues that stand still and go on, places, its log. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "consumer_priv.h"
#include "control_group.h"
#include "fake_device.h"

#define IOVA	  0x10000
#define MEM_SIZE  0x10000
#define V1	  (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define PACKED	  (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define DRIVER_OK 0xf

struct fixture {
	struct fake_device *fake;
	struct vdpa_consumer *c;
	struct vdpa_iotlb *whole; /* memory of all queues */
	struct vdpa_iotlb *first; /* of queue 0 alone */
	unsigned int freed;
};

/* n pieces of memory, a queue's rings in each. */
static struct vdpa_iotlb *
make_table(const struct vdpa_iotlb *old, unsigned int n, int fd)
{
	struct vdpa_mem_region_spec specs[FAKE_VQS];
	struct vdpa_iotlb *tlb;

	for (unsigned int i = 0; i < n; i++)
		specs[i] = (struct vdpa_mem_region_spec){.iova = IOVA + i * MEM_SIZE,
							 .uaddr = IOVA + i * MEM_SIZE,
							 .size = MEM_SIZE,
							 .offset = i * MEM_SIZE,
							 .fd = fd};
	assert_int_equal(vdpa_iotlb_create(old, specs, n, &tlb), 0);
	return tlb;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int fd = memfd_create("guest", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, FAKE_VQS * MEM_SIZE), 0);
	f->whole = make_table(NULL, FAKE_VQS, fd);
	f->first = make_table(f->whole, 1, fd);
	close(fd);
	f->fake = fake_device_new("fake0", true);
	f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	f->fake->freed = &f->freed;
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->c = vdpa_consumer_new_function(&f->fake->vdev);
	assert_non_null(f->c);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1), 0);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_reset(f->c);
	vdpa_consumer_free(f->c);
	assert_null(f->fake->tlb);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	vdpa_iotlb_put(f->whole);
	vdpa_iotlb_put(f->first);
	free(f);
	return 0;
}

static void
describe(struct fixture *f, uint16_t idx)
{
	uint64_t at = IOVA + idx * MEM_SIZE;
	const struct vdpa_consumer_vq_addr addr = {
		.desc = at, .driver = at + 0x1000, .device = at + 0x2000, .log = UINT64_MAX};

	assert_int_equal(vdpa_consumer_set_vq_num(f->c, idx, 64), 0);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, idx, &addr), 0);
	assert_int_equal(vdpa_consumer_set_vq_call(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_consumer_set_vq_kick(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
}

static void
start(struct fixture *f, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++)
		describe(f, i);
	vdpa_consumer_set_status(f->c, DRIVER_OK);
	vdpa_consumer_advance(f->c);
}

static void
start_whole(struct fixture *f, uint16_t n)
{
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->whole), 0);
	start(f, n);
	assert_true(vdpa_consumer_is_running(f->c));
}

static bool
has(struct fixture *f, uint16_t idx)
{
	assert_int_equal(vdpa_consumer_has_vq(f->c, idx), f->fake->vq[idx].ready);
	return f->fake->vq[idx].ready;
}

static void
driver_ok_starts_it_without_queue_or_memory(void **state)
{
	struct fixture *f = *state;

	start(f, 0);
	assert_true(vdpa_consumer_is_running(f->c));
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->whole), 0);
	describe(f, 1);
	vdpa_consumer_advance(f->c);
	assert_true(has(f, 1) && !has(f, 0));
}

static void
all_queues_are_its_drivers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_consumer_usable_vqs(f->c), FAKE_VQS);
	start_whole(f, FAKE_VQS);
	assert_true(has(f, 0) && has(f, FAKE_VQS - 1));
}

static void
a_start_fails_with_rings_outside_of_the_memory(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	start(f, 2);
	assert_false(vdpa_consumer_is_running(f->c));
	assert_int_equal(vdpa_consumer_get_status(f->c) & VIRTIO_CONFIG_S_NEEDS_RESET,
			 VIRTIO_CONFIG_S_NEEDS_RESET);
	/* The driver's reset mends it. */
	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_get_status(&f->fake->vdev), 0);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1), 0);
	start_whole(f, 2);
}

static void
a_queue_that_joins_outside_of_the_memory_is_refused_alone(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts;

	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	start(f, 1);
	describe(f, 1);
	vdpa_consumer_advance(f->c);
	vdpa_consumer_get_vq_facts(f->c, 1, &facts);
	assert_true(facts.refused);
	assert_true(has(f, 0) && !has(f, 1));
	/* It may be set up anew. */
	vdpa_consumer_stop_vq(f->c, 1);
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->whole), 0);
	describe(f, 1);
	vdpa_consumer_advance(f->c);
	assert_true(has(f, 0) && has(f, 1));
}

static void
a_queue_stands_still_while_its_memory_is_away(void **state)
{
	struct fixture *f = *state;

	start_whole(f, 2);
	f->fake->vq[1].state.split.avail_index = 7;
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	assert_true(has(f, 0) && !has(f, 1));
	assert_int_equal(vdpa_consumer_use_memory(f->c, NULL), 0);
	assert_true(!has(f, 0) && !has(f, 1));
	f->fake->vq[1].state.split.avail_index = 0;
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	assert_true(has(f, 0) && !has(f, 1));
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->whole), 0);
	assert_true(has(f, 0) && has(f, 1));
	assert_int_equal(f->fake->vq[1].state.split.avail_index, 7);
	assert_int_equal(f->fake->resets, 3);
}

static void
no_queue_moves_while_all_are_held(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_hold(f->c, true);
	start_whole(f, 2);
	assert_true(!has(f, 0) && !has(f, 1));
	/* Nor one that joins. */
	describe(f, 2);
	vdpa_consumer_advance(f->c);
	assert_false(has(f, 2));
	vdpa_consumer_hold(f->c, false);
	assert_true(has(f, 0) && has(f, 1) && has(f, 2));
	vdpa_consumer_hold(f->c, true);
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	assert_true(vdpa_consumer_is_running(f->c) && !has(f, 0) && !has(f, 1));
	vdpa_consumer_hold(f->c, false);
	assert_true(has(f, 0) && !has(f, 1));
	/* One that was stopped meanwhile does not go on. */
	vdpa_consumer_stop_vq(f->c, 1);
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->whole), 0);
	assert_true(has(f, 2) && !has(f, 1));
}

/* What a net device has taken to transmit comes back by the queue before. */
static void
queues_stand_still_from_the_last_one_on(void **state)
{
	struct fixture *f = *state;
	const struct fake_vq *vq = f->fake->vq;

	start_whole(f, 2);
	vdpa_consumer_hold(f->c, true);
	assert_true(vq[1].stopped > 0 && vq[1].stopped < vq[0].stopped);
	vdpa_consumer_hold(f->c, false);
	assert_true(has(f, 0) && has(f, 1));
	f->fake->vq[0].stopped = f->fake->vq[1].stopped = 0;
	assert_int_equal(vdpa_consumer_use_memory(f->c, NULL), 0);
	assert_true(vq[1].stopped > 0 && vq[1].stopped < vq[0].stopped);
}

static void
a_queue_that_does_not_go_on_fails_the_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	start_whole(f, 1);
	vdpa_consumer_hold(f->c, true);
	f->fake->fail_at = f->fake->calls + 1;
	vdpa_consumer_hold(f->c, false);
	assert_false(vdpa_consumer_is_running(f->c));
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "it does not start again"));
}

/* A job of the device's: those behind it wait. */
static void
keep_busy(struct vdpa_work *work)
{
	usleep(200000);
}

/* The core acts on its failure when a queue is to stand still: it lets go of the memory all the
 * same. */
static void
memory_is_taken_from_one_that_fails_meanwhile(void **state)
{
	struct fixture *f = *state;
	struct vdpa_work busy = {.run = keep_busy};
	struct vdpa_vq_state is;

	start_whole(f, 2);
	vdpa_work_post(&f->fake->vdev.core->work, &busy);
	vdpa_device_fail(&f->fake->vdev, -1, -EIO, "it is broken");
	assert_int_equal(vdpa_consumer_use_memory(f->c, f->first), 0);
	vdpa_work_cancel(&busy);
	assert_ptr_equal(f->fake->vdev.core->iotlb, f->first);
	assert_int_equal(vdpa_consumer_check_alive(f->c), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "it is broken"));
	/* Where it stood the split ring says. */
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), 0);
}

/* A packed ring does not show where its device has failed, or has not said. */
static void
no_packed_place_is_made_up(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state is;
	char why[256];

	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1 | PACKED), 0);
	start_whole(f, 1);
	/* It stops, and does not say where. */
	f->fake->fail_at = f->fake->calls + 2;
	vdpa_consumer_hold(f->c, true);
	assert_string_equal(f->fake->failed_op, "fake_get_vq_state");
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "it does not stand still"));
	vdpa_consumer_hold(f->c, false);
	assert_false(vdpa_consumer_is_running(f->c));

	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1 | PACKED), 0);
	start_whole(f, 1);
	vdpa_device_fail(&f->fake->vdev, -1, -EIO, "it is broken");
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "it is broken"));
}

static void
places_are_set_and_read(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at = {.split = {.avail_index = 5}}, is;
	uint16_t used = 9;

	vdpa_consumer_place_vq(f->c, 0, &at);
	vdpa_consumer_place_vq(f->c, 1, &at);
	vdpa_consumer_place_vq(f->c, 1, NULL);
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), 0);
	assert_int_equal(is.split.avail_index, 5);
	start_whole(f, 2);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 5);
	assert_int_equal(f->fake->vq[1].state.split.avail_index, 0);
	/* Of one that runs the ring says it, and nobody places it. */
	memcpy(vdpa_iotlb_range(f->whole, IOVA + 0x2002, 2), &used, 2);
	at.split.avail_index = 1;
	vdpa_consumer_place_vq(f->c, 0, &at);
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), 0);
	assert_int_equal(is.split.avail_index, 9);
	/* A stop keeps it, a reset does not. */
	f->fake->vq[0].state.split.avail_index = 9;
	vdpa_consumer_stop_vq(f->c, 0);
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), 0);
	assert_int_equal(is.split.avail_index, 9);
	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_consumer_get_vq_place(f->c, 0, &is), 0);
	assert_int_equal(is.split.avail_index, 0);
}

/* The driver says both halves, so that none is guessed: SET_VRING_BASE has 0 for a new ring. */
static void
a_packed_place_is_taken_as_it_is(void **state)
{
	struct fixture *f = *state;
	const struct vdpa_vq_state at = {.packed = {.last_avail_idx = 3}};

	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1 | PACKED), 0);
	vdpa_consumer_place_vq(f->c, 0, &at);
	start_whole(f, 2);
	assert_int_equal(f->fake->vq[0].state.packed.last_avail_idx, 3);
	assert_int_equal(f->fake->vq[0].state.packed.last_avail_counter, 0);
	assert_int_equal(f->fake->vq[0].state.packed.last_used_idx, 0);
	assert_int_equal(f->fake->vq[1].state.packed.last_avail_counter, 1);
}

static void
memory_is_dropped_when_it_does_not_run(void **state)
{
	struct fixture *f = *state;

	start_whole(f, 1);
	vdpa_consumer_reset(f->c);
	assert_ptr_equal(f->fake->tlb, f->whole);
	assert_int_equal(vdpa_consumer_drop_memory(f->c), 0);
	assert_null(f->fake->tlb);
}

static void
what_is_not_let_go_of_ends_the_device(void **state)
{
	struct fixture *f = *state;

	start_whole(f, 1);
	vdpa_error(EIO, "the cause");
	vdpa_consumer_give_up(f->c, -EIO, "memory is taken away");
	assert_false(vdpa_consumer_is_running(f->c));
	assert_null(f->fake->tlb);
	assert_true((vdpa_consumer_get_status(f->c) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
	vdpa_consumer_reset(f->c);
	assert_int_equal(vdpa_consumer_negotiate(f->c, V1), 0);
	start_whole(f, 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(driver_ok_starts_it_without_queue_or_memory),
		TEST(all_queues_are_its_drivers),
		TEST(a_start_fails_with_rings_outside_of_the_memory),
		TEST(a_queue_that_joins_outside_of_the_memory_is_refused_alone),
		TEST(a_queue_stands_still_while_its_memory_is_away),
		TEST(no_queue_moves_while_all_are_held),
		TEST(queues_stand_still_from_the_last_one_on),
		TEST(a_queue_that_does_not_go_on_fails_the_device),
		TEST(memory_is_taken_from_one_that_fails_meanwhile),
		TEST(no_packed_place_is_made_up),
		TEST(places_are_set_and_read),
		TEST(a_packed_place_is_taken_as_it_is),
		TEST(memory_is_dropped_when_it_does_not_run),
		TEST(what_is_not_let_go_of_ends_the_device),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
