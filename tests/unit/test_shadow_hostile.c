/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The shadow virtqueue between a guest and a device that break every rule: a guest that names our
 * memory, one that rewrites its rings and tables while they are read, a device that writes what it
 * likes to all that it can reach. What must hold: the device is given the guest's memory alone, by
 * a ring that is always legal; the guest gets each chain back once, by a ring that is always legal;
 * and whatever breaks, the next shadow works.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <rte_pause.h>

#include "shadow_test.h"

#define STEPS	30000
#define STEPS_L 1000000
/* Slots of the rings here. */
#define NUM	32u

static bool
is_long(void)
{
	const char *more = getenv("UVDPA_TEST_LONG");

	return more != NULL && more[0] != '\0' && strcmp(more, "0") != 0;
}

static uint64_t
first_seed(void)
{
	const char *seed = getenv("UVDPA_TEST_SEED");

	return seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
}

/* A guest that names our memory. */

static void
post(struct shadow_test *t, const struct vdpa_vring_seg *segs, unsigned int n)
{
	assert_true(vdpa_vring_add(t->driver, segs, n) >= 0);
	guest_kick(t);
}

static void
assert_ended(struct shadow_test *t, int err, const char *why)
{
	unsigned int in_flight;

	EVENTUALLY(failures(t) == 1);
	assert_int_equal(t->err, err);
	assert_string_equal(t->why, why);
	/* The device has seen nothing of it. */
	assert_int_equal(device_pop(t), -1);
	(void)shadow_end(t, &in_flight);
	assert_int_equal(in_flight, 0);
}

static void
our_memory_has_no_name(void **state)
{
	static const uint64_t ours[] = {
		OWN_IOVA,
		OWN_IOVA + RING_OFFSETS,
		OWN_IOVA + 2 * RING_OFFSETS,
		OWN_IOVA + OWN_TABLES,
		OWN_IOVA + OWN_SIZE - 8,
		GUEST_IOVA + GUEST_SIZE - 7,
		GUEST_IOVA - 1,
		UINT64_MAX - 3,
	};
	struct shadow_test *t = *state;

	for (unsigned int i = 0; i < 4 * RTE_DIM(ours); i++) {
		uint64_t guest = format(i / RTE_DIM(ours));
		struct vdpa_vring_seg segs[] = {
			{.iova = SLOTS_IOVA, .len = 16},
			{.iova = ours[i % RTE_DIM(ours)], .len = 8},
			{.iova = ours[i % RTE_DIM(ours)], .len = 8, .write = true},
		};

		for (unsigned int k = 0; k < 4; k++) {
			guest_begin(t, guest, NUM);
			shadow_begin(t, 0, NUM);
			/* Read, written, behind what is fine, and all of them. */
			post(t, k == 2 ? segs : &segs[k == 1 ? 2 : 1], k == 3 ? 2 : k == 2 ? 3 : 1);
			assert_ended(t, EFAULT, "descriptor outside memory");
		}
	}
}

static void
a_table_in_our_memory_is_not_read(void **state)
{
	struct shadow_test *t = *state;
	const struct vdpa_vring_seg segs[] = {{.iova = SLOTS_IOVA, .len = 16},
					      {.iova = SLOTS_IOVA, .len = 16}};
	struct vring_desc *desc = guest_va(t, RING_IOVA);

	for (unsigned int packed = 0; packed < 2; packed++) {
		guest_begin(t, INDIRECT | (packed ? PACKED : 0), NUM);
		shadow_begin(t, INDIRECT, NUM);
		assert_true(vdpa_vring_add(t->driver, segs, 2) >= 0);
		/* Both formats begin with the address. */
		for (unsigned int i = 0; i < NUM; i++)
			if (desc[i].addr >= TABLES_IOVA && desc[i].addr < SLOTS_IOVA)
				desc[i].addr = OWN_IOVA + OWN_TABLES;
		guest_kick(t);
		assert_ended(t, EFAULT, "indirect table outside memory");
	}
}

/* A guest that rewrites all that it can while it is read. */

struct scribbler {
	struct shadow_test *t;
	uint64_t seed;
	bool stop;  /* atomic */
	bool quiet; /* atomic */
};

