/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Queue interrupts of a function with flags (struct vp_kind): the device signals an eventfd of
 * ours, which sets the flag behind the queue's doorbell and then fires the queue's vector. On the
 * server's loop.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "model_device.h"
#include "vdpa_args.h"

static void
on_queue(struct vdpa_event *ev, uint32_t revents)
{
	struct model_flag *flag = ev->arg;
	struct model_device *md = flag->md;
	eventfd_t count;

	/* What is left of a queue that was stopped is nobody's. */
	if (eventfd_read(ev->fd, &count) < 0 || !md->running)
		return;
	doorbells_set_flag(&md->doorbells, flag->idx, 1);
	if (md->irqs.msix_on)
		model_interrupts_fire(&md->irqs, md->vp.queues[flag->idx].vector);
	else
		vp_raise_isr(&md->vp, 1);
}

int
model_flags_init(struct model_device *md)
{
	uint16_t n = md->vp.params.nvqs;
	int rc;

	if (!md->vp.kind->flags)
		return 0;
	md->flags = calloc(n, sizeof(*md->flags));
	if (md->flags == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (; md->n_flags < n; md->n_flags++) {
		struct model_flag *flag = &md->flags[md->n_flags];

		flag->md = md;
		flag->idx = md->n_flags;
		flag->ev = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
					       .events = EPOLLIN,
					       .handler = on_queue,
					       .arg = flag};
		if (flag->ev.fd < 0)
			return vdpa_error(errno, "eventfd: %s", strerror(errno));
		rc = vdpa_event_add(md->loop, &flag->ev);
		if (rc < 0) {
			close(flag->ev.fd);
			return rc;
		}
	}
	return 0;
}

void
model_flags_fini(struct model_device *md)
{
	for (uint16_t i = 0; i < md->n_flags; i++) {
		vdpa_event_del(&md->flags[i].ev);
		close(md->flags[i].ev.fd);
	}
	free(md->flags);
	md->flags = NULL;
	md->n_flags = 0;
}

void
model_flags_write(struct model_device *md, uint16_t idx, uint32_t value, bool stuck)
{
	doorbells_set_flag(&md->doorbells, idx, stuck ? 1 : value);
}

void
model_flags_set_all(struct model_device *md)
{
	for (uint16_t i = 0; i < md->n_flags; i++)
		doorbells_set_flag(&md->doorbells, i, 1);
}
