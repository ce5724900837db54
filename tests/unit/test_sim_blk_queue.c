/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The queues of the block class: deep ones, stops, and requests that a dead process left. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "heap.h"
#include "sim_blk_test.h"

static void
run_depth(struct fixture *f)
{
	bool seen[SLOTS] = {false};
	uint32_t len = 0;

	/* More rounds than the ring is long, all slots under way together. */
	for (unsigned int round = 0; round < 20; round++) {
		memset(seen, 0, sizeof(seen));
		for (unsigned int s = 0; s < SLOTS; s++) {
			uint64_t m = slot_mem(s);
			struct part p[] = {{m, 16, false},
					   {m + 0x1000, 4096, round & 1},
					   {m + 0x100, 1, true}};

			put_header(f, s, round & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, s * 8);
			memset(f->mem + m + 0x1000, round & 1 ? 0xee : (int)(s + round), 4096);
			add_chain(f, s, p, 3);
		}
		for (unsigned int s = 0; s < SLOTS; s++) {
			int slot = wait_used(f, &len);

			assert_in_range(slot, 0, SLOTS - 1);
			assert_false(seen[slot]);
			seen[slot] = true;
			assert_int_equal(f->mem[slot_mem((unsigned int)slot) + 0x100], 0);
		}
		for (unsigned int s = 0; s < SLOTS && (round & 1); s++)
			assert_true(all_bytes(f->mem + slot_mem(s) + 0x1000,
					      (uint8_t)(s + round - 1), 4096));
	}
	assert_int_equal(vq_stat(f, "writes"), 10 * SLOTS);
}

static void
completes_every_request_of_a_deep_queue_once(void **state)
{
	each(run_depth);
}

static void
run_stop(struct fixture *f)
{
	uint32_t len = 0;
	unsigned int used = 0;

	for (unsigned int s = 0; s < SLOTS; s++) {
		uint64_t m = slot_mem(s);
		struct part p[] = {
			{m, 16, false}, {m + 0x1000, 65536, false}, {m + 0x100, 1, true}};

		put_header(f, s, VIRTIO_BLK_T_OUT, s * 128);
		add_chain(f, s, p, 3);
	}
	on_loop(f, do_process);
	on_loop(f, do_stop);
	assert_true(drain(f));
	while (get_used(f, &len) >= 0)
		used++;
	/* What was taken is answered, and nothing is outstanding in the ring. */
	struct vdpa_vq_state state;

	assert_int_equal(vdpa_vq_get_state(f->q->vq, &state), 0);
	assert_int_equal(used, vq_stat(f, "writes"));
	on_loop(f, do_start);
	while (used < SLOTS && wait_used(f, &len) >= 0)
		used++;
	assert_int_equal(used, SLOTS);
}

static void
drains_when_stopped_and_goes_on_when_started(void **state)
{
	each(run_stop);
}

/* A turn with room for one piece, of a queue that was stopped too long ago. */
static int
do_overdue_stop(void *arg)
{
	struct fixture *f = arg;
	struct sim_blk *blk = f->dev.priv;

	sim_turn_begin(&f->lane.turn, 0);
	f->lane.turn.bytes = 1;
	sim_blk_class.process(f->q, SIM_BUDGET);
	do_stop(f);
	assert_int_equal(sim_blk_class.outstanding(f->q), 1);
	blk->queues[0].stopped_at = 0;
	return do_process(f);
}

