/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A VDUSE device's place on the kernel's vDPA bus: added by netlink and bound by its mode, and
 * taken away, unless somebody uses it. Keeps nothing: sysfs says what is there.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error_priv.h"
#include "vdpa_bus.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vdpa_netlink.h"
#include "vduse_priv.h"

#define MGMTDEV "vduse"
#define IFF_UP	0x1

static const char *const drivers[] = {
	[VDUSE_MODE_VIRTIO] = "virtio_vdpa", [VDUSE_MODE_VHOST] = "vhost_vdpa"};

/* The first name in a folder that begins so; false: there is none. */
static bool
find(const char *folder, const char *prefix, char *buf, size_t len)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	bool found = false;

	while (dir != NULL && !found && (e = readdir(dir)) != NULL) {
		found = e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0;
		if (found)
			snprintf(buf, len, "%.63s", e->d_name);
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* The disk or netdev that the kernel made of it: class is "block" or "net". */
static bool
find_child(const char *name, const char *class, char *buf, size_t len)
{
	char folder[320], virtio[64];

	snprintf(folder, sizeof(folder), "/sys/bus/vdpa/devices/%.64s", name);
	if (!find(folder, "virtio", virtio, sizeof(virtio)))
		return false;
	snprintf(folder, sizeof(folder), "/sys/bus/vdpa/devices/%.64s/%.63s/%s", name, virtio,
		 class);
	return find(folder, "", buf, len);
}

bool
vdpa_vduse_bus_has(const struct vduse_device *dev)
{
	char driver[VDPA_BUS_NAME_MAX];

	return vdpa_bus_driver(dev->vdev->name, driver, sizeof(driver)) == 0;
}

void
vdpa_vduse_bus_describe(const struct vdpa_device *vdev, char *buf, size_t len)
{
	char driver[VDPA_BUS_NAME_MAX], folder[128], child[64];

	snprintf(folder, sizeof(folder), "/sys/bus/vdpa/devices/%.64s", vdev->name);
	if (vdpa_bus_driver(vdev->name, driver, sizeof(driver)) < 0)
		snprintf(buf, len, "/dev/vduse/%s, not on the vDPA bus", vdev->name);
	else if (find(folder, "vhost-vdpa-", child, sizeof(child)))
		snprintf(buf, len, "/dev/%s", child);
	else if (find_child(vdev->name, "block", child, sizeof(child)))
		snprintf(buf, len, "/dev/%s", child);
	else if (find_child(vdev->name, "net", child, sizeof(child)))
		snprintf(buf, len, "netdev %s", child);
	else
		snprintf(buf, len, "on the vDPA bus, driver %s",
			 driver[0] != '\0' ? driver : "none");
}

static bool
is_busy(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);

	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == EBUSY;
}

static bool
is_up(const char *netdev)
{
	unsigned int flags = 0;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/net/%.63s/flags", netdev);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	if (fscanf(f, "%x", &flags) != 1)
		flags = 0;
	fclose(f);
	return (flags & IFF_UP) != 0;
}

void
vdpa_vduse_bus_user(const struct vduse_device *dev, bool up, char *buf, size_t len)
{
	char folder[128], child[64], path[80];

	buf[0] = '\0';
	snprintf(folder, sizeof(folder), "/sys/bus/vdpa/devices/%.64s", dev->vdev->name);
	if (find(folder, "vhost-vdpa-", child, sizeof(child))) {
		/* One process may have it open. */
		snprintf(path, sizeof(path), "/dev/%s", child);
		if (is_busy(path, O_RDWR))
			snprintf(buf, len, "%s is open in another process", path);
	} else if (find_child(dev->vdev->name, "block", child, sizeof(child))) {
		snprintf(path, sizeof(path), "/dev/%s", child);
		if (is_busy(path, O_RDONLY | O_EXCL))
			snprintf(buf, len, "%s is in use (mounted?)", path);
	} else if (up && find_child(dev->vdev->name, "net", child, sizeof(child)) && is_up(child)) {
		snprintf(buf, len, "netdev %s is up", child);
	}
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
	return rc == 0 ? vdpa_bus_bind(name, drivers[dev->mode]) : rc;
}

int
vdpa_vduse_bus_del(struct vduse_device *dev)
{
	char user[128];

	if (!vdpa_vduse_bus_has(dev))
		return 0;
	/* The kernel would wait for it, and let nobody use its vDPA bus meanwhile. */
	vdpa_vduse_bus_user(dev, false, user, sizeof(user));
	if (user[0] != '\0')
		return vdpa_error(EBUSY, "%s: %s", dev->vdev->name, user);
	return vdpa_netlink_dev_del(dev->vdev->name);
}
