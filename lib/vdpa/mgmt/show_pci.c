/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The PCI functions of this machine as JSON: which driver serves one, and why one cannot be used.
 * Reads sysfs and the registries; opens nothing.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "error_priv.h"
#include "pci_match.h"
#include "pci_name.h"
#include "registry.h"

struct function_list {
	struct vdpa_pci_function *f;
	unsigned int n;
	bool full; /* out of memory */
};

static void
collect(const struct vdpa_pci_function *f, void *arg)
{
	struct function_list *list = arg;
	struct vdpa_pci_function *more = reallocarray(list->f, list->n + 1, sizeof(*more));

	if (more == NULL) {
		list->full = true;
		return;
	}
	list->f = more;
	more[list->n++] = *f;
}

/* The device that is made of a function, or being made. */
struct user {
	const char *mgmtdev;
	char device[VDPA_NAME_MAX];
};

static bool
find_user(const struct vdpa_bus_entry *e, void *arg)
{
	struct user *user = arg;

	if (e->mdev == NULL || strcmp(e->mdev->name, user->mgmtdev) != 0)
		return true;
	snprintf(user->device, sizeof(user->device), "%s", e->name);
	return false;
}

static json_t *
ids(unsigned int vendor, unsigned int device)
{
	char text[10];

	snprintf(text, sizeof(text), "%04x:%04x", vendor & 0xffff, device & 0xffff);
	return json_string(text);
}

/* Whether a device can be made of it now, else the one line that says why not. */
static void
show_use(const struct vdpa_pci_function *f, json_t *obj)
{
	struct user user = {.mgmtdev = f->name};
	char text[VDPA_NAME_MAX + 32];
	const char *reason = NULL;

	vdpa_bus_for_each(find_user, &user);
	if (user.device[0] != '\0') {
		json_object_set_new(obj, "device", json_string(user.device));
		snprintf(text, sizeof(text), "is the device %s", user.device);
		reason = text;
	} else if (vdpa_pci_check(f->name) < 0) {
		reason = vdpa_error_cause(vdpa_error_message(), f->name, -1);
	}
	json_object_set_new(obj, "usable", json_boolean(reason == NULL));
	if (reason != NULL)
		json_object_set_new(obj, "reason", json_string(reason));
}

/* The name of the driver that serves it, null where none does. The lock is not held over sysfs. */
static json_t *
driver_name(const struct vdpa_pci_function *f)
{
	struct vdpa_pci_place place = {.rank = 0};
	const struct vdpa_driver *drv;
	json_t *name;

	vdpa_registry_lock();
	drv = vdpa_pci_match_next(&f->id, &place);
	name = drv != NULL ? json_string(drv->name) : json_null();
	vdpa_registry_unlock();
	return name;
}

/* NULL where no driver serves it; any: show it all the same. */
static json_t *
show_function(const struct vdpa_pci_function *f, bool any)
{
	json_t *driver = driver_name(f);
	bool served = json_is_string(driver);
	json_t *obj;
	char class[8];

	if (!served && !any) {
		json_decref(driver);
		return NULL;
	}
	obj = json_object();
	snprintf(class, sizeof(class), "%06x", f->id.class_code & 0xffffff);
	json_object_set_new(obj, "ids", ids(f->id.vendor, f->id.device));
	json_object_set_new(obj, "subsystem", ids(f->id.subsystem_vendor, f->id.subsystem));
	json_object_set_new(obj, "class", json_string(class));
	json_object_set_new(obj, "numa_node", json_integer(f->numa_node));
	json_object_set_new(obj, "kernel_driver",
			    f->kernel_driver[0] != '\0' ? json_string(f->kernel_driver)
							: json_null());
	json_object_set_new(obj, "driver", driver);
	if (served) {
		show_use(f, obj);
	} else {
		json_object_set_new(obj, "usable", json_false());
		json_object_set_new(obj, "reason", json_string("no driver serves it"));
	}
	return obj;
}

static bool
is_listed(const struct function_list *list, const char *name)
{
	for (unsigned int i = 0; i < list->n; i++)
		if (strcmp(list->f[i].name, name) == 0)
			return true;
	return false;
}

/* The virtual functions of one, by name. */
static json_t *
show_vfs(const struct function_list *list, const char *pf)
{
	json_t *vfs = json_object(), *obj;

	for (unsigned int i = 0; i < list->n; i++) {
		obj = strcmp(list->f[i].pf, pf) == 0 ? show_function(&list->f[i], false) : NULL;
		if (obj != NULL)
			json_object_set_new(vfs, list->f[i].name, obj);
	}
	return vfs;
}

char *
vdpa_function_show(void)
{
	struct function_list list = {.n = 0};
	json_t *all = json_object();
	char *text = NULL;

	(void)vdpa_pci_for_each(collect, &list);
	vdpa_registry_lock();
	vdpa_registry_add_builtins();
	vdpa_registry_unlock();
	for (unsigned int i = 0; i < list.n; i++) {
		const struct vdpa_pci_function *f = &list.f[i];
		json_t *vfs, *obj;

		/* Under its physical function, where that is this machine's. */
		if (f->pf[0] != '\0' && is_listed(&list, f->pf))
			continue;
		vfs = show_vfs(&list, f->name);
		obj = show_function(f, json_object_size(vfs) > 0);
		if (obj != NULL && json_object_size(vfs) > 0)
			json_object_set(obj, "vfs", vfs);
		if (obj != NULL)
			json_object_set_new(all, f->name, obj);
		json_decref(vfs);
	}
	free(list.f);
	if (!list.full)
		text = json_dumps(all, JSON_COMPACT);
	json_decref(all);
	if (text == NULL)
		errno = -vdpa_error(ENOMEM, "out of memory");
	return text;
}
