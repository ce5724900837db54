/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The block class by itself, for its tests: its hooks run on a real event loop over real
 * virtqueues, with the simulator core's few calls replaced here, for both ring layouts and every
 * back end. Include it after cmocka.h, in one file of a program.
 */

#ifndef SIM_BLK_TEST_H
#define SIM_BLK_TEST_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <liburing.h>
#include <rte_byteorder.h>

#include "blk/sim_blk.h"
#include "blk/sim_blk_file.h"

#define MEM_IOVA  0x100000ul
#define MEM_SIZE  (8ul << 20)
#define RING_NUM  256u
#define SLOT_DESC 8u /* descriptors a request may have */
#define SLOTS	  (RING_NUM / SLOT_DESC)
#define SLOT_MEM  0x20000ul
#define SLOT_BASE 0x40000ul
#define DISK_SIZE (4ul << 20)
#define WAIT_MS	  20000

enum { DESC_NEXT = 1, DESC_WRITE = 2, PACKED_AVAIL = 1 << 7, PACKED_USED = 1 << 15 };

struct split_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags, next;
};

struct packed_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t id, flags;
};

/* A buffer of a request, as an offset in guest memory. */
struct part {
	uint64_t off;
	uint32_t len;
	bool write;
};

struct fixture {
	struct sim_device dev;
	struct sim_lane lane;
	struct sim_queue *q;
	struct vdpa_event_loop *loop;
	struct vdpa_args args;
	struct vdpa_iotlb *tlb;
	int mem_fd, image_fd;
	uint8_t *mem;
	char image[64];
	bool file;
	/* driver side */
	bool packed, avail_wrap, used_wrap;
	uint16_t next, used;
	uint8_t chain_len[SLOTS];
	int failed;
	unsigned int config_irqs;
};

static struct fixture *current;

/* The core's part. */

struct vdpa_event_loop *
sim_loop(const struct sim_device *dev)
{
	return current->loop;
}

void
sim_wake(struct sim_device *dev)
{
}

void
sim_queue_fail(struct sim_queue *q, int err)
{
	q->failed = true;
	q->running = false;
	current->failed = err;
}

void
sim_config_write(struct sim_device *dev, size_t offset, const void *buf, size_t len, bool notify)
{
	memcpy(dev->config + offset, buf, len);
	current->config_irqs += notify;
}

static inline int
do_start(void *arg)
{
	struct fixture *f = arg;

	f->q->running = true;
	sim_blk_class.vq_start(f->q);
	return 0;
}

static inline int
do_stop(void *arg)
{
	struct fixture *f = arg;

	f->q->running = false;
	sim_blk_class.vq_stop(f->q);
	return 0;
}

/* A turn of the device; of a stopped one too, for its requests go on. */
static inline int
do_process(void *arg)
{
	struct fixture *f = arg;

	sim_turn_begin(&f->lane.turn, 0);
	return (int)sim_blk_class.process(f->q, f->q->running ? SIM_BUDGET : 0);
}

static inline int
on_loop(struct fixture *f, int (*fn)(void *))
{
	return vdpa_event_loop_call(f->loop, fn, f);
}

