/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The relay of used buffers between a guest and a device that break every rule: a guest that
 * rewrites its rings, descriptors and indirect tables while they are relayed, a device that writes
 * what it likes to the rings that it was given, and both, as a guest can have the device write
 * there by naming our memory. What must hold: the device is given each head at most once until it
 * has used it, and no other number; the guest gets back what it gave, each once, with no more bytes
 * than its buffers have; nothing outside of the rings and the log is read or written; and whatever
 * breaks, the next relay works.
 *
 * UVDPA_TEST_LONG=1: a million steps each; UVDPA_TEST_SEED: another run.
 */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_bitops.h>
#include <rte_common.h>
#include <rte_lcore.h>
#include <rte_pause.h>

#include "control_group.h"
#include "relay.h"
#include "vdpa_event.h"
#include "vdpa_memory.h"

#define STEPS	8000
#define STEPS_L 1000000
#define NUM	32u
/* The guest's memory, and in it its rings, tables and buffers. */
#define IOVA	UINT64_C(0x100000)
#define SIZE	0x100000u
#define DESC	0x0u
#define AVAIL	0x1000u
#define USED	0x2000u
#define TABLES	0x3000u
#define BUFS	0x10000u
#define BUF	0x4000u /* bytes of a head's own */
#define TABLE_N 8u
/* What the device's IOMMU has of ours. */
#define OURS	UINT64_C(0xfffffffff000)
#define PAGES	((IOVA + SIZE) >> VDPA_DIRTY_PAGE_SHIFT)

struct relay_test {
	struct vdpa_event_loop *loop;
	uint8_t *mem;
	int kick_fd, call_fd;
	struct vdpa_iotlb *tlb;
	struct vdpa_mover *r;
	struct vring_desc *desc;
	struct vring_avail *avail, *dev_avail; /* the guest's; the device's, of exact size */
	struct vring_used *used, *dev_used;
	uint64_t features;
	uint16_t place;
	unsigned int failures;
	char why[256];
	struct vdpa_dirty_log log;
	uint64_t past;
	uint64_t seed;

	/* The device: how far it has looked, and the heads that it has, oldest first. */
	uint16_t taken;
	uint16_t held[NUM];
	unsigned int n_held;
	bool has[NUM];
	/* The guest: how far it has looked, what it has given of each head. */
	uint16_t seen;
	bool given[NUM];
	uint32_t bytes[NUM];
};

static uint32_t
rnd_of(uint64_t *seed, uint32_t below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (uint32_t)((*seed >> 32) % below);
}

static uint32_t
rnd(struct relay_test *t, uint32_t below)
{
	return rnd_of(&t->seed, below);
}

static unsigned int
steps(void)
{
	const char *more = getenv("UVDPA_TEST_LONG");

	return more != NULL && more[0] != '\0' && strcmp(more, "0") != 0 ? STEPS_L : STEPS;
}

static uint64_t
first_seed(void)
{
	const char *seed = getenv("UVDPA_TEST_SEED");

	return seed != NULL ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
}

static void
kick(void *arg)
{
}

static void
failed(void *arg, int err, const char *why)
{
	struct relay_test *t = arg;

	snprintf(t->why, sizeof(t->why), "%s", why);
	__atomic_add_fetch(&t->failures, 1, __ATOMIC_RELEASE);
}

static const struct vdpa_mover_ops ops = {.kick = kick, .failed = failed};

static unsigned int
failures(struct relay_test *t)
{
	return __atomic_load_n(&t->failures, __ATOMIC_ACQUIRE);
}

static int
set_up(void **state)
{
	struct vdpa_event_loop_params params = {.name = "test", .lcore_id = LCORE_ID_ANY};
	struct vdpa_mem_region_spec spec = {.iova = IOVA, .uaddr = IOVA, .size = SIZE};
	struct relay_test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	assert_int_equal(vdpa_event_loop_create(&params, &t->loop), 0);
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, SIZE), 0);
	t->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, spec.fd, 0);
	assert_ptr_not_equal(t->mem, MAP_FAILED);
	assert_int_equal(vdpa_iotlb_add(NULL, &spec, &t->tlb), 0);
	close(spec.fd);
	t->kick_fd = eventfd(0, EFD_NONBLOCK);
	t->call_fd = eventfd(0, EFD_NONBLOCK);
	t->dev_avail = calloc(1, 6 + 2 * NUM);
	t->dev_used = calloc(1, 6 + 8 * NUM);
	t->desc = (void *)(t->mem + DESC);
	t->avail = (void *)(t->mem + AVAIL);
	t->used = (void *)(t->mem + USED);
	/* Of exact size, too. */
	t->log = (struct vdpa_dirty_log){
		.bitmap = calloc(1, PAGES / 8), .size = PAGES / 8, .fd = -1, .past = &t->past};
	*state = t;
	return 0;
}

