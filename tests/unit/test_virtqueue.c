/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Virtqueues as a device has them, both layouts: each test runs for split and for packed.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "fault.h"
#include "ring_driver.h"
#include "vdpa_memory.h"
#include "vdpa_virtqueue.h"

#define PACKED	  RING_FEATURE(VIRTIO_F_RING_PACKED)
#define EVENT_IDX RING_FEATURE(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  RING_FEATURE(VIRTIO_RING_F_INDIRECT_DESC)
#define MEM_SIZE  (1ULL << 20)
#define BUFS	  (RING_MEM_IOVA + 0x80000)
#define BOUNDARY  (RING_MEM_IOVA + MEM_SIZE)
#define IOV_MAX_  64

struct fixture {
	struct ring_mem mem;
	struct ring_driver drv;
	struct vdpa_vq_params params;
	struct vdpa_virtqueue *vq;
	struct iovec iov[IOV_MAX_];
	struct vdpa_vq_chain chain;
};

static void
start(struct fixture *f, uint64_t features, uint32_t num)
{
	const uint64_t sizes[] = {MEM_SIZE, MEM_SIZE};

	memset(f, 0, sizeof(*f));
	assert_int_equal(ring_mem_init(&f->mem, sizes, 2), 0);
	assert_int_equal(ring_driver_init(&f->drv, &f->mem, features, num, RING_MEM_IOVA), 0);
	ring_driver_params(&f->drv, &f->params);
	f->vq = vdpa_vq_alloc(-1);
	assert_non_null(f->vq);
	assert_int_equal(vdpa_vq_setup(f->vq, &f->params, f->mem.tlb), 0);
	f->chain.iov = f->iov;
	f->chain.iov_max = IOV_MAX_;
}

static void
finish(struct fixture *f)
{
	vdpa_vq_free(f->vq);
	ring_driver_fini(&f->drv);
	ring_mem_fini(&f->mem);
}

static void
expect_used(struct fixture *f, int id, uint32_t len)
{
	uint16_t got;
	uint32_t got_len;

	assert_true(ring_driver_poll(&f->drv, &got, &got_len));
	assert_int_equal(got, id);
	assert_int_equal(got_len, len);
}

static void
chains_go_round_the_ring(uint64_t features)
{
	const uint32_t sizes[] = {1, 2, 8, 256, 3, 7, 100};
	const unsigned int n_sizes = features & PACKED ? 7 : 4;

	for (unsigned int s = 0; s < n_sizes; s++) {
		struct fixture f;
		int ids[256];
		uint16_t none;
		uint32_t none_len;

		start(&f, features, sizes[s]);
		for (uint32_t round = 0; round < 70000 / sizes[s] && round < 3000; round++) {
			uint32_t n = 1 + round % sizes[s];

			for (uint32_t i = 0; i < n; i++) {
				struct ring_buf b = {BUFS + 64 * i, 64, i & 1};

				ids[i] = ring_driver_post(&f.drv, &b, 1);
				assert_true(ids[i] >= 0);
			}
			for (uint32_t i = 0; i < n; i++) {
				assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
				assert_int_equal(f.chain.id, ids[i]);
				assert_int_equal(f.chain.nin, i & 1);
				assert_int_equal(f.chain.nout, !(i & 1));
				assert_ptr_equal((uint8_t *)f.iov[0].iov_base -
							 f.mem.tlb->regions[0]->va,
						 (void *)(uintptr_t)(0x80000 + 64 * i));
				vdpa_vq_push(f.vq, &f.chain, i & 1 ? i % 64 : 0);
			}
			assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 0);
			assert_false(ring_driver_poll(&f.drv, &none, &none_len));
			vdpa_vq_flush(f.vq);
			for (uint32_t i = 0; i < n; i++)
				expect_used(&f, ids[i], i & 1 ? i % 64 : 0);
			assert_false(ring_driver_poll(&f.drv, &none, &none_len));
		}
		finish(&f);
	}
}