/* A word that may mean something. */
static uint64_t
any_word(uint64_t *seed)
{
	static const uint64_t addresses[] = {OWN_IOVA,	 OWN_IOVA + OWN_TABLES,	      TABLES_IOVA,
					     SLOTS_IOVA, GUEST_IOVA + GUEST_SIZE - 1, GUEST_IOVA};
	uint64_t random = (uint64_t)rnd_of(seed, UINT32_MAX) << 32 | rnd_of(seed, UINT32_MAX);

	switch (rnd_of(seed, 4)) {
	case 0:
		return random;
	case 1:
		return addresses[rnd_of(seed, RTE_DIM(addresses))] + rnd_of(seed, 64);
	case 2: /* split: length, flags and next; packed: length, id and flags */
		return rnd_of(seed, 200) | (uint64_t)rnd_of(seed, 8) << 32 |
		       (uint64_t)rnd_of(seed, NUM + 1) << 48;
	default:
		return rnd_of(seed, 200) | (uint64_t)rnd_of(seed, NUM + 1) << 32 |
		       (uint64_t)(rnd_of(seed, 8) | rnd_of(seed, 2) << 7 | rnd_of(seed, 2) << 15)
			       << 48;
	}
}

static void
scribble(uint64_t *seed, uint8_t *area, uint64_t size)
{
	uint8_t *p = area + (rnd_of(seed, (uint32_t)size) & ~7u);
	uint64_t word = any_word(seed);

	switch (rnd_of(seed, 4)) {
	case 0:
		__atomic_store_n((uint64_t *)(void *)p, word, __ATOMIC_RELAXED);
		break;
	case 1:
		__atomic_store_n((uint16_t *)(void *)(p + 2 * rnd_of(seed, 4)), (uint16_t)word,
				 __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_fetch_xor((uint64_t *)(void *)p, UINT64_C(1) << rnd_of(seed, 64),
				   __ATOMIC_RELAXED);
		break;
	default: /* an index that moves */
		__atomic_fetch_add((uint16_t *)(void *)(p + 2 * rnd_of(seed, 4)), 1,
				   __ATOMIC_RELAXED);
	}
}

static void
scribble_guest(struct shadow_test *t, uint64_t *seed)
{
	static const struct {
		uint64_t iova, size;
	} parts[] = {
		{RING_IOVA, 16 * NUM},
		{RING_IOVA + RING_OFFSETS, 8 + 2 * NUM},
		{RING_IOVA + 2 * RING_OFFSETS, 8 + 8 * NUM},
		{TABLES_IOVA, 16 * 256},
	};
	uint32_t part = rnd_of(seed, RTE_DIM(parts));

	scribble(seed, guest_va(t, parts[part].iova), parts[part].size);
}

static void *
rewrite_the_rings(void *arg)
{
	struct scribbler *s = arg;

	while (!__atomic_load_n(&s->stop, __ATOMIC_RELAXED)) {
		if (!__atomic_load_n(&s->quiet, __ATOMIC_RELAXED))
			scribble_guest(s->t, &s->seed);
		for (unsigned int i = rnd_of(&s->seed, 400); i > 0; i--)
			rte_pause();
	}
	return NULL;
}

/* Chains of a guest to which nobody holds. */
static void
add_some(struct shadow_test *t)
{
	struct vdpa_vring_seg segs[6];

	for (unsigned int i = 1 + rnd(t, 4); i > 0; i--) {
		unsigned int n = 1 + rnd(t, RTE_DIM(segs)), nout = rnd(t, n + 1);

		for (unsigned int k = 0; k < n; k++)
			segs[k] = (struct vdpa_vring_seg){.iova = SLOTS_IOVA + rnd(t, 0x10000),
							  .len = 1 + rnd(t, 5000),
							  .write = k >= nout};
		(void)vdpa_vring_add(t->driver, segs, n);
	}
	vdpa_vring_publish(t->driver);
	vdpa_eventfd_signal(t->kick_fd);
}

/* Whatever the guest does, the device has a legal ring with buffers of the guest's alone. */
static unsigned int
pop_checked(struct shadow_test *t)
{
	unsigned int popped = 0;

	for (; popped < 8 && t->n_held < NUM; popped++) {
		struct held *h = &t->held[t->n_held];
		int rc;

		h->chain.iov = h->iov;
		h->chain.iov_max = RTE_DIM(h->iov);
		rc = vdpa_vq_pop(t->device, &h->chain);
		if (rc < 0)
			fail_msg("the device: %s", vdpa_vq_error(t->device));
		if (rc == 0)
			break;
		for (unsigned int i = 0; i < (unsigned int)h->chain.nout + h->chain.nin; i++) {
			uint64_t off = (uintptr_t)h->iov[i].iov_base - GUEST_IOVA;

			assert_true(off < GUEST_SIZE && h->iov[i].iov_len <= GUEST_SIZE - off);
		}
		t->n_held++;
	}
	return popped;
}

static void
use_some(struct shadow_test *t)
{
	for (unsigned int n = rnd(t, 8); n > 0 && t->n_held > 0; n--) {
		unsigned int at = t->device_features & IN_ORDER ? 0 : rnd(t, t->n_held);
		struct held *h = &t->held[at];

		vdpa_vq_push(t->device, &h->chain, rnd(t, h->chain.in_len + 1));
		t->n_held--;
		memmove(h, h + 1, (t->n_held - at) * sizeof(*h));
		for (; at < t->n_held; at++)
			t->held[at].chain.iov = t->held[at].iov;
	}
	device_flush(t);
}

static void
a_guest_that_rewrites_its_rings_harms_itself_alone(void **state)
{
	const unsigned int steps = is_long() ? STEPS_L : STEPS;
	struct shadow_test *t = *state;
	struct scribbler s = {.t = t, .quiet = true};
	uint64_t seed = first_seed(), ends = 0, passed = 0;
	unsigned int in_flight, alive = 0;
	pthread_t thread;

	t->seed = s.seed = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
	assert_int_equal(pthread_create(&thread, NULL, rewrite_the_rings, &s), 0);
	for (unsigned int i = 0; i < steps; i++) {
		if (t->s == NULL) {
			uint64_t guest = format(rnd(t, FORMATS));

			__atomic_store_n(&s.quiet, true, __ATOMIC_RELAXED);
			guest_track(t, rnd(t, 2) == 0);
			guest_begin(t, guest, guest & PACKED ? NUM - 3 : NUM);
			shadow_begin(t, format(rnd(t, FORMATS)) | INDIRECT, NUM);
			t->log_on = rnd(t, 2) == 0;
			alive = 0;
		}
		__atomic_store_n(&s.quiet, false, __ATOMIC_RELAXED);
		add_some(t);
		/* The thread may have no CPU for a while. */
		if (rnd(t, 8) == 0)
			scribble_guest(t, &t->seed);
		if (rnd(t, 32) == 0)
			usleep(rnd(t, 10));
		passed += pop_checked(t);
		use_some(t);
		/* The driver is as lost as its ring; what it has back goes round. */
		for (unsigned int n = 0; n < 8; n++) {
			uint32_t len;
			uint16_t id;

			if (vdpa_vring_take(t->driver, &id, &len) <= 0)
				break;
		}
		if (failures(t) == 0 && ++alive < 200)
			continue;
		ends += failures(t);
		/* Its end is orderly whatever the rings are. */
		(void)shadow_end(t, &in_flight);
		assert_in_range(in_flight, 0, NUM);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	t->log_on = false;
	printf("FIGURE: %u steps of a guest that rewrites its rings, seed %llu: %llu shadows "
	       "ended by it, %llu chains passed\n",
	       steps, (unsigned long long)seed, (unsigned long long)ends,
	       (unsigned long long)passed);
	assert_true(ends > steps / 1000 && passed > steps / 10);
}

/* A device that writes what it likes. */

/* The next used entries, as a device writes them, with ids and lengths of no sense, or of some. */
static void
use_anything(struct shadow_test *t, uint64_t *seed)
{
	if (t->device_features & PACKED) {
		struct vring_packed_desc *desc = (void *)t->own_va;
		uint32_t at = rnd_of(seed, t->device_num);
		uint16_t both = 1u << VRING_PACKED_DESC_F_AVAIL | 1u << VRING_PACKED_DESC_F_USED;

		desc[at].id = (uint16_t)rnd_of(seed, t->device_num + 1);
		desc[at].len = rnd_of(seed, 100);
		__atomic_store_n(&desc[at].flags, rnd_of(seed, 2) == 0 ? both : 0,
				 __ATOMIC_RELEASE);
	} else {
		struct vring_used *used = (void *)(t->own_va + 2 * RING_OFFSETS);
		uint16_t idx = used->idx;

		used->ring[idx & (t->device_num - 1)] = (struct vring_used_elem){
			.id = rnd_of(seed, t->device_num + 1), .len = rnd_of(seed, 100)};
		__atomic_store_n(&used->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
	}
	vdpa_eventfd_signal(vdpa_mover_call_fd(t->s));
}

static void
scribble_ours(struct shadow_test *t, uint64_t *seed)
{
	static const struct {
		uint64_t at, size;
	} parts[] = {
		{0, 16 * NUM},
		{RING_OFFSETS, 8 + 2 * NUM},
		{2 * RING_OFFSETS, 8 + 8 * NUM},
		{OWN_TABLES, 16 * 256},
	};
	uint32_t part = rnd_of(seed, RTE_DIM(parts));

	scribble(seed, t->own_va + parts[part].at, parts[part].size);
	vdpa_eventfd_signal(vdpa_mover_call_fd(t->s));
}

/* What the guest gets back of a device that lies: a chain that it has there, once; the driver's
 * side sees to that, and to its length. */
static void
take_what_there_is(struct shadow_test *t)
{
	uint32_t len;
	uint16_t id;
	int rc;

	while ((rc = vdpa_vring_take(t->driver, &id, &len)) > 0) {
		struct chain *c = &t->chains[t->slot_of[id]];

		assert_true(c->busy);
		assert_in_range(len, 0, c->in_len);
		c->busy = false;
		t->busy--;
	}
	if (rc < 0)
		fail_msg("the guest: %s", vdpa_vring_error(t->driver));
}

static void
a_device_that_writes_anything_harms_no_guest(void **state)
{
	const unsigned int steps = is_long() ? STEPS_L : STEPS;
	struct shadow_test *t = *state;
	uint64_t seed = first_seed(), ends = 0, lost_places = 0, lives = 0;
	unsigned int in_flight, alive = 0;

	t->seed = (seed + 2) * UINT64_C(0x9e3779b97f4a7c15);
	for (unsigned int i = 0; i < steps; i++) {
		if (t->s == NULL) {
			uint64_t guest = format(rnd(t, FORMATS));
			uint64_t device = format(rnd(t, FORMATS)) | INDIRECT;

			t->zeroes = false;
			guest_track(t, rnd(t, 2) == 0);
			guest_begin(t, guest, guest & PACKED ? NUM - 3 : NUM);
			shadow_begin(t, device, device & PACKED ? NUM - 5 : NUM);
			alive = 0;
		}
		for (unsigned int n = rnd(t, 3); n > 0; n--) {
			unsigned int segs = 1 + rnd(t, 5);

			(void)guest_add(t, segs, rnd(t, segs + 1), 60);
		}
		vdpa_vring_publish(t->driver);
		vdpa_eventfd_signal(t->kick_fd);
		if (rnd(t, 2) == 0)
			use_anything(t, &t->seed);
		if (rnd(t, 8) == 0)
			scribble_ours(t, &t->seed);
		if (rnd(t, 16) == 0)
			usleep(rnd(t, 4));
		take_what_there_is(t);
		if (failures(t) == 0 && ++alive < 100)
			continue;
		ends += failures(t);
		lives++;
		if (failures(t) > 0)
			assert_true(strncmp(t->why, "the device broke its ring: ", 27) == 0);
		if (shadow_end(t, &in_flight) < 0) {
			lost_places++;
			continue;
		}
		/* An honest device has all that is left. */
		take_what_there_is(t);
		for (unsigned int slot = 0; slot < NUM_MAX; slot++)
			t->chains[slot].done = t->chains[slot].at_device = false;
		t->guest_awake = true;
		shadow_begin(t, format(rnd(t, FORMATS)) | INDIRECT, NUM);
		settle(t);
		assert_int_equal(shadow_end(t, &in_flight), 0);
	}
	printf("FIGURE: %u steps of a device that writes anything, seed %llu: %llu shadows, %llu "
	       "ended by it, of %llu no place was known\n",
	       steps, (unsigned long long)seed, (unsigned long long)lives, (unsigned long long)ends,
	       (unsigned long long)lost_places);
	assert_true(ends > lives / 10 && lost_places < lives);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(our_memory_has_no_name),
		T(a_table_in_our_memory_is_not_read),
		T(a_guest_that_rewrites_its_rings_harms_itself_alone),
		T(a_device_that_writes_anything_harms_no_guest),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
