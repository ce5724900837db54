/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Requests of a block device (virtio 1.2, 5.2.6). Each lane has places of its own on the disk; it
 * writes each, then reads each back, and so on. Where the disk must not be overwritten it only
 * reads, and what it reads must not change.
 */

#include <string.h>

#include <linux/virtio_blk.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "traffic.h"

#define SECTOR 512u

static int
block_begin(struct traffic *x)
{
	struct virtio_blk_config config = {0};
	struct target *t = x->s->t;
	uint64_t bytes;
	size_t len = t->config_size < sizeof(config) ? t->config_size : sizeof(config);
	int rc = t->ops->get_config(t, 0, &config, len);

	if (rc < 0)
		return run_failed_call(x->r, rc, "the configuration cannot be read");
	x->blk_size = SECTOR;
	if (target_has(t, VIRTIO_BLK_F_BLK_SIZE))
		x->blk_size = rte_le_to_cpu_32(config.blk_size);
	if (x->blk_size == 0 || x->blk_size % SECTOR != 0 || x->blk_size > x->s->room)
		return run_fail(x->r, "the configuration has blk_size %u", x->blk_size);
	x->parts_max = SLOT_PARTS_MAX - 2;
	if (target_has(t, VIRTIO_BLK_F_SEG_MAX) && rte_le_to_cpu_32(config.seg_max) < x->parts_max)
		x->parts_max = rte_le_to_cpu_32(config.seg_max);
	if (x->parts_max == 0)
		return run_fail(x->r, "the configuration has seg_max 0");
	bytes = rte_le_to_cpu_64(config.capacity);
	bytes = bytes > UINT64_MAX / SECTOR ? UINT64_MAX : bytes * SECTOR;
	bytes /= (uint64_t)x->s->room * target_data_vqs(t);
	x->places = bytes < TRAFFIC_PLACES ? (uint32_t)bytes : TRAFFIC_PLACES;
	if (x->places == 0)
		return run_skip(x->r, "the disk is too small: %llu sectors",
				(unsigned long long)rte_le_to_cpu_64(config.capacity));
	return 0;
}

static bool
is_write(const struct traffic *x, uint64_t seq)
{
	return x->r->overwrite && seq / x->places % 2 == 0;
}

static uint32_t
place_of(const struct traffic *x, uint64_t seq)
{
	return (uint32_t)(seq % x->places);
}

static uint32_t
size_of(const struct traffic *x, uint64_t seq)
{
	uint32_t blocks = x->s->room / x->blk_size;

	return x->size != 0 ? x->size : x->blk_size * (1 + place_of(x, seq) % blocks);
}

static uint64_t
seed_of(const struct traffic *x, const struct lane *l, uint64_t seq)
{
	/* The same for a place's write and the read that follows. */
	return x->r->seed ^ (uint64_t)l->number << 48 ^ seq / x->places / 2 << 8 ^ place_of(x, seq);
}

static unsigned int
block_make(struct traffic *x, struct lane *l, uint32_t slot, uint64_t seq, struct ring_buf *bufs)
{
	uint32_t size = size_of(x, seq), place = place_of(x, seq), per_part, n = 0;
	uint64_t iova = slot_iova(x->s, l->tx, slot);
	uint8_t *va = slot_va(x->s, l->tx, slot);
	unsigned int parts = x->parts != 0 ? x->parts : 1 + (unsigned int)(seq % 4);
	bool write = is_write(x, seq);
	uint64_t at = ((uint64_t)l->number * x->places + place) * x->s->room;
	struct virtio_blk_outhdr hdr = {
		.type = rte_cpu_to_le_32(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN),
		.sector = rte_cpu_to_le_64(at / SECTOR),
	};

	if (l->busy[place])
		return 0;
	if (parts > x->parts_max)
		parts = x->parts_max;
	l->tx->tag[slot] = seq;
	memset(va, SLOT_GUARD_BYTE, x->s->slot_size);
	memcpy(va + SLOT_HEADER, &hdr, sizeof(hdr));
	va[SLOT_STATUS] = 0xff;
	if (write)
		pattern_fill(va + SLOT_DATA, size, seed_of(x, l, seq));
	bufs[n++] = (struct ring_buf){.iova = iova + SLOT_HEADER, .len = sizeof(hdr)};
	per_part = (size + parts - 1) / parts;
	for (uint32_t done = 0; done < size; done += bufs[n++].len)
		bufs[n] = (struct ring_buf){.iova = iova + SLOT_DATA + done,
					    .len = size - done < per_part ? size - done : per_part,
					    .write = !write};
	bufs[n++] = (struct ring_buf){.iova = iova + SLOT_STATUS, .len = 1, .write = true};
	return n;
}

static void
block_made(struct traffic *x, struct lane *l, uint64_t seq)
{
	l->busy[place_of(x, seq)] = true;
}

static uint64_t
sum_of(const uint8_t *p, uint32_t len)
{
	uint64_t sum = 0xcbf29ce484222325ull;

	for (uint32_t i = 0; i < len; i++)
		sum = (sum ^ p[i]) * 0x100000001b3ull;
	return sum;
}

static int
check_read(struct traffic *x, struct lane *l, const uint8_t *data, uint64_t seq, uint32_t size)
{
	uint32_t place = place_of(x, seq), at;
	uint64_t sum;

	if (x->r->overwrite) {
		at = pattern_check(data, size, seed_of(x, l, seq));
		if (at != size)
			return run_fail(x->r,
					"queue %u: request %llu: of %u bytes read back byte %u is "
					"not what was written",
					l->tx->idx, (unsigned long long)seq, size, at);
		return 0;
	}
	sum = sum_of(data, size);
	if (seq >= x->places && sum != l->sum[place])
		return run_fail(x->r, "queue %u: request %llu: %u bytes read twice differ",
				l->tx->idx, (unsigned long long)seq, size);
	l->sum[place] = sum;
	return 0;
}

static int
block_check(struct traffic *x, struct lane *l, uint32_t slot, uint32_t len)
{
	const uint8_t *va = slot_va(x->s, l->tx, slot);
	uint64_t seq = l->tx->tag[slot];
	uint32_t size = size_of(x, seq), where;
	bool write = is_write(x, seq);
	const struct slot_range written[] = {{SLOT_STATUS, 1}, {SLOT_DATA, write ? 0 : size}};

	l->busy[place_of(x, seq)] = false;
	if (!slot_unchanged_but(x->s, l->tx, slot, written, 2, &where))
		return run_fail(x->r,
				"queue %u: request %llu: the device wrote outside the buffers it "
				"was given, %d bytes from the data's start",
				l->tx->idx, (unsigned long long)seq, (int)where - (int)SLOT_DATA);
	if (va[SLOT_STATUS] != VIRTIO_BLK_S_OK)
		return run_fail(x->r, "queue %u: request %llu: %s of %u bytes: status %u%s",
				l->tx->idx, (unsigned long long)seq, write ? "write" : "read", size,
				va[SLOT_STATUS], va[SLOT_STATUS] == 0xff ? ", not written" : "");
	if (len < (write ? 1 : size + 1))
		return run_fail(x->r,
				"queue %u: request %llu: used length %u, %u bytes were to be "
				"written",
				l->tx->idx, (unsigned long long)seq, len, write ? 1 : size + 1);
	return write ? 0 : check_read(x, l, va + SLOT_DATA, seq, size);
}

const struct traffic_kind traffic_block = {
	.begin = block_begin,
	.make = block_make,
	.made = block_made,
	.check = block_check,
};
