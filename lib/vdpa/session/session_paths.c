/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Queues that change their paths while the device runs: to shadows or relays when a log is asked
 * for that the device does not write, and back when it ends. A queue changes by a stop and a start
 * at the place where it stood, by itself where the device can stop one queue, else the device
 * starts again with all of them. What their new paths need is there before the first of them stops,
 * and what their old ones had is freed when the last of them runs: while one stands still, indexes
 * move and no memory is mapped. Where the place of a queue would not be known nothing is stopped:
 * the log is blind then, and the change is tried again with each round of it.
 */

#include <errno.h>

#include "failure.h"
#include "op.h"
#include "paths.h"
#include "session_priv.h"
#include "steps.h"
#include "vdpa_log.h"
#include "vdpa_worker.h"

static bool
is_direct(const struct vdpa_core_vq *vq)
{
	return vq->conf.num != 0 && vq->path == &vdpa_path_direct;
}

/* Stop a queue and start it on the path that it needs now. */
static int
change_alone(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_config conf = vq->conf;
	int64_t begun_us = vdpa_now_us();
	bool known;
	int rc = vdpa_session_stop_alone(vdev, idx, &conf.state, true, &known);

	/* Nothing was done. */
	if (rc == -EOPNOTSUPP)
		return rc;
	if (rc == 0 && !known)
		rc = vdpa_error(EIO, "%s: queue %u: where it stopped is not known", vdev->name,
				idx);
	if (rc == 0)
		rc = vdpa_session_setup_vq(vdev, idx, &conf);
	if (rc == 0)
		rc = vdpa_session_run_vq(vdev, idx);
	if (rc < 0)
		vdpa_device_fail(vdev, idx, rc, "it does not change its path: %s",
				 vdpa_error_cause(vdpa_error_message(), vdev->name, idx));
	else if (vq->path == &vdpa_path_direct && vq->ready)
		vdpa_session_kick(vdev, idx);
	vdpa_phase_end(vdev, VDPA_PHASE_SWITCH, begun_us);
	return rc;
}

/* The memory of the paths that these queues change to: at once, or, where IOVAs have no hole for
 * all, each by itself. */
static int
reserve(struct vdpa_device *vdev, const bool changes[])
{
	const struct vdpa_core_vq *vqs = vdev->core->vqs;
	size_t size = 0, all = 0;
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (changes[i])
			rc = vdpa_session_add_memory(vdev, i, &vqs[i].conf, &all);
	if (rc < 0 || vdpa_own_reserve(vdev, all) == 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++) {
		if (!changes[i])
			continue;
		size = 0;
		rc = vdpa_session_add_memory(vdev, i, &vqs[i].conf, &size);
		if (rc == 0)
			rc = vdpa_own_reserve(vdev, size);
	}
	return rc;
}

/* All queues at once. */
static int
change_by_restart(struct vdpa_device *vdev)
{
	bool changes[VDPA_VQ_MAX] = {false};
	int64_t begun_us;
	int rc;

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		changes[i] = vdev->core->vqs[i].conf.num != 0;
	rc = reserve(vdev, changes);
	if (rc < 0)
		return rc;
	begun_us = vdpa_now_us();
	rc = vdpa_session_restart(vdev, -1, NULL);
	if (rc != -EOPNOTSUPP)
		vdpa_phase_end(vdev, VDPA_PHASE_SWITCH, begun_us);
	return rc;
}

/* The queue stays where it is. */
static void
stop_leaving(struct vdpa_core_vq *vq)
{
	if (vq->path->leave == NULL)
		return;
	vq->path->leave(vq, false);
	__atomic_store_n(&vq->at_rest, false, __ATOMIC_RELAXED);
}

static bool
is_to_change(const struct vdpa_core_vq *vq, bool from_direct)
{
	return vq->conf.num != 0 && is_direct(vq) == from_direct &&
	       vq->path != &vdpa_path_shadow_inflight;
}

static int
change_all_alone(struct vdpa_device *vdev, bool from_direct)
{
	bool changes[VDPA_VQ_MAX] = {false};
	int rc;

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		changes[i] = is_to_change(&vdev->core->vqs[i], from_direct);
	rc = reserve(vdev, changes);
	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (changes[i])
			rc = change_alone(vdev, i);
	return rc;
}

static bool
changes_alone(const struct vdpa_device *vdev)
{
	return vdev->core->can.late_vqs || vdev->core->can.vq_reset;
}

static int
change_all(struct vdpa_device *vdev, bool from_direct)
{
	bool any = false;
	int rc;

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		any = any || is_to_change(&vdev->core->vqs[i], from_direct);
	if (!any)
		return 0;
	vdpa_own_begin_change(vdev);
	rc = changes_alone(vdev) ? change_all_alone(vdev, from_direct) : change_by_restart(vdev);
	vdpa_own_end_change(vdev);
	return rc;
}

static void init_work(struct vdpa_device *vdev);

/* Only a reset of the queue brings it to the beginning of a ring: that comes where the guest's ring
 * comes round to its own. Without RING_RESET the guest's next reset ends the shadow. */
static void
leave_when_it_can(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_core_vq *vq = &core->vqs[idx];

	if (vq->path->leave == NULL || vq->path == &vdpa_path_shadow_inflight ||
	    core->migration != VDPA_MIGRATION_AUTO || core->needs_shadows || !core->can.vq_reset ||
	    (core->dirty.on && !core->dirty.by_device))
		return;
	init_work(vdev);
	vq->path->leave(vq, true);
}

