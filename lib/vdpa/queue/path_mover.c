/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A path by a mover, whatever its kind: the memory of the device's rings, the mover's worker, what
 * it does to the device, and the ops of the path that are the mover's calls.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/virtio_ids.h>

#include "counts.h"
#include "device_priv.h"
#include "figures.h"
#include "op.h"
#include "path_kick.h"
#include "path_mover.h"
#include "vdpa_worker.h"

/* The memory of so many queues is mapped ahead at most. */
#define MEMORY_AHEAD 16u

uint16_t
vdpa_path_mover_idx(const struct vdpa_core_vq *vq)
{
	return (uint16_t)(vq - vq->vdev->core->vqs);
}

/* On the worker. */
static void
kick(void *arg)
{
	struct vdpa_core_vq *vq = arg;
	const struct vdpa_mover_path *path = vq->path_data;

	vdpa_path_kick(vq, path->kick_fd);
}

static void
failed(void *arg, int err, const char *why)
{
	struct vdpa_core_vq *vq = arg;

	vdpa_device_fail(vq->vdev, vdpa_path_mover_idx(vq), err, "%s", why);
}

static void
at_beginning(void *arg)
{
	struct vdpa_core_vq *vq = arg;
	struct vdpa_device_core *core = vq->vdev->core;

	__atomic_store_n(&vq->at_rest, true, __ATOMIC_RELEASE);
	vdpa_work_post(&core->work, &core->path_work);
}

static const struct vdpa_mover_ops mover_ops = {
	.kick = kick, .failed = failed, .at_beginning = at_beginning};

static void
free_parts(struct vdpa_device *vdev, struct vdpa_mover_path *path, bool reachable)
{
	vdpa_mover_free(path->mover);
	if (path->worker != NULL)
		vdpa_worker_put(path->worker);
	vdpa_own_free(vdev, path->memory, reachable);
	if (path->kick_fd >= 0)
		close(path->kick_fd);
	free(path);
}

/* To queues that come one by one: what as many need as there are on movers, which are fewer maps.
 */
static size_t
for_others(const struct vdpa_device *vdev, size_t size)
{
	size_t n = 0;

	for (uint16_t i = 0; i < vdev->core->nvqs; i++)
		n += vdev->core->vqs[i].path_data != NULL;
	return RTE_MIN(n, MEMORY_AHEAD) * size;
}

struct vdpa_mover_path *
vdpa_path_mover_begin(struct vdpa_core_vq *vq, size_t size, const struct vdpa_vq_config *guest,
		      struct vdpa_vq_config *dev, struct vdpa_mover_params *params, int *rc)
{
	struct vdpa_device *vdev = vq->vdev;
	struct vdpa_mover_path *path = calloc(1, sizeof(*path));

	if (path == NULL) {
		*rc = vdpa_error(ENOMEM, "out of memory");
		return NULL;
	}
	path->kick_fd = -1;
	path->memory = vdpa_own_alloc(vdev, size, for_others(vdev, size));
	*rc = path->memory == NULL ? -errno : vdpa_path_kick_open(vdev, &path->kick_fd, dev);
	if (*rc < 0)
		goto err;
	path->worker = vdpa_worker_get(NULL);
	if (path->worker == NULL) {
		*rc = -ENOMEM;
		goto err;
	}
	*params = (struct vdpa_mover_params){
		.loop = vdpa_worker_loop(path->worker),
		.guest = {.features = vdev->core->guest_features,
			  .num = guest->num,
			  .desc = guest->desc,
			  .driver = guest->driver,
			  .device = guest->device,
			  .state = guest->state,
			  .inflight = guest->inflight},
		.tlb = vdev->core->iotlb,
		.kick_fd = guest->kick_fd,
		.call_fd = guest->call_fd,
		.lengths_tell = vdev->config->get_device_id(vdev) == VIRTIO_ID_NET,
		.ops = &mover_ops,
		.arg = vq,
	};
	return path;

err:
	free_parts(vdev, path, false);
	return NULL;
}

