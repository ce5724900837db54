/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection to a control socket: JSON-RPC 2.0, one JSON text a line. Requests are answered one
 * at a time; what the daemon sends in between (events) waits for client_next().
 */

#ifndef CLIENT_H
#define CLIENT_H

#include <stddef.h>

#include <jansson.h>

/* A device may take its time to be added or removed; the daemon bounds each step of it. */
#define CLIENT_CALL_SECONDS 120u

struct client;

/* Why a call has failed. */
struct client_error {
	int code;	    /* JSON-RPC's; 0: there was no answer */
	char cause[32];	    /* error.data.errno, "" without */
	char message[1024]; /* one line */
};

/* Connect to the socket at path, within some seconds. Returns NULL with errno set. */
struct client *client_open(const char *path);

/* NULL does nothing. */
void client_close(struct client *client);

/* How long a call waits for its answer from now on; CLIENT_CALL_SECONDS to begin with. */
void client_set_timeout(struct client *client, unsigned int seconds);

/*
 * Send a request and wait for its answer. Takes params (NULL: none). Returns
 * the result, which the caller frees; NULL and err where there is none.
 */
json_t *client_call(struct client *client, const char *method, json_t *params,
		    struct client_error *err);

/*
 * The params of the next notification, which the caller frees. Waits up to timeout_ms (-1: without
 * end, until a signal). Returns NULL with err->code 0: err->message is "" where none has come in
 * time or a signal has, and else says why the connection is lost.
 */
json_t *client_next(struct client *client, int timeout_ms, struct client_error *err);

/* For poll(2): readable when client_next() may have something. */
int client_fd(const struct client *client);

#endif /* CLIENT_H */
