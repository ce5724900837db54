/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a device has in the file system beside its socket, each by a word of its own: the folder of
 * the socket, the SELinux label of both, and the device-info file of the Kubernetes Network
 * Plumbing Working Group's specification 1.1.0. Owns what it created, and removes nothing else.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <jansson.h>
#include <linux/magic.h>

#include "listen.h"
#include "restart.h"
#include "tree.h"
#include "vdpa_log.h"
#include "vhost_user_files.h"
#include "vhost_user_priv.h"

#define SELINUXFS "/sys/fs/selinux"
/* Of the calling thread alone. */
#define FSCREATE  "/proc/thread-self/attr/fscreate"

#define INFO_VERSION  "1.1.0"
/* Pod sandboxes and CNI plugins of any user read it; it holds a path and no secret. */
#define INFO_MODE     0644
/* A device-info file has some hundred bytes: a longer file is something else. */
#define INFO_SIZE_MAX 65536

/* A folder that devices' words take for their sockets. */
struct vhu_folder {
	char *path;
	unsigned int devices;
	bool made; /* by this process or one before, so it is removed */
	bool left; /* a device that was left to another process has it */
};

static int
compare_folders(const void *a, const void *b)
{
	return strcmp(((const struct vhu_folder *)a)->path, ((const struct vhu_folder *)b)->path);
}

/* Held until a new folder has its permissions, and until one that nobody has any more is gone. */
static pthread_mutex_t folder_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vdpa_tree folders = {.compare = compare_folders};

int
vdpa_vhu_label_check(const char *label)
{
	struct statfs fs;

	if (statfs(SELINUXFS, &fs) == 0 && fs.f_type == SELINUX_MAGIC)
		return 0;
	return vdpa_error(EOPNOTSUPP,
			  "label '%s': this machine runs without SELinux (%s is not mounted): "
			  "leave the word out",
			  label, SELINUXFS);
}

/* An empty text is the policy's own choice again. */
static int
set_fscreate(const char *label)
{
	int fd = open(FSCREATE, O_WRONLY | O_CLOEXEC);
	ssize_t n;
	int err;

	if (fd < 0)
		return -errno;
	n = write(fd, label, strlen(label));
	err = n < 0 ? errno : 0;
	close(fd);
	return -err;
}

int
vdpa_vhu_label_begin(const char *label)
{
	int rc = label != NULL ? set_fscreate(label) : 0;

	if (rc < 0)
		return vdpa_error(rc,
				  "label '%s': SELinux refuses it: %s; the policy must know the "
				  "context and let this process create files with it",
				  label, strerror(-rc));
	return 0;
}

void
vdpa_vhu_label_end(const char *label)
{
	if (label != NULL && set_fscreate("") < 0)
		VDPA_LOG(ERR, "label '%s': cannot be taken back from the thread: %m", label);
}

/* The folder of the socket, which the caller frees; NULL: out of memory. */
static char *
folder_of(const char *path)
{
	const char *slash = strrchr(path, '/');

	if (slash == NULL)
		return strdup(".");
	/* A name that ends with a slash is followed where it is a symbolic link. */
	while (slash > path && slash[-1] == '/')
		slash--;
	return slash == path ? strdup("/") : strndup(path, (size_t)(slash - path));
}

/* One that is there already: what it is must be what the words say. */
static int
folder_accept(const struct vhu_device *dev, const char *folder)
{
	struct stat st;

	if (lstat(folder, &st) < 0)
		return vdpa_error(errno, "folder '%s': %m", folder);
	if (!S_ISDIR(st.st_mode))
		return vdpa_error(EEXIST, "folder '%s': something that is no folder is there",
				  folder);
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return vdpa_error(EEXIST,
				  "folder '%s': is there and user %u's: remove it, or leave the "
				  "word folder out",
				  folder, (unsigned int)st.st_uid);
	if ((st.st_mode & 0777) != dev->files.folder_mode)
		return vdpa_error(EEXIST,
				  "folder '%s': is there with mode %04o, not %04o: change it, "
				  "remove it, or leave the word folder out",
				  folder, st.st_mode & 0777, dev->files.folder_mode);
	if (dev->group != (gid_t)-1 && st.st_gid != dev->group)
		return vdpa_error(EEXIST,
				  "folder '%s': is there and group %u's, not group %u's: change "
				  "it, remove it, or leave the word folder out",
				  folder, (unsigned int)st.st_gid, (unsigned int)dev->group);
	return 0;
}

