/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Runs inside the laboratory, see lab_starts.py: a front end of the kernel's vhost-vdpa that counts
 * what its process executes, in its own code and in the kernel, to start and stop a device. Memory
 * and rings are those of lab_starts.py's vhost-user front end.
 *
 * usage: lab_vdpa_starts DEVICE QUEUES BYTES. It says "ready"; a line "start" or "stop" on its
 * input is answered by the nanoseconds of CPU time that this took and those of them for the memory
 * map.
 */

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>

#define GUEST	   0x100000ULL /* address of the memory */
#define PAGE	   4096u
#define RING	   64u /* descriptors */
#define RING_PAGES 3u  /* a page each for descriptors, driver and device area */
#define QUEUES_MAX 64u

static int dev;
static unsigned int queues;
static uint8_t *memory;
static uint64_t size, next; /* bytes of it; those that rings have taken */
static bool mapped;

static uint64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void
ask(unsigned long request, void *arg, const char *name)
{
	if (ioctl(dev, request, arg) < 0)
		err(1, "%s", name);
}

#define ASK(request, arg) ask(request, arg, #request)

static void
set_status(uint8_t status)
{
	ASK(VHOST_VDPA_SET_STATUS, &status);
}

static uint8_t
get_status(void)
{
	uint8_t status;

	ASK(VHOST_VDPA_GET_STATUS, &status);
	return status;
}

static void
map(void)
{
	struct vhost_msg_v2 msg = {.type = VHOST_IOTLB_MSG_V2,
				   .iotlb = {.iova = GUEST,
					     .size = size,
					     .uaddr = (uintptr_t)memory,
					     .perm = VHOST_ACCESS_RW,
					     .type = VHOST_IOTLB_UPDATE}};

	if (write(dev, &msg, sizeof(msg)) != sizeof(msg))
		err(1, "VHOST_IOTLB_UPDATE");
}

static void
start_vq(unsigned int i, uint64_t ring, int call, int kick)
{
	struct vhost_vring_state num = {.index = i, .num = RING}, base = {.index = i},
				 enable = {.index = i, .num = 1};
	struct vhost_vring_file call_file = {.index = i, .fd = call},
				kick_file = {.index = i, .fd = kick};
	struct vhost_vring_addr addr = {.index = i,
					.desc_user_addr = ring,
					.avail_user_addr = ring + PAGE,
					.used_user_addr = ring + 2 * PAGE};

	ASK(VHOST_SET_VRING_NUM, &num);
	ASK(VHOST_SET_VRING_BASE, &base);
	ASK(VHOST_SET_VRING_ADDR, &addr);
	ASK(VHOST_SET_VRING_CALL, &call_file);
	ASK(VHOST_SET_VRING_KICK, &kick_file);
	ASK(VHOST_VDPA_SET_VRING_ENABLE, &enable);
}

static void
start(void)
{
	uint64_t features = 1ULL << VIRTIO_F_VERSION_1 | 1ULL << VIRTIO_F_ACCESS_PLATFORM;
	uint64_t rings = next, before, after_map, after;
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int call[QUEUES_MAX], kick[QUEUES_MAX];

	next += queues * RING_PAGES * PAGE;
	if (next > size)
		errx(1, "no memory for rings");
	for (unsigned int i = 0; i < queues; i++) {
		call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (call[i] < 0 || kick[i] < 0)
			err(1, "eventfd");
	}
	memset(memory + rings, 0, queues * RING_PAGES * PAGE);

	before = now();
	if (!mapped)
		map();
	after_map = now();
	set_status(status);
	ASK(VHOST_SET_FEATURES, &features);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	set_status(status);
	if (get_status() != status)
		errx(1, "the device takes no features 0x%llx", (unsigned long long)features);
	for (unsigned int i = 0; i < queues; i++)
		start_vq(i, GUEST + rings + i * RING_PAGES * PAGE, call[i], kick[i]);
	status |= VIRTIO_CONFIG_S_DRIVER_OK;
	set_status(status);
	after = now();

	if (get_status() != status)
		errx(1, "the device has not started");
	for (unsigned int i = 0; i < queues; i++) {
		close(call[i]);
		close(kick[i]);
	}
	printf("%llu %llu\n", (unsigned long long)(after - before),
	       (unsigned long long)(mapped ? 0 : after_map - before));
	/* The kernel keeps it over a reset. */
	mapped = true;
}

/* Asked of each queue, as a front end does; vp_vdpa says that it does not know. */
static void
ask_places(void)
{
	for (unsigned int i = 0; i < queues; i++) {
		struct vhost_vring_state base = {.index = i};

		if (ioctl(dev, VHOST_GET_VRING_BASE, &base) < 0 && errno != EOPNOTSUPP)
			err(1, "VHOST_GET_VRING_BASE");
	}
}

static void
stop(void)
{
	uint64_t before = now();

	ask_places();
	set_status(0);
	printf("%llu 0\n", (unsigned long long)(now() - before));
	if (get_status() != 0)
		errx(1, "the device has not stopped");
}

int
main(int argc, char **argv)
{
	uint64_t features = 1ULL << VHOST_BACKEND_F_IOTLB_MSG_V2;
	struct rlimit lock = {RLIM_INFINITY, RLIM_INFINITY};
	char line[16];
	int fd;

	if (argc != 4)
		errx(2, "usage: lab_vdpa_starts DEVICE QUEUES BYTES");
	queues = (unsigned int)strtoul(argv[2], NULL, 10);
	size = strtoull(argv[3], NULL, 10);
	if (queues < 1 || queues > QUEUES_MAX)
		errx(2, "1 to %u queues", QUEUES_MAX);
	fd = memfd_create("guest", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		err(1, "memory");
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		err(1, "memory");
	/* As a guest that has used all of it. */
	for (uint64_t at = 0; at < size; at += PAGE)
		memory[at] = 1;

	/* vhost-vdpa holds root to it, too. */
	if (setrlimit(RLIMIT_MEMLOCK, &lock) < 0)
		err(1, "RLIMIT_MEMLOCK");
	dev = open(argv[1], O_RDWR | O_CLOEXEC);
	if (dev < 0)
		err(1, "%s", argv[1]);
	ASK(VHOST_SET_OWNER, NULL);
	ASK(VHOST_SET_BACKEND_FEATURES, &features);
	set_status(0);

	setvbuf(stdout, NULL, _IOLBF, 0);
	puts("ready");
	while (fgets(line, sizeof(line), stdin) != NULL) {
		if (strcmp(line, "start\n") == 0)
			start();
		else if (strcmp(line, "stop\n") == 0)
			stop();
		else
			errx(2, "start or stop");
	}
	return 0;
}
