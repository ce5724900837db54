/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A shadow virtqueue between a guest and a device that the test plays: the guest's driver is a
 * vring, the device a virtqueue on the shadow's ring, whose table has the guest's memory and the
 * shadow's own. Include it after cmocka.h.
 *
 * The guest's memory is two regions of different files, one after the other, and one mapping for
 * the test. A chain has its buffers in a slot, so that a device knows the chain by an address; a
 * slot lies across both regions.
 */
#ifndef SHADOW_TEST_H
#define SHADOW_TEST_H

#include <errno.h>
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
#include <rte_cycles.h>
#include <rte_lcore.h>

#include "control_group.h"
#include "shadow.h"
#include "test_util.h"
#include "vdpa_event.h"
#include "vdpa_memory.h"
#include "vdpa_vring.h"

#define PACKED	  RTE_BIT64(VIRTIO_F_RING_PACKED)
#define EVENT_IDX RTE_BIT64(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC)
#define IN_ORDER  RTE_BIT64(VIRTIO_F_IN_ORDER)

#define GUEST_IOVA   UINT64_C(0x100000)
#define LOW_SIZE     UINT64_C(0x180000)
#define HIGH_SIZE    UINT64_C(0x900000)
#define GUEST_SIZE   (LOW_SIZE + HIGH_SIZE)
#define RING_IOVA    GUEST_IOVA
#define TABLES_IOVA  (GUEST_IOVA + 0x20000)
#define TABLES	     4096u
#define SLOTS_IOVA   (GUEST_IOVA + 0x101230)
#define SLOT_SIZE    UINT64_C(0x8000)
#define NUM_MAX	     256u
#define FORMATS	     16u /* of one side */
#define SEGS_MAX     300u
#define EXTRA_IOVA   UINT64_C(0x40000000)
#define EXTRA_SIZE   UINT64_C(0x10000)
#define OWN_IOVA     UINT64_C(0x7ff000000000)
#define OWN_SIZE     UINT64_C(0x60000)
#define OWN_TABLES   UINT64_C(0x20000)
#define PATIENCE_MS  10000u
#define PAGES	     ((GUEST_IOVA + GUEST_SIZE) >> VDPA_DIRTY_PAGE_SHIFT)
#define RING_OFFSETS UINT64_C(0x8000) /* between the parts of a ring */

/* A chain of the guest's, by its slot. */
struct chain {
	bool busy;
	bool at_device; /* popped by this life of the device */
	bool done;	/* pushed by the device */
	unsigned int n;
	struct vdpa_vring_seg segs[SEGS_MAX];
	uint32_t out_len, in_len, written;
	uint32_t cookie;
	uint64_t order;	   /* of its publication */
	uint64_t epoch;	   /* of the log when it was written; 0: no log */
	uint64_t harvests; /* that there had been by then */
};

struct held {
	struct vdpa_vq_chain chain;
	struct iovec iov[SEGS_MAX + 8];
	unsigned int slot;
};

struct shadow_test {
	uint64_t seed, device_seed; /* the device may have a thread of its own */
	struct vdpa_event_loop *loop;

	/* Memory. */
	int low_fd, high_fd, extra_fd, own_fd;
	uint8_t *guest_va, *own_va;
	struct vdpa_iotlb *tlb, *tlb_more; /* the guest's; with one region more */
	struct vdpa_iotlb *device_tlb;
	bool more;

	/* The guest. */
	uint64_t guest_features;
	uint32_t guest_num;
	struct vdpa_vring *driver;
	int kick_fd, call_fd;
	bool guest_awake;
	struct chain chains[NUM_MAX];
	unsigned int slot_of[NUM_MAX]; /* by the driver's id */
	unsigned int busy;
	uint32_t cookie;
	uint64_t published, taken;
	uint64_t youngest_done; /* of what the device has used, the latest published */
	bool zeroes;		/* some descriptors are of no bytes */