/* The new folder's group and mode. Who may write to the one above it may have put something else
 * there since mkdir(2): what is changed is what the descriptor is of. */
static int
folder_set_permissions(const struct vhu_device *dev, const char *folder, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return vdpa_error(errno, "folder '%s': %m", folder);
	if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0077) != 0)
		return vdpa_error(EPERM,
				  "folder '%s': somebody who may write to the folder above it has "
				  "put something else in its place",
				  folder);
	if (dev->group != (gid_t)-1 && fchownat(fd, "", (uid_t)-1, dev->group, AT_EMPTY_PATH) < 0)
		return vdpa_error(errno,
				  "folder '%s': group: %m; the process must be root, or a member "
				  "of the group",
				  folder);
	return vdpa_listen_chmod(fd, dev->files.folder_mode, "folder", folder);
}

/* Never open to more users than asked for, not for a moment. */
static int
folder_create(const struct vhu_device *dev, const char *folder, bool *made)
{
	int rc, err, fd;

	rc = vdpa_vhu_label_begin(dev->files.label);
	if (rc < 0)
		return rc;
	err = mkdir(folder, dev->files.folder_mode & 0700) < 0 ? errno : 0;
	vdpa_vhu_label_end(dev->files.label);
	if (err == EEXIST)
		return folder_accept(dev, folder);
	if (err != 0)
		return vdpa_error(err,
				  "folder '%s': %s: the folder above it must be there, and "
				  "user %u may write to it",
				  folder, strerror(err), (unsigned int)geteuid());
	fd = open(folder, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	rc = fd < 0 ? vdpa_error(errno, "folder '%s': %m", folder)
		    : folder_set_permissions(dev, folder, fd);
	if (fd >= 0)
		close(fd);
	if (rc < 0)
		rmdir(folder);
	else
		*made = true;
	return rc;
}

/* From here to vdpa_vhu_folder_make(): under the lock. */

static void
folder_free(struct vhu_folder *f)
{
	vdpa_tree_del(&folders, f);
	free(f->path);
	free(f);
}

/* Takes over the path. */
static struct vhu_folder *
folder_get(char *path)
{
	struct vhu_folder *f = vdpa_tree_find(&folders, &(struct vhu_folder){.path = path});

	if (f != NULL) {
		free(path);
		return f;
	}
	f = calloc(1, sizeof(*f));
	if (f != NULL)
		f->path = path;
	if (f == NULL || vdpa_tree_add(&folders, f) < 0) {
		free(path);
		free(f);
		return NULL;
	}
	return f;
}

static int
folder_take(struct vhu_device *dev, char *path)
{
	struct vhu_folder *f = folder_get(path);
	int rc;

	if (f == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* Somebody may have removed it under those that have it. */
	rc = folder_create(dev, f->path, &f->made);
	if (rc == 0) {
		f->made |= dev->files.folder_was_made;
		f->devices++;
		dev->files.folder = f;
	} else if (f->devices == 0) {
		folder_free(f);
	}
	return rc;
}

int
vdpa_vhu_folder_make(struct vhu_device *dev)
{
	char *folder;
	int rc;

	if (!dev->files.with_folder)
		return 0;
	folder = folder_of(dev->path);
	if (folder == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	pthread_mutex_lock(&folder_lock);
	rc = folder_take(dev, folder);
	pthread_mutex_unlock(&folder_lock);
	return rc;
}

bool
vdpa_vhu_folder_is_made(const struct vhu_device *dev)
{
	bool made;

	if (dev->files.folder == NULL)
		return false;
	pthread_mutex_lock(&folder_lock);
	made = dev->files.folder->made;
	pthread_mutex_unlock(&folder_lock);
	return made;
}

void
vdpa_vhu_folder_remove(struct vhu_device *dev)
{
	struct vhu_folder *f = dev->files.folder;

	if (f == NULL)
		return;
	dev->files.folder = NULL;
	pthread_mutex_lock(&folder_lock);
	f->left |= vdpa_vhu_kept_leaves(dev);
	if (--f->devices == 0) {
		bool others = f->left || vdpa_restart_holds();

		if (f->made && !others && rmdir(f->path) < 0 && errno != ENOTEMPTY &&
		    errno != ENOENT)
			VDPA_LOG(WARNING, "%s: folder '%s' is left: %m", dev->vdev->name, f->path);
		folder_free(f);
	}
	pthread_mutex_unlock(&folder_lock);
}

/*
 * The mode is the application's there, not ours: "client" where the host creates the socket file,
 * "server" where the application in the container does.
 */
static char *
info_text(const struct vhu_device *dev)
{
	json_t *root = json_pack("{s:s, s:s, s:{s:s, s:s}}", "type", "vhost-user", "version",
				 INFO_VERSION, "vhost-user", "mode",
				 dev->client ? "server" : "client", "path", dev->path);
	char *text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;

	json_decref(root);
	return text;
}

/* All of a file; NULL: it is longer than one of ours. It may grow under the reader, without end. */
static json_t *
info_load(int fd)
{
	char *text = malloc(INFO_SIZE_MAX + 1);
	json_t *root = NULL;
	size_t len = 0;
	ssize_t n = 1;

	while (text != NULL && n != 0 && len <= INFO_SIZE_MAX) {
		n = read(fd, text + len, INFO_SIZE_MAX + 1 - len);
		if (n < 0 && errno != EINTR)
			break;
		len += n > 0 ? (size_t)n : 0;
	}
	if (n == 0)
		root = json_loadb(text, len, 0, NULL);
	free(text);
	return root;
}

/* A file that may be one of ours, as an object; NULL: it is something else, or not there, which
 * errno says. */
static json_t *
info_read(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	json_t *root = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		root = info_load(fd);
	close(fd);
	errno = 0;
	return root;
}

/* What is at the path may be overwritten if it is such a file, as a process that was killed leaves
 * one. */
static int
info_may_replace(const char *path)
{
	json_t *root = info_read(path);
	bool absent = root == NULL && errno == ENOENT;
	const char *type = json_string_value(json_object_get(root, "type"));
	bool ours = type != NULL && strcmp(type, "vhost-user") == 0;

	json_decref(root);
	if (absent || ours)
		return 0;
	return vdpa_error(EEXIST,
			  "device_info '%s': a file that is no device-info file of a vhost-user "
			  "socket is there",
			  path);
}

static int
write_all(int fd, const char *text, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return 0;
}

/* A new file of that name, with its text; another that reads it sees all of it or none. */
static int
info_create(struct vhu_device *dev, const char *text, char *temporary)
{
	int fd, rc;

	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = write_all(fd, text, strlen(text));
	if (rc == 0 && fchmod(fd, INFO_MODE) < 0)
		rc = -errno;
	/* A file system that is full says so at the latest here. */
	if (close(fd) < 0 && rc == 0)
		rc = -errno;
	if (rc == 0 && rename(temporary, dev->files.info) < 0)
		rc = -errno;
	if (rc < 0)
		unlink(temporary);
	return rc;
}

int
vdpa_vhu_info_write(struct vhu_device *dev)
{
	const char *path = dev->files.info;
	char *text, *temporary;
	int rc;

	if (path == NULL)
		return 0;
	rc = info_may_replace(path);
	if (rc < 0)
		return rc;
	text = info_text(dev);
	if (text == NULL || asprintf(&temporary, "%s.XXXXXX", path) < 0) {
		free(text);
		return vdpa_error(ENOMEM, "out of memory");
	}
	rc = info_create(dev, text, temporary);
	free(temporary);
	if (rc < 0) {
		free(text);
		return vdpa_error(rc, "device_info '%s': %s", path, strerror(-rc));
	}
	dev->files.info_text = text;
	return 0;
}

void
vdpa_vhu_info_remove(struct vhu_device *dev)
{
	struct vhu_files *files = &dev->files;
	json_t *there, *ours;

	if (files->info_text == NULL)
		return;
	/* One that says the same speaks of this socket, whoever has put it there. */
	there = info_read(files->info);
	ours = json_loads(files->info_text, 0, NULL);
	if (there != NULL && ours != NULL && json_equal(there, ours) && unlink(files->info) < 0)
		VDPA_LOG(WARNING, "%s: device_info '%s' is left: %m", dev->vdev->name, files->info);
	json_decref(there);
	json_decref(ours);
	free(files->info_text);
	files->info_text = NULL;
}

void
vdpa_vhu_files_free(struct vhu_files *files)
{
	free(files->label);
	free(files->info);
	free(files->info_text);
}
