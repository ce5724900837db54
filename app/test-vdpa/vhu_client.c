/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The front end's side of a vhost-user connection; see vhu_client.h. */

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <vdpa_args.h>

#include "clock.h"
#include "vfio_user_proto.h"
#include "vhu_client.h"

/* A vfio-user server has nothing to do before it answers, but may have a client to let go. */
#define OTHER_MS       1000
#define OTHER_AGAIN_US 20000

/* Payload of a back end's host notifier. */
struct vring_area {
	uint64_t index; /* and flags */
	uint64_t size;
	uint64_t offset;
} VHU_WIRE;

_Static_assert(sizeof(struct vring_area) == 24, "vring area");

static uint64_t
now_ms(void)
{
	return now_ns() / 1000000;
}

/* A connected socket, or a negative errno with vdpa_error_message(). */
static int
connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd, rc;

	if (strlen(path) >= sizeof(addr.sun_path))
		return vdpa_error(EINVAL, "a socket's path has at most %zu characters",
				  sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return vdpa_error(errno, "socket: %s", strerror(errno));
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0)
		return fd;
	rc = vdpa_error(errno, "cannot connect: %s", strerror(errno));
	close(fd);
	return rc;
}

int
vhu_client_connect(struct vhu_client *c, const char *path, int answer_ms)
{
	memset(c, 0, sizeof(*c));
	c->backend_fd = -1;
	c->answer_ms = answer_ms;
	for (unsigned int i = 0; i < VDPA_VQ_MAX; i++)
		c->notifiers[i].fd = -1;
	c->fd = connect_to(path);
	return c->fd < 0 ? c->fd : 0;
}

void
vhu_client_close(struct vhu_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	if (c->backend_fd >= 0)
		close(c->backend_fd);
	c->fd = -1;
	c->backend_fd = -1;
	for (unsigned int i = 0; i < VDPA_VQ_MAX; i++) {
		if (c->notifiers[i].fd >= 0)
			close(c->notifiers[i].fd);
		c->notifiers[i].fd = -1;
	}
}

/* The connection is no use any more. */
static int
broken(struct vhu_client *c, int err, const char *what)
{
	int rc = vdpa_error(err, "vhost-user: %s: %s", what,
			    err == ECONNRESET ? "the connection was closed" : strerror(err));

	vhu_client_close(c);
	return rc;
}

static int
send_message(struct vhu_client *c, int to, const struct vhu_msg *msg, const int *fds,
	     unsigned int nfds)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)msg,
			    .iov_len = VHU_HDR_SIZE + msg->size};
	char control[CMSG_SPACE(VHU_MSG_FDS_MAX * sizeof(int))] = {0};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	if (nfds > 0) {
		struct cmsghdr *cmsg;

		hdr.msg_control = control;
		hdr.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, nfds * sizeof(int));
	}
	n = sendmsg(to, &hdr, MSG_NOSIGNAL);
	/* A message is smaller than any socket buffer: it goes as a whole, or the peer is gone. */
	if (n == (ssize_t)iov.iov_len)
		return 0;
	return broken(c, n < 0 && errno != EPIPE ? errno : ECONNRESET, "sending");
}

/* Read n bytes; fd: the first descriptor that comes with them, others are closed. */
static int
receive(int from, void *buf, size_t n, uint64_t until, int *fd)
{
	uint8_t *p = buf;

	while (n > 0) {
		char control[CMSG_SPACE(VHU_MSG_FDS_MAX * sizeof(int))];
		struct iovec iov = {.iov_base = p, .iov_len = n};
		struct msghdr hdr = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control,
				     .msg_controllen = sizeof(control)};
		struct pollfd pfd = {.fd = from, .events = POLLIN};
		uint64_t now = now_ms();
		ssize_t got;

		if (now >= until || poll(&pfd, 1, (int)(until - now)) == 0)
			return -ETIMEDOUT;
		got = recvmsg(from, &hdr, MSG_CMSG_CLOEXEC);
		if (got <= 0)
			return got < 0 && errno != ECONNRESET ? -errno : -ECONNRESET;
		for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&hdr); cmsg != NULL;
		     cmsg = CMSG_NXTHDR(&hdr, cmsg)) {
			size_t count = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; cmsg->cmsg_type == SCM_RIGHTS && i < count; i++) {
				int one;

				memcpy(&one, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(one));
				if (fd != NULL && *fd < 0)
					*fd = one;
				else
					close(one);
			}
		}
		p += got;
		n -= (size_t)got;
	}
	return 0;
}

