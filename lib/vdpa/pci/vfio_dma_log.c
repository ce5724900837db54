/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The DMA log of a function, where its kernel driver keeps one (VFIO_DEVICE_FEATURE_DMA_LOGGING_*,
 * Linux 6.1 and later): a variant driver of vfio-pci for the device, not vfio-pci itself. No such
 * device was at hand; what is here follows linux/vfio.h.
 */

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vfio_priv.h"

_Static_assert(sizeof(struct vfio_device_feature) == 8 &&
		       sizeof(struct vfio_device_feature_dma_logging_control) == 24 &&
		       sizeof(struct vfio_device_feature_dma_logging_range) == 16 &&
		       sizeof(struct vfio_device_feature_dma_logging_report) == 32,
	       "layout of linux/vfio.h");

static int
call(int device_fd, uint32_t flags, const void *arg, size_t len)
{
	const struct vfio_device_feature feature = {.argsz = (uint32_t)(sizeof(feature) + len),
						    .flags = flags};
	/* Aligned as the kernel's structures are, with room for the largest that is used here. */
	uint64_t buf[(sizeof(feature) + sizeof(struct vfio_device_feature_dma_logging_report)) /
		     sizeof(uint64_t)];

	memcpy(buf, &feature, sizeof(feature));
	if (len > 0)
		memcpy((uint8_t *)buf + sizeof(feature), arg, len);
	return ioctl(device_fd, VFIO_DEVICE_FEATURE, buf) < 0 ? -errno : 0;
}

/* Whether the kernel knows what is needed of it; it answers without doing anything. */
static bool
has(int device_fd, uint32_t flags)
{
	return call(device_fd, VFIO_DEVICE_FEATURE_PROBE | flags, NULL, 0) == 0;
}

bool
vdpa_vfio_dma_log_probe(int device_fd)
{
	return has(device_fd, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START) &&
	       has(device_fd, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP) &&
	       has(device_fd, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT);
}

int
vdpa_vfio_dma_log_start(int device_fd, const struct vdpa_dma_range *ranges, unsigned int n)
{
	struct vfio_device_feature_dma_logging_range list[VDPA_PCI_DMA_LOG_RANGES];
	const struct vfio_device_feature_dma_logging_control control = {
		.page_size = VDPA_PCI_DMA_LOG_PAGE,
		.num_ranges = n,
		.ranges = (uintptr_t)list,
	};

	for (unsigned int i = 0; i < n; i++)
		list[i] = (struct vfio_device_feature_dma_logging_range){
			.iova = ranges[i].first, .length = ranges[i].last - ranges[i].first + 1};
	return call(device_fd, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
		    &control, sizeof(control));
}

int
vdpa_vfio_dma_log_report(int device_fd, uint64_t iova, uint64_t size, uint64_t *bitmap)
{
	const struct vfio_device_feature_dma_logging_report report = {
		.iova = iova,
		.length = size,
		.page_size = VDPA_PCI_DMA_LOG_PAGE,
		.bitmap = (uintptr_t)bitmap,
	};

	return call(device_fd, VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
		    &report, sizeof(report));
}

int
vdpa_vfio_dma_log_stop(int device_fd)
{
	return call(device_fd, VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, NULL,
		    0);
}
