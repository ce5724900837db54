/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a device is, in words and in JSON. */

#ifndef REPORT_H
#define REPORT_H

#include <jansson.h>

#include "target.h"

/* A device's identity, features by name, limits. */
json_t *report_device(struct target *t);
/* test-vdpa info: the same, with doorbell and configuration, for people or (json) for programs. 0,
 * or a negative errno with the reason on standard error: also for a device that does not start,
 * after all that is known of it. */
int report_info(struct target *t, const char *json);

/* Write it to a file, or "-": standard output. 0 or a negative errno, said on standard error. */
int report_write_json(json_t *value, const char *path);

#endif /* REPORT_H */
