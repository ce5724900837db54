/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The kernel's vDPA bus in sysfs. Keeps nothing: what is there is read anew by every call. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error_priv.h"
#include "kernel_call.h"
#include "vdpa_bus.h"
#include "vdpa_bus_priv.h"
#include "vdpa_error.h"

#define VHOST_VDPA   "vhost_vdpa"
#define NODE_WAIT_US 2000000
#define NODE_NAP_NS  10000000

const char *vdpa_bus_sys_root = "/sys", *vdpa_bus_dev_root = "/dev";

void
vdpa_bus_set_roots(const char *sys, const char *dev)
{
	vdpa_bus_sys_root = sys != NULL ? sys : "/sys";
	vdpa_bus_dev_root = dev != NULL ? dev : "/dev";
}

static int __attribute__((format(printf, 3, 4))) print(char *buf, size_t size, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(buf, size, fmt, ap);
	va_end(ap);
	return n >= 0 && (size_t)n < size ? 0 : vdpa_error(ENAMETOOLONG, "%s...: too long", buf);
}

/* What can be a name in a folder, and no way out of it. */
static int
check_name(const char *what, const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len >= VDPA_BUS_NAME_MAX || name[0] == '.' || strchr(name, '/') != NULL)
		return vdpa_error(EINVAL, "'%.80s': can be no name of a %s", name, what);
	return 0;
}

int
vdpa_bus_path(const char *name, const char *file, char *buf, size_t size)
{
	int rc = check_name("vDPA device", name);

	return rc == 0 ? print(buf, size, "%s/bus/vdpa/devices/%s%s", vdpa_bus_sys_root, name, file)
		       : rc;
}

static bool
exists(const char *path)
{
	return access(path, F_OK) == 0;
}

bool
vdpa_bus_has_driver(const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];

	return print(path, sizeof(path), "%s/bus/vdpa/drivers/%s", vdpa_bus_sys_root, driver) ==
		       0 &&
	       exists(path);
}

static int
no_bus(void)
{
	return vdpa_error(ENODEV, "the kernel has no vDPA bus: modprobe " VHOST_VDPA);
}

static int
check_device(const char *name)
{
	char path[VDPA_BUS_PATH_MAX], bus[VDPA_BUS_PATH_MAX];
	int rc = vdpa_bus_path(name, "", path, sizeof(path));

	if (rc < 0 || exists(path))
		return rc;
	if (print(bus, sizeof(bus), "%s/bus/vdpa", vdpa_bus_sys_root) == 0 && !exists(bus))
		return no_bus();
	return vdpa_error(ENODEV, "the kernel has no vDPA device '%s'; ls %s/bus/vdpa/devices",
			  name, vdpa_bus_sys_root);
}

int
vdpa_bus_driver(const char *name, char *buf, size_t len)
{
	char path[VDPA_BUS_PATH_MAX], target[VDPA_BUS_PATH_MAX];
	const char *slash;
	ssize_t n;
	int rc = check_device(name);

	if (rc == 0)
		rc = vdpa_bus_path(name, "/driver", path, sizeof(path));
	if (rc < 0)
		return rc;
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0) {
		if (errno != ENOENT)
			return vdpa_error(errno, "%s: %s", path, strerror(errno));
		n = 0;
	}
	target[n] = '\0';
	slash = strrchr(target, '/');
	return print(buf, len, "%s", slash != NULL ? slash + 1 : target);
}

