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
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "restart.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"
#include "vfio_user_kept.h"
#include "vfio_user_server_priv.h"

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

/* Whether another process has the client, or may have it again. */
static bool
is_others(const struct vfu_server *s)
{
	return s->params.kept != NULL && vdpa_vfus_kept_is_others(s->params.kept);
}

/* Whether what comes waits for the next process. */
static bool
leaves(const struct vfu_server *s)
{
	return s->params.kept != NULL && vdpa_vfus_kept_leaves(s->params.kept);
}

/* The same of the listening socket. As long as a former process may go on, one that this process
 * has made is nobody else's. */
static bool
listener_is_others(const struct vfu_server *s)
{
	return vdpa_restart_holds() ? s->listen.adopted : leaves(s);
}

static void
hang_up(struct vfu_server *s)
{
	bool others = is_others(s);

	if (s->client.fd < 0)
		return;
	vdpa_event_del(&s->client);
	/* What does not close now is counted before the next client is accepted. */
	if (others) {
		vdpa_restart_leaves_connection(s->client.fd);
		close(s->client.fd);
	} else {
		(void)vdpa_close_connection(s->account, s->client.fd);
	}
	s->client.fd = -1;
	(void)close_fds(s);
	s->in_len = 0;
	s->out_len = s->out_sent = 0;
	s->out_fd = -1;
	s->version_done = false;
	s->delayed = false;
	s->params.ops->disconnected(s->params.arg);
	VDPA_LOG_LIMITED(&s->lines, INFO, "%s: vfio-user: %s", s->params.name,
			 others ? "left to the next process" : "disconnected");
}

void
vdpa_vfus_server_disconnect(struct vfu_server *s)
{
	hang_up(s);
}

/* The client broke the framing: what follows cannot be understood. */
static void
refuse(struct vfu_server *s, const char *why)
{
	VDPA_LOG_LIMITED(&s->lines, ERR, "%s: vfio-user: %s: the client is hung up on",
			 s->params.name, why);
	hang_up(s);
}

/* At the end of a job: wait for what is to come next, room for the reply or the next message. */
static void
listen_for(struct vfu_server *s, uint32_t events)
{
	int rc;

	if (s->client.fd < 0 || __atomic_load_n(&s->stopped, __ATOMIC_ACQUIRE))
		return;
	events |= EPOLLONESHOT;
	if (s->client.loop != NULL && s->client.events == events) {
		vdpa_event_rearm(&s->client);
		return;
	}
	vdpa_event_del(&s->client);
	s->client.events = events;
	rc = vdpa_event_add(vdpa_event_loop_control(), &s->client);
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
		n = vdpa_vfus_kept_send(s, &msg);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return true;
		if (n < 0) {
			hang_up(s);
			return false;
		}
		s->out_fd = -1;
		s->out_sent += (size_t)n;
	}
	s->out_len = s->out_sent = 0;
	return true;
}

/* What the client's next job waits for. */
static void
wait_for_client(struct vfu_server *s)
{
	/* While a reply is delayed, neither messages nor room for it: only whether the client hangs
	 * up. */
	listen_for(s, s->delayed ? 0 : s->out_len > 0 ? EPOLLOUT : EPOLLIN);
}

static void
on_delay(struct vdpa_timer *timer)
{
	struct vfu_server *s = timer->arg;

	vdpa_work_post(s->params.queue, &s->delay_work);
}

static void
run_delay(struct vdpa_work *work)
{
	struct vfu_server *s = work->arg;

	if (!s->delayed)
		return;
	s->delayed = false;
	if (s->client.fd >= 0 && flush(s))
		wait_for_client(s);
}