static void
run_overdue_stop(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	/* Three pieces; where they go does not matter. */
	struct part p[SLOT_DESC] = {[0] = {m, 16, false}, [SLOT_DESC - 1] = {m + 0x100, 1, true}};
	uint32_t len = 0;

	for (unsigned int i = 1; i < SLOT_DESC - 1; i++)
		p[i] = (struct part){m + 0x1000, 0x1e000, true};
	put_header(f, 0, VIRTIO_BLK_T_IN, 0);
	add_chain(f, 0, p, SLOT_DESC);
	on_loop(f, do_overdue_stop);
	assert_true(drain(f));
	assert_int_equal(get_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	on_loop(f, do_start);
	put_header(f, 0, VIRTIO_BLK_T_IN, 0);
	add_chain(f, 0, p, SLOT_DESC);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
}

static void
a_stop_that_takes_too_long_cancels_what_is_left(void **state)
{
	each(run_overdue_stop);
}

static void
run_recovery(struct fixture *f)
{
	struct vdpa_vq_inflight area = {.size = 64 << 10};
	struct vdpa_vq_chain chain;
	struct iovec iov[16];
	uint32_t len = 0;
	unsigned int used = 0;

	area.addr = calloc(1, area.size);
	on_loop(f, do_stop);
	vdpa_vq_teardown(f->q->vq);
	setup_ring(f, &area);
	for (unsigned int s = 0; s < 5; s++) {
		uint64_t m = slot_mem(s);
		struct part p[] = {{m, 16, false}, {m + 0x1000, 512, false}, {m + 0x100, 1, true}};

		put_header(f, s, VIRTIO_BLK_T_OUT, s);
		memset(f->mem + m + 0x1000, (int)s + 1, 512);
		add_chain(f, s, p, 3);
	}
	/* A process takes three of five, and dies. */
	for (unsigned int s = 0; s < 3; s++) {
		chain.iov = iov;
		chain.iov_max = 16;
		assert_int_equal(vdpa_vq_pop(f->q->vq, &chain), 1);
	}
	vdpa_vq_teardown(f->q->vq);
	vdpa_vq_free(f->q->vq);
	f->q->vq = vdpa_vq_alloc(-1);
	setup_ring(f, &area);
	on_loop(f, do_start);
	while (used < 5) {
		int slot = wait_used(f, &len);

		assert_in_range(slot, 0, 4);
		assert_int_equal(f->mem[slot_mem((unsigned int)slot) + 0x100], 0);
		used++;
	}
	assert_int_equal(get_used(f, &len), -1);
	assert_int_equal(vq_stat(f, "writes"), 5);
	on_loop(f, do_stop);
	assert_true(drain(f));
	vdpa_vq_teardown(f->q->vq);
	free(area.addr);
}

static void
executes_requests_that_a_dead_process_left(void **state)
{
	each(run_recovery);
}

/* Room in the turn for one piece: what is larger stays under way. */
static int
do_hand_over(void *arg)
{
	struct fixture *f = arg;

	sim_turn_begin(&f->lane.turn, 0);
	f->lane.turn.bytes = 1;
	sim_blk_class.process(f->q, SIM_BUDGET);
	assert_int_equal(sim_blk_class.outstanding(f->q), 1);
	f->q->inflight.hand_over = true;
	do_stop(f);
	return do_process(f);
}

/* A stop in the middle of a request that is not waited for; then it is done again, once. */
static void
run_hand_over(struct fixture *f)
{
	struct vdpa_vq_inflight area = {.size = 64 << 10};
	uint64_t m = slot_mem(0);
	struct part p[SLOT_DESC] = {[0] = {m, 16, false}, [SLOT_DESC - 1] = {m + 0x100, 1, true}};
	struct vdpa_vq_state state;
	uint32_t len = 0;

	for (unsigned int i = 1; i < SLOT_DESC - 1; i++)
		p[i] = (struct part){m + 0x1000, 0x1e000, false};
	area.addr = calloc(1, area.size);
	on_loop(f, do_stop);
	vdpa_vq_teardown(f->q->vq);
	f->q->inflight = area;
	setup_ring(f, &area);
	on_loop(f, do_start);
	put_header(f, 0, VIRTIO_BLK_T_OUT, 0);
	f->mem[m + 0x100] = 0xff;
	add_chain(f, 0, p, SLOT_DESC);
	on_loop(f, do_hand_over);
	assert_true(drain(f));
	/* The kernel may have been done with its piece, but not with all of them. */
	assert_int_equal(get_used(f, &len), -1);
	assert_int_equal(f->mem[m + 0x100], 0xff);
	assert_int_equal(vdpa_vq_get_state(f->q->vq, &state), 0);
	assert_int_equal(f->packed ? state.packed.last_avail_idx : state.split.avail_index,
			 f->packed ? SLOT_DESC : 1);
	vdpa_vq_teardown(f->q->vq);
	setup_ring(f, &area);
	on_loop(f, do_start);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	assert_int_equal(get_used(f, &len), -1);
	assert_int_equal(vq_stat(f, "io_errors"), 0);
	on_loop(f, do_stop);
	assert_true(drain(f));
	vdpa_vq_teardown(f->q->vq);
	f->q->inflight = (struct vdpa_vq_inflight){0};
	free(area.addr);
}

static void
leaves_requests_in_the_area_when_they_are_handed_over(void **state)
{
	each(run_hand_over);
}

/* What every request may need is no part of the heap, which writes what it gives out again. */
static void
a_queue_takes_little_of_the_heap(void **state)
{
	size_t before = heap_used();
	struct fixture *f = open_device(false, false, NULL);

	assert_in_range(heap_used(), before, before + (1u << 20));
	close_device(f);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(completes_every_request_of_a_deep_queue_once),
		cmocka_unit_test(drains_when_stopped_and_goes_on_when_started),
		cmocka_unit_test(a_stop_that_takes_too_long_cancels_what_is_left),
		cmocka_unit_test(executes_requests_that_a_dead_process_left),
		cmocka_unit_test(leaves_requests_in_the_area_when_they_are_handed_over),
		cmocka_unit_test(a_queue_takes_little_of_the_heap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
