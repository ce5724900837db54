/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The direct path, on which every queue begins: the device executes the guest's ring itself. And
 * the end of a path, of whatever kind; which one a queue takes is the session's to say.
 */

#include "clock.h"
#include "device_priv.h"
#include "figures.h"
#include "steps.h"
#include "vdpa_error.h"

const struct vdpa_path vdpa_path_direct = {.name = "direct"};

void
vdpa_step_path_drain(struct vdpa_device *vdev, int idx, unsigned int ms)
{
	struct vdpa_device_core *core = vdev->core;
	int64_t until_us = vdpa_now_us() + (int64_t)ms * 1000, left_us;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		struct vdpa_core_vq *vq = &core->vqs[i];

		if (vq->path->drain == NULL || (idx >= 0 && i != idx))
			continue;
		left_us = core->does_not_drain ? 0 : RTE_MAX(until_us - vdpa_now_us(), 0);
		if (!vq->path->drain(vq, (unsigned int)(left_us / 1000)) && ms == VDPA_DRAIN_MS)
			core->does_not_drain = true;
	}
}

void
vdpa_step_path_enable(struct vdpa_device *vdev, int idx, bool enable)
{
	for (uint16_t i = 0; i < vdev->core->nvqs; i++) {
		struct vdpa_core_vq *vq = &vdev->core->vqs[i];

		if (vq->path->enable != NULL && (idx < 0 || i == idx))
			vq->path->enable(vq, enable && vq->conf.enabled);
	}
}

void
vdpa_step_path_stop(struct vdpa_device *vdev, uint16_t idx, bool reachable)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	const struct vdpa_path *path = vq->path;
	struct vdpa_error_saved error;

	vq->placed = vq->hands_over = false;
	if (path == &vdpa_path_direct)
		return;
	/* The caller may be on its way to report something else. */
	vdpa_error_save(&error);
	/* Whoever shows it has its statistics no more. */
	pthread_mutex_lock(&vdev->core->show_lock);
	vdpa_figures_note(vq, path);
	vdpa_counts_path_ends(vq);
	vq->path = &vdpa_path_direct;
	pthread_mutex_unlock(&vdev->core->show_lock);
	vq->placed = path->stop(vq, &vq->state, reachable) == 0 && path->keeps_place;
	vq->own = VDPA_OWN_NONE;
	/* Its worker may have come to the beginning until now. */
	__atomic_store_n(&vq->at_rest, false, __ATOMIC_RELAXED);
	vdpa_error_restore(&error);
}

void
vdpa_device_set_migration(struct vdpa_device *vdev, enum vdpa_migration mode)
{
	vdev->core->migration = mode;
}

bool
vdpa_device_can_migrate(const struct vdpa_device *vdev)
{
	switch (vdev->core->migration) {
	case VDPA_MIGRATION_OFF:
		return false;
	case VDPA_MIGRATION_LOG:
		return vdev->core->can.log;
	default:
		return true;
	}
}

bool
vdpa_device_tracks_inflight(const struct vdpa_device *vdev)
{
	return vdev->core->can.inflight && vdev->core->migration != VDPA_MIGRATION_RELAY;
}

enum vdpa_survival
vdpa_device_survival(const struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;

	if (ops->can_restart == NULL || vdev->core->migration == VDPA_MIGRATION_RELAY)
		return VDPA_SURVIVAL_NONE;
	if (vdev->core->migration == VDPA_MIGRATION_SHADOW)
		return VDPA_SURVIVAL_ACCOUNTS;
	if (ops->adopt != NULL)
		return VDPA_SURVIVAL_ALONE;
	return vdev->core->can.inflight ? VDPA_SURVIVAL_ACCOUNTS : VDPA_SURVIVAL_NONE;
}

bool
vdpa_device_runs_alone(const struct vdpa_device *vdev)
{
	return vdpa_device_survival(vdev) == VDPA_SURVIVAL_ALONE;
}

bool
vdpa_device_puts_back(const struct vdpa_device *vdev)
{
	return vdev->core->migration == VDPA_MIGRATION_SHADOW;
}

int
vdpa_device_can_restart(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;

	switch (vdpa_device_survival(vdev)) {
	case VDPA_SURVIVAL_ALONE:
		return ops->can_restart(vdev);
	case VDPA_SURVIVAL_ACCOUNTS:
		/* A function that could run alone is stopped by the end of the process, so its
		 * driver keeps nothing; nothing else of it is the process'. */
		return ops->adopt != NULL ? 0 : ops->can_restart(vdev);
	default:
		break;
	}
	if (ops->can_restart == NULL)
		return vdpa_error(EOPNOTSUPP,
				  "of devices of this driver nobody keeps what they have "
				  "under way");
	if (vdev->core->migration == VDPA_MIGRATION_RELAY)
		return vdpa_error(EOPNOTSUPP,
				  "with `migration relay` its rings are executed by way of memory "
				  "that ends with the process");
	return vdpa_error(EOPNOTSUPP,
			  "devices of this driver execute their rings without an account of what "
			  "is under way; with `migration shadow` there is one");
}

int
vdpa_device_can_move(struct vdpa_device *vdev)
{
	const char *tie = vdev->config->get_tie != NULL ? vdev->config->get_tie(vdev) : NULL;

	return tie != NULL ? vdpa_error(EOPNOTSUPP, "%s", tie) : 0;
}

const char *
vdpa_device_vq_path(struct vdpa_device *vdev, uint16_t idx, struct vdpa_stat *stats,
		    unsigned int *n)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];
	const char *name;

	pthread_mutex_lock(&vdev->core->show_lock);
	name = vq->path->name;
	*n = vq->path->get_stats != NULL ? vq->path->get_stats(vq, stats, *n) : 0;
	pthread_mutex_unlock(&vdev->core->show_lock);
	return name;
}
