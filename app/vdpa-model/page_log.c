/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log that a function writes by DMA: the device marks what it writes to buffers in the
 * client's own memory, the used rings not. The memory may go and come back as all of it may; while
 * it is not there, the log is pending and pages are missed, which the log says.
 */

#include <inttypes.h>

#include "model_device.h"
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
keep(struct model_log *log, struct vdpa_iotlb *tlb)
{
	struct vdpa_iotlb *old = log->tlb;

	log->tlb = tlb != NULL ? vdpa_iotlb_get(tlb) : NULL;
	vdpa_iotlb_put(old);
}

static void
turn_off(struct model_device *md)
{
	struct model_log *log = &md->log;

	if (!log->on)
		return;
	log->on = false;
	if (vdpa_device_set_log(md->vdev, NULL, NULL) < 0 &&
	    vdpa_device_get_state(md->vdev) == VDPA_STATE_RUNNING)
		VDPA_LOG(ERR, "%s: vfio-user: dirty log: %s", md->vdev->name, vdpa_error_message());
	keep(log, NULL);
}

static void
turn_on(struct model_device *md, struct vdpa_iotlb *tlb, uint8_t *bitmap)
{
	struct model_log *log = &md->log;
	struct vdpa_dirty_log *now = &log->logs[log->at], *next = &log->logs[log->at ^ 1];
	uint64_t used_iova[VDPA_VQ_MAX], size = log->end - log->start;

	/* The table may be a new one with the same mapping. */
	if (log->on && now->bitmap == bitmap && now->size == size) {
		keep(log, tlb);
		return;
	}
	for (unsigned int i = 0; i < VDPA_VQ_MAX; i++)
		used_iova[i] = UINT64_MAX;
	/* The device has the one before until it has this one. */
	*next = (struct vdpa_dirty_log){
		.bitmap = bitmap, .size = size, .fd = -1, .past = &log->past};
	if (vdpa_device_set_log(md->vdev, next, used_iova) < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: dirty log: %s", md->vdev->name, vdpa_error_message());
		turn_off(md);
		return;
	}
	log->at ^= 1;
	log->on = true;
	keep(log, tlb);
}

void
model_log_update(struct model_device *md, struct vdpa_iotlb *tlb)
{
	struct model_log *log = &md->log;
	uint8_t *bitmap = NULL;

	if (!md->running)
		return;
	if (log->asked)
		bitmap = bitmap_in(tlb, log->start, log->end);
	if (bitmap != NULL) {
		turn_on(md, tlb, bitmap);
		return;
	}
	if (log->asked)
		VDPA_LOG_LIMITED(&log->lines, WARNING,
				 "%s: vfio-user: dirty log: 0x%" PRIx64 " to 0x%" PRIx64
				 " is not memory in one piece that can be written: pages that are "
				 "written meanwhile are missed",
				 md->vdev->name, log->start, log->end);
	turn_off(md);
}

void
model_log_set(struct model_device *md, bool on, uint64_t start, uint64_t end)
{
	md->log.asked = on;
	md->log.start = start;
	md->log.end = end;
	model_log_update(md, md->dma.iotlb);
}

void
model_log_forget(struct model_device *md)
{
	md->log.asked = md->log.on = false;
	keep(&md->log, NULL);
}

bool
model_log_is_pending(const struct model_device *md)
{
	return md->log.asked && md->running && !md->log.on;
}
