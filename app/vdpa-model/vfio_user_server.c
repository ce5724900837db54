/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The server's sockets: listening, one client, its messages in and out. What a message means is in
 * vfio_user_commands.c.
 *
 * A message is read to its end and no further, so that the file descriptors that come with it are
 * its own. One reply at a time is on its way; while it is, no message is read.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_common.h>

#include "model_fault.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfio_user_server_priv.h"

#define SOCKET_MODE	  0600
#define BACKLOG		  4
/* Messages of one client before others get their turn. */
#define MESSAGES_PER_TURN 32
#define OUT_OF_FILES                                                                               \
	"this process has as many files open as it may (ulimit -n); raise the limit or serve "     \
	"fewer devices"
/* How long the listener rests when a client cannot be accepted: it would be called again at once.
 */
#define PAUSE_MS 200

/* -EBUSY: too many of them do not close. */
static int
close_fds(struct vfu_server *s)
{
	int rc = 0;

	for (unsigned int i = 0; i < s->n_fds; i++)
		if (vdpa_close_foreign(s->account, s->fds[i]) < 0)
			rc = -EBUSY;
	s->n_fds = 0;
	return rc;
}

static void
hang_up(struct vfu_server *s)
{
	if (s->client.fd < 0)
		return;
	vdpa_event_del(&s->client);
	/* What does not close now is counted before the next client is accepted. */
	(void)vdpa_close_connection(s->account, s->client.fd);
	s->client.fd = -1;
	(void)close_fds(s);
	s->in_len = 0;
	s->out_len = s->out_sent = 0;
	s->out_fd = -1;
	s->version_done = false;
	s->delayed = false;
	s->params.ops->disconnected(s->params.arg);
	VDPA_LOG(INFO, "%s: vfio-user: disconnected", s->params.name);
}

void
vfu_server_disconnect(struct vfu_server *s)
{
	hang_up(s);
}

/* The client broke the framing: what follows cannot be understood. */
static void
refuse(struct vfu_server *s, const char *why)
{
	VDPA_LOG(ERR, "%s: vfio-user: %s: the client is hung up on", s->params.name, why);
	hang_up(s);
}

/* Wait for what is to come next: room for the reply, or the next message. */
static void
listen_for(struct vfu_server *s, uint32_t events)
{
	int rc;

	if (s->client.loop != NULL && s->client.events == events)
		return;
	vdpa_event_del(&s->client);
	s->client.events = events;
	rc = vdpa_event_add(s->params.loop, &s->client);
	if (rc < 0)
		refuse(s, "event loop");
}

/* Send what is left of the reply. False when the client is gone. */
static bool
flush(struct vfu_server *s)
{
	while (s->out_sent < s->out_len) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(sizeof(int))];
		} control;
		struct iovec iov = {.iov_base = s->out + s->out_sent,
				    .iov_len = s->out_len - s->out_sent};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (s->out_fd >= 0) {
			struct cmsghdr *c;

			memset(&control, 0, sizeof(control));
			msg.msg_control = &control;
			msg.msg_controllen = sizeof(control.buf);
			c = CMSG_FIRSTHDR(&msg);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int));
			memcpy(CMSG_DATA(c), &s->out_fd, sizeof(int));
		}
		n = sendmsg(s->client.fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			listen_for(s, EPOLLOUT);
			return s->client.fd >= 0;
		}
		if (n < 0) {
			hang_up(s);
			return false;
		}
		s->out_fd = -1;
		s->out_sent += (size_t)n;
	}
	s->out_len = s->out_sent = 0;
	listen_for(s, EPOLLIN);
	return s->client.fd >= 0;
}

static void
on_delay(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;
	uint64_t expired;

	if (read(ev->fd, &expired, sizeof(expired)) < 0 || !s->delayed)
		return;
	s->delayed = false;
	if (s->client.fd >= 0)
		flush(s);
}

