/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vhost-user connection: bytes become messages, messages replies. Owns the connection's file
 * descriptor, and the file descriptors of the message that is being read.
 *
 * The control loop reads what has come and never waits: a message that is not complete stays where
 * it is, and costs its own connection only. A complete one is handled by a job on the device's work
 * queue, since it may start or stop the device. The job reads on by itself, so that what a front
 * end sends in one go costs one hand-over.
 *
 * Most messages are one read: the header is read with as much as most payloads have. What a short
 * message leaves of that is the beginning of the next one.
 *
 * A front end that does not read its replies is hung up: a reply is sent at once or not at all.
 */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "clock.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

#define NO_ROOM	      "it has too many file descriptors, or this process has no room for them"
/* Messages after which the job makes way for those of other devices. */
#define MESSAGES_MAX  64
/* How long the job waits for the next message, where nobody else needs its thread: first it looks
 * again and again, and lets others have the CPU in between, as a thread that sleeps costs more to
 * wake than most messages to handle; then it sleeps. */
#define SPIN_US	      100
#define LINGER_MS     1
/* A front end that needs longer than SPIN_US again and again is not waited for in that way for 1,
 * 3, 7, ... of its next messages, and this many at most. */
#define SPIN_SKIP_MAX 63u

enum input {
	INPUT_NONE,    /* there is no more for now */
	INPUT_MESSAGE, /* a message is complete */
	INPUT_END,     /* hung up, or not worth going on */
};

/* The connection has ended; a full account keeps the next one out. */
static void
close_fds(struct vhu_conn *conn, struct vdpa_fd_account *account)
{
	for (unsigned int i = 0; i < conn->nfds; i++)
		(void)vdpa_close_foreign(account, conn->fds[i]);
	conn->nfds = 0;
}

/* Take the file descriptors that came with some bytes. NULL, or why they are no message's. */
static const char *
take_fds(struct vhu_conn *conn, struct msghdr *hdr)
{
	const char *why = NULL;

	if ((hdr->msg_flags & MSG_CTRUNC) != 0)
		why = NO_ROOM;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c != NULL; c = CMSG_NXTHDR(hdr, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (vdpa_fd_in_reserve(fd)) {
				why = NO_ROOM;
				(void)vdpa_close_foreign(conn->session->dev->fds, fd);
				continue;
			}
			if (conn->nfds >= VHU_MSG_FDS_MAX)
				why = NO_ROOM;
			if (why == NULL && !vdpa_fd_can_be_kept(fd))
				why = "its socket is no half of a socket pair in which nothing is "
				      "queued";
			/* Of a message that is refused the job closes them, soon: to ask for what
			 * 253 of them are would hold the control loop up. */
			conn->fds[conn->nfds++] = fd;
		}
	}
	return why;
}

static enum input
refuse(struct vhu_conn *conn, const char *why)
{
	struct vhu_device *dev = conn->session->dev;

	VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vhost-user: message refused: %s", dev->vdev->name,
			 why);
	return INPUT_END;
}

/*
 * The message is complete, and there are bytes of the next one behind it. File descriptors belong
 * to a byte, and a read ends behind the bytes of the sendmsg() that they came with: where the last
 * read brought some, they are the next message's. Only a front end that sends both messages in one
 * go may mean the first: then that is one that needs a file descriptor and has none.
 */
static void
set_ahead(struct vhu_conn *conn, size_t len, unsigned int nfds_before)
{
	const struct vhu_row *row = vdpa_vhu_row(conn->msg.request);

	conn->n_ahead = conn->have - len;
	memcpy(conn->ahead, (const char *)&conn->msg + len, conn->n_ahead);
	conn->have = len;
	if (nfds_before > 0 || row == NULL || row->fds_min == 0)
		conn->nfds_ahead = conn->nfds - nfds_before;
}

/* The next message begins with what was read of it. */
static void
take_ahead(struct vhu_conn *conn)
{
	memcpy(&conn->msg, conn->ahead, conn->n_ahead);
	conn->have = conn->n_ahead;
	conn->n_ahead = 0;
}

