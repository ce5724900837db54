/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The connection to a control socket. What the daemon sends is checked as anything from a peer: a
 * line has a limit, a wait an end, a member the type that is expected of it.
 */

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "client.h"

#define READ_SIZE	 65536u
#define LINE_MAX_LEN	 (64u << 20)
/* Events that come while a call waits for its answer. */
#define EVENTS_MAX	 65536u
#define EVENTS_MAX_BYTES (64u << 20)
/* A daemon that takes no connections: more are waiting for it than it lets wait. */
#define CONNECT_SECONDS	 5

struct client {
	int fd;
	unsigned int seconds; /* that a call waits */
	json_int_t id;	      /* of the last request */
	char *buf; /* what has been read and not yet used: from `start` on, `len` bytes */
	size_t start, len, size;
	json_t *events;
	size_t first_event; /* in events; those before are taken */
	size_t event_bytes; /* as which they came */
	size_t message_len; /* of the last message */
};

static json_t *__attribute__((format(printf, 2, 3)))
fail(struct client_error *err, const char *fmt, ...)
{
	va_list ap;

	memset(err, 0, sizeof(*err));
	va_start(ap, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, ap);
	va_end(ap);
	return NULL;
}

static int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* While nobody takes connections, wait; a signal ends one wait, as does a stop of the process. */
static int
connect_in_time(int fd, const struct sockaddr_un *un)
{
	int64_t end = now_ms() + CONNECT_SECONDS * 1000;
	int rc;

	do
		rc = connect(fd, (const struct sockaddr *)un, sizeof(*un));
	while (rc < 0 && errno == EINTR && now_ms() < end);
	return rc;
}

struct client *
client_open(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = CONNECT_SECONDS};
	struct client *client;
	int fd, err;

	if (strlen(path) >= sizeof(un.sun_path)) {
		errno = ENAMETOOLONG;
		return NULL;
	}
	strcpy(un.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return NULL;
	client = calloc(1, sizeof(*client));
	/* Only connect() heeds the limit: what is sent does not wait. */
	if (client == NULL || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0 ||
	    connect_in_time(fd, &un) < 0) {
		err = errno == EAGAIN || errno == EINTR ? ETIMEDOUT : errno;
		free(client);
		close(fd);
		errno = err;
		return NULL;
	}
	client->fd = fd;
	client->seconds = CLIENT_CALL_SECONDS;
	client->events = json_array();
	return client;
}

void
client_close(struct client *client)
{
	if (client == NULL)
		return;
	close(client->fd);
	free(client->buf);
	json_decref(client->events);
	free(client);
}

void
client_set_timeout(struct client *client, unsigned int seconds)
{
	client->seconds = seconds;
}

int
client_fd(const struct client *client)
{
	return client->fd;
}

static bool
is_over(int64_t end)
{
	return end >= 0 && now_ms() >= end;
}

/* Wait until the socket can do it, up to end (ms; -1: without). 1, 0 for the end, -1 with errno. */
static int
wait_fd(const struct client *client, short events, int64_t end)
{
	struct pollfd pfd = {.fd = client->fd, .events = events};
	int64_t left = end < 0 ? -1 : end - now_ms();

	return poll(&pfd, 1, end >= 0 && left < 0 ? 0 : (int)left);
}

