/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The relay of used buffers between a guest's driver and a device, both played by the test on rings
 * in plain memory: what passes, how each side is notified, what is logged, and what either side may
 * not do.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

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
#include <rte_lcore.h>

#include "control_group.h"
#include "relay.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_memory.h"

#define EVENT_IDX RTE_BIT64(VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT  RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC)
#define IN_ORDER  RTE_BIT64(VIRTIO_F_IN_ORDER)
#define NUM	  16u
#define IOVA	  UINT64_C(0x100000)
#define SIZE	  0x100000u
/* Offsets in the guest's memory. */
#define DESC	  0x0u
#define AVAIL	  0x1000u
#define USED	  0x2000u
#define TABLE	  0x3000u
#define BUFS	  0x10000u
#define PAGES	  ((IOVA + SIZE) >> VDPA_DIRTY_PAGE_SHIFT)
#define PLACE	  65530u

struct fixture {
	struct vdpa_event_loop *loop;
	uint8_t *mem;
	int mem_fd, kick_fd, call_fd;
	struct vdpa_iotlb *tlb;
	struct vdpa_mover *r;
	struct vring_desc *desc;
	struct vring_avail *avail, *dev_avail; /* the guest's, the device's */
	struct vring_used *used, *dev_used;
	uint64_t features;
	unsigned int kicks, failures;
	int err;
	char why[256];
	uint8_t bitmap[PAGES / 8 + 1];
	struct vdpa_dirty_log log;
};

static void
kick(void *arg)
{
	struct fixture *f = arg;

	__atomic_fetch_add(&f->kicks, 1, __ATOMIC_RELEASE);
}

static void
failed(void *arg, int err, const char *why)
{
	struct fixture *f = arg;

	f->err = err;
	snprintf(f->why, sizeof(f->why), "%s", why);
	__atomic_fetch_add(&f->failures, 1, __ATOMIC_RELEASE);
}

static const struct vdpa_mover_ops ops = {.kick = kick, .failed = failed};

static int
set_up(void **state)
{
	struct vdpa_event_loop_params params = {.name = "test", .lcore_id = LCORE_ID_ANY};
	struct vdpa_mem_region_spec spec = {.iova = IOVA, .uaddr = IOVA, .size = SIZE};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	assert_int_equal(vdpa_event_loop_create(&params, &f->loop), 0);
	f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->mem_fd, SIZE), 0);
	f->mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->mem_fd, 0);
	assert_ptr_not_equal(f->mem, MAP_FAILED);
	spec.fd = f->mem_fd;
	assert_int_equal(vdpa_iotlb_add(NULL, &spec, &f->tlb), 0);
	f->kick_fd = eventfd(0, EFD_NONBLOCK);
	f->call_fd = eventfd(0, EFD_NONBLOCK);
	f->dev_avail = calloc(1, 6 + 2 * NUM);
	f->dev_used = calloc(1, 6 + 8 * NUM);
	f->desc = (void *)(f->mem + DESC);
	f->avail = (void *)(f->mem + AVAIL);
	f->used = (void *)(f->mem + USED);
	f->log = (struct vdpa_dirty_log){.bitmap = f->bitmap, .size = sizeof(f->bitmap)};
	*state = f;
	return 0;
}

static int
tear_down(void **state)
{
	struct fixture *f = *state;

	if (f->r != NULL) {
		vdpa_mover_end(f->r);
		vdpa_mover_free(f->r);
	}
	vdpa_iotlb_put(f->tlb);
	vdpa_event_loop_destroy(f->loop);
	munmap(f->mem, SIZE);
	close(f->mem_fd);
	close(f->kick_fd);
	close(f->call_fd);
	free(f->dev_avail);
	free(f->dev_used);
	free(f);
	return 0;
}

static struct vdpa_mover_params
params_of(struct fixture *f)
{
	return (struct vdpa_mover_params){
		.loop = f->loop,
		.guest = {.features = f->features,
			  .num = NUM,
			  .desc = IOVA + DESC,
			  .driver = IOVA + AVAIL,
			  .device = IOVA + USED,
			  .state.split.avail_index = PLACE},
		.tlb = f->tlb,
		.kick_fd = f->kick_fd,
		.call_fd = f->call_fd,
		.ring = {.driver = f->dev_avail, .device = f->dev_used},
		.lengths_tell = true,
		.ops = &ops,
		.arg = f,
	};
}