/* Read on, up to the end of the message; less than a header of the next one may be read, too. */
static enum input
receive(struct vhu_conn *conn)
{
	union {
		char buf[CMSG_SPACE(VHU_RIGHTS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	unsigned int nfds_before = conn->nfds;

	for (;;) {
		size_t want = VHU_HDR_SIZE + VHU_READ_AHEAD;
		const char *why;
		struct iovec iov;
		struct msghdr hdr = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control.buf,
				     .msg_controllen = CMSG_LEN(VHU_RIGHTS_MAX * sizeof(int))};
		ssize_t n;

		if (conn->have >= VHU_HDR_SIZE) {
			if (conn->msg.size > sizeof(conn->msg.payload))
				return refuse(conn, "its payload is larger than any");
			want = VHU_HDR_SIZE + conn->msg.size;
			if (conn->have > want)
				set_ahead(conn, want, nfds_before);
			if (conn->have == want)
				return INPUT_MESSAGE;
		}
		nfds_before = conn->nfds;
		iov.iov_base = (char *)&conn->msg + conn->have;
		iov.iov_len = want - conn->have;
		n = recvmsg(conn->fd, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? INPUT_NONE : INPUT_END;
		why = take_fds(conn, &hdr);
		if (why != NULL)
			return refuse(conn, why);
		if (n == 0)
			return conn->have > 0 ? refuse(conn, "it is cut") : INPUT_END;
		conn->have += (size_t)n;
	}
}

/* Send the reply, with its file descriptor (-1: none). */
static bool
reply(struct vhu_conn *conn, int fd)
{
	size_t len = VHU_HDR_SIZE + conn->msg.size;
	ssize_t n;

	conn->msg.flags = VHU_FLAGS_VERSION | VHU_FLAGS_REPLY;
	n = vdpa_vhu_send(conn->fd, &conn->msg, fd);
	if (n == (ssize_t)len)
		return true;
	if (n >= 0 || errno == EAGAIN)
		refuse(conn, "the front end does not read its replies");
	return false;
}

ssize_t
vdpa_vhu_send(int socket, const struct vhu_msg *msg, int fd)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)msg,
			    .iov_len = VHU_HDR_SIZE + msg->size};
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.buf = {0}};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *cmsg;

		hdr.msg_control = control.buf;
		hdr.msg_controllen = sizeof(control.buf);
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	}
	return sendmsg(socket, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Handle the message that is complete. False: the connection is to end. */
static bool
handle(struct vhu_conn *conn)
{
	struct vhu_received req = {.s = conn->session, .msg = &conn->msg, .reply_fd = -1};
	enum vhu_verdict verdict;
	bool sent = true;

	req.nfds = conn->nfds - conn->nfds_ahead;
	memcpy(req.fds, conn->fds, sizeof(req.fds));
	memmove(conn->fds, &conn->fds[req.nfds], conn->nfds_ahead * sizeof(conn->fds[0]));
	conn->nfds = conn->nfds_ahead;
	conn->nfds_ahead = 0;
	verdict = vdpa_vhu_handle(&req);
	conn->answered = verdict == VHU_VERDICT_REPLY;
	if (conn->answered)
		sent = reply(conn, req.reply_fd);
	if (req.reply_fd >= 0)
		close(req.reply_fd);
	take_ahead(conn);
	return sent && verdict != VHU_VERDICT_CLOSE;
}

/* Look for the next message for SPIN_US. */
static enum input
look(struct vhu_conn *conn)
{
	int64_t until_us = vdpa_now_us() + SPIN_US;

	while (!vdpa_work_is_awaited() && vdpa_now_us() < until_us) {
		enum input input;

		/* On the same CPU, the front end sends it now. */
		sched_yield();
		input = receive(conn);
		if (input != INPUT_NONE) {
			conn->spin_skip_next = 0;
			return input;
		}
	}
	conn->spin_skip = conn->spin_skip_next;
	conn->spin_skip_next = RTE_MIN(2 * conn->spin_skip + 1, SPIN_SKIP_MAX);
	return INPUT_NONE;
}

/* The same, if the front end was as fast as that before, and no other job does so: however many
 * front ends there are, one thread at most takes CPU time for nothing. */
static enum input
spin(struct vhu_conn *conn)
{
	static bool busy;
	enum input input;

	if (conn->spin_skip > 0) {
		conn->spin_skip--;
		return INPUT_NONE;
	}
	if (__atomic_exchange_n(&busy, true, __ATOMIC_ACQUIRE))
		return INPUT_NONE;
	input = look(conn);
	__atomic_store_n(&busy, false, __ATOMIC_RELEASE);
	return input;
}

/* The next message, for which the job waits a moment where its thread has nothing else to do: most
 * front ends wait for the answer to one message before they send the next, so after an answer there
 * is none yet. */
static enum input
receive_next(struct vhu_conn *conn)
{
	enum input input = conn->answered ? INPUT_NONE : receive(conn);
	struct pollfd in = {.fd = conn->fd, .events = POLLIN};

	if (input == INPUT_NONE)
		input = spin(conn);
	while (input == INPUT_NONE && !vdpa_work_is_awaited() && poll(&in, 1, LINGER_MS) == 1)
		input = receive(conn);
	return input;
}

static void
end(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;
	int fd;

	vdpa_event_del(&conn->event);
	/* Before the device is waited for. */
	close_fds(conn, dev->fds);
	pthread_mutex_lock(&dev->lock);
	dev->session = NULL;
	pthread_mutex_unlock(&dev->lock);
	VDPA_LOG_LIMITED(&dev->log, INFO, "%s: vhost-user: disconnected", dev->vdev->name);
	vdpa_vhu_session_free(conn->session);
	conn->session = NULL;
	conn->have = conn->n_ahead = 0;
	conn->nfds_ahead = 0;
	conn->ended = false;
	conn->spin_skip = conn->spin_skip_next = 0;
	pthread_mutex_lock(&dev->lock);
	fd = conn->fd;
	conn->fd = -1;
	pthread_mutex_unlock(&dev->lock);
	(void)vdpa_close_connection(dev->fds, fd);
	vdpa_vhu_socket_resume(dev);
}

/* The job: a message is complete, or the connection has ended. */
static void
serve(struct vdpa_work *work)
{
	struct vhu_device *dev = work->arg;
	struct vhu_conn *conn = &dev->conn;

	for (unsigned int i = 0; !conn->ended && i < MESSAGES_MAX; i++) {
		enum input input = handle(conn) ? receive_next(conn) : INPUT_END;

		conn->ended = input == INPUT_END;
		if (input == INPUT_NONE) {
			vdpa_event_rearm(&conn->event);
			return;
		}
	}
	if (conn->ended)
		end(dev);
	else
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), work);
}

