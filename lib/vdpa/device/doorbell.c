/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Whom a device serves once a doorbell page of it was given away, and who is given one: decided
 * here for every front end, by the account of the device's DMA domain (page_holders.h). And the job
 * that says to the front end which doorbells come and go while their queues run.
 */

#include <errno.h>

#include "device_priv.h"
#include "page_holders.h"

void
vdpa_device_set_doorbells(struct vdpa_device *vdev, enum vdpa_doorbells rule)
{
	vdev->core->doorbells = rule;
}

int
vdpa_device_admit(struct vdpa_device *vdev, const struct vdpa_peer *peer)
{
	struct vdpa_peer self;

	if (vdev->dma == NULL)
		return 0;
	if (peer == NULL) {
		vdpa_peer_self(&self);
		peer = &self;
	}
	return vdpa_page_holders_admit(vdpa_dma_page_holders(vdev->dma), vdev->name, peer,
				       vdev->core->doorbells == VDPA_DOORBELLS_ONCE);
}

int
vdpa_device_give_page(struct vdpa_device *vdev, const struct vdpa_notification_area *area,
		      const struct vdpa_peer *peer, const struct vdpa_peer *to)
{
	bool once = vdev->core->doorbells == VDPA_DOORBELLS_ONCE;

	if (vdev->core->doorbells == VDPA_DOORBELLS_NONE)
		return vdpa_error(EACCES, "%s: no_doorbells", vdev->name);
	if (!area->whole_device)
		return 0;
	if (vdev->dma == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: no account is kept of who has the device's file",
				  vdev->name);
	/* It would not be known again. */
	if (once ? !vdpa_peer_same_process(peer, peer) : !vdpa_peer_same_user(peer, peer))
		return vdpa_error(EACCES, "%s: the %s of the front end is not known", vdev->name,
				  once ? "process" : "user");
	if (once ? !vdpa_peer_same_process(peer, to) : !vdpa_peer_same_user(peer, to))
		return vdpa_error(EACCES,
				  "%s: the page would go to another %s (uid %u, pid %d) than the "
				  "one connected (uid %u, pid %d)",
				  vdev->name, once ? "process" : "user", (unsigned int)to->uid,
				  (int)to->pid, (unsigned int)peer->uid, (int)peer->pid);
	return vdpa_page_holders_add(vdpa_dma_page_holders(vdev->dma), vdev->name, peer, once);
}

/* A job of the device's. Without a front end yet, no doorbell was given. */
static void
report_changes(struct vdpa_work *work)
{
	struct vdpa_device *vdev = work->arg;
	const struct vdpa_frontend *fe = __atomic_load_n(&vdev->core->fe, __ATOMIC_ACQUIRE);

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		if (__atomic_exchange_n(&vdev->core->vqs[i].doorbell_changed, false,
					__ATOMIC_ACQ_REL) &&
		    fe != NULL && fe->ops->doorbell_changed != NULL)
			fe->ops->doorbell_changed(vdev, i);
}

void
vdpa_doorbell_init(struct vdpa_device *vdev)
{
	vdev->core->doorbell_work = (struct vdpa_work){.run = report_changes, .arg = vdev};
}

void
vdpa_device_doorbell_changed(struct vdpa_device *vdev, uint16_t qidx)
{
	__atomic_store_n(&vdev->core->vqs[qidx].doorbell_changed, true, __ATOMIC_RELEASE);
	vdpa_work_post(&vdev->core->work, &vdev->core->doorbell_work);
}

const char *
vdpa_doorbells_name(enum vdpa_doorbells rule)
{
	static const char *const names[] = {
		[VDPA_DOORBELLS_UID] = "uid",
		[VDPA_DOORBELLS_ONCE] = "once",
		[VDPA_DOORBELLS_NONE] = "none",
	};

	return names[rule];
}