static inline void
pause_us(long us)
{
	nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Set-up. */

static inline void
add_arg(struct fixture *f, const char *word, const char *choice, const char *str, uint64_t u64)
{
	struct vdpa_arg *a = &f->args.arg[f->args.n++];
	const struct vdpa_param *p = sim_blk_class.params;

	while (p->name != NULL && strcmp(p->name, word) != 0)
		p++;
	assert_non_null(p->name);
	*a = (struct vdpa_arg){.param = p, .str = str, .u64 = u64};
	if (choice == NULL)
		return;
	for (a->choice = p->choices; strcmp(a->choice->name, choice) != 0; a->choice++)
		assert_non_null(a->choice->name);
}

static inline void
make_image(struct fixture *f, uint64_t size)
{
	snprintf(f->image, sizeof(f->image), "/var/tmp/test_sim_blk.XXXXXX");
	f->image_fd = mkstemp(f->image);
	assert_true(f->image_fd >= 0);
	assert_int_equal(ftruncate(f->image_fd, (off_t)size), 0);
}

static inline void
setup_ring(struct fixture *f, const struct vdpa_vq_inflight *inflight)
{
	struct vdpa_vq_params p = {
		.features = f->dev.features,
		.num = RING_NUM,
		.desc = MEM_IOVA,
		.driver = MEM_IOVA + 0x10000,
		.device = MEM_IOVA + 0x20000,
	};

	if (f->packed)
		p.state.packed.last_avail_counter = p.state.packed.last_used_counter = 1;
	if (inflight != NULL)
		p.inflight = *inflight;
	assert_int_equal(vdpa_vq_setup(f->q->vq, &p, f->tlb), 0);
}

static inline bool
have_uring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(1, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

static inline struct fixture *
open_device(bool packed, bool file, const char *flag)
{
	struct vdpa_event_loop_params lp = {.name = "blk-test", .lcore_id = UINT32_MAX};
	struct vdpa_mem_region_spec spec;
	struct fixture *f = calloc(1, sizeof(*f));

	current = f;
	f->packed = packed;
	f->file = file;
	f->avail_wrap = f->used_wrap = true;
	f->image_fd = -1;
	f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->mem_fd, MEM_SIZE), 0);
	spec = (struct vdpa_mem_region_spec){
		.iova = MEM_IOVA, .uaddr = 0x7f0000000000, .size = MEM_SIZE, .fd = f->mem_fd};
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &f->tlb), 0);
	f->mem = f->tlb->regions[0]->va;
	assert_int_equal(vdpa_event_loop_create(&lp, &f->loop), 0);

	snprintf(f->dev.vdev.name, sizeof(f->dev.vdev.name), "blk0");
	f->dev.class = &sim_blk_class;
	f->dev.vq_num_max = RING_NUM;
	if (file) {
		make_image(f, DISK_SIZE);
		add_arg(f, "backend", "file", f->image, 0);
	} else {
		add_arg(f, "backend", "ram", NULL, DISK_SIZE);
	}
	add_arg(f, "serial", NULL, "SN-1", 0);
	if (flag != NULL)
		add_arg(f, flag, strcmp(flag, "blk_size") == 0 ? "4096" : NULL, NULL, 0);
	if (sim_blk_class.init(&f->dev, &f->args, NULL) != 0)
		fail_msg("init: %s", vdpa_error_message());
	f->q = aligned_alloc(RTE_CACHE_LINE_SIZE, sizeof(*f->q));
	memset(f->q, 0, sizeof(*f->q));
	f->q->dev = &f->dev;
	f->q->lane = &f->lane;
	f->dev.vqs = f->q;
	f->q->vq = vdpa_vq_alloc(-1);
	assert_int_equal(sim_blk_class.setup(&f->dev), 0);
	f->dev.features = f->dev.device_features & ~SIM_BIT(SIM_F_EVENT_IDX);
	if (!packed)
		f->dev.features &= ~SIM_BIT(SIM_F_RING_PACKED);
	f->dev.features &= ~SIM_BIT(SIM_F_IN_ORDER);
	setup_ring(f, NULL);
	on_loop(f, do_start);
	return f;
}

static inline bool
drain(struct fixture *f)
{
	for (int i = 0; i < WAIT_MS * 10; i++) {
		if (sim_blk_class.outstanding(f->q) == 0)
			return true;
		on_loop(f, do_process);
		pause_us(100);
	}
	return false;
}

static inline void
close_device(struct fixture *f)
{
	on_loop(f, do_stop);
	assert_true(drain(f));
	sim_blk_class.teardown(&f->dev);
	sim_blk_class.fini(&f->dev);
	vdpa_vq_teardown(f->q->vq);
	vdpa_vq_free(f->q->vq);
	free(f->q);
	vdpa_event_loop_destroy(f->loop);
	vdpa_iotlb_put(f->tlb);
	close(f->mem_fd);
	if (f->image_fd >= 0) {
		close(f->image_fd);
		unlink(f->image);
	}
	free(f);
}

/* The driver's part. Slot k owns SLOT_DESC descriptors (split) and SLOT_MEM bytes at slot_mem(k).
 */

static inline uint64_t
slot_mem(unsigned int slot)
{
	return SLOT_BASE + slot * SLOT_MEM;
}

static inline void
add_chain(struct fixture *f, unsigned int slot, const struct part *parts, unsigned int n)
{
	f->chain_len[slot] = (uint8_t)n;
	if (!f->packed) {
		struct split_desc *d = (struct split_desc *)f->mem;
		uint16_t *avail = (uint16_t *)(f->mem + 0x10000);

		for (unsigned int i = 0; i < n; i++)
			d[slot * SLOT_DESC + i] = (struct split_desc){
				.addr = MEM_IOVA + parts[i].off,
				.len = parts[i].len,
				.flags = (uint16_t)((i + 1 < n ? DESC_NEXT : 0) |
						    (parts[i].write ? DESC_WRITE : 0)),
				.next = (uint16_t)(slot * SLOT_DESC + i + 1),
			};
		avail[2 + f->next % RING_NUM] = (uint16_t)(slot * SLOT_DESC);
		__atomic_store_n(&avail[1], ++f->next, __ATOMIC_RELEASE);
		return;
	}
	struct packed_desc *d = (struct packed_desc *)f->mem, *first = &d[f->next];
	uint16_t first_flags = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct packed_desc *e = &d[f->next];
		uint16_t flags =
			(uint16_t)((i + 1 < n ? DESC_NEXT : 0) | (parts[i].write ? DESC_WRITE : 0) |
				   (f->avail_wrap ? PACKED_AVAIL : PACKED_USED));

		e->addr = MEM_IOVA + parts[i].off;
		e->len = parts[i].len;
		e->id = (uint16_t)slot;
		if (i == 0)
			first_flags = flags;
		else
			e->flags = flags;
		if (++f->next == RING_NUM) {
			f->next = 0;
			f->avail_wrap = !f->avail_wrap;
		}
	}
	__atomic_store_n(&first->flags, first_flags, __ATOMIC_RELEASE);
}

