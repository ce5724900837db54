/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * EAL's runtime folder, where DPDK's telemetry has its socket. EAL uses whatever folder is there,
 * whoever made it, so it is made and checked here first. EAL leaves the folder behind, and
 * telemetry removes by atexit(3) whatever lies at the path of its socket: two exit handlers, one on
 * each side of telemetry's, keep what is not ours and remove the folder when it is empty.
 *
 * Every program of ours holds a shared lock on its folder, so that none removes it under another
 * that is about to start.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "runtime_dir.h"

#define SOCKET_NAME "dpdk_telemetry.v2"
/* Times that another program may remove the folder between our mkdir(2) and our lock. */
#define LOCK_TRIES  16

static char missing[256];
static char folder[PATH_MAX];	   /* "": none */
static int folder_fd = -1;	   /* holds the lock */
static char socket_path[PATH_MAX]; /* telemetry's; "": none */
static char kept_path[PATH_MAX];   /* where a stranger at that path waits; "": nowhere */
static struct stat socket_stat;

static int __attribute__((format(printf, 2, 3))) no_folder(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(missing, sizeof(missing), fmt, ap);
	va_end(ap);
	return -err;
}

/* As EAL chooses it. */
static const char *
base_folder(void)
{
	const char *base = getenv("RUNTIME_DIRECTORY");

	if (base != NULL)
		return base;
	if (getuid() == 0)
		return "/var/run";
	base = getenv("XDG_RUNTIME_DIR");
	return base != NULL ? base : "/tmp";
}

/*
 * A folder that others cannot put anything into, or take our own out of. The one that all DPDK
 * programs share may be root's, if it is sticky where everybody may write.
 */
static int
make_folder(const char *path, bool shared)
{
	static const char hint[] = "set XDG_RUNTIME_DIR to a folder of this user's alone";
	struct stat st;

	if ((mkdir(path, 0700) < 0 && errno != EEXIST) || lstat(path, &st) < 0)
		return no_folder(errno, "'%s': %s; %s", path, strerror(errno), hint);
	if (!S_ISDIR(st.st_mode))
		return no_folder(ENOTDIR, "'%s' is no folder; %s", path, hint);
	if (st.st_uid != geteuid() && !(shared && st.st_uid == 0))
		return no_folder(EPERM, "'%s' belongs to user %u; %s", path, st.st_uid, hint);
	if ((st.st_mode & 022) != 0 && !(shared && (st.st_mode & S_ISVTX) != 0))
		return no_folder(EPERM, "others may write to '%s'; chmod go-w, or %s", path, hint);
	return 0;
}

