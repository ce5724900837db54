/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Device-ids of the uvdpad protocol: the address of a PCI function is the management device
 * pci/ADDRESS, and any other id is an entry of the map. Owns the map's texts.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_priv.h"
#include "pci_name.h"
#include "uvdpad_id.h"

#define PCI	    "pci/"
/* The entry with the words of PCI functions that have none of their own. */
#define PCI_DEFAULT "pci"

#define ID_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-"

/* The device's name: what of an id no name can have becomes a dash. */
static void
name_of(const char *id, char name[static VDPA_NAME_MAX])
{
	static const char prefix[] = "uvdpad-";
	size_t n = strlen(prefix);

	_Static_assert(sizeof(prefix) + VDPA_UVDPAD_ID_MAX <= VDPA_NAME_MAX, "names are longer");
	memcpy(name, prefix, n);
	for (; *id != '\0'; id++)
		name[n++] = *id == ':' ? '-' : *id;
	name[n] = '\0';
}

static bool
id_is_valid(const char *id)
{
	size_t len = strlen(id);

	return len >= 1 && len <= VDPA_UVDPAD_ID_MAX && strspn(id, ID_CHARACTERS) == len;
}

/* The full address of a PCI function ("0000:06:00.2" of "06:00.2"). 0; -EINVAL for none. */
static int
pci_address(const char *id, char address[static VDPA_UVDPAD_ID_MAX + 1])
{
	char name[sizeof(PCI) + VDPA_UVDPAD_ID_MAX], *full;
	int rc;

	snprintf(name, sizeof(name), PCI "%s", id);
	rc = vdpa_pci_full_name(name, &full);
	if (rc < 0)
		return rc;
	snprintf(address, VDPA_UVDPAD_ID_MAX + 1, "%s", full + strlen(PCI));
	free(full);
	return 0;
}

static const struct uvdpad_entry *
find(const struct uvdpad_map *map, const char *id)
{
	for (unsigned int i = 0; i < map->n; i++)
		if (strcmp(map->entry[i].id, id) == 0)
			return &map->entry[i];
	return NULL;
}

static bool
begins_with_mgmtdev(const char *words)
{
	return strncmp(words, "mgmtdev", strlen("mgmtdev")) == 0 &&
	       (words[strlen("mgmtdev")] == ' ' || words[strlen("mgmtdev")] == '\t');
}

/* The words of a PCI function, from those that its entry, or that of all of them, has. */
static int
pci_words(const char *address, const char *more, char **words)
{
	if (asprintf(words, "mgmtdev " PCI "%s %s", address, more != NULL ? more : "") < 0)
		return vdpa_error(ENOMEM, "out of memory");
	return 0;
}

/* Whether the words are ones that dev add takes. */
static int
check_words(const char *id, const char *name, const char *words)
{
	struct vdpa_error_saved error;
	char *text;
	int rc;

	if (asprintf(&text, "name %s %s socket /run/uvdpa/uvdpad-check", name, words) < 0)
		return vdpa_error(ENOMEM, "out of memory");
	rc = vdpa_dev_check(text);
	free(text);
	if (rc == 0)
		return 0;
	vdpa_error_save(&error);
	return vdpa_error(rc, "uvdpad: device-id '%s': %s", id, error.text);
}

static int
check_entry(const struct uvdpad_map *map, const struct uvdpad_entry *e)
{
	const struct uvdpad_entry *other;
	char *words;
	int rc;

	for (unsigned int i = 0; i < map->n; i++) {
		other = &map->entry[i];
		if (strcmp(other->name, e->name) == 0)
			return vdpa_error(EINVAL, "uvdpad: device-id '%s': is there twice", e->id);
	}
	if (strcmp(e->id, PCI_DEFAULT) != 0)
		return check_words(e->id, e->name, e->words);
	if (begins_with_mgmtdev(e->words))
		return vdpa_error(EINVAL,
				  "uvdpad: device-id '%s': its words are those of every "
				  "PCI function: mgmtdev is not one",
				  e->id);
	rc = pci_words("0000:00:00.0", e->words, &words);
	if (rc == 0) {
		rc = check_words(e->id, e->name, words);
		free(words);
	}
	return rc;
}

