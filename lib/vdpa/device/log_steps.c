/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log of a session: when it begins and ends, and when a log that the hardware keeps is
 * brought over to the front end's. With the device's lock held.
 *
 * A device without log_sync writes the front end's bitmap itself, rings included. Of one with
 * log_sync the hardware logs buffers alone: the rings that it writes are marked here, all of them
 * each time. Its log is brought up to date by a timer, and once no queue writes any more: when the
 * last one stops, at a suspension, after a reset. Queues on a shadow or a relay log by themselves.
 * Where a device has no log and a queue runs on the direct path, all memory is marked, again and
 * again: the migration does not end by itself, and the guest goes on. So all is in the front end's
 * bitmap before it hears that the device has stopped, whatever stopped it.
 *
 * A page that was written and is not marked is lost to the guest at the other end, and nobody
 * notices. Where it cannot be known what was written, all memory is marked.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/virtio_config.h>

#include "device_priv.h"
#include "figures.h"
#include "notice.h"
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

/* What was written comes to the front end's log only when it is brought there. */
static bool
needs_sync(const struct vdpa_device *vdev)
{
	const struct vdpa_device_log *dirty = &vdev->core->dirty;

	return dirty->by_device ? is_hardware(vdev) : dirty->blind;
}

/* Whether the device logs, where it can: a path of ours knows by itself what was written. */
bool
vdpa_step_device_logs(const struct vdpa_device *vdev)
{
	return vdev->core->can.log && !vdev->core->log_refused &&
	       vdev->core->migration != VDPA_MIGRATION_SHADOW &&
	       vdev->core->migration != VDPA_MIGRATION_RELAY;
}

/* A queue of which neither device nor path says what it writes. */
static bool
any_vq_unlogged(const struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].ready && vdev->core->vqs[i].path == &vdpa_path_direct)
			return true;
	return false;
}

/* Who logs is shown without the device's lock. */
static void
note_logger(struct vdpa_device_log *dirty)
{
	const char *by = "queues";

	if (!dirty->on)
		by = "none";
	else if (dirty->by_device)
		by = "device";
	else if (dirty->blind)
		by = "all memory";
	__atomic_store_n(&dirty->logger, by, __ATOMIC_RELAXED);
}

const char *
vdpa_log_logger(const struct vdpa_device *vdev)
{
	const char *by = __atomic_load_n(&vdev->core->dirty.logger, __ATOMIC_RELAXED);

	return by != NULL ? by : "none";
}

static void
set_path_logs(struct vdpa_device *vdev, const struct vdpa_dirty_log *log)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++) {
		struct vdpa_core_vq *vq = &vdev->core->vqs[i];

		if (vq->path->set_log != NULL)
			vq->path->set_log(vq, log, vq->log_iova);
	}
}

/* What of the front end's log a driver needs to have: hardware gets a bitmap of that size, or has
 * it pinned, and a front end may give a log as large as it likes. */
static int
cut_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const struct vdpa_iotlb *tlb,
	struct vdpa_dirty_log *out)
{
	*out = *log;
	out->pages = &vdev->core->figures.pages;
	out->tlb = tlb;
	if (!is_hardware(vdev))
		return 0;
	out->size = RTE_MIN(log->size, vdpa_dirty_log_bytes(tlb));
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

	if (vq->conf.num == 0 || vq->log_iova == UINT64_MAX || vq->path != &vdpa_path_direct)
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
	int64_t begun_us = vdpa_now_us();

