/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The consumer of a function, whose driver writes registers and whose memory comes and goes by
 * ranges: what it has that no other consumer has. Queues stand still while they may not move, and
 * go on; the memory is a table that the front end brings up to date.
 */

#include <errno.h>
#include <stdio.h>

#include <linux/virtio_config.h>

#include "consumer_priv.h"
#include "ring_index.h"
#include "vdpa_log.h"

/* A queue that runs stands still, keeps its place and what was said of it. */
static void
park(struct vdpa_consumer *c, uint16_t idx)
{
	int rc = consumer_vq_halt(c, idx);

	c->vqs[idx].state = CONSUMER_VQ_PARKED;
	/* Its ring does not show where that is, as a split one does. */
	if (rc < 0 && consumer_is_packed(c) && consumer_runs(c)) {
		char why[VDPA_ERROR_MAX];

		snprintf(why, sizeof(why), "%s",
			 vdpa_error_cause(vdpa_error_message(), c->vdev->name, idx));
		vdpa_device_fail(c->vdev, idx, rc, "it does not stand still: %s", why);
		consumer_set_failed(c);
	}
}

static bool
rings_are_in(const struct vdpa_consumer *c, uint16_t idx, const struct vdpa_iotlb *tlb)
{
	struct consumer_vq vq = c->vqs[idx];

	return consumer_vq_translate(c, tlb, &vq) == 0;
}

/*
 * Queues stand still: those whose rings are not in a table, or all. From the last one on: what a
 * net device has taken to transmit may come back by the queue before.
 */
static void
park_vqs(struct vdpa_consumer *c, bool all, const struct vdpa_iotlb *tlb)
{
	for (uint16_t i = c->nvqs; i-- > 0;) {
		if (c->vqs[i].state != CONSUMER_VQ_STARTED || (!all && rings_are_in(c, i, tlb)))
			continue;
		if (!all)
			VDPA_LOG_LIMITED(&c->vdev->core->log, INFO,
					 "%s: queue %u: stands still: its memory was unmapped",
					 c->vdev->name, i);
		park(c, i);
	}
}

