/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Which path a queue takes: paths.c; and the paths that there are beside the direct one. Under the
 * device's lock. */

#ifndef VDPA_PATHS_H
#define VDPA_PATHS_H

#include "path.h"

/* Executes the guest's chains, by rings of ours; see relay.h. */
extern const struct vdpa_path vdpa_path_relay; /* path_relay.c */
/* Each moves buffers between the guest's ring and one of our own. */
extern const struct vdpa_path vdpa_path_shadow;		 /* path_shadow.c */
extern const struct vdpa_path vdpa_path_shadow_inflight; /* the same, and fills an inflight area */

/* The features that the device is to be given for a guest with these: of the ring's, what the
 * device has, where every queue has a shadow. */
uint64_t vdpa_path_device_features(const struct vdpa_device *vdev, uint64_t guest);
/* The features that a guest can be offered of a device with these. */
uint64_t vdpa_path_offered_features(const struct vdpa_device *vdev, uint64_t device);

/* What a queue needs of its path. */
struct vdpa_path_need {
	bool log;      /* what is written is to be known, and the device does not log */
	bool place;    /* it begins where the device cannot begin */
	bool inflight; /* the front end has an inflight area */
	bool track;    /* the front end has an inflight area, and the device does not fill it */
};

/*
 * The path that fits, or NULL with vdpa_error_message() where the word `migration` rules it out:
 * -EOPNOTSUPP in errno.
 */
const struct vdpa_path *vdpa_path_choose(struct vdpa_device *vdev, uint16_t idx,
					 const struct vdpa_path_need *need);

/* A queue that begins with conf takes this path: *dev is what the device is to be given. 0 or a
 * negative errno with vdpa_error_message(). Ends by vdpa_step_path_stop(). */
int vdpa_path_enter(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_path *path,
		    const struct vdpa_vq_config *conf, struct vdpa_vq_config *dev);
/* The device executes it from now on. */
int vdpa_path_run(struct vdpa_device *vdev, uint16_t idx);

/*
 * The device has left n chains of a split ring undone (their heads, oldest first; used: index of
 * the used ring), and later ones are done. Remember that for a shadow that goes on there, at
 * *state. False: a queue of this kind keeps no such account, or no memory.
 */
bool vdpa_path_hold(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest, uint16_t used,
		    const uint16_t *heads, unsigned int n, struct vdpa_vq_state *state);

/* Whether requests are remembered for a queue that goes on at this place, by that call or by the
 * stop of a shadow. */
bool vdpa_path_holds(const struct vdpa_core_vq *vq, const struct vdpa_vq_state *state);

/* Whether a place is the beginning of a ring. */
bool vdpa_place_is_initial(bool packed, const struct vdpa_vq_state *state);

/** Whether two places of a ring of this kind are one: a split ring's has one index and no more. */
bool vdpa_place_is_same(bool packed, const struct vdpa_vq_state *a, const struct vdpa_vq_state *b);
/* Set the beginning of a ring. */
void vdpa_place_set_initial(bool packed, struct vdpa_vq_state *state);

#endif /* VDPA_PATHS_H */
