/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log of a session: when it begins and ends, and when a log that the hardware keeps is
 * brought over to the front end's. With the device's lock held.
 *
 * A device without log_sync writes the front end's bitmap itself, rings included. Of one with
 * log_sync the hardware logs buffers alone: the rings that it writes are marked here, all of them
 * each time. Its log is brought up to date by a timer, and once no queue writes any more: when the
 * last one stops, at a suspension, after a reset. So all is in the front end's bitmap before it
 * hears that the device has stopped, whatever stopped it.
 *
 * A page that was written and is not marked is lost to the guest at the other end, and nobody
 * notices. Where it cannot be known what was written, all memory is marked.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/virtio_config.h>

#include "device_priv.h"
#include "op.h"
#include "steps.h"
#include "vdpa_log.h"

/* How long a page that the hardware has logged takes to be seen by the front end, which looks at
 * the bitmap once for each round of a migration. */
#define LOG_SYNC_MS 100

/* A bitmap for the largest guest, with as many IOVAs that have no memory. */
#define LOG_BYTES_MAX (2 * VDPA_MEM_SIZE_MAX >> VDPA_DIRTY_PAGE_SHIFT >> 3)

static bool
is_hardware(const struct vdpa_device *vdev)
{
	return vdev->config->log_sync != NULL;
}

/* What of the front end's log a driver needs to have: hardware gets a bitmap of that size, or has
 * it pinned, and a front end may give a log as large as it likes. */
static int
cut_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const struct vdpa_iotlb *tlb,
	struct vdpa_dirty_log *out)
{
	const struct vdpa_mem_region *last;
	uint64_t need = 0;

	*out = *log;
	if (!is_hardware(vdev))
		return 0;
	if (tlb != NULL && tlb->n > 0) {
		last = tlb->regions[tlb->n - 1];
		need = (last->iova + last->size - 1) >> VDPA_DIRTY_PAGE_SHIFT >> 3;
	}
	/* Whole words. */
	out->size = RTE_MIN(log->size, RTE_ALIGN_CEIL(need + 1, UINT64_C(8)));
	if (out->size > LOG_BYTES_MAX)
		return vdpa_error(EINVAL,
				  "%s: a dirty log of %" PRIu64 " bytes, allowed are %" PRIu64,
				  vdev->name, out->size, LOG_BYTES_MAX);
	return 0;
}

/* All that the device writes of a queue's rings; of a packed one, the descriptors too. */
static void
mark_rings(struct vdpa_device *vdev, const struct vdpa_core_vq *vq)
{
	const struct vdpa_dirty_log *log = &vdev->core->dirty.whole;
	bool packed = (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_ring_size size = vdpa_ring_size(packed, vq->conf.num);

	if (vq->conf.num == 0 || vq->log_iova == UINT64_MAX)
		return;
	vdpa_dirty_log_mark(log, vq->log_iova, size.device);
	if (packed)
		vdpa_dirty_log_mark(log, vq->conf.desc, size.desc);
}

static bool
other_is_ready(const struct vdpa_device *vdev, const struct vdpa_core_vq *but)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].ready && &vdev->core->vqs[i] != but)
			return true;
	return false;
}

static void
sync(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;

	if (VDPA_OP(vdev, -1, "log_sync", vdev->config->log_sync(vdev)) < 0) {
		VDPA_LOG_LIMITED(&core->log, ERR,
				 "%s; all memory of the guest is marked as written",
				 vdpa_error_message());
		vdpa_dirty_log_mark_all(&core->dirty.whole, core->iotlb);
	}
	for (uint16_t i = 0; i < core->nvqs; i++)
		mark_rings(vdev, &core->vqs[i]);
}

void
vdpa_step_log_sync(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	if (!dirty->on || !dirty->behind)
		return;
	sync(vdev);
	dirty->behind = false;
}

/* On the control loop. */
static void
timer_expired(struct vdpa_timer *timer)
{
	struct vdpa_device *vdev = timer->arg;

	vdpa_work_post(&vdev->core->work, &vdev->core->dirty.work);
}

