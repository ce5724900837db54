/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What vdpa_init() was given, for the library's own drivers. */

#ifndef VDPA_SETTINGS_H
#define VDPA_SETTINGS_H

#include <rte_config.h>

struct vdpa_settings {
	unsigned int poll_lcores[RTE_MAX_LCORE];
	unsigned int n_poll_lcores;
	unsigned int poll_us; /* 0: none */
};

/* Written by vdpa_init() alone, fixed from then until vdpa_cleanup(). */
extern struct vdpa_settings vdpa_settings;

#endif /* VDPA_SETTINGS_H */
