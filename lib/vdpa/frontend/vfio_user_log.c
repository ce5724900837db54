/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log that a function writes by DMA: the device marks what it writes to buffers in the
 * client's own memory, the used rings not. The memory may go and come back as all of it may; while
 * it is not there, the log is pending and pages are missed, which the log says.
 *
 * And the log of a function's DMA, which the client asks for by messages (DMA_LOGGING_*): that
 * bitmap is ours, has the rings too, and stays over resets of the device, as its client reads it
 * after the last of them.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "vfio_user_device.h"
#include "vdpa_log.h"

/* Our address of the bitmap, where all of it can be written and lies in one piece. */
static uint8_t *
bitmap_in(const struct vdpa_iotlb *tlb, uint64_t start, uint64_t end)
{
	uint64_t iova = start;

	while (tlb != NULL && tlb->n > 0 && iova < end) {
		const struct vdpa_mem_region *r = tlb->regions[vdpa_iotlb_index(tlb, iova)];

		if (iova < r->iova || iova - r->iova >= r->size || r->readonly)
			return NULL;
		iova = r->iova + r->size;
	}
	return iova > start ? vdpa_iotlb_range(tlb, start, end - start) : NULL;
}

static void
keep(struct vfu_log *log, struct vdpa_iotlb *tlb)
{
	struct vdpa_iotlb *old = log->tlb;

	log->tlb = tlb != NULL ? vdpa_iotlb_get(tlb) : NULL;
	vdpa_iotlb_put(old);
}

static void
turn_off(struct vfu_device *dev)
{
	struct vfu_log *log = &dev->log;

	log->on = false;
	if (dev->consumer != NULL &&
	    vdpa_consumer_set_function_log(dev->consumer, NULL, false) < 0 && vfu_runs(dev))
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: dirty log: %s",
				 dev->vdev->name, vdpa_error_message());
	keep(log, NULL);
}

static void
turn_on(struct vfu_device *dev, struct vdpa_iotlb *tlb, uint8_t *bitmap)
{
	struct vfu_log *log = &dev->log;
	const struct vdpa_dirty_log next = {
		.bitmap = bitmap, .size = log->end - log->start, .fd = -1, .past = &log->past};
	int rc;

	/* The table may be a new one with the same mapping. */
	if (log->on && log->own == NULL && log->dirty.bitmap == bitmap &&
	    log->dirty.size == next.size) {
		keep(log, tlb);
		return;
	}
	log->dirty = next;
	/* Of what a function logs itself, the rings are the driver's to mark. */
	rc = vdpa_device_can_migrate(dev->vdev)
		     ? vdpa_consumer_set_function_log(dev->consumer, &log->dirty, log->own != NULL)
		     : vdpa_error(EOPNOTSUPP, "%s: has no dirty log", dev->vdev->name);
	if (rc < 0) {
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: dirty log: %s",
				 dev->vdev->name, vdpa_error_message());
		turn_off(dev);
		return;
	}
	log->on = true;
	keep(log, tlb);
}

void
vdpa_vfus_log_update(struct vfu_device *dev, struct vdpa_iotlb *tlb)
{
	struct vfu_log *log = &dev->log;
	uint8_t *bitmap = NULL;

	if (log->asked)
		bitmap = log->own != NULL ? log->own : bitmap_in(tlb, log->start, log->end);
	if (bitmap != NULL) {
		turn_on(dev, tlb, bitmap);
		return;
	}
	if (log->asked)
		VDPA_LOG_LIMITED(&log->lines, WARNING,
				 "%s: vfio-user: dirty log: 0x%" PRIx64 " to 0x%" PRIx64
				 " is not memory in one piece that can be written: pages that are "
				 "written meanwhile are missed",
				 dev->vdev->name, log->start, log->end);
	turn_off(dev);
}

void
vdpa_vfus_log_set(struct vfu_device *dev, bool on, uint64_t start, uint64_t end)
{
	/* One of them at a time: the registers have no way to say so. */
	if (dev->log.own != NULL)
		return;
	dev->log.asked = on;
	dev->log.start = start;
	dev->log.end = end;
	if (vfu_runs(dev))
		vdpa_vfus_log_update(dev, dev->dma.iotlb);
}

void
vdpa_vfus_log_forget(struct vfu_device *dev)
{
	turn_off(dev);
	dev->log.asked = dev->log.own != NULL;
}

