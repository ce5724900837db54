/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The drivers that the library brings with it. */

#ifndef VDPA_BUILTIN_H
#define VDPA_BUILTIN_H

extern struct vdpa_driver vdpa_ifcvf_driver, vdpa_octep_driver, vdpa_sim_driver,
	vdpa_vhost_vdpa_driver, vdpa_virtio_driver;

#endif /* VDPA_BUILTIN_H */
