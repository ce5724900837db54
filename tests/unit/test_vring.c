/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The driver's side of a virtqueue, with the library's device side as its peer, in every format;
 * where that one does not do what a device may do (one entry for a batch in order), the test writes
 * the ring itself.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_common.h>

#include "ring_driver.h"
#include "vdpa_vring.h"

#define PACKED	  RING_FEATURE(VIRTIO_F_RING_PACKED)
#define EVENT_IDX RING_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  RING_FEATURE(VIRTIO_RING_F_INDIRECT_DESC)
#define IN_ORDER  RING_FEATURE(VIRTIO_F_IN_ORDER)

#define MEM_SIZE (4ULL << 20)
#define TABLES	 (RING_MEM_IOVA + 0x100000)
#define BUFS	 (RING_MEM_IOVA + 0x200000)
#define NUM_MAX	 512
#define LEN_MAX	 600

struct post {
	bool flying;
	unsigned int n;
	uint32_t room;
	uint32_t written; /* by the device */
	struct vdpa_vring_seg segs[LEN_MAX];
};

struct fixture {
	struct ring_mem mem;
	uint64_t features;
	struct vdpa_vring_params params;
	struct vdpa_vq_params device;
	struct vdpa_vring *r;
	struct vdpa_virtqueue *vq;
	int call_fd;

	/* By id, and ids in the order of adding. */
	struct post post[NUM_MAX];
	uint16_t order[NUM_MAX];
	unsigned int in_flight, added;
	/* Chains at the device, and ids that it has used and the driver has not taken. */
	struct vdpa_vq_chain held[NUM_MAX];
	unsigned int n_held;
	uint16_t used[NUM_MAX];
	unsigned int n_used;
	bool device_sleeps, driver_sleeps;
};

static uint64_t seed;
static struct fixture f;
/* Of chains at the device. */
static struct iovec iovs[NUM_MAX][LEN_MAX];

static uint32_t
rnd(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 11) % below);
}

static void
set_up(const struct vdpa_vq_state *place)
{
	f.params.place = *place;
	assert_int_equal(vdpa_vring_setup(f.r, &f.params), 0);
	assert_string_equal(vdpa_vring_error(f.r), "");
	f.device.state = *place;
	assert_int_equal(vdpa_vq_setup(f.vq, &f.device, f.mem.tlb), 0);
	memset(f.post, 0, sizeof(f.post));
	f.in_flight = f.added = f.n_held = f.n_used = 0;
	f.device_sleeps = f.driver_sleeps = false;
}

/* Entries of tables: 0 for none. */
static void
start(uint64_t features, uint32_t num, uint32_t tables)
{
	const struct vdpa_ring_size size = vdpa_ring_size(features & PACKED, num);
	const uint64_t mem_size = MEM_SIZE;
	struct vdpa_vq_state place = {0};

	memset(&f, 0, sizeof(f));
	assert_int_equal(ring_mem_init(&f.mem, &mem_size, 1), 0);
	f.features = features;
	f.device = (struct vdpa_vq_params){
		.features = features,
		.num = num,
		.desc = RING_MEM_IOVA,
		.driver = RING_MEM_IOVA + size.desc,
		.device = (RING_MEM_IOVA + size.desc + size.driver + 3) & ~3ULL,
	};
	f.params = (struct vdpa_vring_params){
		.features = features,
		.num = num,
		.desc = ring_mem_va(&f.mem, f.device.desc),
		.driver = ring_mem_va(&f.mem, f.device.driver),
		.device = ring_mem_va(&f.mem, f.device.device),
		.tables = tables > 0 ? ring_mem_va(&f.mem, TABLES) : NULL,
		.tables_iova = TABLES,
		.tables_entries = tables,
	};
	if (features & PACKED)
		place.packed.last_avail_counter = place.packed.last_used_counter = 1;
	f.r = vdpa_vring_alloc();
	f.vq = vdpa_vq_alloc(-1);
	f.call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_non_null(f.r);
	assert_non_null(f.vq);
	vdpa_vq_set_call(f.vq, f.call_fd);
	set_up(&place);
}

static void
finish(void)
{
	vdpa_vq_free(f.vq);
	vdpa_vring_free(f.r);
	ring_mem_fini(&f.mem);
	close(f.call_fd);
}

