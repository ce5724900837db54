/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A planned end of the process under a device that cannot go on where the process is killed: nobody
 * keeps what such a device has under way, so it is stopped, as for a migration to another host, and
 * the record says where its rings stand. The next process starts it there.
 *
 * Until the end is planned the record says why the connection ends, and the store does not have it:
 * a kill ends it at once. In the next process the record says so again before the device starts,
 * since it stands still no more from then on. Where a process that lives has handed the device
 * over, it starts once that one does not come back: until then both have its place.
 */

#include <errno.h>
#include <stdio.h>

#include "planned_end.h"
#include "restart.h"
#include "vdpa_log.h"

int
vdpa_planned_end_choose(struct vdpa_planned_end *p, struct vdpa_device *vdev, const char *frontend,
			const char *why)
{
	int rc;

	/* The cause may be the message that the next call replaces. */
	snprintf(p->crash, sizeof(p->crash), "%s", why);
	rc = vdpa_device_can_move(vdev);
	if (rc < 0) {
		p->crash[0] = '\0';
		return rc;
	}
	vdpa_restart_says_of_kill(vdev->name, p->crash);
	VDPA_LOG(NOTICE,
		 "%s: %s: goes on over restarts and upgrades, and where the process is killed, "
		 "its connection ends: %s",
		 vdev->name, frontend, p->crash);
	return 0;
}

bool
vdpa_planned_end_is(const struct vdpa_planned_end *p)
{
	return p->crash[0] != '\0';
}

int
vdpa_planned_end_check(const struct vdpa_planned_end *p, bool runs)
{
	return vdpa_planned_end_is(p) && runs
		       ? vdpa_error(EOPNOTSUPP, "it was not stopped: %s", p->crash)
		       : 0;
}

int
vdpa_planned_end_go_on(struct vdpa_planned_end *p, const char *device, const char *connection,
		       int (*start)(void *arg), void *arg)
{
	vdpa_restart_del(device, connection);
	p->starts_late = vdpa_restart_holds();
	return p->starts_late ? 0 : start(arg);
}

bool
vdpa_planned_end_start_late(struct vdpa_planned_end *p, const struct vdpa_device *vdev,
			    const char *frontend, int (*start)(void *arg), void *arg)
{
	if (!p->starts_late)
		return true;
	p->starts_late = false;
	if (start(arg) == 0)
		return true;
	VDPA_LOG(ERR, "%s: %s: its connection does not go on: %s", vdev->name, frontend,
		 vdpa_error_cause(vdpa_error_message(), vdev->name, -1));
	return false;
}
