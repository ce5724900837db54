/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The block class by itself: its hooks run on a real event loop over real virtqueues, with the
 * simulator core's few calls replaced here, for both ring layouts and every back end.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
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

static int
do_start(void *arg)
{
	struct fixture *f = arg;

	f->q->running = true;
	sim_blk_class.vq_start(f->q);
	return 0;
}

static int
do_stop(void *arg)
{
	struct fixture *f = arg;

	f->q->running = false;
	sim_blk_class.vq_stop(f->q);
	return 0;
}

/* A turn of the device; of a stopped one too, for its requests go on. */
static int
do_process(void *arg)
{
	struct fixture *f = arg;

	sim_turn_begin(&f->lane.turn, 0);
	return (int)sim_blk_class.process(f->q, f->q->running ? SIM_BUDGET : 0);
}

static int
on_loop(struct fixture *f, int (*fn)(void *))
{
	return vdpa_event_loop_call(f->loop, fn, f);
}

static void
pause_us(long us)
{
	nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
}

/* Set-up. */

static void
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

static void
make_image(struct fixture *f, uint64_t size)
{
	snprintf(f->image, sizeof(f->image), "/var/tmp/test_sim_blk.XXXXXX");
	f->image_fd = mkstemp(f->image);
	assert_true(f->image_fd >= 0);
	assert_int_equal(ftruncate(f->image_fd, (off_t)size), 0);
}

static void
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

static bool
have_uring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(1, &ring, 0) < 0)
		return false;
	io_uring_queue_exit(&ring);
	return true;
}

static struct fixture *
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

static bool
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

static void
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

static uint64_t
slot_mem(unsigned int slot)
{
	return SLOT_BASE + slot * SLOT_MEM;
}

static void
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
static int
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

static int
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

static void
put_header(struct fixture *f, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr hdr = {.type = type, .sector = sector};

	memcpy(f->mem + slot_mem(slot), &hdr, sizeof(hdr));
	f->mem[slot_mem(slot) + 0x100] = 0xee;
}

/* Header, data and status in a descriptor each; returns the status. */
static int
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

static int
ranges(struct fixture *f, uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
	struct virtio_blk_discard_write_zeroes seg = {sector, sectors, flags};

	return request(f, type, 0, &seg, sizeof(seg));
}

static bool
all_bytes(const uint8_t *p, uint8_t value, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != value)
			return false;
	return true;
}

static uint64_t
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
static void
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

/* Tests. */

static void
run_data(struct fixture *f)
{
	static uint8_t out[65536], in[65536];

	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 7 + i / 511);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 8, out, sizeof(out)), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 8, in, sizeof(in)), VIRTIO_BLK_S_OK);
	assert_memory_equal(in, out, sizeof(out));
	/* The last sector, and what was never written. */
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, DISK_SIZE / 512 - 1, out, 512), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512 - 1, in, 512), 0);
	assert_memory_equal(in, out, 512);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 4096, in, 4096), 0);
	assert_true(all_bytes(in, 0, 4096));
	assert_int_equal(vq_stat(f, "reads"), 3);
	assert_int_equal(vq_stat(f, "read_bytes"), sizeof(in) + 512 + 4096);
	assert_int_equal(vq_stat(f, "writes"), 2);
	assert_int_equal(vq_stat(f, "flushes"), 1);
	assert_int_equal(vq_stat(f, "inflight"), 0);
	if (f->file) {
		assert_int_equal(pread(f->image_fd, in, sizeof(in), 4096), sizeof(in));
		assert_memory_equal(in, out, sizeof(out));
	}
}

static void
reads_back_what_was_written(void **state)
{
	each(run_data);
}

