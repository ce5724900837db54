/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A session: from vdpa_device_start() to vdpa_device_stop(), and what may change of the device in
 * between (dirty log); of its queues, see session_vq.c, of their kicks, relay.c, of the memory,
 * which outlives it, session_memory.c. Built from the steps of status.c.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "clock.h"
#include "op.h"
#include "paths.h"
#include "session_priv.h"
#include "snapshot.h"
#include "steps.h"
#include "vdpa_log.h"

int
vdpa_session_attach_call(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return VDPA_OP(vdev, idx, "set_vq_cb", vdev->config->set_vq_cb(vdev, idx, fd));
}

/* The steps of a queue as the device is to have it, to ready. */
static int
setup_for_device(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf)
{
	const struct vdpa_capabilities *can = &vdev->core->can;
	const struct vdpa_config_ops *ops = vdev->config;
	int rc;

	rc = vdpa_step_vq_num(vdev, idx, conf->num);
	if (rc == 0)
		rc = vdpa_step_vq_address(vdev, idx, conf->desc, conf->driver, conf->device);
	if (rc == 0)
		rc = vdpa_step_vq_state(vdev, idx, &conf->state);
	if (rc == 0 && conf->inflight.addr != NULL)
		rc = VDPA_OP(vdev, idx, "inflight area",
			     can->inflight ? ops->set_vq_inflight(vdev, idx, &conf->inflight)
					   : -EOPNOTSUPP);
	if (rc == 0)
		rc = vdpa_session_attach_call(vdev, idx, conf->call_fd);
	if (rc == 0)
		rc = vdpa_session_attach_kick(vdev, idx, conf->kick_fd);
	if (rc == 0 && (conf->enabled || can->vq_enable))
		rc = vdpa_step_vq_ready(vdev, idx, true);
	if (rc == 0 && !conf->enabled && can->vq_enable)
		rc = VDPA_OP(vdev, idx, "set_vq_enable", ops->set_vq_enable(vdev, idx, false));
	return rc;
}

static int
setup_on_path(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_path *path,
	      const struct vdpa_vq_config *conf)
{
	struct vdpa_vq_config dev;
	int rc = vdpa_path_enter(vdev, idx, path, conf, &dev);

	if (rc == 0)
		rc = setup_for_device(vdev, idx, &dev);
	if (rc == 0)
		vdev->core->vqs[idx].conf = *conf;
	return rc;
}

/* What a queue needs of its path that begins with conf, as far as is known before. */
static struct vdpa_path_need
need_of(const struct vdpa_device *vdev, const struct vdpa_vq_config *conf)
{
	return (struct vdpa_path_need){.log = vdev->core->needs_shadows,
				       .inflight = conf->inflight.addr != NULL,
				       .track = conf->inflight.addr != NULL &&
						!vdev->core->can.inflight};
}

int
vdpa_session_add_memory(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
			size_t *size)
{
	const struct vdpa_path_need need = need_of(vdev, conf);
	const struct vdpa_path *path = vdpa_path_choose(vdev, idx, &need);

	if (path == NULL)
		return -errno;
	if (path->memory != NULL)
		*size += vdpa_own_size(path->memory(&vdev->core->vqs[idx], conf));
	return 0;
}

bool
vdpa_session_is_guess(const struct vdpa_core_vq *vq, bool packed, const struct vdpa_vq_state *state)
{
	return vq->guessed && vdpa_place_is_same(packed, &vq->guess, state) &&
	       !vdpa_place_is_initial(packed, state);
}

int
vdpa_session_setup_vq(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf)
{
	struct vdpa_path_need need = need_of(vdev, conf);
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	bool packed = vdpa_session_is_packed(vdev);
	const struct vdpa_path *path;
	struct vdpa_vq_config fresh = *conf;
	int rc;

	if (vdpa_session_is_guess(vq, packed, &conf->state))
		return vdpa_error(
			EOPNOTSUPP,
			"%s: queue %u: it stopped with buffers in flight, and neither the "
			"device nor its ring says which: it can begin anew only, when the "
			"guest's driver resets it (the word `migration shadow` keeps "
			"account of them, and so does `inflight on` where the front end "
			"has an inflight area)",
			vdev->name, idx);
	vq->guessed = false;
	path = vdpa_path_choose(vdev, idx, &need);
	if (path == NULL)
		return -errno;
	rc = setup_on_path(vdev, idx, path, conf);
	if (rc != -EOPNOTSUPP || path->keeps_place || vdpa_place_is_initial(packed, &conf->state))
		return rc;
	/* Whether it is the place that the device does not take: with another it would. */
	vdpa_place_set_initial(packed, &fresh.state);
	if (VDPA_OP(vdev, idx, "set_vq_state",
		    vdev->config->set_vq_state(vdev, idx, &fresh.state)) < 0)
		return rc;
	need.place = true;
	vdpa_step_path_stop(vdev, idx, false);
	path = vdpa_path_choose(vdev, idx, &need);
	return path != NULL ? setup_on_path(vdev, idx, path, conf) : -errno;
}

