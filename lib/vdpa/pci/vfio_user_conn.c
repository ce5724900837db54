/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection to a vfio-user server: messages out and in, and its end. Owns the socket. What the
 * payloads mean is its callers' concern.
 *
 * The server is not trusted. A message is received into a buffer of fixed size, at most one file
 * descriptor comes with it, and whatever is neither the reply that is waited for nor tolerated ends
 * the connection, once and for good. A request waits for its reply for one time-out, and all
 * requests together draw on one patience, so that a server which answers each of them just in time
 * cannot hold a shared thread for long.
 *
 * Two locks. `request` is held from a request to its reply, which may take a time-out. `send` is
 * held for one non-blocking sendmsg(2) and for the connection's state: it is all that a doorbell
 * needs, so that kicks do not wait behind a slow request. `send` may be taken under `request`.
 *
 * Doorbells are REGION_WRITEs with No_reply, which the specification allows for every command. When
 * the socket is full they wait in a backlog, in order, without one that waits there already (a
 * doorbell rung twice before it is heard is rung once), and go out when there is room. A server
 * that answers them against the specification is borne with: its answers are read and dropped.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vfio_user_priv.h"

/* Waiting that a request has free, µs; what goes beyond is taken from the patience. */
#define GRACE_US	  10000
/* The patience at its fullest, in time-outs of one request. */
#define PATIENCE_TIMEOUTS 3
/* It grows by one part in so many of the time that passes. */
#define PATIENCE_REFILL	  8
/* Between attempts to connect while the server's backlog is full. */
#define CONNECT_RETRY_MS  10
/* Requests of its own that a server may send during one of ours, all refused. */
#define REFUSALS_MAX	  16
/* Doorbells that wait for room in the socket. */
#define BACKLOG_MAX	  256
/* After so many doorbells look whether the server answers them. Must be well below what fits in a
 * socket, some 270 small messages. */
#define DRAIN_EVERY	  64
/* Ids of doorbells have this bit, those of requests do not. */
#define POST_ID		  0x8000u
#define CAUSE_MAX	  256

struct vfu_post {
	struct vfio_user_header hdr;
	struct vfio_user_region_access access;
	uint8_t data[8];
} __attribute__((packed));
_Static_assert(sizeof(struct vfu_post) == 40, "vfio-user, REGION_WRITE of a register");

struct vfu_conn {
	char *name;
	int fd;
	unsigned int timeout_ms;

	pthread_mutex_t request;
	uint16_t next_id;
	int64_t patience_us;	/* left */
	int64_t patience_at_us; /* when that was worked out */
	const char *doing;	/* the command under way, for messages */
	unsigned int refusals;	/* during it */
	/* The message that comes in. */
	uint8_t rx[VFIO_USER_MSG_MAX];
	size_t rx_len;
	int rx_fd;
	uint64_t post_replies; /* to doorbells, dropped */

	pthread_mutex_t send;
	int error;	       /* 0 while it stands; positive errno; set once; read with __atomic */
	char cause[CAUSE_MAX]; /* set before error */
	bool told;
	struct vdpa_pci *pci; /* whom to tell; NULL: nobody */
	bool watched;	      /* open: the control loop may be used */
	uint64_t posts;
	struct vfu_post backlog[BACKLOG_MAX];
	unsigned int backlog_first, backlog_n;
	int64_t backlog_since_us;
	bool room_awaited;

	struct vdpa_event hangup; /* of the socket */
	struct vdpa_event room;	  /* of a duplicate: an fd is only once in an epoll set */
};

static const char *const command_names[] = {
	[VFIO_USER_VERSION] = "VERSION",
	[VFIO_USER_DMA_MAP] = "DMA_MAP",
	[VFIO_USER_DMA_UNMAP] = "DMA_UNMAP",
	[VFIO_USER_DEVICE_GET_INFO] = "GET_INFO",
	[VFIO_USER_DEVICE_GET_REGION_INFO] = "GET_REGION_INFO",
	[VFIO_USER_DEVICE_GET_IRQ_INFO] = "GET_IRQ_INFO",
	[VFIO_USER_DEVICE_SET_IRQS] = "SET_IRQS",
	[VFIO_USER_REGION_READ] = "REGION_READ",
	[VFIO_USER_REGION_WRITE] = "REGION_WRITE",
	[VFIO_USER_DEVICE_RESET] = "DEVICE_RESET",
};

