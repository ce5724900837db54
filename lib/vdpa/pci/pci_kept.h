/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A PCI function that outlives the process (vdpa_restart.h): its descriptors are in the store, and
 * a record of it in the journal (pci_kept.c). The function goes on while no process lives, and the
 * next one opens it as it is. Private to the library: the virtio service uses it.
 *
 *   opened as it was left   vdpa_pci_is_left(): nothing was written to the function, interrupts
 *                           are set, mappings stand. Then either of
 *   taken over              each step of a start finds what it would do, vdpa_pci_settle(true)
 *   not taken over          vdpa_pci_settle(false): reset, interrupts off, and what it had mapped
 *                           unmapped, as after vdpa_pci_open()
 *
 * While a process that lives may have it back (vdpa_pci_is_held()), nothing of that is done: what
 * nobody claims is unmapped at vdpa_restart_go(), and what is not taken over is let be.
 *
 * Errors are negative, with vdpa_error_message().
 */

#ifndef PCI_KEPT_H
#define PCI_KEPT_H

#include "vdpa_pci.h"

/* vdpa_pci_open() of a function for the device of this name, which may be kept; NULL: it is not. */
int vdpa_pci_open_for(const char *name, const struct vdpa_pci_params *params, const char *device,
		      struct vdpa_pci **out);

/* Whether the function is as a former process has left it, and not settled. */
bool vdpa_pci_is_left(const struct vdpa_pci *pci);
/* What the driver of the former process has recorded last, until vdpa_pci_settle(); nothing in it
 * is believed. */
const void *vdpa_pci_left_record(const struct vdpa_pci *pci, size_t *len);
/* MSI-X vectors that are set. */
unsigned int vdpa_pci_left_vectors(const struct vdpa_pci *pci);
/* Whether it may do DMA. */
bool vdpa_pci_left_is_master(struct vdpa_pci *pci);
/* A file of the driver's, by vdpa_pci_keep_file(): a descriptor of the caller's; -ENOENT. */
int vdpa_pci_left_file(struct vdpa_pci *pci, const char *what);
/* It is taken over, or (false) begins anew. What a former process had mapped and nobody claims is
 * unmapped. No-op for one that is settled. */
void vdpa_pci_settle(struct vdpa_pci *pci, bool taken_over);
/* Nothing runs there: it may begin anew whoever may have it back. */
void vdpa_pci_left_idle(struct vdpa_pci *pci);

/* Whether the function runs, and a process that lives may have it back, which this one has not let
 * be yet. */
bool vdpa_pci_is_held(const struct vdpa_pci *pci);
/* If it is so, this process reaches the function no more, as behind vdpa_pci_leave(), and the
 * device is not taken over: true. The caller's handlers of its interrupts have ended. */
bool vdpa_pci_let_be(struct vdpa_pci *pci);

/*
 * Keep the function from now on: its descriptors, its mappings, who may hold a page of it. 0;
 * -EOPNOTSUPP where the transport cannot, or not this function; where the store has no room.
 */
int vdpa_pci_keep(struct vdpa_pci *pci);
/* The record of the driver, before it acts on it. One that cannot be written ends it: the function
 * is kept no more, with one line. No-op of a function that is not kept. */
void vdpa_pci_keep_record(struct vdpa_pci *pci, const void *record, size_t len);
/* A file that the driver's record speaks of, in place of the one of that name; likewise. */
void vdpa_pci_keep_file(struct vdpa_pci *pci, const char *what, int fd);

/*
 * The process ends, and leaves the function to the next one, whatever is called from now on: its
 * registers, interrupts, mappings and command register stay as they are. The caller's handlers of
 * its interrupts have ended. 0; -EOPNOTSUPP for one that is not kept.
 */
int vdpa_pci_leave(struct vdpa_pci *pci);

#endif /* PCI_KEPT_H */
