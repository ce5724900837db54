/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The queues of a session, one by one: they come and go, are enabled and disabled, and have their
 * eventfds swapped while the device runs, as far as it can. Where the device lacks an operation,
 * the core falls back to a suspension, a restart, or a stop of the whole device.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include "failure.h"
#include "op.h"
#include "paths.h"
#include "session_priv.h"
#include "steps.h"
#include "vdpa_log.h"

/* After a suspension for the sake of one queue: the others must not stand still unnoticed. */
static void
resume_others(struct vdpa_device *vdev)
{
	int rc = vdpa_step_resume(vdev);

	if (rc < 0)
		vdpa_device_fail(vdev, -1, rc, "it does not resume");
}

/* The queues that were set up, and one as conf has it. */
static void
collect_vqs(struct vdpa_device *vdev, int idx, const struct vdpa_vq_config *conf,
	    struct vdpa_vq_config *vqs)
{
	const struct vdpa_device_core *core = vdev->core;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		vqs[i] = i == idx ? *conf : core->vqs[i].conf;
		/* A disabled one is not ready, but set up. */
		vqs[i].ready = i == idx || core->vqs[i].conf.num != 0;
	}
}

/* The queues of a device that keeps its state, where they stand, and what else a reset would take.
 * It is suspended then. */
static int
suspend_for_restart(struct vdpa_device *vdev, struct vdpa_vq_config *vqs,
		    struct vdpa_kept_state *kept)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_error_saved error;
	int rc;

	rc = vdpa_step_suspend(vdev);
	if (rc < 0)
		return rc;
	for (uint16_t i = 0; i < core->nvqs; i++) {
		if (core->vqs[i].conf.num == 0 || core->vqs[i].path->keeps_place)
			continue;
		rc = vdpa_session_suspended_place(vdev, i, &vqs[i].state);
		if (rc < 0)
			goto err_resume;
	}
	rc = vdpa_session_keep_state(vdev, kept);
	if (rc == 0)
		return 0;

err_resume:
	/* The others go on as they were. */
	vdpa_error_save(&error);
	resume_others(vdev);
	vdpa_error_restore(&error);
	return rc;
}

/* Whether a queue can go on where it stands, once the device has been reset. */
static bool
can_go_on(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	enum vdpa_migration mode = vdev->core->migration;

	if (!vdpa_session_can_place(vdev, idx))
		return false;
	/* A device that does not take the place needs a shadow for it. */
	return (mode != VDPA_MIGRATION_OFF && mode != VDPA_MIGRATION_LOG) ||
	       vdpa_session_tells(vdev) ||
	       vdpa_ring_is_fresh(vdev->core->iotlb, vdpa_session_is_packed(vdev), &vq->conf);
}

/* A device can start again when it will be known where its queues stand. */
static int
check_places(struct vdpa_device *vdev, int idx)
{
	const struct vdpa_device_core *core = vdev->core;

	for (uint16_t i = 0; i < core->nvqs; i++)
		if (i != idx && core->vqs[i].conf.num != 0 && !can_go_on(vdev, i))
			return vdpa_error(EOPNOTSUPP,
					  "%s: queue %u has been used, and the device does not "
					  "say where it stands, so that the device cannot start "
					  "again",
					  vdev->name, i);
	return 0;
}

/* By a reset. A queue that comes anew (idx, -1: none) stands where its configuration says. */
static int
stop_for_restart(struct vdpa_device *vdev, struct vdpa_vq_config *vqs, int idx,
		 struct vdpa_kept_state *kept)
{
	enum vdpa_vq_place places[VDPA_VQ_MAX];
	int rc = vdpa_session_reset_with_places(vdev, vqs, places, kept);

	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (places[i] == VDPA_VQ_PLACE_UNKNOWN && i != idx)
			rc = vdpa_error(EIO, "%s: where queue %u stopped is not known", vdev->name,
					i);
	return rc;
}

/* A suspended device is reset; what it said of its queues holds, and shadows say it now. */
static int
reset_suspended(struct vdpa_device *vdev, struct vdpa_vq_config *vqs)
{
	/* The front end has yet to be notified of a failure that was reported. */
	int rc = vdpa_step_quiesce(vdev);

	if (rc == 0)
		vdpa_device_set_state(vdev, VDPA_STATE_IDLE);
	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].placed)
			vqs[i].state = vdev->core->vqs[i].state;
	return rc;
}

