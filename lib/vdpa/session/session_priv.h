/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between the files of a session; each call under the device's lock. */

#ifndef VDPA_SESSION_PRIV_H
#define VDPA_SESSION_PRIV_H

#include "device_priv.h"

struct vdpa_ring_watch; /* ring_watch.h */

static inline bool
vdpa_session_is_packed(const struct vdpa_device *vdev)
{
	return (vdev->core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
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
 * lost: a split ring of which all was used, or of which the rest are the buffers that were made
 * available last, as its entries show. Else the best that can be said: of a split ring how far it
 * was used, of a packed one nothing; but always a place that is not the beginning, so that nobody
 * takes it for a start.
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

/* Whether nothing of a split ring is under way. True, too, of one that is not in memory or broken.
 */
bool vdpa_ring_is_used_up(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf);

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
				  const struct vdpa_vq_config *conf, struct vdpa_ring_watch *w,
				  struct vdpa_vq_state *state);
/* Where a queue of a suspended device stands. Of one that does not say, a split ring's used index
 * does: it has finished what it took (virtio 1.4, VIRTIO_F_SUSPEND). -EOPNOTSUPP: nothing does. */
int vdpa_session_suspended_place(struct vdpa_device *vdev, uint16_t idx,
				 struct vdpa_vq_state *state);
/* How long a change of a queue's path waits for the same: the guest goes on, and it is tried again.
 */
#define VDPA_SWITCH_DRAIN_MS 20

/* Before a stop of one queue, or of all (-1), of a device that does not keep their state: wait for
 * requests that it has under way, for ms at most, and only once in a session where they do not end.
 */
void vdpa_session_drain(struct vdpa_device *vdev, int only, unsigned int ms);
/* Right before a stop of a queue: look at its ring, so that it can be said afterwards where it
 * stands, where neither the device nor a path says it. NULL: not needed, or there is nothing to
 * see. The caller frees it. */
struct vdpa_ring_watch *vdpa_session_watch_vq(struct vdpa_device *vdev, uint16_t idx);
/* Whether it would be known where a queue stands that was looked at so (w, or NULL). */
bool vdpa_session_will_know(struct vdpa_device *vdev, uint16_t idx,
			    const struct vdpa_ring_watch *w);

/* Whether it will be known where a queue stands when it is stopped, as far as can be seen now. */
bool vdpa_session_can_place(struct vdpa_device *vdev, uint16_t idx);

/* Whether the device says where its queues stand, and so loads a place; asked once in a session. */
bool vdpa_session_tells(struct vdpa_device *vdev);

/* What the driver keeps beside rings and configuration; buf NULL: there is none. */
struct vdpa_kept_state {
	uint8_t *buf; /* malloc */
	size_t len;
};

/* Stop the device by a reset, IDLE then, and say where its queues have stopped: of those that were
 * set up vqs gets the state. kept: the guest runs, and nobody has asked for the stop: it must be
 * known where they stand, and *kept receives what else the device would lose; -EOPNOTSUPP where
 * that cannot be, and nothing was done. NULL: a stop that was asked for. */
int vdpa_session_reset_with_places(struct vdpa_device *vdev, struct vdpa_vq_config *vqs,
				   enum vdpa_vq_place *places, struct vdpa_kept_state *kept);

/* device_state.c: of a device that is suspended or about to be reset. A negative errno: there is
 * some, and it cannot be had. */
int vdpa_session_take_state(struct vdpa_device *vdev, struct vdpa_kept_state *kept);
/* The same for a guest that goes on and has asked for no reset: -EOPNOTSUPP, with why, where the
 * state would be lost. */
int vdpa_session_keep_state(struct vdpa_device *vdev, struct vdpa_kept_state *kept);

/* relay.c; under the lock. Bring kicks of fd to the queue, by the device itself where it can, else
 * by the relay; -1: no longer. -EOPNOTSUPP for a relay where kicks carry data. */
int vdpa_session_attach_kick(struct vdpa_device *vdev, uint16_t idx, int fd);
/* Kick a queue that is set up; nothing where kicks carry data, which the consumer alone knows. */
void vdpa_session_kick(struct vdpa_device *vdev, uint16_t idx);

/* session.c: vdpa_device_start() under the lock, from any state; what it began is undone when it
 * fails. */
int vdpa_session_start(struct vdpa_device *vdev, const struct vdpa_start_config *conf);
/* The same with every queue on a shadow, or not, whatever the log asks for. */
int vdpa_session_start_with(struct vdpa_device *vdev, const struct vdpa_start_config *conf,
			    bool shadows);
/* Whether a place is what was taken for it where neither the device nor its ring told. */
bool vdpa_session_is_guess(const struct vdpa_core_vq *vq, bool packed,
			   const struct vdpa_vq_state *state);
/* Every step of one queue, to ready. Unwound by vdpa_step_stop() or vdpa_session_undo_vq(). */
int vdpa_session_setup_vq(struct vdpa_device *vdev, uint16_t idx,
			  const struct vdpa_vq_config *conf);
/* Before a queue begins a path with conf: add to *size what it will allocate then, for
 * vdpa_own_reserve(). 0 or a negative errno: no path has it. */
int vdpa_session_add_memory(struct vdpa_device *vdev, uint16_t idx,
			    const struct vdpa_vq_config *conf, size_t *size);
void vdpa_session_undo_vq(struct vdpa_device *vdev, uint16_t idx);
int vdpa_session_attach_call(struct vdpa_device *vdev, uint16_t idx, int fd);

/*
 * session_paths.c: queues change their paths while the device runs.
 *
 * A log comes that the device does not write itself: its queues change to shadows. 0 also where a
 * queue cannot change now: the log is blind then, and it is tried again. A negative errno where the
 * device has failed at it.
 */
int vdpa_session_enter_shadows(struct vdpa_device *vdev);
/* The path of a queue that is set up begins. One that runs on a shadow for its place alone leaves
 * it as soon as the device can take over. */
int vdpa_session_run_vq(struct vdpa_device *vdev, uint16_t idx);
/* No log any more: back to the direct path, at once or when a queue comes to where its device can
 * begin. */
void vdpa_session_leave_shadows(struct vdpa_device *vdev);

/* session_vq.c: stop the device and start it again, with queue idx as conf has it (-1: none is
 * other than before). Every queue that was set up goes on where it was, a dirty log too.
 * -EOPNOTSUPP: where they stand would not be known, and nothing was done. Else what fails has
 * failed the device. */
int vdpa_session_restart(struct vdpa_device *vdev, int idx, const struct vdpa_vq_config *conf);

/* session_vq.c: stop a queue of a running device alone, with its place in *state. -EOPNOTSUPP: that
 * cannot be, and nothing was done. known: false where the place is the best guess. guest_runs: as
 * above. */
int vdpa_session_stop_alone(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state,
			    bool guest_runs, bool *known);
/* device_state.c: of a device that is set up and does not run, what its driver saved elsewhere;
 * until the next reset. */
int vdpa_session_load_state(struct vdpa_device *vdev, const void *buf, size_t len);

/* session_vq.c: queue idx of a session cannot go on, for the cause in vdpa_error_message(): stop it
 * alone, or the device where that cannot be. */
void vdpa_session_lose_vq(struct vdpa_device *vdev, uint16_t idx);
/* The same by a call: it takes the lock, and leaves a queue alone that is not started. */
void vdpa_device_lose_vq(struct vdpa_device *vdev, uint16_t idx);
/* session_memory.c: what vdpa_device_set_memory() would refuse, as far as that can be known. */
int vdpa_device_check_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
/* Whether the device was stopped as a whole, and vdpa_device_stop_vq() is still to be called for
 * some queue. Under the lock. */
bool vdpa_session_any_halted(const struct vdpa_device *vdev);

#endif /* VDPA_SESSION_PRIV_H */
