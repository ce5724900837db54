/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The store that is a vdpa-keeper (keeper_proto.h). Owns the connection. Each request is answered
 * before the next is sent, so what put() returned for has arrived.
 */

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "clock.h"
#include "fd_message.h"
#include "keep_priv.h"
#include "keeper_proto.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_peer.h"

/* Between two looks at a keeper that serves another process, which may just be ending. */
#define BUSY_US	      20000
/* Names of a list, and how long all its answers may take: more than any keeper of ours has or needs
 * (its --max). */
#define NAMES_MAX     1000000
#define LIST_PATIENCE 30000 /* ms */

struct keeper {
	int fd;
	uint32_t id;
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
};

static int
unreached(const struct keeper *s, int err, const char *what)
{
	return vdpa_error(err, "keeper '%s': %s", s->path, what);
}

/* Wait for events until the deadline. */
static int
wait_for(const struct keeper *s, short events, int64_t deadline_us)
{
	struct pollfd p = {.fd = s->fd, .events = events};
	int64_t left_us;
	int rc;

	do {
		left_us = deadline_us - vdpa_now_us();
		rc = poll(&p, 1, left_us > 0 ? (int)((left_us + 999) / 1000) : 0);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return unreached(s, EPIPE, strerror(errno));
	return rc > 0 ? 0 : unreached(s, ETIMEDOUT, "does not answer");
}

/*
 * Receive a message, and what is behind it: at most size bytes, *len of them. *fd: the descriptor
 * that came with it, else -1.
 */
static int
receive(struct keeper *s, struct keeper_msg *msg, char *more, size_t size, size_t *len, int *fd,
	int64_t deadline_us)
{
	struct iovec iov[2] = {{msg, sizeof(*msg)}, {more, size}};
	int rc, flags;
	ssize_t n;

	*fd = -1;
	do {
		rc = wait_for(s, POLLIN, deadline_us);
		if (rc < 0)
			return rc;
		n = vdpa_receive_fd(s->fd, iov, 2, MSG_DONTWAIT, fd, &flags);
	} while (n < 0 && errno == EAGAIN);
	if (n <= 0)
		return unreached(s, EPIPE, n == 0 ? "has closed the connection" : strerror(errno));
	if ((size_t)n < sizeof(*msg) || (flags & MSG_TRUNC) != 0 || msg->magic != KEEPER_MAGIC) {
		if (*fd >= 0)
			close(*fd);
		*fd = -1;
		return unreached(s, EPIPE, "has sent something that is no message of a keeper");
	}
	*len = (size_t)n - sizeof(*msg);
	return 0;
}

static int
send_request(struct keeper *s, const struct keeper_msg *msg, int fd, int64_t deadline_us)
{
	struct iovec iov = {(void *)(uintptr_t)msg, sizeof(*msg)};
	ssize_t n;
	int rc;

	do {
		rc = wait_for(s, POLLOUT, deadline_us);
		if (rc < 0)
			return rc;
		n = vdpa_send_fd(s->fd, &iov, 1, fd, MSG_DONTWAIT);
	} while (n < 0 && errno == EAGAIN);
	if (n >= 0)
		return 0;
	/* The descriptor's fault, and nothing was sent. */
	if (errno == EBADF || errno == ETOOMANYREFS || errno == EINVAL)
		return vdpa_error(errno, "keep: '%s': %m", msg->name);
	return unreached(s, EPIPE, strerror(errno));
}

/*
 * Ask the keeper and wait for its answer. put: the descriptor that is sent, or -1. got: the one
 * that came with the answer (NULL: none is expected). more, size, *len: as receive(). The answer's
 * result, without a message where it is negative; or -EPIPE, -ETIMEDOUT with one.
 */
static int
ask(struct keeper *s, enum keeper_op op, const char *name, int put, int *got, char *more,
    size_t size, size_t *len, int timeout_ms)
{
	int64_t deadline_us = vdpa_now_us() + (int64_t)timeout_ms * 1000;
	struct keeper_msg msg = {.magic = KEEPER_MAGIC,
				 .version = KEEPER_VERSION,
				 .op = (uint16_t)op,
				 .id = ++s->id};
	size_t behind = 0;
	int fd, rc;

	snprintf(msg.name, sizeof(msg.name), "%s", name);
	rc = send_request(s, &msg, put, deadline_us);
	if (rc < 0)
		return rc;
	rc = receive(s, &msg, more, size, &behind, &fd, deadline_us);
	if (rc < 0)
		return rc;
	if (len != NULL)
		*len = behind;
	if (msg.op != op || msg.id != s->id || (fd >= 0 && got == NULL)) {
		if (fd >= 0)
			close(fd);
		return unreached(s, EPIPE, "has answered what it was not asked");
	}
	if (got != NULL)
		*got = fd;
	if (msg.result == -EPIPE || msg.result == -ETIMEDOUT)
		return unreached(s, EPIPE, "has answered with no error of a keeper");
	if (msg.result < 0)
		return vdpa_error(msg.result, "keeper '%s': '%s': %s", s->path, name,
				  msg.result == -ENOSPC ? "the keeper is full; start it with a "
							  "larger --max or ulimit -n"
							: strerror(-msg.result));
	return msg.result;
}

static int
unix_put(void *store, const char *name, int fd)
{
	int rc = ask(store, KEEPER_PUT, name, fd, NULL, NULL, 0, NULL, KEEP_PATIENCE_MS);

	return rc > 0 ? 0 : rc;
}

static int
unix_del(void *store, const char *name)
{
	int rc = ask(store, KEEPER_DEL, name, -1, NULL, NULL, 0, NULL, KEEP_PATIENCE_MS);

	return rc > 0 || rc == -ENOENT ? 0 : rc;
}

static int
unix_take(void *store, const char *name)
{
	struct keeper *s = store;
	int fd = -1, rc = ask(s, KEEPER_TAKE, name, -1, &fd, NULL, 0, NULL, KEEP_PATIENCE_MS);

	if (rc >= 0 && fd < 0)
		/* The kernel leaves out what there is no number for. */
		return vdpa_fd_error(EMFILE, name);
	if (rc < 0 && fd >= 0)
		close(fd);
	if (rc < 0)
		return rc;
	if (!vdpa_fd_in_reserve(fd))
		return fd;
	close(fd);
	return vdpa_fd_error(EMFILE, name);
}

static int
unix_barrier(void *store, int timeout_ms)
{
	int rc = ask(store, KEEPER_NOOP, "", -1, NULL, NULL, 0, NULL, timeout_ms);

	return rc > 0 ? 0 : rc;
}

/* It serves one process at a time. */
static int
unix_hand_over(void *store, int sock)
{
	struct keeper *s = store;

	(void)sock;
	close(s->fd);
	s->fd = -1;
	return 0;
}

static int
unix_reopen(void *store, struct vdpa_keep *k, const struct keep_ops **ops, void **out)
{
	struct keeper *s = store;

	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	return keep_unix_open(k, s->path, ops, out);
}

static void
unix_close(void *store)
{
	struct keeper *s = store;

	if (s->fd >= 0)
		close(s->fd);
	free(s);
}

static const struct keep_ops unix_ops = {
	.put = unix_put,
	.del = unix_del,
	.take = unix_take,
	.barrier = unix_barrier,
	.hand_over = unix_hand_over,
	.reopen = unix_reopen,
	.close = unix_close,
};

/* Whoever can make a socket at the path could ask for everything of a guest's. */
static int
check_peer(const struct keeper *s)
{
	struct vdpa_peer peer, self;

	vdpa_peer_self(&self);
	if (vdpa_peer_of_socket(s->fd, &peer) < 0)
		return unreached(s, EPERM, "its user is not known");
	if (peer.uid == 0 || vdpa_peer_same_user(&peer, &self))
		return 0;
	return vdpa_error(EPERM,
			  "keeper '%s': it is user %u's, and this process user %u's: a keeper is "
			  "of the same user, or root's",
			  s->path, (unsigned int)peer.uid, (unsigned int)self.uid);
}

/* Connect, and hear whether it serves this process. -EBUSY: not yet. */
static int
greet(struct keeper *s)
{
	int64_t deadline_us = vdpa_now_us() + (int64_t)KEEP_PATIENCE_MS * 1000;
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct keeper_msg msg;
	size_t len;
	int fd, rc;

	s->fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return vdpa_fd_error(errno, s->path);
	strcpy(un.sun_path, s->path);
	if (connect(s->fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
		if (errno == EAGAIN)
			return unreached(s, EBUSY, "does not take connections");
		if (errno == ENOENT || errno == ECONNREFUSED)
			return unreached(
				s, ENOENT,
				"no vdpa-keeper listens there; start one with --socket and "
				"this path first");
		return unreached(s, errno, strerror(errno));
	}
	rc = check_peer(s);
	if (rc < 0)
		return rc;
	rc = receive(s, &msg, NULL, 0, &len, &fd, deadline_us);
	if (rc < 0)
		return rc;
	if (fd >= 0)
		close(fd);
	if (msg.version != KEEPER_VERSION)
		return vdpa_error(EPROTO,
				  "keeper '%s': it speaks version %u, this build version %d",
				  s->path, msg.version, KEEPER_VERSION);
	if (msg.op != KEEPER_HELLO)
		return unreached(s, EPROTO, "does not say that it is a keeper");
	if (msg.result == -EBUSY)
		return vdpa_error(EBUSY, "keeper '%s': it serves process %u", s->path, msg.id);
	if (msg.result == -EPERM)
		return unreached(s, EPERM, "does not serve this user");
	return msg.result < 0 ? unreached(s, EPROTO, "does not say why it does not serve") : 0;
}

/* All that is there, by answers of many names. */
static int
list(struct keeper *s, struct vdpa_keep *k)
{
	char *names = malloc(KEEPER_LIST_MAX), last[VDPA_KEEP_NAME_MAX + 1] = "";
	int64_t deadline_us = vdpa_now_us() + LIST_PATIENCE * INT64_C(1000);
	int rc = names == NULL ? vdpa_error(ENOMEM, "keep: out of memory") : 1;
	unsigned int left = NAMES_MAX;

	while (rc > 0) {
		size_t len = 0, at = 0;

		rc = ask(s, KEEPER_LIST, last, -1, NULL, names, KEEPER_LIST_MAX, &len,
			 KEEP_PATIENCE_MS);
		if (rc == 0 && len != 0)
			rc = unreached(s, EPROTO, "its list is broken");
		if (rc > 0 && ((unsigned int)rc > left || vdpa_now_us() > deadline_us))
			rc = unreached(s, EPROTO, "its list does not end");
		left -= rc > 0 ? (unsigned int)rc : 0;
		for (int n = rc; rc > 0 && n > 0; n--) {
			char *end = memchr(names + at, '\0', len - at);

			/* In order, so that a list ends. */
			if (end == NULL || strcmp(names + at, last) <= 0) {
				rc = unreached(s, EPROTO, "its list is broken");
				break;
			}
			rc = keep_add_left(k, names + at);
			if (rc < 0)
				break;
			rc = 1;
			strcpy(last, names + at);
			at += (size_t)(end + 1 - (names + at));
		}
	}
	free(names);
	return rc;
}

int
keep_unix_open(struct vdpa_keep *k, const char *path, const struct keep_ops **ops, void **store)
{
	int64_t deadline_us = vdpa_now_us() + (int64_t)KEEP_PATIENCE_MS * 1000;
	struct keeper *s;
	int rc;

	if (path[0] == '\0' || strlen(path) >= sizeof(s->path))
		return vdpa_error(EINVAL,
				  "keeper '%.128s': allowed are paths of 1 to %zu characters", path,
				  sizeof(s->path) - 1);
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	strcpy(s->path, path);
	while ((rc = greet(s)) == -EBUSY && vdpa_now_us() < deadline_us) {
		close(s->fd);
		usleep(BUSY_US);
	}
	if (rc == 0)
		rc = list(s, k);
	if (rc < 0) {
		unix_close(s);
		return rc;
	}
	*ops = &unix_ops;
	*store = s;
	return 0;
}
