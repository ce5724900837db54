/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Who keeps what a device's driver has beside rings and configuration (vdpa_config_ops.save_state)
 * for another process. The driver says it when it changes, from whatever thread that is: nothing
 * here waits, and the lock is held for a copy only.
 */

#include "device_priv.h"

static void
keep(struct vdpa_device *vdev, const void *state, size_t len)
{
	struct vdpa_device_core *core = vdev->core;

	pthread_mutex_lock(&core->state_lock);
	if (core->state_keeper != NULL)
		core->state_keeper->keep(core->state_keeper, state, len);
	pthread_mutex_unlock(&core->state_lock);
}

void
vdpa_device_set_state_keeper(struct vdpa_device *vdev, struct vdpa_state_keeper *keeper)
{
	pthread_mutex_lock(&vdev->core->state_lock);
	vdev->core->state_keeper = keeper;
	pthread_mutex_unlock(&vdev->core->state_lock);
}

void
vdpa_device_state_changed(struct vdpa_device *vdev, const void *state, size_t len)
{
	keep(vdev, len > 0 ? state : "", len);
}

void
vdpa_device_state_ends(struct vdpa_device *vdev)
{
	keep(vdev, NULL, 0);
}
