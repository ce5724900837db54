/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Which process a connection leads to. Owns nothing. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vdpa_peer.h"

/* What the kernel says where a uid has no name in this user namespace (kernel.overflowuid). */
#define OVERFLOW_UID 65534

/* proc(5), /proc/PID/stat: the start time is field 22; the command ends with the second. */
#define STAT_FIELD_STATE 3
#define STAT_FIELD_START 22

/* A file of procfs as text; false where there is none. */
static bool
read_text(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd < 0)
		return false;
	n = read(fd, buf, len - 1);
	close(fd);
	buf[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static uint64_t
start_of(pid_t pid)
{
	char path[32], text[1024], *field;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (pid <= 0 || !read_text(path, text, sizeof(text)))
		return 0;
	/* The command may hold any character. */
	field = strrchr(text, ')');
	for (int i = STAT_FIELD_STATE; field != NULL && i <= STAT_FIELD_START; i++)
		field = strchr(field + 1, ' ');
	return field != NULL ? strtoull(field, NULL, 10) : 0;
}

int
vdpa_peer_of_socket(int fd, struct vdpa_peer *peer)
{
	struct ucred cred = {.pid = 0};
	socklen_t len = sizeof(cred);

	*peer = (struct vdpa_peer){.known = false};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
		return -errno;
	/* A socket that is not connected has no peer. */
	if (len != sizeof(cred) || cred.uid == (uid_t)-1)
		return -ENOTCONN;
	*peer = (struct vdpa_peer){
		.known = true, .uid = cred.uid, .pid = cred.pid, .started = start_of(cred.pid)};
	return 0;
}

void
vdpa_peer_self(struct vdpa_peer *peer)
{
	*peer = (struct vdpa_peer){
		.known = true, .uid = geteuid(), .pid = getpid(), .started = start_of(getpid())};
}

static uid_t
overflow_uid(void)
{
	char text[32];

	if (!read_text("/proc/sys/kernel/overflowuid", text, sizeof(text)))
		return OVERFLOW_UID;
	return (uid_t)strtoul(text, NULL, 10);
}

bool
vdpa_peer_same_user(const struct vdpa_peer *a, const struct vdpa_peer *b)
{
	return a->known && b->known && a->uid == b->uid && a->uid != overflow_uid();
}

bool
vdpa_peer_same_process(const struct vdpa_peer *a, const struct vdpa_peer *b)
{
	return a->known && b->known && a->pid > 0 && a->pid == b->pid && a->started != 0 &&
	       a->started == b->started;
}