static void
run_ranges(struct fixture *f)
{
	static uint8_t ones[32768], in[32768];

	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, ones, sizeof(ones)), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 1, 30, 0), 0);
	assert_int_equal(
		ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 33, 20, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP),
		0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, in, sizeof(in)), 0);
	assert_true(all_bytes(in, 0xff, 512));
	assert_true(all_bytes(in + 512, 0, 30 * 512));
	assert_true(all_bytes(in + 31 * 512, 0xff, 2 * 512));
	assert_true(all_bytes(in + 33 * 512, 0, 20 * 512));
	assert_true(all_bytes(in + 53 * 512, 0xff, 11 * 512));

	struct virtio_blk_discard_write_zeroes segs[2] = {{0, 8, 0}, {53, 1, 0}};

	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, segs, sizeof(segs)), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, in, sizeof(in)), 0);
	assert_true(all_bytes(in, 0, 4096));
	assert_true(all_bytes(in + 53 * 512, 0, 512));
	assert_true(all_bytes(in + 54 * 512, 0xff, 10 * 512));
	assert_int_equal(vq_stat(f, "discards"), 1);
	assert_int_equal(vq_stat(f, "write_zeroes"), 2);
}

static void
discards_and_zeroes_exactly_the_ranges(void **state)
{
	each(run_ranges);
}

static void
run_refusals(struct fixture *f)
{
	uint64_t last = DISK_SIZE / 512;
	uint8_t b[1024] = {0};
	struct virtio_blk_discard_write_zeroes many[SIM_BLK_DISCARD_SEGS + 1] = {{0, 1, 0}};

	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, last, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, last - 1, b, 1024), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, UINT64_MAX, b, 512), VIRTIO_BLK_S_IOERR);
	/* A sector whose byte offset wraps to 0. */
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, UINT64_C(1) << 55, b, 512),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, last - 1, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, UINT64_MAX, 2, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, 1, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 1, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, 15), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, many, sizeof(many)),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, NULL, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_SECURE_ERASE, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(request(f, 0x80000001, 0, NULL, 0), VIRTIO_BLK_S_UNSUPP);
	f->dev.features &= ~SIM_BIT(VIRTIO_BLK_F_DISCARD);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 0, 1, 0), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(vq_stat(f, "unsupported"), 5);
	assert_int_equal(vq_stat(f, "io_errors"), 11);
	assert_int_equal(f->failed, 0);
}

static void
refuses_what_lies_outside_or_is_unknown(void **state)
{
	each(run_refusals);
}

static void
run_layouts(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	uint32_t len = 0;
	uint8_t in[1024];

	/* Header in two parts, the second with the first bytes of data; status behind the data. */
	struct part out[] = {{m, 7, false},
			     {m + 7, 9 + 100, false},
			     {m + 0x2000, 924, false},
			     {m + 0x100, 1, true}};

	put_header(f, 0, VIRTIO_BLK_T_OUT, 3);
	memset(f->mem + m + 16, 0x5a, 100);
	memset(f->mem + m + 0x2000, 0xa5, 924);
	add_chain(f, 0, out, 4);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);

	struct part inp[] = {{m, 16, false},
			     {m + 0x3000, 1, true},
			     {m + 0x3001, 1000, true},
			     {m + 0x33e9, 24, true}};

	put_header(f, 0, VIRTIO_BLK_T_IN, 3);
	memset(f->mem + m + 0x3000, 0xee, 2048);
	add_chain(f, 0, inp, 4);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(len, 1025);
	memcpy(in, f->mem + m + 0x3000, 1024);
	assert_int_equal(f->mem[m + 0x3400], VIRTIO_BLK_S_OK);
	assert_int_equal(f->mem[m + 0x3401], 0xee);
	assert_true(all_bytes(in, 0x5a, 100));
	assert_true(all_bytes(in + 100, 0xa5, 924));
}

static void
accepts_any_layout_of_header_data_and_status(void **state)
{
	each(run_layouts);
}

