/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The driver's side of a virtqueue with a device that writes what it likes, wherever it can, beside
 * a model of what is in flight. The ring's parts have memory of their own of just their size, for a
 * build with sanitizers. UVDPA_TEST_LONG=1: a hundred times as long; UVDPA_TEST_SEED: another run.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_common.h>

#include "vdpa_vring.h"

#define FEATURE(bit) (1ULL << (bit))
#define PACKED	     FEATURE(VIRTIO_F_RING_PACKED)
#define NUM_MAX	     64
#define LEN_MAX	     100
#define TABLES_IOVA  0x70000000ULL

static struct {
	struct vdpa_vring *r;
	struct vdpa_vring_params p;
	bool packed;
	bool fixed; /* the memory is written to by another thread: it stays */
	/* By id; the number of the add, 0: not in flight. */
	struct {
		uint64_t seq;
		bool published;
		unsigned int n;
		uint64_t room;
		struct vdpa_vring_seg segs[LEN_MAX];
	} chain[NUM_MAX];
	uint64_t seq;
	unsigned int in_flight;
} t;

static uint64_t seed = 0x9e3779b97f4a7c15;
static unsigned int n_taken, n_broken, n_setups;

static uint64_t
rnd64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed * 0x2545f4914f6cdd1dULL;
}

static uint32_t
rnd(uint32_t below)
{
	return (uint32_t)((rnd64() >> 20) % below);
}

static void
drop(void)
{
	free(t.p.desc);
	free(t.p.driver);
	free(t.p.device);
	free(t.p.tables);
	memset(&t.p, 0, sizeof(t.p));
}

static void *
memory(uint64_t size)
{
	void *m = NULL;

	assert_int_equal(posix_memalign(&m, 16, size), 0);
	return m;
}

static void
set_up(void)
{
	const uint32_t num = rnd(4) == 0 ? 1 + rnd(3) : 1 + rnd(NUM_MAX);
	struct vdpa_ring_size size;

	memset(t.chain, 0, sizeof(t.chain));
	t.in_flight = 0;
	n_setups++;
	if (t.fixed) {
		assert_int_equal(vdpa_vring_setup(t.r, &t.p), 0);
		return;
	}
	drop();
	t.packed = rnd(2);
	t.p.features = (t.packed ? PACKED : 0) |
		       (rnd(2) ? FEATURE(VIRTIO_RING_F_INDIRECT_DESC) : 0) |
		       (rnd(2) ? FEATURE(VIRTIO_RING_F_EVENT_IDX) : 0) |
		       (rnd(3) ? 0 : FEATURE(VIRTIO_F_IN_ORDER));
	t.p.num = t.packed ? num : 1u << (31 - __builtin_clz(num));
	size = vdpa_ring_size(t.packed, t.p.num);
	t.p.desc = memory(size.desc);
	t.p.driver = memory(size.driver);
	t.p.device = memory(size.device);
	t.p.tables_entries = rnd(300);
	t.p.tables = rnd(2) ? memory(16 * (uint64_t)t.p.tables_entries + 16) : NULL;
	t.p.tables_iova = TABLES_IOVA;
	if (t.packed) {
		uint16_t pos = (uint16_t)rnd(t.p.num);
		uint8_t wrap = (uint8_t)rnd(2);

		t.p.place.packed.last_avail_idx = t.p.place.packed.last_used_idx = pos;
		t.p.place.packed.last_avail_counter = t.p.place.packed.last_used_counter = wrap;
	} else {
		t.p.place.split.avail_index = (uint16_t)rnd(65536);
	}
	assert_int_equal(vdpa_vring_setup(t.r, &t.p), 0);
}

static void
add(void)
{
	struct vdpa_vring_seg segs[LEN_MAX];
	unsigned int n = 1 + rnd(rnd(3) > 0 ? 1 : rnd(8) == 0 ? LEN_MAX : 6), out = rnd(n + 1);
	uint64_t room = 0;
	int id;

	for (unsigned int i = 0; i < n; i++) {
		segs[i] = (struct vdpa_vring_seg){rnd64(), 1 + rnd(3000), i >= out};
		room += segs[i].write ? segs[i].len : 0;
	}
	id = vdpa_vring_add(t.r, segs, n);
	if (id < 0) {
		assert_true(id == -ENOSPC || id == -EMSGSIZE || id == -EPROTO);
		return;
	}
	assert_in_range(id, 0, t.p.num - 1);
	assert_int_equal(t.chain[id].seq, 0);
	t.chain[id].seq = ++t.seq;
	t.chain[id].published = false;
	t.chain[id].n = n;
	t.chain[id].room = room;
	memcpy(t.chain[id].segs, segs, n * sizeof(*segs));
	t.in_flight++;
}