/* The reply stands in out; send it as the faults have it. */
static bool
reply(struct vfu_server *s)
{
	uint32_t fault = __atomic_load_n(s->params.fault, __ATOMIC_RELAXED);
	struct vfio_user_header *hdr = (void *)s->out;

	if ((fault & MODEL_FAULT_BIT(NO_REPLY)) != 0) {
		s->out_len = 0;
		s->out_fd = -1;
		return true;
	}
	if ((fault & MODEL_FAULT_BIT(TRUNCATED_REPLY)) != 0 && s->out_len > sizeof(*hdr)) {
		s->out_len = sizeof(*hdr) + (s->out_len - sizeof(*hdr)) / 2;
		hdr->size = (uint32_t)s->out_len;
	}
	if ((fault & MODEL_FAULT_BIT(DELAYED_REPLY)) != 0) {
		unsigned int ms = __atomic_load_n(s->params.delay_ms, __ATOMIC_RELAXED);
		struct itimerspec when = {
			.it_value = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L + 1}};

		s->delayed = true;
		/* Neither messages nor room for the reply: only whether the client hangs up. */
		listen_for(s, 0);
		timerfd_settime(s->delay.fd, 0, &when, NULL);
		return s->client.fd >= 0;
	}
	return flush(s);
}

/* Take the file descriptors of a piece of a message. NULL, or what is wrong with them. */
static const char *
take_fds(struct vfu_server *s, struct msghdr *msg)
{
	bool cut = (msg->msg_flags & MSG_CTRUNC) != 0, many = false, unfit = false;
	size_t received = 0;
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		received += n;
		for (size_t i = 0; i < n; i++) {
			bool reserved;
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			reserved = vdpa_fd_in_reserve(fd);
			cut |= reserved;
			many |= s->n_fds == RTE_DIM(s->fds);
			unfit |= !vdpa_fd_can_be_kept(fd);
			if (many || unfit || reserved)
				(void)vdpa_close_foreign(s->account, fd);
			else
				s->fds[s->n_fds++] = fd;
		}
	}
	if (unfit)
		return "a message with a socket that is no empty half of a socket pair";
	if (many || (cut && received == VFIO_USER_FDS_MAX))
		return "a message with too many file descriptors";
	/* There was room for more in the message, but not in the process. */
	return cut ? "a file descriptor of the client could not be received: " OUT_OF_FILES : NULL;
}

/* Read up to `want` bytes of the message. 1 when they are there, 0 to be called again, -1: gone. */
static int
fill(struct vfu_server *s, size_t want)
{
	while (s->in_len < want) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(VFIO_USER_FDS_MAX * sizeof(int))];
		} control;
		struct iovec iov = {.iov_base = s->in + s->in_len, .iov_len = want - s->in_len};
		struct msghdr msg = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = &control,
				     .msg_controllen = sizeof(control.buf)};
		ssize_t n = recvmsg(s->client.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		const char *wrong;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0) {
			hang_up(s);
			return -1;
		}
		wrong = take_fds(s, &msg);
		if (wrong != NULL) {
			refuse(s, wrong);
			return -1;
		}
		s->in_len += (size_t)n;
	}
	return 1;
}

/* One message. True when there may be another. */
static bool
serve_message(struct vfu_server *s)
{
	const struct vfio_user_header *hdr = (const void *)s->in;
	bool full;

	if (fill(s, sizeof(*hdr)) <= 0)
		return false;
	if (hdr->size < sizeof(*hdr) || hdr->size > VFIO_USER_MSG_MAX) {
		char why[64];

		snprintf(why, sizeof(why), "a message of %u bytes", hdr->size);
		refuse(s, why);
		return false;
	}
	if (fill(s, hdr->size) <= 0)
		return false;
	vfu_command(s);
	full = close_fds(s) < 0;
	s->in_len = 0;
	/* A device may hang up on its client by itself. */
	if (s->client.fd < 0)
		return false;
	if (full) {
		refuse(s, "too many of its file descriptors do not close");
		return false;
	}
	return s->out_len == 0 || (reply(s) && s->out_len == 0);
}

static void
on_client(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;

	if (s->delayed) {
		if ((revents & (EPOLLHUP | EPOLLERR)) != 0)
			hang_up(s);
		return;
	}
	if (s->out_len > 0) {
		flush(s);
		return;
	}
	for (unsigned int i = 0; i < MESSAGES_PER_TURN; i++)
		if (!serve_message(s))
			return;
}