static void
run_malformed(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	struct part no_status[] = {{m, 16, false}, {m + 0x1000, 512, false}};
	struct part short_header[] = {{m, 15, false}, {m + 0x100, 1, true}};
	struct part no_header[] = {{m + 0x100, 1, true}};
	uint32_t len = 77;

	put_header(f, 0, VIRTIO_BLK_T_OUT, 0);
	add_chain(f, 0, no_status, 2);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(len, 0);
	add_chain(f, 0, short_header, 2);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	f->mem[m + 0x100] = 0xee;
	add_chain(f, 0, no_header, 1);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	assert_int_equal(vq_stat(f, "malformed"), 1);
	/* It goes on. */
	assert_int_equal(request(f, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
}

static void
answers_malformed_requests_and_goes_on(void **state)
{
	each(run_malformed);
}

static void
run_id(struct fixture *f)
{
	char id[VIRTIO_BLK_ID_BYTES];

	memset(id, 'x', sizeof(id));
	assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, id, sizeof(id)), 0);
	assert_memory_equal(id, "SN-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", sizeof(id));
}

static void
tells_its_serial_padded_with_zeroes(void **state)
{
	each(run_id);
}

static void
run_depth(struct fixture *f)
{
	bool seen[SLOTS] = {false};
	uint32_t len = 0;

	/* More rounds than the ring is long, all slots under way together. */
	for (unsigned int round = 0; round < 20; round++) {
		memset(seen, 0, sizeof(seen));
		for (unsigned int s = 0; s < SLOTS; s++) {
			uint64_t m = slot_mem(s);
			struct part p[] = {{m, 16, false},
					   {m + 0x1000, 4096, round & 1},
					   {m + 0x100, 1, true}};

			put_header(f, s, round & 1 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, s * 8);
			memset(f->mem + m + 0x1000, round & 1 ? 0xee : (int)(s + round), 4096);
			add_chain(f, s, p, 3);
		}
		for (unsigned int s = 0; s < SLOTS; s++) {
			int slot = wait_used(f, &len);

			assert_in_range(slot, 0, SLOTS - 1);
			assert_false(seen[slot]);
			seen[slot] = true;
			assert_int_equal(f->mem[slot_mem((unsigned int)slot) + 0x100], 0);
		}
		for (unsigned int s = 0; s < SLOTS && (round & 1); s++)
			assert_true(all_bytes(f->mem + slot_mem(s) + 0x1000,
					      (uint8_t)(s + round - 1), 4096));
	}
	assert_int_equal(vq_stat(f, "writes"), 10 * SLOTS);
}

static void
completes_every_request_of_a_deep_queue_once(void **state)
{
	each(run_depth);
}

static void
run_stop(struct fixture *f)
{
	uint32_t len = 0;
	unsigned int used = 0;

	for (unsigned int s = 0; s < SLOTS; s++) {
		uint64_t m = slot_mem(s);
		struct part p[] = {
			{m, 16, false}, {m + 0x1000, 65536, false}, {m + 0x100, 1, true}};

		put_header(f, s, VIRTIO_BLK_T_OUT, s * 128);
		add_chain(f, s, p, 3);
	}
	on_loop(f, do_process);
	on_loop(f, do_stop);
	assert_true(drain(f));
	while (get_used(f, &len) >= 0)
		used++;
	/* What was taken is answered, and nothing is outstanding in the ring. */
	struct vdpa_vq_state state;

	assert_int_equal(vdpa_vq_get_state(f->q->vq, &state), 0);
	assert_int_equal(used, vq_stat(f, "writes"));
	on_loop(f, do_start);
	while (used < SLOTS && wait_used(f, &len) >= 0)
		used++;
	assert_int_equal(used, SLOTS);
}

static void
drains_when_stopped_and_goes_on_when_started(void **state)
{
	each(run_stop);
}

/* A turn with room for one piece, of a queue that was stopped too long ago. */
static int
do_overdue_stop(void *arg)
{
	struct fixture *f = arg;
	struct sim_blk *blk = f->dev.priv;

	sim_turn_begin(&f->lane.turn, 0);
	f->lane.turn.bytes = 1;
	sim_blk_class.process(f->q, SIM_BUDGET);
	do_stop(f);
	assert_int_equal(sim_blk_class.outstanding(f->q), 1);
	blk->queues[0].stopped_at = 0;
	return do_process(f);
}

