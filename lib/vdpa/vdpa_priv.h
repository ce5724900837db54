/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the core and the library's own drivers: what vdpa_init() was told, and which there are.
 */

#ifndef VDPA_PRIV_H
#define VDPA_PRIV_H

#include <rte_config.h>

struct vdpa_driver;

struct vdpa_settings {
	unsigned int poll_lcores[RTE_MAX_LCORE];
	unsigned int n_poll_lcores;
	unsigned int poll_us; /* 0: none */
};

/* Fixed between vdpa_init() and vdpa_cleanup(). */
const struct vdpa_settings *vdpa_settings(void);

/* The built-in drivers. */
extern struct vdpa_driver vdpa_sim_driver, vdpa_virtio_driver;

#endif /* VDPA_PRIV_H */
