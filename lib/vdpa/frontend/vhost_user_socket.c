/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The socket of a device: a path that is created or connected to, and each new connection. Owns the
 * listening socket, and its path for as long as that is what was created here (listen.h).
 *
 * All of it runs on the control loop and waits for nothing. Where a connection cannot be accepted
 * for want of a file descriptor, it waits in the backlog and is tried again at growing intervals.
 */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_common.h>

#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

/* Connections that wait to be taken or refused. */
#define BACKLOG	     16
/* What is tried again waits so long at first, and twice as long each time up to the most. */
#define RETRY_MS_MIN 10
#define RETRY_MS_MAX 1000
/* After the end of a connection. */
#define RECONNECT_MS 100

static struct sockaddr_un
address(const struct vhu_device *dev)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};

	/* The word's length was checked when it was parsed. */
	snprintf(un.sun_path, sizeof(un.sun_path), "%s", dev->path);
	return un;
}

/* One line of what keeps a front end out, until something else does or nothing. */
static void
tell_once(struct vhu_device *dev, int err)
{
	if (dev->socket.logged_errno == err)
		return;
	dev->socket.logged_errno = err;
	if (err == EBUSY)
		VDPA_LOG(ERR,
			 "%s: vhost-user: connections to %s wait: %u file descriptors that front "
			 "ends have sent do not close",
			 dev->vdev->name, dev->path, vdpa_fd_account_waiting(dev->fds));
	else if (err != 0 && vdpa_fd_error(err, dev->path) < 0)
		VDPA_LOG(ERR, "%s: vhost-user: connections wait: %s", dev->vdev->name,
			 vdpa_error_message());
}

static void
retry_after(struct vhu_device *dev, unsigned int ms)
{
	pthread_mutex_lock(&dev->lock);
	if (dev->serving)
		vdpa_timer_start(&dev->socket.retry, ms);
	pthread_mutex_unlock(&dev->lock);
}

static void
retry_later(struct vhu_device *dev)
{
	struct vhu_socket *socket = &dev->socket;

	socket->retry_ms = socket->retry_ms == 0
				   ? RETRY_MS_MIN
				   : RTE_MIN(2 * socket->retry_ms, (unsigned int)RETRY_MS_MAX);
	retry_after(dev, socket->retry_ms);
}

/* A new connection of this device, which has none. */
static void
take(struct vhu_device *dev, int fd)
{
	struct vdpa_peer peer;

	/* One that is unknown is not admitted everywhere, but for most devices it does not matter.
	 */
	(void)vdpa_peer_of_socket(fd, &peer);
	if (vdpa_consumer_admit(dev->vdev, &peer) < 0) {
		VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vhost-user: connection to %s refused: %s",
				 dev->vdev->name, dev->path, vdpa_vhu_why(dev, -1));
		(void)vdpa_close_connection(dev->fds, fd);
		if (dev->client)
			retry_later(dev);
		return;
	}
	dev->socket.retry_ms = 0;
	dev->socket.logged_errno = 0;
	if (vdpa_vhu_conn_open(dev, fd, &peer) < 0)
		VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vhost-user: connection to %s refused: %s",
				 dev->vdev->name, dev->path, vdpa_vhu_why(dev, -1));
}

/* A device that is gone for good serves nobody. */
static bool
refuse_gone(struct vhu_device *dev)
{
	char why[512];

	if (!vdpa_device_is_gone(dev->vdev))
		return false;
	if (!dev->socket.refused_gone) {
		vdpa_device_failure(dev->vdev, why, sizeof(why));
		VDPA_LOG(ERR, "%s: vhost-user: connections to %s are refused: %s", dev->vdev->name,
			 dev->path, why);
	}
	dev->socket.refused_gone = true;
	return true;
}

/* Whether connections wait until what front ends have sent has been closed. */
static bool
wait_for_closes(struct vhu_device *dev)
{
	if (!vdpa_fd_account_full(dev->fds))
		return false;
	tell_once(dev, EBUSY);
	retry_later(dev);
	return true;
}

enum occupant {
	OCCUPANT_NONE,
	OCCUPANT_THERE,
	OCCUPANT_LEAVING, /* hung up, but the device has not been stopped yet */
};

static enum occupant
occupant(struct vhu_device *dev)
{
	struct pollfd p = {.events = POLLRDHUP};
	enum occupant who = OCCUPANT_NONE;

	pthread_mutex_lock(&dev->lock);
	p.fd = dev->conn.fd;
	if (p.fd >= 0)
		who = poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0
			      ? OCCUPANT_LEAVING
			      : OCCUPANT_THERE;
	pthread_mutex_unlock(&dev->lock);
	return who;
}

/* Somebody connects. */
static void
incoming(struct vdpa_event *event, uint32_t revents)
{
	struct vhu_device *dev = event->arg;
	enum occupant who = occupant(dev);
	int fd, err;

	/* A front end that comes back before its end was served waits for that in the backlog. */
	if (who == OCCUPANT_LEAVING || wait_for_closes(dev))
		return;
	err = -vdpa_fd_room(1, dev->path);
	fd = err != 0 ? -1 : accept4(event->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (err == 0 && fd < 0)
		err = errno;
	if (err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS) {
		tell_once(dev, err);
		retry_later(dev);
		return;
	}
	if (fd >= 0 && who == OCCUPANT_THERE) {
		VDPA_LOG_LIMITED(&dev->log, ERR,
				 "%s: vhost-user: second connection to %s refused: the device has "
				 "a front end",
				 dev->vdev->name, dev->path);
		(void)vdpa_close_connection(dev->fds, fd);
	} else if (fd >= 0 && refuse_gone(dev)) {
		(void)vdpa_close_connection(dev->fds, fd);
	} else if (fd >= 0) {
		take(dev, fd);
	}
	vdpa_event_rearm(event);
}

/* A connection to the front end's socket, or a negative errno. */
static int
connect_to(const struct vhu_device *dev)
{
	struct sockaddr_un un = address(dev);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd < 0)
		return -errno;
	if (vdpa_fd_in_reserve(fd))
		err = EMFILE;
	else if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	else
		err = errno;
	close(fd);
	return -err;
}

