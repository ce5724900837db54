/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * TSC cycles a packet that a shadow or a relay adds to a device that sends back what it gets, all
 * on one core: bursts of frames go out and come back, and the driver, the device and the movers
 * take turns, so that nobody waits for another core's cache and no other thread is in a figure. The
 * device calls the library as sim_net does. What is compared alternates round by round; medians of
 * many rounds. With arguments a number of rounds and one of the names, for a profiler that counts
 * instructions: SHADOW_ROUNDS NAME.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include <rte_common.h>
#include <rte_cycles.h>

#include "mover_priv.h"
#include "relay.h"
#include "ring_driver.h"
#include "shadow.h"

#define BURST  32
#define ROUNDS 20000
#define NUM    256
#define HDR    12

/* Offsets of a queue's parts in the guest's memory and in ours; frames lie behind the rings. */
#define PART  0x2000u
#define QUEUE (3 * PART)
#define BUFS  0x40000u
#define BUF   2048u

enum queue { RX, TX, QUEUES };
enum kind { DIRECT, RELAY, SHADOW };

struct pair {
	const char *name;
	enum kind kind;
	uint64_t guest, device; /* features of the rings */
	bool account;		/* with an inflight area for each of the guest's */
	void *area[QUEUES];
	struct ring_mem mem; /* the guest's; ours, where the device's rings lie */
	struct vdpa_vring *driver[QUEUES];
	struct vdpa_virtqueue *vq[QUEUES]; /* the device's */
	struct vdpa_mover *mover[QUEUES];
	struct vdpa_vq_chain chains[QUEUES][BURST];
	struct iovec iov[QUEUES][BURST][4];
	uint64_t cycles[ROUNDS], moved[ROUNDS]; /* the device's; the movers' */
	unsigned int failures;
};

static struct vdpa_event_loop *loop;

static int
compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double
median(uint64_t *v, unsigned int n)
{
	qsort(v, n, sizeof(v[0]), compare);
	return (double)v[n / 2] / BURST;
}

static void
kick(void *arg)
{
	(void)arg;
}

static void
failed(void *arg, int err, const char *why)
{
	struct pair *p = arg;

	fprintf(stderr, "bench_shadow: %s: %s (%d)\n", p->name, why, err);
	p->failures++;
}

static const struct vdpa_mover_ops ops = {.kick = kick, .failed = failed};

/* IOVAs of a queue's three parts in region r, and what is there in our address space. */
static uint64_t
part_of(const struct pair *p, unsigned int r, unsigned int q, unsigned int part)
{
	return p->mem.region[r].iova + q * QUEUE + part * PART;
}