static void
end(struct relay_test *t)
{
	vdpa_mover_end(t->r);
	vdpa_mover_free(t->r);
	t->r = NULL;
}

static int
tear_down(void **state)
{
	struct relay_test *t = *state;

	if (t->r != NULL)
		end(t);
	vdpa_iotlb_put(t->tlb);
	vdpa_event_loop_destroy(t->loop);
	munmap(t->mem, SIZE);
	close(t->kick_fd);
	close(t->call_fd);
	free(t->dev_avail);
	free(t->dev_used);
	free(t->log.bitmap);
	free(t);
	return 0;
}

/* A guest whose ring is in order begins, and a device, both at a place anywhere. */
static void
begin(struct relay_test *t)
{
	struct vdpa_mover_params params;

	memset(t->mem, 0, BUFS);
	memset(t->dev_avail, 0, 6 + 2 * NUM);
	memset(t->dev_used, 0, 6 + 8 * NUM);
	memset(t->has, 0, sizeof(t->has));
	memset(t->given, 0, sizeof(t->given));
	t->n_held = 0;
	t->place = (uint16_t)rnd(t, 65536);
	t->taken = t->seen = t->avail->idx = t->used->idx = t->place;
	t->features = rnd(t, 2) == 0 ? RTE_BIT64(VIRTIO_RING_F_EVENT_IDX) : 0;
	t->features |= rnd(t, 2) == 0 ? RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC) : 0;
	params = (struct vdpa_mover_params){
		.loop = t->loop,
		.guest = {.features = t->features,
			  .num = NUM,
			  .desc = IOVA + DESC,
			  .driver = IOVA + AVAIL,
			  .device = IOVA + USED,
			  .state.split.avail_index = t->place},
		.tlb = t->tlb,
		.kick_fd = t->kick_fd,
		.call_fd = t->call_fd,
		.ring = {.driver = t->dev_avail, .device = t->dev_used},
		.lengths_tell = rnd(t, 2) == 0,
		.ops = &ops,
		.arg = t,
	};
	__atomic_store_n(&t->failures, 0, __ATOMIC_RELAXED);
	assert_int_equal(vdpa_relay_create(&params, &t->r), 0);
	if (rnd(t, 2) == 0)
		vdpa_mover_set_log(t->r, &t->log, IOVA + USED);
	assert_int_equal(vdpa_mover_run(t->r), 0);
}

static uint16_t
get(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static void
put_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	__atomic_store_n(&d->addr, addr, __ATOMIC_RELAXED);
	__atomic_store_n(&d->len, len, __ATOMIC_RELAXED);
	__atomic_store_n(&d->flags, flags, __ATOMIC_RELAXED);
	__atomic_store_n(&d->next, next, __ATOMIC_RELAXED);
}

/* Give the device a head, of one buffer or of a table of them: what it may write. */
static void
give(struct relay_test *t, uint16_t head)
{
	uint64_t iova = IOVA + BUFS + (uint64_t)head % 16 * BUF;
	uint16_t idx = get(&t->avail->idx);
	uint32_t len = 1 + rnd(t, BUF), n;
	struct vring_desc *table;

	if ((t->features & RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC)) != 0 && rnd(t, 2) == 0) {
		uint32_t at = TABLES + head * TABLE_N * (uint32_t)sizeof(*table);

		n = 1 + rnd(t, TABLE_N);
		table = (void *)(t->mem + at);
		len = 0;
		for (uint32_t i = 0; i < n; i++) {
			uint32_t part = 1 + rnd(t, BUF / TABLE_N);

			put_desc(&table[i], iova + len, part,
				 VRING_DESC_F_WRITE | (i + 1 < n ? VRING_DESC_F_NEXT : 0),
				 (uint16_t)(i + 1));
			len += part;
		}
		put_desc(&t->desc[head], IOVA + at, n * (uint32_t)sizeof(*table),
			 VRING_DESC_F_INDIRECT, 0);
	} else {
		put_desc(&t->desc[head], iova, len, VRING_DESC_F_WRITE, 0);
	}
	t->given[head] = true;
	t->bytes[head] = len;
	__atomic_store_n(&t->avail->ring[idx % NUM], head, __ATOMIC_RELAXED);
	__atomic_store_n(&t->avail->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
}

