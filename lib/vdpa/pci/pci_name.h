/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* PCI functions that nobody has opened: their names, and which there are on this machine. */

#ifndef PCI_NAME_H
#define PCI_NAME_H

#include "vdpa_pci.h"

/* "pci/0000:06:00.2", with a domain of up to 32 bits, and its NUL. */
#define VDPA_PCI_NAME_MAX 24

/* What names of PCI functions begin with, from 0; NULL behind the last. */
const char *vdpa_pci_prefix(unsigned int i);
/* Whether a name begins like that. */
bool vdpa_pci_has_prefix(const char *name);
/* The name as vdpa_pci_name() has it ("pci/6:0.2" becomes "pci/0000:06:00.2"), to be freed.
 * -EINVAL for one that names no function; -ENOMEM. */
int vdpa_pci_full_name(const char *name, char **full);
/* What a function is, without opening it. -EOPNOTSUPP where only opening it shows that; -ENODEV
 * where there is none; -EINVAL, -ENOMEM. */
int vdpa_pci_look_up(const char *name, struct vdpa_pci_id *id);

/* A function of this machine, as sysfs has it. */
struct vdpa_pci_function {
	char name[VDPA_PCI_NAME_MAX];
	struct vdpa_pci_id id;
	char kernel_driver[64];	    /* that it is bound to; "": none */
	char pf[VDPA_PCI_NAME_MAX]; /* whose virtual function it is; "": it is none */
	int numa_node;		    /* -1: unknown */
};

/* Call fn for each function in the order of their addresses, virtual ones among them. 0, or
 * -ENOMEM. */
int vdpa_pci_for_each(void (*fn)(const struct vdpa_pci_function *f, void *arg), void *arg);

/* Whose virtual function one of this machine is, and its number there, from 1 on (SR-IOV's VF
 * number). -ENODEV: it is none, or the system does not tell. */
int vdpa_pci_owner(const char *name, char pf[static VDPA_PCI_NAME_MAX], unsigned int *number);

/* Whether a function could be opened: 0; the errno and the message of vdpa_pci_open() where
 * something is in the way that can be seen without opening it. */
int vdpa_pci_check(const char *name);

#endif /* PCI_NAME_H */
