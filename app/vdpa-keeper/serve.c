/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The socket of a keeper (serve.h). Owns the connections. A daemon that connects while another is
 * served is refused; one that has been killed may not have been noticed yet, so what it sent and
 * its end are read first.
 *
 * Nothing here waits for a daemon: an answer that its socket has no room for ends the connection,
 * since a daemon asks one thing at a time.
 */

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fd_message.h"
#include "keep_priv.h"
#include "keeper_proto.h"
#include "serve.h"
#include "vdpa_peer.h"

/* Messages of one daemon before others are looked at. */
#define BURST	64
/* Descriptors that a message may bring, of which one is wanted. */
#define FDS_MAX 253

struct server {
	const struct serve_params *params;
	int conn;	    /* of the daemon that is served, or -1 */
	pid_t pid;	    /* its */
	int64_t expires_us; /* when what is held is dropped; 0: never */
	char names[KEEPER_LIST_MAX];
};

void
say(const char *fmt, ...)
{
	char line[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	fprintf(stderr, "vdpa-keeper: %s\n", line);
}

/* Send a message with `more` behind it, and fd unless it is -1. Whether it went. */
static bool
answer(int conn, const struct keeper_msg *msg, const char *more, size_t len, int fd)
{
	struct iovec iov[2] = {{(void *)(uintptr_t)msg, sizeof(*msg)},
			       {(void *)(uintptr_t)more, len}};

	return vdpa_send_fd(conn, iov, 2, fd, MSG_DONTWAIT) >= 0;
}

static bool
greet(int conn, int result, pid_t pid)
{
	struct keeper_msg msg = {
		.magic = KEEPER_MAGIC,
		.version = KEEPER_VERSION,
		.op = KEEPER_HELLO,
		.id = (uint32_t)pid,
		.result = result,
	};

	return answer(conn, &msg, NULL, 0, -1);
}

static void
end_service(struct server *s, const char *why)
{
	const struct serve_params *p = s->params;
	unsigned int n = hold_count(p->hold);

	close(s->conn);
	s->conn = -1;
	if (p->hold_s > 0 && n > 0)
		s->expires_us = vdpa_now_us() + (int64_t)p->hold_s * 1000000;
	say("process %d %s: %u descriptors are kept", (int)s->pid, why, n);
}

/* The descriptor that a message has brought; -1: none, or more than one, which are closed. */
static int
descriptor_of(struct msghdr *mh)
{
	int fds[FDS_MAX], kept = -1;
	unsigned int n = 0;

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(mh); cmsg != NULL; cmsg = CMSG_NXTHDR(mh, cmsg)) {
		size_t len = cmsg->cmsg_len - CMSG_LEN(0);

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		memcpy(fds, CMSG_DATA(cmsg), len);
		n = (unsigned int)(len / sizeof(int));
	}
	if (n == 1)
		kept = fds[0];
	else
		for (unsigned int i = 0; i < n; i++)
			close(fds[i]);
	return kept;
}

/* What is asked for. Whether the connection goes on. */
static bool
handle(struct server *s, struct keeper_msg *msg, int fd, bool truncated)
{
	struct hold *hold = s->params->hold;
	size_t len = 0;
	int found = -1;

	/* A connection that breaks the rules ends, with what it has brought. */
	if (msg->magic != KEEPER_MAGIC || msg->version != KEEPER_VERSION ||
	    memchr(msg->name, '\0', sizeof(msg->name)) == NULL ||
	    (msg->op != KEEPER_PUT && (fd >= 0 || truncated))) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	switch (msg->op) {
	case KEEPER_PUT:
		/* The kernel leaves out what there is no number for. */
		msg->result = fd >= 0	  ? hold_put(hold, msg->name, fd)
			      : truncated ? -EMFILE
					  : -EBADF;
		break;
	case KEEPER_DEL:
		msg->result = hold_del(hold, msg->name);
		break;
	case KEEPER_TAKE:
		found = hold_find(hold, msg->name);
		msg->result = found < 0 ? found : 0;
		break;
	case KEEPER_LIST:
		msg->result = hold_list(hold, msg->name, s->names, sizeof(s->names), &len);
		break;
	case KEEPER_NOOP:
		msg->result = 0;
		break;
	default:
		return false;
	}
	return answer(s->conn, msg, s->names, len, found);
}

