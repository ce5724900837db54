/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Messages of a hand-over (handover.h). Owns nothing. */

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vdpa.h>
#include <vdpa_args.h>

#include "fd_message.h"
#include "handover.h"

#define MESSAGE_MAX 65536

int
app_handover_send(int sock, json_t *message, int fd)
{
	char *text = json_dumps(message, JSON_COMPACT);
	struct iovec iov = {text, text != NULL ? strlen(text) : 0};
	ssize_t n;

	json_decref(message);
	if (text == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* There are few of them, and a socket has room for several. */
	n = vdpa_send_fd(sock, &iov, 1, fd, MSG_DONTWAIT);
	free(text);
	return n >= 0 ? 0 : vdpa_error(errno, "the other process is not there: %m");
}

json_t *
app_handover_receive(int sock, int timeout_ms, int *fd)
{
	static char text[MESSAGE_MAX];
	struct iovec iov = {text, sizeof(text)};
	struct pollfd p = {.fd = sock, .events = POLLIN};
	json_t *message;
	int flags;
	ssize_t n;

	*fd = -1;
	n = poll(&p, 1, timeout_ms);
	if (n == 0 || (n < 0 && errno == EINTR)) {
		errno = -vdpa_error(ETIMEDOUT, "the other process does not answer");
		return NULL;
	}
	/* A process that has ended without having read all resets the socket, once; what it has
	 * sent before is there behind that. */
	do {
		n = vdpa_receive_fd(sock, &iov, 1, MSG_DONTWAIT, fd, &flags);
	} while (n < 0 && errno == ECONNRESET);
	if (n <= 0) {
		errno = n == 0 ? -vdpa_error(EPIPE, "the other process has ended")
			       : -vdpa_error(EPROTO, "the other process' socket: %m");
		return NULL;
	}
	message = json_loadb(text, (size_t)n, 0, NULL);
	if (json_is_object(message))
		return message;
	json_decref(message);
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = -vdpa_error(EPROTO, "the other process speaks no hand-over of this version's");
	return NULL;
}

int
app_handover_is(const json_t *message, const char *step)
{
	const char *is = json_string_value(json_object_get(message, "step"));

	return is != NULL && strcmp(is, step) == 0;
}