/* The relay runs, and sleeps. */
static void
begin(struct fixture *f, uint64_t features, bool lengths_tell)
{
	struct vdpa_mover_params params;

	f->features = features;
	f->avail->idx = f->used->idx = PLACE;
	params = params_of(f);
	params.lengths_tell = lengths_tell;
	assert_int_equal(vdpa_relay_create(&params, &f->r), 0);
	assert_int_equal(f->dev_avail->idx, PLACE);
	assert_int_equal(f->dev_used->idx, PLACE);
	vdpa_mover_set_log(f->r, &f->log, IOVA + USED);
	assert_int_equal(vdpa_mover_run(f->r), 0);
}

#define EVENTUALLY(what)                                                                           \
	do {                                                                                       \
		unsigned int n_ = 0;                                                               \
		bool is_;                                                                          \
		while (!(is_ = (what)) && n_++ < 200000)                                           \
			usleep(50);                                                                \
		assert_true(is_);                                                                  \
	} while (0)

static uint16_t
get(const void *p)
{
	return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
}

static void
set_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*d = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

/* A chain for the device to write: a page each, of which the guest gives len bytes. */
static uint64_t
give(struct fixture *f, uint16_t head, uint32_t len)
{
	uint64_t iova = IOVA + BUFS + head * 0x2000u;

	set_desc(&f->desc[head], iova, len, VRING_DESC_F_WRITE, 0);
	f->avail->ring[f->avail->idx % NUM] = head;
	__atomic_store_n(&f->avail->idx, f->avail->idx + 1, __ATOMIC_RELEASE);
	return iova;
}

/* As a driver does: a kick only if the used ring asks for it. */
static void
kick_if_wanted(struct fixture *f, uint16_t old)
{
	uint16_t event;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = get(&f->used->ring[NUM]);
	if ((f->features & EVENT_IDX) != 0 ? vring_need_event(event, f->avail->idx, old)
					   : (get(&f->used->flags) & VRING_USED_F_NO_NOTIFY) == 0)
		eventfd_write(f->kick_fd, 1);
}

static void
use(struct fixture *f, uint32_t id, uint32_t len)
{
	f->dev_used->ring[f->dev_used->idx % NUM] = (struct vring_used_elem){.id = id, .len = len};
	__atomic_store_n(&f->dev_used->idx, f->dev_used->idx + 1, __ATOMIC_RELEASE);
}