bool
vdpa_bus_find(const char *folder, const char *prefix, char *buf, size_t len)
{
	DIR *dir = opendir(folder);
	struct dirent *e;
	bool found = false;

	while (dir != NULL && !found && (e = readdir(dir)) != NULL) {
		found = e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0 &&
			strlen(e->d_name) < len;
		if (found)
			strcpy(buf, e->d_name);
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* The node of a device's character device. 0: there is none now; 1: there is. */
static int
find_char(const char *name, char *buf, size_t len)
{
	char path[VDPA_BUS_PATH_MAX], child[VDPA_BUS_NAME_MAX];
	int rc = vdpa_bus_path(name, "", path, sizeof(path));

	if (rc < 0)
		return rc;
	if (!vdpa_bus_find(path, VDPA_BUS_CHAR_PREFIX, child, sizeof(child)))
		return check_device(name);
	rc = print(buf, len, "%s/%s", vdpa_bus_dev_root, child);
	return rc == 0 ? 1 : rc;
}

int
vdpa_bus_char_path(const char *name, char *buf, size_t len)
{
	const struct timespec nap = {.tv_nsec = NODE_NAP_NS};
	int64_t until_us = vdpa_now_us() + NODE_WAIT_US;
	char driver[VDPA_BUS_NAME_MAX];
	int rc = vdpa_bus_driver(name, driver, sizeof(driver));

	if (rc < 0)
		return rc;
	if (strcmp(driver, VHOST_VDPA) != 0)
		return vdpa_error(ENXIO,
				  "vDPA device '%s' is bound to %s, and not to vhost_vdpa, which "
				  "gives it to user space",
				  name, driver[0] != '\0' ? driver : "no driver");
	for (;;) {
		rc = find_char(name, buf, len);
		if (rc < 0)
			return rc;
		if (rc == 1 && access(buf, F_OK) == 0)
			return 0;
		if (vdpa_now_us() > until_us)
			return vdpa_error(ENOENT, "vDPA device '%s': %s%s has not come", name,
					  rc == 1 ? buf : vdpa_bus_dev_root,
					  rc == 1 ? "" : "/" VDPA_BUS_CHAR_PREFIX "N");
		nanosleep(&nap, NULL);
	}
}

/* An attribute of sysfs: the kernel works in the call that reads or writes it, and takes the lock
 * of a device for it, which a driver's probe has too. */
struct attribute {
	char path[VDPA_BUS_PATH_MAX];
	char text[VDPA_BUS_NAME_MAX];
};

static int
write_attribute(void *arg)
{
	const struct attribute *a = arg;
	size_t len = strlen(a->text);
	int fd = open(a->path, O_WRONLY | O_CLOEXEC), rc = 0;
	ssize_t n;

	if (fd < 0)
		return vdpa_error(errno, "%s: %s", a->path, strerror(errno));
	n = write(fd, a->text, len);
	if (n < 0)
		rc = vdpa_error(errno, "%s: %s", a->path, strerror(errno));
	else if ((size_t)n < len)
		rc = vdpa_error(EIO, "%s: takes %zd of %zu bytes", a->path, n, len);
	close(fd);
	return rc;
}

/* About a device, which the verb says what is done with. */
static int
write_file(const char *name, const char *verb, const char *path, const char *text)
{
	struct attribute a;
	int rc = print(a.path, sizeof(a.path), "%s", path);

	if (rc == 0)
		rc = print(a.text, sizeof(a.text), "%s", text);
	return rc == 0 ? vdpa_kernel_call(name, verb, write_attribute, &a, sizeof(a)) : rc;
}

static int
bind_to(const char *name, const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc =
		print(path, sizeof(path), "%s/bus/vdpa/drivers/%s/bind", vdpa_bus_sys_root, driver);

	return rc == 0 ? write_file(name, "bind", path, name) : rc;
}

static int
read_attribute(void *arg)
{
	struct attribute *a = arg;
	int fd = open(a->path, O_RDONLY | O_CLOEXEC), rc = 0;
	ssize_t n = fd >= 0 ? read(fd, a->text, sizeof(a->text) - 1) : -1;

	/* Kernels without it have none. */
	if (n < 0 && errno != ENOENT)
		rc = vdpa_error(errno, "%s: %s", a->path, strerror(errno));
	if (fd >= 0)
		close(fd);
	a->text[n > 0 ? n : 0] = '\0';
	a->text[strcspn(a->text, "\n")] = '\0';
	return rc;
}

/* What the override says; "" for nothing, also where the kernel has none. */
static int
read_override(const char *name, char *buf, size_t size)
{
	struct attribute a;
	int rc = vdpa_bus_path(name, "/driver_override", a.path, sizeof(a.path));

	if (rc == 0)
		rc = vdpa_kernel_call(name, "driver_override", read_attribute, &a, sizeof(a));
	if (rc < 0)
		return rc;
	return print(buf, size, "%s", strcmp(a.text, "(null)") != 0 ? a.text : "");
}

static int
write_override(const char *name, const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = vdpa_bus_path(name, "/driver_override", path, sizeof(path));

	/* A line without a driver clears it. */
	return rc == 0 ? write_file(name, "driver_override", path,
				    driver[0] != '\0' ? driver : "\n")
		       : rc;
}

/* The kernel takes a device from who uses it when that lets it go, and waits until then. */
static int
unbind(const char *name)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = vdpa_bus_check_unused(name, true);

	if (rc == 0)
		rc = vdpa_bus_path(name, "/driver/unbind", path, sizeof(path));
	return rc == 0 ? write_file(name, "unbind", path, name) : rc;
}

/* As it was before a change that failed. Where the kernel is still at that, nothing can be done. */
static void
undo(const char *name, const char *had, const char *override)
{
	if (override[0] != '\0' && write_override(name, override) == -EBUSY)
		return;
	if (had[0] != '\0')
		(void)bind_to(name, had);
}

int
vdpa_bus_bind(const char *name, const char *driver)
{
	char had[VDPA_BUS_NAME_MAX], override[VDPA_BUS_NAME_MAX] = "";
	struct vdpa_error_saved why;
	int rc = check_name("driver", driver);

	if (rc == 0)
		rc = vdpa_bus_driver(name, had, sizeof(had));
	if (rc < 0 || strcmp(had, driver) == 0)
		return rc;
	if (!vdpa_bus_has_driver(driver))
		return vdpa_error(ENOENT, "the kernel has no driver %s: modprobe %s", driver,
				  driver);
	rc = read_override(name, override, sizeof(override));
	if (rc == 0 && had[0] != '\0')
		rc = unbind(name);
	if (rc < 0)
		return rc;
	if (strcmp(override, driver) == 0)
		override[0] = '\0';
	if (override[0] != '\0')
		rc = write_override(name, driver);
	if (rc == 0)
		rc = bind_to(name, driver);
	if (rc < 0) {
		vdpa_error_save(&why);
		if (rc != -ETIMEDOUT)
			undo(name, had, override);
		rc = vdpa_error(rc, "vDPA device '%s' does not come to %s: %s", name, driver,
				vdpa_error_cause(why.text, name, -1));
	}
	return rc;
}

int
vdpa_bus_each_name(int (*fn)(const char *name, void *arg), void *arg)
{
	char path[VDPA_BUS_PATH_MAX];
	struct dirent *e;
	DIR *dir;
	int rc = print(path, sizeof(path), "%s/bus/vdpa/devices", vdpa_bus_sys_root);

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (dir == NULL)
		return no_bus();
	while (rc == 0 && (e = readdir(dir)) != NULL)
		if (e->d_name[0] != '.')
			rc = fn(e->d_name, arg);
	closedir(dir);
	return rc;
}