static void
run_overdue_stop(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	/* Three pieces; where they go does not matter. */
	struct part p[SLOT_DESC] = {[0] = {m, 16, false}, [SLOT_DESC - 1] = {m + 0x100, 1, true}};
	uint32_t len = 0;

	for (unsigned int i = 1; i < SLOT_DESC - 1; i++)
		p[i] = (struct part){m + 0x1000, 0x1e000, true};
	put_header(f, 0, VIRTIO_BLK_T_IN, 0);
	add_chain(f, 0, p, SLOT_DESC);
	on_loop(f, do_overdue_stop);
	assert_true(drain(f));
	assert_int_equal(get_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_IOERR);
	on_loop(f, do_start);
	put_header(f, 0, VIRTIO_BLK_T_IN, 0);
	add_chain(f, 0, p, SLOT_DESC);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
}

static void
a_stop_that_takes_too_long_cancels_what_is_left(void **state)
{
	each(run_overdue_stop);
}

/* Writes of several pieces, durable by one flush at their end, and what they wrote. */
static void
run_pieces(struct fixture *f)
{
	uint64_t m = slot_mem(0);
	struct part out[SLOT_DESC] = {[0] = {m, 16, false}, [SLOT_DESC - 1] = {m + 0x100, 1, true}};
	uint32_t len = 0;
	uint8_t b[4096];

	((struct sim_blk *)f->dev.priv)->write_cache = false;
	/* Parts of odd lengths, so that pieces end within them. */
	for (unsigned int i = 1; i < SLOT_DESC - 1; i++)
		out[i] = (struct part){m + 0x1000, i % 2 ? 0x1e201 : 0x1ddff, false};
	for (unsigned int i = 0; i < 0x1e201; i++)
		f->mem[m + 0x1000 + i] = (uint8_t)(i / 512 + i);
	put_header(f, 0, VIRTIO_BLK_T_OUT, 8);
	add_chain(f, 0, out, SLOT_DESC);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	/* Where the fifth part begins on the disk. */
	for (uint64_t at = 4096, end = 4096 + 2 * 0x3c000; at < end; at += sizeof(b)) {
		uint64_t off = (at - 4096) % 0x3c000;

		assert_int_equal(request(f, VIRTIO_BLK_T_IN, at / 512, b, sizeof(b)), 0);
		for (unsigned int i = 0; i < sizeof(b); i++, off++) {
			uint64_t in = off < 0x1e201 ? off : off - 0x1e201;

			if (off < 0x3c000)
				assert_int_equal(b[i], (uint8_t)(in / 512 + in));
		}
	}
}

static void
moves_large_requests_in_pieces(void **state)
{
	each(run_pieces);
}

static void
run_recovery(struct fixture *f)
{
	struct vdpa_vq_inflight area = {.size = 64 << 10};
	struct vdpa_vq_chain chain;
	struct iovec iov[16];
	uint32_t len = 0;
	unsigned int used = 0;

	area.addr = calloc(1, area.size);
	on_loop(f, do_stop);
	vdpa_vq_teardown(f->q->vq);
	setup_ring(f, &area);
	for (unsigned int s = 0; s < 5; s++) {
		uint64_t m = slot_mem(s);
		struct part p[] = {{m, 16, false}, {m + 0x1000, 512, false}, {m + 0x100, 1, true}};

		put_header(f, s, VIRTIO_BLK_T_OUT, s);
		memset(f->mem + m + 0x1000, (int)s + 1, 512);
		add_chain(f, s, p, 3);
	}
	/* A process takes three of five, and dies. */
	for (unsigned int s = 0; s < 3; s++) {
		chain.iov = iov;
		chain.iov_max = 16;
		assert_int_equal(vdpa_vq_pop(f->q->vq, &chain), 1);
	}
	vdpa_vq_teardown(f->q->vq);
	vdpa_vq_free(f->q->vq);
	f->q->vq = vdpa_vq_alloc(-1);
	setup_ring(f, &area);
	on_loop(f, do_start);
	while (used < 5) {
		int slot = wait_used(f, &len);

		assert_in_range(slot, 0, 4);
		assert_int_equal(f->mem[slot_mem((unsigned int)slot) + 0x100], 0);
		used++;
	}
	assert_int_equal(get_used(f, &len), -1);
	assert_int_equal(vq_stat(f, "writes"), 5);
	on_loop(f, do_stop);
	assert_true(drain(f));
	vdpa_vq_teardown(f->q->vq);
	free(area.addr);
}

