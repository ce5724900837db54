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

#include "op.h"
#include "session_priv.h"
#include "snapshot.h"
#include "steps.h"
#include "vdpa_log.h"

int
vdpa_session_attach_call(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return VDPA_OP(vdev, idx, "set_vq_cb", vdev->config->set_vq_cb(vdev, idx, fd));
}

int
vdpa_session_setup_vq(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf)
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
	if (rc == 0)
		vdev->core->vqs[idx].conf = *conf;
	return rc;
}

void
vdpa_session_undo_vq(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	if (vq->ready)
		vdpa_step_vq_ready(vdev, idx, false);
	vdpa_session_attach_kick(vdev, idx, -1);
	vdpa_session_attach_call(vdev, idx, -1);
	vq->conf = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
}

static int
start_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used_iova)
{
	if (!vdev->core->can.log)
		return vdpa_error(EOPNOTSUPP, "%s: has no dirty log", vdev->name);
	return vdpa_step_log_start(vdev, log, used_iova);
}

int
vdpa_session_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
	const struct vdpa_config_ops *ops = vdev->config;
	uint8_t status = 0;
	int rc;

	rc = vdpa_step_reset(vdev);
	if (rc < 0)
		return rc;
	rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_ACKNOWLEDGE);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_DRIVER);
	if (rc == 0)
		rc = vdpa_step_features(vdev, conf->features);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc == 0)
		rc = vdpa_step_map(vdev, conf->iotlb);
	for (uint16_t i = 0; rc == 0 && i < conf->nvqs; i++)
		if (conf->vqs[i].ready)
			rc = vdpa_session_setup_vq(vdev, i, &conf->vqs[i]);
	if (rc == 0 && ops->set_config_cb != NULL)
		rc = VDPA_OP(vdev, -1, "set_config_cb",
			     ops->set_config_cb(vdev, vdev->core->config_fd));
	/* Queues may have buffers already, which the device writes as soon as it runs. */
	if (rc == 0 && conf->log != NULL)
		rc = start_log(vdev, conf->log, conf->used_iova);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_DRIVER_OK);
	if (rc == 0)
		vdpa_snapshot_check(vdev);
	if (rc < 0) {
		struct vdpa_error_saved error;

		/* The reset may fail too; the caller reads the first cause. */
		vdpa_error_save(&error);
		vdpa_step_reset(vdev);
		vdpa_error_restore(&error);
	}
	return rc;
}

int
vdpa_device_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf)
{
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
	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		vdev->core->vqs[i].halted = false;
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_device_set_log(struct vdpa_device *vdev, const struct vdpa_dirty_log *log,
		    const uint64_t *used_iova)
{
	int rc;

	vdpa_device_lock(vdev);
	if (!vdpa_device_started(vdev))
		rc = log == NULL ? 0 : vdpa_error(EPROTO, "%s: is not started", vdev->name);
	else
		rc = log != NULL ? start_log(vdev, log, used_iova) : vdpa_step_log_stop(vdev);
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