static void
a_chain_has_its_parts_in_order(uint64_t features)
{
	const struct ring_buf bufs[] = {{BUFS, 16, false},
					{BUFS + 0x1000, 0, false},
					{BOUNDARY - 100, 300, false},
					{BUFS + 0x2000, 1000, true},
					{BOUNDARY - 8, 16, true}};
	struct fixture f;
	int id;

	for (int way = 0; way < 3; way++) {
		start(&f, features | INDIRECT, 8);
		/* The second table lies unaligned across the regions. */
		id = way == 0 ? ring_driver_post(&f.drv, bufs, 5)
			      : ring_driver_post_indirect(&f.drv, bufs, 5,
							  way == 1 ? BUFS + 0x4000 : BOUNDARY - 37);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
		assert_int_equal(f.chain.id, id);
		assert_int_equal(f.chain.nout, 3);
		assert_int_equal(f.chain.nin, 3);
		assert_int_equal(f.chain.out_len, 316);
		assert_int_equal(f.chain.in_len, 1016);
		assert_int_equal(f.iov[1].iov_len, 100);
		assert_int_equal(f.iov[2].iov_len, 200);
		assert_ptr_equal(f.iov[2].iov_base, f.mem.tlb->regions[1]->va);
		assert_int_equal(f.iov[4].iov_len, 8);
		vdpa_vq_push(f.vq, &f.chain, 7);
		vdpa_vq_flush(f.vq);
		expect_used(&f, id, 7);

		/* Too long for the caller: skipped, and the ring goes on. */
		id = ring_driver_post(&f.drv, bufs, 5);
		f.chain.iov_max = 5;
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), -EMSGSIZE);
		assert_int_equal(f.chain.id, id);
		vdpa_vq_push(f.vq, &f.chain, 0);
		vdpa_vq_flush(f.vq);
		expect_used(&f, id, 0);
		f.chain.iov_max = IOV_MAX_;
		id = ring_driver_post(&f.drv, bufs, 1);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
		assert_int_equal(f.chain.id, id);
		finish(&f);
	}
}

static void
a_burst_is_taken_and_rewound(uint64_t features)
{
	struct fixture f;
	struct vdpa_vq_chain c[8];
	struct iovec iov[8][4];
	struct vdpa_vq_state st;
	int ids[8];

	start(&f, features, 8);
	for (int i = 0; i < 8; i++) {
		c[i].iov = iov[i];
		c[i].iov_max = 4;
	}
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < 5; i++) {
			struct ring_buf b[2] = {{BUFS, 8, false}, {BUFS, 8, true}};

			ids[i] = ring_driver_post(&f.drv, b, 1 + (i == 2));
		}
		assert_int_equal(vdpa_vq_pop_burst(f.vq, c, 8), 5);
		assert_int_equal(vdpa_vq_get_state(f.vq, &st), -EBUSY);
		vdpa_vq_push(f.vq, &c[0], 0);
		vdpa_vq_rewind(f.vq, &c[1].taken);
		assert_true(vdpa_vq_avail(f.vq) > 0);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, &c[1], 2), 2);
		assert_int_equal(c[1].id, ids[1]);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, &c[3], 5), 2);
		assert_int_equal(c[4].id, ids[4]);
		for (int i = 1; i < 5; i++)
			vdpa_vq_push(f.vq, &c[i], 0);
		vdpa_vq_flush(f.vq);
		for (int i = 0; i < 5; i++)
			expect_used(&f, ids[i], 0);
		assert_int_equal(vdpa_vq_avail(f.vq), 0);
		/* Stop here and go on in another life. */
		assert_int_equal(vdpa_vq_get_state(f.vq, &f.params.state), 0);
		vdpa_vq_teardown(f.vq);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 0);
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
	}
	finish(&f);
}

static void
calls_and_kicks_follow_the_driver(uint64_t features)
{
	struct ring_buf b = {BUFS, 8, false};
	struct fixture f;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	for (int event_idx = 0; event_idx < 2; event_idx++) {
		start(&f, features | (event_idx ? EVENT_IDX : 0), 8);
		vdpa_vq_set_call(f.vq, fd);
		for (int i = 0; i < 40; i++) {
			bool want = i % 3 == 0;
			bool wrap = false;
			uint16_t used = ring_driver_used_pos(&f.drv, &wrap);

			assert_false(vdpa_vq_enable_kicks(f.vq));
			ring_driver_post(&f.drv, &b, 1);
			assert_true(ring_driver_kick_wanted(&f.drv));
			assert_true(vdpa_vq_enable_kicks(f.vq));
			vdpa_vq_disable_kicks(f.vq);
			if (event_idx)
				ring_driver_want_call_at(
					&f.drv,
					want ? used
					     : (features & PACKED ? (used + 1) % 8 : used + 1),
					want || used < 7 ? wrap : !wrap);
			else if (want)
				ring_driver_want_calls(&f.drv);
			else
				ring_driver_no_calls(&f.drv);
			assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
			vdpa_vq_push(f.vq, &f.chain, 0);
			assert_false(vdpa_vq_notify(f.vq));
			vdpa_vq_flush(f.vq);
			assert_int_equal(vdpa_vq_notify(f.vq), want);
			assert_false(vdpa_vq_notify(f.vq));
			expect_used(&f, f.chain.id, 0);
		}
		finish(&f);
	}
	close(fd);
}

