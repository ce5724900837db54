/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The connection of a device's front end, and the socket it comes by. */

#ifndef VHOST_USER_CONN_H
#define VHOST_USER_CONN_H

#include <stdbool.h>
#include <sys/types.h>

#include "listen.h"
#include "restart.h"
#include "vdpa_event.h"
#include "vdpa_peer.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"
#include "vhost_user_proto.h"
#include "vhost_user_record.h"

/* Linux' SCM_MAX_FD: what one message can bring. All are received, so that all can be closed. */
#define VHU_RIGHTS_MAX 253

/* Bytes of a read, which is as many messages as have come: up to one with file descriptors. */
#define VHU_INPUT_MAX 512

struct vhu_device;
struct vhu_session;

/*
 * A connection. Between two messages it belongs to the control loop, which reads the next one; from
 * a complete message (or the end) on it belongs to its job on the device's work queue, until that
 * has read all there is and arms the event again. So its fields need no lock, but for (S).
 */
struct vhu_conn {
	int fd; /* (S) -1: nobody is connected */
	struct vdpa_event event;
	struct vdpa_work work;
	struct vhu_session *session;
	/* What was read: `at` is where the message begins that is next, and `end` how far it goes.
	 */
	uint8_t input[VHU_INPUT_MAX];
	size_t at, end;
	/* Of that message, and behind them those of a later one, which begins at later_at: a read
	 * ends with the bytes that descriptors came with, so there is one such at most. */
	int fds[VHU_MSG_FDS_MAX + VHU_RIGHTS_MAX];
	vhu_kept_id ids[VHU_MSG_FDS_MAX + VHU_RIGHTS_MAX]; /* of a connection that is kept */
	unsigned int nfds, nfds_later;
	size_t later_at;
	struct vhu_msg msg;	     /* the next one, once it is complete; then its reply */
	bool answered;		     /* the last message */
	bool rests;		     /* no message is to be expected behind the last one */
	bool ended;		     /* hung up, broken or refused */
	bool kept;		     /* its job alone reads, since that may wait */
	bool begins;		     /* of such a one: its job has not run yet */
	bool resumed;		     /* of such a one: a former process has begun it */
	unsigned int spin_skip;	     /* messages before which the job does not spin */
	unsigned int spin_skip_next; /* how many those are when it spins in vain once more */
};

/* The socket of a device: one that listens, or the address of one to connect to. */
struct vhu_socket {
	struct vdpa_listen listen; /* fd -1: none */
	struct vdpa_event event;   /* somebody connects */
	struct vdpa_timer retry;   /* accepts again after EMFILE, or connects again */
	unsigned int retry_ms;	   /* how long the last one waited */
	/* Whoever connects, or has sent something, is heard once nobody else serves the device. */
	struct vdpa_restart_waiter waiter;
	bool resumed;	   /* with a connection of a former process */
	bool refused_gone; /* that the device is gone was logged */
	int logged_errno;  /* of the last log line, so that each is logged once */
};

/* vhost_user_conn.c */

void vdpa_vhu_conn_init(struct vhu_device *dev);
/* Serve the connection fd of a process, which is taken over, also on failure. On the control loop,
 * while there is no other. */
int vdpa_vhu_conn_open(struct vhu_device *dev, int fd, const struct vdpa_peer *peer);
/* Serve the connection that vdpa_vhu_kept_resume() has taken over. */
int vdpa_vhu_conn_resume(struct vhu_device *dev);
/* End it, if there is one; no job of it runs afterwards. Not from a job of the device. */
void vdpa_vhu_conn_close(struct vhu_device *dev);
/* The process ends, and the next one goes on with the connection: before the device is removed. */
void vdpa_vhu_conn_leave(struct vhu_device *dev);

/* vhost_user_socket.c: 0 or a negative errno with vdpa_error_message(). */

/* Create the socket, with the device's permissions, or begin to connect. */
int vdpa_vhu_socket_open(struct vhu_device *dev);
/* Nobody connects any more. The path is removed if it still is what was created, unless the socket
 * is another process'. */
void vdpa_vhu_socket_close(struct vhu_device *dev);
/* Whether the socket or the connection is of a process that may yet go on with it: a device that
 * does not serve any more closes both behind vdpa_restart_go(), by itself. */
bool vdpa_vhu_socket_is_held(const struct vhu_device *dev);
/* The connection has ended: the next one may come. */
void vdpa_vhu_socket_resume(struct vhu_device *dev);

#endif /* VHOST_USER_CONN_H */
