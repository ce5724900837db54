/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * To be preloaded into vdpa-app by lab_starts.py: adds up the CPU time of VFIO_IOMMU_MAP_DMA, as
 * the calling thread's clock counts it, in the file that UVDPA_MAP_COST names.
 */

#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <linux/vfio.h>

static uint64_t *cost; /* nanoseconds */

__attribute__((constructor)) static void
open_file(void)
{
	const char *path = getenv("UVDPA_MAP_COST");
	int fd = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	void *p;

	if (fd < 0)
		return;
	if (ftruncate(fd, sizeof(*cost)) == 0) {
		p = mmap(NULL, sizeof(*cost), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		cost = p == MAP_FAILED ? NULL : p;
	}
	close(fd);
}

static uint64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int
ioctl(int fd, unsigned long request, ...)
{
	bool counted = request == VFIO_IOMMU_MAP_DMA && cost != NULL;
	uint64_t before = counted ? now() : 0;
	va_list args;
	void *arg;
	int ret;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	ret = (int)syscall(SYS_ioctl, fd, request, arg);
	if (counted)
		__atomic_fetch_add(cost, now() - before, __ATOMIC_RELAXED);
	return ret;
}