static bool
is_at(const char *path, const struct stat *st)
{
	struct stat now;

	return lstat(path, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino;
}

/*
 * Whoever has the folder to himself finds there what processes have left that were killed. The
 * socket of the usual name is telemetry's to replace; one with a number behind it, as a second
 * process in one folder has, nobody would.
 */
static void
remove_stale(const char *path)
{
	DIR *dir = flock(folder_fd, LOCK_EX | LOCK_NB) == 0 ? opendir(path) : NULL;
	struct dirent *entry;
	struct stat st;

	while (dir != NULL && (entry = readdir(dir)) != NULL)
		if (strncmp(entry->d_name, SOCKET_NAME ":", sizeof(SOCKET_NAME)) == 0 &&
		    fstatat(folder_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISSOCK(st.st_mode))
			unlinkat(folder_fd, entry->d_name, 0);
	if (dir != NULL)
		closedir(dir);
}

static int
lock_folder(const char *path)
{
	struct stat st;
	int fd, rc;

	for (unsigned int i = 0; i < LOCK_TRIES; i++) {
		rc = make_folder(path, false);
		if (rc < 0)
			return rc;
		fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (fd >= 0 && flock(fd, LOCK_SH) == 0 && fstat(fd, &st) == 0 && is_at(path, &st)) {
			folder_fd = fd;
			remove_stale(path);
			/* Without the lock a folder may go that another program is about to use. */
			if (flock(fd, LOCK_SH) == 0 && is_at(path, &st))
				return 0;
			folder_fd = -1;
		}
		if (fd >= 0)
			close(fd);
	}
	return no_folder(EAGAIN, "'%s' cannot be opened", path);
}

/*
 * EAL waits, for ever, for a lock on the folder that excludes all others where it has files of its
 * own in there: it must find none, not even ours. With these files in it the folder stays.
 */
static int
lend_folder(void)
{
	if (flock(folder_fd, LOCK_EX | LOCK_NB) < 0)
		return no_folder(EBUSY, "'%s' is in use by another program; give --file-prefix",
				 folder);
	flock(folder_fd, LOCK_UN);
	return 0;
}

/* Runs before telemetry's: what is not its socket is moved out of its way. */
static void
before_telemetry_ends(void)
{
	if (socket_path[0] == '\0' || is_at(socket_path, &socket_stat))
		return;
	if (snprintf(kept_path, sizeof(kept_path), "%s.kept", socket_path) >=
		    (int)sizeof(kept_path) ||
	    renameat2(AT_FDCWD, socket_path, AT_FDCWD, kept_path, RENAME_NOREPLACE) < 0)
		kept_path[0] = '\0';
}

/* Runs after telemetry's. */
static void
after_telemetry_ended(void)
{
	struct stat st;

	if (kept_path[0] != '\0')
		renameat2(AT_FDCWD, kept_path, AT_FDCWD, socket_path, RENAME_NOREPLACE);
	if (folder_fd >= 0 && flock(folder_fd, LOCK_EX | LOCK_NB) == 0 &&
	    fstat(folder_fd, &st) == 0 && is_at(folder, &st))
		rmdir(folder);
}

int
app_runtime_prepare(const char *prefix, bool files)
{
	char shared[PATH_MAX];
	int rc;

	if (snprintf(shared, sizeof(shared), "%s/dpdk", base_folder()) >= (int)sizeof(shared) ||
	    snprintf(folder, sizeof(folder), "%s/%s", shared, prefix) >= (int)sizeof(folder))
		rc = no_folder(ENAMETOOLONG, "the runtime folder's name is too long");
	else
		rc = make_folder(shared, true);
	if (rc == 0)
		rc = lock_folder(folder);
	if (rc == 0 && files)
		rc = lend_folder();
	if (rc == 0) {
		atexit(after_telemetry_ended);
		return 0;
	}
	folder[0] = '\0';
	/* EAL goes on without one that it cannot make, and would use the one that was refused. */
	setenv("RUNTIME_DIRECTORY", "/dev/null", 1);
	return rc;
}

/* The path of fd, if it is a socket that listens below the folder. */
static bool
is_telemetry(int fd, char *path, size_t size)
{
	struct sockaddr_un un = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(un), n = sizeof(int);
	size_t at = strlen(folder);
	int listening = 0;

	if (getsockname(fd, (struct sockaddr *)&un, &len) < 0 || un.sun_family != AF_UNIX ||
	    len <= offsetof(struct sockaddr_un, sun_path) ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) < 0 || !listening)
		return false;
	snprintf(path, size, "%.*s", (int)sizeof(un.sun_path), un.sun_path);
	return strncmp(path, folder, at) == 0 &&
	       strncmp(path + at, "/" SOCKET_NAME, sizeof("/" SOCKET_NAME) - 1) == 0;
}

void
app_runtime_started(bool wanted)
{
	DIR *dir = folder[0] != '\0' ? opendir("/proc/self/fd") : NULL;
	struct dirent *entry;

	/* Again, where EAL has had it. */
	if (folder_fd >= 0)
		(void)flock(folder_fd, LOCK_SH | LOCK_NB);
	while (dir != NULL && socket_path[0] == '\0' && (entry = readdir(dir)) != NULL) {
		char path[sizeof(((struct sockaddr_un *)NULL)->sun_path) + 1];

		if (is_telemetry(atoi(entry->d_name), path, sizeof(path)) &&
		    lstat(path, &socket_stat) == 0)
			snprintf(socket_path, sizeof(socket_path), "%s", path);
	}
	if (dir != NULL)
		closedir(dir);
	if (socket_path[0] != '\0')
		atexit(before_telemetry_ends);
	else if (missing[0] == '\0')
		no_folder(ENOENT, "DPDK's telemetry has no socket in '%s'", folder);
	if (!wanted)
		missing[0] = '\0';
}

const char *
app_runtime_missing(void)
{
	return missing[0] != '\0' ? missing : NULL;
}