/* As a device does: a call only if the avail ring asks for it. */
static void
call_if_wanted(struct fixture *f, uint16_t old)
{
	uint16_t event;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	event = get(&f->dev_avail->ring[NUM]);
	if ((f->features & EVENT_IDX) != 0
		    ? vring_need_event(event, f->dev_used->idx, old)
		    : (get(&f->dev_avail->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0)
		eventfd_write(vdpa_mover_call_fd(f->r), 1);
}

static bool
is_marked(const struct fixture *f, uint64_t iova)
{
	uint64_t page = iova >> VDPA_DIRTY_PAGE_SHIFT;

	return (f->bitmap[page / 8] >> page % 8 & 1) != 0;
}

static unsigned int
count_marked(const struct fixture *f)
{
	unsigned int n = 0;

	for (size_t i = 0; i < sizeof(f->bitmap); i++)
		n += (unsigned int)__builtin_popcount(f->bitmap[i]);
	return n;
}

/* One by one, far beyond the ring and its index, with each side notified as it asked. */
static void
buffers_pass_one_by_one(void **state)
{
	struct fixture *f = *state;
	uint16_t at = PLACE;

	for (unsigned int i = 0; i < 2; i++) {
		begin(f, i == 0 ? 0 : EVENT_IDX, true);
		at = PLACE;
		for (unsigned int n = 0; n < 500; n++, at++) {
			give(f, (uint16_t)(n % NUM), 100);
			kick_if_wanted(f, at);
			EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(at + 1));
			assert_int_equal(f->dev_avail->ring[at % NUM], n % NUM);
			use(f, n % NUM, n % 101);
			call_if_wanted(f, at);
			EVENTUALLY(get(&f->used->idx) == (uint16_t)(at + 1));
			assert_int_equal(f->used->ring[at % NUM].id, n % NUM);
			assert_int_equal(f->used->ring[at % NUM].len, n % 101);
		}
		assert_int_equal(f->failures, 0);
		vdpa_mover_end(f->r);
		vdpa_mover_free(f->r);
		f->r = NULL;
	}
}

/* The guest polls with its interrupts off: the device still calls the relay, and the guest is not
 * called. */
static void
a_guest_that_polls_is_served_and_not_called(void **state)
{
	struct fixture *f = *state;
	eventfd_t calls;

	begin(f, 0, true);
	f->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	give(f, 0, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
	EVENTUALLY(get(&f->dev_avail->flags) == 0);
	use(f, 0, 10);
	call_if_wanted(f, PLACE);
	EVENTUALLY(get(&f->used->idx) == (uint16_t)(PLACE + 1));
	assert_int_equal(eventfd_read(f->call_fd, &calls), -1);
	f->avail->flags = 0;
	give(f, 1, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 2));
	use(f, 1, 10);
	eventfd_write(vdpa_mover_call_fd(f->r), 1);
	EVENTUALLY(eventfd_read(f->call_fd, &calls) == 0);
}

/* A device that asks for no kicks gets none for what it takes by itself. */
static void
a_device_is_kicked_as_it_asks(void **state)
{
	struct fixture *f = *state;

	begin(f, 0, true);
	give(f, 0, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(__atomic_load_n(&f->kicks, __ATOMIC_ACQUIRE) == 1);
	f->dev_used->flags = VRING_USED_F_NO_NOTIFY;
	give(f, 1, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 2));
	f->dev_used->flags = 0;
	give(f, 2, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(__atomic_load_n(&f->kicks, __ATOMIC_ACQUIRE) == 2);
}

static void
written_pages_are_logged_and_no_others(void **state)
{
	struct fixture *f = *state;
	struct vring_desc *table = (void *)(f->mem + TABLE);

	begin(f, INDIRECT, true);
	memset(f->bitmap, 0, sizeof(f->bitmap));
	/* A table: one to read, two to write, the second in two pages of which one is reached. */
	set_desc(&table[0], IOVA + 0x40000, 0x1000, VRING_DESC_F_NEXT, 1);
	set_desc(&table[1], IOVA + 0x50000, 0x100, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2);
	set_desc(&table[2], IOVA + 0x60f80, 0x1000, VRING_DESC_F_WRITE, 0);
	set_desc(&f->desc[3], IOVA + TABLE, 48, VRING_DESC_F_INDIRECT, 0);
	f->avail->ring[f->avail->idx % NUM] = 3;
	__atomic_store_n(&f->avail->idx, f->avail->idx + 1, __ATOMIC_RELEASE);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
	use(f, 3, 0x180);
	eventfd_write(vdpa_mover_call_fd(f->r), 1);
	EVENTUALLY(get(&f->used->idx) == (uint16_t)(PLACE + 1));
	vdpa_mover_set_log(f->r, NULL, 0);
	assert_true(is_marked(f, IOVA + 0x50000));
	assert_true(is_marked(f, IOVA + 0x60f80));
	assert_true(is_marked(f, IOVA + USED));
	assert_int_equal(count_marked(f), 3);
}

static void
whole_buffers_are_logged_where_lengths_do_not_tell(void **state)
{
	struct fixture *f = *state;

	begin(f, 0, false);
	memset(f->bitmap, 0, sizeof(f->bitmap));
	give(f, 5, 0x2000);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
	use(f, 5, 0);
	eventfd_write(vdpa_mover_call_fd(f->r), 1);
	EVENTUALLY(get(&f->used->idx) == (uint16_t)(PLACE + 1));
	vdpa_mover_set_log(f->r, NULL, 0);
	assert_true(is_marked(f, IOVA + BUFS + 5 * 0x2000));
	assert_true(is_marked(f, IOVA + BUFS + 5 * 0x2000 + 0x1000));
	assert_int_equal(count_marked(f), 3);
}

/* One entry for three: those before the last are full, and each page of theirs is logged. */
static void
one_entry_stands_for_several_in_order(void **state)
{
	struct fixture *f = *state;

	begin(f, IN_ORDER, true);
	for (uint16_t i = 0; i < 3; i++)
		give(f, i, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 3));
	f->dev_used->ring[PLACE % NUM] = (struct vring_used_elem){.id = 2, .len = 7};
	__atomic_store_n(&f->dev_used->idx, (uint16_t)(PLACE + 3), __ATOMIC_RELEASE);
	eventfd_write(vdpa_mover_call_fd(f->r), 1);
	EVENTUALLY(get(&f->used->idx) == (uint16_t)(PLACE + 3));
	for (uint16_t i = 0; i < 3; i++) {
		assert_int_equal(f->used->ring[(PLACE + i) % NUM].id, i);
		assert_int_equal(f->used->ring[(PLACE + i) % NUM].len, i < 2 ? 100 : 7);
	}
	assert_int_equal(f->failures, 0);
}

/* What the device had used is handed over at the end. */
static void
the_end_hands_over_what_was_used(void **state)
{
	struct fixture *f = *state;

	begin(f, 0, true);
	for (uint16_t i = 0; i < NUM; i++)
		give(f, i, 100);
	eventfd_write(f->kick_fd, 1);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + NUM));
	for (uint16_t i = 0; i < NUM; i++)
		use(f, NUM - 1u - i, i);
	vdpa_mover_end(f->r);
	assert_int_equal(f->used->idx, (uint16_t)(PLACE + NUM));
	vdpa_mover_free(f->r);
	f->r = NULL;
}

