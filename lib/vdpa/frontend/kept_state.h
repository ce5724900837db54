/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a guest's driver has set by the control queue of a device, for the next process
 * (kept_state.c): the one rule of all front ends whose connections outlive the process.
 *
 * None of it is for the control loop, since the store is waited for. Errors are negative, with
 * vdpa_error_message().
 */

#ifndef KEPT_STATE_H
#define KEPT_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa_frontend.h"

struct kept_state_file;
struct vdpa_consumer;
struct vhu_shm;

/* Zeroed: nothing is kept. */
struct vdpa_state_kept {
	struct vdpa_state_keeper keeper;
	struct vdpa_device *vdev;
	struct vhu_shm *shm;	      /* NULL: the device has no such state, or it cannot be kept */
	struct kept_state_file *file; /* in shm */
	uint64_t seq;		      /* of what was written last */
	bool lost;		      /* it was too long; atomic */
	bool missing;		      /* a former process, of another version, has kept none */
};

/* Keep it from now on, where the device has a control queue and a driver that can save it: in a new
 * file; in that of a former process. 0 also where there is nothing to keep. */
int vdpa_kept_state_make(struct vdpa_state_kept *k, struct vdpa_device *vdev);
int vdpa_kept_state_take(struct vdpa_state_kept *k, struct vdpa_device *vdev);
/* No more; the file remains in the store. Also without the first. */
void vdpa_kept_state_drop(struct vdpa_state_kept *k);

/* Why a connection with these features of its driver, or of its front end, ends with the process;
 * static. NULL: not for this. */
const char *vdpa_kept_state_why_cold(const struct vdpa_state_kept *k, struct vdpa_device *vdev,
				     uint64_t features);
/* Why a connection ends whose queues were stopped, and cannot be started elsewhere; static. */
#define KEPT_REQUESTS                                                                              \
	"a queue was stopped where no other process can start it, or with requests under way"
/* Whether the record of such a connection is worth nothing without the state: a process that does
 * not know of it must not go on. */
bool vdpa_kept_state_counts(const struct vdpa_state_kept *k, struct vdpa_device *vdev,
			    uint64_t features);
/* A new connection, whose driver has set nothing. */
void vdpa_kept_state_clear(struct vdpa_state_kept *k);
/*
 * The next process: a consumer that has these features, and does not run yet, is to start with what
 * the driver had set. has_run: the record says that the device may have run; else there is none.
 * An error where it cannot: the connection does not go on.
 */
int vdpa_kept_state_apply(struct vdpa_state_kept *k, struct vdpa_device *vdev,
			  struct vdpa_consumer *c, uint64_t features, bool has_run);

#endif /* KEPT_STATE_H */