static unsigned int
random_chain(struct vdpa_vring_seg *segs, unsigned int n)
{
	unsigned int out = rnd(n + 1);

	for (unsigned int i = 0; i < n; i++)
		segs[i] = (struct vdpa_vring_seg){
			.iova = BUFS + rnd(0x100000), .len = 1 + rnd(9000), .write = i >= out};
	return n;
}

/* What vdpa_vring_add() says is noted. */
static int
add(const struct vdpa_vring_seg *segs, unsigned int n)
{
	int id = vdpa_vring_add(f.r, segs, n);
	struct post *p;

	if (id < 0)
		return id;
	p = &f.post[id];
	assert_in_range(id, 0, f.params.num - 1);
	assert_false(p->flying);
	p->flying = true;
	p->n = n;
	p->room = 0;
	memcpy(p->segs, segs, n * sizeof(*segs));
	for (unsigned int i = 0; i < n; i++)
		p->room += segs[i].write ? segs[i].len : 0;
	f.order[f.in_flight++] = (uint16_t)id;
	f.added++;
	return id;
}

static void
publish(void)
{
	bool wanted;

	vdpa_vring_publish(f.r);
	wanted = vdpa_vring_wants_kick(f.r);
	/* Asked again, there is nothing to say. */
	assert_false(vdpa_vring_wants_kick(f.r));
	if (f.added > 0 && f.device_sleeps) {
		assert_true(wanted);
		f.device_sleeps = false;
	}
	if (f.added == 0)
		assert_false(wanted);
	f.added = 0;
}

/* The device has the same buffers as were added. */
static void
expect_chain(const struct vdpa_vq_chain *c)
{
	const struct post *p = &f.post[c->id];

	assert_true(p->flying);
	assert_int_equal(c->nout + c->nin, p->n);
	assert_int_equal(c->in_len, p->room);
	for (unsigned int i = 0; i < p->n; i++) {
		assert_int_equal((uint8_t *)c->iov[i].iov_base - f.mem.tlb->regions[0]->va,
				 p->segs[i].iova - RING_MEM_IOVA);
		assert_int_equal(c->iov[i].iov_len, p->segs[i].len);
		assert_int_equal(i >= c->nout, p->segs[i].write);
	}
}

static void
device_pops(unsigned int n)
{
	while (n-- > 0) {
		struct vdpa_vq_chain *c = &f.held[f.n_held];
		int rc;

		/* The room of an iovec goes with the id. */
		if (f.n_held == f.params.num)
			return;
		c->iov = iovs[f.n_held];
		c->iov_max = LEN_MAX;
		rc = vdpa_vq_pop(f.vq, c);
		if (rc == 0 && rnd(2) == 0) {
			vdpa_vq_disable_kicks(f.vq);
			f.device_sleeps = !vdpa_vq_enable_kicks(f.vq);
		} else if (rc == 0) {
			vdpa_vq_disable_kicks(f.vq);
			f.device_sleeps = false;
		}
		if (rc == 0)
			return;
		assert_int_equal(rc, 1);
		expect_chain(c);
		f.n_held++;
	}
}

static void
device_pushes(unsigned int n)
{
	bool called;

	for (; n > 0 && f.n_held > 0; n--) {
		unsigned int k = f.features & IN_ORDER ? 0 : rnd(f.n_held);
		struct vdpa_vq_chain c = f.held[k];
		struct post *p = &f.post[c.id];

		p->written = p->room > 0 ? rnd(p->room + 1) : 0;
		vdpa_vq_push(f.vq, &c, p->written);
		f.used[f.n_used++] = c.id;
		f.n_held--;
		memmove(&f.held[k], &f.held[k + 1], (f.n_held - k) * sizeof(f.held[0]));
	}
	/* Their iovecs stay where they are: nobody looks at them again. */
	vdpa_vq_flush(f.vq);
	called = vdpa_vq_notify(f.vq);
	if (f.driver_sleeps && f.n_used > 0) {
		assert_true(called);
		f.driver_sleeps = false;
	}
}

static void
forget(uint16_t id)
{
	unsigned int k = 0;

	while (f.order[k] != id)
		k++;
	f.in_flight--;
	memmove(&f.order[k], &f.order[k + 1], (f.in_flight - k) * sizeof(f.order[0]));
	f.post[id].flying = false;
}

