/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What of a device goes on elsewhere beside its rings and configuration: the requests that a stop
 * leaves undone, and what its driver keeps. And whether the network hears of it there.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include "op.h"
#include "paths.h"
#include "saved_state.h"
#include "session_priv.h"
#include "steps.h"

int
vdpa_device_hand_over_vq(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_vq_inflight inflight;
	int rc;

	vdpa_device_lock(vdev);
	if (core->state == VDPA_STATE_REMOVED)
		rc = vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	else if (!vdpa_device_started(vdev) || idx >= core->nvqs || core->vqs[idx].conf.num == 0)
		rc = vdpa_error(EPROTO, "%s: queue %u: is not started", vdev->name, idx);
	else if (core->vqs[idx].conf.inflight.addr == NULL)
		rc = vdpa_error(EOPNOTSUPP, "%s: queue %u: has no inflight area", vdev->name, idx);
	else
		rc = 0;
	/* A shadow fills the area by itself, and its stop waits for nothing then. */
	if (rc == 0 && core->vqs[idx].path != &vdpa_path_direct) {
		core->vqs[idx].hands_over = true;
	} else if (rc == 0) {
		inflight = core->vqs[idx].conf.inflight;
		inflight.hand_over = true;
		rc = VDPA_OP(vdev, idx, "set_vq_inflight",
			     vdev->config->set_vq_inflight(vdev, idx, &inflight));
	}
	vdpa_device_unlock(vdev);
	return rc;
}

/* Under the lock. *buf has room for VDPA_STATE_MAX bytes. */
static int
save_state(struct vdpa_device *vdev, uint8_t *buf, size_t *len)
{
	int rc;

	*len = VDPA_STATE_MAX;
	rc = VDPA_OP(vdev, -1, "save_state", vdev->config->save_state(vdev, buf, len));
	if (rc == 0 && *len > VDPA_STATE_MAX)
		rc = vdpa_error(EIO, "%s: its state has %zu bytes, allowed are %u", vdev->name,
				*len, VDPA_STATE_MAX);
	return rc;
}

int
vdpa_session_take_state(struct vdpa_device *vdev, struct vdpa_kept_state *kept)
{
	int rc;

	*kept = (struct vdpa_kept_state){0};
	if (vdev->config->save_state == NULL || !vdpa_device_started(vdev))
		return 0;
	kept->buf = malloc(VDPA_STATE_MAX);
	rc = kept->buf != NULL ? save_state(vdev, kept->buf, &kept->len)
			       : vdpa_error(ENOMEM, "%s: out of memory", vdev->name);
	if (rc < 0 || kept->len == 0) {
		free(kept->buf);
		*kept = (struct vdpa_kept_state){0};
	}
	return rc;
}

int
vdpa_session_keep_state(struct vdpa_device *vdev, struct vdpa_kept_state *kept)
{
	char why[VDPA_ERROR_MAX];

	if (vdpa_session_take_state(vdev, kept) == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	return vdpa_error(EOPNOTSUPP, "%s: by a reset the device would lose its state: %s",
			  vdev->name, vdpa_error_cause(why, vdev->name, -1));
}

int
vdpa_device_save_driver_state(struct vdpa_device *vdev, uint8_t **buf, size_t *len)
{
	struct vdpa_kept_state kept;
	int rc;

	vdpa_device_lock(vdev);
	rc = vdpa_session_take_state(vdev, &kept);
	vdpa_device_unlock(vdev);
	*buf = kept.buf;
	*len = kept.len;
	return rc;
}

int
vdpa_session_load_state(struct vdpa_device *vdev, const void *buf, size_t len)
{
	if (vdev->config->load_state == NULL)
		return vdpa_error(EOPNOTSUPP,
				  "%s: driver: %zu bytes in the state, and the driver here takes "
				  "none",
				  vdev->name, len);
	return VDPA_OP(vdev, -1, "load_state", vdev->config->load_state(vdev, buf, len));
}

/* Under the lock: up to where a start loads it. */
static int
try_state(struct vdpa_device *vdev, uint64_t features, const uint8_t *buf, size_t len)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE;
	struct vdpa_error_saved error;
	int rc = vdpa_step_reset(vdev);

	if (rc == 0)
		rc = vdpa_step_status(vdev, status);
	if (rc == 0)
		rc = vdpa_step_status(vdev, status |= VIRTIO_CONFIG_S_DRIVER);
	if (rc == 0)
		rc = vdpa_step_features(vdev, vdpa_path_device_features(vdev, features));
	if (rc == 0)
		rc = vdpa_step_status(vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc == 0)
		rc = vdpa_session_load_state(vdev, buf, len);
	if (rc < 0)
		vdpa_error_save(&error);
	if (vdpa_step_reset(vdev) < 0 && rc == 0)
		rc = -EIO;
	else if (rc < 0)
		vdpa_error_restore(&error);
	return rc;
}

int
vdpa_device_try_driver_state(struct vdpa_device *vdev, uint64_t features, const uint8_t *buf,
			     size_t len)
{
	int rc;

	if (len == 0)
		return 0;
	vdpa_device_lock(vdev);
	if (vdpa_device_started(vdev))
		rc = vdpa_error(EBUSY, "%s: is started", vdev->name);
	else if (vdev->config->load_state == NULL)
		rc = vdpa_session_load_state(vdev, buf, len);
	else
		rc = try_state(vdev, features, buf, len);
	vdpa_device_unlock(vdev);
	return rc;
}

bool
vdpa_device_can_announce(const struct vdpa_device *vdev)
{
	return vdev->config->announce != NULL;
}
