/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The socket of a device where rte_vhost, which owns it, does not do what we need: a path that is
 * taken over or refused, permissions that are never too wide, and time-outs on its connections.
 *
 * rte_vhost has one thread for all sockets, so a front end that stops in the middle of a message
 * would stop everybody's: every connection gets a time-out for reads and writes.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_vhost.h>

#include "vhost_user_priv.h"

/* How long one message may keep the shared thread waiting for its rest or for room to reply. */
#define MESSAGE_TIMEOUT_MS 100

/*
 * Whether fd is a connection of this device's socket that has no session yet. A front end may have
 * sent us a socket bound to the same path elsewhere: like every descriptor that it sends, and
 * unlike what rte_vhost has accepted, that one is closed on exec.
 */
static bool
is_new_connection(const struct vhu_device *dev, int fd,
		  bool (*is_known)(const struct vhu_device *dev, int fd))
{
	struct sockaddr_un un = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(un);
	int listening = 0, flags, rc;

	flags = fcntl(fd, F_GETFD);
	if (flags < 0 || (flags & FD_CLOEXEC) != 0)
		return false;
	rc = dev->client ? getpeername(fd, (struct sockaddr *)&un, &len)
			 : getsockname(fd, (struct sockaddr *)&un, &len);
	if (rc < 0 || un.sun_family != AF_UNIX || len <= offsetof(struct sockaddr_un, sun_path) ||
	    strncmp(un.sun_path, dev->path, sizeof(un.sun_path)) != 0)
		return false;
	len = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || listening)
		return false;
	return !is_known(dev, fd);
}

int
vdpa_vhu_socket_claim(const struct vhu_device *dev,
		      bool (*is_known)(const struct vhu_device *dev, int fd))
{
	const struct timeval timeout = {.tv_usec = MESSAGE_TIMEOUT_MS * 1000};
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	int claimed = -1;

	if (dir == NULL)
		return -1;
	while (claimed < 0 && (entry = readdir(dir)) != NULL) {
		char *end;
		long fd = strtol(entry->d_name, &end, 10);

		if (*end != '\0' || end == entry->d_name ||
		    !is_new_connection(dev, (int)fd, is_known))
			continue;
		if (setsockopt((int)fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)) < 0 ||
		    setsockopt((int)fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout)) < 0 ||
		    fcntl((int)fd, F_SETFD, FD_CLOEXEC) < 0)
			break;
		claimed = fcntl((int)fd, F_DUPFD_CLOEXEC, 0);
	}
	closedir(dir);
	return claimed;
}

int
vdpa_vhu_socket_clear(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct stat st;
	int fd, rc;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : vdpa_error(errno, "socket '%s': %m", path);
	if (!S_ISSOCK(st.st_mode))
		return vdpa_error(EEXIST, "socket '%s': a file that is no socket is there", path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return vdpa_error(errno, "socket '%s': %m", path);
	memcpy(un.sun_path, path, strlen(path) + 1);
	rc = connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0 ? errno : 0;
	close(fd);
	if (rc != ECONNREFUSED)
		return vdpa_error(EADDRINUSE, "socket '%s': is in use by another process", path);
	if (unlink(path) < 0)
		return vdpa_error(errno, "socket '%s': a stale one cannot be removed: %m", path);
	return 0;
}

struct start_job {
	const char *path;
	mode_t mask;
	int rc;
};

/*
 * rte_vhost binds in rte_vhost_driver_start(), and a socket must not be open to more users than
 * asked for, not for a moment. umask() is the whole process', but for a thread that has left its
 * shared file system attributes: so the start has a thread of its own.
 */
static void *
start_thread(void *arg)
{
	struct start_job *job = arg;
	mode_t old = 0;
	bool own = unshare(CLONE_FS) == 0;

	/* Where that is forbidden (some containers): the whole process', which can only narrow what
	 * another thread creates meanwhile. */
	old = umask(job->mask);
	job->rc = rte_vhost_driver_start(job->path);
	if (!own)
		umask(old);
	return NULL;
}

int
vdpa_vhu_socket_start(const struct vhu_device *dev)
{
	struct start_job job = {.path = dev->path, .mask = 0777 & ~(dev->mode & 0600)};
	const char *path = dev->path;
	pthread_t thread;
	int rc;

	rc = pthread_create(&thread, NULL, start_thread, &job);
	if (rc != 0)
		return vdpa_error(rc, "socket '%s': thread: %s", path, strerror(rc));
	pthread_join(thread, NULL);
	if (job.rc < 0)
		return vdpa_error(EIO, "socket '%s': cannot be %s", path,
				  dev->client ? "connected" : "created; is its folder writable?");
	if (!dev->client && dev->group != (gid_t)-1 && lchown(path, (uid_t)-1, dev->group) < 0)
		return vdpa_error(errno, "socket '%s': group: %m", path);
	if (!dev->client && (dev->mode & 0600) != dev->mode && chmod(path, dev->mode) < 0)
		return vdpa_error(errno, "socket '%s': mode: %m", path);
	return 0;
}
