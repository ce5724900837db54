/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The driver's side of a virtqueue against devices that say what cannot be: what test-vdpa and the
 * other unit tests rely on to notice it. The device is played here, by writing the rings.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "ring_driver.h"

#define NUM	 8u
#define BUF_IOVA (RING_MEM_IOVA + 0x4000)
#define BUF_LEN	 64u

static struct ring_mem mem;
static struct ring_driver ring;

static void
make_ring(uint64_t features)
{
	const uint64_t size = 0x10000;

	assert_int_equal(ring_mem_init(&mem, &size, 1), 0);
	assert_int_equal(ring_driver_init(&ring, &mem, features, NUM, RING_MEM_IOVA), 0);
}

static int
teardown(void **state)
{
	ring_driver_fini(&ring);
	ring_mem_fini(&mem);
	return 0;
}

static int
setup_split(void **state)
{
	make_ring(0);
	return 0;
}

static int
setup_packed(void **state)
{
	make_ring(RING_FEATURE(VIRTIO_F_RING_PACKED));
	return 0;
}

static int
setup_split_in_order(void **state)
{
	make_ring(RING_FEATURE(VIRTIO_F_IN_ORDER));
	return 0;
}

static int
setup_packed_in_order(void **state)
{
	make_ring(RING_FEATURE(VIRTIO_F_RING_PACKED) | RING_FEATURE(VIRTIO_F_IN_ORDER));
	return 0;
}

static int
setup_packed_event(void **state)
{
	make_ring(RING_FEATURE(VIRTIO_F_RING_PACKED) | RING_FEATURE(VIRTIO_RING_F_EVENT_IDX));
	return 0;
}

/* A chain of n writable buffers; its id. */
static uint16_t
post(unsigned int n)
{
	struct ring_buf bufs[NUM];
	int id;

	for (unsigned int i = 0; i < n; i++)
		bufs[i] = (struct ring_buf){
			.iova = BUF_IOVA + i * BUF_LEN, .len = BUF_LEN, .write = true};
	id = ring_driver_post(&ring, bufs, n);
	assert_true(id >= 0);
	return (uint16_t)id;
}

/* The device: one used entry at its place, and the index that follows it. */
static void
use_split(uint32_t id, uint32_t len, uint16_t count)
{
	struct vring_used *used = ring_driver_used_ring(&ring);

	used->ring[used->idx % NUM] = (struct vring_used_elem){.id = id, .len = len};
	used->idx = (uint16_t)(used->idx + count);
}

static void
use_packed(uint16_t pos, bool wrap, uint16_t id, uint32_t len)
{
	struct vring_packed_desc *d = &ring_driver_packed(&ring)[pos];

	d->id = id;
	d->len = len;
	d->flags = wrap ? 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED : 0;
}

static void
assert_bad(const char *said)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(ring_driver_take(&ring, &id, &len), -EPROTO);
	assert_non_null(strstr(ring_driver_bad(&ring), said));
	/* And it stays so. */
	assert_int_equal(ring_driver_take(&ring, &id, &len), -EPROTO);
	ring_driver_reset(&ring);
	assert_int_equal(ring_driver_take(&ring, &id, &len), 0);
}

static void
assert_taken(uint16_t want, uint32_t want_len)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(ring_driver_take(&ring, &id, &len), 1);
	assert_int_equal(id, want);
	assert_int_equal(len, want_len);
}

static void
assert_none(void)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(ring_driver_take(&ring, &id, &len), 0);
}

static void
split_used_index_beyond_what_is_in_flight_is_bad(void **state)
{
	use_split(post(1), BUF_LEN, 2);
	assert_bad("beyond what was taken");
}

static void
split_id_beyond_the_ring_is_bad(void **state)
{
	post(1);
	use_split(NUM, BUF_LEN, 1);
	assert_bad("of a ring of 8");
}

static void
split_id_that_is_not_in_flight_is_bad(void **state)
{
	uint16_t id = post(1);

	post(1);
	use_split(id, BUF_LEN, 1);
	assert_taken(id, BUF_LEN);
	use_split(id, BUF_LEN, 1);
	assert_bad("not in flight");
}

