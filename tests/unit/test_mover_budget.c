/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How much of a guest's chains a shadow or a relay walks in a round, which others on its worker
 * wait for: indirect tables may have tens of thousands of entries, and a ring is full of them.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_common.h>

#include "control_group.h"
#include "mover_priv.h"
#include "relay.h"
#include "ring_driver.h"
#include "shadow.h"

#define NUM	  64u
#define ENTRIES	  VDPA_VQ_NUM_MAX
#define PART	  0x2000u
#define TABLE	  0x8000u
#define BUF	  (TABLE + 16 * ENTRIES)
/* What a direction may walk in a round: its bursts' share, and the chain that takes it over. */
#define ROUND_MAX (VDPA_MOVER_DESCS + ENTRIES)

struct fixture {
	struct vdpa_event_loop *loop;
	struct ring_mem mem; /* the guest's; ours */
	struct vdpa_vring *driver;
	struct vdpa_virtqueue *device;
	struct vdpa_mover *m;
	unsigned int failures;
};

static void
kick(void *arg)
{
	(void)arg;
}

static void
failed(void *arg, int err, const char *why)
{
	(void)err;
	print_error("%s\n", why);
	((struct fixture *)arg)->failures++;
}

static const struct vdpa_mover_ops ops = {.kick = kick, .failed = failed};

static uint64_t
part_of(const struct fixture *f, unsigned int r, unsigned int part)
{
	return f->mem.region[r].iova + part * PART;
}

/* A table of so many entries of len bytes, of which the first has some at any rate. */
static void
write_table(struct fixture *f, bool packed, uint32_t entries, uint32_t len, uint32_t first_len)
{
	struct {
		uint64_t addr, word;
	} *e = ring_mem_va(&f->mem, f->mem.region[0].iova + TABLE);

	for (uint32_t i = 0; i < entries; i++) {
		uint64_t flags = VRING_DESC_F_WRITE, next = i + 1;

		e[i].addr = f->mem.region[0].iova + BUF;
		if (!packed && next < entries)
			flags |= VRING_DESC_F_NEXT | next << 16;
		e[i].word = (i == 0 ? first_len : len) | flags << (packed ? 48 : 32);
	}
}

/* A guest whose ring is full of that table, on a shadow or a relay. */
static void
begin(struct fixture *f, bool packed, bool relay, uint32_t entries)
{
	const uint64_t sizes[] = {4 << 20, 1 << 20};
	const uint64_t features = RING_FEATURE(VIRTIO_RING_F_INDIRECT_DESC) |
				  (packed ? RING_FEATURE(VIRTIO_F_RING_PACKED) : 0);
	struct vdpa_mover_params params = {
		.loop = f->loop, .kick_fd = -1, .call_fd = -1, .ops = &ops, .arg = f};
	struct vdpa_vring_params ring = {.features = features, .num = NUM};
	struct vdpa_vq_params device = {.features = features, .num = NUM};

	assert_int_equal(ring_mem_init(&f->mem, sizes, 2), 0);
	ring.place.packed.last_avail_counter = ring.place.packed.last_used_counter = packed;
	device.state = ring.place;
	for (unsigned int r = 0; r < 2; r++) {
		ring.desc = ring_mem_va(&f->mem, part_of(f, r, 0));
		ring.driver = ring_mem_va(&f->mem, part_of(f, r, 1));
		ring.device = ring_mem_va(&f->mem, part_of(f, r, 2));
		device.desc = part_of(f, r, 0);
		device.driver = part_of(f, r, 1);
		device.device = part_of(f, r, 2);
		if (r == 0) {
			params.guest = device;
			assert_int_equal(vdpa_vring_setup(f->driver, &ring), 0);
		}
	}
	params.ring = ring;
	params.tlb = f->mem.tlb;
	if (relay) {
		device.desc = params.guest.desc;
		assert_int_equal(vdpa_relay_create(&params, &f->m), 0);
	} else {
		params.ring.tables = ring_mem_va(&f->mem, part_of(f, 1, 4));
		params.ring.tables_iova = part_of(f, 1, 4);
		params.ring.tables_entries = 32768;
		assert_int_equal(vdpa_shadow_create(&params, &f->m), 0);
	}
	assert_int_equal(vdpa_vq_setup(f->device, &device, f->mem.tlb), 0);
	for (unsigned int i = 0; i < NUM; i++)
		assert_true(vdpa_vring_add_table(f->driver, f->mem.region[0].iova + TABLE,
						 entries * 16, UINT32_MAX) >= 0);
	vdpa_vring_publish(f->driver);
}

