/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Kicks of a device by a path that has rings of its own: by an eventfd where the device waits for
 * one by itself, else by the driver's op.
 */

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include <linux/virtio_config.h>

#include "device_priv.h"
#include "path_kick.h"
#include "virtio_compat.h"

int
vdpa_path_kick_open(struct vdpa_device *vdev, int *fd, struct vdpa_vq_config *dev)
{
	*fd = dev->kick_fd = -1;
	if (vdev->config->set_vq_kick == NULL)
		return (vdev->core->features & RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA)) == 0
			       ? 0
			       : vdpa_error(EOPNOTSUPP,
					    "%s: kicks of rings of our own carry no data "
					    "(VIRTIO_F_NOTIFICATION_DATA)",
					    vdev->name);
	*fd = dev->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return *fd < 0 ? vdpa_error(errno, "eventfd: %s", strerror(errno)) : 0;
}

void
vdpa_path_kick(struct vdpa_core_vq *vq, int fd)
{
	struct vdpa_device *vdev = vq->vdev;

	if (fd >= 0)
		vdpa_eventfd_signal(fd);
	else
		vdev->config->kick_vq(vdev, (uint16_t)(vq - vdev->core->vqs));
}
