/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a block guest can take from its neighbours: microseconds that a frame takes round a sim_net
 * device's loopback, and that its control path takes for another call eventfd, alone and while
 * another guest keeps 128 reads of 31.5 MiB in 126 segments under way in each queue of a disk of
 * the same worker.
 *
 * bench_neighbour WORDS [QUEUES [SECONDS]], WORDS being a disk's, such as "backend file PATH" of
 * 32 MiB or more. The disk is read into the page cache by the measurement itself.
 */

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "ring_driver.h"
#include "vdpa_frontend.h"

#define NUM	   256
#define QUEUES_MAX 16
#define RING_SPACE 0x10000ull
#define HEAD	   (RING_MEM_IOVA + QUEUES_MAX * RING_SPACE)
#define DATA	   (HEAD + 0x1000)
#define SEGS	   126
#define SEG_SIZE   (256u << 10)
#define REQUESTS   128
#define FRAME	   64
#define FEATURES   (RING_FEATURE(VIRTIO_F_VERSION_1) | RING_FEATURE(VIRTIO_RING_F_INDIRECT_DESC))

struct guest {
	struct vdpa_device *vdev;
	struct ring_mem mem;
	struct ring_driver ring[QUEUES_MAX];
	struct vdpa_vq_config vqs[QUEUES_MAX];
	uint16_t nvqs;
};

struct times {
	double *us;
	size_t n, max;
};

static double seconds = 3;
static bool stop; /* atomic */

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
	fprintf(stderr, "bench_neighbour: %s: %s\n", what, vdpa_error_message());
	exit(1);
}

static void
guest_start(struct guest *g, const char *name, const char *words, uint16_t nvqs, uint64_t size)
{
	struct vdpa_start_config start = {.features = FEATURES, .vqs = g->vqs, .nvqs = nvqs};
	char line[512];

	snprintf(line, sizeof(line), "name %s mgmtdev %s", name, words);
	if (vdpa_dev_add(line) < 0)
		die(line);
	g->vdev = vdpa_find_device(name);
	g->nvqs = nvqs;
	if (ring_mem_init(&g->mem, &size, 1) < 0)
		die("guest memory");
	start.iotlb = g->mem.tlb;
	for (uint16_t i = 0; i < nvqs; i++) {
		struct ring_driver *r = &g->ring[i];

		if (ring_driver_init(r, &g->mem, FEATURES, NUM, RING_MEM_IOVA + i * RING_SPACE) < 0)
			die("ring");
		g->vqs[i] = (struct vdpa_vq_config){.ready = true,
						    .enabled = true,
						    .num = NUM,
						    .desc = r->desc,
						    .driver = r->drv,
						    .device = r->dev,
						    .kick_fd = eventfd(0, EFD_NONBLOCK),
						    .call_fd = eventfd(0, EFD_NONBLOCK)};
	}
	if (vdpa_device_start(g->vdev, &start) < 0)
		die("start");
}

/*
 * All requests are the same: one header, status and indirect table, and the same memory to read
 * into, which costs the device as much as others would.
 */
static void
post_read(struct guest *g, uint16_t q)
{
	const struct virtio_blk_outhdr hdr = {.type = VIRTIO_BLK_T_IN};
	struct ring_buf bufs[SEGS + 2] = {{HEAD, sizeof(hdr), false}};

	memcpy(ring_mem_va(&g->mem, HEAD), &hdr, sizeof(hdr));
	for (unsigned int i = 0; i < SEGS; i++)
		bufs[i + 1] = (struct ring_buf){DATA + (uint64_t)i * SEG_SIZE, SEG_SIZE, true};
	bufs[SEGS + 1] = (struct ring_buf){HEAD + 32, 1, true};
	if (ring_driver_post_indirect(&g->ring[q], bufs, SEGS + 2, HEAD + 64) < 0)
		die("post");
	eventfd_write(g->vqs[q].kick_fd, 1);
}

