/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's vDPA bus as sysfs shows it: which devices are on it, which driver each is bound to
 * (vhost_vdpa gives it to user space, virtio_vdpa to the kernel itself), and the character device
 * of one that vhost_vdpa has. Devices are made and deleted by netlink (vdpa_netlink.h).
 *
 * Every function may be called from any thread, with no lock that others wait for: what the kernel
 * or a device's user may hold up is bounded by vdpa_kernel_call(). Errors come with vdpa_error().
 */

#ifndef VDPA_KERNEL_BUS_H
#define VDPA_KERNEL_BUS_H

#include <stdbool.h>
#include <stddef.h>

/* Longest name of a device on the bus, and of a driver, with its NUL; and of a path. */
#define VDPA_BUS_NAME_MAX 64
#define VDPA_BUS_PATH_MAX 512

/*
 * Path of the character device of a device that vhost_vdpa has, such as /dev/vhost-vdpa-0. The node
 * is waited for, 2 s at most: of a device that was just made or bound, udev or devtmpfs makes it a
 * moment later.
 * 0; -EINVAL for what can be no name; -ENODEV where the bus has no such device; -ENXIO for one that
 * another driver has, or none, the message says which; -ENOENT where no node has come;
 * -ENAMETOOLONG for a path that does not fit.
 */
int vdpa_bus_char_path(const char *name, char *buf, size_t len);

/* The driver that has it: "vhost_vdpa", "virtio_vdpa", another, "" for none. 0; -EINVAL, -ENODEV,
 * -ENAMETOOLONG as above; where the kernel has no vDPA bus at all, the message says so. */
int vdpa_bus_driver(const char *name, char *buf, size_t len);

/* Whether the kernel has a driver for devices of the bus. */
bool vdpa_bus_has_driver(const char *driver);

/* What the kernel has made of a device, for those who use it. */
enum vdpa_bus_kind {
	VDPA_BUS_NOTHING,
	VDPA_BUS_CHAR,	 /* /dev/vhost-vdpa-N */
	VDPA_BUS_DISK,	 /* /dev/vda */
	VDPA_BUS_NETDEV, /* eth0 */
};

/* Its kind, and its path, or the netdev's name; "" for VDPA_BUS_NOTHING. */
enum vdpa_bus_kind vdpa_bus_find_node(const char *name, char *buf, size_t len);

/*
 * Whether nobody uses what the kernel has made of a device; its character device is opened for
 * that, which resets the device where nobody does. up: a netdev that is up counts as used.
 * 0; -EBUSY, the message says who uses what; -ETIMEDOUT where the kernel does not say.
 */
int vdpa_bus_check_unused(const char *name, bool up);

/* Who has a file open beside this process: "process 123 (qemu)", or "another process" where that is
 * not to be seen. */
void vdpa_bus_opener(const char *path, char *buf, size_t len);

/*
 * Bind it to a driver, unbinding it from what has it; no-op where that driver has it. An override
 * (driver_override) that names another driver is changed. On failure the driver that had it has it
 * again, as far as the kernel lets it.
 * 0; -EINVAL, -ENODEV as above; -ENOENT where the driver is not loaded, the message says modprobe
 * which; -EBUSY for one that is in use, a netdev that is up included, since the kernel would take
 * it away or wait for its user, and where the kernel is still at what was given up before;
 * -ETIMEDOUT where a driver's probe or the end of one does not come back, which the kernel goes on
 * with; -EACCES where the process may not write to sysfs; what the driver's probe says.
 */
int vdpa_bus_bind(const char *name, const char *driver);

/* Call fn with each name on the bus while it returns 0. 0, what fn returned, or -ENODEV where the
 * kernel has no vDPA bus. */
int vdpa_bus_each_name(int (*fn)(const char *name, void *arg), void *arg);

/* For tests: other folders than /sys and /dev; NULL: those again. */
void vdpa_bus_set_roots(const char *sys, const char *dev);

#endif /* VDPA_KERNEL_BUS_H */