/* The reply stands in out. False when the client is gone. */
static bool
reply(struct vfu_server *s)
{
	unsigned int ms = 0;

	if (s->params.ops->reply != NULL)
		s->out_len = s->params.ops->reply(s->params.arg, s->out, s->out_len, &ms);
	if (s->out_len == 0) {
		s->out_fd = -1;
		return true;
	}
	if (ms > 0) {
		s->delayed = true;
		vdpa_timer_start(&s->delay, ms);
		return true;
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

/* Descriptors that a look has shown, and that are of another message. */
static void
close_seen(struct vfu_server *s, struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			(void)vdpa_close_foreign(s->account, fd);
		}
	}
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
		bool kept = s->params.kept != NULL && s->params.kept->on;
		ssize_t n = kept ? vdpa_vfus_kept_look(s, &msg)
				 : recvmsg(s->client.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		const char *wrong;
		int rc;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0) {
			hang_up(s);
			return -1;
		}
		rc = kept ? vdpa_vfus_kept_take(s, (size_t)n, &msg) : 1;
		if (rc <= 0)
			close_seen(s, &msg);
		wrong = rc > 0 ? take_fds(s, &msg) : rc < 0 ? "its bytes cannot be kept" : NULL;
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
	vdpa_vfus_kept_settle(s);
	vdpa_vfus_command(s);
	vdpa_vfus_kept_commit(s);
	full = close_fds(s) < 0;
	s->in_len = 0;
	/* A device may hang up on its client by itself. */
	if (s->client.fd < 0)
		return false;
	if (full) {
		/* What else the client caused lines of does not hide it. */
		VDPA_LOG_LIMITED(&s->full_lines, ERR,
				 "%s: vfio-user: too many of its file descriptors do not close: "
				 "the client is hung up on",
				 s->params.name);
		hang_up(s);
		return false;
	}
	return s->out_len == 0 || (reply(s) && s->out_len == 0);
}

static void
on_client(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;

	__atomic_store_n(&s->revents, revents, __ATOMIC_RELAXED);
	vdpa_work_post(s->params.queue, &s->client_work);
}

static void
run_client(struct vdpa_work *work)
{
	struct vfu_server *s = work->arg;

	if (s->client.fd < 0 || leaves(s))
		return;
	if (s->params.kept != NULL && !vdpa_vfus_planned_start_late(s->params.kept)) {
		hang_up(s);
		return;
	}
	if (s->delayed) {
		if ((__atomic_load_n(&s->revents, __ATOMIC_RELAXED) & (EPOLLHUP | EPOLLERR)) != 0)
			hang_up(s);
	} else if (s->out_len > 0) {
		flush(s);
	} else {
		for (unsigned int i = 0; i < MESSAGES_PER_TURN && !leaves(s) && serve_message(s);
		     i++)
			;
	}
	wait_for_client(s);
}

/* A client cannot be accepted: it waits until it can. Whoever waits so is told once. */
static void
rest(struct vfu_server *s, const char *why)
{
	if (!s->rested)
		VDPA_LOG(ERR,
			 "%s: vfio-user: a client cannot be accepted: %s; tried again until "
			 "it can",
			 s->params.name, why);
	s->rested = true;
	if (!__atomic_load_n(&s->stopped, __ATOMIC_ACQUIRE))
		vdpa_timer_start(&s->pause, PAUSE_MS);
}

static void
on_pause(struct vdpa_timer *timer)
{
	struct vfu_server *s = timer->arg;

	vdpa_event_rearm(&s->listener);
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

/* Somebody connects. False: nobody can be accepted for now. */
static bool
accept_client(struct vfu_server *s)
{
	struct vdpa_peer peer;
	char why[96];
	int fd;

	if (vdpa_fd_account_full(s->account)) {
		snprintf(why, sizeof(why),
			 "%u file descriptors that clients have sent do not close",
			 vdpa_fd_account_waiting(s->account));
		rest(s, why);
		return false;
	}
	keep_spare(s);
	fd = accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0) {
		if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
			return true;
		if ((errno == EMFILE || errno == ENFILE) && turn_away(s))
			return true;
		rest(s, strerror(errno));
		return false;
	}
	if (vdpa_fd_in_reserve(fd)) {
		refuse_client(s, fd);
		return true;
	}
	s->rested = false;
	if (s->client.fd >= 0) {
		VDPA_LOG_LIMITED(&s->lines, WARNING,
				 "%s: vfio-user: a second client is refused: there is one",
				 s->params.name);
		(void)vdpa_close_connection(s->account, fd);
		return true;
	}
	(void)vdpa_peer_of_socket(fd, &peer);
	if (s->params.ops->connected(s->params.arg, &peer) < 0) {
		VDPA_LOG_LIMITED(&s->lines, ERR, "%s: vfio-user: a client is refused: %s",
				 s->params.name, vdpa_error_message());
		(void)vdpa_close_connection(s->account, fd);
		return true;
	}
	s->client = (struct vdpa_event){.fd = fd, .handler = on_client, .arg = s};
	VDPA_LOG_LIMITED(&s->lines, INFO, "%s: vfio-user: connected", s->params.name);
	vdpa_vfus_kept_connected(s);
	wait_for_client(s);
	return true;
}

static void
on_connection(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_server *s = ev->arg;

	vdpa_work_post(s->params.queue, &s->accept_work);
}

static void
run_accept(struct vdpa_work *work)
{
	struct vfu_server *s = work->arg;

	if (!leaves(s) && accept_client(s))
		vdpa_event_rearm(&s->listener);
}

