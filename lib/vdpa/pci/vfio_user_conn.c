/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection to a vfio-user server, from connect to its end. Owns the socket and what is common
 * to requests and doorbells. What the messages mean is their senders' concern.
 *
 * The connection ends once and for good: the server hung up, did not answer in time, or broke the
 * protocol. The first cause counts, and is reported to pci.c, whichever thread found it.
 *
 * Two locks. `request` is held from a request to its reply, which may take a time-out. `send` is
 * held for one non-blocking sendmsg(2) and for the connection's state: it is all that a doorbell
 * needs, so that kicks do not wait behind a slow request. `send` may be taken under `request`.
 *
 * A connection may outlive the process (vdpa_restart.h): its socket is in the store, and the next
 * process goes on with it, which the server does not see. Messages are whole in both directions,
 * whenever the process is killed: each is sent, and taken out of the socket, in one call. So all
 * that can be left is a reply that nobody has read, which the next process drops, and a doorbell
 * that waited for room, which it makes up for.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <rte_common.h>
#include <rte_random.h>

#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vfio_user_conn.h"

/* Between attempts to connect. */
#define CONNECT_RETRY_MS 10
/* How long a vhost-user back end has to answer: it has nothing else to do then. */
#define OTHER_MS	 500

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
	[VFIO_USER_DEVICE_FEATURE] = "DEVICE_FEATURE",
};

const char *
vdpa_vfu_command_name(uint16_t command)
{
	const char *name = command < RTE_DIM(command_names) ? command_names[command] : NULL;

	return name != NULL ? name : "command";
}

/* Whether another process has the connection, or may have it again: this one does not end it. */
static bool
is_others(const struct vfu_conn *c)
{
	return c->is_left || (c->is_adopted && vdpa_restart_holds());
}

int
vdpa_vfu_vend_locked(struct vfu_conn *c, int err, const char *doing, const char *fmt, va_list ap)
{
	int n = 0;

	if (c->error != 0)
		return -c->error;
	if (doing != NULL)
		n = snprintf(c->cause, sizeof(c->cause), "%s: ", doing);
	vsnprintf(c->cause + n, sizeof(c->cause) - (size_t)n, fmt, ap);
	c->backlog_n = 0;
	__atomic_store_n(&c->error, err, __ATOMIC_RELEASE);
	/* Wakes whoever waits for a reply, and the server knows. */
	if (!is_others(c))
		shutdown(c->fd, SHUT_RDWR);
	return -err;
}

int
vdpa_vfu_end_locked(struct vfu_conn *c, int err, const char *doing, const char *fmt, ...)
{
	va_list ap;
	int rc;

	va_start(ap, fmt);
	rc = vdpa_vfu_vend_locked(c, err, doing, fmt, ap);
	va_end(ap);
	return rc;
}

int
vdpa_vfu_error(struct vfu_conn *c)
{
	return -__atomic_load_n(&c->error, __ATOMIC_ACQUIRE);
}

void
vdpa_vfu_tell(struct vfu_conn *c)
{
	struct vdpa_pci *pci = NULL;

	if (vdpa_vfu_error(c) == 0)
		return;
	pthread_mutex_lock(&c->send);
	if (!c->reported && c->pci != NULL) {
		c->reported = true;
		pci = c->pci;
	}
	pthread_mutex_unlock(&c->send);
	if (pci != NULL)
		vdpa_pci_gone(pci, -c->error, "%s: %s", c->name, c->cause);
}

int
vdpa_vfu_gone_error(struct vfu_conn *c)
{
	return vdpa_error(c->error, "%s: %s", c->name, c->cause);
}

int
vdpa_vfu_violation(struct vfu_conn *c, uint16_t command, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&c->send);
	va_start(ap, fmt);
	vdpa_vfu_vend_locked(c, EPROTO, vdpa_vfu_command_name(command), fmt, ap);
	va_end(ap);
	pthread_mutex_unlock(&c->send);
	vdpa_vfu_tell(c);
	return vdpa_vfu_gone_error(c);
}

/* A UNIX socket takes messages of our sizes whole or not, and a call that does not wait is not cut
 * short: a process that is killed has sent a message or has not. */
