/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * TSC cycles a chain that both sides of a virtqueue cost: bursts of chains are added and published,
 * popped, pushed and flushed, and taken, all on one core. Medians of many bursts. With an argument
 * that many rounds, for a profiler that counts instructions.
 */

#include <stdio.h>
#include <stdlib.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_cycles.h>

#include "ring_driver.h"

#define BURST  32
#define ROUNDS 20000
#define NUM    256

#define TABLES (RING_MEM_IOVA + (2 << 20))
#define BUFS   (RING_MEM_IOVA + (1 << 20))

enum phase { ADD, POP, PUSH, TAKE, PHASES };

static uint64_t cycles[PHASES][ROUNDS];
static unsigned int rounds = ROUNDS;

static int
compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double
median(uint64_t *v)
{
	qsort(v, rounds, sizeof(v[0]), compare);
	return (double)v[rounds / 2] / BURST;
}

/* A burst there and back. */
static int
go_round(struct vdpa_vring *ring, struct vdpa_virtqueue *vq, unsigned int parts, unsigned int round)
{
	static struct iovec iov[BURST][4];
	struct vdpa_vq_chain chains[BURST];
	uint64_t t[PHASES + 1];
	unsigned int n = 0;
	uint16_t id;
	uint32_t len;

	for (int i = 0; i < BURST; i++) {
		chains[i].iov = iov[i];
		chains[i].iov_max = 4;
	}
	t[ADD] = rte_rdtsc_precise();
	for (int i = 0; i < BURST; i++) {
		const struct vdpa_vring_seg segs[] = {{BUFS + 2048 * i, 76, false},
						      {BUFS + 2048 * i + 1024, 500, false}};

		if (vdpa_vring_add(ring, segs, parts) < 0)
			return -1;
	}
	vdpa_vring_publish(ring);
	t[POP] = rte_rdtsc_precise();
	if (vdpa_vq_pop_burst(vq, chains, BURST) != BURST)
		return -1;
	t[PUSH] = rte_rdtsc_precise();
	for (int i = 0; i < BURST; i++)
		vdpa_vq_push(vq, &chains[i], 0);
	vdpa_vq_flush(vq);
	t[TAKE] = rte_rdtsc_precise();
	while (vdpa_vring_take(ring, &id, &len) == 1)
		n++;
	t[PHASES] = rte_rdtsc_precise();
	for (unsigned int i = 0; i < PHASES; i++)
		cycles[i][round] = t[i + 1] - t[i];
	return n == BURST ? 0 : -1;
}

static int
run(const char *name, uint64_t features, unsigned int parts)
{
	const uint64_t size = 4 << 20;
	const bool packed = features & RING_FEATURE(VIRTIO_F_RING_PACKED);
	const struct vdpa_ring_size parts_size = vdpa_ring_size(packed, NUM);
	struct vdpa_vring *ring = vdpa_vring_alloc();
	struct vdpa_virtqueue *vq = vdpa_vq_alloc(-1);
	struct vdpa_vq_params dev = {.features = features, .num = NUM, .desc = RING_MEM_IOVA};
	struct vdpa_vring_params drv = {.features = features, .num = NUM};
	struct ring_mem mem;

	if (ring == NULL || vq == NULL || ring_mem_init(&mem, &size, 1) < 0)
		return -1;
	dev.driver = dev.desc + parts_size.desc;
	dev.device = (dev.driver + parts_size.driver + 63) & ~63ULL;
	dev.state.packed.last_avail_counter = dev.state.packed.last_used_counter = packed;
	drv.desc = ring_mem_va(&mem, dev.desc);
	drv.driver = ring_mem_va(&mem, dev.driver);
	drv.device = ring_mem_va(&mem, dev.device);
	drv.tables = ring_mem_va(&mem, TABLES);
	drv.tables_iova = TABLES;
	drv.tables_entries = 4 * NUM;
	drv.place = dev.state;
	if (vdpa_vring_setup(ring, &drv) < 0 || vdpa_vq_setup(vq, &dev, mem.tlb) < 0)
		return -1;
	for (unsigned int r = 0; r < rounds; r++)
		if (go_round(ring, vq, parts, r) < 0)
			return -1;
	printf("%-24s add %5.1f  pop %5.1f  push %5.1f  take %5.1f  cycles a chain (bursts of "
	       "%d)\n",
	       name, median(cycles[ADD]), median(cycles[POP]), median(cycles[PUSH]),
	       median(cycles[TAKE]), BURST);
	vdpa_vq_free(vq);
	vdpa_vring_free(ring);
	ring_mem_fini(&mem);
	return 0;
}

int
main(int argc, char **argv)
{
	const uint64_t packed = RING_FEATURE(VIRTIO_F_RING_PACKED),
		       order = RING_FEATURE(VIRTIO_F_IN_ORDER),
		       indirect = RING_FEATURE(VIRTIO_RING_F_INDIRECT_DESC);

	if (argc > 1)
		rounds = (unsigned int)atoi(argv[1]);
	if (rounds == 0 || rounds > ROUNDS)
		rounds = ROUNDS;
	if (run("split", 0, 1) < 0 || run("packed", packed, 1) < 0 ||
	    run("split in order", order, 1) < 0 || run("packed in order", packed | order, 1) < 0 ||
	    run("split, chains of 2", 0, 2) < 0 || run("packed, chains of 2", packed, 2) < 0 ||
	    run("split, tables of 2", indirect, 2) < 0 ||
	    run("packed, tables of 2", packed | indirect, 2) < 0) {
		fprintf(stderr, "bench_virtqueue: a ring did not work\n");
		return 1;
	}
	return 0;
}