void
vdpa_path_mover_enter(struct vdpa_core_vq *vq, struct vdpa_mover_path *path,
		      const struct vdpa_vq_config *guest, struct vdpa_vq_config *dev)
{
	dev->call_fd = vdpa_mover_call_fd(path->mover);
	vdpa_mover_pause(path->mover, !guest->enabled);
	/* Whoever shows the queue finds a path or none. */
	pthread_mutex_lock(&vq->vdev->core->show_lock);
	vq->path_data = path;
	pthread_mutex_unlock(&vq->vdev->core->show_lock);
}

void
vdpa_path_mover_give_up(struct vdpa_core_vq *vq, struct vdpa_mover_path *path,
			const struct vdpa_path *kind, bool reachable)
{
	struct vdpa_mover_stats counted = {0};

	if (kind != NULL)
		vdpa_mover_stats(path->mover, &counted);
	pthread_mutex_lock(&vq->vdev->core->show_lock);
	if (kind != NULL) {
		vdpa_figures_note(vq, kind);
		vdpa_counts_path_ended(vq, (struct vdpa_signals){.kicks = counted.kicked,
								 .interrupts = counted.calls});
	}
	vq->path_data = NULL;
	pthread_mutex_unlock(&vq->vdev->core->show_lock);
	free_parts(vq->vdev, path, reachable);
}

static struct vdpa_mover *
mover_of(const struct vdpa_core_vq *vq)
{
	return ((struct vdpa_mover_path *)vq->path_data)->mover;
}

int
vdpa_path_mover_run(struct vdpa_core_vq *vq)
{
	((struct vdpa_mover_path *)vq->path_data)->runs = true;
	return VDPA_OP(vq->vdev, vdpa_path_mover_idx(vq), vq->path->name,
		       vdpa_mover_run(mover_of(vq)));
}

void
vdpa_path_mover_enable(struct vdpa_core_vq *vq, bool enabled)
{
	vdpa_mover_pause(mover_of(vq), !enabled);
}

int
vdpa_path_mover_set_kick(struct vdpa_core_vq *vq, int fd)
{
	return VDPA_OP(vq->vdev, vdpa_path_mover_idx(vq), "kick",
		       vdpa_mover_set_kick(mover_of(vq), fd));
}

int
vdpa_path_mover_set_call(struct vdpa_core_vq *vq, int fd)
{
	vdpa_mover_set_call(mover_of(vq), fd);
	return 0;
}

int
vdpa_path_mover_set_memory(struct vdpa_core_vq *vq, struct vdpa_iotlb *tlb)
{
	return vdpa_mover_set_iotlb(mover_of(vq), tlb);
}

void
vdpa_path_mover_set_log(struct vdpa_core_vq *vq, const struct vdpa_dirty_log *log,
			uint64_t used_iova)
{
	vdpa_mover_set_log(mover_of(vq), log, used_iova);
}

unsigned int
vdpa_path_mover_get_stats(const struct vdpa_core_vq *vq, struct vdpa_stat *stats, unsigned int n)
{
	struct vdpa_mover_stats s;

	if (vq->path_data == NULL)
		return 0;
	vdpa_mover_stats(mover_of(vq), &s);
	const struct vdpa_stat all[] = {
		{"forwarded", s.forwarded}, {"completed", s.completed},
		{"kicks", s.kicks},	    {VDPA_PATH_STAT_GUEST_KICKS, s.kicked},
		{"busy_cycles", s.busy},    {VDPA_PATH_STAT_CALLS, s.calls},
		{"full", s.full},	    {"in_flight", s.in_flight},
		{"leaving_to_go", s.to_go},
	};
	/* The last one only while there is somewhere to go. */
	n = RTE_MIN(n, (unsigned int)RTE_DIM(all) - !s.leaving);
	memcpy(stats, all, n * sizeof(all[0]));
	return n;
}