void
vdpa_session_undo_vq(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	bool stands = true;

	if (vq->ready)
		stands = vdpa_step_vq_ready(vdev, idx, false) == 0;
	vdpa_session_attach_kick(vdev, idx, -1);
	vdpa_session_attach_call(vdev, idx, -1);
	vdpa_step_path_stop(vdev, idx, !stands);
	vq->conf = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
}

static int
check_log(struct vdpa_device *vdev)
{
	return vdpa_device_can_migrate(vdev)
		       ? 0
		       : vdpa_error(EOPNOTSUPP, "%s: has no dirty log", vdev->name);
}

/* Whether the device does not log this guest's memory, for want of room, and the queues' paths can:
 * so it is from now on. */
static bool
is_refused(struct vdpa_device *vdev, int rc)
{
	if (rc != -EOPNOTSUPP || vdev->core->dirty.on || !vdpa_step_device_logs(vdev) ||
	    vdev->core->migration != VDPA_MIGRATION_AUTO)
		return false;
	vdev->core->log_refused = true;
	VDPA_LOG_LIMITED(&vdev->core->log, NOTICE,
			 "%s; relays or shadow virtqueues log instead of the device",
			 vdpa_error_message());
	return true;
}

/* A log for a device that runs. */
static int
begin_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used_iova)
{
	int rc = check_log(vdev);

	if (rc == 0)
		rc = vdpa_session_enter_shadows(vdev);
	if (rc == 0)
		rc = vdpa_step_log_start(vdev, log, used_iova);
	if (!is_refused(vdev, rc))
		return rc;
	rc = vdpa_session_enter_shadows(vdev);
	return rc == 0 ? vdpa_step_log_start(vdev, log, used_iova) : rc;
}

/* Of a device that may have failed meanwhile. The caller's error stays. */
static void
leave_paths(struct vdpa_device *vdev)
{
	struct vdpa_error_saved error;

	if (!vdpa_device_started(vdev))
		return;
	vdpa_error_save(&error);
	vdpa_session_leave_shadows(vdev);
	vdpa_error_restore(&error);
}

/* Map at once what the queues of a start need for their paths, as far as is known: a queue that
 * does not find it maps its own. */
static void
reserve_memory(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
	size_t size = 0;

	for (uint16_t i = 0; i < conf->nvqs; i++)
		if (conf->vqs[i].ready)
			(void)vdpa_session_add_memory(vdev, i, &conf->vqs[i], &size);
	(void)vdpa_own_reserve(vdev, size);
}

static int
setup_vqs(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
	const bool changes = vdev->core->own_changing;
	int rc = 0;

	if (!changes) {
		vdpa_own_begin_change(vdev);
		reserve_memory(vdev, conf);
	}
	for (uint16_t i = 0; rc == 0 && i < conf->nvqs; i++)
		if (conf->vqs[i].ready)
			rc = vdpa_session_setup_vq(vdev, i, &conf->vqs[i]);
	if (!changes)
		vdpa_own_end_change(vdev);
	return rc;
}

/* The queues' paths begin: the device may be notified from now on. */
static int
run_paths(struct vdpa_device *vdev)
{
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].conf.num != 0)
			rc = vdpa_session_run_vq(vdev, i);
	return rc;
}

/* The first step: a reset, but of a device that a former process has left running, which is found
 * as it is by the steps that follow. */
static int
begin_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf, bool shadows)
{
	if (!vdev->core->is_left)
		return vdpa_step_reset(vdev);
	if (conf->log == NULL && !shadows && conf->state == NULL)
		return 0;
	(void)vdpa_step_reset(vdev);
	return vdpa_error(EOPNOTSUPP,
			  "%s: its memory is logged, which does not go on in the next process",
			  vdev->name);
}

