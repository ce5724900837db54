/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A queue's path: what stands between the ring that the guest set up and the ring that the device
 * is given. On the direct path they are one; a path of another kind (queue/) gives the device a
 * ring of our own and moves buffers between the two. Drivers and front ends do not know. The
 * guest's view of a queue is vdpa_core_vq.conf; what differs for the device is what start() makes
 * of it.
 *
 * Each call is made under the device's lock.
 */

#ifndef VDPA_PATH_H
#define VDPA_PATH_H

#include "vdpa_frontend.h"

struct vdpa_core_vq;

/* Which parts of the ring that a device is given are ours, and not in the guest's memory. */
enum vdpa_own_parts {
	VDPA_OWN_NONE,
	VDPA_OWN_RINGS, /* of a split ring: all but its descriptor table */
	VDPA_OWN_ALL,
};

/* Of the direct path no op is there. */
struct vdpa_path {
	const char *name; /* as `show` says it */
	enum vdpa_own_parts own;
	/* stop() says where the guest's ring stands; else the device does, or the ring itself. */
	bool keeps_place;
	/* It keeps the queue's inflight area up to date, where there is one. */
	bool keeps_account;
	/* Bytes of our memory (own_memory.h) that start() will allocate for that queue. */
	size_t (*memory)(const struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest);
	/*
	 * What the device is to be given for a queue that the guest has set up as guest says:
	 * *dev is a copy of it to begin with. Nothing moves yet. 0 or a negative errno with
	 * vdpa_error(): nothing is left.
	 */
	int (*start)(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest,
		     struct vdpa_vq_config *dev);
	/* The device executes the queue from now on (after DRIVER_OK). 0 or a negative errno. */
	int (*run)(struct vdpa_core_vq *vq);
	/* The queue is to stop soon: give the device no more, and wait for what it has under way,
	 * for ms at most. False: there is something left. */
	bool (*drain)(struct vdpa_core_vq *vq, unsigned int ms);
	/*
	 * The device executes the queue no more, or never did: give up what start() made, and say
	 * where the guest's ring stands, where the path keeps its place. 0; -EOPNOTSUPP where that
	 * is not known, with a line in the log. reachable: the device may still reach our memory,
	 * as its reset has failed.
	 */
	int (*stop)(struct vdpa_core_vq *vq, struct vdpa_vq_state *state, bool reachable);
	/* The front end disables or enables the queue, which keeps its state. */
	void (*enable)(struct vdpa_core_vq *vq, bool enabled);
	/* Bring the queue where a device can take over that begins at the beginning of a ring only,
	 * and have core->path_work done then, with vq->at_rest set; or no longer. */
	void (*leave)(struct vdpa_core_vq *vq, bool leave);
	/* The guest's eventfds. */
	int (*set_kick)(struct vdpa_core_vq *vq, int fd);
	int (*set_call)(struct vdpa_core_vq *vq, int fd);
	/* Other guest memory is in force, with the guest's ring in it. */
	int (*set_memory)(struct vdpa_core_vq *vq, struct vdpa_iotlb *tlb);
	/* Log what is written, or no longer (NULL). */
	void (*set_log)(struct vdpa_core_vq *vq, const struct vdpa_dirty_log *log,
			uint64_t used_iova);
	/* Up to n statistics; how many there are. From any thread, with the show lock alone. */
	unsigned int (*get_stats)(const struct vdpa_core_vq *vq, struct vdpa_stat *stats,
				  unsigned int n);
};

/* Statistics that every path but the direct one has: kicks of the guest, and interrupts for it. */
#define VDPA_PATH_STAT_GUEST_KICKS "guest_kicks"
#define VDPA_PATH_STAT_CALLS	   "calls"

extern const struct vdpa_path vdpa_path_direct; /* path.c */

#endif /* VDPA_PATH_H */