static void
give_some(struct relay_test *t)
{
	for (unsigned int n = rnd(t, 4); n > 0; n--) {
		uint16_t head = (uint16_t)rnd(t, NUM);

		if (!t->given[head])
			give(t, head);
	}
	vdpa_eventfd_signal(t->kick_fd);
}

/* Whatever the guest does: each is a head, which the device does not have. */
static unsigned int
take_checked(struct relay_test *t)
{
	uint16_t idx = get(&t->dev_avail->idx);
	unsigned int n = (uint16_t)(idx - t->taken);

	assert_in_range(n, 0, NUM - t->n_held);
	for (; t->taken != idx; t->taken++) {
		uint16_t head = get(&t->dev_avail->ring[t->taken % NUM]);

		assert_in_range(head, 0, NUM - 1);
		assert_false(t->has[head]);
		t->has[head] = true;
		t->held[t->n_held++] = head;
	}
	return n;
}

/* An honest device uses some, of which it knows what the guest's descriptors say by now. */
static void
use_some(struct relay_test *t, bool lens)
{
	uint16_t idx = t->dev_used->idx;

	for (unsigned int n = rnd(t, 6); n > 0 && t->n_held > 0; n--) {
		unsigned int at = rnd(t, t->n_held);
		uint16_t head = t->held[at];

		t->dev_used->ring[idx % NUM] = (struct vring_used_elem){
			.id = head, .len = lens ? rnd(t, t->bytes[head] + 1) : 0};
		t->has[head] = false;
		t->held[at] = t->held[--t->n_held];
		idx++;
	}
	__atomic_store_n(&t->dev_used->idx, idx, __ATOMIC_RELEASE);
	vdpa_eventfd_signal(vdpa_mover_call_fd(t->r));
}

/* Whatever the device does: each is a head that the guest has given, with what its buffers hold. */
static unsigned int
reap_checked(struct relay_test *t)
{
	uint16_t idx = get(&t->used->idx);
	unsigned int n = (uint16_t)(idx - t->seen);

	assert_in_range(n, 0, NUM);
	for (; t->seen != idx; t->seen++) {
		const struct vring_used_elem *e = &t->used->ring[t->seen % NUM];

		assert_in_range(e->id, 0, NUM - 1);
		assert_true(t->given[e->id]);
		assert_in_range(e->len, 0, t->bytes[e->id]);
		t->given[e->id] = false;
	}
	return n;
}

/* With an honest guest and device all comes back. */
static void
works(struct relay_test *t)
{
	uint64_t until;
	struct timespec ts;
	unsigned int given = 0, back = 0;

	begin(t);
	for (unsigned int i = 0; i < 20; i++)
		for (uint16_t head = 0; head < NUM; head++)
			if (!t->given[head] && rnd(t, 2) == 0 && given < 10 * NUM) {
				give(t, head);
				given++;
			} else {
				vdpa_eventfd_signal(t->kick_fd);
				take_checked(t);
				use_some(t, true);
				back += reap_checked(t);
			}
	clock_gettime(CLOCK_MONOTONIC, &ts);
	until = (uint64_t)ts.tv_sec + 20;
	while (back < given && (uint64_t)ts.tv_sec < until) {
		vdpa_eventfd_signal(t->kick_fd);
		take_checked(t);
		use_some(t, true);
		back += reap_checked(t);
		clock_gettime(CLOCK_MONOTONIC, &ts);
	}
	assert_int_equal(back, given);
	assert_int_equal(failures(t), 0);
	end(t);
}