static void
expect_segs(uint16_t id)
{
	const struct post *p = &f.post[id];
	const struct vdpa_vring_seg *segs;
	unsigned int n;

	segs = vdpa_vring_segs(f.r, id, &n);
	assert_int_equal(n, p->n);
	for (unsigned int i = 0; i < n; i++) {
		assert_int_equal(segs[i].iova, p->segs[i].iova);
		assert_int_equal(segs[i].len, p->segs[i].len);
		assert_int_equal(segs[i].write, p->segs[i].write);
	}
}

static void
driver_takes(unsigned int n)
{
	uint32_t len;
	uint16_t id;

	while (n-- > 0) {
		bool has = vdpa_vring_has_used(f.r);
		int rc = vdpa_vring_take(f.r, &id, &len);

		assert_int_equal(rc, f.n_used > 0);
		assert_int_equal(has, rc);
		if (rc == 0) {
			vdpa_vring_disable_calls(f.r);
			if (rnd(2) == 0)
				f.driver_sleeps = !vdpa_vring_enable_calls(f.r);
			else
				f.driver_sleeps = false;
			return;
		}
		assert_int_equal(id, f.used[0]);
		assert_int_equal(len, f.post[id].written);
		expect_segs(id);
		forget(id);
		f.n_used--;
		memmove(&f.used[0], &f.used[1], f.n_used * sizeof(f.used[0]));
	}
}

static void
expect_order(void)
{
	int id = vdpa_vring_oldest(f.r);

	assert_int_equal(vdpa_vring_in_flight(f.r), f.in_flight);
	for (unsigned int i = 0; i < f.in_flight; i++) {
		assert_int_equal(id, f.order[i]);
		expect_segs((uint16_t)id);
		id = vdpa_vring_younger(f.r, (uint16_t)id);
	}
	assert_int_equal(id, -1);
}

static void
empty_the_ring(void)
{
	publish();
	for (unsigned int i = 0; f.in_flight > 0; i++) {
		assert_true(i < 1000);
		device_pops(NUM_MAX);
		device_pushes(NUM_MAX);
		driver_takes(NUM_MAX);
	}
	expect_order();
}

/* Both stop with nothing in flight, and go on elsewhere with what the place says. */
static void
move_on(void)
{
	struct vdpa_vq_state mine, device;

	empty_the_ring();
	vdpa_vring_place(f.r, &mine);
	assert_int_equal(vdpa_vq_get_state(f.vq, &device), 0);
	assert_memory_equal(&mine, &device, sizeof(mine));
	set_up(&mine);
}

static void
random_traffic(uint64_t features, uint32_t num, uint32_t tables, unsigned int rounds)
{
	struct vdpa_vring_seg segs[LEN_MAX];
	unsigned int full = 0;

	start(features, num, tables);
	for (unsigned int i = 0; i < rounds; i++) {
		unsigned int burst = 1 + rnd(rnd(8) == 0 ? num : 8), n;

		switch (rnd(rnd(64) == 0 ? 6 : 5)) {
		case 0:
		case 1:
			while (burst-- > 0) {
				n = 1 +
				    rnd(rnd(4) == 0 ? (rnd(16) == 0 ? num : RTE_MIN(num, 9u)) : 1);
				if (add(segs, random_chain(segs, n)) == -ENOSPC)
					full++;
			}
			if (rnd(4) > 0)
				publish();
			break;
		case 2:
			device_pops(burst);
			break;
		case 3:
			device_pushes(burst);
			break;
		case 4:
			driver_takes(burst);
			break;
		default:
			expect_order();
			if (rnd(4) == 0)
				move_on();
		}
	}
	assert_true(full > 0);
	move_on();
	finish();
}

static void
traffic_in_every_format(uint64_t features)
{
	static const uint32_t sizes[] = {8, 64, 1, 2, 256, 3, 7, 100};
	const unsigned int n_sizes = features & PACKED ? 8 : 5;

	for (unsigned int k = 0; k < 8; k++) {
		uint64_t with = features | (k & 1 ? INDIRECT : 0) | (k & 2 ? EVENT_IDX : 0) |
				(k & 4 ? IN_ORDER : 0);

		for (unsigned int s = 0; s < n_sizes; s++) {
			/* Room for some tables, or for all. */
			random_traffic(with, sizes[s], k & 1 ? 3 + 4 * sizes[s] : 0, 4000);
			if (k & 1)
				random_traffic(with, sizes[s], 12, 1000);
		}
	}
}

