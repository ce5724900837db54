/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A planned end of the process under a device of the front end vfio-user that does not go on where
 * the process is killed; planned_end.c says why and how. Its queues stand still, as they do
 * for its driver and for a state that is saved, so the record has their places as any record has.
 */

#include <errno.h>
#include <stdlib.h>

#include "error_priv.h"
#include "restart.h"
#include "vdpa_args.h"
#include "vfio_user_device.h"
#include "vfio_user_kept_priv.h"
#include "vfio_user_server_priv.h"

int
vdpa_vfus_planned_choose(struct vfu_device *dev)
{
	int rc =
		vdpa_device_runs_alone(dev->vdev)
			? vdpa_error(EOPNOTSUPP, "functions behind the front end vfio-user are not "
						 "left running")
			: vdpa_device_can_restart(dev->vdev);

	if (rc == 0)
		return 0;
	return vdpa_planned_end_choose(&dev->kept.planned, dev->vdev, "vfio-user",
				       vdpa_vfus_why(dev));
}

bool
vdpa_vfus_planned_is(const struct vfu_kept *k)
{
	return vdpa_planned_end_is(&k->planned);
}

/* The end. */

static int
leave(struct vfu_device *dev)
{
	struct vdpa_consumer_vq_facts *facts = calloc(dev->vp.params.nvqs, sizeof(*facts));
	struct vfu_kept *k = &dev->kept;
	int rc = facts == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;

	if (rc == 0 && k->planned.starts_late)
		rc = vdpa_error(EBUSY, "it was not started yet");
	if (rc == 0)
		rc = vdpa_consumer_leave(dev->consumer, facts);
	free(facts);
	if (rc == 0)
		rc = vdpa_restart_put(dev->vdev->name, VFU_KEPT_CONNECTION, dev->server->client.fd);
	k->stopped = rc == 0;
	return rc < 0 ? rc : vdpa_vfus_record_write(dev);
}

void
vdpa_vfus_planned_leave(struct vfu_device *dev)
{
	/* Another process may have it as it was. */
	if (dev->consumer != NULL && !vdpa_restart_holds() && leave(dev) < 0)
		vdpa_vfus_kept_stop(&dev->kept, vdpa_vfus_why(dev));
}

/* The next process. */

int
vdpa_vfus_planned_check(const struct vfu_kept *k, const struct vfu_record *r)
{
	bool runs = false;

	for (unsigned int i = 0; i < RTE_DIM(r->queues); i++)
		runs |= r->queues[i].told && r->queues[i].runs;
	return vdpa_planned_end_check(&k->planned, runs);
}

static int
start(void *arg)
{
	struct vfu_kept *k = arg;
	int rc;

	k->resumed = k->former->queues;
	rc = vdpa_vfus_record_start(k->dev);
	k->resumed = NULL;
	return rc;
}

int
vdpa_vfus_planned_go_on(struct vfu_kept *k)
{
	return vdpa_planned_end_go_on(&k->planned, k->dev->vdev->name, VFU_KEPT_CONNECTION, start,
				      k);
}

bool
vdpa_vfus_planned_start_late(struct vfu_kept *k)
{
	return vdpa_planned_end_start_late(&k->planned, k->dev->vdev, "vfio-user", start, k);
}
