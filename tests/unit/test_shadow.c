/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The shadow virtqueue by itself, one thing at a time: chains of every kind, where it leaves the
 * guest's ring when it ends, the dirty log, a drain, and how it comes to rest. Random traffic is in
 * test_shadow_traffic.c.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "heap.h"
#include "shadow_test.h"

/* The guest has n chains of two buffers each in its ring, and the device them all. */
static void
begin_with(struct shadow_test *t, uint64_t guest, uint64_t device, unsigned int n)
{
	guest_begin(t, guest, 64);
	shadow_begin(t, device, 64);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(guest_add(t, 2, 1, 500), i);
	guest_kick(t);
	wait_forwarded(t, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(device_pop(t), i);
}

/* Of the chains that the device holds, use the one at that place. */
static void
use_whole(struct shadow_test *t, unsigned int at)
{
	device_use(t, at, t->chains[t->held[at].slot].in_len);
	device_flush(t);
}

static void
chains_of_every_length_pass(void **state)
{
	struct shadow_test *t = *state;

	for (unsigned int i = 0; i < 16; i++) {
		uint64_t guest = format(i & 3), device = format(i >> 2);
		unsigned int max = RTE_MIN(longest(guest, 256), longest(device, 256) - 1), n;

		guest_begin(t, guest, 256);
		shadow_begin(t, device, 256);
		for (n = 1; n <= max; n += n < 20 || n > 250 ? 1 : 7) {
			if (guest_add(t, n, rnd(t, n + 1), 100) == NUM_MAX) {
				settle(t);
				assert_int_not_equal(guest_add(t, n, rnd(t, n + 1), 100), NUM_MAX);
			}
			guest_kick(t);
		}
		settle(t);
		assert_int_equal(shadow_end(t, &n), 0);
		assert_int_equal(n, 0);
	}
}

static void
a_chain_too_long_for_the_device_ends_it(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	guest_begin(t, INDIRECT, 16);
	shadow_begin(t, 0, 8);
	assert_int_not_equal(guest_add(t, 8, 4, 10), NUM_MAX);
	guest_kick(t);
	settle(t);
	assert_int_not_equal(guest_add(t, 9, 4, 10), NUM_MAX);
	guest_kick(t);
	EVENTUALLY(failures(t) == 1);
	assert_int_equal(t->err, EMSGSIZE);
	assert_string_equal(t->why, "a chain has more buffers than the device's ring has room");
	/* It stays with the guest. */
	assert_int_equal(shadow_end(t, &in_flight), 0);
	assert_int_equal(in_flight, 0);
	assert_int_equal(t->place.split.avail_index, 1);
}

static void
chains_of_no_bytes_come_back_in_their_turn(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int i = 0; i < FORMATS; i++) {
		bool in_order = (format(i) & IN_ORDER) != 0;

		guest_begin(t, format(i), 16);
		shadow_begin(t, 0, 16);
		assert_int_equal(guest_add(t, 1, 0, 100), 0);
		assert_int_equal(guest_add(t, 3, 2, 0), 1);
		assert_int_equal(guest_add(t, 1, 1, 0), 2);
		guest_kick(t);
		wait_forwarded(t, in_order ? 1 : 3);
		if (in_order) {
			usleep(1000);
			assert_int_equal(guest_take(t), -1);
		} else {
			assert_int_equal(guest_take(t), 1);
			assert_int_equal(guest_take(t), 2);
			assert_int_equal(guest_take(t), -1);
		}
		assert_int_equal(device_pop(t), 0);
		assert_int_equal(device_pop(t), -1);
		use_whole(t, 0);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

static void
what_is_in_flight_in_order_is_given_back(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int i = 0; i < 2 * FORMATS; i++) {
		uint64_t guest = format(i / 2), device = i & 1 ? PACKED : 0;

		begin_with(t, guest, device, 6);
		use_whole(t, 0);
		use_whole(t, 0);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(in_flight, 4);
		if ((guest & PACKED) == 0)
			assert_int_equal(t->place.split.avail_index, 2);
		else
			assert_int_equal(t->place.packed.last_avail_idx, guest & INDIRECT ? 2 : 4);
		assert_int_equal(guest_take(t), 0);
		assert_int_equal(guest_take(t), 1);
		assert_int_equal(guest_take(t), -1);
		shadow_begin(t, device ^ PACKED, 32);
		wait_forwarded(t, 4);
		for (int slot = 2; slot < 6; slot++)
			assert_int_equal(device_pop(t), slot);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

static void
no_place_says_that_a_later_one_was_used(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int i = 0; i < FORMATS; i++) {
		begin_with(t, format(i), 0, 6);
		use_whole(t, 1);
		assert_int_equal(shadow_end(t, &in_flight), -EBUSY);
		assert_int_equal(in_flight, format(i) & IN_ORDER ? 6 : 5);
	}
}

static void
an_area_says_what_to_give_again(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	guest_track(t, true);
	for (unsigned int i = 0; i < FORMATS; i++) {
		bool in_order = (format(i) & IN_ORDER) != 0;

		begin_with(t, format(i), 0, 6);
		use_whole(t, 1);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(in_flight, in_order ? 6 : 5);
		assert_int_equal(guest_take(t), in_order ? -1 : 1);
		/* The guest has not seen that it was used, and may not see it before the first. */
		t->chains[1].done = false;
		shadow_begin(t, PACKED, 32);
		wait_forwarded(t, in_order ? 6 : 5);
		for (int slot = 0; slot < 6; slot++)
			if (slot != 1 || in_order)
				assert_int_equal(device_pop(t), slot);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

static unsigned int
under_way(struct shadow_test *t)
{
	bool packed = (t->guest_features & PACKED) != 0;
	const struct vdpa_vq_inflight area = {.addr = t->area,
					      .size = vdpa_vq_inflight_size(packed, t->guest_num)};

	return vdpa_vq_inflight_count(&area, packed, t->guest_num, UINT64_MAX, NULL);
}

/* The end of a ring whose front end does not know of the area. */
static int
end_and_put_back(struct shadow_test *t)
{
	unsigned int in_flight;
	int rc;

	assert_int_equal(vdpa_shadow_end(t->s, &t->place, &in_flight), 0);
	rc = vdpa_shadow_put_back(t->s, &t->place);
	vdpa_mover_free(t->s);
	t->s = NULL;
	vdpa_vq_set_call(t->device, -1);
	t->n_held = 0;
	return rc;
}

/* A process is killed, the next one takes again what the area has, and stops. */
static void
what_is_taken_again_goes_back_to_the_ring(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int i = 0; i < 2 * FORMATS; i++) {
		uint64_t guest = format(i / 2), device = i & 1 ? PACKED : 0;

		guest_track(t, true);
		begin_with(t, guest, device, 6);
		use_whole(t, 0);
		use_whole(t, 0);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(under_way(t), 4);
		shadow_begin(t, device, 32);
		wait_forwarded(t, 4);
		for (int slot = 2; slot < 6; slot++)
			assert_int_equal(device_pop(t), slot);
		use_whole(t, 0);
		assert_int_equal(end_and_put_back(t), 0);
		assert_int_equal(under_way(t), 0);
		if ((guest & PACKED) == 0)
			assert_int_equal(t->place.split.avail_index, 3);
		else
			assert_int_equal(t->place.packed.last_avail_idx, guest & INDIRECT ? 3 : 6);
		for (int slot = 0; slot < 3; slot++)
			assert_int_equal(guest_take(t), slot);
		/* By the ring alone, as a front end that knows of no area has it. */
		guest_track(t, false);
		shadow_begin(t, device ^ PACKED, 32);
		wait_forwarded(t, 3);
		for (int slot = 3; slot < 6; slot++)
			assert_int_equal(device_pop(t), slot);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

/* As much as the ring has room for, so that it comes round. */
static void
a_full_ring_goes_back(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int i = 0; i < FORMATS; i++) {
		unsigned int n = format(i) & INDIRECT || (format(i) & PACKED) == 0 ? 64 : 32;

		guest_track(t, true);
		guest_begin(t, format(i) | INDIRECT, 64);
		shadow_begin(t, INDIRECT, 64);
		/* Begun in the middle. */
		for (unsigned int k = 0; k < 5; k++) {
			assert_int_not_equal(guest_add(t, 2, 1, 500), NUM_MAX);
			guest_kick(t);
			settle(t);
		}
		for (unsigned int k = 0; k < n && guest_add(t, 2, 1, 500) != NUM_MAX; k++)
			;
		guest_kick(t);
		n = t->busy;
		EVENTUALLY(under_way(t) == n);
		assert_int_equal(end_and_put_back(t), 0);
		assert_int_equal(under_way(t), 0);
		guest_track(t, false);
		shadow_begin(t, INDIRECT, 64);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

static void
what_was_overtaken_does_not_go_back(void **state)
{
	struct shadow_test *t = *state;

	guest_track(t, true);
	for (unsigned int i = 0; i < FORMATS; i++) {
		bool in_order = (format(i) & IN_ORDER) != 0;

		begin_with(t, format(i), 0, 6);
		use_whole(t, 1);
		/* A guest in order has not seen the later one. */
		assert_int_equal(end_and_put_back(t), in_order ? 0 : -EBUSY);
		assert_int_equal(under_way(t), in_order ? 0 : 5);
	}
}

static void
a_guest_in_order_gets_its_chains_in_order(void **state)
{
	struct shadow_test *t = *state;

	for (unsigned int i = 0; i < 2; i++) {
		unsigned int in_flight;

		begin_with(t, IN_ORDER | (i & 1 ? PACKED : 0), 0, 5);
		for (unsigned int at = 4; at > 0; at--)
			use_whole(t, at);
		usleep(1000);
		assert_int_equal(guest_take(t), -1);
		use_whole(t, 0);
		EVENTUALLY(vdpa_vring_has_used(t->driver));
		for (int slot = 0; slot < 5; slot++)
			assert_int_equal(guest_take(t), slot);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

/* The pages of the first len bytes of a chain's only buffer, and of the guest's ring. */
static bool
is_exactly_logged(struct shadow_test *t, const struct vdpa_vring_seg *seg, uint64_t len)
{
	uint64_t first = seg->iova >> 12, last = (seg->iova + len - 1) >> 12;

	for (uint64_t page = SLOTS_IOVA >> 12; page < PAGES; page++)
		if (((t->bitmap[page / 8] >> page % 8 & 1) != 0) !=
		    (len > 0 && page >= first && page <= last))
			return false;
	return true;
}

static void
what_was_written_is_logged_and_no_more_where_lengths_tell(void **state)
{
	struct shadow_test *t = *state;

	t->log_on = true;
	t->epoch = 1;
	for (unsigned int i = 0; i < 8; i++) {
		uint64_t used = RING_IOVA + 2 * RING_OFFSETS;
		const struct vdpa_vring_seg *seg = &t->chains[0].segs[0];
		unsigned int in_flight;
		uint32_t len;

		memset(t->bitmap, 0, sizeof(t->bitmap));
		t->lengths_tell = i & 1;
		guest_begin(t, i & 2 ? PACKED : 0, 64);
		shadow_begin(t, 0, 64);
		do {
			assert_int_equal(guest_add(t, 1, 0, 0x7000), 0);
			guest_kick(t);
			assert_int_equal(wait_pop(t), 0);
			len = i & 4 ? seg->len / 3 : 0;
			device_use(t, 0, len);
			device_flush(t);
			EVENTUALLY(vdpa_vring_has_used(t->driver));
			assert_int_equal(guest_take(t), 0);
			if (seg->len >= 0x4000)
				break;
			memset(t->bitmap, 0, sizeof(t->bitmap));
		} while (true);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_true(is_exactly_logged(t, seg, t->lengths_tell ? len : seg->len));
		if (i & 2)
			used = RING_IOVA;
		assert_int_equal(t->bitmap[(used >> 12) / 8] >> (used >> 12) % 8 & 1, 1);
	}
}

/* A device on a thread of its own, which uses requests alone, and those late. */
static void *
slow_device(void *arg)
{
	struct shadow_test *t = arg;

	for (unsigned int used = 0; used < 3;) {
		while (device_pop(t) >= 0)
			;
		usleep(5000);
		for (unsigned int at = 0; at < t->n_held; at++)
			if (t->held[at].chain.nout > 0) {
				use_whole(t, at);
				used++;
				break;
			}
	}
	return NULL;
}

static void
a_drain_waits_for_requests_and_not_for_buffers_to_fill(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;
	pthread_t thread;
	uint64_t since;

	guest_begin(t, 0, 16);
	shadow_begin(t, PACKED, 16);
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(guest_add(t, 2, i % 2 == 0, 100), i);
	guest_kick(t);
	wait_forwarded(t, 5);
	/* Nobody uses them. */
	since = now_ms();
	assert_false(vdpa_shadow_drain(t->s, 20));
	assert_in_range(now_ms() - since, 20, 2000);
	assert_int_equal(pthread_create(&thread, NULL, slow_device, t), 0);
	assert_true(vdpa_shadow_drain(t->s, 5000));
	pthread_join(thread, NULL);
	/* And it gives the device no more. */
	assert_int_equal(guest_add(t, 1, 1, 100), 5);
	guest_kick(t);
	usleep(1000);
	assert_int_equal(device_pop(t), -1);
	assert_int_equal(t->n_held, 2);
	assert_int_equal(shadow_end(t, &in_flight), -EBUSY);
	assert_int_equal(in_flight, 2);
}

static void
memory_without_the_ring_ends_it(void **state)
{
	struct shadow_test *t = *state;
	struct vdpa_mem_region_spec spec = {
		.iova = EXTRA_IOVA, .uaddr = EXTRA_IOVA, .size = EXTRA_SIZE, .fd = t->extra_fd};
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	guest_begin(t, 0, 16);
	shadow_begin(t, 0, 16);
	assert_int_equal(vdpa_mover_set_iotlb(t->s, tlb), -EFAULT);
	assert_int_equal(failures(t), 1);
	assert_int_equal(t->err, EFAULT);
	vdpa_iotlb_put(tlb);
}

static void
a_ring_that_cannot_be_leaves_nothing(void **state)
{
	struct shadow_test *t = *state;
	unsigned int fds = count_fds();

	guest_begin(t, 0, 16);
	/* The device's: not a power of two. */
	assert_int_equal(shadow_create(t, 0, 12, &shadow_test_ops), -EINVAL);
	/* The guest's: further than its used index allows. */
	t->place.split.avail_index = 17;
	assert_int_equal(shadow_create(t, 0, 16, &shadow_test_ops), -EINVAL);
	assert_null(t->s);
	assert_int_equal(count_fds(), fds);
}

/* A queue that leaves its shadow. */

static void
at_beginning(void *arg)
{
	__atomic_add_fetch(&((struct shadow_test *)arg)->rests, 1, __ATOMIC_RELEASE);
}

static const struct vdpa_mover_ops leaving_ops = {
	.kick = on_kick, .failed = on_failed, .at_beginning = at_beginning};

/* A ring of num, 5 slots before its beginning. */
static void
begin_before_the_end(struct shadow_test *t, bool packed)
{
	struct vdpa_vq_state place = {.split.avail_index = 65531};

	if (packed)
		place.packed =
			(__typeof__(place.packed)){.last_avail_idx = 12, .last_used_idx = 12};
	guest_begin_at(t, packed ? PACKED : 0, packed ? 17 : 16, &place);
	assert_int_equal(shadow_create(t, 0, 16, &leaving_ops), 0);
	device_begin(t);
	assert_int_equal(vdpa_mover_run(t->s), 0);
	vdpa_shadow_leave(t->s, true);
}

static void
it_comes_to_rest_where_the_ring_begins(void **state)
{
	struct shadow_test *t = *state;

	for (unsigned int packed = 0; packed < 2; packed++) {
		struct vdpa_vq_state begin;
		struct vdpa_mover_stats stats;
		unsigned int in_flight;

		initial(packed, &begin);
		t->rests = 0;
		begin_before_the_end(t, packed);
		vdpa_mover_stats(t->s, &stats);
		assert_true(stats.leaving);
		assert_int_equal(stats.to_go, 5);
		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(guest_add(t, 1, 1, 100), i);
		guest_kick(t);
		for (unsigned int n = 0; n < 5; n++) {
			assert_int_equal(t->rests, 0);
			assert_int_equal(wait_pop(t), n);
			use_whole(t, 0);
		}
		EVENTUALLY(__atomic_load_n(&t->rests, __ATOMIC_ACQUIRE) == 1);
		usleep(3 * VDPA_SHADOW_REST_MS * 1000);
		assert_int_equal(device_pop(t), -1);
		assert_int_equal(shadow_end(t, &in_flight), 0);
		assert_int_equal(in_flight, 0);
		assert_memory_equal(&t->place, &begin, sizeof(begin));
		shadow_begin(t, 0, 16);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

static void
a_slow_device_does_not_hold_up_a_queue_that_leaves(void **state)
{
	struct shadow_test *t = *state;
	unsigned int in_flight;

	for (unsigned int packed = 0; packed < 2; packed++) {
		t->rests = 0;
		begin_before_the_end(t, packed);
		for (unsigned int i = 0; i < 8; i++)
			assert_int_equal(guest_add(t, 1, 1, 100), i);
		guest_kick(t);
		for (unsigned int n = 0; n < 8; n++)
			assert_int_equal(wait_pop(t), n);
		assert_int_equal(t->rests, 0);
		settle(t);
		/* Past the beginning it does not rest. */
		assert_int_equal(t->rests, 0);
		vdpa_shadow_leave(t->s, false);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
}

/* Nothing that the longest chain alone needs is written when a queue begins on shadows. */
static void
a_shadow_takes_little_of_the_heap(void **state)
{
	struct shadow_test *t = *state;
	size_t before;
	unsigned int in_flight;

	guest_begin(t, 0, 64);
	before = heap_used();
	shadow_begin(t, 0, 64);
	assert_in_range(heap_used(), before, before + (256u << 10));
	assert_int_equal(shadow_end(t, &in_flight), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(chains_of_every_length_pass),
		T(a_chain_too_long_for_the_device_ends_it),
		T(chains_of_no_bytes_come_back_in_their_turn),
		T(what_is_in_flight_in_order_is_given_back),
		T(no_place_says_that_a_later_one_was_used),
		T(an_area_says_what_to_give_again),
		T(what_is_taken_again_goes_back_to_the_ring),
		T(a_full_ring_goes_back),
		T(what_was_overtaken_does_not_go_back),
		T(a_guest_in_order_gets_its_chains_in_order),
		T(what_was_written_is_logged_and_no_more_where_lengths_tell),
		T(a_drain_waits_for_requests_and_not_for_buffers_to_fill),
		T(memory_without_the_ring_ends_it),
		T(a_ring_that_cannot_be_leaves_nothing),
		T(it_comes_to_rest_where_the_ring_begins),
		T(a_slow_device_does_not_hold_up_a_queue_that_leaves),
		T(a_shadow_takes_little_of_the_heap),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
