/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a device is, in words and in JSON. */

#ifndef REPORT_H
#define REPORT_H

#include <jansson.h>

#include "target.h"

/* A device's identity, features by name, limits. */
json_t *report_device(struct target *t);
/* test-vdpa info: the same, with the configuration, for people or (json) for programs. */
int report_info(struct target *t, const char *json);

/* Write it to a file, or "-": standard output. 0 or a negative errno, said on standard error. */
int report_write_json(json_t *value, const char *path);

/* The name of a feature bit of a device id; NULL where there is none. */
const char *report_feature_name(uint32_t device_id, unsigned int bit);

#endif /* REPORT_H */