int
vdpa_vfu_send_locked(struct vfu_conn *c, const struct iovec *iov, unsigned int n_iov,
		     const int *fds, unsigned int n_fds)
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
		return vdpa_vfu_end_locked(c, EIO, NULL, "the socket took %zd of %zu bytes", n,
					   len);
	if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN)
		return vdpa_vfu_end_locked(c, ENODEV, NULL, "the server hung up");
	return errno == EWOULDBLOCK ? -EAGAIN : -errno;
}

/* On the control loop: the server closed its end, asked or not. */
static void
hangup_handler(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_conn *c = ev->arg;

	pthread_mutex_lock(&c->send);
	vdpa_vfu_end_locked(c, ENODEV, NULL, "the server hung up");
	pthread_mutex_unlock(&c->send);
	vdpa_vfu_tell(c);
	/* It would come again and again. The last that it does: a disconnect need not wait for it
	 * once it is deleted. */
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

/*
 * Connect, waiting while the server's backlog is full, which a connect(2) that does not wait says,
 * and while there is no server yet: one that was started just before may not have its socket.
 */
static int
connect_by(int fd, const struct sockaddr_un *un, int64_t deadline_us)
{
	const struct timespec pause = {.tv_nsec = CONNECT_RETRY_MS * 1000000L};

	while (connect(fd, (const struct sockaddr *)un, sizeof(*un)) < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ENOENT && errno != ECONNREFUSED)
			return -errno;
		if (vdpa_now_us() >= deadline_us)
			return errno == ENOENT || errno == ECONNREFUSED ? -errno : -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

/* Without a socket. */
static int
conn_create(const char *name, unsigned int timeout_ms, struct vfu_conn **out)
{
	struct vfu_conn *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	c->name = strdup(name);
	c->fds = vdpa_fd_account_create();
	if (c->name == NULL || c->fds == NULL) {
		vdpa_fd_account_destroy(c->fds);
		free(c->name);
		free(c);
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	}
	c->timeout_ms = timeout_ms;
	vdpa_patience_init(&c->patience, timeout_ms, vdpa_now_us());
	c->fd = c->rx_fd = -1;
	*out = c;
	return 0;
}

static void
conn_free(struct vfu_conn *c)
{
	vdpa_fd_account_destroy(c->fds);
	free(c->name);
	free(c);
}

/* Its socket is connected. */
static int
conn_init(struct vfu_conn *c)
{
	c->room.fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 0);
	if (c->room.fd < 0)
		return vdpa_fd_error(errno, c->name);
	c->room.events = EPOLLOUT;
	c->room.handler = vdpa_vfu_room_handler;
	c->room.arg = c;
	c->hangup.fd = c->fd;
	c->hangup.events = EPOLLRDHUP;
	c->hangup.handler = hangup_handler;
	c->hangup.arg = c;
	pthread_mutex_init(&c->request, NULL);
	pthread_mutex_init(&c->send, NULL);
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
	rc = conn_create(name, timeout_ms, &c);
	if (rc < 0)
		return rc;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0) {
		rc = vdpa_fd_error(errno, name);
		goto err_conn;
	}
	rc = connect_by(c->fd, &un, vdpa_now_us() + (int64_t)timeout_ms * 1000);
	if (rc < 0) {
		if (rc == -EACCES || rc == -EPERM)
			vdpa_error(rc,
				   "%s: connect: %s; this user needs write permission: see ls -l "
				   "'%s'",
				   name, strerror(-rc), path);
		else
			vdpa_error(rc,
				   "%s: connect: %s, tried for %u ms; is a vfio-user server "
				   "started on this socket?",
				   name, strerror(-rc), timeout_ms);
		goto err_socket;
	}
	rc = conn_init(c);
	if (rc < 0)
		goto err_socket;
	*out = c;
	return 0;

err_socket:
	close(c->fd);
err_conn:
	conn_free(c);
	return rc;
}

/* Of a stream socket of the UNIX family that is connected to a listener with an address. */
static int
peer_of(int fd, struct vfu_peer *peer)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(int), un_len = sizeof(un);
	int domain, type;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX ||
	    getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM ||
	    getpeername(fd, (struct sockaddr *)&un, &un_len) < 0 ||
	    un_len <= offsetof(struct sockaddr_un, sun_path) || un_len > sizeof(un))
		return -EPROTO;
	memset(peer, 0, sizeof(*peer));
	peer->len = (uint32_t)(un_len - offsetof(struct sockaddr_un, sun_path));
	memcpy(peer->path, un.sun_path, peer->len);
	return 0;
}