/* One that stood still starts where it stood. What does not go on, as it did before, fails. */
static int
resume(struct vdpa_consumer *c, uint16_t idx)
{
	struct vdpa_vq_config conf;
	int rc = consumer_vq_config(c, idx, &conf);
	char why[VDPA_ERROR_MAX];

	c->vqs[idx].state = CONSUMER_VQ_STARTED;
	if (rc == 0)
		rc = consumer_update_log(c);
	if (rc == 0)
		rc = vdpa_device_start_vq(c->vdev, idx, &conf);
	if (rc == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	vdpa_device_fail(c->vdev, idx, rc, "it does not start again: %s",
			 vdpa_error_cause(why, c->vdev->name, idx));
	consumer_set_failed(c);
	return rc;
}

void
consumer_resume_parked(struct vdpa_consumer *c)
{
	for (uint16_t i = 0; i < c->nvqs && !c->held && consumer_runs(c); i++)
		if (c->vqs[i].state == CONSUMER_VQ_PARKED && rings_are_in(c, i, c->iotlb))
			(void)resume(c, i);
}

void
vdpa_consumer_hold(struct vdpa_consumer *c, bool held)
{
	CONSUMER_LOCKED(c);

	/* What the driver keeps is taken where a queue's stop is a reset before that, else after.
	 */
	if (held && consumer_stops_as_a_whole(c))
		consumer_take_driver_state(c);
	c->held = held;
	if (held)
		park_vqs(c, true, NULL);
	if (held)
		consumer_take_driver_state(c);
	else if (consumer_runs(c))
		consumer_forget_driver_state(c);
	if (!held)
		consumer_resume_parked(c);
}

int
vdpa_consumer_negotiate(struct vdpa_consumer *c, uint64_t features)
{
	CONSUMER_LOCKED(c);
	const uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
	int rc = 0;

	if (c->state != CONSUMER_STOPPED)
		return vdpa_error(EBUSY, "%s: features change while the device runs",
				  c->vdev->name);
	rc = vdpa_reset(c->vdev);
	if (rc == 0)
		rc = vdpa_set_status(c->vdev, status);
	if (rc == 0)
		rc = vdpa_set_driver_features(c->vdev, consumer_device_features(c, features));
	if (rc == 0)
		rc = vdpa_set_status(c->vdev, status | VIRTIO_CONFIG_S_FEATURES_OK);
	if (rc == 0)
		c->features = features;
	return rc;
}

/* Queues. */

void
vdpa_consumer_stop_vq(struct vdpa_consumer *c, uint16_t idx)
{
	CONSUMER_LOCKED(c);

	consumer_vq_stop(c, idx);
}

void
vdpa_consumer_place_vq(struct vdpa_consumer *c, uint16_t idx, const struct vdpa_vq_state *state)
{
	CONSUMER_LOCKED(c);
	struct consumer_vq *vq = &c->vqs[idx];

	if (vq->state == CONSUMER_VQ_STARTED)
		return;
	if (state != NULL) {
		consumer_vq_keep_place(c, idx, state);
	} else {
		vq->base = CONSUMER_NOT_SET;
		vq->placed = false;
	}
	consumer_vq_update(c, idx);
}

int
vdpa_consumer_get_vq_place(struct vdpa_consumer *c, uint16_t idx, struct vdpa_vq_state *state)
{
	CONSUMER_LOCKED(c);
	const struct consumer_vq *vq = &c->vqs[idx];
	bool started = vq->state == CONSUMER_VQ_STARTED, runs = consumer_runs(c);
	int rc = 0;

	*state = (struct vdpa_vq_state){0};
	if (started && !runs && consumer_is_packed(c))
		return consumer_check_alive(c);
	if (started && !consumer_is_packed(c))
		return vdpa_ring_used_idx(c->iotlb, vq->device, &state->split.avail_index)
			       ? 0
			       : vdpa_error(EFAULT, "%s: queue %u: its used ring is not in memory",
					    c->vdev->name, idx);
	/* A packed ring does not say by itself: the queue stops, and goes on. */
	if (started) {
		park(c, idx);
		rc = consumer_check_alive(c);
		if (rc == 0)
			rc = resume(c, idx);
	}
	*state = consumer_vq_place(c, vq);
	return rc;
}

/* Memory. */

bool
vdpa_consumer_shares_memory(const struct vdpa_consumer *c)
{
	return c != NULL && c->vm != NULL;
}

int
vdpa_consumer_build_table(struct vdpa_consumer *c, const struct vdpa_iotlb *old,
			  const struct vdpa_mem_region_spec *specs, unsigned int n,
			  struct vdpa_iotlb **out)
{
	return vdpa_consumer_shares_memory(c) ? vdpa_vm_table_build(c->vm, old, specs, n, out)
					      : vdpa_iotlb_create(old, specs, n, out);
}

int
vdpa_consumer_grow_table(struct vdpa_consumer *c, const struct vdpa_iotlb *old,
			 const struct vdpa_mem_region_spec *spec, struct vdpa_iotlb **out)
{
	return vdpa_consumer_shares_memory(c) ? vdpa_vm_table_grow(c->vm, old, spec, out)
					      : vdpa_iotlb_add(old, spec, out);
}

/* Under the lock. */
static void
settle(struct vdpa_consumer *c)
{
	if (c->vm != NULL)
		vdpa_vm_table_settle(c->vm, c->iotlb);
}

/* Under the lock. The consumer has a table, or none; the device's is another matter. */
static void
take_table(struct vdpa_consumer *c, struct vdpa_iotlb *tlb)
{
	struct vdpa_iotlb *old = c->iotlb;

	c->iotlb = tlb != NULL ? vdpa_iotlb_get(tlb) : NULL;
	vdpa_iotlb_put(old);
}

int
vdpa_consumer_use_memory(struct vdpa_consumer *c, struct vdpa_iotlb *tlb)
{
	CONSUMER_LOCKED(c);
	bool runs = consumer_runs(c);
	int rc = 0;

	if (tlb != NULL && c->vm != NULL)
		rc = vdpa_vm_table_propose(c->vm, tlb);
	if (rc < 0)
		return rc;
	if (tlb != NULL)
		c->gave_memory = true;
	if (tlb != c->iotlb && runs)
		park_vqs(c, false, tlb);
	/* Also of one that fails as its queues stand still: it has the old table until then. */
	if (runs)
		rc = vdpa_device_set_memory(c->vdev, tlb);
	if (rc == 0)
		take_table(c, tlb);
	settle(c);
	if (rc == 0)
		consumer_resume_parked(c);
	return rc;
}

int
vdpa_consumer_drop_memory(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);
	int rc = vdpa_device_set_memory(c->vdev, NULL);

	take_table(c, NULL);
	settle(c);
	return rc;
}

int
vdpa_consumer_set_function_log(struct vdpa_consumer *c, const struct vdpa_dirty_log *log,
			       bool rings)
{
	CONSUMER_LOCKED(c);
	const struct vdpa_dirty_log *old = c->log;
	bool old_rings = c->logs_rings;
	int rc;

	c->log = log;
	c->logs_rings = rings;
	rc = consumer_update_log(c);
	/* One that is taken away is gone, whatever the device says. */
	if (rc < 0 && log != NULL) {
		c->log = old;
		c->logs_rings = old_rings;
	}
	return rc;
}

void
vdpa_consumer_give_up(struct vdpa_consumer *c, int err, const char *what)
{
	CONSUMER_LOCKED(c);

	vdpa_device_fail(c->vdev, -1, err, "%s: %s", what, vdpa_error_message());
	consumer_set_failed(c);
	if (vdpa_device_stop(c->vdev) < 0)
		VDPA_LOG_LIMITED(&c->vdev->core->log, ERR, "%s: stop: %s", c->vdev->name,
				 vdpa_error_cause(vdpa_error_message(), c->vdev->name, -1));
	(void)vdpa_device_set_memory(c->vdev, NULL);
	take_table(c, NULL);
	settle(c);
}
