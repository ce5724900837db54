/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The planned end of a process: a consumer stops its queues and says where they stand, so that
 * another process starts the device there.
 */

#include <errno.h>
#include <stdio.h>

#include "consumer_priv.h"
#include "error_priv.h"

/* Why another process cannot start a queue that does not run where it stands; NULL: it can. */
static const char *
find_tie(struct vdpa_consumer *c, uint16_t idx)
{
	const struct consumer_vq *vq = &c->vqs[idx];
	struct vdpa_vq_state place;

	if (vq->base == CONSUMER_NOT_SET)
		return NULL;
	place = consumer_vq_place(c, vq);
	return vdpa_device_find_vq_tie(c->vdev, idx, consumer_is_packed(c), &place);
}

static int
check_place(struct vdpa_consumer *c, uint16_t idx)
{
	const char *tie = find_tie(c, idx);

	return tie == NULL ? 0 : vdpa_error(EIO, "queue %u %s", idx, tie);
}

/* Stop a queue that the device has. */
static int
leave_vq(struct vdpa_consumer *c, uint16_t idx, struct vdpa_consumer_vq_facts *facts)
{
	struct consumer_vq *vq = &c->vqs[idx];
	char why[VDPA_ERROR_MAX];
	int rc = consumer_vq_halt(c, idx);

	if (rc < 0) {
		snprintf(why, sizeof(why), "%s",
			 vdpa_error_cause(vdpa_error_message(), c->vdev->name, idx));
		return vdpa_error(rc, "queue %u does not stop: %s", idx, why);
	}
	rc = check_place(c, idx);
	if (rc < 0)
		return rc;
	if (c->function)
		vq->state = CONSUMER_VQ_PARKED;
	facts->has_base = true;
	facts->base = (uint32_t)vq->base;
	return 0;
}

/* All that run, from the last one on, as park_vqs() has it; others have been stopped before. The
 * first error. */
static int
leave_vqs(struct vdpa_consumer *c, bool runs, struct vdpa_consumer_vq_facts *facts)
{
	struct vdpa_error_saved error;
	int first = 0;

	for (uint16_t i = c->nvqs; i-- > 0;) {
		int rc = 0;

		if (runs && c->vqs[i].state == CONSUMER_VQ_STARTED)
			rc = leave_vq(c, i, &facts[i]);
		else
			rc = check_place(c, i);
		if (first < 0 || rc == 0)
			continue;
		first = rc;
		vdpa_error_save(&error);
	}
	if (first < 0)
		vdpa_error_restore(&error);
	return first;
}

bool
vdpa_consumer_has_requests(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	for (uint16_t i = 0; i < c->nvqs; i++)
		if (c->vqs[i].state != CONSUMER_VQ_STARTED && find_tie(c, i) != NULL)
			return true;
	return false;
}

int
vdpa_consumer_leave(struct vdpa_consumer *c, struct vdpa_consumer_vq_facts *facts)
{
	CONSUMER_LOCKED(c);
	struct vdpa_error_saved error;
	bool runs = consumer_runs(c);
	int rc;

	for (uint16_t i = 0; i < c->nvqs; i++)
		consumer_vq_facts(c, i, &facts[i]);
	/* None goes on by itself. */
	c->held = c->function;
	rc = consumer_check_alive(c);
	if (rc == 0)
		rc = leave_vqs(c, runs, facts);
	/* A failure says more than what it makes of the stops. */
	if (consumer_check_alive(c) < 0) {
		consumer_set_failed(c);
		rc = -EIO;
	}
	/* It shows why until it is deleted; queues of a function stand still until its reset. */
	if (c->state == CONSUMER_FAILED || c->function)
		return rc;
	vdpa_error_save(&error);
	consumer_stop(c);
	/* None is ready for a start any more. */
	for (uint16_t i = 0; i < c->nvqs; i++)
		consumer_vq_forget(c, i, true);
	if (rc < 0)
		vdpa_error_restore(&error);
	return rc;
}
