/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The socket of a keeper (serve.h). Owns the connections. A daemon that connects while another is
 * served is refused; one that has been killed may not have been noticed yet, so what it sent and
 * its end are read first. One that is refused may still ask for a fence, for KEEPER_CALL_MS: an
 * operator does.
 *
 * A connection is a daemon's once it has asked for anything but a fence. Until then the times
 * at which functions are fenced and all is dropped remain as they are.
 *
 * Nothing here waits for a daemon: an answer that its socket has no room for ends the connection,
 * since a daemon asks one thing at a time. Functions are waited for (hold_fence()).
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
#define BURST	    64
/* Messages of one that is dead, perhaps, when the next one comes: more than a socket has room for,
 * unless its process is privileged. One that goes on sending is alive. */
#define LAST_WORDS  1024
/* Descriptors that a message may bring, of which one is wanted. */
#define FDS_MAX	    253
/* Connections that are refused, and may ask for a fence. */
#define CALLERS_MAX 4

/* A connection that is refused. */
struct caller {
	int conn; /* or -1 */
	pid_t pid;
	int64_t until_us;
};

struct server {
	const struct serve_params *params;
	int conn;	  /* of the daemon that is served, or -1 */
	pid_t pid;	  /* its */
	bool daemon;	  /* it has asked for what daemons ask for */
	int64_t fence_us; /* when functions are fenced; 0: never */
	int64_t drop_us;  /* when what is held is dropped; 0: never */
	struct caller callers[CALLERS_MAX];
	size_t len; /* of what is in buf */
	char buf[KEEPER_LIST_MAX];
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

/* "1 descriptor is", "2 descriptors are". */
struct amount {
	char text[40];
};

static struct amount
amount(unsigned int n, const char *what)
{
	struct amount a;

	snprintf(a.text, sizeof(a.text), "%u %s%s", n, what, n == 1 ? " is" : "s are");
	return a;
}

static struct amount
held(const struct server *s)
{
	return amount(hold_count(s->params->hold), "descriptor");
}

static int64_t
in_seconds(unsigned int seconds)
{
	return seconds > 0 ? vdpa_now_us() + (int64_t)seconds * 1000000 : 0;
}

static void
end_service(struct server *s, const char *why)
{
	const struct serve_params *p = s->params;

	close(s->conn);
	s->conn = -1;
	if (!s->daemon)
		return;
	s->daemon = false;
	s->fence_us = in_seconds(p->fence_s);
	s->drop_us = in_seconds(p->hold_s);
	say("process %d %s: %s kept", (int)s->pid, why, held(s).text);
}

/* The fence. */

/* A line of the log, and for whoever has asked for it. */
static void
report_function(void *arg, const char *name, const struct fence_outcome *outcome)
{
	struct server *s = arg;
	size_t room = sizeof(s->buf) - s->len;
	int n = snprintf(s->buf + s->len, room, "%s: %s\n", name, outcome->text);

	if (n > 0 && (size_t)n < room)
		s->len += (size_t)n;
	say("%s: %s", name, outcome->text);
}

static struct hold_fenced
fence(struct server *s, const char *why)
{
	struct hold_fenced done;

	s->len = 0;
	s->fence_us = 0;
	done = hold_fence(s->params->hold, report_function, s);
	if (done.fenced + done.failed > 0)
		say("%s: %s fenced, %u not; %s kept", why, amount(done.fenced, "function").text,
		    done.failed, held(s).text);
	return done;
}

/* What an operator asks for. Whether the connection goes on. */
static bool
fence_for(struct server *s, int conn, pid_t pid, struct keeper_msg *msg)
{
	struct hold_fenced done;

	s->len = 0;
	if (msg->name[0] != '\0') {
		msg->result = -EINVAL;
	} else if (s->daemon && msg->op != KEEPER_FENCE_FORCED) {
		say("process %d is refused a fence: process %d is served", (int)pid, (int)s->pid);
		msg->result = -EBUSY;
	} else {
		say("process %d asks for a fence", (int)pid);
		done = fence(s, "by request");
		msg->result = done.failed > 0 ? -EIO : (int32_t)done.fenced;
	}
	return answer(conn, msg, s->buf, s->len, -1);
}

/* Messages. */

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

/* Whether it is a request; else what it has brought is closed, and the connection is to end. */
static bool
is_request(const struct keeper_msg *msg, int fd, bool truncated)
{
	/* A connection that breaks the rules ends, with what it has brought. */
	if (msg->magic == KEEPER_MAGIC && msg->version == KEEPER_VERSION &&
	    memchr(msg->name, '\0', sizeof(msg->name)) != NULL &&
	    (msg->op == KEEPER_PUT || (fd < 0 && !truncated)))
		return true;
	if (fd >= 0)
		close(fd);
	return false;
}

/* What is asked for. Whether the connection goes on. */
static bool
handle(struct server *s, struct keeper_msg *msg, int fd, bool truncated)
{
	struct hold *hold = s->params->hold;
	int found = -1;

	if (!is_request(msg, fd, truncated))
		return false;
	if (msg->op == KEEPER_FENCE || msg->op == KEEPER_FENCE_FORCED)
		return fence_for(s, s->conn, s->pid, msg);
	s->len = 0;
	if (!s->daemon)
		say("process %d is served: %s kept", (int)s->pid, held(s).text);
	s->daemon = true;
	s->fence_us = s->drop_us = 0;
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
		msg->result = hold_list(hold, msg->name, s->buf, sizeof(s->buf), &s->len);
		break;
	case KEEPER_NOOP:
		msg->result = 0;
		break;
	default:
		return false;
	}
	return answer(s->conn, msg, s->buf, s->len, found);
}

