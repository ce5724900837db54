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
#include <search.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "error_priv.h"
#include "registry.h"
#include "vdpa_error.h"

static pthread_mutex_t mgmt_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static bool builtins_registered;
static void *mgmt_dev_tree; /* the management devices by name */
static uint64_t last_mgmt_dev;
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

static struct vdpa_mgmt_dev *
find_mgmtdev(const char *name)
{
	const struct vdpa_mgmt_dev key = {.name = name};
	void *node = tfind(&key, &mgmt_dev_tree, compare_mgmtdevs);

	return node != NULL ? *(struct vdpa_mgmt_dev **)node : NULL;
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
	for (const char *const *m = drv->match; *m != NULL; m++)
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
		if (mdev->drv == NULL)
			append(buf, size, &used, "%s%s", used > 0 ? ", " : "", mdev->name);
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		for (const char *const *m = drv->match; *m != NULL; m++)
			if (vdpa_pattern_is_prefix(*m))
				append(buf, size, &used, "%s%.*s...", used > 0 ? ", " : "",
				       (int)strlen(*m) - 1, *m);
}

/*
 * The management device of that name, asking the drivers that match it when there is none yet. One
 * that comes of a pattern is released by vdpa_registry_put().
 */
int
vdpa_registry_get(const char *name, struct vdpa_mgmt_dev **out)
{
	struct vdpa_mgmt_dev *mdev = find_mgmtdev(name);
	struct vdpa_driver *drv;
	char known[256];
	int rc;

	if (strlen(name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': %zu characters, allowed are up to %d",
				  name, strlen(name), VDPA_MGMTDEV_NAME_MAX - 1);
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next) {
		if (mdev != NULL)
			break;
		if (!driver_matches(drv, name))
			continue;
		rc = drv->probe(drv, name);
		if (rc < 0 && rc != -ENODEV)
			return rc;
		mdev = find_mgmtdev(name);
		if (mdev != NULL)
			mdev->drv = drv;
	}
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

	if (mdev == NULL || mdev->drv == NULL || vdpa_bus_uses(mdev))
		return;
	vdpa_error_save(&error);
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

/* A device that is claimed, by what made it; by ourselves where an application did. */
void
vdpa_registry_remove(struct vdpa_bus_entry *e, struct vdpa_device *vdev)
{
	if (vdev->mdev != NULL)
		vdev->mdev->ops->dev_del(vdev->mdev, vdev);
	else
		vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
	vdpa_registry_release(e);
}

/* Remove each device for which matches() says so. Without the management lock. */
static void
remove_all(bool (*matches)(const struct vdpa_bus_entry *e, const void *arg), const void *arg)
{
	struct vdpa_bus_entry *e;
	struct vdpa_device *vdev;

	while (vdpa_bus_claim_next(matches, arg, &e, &vdev))
		vdpa_registry_remove(e, vdev);
}

static bool
any_entry(const struct vdpa_bus_entry *e, const void *arg)
{
	return true;
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
	return e->mdev != NULL && e->mdev->drv == drv;
}

int
vdpa_mgmtdev_register(struct vdpa_mgmt_dev *mdev)
{
	int rc = 0;

	if (strlen(mdev->name) >= VDPA_MGMTDEV_NAME_MAX)
		return vdpa_error(EINVAL, "mgmtdev '%s': the name is too long", mdev->name);
	vdpa_registry_lock();
	mdev->drv = NULL;
	mdev->users = 0;
	if (find_mgmtdev(mdev->name) != NULL) {
		rc = vdpa_error(EEXIST, "mgmtdev '%s': is registered", mdev->name);
	} else if (tsearch(mdev, &mgmt_dev_tree, compare_mgmtdevs) == NULL) {
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
	tdelete(mdev, &mgmt_dev_tree, compare_mgmtdevs);
	TAILQ_REMOVE(&vdpa_registry.mgmt_devs, mdev, next);
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

int
vdpa_register_driver(struct vdpa_driver *drv)
{
	int rc = 0;

	for (const char *const *m = drv->match; *m != NULL; m++)
		if (vdpa_pattern_is_prefix(*m) && drv->release == NULL)
			return vdpa_error(EINVAL, "driver '%s': parents like %s need a release",
					  drv->name, *m);
	vdpa_registry_lock();
	TAILQ_INSERT_TAIL(&vdpa_registry.drivers, drv, next);
	for (const char *const *m = drv->match; rc == 0 && *m != NULL; m++)
		if (!vdpa_pattern_is_prefix(*m)) {
			rc = drv->probe(drv, *m);
			if (rc == -ENODEV)
				rc = 0;
		}
	if (rc < 0) {
		drv->remove(drv);
		TAILQ_REMOVE(&vdpa_registry.drivers, drv, next);
	}
	vdpa_registry_unlock();
	return rc;
}

void
vdpa_unregister_driver(struct vdpa_driver *drv)
{
	vdpa_registry_lock();
	TAILQ_REMOVE(&vdpa_registry.drivers, drv, next);
	vdpa_registry_unlock();
	/* Named parents go with their last devices. */
	remove_all(of_driver, drv);
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
	struct vdpa_driver *drv;

	vdpa_registry_lock();
	vdpa_registry.closing = true;
	vdpa_registry_unlock();
	remove_all(any_entry, NULL);
	while ((drv = TAILQ_FIRST(&vdpa_registry.drivers)) != NULL)
		vdpa_unregister_driver(drv);
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
