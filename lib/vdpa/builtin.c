/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The drivers and front ends that the library brings with it. This file alone knows them by name:
 * management registers what stands here.
 */

#include <stddef.h>

#include "mgmt.h"
#include "builtin.h"
#include "vduse.h"
#include "vfio_user.h"
#include "vhost_user.h"

struct vdpa_driver *const vdpa_builtin_drivers[] = {&vdpa_sim_driver,	     &vdpa_virtio_driver,
						    &vdpa_ifcvf_driver,	     &vdpa_octep_driver,
						    &vdpa_vhost_vdpa_driver, NULL};
struct vdpa_frontend *const vdpa_builtin_frontends[] = {
	&vdpa_vhost_user_frontend, &vdpa_vfio_user_frontend, &vdpa_vduse_frontend, NULL};