static void
executes_requests_that_a_dead_process_left(void **state)
{
	each(run_recovery);
}

static uint32_t
rnd(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*seed >> 33);
}

static void
run_mutations(struct fixture *f)
{
	static const uint32_t types[] = {0, 1, 4, 8, 11, 13, 14, 2, 0x80000001, UINT32_MAX};
	static const uint32_t lens[] = {0, 1, 15, 16, 17, 511, 512, 513, 4096, 4097, 65536};
	uint64_t seed = 42, answered = 0;

	for (int i = 0; i < 2500; i++) {
		unsigned int n = 1 + rnd(&seed) % 6, nw = rnd(&seed) % (n + 1);
		uint64_t m = slot_mem(0);
		struct part parts[6];
		uint32_t len = 0;

		put_header(f, 0, types[rnd(&seed) % RTE_DIM(types)],
			   rnd(&seed) % 4 ? rnd(&seed) % (DISK_SIZE / 512 + 8)
					  : (uint64_t)rnd(&seed) << (rnd(&seed) % 34));
		for (unsigned int b = 0; b < 64; b++)
			if (rnd(&seed) % 8 == 0)
				f->mem[m + 16 + b] = (uint8_t)rnd(&seed);
		for (unsigned int p = 0; p < n; p++)
			parts[p] = (struct part){
				.off = m + (p == 0 ? 0 : rnd(&seed) % 0x8000),
				.len = p == 0 && rnd(&seed) % 4
					       ? 16 + 16 * (rnd(&seed) % 4)
					       : lens[1 + rnd(&seed) % (RTE_DIM(lens) - 1)],
				.write = p >= n - nw,
			};
		add_chain(f, 0, parts, n);
		if (wait_used(f, &len) != 0)
			fail_msg("mutation %d: no answer", i);
		answered++;
	}
	assert_int_equal(answered, 2500);
	assert_int_equal(f->failed, 0);
	assert_int_equal(vq_stat(f, "inflight"), 0);
	assert_true(vq_stat(f, "io_errors") > 0);
	assert_true(vq_stat(f, "malformed") > 0);
	assert_true(vq_stat(f, "unsupported") > 0);
}

/* 4 x 2500 */
static void
survives_ten_thousand_mutated_requests(void **state)
{
	each(run_mutations);
}

static void
read_only_device_refuses_writes(void **state)
{
	struct fixture *f = open_device(false, false, "read-only");
	uint8_t b[512] = {1};

	assert_true((f->dev.device_features & SIM_BIT(VIRTIO_BLK_F_RO)) != 0);
	assert_false((f->dev.device_features & SIM_BIT(VIRTIO_BLK_F_DISCARD)) != 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 512), VIRTIO_BLK_S_OK);
	assert_true(all_bytes(b, 0, 512));
	close_device(f);
}

static void
write_cache_mode_is_the_only_writable_field(void **state)
{
	struct fixture *f = open_device(false, false, NULL);
	size_t wce = offsetof(struct virtio_blk_config, wce);
	struct sim_blk *blk = f->dev.priv;
	uint8_t v = 0;

	assert_int_equal(f->dev.config[wce], 1);
	assert_int_equal(sim_blk_class.set_config(&f->dev, wce, &v, 1), 0);
	assert_int_equal(f->dev.config[wce], 0);
	assert_false(blk->write_cache);
	v = 2;
	assert_int_equal(sim_blk_class.set_config(&f->dev, wce, &v, 1), -EINVAL);
	assert_int_equal(sim_blk_class.set_config(&f->dev, 0, &v, 1), -EINVAL);
	assert_int_equal(f->dev.config[wce], 0);
	close_device(f);
}

