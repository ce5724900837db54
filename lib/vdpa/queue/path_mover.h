/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the paths by a mover (mover.h) have in common: path_mover.c. Under the device's lock, but
 * for what says otherwise. */

#ifndef VDPA_PATH_MOVER_H
#define VDPA_PATH_MOVER_H

#include "mover.h"
#include "path.h"

struct vdpa_own_buf;
struct vdpa_worker;

/* vq->path_data of such a path. */
struct vdpa_mover_path {
	struct vdpa_mover *mover;
	struct vdpa_own_buf *memory; /* of the rings that the device executes */
	struct vdpa_worker *worker;
	int kick_fd; /* of a device that waits for it by itself; -1 */
	bool runs;
};

uint16_t vdpa_path_mover_idx(const struct vdpa_core_vq *vq);

/*
 * Begin: memory of that size in the device's reach, a way to kick the device, a worker; and what a
 * mover needs of these and of the guest's queue, in params. NULL with vdpa_error_message(), and the
 * errno in *rc.
 */
struct vdpa_mover_path *vdpa_path_mover_begin(struct vdpa_core_vq *vq, size_t size,
					      const struct vdpa_vq_config *guest,
					      struct vdpa_vq_config *dev,
					      struct vdpa_mover_params *params, int *rc);
/* The mover was made, by vdpa_path_mover_begin()'s params: it is the queue's. */
void vdpa_path_mover_enter(struct vdpa_core_vq *vq, struct vdpa_mover_path *path,
			   const struct vdpa_vq_config *guest, struct vdpa_vq_config *dev);
/* Give up all that there is; the mover has ended, or was not made. kind: that the queue was on,
 * NULL: it has not entered. reachable: the device may still reach our memory. */
void vdpa_path_mover_give_up(struct vdpa_core_vq *vq, struct vdpa_mover_path *path,
			     const struct vdpa_path *kind, bool reachable);

/* Ops of struct vdpa_path. */
int vdpa_path_mover_run(struct vdpa_core_vq *vq);
void vdpa_path_mover_enable(struct vdpa_core_vq *vq, bool enabled);
int vdpa_path_mover_set_kick(struct vdpa_core_vq *vq, int fd);
int vdpa_path_mover_set_call(struct vdpa_core_vq *vq, int fd);
int vdpa_path_mover_set_memory(struct vdpa_core_vq *vq, struct vdpa_iotlb *tlb);
void vdpa_path_mover_set_log(struct vdpa_core_vq *vq, const struct vdpa_dirty_log *log,
			     uint64_t used_iova);
unsigned int vdpa_path_mover_get_stats(const struct vdpa_core_vq *vq, struct vdpa_stat *stats,
				       unsigned int n);

#endif /* VDPA_PATH_MOVER_H */
