/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* UNIX sockets that listen at a path. Owns nothing: the descriptor and the file are the caller's.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "listen.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* Who else makes a socket in the folder is waited for so long, once in the life of the process: it
 * may be somebody who holds the lock for another reason, as each may who can read the folder. */
#define LOCK_TRIES 100
#define LOCK_US	   10000

static bool lock_timed_out;

/* The folder of a path: "%.*s" of it. */
static int
folder_of(const char *path, const char **folder)
{
	const char *slash = strrchr(path, '/');

	*folder = slash == NULL ? "." : path;
	return slash == NULL || slash == path ? 1 : (int)(slash - path);
}

/* Between the look at a stale socket and the new one's listen(2) nobody of ours may look. A
 * descriptor that holds the lock, or -1 where there is none to be had. */
static int
lock_folder(const char *path)
{
	char name[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	const char *folder;
	int len = folder_of(path, &folder), fd;
	unsigned int tries = __atomic_load_n(&lock_timed_out, __ATOMIC_RELAXED) ? 1 : LOCK_TRIES;

	snprintf(name, sizeof(name), "%.*s", len, folder);
	fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	while (flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK && --tries > 0)
		usleep(LOCK_US);
	if (tries == 0 && !__atomic_exchange_n(&lock_timed_out, true, __ATOMIC_RELAXED))
		VDPA_LOG(WARNING,
			 "folder '%s': another process keeps a lock on it: no socket waits for one "
			 "any more",
			 name);
	return fd;
}

/* Remove what an earlier process left at the path; refuse everything else. */
static int
clear_path(const char *path, const struct sockaddr_un *un)
{
	struct stat st;
	int fd, err;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : vdpa_error(errno, "socket '%s': %m", path);
	if (!S_ISSOCK(st.st_mode))
		return vdpa_error(EEXIST, "socket '%s': a file that is no socket is there", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return vdpa_error(errno, "socket '%s': %m", path);
	err = connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0 ? errno : 0;
	close(fd);
	if (err != ECONNREFUSED)
		return vdpa_error(EADDRINUSE, "socket '%s': is in use by another process", path);
	if (unlink(path) < 0)
		return vdpa_error(errno, "socket '%s': a stale one cannot be removed: %m", path);
	return 0;
}

static int
bind_failed(const char *path, int err)
{
	const char *folder;
	int len = folder_of(path, &folder);

	if (err == ENOENT)
		return vdpa_error(err, "socket '%s': there is no folder %.*s: mkdir -p %.*s", path,
				  len, folder, len, folder);
	if (err == EACCES || err == EPERM || err == EROFS)
		return vdpa_error(err,
				  "socket '%s': %s: user %u may not create it in %.*s; see "
				  "ls -ld %.*s",
				  path, strerror(err), (unsigned int)geteuid(), len, folder, len,
				  folder);
	return vdpa_error(err, "socket '%s': %s", path, strerror(err));
}

int
vdpa_listen_chmod(int fd, mode_t mode, const char *what, const char *path)
{
	char link[sizeof("/proc/self/fd/") + 10];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (chmod(link, mode) == 0)
		return 0;
	/* The descriptor is open: nothing but /proc can be missing. */
	if (errno == ENOENT || errno == ENOTDIR)
		return vdpa_error(ENOSYS, "%s '%s': mode: it is set by /proc, which is not mounted",
				  what, path);
	return vdpa_error(errno, "%s '%s': mode: %m", what, path);
}

/* Who may write the folder may have put another file there since bind(2): what is changed is what
 * the descriptor is of, and that must be a socket such as was made. */
static int
set_permissions_of(struct vdpa_listen *l, int fd, mode_t mode, gid_t group)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return vdpa_error(errno, "socket '%s': %m", l->path);
	if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0177) != 0)
		return vdpa_error(EPERM,
				  "socket '%s': somebody who may write to the folder has put "
				  "another file in its place",
				  l->path);
	l->dev = st.st_dev;
	l->ino = st.st_ino;
	if (group != (gid_t)-1 && fchownat(fd, "", (uid_t)-1, group, AT_EMPTY_PATH) < 0)
		return vdpa_error(errno,
				  "socket '%s': group: %m; the process must be root, or a member "
				  "of the group",
				  l->path);
	if ((st.st_mode & 0777) == mode)
		return 0;
	return vdpa_listen_chmod(fd, mode, "socket", l->path);
}

/* The file is there, and nobody can connect yet. */
static int
set_permissions(struct vdpa_listen *l, mode_t mode, gid_t group)
{
	int fd = open(l->path, O_PATH | O_NOFOLLOW | O_CLOEXEC), rc;
	struct stat st;

	if (fd < 0) {
		rc = vdpa_error(errno, "socket '%s': %m", l->path);
		/* No descriptor is left: the file is removed by its name alone. */
		if (lstat(l->path, &st) == 0 && S_ISSOCK(st.st_mode) && st.st_uid == geteuid()) {
			l->dev = st.st_dev;
			l->ino = st.st_ino;
		}
		return rc;
	}
	rc = set_permissions_of(l, fd, mode, group);
	close(fd);
	return rc;
}

