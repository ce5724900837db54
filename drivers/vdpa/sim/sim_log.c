/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log of a simulated device: its virtqueues mark each page as they write it. A device
 * that is broken on purpose (sim_fault.c) marks less, more, or where nobody looks any longer.
 */

#include "sim_priv.h"

/* The addresses in force, or none. */
static uint64_t
used_iova(const struct sim_work *w, uint16_t idx)
{
	return w->used_iova != NULL ? w->used_iova[idx] : UINT64_MAX;
}

/* The log as a virtqueue gets it: what a broken device makes of it. */
static const struct vdpa_dirty_log *
log_in_use(struct sim_device *dev, const struct sim_work *w)
{
	uint64_t top = 0;

	if (w->log == NULL)
		return sim_has_fault(dev, SIM_FAULT_LOG_GOES_ON) ? dev->log : NULL;
	if (dev->log != NULL && dev->log != w->log &&
	    sim_has_fault(dev, SIM_FAULT_LOG_NOT_REPLACED))
		return NULL;
	if (sim_has_fault(dev, SIM_FAULT_LOG_BEYOND))
		vdpa_dirty_log_mark(w->log, (w->log->size * 8 - 1) << VDPA_DIRTY_PAGE_SHIFT, 1);
	if (!sim_has_fault(dev, SIM_FAULT_LOG_MISSES_BUFFERS))
		return w->log;
	/* Rings lie below the buffers, at least where test-vdpa drives the device. */
	for (uint16_t i = 0; i < dev->nvqs; i++)
		if (used_iova(w, i) != UINT64_MAX)
			top = RTE_MAX(top, used_iova(w, i));
	dev->cut_log = *w->log;
	dev->cut_log.size = RTE_MIN(w->log->size, (top >> VDPA_DIRTY_PAGE_SHIFT) / 8 + 1);
	return &dev->cut_log;
}

static int
work_log(void *arg)
{
	struct sim_work *w = arg;
	struct sim_device *dev = w->dev;
	const struct vdpa_dirty_log *log = log_in_use(dev, w);

	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct sim_queue *q = &dev->vqs[i];

		if (w->log == NULL && log != NULL)
			continue;
		q->log_used_iova = sim_has_fault(dev, SIM_FAULT_LOG_MISSES_RINGS) ? UINT64_MAX
										  : used_iova(w, i);
		vdpa_vq_set_log(q->vq, log, q->log_used_iova);
	}
	dev->log = log;
	return 0;
}

int
sim_log_start(struct vdpa_device *vdev, const struct vdpa_dirty_log *log, const uint64_t *used)
{
	return sim_on_worker(
		work_log, (struct sim_work){.dev = sim_dev(vdev), .log = log, .used_iova = used});
}

int
sim_log_stop(struct vdpa_device *vdev)
{
	return sim_on_worker(work_log, (struct sim_work){.dev = sim_dev(vdev)});
}
