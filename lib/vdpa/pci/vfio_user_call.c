/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Requests to a vfio-user server and their replies, one at a time (`request`). Owns the receiving
 * side of the socket.
 *
 * The server is not trusted. A message is received into a buffer of fixed size, at most one file
 * descriptor comes with it, and whatever is neither the reply that is waited for nor tolerated ends
 * the connection. A request waits for its reply for one time-out, and all requests together draw on
 * one patience, so that a server which answers each of them just in time cannot hold a shared
 * thread for long.
 */

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vfio_user_conn.h"

/* Looks at what has come by the deadline: about four times what a socket takes message by message.
 * A server that sends faster than we read would not let it end. */
#define LATE_LOOKS_MAX 1024
/* How long a reply is looked for before the thread sleeps: most come before it could be woken. */
#define LOOK_US	       100
/* Looks at a part of a message before it is taken out of the socket. */
#define LOOKS_MAX      64
/* Requests of its own that a server may send during one of ours, all refused. */
#define REFUSALS_MAX   16

#define CLOSES_SLOWLY "too many of the server's file descriptors do not close"

/* The end, found under `request` and not `send`. */
__attribute__((format(printf, 3, 4))) static int
fail(struct vfu_conn *c, int err, const char *fmt, ...)
{
	va_list ap;
	int rc;

	pthread_mutex_lock(&c->send);
	va_start(ap, fmt);
	rc = vdpa_vfu_vend_locked(c, err, c->doing, fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&c->send);
	return rc;
}

/* The file that came with a message; more than one is one too many. */
static int
take_fds(struct vfu_conn *c, struct msghdr *msg)
{
	bool more = (msg->msg_flags & MSG_CTRUNC) != 0;
	struct cmsghdr *cmsg;

	for (cmsg = CMSG_FIRSTHDR(msg); cmsg != NULL; cmsg = CMSG_NXTHDR(msg, cmsg)) {
		size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
			if (c->rx_fd < 0) {
				c->rx_fd = fd;
			} else {
				(void)vdpa_close_foreign(c->fds, fd);
				more = true;
			}
		}
	}
	/* The kernel says the same of too many as of too few free ones here. */
	if (more && c->rx_fd < 0)
		return fail(c, EMFILE,
			    "the server's file descriptor could not be received; are "
			    "too many open?");
	if (more)
		return fail(c, EPROTO, "a message with more file descriptors than one");
	return 0;
}

/*
 * Look at the message that comes next, which stays in the socket. Its size when it is whole; 0 when
 * it is not: *is_part says whether a part of it is there. What is wrong with it, whoever takes it
 * out says.
 */
static size_t
look(struct vfu_conn *c, bool *is_part)
{
	const struct vfio_user_header *hdr = (const struct vfio_user_header *)c->rx;
	ssize_t n = recv(c->fd, c->rx, sizeof(c->rx), MSG_PEEK | MSG_DONTWAIT);
	int queued = 0;

	*is_part = n > 0;
	if (n < (ssize_t)sizeof(*hdr))
		return 0;
	if (hdr->size < sizeof(*hdr) || hdr->size > sizeof(c->rx)) {
		*is_part = false;
		return 0;
	}
	/* A look ends behind what came with a descriptor. */
	if ((size_t)n < hdr->size && (ioctl(c->fd, FIONREAD, &queued) < 0 || queued < 0))
		return 0;
	return (size_t)n >= hdr->size || (size_t)queued >= hdr->size ? hdr->size : 0;
}

/*
 * Read what there is of a message. 1 when it is whole; 0: not yet; negative: the end.
 *
 * It is taken out of the socket once all of it is there, so that a process that is killed leaves
 * whole messages to the next one. One of which the rest does not follow at once is read as it
 * comes: a kill in its midst costs the connection, since what the next process finds is no message.
 */
