/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A connection that outlives the process (vhost_user_kept.c): what of a device is kept beside the
 * record of what its front end has said (vhost_user_record.h), and how the next process goes on.
 *
 * Nothing here is for the control loop, since the store is waited for. What a connection has is its
 * job's, or whoever makes or ends it.
 */

#ifndef VHOST_USER_KEPT_H
#define VHOST_USER_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "kept_state.h"
#include "planned_end.h"
#include "vhost_user_record.h"

/* The connection's name in the store. */
#define VHU_KEPT_CONNECTION "connection"

struct vhu_conn;
struct vhu_device;
struct vhu_msg;
struct vhu_shm;

/* What of a device is kept, beside its session's. */
struct vhu_kept {
	bool on;   /* it goes on in the next process */
	bool said; /* that its connection does not was logged */
	struct vdpa_planned_end planned;
	struct vdpa_wire wire;	      /* the connection's bytes */
	struct vdpa_state_kept state; /* what was set by the control queue */
	struct vhu_shm *areas;	      /* inflight areas for front ends that have none */
	size_t stride;		      /* bytes of an area */
	struct vhu_record *former;    /* of the process before; NULL: none */
};

/* Errors are negative, with vdpa_error_message(). */

/* Once its words are known, before its socket is there: keep the device, where the process keeps
 * devices and this one can be. One that cannot be kept is served as ever, and one line says why. An
 * error only where another process that lives has left it, and this one cannot go on with it. */
int vdpa_vhu_kept_init(struct vhu_device *dev);
/* The last of these. */
void vdpa_vhu_kept_fini(struct vhu_device *dev);
/* Whether the process ends and leaves the device, its socket and its connection to the next one. */
bool vdpa_vhu_kept_leaves(const struct vhu_device *dev);
/* Whether another process has, or may have again, the device's connection as it is, and a listening
 * socket that it has made: this one closes its descriptors of them and no more. */
bool vdpa_vhu_kept_is_others(const struct vhu_device *dev);
/* The device is deleted: forget it, unless it is left to the next process. */
void vdpa_vhu_kept_end(struct vhu_device *dev);
/* It is not kept from now on: logged with the reason. */
void vdpa_vhu_kept_stop(struct vhu_device *dev, const char *why);

/* The listening socket of a former process, into dev->socket.listen; -ENOENT: there is none. */
int vdpa_vhu_kept_listener(struct vhu_device *dev);
/* The device listens, or waits to connect; it does no more. */
void vdpa_vhu_kept_listens(struct vhu_device *dev);
void vdpa_vhu_kept_listens_no_more(struct vhu_device *dev);

/* Go on with the connection of a former process, before there is another. True: it is there, with
 * its session, and its job is to run. */
bool vdpa_vhu_kept_resume(struct vhu_device *dev);
/* A new connection, with its session; its end, behind which nobody finds the session. */
void vdpa_vhu_kept_connected(struct vhu_device *dev);
void vdpa_vhu_kept_disconnected(struct vhu_device *dev, const struct vhu_kept_session *s);

/* Look at what has come, as recvmsg(2): nothing leaves the socket, and the descriptors are in the
 * store. Then take the n bytes of it: as vdpa_wire_receive(), the message being that which begins
 * at this place of conn->input. */
ssize_t vdpa_vhu_kept_look(struct vhu_conn *conn, struct msghdr *hdr);
int vdpa_vhu_kept_take(struct vhu_conn *conn, size_t n, unsigned int nfds, size_t message);
/* vdpa_vhu_send() of the reply to the message that was recorded last. */
ssize_t vdpa_vhu_kept_reply(struct vhu_conn *conn, const struct vhu_msg *msg, int fd);

/*
 * A ring with an area of ours is to stop, and the area goes no further: wait until what a former
 * process had under way there is done; all: until nothing is under way. For a bounded time, and as
 * long as the device has the ring.
 */
void vdpa_vhu_kept_drain(struct vhu_session *s, uint16_t idx, bool all);
/* The same of all rings, of what a former process had under way, within the same time. */
void vdpa_vhu_kept_drain_all(struct vhu_session *s);

/* A descriptor of ours, which goes with the reply to the message at hand, into the store. */
int vdpa_vhu_kept_own_fd(struct vhu_device *dev, int fd, vhu_kept_id *id);

/* vhost_user_planned.c */

/* Whether the device goes on in the next process: at any end of this one, or, with a line, at a
 * planned one alone. 0; -EOPNOTSUPP and the like: at none. */
int vdpa_vhu_planned_choose(struct vhu_device *dev);
/* Whether it does so at a planned end alone. */
bool vdpa_vhu_planned_is(const struct vhu_device *dev);
/* The process ends, and such a device has a connection, of which no job runs: stop the device, and
 * record where its rings stand. A negative errno: it does not go on. */
int vdpa_vhu_planned_leave(struct vhu_device *dev);
/* Whether a former process has stopped all rings of a connection. */
bool vdpa_vhu_planned_has_stopped(const struct vhu_record *record);
/* -EOPNOTSUPP: the device goes on at a planned end alone, and that was none. */
int vdpa_vhu_planned_check(const struct vhu_device *dev, const struct vhu_record *record);
/* Start a device that was stopped so, with a session that was brought to what the former process
 * knew, once this one's record is written; where another process may have it back, later. */
int vdpa_vhu_planned_go_on(struct vhu_device *dev, struct vhu_session *s);
/* Now: the connection's job, before anything else. False: the connection is to end, with a line. */
bool vdpa_vhu_planned_start_late(struct vhu_device *dev);

#endif /* VHOST_USER_KEPT_H */
