/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the files that show things as JSON: show.c, show_config.c, show_stats.c. */

#ifndef VDPA_SHOW_H
#define VDPA_SHOW_H

#include <stdint.h>

#include <jansson.h>

/* The text of root, which it frees. NULL with errno and vdpa_error_message(): out of memory. */
char *vdpa_show_text(json_t *root);

/*
 * What show() says of the device of that name, as text to free(); of all devices that it has
 * something to say of, as an object by name, where name is NULL. show() returns NULL with
 * vdpa_error_message() for a device that is not there. NULL with ENODEV or ENOMEM in errno.
 */
char *vdpa_show_one_or_all(const char *name, json_t *(*show)(const char *name));

/* The name of a feature bit of a device id; NULL: it has none. */
typedef const char *(vdpa_feature_namer)(uint32_t device_id, unsigned int bit);

/* Feature bits by their names, in the order of the bits; one without a name as its number. */
json_t *vdpa_show_features(uint64_t features, uint32_t device_id, vdpa_feature_namer *name_of);

#endif /* VDPA_SHOW_H */