static void
set_up_refuses_what_the_specification_forbids(uint64_t features)
{
	struct fixture f;
	struct vdpa_vq_params p;

	start(&f, features, 8);
#define REFUSED(err, change)                                                                       \
	do {                                                                                       \
		p = f.params;                                                                      \
		change;                                                                            \
		assert_int_equal(vdpa_vq_setup(f.vq, &p, f.mem.tlb), -(err));                      \
		assert_string_not_equal(vdpa_vq_error(f.vq), "");                                  \
		assert_false(vdpa_vq_is_ready(f.vq));                                              \
	} while (0)
	REFUSED(EINVAL, p.num = 0);
	REFUSED(EINVAL, p.num = 65536);
	REFUSED(EINVAL, p.desc += 8);
	REFUSED(EINVAL, p.driver += 1);
	REFUSED(EINVAL, p.device += 2);
	REFUSED(EFAULT, p.desc = BOUNDARY - 16);
	REFUSED(EFAULT, p.desc = 0);
	REFUSED(EFAULT, p.driver = UINT64_MAX & ~3ULL);
	REFUSED(EFAULT, p.device = BOUNDARY + MEM_SIZE);
	if (features & PACKED) {
		REFUSED(EINVAL, p.state.packed.last_avail_idx = 8);
		REFUSED(EINVAL, p.state.packed.last_used_counter = 2);
		REFUSED(EINVAL, p.state.packed.last_used_idx = 1);
	} else {
		REFUSED(EINVAL, p.num = 7);
		REFUSED(EINVAL, p.state.split.avail_index = 9);
	}
	assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
	assert_string_equal(vdpa_vq_error(f.vq), "");
	finish(&f);
}

/* Post one chain through an indirect table, spoil the ring, and look at the error. */
static void
a_malformed_chain_breaks_the_virtqueue(uint64_t features)
{
	const bool packed = features & PACKED;
	const struct {
		struct ring_buf buf[2];
		uint32_t table_len;
		int err;
	} cases[] = {
		{{{BUFS, 8, true}, {BUFS, 8, false}}, 0, -EPROTO},
		{{{BUFS, 8, false}, {BOUNDARY + MEM_SIZE - 4, 8, false}}, 0, -EFAULT},
		{{{0, 8, false}, {BUFS, 8, false}}, 0, -EFAULT},
		{{{UINT64_MAX - 3, 8, false}, {BUFS, 8, false}}, 0, -EFAULT},
		{{{BUFS, UINT32_MAX, false}, {BUFS, 8, false}}, 0, -EFAULT},
		{{{BUFS, 8, false}, {BUFS, UINT32_MAX, true}}, 0, -EPROTO},
		{{{BUFS, 8, false}, {BUFS, 8, false}}, 40, -EPROTO},
		{{{BUFS, 8, false}, {BUFS, 8, false}}, 15, -EPROTO},
		{{{BUFS, 8, false}, {BUFS, 8, false}}, 16 * 32769, -EPROTO},
	};

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture f;

		start(&f, features | INDIRECT, 8);
		if (cases[i].table_len == 0) {
			ring_driver_post(&f.drv, cases[i].buf, 2);
		} else {
			ring_driver_post_indirect(&f.drv, cases[i].buf, 2, BUFS + 0x1000);
			if (packed)
				ring_driver_packed(&f.drv)[0].len = cases[i].table_len;
			else
				ring_driver_desc(&f.drv)[0].len = cases[i].table_len;
		}
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), cases[i].err);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), cases[i].err);
		assert_string_not_equal(vdpa_vq_error(f.vq), "");
		finish(&f);
	}
	for (int i = 0; i < 5; i++) {
		struct ring_buf b = {BUFS, 8, false};
		struct fixture f;

		start(&f, features | (i == 1 ? 0 : INDIRECT), 8);
		ring_driver_post_indirect(&f.drv, &b, 1, BUFS + 0x1000);
		struct vring_desc *d = ring_driver_desc(&f.drv);
		struct vring_packed_desc *p = ring_driver_packed(&f.drv);
		struct vring_desc *t = ring_mem_va(&f.mem, BUFS + 0x1000);
		switch (i) {
		case 0: /* nested */
			*(packed ? &((struct vring_packed_desc *)(void *)t)->flags : &t->flags) =
				VRING_DESC_F_INDIRECT;
			break;
		case 1: /* not negotiated */
			break;
		case 2: /* with next */
			*(packed ? &p[0].flags : &d[0].flags) |= VRING_DESC_F_NEXT;
			break;
		case 3: /* loop */
			if (packed) {
				p[0].len = 0;
				for (int k = 0; k < 8; k++)
					p[k].flags =
						VRING_DESC_F_NEXT | 1 << VRING_PACKED_DESC_F_AVAIL;
			} else {
				d[0] = (struct vring_desc){.flags = VRING_DESC_F_NEXT, .next = 0};
			}
			break;
		case 4: /* outside the ring */
			if (packed) {
				finish(&f);
				continue;
			}
			ring_driver_avail(&f.drv)->idx = 10;
			break;
		}
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), -EPROTO);
		finish(&f);
	}
}