/* A client cannot be accepted: it waits until it can. Whoever waits so is told once. */
static void
rest(struct vfu_server *s, const char *why)
{
	const struct itimerspec when = {.it_value.tv_nsec = PAUSE_MS * 1000000L};

	if (!s->rested)
		VDPA_LOG(ERR,
			 "%s: vfio-user: a client cannot be accepted: %s; tried again until "
			 "it can",
			 s->params.name, why);
	s->rested = true;
	vdpa_event_del(&s->listener);
	timerfd_settime(s->pause.fd, 0, &when, NULL);
}

/* What makes room for one more file when there is none: to be opened again after it was used. */
static void
keep_spare(struct vfu_server *s)
{
	if (s->spare_fd < 0)
		s->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

/* One that there is no file descriptor for. */
static void
refuse_client(struct vfu_server *s, int fd)
{
	(void)vdpa_close_connection(s->account, fd);
	if (!s->rested)
		VDPA_LOG(ERR, "%s: vfio-user: a client is refused: " OUT_OF_FILES, s->params.name);
	s->rested = true;
}

/*
 * There is no file descriptor left for the client: it hears so at once, by the end of its
 * connection, instead of waiting. False when it could not even be taken for that.
 */
static bool
turn_away(struct vfu_server *s)
{
	int fd;

	if (s->spare_fd < 0)
		return false;
	close(s->spare_fd);
	s->spare_fd = -1;
	fd = accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		keep_spare(s);
		return false;
	}
	refuse_client(s, fd);
	keep_spare(s);
	return true;
}

static void
on_pause(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;
	uint64_t expired;
	int rc;

	if (read(ev->fd, &expired, sizeof(expired)) < 0)
		return;
	rc = vdpa_event_add(s->params.loop, &s->listener);
	if (rc < 0)
		rest(s, strerror(-rc));
}

static void
on_connection(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;
	char why[96];
	int fd;

	if (vdpa_fd_account_full(s->account)) {
		snprintf(why, sizeof(why),
			 "%u file descriptors that clients have sent do not close",
			 vdpa_fd_account_waiting(s->account));
		rest(s, why);
		return;
	}
	keep_spare(s);
	fd = accept4(ev->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return;
		if ((errno != EMFILE && errno != ENFILE) || !turn_away(s))
			rest(s, strerror(errno));
		return;
	}
	if (vdpa_fd_in_reserve(fd)) {
		refuse_client(s, fd);
		return;
	}
	s->rested = false;
	if (s->client.fd >= 0) {
		VDPA_LOG(WARNING, "%s: vfio-user: a second client is refused: there is one",
			 s->params.name);
		(void)vdpa_close_connection(s->account, fd);
		return;
	}
	s->client =
		(struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = on_client, .arg = s};
	if (vdpa_event_add(s->params.loop, &s->client) < 0) {
		VDPA_LOG(ERR, "%s: vfio-user: %s", s->params.name, vdpa_error_message());
		(void)vdpa_close_connection(s->account, fd);
		s->client.fd = -1;
		return;
	}
	s->params.ops->connected(s->params.arg);
	VDPA_LOG(INFO, "%s: vfio-user: connected", s->params.name);
}

