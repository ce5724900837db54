/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A planned end of the process under a device of the front end vfio-user that does not go on where
 * the process is killed; vhost_user_planned.c says why and how. Its queues stand still, as they do
 * for its driver and for a state that is saved, so the record has their places as any record has.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "error_priv.h"
#include "restart.h"
#include "vdpa_args.h"
#include "vdpa_log.h"
#include "vfio_user_device.h"
#include "vfio_user_kept_priv.h"
#include "vfio_user_server_priv.h"

int
vdpa_vfus_planned_choose(struct vfu_device *dev)
{
	struct vfu_kept *k = &dev->kept;
	int rc =
		vdpa_device_runs_alone(dev->vdev)
			? vdpa_error(EOPNOTSUPP, "functions behind the front end vfio-user are not "
						 "left running")
			: vdpa_device_can_restart(dev->vdev);

	if (rc == 0)
		return 0;
	snprintf(k->crash, sizeof(k->crash), "%s", vdpa_vfus_why(dev));
	rc = vdpa_device_can_move(dev->vdev);
	if (rc < 0) {
		k->crash[0] = '\0';
		return rc;
	}
	VDPA_LOG(NOTICE,
		 "%s: vfio-user: goes on over restarts and upgrades, and where the process is "
		 "killed, its connection ends: %s",
		 dev->vdev->name, k->crash);
	return 0;
}

bool
vdpa_vfus_planned_is(const struct vfu_kept *k)
{
	return k->crash[0] != '\0';
}

/* The end. */

static int
leave(struct vfu_device *dev)
{
	struct vdpa_consumer_vq_facts *facts = calloc(dev->vp.params.nvqs, sizeof(*facts));
	struct vfu_kept *k = &dev->kept;
	int rc = facts == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;

	if (rc == 0 && k->starts_late)
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
	for (unsigned int i = 0; vdpa_vfus_planned_is(k) && i < RTE_DIM(r->queues); i++)
		if (r->queues[i].told && r->queues[i].runs)
			return vdpa_error(EOPNOTSUPP, "it was not stopped: %s", k->crash);
	return 0;
}

static int
start(struct vfu_kept *k)
{
	int rc;

	k->resumed = k->former->queues;
	rc = vdpa_vfus_record_start(k->dev);
	k->resumed = NULL;
	return rc;
}

int
vdpa_vfus_planned_go_on(struct vfu_kept *k)
{
	/* A kill ends it from now on. */
	vdpa_restart_del(k->dev->vdev->name, VFU_KEPT_CONNECTION);
	k->starts_late = vdpa_restart_holds();
	return k->starts_late ? 0 : start(k);
}

bool
vdpa_vfus_planned_start_late(struct vfu_kept *k)
{
	if (!k->starts_late)
		return true;
	k->starts_late = false;
	if (start(k) == 0)
		return true;
	VDPA_LOG(ERR, "%s: vfio-user: its connection does not go on: %s", k->dev->vdev->name,
		 vdpa_vfus_why(k->dev));
	return false;
}
