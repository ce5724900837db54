/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A server of lines: who is let in, and the list of those who are. Owns the listening socket. What
 * happens here happens on the control loop, and waits for nothing.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <rte_common.h>

#include "conn.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"

/* Connections that wait to be taken or refused. */
#define BACKLOG	     64
/* Where there is no descriptor for one, it is tried again so soon, and twice as late each time. */
#define RETRY_MS_MIN 10
#define RETRY_MS_MAX 1000

/* Under the lock: connections of one user. */
static unsigned int
count_user(const struct control_server *server, uid_t uid)
{
	const struct control_conn *conn;
	unsigned int n = 0;

	LIST_FOREACH (conn, &server->conns, next)
		n += conn->uid == uid;
	return n;
}

/* Under the lock: connections of those that may only look. */
static unsigned int
count_readers(const struct control_server *server)
{
	const struct control_conn *conn;
	unsigned int n = 0;

	LIST_FOREACH (conn, &server->conns, next)
		n += conn->right != CONTROL_RIGHT_FULL;
	return n;
}

/* Whether there is room for one more of this peer. */
static bool
has_room(struct control_server *server, const struct control_cred *cred, enum control_right right,
	 enum control_refusal *why)
{
	const struct control_limits *limits = &server->setup.limits;
	bool owner = control_is_owner(&server->setup.policy, cred), room;

	pthread_mutex_lock(&server->lock);
	*why = CONTROL_REFUSED_NUMBER;
	/* The owner's connections take from the reserve where the others have left nothing. */
	room = server->n_conns + server->n_owner <
	       limits->connections + (owner ? limits->reserve : 0);
	/* Those that look leave half of them to those that act. */
	if (right != CONTROL_RIGHT_FULL && count_readers(server) >= (limits->connections + 1) / 2)
		room = false;
	if (room && !owner && count_user(server, cred->uid) >= limits->per_user) {
		*why = CONTROL_REFUSED_USER;
		room = false;
	}
	pthread_mutex_unlock(&server->lock);
	return room;
}

/* Somebody has connected. */
static void
take(struct control_server *server, int fd)
{
	const char *name = server->setup.service->name;
	enum control_right right = CONTROL_RIGHT_NONE;
	enum control_refusal why = CONTROL_REFUSED_RIGHT;
	struct control_cred cred;
	int rc = control_cred_get(fd, &cred);

	if (rc == 0)
		right = control_right(&server->setup.policy, &cred);
	if (right == CONTROL_RIGHT_NONE) {
		if (rc == 0)
			VDPA_LOG_LIMITED(&server->log, WARNING,
					 "%s: user %u, process %d: not allowed", name, cred.uid,
					 cred.pid);
		control_refuse(server, fd, why);
	} else if (!has_room(server, &cred, right, &why)) {
		VDPA_LOG_LIMITED(&server->log, WARNING,
				 "%s: user %u, process %d: refused, there are too many connections",
				 name, cred.uid, cred.pid);
		control_refuse(server, fd, why);
	} else if (control_conn_open(server, fd, &cred, right) < 0) {
		VDPA_LOG_LIMITED(&server->log, ERR, "%s: connection refused: %s", name,
				 vdpa_error_message());
	}
	control_cred_free(&cred);
}

/* Under no lock: look for connections again, unless it is the end. */
static void
retry_later(struct control_server *server)
{
	pthread_mutex_lock(&server->lock);
	server->retry_ms = server->retry_ms == 0
				   ? RETRY_MS_MIN
				   : RTE_MIN(2 * server->retry_ms, (unsigned int)RETRY_MS_MAX);
	if (!server->closing)
		vdpa_timer_start(&server->retry, server->retry_ms);
	pthread_mutex_unlock(&server->lock);
}

static void
retry(struct vdpa_timer *timer)
{
	struct control_server *server = timer->arg;

	vdpa_event_rearm(&server->event);
}

static void
incoming(struct vdpa_event *event, uint32_t revents)
{
	struct control_server *server = event->arg;
	int fd;

	/* Descriptors that peers have sent and that do not close keep the next peer out. */
	if (vdpa_fd_account_full(server->fds)) {
		retry_later(server);
		return;
	}
	/* One of the reserve is right: this is management. */
	fd = accept4(event->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		int err = errno;

		if (server->retry_ms == 0 && vdpa_fd_error(err, server->listen.path) < 0)
			VDPA_LOG(ERR, "%s: connections wait: %s", server->setup.service->name,
				 vdpa_error_message());
		retry_later(server);
		return;
	}
	if (fd >= 0) {
		server->retry_ms = 0;
		take(server, fd);
	}
	vdpa_event_rearm(event);
}