static int
receive(struct vfu_conn *c)
{
	struct vfio_user_header *hdr = (struct vfio_user_header *)c->rx;
	size_t whole = 0;
	bool is_part;

	if (c->rx_len == 0) {
		whole = look(c, &is_part);
		if (whole == 0 && is_part && c->looks++ < LOOKS_MAX) {
			sched_yield();
			return 0;
		}
	}
	for (;;) {
		size_t want = whole > 0			 ? whole
			      : c->rx_len < sizeof(*hdr) ? sizeof(*hdr)
							 : hdr->size;
		union {
			char buf[CMSG_SPACE(sizeof(int))];
			struct cmsghdr align;
		} control;
		struct iovec iov = {c->rx + c->rx_len, want - c->rx_len};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control.buf,
				     .msg_controllen = sizeof(control.buf)};
		ssize_t n;

		if (c->rx_len == want)
			return 1;
		n = recvmsg(c->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		if (n < 0 && errno != ECONNRESET)
			return fail(c, errno, "recvmsg: %m");
		if (n <= 0)
			return fail(c, ENODEV, "the server hung up%s",
				    c->rx_len == 0 ? "" : " in the middle of a message");
		c->rx_len += (size_t)n;
		if (take_fds(c, &msg) < 0)
			return vdpa_vfu_error(c);
		if (c->rx_len >= sizeof(*hdr) &&
		    (hdr->size < sizeof(*hdr) || hdr->size > sizeof(c->rx)))
			return fail(c, EPROTO, "a message of %u bytes", hdr->size);
	}
}

/* The message in the buffer has been dealt with. */
static int
receive_next(struct vfu_conn *c)
{
	int rc = vdpa_close_foreign(c->fds, c->rx_fd);

	c->rx_fd = -1;
	c->rx_len = 0;
	c->looks = 0;
	return rc < 0 ? fail(c, EPROTO, CLOSES_SLOWLY) : 0;
}

/* The server asks something of us: nothing is granted, and an answer given where one is due. */
static int
refuse(struct vfu_conn *c, const struct vfio_user_header *hdr)
{
	struct vfio_user_header reply = {
		.id = hdr->id,
		.command = hdr->command,
		.size = sizeof(reply),
		.flags = VFIO_USER_TYPE_REPLY | VFIO_USER_ERROR,
		.error = ENOTSUP,
	};
	struct iovec iov = {&reply, sizeof(reply)};
	int rc;

	if (c->rx_fd >= 0)
		return fail(c, EPROTO, "a file descriptor with a request of the server");
	if (++c->refusals > REFUSALS_MAX)
		return fail(c, EPROTO, "requests of the server (the last: %u) without end",
			    hdr->command);
	VDPA_LOG(DEBUG, "%s: request %u of the server is refused", c->name, hdr->command);
	if (hdr->flags & VFIO_USER_NO_REPLY)
		return 0;
	pthread_mutex_lock(&c->send);
	rc = vdpa_vfu_send_locked(c, &iov, 1, NULL, 0);
	pthread_mutex_unlock(&c->send);
	return rc < 0 ? fail(c, EPROTO, "asks and does not read the answers") : 0;
}

/* The reply to call, in the buffer. 1, with the server's errno in *err; negative: the end. */
static int
take_reply(struct vfu_conn *c, struct vfu_call *call, int *err)
{
	const struct vfio_user_header *hdr = (const struct vfio_user_header *)c->rx;
	size_t len = hdr->size - sizeof(*hdr);

	*err = 0;
	if (c->rx_fd >= 0 && (call->reply_fd == NULL || (hdr->flags & VFIO_USER_ERROR)))
		return fail(c, EPROTO, "a file descriptor that was not asked for");
	if (hdr->flags & VFIO_USER_ERROR) {
		if (len != 0)
			return fail(c, EPROTO, "an error reply of %u bytes", hdr->size);
		/* It may be left out; and what is no errno is no errno. */
		*err = hdr->error == 0 || hdr->error > 4095 ? EIO : (int)hdr->error;
		return 1;
	}
	if (len < call->reply_min || len > call->reply_max)
		return fail(c, EPROTO, "a reply with %zu bytes of data, expected %zu%s", len,
			    call->reply_min, call->reply_min == call->reply_max ? "" : " or more");
	if (len != 0)
		memcpy(call->reply, c->rx + sizeof(*hdr), len);
	call->reply_len = len;
	if (call->reply_fd != NULL) {
		*call->reply_fd = c->rx_fd;
		c->rx_fd = -1;
	}
	return 1;
}

/*
 * Deal with the message in the buffer. 1: it is the reply to call (NULL, or not sent yet: there can
 * be none); 0: it was something else; negative: the end.
 */
