/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_uvdpad.h
 * The uvdpad socket: the protocol of the Go library govdpa, by which device plugins of Kubernetes
 * have a userspace vDPA daemon make devices. JSON-RPC 2.0, one object after the other;
 * doc/uvdpad.md describes the methods.
 *
 * A device is known there by a device-id: the address of a PCI function, or a name of the map. Its
 * device here is called `uvdpad-` and that id, with `-` for what a name cannot have: so the
 * protocol keeps no state, and devices that were made in another way under such a name are its own
 * too.
 */

#ifndef VDPA_UVDPAD_H
#define VDPA_UVDPAD_H

#include "vdpa_control.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Where govdpa looks for it. */
#define VDPA_UVDPAD_PATH "/run/uvdpa/uvdpad.sock"

/** Longest device-id, in characters. */
#define VDPA_UVDPAD_ID_MAX 48

/** Entries of a map, at most. */
#define VDPA_UVDPAD_MAP_MAX 64

/**
 * Open the uvdpad socket, after vdpa_init(). A process has one at most.
 *
 * @param socket  as of vdpa_control_start(), with the same rights and limits; path NULL:
 *                VDPA_UVDPAD_PATH, whose folder must be there. name, program, version are not used.
 *                Copied.
 * @param map     texts `ID WORDS`: with which words of `dev add` the device of that id is made, but
 *                for name, socket and client. The id of a PCI function needs none, and its words
 *                may lack `mgmtdev`; the id `pci` has the words of all those functions that have
 *                none of their own. Copied.
 * @param n_map   texts of map, up to VDPA_UVDPAD_MAP_MAX.
 * @return 0; -EALREADY when there is one; -EINVAL for an entry of the map that makes no device or
 *         is there twice, the message names it; what else vdpa_control_start() returns. From any
 *         thread but the library's.
 */
int vdpa_uvdpad_start(const struct vdpa_control_params *socket, const char *const *map,
		      unsigned int n_map);

/**
 * Look only at what vdpa_uvdpad_start() would refuse of one text of a map. Works before
 * vdpa_init(), as vdpa_dev_check() does.
 * @return 0; -EINVAL and what vdpa_dev_check() returns; -ENOMEM.
 */
int vdpa_uvdpad_check(const char *text);

/** Close it; devices stay. As vdpa_control_stop(). */
void vdpa_uvdpad_stop(void);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_UVDPAD_H */