const char *
vdpa_vfu_command_name(uint16_t command)
{
	const char *name = command < RTE_DIM(command_names) ? command_names[command] : NULL;

	return name != NULL ? name : "command";
}

static int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* The end of the connection; the first one counts. Under `send`. */
static void
end_locked(struct vfu_conn *c, int err, const char *doing, const char *fmt, va_list ap)
{
	int n = 0;

	if (c->error != 0)
		return;
	if (doing != NULL)
		n = snprintf(c->cause, sizeof(c->cause), "%s: ", doing);
	vsnprintf(c->cause + n, sizeof(c->cause) - (size_t)n, fmt, ap);
	c->backlog_n = 0;
	__atomic_store_n(&c->error, err, __ATOMIC_RELEASE);
	/* Wakes whoever waits for a reply, and the server knows. */
	shutdown(c->fd, SHUT_RDWR);
}

/* Likewise, returning the negative errno of the end, which may have been another one. */
__attribute__((format(printf, 4, 5))) static int
fail_locked(struct vfu_conn *c, int err, const char *doing, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	end_locked(c, err, doing, fmt, ap);
	va_end(ap);
	return -c->error;
}

/* Likewise, under `request` and not `send`. */
__attribute__((format(printf, 3, 4))) static int
fail(struct vfu_conn *c, int err, const char *fmt, ...)
{
	va_list ap;
	int rc;

	pthread_mutex_lock(&c->send);
	va_start(ap, fmt);
	end_locked(c, err, c->doing, fmt, ap);
	va_end(ap);
	rc = -c->error;
	pthread_mutex_unlock(&c->send);
	return rc;
}

int
vdpa_vfu_error(struct vfu_conn *c)
{
	return -__atomic_load_n(&c->error, __ATOMIC_ACQUIRE);
}

/* Tell pci.c, which calls back; so under no lock. */
static void
tell(struct vfu_conn *c)
{
	struct vdpa_pci *pci = NULL;

	if (vdpa_vfu_error(c) == 0)
		return;
	pthread_mutex_lock(&c->send);
	if (!c->told && c->pci != NULL) {
		c->told = true;
		pci = c->pci;
	}
	pthread_mutex_unlock(&c->send);
	if (pci != NULL)
		vdpa_pci_gone(pci, -c->error, "%s: %s", c->name, c->cause);
}

static int
gone_error(struct vfu_conn *c)
{
	return vdpa_error(c->error, "%s: %s", c->name, c->cause);
}

int
vdpa_vfu_violation(struct vfu_conn *c, uint16_t command, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&c->send);
	va_start(ap, fmt);
	end_locked(c, EPROTO, vdpa_vfu_command_name(command), fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&c->send);
	tell(c);
	return gone_error(c);
}

/*
 * Send a whole message without waiting, under `send`. 0; -EAGAIN: no room; another negative errno:
 * not sent, or the connection has ended. A UNIX socket takes messages of our sizes whole or not.
 */
static int
send_locked(struct vfu_conn *c, const struct iovec *iov, unsigned int n_iov, const int *fds,
	    unsigned int n_fds)
{
	union {
		char buf[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {.msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = n_iov};
	size_t len = 0;
	ssize_t n;

	if (c->error != 0)
		return -c->error;
	for (unsigned int i = 0; i < n_iov; i++)
		len += iov[i].iov_len;
	if (n_fds != 0) {
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		msg.msg_control = control.buf;
		msg.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, n_fds * sizeof(int));
	}
	do
		n = sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)len)
		return 0;
	if (n >= 0)
		return fail_locked(c, EIO, NULL, "the socket took %zd of %zu bytes", n, len);
	if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
		return fail_locked(c, ENODEV, NULL, "the server hung up");
	return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

/* Doorbells that wait, as far as there is room. 0 when none is left. Under `send`. */
static int
flush_backlog_locked(struct vfu_conn *c)
{
	while (c->backlog_n != 0) {
		struct vfu_post *post = &c->backlog[c->backlog_first];
		struct iovec iov = {post, post->hdr.size};
		int rc = send_locked(c, &iov, 1, NULL, 0);

		if (c->error != 0)
			return -c->error;
		if (rc < 0) {
			if (now_us() - c->backlog_since_us > (int64_t)c->timeout_ms * 1000)
				return fail_locked(c, ETIMEDOUT, NULL,
						   "has not taken a doorbell for %u ms",
						   c->timeout_ms);
			return -EAGAIN;
		}
		c->backlog_first = (c->backlog_first + 1) % BACKLOG_MAX;
		c->backlog_n--;
		c->backlog_since_us = now_us();
	}
	return 0;
}