static void
traffic_split(void **state)
{
	traffic_in_every_format(0);
}

static void
traffic_packed(void **state)
{
	traffic_in_every_format(PACKED);
}

/* The index of 16 bits goes round, with a chain in flight that is older than all of a turn. */
static void
indexes_go_round(void **state)
{
	static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
	const struct vdpa_vring_seg seg = {BUFS, 64, true};

	for (unsigned int i = 0; i < RTE_DIM(formats); i++) {
		int old;

		start(formats[i], 8, 0);
		old = add(&seg, 1);
		publish();
		device_pops(1);
		f.held[NUM_MAX - 1] = f.held[0];
		f.n_held = 0;
		for (unsigned int k = 0; k < 70000; k++) {
			assert_true(add(&seg, 1) >= 0);
			publish();
			device_pops(1);
			device_pushes(1);
			driver_takes(1 + (k & 1));
		}
		assert_int_equal(vdpa_vring_oldest(f.r), old);
		f.held[f.n_held++] = f.held[NUM_MAX - 1];
		device_pushes(1);
		driver_takes(1);
		expect_order();
		finish();
	}
}

static void
chains_without_room_are_refused(void **state)
{
	for (unsigned int k = 0; k < 4; k++) {
		const bool packed = k & 1, tables = k & 2;
		struct vdpa_vring_seg segs[LEN_MAX];

		start((packed ? PACKED : 0) | (tables ? INDIRECT : 0), 8, tables ? 64 : 0);
		assert_int_equal(add(segs, 0), -EMSGSIZE);
		assert_int_equal(add(segs, random_chain(segs, tables ? 65 : 9)), -EMSGSIZE);
		/* The longest that has room in an empty ring, twice. */
		assert_true(add(segs, random_chain(segs, tables ? 64 : 8)) >= 0);
		assert_int_equal(add(segs, random_chain(segs, tables ? 64 : 8)), -ENOSPC);
		if (tables) {
			/* Without room for a table, ring descriptors. */
			assert_true(add(segs, random_chain(segs, 7)) >= 0);
			assert_int_equal(add(segs, random_chain(segs, 2)), -ENOSPC);
		}
		assert_int_equal(add(segs, random_chain(segs, 1)), -ENOSPC);
		expect_order();
		empty_the_ring();
		assert_true(add(segs, random_chain(segs, tables ? 64 : 8)) >= 0);
		empty_the_ring();
		finish();
	}
}

/* A table for each chain of several buffers, given back in any order and joined again. */
static void
tables_are_joined_again(void **state)
{
	for (unsigned int round = 0; round < 200; round++) {
		struct vdpa_vring_seg segs[LEN_MAX];
		unsigned int left = 128;

		/* 124 entries are blocks of 64, 32, 16, 8 and 4. */
		start((round & 1 ? PACKED : 0) | INDIRECT, 256, 127);
		while (left > 0) {
			unsigned int n = 2 + rnd(15);

			if (add(segs, random_chain(segs, n)) < 0)
				break;
			left--;
		}
		empty_the_ring();
		for (unsigned int n = 64; n >= 4; n /= 2)
			assert_true(add(segs, random_chain(segs, n)) >= 0);
		/* 5 tables in 5 descriptors. */
		for (unsigned int i = 0; i < 251; i++)
			assert_true(add(segs, random_chain(segs, 1)) >= 0);
		assert_int_equal(add(segs, random_chain(segs, 1)), -ENOSPC);
		empty_the_ring();
		finish();
	}
}

static void
set_up_refuses_what_the_specification_forbids(void **state)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct vdpa_vring_params p;
		uint32_t len;
		uint16_t id;

		start(packed ? PACKED : 0, 8, 0);
