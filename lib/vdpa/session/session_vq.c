/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The queues of a session, one by one: they come and go, are enabled and disabled, and have their
 * eventfds swapped while the device runs, as far as it can. Where the device lacks an operation,
 * the core falls back to a suspension, a restart, or a stop of the whole device.
 */

#include <errno.h>
#include <stdio.h>

#include <linux/virtio_config.h>

#include "failure.h"
#include "op.h"
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
collect_vqs(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
	    struct vdpa_vq_config *vqs)
{
	const struct vdpa_device_core *core = vdev->core;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		vqs[i] = i == idx ? *conf : core->vqs[i].conf;
		/* A disabled one is not ready, but set up. */
		vqs[i].ready = i == idx || core->vqs[i].conf.num != 0;
	}
}

/* The queues of a device that keeps its state, where they stand. It is suspended then. */
static int
suspend_for_restart(struct vdpa_device *vdev, struct vdpa_vq_config *vqs)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_error_saved error;
	int rc;

	rc = vdpa_step_suspend(vdev);
	if (rc < 0)
		return rc;
	for (uint16_t i = 0; i < core->nvqs; i++) {
		if (core->vqs[i].conf.num == 0)
			continue;
		rc = VDPA_OP(vdev, i, "get_vq_state",
			     vdev->config->get_vq_state(vdev, i, &vqs[i].state));
		if (rc < 0)
			goto err_resume;
	}
	return 0;

err_resume:
	/* The others go on as they were. */
	vdpa_error_save(&error);
	resume_others(vdev);
	vdpa_error_restore(&error);
	return rc;
}

/* A device that cannot keep its queues' state can start again as long as they have none. */
static int
check_fresh(struct vdpa_device *vdev, const struct vdpa_start_config *start, uint16_t idx)
{
	bool packed = (start->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	for (uint16_t i = 0; i < start->nvqs; i++)
		if (i != idx && start->vqs[i].ready &&
		    !vdpa_ring_is_fresh(start->iotlb, packed, &start->vqs[i]))
			return vdpa_error(EOPNOTSUPP,
					  "%s: queue %u: it comes after DRIVER_OK, which the "
					  "device cannot take, and queue %u has been used, so that "
					  "the device cannot start again",
					  vdev->name, idx, i);
	return 0;
}

/* By a reset, for the sake of queue idx. */
static int
stop_for_restart(struct vdpa_device *vdev, struct vdpa_vq_config *vqs, uint16_t idx)
{
	enum vdpa_vq_place places[VDPA_VQ_MAX];
	int rc = vdpa_session_reset_with_places(vdev, vqs, places);

	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (places[i] == VDPA_VQ_PLACE_UNKNOWN)
			rc = vdpa_error(EIO, "%s: queue %u: where queue %u stopped is not known",
					vdev->name, idx, i);
	return rc;
}

/*
 * Stop and start again with one queue as conf has it, for devices that take queues before DRIVER_OK
 * only. Every queue that was set up goes on where it was.
 */
static int
restart_with(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_vq_config vqs[VDPA_VQ_MAX];
	struct vdpa_start_config start = {
		.features = core->features, .vqs = vqs, .nvqs = core->nvqs, .iotlb = core->iotlb};
	bool suspended, tells;
	char why[VDPA_ERROR_MAX];
	int rc;

	if (core->dirty.on)
		return vdpa_error(EOPNOTSUPP,
				  "%s: queue %u: the device cannot start again during a migration",
				  vdev->name, idx);
	collect_vqs(vdev, idx, conf, vqs);
	rc = core->can.suspend ? suspend_for_restart(vdev, vqs) : -EOPNOTSUPP;
	suspended = rc == 0;
	tells = rc == -EOPNOTSUPP && vdpa_session_tells_places(vdev);
	if (rc == -EOPNOTSUPP)
		rc = tells ? 0 : check_fresh(vdev, &start, idx);
	if (rc < 0)
		return rc;
	vdpa_iotlb_get(start.iotlb);
	/* What was used on the way to the stop counts too. */
	if (tells) {
		rc = stop_for_restart(vdev, vqs, idx);
	} else if (!suspended) {
		rc = vdpa_step_reset(vdev);
		if (rc == 0)
			rc = check_fresh(vdev, &start, idx);
	}
	if (rc == 0)
		rc = vdpa_session_start(vdev, &start);
	vdpa_iotlb_put(start.iotlb);
	if (rc < 0) {
		/* Queues that ran are gone, which is more than this call's failure. */
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		vdpa_device_fail(vdev, idx, rc, "the device did not start again: %s",
				 vdpa_error_cause(why, vdev->name, idx));
		return vdpa_error(rc, "%s", why);
	}
	return 0;
}

/* Where the device has no notion of enabling, a disabled queue is one that is not ready. */
static int
enable_vq(struct vdpa_device *vdev, uint16_t idx, bool enable)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_vq_config *conf = &vdev->core->vqs[idx].conf, changed = *conf;
	int rc;

	if (vdev->core->can.vq_enable)
		return VDPA_OP(vdev, idx, "set_vq_enable", ops->set_vq_enable(vdev, idx, enable));
	if (!vdev->core->can.late_vqs) {
		/* What can neither stop one queue nor go on after a stop leaves it as it is. */
		if (!vdev->core->can.suspend && (!enable || vdev->core->vqs[idx].ready))
			return 0;
		changed.enabled = enable;
		rc = restart_with(vdev, idx, &changed);
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
		rc = restart_with(vdev, idx, conf);
		goto out;
	}
	rc = vdpa_session_setup_vq(vdev, idx, conf);
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
	rc = vdpa_session_reset_with_places(vdev, vqs, places);
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
	if (rc != -EOPNOTSUPP || !vdev->core->can.vq_reset)
		return rc;
	rc = VDPA_OP(vdev, idx, "reset_vq", vdev->config->reset_vq(vdev, idx));
	if (rc == 0) {
		vdev->core->vqs[idx].ready = false;
		vdev->core->vqs[idx].was_reset = true;
	}
	return rc;
}

