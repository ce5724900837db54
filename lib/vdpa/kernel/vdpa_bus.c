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
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "vdpa_bus.h"
#include "vdpa_error.h"

#define VHOST_VDPA   "vhost_vdpa"
#define CHAR_PREFIX  "vhost-vdpa-"
#define NODE_WAIT_US 2000000
#define NODE_NAP_NS  10000000

static const char *sys_root = "/sys", *dev_root = "/dev";

void
vdpa_bus_set_roots(const char *sys, const char *dev)
{
	sys_root = sys != NULL ? sys : "/sys";
	dev_root = dev != NULL ? dev : "/dev";
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

static int
device_path(const char *name, const char *file, char *buf, size_t size)
{
	int rc = check_name("vDPA device", name);

	return rc == 0 ? print(buf, size, "%s/bus/vdpa/devices/%s%s", sys_root, name, file) : rc;
}

static int
check_device(const char *name)
{
	char path[VDPA_BUS_PATH_MAX];
	struct stat st;
	int rc = device_path(name, "", path, sizeof(path));

	if (rc < 0 || stat(path, &st) == 0)
		return rc;
	return vdpa_error(ENODEV, "the kernel has no vDPA device '%s'; ls %s/bus/vdpa/devices",
			  name, sys_root);
}

int
vdpa_bus_driver(const char *name, char *buf, size_t len)
{
	char path[VDPA_BUS_PATH_MAX], target[VDPA_BUS_PATH_MAX];
	const char *slash;
	ssize_t n;
	int rc = check_device(name);

	if (rc == 0)
		rc = device_path(name, "/driver", path, sizeof(path));
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

/* The child of a device that is its character device's. 0: there is none now. */
static int
find_char(const char *name, char *buf, size_t len)
{
	char path[VDPA_BUS_PATH_MAX];
	struct dirent *e;
	DIR *dir;
	int rc = device_path(name, "", path, sizeof(path));

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (dir == NULL)
		return check_device(name);
	while (rc == 0 && (e = readdir(dir)) != NULL)
		if (strncmp(e->d_name, CHAR_PREFIX, strlen(CHAR_PREFIX)) == 0) {
			rc = print(buf, len, "%s/%s", dev_root, e->d_name);
			if (rc == 0)
				rc = 1;
		}
	closedir(dir);
	return rc;
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
					  rc == 1 ? buf : dev_root,
					  rc == 1 ? "" : "/" CHAR_PREFIX "N");
		nanosleep(&nap, NULL);
	}
}

static int
write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC), rc = 0;
	size_t len = strlen(text);

	if (fd < 0)
		return vdpa_error(errno, "%s: %s", path, strerror(errno));
	if (write(fd, text, len) != (ssize_t)len)
		rc = vdpa_error(errno, "%s: %s", path, strerror(errno));
	close(fd);
	return rc;
}

static int
bind_to(const char *name, const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = print(path, sizeof(path), "%s/bus/vdpa/drivers/%s/bind", sys_root, driver);

	return rc == 0 ? write_file(path, name) : rc;
}

/* What the override says, "" for nothing; -ENOENT: the kernel has none. */
static int
read_override(const char *name, char *buf, size_t size)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = device_path(name, "/driver_override", path, sizeof(path)), fd;
	ssize_t n;

	if (rc < 0)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	if (strcmp(buf, "(null)") == 0)
		buf[0] = '\0';
	return 0;
}

static int
write_override(const char *name, const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = device_path(name, "/driver_override", path, sizeof(path));

	/* A line without a driver clears it. */
	return rc == 0 ? write_file(path, driver[0] != '\0' ? driver : "\n") : rc;
}

/* The kernel unbinds a device that a process holds when that lets it go, and waits until then. */
static int
check_not_held(const char *name)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = find_char(name, path, sizeof(path)), fd;

	if (rc != 1)
		return rc;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 && errno == EBUSY)
		return vdpa_error(EBUSY, "vDPA device '%s': a process has %s open", name, path);
	if (fd >= 0)
		close(fd);
	return 0;
}

static int
unbind(const char *name, const char *driver)
{
	char path[VDPA_BUS_PATH_MAX];
	int rc = strcmp(driver, VHOST_VDPA) == 0 ? check_not_held(name) : 0;

	if (rc == 0)
		rc = device_path(name, "/driver/unbind", path, sizeof(path));
	return rc == 0 ? write_file(path, name) : rc;
}

int
vdpa_bus_bind(const char *name, const char *driver)
{
	char had[VDPA_BUS_NAME_MAX], override[VDPA_BUS_NAME_MAX] = "", path[VDPA_BUS_PATH_MAX];
	bool overrides;
	int rc = check_name("driver", driver);

	if (rc == 0)
		rc = vdpa_bus_driver(name, had, sizeof(had));
	if (rc < 0 || strcmp(had, driver) == 0)
		return rc;
	rc = print(path, sizeof(path), "%s/bus/vdpa/drivers/%s", sys_root, driver);
	if (rc < 0)
		return rc;
	if (access(path, F_OK) < 0)
		return vdpa_error(ENOENT, "the kernel has no driver %s: modprobe %s", driver,
				  driver);
	overrides = read_override(name, override, sizeof(override)) == 0 && override[0] != '\0' &&
		    strcmp(override, driver) != 0;
	if (had[0] != '\0')
		rc = unbind(name, had);
	if (rc < 0)
		return rc;
	if (overrides)
		rc = write_override(name, driver);
	if (rc == 0)
		rc = bind_to(name, driver);
	if (rc < 0) {
		char why[256];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		if (overrides)
			(void)write_override(name, override);
		if (had[0] != '\0')
			(void)bind_to(name, had);
		rc = vdpa_error(rc, "vDPA device '%s' does not come to %s: %s", name, driver, why);
	}
	return rc;
}

int
vdpa_bus_each_name(int (*fn)(const char *name, void *arg), void *arg)
{
	char path[VDPA_BUS_PATH_MAX];
	struct dirent *e;
	DIR *dir;
	int rc = print(path, sizeof(path), "%s/bus/vdpa/devices", sys_root);

	if (rc < 0)
		return rc;
	dir = opendir(path);
	if (dir == NULL)
		return vdpa_error(ENODEV, "the kernel has no vDPA bus: modprobe vdpa");
	while (rc == 0 && (e = readdir(dir)) != NULL)
		if (e->d_name[0] != '.')
			rc = fn(e->d_name, arg);
	closedir(dir);
	return rc;
}
