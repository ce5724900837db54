/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The devices that stand in configuration files: which of those that run are theirs, and how they
 * become what a changed file says.
 */

#ifndef APP_MADE_H
#define APP_MADE_H

#include <stdbool.h>

#include <jansson.h>

#include "options.h"

/* At the start: make all devices of the configuration, in order. With --keep, one that there is
 * already was left by a former process and goes on, else it is an error. 0, or a negative errno
 * with one line in the log; what was made stays. */
int app_made_start(const struct app_options *opts);

/*
 * Turn the devices of files into those of c, which has been checked, and do no more than that
 * needs. What other means have made or changed is left alone. Whatever fails with one device, the
 * others are gone on with. *result, which must be freed, is an object:
 *   added, removed, changed   names
 *   kept                      how many are as they were
 *   failed                    objects of name and error
 * One caller at a time. stop: looked at before each device; true ends it, and what is left is
 * failed. 0; -ENOMEM.
 */
int app_made_change(const struct app_config *c, const bool *stop, json_t **result);

/* Whether the device of that name stands in a file, as it was last read. Under the lock of reloads.
 */
bool app_made_has(const char *name);

/* The devices are left to another daemon; they are made again by their words instead: no number
 * of theirs is what it was. Under the lock of reloads. */
void app_made_leave(void);
void app_made_come_back(void);

/* After the last of these. */
void app_made_fini(void);

#endif /* APP_MADE_H */