/* Whoever executes the ring next may never write its flags, which say no while the relay polls. */
static void
the_guest_is_asked_for_kicks_at_the_end(void **state)
{
	struct vdpa_event_loop_params params = {
		.name = "test", .lcore_id = LCORE_ID_ANY, .poll_us = 10000000};
	struct fixture *f = *state;

	/* How long a loop polls is its own to decide: some of these do. */
	for (unsigned int i = 0; i < 300; i++) {
		vdpa_event_loop_destroy(f->loop);
		assert_int_equal(vdpa_event_loop_create(&params, &f->loop), 0);
		begin(f, 0, true);
		vdpa_mover_end(f->r);
		assert_int_equal(f->used->flags, 0);
		vdpa_mover_free(f->r);
		f->r = NULL;
	}
}

/* A fault of the device: what it does with one chain of 100 bytes at its hands, and the cause. */
static const struct {
	uint32_t id, len;
	uint16_t n;
	const char *why;
} device_faults[] = {
	{0, 101, 1, "the device broke its ring: used id 0: 101 bytes written"},
	{0, UINT32_MAX, 1, "the device broke its ring: used id 0: 4294967295 bytes written"},
	{1, 0, 1, "the device broke its ring: used entry 65530: id 1 is not in flight"},
	{NUM, 0, 1, "the device broke its ring: used entry 65530: id 16 of a ring of 16"},
	{UINT32_MAX, 0, 1, "the device broke its ring: used entry 65530: id 4294967295"},
	{0, 0, 2, "the device broke its ring: used index 65532 is 2 beyond"},
	{0, 0, UINT16_MAX, "the device broke its ring: used index"},
};

static void
a_device_that_breaks_its_ring_is_named(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < RTE_DIM(device_faults); i++) {
		f->failures = 0;
		begin(f, 0, true);
		give(f, 0, 100);
		eventfd_write(f->kick_fd, 1);
		EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
		f->dev_used->ring[PLACE % NUM] = (struct vring_used_elem){
			.id = device_faults[i].id, .len = device_faults[i].len};
		__atomic_store_n(&f->dev_used->idx, (uint16_t)(PLACE + device_faults[i].n),
				 __ATOMIC_RELEASE);
		eventfd_write(vdpa_mover_call_fd(f->r), 1);
		EVENTUALLY(__atomic_load_n(&f->failures, __ATOMIC_ACQUIRE) == 1);
		assert_int_equal(f->err, EIO);
		assert_memory_equal(f->why, device_faults[i].why, strlen(device_faults[i].why));
		/* The guest sees none of it. */
		assert_int_equal(f->used->idx, PLACE);
		vdpa_mover_end(f->r);
		assert_int_equal(f->failures, 1);
		vdpa_mover_free(f->r);
		f->r = NULL;
	}
}

