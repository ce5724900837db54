/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Device-ids of the uvdpad protocol, and the words of dev add that they stand for. */

#ifndef UVDPAD_ID_H
#define UVDPAD_ID_H

#include <stdbool.h>

#include "vdpa.h"
#include "vdpa_uvdpad.h"

/* An entry of the map: its id with the device's name, and the words behind name NAME. */
struct uvdpad_entry {
	char id[VDPA_UVDPAD_ID_MAX + 1];
	char name[VDPA_NAME_MAX];
	char *words;
};

struct uvdpad_map {
	struct uvdpad_entry entry[VDPA_UVDPAD_MAP_MAX];
	unsigned int n;
};

/* Parse texts "ID WORDS"; each must make a device by its words alone. 0; -EINVAL, -ENOMEM with a
 * message, and nothing is left. */
int uvdpad_map_parse(struct uvdpad_map *map, const char *const *texts, unsigned int n);
void uvdpad_map_free(struct uvdpad_map *map);

/* What a device-id stands for: words is malloc'ed. 0; -EINVAL for one that stands for nothing, with
 * a message that says what is allowed; -ENOMEM. */
int uvdpad_resolve(const struct uvdpad_map *map, const char *id, struct uvdpad_entry *out);

/* The device-id of a device of ours, from its name and management device; false: it has none. */
bool uvdpad_id_of(const struct uvdpad_map *map, const char *name, const char *mgmtdev,
		  char id[static VDPA_UVDPAD_ID_MAX + 1]);

#endif /* UVDPAD_ID_H */
