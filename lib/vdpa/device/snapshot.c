/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What is shown of a device's configuration: a copy of what was read last, so that whoever looks
 * waits for nobody. A device that hangs, or a server that is stopped, is shown as it was.
 */

#include <string.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include "device_priv.h"
#include "notice.h"
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

/* Under the show lock: whether a net device's link, as it is known, is up; -1: it is not known. */
static int
link_of(struct vdpa_device *vdev)
{
	const struct vdpa_device_core *core = vdev->core;
	struct virtio_net_config config;

	if (vdev->config->get_device_id(vdev) != VIRTIO_ID_NET ||
	    (vdev->config->get_device_features(vdev) & RTE_BIT64(VIRTIO_NET_F_STATUS)) == 0 ||
	    core->snapshot_len < offsetof(struct virtio_net_config, max_virtqueue_pairs))
		return -1;
	memcpy(&config, core->snapshot, offsetof(struct virtio_net_config, max_virtqueue_pairs));
	return (rte_le_to_cpu_16(config.status) & VIRTIO_NET_S_LINK_UP) != 0;
}

void
vdpa_snapshot_note(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len,
		   uint32_t generation)
{
	struct vdpa_device_core *core = vdev->core;
	int old, link;

	if (offset >= sizeof(core->snapshot))
		return;
	len = RTE_MIN(len, sizeof(core->snapshot) - offset);
	pthread_mutex_lock(&core->show_lock);
	old = link_of(vdev);
	memcpy(core->snapshot + offset, buf, len);
	if (offset == 0 && len >= core->snapshot_len) {
		core->snapshot_len = len;
		core->snapshot_generation = generation;
	}
	link = link_of(vdev);
	if (old >= 0 && link != old)
		vdpa_notice(VDPA_NOTICE_LINK, vdev->name, link != 0 ? "up" : "down");
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
