/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How long a guest's frames stand still while its queues change from the direct path to relays or
 * shadows and back: a sim_net without a log, in this process, whose frames go round, and a dirty
 * log that begins and ends. A thread is the guest's driver and notes the longest time between two
 * frames that it got back; the device's worker is another thread.
 *
 * bench_switch split|packed TIMES CPU CPU: a line a change with "on" or "off", microseconds that
 * the change took its caller, and the longest gap about it; and as many lines "none" of times as
 * long without a change. The driver has the second CPU, all else the first.
 */

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "ring_driver.h"
#include "vdpa_frontend.h"

#define NUM	   256
#define UNDER_WAY  32
#define FRAME	   76u /* with its header */
#define ROOM	   2048u
#define QUEUES	   2
#define RING_SPACE 0x10000ull
#define BUFS	   (RING_MEM_IOVA + QUEUES * RING_SPACE)
#define SIZE	   (4u << 20)
/* How long is looked at gaps from the beginning of a change on. */
#define WINDOW_US  3000

struct guest {
	struct vdpa_device *vdev;
	struct ring_mem mem;
	struct ring_driver ring[QUEUES];
	struct vdpa_vq_config vqs[QUEUES];
	double longest; /* us; under the lock */
	bool stop;
	int cpu;
	pthread_mutex_t lock;
};

static double
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static void
die(const char *what)
{
	fprintf(stderr, "bench_switch: %s: %s\n", what, vdpa_error_message());
	exit(1);
}

static void
stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		die("CPU");
}

static void
start(struct guest *g, bool packed)
{
	const uint64_t size = SIZE, features = RING_FEATURE(VIRTIO_F_VERSION_1) |
					       RING_FEATURE(VIRTIO_NET_F_MRG_RXBUF) |
					       (packed ? RING_FEATURE(VIRTIO_F_RING_PACKED) : 0);
	struct vdpa_start_config conf = {.features = features, .vqs = g->vqs, .nvqs = QUEUES};

	if (vdpa_dev_add("name net0 mgmtdev sim_net backend loopback no_log") < 0)
		die("net0");
	g->vdev = vdpa_find_device("net0");
	if (ring_mem_init(&g->mem, &size, 1) < 0)
		die("guest memory");
	conf.iotlb = g->mem.tlb;
	for (unsigned int i = 0; i < QUEUES; i++) {
		struct ring_driver *r = &g->ring[i];

		if (ring_driver_init(r, &g->mem, features, NUM, RING_MEM_IOVA + i * RING_SPACE) < 0)
			die("ring");
		g->vqs[i] = (struct vdpa_vq_config){.ready = true,
						    .enabled = true,
						    .num = NUM,
						    .desc = r->desc,
						    .driver = r->drv,
						    .device = r->dev,
						    .kick_fd = eventfd(0, EFD_NONBLOCK),
						    .call_fd = eventfd(0, EFD_NONBLOCK)};
		g->vqs[i].state.packed.last_avail_counter = packed;
		g->vqs[i].state.packed.last_used_counter = packed;
		ring_driver_no_calls(r);
	}
	if (vdpa_device_start(g->vdev, &conf) < 0)
		die("start");
}

static void
post(struct guest *g, unsigned int q, uint16_t slot, uint16_t *slots)
{
	const struct ring_buf buf = {.iova = BUFS + (uint64_t)(q * UNDER_WAY + slot) * ROOM,
				     .len = q == 0 ? ROOM : FRAME,
				     .write = q == 0};
	int id = ring_driver_post(&g->ring[q], &buf, 1);

	if (id < 0)
		die("post");
	slots[id] = slot;
}

/* Take back and give again. How many. */
static unsigned int
go_on(struct guest *g, unsigned int q, uint16_t *slots)
{
	unsigned int n = 0;
	uint32_t len;
	uint16_t id;

	for (; ring_driver_poll(&g->ring[q], &id, &len); n++)
		post(g, q, slots[id], slots);
	if (n > 0 && ring_driver_kick_wanted(&g->ring[q]))
		eventfd_write(g->vqs[q].kick_fd, 1);
	return n;
}

static void
note(struct guest *g, double gap)
{
	pthread_mutex_lock(&g->lock);
	g->longest = gap > g->longest ? gap : g->longest;
	pthread_mutex_unlock(&g->lock);
}

static void *
drive(void *arg)
{
	static uint16_t slots[QUEUES][NUM];
	struct guest *g = arg;
	double last, now;

	stay_on(g->cpu);
	for (unsigned int q = 0; q < QUEUES; q++) {
		for (uint16_t i = 0; i < UNDER_WAY; i++)
			post(g, q, i, slots[q]);
		eventfd_write(g->vqs[q].kick_fd, 1);
	}
	last = now_us();
	while (!__atomic_load_n(&g->stop, __ATOMIC_RELAXED)) {
		unsigned int n = go_on(g, 0, slots[0]);

		go_on(g, 1, slots[1]);
		now = now_us();
		note(g, now - last);
		if (n > 0)
			last = now;
	}
	return NULL;
}

/* The longest gap since this was asked last. */
static double
take_longest(struct guest *g)
{
	double longest;

	pthread_mutex_lock(&g->lock);
	longest = g->longest;
	g->longest = 0;
	pthread_mutex_unlock(&g->lock);
	return longest;
}

static void
change(struct guest *g, const char *what, const struct vdpa_dirty_log *log)
{
	uint64_t used[VDPA_VQ_MAX];
	double begin, longest;

	memset(used, 0xff, sizeof(used));
	for (unsigned int q = 0; q < QUEUES; q++)
		used[q] = g->vqs[q].device;

	take_longest(g);
	begin = now_us();
	if (strcmp(what, "none") != 0 && vdpa_device_set_log(g->vdev, log, used) < 0)
		die("log");
	begin = now_us() - begin;
	/* A driver that had no CPU meanwhile has seen nothing. */
	do {
		usleep(WINDOW_US);
		longest = take_longest(g);
	} while (longest == 0);
	printf("%s %.1f %.1f\n", what, begin, longest);
}

int
main(int argc, char **argv)
{
	static struct guest g = {.lock = PTHREAD_MUTEX_INITIALIZER};
	static uint8_t bitmap[((RING_MEM_IOVA + SIZE) >> VDPA_DIRTY_PAGE_SHIFT) / 8 + 1];
	const struct vdpa_dirty_log log = {.bitmap = bitmap, .size = sizeof(bitmap), .fd = -1};
	pthread_t thread;
	int times;

	if (argc != 5 || (strcmp(argv[1], "split") && strcmp(argv[1], "packed"))) {
		fprintf(stderr, "usage: bench_switch split|packed TIMES CPU CPU\n");
		return 2;
	}
	times = atoi(argv[2]);
	stay_on(atoi(argv[3]));
	g.cpu = atoi(argv[4]);
	if (vdpa_init(NULL) < 0)
		die("vdpa_init");
	start(&g, strcmp(argv[1], "packed") == 0);
	pthread_create(&thread, NULL, drive, &g);
	usleep(100000);
	for (int i = 0; i < times; i++) {
		change(&g, "none", NULL);
		change(&g, "on", &log);
		change(&g, "off", NULL);
	}
	__atomic_store_n(&g.stop, true, __ATOMIC_RELAXED);
	pthread_join(thread, NULL);
	vdpa_put_device(g.vdev);
	vdpa_dev_del("net0");
	vdpa_cleanup();
	return 0;
}