/* On the control loop. */
static void
readable(struct vdpa_event *event, uint32_t revents)
{
	struct vhu_device *dev = event->arg;
	struct vhu_conn *conn = &dev->conn;
	enum input input = receive(conn);

	if (input == INPUT_NONE) {
		vdpa_event_rearm(event);
		return;
	}
	conn->ended = input == INPUT_END;
	vdpa_work_post(vdpa_get_work_queue(dev->vdev), &conn->work);
}

void
vdpa_vhu_conn_init(struct vhu_device *dev)
{
	dev->conn = (struct vhu_conn){.fd = -1, .work = {.run = serve, .arg = dev}};
}

int
vdpa_vhu_conn_open(struct vhu_device *dev, int fd, const struct vdpa_peer *peer)
{
	struct vhu_conn *conn = &dev->conn;
	int rc;

	conn->session = vdpa_vhu_session_new(dev, peer);
	if (conn->session == NULL) {
		(void)vdpa_close_connection(dev->fds, fd);
		vdpa_vhu_socket_resume(dev);
		return -ECONNREFUSED;
	}
	pthread_mutex_lock(&dev->lock);
	conn->fd = fd;
	dev->session = conn->session;
	pthread_mutex_unlock(&dev->lock);
	VDPA_LOG_LIMITED(&dev->log, INFO, "%s: vhost-user: connected", dev->vdev->name);
	conn->event = (struct vdpa_event){
		.fd = fd, .events = EPOLLIN | EPOLLONESHOT, .handler = readable, .arg = dev};
	rc = vdpa_event_add(vdpa_event_loop_control(), &conn->event);
	if (rc < 0) {
		conn->ended = true;
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), &conn->work);
	}
	return rc;
}

void
vdpa_vhu_conn_close(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;

	/* First nobody posts the job, then it does not run. */
	vdpa_event_del(&conn->event);
	vdpa_work_cancel(&conn->work);
	if (conn->session != NULL)
		end(dev);
}
