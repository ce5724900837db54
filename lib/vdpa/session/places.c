/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where queues stand whose device is stopped as a whole: by the device's word, for which it is
 * asked before a reset, else by what their rings say (ring_state.c). With the device's lock held.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "op.h"
#include "paths.h"
#include "ring_index.h"
#include "ring_watch.h"
#include "session_priv.h"
#include "steps.h"
#include "vdpa_log.h"
#include "virtio_type.h"

/* By a look at the ring right before the stop, and what it has said since. */
static bool
place_from_watch(struct vdpa_core_vq *vq, const struct vdpa_iotlb *tlb,
		 const struct vdpa_vq_config *conf, struct vdpa_ring_watch *w,
		 struct vdpa_vq_state *state)
{
	uint16_t *heads = calloc(conf->num, sizeof(*heads));
	struct vdpa_ring_left left;
	bool known = heads != NULL && tlb != NULL && vdpa_ring_left(tlb, conf, w, heads, &left);

	if (known && left.last) {
		memset(state, 0, sizeof(*state));
		state->split.avail_index = left.used;
	} else if (known) {
		known = vdpa_path_hold(vq, conf, left.used, heads, left.n, state);
	}
	free(heads);
	return known;
}

bool
vdpa_session_place_from_ring(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_iotlb *tlb,
			     bool packed, const struct vdpa_vq_config *conf,
			     struct vdpa_ring_watch *w, struct vdpa_vq_state *state)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	bool seen = w != NULL && w->known;
	bool known = seen && place_from_watch(vq, tlb, conf, w, state);

	/* What the ring looks like now does not refute what was seen of it, but that all is used.
	 */
	if (!known)
		known = vdpa_ring_stopped_at(tlb, packed, conf, state) &&
			(!seen || vdpa_ring_is_used_up(tlb, conf));
	vq->guessed = !known;
	vq->guess = *state;
	if (!known)
		VDPA_LOG_LIMITED(
			&vdev->core->log, INFO,
			"%s: queue %u: stopped with buffers in flight, and the device cannot tell "
			"which: it can begin anew only",
			vdev->name, idx);
	return known;
}

int
vdpa_session_suspended_place(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_state place = {0};
	int rc = vdev->config->get_vq_state(vdev, idx, state);

	if (rc == -EOPNOTSUPP && !vdpa_session_is_packed(vdev) &&
	    vdpa_ring_used_idx(vdev->core->iotlb, vq->conf.device, &place.split.avail_index)) {
		*state = place;
		return 0;
	}
	return rc == -EOPNOTSUPP ? rc : VDPA_OP(vdev, idx, "get_vq_state", rc);
}

/* Whether all of a queue's buffers come back by themselves, and only that says where it stands. */
static bool
needs_drain(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	return vq->ready && vq->path == &vdpa_path_direct && !vdpa_session_tells(vdev) &&
	       virtio_type_vq_drains(vdev->config->get_device_id(vdev), idx);
}

/* Until all is used. That the order of what came back tells the place now is not enough: what comes
 * next may be out of order. False: not in time. */
static bool
drain_vq(struct vdpa_device *vdev, uint16_t idx, int64_t until_us)
{
	const struct vdpa_vq_config *conf = &vdev->core->vqs[idx].conf;
	const struct vdpa_iotlb *tlb = vdev->core->iotlb;
	struct timespec nap = {.tv_nsec = 20000};

	if (vdpa_ring_is_used_up(tlb, conf))
		return true;
	/* A guest that was stopped between a buffer and its kick kicks no more. */
	vdpa_session_kick(vdev, idx);
	while (!vdpa_ring_is_used_up(tlb, conf)) {
		if (vdpa_now_us() > until_us)
			return false;
		nanosleep(&nap, NULL);
		nap.tv_nsec = RTE_MIN(nap.tv_nsec * 2, 1000000L);
	}
	return true;
}

struct vdpa_ring_watch *
vdpa_session_watch_vq(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_ring_watch *w;

	if (!vq->ready || vq->path != &vdpa_path_direct || vdev->core->can.suspend ||
	    vdpa_session_is_packed(vdev) || vdpa_session_tells(vdev))
		return NULL;
	w = malloc(sizeof(*w));
	if (w != NULL)
		(void)vdpa_ring_watch(vdev->core->iotlb, &vq->conf, w);
	return w;
}

bool
vdpa_session_will_know(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_ring_watch *w)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_state state;

	if (w != NULL)
		return w->known;
	if (!vq->ready || vq->path != &vdpa_path_direct || vdpa_session_tells(vdev))
		return true;
	/* Of a packed ring a suspension says no more than a reset. */
	return !vdpa_session_is_packed(vdev) ||
	       vdpa_ring_stopped_at(vdev->core->iotlb, true, &vq->conf, &state);
}

void
vdpa_session_drain(struct vdpa_device *vdev, int only, unsigned int ms)
{
	struct vdpa_device_core *core = vdev->core;
	uint16_t first = only < 0 ? 0 : (uint16_t)only, end = only < 0 ? core->nvqs : first + 1;
	int64_t begun_us = vdpa_now_us(), until_us = begun_us + (int64_t)ms * 1000;

	vdpa_step_path_drain(vdev, only, ms);
	/* One that suspends finishes what it took. Of a packed ring there is nothing to see. */
	if (core->can.suspend || vdpa_session_is_packed(vdev) || core->iotlb == NULL)
		goto out;
	for (uint16_t i = first; i < end && !core->does_not_drain; i++)
		if (needs_drain(vdev, i) && !drain_vq(vdev, i, until_us))
			/* Of a guest that goes on that says nothing. */
			core->does_not_drain = ms == VDPA_DRAIN_MS;
out:
	vdpa_phase_end(vdev, VDPA_PHASE_DRAIN, begun_us);
}

