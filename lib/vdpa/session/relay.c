/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Kicks by software: the relay from a kick eventfd to the device. Owns the relays.
 *
 * An eventfd carries no notification data (VIRTIO_F_NOTIFICATION_DATA; virtio 1.2, 2.9), so no
 * front end offers that feature. A consumer inside the process that negotiates it writes the
 * doorbells itself, and only a device that waits for kick eventfds itself takes one then.
 */

#include <errno.h>
#include <sys/epoll.h>

#include "counter.h"
#include "op.h"
#include "session_priv.h"
#include "virtio_compat.h"

static bool
needs_data(const struct vdpa_device *vdev)
{
	return (vdev->core->features & RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA)) != 0 &&
	       vdev->config->set_vq_kick == NULL;
}

void
vdpa_session_kick(struct vdpa_device *vdev, uint16_t idx)
{
	if (!needs_data(vdev))
		vdev->config->kick_vq(vdev, idx);
}

void
vdpa_device_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
	const struct vdpa_core_vq *vq;

	vdpa_device_lock(vdev);
	if (vdpa_device_started(vdev) && idx < vdev->core->nvqs) {
		vq = &vdev->core->vqs[idx];
		if (vq->conf.num != 0 && vq->conf.kick_fd >= 0)
			vdpa_eventfd_signal(vq->conf.kick_fd);
		else if (vq->ready && vq->path == &vdpa_path_direct)
			vdpa_session_kick(vdev, idx);
	}
	vdpa_device_unlock(vdev);
}

/* The fallback for doorbells that cannot be given away: one read, one op call for a kick. */
static void
relay_kick(struct vdpa_event *ev, uint32_t revents)
{
	struct vdpa_core_vq *vq = ev->arg;
	struct vdpa_device *vdev = vq->vdev;
	uint16_t idx = (uint16_t)(vq - vdev->core->vqs);

	if (!vdpa_eventfd_take(ev->fd)) {
		/* Not an eventfd after all: it would wake us for ever. Deleted last, nobody waits
		 * for this call from then on. */
		vdpa_device_fail(vdev, idx, errno, "the kick file descriptor cannot be read");
		vdpa_event_del(ev);
		return;
	}
	vdpa_counter_add(&vq->counts.relayed, 1);
	vdev->config->kick_vq(vdev, idx);
}

int
vdpa_session_attach_kick(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	if (vdev->config->set_vq_kick != NULL)
		return VDPA_OP(vdev, idx, "set_vq_kick", vdev->config->set_vq_kick(vdev, idx, fd));
	vdpa_event_del(&vq->relay);
	if (fd < 0)
		return 0;
	if (needs_data(vdev))
		return vdpa_error(EOPNOTSUPP,
				  "%s: queue %u: kicks carry data, which an eventfd cannot",
				  vdev->name, idx);
	vq->relay =
		(struct vdpa_event){.fd = fd, .events = EPOLLIN, .handler = relay_kick, .arg = vq};
	return VDPA_OP(vdev, idx, "kick relay",
		       vdpa_event_add(vdpa_event_loop_control(), &vq->relay));
}