/* There is room again: on the control loop. */
static void
room_handler(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_conn *c = ev->arg;

	pthread_mutex_lock(&c->send);
	flush_backlog_locked(c);
	pthread_mutex_unlock(&c->send);
	tell(c);
	/* The last that it does: a disconnect need not wait for it once it is deleted. */
	pthread_mutex_lock(&c->send);
	if (c->backlog_n == 0) {
		c->room_awaited = false;
		vdpa_event_del(ev);
	}
	pthread_mutex_unlock(&c->send);
}

static int
put_backlog_locked(struct vfu_conn *c, const struct vfu_post *post)
{
	struct vdpa_event_loop *loop = vdpa_event_loop_control();

	for (unsigned int i = 0; i < c->backlog_n; i++) {
		const struct vfu_post *p = &c->backlog[(c->backlog_first + i) % BACKLOG_MAX];

		/* But for the id. */
		if (p->hdr.size == post->hdr.size &&
		    memcmp(&p->access, &post->access,
			   post->hdr.size - offsetof(struct vfu_post, access)) == 0)
			return 0;
	}
	if (c->backlog_n == BACKLOG_MAX)
		return fail_locked(c, ETIMEDOUT, NULL, "does not take doorbells: %u wait for it",
				   BACKLOG_MAX);
	if (c->backlog_n == 0)
		c->backlog_since_us = now_us();
	c->backlog[(c->backlog_first + c->backlog_n++) % BACKLOG_MAX] = *post;
	/* Without a loop, or when this fails, the next doorbell or request sends it. */
	if (!c->room_awaited && c->watched && loop != NULL && vdpa_event_add(loop, &c->room) == 0)
		c->room_awaited = true;
	return 0;
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
				close(fd);
				more = true;
			}
		}
	}
	if (more)
		return fail(c, EPROTO, "a message with more file descriptors than one");
	return 0;
}

