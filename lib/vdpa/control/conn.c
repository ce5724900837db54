/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * One connection: bytes to requests, replies to bytes, and its end. Owns the connection's file
 * descriptor and its buffers.
 *
 *              a whole request            no more of them
 *   READING ------------------> WORKING ------------------> READING
 *                                 |   ^
 *   the client reads too little,  v   |  it has read, or time has passed
 *   or asks too much             PARKED
 *
 * READING belongs to the loop, WORKING to the job. The end of a connection is a task on the loop,
 * posted once when it is DEAD, or ENDING with all written, and the job has not its input.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "clock.h"
#include "conn.h"
#include "vdpa_log.h"

/* Requests after which the job makes way for those of others. */
#define REQUESTS_MAX 16
/* A client that has this much to read is not served until it has read half of it. */
#define OUTPUT_PAUSE (256u << 10)
#define OUTPUT_FIRST 4096u
/* Of a client that may only look, the time that its requests take counts as often against its rate:
 * its user's connections together get no more than a few CPUs. */
#define READER_COST  4
/* How long a client may take to read the last that it is sent. */
#define LINGER_MS    2000
/* Requests that may come at once, in time: those of one second. */
#define BURST_US     INT64_C(1000000)
/* Of one message: as many as the kernel allows (SCM_MAX_FD). */
#define RIGHTS_MAX   253

/* Under the lock. */
static size_t
waiting(const struct control_conn *conn)
{
	return conn->out.end - conn->out.at;
}

