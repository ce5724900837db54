/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A VDUSE device's place on the kernel's vDPA bus: added by netlink and bound by its mode, and
 * taken away, unless somebody uses it. Keeps nothing: sysfs says what is there.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "error_priv.h"
#include "vdpa_bus.h"
#include "vdpa_error.h"
#include "vdpa_netlink.h"
#include "vduse_priv.h"

#define MGMTDEV "vduse"
/* How often, and how far apart, a device is looked at that somebody uses. */
#define TRIES	10
#define NAP_NS	20000000

static const char *const drivers[] = {
	[VDUSE_MODE_VIRTIO] = "virtio_vdpa", [VDUSE_MODE_VHOST] = "vhost_vdpa"};

bool
vdpa_vduse_bus_has(const struct vduse_device *dev)
{
	char driver[VDPA_BUS_NAME_MAX];

	return vdpa_bus_driver(dev->vdev->name, driver, sizeof(driver)) == 0;
}

bool
vdpa_vduse_bus_is_vhost(const struct vduse_device *dev)
{
	char driver[VDPA_BUS_NAME_MAX];

	return dev->mode == VDUSE_MODE_VHOST ||
	       (vdpa_bus_driver(dev->vdev->name, driver, sizeof(driver)) == 0 &&
		strcmp(driver, drivers[VDUSE_MODE_VHOST]) == 0);
}

void
vdpa_vduse_bus_describe(const struct vdpa_device *vdev, char *buf, size_t len)
{
	char driver[VDPA_BUS_NAME_MAX], node[VDPA_BUS_PATH_MAX];

	if (vdpa_bus_driver(vdev->name, driver, sizeof(driver)) < 0) {
		snprintf(buf, len, "/dev/vduse/%s, not on the vDPA bus", vdev->name);
		return;
	}
	switch (vdpa_bus_find_node(vdev->name, node, sizeof(node))) {
	case VDPA_BUS_CHAR:
	case VDPA_BUS_DISK:
		snprintf(buf, len, "%s", node);
		break;
	case VDPA_BUS_NETDEV:
		snprintf(buf, len, "netdev %s", node);
		break;
	case VDPA_BUS_NOTHING:
		snprintf(buf, len, "on the vDPA bus, driver %s",
			 driver[0] != '\0' ? driver : "none");
		break;
	}
}

/* A successor may have come with another mode: who uses the device is not to lose it. */
static int
bind(const struct vduse_device *dev)
{
	const char *name = dev->vdev->name, *driver = drivers[dev->mode];
	char had[VDPA_BUS_NAME_MAX];
	struct vdpa_error_saved why;
	int rc = vdpa_bus_driver(name, had, sizeof(had));

	if (rc < 0 || strcmp(had, driver) == 0)
		return rc;
	rc = vdpa_bus_bind(name, driver);
	if (rc != -EBUSY || had[0] == '\0')
		return rc;
	vdpa_error_save(&why);
	return vdpa_error(rc,
			  "%s: mode %s takes the device from %s, which has it: %s; or add it with "
			  "the mode that it has",
			  name, dev->mode == VDUSE_MODE_VHOST ? "vhost" : "virtio", had,
			  vdpa_error_cause(why.text, name, -1));
}

int
vdpa_vduse_bus_add(struct vduse_device *dev)
{
	const char *name = dev->vdev->name;
	int rc = 0;

	if (dev->mode == VDUSE_MODE_NONE)
		return 0;
	if (!vdpa_vduse_bus_has(dev))
		rc = vdpa_netlink_dev_add(name, MGMTDEV);
	if (rc == -EPERM || rc == -EACCES)
		return vdpa_error(
			rc,
			"%s: vdpa dev add: not permitted: it needs CAP_NET_ADMIN; `mode none` "
			"leaves it to the operator",
			name);
	return rc == 0 ? bind(dev) : rc;
}

int
vdpa_vduse_bus_check_unused(const struct vduse_device *dev, bool up)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	int rc = 0;

	/* A user that is only seen to come and go does not keep the device. */
	for (unsigned int i = 0; i < TRIES; i++) {
		if (i > 0)
			nanosleep(&nap, NULL);
		rc = vdpa_bus_check_unused(dev->vdev->name, up);
		if (rc != -EBUSY)
			break;
	}
	return rc;
}

int
vdpa_vduse_bus_del(struct vduse_device *dev)
{
	char node[VDPA_BUS_PATH_MAX], user[64];
	enum vdpa_bus_kind kind;
	int rc;

	if (!vdpa_vduse_bus_has(dev))
		return 0;
	/* The kernel would wait for it, and let nobody use its vDPA bus meanwhile. */
	rc = vdpa_vduse_bus_check_unused(dev, false);
	if (rc < 0)
		return rc;
	kind = vdpa_bus_find_node(dev->vdev->name, node, sizeof(node));
	rc = vdpa_netlink_dev_del(dev->vdev->name);
	if (rc != -ETIMEDOUT || kind != VDPA_BUS_CHAR)
		return rc;
	vdpa_bus_opener(node, user, sizeof(user));
	return vdpa_error(
		ETIMEDOUT,
		"%s: vdpa dev del: the kernel waits until %s is closed, which %s has open",
		dev->vdev->name, node, user);
}