static void
what_is_outstanding_cannot_be_available_again(uint64_t features)
{
	struct ring_buf b = {BUFS, 8, false};
	struct fixture f;

	start(&f, features, 8);
	for (int i = 0; i < 8; i++) {
		ring_driver_post(&f.drv, &b, 1);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
	}
	assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 0);
	if (features & PACKED)
		ring_driver_packed(&f.drv)[0].flags = 1 << VRING_PACKED_DESC_F_USED;
	else
		ring_driver_avail(&f.drv)->idx = 9;
	assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), -EPROTO);
	finish(&f);
}

static void
writes_are_logged(uint64_t features)
{
	uint8_t bits[128] = {0};
	struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits)};
	const struct ring_buf bufs[] = {{BUFS, 16, false},
					{BUFS + 0x2000, 0x1000, true},
					{BOUNDARY - 0x1000, 0x3000, true}};
	struct fixture f;
	unsigned int set = 0;

	start(&f, features, 8);
	vdpa_vq_set_log(f.vq, &log, f.drv.dev);
	ring_driver_post(&f.drv, bufs, 3);
	assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
	vdpa_vq_push(f.vq, &f.chain, 0x1000 + 0x2001);
	vdpa_vq_flush(f.vq);
	for (unsigned int i = 0; i < sizeof(bits) * 8; i++)
		set += (bits[i / 8] >> (i % 8)) & 1;
#define DIRTY(iova) ((bits[(iova) >> 15] >> (((iova) >> 12) & 7)) & 1)
	assert_true(DIRTY(RING_MEM_IOVA)); /* the ring */
	assert_true(DIRTY(BUFS + 0x2000));
	assert_true(DIRTY(BOUNDARY - 0x1000));

	assert_true(DIRTY(BOUNDARY));
	assert_true(DIRTY(BOUNDARY + 0x1000));
	assert_int_equal(set, 5);
	vdpa_vq_set_log(f.vq, NULL, UINT64_MAX);
	finish(&f);
}

