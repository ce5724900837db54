/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Kicks and interrupts of a VDUSE device. The kernel signals an eventfd for a kick, which the
 * device is given itself; until a queue runs, the control loop watches it, since the first kick
 * says that the kernel's driver has mapped its memory. The device signals another eventfd, and the
 * control loop has the kernel call its driver: one ioctl, which never waits for this process.
 *
 * Owns both eventfds of each queue.
 */

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_log.h"
#include "vduse_priv.h"

/* The kernel takes interrupts once DRIVER_OK is in its books, which is a moment after it was
 * answered. */
#define RETRY_MS  5
#define RETRY_MAX 400

static void
inject(struct vduse_vq *vq)
{
	struct vduse_device *dev = vq->dev;
	uint32_t idx = vq->idx;

	if (vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_VQ_INJECT_IRQ, &idx) >= 0) {
		dev->retries = 0;
		return;
	}
	if (errno != EINVAL || dev->retries++ >= RETRY_MAX) {
		VDPA_LOG_LIMITED(&dev->log, DEBUG, "%s: queue %u: interrupt: %s", dev->vdev->name,
				 vq->idx, strerror(errno));
		return;
	}
	__atomic_store_n(&vq->owed, true, __ATOMIC_RELAXED);
	vdpa_timer_start(&dev->retry, RETRY_MS);
}

/* On the control loop. */
void
vdpa_vduse_retry(struct vdpa_timer *timer)
{
	struct vduse_device *dev = timer->arg;

	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (__atomic_exchange_n(&dev->vqs[i].owed, false, __ATOMIC_RELAXED))
			inject(&dev->vqs[i]);
}

/* On the control loop. */
static void
called(struct vdpa_event *ev, uint32_t revents)
{
	(void)vdpa_eventfd_take(ev->fd);
	inject(ev->arg);
}

/* On the control loop; once, until the job has looked. */
static void
kicked(struct vdpa_event *ev, uint32_t revents)
{
	struct vduse_vq *vq = ev->arg;

	vdpa_work_post(vdpa_get_work_queue(vq->dev->vdev), &vq->dev->kicked);
}

static int
set_kickfd(struct vduse_vq *vq, int fd)
{
	struct vduse_vq_eventfd arg = {.index = vq->idx, .fd = fd};

	return vdpa_vduse_kernel->ioctl(vq->dev->fd, VDUSE_VQ_SETUP_KICKFD, &arg) < 0
		       ? vdpa_error(errno, "%s: queue %u: kick eventfd: %m", vq->dev->vdev->name,
				    vq->idx)
		       : 0;
}

int
vdpa_vduse_vq_arm(struct vduse_vq *vq)
{
	struct vdpa_event_loop *loop = vdpa_event_loop_control();
	int rc;

	vq->kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	vq->call_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (vq->kick_fd < 0 || vq->call_fd < 0) {
		rc = vdpa_fd_error(errno, vq->dev->vdev->name);
		goto err;
	}
	vq->call_ev = (struct vdpa_event){
		.fd = vq->call_fd, .events = EPOLLIN, .handler = called, .arg = vq};
	vq->kick_ev = (struct vdpa_event){
		.fd = vq->kick_fd, .events = EPOLLIN | EPOLLONESHOT, .handler = kicked, .arg = vq};
	rc = vdpa_event_add(loop, &vq->call_ev);
	if (rc == 0)
		rc = vdpa_event_add(loop, &vq->kick_ev);
	if (rc < 0)
		rc = vdpa_error(rc, "%s: queue %u: %s", vq->dev->vdev->name, vq->idx,
				strerror(-rc));
	else
		rc = set_kickfd(vq, vq->kick_fd);
	if (rc == 0)
		return 0;
err:
	vdpa_vduse_vq_disarm(vq);
	return rc;
}

void
vdpa_vduse_vq_join(struct vduse_vq *vq)
{
	vdpa_event_del(&vq->kick_ev);
	vq->joined = true;
	/* What the loop has seen of it, or a process before this one, the device has not. */
	vdpa_eventfd_signal(vq->kick_fd);
}

void
vdpa_vduse_vq_disarm(struct vduse_vq *vq)
{
	vdpa_event_del(&vq->kick_ev);
	vdpa_event_del(&vq->call_ev);
	if (vq->kick_fd >= 0)
		close(vq->kick_fd);
	if (vq->call_fd >= 0)
		close(vq->call_fd);
	vq->kick_fd = vq->call_fd = -1;
	vq->joined = false;
	__atomic_store_n(&vq->owed, false, __ATOMIC_RELAXED);
}