/* Under the lock: what can be written now. */
static void
flush(struct control_conn *conn)
{
	struct conn_output *out = &conn->out;
	ssize_t n;

	while (conn->life != CONN_DEAD && out->at < out->end) {
		n = send(conn->fd, out->buf + out->at, out->end - out->at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			conn->life = CONN_DEAD;
		if (n < 0)
			break;
		out->at += (size_t)n;
	}
	if (out->at == out->end) {
		out->at = out->end = 0;
		/* What a long reply took is not kept for a client that is silent. */
		if (out->size > OUTPUT_PAUSE) {
			free(out->buf);
			*out = (struct conn_output){.buf = NULL};
		}
	}
}

/* Under the lock: room for len bytes more. */
static bool
reserve(struct conn_output *out, size_t len)
{
	size_t size = RTE_MAX(out->size, (size_t)OUTPUT_FIRST);
	char *buf;

	/* What waits is moved only where it must be: a slow reader's backlog is long. */
	if (out->at > 0 && out->end + len > out->size) {
		memmove(out->buf, out->buf + out->at, out->end - out->at);
		out->end -= out->at;
		out->at = 0;
	}
	while (size < out->end + len)
		size *= 2;
	if (size == out->size)
		return true;
	buf = realloc(out->buf, size);
	if (buf == NULL)
		return false;
	out->buf = buf;
	out->size = size;
	return true;
}

/* Under the lock: a line, written now as far as it goes. False: more than max bytes would wait. */
static bool
append(struct control_conn *conn, const char *line, size_t len, size_t max)
{
	struct conn_output *out = &conn->out;

	if (conn->life == CONN_DEAD)
		return true;
	if (waiting(conn) + len + 1 > max || !reserve(out, len + 1))
		return false;
	memcpy(out->buf + out->end, line, len);
	out->buf[out->end + len] = '\n';
	out->end += len + 1;
	flush(conn);
	return true;
}

/* Under the lock. */
static void
set_timer(struct control_conn *conn, unsigned int ms)
{
	conn->timed = true;
	vdpa_timer_start(&conn->timer, ms);
}

/* Under the lock: whether a request was begun and is not whole. */
static bool
is_begun(const struct control_conn *conn)
{
	return conn->phase == CONN_READING && conn->in_end > conn->in_at;
}

/* Under the lock: let the job have the input. */
static void
work_on(struct control_conn *conn)
{
	conn->phase = CONN_WORKING;
	/* What it runs for has come; when it expires all the same, it finds nothing. */
	conn->timed = conn->unread = false;
	vdpa_work_post(&conn->queue, &conn->work);
}

/* Under the lock, after whatever has changed: the end, or what the loop is to look for. */
static void
settle(struct control_conn *conn)
{
	uint32_t events = 0;

	if (conn->phase == CONN_PARKED && waiting(conn) < OUTPUT_PAUSE / 2 &&
	    (!conn->timed || conn->unread))
		work_on(conn);
	if (conn->life == CONN_OPEN && conn->hung_up && conn->phase == CONN_READING)
		conn->life = CONN_ENDING;
	if (conn->life == CONN_ENDING && waiting(conn) == 0)
		conn->life = CONN_DEAD;
	if (conn->phase != CONN_WORKING && conn->life == CONN_DEAD) {
		if (!conn->ended)
			vdpa_task_post(vdpa_event_loop_control(), &conn->end);
		conn->ended = true;
		return;
	}
	/* A socket that is hung up would be reported again and again. */
	if (conn->life == CONN_DEAD)
		return;
	if (conn->phase == CONN_READING && conn->life == CONN_OPEN)
		events |= EPOLLIN;
	if (waiting(conn) > 0)
		events |= EPOLLOUT;
	if (events == 0)
		return;
	conn->event.events = events | EPOLLONESHOT;
	vdpa_event_rearm(&conn->event);
}

/* Under the lock: the last line, and no more requests. */
static void
end_with(struct control_conn *conn, enum control_refusal why)
{
	char *text = conn->server->setup.service->refuse(why, conn->server);

	if (text != NULL)
		(void)append(conn, text, strlen(text), SIZE_MAX);
	free(text);
	if (conn->life == CONN_OPEN)
		conn->life = CONN_ENDING;
	set_timer(conn, LINGER_MS);
}

/* The next whole request, from in_at on; *len with what ends it. The input is the caller's. */
static bool
find_request(struct control_conn *conn, size_t *len)
{
	size_t n = conn->in_end - conn->in_at;

	*len = conn->server->setup.service->frame(conn->in + conn->in_at, n, &conn->in_scan);
	if (*len > 0)
		return true;
	/* The last one may lack its end. */
	*len = n;
	return conn->hung_up && n > 0;
}

static void
drop_request(struct control_conn *conn, size_t len)
{
	conn->in_at += len;
	conn->in_scan = (struct control_scan){.seen = 0};
}

/* How long until one more request is paid for, in milliseconds; 0: it is now. */
static unsigned int
pay(struct control_conn *conn)
{
	int64_t now_us = vdpa_now_us(), price_us = 1000000 / conn->server->setup.limits.rate;

	conn->paid_us = RTE_MAX(conn->paid_us, now_us - BURST_US);
	if (conn->paid_us > now_us)
		return (unsigned int)((conn->paid_us - now_us) / 1000 + 1);
	conn->paid_us += RTE_MAX(price_us, 1);
	return 0;
}

/* Under the lock: it takes part in these lines from now on. */
static void
join(struct control_conn *conn, uint32_t mask)
{
	for (unsigned int i = 0; i < CONTROL_BITS; i++) {
		uint32_t *n = &conn->server->joined[i], bit = UINT32_C(1) << i;

		if ((mask & bit) != 0 && (conn->joined & bit) == 0)
			__atomic_fetch_add(n, 1, __ATOMIC_RELAXED);
		else if ((mask & bit) == 0 && (conn->joined & bit) != 0)
			__atomic_fetch_sub(n, 1, __ATOMIC_RELAXED);
	}
	conn->joined = mask;
}

/* Carry out one request and send its reply. */
static void
serve_one(struct control_conn *conn, size_t len)
{
	const struct control_service *service = conn->server->setup.service;
	int64_t begun_us = vdpa_now_us();
	char *reply = service->serve(conn, conn->in + conn->in_at, len);

	drop_request(conn, len);
	if (conn->right != CONTROL_RIGHT_FULL)
		conn->paid_us += READER_COST * (vdpa_now_us() - begun_us);
	pthread_mutex_lock(&conn->lock);
	/* Before the client reads the reply, since whoever sends a line looks whether anybody takes
	 * part without this lock; the line itself waits for it, and so comes behind the reply. */
	if (conn->changes)
		join(conn, conn->wants);
	conn->changes = false;
	/* A request is served while less than a pause's worth waits. */
	if (reply != NULL &&
	    !append(conn, reply, strlen(reply), conn->server->setup.limits.output + OUTPUT_PAUSE)) {
		VDPA_LOG_LIMITED(&conn->server->log, ERR,
				 "%s: user %u does not read its replies: hung up", service->name,
				 conn->uid);
		conn->life = CONN_DEAD;
	}
	pthread_mutex_unlock(&conn->lock);
	free(reply);
}

/* Under the lock: whether the job is to wait before the next request, and for what. */
static bool
park(struct control_conn *conn)
{
	unsigned int ms;

	if (waiting(conn) >= OUTPUT_PAUSE) {
		conn->phase = CONN_PARKED;
		conn->unread = true;
		set_timer(conn, conn->server->setup.limits.request_ms);
		return true;
	}
	ms = pay(conn);
	if (ms == 0)
		return false;
	conn->phase = CONN_PARKED;
	set_timer(conn, ms);
	return true;
}

/* The job. */
static void
serve(struct vdpa_work *work)
{
	struct control_conn *conn = work->arg;
	unsigned int n = 0;
	bool more = true;
	size_t len = 0;

	while (more) {
		pthread_mutex_lock(&conn->lock);
		more = false;
		if (conn->life != CONN_OPEN) {
			conn->phase = CONN_READING;
		} else if (!find_request(conn, &len)) {
			memmove(conn->in, conn->in + conn->in_at, conn->in_end - conn->in_at);
			conn->in_end -= conn->in_at;
			conn->in_at = 0;
			conn->phase = CONN_READING;
			if (is_begun(conn))
				set_timer(conn, conn->server->setup.limits.request_ms);
		} else if (n++ == REQUESTS_MAX) {
			work_on(conn);
		} else if (!park(conn)) {
			more = true;
		}
		if (!more)
			settle(conn);
		pthread_mutex_unlock(&conn->lock);
		if (more)
			serve_one(conn, len);
	}
}

/* File descriptors that a client sends are closed, by those who may wait for it. */
static bool
close_rights(struct control_conn *conn, struct msghdr *hdr)
{
	bool any = (hdr->msg_flags & MSG_CTRUNC) != 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c != NULL; c = CMSG_NXTHDR(hdr, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			(void)vdpa_close_foreign(conn->server->fds, fd);
		}
		any = true;
	}
	return any;
}