/* What it has reported is more than a restart can mend, and a reset forgets it. */
static int
check_reports(struct vdpa_device *vdev)
{
	char why[VDPA_FAILURE_MAX];

	vdpa_device_failure(vdev, why, sizeof(why));
	return why[0] == '\0' ? 0 : vdpa_error(EIO, "%s: has failed: %s", vdev->name, why);
}

int
vdpa_session_restart(struct vdpa_device *vdev, int idx, const struct vdpa_vq_config *conf)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	uint64_t used_iova[VDPA_VQ_MAX];
	struct vdpa_dirty_log log = core->dirty.whole;
	struct vdpa_start_config start = {.features = core->guest_features,
					  .vqs = vqs,
					  .nvqs = core->nvqs,
					  .iotlb = core->iotlb,
					  .log = core->dirty.on ? &log : NULL,
					  .used_iova = used_iova};
	bool needs_shadows = core->needs_shadows;
	char why[VDPA_ERROR_MAX];
	struct vdpa_kept_state kept = {0};
	int rc = check_reports(vdev);

	if (rc < 0)
		return rc;
	for (uint16_t i = 0; i < core->nvqs; i++)
		used_iova[i] = core->vqs[i].log_iova;
	collect_vqs(vdev, idx, conf, vqs);
	rc = core->can.suspend ? suspend_for_restart(vdev, vqs, &kept) : -EOPNOTSUPP;
	if (rc == -EOPNOTSUPP)
		rc = check_places(vdev, idx);
	if (rc < 0)
		return rc;
	vdpa_iotlb_get(start.iotlb);
	rc = core->state == VDPA_STATE_SUSPENDED ? reset_suspended(vdev, vqs)
						 : stop_for_restart(vdev, vqs, idx, &kept);
	if (rc == -EOPNOTSUPP && vdpa_device_started(vdev)) {
		/* Nothing was stopped. */
		vdpa_iotlb_put(start.iotlb);
		return rc;
	}
	/* The guest has set it by the device's control queue, and knows of no reset. */
	start.state = kept.buf;
	start.state_len = kept.len;
	if (rc == 0)
		rc = check_reports(vdev);
	if (rc == 0)
		rc = vdpa_session_start_with(vdev, &start, needs_shadows);
	vdpa_iotlb_put(start.iotlb);
	free(kept.buf);
	if (rc < 0) {
		/* Queues that ran are gone, which is more than this call's failure. */
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		vdpa_device_fail(vdev, idx, rc, "the device did not start again: %s",
				 vdpa_error_cause(why, vdev->name, idx));
		return vdpa_error(rc, "%s", why);
	}
	return 0;
}

/* A queue that was reset by itself goes on where it stood. */
static int
start_again(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_vq_config conf = vdev->core->vqs[idx].conf, disabled = conf;
	struct vdpa_error_saved error;
	int rc;

	conf.enabled = true;
	rc = vdpa_session_setup_vq(vdev, idx, &conf);
	if (rc == 0)
		rc = vdpa_session_run_vq(vdev, idx);
	if (rc < 0) {
		vdpa_error_save(&error);
		vdpa_session_undo_vq(vdev, idx);
		vdev->core->vqs[idx].conf = disabled;
		vdpa_error_restore(&error);
	}
	return rc;
}

/* Reset one queue, which is set up anew when it is enabled again. One of which it would not be
 * known where it stands is left as it is. */
static int
reset_where_it_stands(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_vq_config conf = vdev->core->vqs[idx].conf;
	bool known;
	int rc;

	if (!vdpa_session_can_place(vdev, idx))
		return 0;
	rc = vdpa_session_stop_alone(vdev, idx, &conf.state, true, &known);
	if (rc == -EOPNOTSUPP)
		return 0;
	if (rc == 0)
		vdev->core->vqs[idx].conf = conf;
	return rc;
}