static bool
uring_or_skip(void)
{
	if (have_uring())
		return true;
	print_message("SKIPPED backend file: io_uring is not permitted here\n");
	skip();
	return false;
}

static void
durable_requests_complete_without_a_cache(void **state)
{
	uint8_t b[4096];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(true, true, NULL);
	memset(b, 3, sizeof(b));
	((struct sim_blk *)f->dev.priv)->write_cache = false;
	assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, b, sizeof(b)), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 4, 0), 0);
	assert_int_equal(ranges(f, VIRTIO_BLK_T_DISCARD, 4, 2, 0), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, sizeof(b)), 0);
	assert_true(all_bytes(b, 0, 6 * 512));
	assert_true(all_bytes(b + 6 * 512, 3, 2 * 512));
	close_device(f);
}

static void
file_that_shrinks_costs_only_the_requests_past_its_end(void **state)
{
	uint8_t b[4096];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, NULL);
	assert_int_equal(ftruncate(f->image_fd, 8192 + 1000), 0);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 16, b, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 1024, b, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, b, 4096), VIRTIO_BLK_S_OK);
	close_device(f);
}

static void
resize_grows_and_never_shrinks(void **state)
{
	struct vdpa_args args = {.n = 1, .arg = {{.param = sim_blk_class.attr_params}}};
	uint8_t b[512];
	struct fixture *f;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, NULL);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512, b, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(ftruncate(f->image_fd, 2 * DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(f->config_irqs, 1);
	assert_int_equal(request(f, VIRTIO_BLK_T_IN, DISK_SIZE / 512, b, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	close_device(f);
}

/* What is refused when a disk is made is refused when it is changed, and changes nothing. */
static void
resize_refuses_what_a_new_disk_would_be_refused(void **state)
{
	struct vdpa_args args = {.n = 1, .arg = {{.param = sim_blk_class.attr_params}}};
	struct sim_blk_backend_params p = {.device = "b", .blk_size = 4096, .read_only = true};
	struct sim_blk_backend *be;
	struct fixture *f;
	struct sim_blk *blk;

	if (!uring_or_skip())
		return;
	f = open_device(false, true, "blk_size");
	blk = f->dev.priv;
	assert_int_equal(blk->blk_size, 4096);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE + 512), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "is not 4096 bytes or a multiple of that"));
	assert_int_equal(blk->be->size, DISK_SIZE);
	assert_int_equal(f->config_irqs, 0);
	p.path = f->image;
	p.share_rw = true;
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);
	/* It can be undone, and grow properly. */
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(ftruncate(f->image_fd, DISK_SIZE + 4096), 0);
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), 0);
	assert_int_equal(f->config_irqs, 1);
	/* As a loop device is told a larger block while it is in use. */
	((struct file_backend *)blk->be)->direct = true;
	((struct file_backend *)blk->be)->mem_align = 0;
	assert_int_equal(sim_blk_class.set_attr(&f->dev, &args), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "direct needs"));
	((struct file_backend *)blk->be)->direct = false;
	close_device(f);
}

