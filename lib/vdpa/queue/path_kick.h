/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How a path that has rings of its own notifies the device: path_kick.c. */

#ifndef VDPA_PATH_KICK_H
#define VDPA_PATH_KICK_H

#include "path.h"

/* The kick descriptor that a device is to be given, in *fd, which is the caller's to close, and in
 * dev; -1 for one that is kicked by a call. 0; -EOPNOTSUPP with vdpa_error_message() where kicks
 * carry data, of which there is none; the errno of eventfd(2). Under the device's lock. */
int vdpa_path_kick_open(struct vdpa_device *vdev, int *fd, struct vdpa_vq_config *dev);
/* Kick. From any thread. */
void vdpa_path_kick(struct vdpa_core_vq *vq, int fd);

#endif /* VDPA_PATH_KICK_H */