#define REFUSED(change)                                                                            \
	do {                                                                                       \
		p = f.params;                                                                      \
		change;                                                                            \
		assert_int_equal(vdpa_vring_setup(f.r, &p), -EINVAL);                              \
		assert_string_not_equal(vdpa_vring_error(f.r), "");                                \
		assert_int_equal(vdpa_vring_take(f.r, &id, &len), -EPROTO);                        \
		assert_int_equal(vdpa_vring_add(f.r, NULL, 1), -EPROTO);                           \
	} while (0)
		REFUSED(p.num = 0);
		REFUSED(p.num = 65536);
		REFUSED(p.desc = (uint8_t *)p.desc + 8);
		REFUSED(p.driver = (uint8_t *)p.driver + 1);
		REFUSED(p.device = (uint8_t *)p.device + 2);
		REFUSED(p.tables = (uint8_t *)p.desc + 8);
		if (packed) {
			REFUSED(p.place.packed.last_avail_idx = p.place.packed.last_used_idx = 8);
			REFUSED(p.place.packed.last_avail_idx = 1);
			REFUSED(p.place.packed.last_used_counter ^= 1);
		} else {
			REFUSED(p.num = 7);
		}
		assert_int_equal(vdpa_vring_setup(f.r, &f.params), 0);
		assert_string_equal(vdpa_vring_error(f.r), "");
		finish();
	}
}

/* A ring of any place looks as laps before have left it: the device finds nothing and goes on. */
static void
a_ring_begins_at_any_place(void **state)
{
	static const uint16_t places[] = {0, 1, 7, 8, 0x7fff, 0xfffe, 0xffff};

	for (unsigned int k = 0; k < 4 * RTE_DIM(places); k++) {
		const uint16_t at = places[k / 4];
		const bool packed = k & 1;
		struct vdpa_vq_state place = {.split.avail_index = at}, now;
		struct vdpa_vring_seg segs[3];

		start((packed ? PACKED : 0) | (k & 2 ? EVENT_IDX : 0), 8, 0);
		for (unsigned int wrap = 0; wrap < 2; wrap++) {
			if (packed)
				place = (struct vdpa_vq_state){
					.packed = {.last_avail_idx = at & 7,
						   .last_used_idx = at & 7,
						   .last_avail_counter = (uint8_t)wrap,
						   .last_used_counter = (uint8_t)wrap}};
			set_up(&place);
			vdpa_vring_place(f.r, &now);
			if (packed)
				assert_memory_equal(&now.packed, &place.packed, sizeof(now.packed));
			else
				assert_int_equal(now.split.avail_index, place.split.avail_index);
			device_pops(1);
			driver_takes(1);
			/* The first kick and the first call are wanted, whatever was before. */
			set_up(&place);
			add(segs, random_chain(segs, 3));
			vdpa_vring_publish(f.r);
			assert_true(vdpa_vring_wants_kick(f.r));
			device_pops(1);
			f.driver_sleeps = true;
			device_pushes(1);
			driver_takes(2);
			for (unsigned int i = 0; i < 20; i++) {
				add(segs, random_chain(segs, 1 + rnd(3)));
				publish();
				device_pops(2);
				device_pushes(1);
				driver_takes(2);
			}
			move_on();
		}
		finish();
	}
}

/* One entry for a batch, in order: what the device writes, at the place of the batch's first. */
static void
use_in_order(uint16_t id, uint32_t len, uint16_t chains, uint16_t *pos, uint16_t slots)
{
	if (f.features & PACKED) {
		struct vring_packed_desc *d = f.params.desc;
		const uint16_t both =
			1 << VRING_PACKED_DESC_F_AVAIL | 1 << VRING_PACKED_DESC_F_USED;

		d[*pos % 8].id = id;
		d[*pos % 8].len = len;
		d[*pos % 8].flags = (*pos / 8) % 2 == 0 ? both : 0;
		*pos += slots;
	} else {
		struct vring_used *u = f.params.device;

		u->ring[*pos % 8] = (struct vring_used_elem){.id = id, .len = len};
		*pos += chains;
		u->idx = *pos;
	}
}

static void
expect_take(int want, uint32_t want_len)
{
	uint32_t len;
	uint16_t id;

	assert_int_equal(vdpa_vring_take(f.r, &id, &len), 1);
	assert_int_equal(id, want);
	assert_int_equal(len, want_len);
}

