/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* JSON Schema, as much of it as params of methods need. Pure functions. */

#ifndef SCHEMA_H
#define SCHEMA_H

#include <jansson.h>

/* Whether a schema has only words that are known here, each with a value of its kind. 0; -EINVAL
 * with a message. */
int control_schema_check(const json_t *schema);

/*
 * Whether a value is one that the schema allows. what: how messages call it, "params". 0; -EINVAL
 * with a message that names the member and what is allowed.
 */
int control_schema_match(const json_t *schema, const json_t *value, const char *what);

#endif /* SCHEMA_H */
