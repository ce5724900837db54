/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where queues stand whose device is stopped as a whole: by the device's word, for which it is
 * asked before a reset, else by what their rings say (ring_state.c). With the device's lock held.
 */

#include <errno.h>

#include "op.h"
#include "session_priv.h"
#include "steps.h"
#include "vdpa_log.h"

bool
vdpa_session_place_from_ring(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_iotlb *tlb,
			     bool packed, const struct vdpa_vq_config *conf,
			     struct vdpa_vq_state *state)
{
	bool known = vdpa_ring_stopped_at(tlb, packed, conf, state);

	if (!known)
		VDPA_LOG(INFO,
			 "%s: queue %u: stopped with buffers in flight, and the device cannot tell "
			 "which: it can begin anew only",
			 vdev->name, idx);
	return known;
}

bool
vdpa_session_tells_places(struct vdpa_device *vdev)
{
	struct vdpa_vq_state state;

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (vdev->core->vqs[i].conf.num != 0 &&
		    vdev->config->get_vq_state(vdev, i, &state) < 0)
			return false;
	return true;
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
	bool fails = false;
	int rc;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		places[i] = core->vqs[i].conf.num != 0 ? VDPA_VQ_PLACE_UNKNOWN : VDPA_VQ_NOT_SET_UP;
		if (places[i] == VDPA_VQ_NOT_SET_UP || fails)
			continue;
		rc = core->vqs[i].ready
			     ? VDPA_OP(vdev, i, "set_vq_ready", ops->set_vq_ready(vdev, i, false))
			     : 0;
		if (rc == 0 || rc == -EOPNOTSUPP)
			rc = VDPA_OP(vdev, i, "get_vq_state",
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
			       enum vdpa_vq_place *places)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_iotlb *tlb = vdpa_iotlb_get(core->iotlb);
	bool packed = vdpa_session_is_packed(vdev), known;
	int rc;

	ask_places(vdev, vqs, places);
	/* The front end has yet to be notified of a failure that was reported. */
	rc = vdpa_step_quiesce(vdev);
	if (rc == 0)
		vdpa_device_set_state(vdev, VDPA_STATE_IDLE);
	for (uint16_t i = 0; rc == 0 && i < core->nvqs; i++) {
		struct vdpa_vq_state *state = &vqs[i].state;

		if (places[i] == VDPA_VQ_NOT_SET_UP)
			continue;
		known = (places[i] == VDPA_VQ_PLACE_KNOWN &&
			 vdpa_ring_catch_up(tlb, packed, &vqs[i], state)) ||
			vdpa_session_place_from_ring(vdev, i, tlb, packed, &vqs[i], state);
		places[i] = known ? VDPA_VQ_PLACE_KNOWN : VDPA_VQ_PLACE_UNKNOWN;
	}
	vdpa_iotlb_put(tlb);
	return rc;
}
