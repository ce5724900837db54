/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The device as its consumer sees it, call by call: the steps of status.c with the lock taken, the
 * configuration, and what is constant. What a start does at once is in session.c.
 */

#include <errno.h>

#include "clock.h"
#include "device_priv.h"
#include "op.h"
#include "snapshot.h"
#include "steps.h"

/* A step, with the lock. */
#define LOCKED(vdev, call)                                                                         \
	({                                                                                         \
		int rc_;                                                                           \
		vdpa_device_lock(vdev);                                                            \
		rc_ = (call);                                                                      \
		vdpa_device_unlock(vdev);                                                          \
		rc_;                                                                               \
	})

int
vdpa_reset(struct vdpa_device *vdev)
{
	return LOCKED(vdev, vdpa_step_reset(vdev));
}

int
vdpa_set_status(struct vdpa_device *vdev, uint8_t status)
{
	return LOCKED(vdev, vdpa_step_status(vdev, status));
}

int
vdpa_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	return LOCKED(vdev, vdpa_step_features(vdev, features));
}

int
vdpa_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	return LOCKED(vdev, vdpa_step_vq_num(vdev, idx, num));
}

int
vdpa_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		    uint64_t device)
{
	return LOCKED(vdev, vdpa_step_vq_address(vdev, idx, desc, driver, device));
}

int
vdpa_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return LOCKED(vdev, vdpa_step_vq_state(vdev, idx, state));
}

int
vdpa_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	return LOCKED(vdev, vdpa_step_vq_ready(vdev, idx, ready));
}

int
vdpa_suspend(struct vdpa_device *vdev)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = vdpa_step_suspend(vdev);
	if (rc == 0)
		vdpa_step_log_sync(vdev);
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_resume(struct vdpa_device *vdev)
{
	return LOCKED(vdev, vdpa_step_resume(vdev));
}

uint8_t
vdpa_get_status(struct vdpa_device *vdev)
{
	uint8_t status;

	vdpa_device_lock(vdev);
	status = vdev->core->status;
	if (vdev->core->state == VDPA_STATE_FAILED)
		status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	else if (vdev->core->state != VDPA_STATE_REMOVED && status != 0)
		status |= vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_NEEDS_RESET;
	vdpa_device_unlock(vdev);
	return status;
}

static int
check_config_range(struct vdpa_device *vdev, size_t offset, size_t len)
{
	size_t size;

	if (vdev->core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	size = vdev->config->get_config_size(vdev);
	if (offset > size || len > size - offset)
		return vdpa_error(EINVAL, "%s: configuration %zu to %zu: it has %zu bytes",
				  vdev->name, offset, offset + len, size);
	return 0;
}

int
vdpa_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	/* A device that changes faster than it can be read is broken; one that is slow to read,
	 * too, is not to have a shared thread for as long. */
	enum { CONFIG_TRIES = 16, CONFIG_TRIES_US = 100000 };
	int64_t start_us = vdpa_now_us();
	uint32_t before, after = 0;
	int rc;

	vdpa_device_lock(vdev);
	rc = check_config_range(vdev, offset, len);
	for (unsigned int i = 0; rc == 0 && i < CONFIG_TRIES; i++) {
		before = vdev->config->get_generation != NULL ? vdev->config->get_generation(vdev)
							      : 0;
		rc = VDPA_OP(vdev, -1, "get_config",
			     vdev->config->get_config(vdev, offset, buf, len));
		after = vdev->config->get_generation != NULL ? vdev->config->get_generation(vdev)
							     : 0;
		if (before == after)
			break;
		if (i == CONFIG_TRIES - 1 || (i > 0 && vdpa_now_us() - start_us >= CONFIG_TRIES_US))
			rc = vdpa_error(EIO, "%s: the configuration keeps changing", vdev->name);
	}
	if (rc == 0)
		vdpa_snapshot_note(vdev, offset, buf, len, after);
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_set_config(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = check_config_range(vdev, offset, len);
	if (rc == 0 && vdev->config->set_config == NULL)
		rc = vdpa_error(EOPNOTSUPP, "%s: the configuration is read-only", vdev->name);
	if (rc == 0)
		rc = VDPA_OP(vdev, -1, "set_config",
			     vdev->config->set_config(vdev, offset, buf, len));
	vdpa_device_unlock(vdev);
	return rc;
}

uint32_t
vdpa_get_device_id(struct vdpa_device *vdev)
{
	return vdev->config->get_device_id(vdev);
}

uint32_t
vdpa_get_vendor_id(struct vdpa_device *vdev)
{
	return vdev->config->get_vendor_id(vdev);
}

uint16_t
vdpa_get_vq_count(struct vdpa_device *vdev)
{
	return vdev->core->nvqs;
}

uint16_t
vdpa_get_vq_num_max(struct vdpa_device *vdev)
{
	return vdev->config->get_vq_num_max(vdev);
}

uint16_t
vdpa_get_vq_size_max(struct vdpa_device *vdev, uint16_t idx)
{
	return (uint16_t)vdev->core->vqs[idx].num_max;
}

uint64_t
vdpa_get_device_features(struct vdpa_device *vdev)
{
	return vdev->config->get_device_features(vdev);
}

size_t
vdpa_get_config_size(struct vdpa_device *vdev)
{
	return vdev->config->get_config_size(vdev);
}

const struct vdpa_capabilities *
vdpa_get_capabilities(const struct vdpa_device *vdev)
{
	return &vdev->core->can;
}

int
vdpa_get_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats, unsigned int n)
{
	if (idx >= vdev->core->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, idx,
				  vdev->core->nvqs);
	if (vdev->config->get_vendor_vq_stats == NULL)
		return 0;
	return vdev->config->get_vendor_vq_stats(vdev, idx, stats, n);
}