/* The client's side: the front end's socket may not be there yet, or no more. */
static void
try_connect(struct vhu_device *dev)
{
	int fd;

	if (refuse_gone(dev) || wait_for_closes(dev))
		return;
	fd = connect_to(dev);
	if (fd >= 0) {
		take(dev, fd);
		return;
	}
	/* That nobody listens is what a client waits for. */
	if (fd != -ENOENT && fd != -ECONNREFUSED && fd != -EAGAIN)
		tell_once(dev, -fd);
	retry_later(dev);
}

static void
retry(struct vdpa_timer *timer)
{
	struct vhu_device *dev = timer->arg;

	if (dev->client)
		try_connect(dev);
	else
		vdpa_event_rearm(&dev->socket.event);
}

void
vdpa_vhu_socket_resume(struct vhu_device *dev)
{
	if (dev->client)
		retry_after(dev, RECONNECT_MS);
	else
		vdpa_event_rearm(&dev->socket.event);
}

/* A socket of our own, or a former process' one. */
static int
listen_at(struct vhu_device *dev)
{
	int rc = vdpa_vhu_kept_listener(dev);

	if (rc == 0)
		return 0;
	rc = vdpa_vhu_label_begin(dev->files.label);
	if (rc < 0)
		return rc;
	rc = vdpa_listen_open(&dev->socket.listen, dev->path, dev->mode, dev->group, BACKLOG);
	vdpa_vhu_label_end(dev->files.label);
	return rc;
}

/* From now on somebody may connect. */
static int
accept_there(struct vhu_device *dev)
{
	struct vhu_socket *sock = &dev->socket;
	int rc;

	sock->event = (struct vdpa_event){.fd = sock->listen.fd,
					  .events = EPOLLIN | EPOLLONESHOT,
					  .handler = incoming,
					  .arg = dev};
	rc = vdpa_event_add(vdpa_event_loop_control(), &sock->event);
	if (rc < 0) {
		vdpa_listen_unlink(&sock->listen);
		close(sock->listen.fd);
		sock->listen.fd = -1;
	}
	return rc;
}

/* The connection that there is, and those to come. */
static int
hear(struct vhu_device *dev)
{
	if (dev->socket.resumed)
		(void)vdpa_vhu_conn_resume(dev);
	if (!dev->client)
		return accept_there(dev);
	/* On the loop, as every later attempt. */
	if (!dev->socket.resumed)
		retry_after(dev, 0);
	return 0;
}

/* Whether another process has the listening socket, or will have it. As long as a former process
 * may go on, one that this process has made is nobody else's. */
static bool
is_others(const struct vhu_device *dev)
{
	return vdpa_restart_holds() ? dev->socket.listen.adopted : vdpa_vhu_kept_leaves(dev);
}

static void
close_listener(struct vhu_device *dev)
{
	struct vhu_socket *sock = &dev->socket;
	int fd = sock->listen.fd;

	sock->listen.fd = -1;
	if (fd >= 0 && is_others(dev)) {
		vdpa_restart_leaves_connection(fd);
		close(fd);
		return;
	}
	vdpa_vhu_kept_listens_no_more(dev);
	if (fd < 0)
		return;
	vdpa_listen_unlink(&sock->listen);
	/* Those who were not accepted may have sent something. */
	(void)vdpa_close_connection(dev->fds, fd);
}

bool
vdpa_vhu_socket_is_held(const struct vhu_device *dev)
{
	return vdpa_restart_holds() && (dev->socket.listen.adopted || dev->socket.resumed);
}

static void
hear_now(struct vdpa_restart_waiter *w)
{
	struct vhu_device *dev = w->arg;

	/* Its link is down: what was held ends now. */
	if (!dev->serving) {
		close_listener(dev);
		vdpa_vhu_conn_close(dev);
	} else if (hear(dev) < 0) {
		VDPA_LOG(ERR, "%s: vhost-user: nobody can connect to %s: %s", dev->vdev->name,
			 dev->path, vdpa_error_message());
	}
}

int
vdpa_vhu_socket_open(struct vhu_device *dev)
{
	int rc;

	dev->socket = (struct vhu_socket){.listen.fd = -1,
					  .waiter = {.go = hear_now, .arg = dev},
					  .retry = {.expired = retry, .arg = dev}};
	rc = dev->client ? 0 : listen_at(dev);
	if (rc < 0)
		return rc;
	dev->socket.resumed = vdpa_vhu_kept_resume(dev);
	if (dev->socket.resumed)
		dev->conn.kept = dev->conn.resumed = true;
	vdpa_vhu_kept_listens(dev);
	free(dev->kept.former);
	dev->kept.former = NULL;
	return vdpa_restart_when_it_goes(&dev->socket.waiter) ? 0 : hear(dev);
}

void
vdpa_vhu_socket_close(struct vhu_device *dev)
{
	struct vhu_socket *sock = &dev->socket;

	vdpa_restart_waits_no_more(&sock->waiter);
	vdpa_timer_stop(&sock->retry);
	vdpa_event_del(&sock->event);
	close_listener(dev);
}