/* A word that may mean something in a ring or a descriptor. */
static uint64_t
any_word(uint64_t *seed)
{
	static const uint64_t addresses[] = {OURS,	    OURS + 0x40,     IOVA + TABLES,
					     IOVA + USED,   IOVA + SIZE - 1, IOVA,
					     UINT64_MAX - 7};
	uint64_t random = (uint64_t)rnd_of(seed, UINT32_MAX) << 32 | rnd_of(seed, UINT32_MAX);

	switch (rnd_of(seed, 3)) {
	case 0:
		return random;
	case 1:
		return addresses[rnd_of(seed, RTE_DIM(addresses))] + rnd_of(seed, 64);
	default: /* length, flags and next */
		return rnd_of(seed, 200) | (uint64_t)rnd_of(seed, 8) << 32 |
		       (uint64_t)rnd_of(seed, NUM + 1) << 48;
	}
}

/* size: a multiple of 2, of an area aligned to 2. */
static void
scribble(uint64_t *seed, uint8_t *area, uint32_t size)
{
	uint16_t *p = (uint16_t *)(void *)area + rnd_of(seed, size / 2);
	uint64_t word = any_word(seed);

	switch (rnd_of(seed, 3)) {
	case 0:
		for (unsigned int i = 0; i < 4 && (uint8_t *)(p + i) < area + size; i++)
			__atomic_store_n(p + i, (uint16_t)(word >> 16 * i), __ATOMIC_RELAXED);
		break;
	case 1:
		__atomic_fetch_xor(p, (uint16_t)(1u << rnd_of(seed, 16)), __ATOMIC_RELAXED);
		break;
	default: /* an index that moves */
		__atomic_fetch_add(p, 1, __ATOMIC_RELAXED);
	}
}

static void
scribble_guest(struct relay_test *t, uint64_t *seed)
{
	static const struct {
		uint32_t at, size;
	} parts[] = {
		{DESC, 16 * NUM},
		{AVAIL, 6 + 2 * NUM},
		{USED, 6 + 8 * NUM},
		{TABLES, 16 * TABLE_N * NUM},
	};
	uint32_t part = rnd_of(seed, RTE_DIM(parts));

	scribble(seed, t->mem + parts[part].at, parts[part].size);
}

struct scribbler {
	struct relay_test *t;
	uint64_t seed;
	bool stop, quiet; /* atomic */
};

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