static void
publish(void)
{
	vdpa_vring_publish(t.r);
	for (unsigned int i = 0; i < t.p.num; i++)
		t.chain[i].published = true;
	vdpa_vring_wants_kick(t.r);
}

static void
expect_segs(uint16_t id)
{
	unsigned int n;
	const struct vdpa_vring_seg *segs = vdpa_vring_segs(t.r, id, &n);

	assert_int_equal(n, t.chain[id].n);
	for (unsigned int i = 0; i < n; i++) {
		assert_int_equal(segs[i].iova, t.chain[id].segs[i].iova);
		assert_int_equal(segs[i].len, t.chain[id].segs[i].len);
		assert_int_equal(segs[i].write, t.chain[id].segs[i].write);
	}
}

/* All in flight, each once, in the order of adding. */
static void
expect_order(void)
{
	unsigned int n = 0;
	uint64_t last = 0;

	assert_int_equal(vdpa_vring_in_flight(t.r), t.in_flight);
	for (int id = vdpa_vring_oldest(t.r); id >= 0; id = vdpa_vring_younger(t.r, (uint16_t)id)) {
		assert_true(t.chain[id].seq > last);
		last = t.chain[id].seq;
		expect_segs((uint16_t)id);
		n++;
	}
	assert_int_equal(n, t.in_flight);
}

static bool
is_oldest(uint16_t id)
{
	for (unsigned int i = 0; i < t.p.num; i++) {
		if (t.chain[i].seq != 0 && t.chain[i].seq < t.chain[id].seq)
			return false;
	}
	return true;
}

static void
take(void)
{
	uint32_t len;
	uint16_t id;
	int rc = vdpa_vring_take(t.r, &id, &len);

	if (rc == 0)
		return;
	if (rc < 0) {
		assert_int_equal(rc, -EPROTO);
		assert_string_not_equal(vdpa_vring_error(t.r), "");
		/* It stays so, and what is in flight is known as before. */
		assert_int_equal(vdpa_vring_take(t.r, &id, &len), -EPROTO);
		assert_false(vdpa_vring_has_used(t.r));
		expect_order();
		n_broken++;
		set_up();
		return;
	}
	assert_int_equal(rc, 1);
	assert_in_range(id, 0, t.p.num - 1);
	assert_int_not_equal(t.chain[id].seq, 0);
	assert_true(t.chain[id].published);
	assert_true(len <= t.chain[id].room);
	if (t.p.features & FEATURE(VIRTIO_F_IN_ORDER))
		assert_true(is_oldest(id));
	expect_segs(id);
	t.chain[id].seq = 0;
	t.in_flight--;
	n_taken++;
}

/* Random words, over all that the device can reach. */
static void
scribble(void *at, uint64_t size)
{
	uint8_t *bytes = at;

	for (unsigned int n = 1 + rnd(4); n > 0 && size > 0; n--) {
		uint64_t word = rnd(2) ? rnd64() : rnd64() & rnd64() & 0x0007000700070007ULL;
		unsigned int len = 1u << rnd(4);

		if (len <= size)
			memcpy(&bytes[rnd((uint32_t)(size - len + 1))], &word, len);
	}
}

static bool
may_be_used(uint16_t id)
{
	return t.chain[id].seq != 0 && t.chain[id].published;
}

/* A used entry that has much of a good one, so that what comes behind the checks is reached. */
static void
use(void)
{
	const bool good = rnd(12) > 0;
	uint16_t id = (uint16_t)rnd(t.p.num);
	struct vdpa_vq_state at;
	uint32_t len;

	for (unsigned int i = 0; i < t.p.num && good && !may_be_used(id); i++)
		id = (uint16_t)((id + 1u) % t.p.num);
	if (good && !may_be_used(id))
		return;
	if (good && t.p.features & FEATURE(VIRTIO_F_IN_ORDER) && rnd(16) > 0)
		id = (uint16_t)vdpa_vring_oldest(t.r);
	len = rnd(48) == 0 ? rnd(5000) : rnd((uint32_t)t.chain[id].room + 1);
	vdpa_vring_place(t.r, &at);
	if (t.packed) {
		struct vring_packed_desc *d = t.p.desc;
		const uint16_t both =
			1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;

		d[at.packed.last_used_idx].id = id;
		d[at.packed.last_used_idx].len = len;
		d[at.packed.last_used_idx].flags = at.packed.last_used_counter ? both : 0;
	} else {
		struct vring_used *u = t.p.device;

		u->ring[at.split.avail_index & (t.p.num - 1)] =
			(struct vring_used_elem){.id = id, .len = len};
		u->idx = (uint16_t)(at.split.avail_index + (rnd(64) == 0 ? rnd(4) : 1));
	}
}

