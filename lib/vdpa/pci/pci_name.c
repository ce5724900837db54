/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How a PCI function is named, and which transport a name is of. */

#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "pci_name.h"
#include "pci_priv.h"
#include "table.h"
#include "vdpa_error.h"

/* The transport for which an address stands by itself. */
#define KERNEL_PREFIX "pci/"

/* Ends with NULL. */
static const struct vdpa_pci_transport *const transports[] = {
	&vdpa_pci_vfio,
	&vdpa_pci_vfio_user,
	NULL,
};

/* Those that others have registered. */
struct registered {
	struct vdpa_pci_transport ops;
	LIST_ENTRY(registered) next;
};
static LIST_HEAD(, registered) registry = LIST_HEAD_INITIALIZER(registry);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define PREFIX_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
/* Of the first version's table, which ended with export_part. */
#define SIZE_MIN	  (offsetof(struct vdpa_pci_transport, export_part) + sizeof(void (*)(void)))

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

static const struct vdpa_pci_transport *
find_builtin(const char *name)
{
	for (unsigned int i = 0; transports[i] != NULL; i++)
		if (serves(transports[i], name))
			return transports[i];
	return NULL;
}

/* The transport that names of this kind are of, which stays while it has functions; NULL: none. */
static const struct vdpa_pci_transport *
find_transport(const char *name)
{
	const struct vdpa_pci_transport *found = find_builtin(name);
	const struct registered *r;

	if (found != NULL)
		return found;
	pthread_mutex_lock(&lock);
	LIST_FOREACH (r, &registry, next)
		if (serves(&r->ops, name))
			found = &r->ops;
	pthread_mutex_unlock(&lock);
	return found;
}

static bool
is_prefix(const char *prefix)
{
	size_t len = prefix != NULL ? strspn(prefix, PREFIX_CHARACTERS) : 0;

	return len > 0 && strcmp(&prefix[len], "/") == 0;
}

static bool
is_complete(const struct vdpa_pci_transport *ops)
{
	return ops->open != NULL && ops->close != NULL && ops->read != NULL && ops->write != NULL &&
	       ops->post != NULL && ops->set_irqs != NULL && ops->unmask_irq != NULL &&
	       ops->reset != NULL;
}

static int
copy_transport(struct vdpa_pci_transport *to, const struct vdpa_pci_transport *from)
{
	int rc = vdpa_table_copy(to, sizeof(*to), from, SIZE_MIN);

	if (rc == -EINVAL)
		return vdpa_error(EINVAL,
				  "PCI transport: a size of %zu bytes, at least %zu: set it to "
				  "sizeof(struct vdpa_pci_transport)",
				  from->size, SIZE_MIN);
	if (rc == -E2BIG)
		return vdpa_error(E2BIG,
				  "PCI transport: it has calls of a later version: install the "
				  "libuvdpa that it was built for");
	if (!is_prefix(to->prefix))
		return vdpa_error(EINVAL, "PCI transport: a prefix is letters, digits, - and _, "
					  "and a slash");
	if (!is_complete(to))
		return vdpa_error(EINVAL, "PCI transport %s: a call that is not optional is NULL",
				  to->prefix);
	return 0;
}

int
vdpa_pci_register_transport(const struct vdpa_pci_transport *transport)
{
	struct registered *new = calloc(1, sizeof(*new)), *r;
	bool taken;
	int rc;

	if (new == NULL)
		return vdpa_error(ENOMEM, "PCI transport: out of memory");
	rc = copy_transport(&new->ops, transport);
	if (rc < 0) {
		free(new);
		return rc;
	}
	taken = find_builtin(new->ops.prefix) != NULL;
	pthread_mutex_lock(&lock);
	LIST_FOREACH (r, &registry, next)
		taken |= strcmp(r->ops.prefix, new->ops.prefix) == 0;
	if (!taken)
		LIST_INSERT_HEAD(&registry, new, next);
	pthread_mutex_unlock(&lock);
	if (!taken)
		return 0;
	free(new);
	return vdpa_error(EEXIST, "PCI transport %s: there is one of that prefix",
			  transport->prefix);
}

void
vdpa_pci_unregister_transport(const char *prefix)
{
	struct registered *r;

	pthread_mutex_lock(&lock);
	LIST_FOREACH (r, &registry, next)
		if (strcmp(r->ops.prefix, prefix) == 0)
			break;
	if (r != NULL)
		LIST_REMOVE(r, next);
	pthread_mutex_unlock(&lock);
	free(r);
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
