/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A simulated device comes and goes: its words, its memory, its class and its worker. What happens
 * in between is in sim_ops.c.
 */

#include <stdlib.h>
#include <string.h>

#include "sim_priv.h"

/* The words of SIM_PARAMS. */
static int
take_words(struct sim_device *dev, const struct vdpa_args *args)
{
	uint64_t size = vdpa_args_u64(args, "queue_size", SIM_VQ_NUM_DFLT);
	const struct vdpa_arg *mask = vdpa_args_find(args, "device_features");

	if ((size & (size - 1)) != 0)
		return vdpa_error(EINVAL, "queue_size %" PRIu64 ": must be a power of two", size);
	dev->vq_num_max = (uint16_t)size;
	dev->fault = sim_fault_of(args);
	if (mask == NULL)
		return 0;
	if ((mask->u64 & ~dev->device_features) != 0)
		return vdpa_error(EINVAL,
				  "device_features 0x%" PRIx64 ": the device has 0x%" PRIx64,
				  mask->u64, dev->device_features);
	dev->device_features = mask->u64 | SIM_BIT(SIM_F_VERSION_1);
	return 0;
}

static int
alloc_queues(struct sim_device *dev)
{
	size_t size = (size_t)dev->nvqs * sizeof(dev->vqs[0]);

	dev->vqs = aligned_alloc(RTE_CACHE_LINE_SIZE, size);
	if (dev->vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memset(dev->vqs, 0, size);
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct sim_queue *q = &dev->vqs[i];

		q->dev = dev;
		q->lane = &dev->lanes[0];
		q->idx = i;
		q->call_fd = -1;
		q->log_used_iova = UINT64_MAX;
		q->vq = vdpa_vq_alloc(-1);
		if (q->vq == NULL)
			return vdpa_error(ENOMEM, "out of memory");
	}
	return 0;
}

/* The lanes, with their workers: `worker` for the only one, or whichever are next in turn. */
static int
alloc_lanes(struct sim_device *dev, struct vdpa_worker *worker)
{
	struct vdpa_worker *workers[SIM_LANES_MAX] = {worker};
	size_t size = dev->n_lanes * sizeof(dev->lanes[0]);
	int rc = worker == NULL ? vdpa_worker_get_all(workers, dev->n_lanes) : 0;

	if (rc < 0)
		return rc;
	dev->lanes = aligned_alloc(RTE_CACHE_LINE_SIZE, size);
	if (dev->lanes == NULL) {
		for (uint16_t i = 0; i < dev->n_lanes; i++)
			vdpa_worker_put(workers[i]);
		return vdpa_error(ENOMEM, "out of memory");
	}
	memset(dev->lanes, 0, size);
	for (uint16_t i = 0; i < dev->n_lanes; i++) {
		dev->lanes[i].worker = workers[i];
		sim_lane_init(dev, &dev->lanes[i]);
	}
	for (uint16_t i = 0; i < dev->n_lanes; i++) {
		dev->lanes[i].list = calloc(dev->nvqs, sizeof(dev->lanes[i].list[0]));
		if (dev->lanes[i].list == NULL)
			return vdpa_error(ENOMEM, "out of memory");
	}
	return 0;
}

int
sim_device_create(const struct sim_class *class, struct vdpa_mgmt_dev *mdev, const char *name,
		  const struct vdpa_args *args, struct sim_device **out)
{
	struct vdpa_config_ops ops = sim_ops;
	struct vdpa_worker *worker = NULL;
	struct sim_device *dev;
	int rc;

	if (vdpa_args_has(args, "no_log")) {
		ops.log_start = NULL;
		ops.log_stop = NULL;
	}
	dev = vdpa_alloc_device(struct sim_device, vdev, name, &ops);
	if (dev == NULL)
		return -errno;
	dev->vdev.mdev = mdev;
	dev->config_fd = -1;
	dev->drain_timeout_ms = SIM_DRAIN_TIMEOUT_MS;
	rte_spinlock_init(&dev->config_lock);
	dev->n_lanes = 1;
	rc = class->init(dev, args, &worker);
	if (rc < 0)
		goto err;
	dev->class = class;
	rc = alloc_lanes(dev, worker);
	if (rc == 0)
		rc = take_words(dev, args);
	if (rc == 0)
		rc = alloc_queues(dev);
	if (rc < 0)
		goto err;
	if (class->setup != NULL) {
		rc = class->setup(dev);
		if (rc < 0)
			goto err;
	}
	dev->set_up = true;
	*out = dev;
	return 0;

err:
	vdpa_put_device(&dev->vdev);
	return rc;
}

void
sim_free(struct vdpa_device *vdev)
{
	struct sim_device *dev = sim_dev(vdev);
	bool set_up = dev->set_up;
	bool stuck = set_up && sim_outstanding(dev, NULL) > 0;

	/* First, so that nobody who is being set up joins what is being taken down. */
	dev->set_up = false;
	/* In the loop still while requests that never end are under way. */
	for (uint16_t i = 0; dev->lanes != NULL && i < dev->n_lanes; i++)
		vdpa_poller_del(&dev->lanes[i].poller);
	if (set_up && dev->class->teardown != NULL)
		dev->class->teardown(dev);
	for (uint16_t i = 0; dev->lanes != NULL && i < dev->n_lanes; i++)
		vdpa_task_cancel(&dev->lanes[i].kick_task);
	for (uint16_t i = 0; dev->vqs != NULL && i < dev->nvqs; i++)
		vdpa_vq_free(dev->vqs[i].vq);
	free(dev->vqs);
	/* Memory that somebody may still write to is never unmapped. */
	if (!stuck)
		vdpa_iotlb_put(dev->tlb);
	/* The worker last: until fini() a device of the class may ask to share it. */
	if (dev->class != NULL)
		dev->class->fini(dev);
	for (uint16_t i = 0; dev->lanes != NULL && i < dev->n_lanes; i++) {
		free(dev->lanes[i].list);
		vdpa_worker_put(dev->lanes[i].worker);
	}
	free(dev->lanes);
}