enum received {
	RECEIVED_NOTHING, /* there is no more */
	RECEIVED_SIGNAL,  /* ask again */
	RECEIVED_MESSAGE,
	RECEIVED_END,
	RECEIVED_RUBBISH,
};

/* A message of the right size, whatever it says, with its descriptor or -1. */
static enum received
receive(int conn, struct keeper_msg *msg, int *fd, bool *truncated)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {msg, sizeof(*msg)};
	struct msghdr mh = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buf,
		.msg_controllen = sizeof(control.buf),
	};
	ssize_t n = recvmsg(conn, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return errno == EINTR ? RECEIVED_SIGNAL : RECEIVED_NOTHING;
	*fd = n >= 0 ? descriptor_of(&mh) : -1;
	*truncated = n >= 0 && (mh.msg_flags & MSG_CTRUNC) != 0;
	if (n == sizeof(*msg) && (mh.msg_flags & MSG_TRUNC) == 0)
		return RECEIVED_MESSAGE;
	if (*fd >= 0)
		close(*fd);
	return n == 0 || (n < 0 && errno == ECONNRESET) ? RECEIVED_END : RECEIVED_RUBBISH;
}

/* Read one message. Whether there may be more. */
static bool
read_one(struct server *s)
{
	struct keeper_msg msg;
	bool truncated;
	int fd;

	switch (receive(s->conn, &msg, &fd, &truncated)) {
	case RECEIVED_NOTHING:
		return false;
	case RECEIVED_SIGNAL:
		return true;
	case RECEIVED_END:
		end_service(s, "has ended");
		return false;
	case RECEIVED_RUBBISH:
		end_service(s, "has sent what is no message");
		return false;
	case RECEIVED_MESSAGE:
		break;
	}
	if (handle(s, &msg, fd, truncated))
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

/* Those that are refused. */

static void
end_caller(struct caller *c)
{
	close(c->conn);
	c->conn = -1;
}

static void
read_caller(struct server *s, struct caller *c)
{
	struct keeper_msg msg;
	enum received received;
	bool truncated;
	int fd;

	received = receive(c->conn, &msg, &fd, &truncated);
	if (received == RECEIVED_NOTHING || received == RECEIVED_SIGNAL)
		return;
	/* The daemon may be dead, with its last words unread. */
	read_some(s, LAST_WORDS);
	if (received != RECEIVED_MESSAGE || !is_request(&msg, fd, truncated)) {
		end_caller(c);
	} else if (msg.op != KEEPER_FENCE && msg.op != KEEPER_FENCE_FORCED) {
		if (fd >= 0)
			close(fd);
		end_caller(c);
	} else if (!fence_for(s, c->conn, c->pid, &msg)) {
		end_caller(c);
	}
}

/* The connection is the server's. Where there is no room, the first to expire gives way. */
static void
add_caller(struct server *s, int conn, pid_t pid)
{
	struct caller *c = &s->callers[0];

	for (unsigned int i = 0; i < CALLERS_MAX && c->conn >= 0; i++)
		if (s->callers[i].conn < 0 || s->callers[i].until_us < c->until_us)
			c = &s->callers[i];
	if (c->conn >= 0)
		end_caller(c);
	*c = (struct caller){
		.conn = conn, .pid = pid, .until_us = vdpa_now_us() + KEEPER_CALL_MS * 1000};
}

/* A new one. */

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
	read_some(s, LAST_WORDS);
	if (s->conn >= 0) {
		if (greet(conn, -EBUSY, s->pid))
			add_caller(s, conn, peer.pid);
		else
			close(conn);
		return;
	}
	if (!greet(conn, 0, peer.pid)) {
		close(conn);
		return;
	}
	s->conn = conn;
	s->pid = peer.pid;
	s->daemon = false;
}