/* Stop a queue and say where it stopped; the others go on. -EOPNOTSUPP: it cannot be stopped alone,
 * and nothing was done. */
static int
stop_alone(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_core_vq *vq = &core->vqs[idx];
	char why[VDPA_ERROR_MAX];
	unsigned int errors_before;
	int rc = 0;

	if (vq->ready)
		rc = stop_ready_vq(vdev, idx);
	if (rc == -EOPNOTSUPP)
		return rc;
	if (rc < 0) {
		/* It may go on with the queue, and the others will not fare better. */
		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		vdpa_device_fail(vdev, idx, rc, "it does not stop: %s",
				 vdpa_error_cause(why, vdev->name, idx));
		vdpa_device_stop_failed(vdev);
		return vdpa_error(rc, "%s", why);
	}
	errors_before = vdpa_error_count();
	rc = vdev->config->get_vq_state(vdev, idx, state);
	if (rc == -EOPNOTSUPP) {
		(void)vdpa_session_place_from_ring(vdev, idx, core->iotlb,
						   vdpa_session_is_packed(vdev), &vq->conf, state);
		rc = 0;
	} else if (rc < 0) {
		/* That the device does not say it is no reason to keep the queue. */
		rc = vdpa_op_failed(vdev, idx, "get_vq_state", rc, errors_before);
		rc = rc == -EOPNOTSUPP ? -EIO : rc;
	}
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
	int rc;

	if (vdev->core->vqs[idx].conf.num == 0)
		return vdpa_error(EPROTO, "%s: queue %u: is not started", vdev->name, idx);
	if (vdpa_device_stop_failed(vdev))
		return vdpa_error(EIO, "%s: has failed", vdev->name);
	rc = stop_alone(vdev, idx, state);
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
	int rc;

	snprintf(why, sizeof(why), "%s", vdpa_error_cause(vdpa_error_message(), vdev->name, idx));
	if (vdpa_device_stop_failed(vdev))
		return;
	rc = stop_alone(vdev, idx, &state);
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
	int rc;

	vdpa_device_lock(vdev);
	if (has_stopped(vdev, idx)) {
		rc = take_stopped(vdev, idx, state);
	} else {
		rc = check_session_vq(vdev, idx);
		if (rc == 0)
			rc = stop_vq(vdev, idx, state);
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
	struct vdpa_vq_config *conf = &vdev->core->vqs[idx].conf;
	bool had_none = conf->call_fd < 0;
	int rc = vdpa_session_attach_call(vdev, idx, fd);

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
	int rc = vdpa_session_attach_kick(vdev, idx, fd);

	if (rc < 0)
		return rc;
	vdev->core->vqs[idx].conf.kick_fd = fd;
	if (vdev->core->vqs[idx].ready)
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
	if (rc == 0)
		rc = VDPA_OP(vdev, idx, "get_vq_notification",
			     vdev->config->get_vq_notification(vdev, idx, area));
	vdpa_device_unlock(vdev);
	return rc;
}