/* The slot of the next used chain, -1 for none. */
static inline int
get_used(struct fixture *f, uint32_t *len)
{
	if (!f->packed) {
		uint16_t *used = (uint16_t *)(f->mem + 0x20000);
		uint32_t *elem = (uint32_t *)(used + 2) + 2 * (f->used % RING_NUM);

		if (__atomic_load_n(&used[1], __ATOMIC_ACQUIRE) == f->used)
			return -1;
		f->used++;
		*len = elem[1];
		return (int)(elem[0] / SLOT_DESC);
	}
	struct packed_desc *e = &((struct packed_desc *)f->mem)[f->used];
	uint16_t flags = __atomic_load_n(&e->flags, __ATOMIC_ACQUIRE);
	bool a = (flags & PACKED_AVAIL) != 0, u = (flags & PACKED_USED) != 0;

	if (a != u || u != f->used_wrap)
		return -1;
	*len = e->len;
	f->used = (uint16_t)(f->used + f->chain_len[e->id]);
	if (f->used >= RING_NUM) {
		f->used = (uint16_t)(f->used - RING_NUM);
		f->used_wrap = !f->used_wrap;
	}
	return e->id;
}

static inline int
wait_used(struct fixture *f, uint32_t *len)
{
	for (int i = 0; i < WAIT_MS * 10; i++) {
		int slot;

		on_loop(f, do_process);
		slot = get_used(f, len);
		if (slot >= 0 || f->failed != 0)
			return slot;
		if (i > 10)
			pause_us(100);
	}
	return -1;
}

static inline void
put_header(struct fixture *f, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};

	memcpy(f->mem + slot_mem(slot), &hdr, sizeof(hdr));
	f->mem[slot_mem(slot) + 0x100] = 0xee;
}

/* Header, data and status in a descriptor each; returns the status. */
static inline int
request(struct fixture *f, uint32_t type, uint64_t sector, void *data, uint32_t len)
{
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	uint64_t m = slot_mem(0);
	struct part parts[] = {
		{m, 16, false},
		{m + 0x1000, len, in},
		{m + 0x100, 1, true},
	};
	uint32_t written = 0;

	put_header(f, 0, type, sector);
	if (!in && len > 0)
		memcpy(f->mem + m + 0x1000, data, len);
	if (len == 0)
		parts[1] = parts[2];
	add_chain(f, 0, parts, len > 0 ? 3 : 2);
	assert_int_equal(wait_used(f, &written), 0);
	assert_int_equal(written, in ? len + 1 : 1);
	if (in && len > 0)
		memcpy(data, f->mem + m + 0x1000, len);
	return f->mem[m + 0x100];
}

static inline int
ranges(struct fixture *f, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes seg = {sector, sectors, flags};

	return request(f, type, 0, &seg, sizeof(seg));
}

static inline bool
all_bytes(const uint8_t *p, uint8_t value, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != value)
			return false;
	return true;
}

static inline uint64_t
vq_stat(struct fixture *f, const char *name)
{
	struct vdpa_stat s[16];
	int n = sim_blk_class.vq_stats(f->q, s, 16);

	for (int i = 0; i < n; i++)
		if (strcmp(s[i].name, name) == 0)
			return s[i].value;
	fail_msg("no statistic %s", name);
	return 0;
}

/* Every test for each layout and back end; a back end that the machine lacks is skipped aloud. */
static inline void
each(void (*test)(struct fixture *))
{
	bool uring = have_uring();

	for (int i = 0; i < 4; i++) {
		struct fixture *f;

		if ((i & 2) != 0 && !uring) {
			print_message("SKIPPED backend file: io_uring is not permitted here\n");
			continue;
		}
		f = open_device(i & 1, i & 2, NULL);
		test(f);
		close_device(f);
	}
}

#endif /* SIM_BLK_TEST_H */
