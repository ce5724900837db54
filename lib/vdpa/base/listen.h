/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A UNIX socket that listens at a path, of streams or packets: what a dead process left there is
 * replaced, what somebody listens on is not, and nobody can connect before its permissions are set.
 */

#ifndef LISTEN_H
#define LISTEN_H

#include <stdbool.h>
#include <sys/types.h>
#include <sys/un.h>

/* A socket of ours. fd is the caller's to close, after vdpa_listen_unlink(). */
struct vdpa_listen {
	int fd;
	bool adopted; /* another process has made it */
	dev_t dev;    /* of its file */
	ino_t ino;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
};

/*
 * The path of a socket that a word of dev add gives, from the root: a relative one is one of the
 * folder that the process is in now, and stays that wherever the process goes. It is what is shown,
 * compared with other devices' and removed. *path is the caller's to free. Returns 0, or a negative
 * errno with a message that names the word: -ENAMETOOLONG where the whole path does not fit a
 * socket's address, -ENOMEM, or what getcwd(3) says. From any thread.
 */
int vdpa_socket_path(const char *word, const char *given, char **path);

/*
 * Listen at a path whose folder exists, by a descriptor that does not block.
 *
 * mode: permissions of the file, whatever umask(2) is. group: its group; (gid_t)-1: the process's.
 * backlog: as of listen(2). Returns 0, or a negative errno with a message that names the path and
 * what mends it: -ENAMETOOLONG, -EEXIST for a file that is no socket, -EADDRINUSE for a socket that
 * somebody listens on, -EPERM where somebody has put another file in its place meanwhile, -ENOSYS
 * where a mode other than 0600 needs /proc and that is not mounted, or what bind(2), chown(2),
 * chmod(2) say. On failure nothing of ours is left. From any thread; two of our processes that do
 * this in one folder do it one after the other, but a process waits a second for that only once.
 */
int vdpa_listen_open(struct vdpa_listen *l, const char *path, mode_t mode, gid_t group,
		     int backlog);

/*
 * Go on with a socket that another process has made at the path, whose file is dev and ino: l->fd
 * is fd then. mode, group: as of vdpa_listen_open(). -EPROTO for one that does not listen there,
 * -ENOENT where its file is not there any more, or as vdpa_listen_open(); fd is still the caller's.
 */
int vdpa_listen_adopt(struct vdpa_listen *l, int fd, dev_t dev, ino_t ino, const char *path,
		      mode_t mode, gid_t group);

/* The same for a socket of sequenced packets; its group is the process's. */
int vdpa_listen_open_packets(struct vdpa_listen *l, const char *path, mode_t mode, int backlog);

/*
 * chmod(2) of what a descriptor is of that was opened with O_PATH: nobody can swap it for another
 * file. what, path: for the message, "socket" and its path. Returns 0, or a negative errno with a
 * message: -ENOSYS where /proc is not mounted, or what chmod(2) says.
 */
int vdpa_listen_chmod(int fd, mode_t mode, const char *what, const char *path);

/* Remove its file, if that is still the one that was made. */
void vdpa_listen_unlink(const struct vdpa_listen *l);

#endif /* LISTEN_H */