/* Where the device has no notion of enabling, a disabled queue is one that is not ready. */
static int
enable_vq(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_vq_config *conf = &vdev->core->vqs[idx].conf, changed = *conf;
	const struct vdpa_path *path = vdev->core->vqs[idx].path;
	int rc;

	if (path->enable != NULL) {
		path->enable(&vdev->core->vqs[idx], enable);
		if (!vdev->core->can.vq_enable)
			return 0;
	}
	if (vdev->core->can.vq_enable)
		return VDPA_OP(vdev, idx, "set_vq_enable", ops->set_vq_enable(vdev, idx, enable));
	if (!vdev->core->can.late_vqs && !vdev->core->can.suspend && vdev->core->can.vq_reset) {
		if (enable == vdev->core->vqs[idx].ready)
			return 0;
		return enable ? start_again(vdev, idx) : reset_where_it_stands(vdev, idx);
	}
	if (!vdev->core->can.late_vqs) {
		/* What can neither stop one queue nor go on after a stop leaves it as it is. */
		if (!vdev->core->can.suspend && (!enable || vdev->core->vqs[idx].ready))
			return 0;
		changed.enabled = enable;
		rc = vdpa_session_restart(vdev, idx, &changed);
		/* It has the op, and still cannot. */
		return rc == -EOPNOTSUPP && vdpa_device_started(vdev) && !vdev->core->dirty.on &&
				       (!enable || vdev->core->vqs[idx].ready)
			       ? 0
			       : rc;
	}
	if (enable) {
		rc = vdpa_step_vq_state(vdev, idx, &conf->state);
		return rc < 0 ? rc : vdpa_step_vq_ready(vdev, idx, true);
	}
	rc = vdpa_step_vq_ready(vdev, idx, false);
	return rc < 0 ? rc
		      : VDPA_OP(vdev, idx, "get_vq_state",
				ops->get_vq_state(vdev, idx, &conf->state));
}

/* Whether a queue was stopped without the front end's asking, by itself or with the whole device;
 * idx may be any number. */
static bool
has_stopped(const struct vdpa_device *vdev, uint16_t idx)
{
	return idx < vdev->core->nvqs && (vdev->core->vqs[idx].halted || vdev->core->vqs[idx].lost);
}

bool
vdpa_session_any_halted(const struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].halted)
			return true;
	return false;
}

/* Checks of a call about one queue of a running session. */
static int
check_session_vq(struct vdpa_device *vdev, uint16_t idx)
{
	if (vdev->core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	if (vdpa_session_any_halted(vdev))
		return vdpa_error(
			EPROTO,
			"%s: queue %u: the device stops as a whole, and other queues have "
			"not been stopped yet",
			vdev->name, idx);
	if (!vdpa_device_started(vdev))
		return vdpa_error(vdev->core->state == VDPA_STATE_FAILED ? EIO : EPROTO,
				  "%s: is not started", vdev->name);
	if (idx >= vdev->core->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, idx,
				  vdev->core->nvqs);
	return 0;
}

int
vdpa_device_start_vq(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = check_session_vq(vdev, idx);
	if (rc == 0 && vdev->core->vqs[idx].ready)
		rc = vdpa_error(EBUSY, "%s: queue %u: is started", vdev->name, idx);
	if (rc < 0)
		goto out;
	vdev->core->vqs[idx].lost = false;
	if (!vdev->core->can.late_vqs && !vdev->core->vqs[idx].was_reset) {
		rc = vdpa_session_restart(vdev, idx, conf);
		goto out;
	}
	rc = vdpa_session_setup_vq(vdev, idx, conf);
	if (rc == 0)
		rc = vdpa_session_run_vq(vdev, idx);
	if (rc < 0) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		vdpa_session_undo_vq(vdev, idx);
		vdpa_error_restore(&error);
	}
out:
	vdpa_device_unlock(vdev);
	return rc;
}

static bool
any_vq_ready(const struct vdpa_device *vdev)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].ready)
			return true;
	return false;
}

/*
 * Stop the whole device for the sake of one queue, as it cannot be stopped otherwise. The others
 * are over too; where they stood waits for whoever stops them.
 */
