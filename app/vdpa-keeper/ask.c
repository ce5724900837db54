/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* An operator's side of a keeper's socket (ask.h): one connection, one request. */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "ask.h"
#include "clock.h"
#include "keeper_proto.h"
#include "serve.h"
#include "vdpa_peer.h"

#define PATIENCE_US INT64_C(60000000)

/* A message, and the text behind it with an end. */
struct reply {
	struct keeper_msg msg;
	char text[KEEPER_LIST_MAX + 1];
} __attribute__((packed));

static int
failed(const char *path, int err, const char *what)
{
	say("keeper '%s': %s", path, what);
	return -err;
}

/* One that is not root's is of this user; root may ask any. */
static int
check_peer(const char *path, int conn)
{
	struct vdpa_peer peer, self;

	vdpa_peer_self(&self);
	if (vdpa_peer_of_socket(conn, &peer) < 0)
		return failed(path, EPERM, "its user is not known");
	if (self.uid == 0 || peer.uid == 0 || vdpa_peer_same_user(&peer, &self))
		return 0;
	return failed(path, EPERM, "it is another user's");
}

static int
connect_to(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int conn = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc;

	if (conn < 0)
		return failed(path, errno, strerror(errno));
	if (strlen(path) >= sizeof(un.sun_path)) {
		close(conn);
		return failed(path, ENAMETOOLONG, strerror(ENAMETOOLONG));
	}
	strcpy(un.sun_path, path);
	rc = connect(conn, (struct sockaddr *)&un, sizeof(un)) < 0
		     ? failed(path, errno,
			      errno == ENOENT || errno == ECONNREFUSED
				      ? "no vdpa-keeper listens there"
				      : strerror(errno))
		     : check_peer(path, conn);
	if (rc == 0)
		return conn;
	close(conn);
	return rc;
}

/* The next message of the keeper, which is of the given op. */
static int
receive(const char *path, int conn, enum keeper_op op, struct reply *reply, int64_t deadline_us)
{
	ssize_t n;

	do {
		struct pollfd p = {.fd = conn, .events = POLLIN};
		int64_t left_us = deadline_us - vdpa_now_us();

		if (left_us <= 0)
			return failed(path, ETIMEDOUT, "does not answer");
		if (poll(&p, 1, (int)(left_us / 1000) + 1) < 0 && errno != EINTR)
			return failed(path, errno, strerror(errno));
		n = recv(conn, reply, sizeof(*reply) - 1, MSG_DONTWAIT);
	} while (n < 0 && (errno == EAGAIN || errno == EINTR));
	if (n < 0)
		return failed(path, errno, strerror(errno));
	if (n == 0)
		return failed(path, EPIPE,
			      "has closed the connection; an older one knows no fence");
	if ((size_t)n < sizeof(reply->msg) || reply->msg.magic != KEEPER_MAGIC ||
	    reply->msg.version != KEEPER_VERSION || reply->msg.op != op)
		return failed(path, EPROTO, "speaks another language or version");
	((char *)reply)[n] = '\0';
	return 0;
}

/* Lines of another user, perhaps, for root's terminal. */
static void
print(const char *text)
{
	for (; *text != '\0'; text++)
		putchar(*text == '\n' || (*text >= ' ' && *text <= '~') ? *text : '?');
}

int
ask_for_fence(const char *path, bool force)
{
	static struct reply reply;
	struct keeper_msg msg = {.magic = KEEPER_MAGIC,
				 .version = KEEPER_VERSION,
				 .op = force ? KEEPER_FENCE_FORCED : KEEPER_FENCE};
	int64_t deadline_us = vdpa_now_us() + PATIENCE_US;
	int conn = connect_to(path), rc;

	if (conn < 0)
		return conn;
	rc = receive(path, conn, KEEPER_HELLO, &reply, deadline_us);
	if (rc == 0 && reply.msg.result == -EPERM)
		rc = failed(path, EPERM, "does not serve this user");
	if (rc == 0 && send(conn, &msg, sizeof(msg), MSG_NOSIGNAL) < 0)
		rc = failed(path, errno, strerror(errno));
	if (rc == 0)
		rc = receive(path, conn, (enum keeper_op)msg.op, &reply, deadline_us);
	close(conn);
	if (rc < 0)
		return rc;
	print(reply.text);
	if (reply.msg.result == -EBUSY)
		return failed(path, EBUSY, "it serves a daemon; --force fences all the same");
	if (reply.msg.result < 0)
		return failed(path, -reply.msg.result,
			      reply.msg.result == -EIO ? "not every function was stopped"
						       : strerror(-reply.msg.result));
	if (reply.msg.result == 0)
		puts("no function is held");
	return 0;
}
