/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Cases of block devices (virtio 1.2, 5.2): one request at a time, each with its answer. */

#include <stdio.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <rte_byteorder.h>

#include <vdpa.h>

#include "traffic.h"

#define SECTOR	   512u
#define REQUEST_MS 10000u
#define DATA	   4096u
#define UNWRITTEN  0xff

struct disk {
	struct session s;
	struct virtio_blk_config config;
	uint64_t capacity; /* sectors */
	uint32_t blk_size; /* bytes */
};

static int
open_disk(struct run *r, struct disk *d)
{
	const struct session_params params = {.n = 1};
	size_t len = r->t->config_size < sizeof(d->config) ? r->t->config_size : sizeof(d->config);
	int rc = run_start(r, &d->s, &params);

	if (rc != 0)
		return rc;
	memset(&d->config, 0, sizeof(d->config));
	rc = r->t->ops->get_config(r->t, 0, &d->config, len);
	if (rc < 0)
		return run_finish(r, &d->s, run_failed_call(r, rc, "the configuration"));
	d->capacity = rte_le_to_cpu_64(d->config.capacity);
	d->blk_size = target_has(r->t, VIRTIO_BLK_F_BLK_SIZE) ? rte_le_to_cpu_32(d->config.blk_size)
							      : SECTOR;
	if (d->blk_size == 0)
		d->blk_size = SECTOR;
	r->step = "waiting for a block request";
	return 0;
}

/*
 * Execute one request with the data in slot 0: its status, or RUN_FAILED. in: bytes that the device
 * writes, out: bytes that it reads.
 */
static int
request(struct run *r, struct disk *d, uint32_t type, uint64_t sector, uint32_t out, uint32_t in)
{
	struct session *s = &d->s;
	struct queue *q = &s->q[0];
	uint8_t *va = slot_va(s, q, 0);
	uint64_t iova = slot_iova(s, q, 0), end = waited_ns() + run_ms(r, REQUEST_MS) * 1000000;
	const struct virtio_blk_outhdr hdr = {.type = rte_cpu_to_le_32(type),
					      .sector = rte_cpu_to_le_64(sector)};
	const struct slot_range written[] = {{SLOT_STATUS, 1}, {SLOT_DATA, in}};
	struct ring_buf bufs[3];
	uint32_t len, where;
	unsigned int n = 0;
	uint16_t id;
	int rc = 0;

	memcpy(va + SLOT_HEADER, &hdr, sizeof(hdr));
	va[SLOT_STATUS] = UNWRITTEN;
	bufs[n++] = (struct ring_buf){.iova = iova + SLOT_HEADER, .len = sizeof(hdr)};
	if (out + in > 0)
		bufs[n++] = (struct ring_buf){
			.iova = iova + SLOT_DATA, .len = out + in, .write = in > 0};
	bufs[n++] = (struct ring_buf){.iova = iova + SLOT_STATUS, .len = 1, .write = true};
	slot_remember(s, q, 0);
	if (ring_driver_post(&q->ring, bufs, n) < 0)
		return run_fail(r, "the ring is full");
	queue_kick(q);
	while (rc == 0 && waited_ns() < end) {
		rc = ring_driver_take(&q->ring, &id, &len);
		if (rc == 0)
			sleep_us(50);
	}
	if (rc < 0)
		return run_fail(r, "queue 0: %s", ring_driver_bad(&q->ring));
	if (rc == 0) {
		rc = run_check_alive(r);
		return rc != 0 ? rc
			       : run_fail(r, "request type %u sector %llu is not answered", type,
					  (unsigned long long)sector);
	}
	if (!slot_unchanged_but(s, q, 0, written, 2, &where))
		return run_fail(r,
				"request type %u: the device wrote outside the buffers, %d bytes "
				"from the data's start",
				type, (int)where - (int)SLOT_DATA);
	if (va[SLOT_STATUS] == UNWRITTEN)
		return run_fail(r, "request type %u sector %llu: no status was written", type,
				(unsigned long long)sector);
	return va[SLOT_STATUS];
}

static uint8_t *
data(struct disk *d)
{
	return slot_va(&d->s, &d->s.q[0], 0) + SLOT_DATA;
}

static const char *
status_name(int status)
{
	static const char *const names[] = {"OK", "IOERR", "UNSUPP"};

	return status >= 0 && status < 3 ? names[status] : "no status of the specification";
}

/* The request must have this status. */
static int
expect(struct run *r, int status, int wanted, const char *what)
{
	if (status < 0)
		return status;
	if (status == wanted)
		return 0;
	return run_fail(r, "%s: answered %s (%d) instead of %s", what, status_name(status), status,
			status_name(wanted));
}

