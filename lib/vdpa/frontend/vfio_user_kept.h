/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vfio-user connection that outlives the process (vfio_user_kept.c): what of a device is kept
 * beside the record of what its client has asked for (vfio_user_record.h), and how the next process
 * goes on.
 *
 * In the device's jobs, or where none can run; never on the control loop, since the store is waited
 * for.
 */

#ifndef VFIO_USER_KEPT_H
#define VFIO_USER_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "kept_state.h"
#include "listen.h"
#include "planned_end.h"
#include "vfio_user_record.h"

struct vfu_device;
struct vfu_kept_shared;
struct vfu_server;

struct vfu_kept {
	struct vfu_device *dev;
	bool on;   /* it goes on in the next process */
	bool said; /* that its connection does not was logged */
	struct vdpa_planned_end planned;
	bool stopped; /* for such an end: its queues stand still */
	struct vdpa_wire wire;
	struct vdpa_wire_fds live;
	struct vdpa_state_kept state; /* what was set by the control queue */
	/* Replies, and inflight areas. */
	struct vhu_shm *shm;
	struct vfu_kept_shared *shared; /* in shm */
	uint8_t *areas;			/* in shm */
	size_t stride;			/* bytes of an area */
	struct vfu_record *former;	/* of the process before; NULL: none */

	/* Of the connection. */
	uint64_t done; /* bytes of messages that were carried out, from its beginning */
	vdpa_wire_id intx;
	vdpa_wire_id *vectors;		       /* of each vector's eventfd; 0: none */
	vdpa_wire_id files[VFU_DMA_FILES_MAX]; /* as the table of DMA ranges has them */
	struct vfu_kept_config configs[VFU_KEPT_CONFIGS];
	unsigned int n_configs;
	bool lost; /* something was written that is not remembered */
	/* What the last record has of registers, interrupts and queues. */
	uint8_t *last;
	size_t last_len;
	/* While a former process' queues are started: what it said of them. */
	const struct vfu_record_queue *resumed;
	/* Of each queue: requests of a former process with numbers below this may not have been
	 * taken again. */
	uint64_t *taken_again;
};

/* Errors are negative, with vdpa_error_message(). */

/* Once the function is made, before it is served: keep it, where the process keeps devices and this
 * one can be. One that cannot be kept is served as ever, and one line says why. An error only where
 * another process that lives has left it, and this one cannot go on with it. */
int vdpa_vfus_kept_init(struct vfu_device *dev);
/* The last of these; also without the first. */
void vdpa_vfus_kept_fini(struct vfu_device *dev);
/* Whether the process ends and leaves the device, its socket and its connection to the next one. */
bool vdpa_vfus_kept_leaves(const struct vfu_kept *k);
/* Whether another process has, or may have again, the device's connection as it is, and a listening
 * socket that it has made: this one closes its descriptors of them and no more. */
bool vdpa_vfus_kept_is_others(const struct vfu_kept *k);
/* The device is deleted: forget it, unless it is left to the next process. */
void vdpa_vfus_kept_end(struct vfu_device *dev);

/* It is not kept from now on: logged with the reason. */
void vdpa_vfus_kept_stop(struct vfu_kept *k, const char *cause);

/* The listening socket of a former process; -ENOENT: there is none. */
int vdpa_vfus_kept_listener(struct vfu_kept *k, struct vdpa_listen *l, const char *path,
			    mode_t mode, gid_t group);
void vdpa_vfus_kept_listens(struct vfu_kept *k, const struct vdpa_listen *l);
/* Go on with the connection of a former process. True: it is the server's client, with what was
 * under way, and is to be served. */
bool vdpa_vfus_kept_resume(struct vfu_server *s);
/* A new connection, which the device has taken; its end, behind which the device is as without one.
 */
void vdpa_vfus_kept_connected(struct vfu_server *s);
void vdpa_vfus_kept_disconnected(struct vfu_kept *k);

/* Look at what has come, as recvmsg(2): nothing leaves the socket, and the descriptors are in the
 * store. Then take the n bytes of it: as vdpa_wire_receive() with the descriptors in msg. */
ssize_t vdpa_vfus_kept_look(struct vfu_server *s, struct msghdr *msg);
int vdpa_vfus_kept_take(struct vfu_server *s, size_t n, struct msghdr *msg);
/* The message at hand may stop queues: what a former process had under way is done first, for a
 * bounded time. */
void vdpa_vfus_kept_settle(struct vfu_server *s);
/* The message at hand was carried out, and its reply stands in s->out: both are for the next
 * process. */
void vdpa_vfus_kept_commit(struct vfu_server *s);
/* sendmsg(2) of a part of the reply, of which the next process knows whether it has left. */
ssize_t vdpa_vfus_kept_send(struct vfu_server *s, const struct msghdr *msg);

/* The driver has written the device's configuration. */
void vdpa_vfus_kept_note_config(struct vfu_kept *k, size_t offset, const void *buf, size_t len);
/* A queue whose addresses are set is about to start: where it goes on, and what of its inflight
 * area is its own. */
int vdpa_vfus_kept_start_queue(struct vfu_device *dev, uint16_t idx);

/* vfio_user_planned.c, as vhost_user_kept.h has it of vhost_user_planned.c */

int vdpa_vfus_planned_choose(struct vfu_device *dev);
bool vdpa_vfus_planned_is(const struct vfu_kept *k);
/* No job of the device runs. No-op where no client is connected. */
void vdpa_vfus_planned_leave(struct vfu_device *dev);
int vdpa_vfus_planned_check(const struct vfu_kept *k, const struct vfu_record *record);
int vdpa_vfus_planned_go_on(struct vfu_kept *k);
bool vdpa_vfus_planned_start_late(struct vfu_kept *k);

#endif /* VFIO_USER_KEPT_H */
