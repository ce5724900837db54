/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A planned end of the process under a device that cannot go on where the process is killed: nobody
 * keeps what such a device has under way, so it is stopped, as for a migration to another host, and
 * the record says where its rings stand. The next process starts it there.
 *
 * Until the end is planned the record says why the connection ends (PART_COLD), and the store does
 * not have it: a kill ends it at once. In the next process the record says so again before the
 * device starts, since it stands still no more from then on. Where a process that lives has handed
 * the device over, it starts once that one does not come back: until then both have its place.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "error_priv.h"
#include "restart.h"
#include "vdpa_log.h"
#include "vhost_user_priv.h"

int
vdpa_vhu_planned_choose(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;
	int rc = vdpa_device_can_restart(dev->vdev);

	/* A record of where it stood is no account of what it does from there on. */
	if (rc == 0 && k->former != NULL && vdpa_vhu_planned_has_stopped(k->former))
		rc = vdpa_error(EOPNOTSUPP, "a former process has stopped it");
	if (rc == 0)
		return 0;
	snprintf(k->crash, sizeof(k->crash), "%s", vdpa_vhu_why(dev, -1));
	rc = vdpa_device_can_move(dev->vdev);
	if (rc < 0) {
		k->crash[0] = '\0';
		return rc;
	}
	VDPA_LOG(NOTICE,
		 "%s: vhost-user: goes on over restarts and upgrades, and where the process is "
		 "killed, its connection ends: %s",
		 dev->vdev->name, k->crash);
	return 0;
}

bool
vdpa_vhu_planned_is(const struct vhu_device *dev)
{
	return dev->kept.crash[0] != '\0';
}

/* The end. */

static int
note_rings(struct vhu_session *s)
{
	struct vdpa_consumer_vq_facts *facts = calloc(s->nrings, sizeof(*facts));
	int rc = facts == NULL ? vdpa_error(ENOMEM, "out of memory")
			       : vdpa_consumer_leave(s->consumer, facts);

	for (uint16_t i = 0; rc == 0 && i < s->nrings; i++) {
		s->kept->rings[i].facts = facts[i];
		s->kept->rings[i].stopped = true;
	}
	free(facts);
	return rc;
}

int
vdpa_vhu_planned_leave(struct vhu_device *dev)
{
	struct vhu_session *s = dev->session;
	const struct vhu_kept_session *k = s->kept;
	int rc;

	/* It has not begun; or another process has it as it was. */
	if ((dev->conn.begins && !dev->conn.resumed) || vdpa_restart_holds())
		return 0;
	for (uint16_t i = 0; i < s->nrings; i++)
		vdpa_vhu_take_doorbell(s, i);
	rc = note_rings(s);
	if (rc == 0)
		rc = vdpa_restart_put(dev->vdev->name, VHU_KEPT_CONNECTION, dev->conn.fd);
	return rc < 0 ? rc
		      : vdpa_vhu_record_write(dev, k->has_reply ? &k->reply : NULL, k->reply_fd);
}

/* The next process. */

bool
vdpa_vhu_planned_has_stopped(const struct vhu_record *r)
{
	bool all = r->nrings > 0;

	for (unsigned int i = 0; i < r->nrings; i++)
		all &= r->rings[i].stopped;
	return all;
}

int
vdpa_vhu_planned_check(const struct vhu_device *dev, const struct vhu_record *r)
{
	bool runs = false;

	for (unsigned int i = 0; i < r->nrings; i++)
		runs |= r->rings[i].facts.runs && !r->rings[i].stopped;
	return vdpa_vhu_planned_is(dev) && runs
		       ? vdpa_error(EOPNOTSUPP, "it was not stopped: %s", dev->kept.crash)
		       : 0;
}

int
vdpa_vhu_planned_go_on(struct vhu_device *dev, struct vhu_session *s)
{
	struct vhu_kept *k = &dev->kept;

	/* A kill ends it from now on. */
	vdpa_restart_del(dev->vdev->name, VHU_KEPT_CONNECTION);
	k->starts_late = vdpa_restart_holds();
	return k->starts_late ? 0 : vdpa_vhu_record_start(dev, s);
}

bool
vdpa_vhu_planned_start_late(struct vhu_device *dev)
{
	struct vhu_kept *k = &dev->kept;

	if (!k->starts_late)
		return true;
	k->starts_late = false;
	if (vdpa_vhu_record_start(dev, dev->session) == 0)
		return true;
	VDPA_LOG(ERR, "%s: vhost-user: its connection does not go on: %s", dev->vdev->name,
		 vdpa_vhu_why(dev, -1));
	return false;
}
