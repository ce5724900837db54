/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What is shown of a device's configuration: a copy of what was read last, so that whoever looks
 * waits for nobody. A device that hangs, or a server that is stopped, is shown as it was.
 */

#include <string.h>

#include "device_priv.h"
#include "snapshot.h"

/* On the device's own queue of jobs: it may wait for the device. */
static void
refresh_run(struct vdpa_work *work)
{
	vdpa_snapshot_refresh(work->arg);
}

void
vdpa_snapshot_init(struct vdpa_device *vdev)
{
	vdev->core->snapshot_work = (struct vdpa_work){.run = refresh_run, .arg = vdev};
}

void
vdpa_snapshot_note(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len,
		   uint32_t generation)
{
	struct vdpa_device_core *core = vdev->core;

	if (offset >= sizeof(core->snapshot))
		return;
	len = RTE_MIN(len, sizeof(core->snapshot) - offset);
	pthread_mutex_lock(&core->show_lock);
	memcpy(core->snapshot + offset, buf, len);
	if (offset == 0 && len >= core->snapshot_len) {
		core->snapshot_len = len;
		core->snapshot_generation = generation;
	}
	pthread_mutex_unlock(&core->show_lock);
}

void
vdpa_snapshot_refresh(struct vdpa_device *vdev)
{
	uint8_t config[VDPA_SNAPSHOT_MAX];
	size_t len = RTE_MIN(sizeof(config), vdev->config->get_config_size(vdev));

	/* Where it cannot be read, what is known stays; a caller that needs it asks, and gets the
	 * cause.
	 */
	if (len > 0)
		(void)vdpa_get_config(vdev, 0, config, len);
}

void
vdpa_snapshot_post(struct vdpa_device *vdev)
{
	vdpa_work_post(&vdev->core->work, &vdev->core->snapshot_work);
}

void
vdpa_snapshot_check(struct vdpa_device *vdev)
{
	if (vdev->config->get_generation != NULL &&
	    vdev->config->get_generation(vdev) != vdev->core->snapshot_generation)
		vdpa_snapshot_post(vdev);
}

bool
vdpa_snapshot_get(struct vdpa_device *vdev, void *buf, size_t len)
{
	struct vdpa_device_core *core = vdev->core;
	bool known;

	memset(buf, 0, len);
	pthread_mutex_lock(&core->show_lock);
	known = core->snapshot_len > 0;
	memcpy(buf, core->snapshot, RTE_MIN(len, core->snapshot_len));
	pthread_mutex_unlock(&core->show_lock);
	return known;
}