static void
batches_in_order_are_one_entry(void **state)
{
	for (unsigned int packed = 0; packed < 2; packed++) {
		const struct vdpa_vring_seg segs[] = {
			{BUFS, 16, false}, {BUFS, 64, true}, {BUFS, 64, true}};
		uint16_t pos = 0, id;
		uint32_t len;

		start(IN_ORDER | (packed ? PACKED : 0), 8, 0);
		for (unsigned int lap = 0; lap < 50; lap++) {
			int a, b, c;

			a = vdpa_vring_add(f.r, segs, 3);
			b = vdpa_vring_add(f.r, &segs[1], 1);
			/* Ids or descriptors in turn. */
			assert_int_equal(b, (a + (packed ? 1 : 3)) % 8);
			c = vdpa_vring_add(f.r, segs, 2);
			vdpa_vring_publish(f.r);
			assert_int_equal(vdpa_vring_take(f.r, &id, &len), 0);
			use_in_order((uint16_t)b, 7, 2, &pos, 4);
			assert_true(vdpa_vring_has_used(f.r));
			expect_take(a, 128);
			assert_true(vdpa_vring_has_used(f.r));
			expect_take(b, 7);
			assert_false(vdpa_vring_has_used(f.r));
			use_in_order((uint16_t)c, 64, 1, &pos, 2);
			expect_take(c, 64);
			assert_int_equal(vdpa_vring_take(f.r, &id, &len), 0);
			assert_int_equal(vdpa_vring_in_flight(f.r), 0);
		}
		finish();
	}
}

static void
calls_are_asked_for_and_given_up(void **state)
{
	static const uint64_t formats[] = {0, EVENT_IDX, PACKED, PACKED | EVENT_IDX};
	const struct vdpa_vring_seg seg = {BUFS, 64, true};

	for (unsigned int i = 0; i < RTE_DIM(formats); i++) {
		start(formats[i], 8, 0);
		for (unsigned int k = 0; k < 100; k++) {
			bool on = k % 3 == 0;

			if (on)
				assert_false(vdpa_vring_enable_calls(f.r));
			else
				vdpa_vring_disable_calls(f.r);
			add(&seg, 1);
			vdpa_vring_publish(f.r);
			assert_int_equal(vdpa_vq_pop(f.vq, &(struct vdpa_vq_chain){.iov = iovs[0],
										   .iov_max = 1}),
					 1);
			f.held[0].id = (uint16_t)vdpa_vring_oldest(f.r);
			f.held[0].ndesc = 1;
			vdpa_vq_push(f.vq, &f.held[0], 5);
			vdpa_vq_flush(f.vq);
			/* The first decision of a device with an event index is a call. */
			assert_true(vdpa_vq_notify(f.vq) == on || k == 0);
			/* It is there before the wish: no call comes for it. */
			assert_true(vdpa_vring_enable_calls(f.r));
			expect_take(f.held[0].id, 5);
			forget(f.held[0].id);
		}
		finish();
	}
}

/* What a doorbell with data says: without what is added and not published. */
static void
the_next_place_is_that_of_what_is_published(void **state)
{
	const struct vdpa_vq_state near_end = {.split.avail_index = 0xfffe};
	struct vdpa_vring_seg segs[8];

	start(0, 8, 0);
	set_up(&near_end);
	add(segs, random_chain(segs, 3));
	assert_int_equal(vdpa_vring_next(f.r), 0xfffe);
	publish();
	assert_int_equal(vdpa_vring_next(f.r), 0xffff);
	add(segs, random_chain(segs, 1));
	publish();
	assert_int_equal(vdpa_vring_next(f.r), 0);
	finish();

	start(PACKED, 8, 0);
	add(segs, random_chain(segs, 6));
	assert_int_equal(vdpa_vring_next(f.r), 0 | 1 << 15);
	publish();
	assert_int_equal(vdpa_vring_next(f.r), 6 | 1 << 15);
	add(segs, random_chain(segs, 2));
	assert_int_equal(vdpa_vring_next(f.r), 6 | 1 << 15);
	publish();
	assert_int_equal(vdpa_vring_next(f.r), 0);
	empty_the_ring();
	add(segs, random_chain(segs, 3));
	publish();
	assert_int_equal(vdpa_vring_next(f.r), 3);
	finish();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(traffic_split),
		cmocka_unit_test(traffic_packed),
		cmocka_unit_test(indexes_go_round),
		cmocka_unit_test(chains_without_room_are_refused),
		cmocka_unit_test(tables_are_joined_again),
		cmocka_unit_test(set_up_refuses_what_the_specification_forbids),
		cmocka_unit_test(a_ring_begins_at_any_place),
		cmocka_unit_test(batches_in_order_are_one_entry),
		cmocka_unit_test(calls_are_asked_for_and_given_up),
		cmocka_unit_test(the_next_place_is_that_of_what_is_published),
	};

	seed = 0x9e3779b97f4a7c15;
	return cmocka_run_group_tests_name("vring", tests, NULL, NULL);
}
