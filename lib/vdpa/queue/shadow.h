/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A shadow virtqueue: a mover (mover.h) that executes the guest's ring as a device does, and has
 * the real device execute a ring of our own, with the same buffers at the same IOVAs. So it is
 * known at every moment which buffers the device has, in which order it got them, and what it has
 * written.
 *
 * Neither side is trusted. What the guest may change is read once, checked against the guest's
 * memory, and copied before the device sees it, indirect tables too; what the device may change is
 * checked by the vring (vdpa_vring.h). A side that breaks the rules ends the shadow, with a cause.
 */

#ifndef VDPA_SHADOW_H
#define VDPA_SHADOW_H

#include "mover.h"

/*
 * Set up both rings; nothing moves yet. 0; a negative errno with vdpa_error_message() for rings
 * that cannot be (vdpa_vq_setup(), vdpa_vring_setup()) or for want of memory.
 */
int vdpa_shadow_create(const struct vdpa_mover_params *params, struct vdpa_mover **out);

/* Pause, and wait until the device has used every chain with something to read, so that a stop
 * finds no request half done; buffers that wait to be filled stay. What a former process had under
 * way is given to the device before, unless nothing is waited for. False: not within ms. */
bool vdpa_shadow_drain(struct vdpa_mover *m, unsigned int ms);

/*
 * Come to rest where the guest's ring begins anew, so that a device that begins there can take
 * over: the shadow gives the device nothing of the next round until all that it has came back,
 * which is said by at_beginning(). Where that takes longer than VDPA_SHADOW_REST_MS it goes on, to
 * try again when the ring comes round. Or no longer (false).
 */
#define VDPA_SHADOW_REST_MS 20
void vdpa_shadow_leave(struct vdpa_mover *m, bool leave);

/*
 * vdpa_mover_end(), and say where the guest's ring stands. Chains that the device had taken are
 * given back, or stand in the inflight area where there is one, and are executed again by whoever
 * goes on there. Where there is none and later chains were used before them, no place says that:
 * -EBUSY, and in_flight says how many there are.
 */
int vdpa_shadow_end(struct vdpa_mover *m, struct vdpa_vq_state *state, unsigned int *in_flight);

/* After that, of a guest's ring whose inflight area nobody else knows of: vdpa_vq_put_back(). */
int vdpa_shadow_put_back(struct vdpa_mover *m, struct vdpa_vq_state *state);

#endif /* VDPA_SHADOW_H */