static int
halt(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	enum vdpa_vq_place places[VDPA_VQ_MAX];
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	int rc;

	for (uint16_t i = 0; i < core->nvqs; i++)
		vqs[i] = core->vqs[i].conf;
	rc = vdpa_session_reset_with_places(vdev, vqs, places, NULL);
	for (uint16_t i = 0; rc == 0 && i < core->nvqs; i++) {
		core->vqs[i].halted = places[i] != VDPA_VQ_NOT_SET_UP;
		core->vqs[i].state = vqs[i].state;
	}
	return rc;
}

static int
take_stopped(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	*state = vdev->core->vqs[idx].state;
	vdev->core->vqs[idx].halted = vdev->core->vqs[idx].lost = false;
	return 0;
}

/* Stop a queue by whatever the device has for it. -EOPNOTSUPP: it has nothing. */
static int
stop_ready_vq(struct vdpa_device *vdev, uint16_t idx)
{
	int rc;

	/* Where queues come and go one by one, stop this one; else all, they stop together. */
	if (vdev->core->can.late_vqs)
		return vdpa_step_vq_ready(vdev, idx, false);
	rc = vdev->core->can.suspend ? vdpa_step_suspend(vdev) : -EOPNOTSUPP;
	/* One that goes on with all its queues only, as a virtio device does, stops as a whole. */
	if (rc == 0)
		return vdpa_step_vq_ready(vdev, idx, false);
	if (rc != -EOPNOTSUPP || !vdev->core->can.vq_reset)
		return rc;
	rc = VDPA_OP(vdev, idx, "reset_vq", vdev->config->reset_vq(vdev, idx));
	if (rc == 0) {
		vdev->core->vqs[idx].ready = false;
		vdev->core->vqs[idx].was_reset = true;
	}
	return rc;
}

static bool
can_stop_alone(const struct vdpa_device *vdev)
{
	const struct vdpa_capabilities *can = &vdev->core->can;

	return can->late_vqs || can->suspend || can->vq_reset;
}

int
vdpa_session_stop_alone(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state,
			bool guest_runs, bool *known)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_core_vq *vq = &core->vqs[idx];
	char why[VDPA_ERROR_MAX];
	struct vdpa_ring_watch *w = NULL;
	unsigned int errors_before;
	bool path_says;
	int rc = 0;

	*known = true;
	if (vq->ready && !can_stop_alone(vdev))
		return -EOPNOTSUPP;
	if (vq->ready) {
		vdpa_session_drain(vdev, idx, guest_runs ? VDPA_SWITCH_DRAIN_MS : VDPA_DRAIN_MS);
		w = vdpa_session_watch_vq(vdev, idx);
		rc = guest_runs && !vdpa_session_will_know(vdev, idx, w) ? -EOPNOTSUPP
									 : stop_ready_vq(vdev, idx);
	}
	if (rc == -EOPNOTSUPP) {
		/* Of a guest that goes on nothing was done; else the device stops as a whole. */
		if (guest_runs)
			vdpa_step_path_enable(vdev, idx, true);
		free(w);
		return rc;
	}
	if (rc < 0) {
		/* It may go on with the queue, and the others will not fare better. */
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		vdpa_device_fail(vdev, idx, rc, "it does not stop: %s",
				 vdpa_error_cause(why, vdev->name, idx));
		vdpa_device_stop_failed(vdev);
		free(w);
		return vdpa_error(rc, "%s", why);
	}
	errors_before = vdpa_error_count();
	path_says = vq->path->keeps_place;
	if (vq->path != &vdpa_path_direct)
		vdpa_step_path_stop(vdev, idx, false);
	if (path_says) {
		*state = vq->state;
		rc = vq->placed ? 0 : -EOPNOTSUPP;
	} else if (core->state == VDPA_STATE_SUSPENDED) {
		rc = vdpa_session_suspended_place(vdev, idx, state);
	} else {
		rc = vdev->config->get_vq_state(vdev, idx, state);
	}
	if (rc == -EOPNOTSUPP) {
		*known = vdpa_session_place_from_ring(
			vdev, idx, core->iotlb, vdpa_session_is_packed(vdev), &vq->conf, w, state);
		rc = 0;
	} else if (rc < 0) {
		/* That the device does not say it is no reason to keep the queue. */
		rc = vdpa_op_failed(vdev, idx, "get_vq_state", rc, errors_before);
		rc = rc == -EOPNOTSUPP ? -EIO : rc;
	}
	free(w);
	/* What follows may fail too; the first cause is the one to report. */
	snprintf(why, sizeof(why), "%s", rc < 0 ? vdpa_error_message() : "");
	vdpa_step_log_vq_stopped(vdev, idx);
	vdpa_session_undo_vq(vdev, idx);
	if (core->state == VDPA_STATE_SUSPENDED && any_vq_ready(vdev))
		resume_others(vdev);
	return rc < 0 ? vdpa_error(rc, "%s", why) : 0;
}

