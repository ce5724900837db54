/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Calls to a front end that gives a socket in place of an eventfd, as User-mode Linux does, which
 * has no eventfds inside: the device signals an eventfd of ours, and the control loop sends what an
 * eventfd would hold, 8 bytes. Owns the socket. A socket that is full holds a call already.
 */

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vdpa_event.h"
#include "vdpa_fd.h"
#include "vhost_user_priv.h"

struct vhu_call {
	int socket;
	struct vdpa_fd_account *fds; /* of who has sent it */
	struct vdpa_event event;     /* its fd is our duplicate of the eventfd */
};

bool
vdpa_vhu_is_stream(int fd)
{
	socklen_t dlen = sizeof(int), tlen = sizeof(int);
	int domain, type;

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &dlen) == 0 &&
	       getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &tlen) == 0 && domain == AF_UNIX &&
	       type == SOCK_STREAM;
}

static void
forward(struct vdpa_event *event, uint32_t revents)
{
	const struct vhu_call *call = event->arg;
	const uint64_t one = 1;

	if (vdpa_eventfd_take(event->fd))
		(void)send(call->socket, &one, sizeof(one), MSG_DONTWAIT | MSG_NOSIGNAL);
}

int
vdpa_vhu_call_new(struct vdpa_fd_account *fds, int socket, struct vhu_call **out, int *fd)
{
	struct vhu_call *call = calloc(1, sizeof(*call));
	int rc;

	*fd = -1;
	if (call == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err_socket;
	}
	call->fds = fds;
	call->socket = socket;
	call->event = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					  .events = EPOLLIN,
					  .handler = forward,
					  .arg = call};
	if (call->event.fd < 0) {
		rc = vdpa_fd_error(errno, "an eventfd");
		goto err_call;
	}
	rc = vdpa_fd_dup(call->event.fd, "an eventfd");
	if (rc < 0)
		goto err_event;
	*fd = rc;
	rc = vdpa_event_add(vdpa_event_loop_control(), &call->event);
	if (rc < 0)
		goto err_dup;
	*out = call;
	return 0;

err_dup:
	close(*fd);
	*fd = -1;
err_event:
	close(call->event.fd);
err_call:
	free(call);
err_socket:
	(void)vdpa_close_foreign(fds, socket);
	return rc;
}

void
vdpa_vhu_call_free(struct vhu_call *call)
{
	if (call == NULL)
		return;
	vdpa_event_del(&call->event);
	close(call->event.fd);
	(void)vdpa_close_foreign(call->fds, call->socket);
	free(call);
}