/* Read what there is of a message. 1 when it is whole; 0: not yet; negative: the end. */
static int
receive(struct vfu_conn *c)
{
	struct vfio_user_header *hdr = (struct vfio_user_header *)c->rx;

	for (;;) {
		size_t want = c->rx_len < sizeof(*hdr) ? sizeof(*hdr) : hdr->size;
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
static void
receive_next(struct vfu_conn *c)
{
	if (c->rx_fd >= 0)
		close(c->rx_fd);
	c->rx_fd = -1;
	c->rx_len = 0;
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
	rc = send_locked(c, &iov, 1, NULL, 0);
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
	if (hdr->id & POST_ID && hdr->command == VFIO_USER_REGION_WRITE && c->rx_fd < 0) {
		posts = __atomic_load_n(&c->posts, __ATOMIC_RELAXED);
		if (c->post_replies < posts) {
			if (c->post_replies++ == 0)
				VDPA_LOG(NOTICE,
					 "%s: the server answers writes that ask for no reply",
					 c->name);
			return 0;
		}
	}
	if (call == NULL)
		return fail(c, EPROTO, "reply %u to command %u, which nobody has asked", hdr->id,
			    hdr->command);
	if (hdr->id != id || hdr->command != call->command)
		return fail(c, EPROTO, "reply %u to command %u, expected %u to %u", hdr->id,
			    hdr->command, id, call->command);
	return take_reply(c, call, err);
}

/* Wait for events on the socket until the deadline. False when that has come. */
static bool
wait_for(struct vfu_conn *c, short events, int64_t deadline_us)
{
	for (;;) {
		struct pollfd pfd = {.fd = c->fd, .events = events};
		int64_t left = deadline_us - now_us();
		int n;

		if (left <= 0)
			return false;
		n = poll(&pfd, 1, (int)((left + 999) / 1000));
		if (n > 0 || (n < 0 && errno != EINTR))
			return true;
	}
}

static int
timed_out(struct vfu_conn *c, int64_t waited_us, bool sent)
{
	const struct vfio_user_header *hdr = (const struct vfio_user_header *)c->rx;

	if (waited_us / 1000 < c->timeout_ms)
		return fail(c, ETIMEDOUT,
			    "no answer in %" PRId64 " ms, after answers that came late for %u ms",
			    waited_us / 1000, PATIENCE_TIMEOUTS * c->timeout_ms);
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
		.id = c->next_id++ & (uint16_t)~POST_ID,
		.command = call->command,
		.size = (uint32_t)(sizeof(hdr) + call->arg_len + call->data_len),
		.flags = VFIO_USER_TYPE_CMD,
	};
	const struct iovec iov[] = {
		{&hdr, sizeof(hdr)},
		{(void *)(uintptr_t)call->arg, call->arg_len},
		{(void *)(uintptr_t)call->data, call->data_len},
	};
	int64_t start = now_us(), limit, waited;
	bool sent = false;
	int rc;

	c->refusals = 0;
	c->patience_us += (start - c->patience_at_us) / PATIENCE_REFILL;
	c->patience_us = RTE_MIN(c->patience_us, (int64_t)PATIENCE_TIMEOUTS * c->timeout_ms * 1000);
	c->patience_at_us = start;
	limit = GRACE_US + RTE_MAX(c->patience_us, 0);
	limit = RTE_MIN(limit, (int64_t)c->timeout_ms * 1000);
	for (;;) {
		if (!sent) {
			pthread_mutex_lock(&c->send);
			rc = flush_backlog_locked(c);
			if (rc == 0)
				rc = send_locked(c, iov, RTE_DIM(iov), call->fds, call->n_fds);
			pthread_mutex_unlock(&c->send);
			sent = rc == 0;
			if (rc < 0 && rc != -EAGAIN)
				return rc;
		}
		rc = receive(c);
		if (rc > 0) {
			rc = dispatch(c, sent ? call : NULL, hdr.id, err);
			receive_next(c);
			if (rc > 0)
				break;
			if (rc == 0 && now_us() - start < limit)
				continue;
		}
		if (rc < 0)
			return rc;
		if (!wait_for(c, sent ? POLLIN : POLLIN | POLLOUT, start + limit))
			return timed_out(c, now_us() - start, sent);
	}
	waited = now_us() - start;
	if (waited > GRACE_US)
		c->patience_us -= waited - GRACE_US;
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
			close(*call->reply_fd);
			*call->reply_fd = -1;
		}
		tell(c);
		return gone_error(c);
	}
	if (rc < 0)
		return vdpa_error(rc, "%s: %s: cannot be sent: %s", c->name,
				  vdpa_vfu_command_name(call->command), strerror(-rc));
	if (err != 0)
		return vdpa_error(err, "%s: %s: the server answers: %s", c->name,
				  vdpa_vfu_command_name(call->command), strerror(err));
	return 0;
}

/* Read what has come without being asked for, unless a request does that already. */
static void
drain(struct vfu_conn *c)
{
	int rc, err;

	if (pthread_mutex_trylock(&c->request) != 0)
		return;
	c->refusals = 0;
	for (unsigned int i = 0; i < 2 * DRAIN_EVERY; i++) {
		rc = receive(c);
		if (rc <= 0)
			break;
		rc = dispatch(c, NULL, 0, &err);
		receive_next(c);
		if (rc < 0)
			break;
	}
	pthread_mutex_unlock(&c->request);
}

int
vdpa_vfu_post(struct vfu_conn *c, uint32_t region, uint64_t offset, const void *buf, size_t len)
{
	struct vfu_post post = {
		.hdr = {.command = VFIO_USER_REGION_WRITE,
			.size = (uint32_t)(offsetof(struct vfu_post, data) + len),
			.flags = VFIO_USER_TYPE_CMD | VFIO_USER_NO_REPLY},
		.access = {.offset = offset, .region = region, .count = (uint32_t)len},
	};
	struct iovec iov = {&post, post.hdr.size};
	uint64_t posts;
	int rc;

	if (len > sizeof(post.data))
		return -EINVAL;
	memcpy(post.data, buf, len);
	pthread_mutex_lock(&c->send);
	posts = c->posts + 1;
	__atomic_store_n(&c->posts, posts, __ATOMIC_RELAXED);
	post.hdr.id = (uint16_t)(posts | POST_ID);
	rc = flush_backlog_locked(c);
	if (rc == 0)
		rc = send_locked(c, &iov, 1, NULL, 0);
	if (rc < 0 && c->error == 0)
		rc = put_backlog_locked(c, &post);
	pthread_mutex_unlock(&c->send);
	if (rc == 0 && posts % DRAIN_EVERY == 0)
		drain(c);
	tell(c);
	return vdpa_vfu_error(c);
}

