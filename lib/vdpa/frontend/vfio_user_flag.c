/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Queue interrupts of a function with flags (struct vp_kind): the device signals an eventfd of
 * ours, upon which a job sets the flag behind the queue's doorbell and then fires the queue's
 * vector.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "vdpa_args.h"
#include "vfio_user_device.h"

static void
on_queue(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_flag *flag = ev->arg;

	vdpa_work_post(flag->dev->jobs, &flag->work);
}

static void
run_queue(struct vdpa_work *work)
{
	struct vfu_flag *flag = work->arg;
	struct vfu_device *dev = flag->dev;
	eventfd_t count;
	bool rung = eventfd_read(flag->ev.fd, &count) == 0;

	vdpa_event_rearm(&flag->ev);
	/* What is left of a queue that was stopped is nobody's. */
	if (!rung || !vfu_runs(dev))
		return;
	vdpa_vfus_bells_set_flag(&dev->doorbells, flag->idx, 1);
	if (dev->irqs.msix_on)
		vdpa_vfus_irqs_fire(&dev->irqs, dev->vp.queues[flag->idx].vector);
	else
		vdpa_vp_raise_isr(&dev->vp, 1);
}

int
vdpa_vfus_flags_init(struct vfu_device *dev)
{
	uint16_t n = dev->vp.params.nvqs;
	int rc;

	if (!dev->vp.kind->flags)
		return 0;
	dev->flags = calloc(n, sizeof(*dev->flags));
	if (dev->flags == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (; dev->n_flags < n; dev->n_flags++) {
		struct vfu_flag *flag = &dev->flags[dev->n_flags];

		flag->dev = dev;
		flag->idx = dev->n_flags;
		flag->work = (struct vdpa_work){.run = run_queue, .arg = flag};
		flag->ev = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					       .events = EPOLLIN | EPOLLONESHOT,
					       .handler = on_queue,
					       .arg = flag};
		if (flag->ev.fd < 0)
			return vdpa_error(errno, "eventfd: %s", strerror(errno));
		rc = vdpa_event_add(vdpa_event_loop_control(), &flag->ev);
		if (rc < 0) {
			close(flag->ev.fd);
			return rc;
		}
	}
	return 0;
}

void
vdpa_vfus_flags_quiesce(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->n_flags; i++) {
		vdpa_event_del(&dev->flags[i].ev);
		vdpa_work_cancel(&dev->flags[i].work);
	}
}

void
vdpa_vfus_flags_fini(struct vfu_device *dev)
{
	vdpa_vfus_flags_quiesce(dev);
	for (uint16_t i = 0; i < dev->n_flags; i++)
		close(dev->flags[i].ev.fd);
	free(dev->flags);
	dev->flags = NULL;
	dev->n_flags = 0;
}

void
vdpa_vfus_flags_set_all(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->n_flags; i++)
		vdpa_vfus_bells_set_flag(&dev->doorbells, i, 1);
}
