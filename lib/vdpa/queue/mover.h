/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A mover: what a shadow (shadow.h) and a relay (relay.h) have in common. It reads the guest's ring
 * as a device does, and has the real device execute a ring of ours.
 *
 * Runs on one event loop. Nothing is allocated or locked for a buffer, and no system call is made
 * but for notifications. While there is work both sides' notifications are off; before it sleeps
 * the mover asks for both, and looks once more. Every call below comes from a thread other than the
 * loop's, one at a time, and holds no lock that ops take.
 */

#ifndef VDPA_MOVER_H
#define VDPA_MOVER_H

#include "vdpa_event.h"
#include "vdpa_virtqueue.h"
#include "vdpa_vring.h"

struct vdpa_mover;

struct vdpa_mover_ops {
	/* Notify the device of buffers. On the loop. */
	void (*kick)(void *arg);
	/* The ring of one side is broken, and nothing moves any more: why names side and cause. On
	 * the loop, once at most. */
	void (*failed)(void *arg, int err, const char *why);
	/* Of a shadow, optional: the guest's ring stands where a ring begins, with nothing in
	 * flight, and the shadow rests there; see vdpa_shadow_leave(). On the loop. */
	void (*at_beginning)(void *arg);
};

struct vdpa_mover_params {
	struct vdpa_event_loop *loop;
	struct vdpa_vq_params guest;   /* the guest's ring */
	struct vdpa_iotlb *tlb;	       /* the guest's memory */
	int kick_fd, call_fd;	       /* the guest's; -1: none. Open until the mover has ended */
	struct vdpa_vring_params ring; /* what the device executes */
	/* What a device says to have written is all that it wrote: true of a net device, whose
	 * buffers are filled from their beginning. Else whole buffers are logged. */
	bool lengths_tell;
	const struct vdpa_mover_ops *ops;
	void *arg;
};

/* Counts since the mover was made; any thread reads them. */
struct vdpa_mover_stats {
	uint64_t forwarded; /* chains that the device was given */
	uint64_t completed; /* chains that the guest got back */
	uint64_t kicks;	    /* of the device */
	uint64_t calls;	    /* signals to the guest */
	uint64_t kicked;    /* kicks of the guest that were noticed */
	uint64_t busy;	    /* TSC cycles of rounds that moved something */
	uint64_t full;	    /* times the device's ring had no room for a chain */
	uint32_t in_flight; /* chains now */
	bool leaving;
	uint32_t to_go; /* leaving: ring slots to the beginning of the guest's ring */
};

/* Never run, or ended. NULL: no-op. */
void vdpa_mover_free(struct vdpa_mover *m);

/* What the device is to signal for used buffers: an eventfd of the mover's. */
int vdpa_mover_call_fd(const struct vdpa_mover *m);

/* The device executes its ring: begin. 0, or what epoll_ctl(2) says of the kick descriptor. */
int vdpa_mover_run(struct vdpa_mover *m);
/* Give the device what the guest's inflight area says to be taken again, unless paused; what else
 * there is may go with it. */
void vdpa_mover_take_again(struct vdpa_mover *m);
/* Give the device no more, or go on; what it has comes back all the same, and what it has used by
 * now has on return. */
void vdpa_mover_pause(struct vdpa_mover *m, bool paused);
/* The device executes its ring no more: hand over what it has used. */
void vdpa_mover_end(struct vdpa_mover *m);

/* 0, or what epoll_ctl(2) says of the descriptor. */
int vdpa_mover_set_kick(struct vdpa_mover *m, int fd);
void vdpa_mover_set_call(struct vdpa_mover *m, int fd);
/* Another version of the guest's memory. -EFAULT where the guest's ring is not in it: the mover has
 * failed then. */
int vdpa_mover_set_iotlb(struct vdpa_mover *m, struct vdpa_iotlb *tlb);
/* Log what is written from now on, the guest's rings too; NULL: no longer. used_iova is the log
 * address of the guest's used ring. The log is kept by the caller while it is set. */
void vdpa_mover_set_log(struct vdpa_mover *m, const struct vdpa_dirty_log *log, uint64_t used_iova);

void vdpa_mover_stats(const struct vdpa_mover *m, struct vdpa_mover_stats *stats);

#endif /* VDPA_MOVER_H */
