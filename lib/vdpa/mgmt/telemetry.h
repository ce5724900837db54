/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Management over DPDK's telemetry socket. Internal to the library.
 */

#ifndef VDPA_TELEMETRY_H
#define VDPA_TELEMETRY_H

/*
 * Register the commands /vdpa/... with DPDK's telemetry. They stay registered for the life of the
 * process, since DPDK cannot take one back; a second call does nothing.
 * Returns 0 or a negative errno.
 */
int vdpa_telemetry_init(void);

#endif /* VDPA_TELEMETRY_H */