	if (core->dirty.blind) {
		vdpa_dirty_log_mark_all(&core->dirty.whole, core->iotlb);
		goto out;
	}
	if (VDPA_OP(vdev, -1, "log_sync", vdev->config->log_sync(vdev)) < 0) {
		VDPA_LOG_LIMITED(&core->log, ERR,
				 "%s; all memory of the guest is marked as written",
				 vdpa_error_message());
		vdpa_dirty_log_mark_all(&core->dirty.whole, core->iotlb);
	}
	for (uint16_t i = 0; i < core->nvqs; i++)
		mark_rings(vdev, &core->vqs[i]);
out:
	vdpa_phase_end(vdev, VDPA_PHASE_LOG_SYNC, begun_us);
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
		/* Perhaps its queues can change to shadows now. */
		if (dirty->blind && vdev->core->path_work.run != NULL)
			vdpa_work_post(&vdev->core->work, &vdev->core->path_work);
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

static void
cover(struct vdpa_device_log *dirty, struct vdpa_iotlb *tlb)
{
	struct vdpa_iotlb *old = dirty->covers;

	dirty->covers = vdpa_iotlb_get(tlb);
	vdpa_iotlb_put(old);
}

/* Whether all memory of a table is in another. */
static bool
has_all(const struct vdpa_iotlb *of, const struct vdpa_iotlb *tlb)
{
	for (uint32_t i = 0; tlb != NULL && tlb != of && i < tlb->n; i++)
		if (of == NULL ||
		    vdpa_iotlb_range(of, tlb->regions[i]->iova, tlb->regions[i]->size) == NULL)
			return false;
	return true;
}

/* Change to the part of log that the driver needs. Hardware does not log the rings: it is not
 * called for other ring addresses in a log that stays, nor where the memory shrinks. */
static int
change_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, struct vdpa_iotlb *tlb,
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
		    next->size <= dirty->given[dirty->given_idx].size &&
		    has_all(dirty->covers, tlb))
			return 0;
		sync(vdev);
	}
	rc = VDPA_OP(vdev, -1, "log_start",
		     vdev->config->log_start(vdev, next, hardware ? NULL : used_iova));
	if (rc < 0)
		return rc;
	dirty->given_idx ^= 1;
	cover(dirty, tlb);
	return 0;
}

int
vdpa_step_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		    const uint64_t *used_iova)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_device_log *dirty = &core->dirty;
	bool by_device = vdpa_step_device_logs(vdev);
	int rc = by_device ? change_log(vdev, log, core->iotlb, used_iova) : 0;

	if (rc < 0)
		return rc;
	/* Queues may just have changed to paths that log: what they wrote before is in the log
	 * that was there until now, or in this one if it is the same. */
	if (dirty->on && dirty->blind)
		sync(vdev);
	for (uint16_t i = 0; i < core->nvqs; i++)
		core->vqs[i].log_iova = used_iova[i];
	dirty->whole = *log;
	dirty->whole.pages = &core->figures.pages;
	dirty->by_device = by_device;
	dirty->blind = !by_device && any_vq_unlogged(vdev);
	dirty->paths_idx ^= 1;
	dirty->paths[dirty->paths_idx] = dirty->whole;
	set_path_logs(vdev, &dirty->paths[dirty->paths_idx]);
	if (!dirty->on && needs_sync(vdev))
		vdpa_timer_start(&dirty->timer, LOG_SYNC_MS);
	if (!dirty->on)
		vdpa_notice(VDPA_NOTICE_MIGRATION, vdev->name, "log_on");
	__atomic_store_n(&dirty->on, true, __ATOMIC_RELAXED);
	dirty->behind = needs_sync(vdev);
	note_logger(dirty);
	return 0;
}

int
vdpa_step_log_cover(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	const struct vdpa_device_log *dirty = &vdev->core->dirty;

	return dirty->on && dirty->by_device && is_hardware(vdev)
		       ? change_log(vdev, &dirty->whole, tlb, NULL)
		       : 0;
}

static int
end_log(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;
	int rc;

	set_path_logs(vdev, NULL);
	__atomic_store_n(&dirty->on, false, __ATOMIC_RELAXED);
	dirty->behind = dirty->blind = false;
	note_logger(dirty);
	vdpa_notice(VDPA_NOTICE_MIGRATION, vdev->name, "log_off");
	vdpa_timer_stop(&dirty->timer);
	if (!dirty->by_device)
		return 0;
	rc = VDPA_OP(vdev, -1, "log_stop", vdev->config->log_stop(vdev));
	cover(dirty, NULL);
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

	if (!dirty->on)
		return;
	if (!dirty->by_device && !dirty->blind && any_vq_unlogged(vdev)) {
		dirty->blind = true;
		note_logger(dirty);
		vdpa_timer_start(&dirty->timer, LOG_SYNC_MS);
	}
	dirty->behind = needs_sync(vdev);
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
vdpa_step_log_paths_changed(struct vdpa_device *vdev)
{
	struct vdpa_device_log *dirty = &vdev->core->dirty;

	if (!dirty->on || !dirty->blind || any_vq_unlogged(vdev))
		return;
	/* What was written until the last one changed. */
	sync(vdev);
	dirty->blind = dirty->behind = false;
	note_logger(dirty);
	vdpa_timer_stop(&dirty->timer);
}

void
vdpa_step_log_reset(struct vdpa_device *vdev, int rc)
{
	if (vdev->core->dirty.on && needs_sync(vdev) && rc == 0 && !vdpa_device_is_gone(vdev))
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