/* Time. */

static void
expire(struct server *s, int64_t now_us)
{
	char why[64];

	for (unsigned int i = 0; i < CALLERS_MAX; i++)
		if (s->callers[i].conn >= 0 && s->callers[i].until_us <= now_us)
			end_caller(&s->callers[i]);
	if (s->fence_us != 0 && s->fence_us <= now_us) {
		snprintf(why, sizeof(why), "no daemon has come within %u s", s->params->fence_s);
		fence(s, why);
	}
	if (s->drop_us != 0 && s->drop_us <= now_us) {
		struct amount dropped;

		s->drop_us = 0;
		snprintf(why, sizeof(why), "no daemon has come within %u s", s->params->hold_s);
		fence(s, why);
		dropped = held(s);
		hold_drop_all(s->params->hold);
		say("%s: %s dropped", why, dropped.text);
	}
}

static int64_t
earlier(int64_t a_us, int64_t b_us)
{
	return b_us != 0 && (a_us == 0 || b_us < a_us) ? b_us : a_us;
}

/* Milliseconds until there is something to do without being asked; -1: never. */
static int
time_left(const struct server *s)
{
	int64_t until_us = earlier(s->fence_us, s->drop_us), left_us;

	for (unsigned int i = 0; i < CALLERS_MAX; i++)
		if (s->callers[i].conn >= 0)
			until_us = earlier(until_us, s->callers[i].until_us);
	left_us = until_us - vdpa_now_us();
	if (until_us == 0)
		return -1;
	if (left_us <= 0)
		return 0;
	return left_us / 1000 >= INT32_MAX ? INT32_MAX : (int)((left_us + 999) / 1000);
}

static void
end(struct server *s)
{
	/* What was put before the signal came is held, and a daemon that has ended is no daemon. */
	read_some(s, LAST_WORDS);
	/* One that lives has its functions itself. */
	if (!s->daemon)
		fence(s, "ends");
	say("ends: %s dropped", held(s).text);
	if (s->conn >= 0)
		close(s->conn);
	for (unsigned int i = 0; i < CALLERS_MAX; i++)
		if (s->callers[i].conn >= 0)
			end_caller(&s->callers[i]);
}

enum {
	POLL_SIGNAL,
	POLL_CONN,
	POLL_LISTEN,
	POLL_CALLERS,
	POLLS = POLL_CALLERS + CALLERS_MAX,
};

int
serve(const struct serve_params *params)
{
	static struct server s; /* as large as a list */

	s = (struct server){.params = params, .conn = -1};
	for (unsigned int i = 0; i < CALLERS_MAX; i++)
		s.callers[i].conn = -1;
	for (;;) {
		struct pollfd p[POLLS] = {
			[POLL_SIGNAL] = {.fd = params->signal_fd, .events = POLLIN},
			[POLL_CONN] = {.fd = s.conn, .events = POLLIN},
			[POLL_LISTEN] = {.fd = params->listen_fd, .events = POLLIN},
		};

		for (unsigned int i = 0; i < CALLERS_MAX; i++)
			p[POLL_CALLERS + i] =
				(struct pollfd){.fd = s.callers[i].conn, .events = POLLIN};
		if (poll(p, POLLS, time_left(&s)) < 0 && errno != EINTR) {
			say("poll: %s", strerror(errno));
			return -errno;
		}
		if (p[POLL_SIGNAL].revents != 0)
			break;
		if (s.conn >= 0 && p[POLL_CONN].revents != 0)
			read_some(&s, BURST);
		for (unsigned int i = 0; i < CALLERS_MAX; i++)
			if (p[POLL_CALLERS + i].revents != 0)
				read_caller(&s, &s.callers[i]);
		if (p[POLL_LISTEN].revents != 0)
			take_connection(&s);
		expire(&s, vdpa_now_us());
	}
	end(&s);
	return 0;
}
