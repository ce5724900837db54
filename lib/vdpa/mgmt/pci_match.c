/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Which driver serves a PCI function: the one whose ids match it most closely. Owns no state; looks
 * at the drivers that are registered.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "pci_match.h"
#include "registry.h"
#include "vdpa_error.h"

#define CLASS_BITS 24

/* What an entry says more than another, in the order in which it counts. */
enum {
	RANK_ANY = 1, /* above the bits of the class mask, 0 to 24 */
	RANK_VENDOR = 32,
	RANK_RANGE = 64,
	RANK_DEVICE = 128,
	RANK_SUBSYSTEM_VENDOR = 256,
	RANK_SUBSYSTEM = 512,
};

static bool
is_last(const struct vdpa_pci_match *m)
{
	return m->vendor == 0 && m->device == 0 && m->class_mask == 0;
}

static bool
is_id(uint32_t value)
{
	return value == VDPA_PCI_ANY_ID || value <= UINT16_MAX;
}

int
vdpa_pci_match_check(const struct vdpa_driver *drv)
{
	for (const struct vdpa_pci_match *m = drv->pci_ids; !is_last(m); m++) {
		unsigned int row = (unsigned int)(m - drv->pci_ids);

		if (m->vendor == 0 || m->subsystem_vendor == 0)
			return vdpa_error(
				EINVAL,
				"driver '%s': row %u of its PCI ids has a vendor 0, which "
				"nobody has: any is VDPA_PCI_ANY_ID",
				drv->name, row);
		if (!is_id(m->vendor) || !is_id(m->device) || !is_id(m->device_last) ||
		    !is_id(m->subsystem_vendor) || !is_id(m->subsystem) ||
		    m->class_code >> CLASS_BITS != 0 || m->class_mask >> CLASS_BITS != 0)
			return vdpa_error(
				EINVAL,
				"driver '%s': row %u of its PCI ids: an id has 16 bits, a "
				"class 24",
				drv->name, row);
		if (m->device_last != 0 &&
		    (m->device == VDPA_PCI_ANY_ID || m->device_last == VDPA_PCI_ANY_ID ||
		     m->device_last < m->device))
			return vdpa_error(
				EINVAL,
				"driver '%s': row %u of its PCI ids: the range of devices "
				"ends before it begins",
				drv->name, row);
	}
	return 0;
}

static bool
field_matches(uint32_t wanted, uint16_t have)
{
	return wanted == VDPA_PCI_ANY_ID || wanted == have;
}

static bool
device_matches(const struct vdpa_pci_match *m, uint16_t device)
{
	if (m->device == VDPA_PCI_ANY_ID || m->device_last == 0)
		return field_matches(m->device, device);
	return device >= m->device && device <= m->device_last;
}

/* 0: it does not match. */
static unsigned int
rank_of(const struct vdpa_pci_match *m, const struct vdpa_pci_id *id)
{
	unsigned int rank = RANK_ANY;

	if (!field_matches(m->vendor, id->vendor) || !device_matches(m, id->device) ||
	    !field_matches(m->subsystem_vendor, id->subsystem_vendor) ||
	    !field_matches(m->subsystem, id->subsystem) ||
	    ((m->class_code ^ id->class_code) & m->class_mask) != 0)
		return 0;
	for (unsigned int i = 0; i < CLASS_BITS; i++)
		rank += m->class_mask >> i & 1;
	if (m->vendor != VDPA_PCI_ANY_ID)
		rank += RANK_VENDOR;
	if (m->device != VDPA_PCI_ANY_ID)
		rank += m->device_last != 0 && m->device_last != m->device ? RANK_RANGE
									   : RANK_DEVICE;
	if (m->subsystem_vendor != VDPA_PCI_ANY_ID)
		rank += RANK_SUBSYSTEM_VENDOR;
	if (m->subsystem != VDPA_PCI_ANY_ID)
		rank += RANK_SUBSYSTEM;
	return rank;
}

static unsigned int
best_rank(const struct vdpa_driver *drv, const struct vdpa_pci_id *id)
{
	unsigned int best = 0;

	for (const struct vdpa_pci_match *m = drv->pci_ids; m != NULL && !is_last(m); m++) {
		unsigned int rank = rank_of(m, id);

		if (rank > best)
			best = rank;
	}
	return best;
}

static bool
comes_before(const struct vdpa_pci_place *a, const struct vdpa_pci_place *b)
{
	return a->rank > b->rank || (a->rank == b->rank && a->id < b->id);
}

struct vdpa_driver *
vdpa_pci_match_next(const struct vdpa_pci_id *id, struct vdpa_pci_place *place)
{
	struct vdpa_pci_place best = {.rank = 0};
	struct vdpa_driver *drv, *found = NULL;

	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next) {
		const struct vdpa_pci_place at = {.rank = best_rank(drv, id), .id = drv->id};

		if (at.rank == 0 || (place->rank != 0 && !comes_before(place, &at)))
			continue;
		if (found == NULL || comes_before(&at, &best)) {
			found = drv;
			best = at;
		}
	}
	*place = best;
	return found;
}

void
vdpa_pci_match_list(char *buf, size_t size)
{
	const struct vdpa_driver *drv;
	size_t used = 0;

	snprintf(buf, size, "none");
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		if (drv->pci_ids != NULL && used < size)
			used += (size_t)snprintf(buf + used, size - used, "%s%s",
						 used > 0 ? ", " : "", drv->name);
}

struct vdpa_driver *
vdpa_pci_match_named(const char *name)
{
	struct vdpa_driver *drv;
	char known[256];

	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		if (drv->pci_ids != NULL && strcmp(drv->name, name) == 0)
			return drv;
	vdpa_pci_match_list(known, sizeof(known));
	vdpa_error(
		EINVAL,
		"driver '%s': there is none of that name for PCI functions, there are %s; -d FILE "
		"loads another",
		name, known);
	return NULL;
}

int
vdpa_pci_match_none(const char *name, const struct vdpa_pci_id *id)
{
	char known[256];

	vdpa_pci_match_list(known, sizeof(known));
	return vdpa_error(
		ENODEV,
		"%s: no driver serves %04x:%04x (subsystem %04x:%04x, class %06x); there "
		"are %s: load another by -d FILE, or have one of these try by driver NAME",
		name, id->vendor, id->device, id->subsystem_vendor, id->subsystem, id->class_code,
		known);
}