static int
stop_vq(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	bool known;
	int rc;

	if (vdev->core->vqs[idx].conf.num == 0)
		return vdpa_error(EPROTO, "%s: queue %u: is not started", vdev->name, idx);
	if (vdpa_device_stop_failed(vdev))
		return vdpa_error(EIO, "%s: has failed", vdev->name);
	rc = vdpa_session_stop_alone(vdev, idx, state, false, &known);
	if (rc == -EOPNOTSUPP) {
		rc = halt(vdev);
		return rc < 0 ? rc : take_stopped(vdev, idx, state);
	}
	return rc;
}

void
vdpa_session_lose_vq(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_state state = {0};
	char why[VDPA_ERROR_MAX];
	bool known;
	int rc;

	snprintf(why, sizeof(why), "%s", vdpa_error_cause(vdpa_error_message(), vdev->name, idx));
	if (vdpa_device_stop_failed(vdev))
		return;
	rc = vdpa_session_stop_alone(vdev, idx, &state, false, &known);
	if (rc == -EOPNOTSUPP) {
		vdpa_device_fail(vdev, idx, EFAULT, "%s, and it cannot be stopped alone", why);
		vdpa_device_stop_failed(vdev);
		return;
	}
	if (vdev->core->state == VDPA_STATE_FAILED)
		return;
	vq->lost = true;
	vq->state = state;
	VDPA_LOG_LIMITED(&vdev->core->log, ERR, "%s: queue %u: stopped, the others go on: %s",
			 vdev->name, idx, why);
}

void
vdpa_device_lose_vq(struct vdpa_device *vdev, uint16_t idx)
{
	vdpa_device_lock(vdev);
	if (vdpa_device_started(vdev) && vdev->core->vqs[idx].conf.num != 0)
		vdpa_session_lose_vq(vdev, idx);
	vdpa_device_unlock(vdev);
}

const char *
vdpa_device_find_vq_tie(struct vdpa_device *vdev, uint16_t idx, bool packed,
			const struct vdpa_vq_state *state)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	enum vdpa_migration mode = vdev->core->migration;
	const char *tie = NULL;
	struct vdpa_vq_state told;

	vdpa_device_lock(vdev);
	if (vdpa_session_is_guess(vq, packed, state) || vdpa_path_holds(vq, state))
		tie = "stopped with requests under way, and nobody knows which";
	/* The device says it of a queue that does not run. */
	else if (mode != VDPA_MIGRATION_AUTO && mode != VDPA_MIGRATION_SHADOW &&
		 !vdpa_place_is_initial(packed, state) &&
		 vdev->config->get_vq_state(vdev, idx, &told) == -EOPNOTSUPP)
		tie = "stands in the middle of its ring, where the device does not begin, and the "
		      "word `migration` allows no shadow";
	vdpa_device_unlock(vdev);
	return tie;
}

bool
vdpa_device_vq_is_lost(struct vdpa_device *vdev, uint16_t idx)
{
	bool lost;

	vdpa_device_lock(vdev);
	lost = idx < vdev->core->nvqs && vdev->core->vqs[idx].lost;
	vdpa_device_unlock(vdev);
	return lost;
}

int
vdpa_device_stop_vq(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	int64_t begun_us;
	int rc;

	vdpa_device_lock(vdev);
	begun_us = vdpa_now_us();
	if (has_stopped(vdev, idx)) {
		rc = take_stopped(vdev, idx, state);
	} else {
		rc = check_session_vq(vdev, idx);
		if (rc == 0)
			rc = stop_vq(vdev, idx, state);
		vdpa_phase_end(vdev, VDPA_PHASE_STOP_VQ, begun_us);
	}
	vdpa_device_unlock(vdev);
	return rc;
}

