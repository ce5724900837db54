/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a simulated device executes for a burst of buffers, for a profiler that counts instructions:
 * execute() is the device's part and nothing else. The guest's part and the device's run in turn on
 * the device's worker, so that each run executes the same.
 *
 *	bench_counters net|block split|packed BYTES ROUNDS
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_blk.h>

#include "../../drivers/vdpa/sim/sim.h"
#include "ring_driver.h"
#include "vdpa_frontend.h"

#define BURST	 32
#define NUM	 256
#define MEM_SIZE (8u << 20)
#define HDR	 12
#define BUFS	 (RING_MEM_IOVA + (1 << 20))
#define BUF_SIZE 8192

struct bench {
	struct vdpa_device *vdev;
	struct ring_mem mem;
	struct ring_driver ring[2];
	bool block;
	uint32_t bytes;
	unsigned int rounds;
};

static uint64_t
buf(unsigned int i)
{
	return BUFS + (uint64_t)i * BUF_SIZE;
}

/* What is measured. */
static __attribute__((noinline)) unsigned int
execute(struct sim_queue *q)
{
	return q->dev->class->process(q, BURST);
}

static bool
post_frame(struct bench *b, unsigned int i)
{
	const struct ring_buf rx = {.iova = buf(BURST + i), .len = 2048, .write = true};
	const struct ring_buf tx = {.iova = buf(i), .len = HDR + b->bytes};

	return ring_driver_post(&b->ring[0], &rx, 1) >= 0 &&
	       ring_driver_post(&b->ring[1], &tx, 1) >= 0;
}

static bool
post_read(struct bench *b, unsigned int i)
{
	const struct ring_buf parts[] = {
		{.iova = buf(i), .len = sizeof(struct virtio_blk_outhdr)},
		{.iova = buf(i) + 64, .len = b->bytes, .write = true},
		{.iova = buf(i) + 32, .len = 1, .write = true},
	};

	return ring_driver_post(&b->ring[0], parts, RTE_DIM(parts)) >= 0;
}

static bool
take_back(struct ring_driver *ring)
{
	unsigned int n = 0;
	uint32_t len;
	uint16_t id;

	while (ring_driver_poll(ring, &id, &len))
		n++;
	return n == BURST;
}

/* On the worker. */
static int
run(void *arg)
{
	struct bench *b = arg;
	struct sim_queue *q = &sim_dev(b->vdev)->vqs[b->block ? 0 : 1];

	for (unsigned int r = 0; r < b->rounds; r++) {
		sim_turn_begin(&q->lane->turn, 0);
		for (unsigned int i = 0; i < BURST; i++)
			if (!(b->block ? post_read(b, i) : post_frame(b, i)))
				return -ENOSPC;
		if (execute(q) != BURST)
			return -EIO;
		if (!take_back(&b->ring[0]) || (!b->block && !take_back(&b->ring[1])))
			return -EPROTO;
	}
	return 0;
}

static int
start(struct bench *b, uint64_t features)
{
	const uint64_t size = MEM_SIZE;
	struct vdpa_vq_config vqs[2];
	unsigned int n = b->block ? 1 : 2;
	struct vdpa_start_config conf = {
		.features = features | SIM_BIT(SIM_F_VERSION_1), .vqs = vqs, .nvqs = (uint16_t)n};
	int rc;

	rc = vdpa_dev_add(b->block ? "name bench mgmtdev sim_blk backend ram 16M"
				   : "name bench mgmtdev sim_net");
	if (rc < 0)
		return rc;
	b->vdev = vdpa_find_device("bench");
	rc = ring_mem_init(&b->mem, &size, 1);
	conf.iotlb = b->mem.tlb;
	for (unsigned int i = 0; rc == 0 && i < n; i++) {
		struct ring_driver *r = &b->ring[i];

		rc = ring_driver_init(r, &b->mem, conf.features, NUM, RING_MEM_IOVA + 0x10000 * i);
		vqs[i] = (struct vdpa_vq_config){.ready = true,
						 .enabled = true,
						 .num = NUM,
						 .desc = r->desc,
						 .driver = r->drv,
						 .device = r->dev,
						 .kick_fd = -1,
						 .call_fd = -1};
		vqs[i].state.packed.last_avail_counter = r->packed;
		vqs[i].state.packed.last_used_counter = r->packed;
	}
	return rc < 0 ? rc : vdpa_device_start(b->vdev, &conf);
}

int
main(int argc, char **argv)
{
	struct bench b = {.rounds = 0};
	int rc;

	if (argc != 5) {
		fprintf(stderr, "usage: bench_counters net|block split|packed BYTES ROUNDS\n");
		return 2;
	}
	b.block = strcmp(argv[1], "block") == 0;
	b.bytes = (uint32_t)atoi(argv[3]);
	b.rounds = (unsigned int)atoi(argv[4]);
	rc = vdpa_init(NULL);
	if (rc == 0)
		rc = start(&b, strcmp(argv[2], "packed") == 0 ? SIM_BIT(SIM_F_RING_PACKED) : 0);
	if (rc == 0)
		rc = sim_call(sim_dev(b.vdev), run, &b);
	if (rc < 0) {
		fprintf(stderr, "bench_counters: %s: %s\n", strerror(-rc), vdpa_error_message());
		return 1;
	}
	printf("%u\n", b.rounds * BURST);
	vdpa_device_stop(b.vdev);
	vdpa_put_device(b.vdev);
	vdpa_cleanup();
	return 0;
}