void
vdpa_vfus_server_stop(struct vfu_server *s)
{
	__atomic_store_n(&s->stopped, true, __ATOMIC_RELEASE);
	vdpa_restart_waits_no_more(&s->waiter);
	vdpa_event_del(&s->listener);
	vdpa_timer_stop(&s->delay);
	vdpa_work_cancel(&s->accept_work);
	vdpa_work_cancel(&s->client_work);
	vdpa_work_cancel(&s->delay_work);
	/* What a job began that had not seen it yet; then what that posted. */
	vdpa_timer_stop(&s->pause);
	vdpa_timer_stop(&s->delay);
	vdpa_event_del(&s->client);
	vdpa_work_cancel(&s->client_work);
	vdpa_work_cancel(&s->delay_work);
	vdpa_event_del(&s->client);
}

void
vdpa_vfus_server_unlisten(struct vfu_server *s)
{
	if (s->listen.fd < 0)
		return;
	if (listener_is_others(s)) {
		vdpa_restart_leaves_connection(s->listen.fd);
		close(s->listen.fd);
	} else {
		vdpa_listen_unlink(&s->listen);
		/* Clients that nobody has accepted may have sent something. */
		(void)vdpa_close_connection(s->account, s->listen.fd);
	}
	s->listen.fd = s->listener.fd = -1;
}

void
vdpa_vfus_server_end(struct vfu_server *s)
{
	hang_up(s);
	if (s->spare_fd >= 0)
		close(s->spare_fd);
	s->spare_fd = -1;
}

void
vdpa_vfus_server_destroy(struct vfu_server *s)
{
	if (s == NULL)
		return;
	vdpa_vfus_server_stop(s);
	vdpa_vfus_server_unlisten(s);
	vdpa_vfus_server_end(s);
	vdpa_fd_account_destroy(s->account);
	free(s);
}

/* A socket of our own, or a former process' one. */
static int
listen_at(struct vfu_server *s)
{
	const struct vfu_params *p = &s->params;

	if (p->kept != NULL &&
	    vdpa_vfus_kept_listener(p->kept, &s->listen, p->path, p->mode, p->group) == 0)
		return 0;
	return vdpa_listen_open(&s->listen, p->path, p->mode, p->group, BACKLOG);
}

/* The client that there is, and those to come. What it has sent was read in part, or as a whole. */
static int
hear(struct vfu_server *s)
{
	if (s->resumed)
		vdpa_work_post(s->params.queue, &s->client_work);
	s->listener = (struct vdpa_event){.fd = s->listen.fd,
					  .events = EPOLLIN | EPOLLONESHOT,
					  .handler = on_connection,
					  .arg = s};
	return vdpa_event_add(vdpa_event_loop_control(), &s->listener);
}

static void
hear_now(struct vdpa_restart_waiter *w)
{
	struct vfu_server *s = w->arg;

	if (hear(s) < 0)
		VDPA_LOG(ERR, "%s: vfio-user: nobody can connect to %s: %s", s->params.name,
			 s->params.path, vdpa_error_message());
}

int
vdpa_vfus_server_create(const struct vfu_params *params, struct vfu_server **out)
{
	struct vfu_server *s = calloc(1, sizeof(*s));
	int rc;

	*out = NULL;
	if (s == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	s->params = *params;
	s->listen.fd = s->client.fd = s->listener.fd = s->out_fd = s->spare_fd = -1;
	s->accept_work = (struct vdpa_work){.run = run_accept, .arg = s};
	s->client_work = (struct vdpa_work){.run = run_client, .arg = s};
	s->delay_work = (struct vdpa_work){.run = run_delay, .arg = s};
	s->delay = (struct vdpa_timer){.expired = on_delay, .arg = s};
	s->pause = (struct vdpa_timer){.expired = on_pause, .arg = s};
	s->waiter = (struct vdpa_restart_waiter){.go = hear_now, .arg = s};
	s->account = vdpa_fd_account_create();
	rc = s->account != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
	keep_spare(s);
	if (rc == 0)
		rc = listen_at(s);
	if (rc < 0) {
		vdpa_vfus_server_destroy(s);
		return rc;
	}
	/* A client may be there at once. */
	*out = s;
	s->client = (struct vdpa_event){.fd = -1, .handler = on_client, .arg = s};
	s->resumed = vdpa_vfus_kept_resume(s);
	if (s->params.kept != NULL)
		vdpa_vfus_kept_listens(s->params.kept, &s->listen);
	return vdpa_restart_when_it_goes(&s->waiter) ? 0 : hear(s);
}