static int
open_server(const struct control_setup *setup, const struct vdpa_listen *from,
	    struct control_server **out)
{
	struct control_server *server = calloc(1, sizeof(*server));
	int rc;

	if (server == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	server->setup = *setup;
	server->setup.path = server->listen.path;
	server->retry = (struct vdpa_timer){.expired = retry, .arg = server};
	LIST_INIT(&server->conns);
	pthread_mutex_init(&server->lock, NULL);
	server->fds = vdpa_fd_account_create();
	if (server->fds == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err_free;
	}
	server->left = from != NULL;
	if (from == NULL)
		rc = vdpa_listen_open(&server->listen, setup->path, setup->mode,
				      setup->socket_group, BACKLOG);
	else
		rc = vdpa_listen_adopt(&server->listen, from->fd, from->dev, from->ino, setup->path,
				       setup->mode, setup->socket_group);
	if (rc < 0)
		goto err_account;
	server->event = (struct vdpa_event){.fd = server->listen.fd,
					    .events = EPOLLIN | EPOLLONESHOT,
					    .handler = incoming,
					    .arg = server};
	if (!server->left)
		rc = vdpa_event_add(vdpa_event_loop_control(), &server->event);
	if (rc < 0)
		goto err_listen;
	*out = server;
	return 0;

err_listen:
	vdpa_listen_unlink(&server->listen);
	close(server->listen.fd);
err_account:
	vdpa_fd_account_destroy(server->fds);
err_free:
	pthread_mutex_destroy(&server->lock);
	free(server);
	return rc;
}

int
control_server_open(const struct control_setup *setup, struct control_server **server)
{
	return open_server(setup, NULL, server);
}

int
control_server_adopt(const struct control_setup *setup, const struct vdpa_listen *from,
		     struct control_server **server)
{
	return open_server(setup, from, server);
}

void
control_server_leave(struct control_server *server, struct vdpa_listen *l)
{
	server->left = true;
	vdpa_timer_stop(&server->retry);
	vdpa_event_del(&server->event);
	*l = server->listen;
}

int
control_server_listen(struct control_server *server)
{
	if (!server->left)
		return 0;
	server->left = false;
	return vdpa_event_add(vdpa_event_loop_control(), &server->event);
}

static struct control_conn *
take_first(struct control_server *server)
{
	struct control_conn *conn;

	pthread_mutex_lock(&server->lock);
	conn = LIST_FIRST(&server->conns);
	if (conn != NULL)
		control_conn_unlist(conn);
	pthread_mutex_unlock(&server->lock);
	return conn;
}

static int
nothing(void *arg)
{
	return 0;
}

void
control_server_close(struct control_server *server)
{
	struct control_conn *conn;

	if (server == NULL)
		return;
	pthread_mutex_lock(&server->lock);
	server->closing = true;
	pthread_mutex_unlock(&server->lock);
	vdpa_timer_stop(&server->retry);
	vdpa_event_del(&server->event);
	if (!server->left)
		vdpa_listen_unlink(&server->listen);
	while ((conn = take_first(server)) != NULL)
		control_conn_close(conn);
	/* One that was at its end, on the loop, has come to it. */
	vdpa_event_loop_call(vdpa_event_loop_control(), nothing, NULL);
	/* Those who were not accepted may have sent something. */
	if (server->left)
		close(server->listen.fd);
	else
		(void)vdpa_close_connection(server->fds, server->listen.fd);
	vdpa_fd_account_destroy(server->fds);
	pthread_mutex_destroy(&server->lock);
	free(server);
}

const struct control_setup *
control_server_setup(const struct control_server *server)
{
	return &server->setup;
}

bool
control_server_joined(const struct control_server *server, uint32_t mask)
{
	for (unsigned int i = 0; i < CONTROL_BITS; i++)
		if ((mask & UINT32_C(1) << i) != 0 &&
		    __atomic_load_n(&server->joined[i], __ATOMIC_RELAXED) > 0)
			return true;
	return false;
}

void
control_server_send(struct control_server *server, uint32_t mask, const char *line)
{
	size_t len = strlen(line);
	struct control_conn *conn;

	pthread_mutex_lock(&server->lock);
	LIST_FOREACH (conn, &server->conns, next)
		control_conn_push(conn, mask, line, len);
	pthread_mutex_unlock(&server->lock);
}
