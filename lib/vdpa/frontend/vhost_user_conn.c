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
 * A read takes what has come, up to the first message with file descriptors: so a start, which is
 * six messages a queue and two of them with one, is two reads a queue.
 *
 * A front end that does not read its replies is hung up: a reply is sent at once or not at all.
 */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "clock.h"
#include "restart.h"
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
	for (unsigned int i = 0; i < conn->nfds + conn->nfds_later; i++)
		(void)vdpa_close_foreign(account, conn->fds[i]);
	conn->nfds = conn->nfds_later = 0;
}

/* Take the file descriptors that came with a read. NULL, or why they are no message's. */
static const char *
take_fds(struct vhu_conn *conn, struct msghdr *hdr)
{
	const char *why = NULL;
	unsigned int n_read = 0;

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
			if (conn->nfds_later >= VHU_MSG_FDS_MAX)
				why = NO_ROOM;
			if (why == NULL && !vdpa_fd_can_be_kept(fd))
				why = "its socket is no half of a socket pair in which nothing is "
				      "queued";
			/* Of a message that is refused the job closes them, soon: to ask for what
			 * 253 of them are would hold the control loop up. */
			if (conn->kept && conn->session->dev->kept.on)
				conn->ids[conn->nfds + conn->nfds_later] =
					vdpa_wire_fd_id(&conn->session->dev->kept.wire, n_read++);
			conn->fds[conn->nfds + conn->nfds_later++] = fd;
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

/* The bytes from `at` on that are a message's, or the beginning of one; *msg: as much of it as has
 * come. */
static size_t
message_at(const struct vhu_conn *conn, size_t at, struct vhu_msg *msg)
{
	size_t n = conn->end - at;

	memcpy(msg, conn->input + at, RTE_MIN(n, VHU_HDR_SIZE));
	if (n < VHU_HDR_SIZE || msg->size > sizeof(msg->payload))
		return n;
	n = RTE_MIN(n, VHU_HDR_SIZE + msg->size);
	memcpy(&msg->payload, conn->input + at + VHU_HDR_SIZE, n - VHU_HDR_SIZE);
	return n;
}

/* Whether a message of which n bytes have come may be the one that file descriptors came with. */
static bool
expects_fds(const struct vhu_msg *msg, size_t n)
{
	const struct vhu_row *row = n >= VHU_HDR_SIZE ? vdpa_vhu_row(msg->request) : NULL;

	if (n < VHU_HDR_SIZE)
		return true;
	if (row == NULL || row->index != VHU_INDEX_FILE)
		return row != NULL && row->fds_min > 0;
	return n < VHU_HDR_SIZE + sizeof(msg->payload.u64) ||
	       (msg->payload.u64 & VHU_FILE_NOFD) == 0;
}

/*
 * Whose the file descriptors are that came with a read. They belong to a byte, and the read ends
 * with the bytes of the sendmsg() that they came with: so they are the last message's, complete or
 * not. Only a front end that sends several messages in one go may mean an earlier one, if the last
 * one has none: then that is the last one that needs them.
 */
static void
give_fds(struct vhu_conn *conn)
{
	size_t n, last = conn->at;
	bool expected = false;

	for (size_t at = conn->at; at < conn->end; at += n) {
		struct vhu_msg msg;

		n = message_at(conn, at, &msg);
		if (n < VHU_HDR_SIZE || msg.size > sizeof(msg.payload))
			n = conn->end - at;
		/* One that was begun by an earlier read may have its own already. */
		if (expects_fds(&msg, n) && (at != conn->at || conn->nfds == 0)) {
			conn->later_at = at;
			expected = true;
		}
		last = at;
	}
	if (!expected)
		conn->later_at = last;
	if (conn->later_at == conn->at) {
		conn->nfds += conn->nfds_later;
		conn->nfds_later = 0;
	}
}

/* Take the next message out of what was read. */
static enum input
take_message(struct vhu_conn *conn)
{
	size_t n = message_at(conn, conn->at, &conn->msg);

	if (n < VHU_HDR_SIZE)
		return INPUT_NONE;
	if (conn->msg.size > sizeof(conn->msg.payload))
		return refuse(conn, "its payload is larger than any");
	return n < VHU_HDR_SIZE + conn->msg.size ? INPUT_NONE : INPUT_MESSAGE;
}

/* The message that was taken is done with; what came with it has been taken over. */
static void
drop_message(struct vhu_conn *conn, size_t len)
{
	conn->at += len;
	memmove(conn->fds, &conn->fds[conn->nfds], conn->nfds_later * sizeof(conn->fds[0]));
	memmove(conn->ids, &conn->ids[conn->nfds], conn->nfds_later * sizeof(conn->ids[0]));
	conn->nfds = 0;
	if (conn->nfds_later > 0 && conn->at == conn->later_at) {
		conn->nfds = conn->nfds_later;
		conn->nfds_later = 0;
	}
}

/* The last nfds descriptors are of another message, with which they come again. */
static void
take_back_fds(struct vhu_conn *conn, unsigned int nfds)
{
	unsigned int all = conn->nfds + conn->nfds_later;

	for (unsigned int i = all - nfds; i < all; i++)
		(void)vdpa_close_foreign(conn->session->dev->fds, conn->fds[i]);
	if (conn->nfds_later > 0)
		conn->nfds_later -= nfds;
	else
		conn->nfds -= nfds;
}

/* Read on, if there is no message yet. */
static enum input
receive(struct vhu_conn *conn)
{
	union {
		char buf[CMSG_SPACE(VHU_RIGHTS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	enum input input;

	while ((input = take_message(conn)) == INPUT_NONE) {
		const char *why;
		struct iovec iov;
		struct msghdr hdr = {.msg_iov = &iov,
				     .msg_iovlen = 1,
				     .msg_control = control.buf,
				     .msg_controllen = CMSG_LEN(VHU_RIGHTS_MAX * sizeof(int))};
		unsigned int nfds;
		ssize_t n;
		int rc;

		conn->end -= conn->at;
		memmove(conn->input, conn->input + conn->at, conn->end);
		conn->at = 0;
		iov.iov_base = conn->input + conn->end;
		iov.iov_len = sizeof(conn->input) - conn->end;
		n = conn->kept ? vdpa_vhu_kept_look(conn, &hdr)
			       : recvmsg(conn->fd, &hdr, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? INPUT_NONE : INPUT_END;
		why = take_fds(conn, &hdr);
		if (why != NULL)
			return refuse(conn, why);
		if (n == 0)
			return conn->end > 0 ? refuse(conn, "it is cut") : INPUT_END;
		conn->end += (size_t)n;
		nfds = conn->nfds_later;
		if (nfds > 0)
			give_fds(conn);
		rc = conn->kept
			     ? vdpa_vhu_kept_take(conn, (size_t)n, nfds,
						  conn->nfds_later > 0 ? conn->later_at : conn->at)
			     : 1;
		if (rc < 0)
			return refuse(conn, "its bytes cannot be kept");
		if (rc == 0)
			take_back_fds(conn, nfds);
		if (conn->nfds > VHU_MSG_FDS_MAX)
			return refuse(conn, NO_ROOM);
	}
	return input;
}

/* Send the reply, with its file descriptor (-1: none). */
static bool
reply(struct vhu_conn *conn, int fd)
{
	size_t len = VHU_HDR_SIZE + conn->msg.size;
	ssize_t n;

	conn->msg.flags = VHU_FLAGS_VERSION | VHU_FLAGS_REPLY;
	n = conn->kept ? vdpa_vhu_kept_reply(conn, &conn->msg, fd)
		       : vdpa_vhu_send(conn->fd, &conn->msg, fd);
	if (n == (ssize_t)len)
		return true;
	if (n >= 0 || errno == EAGAIN)
		refuse(conn, "the front end does not read its replies");
	return false;
}

ssize_t
vdpa_vhu_send(int socket, const struct vhu_msg *msg, int fd)
{
	return vdpa_vhu_send_noted(socket, msg, fd, NULL);
}

ssize_t
vdpa_vhu_send_noted(int socket, const struct vhu_msg *msg, int fd, struct mmsghdr *note)
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
	if (note == NULL)
		return sendmsg(socket, &hdr, MSG_DONTWAIT | MSG_NOSIGNAL);
	note->msg_hdr = hdr;
	return sendmmsg(socket, note, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1 ? (ssize_t)note->msg_len
									   : -1;
}

/* Handle the message that is complete. False: the connection is to end. */
static bool
handle(struct vhu_conn *conn)
{
	struct vhu_received req = {.s = conn->session,
				   .msg = &conn->msg,
				   .len = VHU_HDR_SIZE + conn->msg.size,
				   .nfds = conn->nfds,
				   .reply_fd = -1};
	enum vhu_verdict verdict;
	bool sent = true;

	memcpy(req.fds, conn->fds, sizeof(req.fds));
	memcpy(req.ids, conn->ids, sizeof(req.ids));
	drop_message(conn, req.len);
	verdict = vdpa_vhu_handle(&req);
	conn->answered = verdict == VHU_VERDICT_REPLY;
	conn->rests = req.rests;
	if (conn->answered)
		sent = reply(conn, req.reply_fd);
	if (req.reply_fd >= 0)
		close(req.reply_fd);
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
 * is none yet; and none is worth waiting for behind the last one of a start or a stop. */
static enum input
receive_next(struct vhu_conn *conn)
{
	enum input input = conn->answered ? take_message(conn) : receive(conn);
	struct pollfd in = {.fd = conn->fd, .events = POLLIN};

	if (input != INPUT_NONE || conn->rests)
		return input;
	input = spin(conn);
	while (input == INPUT_NONE && !vdpa_work_is_awaited() && poll(&in, 1, LINGER_MS) == 1)
		input = receive(conn);
	return input;
}

static void
end(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;
	bool kept = conn->kept, leaves = kept && vdpa_vhu_kept_is_others(dev);
	int fd;

	vdpa_consumer_leaves(conn->session->consumer);
	vdpa_event_del(&conn->event);
	/* Before the device is waited for. */
	close_fds(conn, dev->fds);
	pthread_mutex_lock(&dev->lock);
	dev->session = NULL;
	pthread_mutex_unlock(&dev->lock);
	VDPA_LOG_LIMITED(&dev->log, INFO, "%s: vhost-user: %s", dev->vdev->name,
			 leaves ? "left to the next process" : "disconnected");
	if (kept)
		vdpa_vhu_kept_disconnected(dev, conn->session->kept);
	vdpa_vhu_session_free(conn->session);
	conn->session = NULL;
	conn->at = conn->end = 0;
	conn->ended = false;
	conn->spin_skip = conn->spin_skip_next = 0;
	/* From then on the loop may have the next connection. */
	conn->kept = false;
	pthread_mutex_lock(&dev->lock);
	fd = conn->fd;
	conn->fd = -1;
	pthread_mutex_unlock(&dev->lock);
	/* The store has it, too: this is not its end. */
	if (leaves) {
		vdpa_restart_leaves_connection(fd);
		close(fd);
	} else {
		(void)vdpa_close_connection(dev->fds, fd);
	}
	vdpa_vhu_socket_resume(dev);
}

/* The job of a connection that is kept has all to itself: the loop only says that there is
 * something to read. What is left to the next process stays where it is. */
static enum input
begin_job(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;

	if (vdpa_vhu_kept_leaves(dev))
		return INPUT_NONE;
	if (conn->begins) {
		conn->begins = false;
		conn->event.events = EPOLLIN | EPOLLONESHOT;
		if (!conn->resumed)
			vdpa_vhu_kept_connected(dev);
		else if (!vdpa_vhu_planned_start_late(dev))
			return INPUT_END;
	}
	return receive(conn);
}

/* The job: a message is complete, or the connection has ended. */
static void
serve(struct vdpa_work *work)
{
	struct vhu_device *dev = work->arg;
	struct vhu_conn *conn = &dev->conn;

	enum input input = conn->kept ? begin_job(dev) : INPUT_MESSAGE;

	for (unsigned int i = 0; !conn->ended && i < MESSAGES_MAX; i++) {
		if (input == INPUT_MESSAGE)
			input = handle(conn) ? receive_next(conn) : INPUT_END;
		conn->ended = input == INPUT_END;
		if (conn->kept && vdpa_vhu_kept_leaves(dev))
			return;
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
	enum input input;

	if (conn->kept) {
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), &conn->work);
		return;
	}
	input = receive(conn);
	if (input == INPUT_NONE) {
		vdpa_event_rearm(event);
		return;
	}
	conn->ended = input == INPUT_END;
	if (conn->ended)
		vdpa_consumer_leaves(conn->session->consumer);
	vdpa_work_post(vdpa_get_work_queue(dev->vdev), &conn->work);
}

void
vdpa_vhu_conn_init(struct vhu_device *dev)
{
	dev->conn = (struct vhu_conn){.fd = -1, .work = {.run = serve, .arg = dev}};
}

/* Have it read. The job of one that is kept begins at once: a socket can be written to. */
static int
watch(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;
	int rc;

	conn->begins = conn->kept;
	vdpa_device_add_connections(dev->vdev, 1);
	conn->event =
		(struct vdpa_event){.fd = conn->fd,
				    .events = EPOLLIN | EPOLLONESHOT | (conn->kept ? EPOLLOUT : 0),
				    .handler = readable,
				    .arg = dev};
	rc = vdpa_event_add(vdpa_event_loop_control(), &conn->event);
	if (rc < 0) {
		conn->ended = true;
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), &conn->work);
	}
	return rc;
}

int
vdpa_vhu_conn_open(struct vhu_device *dev, int fd, const struct vdpa_peer *peer)
{
	struct vhu_conn *conn = &dev->conn;

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
	conn->kept = conn->session->kept != NULL;
	conn->resumed = false;
	VDPA_LOG_LIMITED(&dev->log, INFO, "%s: vhost-user: connected", dev->vdev->name);
	return watch(dev);
}

int
vdpa_vhu_conn_resume(struct vhu_device *dev)
{
	VDPA_LOG_LIMITED(&dev->log, INFO, "%s: vhost-user: goes on with its connection",
			 dev->vdev->name);
	return watch(dev);
}

/* Messages that come from now on wait for the next process. */
void
vdpa_vhu_conn_leave(struct vhu_device *dev)
{
	struct vhu_conn *conn = &dev->conn;
	int rc;

	vdpa_event_del(&conn->event);
	vdpa_work_cancel(&conn->work);
	if (conn->session == NULL)
		return;
	/* The job of its doorbells writes records, too. */
	vdpa_vhu_doorbells_stop(conn->session);
	if (vdpa_vhu_planned_is(dev)) {
		rc = vdpa_vhu_planned_leave(dev);
	} else {
		vdpa_vhu_leave_doorbells(conn->session);
		rc = vdpa_device_leave(dev->vdev);
	}
	if (rc < 0)
		vdpa_vhu_kept_stop(dev, vdpa_vhu_why(dev, -1));
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
