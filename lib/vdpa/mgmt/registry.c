/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registries of drivers, management devices and front ends, and the removal of the devices that
 * depend on what leaves them.
 *
 * The management lock guards the registries and nothing else: it is held while words are parsed and
 * while a named parent's management device comes or goes, for which nobody looks further than at
 * the name. It is never held over a device: who adds, changes or deletes one has its name
 * meanwhile (bus.h), and the management device and the front end last as long as a name is theirs.
 * Recursive, because a probe registers management devices.
 */

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error_priv.h"
#include "device_priv.h"
#include "pci_match.h"
#include "pci_name.h"
#include "pci_parent.h"
#include "registry.h"
#include "restart.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* Those that are built in have the first numbers, in every life of the library. */
#define BUILTIN_DRIVERS_MAX 64

static pthread_mutex_t mgmt_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static bool builtins_registered;
static uint64_t last_mgmt_dev;
static uint64_t last_driver = BUILTIN_DRIVERS_MAX;
struct vdpa_registry vdpa_registry = {
	.drivers = TAILQ_HEAD_INITIALIZER(vdpa_registry.drivers),
	.mgmt_devs = TAILQ_HEAD_INITIALIZER(vdpa_registry.mgmt_devs),
	.frontends = TAILQ_HEAD_INITIALIZER(vdpa_registry.frontends),
};

void
vdpa_registry_lock(void)
{
	pthread_mutex_lock(&mgmt_lock);
}

void
vdpa_registry_unlock(void)
{
	pthread_mutex_unlock(&mgmt_lock);
}

static int
compare_mgmtdevs(const void *a, const void *b)
{
	const struct vdpa_mgmt_dev *one = a, *other = b;

	return strcmp(one->name, other->name);
}

static struct vdpa_tree mgmt_dev_tree = {.compare = compare_mgmtdevs};

static struct vdpa_mgmt_dev *
find_mgmtdev(const char *name)
{
	return vdpa_tree_find(&mgmt_dev_tree, &(struct vdpa_mgmt_dev){.name = name});
}

static bool
pattern_matches(const char *pattern, const char *name)
{
	return vdpa_pattern_is_prefix(pattern) ? strncmp(pattern, name, strlen(pattern) - 1) == 0
					       : strcmp(pattern, name) == 0;
}

static bool
driver_matches(const struct vdpa_driver *drv, const char *name)
{
	for (const char *const *m = drv->match; m != NULL && *m != NULL; m++)
		if (pattern_matches(*m, name))
			return true;
	return false;
}

static void __attribute__((format(printf, 4, 5)))
append(char *buf, size_t size, size_t *used, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (*used < size)
		*used += (size_t)vsnprintf(buf + *used, size - *used, fmt, ap);
	va_end(ap);
}

/* Names that can be given for a management device: "sim_net, sim_blk, pci/..., vfio-user/...". */
static void
known_mgmtdevs(char *buf, size_t size)
{
	const struct vdpa_mgmt_dev *mdev;
	const struct vdpa_driver *drv;
	size_t used = 0;

	buf[0] = '\0';
	TAILQ_FOREACH (mdev, &vdpa_registry.mgmt_devs, next)
		if (!mdev->named)
			append(buf, size, &used, "%s%s", used > 0 ? ", " : "", mdev->name);
	for (unsigned int i = 0; vdpa_pci_prefix(i) != NULL; i++)
		append(buf, size, &used, "%s%s...", used > 0 ? ", " : "", vdpa_pci_prefix(i));
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		for (const char *const *m = drv->match; m != NULL && *m != NULL; m++)
			if (vdpa_pattern_is_prefix(*m))
				append(buf, size, &used, "%s%.*s...", used > 0 ? ", " : "",
				       (int)strlen(*m) - 1, *m);
}

/* The management device of a PCI function, by any of its names. */
static int
get_pci(const char *name, struct vdpa_mgmt_dev **out)
{
	char *full;
	int rc;

	rc = vdpa_pci_full_name(name, &full);
	if (rc < 0)
		return rc;
	*out = find_mgmtdev(full);
	if (*out == NULL) {
		rc = vdpa_pci_parent_new(full, out);
		if (rc == 0)
			(*out)->named = true;
	}
	free(full);
	return rc;
}

/* The management device that a driver makes of a name; NULL: none does. */
static int
probe_drivers(const char *name, struct vdpa_mgmt_dev **out)
{
	struct vdpa_driver *drv;
	int rc;

	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next) {
		if (!driver_matches(drv, name))
			continue;
		rc = drv->probe(drv, name);
		if (rc < 0 && rc != -ENODEV)
			return rc;
		*out = find_mgmtdev(name);
		if (*out != NULL) {
			(*out)->named = true;
			(*out)->drv = drv;
			return 0;
		}
	}
	return 0;
}

