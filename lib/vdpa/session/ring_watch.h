/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Which buffers of a split ring a device loses that is stopped while its guest goes on:
 * ring_watch.c. Under the device's lock. */

#ifndef VDPA_RING_WATCH_H
#define VDPA_RING_WATCH_H

#include "vdpa_frontend.h"

/* A look at a ring. */
struct vdpa_ring_watch {
	bool known; /* which buffers the device has then */
	uint16_t avail, used;
	uint8_t has[VDPA_VQ_NUM_MAX]; /* by head */
};

/* What a device has left behind. */
struct vdpa_ring_left {
	uint32_t n;    /* buffers */
	uint16_t used; /* index of the used ring */
	bool last;     /* they are those that became available last */
};

/* Look at a ring that runs. Whether it is known now what the device has. */
bool vdpa_ring_watch(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf,
		     struct vdpa_ring_watch *w);
/* The device has stopped since: the heads of the buffers that it has not used, oldest first (room
 * for conf->num). False: not known. w is used up. */
bool vdpa_ring_left(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf,
		    struct vdpa_ring_watch *w, uint16_t *heads, struct vdpa_ring_left *left);

#endif /* VDPA_RING_WATCH_H */