bool
vhu_client_is_vfio_user(const char *path)
{
	static const struct {
		struct vfio_user_header header;
		struct vfio_user_version version;
	} __attribute__((packed)) ask = {
		.header = {.id = 1, .command = VFIO_USER_VERSION, .size = sizeof(ask)},
		.version = {VFIO_USER_MAJOR, VFIO_USER_MINOR},
	};
	uint64_t until = now_ms() + OTHER_MS;
	struct vfio_user_header reply;
	int rc;

	do {
		int fd = connect_to(path);

		if (fd < 0)
			return false;
		rc = send(fd, &ask, sizeof(ask), MSG_NOSIGNAL) == (ssize_t)sizeof(ask)
			     ? receive(fd, &reply, sizeof(reply), until, NULL)
			     : -ECONNRESET;
		close(fd);
		if (rc == 0)
			return reply.id == ask.header.id && reply.command == VFIO_USER_VERSION &&
			       (reply.flags & VFIO_USER_TYPE_MASK) == VFIO_USER_TYPE_REPLY;
		/* It has not seen yet that its last client is gone. */
		sleep_us(OTHER_AGAIN_US);
	} while (rc == -ECONNRESET && now_ms() < until);
	return false;
}

static int
receive_message(const struct vhu_client *c, int from, struct vhu_msg *msg, int *fd)
{
	uint64_t until = now_ms() + (uint64_t)c->answer_ms;
	int rc = receive(from, msg, VHU_HDR_SIZE, until, fd);

	if (rc == 0 && msg->size > sizeof(msg->payload))
		rc = -EMSGSIZE;
	return rc < 0 ? rc : receive(from, &msg->payload, msg->size, until, fd);
}

static void
take_notifier(struct vhu_client *c, const struct vhu_msg *msg, int fd)
{
	struct vring_area area;
	struct vhu_notifier *n;

	memcpy(&area, &msg->payload, sizeof(area));
	if (msg->size != sizeof(area) || (area.index & VHU_FILE_INDEX_MASK) >= VDPA_VQ_MAX) {
		if (fd >= 0)
			close(fd);
		return;
	}
	n = &c->notifiers[area.index & VHU_FILE_INDEX_MASK];
	if (n->fd >= 0)
		close(n->fd);
	*n = (struct vhu_notifier){.fd = (area.index & VHU_FILE_NOFD) ? -1 : fd,
				   .offset = area.offset,
				   .size = area.size};
	if (n->fd < 0 && fd >= 0)
		close(fd);
}

/* One message of the back end's own. */
static void
serve_one(struct vhu_client *c)
{
	struct vhu_msg msg = {0};
	int fd = -1;

	if (receive_message(c, c->backend_fd, &msg, &fd) < 0) {
		close(c->backend_fd);
		c->backend_fd = -1;
		if (fd >= 0)
			close(fd);
		return;
	}
	if (msg.request == VHU_BACKEND_HOST_NOTIFIER_MSG) {
		take_notifier(c, &msg, fd);
		fd = -1;
	} else if (msg.request == VHU_BACKEND_CONFIG_CHANGE_MSG) {
		c->config_changes++;
	}
	if (fd >= 0)
		close(fd);
	if (msg.flags & VHU_FLAGS_NEED_REPLY) {
		msg.flags = VHU_FLAGS_VERSION | VHU_FLAGS_REPLY;
		msg.payload.u64 = 0;
		msg.size = sizeof(msg.payload.u64);
		send_message(c, c->backend_fd, &msg, NULL, 0);
	}
}

void
vhu_client_serve(struct vhu_client *c, int timeout_ms)
{
	struct pollfd pfd = {.fd = c->backend_fd, .events = POLLIN};

	while (c->backend_fd >= 0 && poll(&pfd, 1, timeout_ms) > 0) {
		serve_one(c);
		timeout_ms = 0;
	}
}

bool
vhu_client_is_closed(const struct vhu_client *c)
{
	struct pollfd pfd = {.fd = c->fd, .events = POLLRDHUP};

	return poll(&pfd, 1, 0) > 0;
}

static int
await_reply(struct vhu_client *c, struct vhu_msg *msg, const char *what)
{
	uint32_t request = msg->request;
	uint64_t until = now_ms() + (uint64_t)c->answer_ms;
	int rc, fd = -1;

	for (;;) {
		struct pollfd fds[] = {{.fd = c->fd, .events = POLLIN},
				       {.fd = c->backend_fd, .events = POLLIN}};
		uint64_t now = now_ms();

		if (now >= until || poll(fds, 2, (int)(until - now)) == 0)
			return broken(c, ETIMEDOUT, what);
		if (fds[1].revents != 0)
			serve_one(c);
		if (fds[0].revents != 0)
			break;
	}
	rc = receive_message(c, c->fd, msg, &fd);
	if (fd >= 0)
		close(fd);
	if (rc < 0)
		return broken(c, -rc, what);
	if (msg->request != request || !(msg->flags & VHU_FLAGS_REPLY))
		return broken(c, EPROTO, what);
	return 0;
}

