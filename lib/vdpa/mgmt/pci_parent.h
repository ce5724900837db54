/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Management devices of PCI functions: pci_parent.c. */

#ifndef VDPA_PCI_PARENT_H
#define VDPA_PCI_PARENT_H

#include "add_words.h"

/* Words of every function, and one line about them. */
extern const struct vdpa_param vdpa_pci_parent_params[];
extern const char vdpa_pci_parent_help[];

/* Under the management lock: make the management device of a function, whose name is a full one;
 * vdpa_pci_parent_free() ends it. */
int vdpa_pci_parent_new(const char *name, struct vdpa_mgmt_dev **out);
void vdpa_pci_parent_free(struct vdpa_mgmt_dev *mdev);

/* Whether a management device is one of these. */
bool vdpa_pci_parent_is(const struct vdpa_mgmt_dev *mdev);

/*
 * Under the management lock: parse the words of a request, as the driver that will serve the
 * function takes them; where that is not known yet, as any driver does.
 */
int vdpa_pci_parent_parse(struct vdpa_add_request *req);

/* Without it, req->entry being reserved: open the function and have a driver make the device. */
int vdpa_pci_parent_add(struct vdpa_add_request *req);

#endif /* VDPA_PCI_PARENT_H */