/*
 * The management device of that name: one that is there, that of a PCI function, or what a driver
 * that matches the name makes of it. One that was made for the name is released by
 * vdpa_registry_put().
 */
int
vdpa_registry_get(const char *name, struct vdpa_mgmt_dev **out)
{
	struct vdpa_mgmt_dev *mdev = find_mgmtdev(name);
	char known[256];
	int rc = 0;

	if (strlen(name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': %zu characters, allowed are up to %d",
				  name, strlen(name), VDPA_MGMTDEV_NAME_MAX - 1);
	if (mdev == NULL)
		rc = vdpa_pci_has_prefix(name) ? get_pci(name, &mdev) : probe_drivers(name, &mdev);
	if (rc < 0)
		return rc;
	if (mdev != NULL) {
		*out = mdev;
		return 0;
	}
	known_mgmtdevs(known, sizeof(known));
	return vdpa_error(ENODEV, "mgmtdev '%s': there is none of that name, there are %s", name,
			  known);
}

/* A named parent's management device is there for its devices only. Keeps the error message. Under
 * the management lock. */
void
vdpa_registry_put(struct vdpa_mgmt_dev *mdev)
{
	struct vdpa_error_saved error;

	if (mdev == NULL || !mdev->named || vdpa_bus_uses(mdev))
		return;
	vdpa_error_save(&error);
	if (vdpa_pci_parent_is(mdev))
		vdpa_pci_parent_free(mdev);
	else
		mdev->drv->release(mdev->drv, mdev);
	vdpa_error_restore(&error);
}

/* The end of a reservation or a claim, and of the management device where it was the last. */
void
vdpa_registry_release(struct vdpa_bus_entry *e)
{
	struct vdpa_mgmt_dev *mdev = e->mdev;

	vdpa_registry_lock();
	vdpa_bus_release(e);
	vdpa_registry_put(mdev);
	vdpa_registry_unlock();
}

int
vdpa_registry_withdraw(struct vdpa_device *vdev, bool leave)
{
	const struct vdpa_frontend *fe = __atomic_load_n(&vdev->core->fe, __ATOMIC_ACQUIRE);

	return fe != NULL && fe->ops->withdraw != NULL ? fe->ops->withdraw(vdev, leave) : 0;
}

/* A device that is claimed, by what made it; by ourselves where an application did. */
void
vdpa_registry_remove(struct vdpa_bus_entry *e, struct vdpa_device *vdev)
{
	if (vdev->mdev != NULL)
		vdev->mdev->ops->dev_del(vdev->mdev, vdev);
	else
		vdpa_unregister_device(vdev);
	vdpa_restart_forget_words(vdev->name);
	vdpa_put_device(vdev);
	vdpa_registry_release(e);
}

/* Remove each device for which matches() says so. Without the management lock. */
static void
remove_all(bool (*matches)(const struct vdpa_bus_entry *e, const void *arg), const void *arg)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;

	while (vdpa_bus_claim_next(matches, arg, &e, &vdev)) {
		if (vdpa_registry_withdraw(vdev, true) < 0)
			VDPA_LOG(NOTICE, "%s", vdpa_error_message());
		vdpa_registry_remove(e, vdev);
	}
}

static bool
any_entry(const struct vdpa_bus_entry *e, const void *arg)
{
	return true;
}

void
vdpa_dev_del_all(void)
{
	remove_all(any_entry, NULL);
}

static bool
made_by(const struct vdpa_bus_entry *e, const void *mdev)
{
	return e->mdev == mdev;
}

static bool
served_by(const struct vdpa_bus_entry *e, const void *fe)
{
	return e->fe == fe;
}

static bool
of_driver(const struct vdpa_bus_entry *e, const void *drv)
{
	return e->drv == drv || (e->mdev != NULL && e->mdev->drv == drv);
}

