/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The PCI functions of this machine, and what keeps one from being opened. Opens none. */

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_string_fns.h>

#include "pci_name.h"
#include "vdpa_error.h"
#include "vfio_priv.h"

static void
describe(const char *address, struct vdpa_pci_function *f)
{
	char pf[VDPA_PCI_ADDRESS_MAX];

	/* It fits: the caller has looked. */
	snprintf(f->name, sizeof(f->name), "%s%.*s", vdpa_pci_vfio.prefix, VDPA_PCI_ADDRESS_MAX - 1,
		 address);
	vdpa_vfio_read_link(address, "driver", f->kernel_driver, sizeof(f->kernel_driver));
	vdpa_vfio_read_link(address, "physfn", pf, sizeof(pf));
	if (pf[0] != '\0')
		snprintf(f->pf, sizeof(f->pf), "%s%s", vdpa_pci_vfio.prefix, pf);
	f->numa_node = (int)vdpa_vfio_read_number(address, "numa_node", -1);
}

int
vdpa_pci_for_each(void (*fn)(const struct vdpa_pci_function *f, void *arg), void *arg)
{
	char path[VFIO_PATH_MAX];
	struct dirent **names;
	int n;

	vdpa_vfio_functions_path(path);
	/* Addresses have leading zeroes. */
	n = scandir(path, &names, NULL, alphasort);
	if (n < 0)
		return errno == ENOMEM ? vdpa_error(ENOMEM, "out of memory") : 0;
	for (int i = 0; i < n; i++) {
		struct vdpa_pci_function f = {.numa_node = -1};
		const char *address = names[i]->d_name;

		/* One that goes meanwhile is none. */
		if (address[0] != '.' && strlen(address) < VDPA_PCI_ADDRESS_MAX &&
		    vdpa_vfio_identify(address, &f.id) == 0) {
			describe(address, &f);
			fn(&f, arg);
		}
		free(names[i]);
	}
	free(names);
	return 0;
}

int
vdpa_pci_check(const char *name)
{
	const struct vdpa_pci_transport *t;
	struct vfio_function fn;
	char path[VFIO_PATH_MAX];
	char *full;
	int rc;

	rc = vdpa_pci_resolve(name, &t, &full);
	if (rc < 0)
		return rc;
	if (t == &vdpa_pci_vfio) {
		rc = vdpa_vfio_find(full, full + strlen(t->prefix), &fn);
		if (rc == 0)
			rc = vdpa_vfio_check_group(&fn);
		if (rc == 0) {
			snprintf(path, sizeof(path), "%s/%d", vdpa_vfio_dev_root(), fn.group);
			if (access(path, R_OK | W_OK) < 0)
				rc = vdpa_vfio_open_error(&fn, path, errno);
		}
	}
	free(full);
	return rc;
}

int
vdpa_pci_owner(const char *name, char pf[static VDPA_PCI_NAME_MAX], unsigned int *number)
{
	char owner[VDPA_PCI_ADDRESS_MAX], link[32], vf[VDPA_PCI_ADDRESS_MAX];
	size_t len = strlen(vdpa_pci_vfio.prefix);
	const char *address = name + len;

	if (strncmp(name, vdpa_pci_vfio.prefix, len) != 0)
		return -ENODEV;
	vdpa_vfio_read_link(address, "physfn", owner, sizeof(owner));
	if (owner[0] == '\0')
		return -ENODEV;
	snprintf(pf, VDPA_PCI_NAME_MAX, "%s%s", vdpa_pci_vfio.prefix, owner);
	for (unsigned int i = 0;; i++) {
		snprintf(link, sizeof(link), "virtfn%u", i);
		vdpa_vfio_read_link(owner, link, vf, sizeof(vf));
		if (vf[0] == '\0')
			return -ENODEV;
		if (strcmp(vf, address) == 0) {
			*number = i + 1;
			return 0;
		}
	}
}
