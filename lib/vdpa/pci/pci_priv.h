/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The transports of the library (vdpa_pci_transport.h), and which one a name is of. */

#ifndef VDPA_PCI_PRIV_H
#define VDPA_PCI_PRIV_H

#include "error_priv.h"
#include "vdpa_pci_transport.h"

/* "0000:06:00.2" with a domain of up to 32 bits, and its NUL. */
#define VDPA_PCI_ADDRESS_MAX 20

extern const struct vdpa_pci_transport vdpa_pci_vfio, vdpa_pci_vfio_user;
/* pci_kept.c: the device whose former process has left the function, by whose names in the store
 * (vdpa_restart_take()) a transport opens it as it is; NULL: it is opened as any. */
const char *vdpa_pci_left_device(const struct vdpa_pci *pci);
/* Of such a function: whether nothing is recorded that its domain has mapped. */
bool vdpa_pci_left_unmapped(const struct vdpa_pci *pci);
/* The same: what keep() of the transport has recorded by vdpa_pci_keep_transport(), of which
 * nothing is believed; NULL: nothing. */
const void *vdpa_pci_left_transport(const struct vdpa_pci *pci, size_t *len);
/* pci_kept.c, from keep() of a transport: what its files do not tell the next process, as part of
 * the function's record. 0 or -ENOMEM. */
int vdpa_pci_keep_transport(struct vdpa_pci *pci, const void *record, size_t len);
/* pci_name.c: the transport of a name, and the name in full, to be freed. -EINVAL or -ENOMEM. */
int vdpa_pci_resolve(const char *name, const struct vdpa_pci_transport **ops, char **full);

#endif /* VDPA_PCI_PRIV_H */