static int
dispatch(struct vfu_conn *c, struct vfu_call *call, uint16_t id, int *err)
{
	const struct vfio_user_header *hdr = (const struct vfio_user_header *)c->rx;
	uint32_t type = hdr->flags & VFIO_USER_TYPE_MASK;
	uint64_t posts;

	if (type == VFIO_USER_TYPE_CMD)
		return refuse(c, hdr);
	if (type != VFIO_USER_TYPE_REPLY || (hdr->flags & ~(type | VFIO_USER_ERROR)) != 0)
		return fail(c, EPROTO, "a message with flags 0x%x", hdr->flags);
	if (hdr->id & VFU_POST_ID && hdr->command == VFIO_USER_REGION_WRITE && c->rx_fd < 0) {
		posts = __atomic_load_n(&c->posts, __ATOMIC_RELAXED);
		if (c->post_replies < posts) {
			if (c->post_replies++ == 0)
				VDPA_LOG(NOTICE,
					 "%s: the server answers writes that ask for no reply",
					 c->name);
			return 0;
		}
	}
	if (c->stale > 0 && (call == NULL || hdr->id != id || hdr->command != call->command)) {
		c->stale--;
		VDPA_LOG(DEBUG, "%s: reply %u to command %u of a former process", c->name, hdr->id,
			 hdr->command);
		return 0;
	}
	if (call == NULL)
		return fail(c, EPROTO, "reply %u to command %u, which nobody has asked", hdr->id,
			    hdr->command);
	if (hdr->id != id || hdr->command != call->command)
		return fail(c, EPROTO, "reply %u to command %u, expected %u to %u", hdr->id,
			    hdr->command, id, call->command);
	return take_reply(c, call, err);
}

/* Whether events come soon, in the time that is left. */
static bool
come_soon(struct pollfd *pfd, int64_t left_us)
{
	int64_t until_us = vdpa_now_us() + RTE_MIN(LOOK_US, left_us);
	int n = poll(pfd, 1, 0);

	while (n == 0) {
		/* On the same CPU, the server answers now. */
		sched_yield();
		n = poll(pfd, 1, 0);
		if (vdpa_now_us() >= until_us)
			break;
	}
	return n > 0;
}

/* Of the patience's wait, which may last for so long. */
static int64_t
left_us(const struct vfu_conn *c, int64_t limit_us)
{
	return RTE_MAX(c->patience.begin_us + limit_us - vdpa_now_us(), 0);
}

/* Wait for events on the socket until the patience's wait has lasted for so long. False when none
 * has come. What came in time counts, even when we were not there. */
static bool
wait_for(struct vfu_conn *c, short events, int64_t limit_us)
{
	struct pollfd pfd = {.fd = c->fd, .events = events};
	int64_t sleep_us, from_us = vdpa_now_us();
	bool soon = come_soon(&pfd, left_us(c, limit_us));
	int n;

	vdpa_patience_slept(&c->patience, LOOK_US, vdpa_now_us() - from_us);
	if (soon)
		return true;
	do {
		sleep_us = RTE_MIN(left_us(c, limit_us), VDPA_PATIENCE_SLEEP_US);
		from_us = vdpa_now_us();
		n = poll(&pfd, 1, (int)((sleep_us + 999) / 1000));
		vdpa_patience_slept(&c->patience, sleep_us, vdpa_now_us() - from_us);
	} while ((n == 0 && left_us(c, limit_us) > 0) || (n < 0 && errno == EINTR));
	return n != 0;
}

static int
timed_out(struct vfu_conn *c, bool sent)
{
	const struct vfio_user_header *hdr = (const struct vfio_user_header *)c->rx;
	int64_t waited_us = vdpa_patience_draw(&c->patience, vdpa_now_us());

	/* Less than a time-out was left. */
	if (waited_us / 1000 < c->timeout_ms)
		return fail(c, ETIMEDOUT,
			    "no answer in %" PRId64
			    " ms, and earlier answers were late: all together by %" PRId64
			    " ms, counted from %" PRId64
			    " ms after each request, where %u ms (%d times timeout_ms %u) are the "
			    "limit; the connection is ended",
			    waited_us / 1000, vdpa_patience_late_us(&c->patience) / 1000,
			    c->patience.free_us / 1000, VDPA_PATIENCE_TIMEOUTS * c->timeout_ms,
			    VDPA_PATIENCE_TIMEOUTS, c->timeout_ms);
	if (!sent)
		return fail(c, ETIMEDOUT, "the server has not read for %u ms", c->timeout_ms);
	if (c->rx_len >= sizeof(*hdr))
		return fail(c, ETIMEDOUT, "only %zu of %u bytes of an answer in %u ms", c->rx_len,
			    hdr->size, c->timeout_ms);
	return fail(c, ETIMEDOUT, "no answer in %u ms", c->timeout_ms);
}