int
vdpa_session_start_with(struct vdpa_device *vdev, const struct vdpa_start_config *conf,
			bool shadows)
{
	const struct vdpa_config_ops *ops = vdev->config;
	int64_t begun_us = vdpa_now_us();
	uint8_t status = 0;
	int rc;

	rc = begin_start(vdev, conf, shadows);
	if (rc < 0)
		return rc;
	vdev->core->does_not_drain = false;
	vdev->core->needs_shadows = shadows;
	rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_ACKNOWLEDGE);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_DRIVER);
	if (rc == 0)
		rc = vdpa_step_features(vdev, vdpa_path_device_features(vdev, conf->features));
	if (rc == 0)
		__atomic_store_n(&vdev->core->guest_features, conf->features, __ATOMIC_RELAXED);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc == 0)
		rc = vdpa_step_map(vdev, conf->iotlb);
	if (rc == 0)
		rc = setup_vqs(vdev, conf);
	if (rc == 0 && ops->set_config_cb != NULL)
		rc = VDPA_OP(vdev, -1, "set_config_cb",
			     ops->set_config_cb(vdev, vdev->core->config_fd));
	if (rc == 0 && conf->state != NULL)
		rc = vdpa_session_load_state(vdev, conf->state, conf->state_len);
	if (rc == 0 && conf->state != NULL)
		vdpa_device_state_changed(vdev, conf->state, conf->state_len);
	/* Queues may have buffers already, which the device writes as soon as it runs. */
	if (rc == 0 && conf->log != NULL)
		rc = check_log(vdev);
	if (rc == 0 && conf->log != NULL) {
		rc = vdpa_step_log_start(vdev, conf->log, conf->used_iova);
		(void)is_refused(vdev, rc);
	}
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_DRIVER_OK);
	if (rc == 0) {
		vdev->core->is_left = false;
		/* One that suspends is asked when that matters: it may take its time. */
		vdev->core->tells = VDPA_TELLS_NOT_ASKED;
		if (!vdev->core->can.suspend)
			(void)vdpa_session_tells(vdev);
		rc = run_paths(vdev);
	}
	if (rc == 0)
		vdpa_snapshot_check(vdev);
	if (rc < 0) {
		struct vdpa_error_saved error;

		/* The reset may fail too; the caller reads the first cause. */
		vdpa_error_save(&error);
		vdpa_step_reset(vdev);
		vdpa_error_restore(&error);
	}
	vdpa_phase_end(vdev, VDPA_PHASE_START, begun_us);
	return rc;
}

int
vdpa_session_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
	int rc;

	vdev->core->log_refused = false;
	rc = vdpa_session_start_with(vdev, conf, conf->log != NULL && !vdpa_step_device_logs(vdev));
	return rc < 0 && vdev->core->log_refused ? vdpa_session_start_with(vdev, conf, true) : rc;
}

int
vdpa_device_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
	int64_t begin = vdpa_now_us();
	int rc;

	vdpa_device_lock(vdev);
	if (vdpa_device_started(vdev))
		rc = vdpa_error(EBUSY, "%s: is started", vdev->name);
	else if (conf->nvqs > vdev->core->nvqs)
		rc = vdpa_error(EINVAL, "%s: %u virtqueues: there are %u", vdev->name, conf->nvqs,
				vdev->core->nvqs);
	else
		rc = vdpa_device_admit(vdev, conf->peer);
	if (rc == 0)
		rc = vdpa_session_start(vdev, conf);
	if (rc == 0)
		vdpa_counts_start(vdev, (uint64_t)RTE_MAX(vdpa_now_us() - begin, 1));
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_device_stop(struct vdpa_device *vdev)
{
	int rc = 0;

	vdpa_device_lock(vdev);
	if (vdev->core->state != VDPA_STATE_REMOVED)
		rc = vdpa_step_stop(vdev);
	vdpa_device_state_ends(vdev);
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		vdev->core->vqs[i].halted = false;
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_device_set_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		    const uint64_t *used_iova)
{
	int64_t begun_us;
	bool was_on;
	int rc;

	vdpa_device_lock(vdev);
	begun_us = vdpa_now_us();
	was_on = vdev->core->dirty.on;
	if (!vdpa_device_started(vdev)) {
		rc = log == NULL ? 0 : vdpa_error(EPROTO, "%s: is not started", vdev->name);
	} else if (log == NULL) {
		rc = vdpa_step_log_stop(vdev);
		vdpa_session_leave_shadows(vdev);
		vdev->core->log_refused = false;
		if (was_on)
			vdpa_phase_end(vdev, VDPA_PHASE_LOG_OFF, begun_us);
	} else {
		rc = begin_log(vdev, log, used_iova);
		/* The queues have changed for a log that does not come. */
		if (rc < 0 && !was_on)
			leave_paths(vdev);
		/* It is given again for each queue whose used ring it has. */
		if (!was_on)
			vdpa_phase_end(vdev, VDPA_PHASE_LOG_ON, begun_us);
	}
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_device_announce(struct vdpa_device *vdev, const uint8_t mac[6])
{
	int rc;

	vdpa_device_lock(vdev);
	if (!vdpa_device_started(vdev))
		rc = vdpa_error(EPROTO, "%s: is not started", vdev->name);
	else if (vdev->config->announce == NULL)
		rc = vdpa_error(EOPNOTSUPP, "%s: cannot announce", vdev->name);
	else
		rc = VDPA_OP(vdev, -1, "announce", vdev->config->announce(vdev, mac));
	vdpa_device_unlock(vdev);
	return rc;
}