static int
need_overwrite(struct run *r)
{
	if (target_has(r->t, VIRTIO_BLK_F_RO))
		return run_skip(r, "the disk is read-only");
	if (!r->overwrite)
		return run_skip(r, "it would overwrite the disk: allow that by --overwrite");
	return 0;
}

static int
write_pattern(struct run *r, struct disk *d, uint64_t sector, uint64_t seed)
{
	pattern_fill(data(d), DATA, seed);
	return expect(r, request(r, d, VIRTIO_BLK_T_OUT, sector, DATA, 0), VIRTIO_BLK_S_OK,
		      "write");
}

static int
read_pattern(struct run *r, struct disk *d, uint64_t sector, uint64_t seed)
{
	uint32_t at;
	int rc;

	memset(data(d), 0xee, DATA);
	rc = expect(r, request(r, d, VIRTIO_BLK_T_IN, sector, 0, DATA), VIRTIO_BLK_S_OK, "read");
	if (rc != 0)
		return rc;
	at = pattern_check(data(d), DATA, seed);
	return at == DATA ? 0
			  : run_fail(r, "sector %llu: byte %u read back is not what was written",
				     (unsigned long long)sector, at);
}

static int
write_read(struct run *r)
{
	struct disk d;
	uint64_t last;
	int rc = need_overwrite(r);

	if (rc == 0)
		rc = open_disk(r, &d);
	if (rc != 0)
		return rc;
	/* The first and the last place. */
	last = d.capacity >= 2 * DATA / SECTOR
		       ? (d.capacity - DATA / SECTOR) & ~(uint64_t)(DATA / SECTOR - 1)
		       : 0;
	rc = write_pattern(r, &d, 0, r->seed + 1);
	if (rc == 0 && last > 0)
		rc = write_pattern(r, &d, last, r->seed + 2);
	if (rc == 0)
		rc = read_pattern(r, &d, 0, r->seed + 1);
	if (rc == 0 && last > 0)
		rc = read_pattern(r, &d, last, r->seed + 2);
	return run_finish(r, &d.s, rc);
}

static int
flush(struct run *r)
{
	struct disk d;
	int rc;

	if (!target_has(r->t, VIRTIO_BLK_F_FLUSH))
		return run_skip(r, "the device does not offer FLUSH");
	rc = open_disk(r, &d);
	if (rc != 0)
		return rc;
	if (r->overwrite && !target_has(r->t, VIRTIO_BLK_F_RO))
		rc = write_pattern(r, &d, 0, r->seed + 3);
	if (rc == 0)
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_FLUSH, 0, 0, 0), VIRTIO_BLK_S_OK,
			    "flush");
	if (rc == 0 && r->overwrite && !target_has(r->t, VIRTIO_BLK_F_RO))
		rc = read_pattern(r, &d, 0, r->seed + 3);
	return run_finish(r, &d.s, rc);
}

static int
get_id(struct run *r)
{
	struct disk d;
	int rc = open_disk(r, &d);

	if (rc != 0)
		return rc;
	memset(data(&d), 0, VIRTIO_BLK_ID_BYTES);
	rc = request(r, &d, VIRTIO_BLK_T_GET_ID, 0, 0, VIRTIO_BLK_ID_BYTES);
	if (rc == VIRTIO_BLK_S_UNSUPP)
		rc = run_skip(r, "the device answers UNSUPP to GET_ID");
	else
		rc = expect(r, rc, VIRTIO_BLK_S_OK, "GET_ID");
	for (int i = 0; rc == 0 && i < VIRTIO_BLK_ID_BYTES && data(&d)[i] != 0; i++)
		if (data(&d)[i] < 0x20 || data(&d)[i] > 0x7e)
			rc = run_fail(r, "GET_ID: byte %d is 0x%02x, no printable character", i,
				      data(&d)[i]);
	return run_finish(r, &d.s, rc);
}

