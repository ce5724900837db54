/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What vdpa_init() was told, for the library's own drivers. */

#ifndef VDPA_PRIV_H
#define VDPA_PRIV_H

#include <rte_config.h>

struct vdpa_settings {
	unsigned int poll_lcores[RTE_MAX_LCORE];
	unsigned int n_poll_lcores;
	unsigned int poll_us; /* 0: none */
};

/* Fixed between vdpa_init() and vdpa_cleanup(). */
const struct vdpa_settings *vdpa_settings(void);

#endif /* VDPA_PRIV_H */