bool
vdpa_session_can_place(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	struct vdpa_vq_state state;

	if (vq->path->keeps_place || vdpa_session_tells(vdev))
		return true;
	/* One that suspends has finished what it took. */
	if (vdev->core->can.suspend && !vdpa_session_is_packed(vdev))
		return true;
	return vdpa_ring_stopped_at(vdev->core->iotlb, vdpa_session_is_packed(vdev), &vq->conf,
				    &state);
}

bool
vdpa_session_tells(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_vq_state state;

	for (uint16_t i = 0; core->tells == VDPA_TELLS_NOT_ASKED && i < core->nvqs; i++)
		if (core->vqs[i].ready)
			core->tells = vdev->config->get_vq_state(vdev, i, &state) == -EOPNOTSUPP
					      ? VDPA_TELLS_NOT
					      : VDPA_TELLS;
	return core->tells != VDPA_TELLS_NOT;
}

/*
 * Where the queues stand by the device's word, before a reset takes that away. Each is stopped
 * first where the device can. One that fails at it is asked no more: it may take its time-out for
 * each.
 */
static void
ask_places(struct vdpa_device *vdev, struct vdpa_vq_config *vqs, enum vdpa_vq_place *places)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_device_core *core = vdev->core;
	bool suspended = core->state == VDPA_STATE_SUSPENDED, fails = false;
	int rc;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		places[i] = core->vqs[i].conf.num != 0 ? VDPA_VQ_PLACE_UNKNOWN : VDPA_VQ_NOT_SET_UP;
		if (places[i] == VDPA_VQ_NOT_SET_UP || fails || core->vqs[i].path->keeps_place)
			continue;
		rc = core->vqs[i].ready
			     ? VDPA_OP(vdev, i, "set_vq_ready", ops->set_vq_ready(vdev, i, false))
			     : 0;
		if (rc == 0 || rc == -EOPNOTSUPP)
			rc = suspended ? vdpa_session_suspended_place(vdev, i, &vqs[i].state)
				       : VDPA_OP(vdev, i, "get_vq_state",
						 ops->get_vq_state(vdev, i, &vqs[i].state));
		if (rc == 0)
			places[i] = VDPA_VQ_PLACE_KNOWN;
		fails = rc < 0 && rc != -EOPNOTSUPP;
		if (fails)
			VDPA_LOG_LIMITED(&core->log, WARNING, "%s; the rings are looked at instead",
					 vdpa_error_message());
	}
}

int
vdpa_session_reset_with_places(struct vdpa_device *vdev, struct vdpa_vq_config *vqs,
			       enum vdpa_vq_place *places, struct vdpa_kept_state *kept)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_iotlb *tlb = vdpa_iotlb_get(core->iotlb);
	bool packed = vdpa_session_is_packed(vdev), known;
	struct vdpa_ring_watch *looks[VDPA_VQ_MAX] = {NULL};
	bool guest_runs = kept != NULL;
	int rc = 0;

	vdpa_session_drain(vdev, -1, guest_runs ? VDPA_SWITCH_DRAIN_MS : VDPA_DRAIN_MS);
	for (uint16_t i = 0; rc == 0 && i < core->nvqs; i++) {
		looks[i] = vdpa_session_watch_vq(vdev, i);
		if (guest_runs && !vdpa_session_will_know(vdev, i, looks[i]))
			rc = vdpa_error(EOPNOTSUPP,
					"%s: queue %u: the device does not say where it stands, "
					"and its ring does not show it now",
					vdev->name, i);
	}
	/* As late as can be: its control queue is one that the guest may use until the reset. */
	if (rc == 0 && guest_runs)
		rc = vdpa_session_keep_state(vdev, kept);
	if (rc < 0) {
		/* The device goes on, and the queues that were drained with it. */
		vdpa_step_path_enable(vdev, -1, true);
		goto out;
	}
	ask_places(vdev, vqs, places);
	/* The front end has yet to be notified of a failure that was reported. */
	rc = vdpa_step_quiesce(vdev);
	if (rc == 0)
		vdpa_device_set_state(vdev, VDPA_STATE_IDLE);
	for (uint16_t i = 0; rc == 0 && i < core->nvqs; i++) {
		struct vdpa_vq_state *state = &vqs[i].state;

		if (places[i] == VDPA_VQ_NOT_SET_UP)
			continue;
		if (core->vqs[i].placed) {
			*state = core->vqs[i].state;
			places[i] = VDPA_VQ_PLACE_KNOWN;
			continue;
		}
		known = (places[i] == VDPA_VQ_PLACE_KNOWN &&
			 vdpa_ring_catch_up(tlb, packed, &vqs[i], state)) ||
			vdpa_session_place_from_ring(vdev, i, tlb, packed, &vqs[i], looks[i],
						     state);
		places[i] = known ? VDPA_VQ_PLACE_KNOWN : VDPA_VQ_PLACE_UNKNOWN;
	}
out:
	for (uint16_t i = 0; i < core->nvqs; i++)
		free(looks[i]);
	vdpa_iotlb_put(tlb);
	return rc;
}