static void
more_bytes_than_the_buffers_hold_are_bad(void **state)
{
	use_split(post(2), 2 * BUF_LEN + 1, 1);
	assert_bad("129 bytes written, its buffers hold 128");
}

static void
packed_used_with_nothing_in_flight_is_bad(void **state)
{
	use_packed(0, true, 0, 0);
	assert_bad("no chain in flight");
}

static void
packed_id_that_is_not_in_flight_is_bad(void **state)
{
	uint16_t id = post(1);

	use_packed(0, true, (uint16_t)(id + 1), 0);
	assert_bad("not in flight");
}

static void
packed_chain_across_the_end_flips_the_wrap_counter(void **state)
{
	uint16_t id;

	for (unsigned int lap = 0; lap < 3 * NUM; lap++) {
		bool wrap = false;
		uint16_t pos = ring_driver_used_pos(&ring, &wrap);

		id = post(3);
		use_packed(pos, wrap, id, 5);
		assert_taken(id, 5);
		assert_none();
	}
}

static void
split_in_order_batch_is_one_entry(void **state)
{
	uint16_t a = post(1), b = post(2), c = post(1), d = post(1);

	assert_int_equal(b, a + 1);
	assert_int_equal(c, b + 2);
	/* The last of three, and its length; those before are full. */
	use_split(c, 7, 3);
	assert_taken(a, BUF_LEN);
	assert_taken(b, 2 * BUF_LEN);
	assert_taken(c, 7);
	assert_none();
	/* The next entry lies where the batch has ended. */
	use_split(d, 1, 1);
	assert_taken(d, 1);
	use_split(a, 1, 1);
	assert_bad("beyond what was taken");
}

static void
split_in_order_entry_ahead_of_the_index_is_bad(void **state)
{
	uint16_t b;

	post(1);
	b = post(1);
	use_split(b, 1, 1);
	assert_bad("out of order");
}

static void
packed_in_order_batch_skips_the_descriptors(void **state)
{
	uint16_t a = post(2), b = post(1), c = post(1);

	use_packed(0, true, b, 9);
	assert_taken(a, 2 * BUF_LEN);
	assert_taken(b, 9);
	assert_none();
	/* The next entry is behind all descriptors of the batch. */
	use_packed(3, true, c, 3);
	assert_taken(c, 3);
}

static void
packed_kick_is_wanted_where_the_event_lies_in_what_was_posted(void **state)
{
	volatile struct vring_packed_desc_event *e = ring_mem_va(&mem, ring.dev);

	/* The first question is for all that was posted. */
	e->flags = VRING_PACKED_EVENT_FLAG_DESC;
	e->off_wrap = 2 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR;
	post(2);
	assert_false(ring_driver_kick_wanted(&ring));
	post(1);
	post(1);
	assert_true(ring_driver_kick_wanted(&ring));
	assert_false(ring_driver_kick_wanted(&ring));
	post(1);
	assert_false(ring_driver_kick_wanted(&ring));
	e->flags = VRING_PACKED_EVENT_FLAG_ENABLE;
	post(1);
	assert_true(ring_driver_kick_wanted(&ring));
	e->flags = VRING_PACKED_EVENT_FLAG_DISABLE;
	post(1);
	assert_false(ring_driver_kick_wanted(&ring));
}

static void
packed_kick_is_wanted_across_the_end(void **state)
{
	volatile struct vring_packed_desc_event *e = ring_mem_va(&mem, ring.dev);
	/* Of three buffers at positions 6, 7 and, a lap later, 0. */
	const struct {
		uint16_t off_wrap;
		bool wanted;
	} events[] = {
		{5 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR, false},
		{6 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR, true},
		{7 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR, true},
		{0, true},
		{0 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR, false},
		{1, false},
		{7, false},
	};

	for (unsigned int i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
		uint16_t id;

		ring_driver_reset(&ring);
		id = post(6);
		use_packed(0, true, id, 0);
		assert_taken(id, 0);
		e->flags = VRING_PACKED_EVENT_FLAG_DESC;
		e->off_wrap = 1 | 1 << VRING_PACKED_EVENT_F_WRAP_CTR;
		assert_true(ring_driver_kick_wanted(&ring));
		post(3);
		e->off_wrap = events[i].off_wrap;
		assert_int_equal(ring_driver_kick_wanted(&ring), events[i].wanted);
	}
}