bool
vdpa_vfus_log_is_pending(const struct vfu_device *dev)
{
	return dev->log.asked && vfu_runs(dev) && !dev->log.on;
}

/* Of the function's DMA. */

/* Bytes of a bitmap: 2 TiB of IOVAs. */
#define OWN_MAX (UINT64_C(64) << 20)

int
vdpa_vfus_dma_log_start(struct vfu_device *dev, const struct vfio_user_dma_log_range *ranges,
			unsigned int n)
{
	struct vfu_log *log = &dev->log;
	uint64_t end = 0, bytes;

	if (log->own != NULL || log->asked)
		return vdpa_error(EBUSY, "DMA_LOGGING_START: a log runs");
	if (n == 0 || n > VFU_DMA_LOG_RANGES)
		return vdpa_error(EINVAL, "DMA_LOGGING_START: %u ranges, allowed are 1 to %d", n,
				  VFU_DMA_LOG_RANGES);
	for (unsigned int i = 0; i < n; i++) {
		if (ranges[i].length == 0 || ranges[i].iova + ranges[i].length < ranges[i].iova)
			return vdpa_error(EINVAL,
					  "DMA_LOGGING_START: 0x%" PRIx64 " bytes at 0x%" PRIx64,
					  ranges[i].length, ranges[i].iova);
		end = RTE_MAX(end, ranges[i].iova + ranges[i].length);
	}
	bytes = RTE_ALIGN_CEIL(((end - 1) >> VDPA_DIRTY_PAGE_SHIFT) / 8 + 1, sizeof(uint64_t));
	if (bytes > OWN_MAX)
		return vdpa_error(ENOMEM, "DMA_LOGGING_START: up to 0x%" PRIx64 " is too much",
				  end);
	log->own = calloc(bytes / sizeof(uint64_t), sizeof(uint64_t));
	if (log->own == NULL)
		return vdpa_error(ENOMEM, "DMA_LOGGING_START: out of memory");
	memcpy(log->ranges, ranges, n * sizeof(ranges[0]));
	log->n_ranges = n;
	log->start = 0;
	log->end = bytes;
	log->asked = true;
	if (vfu_runs(dev))
		vdpa_vfus_log_update(dev, dev->dma.iotlb);
	return 0;
}

static bool
is_logged(const struct vfu_log *log, uint64_t iova, uint64_t length)
{
	for (unsigned int i = 0; i < log->n_ranges; i++)
		if (iova >= log->ranges[i].iova &&
		    iova - log->ranges[i].iova < log->ranges[i].length &&
		    length <= log->ranges[i].length - (iova - log->ranges[i].iova))
			return true;
	return false;
}

int
vdpa_vfus_dma_log_report(struct vfu_device *dev, const struct vfio_user_dma_log_report *report,
			 uint64_t *bitmap)
{
	struct vfu_log *log = &dev->log;
	uint64_t first = report->iova >> VDPA_DIRTY_PAGE_SHIFT;
	uint64_t n = report->length >> VDPA_DIRTY_PAGE_SHIFT;

	if (log->own == NULL)
		return vdpa_error(EINVAL, "DMA_LOGGING_REPORT: no log runs");
	if (report->length == 0 || !is_logged(log, report->iova, report->length))
		return vdpa_error(EINVAL,
				  "DMA_LOGGING_REPORT: 0x%" PRIx64 " bytes at 0x%" PRIx64
				  " are not within a range that is logged",
				  report->length, report->iova);
	/* The worker sets bits meanwhile: each is taken and cleared in one step. */
	for (uint64_t i = 0; i < n; i++) {
		uint8_t *byte = &log->own[(first + i) / 8], bit = 1u << (first + i) % 8;

		if (__atomic_load_n(byte, __ATOMIC_RELAXED) == 0) {
			i += 7 - (first + i) % 8;
			continue;
		}
		if ((__atomic_fetch_and(byte, (uint8_t)~bit, __ATOMIC_SEQ_CST) & bit) != 0)
			bitmap[i / 64] |= UINT64_C(1) << i % 64;
	}
	return 0;
}

int
vdpa_vfus_dma_log_stop(struct vfu_device *dev)
{
	struct vfu_log *log = &dev->log;

	if (log->own == NULL)
		return vdpa_error(EINVAL, "DMA_LOGGING_STOP: no log runs");
	log->asked = false;
	turn_off(dev);
	free(log->own);
	log->own = NULL;
	return 0;
}
