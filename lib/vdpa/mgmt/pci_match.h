/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Which driver serves a PCI function. Everything here is called with the management lock held. */

#ifndef VDPA_PCI_MATCH_H
#define VDPA_PCI_MATCH_H

#include "vdpa_driver.h"
#include "vdpa_pci.h"

/* Whether the ids of a driver of PCI functions make sense. 0, or -EINVAL with vdpa_error(). */
int vdpa_pci_match_check(const struct vdpa_driver *drv);

/* The place of a driver among those that match a function; zeroes: before the first. */
struct vdpa_pci_place {
	unsigned int rank; /* how specific the match is: higher is more; 0: none */
	uint64_t id;	   /* of the driver: lower is earlier */
};

/*
 * The driver that comes next behind *place among those that match, the most specific first and of
 * equal ones the one that was registered first; *place is its. NULL: no further one matches.
 */
struct vdpa_driver *vdpa_pci_match_next(const struct vdpa_pci_id *id, struct vdpa_pci_place *place);

/* A driver of PCI functions by name, with vdpa_error() that lists them where there is none. */
struct vdpa_driver *vdpa_pci_match_named(const char *name);

/* The names of all drivers of PCI functions: "virtio, foo"; "none" where there are none. */
void vdpa_pci_match_list(char *buf, size_t size);

/* The message for a function that no driver matches: its ids, and the drivers there are. -ENODEV.
 */
int vdpa_pci_match_none(const char *name, const struct vdpa_pci_id *id);

#endif /* VDPA_PCI_MATCH_H */
