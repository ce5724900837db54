/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A planned end of the process under a device of the front end vhost-user that does not go on where
 * the process is killed; planned_end.c says why and how. The record says in PART_COLD why a kill
 * ends its connection, and of each ring that the device was stopped with where that stands.
 */

#include <errno.h>
#include <stdlib.h>

#include "error_priv.h"
#include "restart.h"
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
	return vdpa_planned_end_choose(&k->planned, dev->vdev, "vhost-user", vdpa_vhu_why(dev, -1));
}

bool
vdpa_vhu_planned_is(const struct vhu_device *dev)
{
	return vdpa_planned_end_is(&dev->kept.planned);
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
	return vdpa_planned_end_check(&dev->kept.planned, runs);
}

static int
start(void *arg)
{
	struct vhu_session *s = arg;

	return vdpa_vhu_record_start(s->dev, s);
}

int
vdpa_vhu_planned_go_on(struct vhu_device *dev, struct vhu_session *s)
{
	return vdpa_planned_end_go_on(&dev->kept.planned, dev->vdev->name, VHU_KEPT_CONNECTION,
				      start, s);
}

bool
vdpa_vhu_planned_start_late(struct vhu_device *dev)
{
	return vdpa_planned_end_start_late(&dev->kept.planned, dev->vdev, "vhost-user", start,
					   dev->session);
}