static const char *
request_name(enum vhu_request request)
{
	static const char *const names[VHU_REQUEST_MAX] = {
		[VHU_GET_FEATURES] = "GET_FEATURES",
		[VHU_SET_FEATURES] = "SET_FEATURES",
		[VHU_SET_OWNER] = "SET_OWNER",
		[VHU_SET_MEM_TABLE] = "SET_MEM_TABLE",
		[VHU_SET_LOG_BASE] = "SET_LOG_BASE",
		[VHU_SET_VRING_NUM] = "SET_VRING_NUM",
		[VHU_SET_VRING_ADDR] = "SET_VRING_ADDR",
		[VHU_SET_VRING_BASE] = "SET_VRING_BASE",
		[VHU_GET_VRING_BASE] = "GET_VRING_BASE",
		[VHU_SET_VRING_KICK] = "SET_VRING_KICK",
		[VHU_SET_VRING_CALL] = "SET_VRING_CALL",
		[VHU_GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
		[VHU_SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES",
		[VHU_GET_QUEUE_NUM] = "GET_QUEUE_NUM",
		[VHU_SET_VRING_ENABLE] = "SET_VRING_ENABLE",
		[VHU_SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD",
		[VHU_GET_CONFIG] = "GET_CONFIG",
		[VHU_RESET_DEVICE] = "RESET_DEVICE",
		[VHU_SET_STATUS] = "SET_STATUS",
		[VHU_GET_STATUS] = "GET_STATUS",
	};

	return names[request] != NULL ? names[request] : "request";
}

static int
prepare(struct vhu_client *c, struct vhu_msg *msg, enum vhu_request request, const void *payload,
	uint32_t size)
{
	if (c->fd < 0)
		return vdpa_error(ENOTCONN, "vhost-user: %s: there is no connection",
				  request_name(request));
	memset(msg, 0, VHU_HDR_SIZE);
	msg->request = request;
	msg->flags = VHU_FLAGS_VERSION;
	msg->size = size;
	if (size > 0)
		memcpy(&msg->payload, payload, size);
	return 0;
}

int
vhu_client_send(struct vhu_client *c, enum vhu_request request, const void *payload, uint32_t size,
		const int *fds, unsigned int nfds)
{
	struct vhu_msg msg;
	int rc = prepare(c, &msg, request, payload, size);

	if (rc < 0)
		return rc;
	if (vhu_client_has(c, VHU_P_REPLY_ACK))
		msg.flags |= VHU_FLAGS_NEED_REPLY;
	rc = send_message(c, c->fd, &msg, fds, nfds);
	if (rc < 0 || !vhu_client_has(c, VHU_P_REPLY_ACK))
		return rc;
	rc = await_reply(c, &msg, request_name(request));
	if (rc < 0)
		return rc;
	if (msg.size != sizeof(msg.payload.u64))
		return broken(c, EPROTO, request_name(request));
	if (msg.payload.u64 != 0)
		return vdpa_error(EPROTO, "vhost-user: the back end refuses %s",
				  request_name(request));
	return 0;
}

int
vhu_client_ask(struct vhu_client *c, enum vhu_request request, void *payload, uint32_t send_size,
	       uint32_t reply_size)
{
	struct vhu_msg msg;
	int rc = prepare(c, &msg, request, payload, send_size);

	if (rc == 0)
		rc = send_message(c, c->fd, &msg, NULL, 0);
	if (rc == 0)
		rc = await_reply(c, &msg, request_name(request));
	if (rc < 0)
		return rc;
	if (msg.size != reply_size)
		return vdpa_error(EPROTO, "vhost-user: %s: a reply of %u bytes instead of %u",
				  request_name(request), msg.size, reply_size);
	memcpy(payload, &msg.payload, reply_size);
	return 0;
}

int
vhu_client_set_log(struct vhu_client *c, int fd, uint64_t size)
{
	const struct vhu_log log = {.mmap_size = size};
	struct vhu_msg msg;
	int rc = prepare(c, &msg, VHU_SET_LOG_BASE, &log, sizeof(log));

	if (rc == 0)
		rc = send_message(c, c->fd, &msg, &fd, 1);
	/* Answered where LOG_SHMFD is negotiated: by some with a number, by others without. */
	if (rc == 0)
		rc = await_reply(c, &msg, request_name(VHU_SET_LOG_BASE));
	if (rc < 0)
		return rc;
	if (msg.size != 0 && (msg.size != sizeof(msg.payload.u64) || msg.payload.u64 != 0))
		return vdpa_error(EPROTO, "vhost-user: the back end refuses SET_LOG_BASE");
	return 0;
}

int
vhu_client_open_backend_channel(struct vhu_client *c)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return vdpa_error(errno, "socketpair: %s", strerror(errno));
	c->backend_fd = pair[0];
	rc = vhu_client_send(c, VHU_SET_BACKEND_REQ_FD, NULL, 0, &pair[1], 1);
	close(pair[1]);
	return rc;
}
