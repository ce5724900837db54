/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Files and regions, for tests of the guest memory table. Include it after cmocka.h. */

#ifndef MEM_TABLE_TEST_H
#define MEM_TABLE_TEST_H

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test_util.h"

#include "fault.h"
#include "vdpa.h"
#include "vdpa_memory.h"

#define PAGE	 4096ULL
#define MAP_SIZE (16 * PAGE)
#define MB	 (1ULL << 20)

static inline int
file_of(uint64_t size)
{
	int fd = memfd_create("test_mem_table", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

static inline struct vdpa_mem_region_spec
spec(uint64_t iova, uint64_t size, uint64_t offset, int fd)
{
	return (struct vdpa_mem_region_spec){.iova = iova,
					     .uaddr = iova + 0x7000000000,
					     .size = size,
					     .offset = offset,
					     .fd = fd};
}

static inline struct vdpa_mem_region_spec
page_in_order(uint64_t iova, uint64_t offset, int fd)
{
	struct vdpa_mem_region_spec s = spec(iova, PAGE, offset, fd);

	s.in_order = true;
	return s;
}

/* As a guest behind an IOMMU maps a ring: its addresses go up, its pages in the file down. */
#define RING_IOVA 0xffffc000ull

#endif /* MEM_TABLE_TEST_H */
