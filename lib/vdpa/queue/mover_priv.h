/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A mover itself, and what its kinds have: mover.c, shadow.c, relay.c. */

#ifndef VDPA_MOVER_PRIV_H
#define VDPA_MOVER_PRIV_H

#include <rte_branch_prediction.h>

#include "mover.h"

/* Chains of a burst. */
#define VDPA_MOVER_BURST 32
/* A direction's bursts of a round end with the chain that takes them over so many descriptors: of a
 * guest whose chains have tens of thousands others do not wait longer than for one of these. */
#define VDPA_MOVER_DESCS 4096

/* What differs. On the loop, but for free(). */
struct vdpa_mover_kind {
	const char *name;
	/* A burst of what the device has used goes to the guest's ring, where it is flushed later.
	 * How many chains, and whether there may be more at once. */
	unsigned int (*complete)(struct vdpa_mover *m, bool *more);
	/* A burst of what the guest has made available goes to the device's ring, which is
	 * published later. How many chains, and whether there may be more at once. */
	unsigned int (*forward)(struct vdpa_mover *m, bool *more);
	/* Before it sleeps, the device was asked for calls: ask the guest for kicks, unless nothing
	 * of it can be moved. Whether not to sleep. */
	bool (*arm)(struct vdpa_mover *m);
	void (*free)(struct vdpa_mover *m);
};

/* The first member of each kind. */
struct vdpa_mover {
	struct vdpa_poller poller;
	struct vdpa_virtqueue *guest;
	struct vdpa_vring *ring;
	const struct vdpa_dirty_log *log;
	uint32_t num; /* chains that can be in flight */
	bool running, paused, failed, armed;
	bool lengths_tell;

	struct vdpa_mover_stats stats;
	const struct vdpa_mover_kind *kind;
	const struct vdpa_mover_ops *ops;
	void *arg;
	struct vdpa_event_loop *loop;
	struct vdpa_event kick, call;
	int kick_fd;
};

static inline void
vdpa_mover_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

/*
 * Set up what the kinds have in common, of memory that is zero: both rings, that no move begins
 * with. 0; a negative errno with vdpa_error_message() for rings that cannot be (vdpa_vq_setup(),
 * vdpa_vring_setup()) or for want of memory. Either way vdpa_mover_free() ends it.
 */
int vdpa_mover_init(struct vdpa_mover *m, const struct vdpa_mover_kind *kind,
		    const struct vdpa_mover_params *params);

/* Nothing moves any more. side: the beginning of the cause. On the loop. */
void vdpa_mover_fail(struct vdpa_mover *m, int err, const char *side, const char *why);
void vdpa_mover_fail_guest(struct vdpa_mover *m, int err);
void vdpa_mover_fail_device(struct vdpa_mover *m, const char *why);

/* fn(arg), where arg is what the caller made and names the mover: on its loop while it runs. */
int vdpa_mover_on_loop(struct vdpa_mover *m, int (*fn)(void *arg), void *arg);

#endif /* VDPA_MOVER_PRIV_H */