/* A change of a queue of the session, by fn under the lock: nothing for one that has stopped by
 * itself, of which the front end has not heard yet. */
static int
change_vq(struct vdpa_device *vdev, uint16_t idx,
	  int (*fn)(struct vdpa_device *vdev, uint16_t idx, int value), int value)
{
	int rc = 0;

	vdpa_device_lock(vdev);
	if (!has_stopped(vdev, idx)) {
		rc = check_session_vq(vdev, idx);
		if (rc == 0)
			rc = fn(vdev, idx, value);
	}
	vdpa_device_unlock(vdev);
	return rc;
}

static int
set_enabled(struct vdpa_device *vdev, uint16_t idx, int enable)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	int rc = 0;

	if (vq->conf.num == 0)
		return vdpa_error(EPROTO, "%s: queue %u: is not started", vdev->name, idx);
	if (vq->conf.enabled != enable)
		rc = enable_vq(vdev, idx, enable);
	if (rc == 0)
		vq->conf.enabled = enable;
	return rc;
}

int
vdpa_device_enable_vq(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	return change_vq(vdev, idx, set_enabled, enable);
}

static int
set_call(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_config *conf = &vq->conf;
	bool had_none = conf->call_fd < 0;
	int rc = vq->path->set_call != NULL ? vq->path->set_call(vq, fd)
					    : vdpa_session_attach_call(vdev, idx, fd);

	if (rc < 0)
		return rc;
	conf->call_fd = fd;
	/* A signal on the old one is still there to be read; without one it was lost, and this one
	 * takes its place. */
	if (fd >= 0 && had_none)
		vdpa_eventfd_signal(fd);
	return 0;
}

int
vdpa_device_set_vq_call(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return change_vq(vdev, idx, set_call, fd);
}

static int
set_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	int rc = vq->path->set_kick != NULL ? vq->path->set_kick(vq, fd)
					    : vdpa_session_attach_kick(vdev, idx, fd);

	if (rc < 0)
		return rc;
	vq->conf.kick_fd = fd;
	if (vq->ready && vq->path == &vdpa_path_direct)
		vdpa_session_kick(vdev, idx);
	return 0;
}

int
vdpa_device_set_vq_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return change_vq(vdev, idx, set_kick, fd);
}

int
vdpa_get_vq_notification(struct vdpa_device *vdev, uint16_t idx,
			 struct vdpa_notification_area *area)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = check_session_vq(vdev, idx);
	if (rc == 0 && !vdev->core->can.doorbells)
		rc = vdpa_error(EOPNOTSUPP, "%s: has no doorbell to give away", vdev->name);
	if (rc == 0 && vdev->core->vqs[idx].path != &vdpa_path_direct)
		rc = vdpa_error(EOPNOTSUPP,
				"%s: queue %u: runs by rings of ours (%s), which have no doorbell",
				vdev->name, idx, vdev->core->vqs[idx].path->name);
	if (rc == 0)
		rc = VDPA_OP(vdev, idx, "get_vq_notification",
			     vdev->config->get_vq_notification(vdev, idx, area));
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_get_fixed_notification(struct vdpa_device *vdev, uint16_t idx,
			    struct vdpa_notification_area *area)
{
	enum vdpa_migration migration = vdev->core->migration;
	int rc = 0;

	vdpa_device_lock(vdev);
	if (vdev->core->state == VDPA_STATE_REMOVED)
		rc = vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	else if (idx >= vdev->core->nvqs)
		rc = vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, idx,
				vdev->core->nvqs);
	else if (!vdev->core->can.doorbells)
		rc = vdpa_error(EOPNOTSUPP, "%s: has no doorbell to give away", vdev->name);
	else if (migration != VDPA_MIGRATION_OFF && migration != VDPA_MIGRATION_LOG)
		rc = vdpa_error(EOPNOTSUPP,
				"%s: a queue may come to run by rings of ours, which have no "
				"doorbell: add it with migration off, or log",
				vdev->name);
	if (rc == 0)
		rc = VDPA_OP(vdev, idx, "get_vq_notification",
			     vdev->config->get_vq_notification(vdev, idx, area));
	vdpa_device_unlock(vdev);
	return rc;
}
