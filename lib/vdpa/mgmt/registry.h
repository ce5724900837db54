/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is registered, for the files of this folder: registry.c. */

#ifndef VDPA_REGISTRY_H
#define VDPA_REGISTRY_H

#include <string.h>
#include <sys/queue.h>

#include "bus.h"
#include "mgmt.h"

#define FRONTENDS_MAX 8

/* Under the management lock. */
struct vdpa_registry {
	TAILQ_HEAD(, vdpa_driver) drivers;
	TAILQ_HEAD(, vdpa_mgmt_dev) mgmt_devs;
	TAILQ_HEAD(, vdpa_frontend) frontends;
	bool closing; /* devices are no longer added */
};
extern struct vdpa_registry vdpa_registry;

/* The management lock, which is recursive. */
void vdpa_registry_lock(void);
void vdpa_registry_unlock(void);

/* Register what is built in, once. Under the management lock. */
int vdpa_registry_add_builtins(void);

/*
 * Under the management lock: the management device of that name, made for it when there is none
 * yet. One that was is released by vdpa_registry_put(), which keeps the error message.
 */
int vdpa_registry_get(const char *name, struct vdpa_mgmt_dev **out);
void vdpa_registry_put(struct vdpa_mgmt_dev *mdev);

/* Without the management lock. The end of a reservation or a claim, and of the management device
 * where it was the last. */
void vdpa_registry_release(struct vdpa_bus_entry *e);
/* Likewise: remove a device that is claimed, by what made it; by ourselves where an application
 * did. */
void vdpa_registry_remove(struct vdpa_bus_entry *e, struct vdpa_device *vdev);
/* Before that: what the device's front end says of it (vdpa_frontend_ops.withdraw). */
int vdpa_registry_withdraw(struct vdpa_device *vdev, bool leave);

/* A pattern of a driver: a name, or a prefix with an asterisk. */
static inline bool
vdpa_pattern_is_prefix(const char *pattern)
{
	size_t len = strlen(pattern);

	return len > 0 && pattern[len - 1] == '*';
}

#endif /* VDPA_REGISTRY_H */
