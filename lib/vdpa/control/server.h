/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A server of lines: a listening socket, and connections on which each line is a request and each
 * reply a line. What the lines mean is the service's, which knows neither sockets nor threads.
 *
 * Threads: the control loop accepts, reads and writes, and waits for nothing. The requests of a
 * connection are carried out one by one by a job on a work queue of its own, as they may wait for a
 * device. Whoever has a connection's input, the loop or the job, is said by its phase (conn.h).
 *
 * Bounds: how long a request is and how long it may take to come, how many there are in a second,
 * what waits for a client to read it, how many connections there are, of one user and of all. A
 * client that does not read its replies is not read either.
 */

#ifndef CONTROL_SERVER_H
#define CONTROL_SERVER_H

#include <stdint.h>

#include "listen.h"
#include "right.h"

struct control_conn;
struct control_scan;
struct control_server;

/* Why a peer is not served. */
enum control_refusal {
	CONTROL_REFUSED_RIGHT,	/* it may do nothing here */
	CONTROL_REFUSED_USER,	/* its user has as many connections as one may have */
	CONTROL_REFUSED_NUMBER, /* there are as many connections as there may be */
	CONTROL_REFUSED_LONG,	/* a request is too long */
	CONTROL_REFUSED_SLOW,	/* a request was begun and not completed in time */
	CONTROL_REFUSED_FILES,	/* it sent file descriptors */
};

struct control_limits {
	unsigned int connections; /* of users that are not the owner */
	unsigned int reserve;	  /* more of them for root and the owner */
	unsigned int per_user;
	unsigned int rate;	 /* requests a second of one connection */
	unsigned int request_ms; /* from its first byte to its last */
	size_t output;		 /* bytes that may wait for a client */
};

struct control_service {
	const char *name; /* in log lines */
	/* Where a request ends: frame.h. */
	size_t (*frame)(const char *buf, size_t len, struct control_scan *scan);
	/*
	 * Carry out one request: len bytes, with what ends it. Returns the reply from malloc(3),
	 * which is sent as a line, without its newline, or NULL for none. On a thread that may
	 * wait; those of different connections at once.
	 */
	char *(*serve)(struct control_conn *conn, const char *line, size_t len);
	/* The last that a peer which is not served reads; the same way, but it waits for nothing.
	 */
	char *(*refuse)(enum control_refusal why, const struct control_server *server);
};

struct control_setup {
	const struct control_service *service;
	const char *path;
	mode_t mode;
	gid_t socket_group; /* of the file; (gid_t)-1: the process's */
	struct control_policy policy;
	struct control_limits limits;
};

/* Listen. 0, or a negative errno with a message, as vdpa_listen_open(). After vdpa_init(). */
int control_server_open(const struct control_setup *setup, struct control_server **server);

/*
 * The same with the socket of another process, as vdpa_listen_adopt(). Nobody is let in before
 * control_server_listen(), and until then the file remains at the end.
 */
int control_server_adopt(const struct control_setup *setup, const struct vdpa_listen *from,
			 struct control_server **server);
/* Let nobody in any more: *l is the socket, which is still the server's. Its file remains at the
 * end, unless control_server_listen() is called before. */
void control_server_leave(struct control_server *server, struct vdpa_listen *l);
int control_server_listen(struct control_server *server);

/* End it: on return no request runs or will. Waits for those that are being carried out. From any
 * thread but the library's; NULL: no-op. */
void control_server_close(struct control_server *server);

const struct control_setup *control_server_setup(const struct control_server *server);

/* The server of a connection, and what its peer may do. */
struct control_server *control_conn_server(const struct control_conn *conn);
enum control_right control_conn_right(const struct control_conn *conn);
uid_t control_conn_uid(const struct control_conn *conn);

/*
 * Lines that come without a request. A connection takes part in those of a mask's bits, from the
 * reply to the request on that calls this; from its own serve() only.
 */
void control_conn_join(struct control_conn *conn, uint32_t mask);

/* Whether any connection takes part in one of these bits: else a line need not be made. */
bool control_server_joined(const struct control_server *server, uint32_t mask);

/* Send a line to each that takes part; one that has too much to read already loses its connection.
 * From any thread; it never waits. */
void control_server_send(struct control_server *server, uint32_t mask, const char *line);

#endif /* CONTROL_SERVER_H */