/* A queue of which it would not be known where it stops; -1: none. Of a packed ring that is so as
 * soon as a buffer is used, which may be at any moment. */
static int
find_unplaced(struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (is_direct(&vdev->core->vqs[i]) &&
		    ((vdpa_session_is_packed(vdev) && !vdpa_session_tells(vdev)) ||
		     !vdpa_session_can_place(vdev, i)))
			return i;
	return -1;
}

static bool
any_direct(const struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (is_direct(&vdev->core->vqs[i]))
			return true;
	return false;
}

static int
change_to_shadows(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	/* The first of the movers would make it while its queue stands still. */
	struct vdpa_worker *worker = vdpa_worker_get(NULL);
	int rc;

	core->needs_shadows = true;
	rc = worker != NULL ? change_all(vdev, true) : -ENOMEM;
	if (worker != NULL)
		vdpa_worker_put(worker);
	if (rc == -EOPNOTSUPP && vdpa_device_started(vdev)) {
		core->needs_shadows = false;
		return 0;
	}
	return rc;
}

/* Those that have come to rest at the beginning of their rings go on by the direct path. */
static void
leave_those_at_rest(struct vdpa_device *vdev)
{
	int rc = 0;

	vdpa_own_begin_change(vdev);
	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++) {
		struct vdpa_core_vq *vq = &vdev->core->vqs[i];

		if (!__atomic_load_n(&vq->at_rest, __ATOMIC_ACQUIRE) ||
		    vq->path == &vdpa_path_direct)
			continue;
		rc = change_alone(vdev, i);
		if (rc == -EOPNOTSUPP) {
			/* It cannot reset the queue after all: the shadow goes on. */
			stop_leaving(vq);
			rc = 0;
		} else if (rc == 0) {
			VDPA_LOG_LIMITED(&vdev->core->log, INFO,
					 "%s: queue %u: is on the %s path again", vdev->name, i,
					 vq->path->name);
		}
	}
	vdpa_own_end_change(vdev);
}

/* On the device's work queue: what could not change before may now. */
static void
path_work(struct vdpa_work *work)
{
	struct vdpa_device *vdev = work->arg;
	struct vdpa_device_core *core = vdev->core;

	vdpa_device_lock(vdev);
	/* One that is suspended comes back here when it resumes. A device's own log goes on with a
	 * queue that leaves its shadow. */
	if (core->state != VDPA_STATE_RUNNING)
		goto out;
	if (core->dirty.on && !core->dirty.by_device) {
		if (core->dirty.blind && find_unplaced(vdev) < 0 && change_to_shadows(vdev) == 0)
			vdpa_step_log_paths_changed(vdev);
	} else if (!core->needs_shadows) {
		leave_those_at_rest(vdev);
	}
out:
	vdpa_device_unlock(vdev);
}

static void
init_work(struct vdpa_device *vdev)
{
	struct vdpa_work *work = &vdev->core->path_work;

	if (work->run == NULL)
		*work = (struct vdpa_work){.run = path_work, .arg = vdev};
}

int
vdpa_session_enter_shadows(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	int idx;

	if (vdpa_step_device_logs(vdev) || core->migration != VDPA_MIGRATION_AUTO)
		return 0;
	init_work(vdev);
	core->needs_shadows = true;
	for (uint16_t i = 0; i < core->nvqs; i++)
		stop_leaving(&core->vqs[i]);
	if (!any_direct(vdev))
		return 0;
	idx = find_unplaced(vdev);
	if (idx < 0)
		return change_to_shadows(vdev);
	core->needs_shadows = false;
	VDPA_LOG_LIMITED(&core->log, WARNING,
			 "%s: queue %d: the device has no dirty log and does not say where its "
			 "queue stands: all memory counts as written, and a migration does not "
			 "end, until that can be seen (the word `migration shadow` keeps account)",
			 vdev->name, idx);
	return 0;
}

/* Whether the device loads a place in a ring: one that tells them does, and each that is relayed.
 */
static bool
loads_places(struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].path == &vdpa_path_relay)
			return true;
	return vdpa_session_tells(vdev);
}

void
vdpa_session_leave_shadows(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	const bool all = core->needs_shadows;

	core->needs_shadows = false;
	if (core->migration != VDPA_MIGRATION_AUTO)
		return;
	/* One that tells places loads them. Where not all could change, some may have. */
	if (all && loads_places(vdev)) {
		(void)change_all(vdev, false);
		return;
	}
	for (uint16_t i = 0; i < core->nvqs; i++)
		leave_when_it_can(vdev, i);
}

/* Only on the direct path a queue has a doorbell. */
static void
note_doorbell(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	bool without = vq->path != &vdpa_path_direct;

	if (vdev->core->can.doorbells && vq->without_doorbell != without)
		vdpa_device_doorbell_changed(vdev, idx);
	vq->without_doorbell = without;
}

int
vdpa_session_run_vq(struct vdpa_device *vdev, uint16_t idx)
{
	int rc = vdpa_path_run(vdev, idx);

	if (rc < 0)
		return rc;
	note_doorbell(vdev, idx);
	leave_when_it_can(vdev, idx);
	return 0;
}
