/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The start of EAL, told in the user's words where it fails.
 */

#ifndef APP_EAL_START_H
#define APP_EAL_START_H

#include "options.h"

/*
 * Start EAL with the user's arguments and our defaults, in a runtime folder that is this user's.
 * Returns 0; -EINVAL for what the user gave; another negative errno. On failure it has said why on
 * stderr.
 */
int app_eal_start(const struct app_options *opts);

void app_eal_stop(void);

#endif /* APP_EAL_START_H */
