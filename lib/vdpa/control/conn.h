/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A connection of a server of lines: conn.c. */

#ifndef CONTROL_CONN_H
#define CONTROL_CONN_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "frame.h"
#include "log_limit.h"
#include "server.h"
#include "vdpa_control.h"
#include "vdpa_event.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"

/* Bits of a mask of lines. */
#define CONTROL_BITS 32

/* Who has the input, and posts the job. */
enum conn_phase {
	CONN_READING, /* the loop: there is no whole request */
	CONN_WORKING, /* the job, which is posted or runs */
	CONN_PARKED,  /* nobody: there may be one, but the client reads too little or asks too much
		       */
};

/* How far the end has come. */
enum conn_life {
	CONN_OPEN,
	CONN_ENDING, /* nothing is read any more; what is to be written is */
	CONN_DEAD,   /* neither */
};

/* Bytes that wait to be written. */
struct conn_output {
	char *buf;
	size_t at, end, size;
};

struct control_conn {
	struct control_server *server;
	LIST_ENTRY(control_conn) next; /* the server's lock */
	bool listed;		       /* likewise */
	int fd;
	enum control_right right;
	uid_t uid;
	bool owner; /* its connection is one of the reserve */

	pthread_mutex_t lock; /* guards what follows; innermost but for the loop's */
	enum conn_phase phase;
	enum conn_life life;
	bool hung_up; /* the peer writes no more */
	bool timed;   /* the timer runs */
	bool unread;  /* PARKED, until the client has read: the timer is its time for that */
	bool ended;   /* the end is posted */
	struct conn_output out;
	uint32_t joined; /* lines that it takes part in */
	uint32_t wants;	 /* the same, from the next reply on; the job's */
	bool changes;	 /* wants holds */

	/* The input: of whoever has it by the phase. */
	char in[VDPA_CONTROL_REQUEST_MAX + 1];
	size_t in_at, in_end;
	struct control_scan in_scan; /* of the request at in_at */
	int64_t paid_us;	     /* when the requests so far are paid for */

	struct vdpa_event event;
	struct vdpa_timer
		timer; /* READING: a request was begun; PARKED: to go on; ENDING: to die */
	struct vdpa_work work;
	struct vdpa_work_queue queue;
	struct vdpa_task end; /* frees it, on the loop */
};

LIST_HEAD(control_conn_list, control_conn);

struct control_server {
	struct control_setup setup;
	struct vdpa_listen listen;
	struct vdpa_event event;
	struct vdpa_timer retry;
	unsigned int retry_ms; /* the loop's */
	struct vdpa_fd_account *fds;
	struct vdpa_log_limit log;

	pthread_mutex_t lock; /* outside of a connection's */
	bool closing;	      /* the listening socket is not armed any more */
	bool left;	      /* to another process: nobody is let in, and its file remains */
	struct control_conn_list conns;
	unsigned int n_conns; /* of other users than the owner */
	unsigned int n_owner;
	uint32_t joined[CONTROL_BITS]; /* connections by bit; atomic */
};

/*
 * A connection begins, on the loop; fd is taken over. The caller has counted it. Returns a negative
 * errno with a message, and nothing is left.
 */
int control_conn_open(struct control_server *server, int fd, const struct control_cred *cred,
		      enum control_right right);

/* Send a line to a peer that is not served, and hang up. On the loop. */
void control_refuse(struct control_server *server, int fd, enum control_refusal why);

/* The server ends: no more of it; waits for its job. It is out of the list. */
void control_conn_close(struct control_conn *conn);

/* Under the server's lock: take it out of the list and the counts. */
void control_conn_unlist(struct control_conn *conn);

/* A line to the client, that nobody has asked for. Under the server's lock. */
void control_conn_push(struct control_conn *conn, uint32_t mask, const char *line, size_t len);

#endif /* CONTROL_CONN_H */