/* Under the lock, READING: what has come, once. */
static void
receive(struct control_conn *conn)
{
	union {
		char buf[CMSG_SPACE(RIGHTS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = conn->in + conn->in_end,
			    .iov_len = sizeof(conn->in) - conn->in_end};
	struct msghdr hdr = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf)};
	bool begun = is_begun(conn);
	size_t len;
	ssize_t n;

	n = recvmsg(conn->fd, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			conn->life = CONN_DEAD;
		return;
	}
	conn->hung_up = n == 0;
	conn->in_end += (size_t)n;
	if (close_rights(conn, &hdr))
		end_with(conn, CONTROL_REFUSED_FILES);
	else if (find_request(conn, &len))
		work_on(conn);
	else if (conn->in_end == sizeof(conn->in))
		end_with(conn, CONTROL_REFUSED_LONG);
	else if (!begun && is_begun(conn))
		set_timer(conn, conn->server->setup.limits.request_ms);
}

/* On the loop. */
static void
ready(struct vdpa_event *event, uint32_t revents)
{
	struct control_conn *conn = event->arg;

	pthread_mutex_lock(&conn->lock);
	if ((revents & (EPOLLOUT | EPOLLERR)) != 0)
		flush(conn);
	if (conn->phase == CONN_READING && conn->life == CONN_OPEN &&
	    (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0)
		receive(conn);
	else if ((revents & (EPOLLHUP | EPOLLERR)) != 0 && waiting(conn) > 0)
		/* Who will not read is not waited for. */
		conn->life = CONN_DEAD;
	settle(conn);
	pthread_mutex_unlock(&conn->lock);
}

/* On the loop. */
static void
expired(struct vdpa_timer *timer)
{
	struct control_conn *conn = timer->arg;

	pthread_mutex_lock(&conn->lock);
	conn->timed = false;
	if (conn->life == CONN_ENDING || (conn->phase == CONN_PARKED && conn->unread))
		conn->life = CONN_DEAD;
	else if (conn->life == CONN_OPEN && is_begun(conn))
		end_with(conn, CONTROL_REFUSED_SLOW);
	settle(conn);
	pthread_mutex_unlock(&conn->lock);
}

static void
conn_free(struct control_conn *conn)
{
	(void)vdpa_close_connection(conn->server->fds, conn->fd);
	pthread_mutex_destroy(&conn->lock);
	free(conn->out.buf);
	free(conn);
}

void
control_conn_unlist(struct control_conn *conn)
{
	struct control_server *server = conn->server;

	LIST_REMOVE(conn, next);
	conn->listed = false;
	if (conn->owner)
		server->n_owner--;
	else
		server->n_conns--;
	pthread_mutex_lock(&conn->lock);
	join(conn, 0);
	pthread_mutex_unlock(&conn->lock);
}

/* On the loop: no job has the input, or will. */
static void
end(struct vdpa_task *task)
{
	struct control_conn *conn = task->arg;
	struct control_server *server = conn->server;
	bool ours;

	pthread_mutex_lock(&server->lock);
	ours = conn->listed;
	if (ours)
		control_conn_unlist(conn);
	pthread_mutex_unlock(&server->lock);
	if (!ours)
		return;
	vdpa_event_del(&conn->event);
	vdpa_timer_stop(&conn->timer);
	/* It is at its last instructions, at most. */
	vdpa_work_cancel(&conn->work);
	conn_free(conn);
}

int
control_conn_open(struct control_server *server, int fd, const struct control_cred *cred,
		  enum control_right right)
{
	struct control_conn *conn = calloc(1, sizeof(*conn));
	int rc;

	if (conn == NULL) {
		(void)vdpa_close_connection(server->fds, fd);
		return vdpa_error(ENOMEM, "out of memory");
	}
	conn->server = server;
	conn->fd = fd;
	conn->right = right;
	conn->uid = cred->uid;
	conn->owner = control_is_owner(&server->setup.policy, cred);
	pthread_mutex_init(&conn->lock, NULL);
	vdpa_work_queue_init(&conn->queue);
	conn->work = (struct vdpa_work){.run = serve, .arg = conn};
	conn->timer = (struct vdpa_timer){.expired = expired, .arg = conn};
	conn->end = (struct vdpa_task){.run = end, .arg = conn};
	conn->event = (struct vdpa_event){
		.fd = fd, .events = EPOLLIN | EPOLLONESHOT, .handler = ready, .arg = conn};
	conn->paid_us = vdpa_now_us() - BURST_US;
	pthread_mutex_lock(&server->lock);
	rc = vdpa_event_add(vdpa_event_loop_control(), &conn->event);
	if (rc == 0) {
		LIST_INSERT_HEAD(&server->conns, conn, next);
		conn->listed = true;
		if (conn->owner)
			server->n_owner++;
		else
			server->n_conns++;
	}
	pthread_mutex_unlock(&server->lock);
	if (rc < 0)
		conn_free(conn);
	return rc;
}

void
control_refuse(struct control_server *server, int fd, enum control_refusal why)
{
	char *text = server->setup.service->refuse(why, server);
	struct iovec iov[2] = {{.iov_base = text, .iov_len = text != NULL ? strlen(text) : 0},
			       {.iov_base = (char[]){'\n'}, .iov_len = 1}};
	struct msghdr hdr = {.msg_iov = iov, .msg_iovlen = 2};

	/* A new socket has room for it. */
	if (text != NULL)
		(void)sendmsg(fd, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL);
	free(text);
	(void)vdpa_close_connection(server->fds, fd);
}

void
control_conn_close(struct control_conn *conn)
{
	/* The request that is being carried out has its reply, and is the last one. */
	pthread_mutex_lock(&conn->lock);
	if (conn->life == CONN_OPEN)
		conn->life = CONN_ENDING;
	pthread_mutex_unlock(&conn->lock);
	/* What posts the job first, then the job; nothing of them begins anew for one that ends. */
	vdpa_event_del(&conn->event);
	vdpa_timer_stop(&conn->timer);
	vdpa_work_cancel(&conn->work);
	pthread_mutex_lock(&conn->lock);
	conn->life = CONN_DEAD;
	pthread_mutex_unlock(&conn->lock);
	vdpa_timer_stop(&conn->timer);
	vdpa_task_cancel(&conn->end);
	conn_free(conn);
}

void
control_conn_push(struct control_conn *conn, uint32_t mask, const char *line, size_t len)
{
	pthread_mutex_lock(&conn->lock);
	if ((conn->joined & mask) != 0 && conn->life == CONN_OPEN &&
	    !append(conn, line, len, conn->server->setup.limits.output)) {
		VDPA_LOG_LIMITED(&conn->server->log, ERR,
				 "%s: user %u does not read its events: hung up",
				 conn->server->setup.service->name, conn->uid);
		conn->life = CONN_DEAD;
	}
	settle(conn);
	pthread_mutex_unlock(&conn->lock);
}

struct control_server *
control_conn_server(const struct control_conn *conn)
{
	return conn->server;
}

enum control_right
control_conn_right(const struct control_conn *conn)
{
	return conn->right;
}

uid_t
control_conn_uid(const struct control_conn *conn)
{
	return conn->uid;
}

void
control_conn_join(struct control_conn *conn, uint32_t mask)
{
	conn->wants = mask;
	conn->changes = true;
}