	/* The shadow. */
	struct vdpa_mover *s;
	struct vdpa_vq_state place;
	void *area; /* of requests in flight; NULL: none */
	bool lengths_tell;
	unsigned int failures; /* atomic */
	int err;
	char why[256];

	/* The device. */
	uint64_t device_features;
	uint32_t device_num;
	struct vdpa_vring_params ring;
	struct vdpa_virtqueue *device;
	unsigned int kicked; /* atomic */
	bool device_awake;
	bool device_stops;  /* its thread; atomic */
	unsigned int rests; /* calls of at_beginning(); atomic */
	struct held held[NUM_MAX];
	unsigned int n_held;

	/* The log. */
	struct vdpa_dirty_log log;
	uint8_t bitmap[PAGES / 8 + 1];
	uint64_t collected[PAGES]; /* the number of the harvest that had a page last */
	uint64_t harvests, epoch;
	bool log_on;
};

static inline uint32_t
rnd_of(uint64_t *seed, uint32_t below)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (uint32_t)((*seed >> 11) % below);
}

static inline uint32_t
rnd(struct shadow_test *t, uint32_t below)
{
	return rnd_of(&t->seed, below);
}

static inline uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void *
guest_va(struct shadow_test *t, uint64_t iova)
{
	assert_true(iova - GUEST_IOVA < GUEST_SIZE);
	return t->guest_va + (iova - GUEST_IOVA);
}

static inline void
initial(bool packed, struct vdpa_vq_state *state)
{
	memset(state, 0, sizeof(*state));
	if (packed)
		state->packed.last_avail_counter = state->packed.last_used_counter = 1;
}

static inline uint64_t
format(unsigned int i)
{
	return (i & 1 ? PACKED : 0) | (i & 2 ? INDIRECT : 0) | (i & 4 ? EVENT_IDX : 0) |
	       (i & 8 ? IN_ORDER : 0);
}

/* Buffers of a chain that passes both rings: one more where it lies across two regions. */
static inline unsigned int
longest(uint64_t features, uint32_t num)
{
	return features & INDIRECT ? SEGS_MAX : RTE_MIN(num, SEGS_MAX);
}

/* Memory. */