/* Under `request`. 0 with the server's errno in *err; negative: the end, or it was not sent. */
static int
transact(struct vfu_conn *c, struct vfu_call *call, int *err)
{
	struct vfio_user_header hdr = {
		.id = c->next_id++ & (uint16_t)~VFU_POST_ID,
		.command = call->command,
		.size = (uint32_t)(sizeof(hdr) + call->arg_len + call->data_len),
		.flags = VFIO_USER_TYPE_CMD,
	};
	const struct iovec iov[] = {
		{&hdr, sizeof(hdr)},
		{(void *)(uintptr_t)call->arg, call->arg_len},
		{(void *)(uintptr_t)call->data, call->data_len},
	};
	int64_t limit;
	unsigned int late = 0;
	bool sent = false;
	int rc;

	c->refusals = 0;
	limit = vdpa_patience_begin(&c->patience, vdpa_now_us());
	for (;;) {
		if (!sent) {
			pthread_mutex_lock(&c->send);
			rc = vdpa_vfu_flush_locked(c);
			if (rc == 0)
				rc = vdpa_vfu_send_locked(c, iov, RTE_DIM(iov), call->fds,
							  call->n_fds);
			pthread_mutex_unlock(&c->send);
			sent = rc == 0;
			if (rc < 0 && rc != -EAGAIN)
				return rc;
		}
		if (!wait_for(c, sent ? POLLIN : POLLIN | POLLOUT, limit) ||
		    (left_us(c, limit) == 0 && ++late > LATE_LOOKS_MAX))
			return timed_out(c, sent);
		rc = receive(c);
		if (rc > 0) {
			rc = dispatch(c, sent ? call : NULL, hdr.id, err);
			if (receive_next(c) < 0)
				return vdpa_vfu_error(c);
			if (rc > 0)
				break;
		}
		if (rc < 0)
			return rc;
	}
	vdpa_patience_draw(&c->patience, vdpa_now_us());
	return 0;
}

int
vdpa_vfu_call(struct vfu_conn *c, struct vfu_call *call)
{
	int rc, err = 0;

	if (call->reply_fd != NULL)
		*call->reply_fd = -1;
	pthread_mutex_lock(&c->request);
	c->doing = vdpa_vfu_command_name(call->command);
	rc = transact(c, call, &err);
	c->doing = NULL;
	pthread_mutex_unlock(&c->request);
	if (vdpa_vfu_error(c) != 0) {
		/* Its reply may have come just before. */
		if (rc == 0 && call->reply_fd != NULL && *call->reply_fd >= 0) {
			vdpa_vfu_close_file(c, *call->reply_fd);
			*call->reply_fd = -1;
		}
		vdpa_vfu_tell(c);
		return vdpa_vfu_gone_error(c);
	}
	if (rc < 0)
		return vdpa_error(rc, "%s: %s: cannot be sent: %s", c->name,
				  vdpa_vfu_command_name(call->command), strerror(-rc));
	if (err != 0)
		return vdpa_error(err, "%s: %s: the server answers: %s", c->name,
				  vdpa_vfu_command_name(call->command), strerror(err));
	return 0;
}

void
vdpa_vfu_close_file(struct vfu_conn *c, int fd)
{
	if (vdpa_close_foreign(c->fds, fd) < 0)
		fail(c, EPROTO, CLOSES_SLOWLY);
}

void
vdpa_vfu_drain(struct vfu_conn *c)
{
	int rc, err;

	if (pthread_mutex_trylock(&c->request) != 0)
		return;
	c->refusals = 0;
	for (unsigned int i = 0; i < 2 * VFU_DRAIN_EVERY; i++) {
		rc = receive(c);
		if (rc <= 0)
			break;
		rc = dispatch(c, NULL, 0, &err);
		if (receive_next(c) < 0 || rc < 0)
			break;
	}
	pthread_mutex_unlock(&c->request);
}
