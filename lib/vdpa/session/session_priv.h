/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the files of a session; each call under the device's lock. */

#ifndef VDPA_SESSION_PRIV_H
#define VDPA_SESSION_PRIV_H

#include "device_priv.h"

static inline bool
vdpa_session_is_packed(const struct vdpa_device *vdev)
{
	return (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
}

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

/* places.c; under the lock. */

/* What is known of where a queue stands. */
enum vdpa_vq_place {
	VDPA_VQ_NOT_SET_UP,
	VDPA_VQ_PLACE_UNKNOWN, /* or as good as the rings tell it */
	VDPA_VQ_PLACE_KNOWN,
};

/* For a queue of a device that has stopped and does not tell: whether it is exactly there. */
bool vdpa_session_place_from_ring(struct vdpa_device *vdev, uint16_t idx,
				  const struct vdpa_iotlb *tlb, bool packed,
				  const struct vdpa_vq_config *conf, struct vdpa_vq_state *state);
/* Whether the device says of each queue that is set up where it stands; it runs on. Such a one
 * loads a place, too. */
bool vdpa_session_tells_places(struct vdpa_device *vdev);
/* Stop the device by a reset, IDLE then, and say where its queues have stopped: of those that were
 * set up vqs gets the state. */
int vdpa_session_reset_with_places(struct vdpa_device *vdev, struct vdpa_vq_config *vqs,
				   enum vdpa_vq_place *places);

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