/* Remove a socket that nobody listens on any more. */
static int
clear_path(const struct sockaddr_un *addr)
{
	struct stat st;
	int fd, rc;

	if (lstat(addr->sun_path, &st) < 0)
		return errno == ENOENT ? 0
				       : vdpa_error(errno, "vfio_user '%s': %s", addr->sun_path,
						    strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return vdpa_error(EINVAL, "vfio_user '%s': exists and is no socket",
				  addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return vdpa_error(errno, "socket: %s", strerror(errno));
	rc = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	close(fd);
	if (rc != ECONNREFUSED)
		return vdpa_error(EEXIST, "vfio_user '%s': somebody listens there", addr->sun_path);
	return unlink(addr->sun_path) < 0
		       ? vdpa_error(errno, "vfio_user '%s': %s", addr->sun_path, strerror(errno))
		       : 0;
}

/* Nobody can connect before listen(), so nobody does before the permissions stand. */
static int
open_socket(struct vfu_server *s)
{
	int rc = clear_path(&s->addr);

	if (rc < 0)
		return rc;
	s->listener.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (s->listener.fd < 0)
		return vdpa_error(errno, "socket: %s", strerror(errno));
	if (bind(s->listener.fd, (const struct sockaddr *)&s->addr, sizeof(s->addr)) < 0)
		return vdpa_error(errno,
				  "vfio_user '%s': cannot be created: %s; is its folder there and "
				  "writable?",
				  s->addr.sun_path, strerror(errno));
	s->bound = lstat(s->addr.sun_path, &s->file) == 0;
	if (chmod(s->addr.sun_path, SOCKET_MODE) < 0 || listen(s->listener.fd, BACKLOG) < 0)
		return vdpa_error(errno, "vfio_user '%s': %s", s->addr.sun_path, strerror(errno));
	return 0;
}

static int
hang_up_call(void *arg)
{
	hang_up(arg);
	return 0;
}

/* Whoever has put something else at the path since keeps it. */
static void
remove_socket(struct vfu_server *s)
{
	struct stat st;

	if (!s->bound)
		return;
	s->bound = false;
	if (lstat(s->addr.sun_path, &st) < 0)
		return;
	if (st.st_dev == s->file.st_dev && st.st_ino == s->file.st_ino)
		unlink(s->addr.sun_path);
	else
		VDPA_LOG(NOTICE, "%s: vfio-user: '%s' is no longer its socket and stays",
			 s->params.name, s->addr.sun_path);
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

void
vfu_server_stop(struct vfu_server *s)
{
	/* First what adds the listener again. */
	vdpa_event_del(&s->pause);
	vdpa_event_del(&s->listener);
	vdpa_event_loop_call(s->params.loop, hang_up_call, s);
	vdpa_event_del(&s->delay);
	/* While it is bound nobody else's file can have its inode. */
	remove_socket(s);
	/* Clients that nobody has accepted may have sent something. */
	(void)vdpa_close_connection(s->account, s->listener.fd);
	s->listener.fd = -1;
	close_fd(&s->delay.fd);
	close_fd(&s->pause.fd);
	close_fd(&s->spare_fd);
}

void
vfu_server_destroy(struct vfu_server *s)
{
	if (s == NULL)
		return;
	vfu_server_stop(s);
	vdpa_fd_account_destroy(s->account);
	free(s);
}

int
vfu_server_create(const struct vfu_params *params, struct vfu_server **out)
{
	struct vfu_server *s = calloc(1, sizeof(*s));
	int rc;

	if (s == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	s->params = *params;
	s->client.fd = s->listener.fd = s->delay.fd = s->pause.fd = s->out_fd = s->spare_fd = -1;
	s->account = vdpa_fd_account_create();
	if (s->account == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err;
	}
	s->addr.sun_family = AF_UNIX;
	if (strlen(params->path) >= sizeof(s->addr.sun_path)) {
		rc = vdpa_error(EINVAL, "vfio_user: longer than %zu characters: '%s'",
				sizeof(s->addr.sun_path) - 1, params->path);
		goto err;
	}
	strcpy(s->addr.sun_path, params->path);
	keep_spare(s);
	s->delay.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	s->pause.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->delay.fd < 0 || s->pause.fd < 0) {
		rc = vdpa_error(errno, "timer: %s", strerror(errno));
		goto err;
	}
	s->delay.events = s->pause.events = s->listener.events = EPOLLIN;
	s->delay.handler = on_delay;
	s->pause.handler = on_pause;
	s->listener.handler = on_connection;
	s->delay.arg = s->pause.arg = s->listener.arg = s;
	rc = vdpa_event_add(params->loop, &s->delay);
	if (rc == 0)
		rc = vdpa_event_add(params->loop, &s->pause);
	if (rc == 0)
		rc = open_socket(s);
	if (rc == 0)
		rc = vdpa_event_add(params->loop, &s->listener);
	if (rc < 0)
		goto err;
	*out = s;
	return 0;
err:
	vfu_server_destroy(s);
	return rc;
}