static void
a_guest_that_rewrites_its_rings_harms_itself_alone(void **state)
{
	struct relay_test *t = *state;
	struct scribbler s = {.t = t, .quiet = true};
	uint64_t seed = first_seed(), ends = 0, passed = 0;
	unsigned int alive = 0;
	pthread_t thread;

	t->seed = s.seed = (seed + 1) * UINT64_C(0x9e3779b97f4a7c15);
	assert_int_equal(pthread_create(&thread, NULL, rewrite_the_rings, &s), 0);
	for (unsigned int i = 0; i < steps(); i++) {
		if (t->r == NULL) {
			__atomic_store_n(&s.quiet, true, __ATOMIC_RELAXED);
			begin(t);
			alive = 0;
		}
		__atomic_store_n(&s.quiet, false, __ATOMIC_RELAXED);
		/* What it has given it forgets, as its used ring says nothing that is true. */
		memset(t->given, 0, sizeof(t->given));
		give_some(t);
		if (rnd(t, 8) == 0)
			scribble_guest(t, &t->seed);
		if (rnd(t, 32) == 0)
			usleep(rnd(t, 10));
		passed += take_checked(t);
		use_some(t, rnd(t, 2) == 0);
		if (failures(t) == 0 && ++alive < 200)
			continue;
		ends += failures(t);
		end(t);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	if (t->r != NULL)
		end(t);
	works(t);
	printf("FIGURE: %u steps of a guest that rewrites its rings, seed %llu: %llu relays ended "
	       "by it, %llu chains passed\n",
	       steps(), (unsigned long long)seed, (unsigned long long)ends,
	       (unsigned long long)passed);
	assert_true(ends > steps() / 1000 && passed > steps() / 10);
}

/* The next used entry, with an id and a length of no sense, or of some. */
static void
use_anything(struct relay_test *t)
{
	uint16_t idx = t->dev_used->idx;
	uint32_t id = rnd(t, NUM + 1);

	for (unsigned int i = 0; rnd(t, 16) != 0 && i < NUM && !t->given[id % NUM]; i++)
		id = (id + 1) % NUM;
	t->dev_used->ring[idx % NUM] = (struct vring_used_elem){.id = id, .len = rnd(t, 100)};
	__atomic_store_n(&t->dev_used->idx, (uint16_t)(idx + 1), __ATOMIC_RELEASE);
	vdpa_eventfd_signal(vdpa_mover_call_fd(t->r));
}

static void
scribble_ours(struct relay_test *t)
{
	if (rnd(t, 2) == 0)
		scribble(&t->seed, (uint8_t *)t->dev_avail, 6 + 2 * NUM);
	else
		scribble(&t->seed, (uint8_t *)t->dev_used, 6 + 8 * NUM);
	vdpa_eventfd_signal(vdpa_mover_call_fd(t->r));
}

static void
a_device_that_writes_anything_harms_no_guest(void **state)
{
	struct relay_test *t = *state;
	uint64_t seed = first_seed(), ends = 0, lives = 0, passed = 0;
	unsigned int alive = 0;

	t->seed = (seed + 2) * UINT64_C(0x9e3779b97f4a7c15);
	for (unsigned int i = 0; i < steps(); i++) {
		if (t->r == NULL) {
			begin(t);
			alive = 0;
		}
		give_some(t);
		if (rnd(t, 2) == 0)
			use_anything(t);
		if (rnd(t, 8) == 0)
			scribble_ours(t);
		if (rnd(t, 16) == 0)
			usleep(rnd(t, 4));
		passed += reap_checked(t);
		if (failures(t) == 0 && ++alive < 100)
			continue;
		ends += failures(t);
		lives++;
		if (failures(t) > 0 && strncmp(t->why, "the device broke its ring: ", 27) != 0)
			fail_msg("the guest is blamed: %s", t->why);
		end(t);
		/* What it had used by then. */
		passed += reap_checked(t);
	}
	if (t->r != NULL)
		end(t);
	works(t);
	printf("FIGURE: %u steps of a device that writes anything, seed %llu: %llu relays, %llu "
	       "ended by it, %llu chains passed\n",
	       steps(), (unsigned long long)seed, (unsigned long long)lives,
	       (unsigned long long)ends, (unsigned long long)passed);
	assert_true(ends > lives / 10 && passed > 0);
}

/* A guest that names our memory has its device write there. */
static void
both_at_once_reach_nothing_else(void **state)
{
	struct relay_test *t = *state;
	struct scribbler s = {.t = t, .quiet = true};
	uint64_t seed = first_seed(), ends = 0;
	unsigned int alive = 0;
	pthread_t thread;

	t->seed = s.seed = (seed + 3) * UINT64_C(0x9e3779b97f4a7c15);
	assert_int_equal(pthread_create(&thread, NULL, rewrite_the_rings, &s), 0);
	for (unsigned int i = 0; i < steps(); i++) {
		if (t->r == NULL) {
			__atomic_store_n(&s.quiet, true, __ATOMIC_RELAXED);
			begin(t);
			alive = 0;
		}
		__atomic_store_n(&s.quiet, false, __ATOMIC_RELAXED);
		memset(t->given, 0, sizeof(t->given));
		give_some(t);
		use_anything(t);
		scribble_ours(t);
		if (rnd(t, 8) == 0)
			vdpa_mover_set_log(t->r, rnd(t, 2) == 0 ? &t->log : NULL, IOVA + USED);
		if (failures(t) == 0 && ++alive < 200)
			continue;
		ends += failures(t);
		end(t);
	}
	__atomic_store_n(&s.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	if (t->r != NULL)
		end(t);
	works(t);
	printf("FIGURE: %u steps of both, seed %llu: %llu relays ended by it\n", steps(),
	       (unsigned long long)seed, (unsigned long long)ends);
	assert_true(ends > steps() / 1000);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(a_guest_that_rewrites_its_rings_harms_itself_alone),
		TEST(a_device_that_writes_anything_harms_no_guest),
		TEST(both_at_once_reach_nothing_else),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