static void
inflight_chains_survive_a_crash(uint64_t features)
{
	struct ring_buf b[2] = {{BUFS, 8, false}, {BUFS + 64, 8, true}};
	struct fixture f;
	struct vdpa_vq_chain c[6];
	struct iovec iov[6][4];
	uint64_t area[64] = {0};
	int ids[8];

	start(&f, features, 8);
	f.params.inflight.addr = area;
	f.params.inflight.size = 8;
	assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), -EINVAL);
	f.params.inflight.size = sizeof(area);
	assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
	for (int i = 0; i < 6; i++) {
		c[i].iov = iov[i];
		c[i].iov_max = 4;
	}
	for (int round = 0; round < 100; round++) {
		for (int i = 0; i < 4; i++)
			ids[i] = ring_driver_post(&f.drv, b, i == 1 ? 2 : 1);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, c, 3), 3);
		vdpa_vq_push(f.vq, &c[2], 0);
		vdpa_vq_flush(f.vq);
		expect_used(&f, ids[2], 0);
		/* Killed with 0 and 1 inflight, 3 not taken; the state is what nobody knows. */
		vdpa_vq_free(f.vq);
		f.vq = vdpa_vq_alloc(-1);
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
		assert_int_equal(vdpa_vq_avail(f.vq), 2);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, c, 6), 2);
		vdpa_vq_rewind(f.vq, &c[1].taken);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, &c[1], 5), 1);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, &c[2], 4), 1);
		assert_int_equal(c[0].id, ids[0]);
		assert_int_equal(c[1].id, ids[1]);
		assert_int_equal(c[1].nin, 1);
		assert_int_equal(c[2].id, ids[3]);
		vdpa_vq_rewind(f.vq, &c[0].taken);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, c, 6), 2);
		assert_int_equal(vdpa_vq_pop_burst(f.vq, &c[2], 4), 1);
		assert_int_equal(c[2].id, ids[3]);
		for (int i = 2; i >= 0; i--)
			vdpa_vq_push(f.vq, &c[i], 0);
		vdpa_vq_flush(f.vq);
		expect_used(&f, ids[3], 0);
		expect_used(&f, ids[1], 0);
		expect_used(&f, ids[0], 0);
	}
	finish(&f);
}

/* A kill inside a flush, made by putting back what the stores after it changed. */
static void
a_flush_cut_short_is_finished_or_undone(uint64_t features)
{
	const bool packed = features & PACKED;
	struct ring_buf b = {BUFS, 8, false};

	for (int published = packed ? 0 : 1; published < 2; published++) {
		union {
			uint64_t words[64];
			uint8_t bytes[512];
			uint16_t u16[256];
		} area = {0}, before;
		struct vring_packed_desc slot;
		struct fixture f;
		int id;

		start(&f, features, 8);
		f.params.inflight = (struct vdpa_vq_inflight){.addr = &area, .size = sizeof(area)};
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
		id = ring_driver_post(&f.drv, &b, 1);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
		before = area;
		slot = ring_driver_packed(&f.drv)[0];
		vdpa_vq_push(f.vq, &f.chain, 0);
		vdpa_vq_flush(f.vq);
		if (packed) {
			area.bytes[32] = 1;		   /* inflight */
			area.u16[7] = before.u16[7];	   /* old_free_head */
			area.u16[9] = before.u16[9];	   /* old_used_idx */
			area.bytes[21] = before.bytes[21]; /* old_used_wrap_counter */
			if (!published)
				ring_driver_packed(&f.drv)[0] = slot;
		} else {
			area.bytes[16 + 16 * id] = 1;
			area.u16[7] = before.u16[7]; /* used_idx */
		}
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
		if (published) {
			expect_used(&f, id, 0);
			assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 0);
		}
		if (published)
			id = ring_driver_post(&f.drv, &b, 1);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
		assert_int_equal(f.chain.id, id);
		vdpa_vq_push(f.vq, &f.chain, 0);
		vdpa_vq_flush(f.vq);
		expect_used(&f, id, 0);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 0);
		finish(&f);
	}
}

static void
memory_for_reading_is_not_written(uint64_t features)
{
	const struct ring_buf read = {BOUNDARY, 8, false}, write = {BOUNDARY, 8, true};
	struct fixture f;

	/* With the region found by a search, and again after a chain that was in it. */
	for (unsigned int before = 0; before < 2; before++) {
		start(&f, features | INDIRECT, 8);
		f.mem.tlb->regions[1]->readonly = true;
		if (before > 0) {
			ring_driver_post(&f.drv, &read, 1);
			assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
			assert_ptr_equal(f.iov[0].iov_base, f.mem.tlb->regions[1]->va);
			ring_driver_post_indirect(&f.drv, &read, 1, BOUNDARY + 0x1000);
			assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), 1);
		}
		ring_driver_post(&f.drv, &write, 1);
		assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), -EFAULT);
		finish(&f);
	}
}

static void
lost_memory_breaks_the_virtqueue(uint64_t features)
{
	struct fixture f;

	assert_int_equal(vdpa_fault_init(), 0);
	start(&f, features, 8);
	assert_int_equal(ftruncate(f.mem.region[0].fd, 0), 0);
	assert_int_equal(vdpa_vq_pop(f.vq, &f.chain), -EFAULT);
	assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), -EFAULT);
	vdpa_vq_free(f.vq);
	ring_driver_fini(&f.drv);
	ring_mem_fini(&f.mem);
	vdpa_fault_fini();
}