static void
end(struct fixture *f)
{
	assert_int_equal(f->failures, 0);
	vdpa_mover_free(f->m);
	f->m = NULL;
	ring_mem_fini(&f->mem);
}

/* Rounds until the guest has so many back, each within its limit. How many rounds. */
static unsigned int
go_on(struct fixture *f, unsigned int n, uint64_t limit)
{
	unsigned int rounds = 0, back = 0;
	uint16_t id;
	uint32_t len;

	while (back < n) {
		const uint64_t before = vdpa_vq_walked(f->m->guest);

		assert_in_range(++rounds, 1, 1000);
		assert_true(f->m->poller.poll(&f->m->poller) > 0);
		assert_true(vdpa_vq_walked(f->m->guest) - before <= limit);
		while (vdpa_vring_take(f->driver, &id, &len) == 1)
			back++;
	}
	return rounds;
}

static void
a_round_of_a_shadow_ends_with_a_chain_of_many_empty_buffers(void **state)
{
	struct fixture *f = *state;

	for (unsigned int packed = 0; packed < 2; packed++) {
		begin(f, packed, false, ENTRIES);
		write_table(f, packed, ENTRIES, 0, 0);
		assert_int_equal(go_on(f, NUM, ROUND_MAX), NUM);
		end(f);
	}
}

/* They are read again, to where there is room for them. */
static void
a_round_of_a_shadow_ends_with_a_chain_of_many_buffers(void **state)
{
	struct fixture *f = *state;

	for (unsigned int packed = 0; packed < 2; packed++) {
		unsigned int before = 0;

		begin(f, packed, false, 4000);
		write_table(f, packed, 4000, 1, 1);
		/* One a round, as many as there is room for. */
		for (unsigned int i = 0; i < 8; i++) {
			const uint64_t walked = vdpa_vq_walked(f->m->guest);

			assert_int_equal(f->m->poller.poll(&f->m->poller), 1);
			assert_true(vdpa_vq_walked(f->m->guest) - walked <= 2 * ROUND_MAX);
			assert_int_equal(vdpa_vring_in_flight(f->m->ring), ++before);
		}
		end(f);
	}
}

static void
a_round_of_a_relay_ends_with_a_used_chain_of_many_buffers(void **state)
{
	struct fixture *f = *state;
	struct iovec iov[4];
	struct vdpa_vq_chain chain = {.iov = iov, .iov_max = RTE_DIM(iov)};

	for (unsigned int ends = 0; ends < 2; ends++) {
		begin(f, false, true, ENTRIES);
		write_table(f, false, ENTRIES, 0, 64);
		assert_int_equal(f->m->poller.poll(&f->m->poller), NUM);
		for (unsigned int i = 0; i < NUM; i++) {
			assert_int_equal(vdpa_vq_pop(f->device, &chain), 1);
			vdpa_vq_push(f->device, &chain, 64);
		}
		vdpa_vq_flush(f->device);
		if (ends == 0) {
			assert_int_equal(go_on(f, NUM, ROUND_MAX), NUM);
		} else {
			struct vdpa_mover_stats stats;

			/* What is left of a burst is handed over at the end. */
			go_on(f, NUM / 4, ROUND_MAX);
			vdpa_mover_end(f->m);
			vdpa_mover_stats(f->m, &stats);
			assert_int_equal(stats.completed, NUM);
		}
		end(f);
	}
}

static int
set_up(void **state)
{
	const struct vdpa_event_loop_params params = {.name = "test", .lcore_id = UINT32_MAX};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(vdpa_event_loop_create(&params, &f->loop), 0);
	f->driver = vdpa_vring_alloc();
	f->device = vdpa_vq_alloc(-1);
	*state = f;
	return 0;
}

static int
tear_down(void **state)
{
	struct fixture *f = *state;

	vdpa_mover_free(f->m);
	vdpa_vring_free(f->driver);
	vdpa_vq_free(f->device);
	vdpa_event_loop_destroy(f->loop);
	free(f);
	return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_round_of_a_shadow_ends_with_a_chain_of_many_empty_buffers),
		TEST(a_round_of_a_shadow_ends_with_a_chain_of_many_buffers),
		TEST(a_round_of_a_relay_ends_with_a_used_chain_of_many_buffers),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
