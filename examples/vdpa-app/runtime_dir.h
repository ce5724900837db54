/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * EAL's runtime folder, where DPDK's telemetry has its socket.
 */

#ifndef APP_RUNTIME_DIR_H
#define APP_RUNTIME_DIR_H

#include <stdbool.h>

/*
 * Before EAL starts: make the folder of this file prefix, and see that nobody else can change what
 * is in it. files: EAL has files of its own there, and locks the folder when it starts; so no other
 * program of ours may have it. Returns 0, or a negative errno when there is none that can be
 * trusted, or -EBUSY where it is another's: the reason is app_runtime_missing()'s.
 */
int app_runtime_prepare(const char *prefix, bool files);

/* After EAL has started: learn which telemetry socket is this process's. wanted: false where the
 * user has none. */
void app_runtime_started(bool wanted);

/* Why there is no telemetry; NULL when there is, or nobody wants it. */
const char *app_runtime_missing(void);

#endif /* APP_RUNTIME_DIR_H */