static uint64_t
rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Random or nearly right descriptors all over the ring and a table. */
static void
scribble(struct fixture *f, uint64_t *s)
{
	const uint16_t used = f->drv.packed ? 1 << VRING_PACKED_DESC_F_AVAIL : 0;
	uint64_t *words = ring_mem_va(&f->mem, f->drv.desc);
	uint64_t *table = ring_mem_va(&f->mem, BUFS);

	for (uint32_t i = 0; i < 2 * f->drv.num; i++) {
		uint64_t *d = i < f->drv.num ? &words[2 * i] : &table[2 * (i - f->drv.num)];
		uint64_t r = rnd(s);
		uint64_t len = r & 1   ? 16 * (rnd(s) % 10)
			       : r & 2 ? rnd(s) % 70000
				       : (uint32_t)rnd(s);
		uint64_t flags = (rnd(s) & rnd(s) & 7) | used | (r % 16 == 0 ? rnd(s) : 0);
		uint64_t other = r & 4 ? rnd(s) % (f->drv.num + 1) : rnd(s);

		d[0] = r & 8	? BUFS
		       : r & 16 ? BOUNDARY - rnd(s) % 100
		       : r & 32 ? rnd(s)
				: BUFS + r % MEM_SIZE;
		d[1] = (len & UINT32_MAX) |
		       (f->drv.packed ? (other & 0xffff) << 32 | (flags & 0xffff) << 48
				      : (flags & 0xffff) << 32 | other << 48);
	}
	if (!f->drv.packed) {
		ring_driver_avail(&f->drv)->idx = (uint16_t)(rnd(s) % (f->drv.num + 1));
		for (uint32_t i = 0; i < f->drv.num; i++)
			ring_driver_avail(&f->drv)->ring[i] = (uint16_t)(rnd(s) % (f->drv.num + 1));
	}
}

static void
expect_inside(const struct fixture *f, const struct vdpa_vq_chain *c)
{
	for (unsigned int i = 0; i < (unsigned int)c->nout + c->nin; i++) {
		const struct iovec *v = &c->iov[i];
		bool inside = false;

		for (uint32_t j = 0; j < f->mem.tlb->n; j++) {
			const struct vdpa_mem_region *r = f->mem.tlb->regions[j];
			uint64_t off = (uintptr_t)v->iov_base - (uintptr_t)r->va;

			inside |= off < r->size && v->iov_len <= r->size - off;
		}
		assert_true(inside);
		assert_true(v->iov_len > 0);
	}
}

static void
random_rings_stay_inside_memory(uint64_t features)
{
	uint64_t s = 0x9e3779b97f4a7c15, area[64], taken = 0, broken = 0;
	struct fixture f;

	start(&f, features | INDIRECT | EVENT_IDX, 8);
	for (int i = 0; i < 100000; i++) {
		int ret = 1;

		ring_driver_reset(&f.drv);
		f.params.inflight = (struct vdpa_vq_inflight){0};
		if (i % 4 == 0) {
			for (int k = 0; k < 64; k++)
				area[k] = i % 8 ? rnd(&s) & rnd(&s) & 0x0007000700070001 : 0;
			f.params.inflight =
				(struct vdpa_vq_inflight){.addr = area, .size = sizeof(area)};
		}
		scribble(&f, &s);
		if (vdpa_vq_setup(f.vq, &f.params, f.mem.tlb) < 0)
			continue;
		for (int k = 0; k < 20; k++) {
			f.chain.iov_max = (uint16_t)(rnd(&s) % (IOV_MAX_ + 1));
			ret = vdpa_vq_pop(f.vq, &f.chain);
			if (ret <= 0 && ret != -EMSGSIZE)
				break;
			if (ret == 1)
				expect_inside(&f, &f.chain);
			taken++;
			if (rnd(&s) % 8 == 0)
				vdpa_vq_rewind(f.vq, &f.chain.taken);
			else if (rnd(&s) % 4 != 0)
				vdpa_vq_push(f.vq, &f.chain, 1);
			if (rnd(&s) % 4 == 0)
				vdpa_vq_flush(f.vq);
		}
		broken += ret < 0;
		vdpa_vq_notify(f.vq);
	}
	/* The generator must reach both sides of every check. */
	assert_true(taken > 10000);
	assert_true(broken > 10000);
	finish(&f);
}

static bool flip_stop;

