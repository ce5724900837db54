/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection to a vfio-user server, as the three files that share it see it: vfio_user_conn.c
 * (the socket, from connect to its end), vfio_user_call.c (requests and their replies),
 * vfio_user_post.c (doorbells).
 */

#ifndef VDPA_VFIO_USER_CONN_H
#define VDPA_VFIO_USER_CONN_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "clock.h"
#include "patience.h"
#include "vdpa_event.h"
#include "vdpa_foreign_fd.h"
#include "vfio_user_priv.h"

/* Doorbells that wait for room in the socket. */
#define VFU_BACKLOG_MAX 256
/* After so many doorbells look whether the server answers them. Must be well below what fits in a
 * socket, some 270 small messages. */
#define VFU_DRAIN_EVERY 64
/* Ids of doorbells have this bit, those of requests do not. */
#define VFU_POST_ID	0x8000u
/* Of a connection that a former process has had: replies to its requests that may come yet, and to
 * its doorbells, where the server answers those. More than a few processes leave. */
#define VFU_STALE_MAX	16
#define VFU_STALE_POSTS 512
#define VFU_CAUSE_MAX	256

struct vfu_post {
	struct vfio_user_header hdr;
	struct vfio_user_region_access access;
	uint8_t data[8];
} __attribute__((packed));
_Static_assert(sizeof(struct vfu_post) == 40, "vfio-user, REGION_WRITE of a register");

struct vfu_conn {
	char *name;
	int fd;
	unsigned int timeout_ms;
	struct vdpa_fd_account *fds; /* the server's that wait to be closed */

	pthread_mutex_t request;
	uint16_t next_id;
	struct vdpa_patience patience;
	const char *doing;     /* the command under way, for messages */
	unsigned int refusals; /* during it */
	/* The message that comes in: rx_len bytes of it are taken out of the socket. */
	uint8_t rx[VFIO_USER_MSG_MAX];
	size_t rx_len;
	int rx_fd;
	unsigned int looks;    /* at a part of it, which stays in the socket */
	unsigned int stale;    /* replies to a former process' requests that may come yet */
	uint64_t post_replies; /* to doorbells, dropped */

	pthread_mutex_t send;
	int error; /* 0 while it stands; positive errno; set once; read with __atomic */
	char cause[VFU_CAUSE_MAX]; /* set before error */
	bool reported;
	struct vdpa_pci *pci; /* whom to tell; NULL: nobody */
	bool watched;	      /* open: the control loop may be used */
	bool is_adopted;      /* it was another process' */
	bool is_left;	      /* to the next process: nothing ends it any more */
	uint64_t posts;
	struct vfu_post backlog[VFU_BACKLOG_MAX];
	unsigned int backlog_first, backlog_n;
	int64_t backlog_since_us;
	bool room_awaited;

	struct vdpa_event hangup; /* of the socket */
	struct vdpa_event room;	  /* of a duplicate: an fd is only once in an epoll set */
};

/* vfio_user_conn.c */

/*
 * The end of the connection: the first counts, and its negative errno is returned. doing: the
 * command under way, or NULL. Under `send`.
 */
int vdpa_vfu_end_locked(struct vfu_conn *conn, int err, const char *doing, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int vdpa_vfu_vend_locked(struct vfu_conn *conn, int err, const char *doing, const char *fmt,
			 va_list ap) __attribute__((format(printf, 4, 0)));

/* Tell pci.c of the end, if it has come, once. It calls back: under no lock. */
void vdpa_vfu_tell(struct vfu_conn *conn);
/* The end as the caller's error. */
int vdpa_vfu_gone_error(struct vfu_conn *conn);

/*
 * Send a whole message without waiting. 0; -EAGAIN: no room; another negative errno: not sent, or
 * the connection has ended. Under `send`.
 */
int vdpa_vfu_send_locked(struct vfu_conn *conn, const struct iovec *iov, unsigned int n_iov,
			 const int *fds, unsigned int n_fds);

/* vfio_user_call.c */

/* Read what has come without being asked for, unless a request does that already. */
void vdpa_vfu_drain(struct vfu_conn *conn);

/* vfio_user_post.c */

/* Doorbells that wait, as far as there is room. 0 when none is left. Under `send`. */
int vdpa_vfu_flush_locked(struct vfu_conn *conn);
/* There is room: on the control loop. */
void vdpa_vfu_room_handler(struct vdpa_event *ev, uint32_t revents);

#endif /* VDPA_VFIO_USER_CONN_H */
