/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A part of a region as a file of its own, by Linux' dma-buf (6.19 and later; a kernel lets it be
 * mapped only later than that). Unlike the device's file it reaches nothing else, and the kernel
 * takes it back when the device's file is closed.
 */

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vfio_priv.h"

/* For headers before 6.19: names and layout are the kernel's. */
#ifndef VFIO_DEVICE_FEATURE_DMA_BUF
#define VFIO_DEVICE_FEATURE_DMA_BUF 11

struct vfio_region_dma_range {
	__u64 offset;
	__u64 length;
};

struct vfio_device_feature_dma_buf {
	__u32 region_index;
	__u32 open_flags;
	__u32 flags;
	__u32 nr_ranges;
	struct vfio_region_dma_range dma_ranges[];
};
#endif

int
vdpa_vfio_export_part(int device_fd, unsigned int region, uint64_t offset, uint64_t size)
{
	const struct vfio_device_feature_dma_buf what = {
		.region_index = region, .open_flags = O_RDWR | O_CLOEXEC, .nr_ranges = 1};
	const struct vfio_region_dma_range range = {.offset = offset, .length = size};
	const struct vfio_device_feature feature = {
		.argsz = sizeof(feature) + sizeof(what) + sizeof(range),
		.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_BUF,
	};
	uint64_t arg[(sizeof(feature) + sizeof(what) + sizeof(range)) / sizeof(uint64_t)];
	uint8_t *at = (uint8_t *)arg;
	int fd;

	_Static_assert(sizeof(feature) == 8 && sizeof(what) == 16 && sizeof(range) == 16,
		       "layout of linux/vfio.h");
	memcpy(at, &feature, sizeof(feature));
	memcpy(at + sizeof(feature), &what, sizeof(what));
	memcpy(at + sizeof(feature) + sizeof(what), &range, sizeof(range));
	fd = ioctl(device_fd, VFIO_DEVICE_FEATURE, arg);
	return fd < 0 ? -EOPNOTSUPP : fd;
}