/* The same head twice in a row, one outside the ring, an index too far: the device gets neither. */
static void
a_guest_that_breaks_its_ring_is_named(void **state)
{
	static const struct {
		uint16_t head, n;
		const char *why;
	} faults[] = {
		{0, 2, "a descriptor chain that the device has was made available again"},
		{NUM, 1, "head descriptor outside the virtqueue"},
		{0, NUM + 1, "avail index ahead by more than the virtqueue size"},
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < RTE_DIM(faults); i++) {
		f->failures = 0;
		begin(f, 0, true);
		for (unsigned int n = 0; n < NUM; n++)
			f->avail->ring[n] = faults[i].head;
		__atomic_store_n(&f->avail->idx, (uint16_t)(PLACE + faults[i].n), __ATOMIC_RELEASE);
		eventfd_write(f->kick_fd, 1);
		EVENTUALLY(__atomic_load_n(&f->failures, __ATOMIC_ACQUIRE) == 1);
		assert_int_equal(f->err, EPROTO);
		assert_string_equal(f->why, faults[i].why);
		assert_int_equal(get(&f->dev_avail->idx), PLACE);
		vdpa_mover_end(f->r);
		vdpa_mover_free(f->r);
		f->r = NULL;
	}
}

/* Descriptors that change once the device has them: a loop, memory that is none. */
static void
a_guest_that_spoils_its_descriptors_is_named(void **state)
{
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 2; i++) {
		f->failures = 0;
		begin(f, 0, true);
		give(f, 0, 100);
		eventfd_write(f->kick_fd, 1);
		EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
		if (i == 0)
			set_desc(&f->desc[0], IOVA, 1, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
		else
			set_desc(&f->desc[0], IOVA + SIZE, 100, VRING_DESC_F_WRITE, 0);
		use(f, 0, 1);
		eventfd_write(vdpa_mover_call_fd(f->r), 1);
		EVENTUALLY(__atomic_load_n(&f->failures, __ATOMIC_ACQUIRE) == 1);
		assert_string_equal(f->why,
				    i == 0 ? "descriptor loop" : "descriptor outside memory");
		vdpa_mover_end(f->r);
		vdpa_mover_free(f->r);
		f->r = NULL;
	}
}

static void
packed_rings_and_areas_in_flight_are_refused(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mover_params params = params_of(f);

	params.guest.features = RTE_BIT64(VIRTIO_F_RING_PACKED);
	assert_int_equal(vdpa_relay_create(&params, &f->r), -EOPNOTSUPP);
	params = params_of(f);
	params.guest.inflight.addr = f;
	assert_int_equal(vdpa_relay_create(&params, &f->r), -EOPNOTSUPP);
	params = params_of(f);
	params.guest.device = IOVA + SIZE;
	assert_int_equal(vdpa_relay_create(&params, &f->r), -EFAULT);
	f->r = NULL;
}

/* What a paused relay is given stays with the guest; what the device has comes back. */
static void
a_paused_relay_gives_the_device_no_more(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mover_stats stats;

	begin(f, EVENT_IDX, true);
	give(f, 0, 100);
	kick_if_wanted(f, PLACE);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 1));
	vdpa_mover_pause(f->r, true);
	give(f, 1, 100);
	eventfd_write(f->kick_fd, 1);
	use(f, 0, 100);
	eventfd_write(vdpa_mover_call_fd(f->r), 1);
	EVENTUALLY(get(&f->used->idx) == (uint16_t)(PLACE + 1));
	assert_int_equal(get(&f->dev_avail->idx), (uint16_t)(PLACE + 1));
	vdpa_mover_pause(f->r, false);
	EVENTUALLY(get(&f->dev_avail->idx) == (uint16_t)(PLACE + 2));
	EVENTUALLY((vdpa_mover_stats(f->r, &stats), stats.in_flight) == 1);
	assert_int_equal(stats.forwarded, 2);
	assert_int_equal(stats.completed, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(buffers_pass_one_by_one),
		TEST(a_guest_that_polls_is_served_and_not_called),
		TEST(a_device_is_kicked_as_it_asks),
		TEST(written_pages_are_logged_and_no_others),
		TEST(whole_buffers_are_logged_where_lengths_do_not_tell),
		TEST(one_entry_stands_for_several_in_order),
		TEST(the_end_hands_over_what_was_used),
		TEST(the_guest_is_asked_for_kicks_at_the_end),
		TEST(a_device_that_breaks_its_ring_is_named),
		TEST(a_guest_that_breaks_its_ring_is_named),
		TEST(a_guest_that_spoils_its_descriptors_is_named),
		TEST(packed_rings_and_areas_in_flight_are_refused),
		TEST(a_paused_relay_gives_the_device_no_more),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
