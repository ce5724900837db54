/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the kernel has made of a device on its vDPA bus, a disk, a netdev or a character device, and
 * who uses that. Keeps nothing.
 */

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel_call.h"
#include "vdpa_bus.h"
#include "vdpa_bus_priv.h"
#include "vdpa_error.h"

#define IFF_UP	  0x1
/* Descriptors of all processes that are looked at for one. */
#define LINKS_MAX 200000

/* The disk or netdev: class is "block" or "net". */
static bool
find_child(const char *name, const char *class, char *buf, size_t len)
{
	char folder[VDPA_BUS_PATH_MAX], virtio[VDPA_BUS_NAME_MAX], file[VDPA_BUS_NAME_MAX + 16];

	if (vdpa_bus_path(name, "", folder, sizeof(folder)) < 0 ||
	    !vdpa_bus_find(folder, "virtio", virtio, sizeof(virtio)))
		return false;
	snprintf(file, sizeof(file), "/%s/%s", virtio, class);
	return vdpa_bus_path(name, file, folder, sizeof(folder)) == 0 &&
	       vdpa_bus_find(folder, "", buf, len);
}

enum vdpa_bus_kind
vdpa_bus_find_node(const char *name, char *buf, size_t len)
{
	char folder[VDPA_BUS_PATH_MAX], child[VDPA_BUS_NAME_MAX];

	buf[0] = '\0';
	if (vdpa_bus_path(name, "", folder, sizeof(folder)) < 0)
		return VDPA_BUS_NOTHING;
	if (vdpa_bus_find(folder, VDPA_BUS_CHAR_PREFIX, child, sizeof(child))) {
		snprintf(buf, len, "%s/%s", vdpa_bus_dev_root, child);
		return VDPA_BUS_CHAR;
	}
	if (find_child(name, "block", child, sizeof(child))) {
		snprintf(buf, len, "%s/%s", vdpa_bus_dev_root, child);
		return VDPA_BUS_DISK;
	}
	if (find_child(name, "net", child, sizeof(child))) {
		snprintf(buf, len, "%s", child);
		return VDPA_BUS_NETDEV;
	}
	return VDPA_BUS_NOTHING;
}

struct opening {
	char path[VDPA_BUS_PATH_MAX];
	int flags;
	bool busy; /* somebody has it open so that nobody else can */
};

static int
try_open(void *arg)
{
	struct opening *o = arg;
	int fd = open(o->path, o->flags | O_CLOEXEC | O_NONBLOCK);

	o->busy = fd < 0 && errno == EBUSY;
	if (fd >= 0)
		close(fd);
	return 0;
}

static int
is_open(const char *name, const char *path, int flags, bool *busy)
{
	struct opening o = {.flags = flags};
	int rc;

	snprintf(o.path, sizeof(o.path), "%s", path);
	rc = vdpa_kernel_call(name, "open", try_open, &o, sizeof(o));
	*busy = o.busy;
	return rc;
}

static bool
is_up(const char *netdev)
{
	char path[VDPA_BUS_PATH_MAX];
	unsigned int flags = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/class/net/%.64s/flags", vdpa_bus_sys_root, netdev);
	f = fopen(path, "re");
	if (f == NULL)
		return false;
	if (fscanf(f, "%x", &flags) != 1)
		flags = 0;
	fclose(f);
	return (flags & IFF_UP) != 0;
}

/* Whether a process has the file open. *left: descriptors that may still be looked at. */
static bool
has_open(const char *pid, const char *path, unsigned int *left)
{
	char folder[64], target[VDPA_BUS_PATH_MAX];
	bool found = false;
	struct dirent *e;
	DIR *dir;

	snprintf(folder, sizeof(folder), "/proc/%.20s/fd", pid);
	dir = opendir(folder);
	while (dir != NULL && !found && *left > 0 && (e = readdir(dir)) != NULL) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);

		(*left)--;
		target[n > 0 ? n : 0] = '\0';
		found = strcmp(target, path) == 0;
	}
	if (dir != NULL)
		closedir(dir);
	return found;
}

/* A process calls itself what it likes. */
static void
print_process(const char *pid, char *buf, size_t len)
{
	char path[64], comm[17] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/comm", pid);
	f = fopen(path, "re");
	if (f != NULL) {
		size_t n = fread(comm, 1, sizeof(comm) - 1, f);

		fclose(f);
		comm[n] = '\0';
		comm[strcspn(comm, "\n")] = '\0';
	}
	for (char *p = comm; *p != '\0'; p++)
		if (!isalnum((unsigned char)*p) && strchr("._-:/", *p) == NULL)
			*p = '?';
	snprintf(buf, len, "process %.20s (%s)", pid, comm);
}

void
vdpa_bus_opener(const char *path, char *buf, size_t len)
{
	unsigned int left = LINKS_MAX;
	DIR *dir = opendir("/proc");
	char self[24];
	struct dirent *e;

	snprintf(buf, len, "another process");
	snprintf(self, sizeof(self), "%d", (int)getpid());
	while (dir != NULL && left > 0 && (e = readdir(dir)) != NULL) {
		if (!isdigit((unsigned char)e->d_name[0]) || strcmp(e->d_name, self) == 0 ||
		    !has_open(e->d_name, path, &left))
			continue;
		print_process(e->d_name, buf, len);
		break;
	}
	if (dir != NULL)
		closedir(dir);
}

int
vdpa_bus_check_unused(const char *name, bool up)
{
	char node[VDPA_BUS_PATH_MAX], user[64];
	enum vdpa_bus_kind kind = vdpa_bus_find_node(name, node, sizeof(node));
	bool busy = false;
	int rc = 0;

	if (kind == VDPA_BUS_CHAR)
		rc = is_open(name, node, O_RDWR, &busy);
	else if (kind == VDPA_BUS_DISK)
		rc = is_open(name, node, O_RDONLY | O_EXCL, &busy);
	if (kind == VDPA_BUS_NETDEV && up && is_up(node))
		return vdpa_error(EBUSY, "%s: netdev %s is up: ip link set %s down", name, node,
				  node);
	if (rc < 0 || !busy)
		return rc;
	vdpa_bus_opener(node, user, sizeof(user));
	if (kind == VDPA_BUS_CHAR)
		return vdpa_error(EBUSY, "%s: %s is open in %s", name, node, user);
	return vdpa_error(EBUSY, "%s: %s is in use (mounted?): umount it, or end what uses it",
			  name, node);
}
