/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The path by a relay of used buffers: the layout of its two rings, and how it ends. Moving the
 * buffers is relay.c. The descriptors stay the guest's, and the place in the ring the device's to
 * load and to tell, as on the direct path.
 *
 * The device reads what the guest's descriptors name, and the guest could name our rings: what it
 * spoils there are the rings of its own queues, whose every word is checked as a hostile device's.
 */

#include "device_priv.h"
#include "path_mover.h"
#include "paths.h"
#include "relay.h"

/* Where the used ring lies; the avail ring lies first. */
static size_t
used_at(const struct vdpa_core_vq *vq, uint32_t num)
{
	return RTE_ALIGN_CEIL(vdpa_ring_size(false, num).driver,
			      RTE_MAX(vq->vdev->core->vq_align, 64u));
}

static size_t
memory(const struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest)
{
	return used_at(vq, guest->num) + vdpa_ring_size(false, guest->num).device;
}

static int
start(struct vdpa_core_vq *vq, const struct vdpa_vq_config *guest, struct vdpa_vq_config *dev)
{
	const size_t used = used_at(vq, guest->num);
	struct vdpa_mover_params params;
	struct vdpa_mover_path *path;
	int rc;

	path = vdpa_path_mover_begin(vq, memory(vq, guest), guest, dev, &params, &rc);
	if (path == NULL)
		return rc;
	params.ring.driver = path->memory->va;
	params.ring.device = (uint8_t *)path->memory->va + used;
	dev->driver = path->memory->iova;
	dev->device = path->memory->iova + used;
	rc = vdpa_relay_create(&params, &path->mover);
	if (rc < 0) {
		vdpa_path_mover_give_up(vq, path, NULL, false);
		return rc;
	}
	vdpa_path_mover_enter(vq, path, guest, dev);
	return 0;
}

/* The device gets no more that it would have to finish. */
static bool
drain(struct vdpa_core_vq *vq, unsigned int ms)
{
	RTE_SET_USED(ms);
	vdpa_path_mover_enable(vq, false);
	return true;
}

static int
stop(struct vdpa_core_vq *vq, struct vdpa_vq_state *state, bool reachable)
{
	struct vdpa_mover_path *path = vq->path_data;

	RTE_SET_USED(state);
	vdpa_mover_end(path->mover);
	vdpa_path_mover_give_up(vq, path, &vdpa_path_relay, reachable);
	return 0;
}

const struct vdpa_path vdpa_path_relay = {
	.name = "relay",
	.own = VDPA_OWN_RINGS,
	.memory = memory,
	.start = start,
	.run = vdpa_path_mover_run,
	.drain = drain,
	.stop = stop,
	.enable = vdpa_path_mover_enable,
	.set_kick = vdpa_path_mover_set_kick,
	.set_call = vdpa_path_mover_set_call,
	.set_memory = vdpa_path_mover_set_memory,
	.set_log = vdpa_path_mover_set_log,
	.get_stats = vdpa_path_mover_get_stats,
};