static int
ranges(struct run *r, unsigned int bit, uint32_t type, const char *name, bool zeroes)
{
	struct disk d;
	struct virtio_blk_discard_write_zeroes range = {.num_sectors =
								rte_cpu_to_le_32(DATA / SECTOR)};
	int rc = need_overwrite(r);

	if (rc != 0)
		return rc;
	if (!target_has(r->t, bit))
		return run_skip(r, "the device does not offer %s", name);
	rc = open_disk(r, &d);
	if (rc != 0)
		return rc;
	rc = write_pattern(r, &d, 0, r->seed + 4);
	if (rc == 0)
		rc = write_pattern(r, &d, DATA / SECTOR, r->seed + 5);
	if (rc == 0) {
		memcpy(data(&d), &range, sizeof(range));
		rc = expect(r, request(r, &d, type, 0, sizeof(range), 0), VIRTIO_BLK_S_OK, name);
	}
	if (rc == 0) {
		memset(data(&d), 0xee, DATA);
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, 0, 0, DATA), VIRTIO_BLK_S_OK,
			    "read");
	}
	for (uint32_t i = 0; rc == 0 && zeroes && i < DATA; i++)
		if (data(&d)[i] != 0)
			rc = run_fail(r, "byte %u is 0x%02x after %s", i, data(&d)[i], name);
	/* What lies behind the range is as it was. */
	if (rc == 0)
		rc = read_pattern(r, &d, DATA / SECTOR, r->seed + 5);
	/* A range past the end. */
	if (rc == 0) {
		range.sector = rte_cpu_to_le_64(d.capacity);
		memcpy(data(&d), &range, sizeof(range));
		rc = expect(r, request(r, &d, type, 0, sizeof(range), 0), VIRTIO_BLK_S_IOERR,
			    "a range past the end");
	}
	return run_finish(r, &d.s, rc);
}

static int
discard(struct run *r)
{
	return ranges(r, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_T_DISCARD, "DISCARD", false);
}

static int
write_zeroes(struct run *r)
{
	return ranges(r, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_T_WRITE_ZEROES, "WRITE_ZEROES",
		      true);
}

static int
out_of_range(struct run *r)
{
	struct disk d;
	int rc = open_disk(r, &d);

	if (rc != 0)
		return rc;
	rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, d.capacity, 0, DATA), VIRTIO_BLK_S_IOERR,
		    "a read past the end");
	if (rc == 0)
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, UINT64_MAX / SECTOR, 0, DATA),
			    VIRTIO_BLK_S_IOERR, "a read far past the end");
	/* Nothing is written even if a device should take it. */
	if (rc == 0 && r->overwrite)
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_OUT, d.capacity, DATA, 0),
			    VIRTIO_BLK_S_IOERR, "a write past the end");
	if (rc == 0)
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, 0, 0, DATA), VIRTIO_BLK_S_OK,
			    "a read after that");
	return run_finish(r, &d.s, rc);
}

static int
unaligned(struct run *r)
{
	struct disk d;
	int rc = open_disk(r, &d);

	if (rc != 0)
		return rc;
	/* Not whole sectors: an error, and never a short read that is called OK. */
	rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, 0, 0, SECTOR - 1), VIRTIO_BLK_S_IOERR,
		    "a read of 511 bytes");
	if (rc == 0)
		rc = expect(r, request(r, &d, VIRTIO_BLK_T_IN, 0, 0, DATA), VIRTIO_BLK_S_OK,
			    "a read after that");
	return run_finish(r, &d.s, rc);
}

static int
unknown_request(struct run *r)
{
	struct disk d;
	int rc = open_disk(r, &d);

	if (rc != 0)
		return rc;
	rc = expect(r, request(r, &d, 0x7ffffff0, 0, 0, SECTOR), VIRTIO_BLK_S_UNSUPP,
		    "a request of an unknown type");
	return run_finish(r, &d.s, rc);
}

static int
read_only(struct run *r)
{
	struct disk d;
	int rc;

	if (!target_has(r->t, VIRTIO_BLK_F_RO))
		return run_skip(r, "the disk is not read-only");
	rc = open_disk(r, &d);
	if (rc != 0)
		return rc;
	rc = expect(r, request(r, &d, VIRTIO_BLK_T_OUT, 0, DATA, 0), VIRTIO_BLK_S_IOERR,
		    "a write to a read-only disk");
	return run_finish(r, &d.s, rc);
}

const struct run_case block_cases[] = {
	{"block_write_read", "the first and last place are read back as written", 30000,
	 TARGET_BLOCK, write_read},
	{"block_flush", "a flush completes, and keeps what was written", 30000, TARGET_BLOCK,
	 flush},
	{"block_discard", "discard of a range, and of none past the end", 30000, TARGET_BLOCK,
	 discard},
	{"block_write_zeroes", "zeroes where they were asked for and nowhere else", 30000,
	 TARGET_BLOCK, write_zeroes},
	{"block_get_id", "the serial number is text", 15000, TARGET_BLOCK, get_id},
	{"block_out_of_range", "a request past the end is an I/O error", 30000, TARGET_BLOCK,
	 out_of_range},
	{"block_unaligned", "a request of no whole sectors is an I/O error", 30000, TARGET_BLOCK,
	 unaligned},
	{"block_unknown", "an unknown request is unsupported", 15000, TARGET_BLOCK,
	 unknown_request},
	{"block_read_only", "a write to a read-only disk is an I/O error", 15000, TARGET_BLOCK,
	 read_only},
	{.name = NULL},
};