/* An entry from its id and words. */
static int
make_entry(const char *id, const char *words, struct uvdpad_entry *e)
{
	if (!id_is_valid(id))
		return vdpa_error(EINVAL,
				  "uvdpad: device-id '%s': allowed are 1 to %d of A-Z a-z 0-9 . _ "
				  ": -",
				  id, VDPA_UVDPAD_ID_MAX);
	snprintf(e->id, sizeof(e->id), "%s", id);
	e->words = NULL;
	if (begins_with_mgmtdev(words) || strcmp(id, PCI_DEFAULT) == 0) {
		e->words = strdup(words);
		if (e->words == NULL)
			return vdpa_error(ENOMEM, "out of memory");
	} else if (pci_address(id, e->id) == 0) {
		if (pci_words(e->id, words, &e->words) < 0)
			return -ENOMEM;
	} else {
		return vdpa_error(EINVAL,
				  "uvdpad: device-id '%s': is no address of a PCI function: its "
				  "words must begin with mgmtdev",
				  id);
	}
	name_of(e->id, e->name);
	return 0;
}

static int
parse_entry(struct uvdpad_map *map, const char *text)
{
	struct uvdpad_entry *e = &map->entry[map->n];
	const char *id = text + strspn(text, " \t"), *words;
	size_t len = strcspn(id, " \t");
	char *copy = strndup(id, len);
	int rc;

	if (copy == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	words = id + len + strspn(id + len, " \t");
	rc = make_entry(copy, words, e);
	free(copy);
	if (rc < 0)
		return rc;
	rc = check_entry(map, e);
	if (rc < 0)
		free(e->words);
	else
		map->n++;
	return rc;
}

int
uvdpad_map_parse(struct uvdpad_map *map, const char *const *texts, unsigned int n)
{
	int rc = 0;

	map->n = 0;
	if (n > VDPA_UVDPAD_MAP_MAX)
		return vdpa_error(EINVAL, "uvdpad: %u device-ids: allowed are up to %d", n,
				  VDPA_UVDPAD_MAP_MAX);
	for (unsigned int i = 0; i < n && rc == 0; i++)
		rc = parse_entry(map, texts[i]);
	if (rc < 0)
		uvdpad_map_free(map);
	return rc;
}

int
vdpa_uvdpad_check(const char *text)
{
	struct uvdpad_map *map = malloc(sizeof(*map));
	int rc;

	if (map == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	rc = uvdpad_map_parse(map, &text, 1);
	if (rc == 0)
		uvdpad_map_free(map);
	free(map);
	return rc;
}

void
uvdpad_map_free(struct uvdpad_map *map)
{
	for (unsigned int i = 0; i < map->n; i++)
		free(map->entry[i].words);
	map->n = 0;
}

/* What there is, for a message. */
static void
list_ids(const struct uvdpad_map *map, char *buf, size_t len)
{
	size_t used = 0;

	buf[0] = '\0';
	for (unsigned int i = 0; i < map->n && used < len; i++)
		if (strcmp(map->entry[i].id, PCI_DEFAULT) != 0)
			used += (size_t)snprintf(buf + used, len - used, ", %s", map->entry[i].id);
}

int
uvdpad_resolve(const struct uvdpad_map *map, const char *id, struct uvdpad_entry *out)
{
	char address[VDPA_UVDPAD_ID_MAX + 1] = "", known[512];
	const struct uvdpad_entry *e = NULL;

	if (id_is_valid(id) && strcmp(id, PCI_DEFAULT) != 0) {
		e = find(map, id);
		if (e == NULL && pci_address(id, address) == 0)
			e = find(map, address);
	}
	if (e != NULL) {
		*out = *e;
		out->words = strdup(e->words);
		return out->words == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;
	}
	if (address[0] == '\0') {
		list_ids(map, known, sizeof(known));
		return vdpa_error(EINVAL,
				  "device-id '%.64s': allowed are addresses of PCI functions such "
				  "as 0000:06:00.2%s",
				  id, known);
	}
	snprintf(out->id, sizeof(out->id), "%s", address);
	name_of(address, out->name);
	e = find(map, PCI_DEFAULT);
	return pci_words(address, e != NULL ? e->words : NULL, &out->words);
}

bool
uvdpad_id_of(const struct uvdpad_map *map, const char *name, const char *mgmtdev,
	     char id[static VDPA_UVDPAD_ID_MAX + 1])
{
	for (unsigned int i = 0; i < map->n; i++)
		if (strcmp(map->entry[i].name, name) == 0) {
			snprintf(id, VDPA_UVDPAD_ID_MAX + 1, "%s", map->entry[i].id);
			return true;
		}
	if (strncmp(mgmtdev, PCI, strlen(PCI)) != 0 ||
	    strlen(mgmtdev + strlen(PCI)) > VDPA_UVDPAD_ID_MAX)
		return false;
	snprintf(id, VDPA_UVDPAD_ID_MAX + 1, "%s", mgmtdev + strlen(PCI));
	return true;
}
