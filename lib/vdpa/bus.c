/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The bus: which devices are registered. The registries of drivers, management devices and front
 * ends are in mgmt.c.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device_priv.h"

static pthread_mutex_t bus_lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vdpa_device_core) devices = TAILQ_HEAD_INITIALIZER(devices);

/* Under the bus lock. */
static struct vdpa_device *
find(const char *name)
{
	struct vdpa_device_core *core;

	TAILQ_FOREACH (core, &devices, next)
		if (strcmp(core->vdev->name, name) == 0)
			return core->vdev;
	return NULL;
}

int
vdpa_bus_add(struct vdpa_device *vdev)
{
	int rc = 0;

	pthread_mutex_lock(&bus_lock);
	if (find(vdev->name) != NULL)
		rc = vdpa_error(EEXIST, "name '%s': a device has it already", vdev->name);
	else
		TAILQ_INSERT_TAIL(&devices, vdev->core, next);
	pthread_mutex_unlock(&bus_lock);
	return rc;
}

void
vdpa_bus_del(struct vdpa_device *vdev)
{
	pthread_mutex_lock(&bus_lock);
	TAILQ_REMOVE(&devices, vdev->core, next);
	pthread_mutex_unlock(&bus_lock);
}

struct vdpa_device *
vdpa_find_device(const char *name)
{
	struct vdpa_device *vdev;

	pthread_mutex_lock(&bus_lock);
	vdev = find(name);
	if (vdev != NULL)
		vdpa_get_device(vdev);
	pthread_mutex_unlock(&bus_lock);
	return vdev;
}

int
vdpa_bus_for_each(int (*fn)(struct vdpa_device *vdev, void *arg), void *arg)
{
	struct vdpa_device **all, *vdev;
	struct vdpa_device_core *core;
	unsigned int n = 0, i = 0;
	int rc = 0;

	pthread_mutex_lock(&bus_lock);
	TAILQ_FOREACH (core, &devices, next)
		n++;
	all = calloc(n + 1, sizeof(*all));
	if (all == NULL) {
		pthread_mutex_unlock(&bus_lock);
		return vdpa_error(ENOMEM, "out of memory");
	}
	TAILQ_FOREACH (core, &devices, next) {
		vdpa_get_device(core->vdev);
		all[i++] = core->vdev;
	}
	pthread_mutex_unlock(&bus_lock);

	for (i = 0; i < n; i++) {
		vdev = all[i];
		if (rc == 0)
			rc = fn(vdev, arg);
		vdpa_put_device(vdev);
	}
	free(all);
	return rc;
}
