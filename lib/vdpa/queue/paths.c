/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The choice of a queue's path, in one place: the direct one wherever the device can do all that is
 * asked of the queue by itself; else a relay of used buffers where that is enough, as it costs
 * less; else a shadow, unless the word `migration` rules that out.
 */

#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "device_priv.h"
#include "error_priv.h"
#include "paths.h"
#include "steps.h"
#include "virtio_compat.h"

/* Features of a ring that a shadow has towards the guest whatever the device has, and that it may
 * leave out towards the device. */
#define SHADOW_FEATURES                                                                            \
	(RTE_BIT64(VIRTIO_F_RING_PACKED) | RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC) |                \
	 RTE_BIT64(VIRTIO_RING_F_EVENT_IDX) | RTE_BIT64(VIRTIO_F_IN_ORDER))

uint64_t
vdpa_path_device_features(const struct vdpa_device *vdev, uint64_t guest)
{
	uint64_t device = vdev->config->get_device_features(vdev->core->vdev);

	/* The device is kicked by us, and not with the guest's data. */
	if (vdev->core->migration == VDPA_MIGRATION_RELAY)
		return guest & ~RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);
	if (vdev->core->migration != VDPA_MIGRATION_SHADOW)
		return guest;
	/* The guest's ring is one thing, the device's another: the latter as the device has it, but
	 * for the format, which stays the guest's where it can. */
	return (guest & ~(SHADOW_FEATURES | RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA))) |
	       (device & guest & (RTE_BIT64(VIRTIO_F_RING_PACKED) | RTE_BIT64(VIRTIO_F_IN_ORDER))) |
	       (device &
		(RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC) | RTE_BIT64(VIRTIO_RING_F_EVENT_IDX)));
}

uint64_t
vdpa_path_offered_features(const struct vdpa_device *vdev, uint64_t device)
{
	switch (vdev->core->migration) {
	case VDPA_MIGRATION_SHADOW:
		return device | SHADOW_FEATURES;
	case VDPA_MIGRATION_RELAY:
		return device & ~RTE_BIT64(VIRTIO_F_RING_PACKED);
	default:
		return device;
	}
}

static const char *
reason(const struct vdpa_path_need *need)
{
	if (need->place)
		return "it goes on in the middle of its ring, and the device begins at the "
		       "beginning only";
	return "the device has no dirty log";
}

/* A device that says where its queue stands begins there, too. Some say it only of a queue that
 * does not run, as this one. */
static bool
tells_place(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_error_saved error;
	struct vdpa_vq_state state;
	bool tells;

	vdpa_error_save(&error);
	tells = vdev->config->get_vq_state(vdev, idx, &state) != -EOPNOTSUPP;
	vdpa_error_restore(&error);
	return tells;
}

/* What a relay lacks for this queue; NULL: it can be relayed. */
static const char *
not_relayed(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_path_need *need)
{
	if ((vdev->core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0)
		return "its ring is packed";
	if (need->place || !tells_place(vdev, idx))
		return "the device does not begin in the middle of a ring";
	return NULL;
}

const struct vdpa_path *
vdpa_path_choose(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_path_need *need)
{
	enum vdpa_migration mode = vdev->core->migration;
	const char *why;

	/* The front end has asked for an area because the word `inflight on` let it. What a device
	 * enters there as used is not the guest's yet where it is relayed. */
	if (need->track || (need->inflight && mode == VDPA_MIGRATION_RELAY))
		return &vdpa_path_shadow_inflight;
	if (mode == VDPA_MIGRATION_SHADOW)
		return &vdpa_path_shadow;
	if (!need->log && !need->place && mode != VDPA_MIGRATION_RELAY)
		return &vdpa_path_direct;
	if (mode == VDPA_MIGRATION_AUTO && need->inflight)
		return &vdpa_path_shadow;
	if (mode != VDPA_MIGRATION_AUTO && mode != VDPA_MIGRATION_RELAY) {
		vdpa_error(EOPNOTSUPP,
			   "%s: queue %u: %s, and the word `migration` allows no shadow",
			   vdev->name, idx, reason(need));
		goto refuse;
	}
	why = not_relayed(vdev, idx, need);
	if (why == NULL)
		return &vdpa_path_relay;
	if (mode == VDPA_MIGRATION_AUTO)
		return &vdpa_path_shadow;
	vdpa_error(EOPNOTSUPP,
		   "%s: queue %u: cannot be relayed, as the word `migration relay` has it: %s; "
		   "`migration shadow` or `auto` can have it",
		   vdev->name, idx, why);
refuse:
	errno = EOPNOTSUPP;
	return NULL;
}

int
vdpa_path_enter(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_path *path,
		const struct vdpa_vq_config *conf, struct vdpa_vq_config *dev)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	int rc;

	*dev = *conf;
	vq->own = VDPA_OWN_NONE;
	if (path->start == NULL)
		return 0;
	rc = path->start(vq, conf, dev);
	if (rc < 0)
		return rc;
	vq->own = path->own;
	pthread_mutex_lock(&vdev->core->show_lock);
	vq->moved = (struct vdpa_moved){0};
	vq->path = path;
	vdpa_counts_path_begins(vq);
	pthread_mutex_unlock(&vdev->core->show_lock);
	return 0;
}

int
vdpa_path_run(struct vdpa_device *vdev, uint16_t idx)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	/* Before the first buffer moves. */
	if (vdev->core->dirty.on && vq->path->set_log != NULL)
		vq->path->set_log(vq, &vdev->core->dirty.paths[vdev->core->dirty.paths_idx],
				  vq->log_iova);
	return vq->path->run != NULL ? vq->path->run(vq) : 0;
}

bool
vdpa_place_is_initial(bool packed, const struct vdpa_vq_state *state)
{
	if (!packed)
		return state->split.avail_index == 0;
	return state->packed.last_avail_idx == 0 && state->packed.last_used_idx == 0 &&
	       state->packed.last_avail_counter == 1 && state->packed.last_used_counter == 1;
}

bool
vdpa_place_is_same(bool packed, const struct vdpa_vq_state *a, const struct vdpa_vq_state *b)
{
	if (!packed)
		return a->split.avail_index == b->split.avail_index;
	return a->packed.last_avail_idx == b->packed.last_avail_idx &&
	       a->packed.last_used_idx == b->packed.last_used_idx &&
	       a->packed.last_avail_counter == b->packed.last_avail_counter &&
	       a->packed.last_used_counter == b->packed.last_used_counter;
}

void
vdpa_place_set_initial(bool packed, struct vdpa_vq_state *state)
{
	memset(state, 0, sizeof(*state));
	if (packed)
		state->packed.last_avail_counter = state->packed.last_used_counter = 1;
}
