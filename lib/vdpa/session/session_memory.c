/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory over the life of a binding: from the first table of a front end's connection to the
 * end of that connection. A session begins and ends within it, as often as a guest boots or loads
 * its driver, and maps nothing that is mapped already. All of it leaves the device's reach when a
 * reset fails (status.c) and at the end of the binding, so that the next front end finds nothing.
 */

#include <errno.h>

#include "session_priv.h"
#include "steps.h"

/* Ready, or set up by a session that runs, though disabled. */
static bool
has_rings(const struct vdpa_device *vdev, const struct vdpa_core_vq *vq)
{
	return vq->ready || (vdpa_device_started(vdev) && vq->conf.num != 0 &&
			     (vq->conf.desc != 0 || vq->conf.driver != 0 || vq->conf.device != 0));
}

/* A queue whose rings are not in the next table stops before they go: what it reads last is still
 * its own. */
static void
stop_queues_outside(struct vdpa_device *vdev, const struct vdpa_iotlb *tlb)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++) {
		const struct vdpa_core_vq *vq = &vdev->core->vqs[i];

		if (has_rings(vdev, vq) && vdpa_step_check_guest_rings(vdev, i, tlb) < 0)
			vdpa_session_lose_vq(vdev, i);
	}
}

static int
set_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	struct vdpa_device_core *core = vdev->core;
	int rc;

	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	if (tlb == NULL && core->memory_ends)
		/* What could be taken away is gone; the rest goes with the next reset. */
		return 0;
	/* A device that runs, and that nobody goes on with, stops before its memory goes. */
	if (tlb == NULL && core->is_left) {
		rc = vdpa_step_reset(vdev);
		if (rc < 0)
			return rc;
	}
	if (tlb == NULL && core->status == 0)
		return vdpa_step_end_memory(vdev, 0);
	/* What is refused has stopped no queue. */
	rc = vdpa_step_check_map(vdev, tlb);
	if (rc < 0)
		return rc;
	if (tlb != core->iotlb)
		stop_queues_outside(vdev, tlb);
	return vdpa_step_map(vdev, tlb);
}

int
vdpa_device_check_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = vdpa_step_check_map(vdev, tlb);
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_device_set_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	int rc;

	vdpa_device_lock(vdev);
	rc = set_memory(vdev, tlb);
	vdpa_device_unlock(vdev);
	return rc;
}