/* Read one message. Whether there may be more. */
static bool
read_one(struct server *s)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct keeper_msg msg;
	struct iovec iov = {&msg, sizeof(msg)};
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(s->conn, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	int fd;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR;
	fd = n >= 0 ? descriptor_of(&mh) : -1;
	if (n == 0 || (n < 0 && errno == ECONNRESET)) {
		if (fd >= 0)
			close(fd);
		end_service(s, "has ended");
		return false;
	}
	if (n != sizeof(msg) || (mh.msg_flags & MSG_TRUNC) != 0) {
		if (fd >= 0)
			close(fd);
		end_service(s, "has sent what is no message");
		return false;
	}
	if (handle(s, &msg, fd, (mh.msg_flags & MSG_CTRUNC) != 0))
		return true;
	end_service(s, "has sent what is no request, or reads no answers");
	return false;
}

static void
read_some(struct server *s, unsigned int max)
{
	while (max-- > 0 && s->conn >= 0 && read_one(s))
		;
}

static void
take_connection(struct server *s)
{
	int conn = accept4(s->params->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct vdpa_peer peer, self;

	if (conn < 0)
		return;
	vdpa_peer_self(&self);
	if (vdpa_peer_of_socket(conn, &peer) < 0 ||
	    (peer.uid != 0 && !vdpa_peer_same_user(&peer, &self))) {
		say("user %u is refused", (unsigned int)peer.uid);
		greet(conn, -EPERM, 0);
		close(conn);
		return;
	}
	/* Whoever is served may be dead, with its last words unread. */
	read_some(s, UINT32_MAX);
	if (s->conn >= 0 || !greet(conn, 0, peer.pid)) {
		greet(conn, -EBUSY, s->pid);
		close(conn);
		return;
	}
	s->conn = conn;
	s->pid = peer.pid;
	s->expires_us = 0;
	say("process %d is served: %u descriptors are kept", (int)s->pid,
	    hold_count(s->params->hold));
}

static void
expire(struct server *s)
{
	unsigned int n = hold_count(s->params->hold);

	s->expires_us = 0;
	hold_drop_all(s->params->hold);
	say("no daemon has come within %u s: %u descriptors were dropped", s->params->hold_s, n);
}

/* Milliseconds until there is something to do without being asked; -1: never. */
static int
time_left(const struct server *s)
{
	int64_t left_us = s->expires_us - vdpa_now_us();

	if (s->expires_us == 0)
		return -1;
	if (left_us <= 0)
		return 0;
	return left_us / 1000 >= INT32_MAX ? INT32_MAX : (int)((left_us + 999) / 1000);
}

int
serve(const struct serve_params *params)
{
	static struct server s; /* as large as a list */

	s = (struct server){.params = params, .conn = -1};
	for (;;) {
		struct pollfd p[] = {
			{.fd = params->signal_fd, .events = POLLIN},
			{.fd = s.conn, .events = POLLIN},
			{.fd = params->listen_fd, .events = POLLIN},
		};

		if (poll(p, 3, time_left(&s)) < 0 && errno != EINTR) {
			say("poll: %s", strerror(errno));
			return -errno;
		}
		if (p[0].revents != 0)
			break;
		if (s.conn >= 0 && p[1].revents != 0)
			read_some(&s, BURST);
		if (p[2].revents != 0)
			take_connection(&s);
		if (s.conn < 0 && s.expires_us != 0 && vdpa_now_us() >= s.expires_us)
			expire(&s);
	}
	say("ends: %u descriptors are dropped", hold_count(params->hold));
	if (s.conn >= 0)
		close(s.conn);
	return 0;
}
