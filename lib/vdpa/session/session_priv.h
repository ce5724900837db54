/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the files of a session; each call under the device's lock. */

#ifndef VDPA_SESSION_PRIV_H
#define VDPA_SESSION_PRIV_H

#include "device_priv.h"

/*
 * ring_state.c: what a queue's rings in guest memory say.
 *
 * Whether no buffer was used: then a start from the beginning loses nothing.
 */
bool vdpa_ring_is_fresh(const struct vdpa_iotlb *tlb, bool packed,
			const struct vdpa_vq_config *conf);
/*
 * Where a device that no longer runs has left it. True: exactly there, nothing that was taken is
 * lost. Else the best that can be said: of a split ring how far it was used, of a packed one
 * nothing; but always a place that is not the beginning, so that nobody takes it for a start.
 */
bool vdpa_ring_stopped_at(const struct vdpa_iotlb *tlb, bool packed,
			  const struct vdpa_vq_config *conf, struct vdpa_vq_state *state);

/*
 * The device has said where it stands, and may have gone on until it stopped: bring the state up to
 * what the rings show that it has used since. False where that cannot be: of a packed ring nothing
 * shows how much it was.
 */
bool vdpa_ring_catch_up(const struct vdpa_iotlb *tlb, bool packed,
			const struct vdpa_vq_config *conf, struct vdpa_vq_state *state);

/* How far a split ring was used. False where its used ring is no longer in memory. */
bool vdpa_ring_used_idx(const struct vdpa_iotlb *tlb, uint64_t used_ring, uint16_t *idx);

/* relay.c; under the lock. Bring kicks of fd to the queue, by the device itself where it can, else
 * by the relay; -1: no longer. -EOPNOTSUPP for a relay where kicks carry data. */
int vdpa_session_attach_kick(struct vdpa_device *vdev, uint16_t idx, int fd);
/* Kick a queue that is set up; nothing where kicks carry data, which the consumer alone knows. */
void vdpa_session_kick(struct vdpa_device *vdev, uint16_t idx);

/* session.c: vdpa_device_start() under the lock, from any state; what it began is undone when it
 * fails. */
int vdpa_session_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf);
/* Every step of one queue, to ready. Unwound by vdpa_step_stop() or vdpa_session_undo_vq(). */
int vdpa_session_setup_vq(struct vdpa_device *vdev, uint16_t idx,
			  const struct vdpa_vq_config *conf);
void vdpa_session_undo_vq(struct vdpa_device *vdev, uint16_t idx);
int vdpa_session_attach_call(struct vdpa_device *vdev, uint16_t idx, int fd);

/* session_vq.c: queue idx of a session cannot go on, for the cause in vdpa_error_message(): stop it
 * alone, or the device where that cannot be. */
void vdpa_session_lose_vq(struct vdpa_device *vdev, uint16_t idx);
/* The same by a call: it takes the lock, and leaves a queue alone that is not started. */
void vdpa_device_lose_vq(struct vdpa_device *vdev, uint16_t idx);
/* Whether the device was stopped as a whole, and vdpa_device_stop_vq() is still to be called for
 * some queue. Under the lock. */
bool vdpa_session_any_halted(const struct vdpa_device *vdev);

#endif /* VDPA_SESSION_PRIV_H */
