/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What test-vdpa's traffic notes as written by the device, which a dirty log must have. The device
 * is played here, by writing buffers and used rings, so that a frame can be under way: written to
 * its buffer and logged, and not used yet.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include "traffic.h"

#define RX	  0
#define TX	  1
#define FRAME_LEN (sizeof(struct virtio_net_hdr_mrg_rxbuf) + 60)

static int
start(struct target *t, const struct vdpa_start_config *conf)
{
	return 0;
}

static int
stop(struct target *t)
{
	return 0;
}

static const struct target_ops ops = {.start = start, .stop = stop};

static struct target target = {.ops = &ops,
			       .device_id = TARGET_NET,
			       .features = RING_FEATURE(VIRTIO_F_VERSION_1),
			       .nvqs = 2,
			       .num_max = 256};
static struct session s;
static struct run r;
static struct page_set wrote;
static struct traffic x;
static uint16_t taken[2]; /* by the device */

/* Endless traffic on one pair, with every receive buffer and some frames posted. */
static void
begin(bool echoes)
{
	const struct session_params params = {.n = 2};

	r = (struct run){.t = &target, .scale = 100, .deadline = UINT64_MAX, .echoes = echoes};
	x = (struct traffic){.units = UINT64_MAX, .wrote = &wrote};
	memset(taken, 0, sizeof(taken));
	assert_int_equal(session_init(&s, &target, &params), 0);
	assert_int_equal(page_set_init(&wrote, &s.mem), 0);
	assert_int_equal(session_start(&s), 0);
	assert_int_equal(traffic_begin(&r, &s, &x), 0);
}

static int
teardown(void **state)
{
	traffic_end(&x);
	page_set_fini(&wrote);
	session_fini(&s);
	return 0;
}

/* The device takes a chain; its head. */
static uint16_t
take(unsigned int idx)
{
	const struct vring_avail *avail = ring_driver_avail(&s.q[idx].ring);

	assert_int_not_equal(taken[idx], avail->idx);
	return avail->ring[taken[idx]++ % s.num];
}

static void
use(unsigned int idx, uint16_t head, uint32_t len)
{
	struct vring_used *used = ring_driver_used_ring(&s.q[idx].ring);

	used->ring[used->idx % s.num] = (struct vring_used_elem){.id = head, .len = len};
	__atomic_store_n(&used->idx, (uint16_t)(used->idx + 1), __ATOMIC_RELEASE);
}

/* A frame comes into the buffers of a chain. Where it is, by its page. */
static uint64_t
write_frame(uint16_t head)
{
	const struct vring_desc *desc = ring_driver_desc(&s.q[RX].ring);
	uint64_t page = desc[head].addr >> VDPA_DIRTY_PAGE_SHIFT;

	for (uint32_t left = FRAME_LEN; left > 0; head = desc[head].next) {
		uint32_t len = desc[head].len < left ? desc[head].len : left;

		memset(ring_mem_va(&s.mem, desc[head].addr), 0, len);
		left -= len;
		if (!(desc[head].flags & VRING_DESC_F_NEXT))
			break;
	}
	return page;
}

static void
use_all_sent(void)
{
	while (taken[TX] != ring_driver_avail(&s.q[TX].ring)->idx)
		use(TX, take(TX), 0);
}

static uint64_t
count_pages(void)
{
	uint64_t n = 0;

	for (uint64_t page = 0; page < wrote.n; page++)
		n += page_set_has(&wrote, page);
	return n;
}

static void
frame_under_way_when_notes_begin_does_not_count(void **state)
{
	uint16_t head;

	begin(false);
	assert_int_equal(traffic_step(&x), 0);
	use_all_sent();
	head = take(RX);
	write_frame(head);
	/* Nothing shows that a frame is under way: what was sent is used. */
	assert_int_equal(traffic_drain(&x), 0);
	traffic_note_anew(&x);
	use(RX, head, FRAME_LEN);
	assert_int_equal(traffic_step(&x), 1);
	assert_int_equal(count_pages(), 0);
}

static void
frame_in_a_buffer_that_was_posted_since_counts(void **state)
{
	uint64_t page;
	uint16_t head;

	begin(false);
	assert_int_equal(traffic_step(&x), 0);
	use_all_sent();
	assert_int_equal(traffic_drain(&x), 0);
	traffic_note_anew(&x);
	for (unsigned int i = 0; i < s.q[RX].nslots; i++) {
		head = take(RX);
		write_frame(head);
		use(RX, head, FRAME_LEN);
		assert_int_equal(traffic_step(&x), 1);
	}
	assert_int_equal(count_pages(), 0);
	assert_int_equal(traffic_step(&x), 0);
	head = take(RX);
	page = write_frame(head);
	use(RX, head, FRAME_LEN);
	assert_int_equal(traffic_step(&x), 1);
	assert_true(page_set_has(&wrote, page));
	assert_true(page_set_has(&wrote, s.q[RX].ring.dev >> VDPA_DIRTY_PAGE_SHIFT));
}

static void
every_frame_counts_where_all_have_come_back(void **state)
{
	uint64_t page;
	uint16_t head;

	begin(true);
	x.units = 0;
	assert_int_equal(traffic_step(&x), 0);
	assert_int_equal(traffic_drain(&x), 0);
	traffic_note_anew(&x);
	x.units = 0;
	head = take(RX);
	page = write_frame(head);
	use(RX, head, FRAME_LEN);
	assert_int_equal(traffic_step(&x), 1);
	assert_true(page_set_has(&wrote, page));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(frame_under_way_when_notes_begin_does_not_count,
					  teardown),
		cmocka_unit_test_teardown(frame_in_a_buffer_that_was_posted_since_counts, teardown),
		cmocka_unit_test_teardown(every_frame_counts_where_all_have_come_back, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