static bool
send_all(struct client *client, const char *text, size_t len, int64_t end)
{
	while (len > 0) {
		ssize_t n = send(client->fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN) {
			if (is_over(end) || wait_fd(client, POLLOUT, end) == 0) {
				errno = ETIMEDOUT;
				return false;
			}
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return false;
		text += n;
		len -= (size_t)n;
	}
	return true;
}

static bool
make_room(struct client *client)
{
	char *bigger;

	if (client->start > 0) {
		memmove(client->buf, client->buf + client->start, client->len);
		client->start = 0;
	}
	if (client->size - client->len >= READ_SIZE)
		return true;
	bigger = realloc(client->buf, client->size * 2 + READ_SIZE);
	if (bigger == NULL)
		return false;
	client->buf = bigger;
	client->size = client->size * 2 + READ_SIZE;
	return true;
}

/*
 * The next line, without its end; valid until the next call. NULL: err->message says why, or is ""
 * for the end of the time or a signal.
 */
static char *
next_line(struct client *client, size_t *line_len, int64_t end, struct client_error *err)
{
	size_t looked = 0;

	for (bool again = false;; again = true) {
		char *line = client->buf != NULL ? client->buf + client->start : NULL;
		char *nl = line != NULL ? memchr(line + looked, '\n', client->len - looked) : NULL;
		ssize_t n;

		if (nl != NULL) {
			*line_len = (size_t)(nl - line);
			client->start += *line_len + 1;
			client->len -= *line_len + 1;
			return line;
		}
		looked = client->len;
		/* However much comes; what is there already is taken in any case. */
		if (again && is_over(end)) {
			fail(err, "%s", "");
			return NULL;
		}
		if (client->len > LINE_MAX_LEN) {
			fail(err, "the answer is longer than %u MiB", LINE_MAX_LEN >> 20);
			return NULL;
		}
		n = wait_fd(client, POLLIN, end);
		if (n == 0 || (n < 0 && errno == EINTR)) {
			fail(err, "%s", "");
			return NULL;
		}
		if (!make_room(client)) {
			fail(err, "out of memory");
			return NULL;
		}
		n = recv(client->fd, client->buf + client->len, client->size - client->len,
			 MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n <= 0) {
			fail(err, "the connection is lost: %s",
			     n == 0 ? "the daemon has closed it" : strerror(errno));
			return NULL;
		}
		client->len += (size_t)n;
	}
}

/* The next message, an object. */
static json_t *
next_message(struct client *client, int64_t end, struct client_error *err)
{
	json_t *message;
	size_t len;
	char *line = next_line(client, &len, end, err);

	if (line == NULL)
		return NULL;
	client->message_len = len;
	message = json_loadb(line, len, 0, NULL);
	if (json_is_object(message))
		return message;
	json_decref(message);
	return fail(err, "the daemon has sent what is no JSON object");
}

/* Its params, if the message is a notification; NULL where it is an answer. */
static json_t *
notification(const json_t *message)
{
	json_t *params = json_object_get(message, "params");

	return json_is_string(json_object_get(message, "method")) && json_is_object(params) ? params
											    : NULL;
}

static void
read_error(const json_t *error, struct client_error *err)
{
	const json_t *cause = json_object_get(json_object_get(error, "data"), "errno");
	const char *message = json_string_value(json_object_get(error, "message"));

	fail(err, "%s", message != NULL && message[0] != '\0' ? message : "no message");
	err->code = (int)json_integer_value(json_object_get(error, "code"));
	if (json_is_string(cause))
		snprintf(err->cause, sizeof(err->cause), "%s", json_string_value(cause));
}

/*
 * The result in an answer, taken out of it; NULL where the answer is an error, or another
 * request's: then *wrong is true. An error without an id concerns the connection, and so this
 * request too.
 */
static json_t *
read_answer(const struct client *client, const json_t *message, struct client_error *err,
	    bool *wrong)
{
	const json_t *id = json_object_get(message, "id");
	json_t *error = json_object_get(message, "error");
	json_t *result = json_object_get(message, "result");

	*wrong = false;
	if (json_is_object(error) &&
	    (json_is_null(id) || id == NULL || json_integer_value(id) == client->id)) {
		read_error(error, err);
		return NULL;
	}
	if (!json_is_integer(id) || json_integer_value(id) != client->id || result == NULL)
		*wrong = true;
	return *wrong ? NULL : json_incref(result);
}

static json_t *
wait_answer(struct client *client, int64_t end, struct client_error *err)
{
	for (bool again = false;; again = true) {
		json_t *message, *event, *result;
		bool wrong;

		/* Messages that are no answer do not make the time longer. */
		if (again && is_over(end))
			return fail(err, "no answer within %u s", client->seconds);
		message = next_message(client, end, err);
		if (message == NULL) {
			/* A signal, before the time is over: stopping and continuing makes one. */
			if (err->message[0] == '\0' && !is_over(end))
				continue;
			return err->message[0] == '\0'
				       ? fail(err, "no answer within %u s", client->seconds)
				       : NULL;
		}
		event = notification(message);
		if (event != NULL) {
			bool room = json_array_size(client->events) < EVENTS_MAX;

			json_array_append(client->events, event);
			json_decref(message);
			client->event_bytes += client->message_len;
			if (!room)
				return fail(err, "more than %u events came first", EVENTS_MAX);
			if (client->event_bytes > EVENTS_MAX_BYTES)
				return fail(err, "more than %u MiB of events came first",
					    EVENTS_MAX_BYTES >> 20);
			continue;
		}
		result = read_answer(client, message, err, &wrong);
		json_decref(message);
		if (!wrong)
			return result;
		/* Of a call that was given up. */
	}
}

json_t *
client_call(struct client *client, const char *method, json_t *params, struct client_error *err)
{
	int64_t end = now_ms() + (int64_t)client->seconds * 1000;
	json_t *request = json_pack("{s:s, s:I, s:s}", "jsonrpc", "2.0", "id", ++client->id,
				    "method", method);
	char *text;
	bool sent;

	if (params != NULL)
		json_object_set_new(request, "params", params);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	if (text == NULL)
		return fail(err, "a word is no UTF-8 text");
	sent = send_all(client, text, strlen(text), end) && send_all(client, "\n", 1, end);
	free(text);
	/* A daemon that refuses the connection says so and closes it: its words first. */
	if (!sent && errno != EPIPE && errno != ECONNRESET)
		return fail(err, "the connection is lost: %s", strerror(errno));
	return wait_answer(client, end, err);
}

json_t *
client_next(struct client *client, int timeout_ms, struct client_error *err)
{
	int64_t end = timeout_ms < 0 ? -1 : now_ms() + timeout_ms;
	json_t *message, *event = NULL;

	if (client->first_event < json_array_size(client->events))
		return json_incref(json_array_get(client->events, client->first_event++));
	json_array_clear(client->events);
	client->first_event = 0;
	client->event_bytes = 0;
	for (bool again = false; event == NULL; again = true) {
		if (again && is_over(end))
			return fail(err, "%s", "");
		message = next_message(client, end, err);
		if (message == NULL)
			return NULL;
		event = json_incref(notification(message));
		json_decref(message);
	}
	return event;
}