static void
device(void)
{
	const struct vdpa_ring_size size = vdpa_ring_size(t.packed, t.p.num);

	switch (rnd(12)) {
	case 0:
		if (!t.packed || rnd(8) == 0)
			scribble(t.p.desc, size.desc);
		break;
	case 1:
		scribble(t.p.driver, size.driver);
		break;
	case 2:
		if (rnd(8) == 0)
			scribble(t.p.device, size.device);
		break;
	case 3:
		if (t.p.tables != NULL)
			scribble(t.p.tables, 16 * (uint64_t)t.p.tables_entries);
		break;
	default:
		use();
		take();
		break;
	}
}

static void
a_device_that_writes_what_it_likes_changes_nothing_else(void **state)
{
	const char *more = getenv("UVDPA_TEST_LONG"), *other = getenv("UVDPA_TEST_SEED");
	bool is_long = more != NULL && more[0] != '\0' && strcmp(more, "0") != 0;
	const unsigned long rounds = is_long ? 10000000 : 100000;

	if (other != NULL)
		seed = strtoull(other, NULL, 0) | 1;
	print_message("seed 0x%llx\n", (unsigned long long)seed);
	n_taken = n_broken = n_setups = 0;
	t.r = vdpa_vring_alloc();
	assert_non_null(t.r);
	set_up();
	for (unsigned long i = 0; i < rounds; i++) {
		switch (rnd(8)) {
		case 0:
		case 1:
			for (uint32_t n = rnd(6); n > 0; n--)
				add();
			break;
		case 2:
			publish();
			break;
		case 3:
			take();
			break;
		case 4:
			if (rnd(2))
				vdpa_vring_enable_calls(t.r);
			else
				vdpa_vring_disable_calls(t.r);
			vdpa_vring_has_used(t.r);
			if (rnd(8) == 0)
				expect_order();
			if (rnd(256) == 0)
				set_up();
			break;
		default:
			device();
		}
	}
	/* Both sides of the checks were reached. */
	print_message("%u taken, %u broken, %u set-ups\n", n_taken, n_broken, n_setups);
	assert_true(n_taken > rounds / 10);
	assert_true(n_broken > rounds / 200);
	drop();
	vdpa_vring_free(t.r);
}

/* A ring of 8 of which a chain of 2 (128 bytes) and one of 1 are published, and a third is not. */
static void
set_up_eight(uint64_t features)
{
	const struct vdpa_vring_seg segs[] = {{0, 64, true}, {0, 64, true}};
	struct vdpa_ring_size size = vdpa_ring_size(features & PACKED, 8);

	drop();
	t.packed = features & PACKED;
	t.p.features = features;
	t.p.num = 8;
	t.p.desc = memory(size.desc);
	t.p.driver = memory(size.driver);
	t.p.device = memory(size.device);
	if (t.packed)
		t.p.place.packed.last_avail_counter = t.p.place.packed.last_used_counter = 1;
	assert_int_equal(vdpa_vring_setup(t.r, &t.p), 0);
	assert_int_equal(vdpa_vring_add(t.r, segs, 2), 0);
	assert_true(vdpa_vring_add(t.r, segs, 1) > 0);
	vdpa_vring_publish(t.r);
	assert_true(vdpa_vring_add(t.r, segs, 1) > 0);
}

static void
use_split(uint32_t id, uint32_t len, uint16_t count)
{
	struct vring_used *u = t.p.device;

	u->ring[u->idx % 8] = (struct vring_used_elem){.id = id, .len = len};
	u->idx = (uint16_t)(u->idx + count);
}

static void
use_packed(uint16_t pos, uint16_t id, uint32_t len)
{
	struct vring_packed_desc *d = t.p.desc;

	d[pos].id = id;
	d[pos].len = len;
	d[pos].flags = 1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;
}

static void
expect_taken(uint16_t want)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(vdpa_vring_take(t.r, &id, &len), 1);
	assert_int_equal(id, want);
}

static void
expect_error(const char *text)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(vdpa_vring_take(t.r, &id, &len), -EPROTO);
	assert_non_null(strstr(vdpa_vring_error(t.r), text));
	assert_int_equal(vdpa_vring_take(t.r, &id, &len), -EPROTO);
	assert_false(vdpa_vring_has_used(t.r));
	assert_false(vdpa_vring_enable_calls(t.r));
}