static void
work_run(struct vdpa_work *work)
{
	struct vdpa_device *vdev = work->arg;
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	vdpa_device_lock(vdev);
	if (dirty->on) {
		if (dirty->behind)
			sync(vdev);
		vdpa_timer_start(&dirty->timer, LOG_SYNC_MS);
	}
	vdpa_device_unlock(vdev);
}

void
vdpa_log_init(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	dirty->timer = (struct vdpa_timer){.expired = timer_expired, .arg = vdev};
	dirty->work = (struct vdpa_work){.run = work_run, .arg = vdev};
}

/* Change to the part of log that the driver needs. Hardware does not log the rings: it is not
 * called for other ring addresses in a log that stays, nor where the memory shrinks. */
static int
change_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const struct vdpa_iotlb *tlb,
	   const uint64_t *used_iova)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;
	const bool hardware = is_hardware(vdev);
	/* The driver may keep a pointer, and use the one before until it returns. */
	struct vdpa_dirty_log *next = &dirty->given[dirty->given_idx ^ 1];
	int rc = cut_log(vdev, log, tlb, next);

	if (rc < 0)
		return rc;
	if (hardware && dirty->on) {
		if (log->bitmap == dirty->whole.bitmap && log->size == dirty->whole.size &&
		    next->size <= dirty->given[dirty->given_idx].size)
			return 0;
		sync(vdev);
	}
	rc = VDPA_OP(vdev, -1, "log_start",
		     vdev->config->log_start(vdev, next, hardware ? NULL : used_iova));
	if (rc == 0)
		dirty->given_idx ^= 1;
	return rc;
}

int
vdpa_step_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		    const uint64_t *used_iova)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_device_log *dirty = &core->dirty;
	int rc = change_log(vdev, log, core->iotlb, used_iova);

	if (rc < 0)
		return rc;
	for (uint16_t i = 0; i < core->nvqs; i++)
		core->vqs[i].log_iova = used_iova[i];
	dirty->whole = *log;
	if (!dirty->on && is_hardware(vdev))
		vdpa_timer_start(&dirty->timer, LOG_SYNC_MS);
	dirty->on = true;
	dirty->behind = is_hardware(vdev);
	return 0;
}

int
vdpa_step_log_cover(struct vdpa_device *vdev, const struct vdpa_iotlb *tlb)
{
	const struct vdpa_device_log *dirty = &vdev->core->dirty;

	return dirty->on && is_hardware(vdev) ? change_log(vdev, &dirty->whole, tlb, NULL) : 0;
}

static int
end_log(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;
	int rc;

	dirty->on = dirty->behind = false;
	vdpa_timer_stop(&dirty->timer);
	rc = VDPA_OP(vdev, -1, "log_stop", vdev->config->log_stop(vdev));
	return rc;
}

int
vdpa_step_log_stop(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	if (!dirty->on)
		return 0;
	if (dirty->behind)
		sync(vdev);
	return end_log(vdev);
}

void
vdpa_step_log_vq_runs(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	dirty->behind = dirty->on && is_hardware(vdev);
}

void
vdpa_step_log_vq_stopped(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	if (!vdev->core->dirty.behind)
		return;
	mark_rings(vdev, vq);
	if (!other_is_ready(vdev, vq))
		vdpa_step_log_sync(vdev);
}

void
vdpa_step_log_reset(struct vdpa_device *vdev, int rc)
{
	if (vdev->core->dirty.on && is_hardware(vdev) && rc == 0 && !vdpa_device_is_gone(vdev))
		sync(vdev);
}

void
vdpa_step_log_end(struct vdpa_device *vdev, int rc, const struct vdpa_iotlb *tlb)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;
	struct vdpa_error_saved error;

	if (!dirty->on)
		return;
	vdpa_error_save(&error);
	/* What it wrote, or still writes, nobody knows. */
	if (rc < 0 || vdpa_device_is_gone(vdev))
		vdpa_dirty_log_mark_all(&dirty->whole, tlb);
	if (end_log(vdev) < 0)
		VDPA_LOG_LIMITED(&vdev->core->log, ERR, "%s", vdpa_error_message());
	vdpa_error_restore(&error);
}