static void *
read_for_ever(void *arg)
{
	struct guest *g = arg;
	uint32_t len;
	uint16_t id;

	for (uint16_t q = 0; q < g->nvqs; q++)
		for (unsigned int i = 0; i < REQUESTS; i++)
			post_read(g, q);
	while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		for (uint16_t q = 0; q < g->nvqs; q++)
			while (ring_driver_poll(&g->ring[q], &id, &len))
				post_read(g, q);
		usleep(1000);
	}
	return NULL;
}

static void
add(struct times *t, double us)
{
	if (t->n == t->max) {
		t->max = t->max * 2 + 1024;
		t->us = realloc(t->us, t->max * sizeof(*t->us));
		if (t->us == NULL)
			die("out of memory");
	}
	t->us[t->n++] = us;
}

static int
compare(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static void
print(const char *what, struct times *t)
{
	qsort(t->us, t->n, sizeof(t->us[0]), compare);
	printf("  %-22s%9zu%10.0f%10.0f%12.0f\n", what, t->n, t->us[t->n / 2],
	       t->us[t->n * 99 / 100], t->us[t->n - 1]);
	free(t->us);
}

static void
measure(struct guest *net, const char *when)
{
	struct times frames = {0}, calls = {0};
	double end = now_us() + seconds * 1e6, begin;
	struct pollfd call = {.fd = net->vqs[0].call_fd, .events = POLLIN};
	eventfd_t count;
	uint32_t len;
	uint16_t id;

	for (unsigned int n = 0; now_us() < end; n++) {
		const struct ring_buf rx = {HEAD, 2048, true},
				      tx = {HEAD + 2048, 12 + FRAME, false};

		ring_driver_post(&net->ring[0], &rx, 1);
		ring_driver_post(&net->ring[1], &tx, 1);
		begin = now_us();
		eventfd_write(net->vqs[1].kick_fd, 1);
		while (!ring_driver_poll(&net->ring[0], &id, &len))
			if (poll(&call, 1, 60000) != 1 || eventfd_read(call.fd, &count) != 0)
				die("no frame within a minute");
		add(&frames, now_us() - begin);
		while (!ring_driver_poll(&net->ring[1], &id, &len))
			;
		if (n % 16 == 0) {
			begin = now_us();
			if (vdpa_device_set_vq_call(net->vdev, 0, net->vqs[0].call_fd) < 0)
				die("call eventfd");
			add(&calls, now_us() - begin);
		}
		usleep(100);
	}
	printf("%s\n", when);
	print("frame", &frames);
	print("call eventfd", &calls);
}

int
main(int argc, char **argv)
{
	const uint64_t net_size = 4u << 20;
	static struct guest net, disk;
	char words[400];
	pthread_t thread;
	int queues = argc > 2 ? atoi(argv[2]) : 1;

	if (argc < 2 || queues < 1 || queues > QUEUES_MAX) {
		fprintf(stderr, "usage: bench_neighbour WORDS [QUEUES [SECONDS]]\n");
		return 2;
	}
	if (argc > 3)
		seconds = atof(argv[3]);
	if (vdpa_init(NULL) < 0)
		die("vdpa_init");
	guest_start(&net, "net0", "sim_net", 2, net_size);
	snprintf(words, sizeof(words), "sim_blk %s queues %d", argv[1], queues);
	guest_start(&disk, "disk0", words, (uint16_t)queues,
		    DATA - RING_MEM_IOVA + (uint64_t)SEGS * SEG_SIZE);
	printf("  %-22s%9s%10s%10s%12s\n", "us", "samples", "median", "99%", "longest");
	measure(&net, "alone");
	pthread_create(&thread, NULL, read_for_ever, &disk);
	usleep(100000);
	measure(&net, "beside 128 reads of 31.5 MiB");
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	vdpa_put_device(net.vdev);
	vdpa_put_device(disk.vdev);
	vdpa_dev_del("disk0");
	vdpa_dev_del("net0");
	vdpa_cleanup();
	return 0;
}
