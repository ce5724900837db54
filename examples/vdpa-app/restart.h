/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Devices that outlive the daemon: --keep. */

#ifndef APP_RESTART_H
#define APP_RESTART_H

#include <stdint.h>

#include "options.h"

/* Before EAL: reach the store. 0, or a negative errno with one line in the log. */
int app_restart_begin(const struct app_options *opts);

/* Make the devices that a former process has left, before those of the configuration: one whose
 * words have changed is not made, and one line says so. 0, or -ENOMEM with one line. */
int app_restart_take_over(const struct app_options *opts);
/* For so long all devices of one step together are tried again. */
#define APP_RESTART_PATIENCE_US 10000000
/* vdpa_dev_add(), where what another process had of the device may need a moment to be free.
 * *left_us: what is left of that time. */
int app_restart_add(const char *words, int64_t *left_us);
/* Behind app_made_start(): what nobody has made ends. */
void app_restart_settle(const struct app_options *opts);

/* The daemon ends by SIGTERM: devices are left to the next one, where they are kept. */
void app_restart_leave(const struct app_options *opts);

#endif /* APP_RESTART_H */