static struct vdpa_vring_params
vring_params(const struct pair *p, unsigned int r, unsigned int q, uint64_t features)
{
	const bool packed = (features & RING_FEATURE(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_vring_params params = {
		.features = features,
		.num = NUM,
		.desc = ring_mem_va(&p->mem, part_of(p, r, q, 0)),
		.driver = ring_mem_va(&p->mem, part_of(p, r, q, 1)),
		.device = ring_mem_va(&p->mem, part_of(p, r, q, 2)),
	};

	params.place.packed.last_avail_counter = params.place.packed.last_used_counter = packed;
	return params;
}

static struct vdpa_vq_params
vq_params(const struct pair *p, unsigned int r, unsigned int q, uint64_t features)
{
	return (struct vdpa_vq_params){
		.features = features,
		.num = NUM,
		.desc = part_of(p, r, q, 0),
		.driver = part_of(p, r, q, 1),
		.device = part_of(p, r, q, 2),
		.state = vring_params(p, r, q, features).place,
	};
}

static int
set_up_queue(struct pair *p, unsigned int q)
{
	const struct vdpa_vring_params driver = vring_params(p, 0, q, p->guest);
	struct vdpa_vq_params device = vq_params(p, p->kind != DIRECT, q, p->device);
	struct vdpa_mover_params params = {
		.loop = loop,
		.guest = vq_params(p, 0, q, p->guest),
		.tlb = p->mem.tlb,
		.kick_fd = -1,
		.call_fd = -1,
		.ring = vring_params(p, 1, q, p->device),
		.lengths_tell = true,
		.ops = &ops,
		.arg = p,
	};
	int rc = 0;

	if (p->account) {
		size_t size = vdpa_vq_inflight_size(p->guest != 0, NUM);

		p->area[q] = calloc(1, size);
		if (p->area[q] == NULL)
			return -1;
		params.guest.inflight = (struct vdpa_vq_inflight){.addr = p->area[q], .size = size};
	}
	p->driver[q] = vdpa_vring_alloc();
	p->vq[q] = vdpa_vq_alloc(-1);
	if (p->driver[q] == NULL || p->vq[q] == NULL || vdpa_vring_setup(p->driver[q], &driver) < 0)
		return -1;
	if (p->kind == RELAY) {
		device.desc = part_of(p, 0, q, 0);
		rc = vdpa_relay_create(&params, &p->mover[q]);
	} else if (p->kind == SHADOW) {
		rc = vdpa_shadow_create(&params, &p->mover[q]);
	}
	if (rc < 0 || vdpa_vq_setup(p->vq[q], &device, p->mem.tlb) < 0)
		return -1;
	/* As they are while there is work. */
	vdpa_vring_disable_calls(p->driver[q]);
	vdpa_vq_disable_kicks(p->vq[q]);
	if (p->mover[q] != NULL) {
		vdpa_vq_disable_kicks(p->mover[q]->guest);
		vdpa_vring_disable_calls(p->mover[q]->ring);
	}
	for (unsigned int i = 0; i < BURST; i++) {
		p->chains[q][i].iov = p->iov[q][i];
		p->chains[q][i].iov_max = RTE_DIM(p->iov[q][i]);
	}
	return 0;
}

static int
set_up(struct pair *p)
{
	const uint64_t sizes[] = {4 << 20, 1 << 20};

	if (ring_mem_init(&p->mem, sizes, 2) < 0)
		return -1;
	return set_up_queue(p, RX) < 0 || set_up_queue(p, TX) < 0 ? -1 : 0;
}

static void
tear_down(struct pair *p)
{
	for (unsigned int q = 0; q < QUEUES; q++) {
		vdpa_mover_free(p->mover[q]);
		vdpa_vq_free(p->vq[q]);
		vdpa_vring_free(p->driver[q]);
		free(p->area[q]);
	}
	ring_mem_fini(&p->mem);
}

/* The driver: take back a burst, whose buffers are what they were, and give another. */
static int
drive(struct pair *p, uint32_t size, bool first)
{
	for (unsigned int q = 0; q < QUEUES; q++) {
		unsigned int n = 0;
		uint32_t len;
		uint16_t id;

		while (vdpa_vring_take(p->driver[q], &id, &len) == 1)
			n++;
		if (n != (first ? 0 : BURST))
			return -1;
		for (unsigned int i = 0; i < BURST; i++) {
			const struct vdpa_vring_seg seg = {.iova = p->mem.region[0].iova + BUFS +
								   (q * BURST + i) * BUF,
							   .len = q == RX ? BUF : HDR + size,
							   .write = q == RX};

			if (vdpa_vring_add(p->driver[q], &seg, 1) < 0)
				return -1;
		}
		vdpa_vring_publish(p->driver[q]);
		vdpa_vring_wants_kick(p->driver[q]);
	}
	return 0;
}

/* The device: each frame to a receive buffer. */
static int
loop_back(struct pair *p)
{
	struct vdpa_vq_chain *rx = p->chains[RX], *tx = p->chains[TX];
	uint32_t written[BURST];
	int n = vdpa_vq_pop_burst(p->vq[TX], tx, BURST);

	if (n != BURST || vdpa_vq_pop_burst(p->vq[RX], rx, BURST) != BURST)
		return -1;
	vdpa_vq_prefetch_used(p->vq[RX], BURST);
	vdpa_vq_prefetch_used(p->vq[TX], BURST);
	for (int i = 0; i < n; i++) {
		memcpy(rx[i].iov[0].iov_base, tx[i].iov[0].iov_base, tx[i].out_len);
		written[i] = tx[i].out_len;
	}
	vdpa_vq_push_burst(p->vq[RX], rx, written, BURST);
	vdpa_vq_flush(p->vq[RX]);
	vdpa_vq_notify(p->vq[RX]);
	vdpa_vq_push_burst(p->vq[TX], tx, NULL, BURST);
	vdpa_vq_flush(p->vq[TX]);
	vdpa_vq_notify(p->vq[TX]);
	return 0;
}

static void
move(struct pair *p)
{
	for (unsigned int q = 0; q < QUEUES && p->kind != DIRECT; q++)
		p->mover[q]->poller.poll(&p->mover[q]->poller);
}

static uint64_t
moved(const struct pair *p)
{
	uint64_t n = 0;

	for (unsigned int q = 0; q < QUEUES && p->kind != DIRECT; q++)
		n += p->mover[q]->stats.busy;
	return n;
}

static int
go_round(struct pair *p, uint32_t size, unsigned int round)
{
	uint64_t before = moved(p), t;

	if (drive(p, size, round == 0) < 0)
		return -1;
	move(p);
	t = rte_rdtsc_precise();
	if (loop_back(p) < 0)
		return -1;
	p->cycles[round] = rte_rdtsc_precise() - t;
	move(p);
	p->moved[round] = moved(p) - before;
	return p->failures > 0 ? -1 : 0;
}

static int
run(struct pair *pairs, unsigned int n, const char *name, uint32_t size, unsigned int rounds)
{
	double base = 0;

	for (unsigned int i = 0; i < n; i++)
		if (set_up(&pairs[i]) < 0)
			return -1;
	for (unsigned int r = 0; r < rounds; r++)
		for (unsigned int i = 0; i < n; i++)
			if ((name == NULL || strcmp(name, pairs[i].name) == 0) &&
			    go_round(&pairs[i], size, r) < 0)
				return -1;
	for (unsigned int i = 0; i < n; i++) {
		const double device = median(pairs[i].cycles, rounds),
			     mover = median(pairs[i].moved, rounds);

		if (name == NULL && pairs[i].kind == DIRECT) {
			base = device;
			printf("%-28s %5u %8.1f\n", pairs[i].name, size, device);
		} else if (name == NULL) {
			printf("%-28s %5u %8.1f %8.1f %8.2f\n", pairs[i].name, size, device, mover,
			       mover / base);
		}
		tear_down(&pairs[i]);
	}
	return 0;
}

int
main(int argc, char **argv)
{
	const uint64_t packed = RING_FEATURE(VIRTIO_F_RING_PACKED);
	const struct vdpa_event_loop_params params = {.name = "bench", .lcore_id = UINT32_MAX};
	const uint32_t sizes[] = {64, 1518};
	static struct pair pairs[] = {
		{.name = "split"},
		{.name = "split relay", .kind = RELAY},
		{.name = "split shadow", .kind = SHADOW},
		{.name = "split shadow account", .kind = SHADOW, .account = true},
		{.name = "split shadow packed", .kind = SHADOW, .device = 1},
		{.name = "packed", .guest = 1, .device = 1},
		{.name = "packed shadow", .kind = SHADOW, .guest = 1, .device = 1},
		{.name = "packed shadow account",
		 .kind = SHADOW,
		 .guest = 1,
		 .device = 1,
		 .account = true},
		{.name = "packed shadow split", .kind = SHADOW, .guest = 1},
	};
	unsigned int rounds = argc > 1 ? (unsigned int)atoi(argv[1]) : ROUNDS;
	const char *name = argc > 2 ? argv[2] : NULL;

	if (rounds == 0 || rounds > ROUNDS || vdpa_event_loop_create(&params, &loop) < 0)
		return 1;
	for (unsigned int i = 0; i < RTE_DIM(pairs); i++) {
		pairs[i].guest = pairs[i].guest != 0 ? packed : 0;
		pairs[i].device = pairs[i].device != 0 ? packed : 0;
	}
	if (name == NULL)
		printf("%-28s %5s %8s %8s %8s   TSC cycles a packet, bursts of %d\n",
		       "guest, path, ring", "bytes", "device", "mover", "ratio", BURST);
	for (unsigned int i = 0; i < (name == NULL ? RTE_DIM(sizes) : 1); i++)
		if (run(pairs, RTE_DIM(pairs), name, sizes[i], rounds) < 0) {
			fprintf(stderr, "bench_shadow: a queue did not work\n");
			return 1;
		}
	vdpa_event_loop_destroy(loop);
	return 0;
}