static void
direct_image_takes_unaligned_guest_memory(void **state)
{
	static uint8_t in[8192];
	struct fixture *f;
	uint64_t m = slot_mem(0);
	uint32_t len = 0;
	int fd;

	if (!uring_or_skip())
		return;
	fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT, 0600);
	if (fd < 0) {
		print_message("SKIPPED direct: no O_DIRECT in /var/tmp\n");
		skip();
	}
	close(fd);
	f = open_device(false, true, "direct");

	struct part out[] = {{m, 16, false}, {m + 0x1001, 8192, false}, {m + 0x100, 1, true}};
	struct part inp[] = {{m, 16, false}, {m + 0x4003, 8192, true}, {m + 0x100, 1, true}};

	put_header(f, 0, VIRTIO_BLK_T_OUT, 8);
	memset(f->mem + m + 0x1001, 0x77, 8192);
	add_chain(f, 0, out, 3);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	put_header(f, 0, VIRTIO_BLK_T_IN, 8);
	add_chain(f, 0, inp, 3);
	assert_int_equal(wait_used(f, &len), 0);
	assert_int_equal(f->mem[m + 0x100], VIRTIO_BLK_S_OK);
	assert_true(all_bytes(f->mem + m + 0x4003, 0x77, 8192));
	assert_int_equal(pread(f->image_fd, in, sizeof(in), 4096), sizeof(in));
	assert_true(all_bytes(in, 0x77, sizeof(in)));
	close_device(f);
}

static void
refuses_images_that_cannot_be_used(void **state)
{
	struct sim_blk_backend_params p = {.device = "b", .blk_size = 512};
	struct sim_blk_backend *be, *other;
	struct fixture f = {.image_fd = -1};

	if (!uring_or_skip())
		return;
	p.path = "/nonexistent/image";
	assert_int_equal(sim_blk_file_open(&p, &be), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), p.path));
	p.path = "/var/tmp";
	assert_true(sim_blk_file_open(&p, &be) < 0);
	make_image(&f, 1000);
	p.path = f.image;
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), f.image));
	assert_int_equal(ftruncate(f.image_fd, 0), 0);
	assert_int_equal(sim_blk_file_open(&p, &be), -EINVAL);

	assert_int_equal(ftruncate(f.image_fd, 8192), 0);
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), -EBUSY);
	assert_non_null(strstr(vdpa_error_message(), f.image));
	p.read_only = true;
	assert_int_equal(sim_blk_file_open(&p, &other), -EBUSY);
	be->ops->close(be);

	/* Readers share; so do writers that both say so. */
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), 0);
	other->ops->close(other);
	be->ops->close(be);
	p.read_only = false;
	p.share_rw = true;
	assert_int_equal(sim_blk_file_open(&p, &be), 0);
	assert_int_equal(sim_blk_file_open(&p, &other), 0);
	other->ops->close(other);
	be->ops->close(be);
	close(f.image_fd);
	unlink(f.image);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_back_what_was_written),
		cmocka_unit_test(discards_and_zeroes_exactly_the_ranges),
		cmocka_unit_test(refuses_what_lies_outside_or_is_unknown),
		cmocka_unit_test(accepts_any_layout_of_header_data_and_status),
		cmocka_unit_test(answers_malformed_requests_and_goes_on),
		cmocka_unit_test(tells_its_serial_padded_with_zeroes),
		cmocka_unit_test(completes_every_request_of_a_deep_queue_once),
		cmocka_unit_test(drains_when_stopped_and_goes_on_when_started),
		cmocka_unit_test(a_stop_that_takes_too_long_cancels_what_is_left),
		cmocka_unit_test(moves_large_requests_in_pieces),
		cmocka_unit_test(executes_requests_that_a_dead_process_left),
		cmocka_unit_test(survives_ten_thousand_mutated_requests),
		cmocka_unit_test(read_only_device_refuses_writes),
		cmocka_unit_test(write_cache_mode_is_the_only_writable_field),
		cmocka_unit_test(durable_requests_complete_without_a_cache),
		cmocka_unit_test(file_that_shrinks_costs_only_the_requests_past_its_end),
		cmocka_unit_test(resize_grows_and_never_shrinks),
		cmocka_unit_test(resize_refuses_what_a_new_disk_would_be_refused),
		cmocka_unit_test(direct_image_takes_unaligned_guest_memory),
		cmocka_unit_test(refuses_images_that_cannot_be_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