int
vdpa_mgmtdev_register(struct vdpa_mgmt_dev *mdev)
{
	int rc = 0;

	if (strlen(mdev->name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': the name is too long", mdev->name);
	vdpa_registry_lock();
	mdev->named = false;
	mdev->drv = NULL;
	mdev->users = 0;
	if (find_mgmtdev(mdev->name) != NULL) {
		rc = vdpa_error(EEXIST, "mgmtdev '%s': is registered", mdev->name);
	} else if (vdpa_tree_add(&mgmt_dev_tree, mdev) < 0) {
		rc = vdpa_error(ENOMEM, "mgmtdev '%s': out of memory", mdev->name);
	} else {
		mdev->id = ++last_mgmt_dev;
		TAILQ_INSERT_TAIL(&vdpa_registry.mgmt_devs, mdev, next);
	}
	vdpa_registry_unlock();
	return rc;
}

void
vdpa_mgmtdev_unregister(struct vdpa_mgmt_dev *mdev)
{
	/* First, so that nobody adds another device to it. */
	vdpa_registry_lock();
	vdpa_tree_del(&mgmt_dev_tree, mdev);
	TAILQ_REMOVE(&vdpa_registry.mgmt_devs, mdev, next);
	mdev->named = false;
	mdev->drv = NULL;
	vdpa_registry_unlock();
	remove_all(made_by, mdev);
}

int
vdpa_mgmtdev_for_each(int (*fn)(struct vdpa_mgmt_dev *mdev, void *arg), void *arg)
{
	struct vdpa_mgmt_dev *mdev;
	int rc = 0;

	vdpa_registry_lock();
	TAILQ_FOREACH (mdev, &vdpa_registry.mgmt_devs, next) {
		rc = fn(mdev, arg);
		if (rc != 0)
			break;
	}
	vdpa_registry_unlock();
	return rc;
}

int
vdpa_mgmtdev_look(const char *name, void (*fn)(const struct vdpa_mgmt_dev *mdev, void *arg),
		  void *arg)
{
	struct vdpa_mgmt_dev *mdev;
	int rc = 0;

	vdpa_registry_lock();
	mdev = find_mgmtdev(name);
	if (mdev != NULL)
		fn(mdev, arg);
	else
		rc = vdpa_error(ENODEV, "mgmtdev '%s': there is none of that name", name);
	vdpa_registry_unlock();
	return rc;
}

/* The driver's members that belong together, and what it may match by name. */
static int
check_driver(const struct vdpa_driver *drv)
{
	if (drv->name == NULL || !vdpa_name_is_valid(drv->name))
		return vdpa_error(EINVAL, "driver '%s': allowed are 1 to %d of A-Z a-z 0-9 . _ -",
				  drv->name != NULL ? drv->name : "", VDPA_NAME_MAX - 1);
	if ((drv->pci_ids != NULL) != (drv->pci_add != NULL))
		return vdpa_error(EINVAL, "driver '%s': has one of pci_ids and pci_add, needs both",
				  drv->name);
	if (drv->match == NULL && drv->pci_ids == NULL)
		return vdpa_error(EINVAL, "driver '%s': has neither pci_ids nor match", drv->name);
	if (drv->match != NULL && (drv->probe == NULL || drv->remove == NULL))
		return vdpa_error(EINVAL, "driver '%s': match needs probe and remove", drv->name);
	for (const char *const *m = drv->match; m != NULL && *m != NULL; m++) {
		if (vdpa_pci_has_prefix(*m))
			return vdpa_error(EINVAL,
					  "driver '%s': %s is a PCI function: state its ids in "
					  "pci_ids",
					  drv->name, *m);
		if (vdpa_pattern_is_prefix(*m) && drv->release == NULL)
			return vdpa_error(EINVAL, "driver '%s': parents like %s need a release",
					  drv->name, *m);
	}
	return drv->pci_ids != NULL ? vdpa_pci_match_check(drv) : 0;
}

/* From 1; 0: it is not built in. */
static unsigned int
builtin_number(const struct vdpa_driver *drv)
{
	for (unsigned int i = 0; vdpa_builtin_drivers[i] != NULL; i++)
		if (vdpa_builtin_drivers[i] == drv)
			return i + 1;
	return 0;
}

static bool
is_registered(const struct vdpa_driver *drv)
{
	const struct vdpa_driver *other;

	TAILQ_FOREACH (other, &vdpa_registry.drivers, next)
		if (other == drv)
			return true;
	return false;
}

/* In the order of their numbers. */
static int
insert_driver(struct vdpa_driver *drv)
{
	struct vdpa_driver *other, *behind = NULL;
	unsigned int builtin = builtin_number(drv);

	TAILQ_FOREACH (other, &vdpa_registry.drivers, next) {
		if (other == drv)
			return vdpa_error(EEXIST, "driver '%s': is registered", drv->name);
		if (strcmp(other->name, drv->name) == 0)
			return vdpa_error(EEXIST, "driver '%s': another of that name is registered",
					  drv->name);
		if (builtin != 0 && behind == NULL && other->id > builtin)
			behind = other;
	}
	drv->id = builtin != 0 ? builtin : ++last_driver;
	if (behind != NULL)
		TAILQ_INSERT_BEFORE(behind, drv, next);
	else
		TAILQ_INSERT_TAIL(&vdpa_registry.drivers, drv, next);
	return 0;
}

static int
probe_plain_names(struct vdpa_driver *drv)
{
	int rc;

	for (const char *const *m = drv->match; m != NULL && *m != NULL; m++) {
		rc = vdpa_pattern_is_prefix(*m) ? 0 : drv->probe(drv, *m);
		if (rc < 0 && rc != -ENODEV)
			return rc;
	}
	return 0;
}

int
vdpa_register_driver(struct vdpa_driver *drv)
{
	int rc;

	rc = check_driver(drv);
	if (rc < 0)
		return rc;
	vdpa_registry_lock();
	/* What is built in is there first, whoever comes before vdpa_init(). */
	if (builtin_number(drv) == 0)
		rc = vdpa_registry_add_builtins();
	if (rc == 0)
		rc = insert_driver(drv);
	if (rc == 0) {
		rc = probe_plain_names(drv);
		if (rc < 0) {
			drv->remove(drv);
			TAILQ_REMOVE(&vdpa_registry.drivers, drv, next);
		}
	}
	vdpa_registry_unlock();
	return rc;
}

void
vdpa_unregister_driver(struct vdpa_driver *drv)
{
	bool there;

	vdpa_registry_lock();
	there = is_registered(drv);
	/* First, so that no further device is asked of it. */
	if (there)
		TAILQ_REMOVE(&vdpa_registry.drivers, drv, next);
	vdpa_registry_unlock();
	if (!there)
		return;
	/* Named parents go with their last devices. */
	remove_all(of_driver, drv);
	if (drv->remove != NULL)
		drv->remove(drv);
}

int
vdpa_register_frontend(struct vdpa_frontend *fe)
{
	struct vdpa_frontend *other;
	unsigned int n = 0;
	int rc = 0;

	vdpa_registry_lock();
	TAILQ_FOREACH (other, &vdpa_registry.frontends, next) {
		n++;
		if (strcmp(other->name, fe->name) == 0)
			rc = vdpa_error(EEXIST, "frontend '%s': is registered", fe->name);
	}
	if (rc == 0 && n == FRONTENDS_MAX)
		rc = vdpa_error(ENOSPC, "frontend '%s': there are %u already", fe->name, n);
	if (rc == 0)
		TAILQ_INSERT_TAIL(&vdpa_registry.frontends, fe, next);
	vdpa_registry_unlock();
	return rc;
}

void
vdpa_unregister_frontend(struct vdpa_frontend *fe)
{
	vdpa_registry_lock();
	TAILQ_REMOVE(&vdpa_registry.frontends, fe, next);
	vdpa_registry_unlock();
	remove_all(served_by, fe);
}

void
vdpa_mgmt_fini(void)
{
	struct vdpa_frontend *fe;

	vdpa_registry_lock();
	vdpa_registry.closing = true;
	vdpa_registry_unlock();
	remove_all(any_entry, NULL);
	/* Others belong to whoever registered them. */
	for (unsigned int i = 0; vdpa_builtin_drivers[i] != NULL; i++)
		vdpa_unregister_driver(vdpa_builtin_drivers[i]);
	while ((fe = TAILQ_FIRST(&vdpa_registry.frontends)) != NULL)
		vdpa_unregister_frontend(fe);
	vdpa_registry_lock();
	builtins_registered = vdpa_registry.closing = false;
	vdpa_registry_unlock();
}

/* Register what is built in, once. Under the management lock. */
int
vdpa_registry_add_builtins(void)
{
	int rc = 0;

	if (builtins_registered)
		return 0;
	builtins_registered = true;
	for (unsigned int i = 0; rc == 0 && vdpa_builtin_frontends[i] != NULL; i++)
		rc = vdpa_register_frontend(vdpa_builtin_frontends[i]);
	for (unsigned int i = 0; rc == 0 && vdpa_builtin_drivers[i] != NULL; i++)
		rc = vdpa_register_driver(vdpa_builtin_drivers[i]);
	if (rc < 0)
		vdpa_mgmt_fini();
	return rc;
}

int
vdpa_mgmt_init(void)
{
	int rc;

	vdpa_registry_lock();
	rc = vdpa_registry_add_builtins();
	vdpa_registry_unlock();
	return rc;
}
