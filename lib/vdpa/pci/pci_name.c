/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How a PCI function is named, and which transport a name is of. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pci_name.h"
#include "pci_priv.h"
#include "vdpa_error.h"

/* The transport for which an address stands by itself. */
#define KERNEL_PREFIX "pci/"

/* Ends with NULL. */
static const struct vdpa_pci_transport *const transports[] = {
	&vdpa_pci_vfio,
	&vdpa_pci_vfio_user,
	NULL,
};
static const struct vdpa_pci_transport *test_transport;

void
vdpa_pci_set_test_transport(const struct vdpa_pci_transport *transport)
{
	test_transport = transport;
}

/* "0000:06:00.2" or "06:00.2" into the first form; nothing may follow. */
static bool
parse_address(const char *s, char out[static VDPA_PCI_ADDRESS_MAX])
{
	unsigned int domain = 0, bus, slot, function;
	int end = 0;

	if ((sscanf(s, "%8x:%2x:%2x.%1x%n", &domain, &bus, &slot, &function, &end) != 4 ||
	     s[end] != '\0')) {
		domain = 0;
		if (sscanf(s, "%2x:%2x.%1x%n", &bus, &slot, &function, &end) != 3 || s[end] != '\0')
			return false;
	}
	if (strspn(s, "0123456789abcdefABCDEF:.") != strlen(s) || slot > 0x1f || function > 7)
		return false;
	snprintf(out, VDPA_PCI_ADDRESS_MAX, "%04x:%02x:%02x.%x", domain, bus, slot, function);
	return true;
}

static bool
serves(const struct vdpa_pci_transport *t, const char *name)
{
	return strncmp(name, t->prefix, strlen(t->prefix)) == 0;
}

/* The transport that names of this kind are of; NULL: none. */
static const struct vdpa_pci_transport *
find_transport(const char *name)
{
	if (test_transport != NULL && serves(test_transport, name))
		return test_transport;
	for (unsigned int i = 0; transports[i] != NULL; i++)
		if (serves(transports[i], name))
			return transports[i];
	return NULL;
}

const char *
vdpa_pci_prefix(unsigned int i)
{
	/* One behind the last is NULL, and nobody asks further. */
	return transports[i] != NULL ? transports[i]->prefix : NULL;
}

bool
vdpa_pci_has_prefix(const char *name)
{
	return find_transport(name) != NULL;
}

int
vdpa_pci_resolve(const char *name, const struct vdpa_pci_transport **ops, char **full)
{
	char address[VDPA_PCI_ADDRESS_MAX];
	bool bare = parse_address(name, address);
	const struct vdpa_pci_transport *t = find_transport(bare ? KERNEL_PREFIX : name);
	const char *where;

	if (t == NULL)
		return vdpa_error(EINVAL,
				  "%s: not the name of a PCI function; give pci/ADDRESS, such as "
				  "pci/0000:06:00.2, or vfio-user/PATH",
				  name);
	where = bare ? name : name + strlen(t->prefix);
	if (strcmp(t->prefix, KERNEL_PREFIX) == 0) {
		if (!parse_address(where, address))
			return vdpa_error(EINVAL, "%s: not a PCI address such as 0000:06:00.2",
					  name);
		where = address;
	}
	if (asprintf(full, "%s%s", t->prefix, where) < 0) {
		*full = NULL;
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	}
	*ops = t;
	return 0;
}

int
vdpa_pci_full_name(const char *name, char **full)
{
	const struct vdpa_pci_transport *t;

	return vdpa_pci_resolve(name, &t, full);
}

int
vdpa_pci_look_up(const char *name, struct vdpa_pci_id *id)
{
	const struct vdpa_pci_transport *t;
	char *full;
	int rc;

	rc = vdpa_pci_resolve(name, &t, &full);
	if (rc < 0)
		return rc;
	rc = t->identify != NULL ? t->identify(full + strlen(t->prefix), id) : -EOPNOTSUPP;
	free(full);
	return rc;
}
