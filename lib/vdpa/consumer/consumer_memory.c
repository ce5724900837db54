/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The memory table of a connection: how it changes, what of a device that runs stops for it, and
 * which changes are refused.
 */

#include <errno.h>
#include <string.h>

#include "consumer_priv.h"
#include "session_priv.h"

/* A ring that runs stays where it is: one whose addresses lead elsewhere is stopped. One that is no
 * longer in memory at all the core finds. */
static void
stop_moved_vqs(struct vdpa_consumer *c, const struct vdpa_iotlb *tlb)
{
	for (uint16_t i = 0; i < c->nvqs; i++) {
		const struct consumer_vq *vq = &c->vqs[i];
		struct consumer_vq moved = *vq;

		if (vq->state != CONSUMER_VQ_STARTED)
			continue;
		if (consumer_vq_translate(c, tlb, &moved) == 0) {
			if (moved.desc == vq->desc && moved.driver == vq->driver &&
			    moved.device == vq->device)
				continue;
			vdpa_error(EFAULT, "a change of memory moves its rings");
		}
		vdpa_device_lose_vq(c->vdev, i);
	}
}

/* Queues that a change of memory has stopped: the front end hears of each, and may set it up anew.
 */
static void
refuse_lost_vqs(struct vdpa_consumer *c)
{
	for (uint16_t i = 0; i < c->nvqs; i++) {
		if (c->vqs[i].state != CONSUMER_VQ_STARTED || !vdpa_device_vq_is_lost(c->vdev, i))
			continue;
		consumer_vq_stop_lost(c, i);
		consumer_vq_signal_error(c, i);
	}
}

static bool
is_same(const struct vdpa_iotlb *a, const struct vdpa_iotlb *b)
{
	return a->n == b->n && memcmp(a->regions, b->regions, a->n * sizeof(a->regions[0])) == 0;
}

/*
 * Whether a device that stands still keeps its table and the front end is refused another: that one
 * is at fault, and the one in force is not. One that has none in force has nothing to keep.
 */
static bool
is_refusal(const struct vdpa_consumer *c, int rc)
{
	return c->in_force && (rc == -EINVAL || rc == -EBUSY || rc == -ENOSPC);
}

/*
 * Under the lock. Go over to tlb, which is taken over. A device that stands still has it at once
 * too, so that what the front end takes back is given back. What is then at fault is refused; what
 * fails otherwise, or is not admitted to the device, is reported by the start, which tries again.
 */
static int
replace_memory(struct vdpa_consumer *c, struct vdpa_iotlb *tlb)
{
	int rc;

	/* The same again, as at every start of QEMU's and of rte_vhost's front end. */
	if (c->iotlb != NULL && is_same(tlb, c->iotlb)) {
		vdpa_iotlb_put(tlb);
		return 0;
	}
	c->gave_memory = true;
	if (consumer_runs(c)) {
		/* A queue that has stopped does not come back when the rest fails. */
		rc = c->logging ? consumer_check_log(c, c->log, tlb) : 0;
		if (rc == 0)
			rc = vdpa_device_check_memory(c->vdev, tlb);
		if (rc < 0) {
			vdpa_iotlb_put(tlb);
			return rc;
		}
		stop_moved_vqs(c, tlb);
		rc = vdpa_device_set_memory(c->vdev, tlb);
		refuse_lost_vqs(c);
		if (rc < 0) {
			vdpa_iotlb_put(tlb);
			return rc;
		}
	} else {
		rc = vdpa_device_admit(c->vdev, &c->peer);
		if (rc == 0)
			rc = vdpa_device_set_memory(c->vdev, tlb);
		if (is_refusal(c, rc)) {
			vdpa_iotlb_put(tlb);
			return rc;
		}
		if (rc < 0)
			(void)vdpa_device_set_memory(c->vdev, NULL);
		c->in_force = rc == 0;
	}
	vdpa_iotlb_put(c->iotlb);
	c->iotlb = tlb;
	return 0;
}

/* Under the lock. replace_memory(), and what the other devices of the VM are held to from now on.
 */
static int
change_memory(struct vdpa_consumer *c, struct vdpa_iotlb *tlb)
{
	int rc = replace_memory(c, tlb);

	if (c->vm != NULL)
		vdpa_vm_table_settle(c->vm, c->iotlb);
	return rc;
}

int
vdpa_consumer_set_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *specs,
			 unsigned int n)
{
	CONSUMER_LOCKED(c);
	struct vdpa_iotlb *tlb;
	int rc = c->vm != NULL ? vdpa_vm_table_create(c->vm, c->iotlb, specs, n, &tlb)
			       : vdpa_iotlb_create(c->iotlb, specs, n, &tlb);

	return rc < 0 ? rc : change_memory(c, tlb);
}

int
vdpa_consumer_add_memory(struct vdpa_consumer *c, const struct vdpa_mem_region_spec *spec)
{
	CONSUMER_LOCKED(c);
	struct vdpa_iotlb *tlb;
	int rc = c->vm != NULL ? vdpa_vm_table_add(c->vm, c->iotlb, spec, &tlb)
			       : vdpa_iotlb_add(c->iotlb, spec, &tlb);

	if (rc < 0)
		return rc;
	/* Not before it is known that it is another one: front ends repeat a region. */
	if (tlb->n > c->max_regions) {
		vdpa_iotlb_put(tlb);
		if (c->vm != NULL)
			vdpa_vm_table_settle(c->vm, c->iotlb);
		return vdpa_error(E2BIG, "there are %u memory regions already", c->max_regions);
	}
	return change_memory(c, tlb);
}

void
vdpa_consumer_limit_memory(struct vdpa_consumer *c, unsigned int n)
{
	CONSUMER_LOCKED(c);

	c->max_regions = n;
}

int
vdpa_consumer_remove_memory(struct vdpa_consumer *c, uint64_t iova, uint64_t uaddr, uint64_t size)
{
	CONSUMER_LOCKED(c);
	struct vdpa_iotlb *tlb;
	int rc = vdpa_iotlb_remove(c->iotlb, iova, uaddr, size, &tlb);

	return rc < 0 ? rc : change_memory(c, tlb);
}

unsigned int
vdpa_consumer_count_memory(struct vdpa_consumer *c)
{
	CONSUMER_LOCKED(c);

	return c->iotlb != NULL ? c->iotlb->n : 0;
}
