/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * TSC cycles a chain that the device's side of a virtqueue costs: bursts of single-descriptor
 * chains are popped, pushed and flushed. The driver's side runs on the same core between the
 * bursts and is not counted. Medians of many bursts.
 */

#include <stdio.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include <rte_cycles.h>

#include "ring_driver.h"

#define BURST  32
#define ROUNDS 20000
#define NUM    256

static int
compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double
median(uint64_t *v)
{
	qsort(v, ROUNDS, sizeof(v[0]), compare);
	return (double)v[ROUNDS / 2] / BURST;
}

static int
run(const char *name, uint64_t features)
{
	static uint64_t pop[ROUNDS], push[ROUNDS];
	const uint64_t size = 4 << 20;
	struct vdpa_vq_params params;
	struct vdpa_vq_chain chains[BURST];
	struct iovec iov[BURST][4];
	struct ring_driver d;
	struct ring_mem mem;
	struct vdpa_virtqueue *vq = vdpa_vq_alloc(-1);

	if (vq == NULL || ring_mem_init(&mem, &size, 1) < 0 ||
	    ring_driver_init(&d, &mem, features, NUM, RING_MEM_IOVA) < 0)
		return -1;
	ring_driver_params(&d, &params);
	if (vdpa_vq_setup(vq, &params, mem.tlb) < 0)
		return -1;
	for (int i = 0; i < BURST; i++) {
		chains[i].iov = iov[i];
		chains[i].iov_max = 4;
	}
	for (int r = 0; r < ROUNDS; r++) {
		uint64_t t0, t1, t2;
		uint16_t id;
		uint32_t len;

		for (int i = 0; i < BURST; i++) {
			struct ring_buf b = {RING_MEM_IOVA + (1 << 20) + 2048 * i, 76, false};

			ring_driver_post(&d, &b, 1);
		}
		t0 = rte_rdtsc_precise();
		if (vdpa_vq_pop_burst(vq, chains, BURST) != BURST)
			return -1;
		t1 = rte_rdtsc_precise();
		for (int i = 0; i < BURST; i++)
			vdpa_vq_push(vq, &chains[i], 0);
		vdpa_vq_flush(vq);
		t2 = rte_rdtsc_precise();
		pop[r] = t1 - t0;
		push[r] = t2 - t1;
		while (ring_driver_poll(&d, &id, &len))
			;
	}
	printf("%-7s pop %5.1f  push and flush %5.1f  cycles a chain (bursts of %d)\n", name,
	       median(pop), median(push), BURST);
	vdpa_vq_free(vq);
	ring_driver_fini(&d);
	ring_mem_fini(&mem);
	return 0;
}

int
main(void)
{
	if (run("split", 0) < 0 || run("packed", RING_FEATURE(VIRTIO_F_RING_PACKED)) < 0) {
		fprintf(stderr, "bench_virtqueue: a ring did not work\n");
		return 1;
	}
	return 0;
}
