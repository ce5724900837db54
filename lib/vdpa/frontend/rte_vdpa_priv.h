/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end rte_vdpa inside: one struct a device that is registered with DPDK's rte_vdpa, and
 * what its files call of each other. rte_vdpa.c has the devices and their life, rte_vdpa_ops.c what
 * rte_vhost asks of them, rte_vdpa_session.c a session: from dev_conf to dev_close.
 *
 * rte_vhost calls the operations on its one thread, for some messages with the locks of all its
 * virtqueues held, so nothing in them may take those (rte_vhost_vring_call() and the like).
 */

#ifndef RTE_VDPA_PRIV_H
#define RTE_VDPA_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "rte_vdpa_dpdk.h"
#include "rte_vdpa_stats.h"
#include "vdpa_consumer.h"

#define VDPA_RTE_NO_VID (-1)

/* A mapping of the dirty log of our own: rte_vhost unmaps its one without a word. */
struct vdpa_rte_log {
	void *map;
	size_t map_len;
	struct vdpa_dirty_log dirty;
	bool faulted;
};

struct vdpa_rte_device {
	TAILQ_ENTRY(vdpa_rte_device) next;
	struct vdpa_device *vdev;
	struct rte_device *rte; /* compared only: the bus frees it when it likes */
	struct rte_vdpa_device *registered;
	bool is_net; /* rte_vdpa has a type of its own for it */
	uint16_t nrings;

	/* The session. */
	int vid;			/* VDPA_RTE_NO_VID: no connection has the device */
	struct vdpa_consumer *consumer; /* while there is one */
	bool packed;
	struct vdpa_rte_log *log;		/* NULL: none */
	TAILQ_HEAD(, vdpa_rte_waiting) waiting; /* other connections, in the order of their words */

	/* Statistics: names by id, and what reset_stats takes as zero, by queue and id. */
	struct vdpa_rte_stats stats;
	uint64_t *stat_zero;

	bool enabled[]; /* rings that rte_vhost has called ready, and not stopped since */
};

/*
 * Guards the list of devices and everything in them. Control path only. Order: this one, a
 * device's. Not held around calls into rte_vdpa's list, which has a lock of its own.
 */
extern pthread_mutex_t vdpa_rte_lock;

/* vdpa_rte_dpdk_aborts() of the DPDK that runs; see dev_conf(). */
extern bool vdpa_rte_aborts;

/* Under the lock. */
struct vdpa_rte_device *vdpa_rte_find(const struct rte_vdpa_device *registered);
struct vdpa_rte_device *vdpa_rte_find_vid(int vid);

/* rte_vdpa_ops.c */
extern struct rte_vdpa_dev_ops vdpa_rte_ops;
/* Collect the names of its statistics. 0 or -ENOMEM. */
int vdpa_rte_stats_init(struct vdpa_rte_device *dev);
/* Whether rte_vdpa has a type for it. */
bool vdpa_rte_type_of(struct vdpa_device *vdev, uint32_t *type);

/* rte_vdpa_waiting.c, under the lock. */

/* rte_vhost says of a connection, while another has the device, that a ring is ready or no longer,
 * and that the device may start. 0, -ENOMEM, or -EALREADY for what was said before. */
int vdpa_rte_wait_ring(struct vdpa_rte_device *dev, int vid, uint16_t idx, bool enabled);
int vdpa_rte_wait_complete(struct vdpa_rte_device *dev, int vid);
/* The connection's rings have stopped. */
void vdpa_rte_wait_stopped(struct vdpa_rte_device *dev, int vid);
/* The first connection that could start, of those whose messages this thread handles: what
 * rte_vhost has of others may change meanwhile. VDPA_RTE_NO_VID: none. */
int vdpa_rte_wait_first_complete(const struct vdpa_rte_device *dev);
/* The connection has the device, and gets the rings that are ready (NULL: it is gone). */
void vdpa_rte_wait_over(struct vdpa_rte_device *dev, int vid, bool *enabled);
void vdpa_rte_wait_end(struct vdpa_rte_device *dev);

/* rte_vdpa_session.c, under the lock. */

/* Have the connection's messages seen before rte_vhost handles them. 0 or -ENODEV. */
int vdpa_rte_session_hear(int vid);
/* The connection of a device that has none, or this one. */
int vdpa_rte_session_begin(struct vdpa_rte_device *dev, int vid);
/* rte_vhost takes the device for ready: start it, or bring it whatever memory table there is now.
 * -EAGAIN when it does not start yet. */
int vdpa_rte_session_conf(struct vdpa_rte_device *dev);
int vdpa_rte_session_memory(struct vdpa_rte_device *dev);
/* Stop all rings, and tell rte_vhost where they stand. */
void vdpa_rte_session_stop(struct vdpa_rte_device *dev);
int vdpa_rte_session_ring_ready(struct vdpa_rte_device *dev, uint16_t idx);
int vdpa_rte_session_features(struct vdpa_rte_device *dev);
/* Forget the connection; stops what runs. */
void vdpa_rte_session_end(struct vdpa_rte_device *dev);

#endif /* RTE_VDPA_PRIV_H */