/* On the control loop: the server closed its end, asked or not. */
static void
hangup_handler(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_conn *c = ev->arg;

	pthread_mutex_lock(&c->send);
	fail_locked(c, ENODEV, NULL, "the server hung up");
	pthread_mutex_unlock(&c->send);
	tell(c);
	/* It would come again and again. The last that it does, as above. */
	vdpa_event_del(ev);
}

int
vdpa_vfu_watch(struct vfu_conn *c, struct vdpa_pci *pci)
{
	struct vdpa_event_loop *loop = vdpa_event_loop_control();
	int rc;

	pthread_mutex_lock(&c->send);
	c->pci = pci;
	c->watched = true;
	pthread_mutex_unlock(&c->send);
	if (loop == NULL)
		return 0;
	rc = vdpa_event_add(loop, &c->hangup);
	return rc < 0 ? vdpa_error(rc, "%s: epoll: %s", c->name, strerror(-rc)) : 0;
}

/* Connect, waiting while the server's backlog is full: a connect(2) that does not wait says so. */
static int
connect_by(int fd, const struct sockaddr_un *un, int64_t deadline_us)
{
	const struct timespec pause = {.tv_nsec = CONNECT_RETRY_MS * 1000000L};

	while (connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (now_us() >= deadline_us)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int
vdpa_vfu_connect(const char *name, const char *path, unsigned int timeout_ms, struct vfu_conn **out)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct vfu_conn *c;
	int rc;

	if (path[0] == '\0' || strlen(path) >= sizeof(un.sun_path))
		return vdpa_error(EINVAL,
				  "%s: no socket path of 1 to %zu bytes; give vfio-user/PATH", name,
				  sizeof(un.sun_path) - 1);
	memcpy(un.sun_path, path, strlen(path) + 1);
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	c->name = strdup(name);
	if (c->name == NULL) {
		rc = vdpa_error(ENOMEM, "%s: out of memory", name);
		goto err_conn;
	}
	c->timeout_ms = timeout_ms;
	c->patience_us = (int64_t)PATIENCE_TIMEOUTS * timeout_ms * 1000;
	c->patience_at_us = now_us();
	c->rx_fd = -1;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		rc = vdpa_error(errno, "%s: socket: %m", name);
		goto err_name;
	}
	rc = connect_by(c->fd, &un, now_us() + (int64_t)timeout_ms * 1000);
	if (rc < 0) {
		vdpa_error(rc, "%s: %s; is a vfio-user server started on this socket?", name,
			   strerror(-rc));
		goto err_socket;
	}
	c->room.fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
	if (c->room.fd < 0) {
		rc = vdpa_error(errno, "%s: dup: %m", name);
		goto err_socket;
	}
	c->room.events = EPOLLOUT;
	c->room.handler = room_handler;
	c->room.arg = c;
	c->hangup.fd = c->fd;
	c->hangup.events = EPOLLRDHUP;
	c->hangup.handler = hangup_handler;
	c->hangup.arg = c;
	pthread_mutex_init(&c->request, NULL);
	pthread_mutex_init(&c->send, NULL);
	*out = c;
	return 0;

err_socket:
	close(c->fd);
err_name:
	free(c->name);
err_conn:
	free(c);
	return rc;
}

void
vdpa_vfu_disconnect(struct vfu_conn *c)
{
	if (c == NULL)
		return;
	vdpa_event_del(&c->hangup);
	/* It is awaited under the lock, and deleted under it. */
	pthread_mutex_lock(&c->send);
	c->watched = false;
	pthread_mutex_unlock(&c->send);
	vdpa_event_del(&c->room);
	pthread_mutex_lock(&c->send);
	pthread_mutex_unlock(&c->send);
	receive_next(c);
	close(c->room.fd);
	close(c->fd);
	pthread_mutex_destroy(&c->send);
	pthread_mutex_destroy(&c->request);
	free(c->name);
	free(c);
}