/*
 * A socket must not be open to more users than asked for, not for a moment, and umask() is the
 * whole process': so the mode is the socket's before it has a name, which Linux makes the file's.
 */
static int
listen_at(struct vdpa_listen *l, const struct sockaddr_un *un, int type, mode_t mode, gid_t group,
	  int backlog)
{
	int rc = clear_path(l->path, un);

	if (rc < 0)
		return rc;
	l->fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return vdpa_error(errno, "socket '%s': %m", l->path);
	if (fchmod(l->fd, mode & 0600) < 0 ||
	    bind(l->fd, (const struct sockaddr *)un, sizeof(*un)) < 0) {
		rc = bind_failed(l->path, errno);
		goto err_close;
	}
	rc = set_permissions(l, mode, group);
	if (rc == 0 && listen(l->fd, backlog) < 0)
		rc = vdpa_error(errno, "socket '%s': %m", l->path);
	if (rc == 0)
		return 0;
	vdpa_listen_unlink(l);
err_close:
	close(l->fd);
	l->fd = -1;
	return rc;
}

int
vdpa_socket_path(const char *word, const char *given, char **path)
{
	const size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	char *folder = given[0] == '/' ? NULL : getcwd(NULL, 0);
	int len;

	*path = NULL;
	if (given[0] != '/' && folder == NULL)
		return vdpa_error(errno, "%s '%s': the folder that it is in: %m", word, given);
	len = folder != NULL
		      ? asprintf(path, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder, given)
		      : asprintf(path, "%s", given);
	free(folder);
	if (len < 0) {
		*path = NULL;
		return vdpa_error(ENOMEM, "out of memory");
	}
	if ((size_t)len <= max)
		return 0;
	vdpa_error(ENAMETOOLONG,
		   "%s '%s': is a path of %d characters from the root, allowed are %zu", word,
		   given, len, max);
	free(*path);
	*path = NULL;
	return -ENAMETOOLONG;
}

static int
listen_open(struct vdpa_listen *l, const char *path, int type, mode_t mode, gid_t group,
	    int backlog)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	int lock, rc;

	*l = (struct vdpa_listen){.fd = -1};
	if (len == 0 || len >= sizeof(un.sun_path))
		return vdpa_error(ENAMETOOLONG,
				  "socket '%.128s': allowed are paths of 1 to %zu characters", path,
				  sizeof(un.sun_path) - 1);
	memcpy(l->path, path, len + 1);
	memcpy(un.sun_path, path, len + 1);
	lock = lock_folder(path);
	rc = listen_at(l, &un, type, mode, group, backlog);
	if (lock >= 0)
		close(lock);
	return rc;
}

int
vdpa_listen_open(struct vdpa_listen *l, const char *path, mode_t mode, gid_t group, int backlog)
{
	return listen_open(l, path, SOCK_STREAM, mode, group, backlog);
}

/* By a descriptor of the socket's file, of which the caller knows that it is the one. */
static int
change_permissions(const char *path, dev_t dev, ino_t ino, mode_t mode, gid_t group)
{
	int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), rc = 0;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		rc = vdpa_error(errno, "socket '%s': %m", path);
	else if (!S_ISSOCK(st.st_mode) || st.st_dev != dev || st.st_ino != ino)
		rc = vdpa_error(ENOENT, "socket '%s': somebody has removed or replaced it", path);
	else if (group != (gid_t)-1 && st.st_gid != group &&
		 fchownat(fd, "", (uid_t)-1, group, AT_EMPTY_PATH) < 0)
		rc = vdpa_error(errno, "socket '%s': group: %m", path);
	else if ((st.st_mode & 0777) != mode)
		rc = vdpa_listen_chmod(fd, mode, "socket", path);
	if (fd >= 0)
		close(fd);
	return rc;
}

int
vdpa_listen_adopt(struct vdpa_listen *l, int fd, dev_t dev, ino_t ino, const char *path,
		  mode_t mode, gid_t group)
{
	struct sockaddr_un un = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(un) - 1, optlen = sizeof(int);
	int listens = 0, rc;

	*l = (struct vdpa_listen){.fd = -1};
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &optlen) < 0 || !listens ||
	    getsockname(fd, (struct sockaddr *)&un, &len) < 0 || un.sun_family != AF_UNIX ||
	    strncmp(un.sun_path, path, sizeof(un.sun_path)) != 0)
		return vdpa_error(EPROTO, "socket '%s': what was handed over does not listen there",
				  path);
	rc = change_permissions(path, dev, ino, mode, group);
	if (rc < 0)
		return rc;
	*l = (struct vdpa_listen){.fd = fd, .adopted = true, .dev = dev, .ino = ino};
	snprintf(l->path, sizeof(l->path), "%s", path);
	return 0;
}

int
vdpa_listen_open_packets(struct vdpa_listen *l, const char *path, mode_t mode, int backlog)
{
	return listen_open(l, path, SOCK_SEQPACKET, mode, (gid_t)-1, backlog);
}

void
vdpa_listen_unlink(const struct vdpa_listen *l)
{
	struct stat st;

	/* As long as it is bound, nobody else's file can have its inode. */
	if (lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->ino)
		unlink(l->path);
}