int
vdpa_vfu_peer(const struct vfu_conn *c, struct vfu_peer *peer)
{
	int rc = peer_of(c->fd, peer);

	return rc < 0 ? vdpa_error(rc, "%s: its connection has no address", c->name) : 0;
}

int
vdpa_vfu_adopt(const char *name, int fd, const struct vfu_peer *peer, unsigned int timeout_ms,
	       struct vfu_conn **out)
{
	struct vfu_peer has;
	struct vfu_conn *c;
	int rc;

	/* One that is not this function's is another's, which goes on: it is closed, and not shut
	 * down. */
	if (peer_of(fd, &has) < 0 || memcmp(&has, peer, sizeof(has)) != 0) {
		close(fd);
		return vdpa_error(EPROTO, "%s: what was kept is not the connection to its server",
				  name);
	}
	rc = conn_create(name, timeout_ms, &c);
	if (rc < 0) {
		close(fd);
		return rc;
	}
	c->fd = fd;
	c->is_adopted = true;
	/* None of its ids is one that is waited for, but by chance; what is answered is checked. */
	c->next_id = (uint16_t)rte_rand();
	c->stale = VFU_STALE_MAX;
	c->posts = VFU_STALE_POSTS;
	rc = conn_init(c);
	if (rc < 0) {
		close(fd);
		conn_free(c);
		return rc;
	}
	*out = c;
	return 0;
}

int
vdpa_vfu_socket(const struct vfu_conn *c)
{
	return c->fd;
}

void
vdpa_vfu_leave(struct vfu_conn *c)
{
	pthread_mutex_lock(&c->request);
	pthread_mutex_lock(&c->send);
	c->is_left = true;
	pthread_mutex_unlock(&c->send);
	pthread_mutex_unlock(&c->request);
}

void
vdpa_vfu_hang_up(struct vfu_conn *c)
{
	pthread_mutex_lock(&c->send);
	c->is_left = false;
	shutdown(c->fd, SHUT_RDWR);
	pthread_mutex_unlock(&c->send);
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
	/* What does not close at once goes on without us. */
	(void)vdpa_close_foreign(c->fds, c->rx_fd);
	close(c->room.fd);
	if (is_others(c))
		close(c->fd);
	else
		(void)vdpa_close_connection(c->fds, c->fd);
	pthread_mutex_destroy(&c->send);
	pthread_mutex_destroy(&c->request);
	conn_free(c);
}

/* Whether a vhost-user back end listens on the socket: it says which features it has. */
static bool
is_vhost_user(const char *path)
{
	/* Request, flags (version 1), size of the payload. */
	static const uint32_t get_features[] = {1, 1, 0}, answer[] = {1, 5, 8};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int64_t until_us = vdpa_now_us() + OTHER_MS * 1000;
	struct pollfd pfd = {.events = POLLIN};
	uint32_t got[RTE_DIM(answer)] = {0};

	memcpy(un.sun_path, path, strlen(path) + 1);
	pfd.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (pfd.fd < 0)
		return false;
	if (connect_by(pfd.fd, &un, until_us) == 0 &&
	    send(pfd.fd, get_features, sizeof(get_features), MSG_NOSIGNAL) ==
		    (ssize_t)sizeof(get_features) &&
	    poll(&pfd, 1, OTHER_MS) > 0)
		(void)!read(pfd.fd, got, sizeof(got));
	close(pfd.fd);
	return memcmp(got, answer, sizeof(answer)) == 0;
}

int
vdpa_vfu_explain(const char *name, const char *path, int rc)
{
	struct vdpa_error_saved error;

	/* A back end that reads VERSION as a request of its own hangs up, or waits for the rest. */
	if (rc != -ENODEV && rc != -ETIMEDOUT)
		return rc;
	vdpa_error_save(&error);
	if (is_vhost_user(path))
		return vdpa_error(rc,
				  "%s: this is the socket of a vhost-user back end, which serves a "
				  "device to a guest; test-vdpa --socket '%s' drives it",
				  name, path);
	vdpa_error_restore(&error);
	return rc;
}