static inline int
make_file(uint64_t size)
{
	int fd = memfd_create("shadow_test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static inline void
map_at(void *at, int fd, uint64_t size)
{
	assert_ptr_equal(mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0), at);
}

static inline void
make_memory(struct shadow_test *t)
{
	struct vdpa_mem_region_spec specs[] = {
		{.iova = GUEST_IOVA, .uaddr = GUEST_IOVA, .size = LOW_SIZE},
		{.iova = GUEST_IOVA + LOW_SIZE, .uaddr = GUEST_IOVA + LOW_SIZE, .size = HIGH_SIZE},
		{.iova = EXTRA_IOVA, .uaddr = EXTRA_IOVA, .size = EXTRA_SIZE},
		{.iova = OWN_IOVA, .uaddr = OWN_IOVA, .size = OWN_SIZE},
	};

	specs[0].fd = t->low_fd = make_file(LOW_SIZE);
	specs[1].fd = t->high_fd = make_file(HIGH_SIZE);
	specs[2].fd = t->extra_fd = make_file(EXTRA_SIZE);
	specs[3].fd = t->own_fd = make_file(OWN_SIZE);
	t->guest_va = mmap(NULL, GUEST_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(t->guest_va, MAP_FAILED);
	map_at(t->guest_va, t->low_fd, LOW_SIZE);
	map_at(t->guest_va + LOW_SIZE, t->high_fd, HIGH_SIZE);
	t->own_va = mmap(NULL, OWN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, t->own_fd, 0);
	assert_ptr_not_equal(t->own_va, MAP_FAILED);
	assert_int_equal(vdpa_iotlb_create(NULL, specs, 2, &t->tlb), 0);
	assert_int_equal(vdpa_iotlb_create(t->tlb, specs, 3, &t->tlb_more), 0);
	specs[2] = specs[3];
	assert_int_equal(vdpa_iotlb_create(t->tlb, specs, 3, &t->device_tlb), 0);
}

static inline void
drop_memory(struct shadow_test *t)
{
	vdpa_iotlb_put(t->tlb);
	vdpa_iotlb_put(t->tlb_more);
	vdpa_iotlb_put(t->device_tlb);
	munmap(t->guest_va, GUEST_SIZE);
	munmap(t->own_va, OWN_SIZE);
	close(t->low_fd);
	close(t->high_fd);
	close(t->extra_fd);
	close(t->own_fd);
}

/* Cycles of a second, which are measured where EAL does not. */
uint64_t
rte_get_tsc_hz(void)
{
	static uint64_t hz;

	if (hz == 0) {
		uint64_t since = rte_rdtsc(), ms = now_ms();

		while (now_ms() < ms + 5)
			;
		hz = (rte_rdtsc() - since) * 200;
	}
	return hz;
}

/* A loop that polls so long before it sleeps, instead of the one that there is. */
static inline void
loop_begin(struct shadow_test *t, unsigned int poll_us)
{
	const struct vdpa_event_loop_params params = {
		.name = "shadow", .lcore_id = LCORE_ID_ANY, .poll_us = poll_us};

	if (t->loop != NULL)
		vdpa_event_loop_destroy(t->loop);
	assert_int_equal(vdpa_event_loop_create(&params, &t->loop), 0);
}

static inline int
shadow_setup(void **state)
{
	struct shadow_test *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	t->seed = t->device_seed = 0x9e3779b97f4a7c15;
	make_memory(t);
	t->driver = vdpa_vring_alloc();
	t->device = vdpa_vq_alloc(-1);
	t->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	t->log = (struct vdpa_dirty_log){.bitmap = t->bitmap, .size = sizeof(t->bitmap), .fd = -1};
	loop_begin(t, 20);
	*state = t;
	return 0;
}

static inline int
shadow_teardown(void **state)
{
	struct shadow_test *t = *state;
	struct vdpa_vq_state place;
	unsigned int n;

	if (t->s != NULL) {
		(void)vdpa_shadow_end(t->s, &place, &n);
		vdpa_mover_free(t->s);
	}
	vdpa_event_loop_destroy(t->loop);
	vdpa_vring_free(t->driver);
	vdpa_vq_free(t->device);
	close(t->kick_fd);
	close(t->call_fd);
	free(t->area);
	drop_memory(t);
	free(t);
	return 0;
}

/* The guest. */

/* A driver begins, as if it had come to that place. */
static inline void
guest_begin_at(struct shadow_test *t, uint64_t features, uint32_t num,
	       const struct vdpa_vq_state *place)
{
	struct vdpa_vring_params params = {
		.features = features,
		.num = num,
		.desc = guest_va(t, RING_IOVA),
		.driver = guest_va(t, RING_IOVA + RING_OFFSETS),
		.device = guest_va(t, RING_IOVA + 2 * RING_OFFSETS),
		.tables = guest_va(t, TABLES_IOVA),
		.tables_iova = TABLES_IOVA,
		.tables_entries = TABLES,
	};

	t->guest_features = features;
	t->guest_num = num;
	t->place = params.place = *place;
	assert_int_equal(vdpa_vring_setup(t->driver, &params), 0);
	for (unsigned int i = 0; i < NUM_MAX; i++)
		t->chains[i].busy = false;
	t->busy = 0;
	t->published = t->taken = t->youngest_done = 0;
	t->guest_awake = true;
	if (t->area != NULL)
		memset(t->area, 0, vdpa_vq_inflight_size(features & PACKED, num));
}

/* A driver begins anew. */
static inline void
guest_begin(struct shadow_test *t, uint64_t features, uint32_t num)
{
	struct vdpa_vq_state place;

	initial(features & PACKED, &place);
	guest_begin_at(t, features, num, &place);
}

/* Requests are tracked from the next begin on, or not. */
static inline void
guest_track(struct shadow_test *t, bool tracked)
{
	free(t->area);
	t->area = tracked ? calloc(1, vdpa_vq_inflight_size(true, NUM_MAX)) : NULL;
}

static inline uint8_t
pattern(uint32_t cookie, uint64_t pos)
{
	return (uint8_t)(cookie * 31 + pos * 7 + (pos >> 8));
}

/* Bytes of a chain's readable (or writable) part, up to len: write the pattern, or compare. */
static inline void
each_byte(struct shadow_test *t, const struct chain *c, bool writable, uint32_t cookie,
	  uint64_t len, bool compare)
{
	uint64_t pos = 0;

	for (unsigned int i = 0; i < c->n && pos < len; i++) {
		uint8_t *p = guest_va(t, c->segs[i].iova);

		if (c->segs[i].write != writable)
			continue;
		for (uint32_t k = 0; k < c->segs[i].len && pos < len; k++, pos++)
			if (!compare)
				p[k] = pattern(cookie, pos);
			else if (p[k] != pattern(cookie, pos))
				fail_msg("byte %lu of a chain is 0x%x", (unsigned long)pos, p[k]);
	}
}

static inline unsigned int
free_slot(struct shadow_test *t)
{
	for (unsigned int i = 0; i < NUM_MAX; i++)
		if (!t->chains[i].busy)
			return i;
	return NUM_MAX;
}

/* Publish a chain of n buffers of at most seg_len bytes, nout of them readable. Its slot; NUM_MAX
 * where the ring is full. */
static inline unsigned int
guest_add(struct shadow_test *t, unsigned int n, unsigned int nout, uint32_t seg_len)
{
	unsigned int slot = free_slot(t);
	struct chain *c = &t->chains[slot];
	uint64_t at = SLOTS_IOVA + slot * SLOT_SIZE;
	int id;

	if (slot == NUM_MAX)
		return slot;
	*c = (struct chain){.n = n, .cookie = ++t->cookie, .order = t->published};
	for (unsigned int i = 0; i < n; i++) {
		uint32_t len =
			seg_len == 0 || (t->zeroes && rnd(t, 4) == 0) ? 0 : 1 + rnd(t, seg_len);

		c->segs[i] = (struct vdpa_vring_seg){.iova = at, .len = len, .write = i >= nout};
		*(i >= nout ? &c->in_len : &c->out_len) += len;
		/* With a gap, so that none of two is one. */
		at += len + rnd(t, 3);
	}
	assert_true(at <= SLOTS_IOVA + (slot + 1) * SLOT_SIZE);
	id = vdpa_vring_add(t->driver, c->segs, n);
	if (id == -ENOSPC)
		return NUM_MAX;
	assert_in_range(id, 0, NUM_MAX - 1);
	each_byte(t, c, false, c->cookie, c->out_len, false);
	c->busy = true;
	t->slot_of[id] = slot;
	t->busy++;
	t->published++;
	return slot;
}

static inline void
guest_kick(struct shadow_test *t)
{
	vdpa_vring_publish(t->driver);
	if (vdpa_vring_wants_kick(t->driver))
		vdpa_eventfd_signal(t->kick_fd);
}

/* Whether each page that the device wrote of a chain is in the log, or was when it was looked at
 * since. */
static inline void
assert_logged(struct shadow_test *t, const struct chain *c)
{
	uint64_t left = c->written;

	if (c->epoch == 0 || c->epoch != t->epoch || !t->log_on)
		return;
	for (unsigned int i = 0; i < c->n && left > 0; i++) {
		const struct vdpa_vring_seg *seg = &c->segs[i];
		uint64_t len = t->lengths_tell ? RTE_MIN((uint64_t)seg->len, left) : seg->len;

		if (!seg->write || len == 0)
			continue;
		for (uint64_t page = seg->iova >> 12; page <= (seg->iova + len - 1) >> 12; page++)
			if ((__atomic_load_n(&t->bitmap[page / 8], __ATOMIC_SEQ_CST) &
			     1u << page % 8) == 0 &&
			    t->collected[page] <= c->harvests)
				fail_msg("page 0x%lx was written and is not logged",
					 (unsigned long)page);
		if (t->lengths_tell)
			left -= len;
	}
}

/* Take a used chain: -1 for none, else its slot. */
static inline int
guest_take(struct shadow_test *t)
{
	struct chain *c;
	uint32_t len;
	uint16_t id;
	int rc = vdpa_vring_take(t->driver, &id, &len);

	if (rc < 0)
		fail_msg("the guest: %s", vdpa_vring_error(t->driver));
	if (rc == 0)
		return -1;
	c = &t->chains[t->slot_of[id]];
	assert_true(c->busy);
	if (c->out_len + c->in_len > 0)
		assert_true(c->done);
	assert_int_equal(len, c->written);
	each_byte(t, c, true, ~c->cookie, len, true);
	assert_logged(t, c);
	c->busy = false;
	t->busy--;
	t->taken++;
	return (int)t->slot_of[id];
}

/* Take all, if it was called. How many. */
static inline unsigned int
guest_step(struct shadow_test *t)
{
	unsigned int n = 0;
	eventfd_t count;

	if (!t->guest_awake) {
		if (eventfd_read(t->call_fd, &count) < 0)
			return 0;
		t->guest_awake = true;
		vdpa_vring_disable_calls(t->driver);
	}
	while (guest_take(t) >= 0)
		n++;
	if (n == 0 && !vdpa_vring_enable_calls(t->driver))
		t->guest_awake = false;
	return n;
}

/* The device. */

static inline void
device_begin(struct shadow_test *t)
{
	struct vdpa_vq_params params = {.features = t->device_features,
					.num = t->device_num,
					.desc = OWN_IOVA,
					.driver = OWN_IOVA + RING_OFFSETS,
					.device = OWN_IOVA + 2 * RING_OFFSETS,
					.state = t->ring.place,
					.by_iova = true};

	vdpa_vq_set_call(t->device, -1);
	assert_int_equal(vdpa_vq_setup(t->device, &params, t->device_tlb), 0);
	vdpa_vq_set_call(t->device, vdpa_mover_call_fd(t->s));
	t->n_held = 0;
	t->device_awake = true;
	for (unsigned int i = 0; i < NUM_MAX; i++)
		t->chains[i].at_device = false;
}

/* The chain that a device has popped: the guest's buffers, byte for byte. */
static inline unsigned int
identify(struct shadow_test *t, const struct vdpa_vq_chain *chain)
{
	uint64_t first = (uintptr_t)chain->iov[0].iov_base;
	uint64_t slot = (first - SLOTS_IOVA) / SLOT_SIZE;
	unsigned int seg = 0;
	uint64_t off = 0;
	struct chain *c;

	assert_true(first >= SLOTS_IOVA && slot < NUM_MAX);
	c = &t->chains[slot];
	assert_true(c->busy && !c->at_device && !c->done);
	for (unsigned int i = 0; i < (unsigned int)chain->nout + chain->nin; i++) {
		uint64_t iova = (uintptr_t)chain->iov[i].iov_base, left = chain->iov[i].iov_len;

		while (left > 0) {
			uint64_t len;

			while (seg < c->n && off == c->segs[seg].len) {
				seg++;
				off = 0;
			}
			assert_true(seg < c->n);
			assert_int_equal(iova, c->segs[seg].iova + off);
			assert_int_equal(i >= chain->nout, c->segs[seg].write);
			len = RTE_MIN(left, c->segs[seg].len - off);
			off += len;
			iova += len;
			left -= len;
		}
	}
	assert_int_equal(chain->out_len, c->out_len);
	assert_int_equal(chain->in_len, c->in_len);
	each_byte(t, c, false, c->cookie, c->out_len, true);
	return (unsigned int)slot;
}

/* Take a chain; its slot, -1 for none. */
static inline int
device_pop(struct shadow_test *t)
{
	struct held *h = &t->held[t->n_held];
	int rc;

	if (t->n_held == NUM_MAX)
		return -1;
	h->chain.iov = h->iov;
	h->chain.iov_max = RTE_DIM(h->iov);
	rc = vdpa_vq_pop(t->device, &h->chain);
	if (rc < 0)
		fail_msg("the device: %s (%d)", vdpa_vq_error(t->device), rc);
	if (rc == 0)
		return -1;
	h->slot = identify(t, &h->chain);
	t->chains[h->slot].at_device = true;
	t->n_held++;
	return (int)h->slot;
}

/* The same, once the shadow has given it one. */
static inline int
wait_pop(struct shadow_test *t)
{
	int slot = device_pop(t);

	for (unsigned int i = 0; i < 30000 && slot < 0; i++) {
		usleep(1000);
		slot = device_pop(t);
	}
	return slot;
}

/* Use a chain that is held, with that many bytes written. */
static inline void
device_use(struct shadow_test *t, unsigned int at, uint32_t written)
{
	struct held h = t->held[at];
	struct chain *c = &t->chains[h.slot];

	c->epoch = t->log_on ? t->epoch : 0;
	c->harvests = t->harvests;
	c->written = written;
	c->done = true;
	t->youngest_done = RTE_MAX(t->youngest_done, c->order);
	each_byte(t, c, true, ~c->cookie, t->lengths_tell ? written : c->in_len, false);
	vdpa_vq_push(t->device, &h.chain, written);
	t->n_held--;
	/* In order of their pops. */
	for (; at < t->n_held; at++) {
		t->held[at] = t->held[at + 1];
		t->held[at].chain.iov = t->held[at].iov;
	}
}

static inline void
device_flush(struct shadow_test *t)
{
	vdpa_vq_flush(t->device);
	vdpa_vq_notify(t->device);
}

/* A device that was kicked takes some chains and uses some. How many of both. */
static inline unsigned int
device_step(struct shadow_test *t, unsigned int use_max)
{
	bool in_order = (t->device_features & IN_ORDER) != 0;
	unsigned int n = 0, popped = 0, uses;

	if (t->device_awake || __atomic_exchange_n(&t->kicked, 0, __ATOMIC_ACQUIRE) != 0) {
		if (!t->device_awake)
			vdpa_vq_disable_kicks(t->device);
		t->device_awake = true;
		while (popped < 8 && device_pop(t) >= 0)
			popped++;
		if (popped == 0)
			t->device_awake = vdpa_vq_enable_kicks(t->device);
	}
	uses = RTE_MIN(t->n_held, use_max);
	for (; n < uses; n++) {
		unsigned int at = in_order ? 0 : rnd_of(&t->device_seed, t->n_held);
		uint32_t in_len = t->chains[t->held[at].slot].in_len;

		device_use(t, at,
			   rnd_of(&t->device_seed, 2) == 0 ? in_len
							   : rnd_of(&t->device_seed, in_len + 1));
	}
	if (n > 0)
		device_flush(t);
	return n + popped;
}

/* The shadow. */

static inline void
on_kick(void *arg)
{
	__atomic_store_n(&((struct shadow_test *)arg)->kicked, 1, __ATOMIC_RELEASE);
}

static inline void
on_failed(void *arg, int err, const char *why)
{
	struct shadow_test *t = arg;

	t->err = err;
	snprintf(t->why, sizeof(t->why), "%s", why);
	__atomic_add_fetch(&t->failures, 1, __ATOMIC_RELEASE);
}

static inline unsigned int
failures(struct shadow_test *t)
{
	return __atomic_load_n(&t->failures, __ATOMIC_ACQUIRE);
}

/* A shadow where the guest's ring stands, and a device on it. 0, or what vdpa_shadow_create() says.
 */
static inline int
shadow_create(struct shadow_test *t, uint64_t device_features, uint32_t device_num,
	      const struct vdpa_mover_ops *ops)
{
	struct vdpa_mover_params params = {
		.loop = t->loop,
		.guest = {.features = t->guest_features,
			  .num = t->guest_num,
			  .desc = RING_IOVA,
			  .driver = RING_IOVA + RING_OFFSETS,
			  .device = RING_IOVA + 2 * RING_OFFSETS,
			  .state = t->place},
		.tlb = t->more ? t->tlb_more : t->tlb,
		.kick_fd = t->kick_fd,
		.call_fd = t->call_fd,
		.lengths_tell = t->lengths_tell,
		.ops = ops,
		.arg = t,
	};

	if (t->area != NULL)
		params.guest.inflight = (struct vdpa_vq_inflight){
			.addr = t->area,
			.size = vdpa_vq_inflight_size(t->guest_features & PACKED, t->guest_num)};
	t->device_features = device_features;
	t->device_num = device_num;
	t->ring = (struct vdpa_vring_params){
		.features = device_features,
		.num = device_num,
		.desc = t->own_va,
		.driver = t->own_va + RING_OFFSETS,
		.device = t->own_va + 2 * RING_OFFSETS,
		.tables = t->own_va + OWN_TABLES,
		.tables_iova = OWN_IOVA + OWN_TABLES,
		.tables_entries = TABLES,
	};
	initial(device_features & PACKED, &t->ring.place);
	params.ring = t->ring;
	__atomic_store_n(&t->failures, 0, __ATOMIC_RELAXED);
	return vdpa_shadow_create(&params, &t->s);
}

static const struct vdpa_mover_ops shadow_test_ops = {.kick = on_kick, .failed = on_failed};

static inline void
shadow_begin(struct shadow_test *t, uint64_t device_features, uint32_t device_num)
{
	assert_int_equal(shadow_create(t, device_features, device_num, &shadow_test_ops), 0);
	device_begin(t);
	assert_int_equal(vdpa_mover_run(t->s), 0);
	if (t->log_on)
		vdpa_mover_set_log(t->s, &t->log, RING_IOVA + 2 * RING_OFFSETS);
}

/* The device stops where it is, and the shadow ends. What vdpa_shadow_end() says. */
static inline int
shadow_end(struct shadow_test *t, unsigned int *in_flight)
{
	int rc = vdpa_shadow_end(t->s, &t->place, in_flight);

	vdpa_mover_free(t->s);
	t->s = NULL;
	vdpa_vq_set_call(t->device, -1);
	t->n_held = 0;
	return rc;
}

/* The device has been given so many chains. */
static inline void
wait_forwarded(struct shadow_test *t, uint64_t n)
{
	struct vdpa_mover_stats stats = {0};

	for (unsigned int i = 0; i < 30000 && stats.forwarded < n; i++) {
		vdpa_mover_stats(t->s, &stats);
		usleep(stats.forwarded < n ? 1000 : 0);
	}
	assert_int_equal(stats.forwarded, n);
}

/* Until the guest has all back. */
static inline void
settle(struct shadow_test *t)
{
	uint64_t until = now_ms() + PATIENCE_MS;

	while (t->busy > 0) {
		if (device_step(t, 8) + guest_step(t) > 0) {
			until = now_ms() + PATIENCE_MS;
		} else if (now_ms() > until) {
			fail_msg("%u chains do not come back: device %s with %u, guest %s, %s",
				 t->busy, t->device_awake ? "awake" : "asleep", t->n_held,
				 t->guest_awake ? "awake" : "asleep",
				 failures(t) > 0 ? t->why : "no failure");
		}
		if (failures(t) > 0)
			fail_msg("the shadow: %s", t->why);
	}
}

#define T(test) cmocka_unit_test_setup_teardown(test, shadow_setup, shadow_teardown)

#endif /* SHADOW_TEST_H */