static void *
flip(void *arg)
{
	struct fixture *f = arg;
	uint64_t s = 42;

	while (!__atomic_load_n(&flip_stop, __ATOMIC_RELAXED)) {
		uint64_t *w = ring_mem_va(&f->mem, f->drv.desc);
		uint64_t i = rnd(&s) % (2 * f->drv.num);

		__atomic_fetch_xor(&w[i], 1ULL << (rnd(&s) % 64), __ATOMIC_RELAXED);
		w = ring_mem_va(&f->mem, BUFS);
		__atomic_fetch_xor(&w[i], 1ULL << (rnd(&s) % 64), __ATOMIC_RELAXED);
	}
	return NULL;
}

static void
descriptors_that_change_meanwhile_stay_inside_memory(uint64_t features)
{
	struct fixture f;
	pthread_t thread;
	uint64_t s = 7;

	start(&f, features | INDIRECT, 8);
	flip_stop = false;
	assert_int_equal(pthread_create(&thread, NULL, flip, &f), 0);
	for (int i = 0; i < 20000; i++) {
		scribble(&f, &s);
		if (vdpa_vq_setup(f.vq, &f.params, f.mem.tlb) < 0)
			continue;
		for (int k = 0; k < 8 && vdpa_vq_pop(f.vq, &f.chain) == 1; k++)
			expect_inside(&f, &f.chain);
	}
	__atomic_store_n(&flip_stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	finish(&f);
}

#define BOTH(name)                                                                                 \
	static void name##_split(void **state)                                                     \
	{                                                                                          \
		name(0);                                                                           \
	}                                                                                          \
	static void name##_packed(void **state)                                                    \
	{                                                                                          \
		name(PACKED);                                                                      \
	}
BOTH(chains_go_round_the_ring)
BOTH(a_chain_has_its_parts_in_order)
BOTH(a_burst_is_taken_and_rewound)
BOTH(calls_and_kicks_follow_the_driver)
BOTH(set_up_refuses_what_the_specification_forbids)
BOTH(a_malformed_chain_breaks_the_virtqueue)
BOTH(what_is_outstanding_cannot_be_available_again)
BOTH(writes_are_logged)
BOTH(inflight_chains_survive_a_crash)
BOTH(a_flush_cut_short_is_finished_or_undone)
BOTH(memory_for_reading_is_not_written)
BOTH(lost_memory_breaks_the_virtqueue)
BOTH(random_rings_stay_inside_memory)
BOTH(descriptors_that_change_meanwhile_stay_inside_memory)

#define TESTS(name) cmocka_unit_test(name##_split), cmocka_unit_test(name##_packed)

/* virtio 1.2, 2.7: the event fields at the end belong to the ring whatever was negotiated. */
static void
a_ring_without_event_idx_is_as_long_as_one_with(void **state)
{
	for (unsigned int event = 0; event < 2; event++) {
		struct fixture f;
		uint64_t num = 16;

		start(&f, event ? EVENT_IDX : 0, (uint32_t)num);
		f.params.device = BOUNDARY - (4 + 8 * num);
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), -EFAULT);
		f.params.device -= 4;
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
		f.params.driver = BOUNDARY - (4 + 2 * num);
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), -EFAULT);
		f.params.driver -= 2;
		assert_int_equal(vdpa_vq_setup(f.vq, &f.params, f.mem.tlb), 0);
		finish(&f);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TESTS(chains_go_round_the_ring),
		TESTS(a_chain_has_its_parts_in_order),
		TESTS(a_burst_is_taken_and_rewound),
		TESTS(calls_and_kicks_follow_the_driver),
		TESTS(set_up_refuses_what_the_specification_forbids),
		cmocka_unit_test(a_ring_without_event_idx_is_as_long_as_one_with),
		TESTS(a_malformed_chain_breaks_the_virtqueue),
		TESTS(what_is_outstanding_cannot_be_available_again),
		TESTS(writes_are_logged),
		TESTS(inflight_chains_survive_a_crash),
		TESTS(a_flush_cut_short_is_finished_or_undone),
		TESTS(memory_for_reading_is_not_written),
		TESTS(lost_memory_breaks_the_virtqueue),
		TESTS(random_rings_stay_inside_memory),
		TESTS(descriptors_that_change_meanwhile_stay_inside_memory),
	};

	return cmocka_run_group_tests_name("virtqueue", tests, NULL, NULL);
}