static void
an_error_says_what_the_device_did(void **state)
{
	const uint64_t order = FEATURE(VIRTIO_F_IN_ORDER);

	t.r = vdpa_vring_alloc();
	assert_non_null(t.r);

	set_up_eight(0);
	use_split(0, 0, 3);
	expect_error("used index 3 is 3 beyond what was taken (0), with 2 chains in flight");
	set_up_eight(0);
	use_split(8, 0, 1);
	expect_error("used entry 0: id 8 of a ring of 8");
	set_up_eight(0);
	use_split(0, 129, 1);
	expect_error("used id 0: 129 bytes written, its buffers hold 128");
	set_up_eight(0);
	use_split(0, 128, 1);
	expect_taken(0);
	use_split(0, 128, 1);
	expect_error("used entry 1: id 0 is not in flight");
	/* A descriptor in the middle of a chain, and a chain that was not published. */
	set_up_eight(0);
	use_split(1, 0, 1);
	expect_error("used entry 0: id 1 is not in flight");
	set_up_eight(0);
	use_split(3, 0, 1);
	expect_error("used entry 0: id 3 is not in flight");
	/* The second, when one entry was made visible. */
	set_up_eight(order);
	use_split(2, 0, 1);
	expect_error("used entry 0: id 2 is out of order");

	set_up_eight(PACKED);
	use_packed(0, 2, 0);
	expect_error("used entry 0: id 2 is not in flight");
	set_up_eight(PACKED);
	use_packed(0, 8, 0);
	expect_error("used entry 0: id 8 of a ring of 8");
	set_up_eight(PACKED);
	use_packed(0, 1, 65);
	expect_error("used id 1: 65 bytes written, its buffers hold 64");
	for (unsigned int in_order = 0; in_order < 2; in_order++) {
		set_up_eight(PACKED | (in_order ? order : 0));
		use_packed(0, 0, 0);
		expect_taken(0);
		use_packed(2, 1, 0);
		expect_taken(1);
		use_packed(3, 2, 0);
		expect_error("used descriptor at 3 with no chain in flight");
	}
	drop();
	vdpa_vring_free(t.r);
}

static bool flip_stop;

/* Bits of the device's words change all the time, there and back. */
static void *
flip(void *arg)
{
	const struct vdpa_ring_size size = vdpa_ring_size(t.packed, t.p.num);
	uint8_t *bytes = t.packed ? t.p.desc : t.p.device;
	const uint64_t n = t.packed ? size.desc : size.device;
	uint64_t s = 42;

	while (!__atomic_load_n(&flip_stop, __ATOMIC_RELAXED)) {
		uint8_t *byte = &bytes[(s >> 33) % n], bit = (uint8_t)(1u << (s >> 61));

		__atomic_fetch_xor(byte, bit, __ATOMIC_RELAXED);
		__atomic_fetch_xor(byte, bit, __ATOMIC_RELAXED);
		s = s * 6364136223846793005ULL + 1442695040888963407ULL;
	}
	return NULL;
}

static void
words_that_change_meanwhile_are_read_once(void **state)
{
	for (unsigned int k = 0; k < 4; k++) {
		pthread_t thread;

		t.r = vdpa_vring_alloc();
		assert_non_null(t.r);
		set_up_eight((k & 1 ? PACKED : 0) | (k & 2 ? FEATURE(VIRTIO_F_IN_ORDER) : 0));
		t.fixed = true;
		set_up();
		n_taken = n_setups = 0;
		flip_stop = false;
		assert_int_equal(pthread_create(&thread, NULL, flip, NULL), 0);
		for (unsigned int i = 0; i < 30000; i++) {
			add();
			publish();
			if (rnd(2))
				use();
			take();
			if (vdpa_vring_in_flight(t.r) > 6)
				set_up();
		}
		__atomic_store_n(&flip_stop, true, __ATOMIC_RELAXED);
		pthread_join(thread, NULL);
		print_message("%u taken, %u set-ups\n", n_taken, n_setups);
		assert_true(n_taken > 1000);
		drop();
		vdpa_vring_free(t.r);
		t.fixed = false;
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_error_says_what_the_device_did),
		cmocka_unit_test(a_device_that_writes_what_it_likes_changes_nothing_else),
		cmocka_unit_test(words_that_change_meanwhile_are_read_once),
	};

	return cmocka_run_group_tests_name("vring_hostile", tests, NULL, NULL);
}