static void
split_ring_at_a_place_goes_past_the_end_of_the_index(void **state)
{
	const struct vdpa_vq_state start = {.split.avail_index = 0xffff};
	struct vdpa_vq_state place;

	ring_driver_reset_at(&ring, &start);
	assert_int_equal(ring_driver_avail(&ring)->idx, 0xffff);
	assert_none();
	for (uint32_t i = 0; i < 2; i++) {
		uint16_t id = post(1);

		use_split(id, BUF_LEN, 1);
		assert_taken(id, BUF_LEN);
	}
	ring_driver_place(&ring, &place);
	assert_int_equal(place.split.avail_index, 1);
	/* One that is in flight is not behind the device yet. */
	post(1);
	ring_driver_place(&ring, &place);
	assert_int_equal(place.split.avail_index, 1);
}

static void
packed_ring_at_a_place_looks_as_two_laps_left_it(void **state)
{
	for (unsigned int wrap = 0; wrap < 2; wrap++) {
		const struct vdpa_vq_state start = {.packed = {.last_avail_idx = NUM - 1,
							       .last_used_idx = NUM - 1,
							       .last_avail_counter = (uint8_t)wrap,
							       .last_used_counter = (uint8_t)wrap}};
		struct vdpa_vq_state place;
		uint16_t id;

		ring_driver_reset_at(&ring, &start);
		assert_none();
		ring_driver_place(&ring, &place);
		assert_memory_equal(&place.packed, &start.packed, sizeof(place.packed));
		/* Over the end. */
		id = post(2);
		assert_none();
		use_packed(NUM - 1, wrap != 0, id, BUF_LEN);
		assert_taken(id, BUF_LEN);
		assert_none();
		ring_driver_place(&ring, &place);
		assert_int_equal(place.packed.last_used_idx, 1);
		assert_int_equal(place.packed.last_used_counter, !wrap);
	}
}

int
main(void)
{
#define SPLIT(test)  cmocka_unit_test_setup_teardown(test, setup_split, teardown)
#define PACKED(test) cmocka_unit_test_setup_teardown(test, setup_packed, teardown)
	const struct CMUnitTest tests[] = {
		SPLIT(split_used_index_beyond_what_is_in_flight_is_bad),
		SPLIT(split_id_beyond_the_ring_is_bad),
		SPLIT(split_id_that_is_not_in_flight_is_bad),
		SPLIT(more_bytes_than_the_buffers_hold_are_bad),
		SPLIT(split_ring_at_a_place_goes_past_the_end_of_the_index),
		PACKED(packed_ring_at_a_place_looks_as_two_laps_left_it),
		PACKED(packed_used_with_nothing_in_flight_is_bad),
		PACKED(packed_id_that_is_not_in_flight_is_bad),
		PACKED(packed_chain_across_the_end_flips_the_wrap_counter),
		cmocka_unit_test_setup_teardown(split_in_order_batch_is_one_entry,
						setup_split_in_order, teardown),
		cmocka_unit_test_setup_teardown(split_in_order_entry_ahead_of_the_index_is_bad,
						setup_split_in_order, teardown),
		cmocka_unit_test_setup_teardown(packed_in_order_batch_skips_the_descriptors,
						setup_packed_in_order, teardown),
		cmocka_unit_test_setup_teardown(
			packed_kick_is_wanted_where_the_event_lies_in_what_was_posted,
			setup_packed_event, teardown),
		cmocka_unit_test_setup_teardown(packed_kick_is_wanted_across_the_end,
						setup_packed_event, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
