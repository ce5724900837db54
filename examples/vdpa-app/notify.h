/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What systemd is told of the daemon's life, where it is a service of systemd's (sd_notify(3));
 * no-ops elsewhere.
 */

#ifndef APP_NOTIFY_H
#define APP_NOTIFY_H

#include <stdint.h>

/* The daemon serves its devices. */
void app_notify_ready(void);

/* A reload has begun; app_notify_ready() ends it. */
void app_notify_reloading(void);

/* The end has begun. */
void app_notify_stopping(void);
/* Another process is the service's main one from now on; this one is not heard any more. */
void app_notify_successor(pid_t pid);

/*
 * By the main thread, when it is time: report that the daemon is alive, where the control loop has
 * run what it was given at the call before, and what its devices do. After vdpa_init(). Returns
 * microseconds until it wants to be called again; -1: never.
 */
int64_t app_notify_alive(void);

/* Before vdpa_cleanup(). */
void app_notify_fini(void);

#endif /* APP_NOTIFY_H */
