/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The steps of a device's set-up and the rules of virtio 1.2 (2.1, 3.1) about their order. Every
 * step that reaches a driver's op passes here, whether a front end takes it by itself (calls.c)
 * or as a part of a start (session.c); those of a queue are in queue_steps.c. With the
 * device's lock held.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include <linux/virtio_config.h>

#include "device_dma.h"
#include "device_priv.h"
#include "op.h"
#include "steps.h"
#include "vdpa_log.h"

#define STATUS_DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

int
vdpa_step_check_alive(struct vdpa_device *vdev)
{
	switch (vdev->core->state) {
	case VDPA_STATE_ALLOCATED:
	case VDPA_STATE_REMOVED:
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	case VDPA_STATE_FAILED:
		return vdpa_error(EIO, "%s: has failed and must be reset first", vdev->name);
	default:
		return 0;
	}
}

/*
 * The end of a binding, or of a reset that failed (rc: what it returned): all memory leaves the
 * device's reach. Where it cannot yet, the device is FAILED, and the next reset tries again.
 */
int
vdpa_step_end_memory(struct vdpa_device *vdev, int rc)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_device_core *core = vdev->core;

	vdpa_own_abandon_change(vdev);
	/* A driver that maps by itself can do so only once the device has reset. */
	if (rc == 0 && core->iotlb != NULL && vdev->dma == NULL)
		rc = ops->set_map != NULL
			     ? VDPA_OP(vdev, -1, "set_map", ops->set_map(vdev, 0, NULL))
			     : vdpa_dma_change(vdev, NULL);
	rc = vdpa_dma_end(vdev, rc);
	if (rc == 0 && ops->release_dma != NULL)
		ops->release_dma(vdev);
	core->memory_ends = rc < 0;
	for (uint16_t i = 0; i < core->nvqs; i++) {
		free(core->vqs[i].held);
		core->vqs[i].held = NULL;
		core->vqs[i].guessed = false;
	}
	if (rc == 0)
		vdpa_own_settle(vdev);
	if (rc < 0)
		vdpa_device_set_state(vdev, VDPA_STATE_FAILED);
	return rc;
}

int
vdpa_step_quiesce(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_iotlb *tlb;
	int64_t begun_us;
	int rc, reset;
	bool gone;

	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);

	for (uint16_t i = 0; i < core->nvqs; i++)
		vdpa_event_del(&core->vqs[i].relay);
	core->is_left = false;
	begun_us = vdpa_now_us();
	rc = VDPA_OP(vdev, -1, "the device does not reset", vdev->config->reset(vdev));
	vdpa_phase_end(vdev, VDPA_PHASE_RESET, begun_us);
	reset = rc;
	vdpa_step_log_reset(vdev, reset);
	for (uint16_t i = 0; i < core->nvqs; i++) {
		vdpa_step_path_stop(vdev, i, true);
		core->vqs[i].ready = core->vqs[i].was_reset = core->vqs[i].halted = false;
		core->vqs[i].lost = false;
		core->vqs[i].conf = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
	}
	/* Rings of ours are given up all at once. */
	if (reset == 0)
		vdpa_own_settle(vdev);
	__atomic_store_n(&core->status, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&core->features, 0, __ATOMIC_RELAXED);
	core->features_set = false;
	__atomic_store_n(&core->guest_features, 0, __ATOMIC_RELAXED);
	tlb = vdpa_iotlb_get(core->iotlb);
	gone = vdpa_device_is_gone(vdev);
	if (rc < 0 || gone || core->memory_ends)
		rc = vdpa_step_end_memory(vdev, rc);
	vdpa_step_log_end(vdev, reset, tlb);
	vdpa_iotlb_put(tlb);
	if (rc == 0)
		rc = vdpa_dma_set_runs(vdev, false);
	if (rc == 0 && gone)
		rc = vdpa_error(ENODEV, "%s: the device is gone", vdev->name);
	if (rc < 0)
		vdpa_device_set_state(vdev, VDPA_STATE_FAILED);
	return rc;
}

int
vdpa_step_reset(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	int rc = vdpa_step_quiesce(vdev);

	if (rc < 0)
		return rc;
	pthread_mutex_lock(&core->fail_lock);
	core->fail_state = VDPA_FAIL_NONE;
	core->failure[0] = '\0';
	pthread_mutex_unlock(&core->fail_lock);
	vdpa_device_set_state(vdev, VDPA_STATE_IDLE);
	return 0;
}

bool
vdpa_device_is_left(struct vdpa_device *vdev)
{
	bool is_left;

	vdpa_device_lock(vdev);
	is_left = vdev->core->is_left;
	vdpa_device_unlock(vdev);
	return is_left;
}

void
vdpa_device_drop_left(struct vdpa_device *vdev)
{
	vdpa_device_lock(vdev);
	if (vdev->core->is_left && vdpa_step_reset(vdev) < 0)
		VDPA_LOG(ERR, "%s", vdpa_error_message());
	vdpa_device_unlock(vdev);
}

/* With the lock: whether all queues that are set up are on shadows that fill the front end's
 * inflight area: then a device that could run alone goes on by that. */
static bool
has_account(const struct vdpa_device_core *core)
{
	unsigned int n = 0;

	for (uint16_t i = 0; i < core->nvqs; i++) {
		const struct vdpa_core_vq *vq = &core->vqs[i];

		if (vq->path->keeps_account && vq->conf.inflight.addr != NULL)
			n++;
		else if (vq->conf.num != 0 || vq->path != &vdpa_path_direct)
			return false;
	}
	return n > 0;
}

/* With the lock: what of a device that runs alone ends with the process all the same. */
static const char *
find_tie(const struct vdpa_device *vdev)
{
	const struct vdpa_device_core *core = vdev->core;

	if (core->dirty.on)
		return "its memory is logged, which does not go on in the next process";
	if (has_account(core))
		return NULL;
	for (uint16_t i = 0; i < core->nvqs; i++)
		if (core->vqs[i].path != &vdpa_path_direct)
			return "a queue runs by way of a ring that ends with the process";
	return NULL;
}

const char *
vdpa_device_find_tie(struct vdpa_device *vdev)
{
	const char *tie;

	if (!vdpa_device_runs_alone(vdev))
		return NULL;
	vdpa_device_lock(vdev);
	tie = find_tie(vdev);
	vdpa_device_unlock(vdev);
	return tie;
}

int
vdpa_device_leave(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_error_saved error;
	const char *tie;
	bool accounts;
	int rc;

	if (!vdpa_device_runs_alone(vdev) || vdev->config->leave == NULL)
		return 0;
	vdpa_device_lock(vdev);
	if (core->state != VDPA_STATE_RUNNING) {
		vdpa_device_unlock(vdev);
		return 0;
	}
	/* A kick that is taken from now on is lost: the next process kicks each queue. */
	for (uint16_t i = 0; i < core->nvqs; i++)
		vdpa_event_del(&core->vqs[i].relay);
	tie = find_tie(vdev);
	accounts = tie == NULL && has_account(core);
	rc = tie != NULL ? vdpa_error(EOPNOTSUPP, "%s: %s", vdev->name, tie)
	     : accounts	 ? 0
			 : vdev->config->leave(vdev);
	/* Its shadows end with the process, so it is stopped: the account is the front end's. */
	if (rc < 0 || accounts) {
		vdpa_error_save(&error);
		if (vdpa_step_reset(vdev) < 0)
			VDPA_LOG(ERR, "%s", vdpa_error_message());
		vdpa_error_restore(&error);
	}
	vdpa_device_unlock(vdev);
	return rc;
}

int
vdpa_step_stop(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;

	if (core->state == VDPA_STATE_IDLE && core->status == 0 && !core->is_left)
		return 0;
	return vdpa_step_reset(vdev);
}

int
vdpa_step_status(struct vdpa_device *vdev, uint8_t status)
{
	/* Each bit and the bits that must stand before it (3.1.1). */
	static const struct {
		uint8_t bit, needs;
		const char *name;
	} order[] = {
		{VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE, "DRIVER"},
		{VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
		 "FEATURES_OK"},
		{VIRTIO_CONFIG_S_DRIVER_OK,
		 VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
		 "DRIVER_OK"},
	};
	struct vdpa_device_core *core = vdev->core;
	uint8_t added;
	int rc;

	if (status == 0)
		return vdpa_step_reset(vdev);
	rc = vdpa_step_check_alive(vdev);
	if (rc < 0)
		return rc;
	if ((status & ~STATUS_DRIVER_BITS) != 0)
		return vdpa_error(EPROTO, "%s: status 0x%02x: 0x%02x is not the driver's to set",
				  vdev->name, status, status & ~STATUS_DRIVER_BITS);
	if ((core->status & ~status) != 0)
		return vdpa_error(EPROTO, "%s: status 0x%02x to 0x%02x removes a bit", vdev->name,
				  core->status, status);
	added = status & (uint8_t)~core->status;
	for (unsigned int i = 0; i < RTE_DIM(order); i++)
		if ((added & order[i].bit) != 0 && (status & order[i].needs) != order[i].needs)
			return vdpa_error(EPROTO, "%s: status 0x%02x: %s comes too early",
					  vdev->name, status, order[i].name);
	/* The device looks at its features when FEATURES_OK is set: not together with what follows.
	 */
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && (added & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
		return vdpa_error(EPROTO, "%s: status 0x%02x: FEATURES_OK and DRIVER_OK at once",
				  vdev->name, status);
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 && !core->features_set)
		return vdpa_error(EPROTO, "%s: FEATURES_OK before any features", vdev->name);
	if (added == 0)
		return 0;

	if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0)
		rc = VDPA_OP(vdev, -1, "memory", vdpa_dma_set_runs(vdev, true));
	if (rc == 0)
		rc = VDPA_OP(vdev, -1, "set_status", vdev->config->set_status(vdev, status));
	if (rc < 0)
		return rc;
	if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0 &&
	    (vdev->config->get_status(vdev) & VIRTIO_CONFIG_S_FEATURES_OK) == 0)
		return vdpa_error(EINVAL, "%s: the device refuses the features 0x%" PRIx64,
				  vdev->name, core->features);
	__atomic_store_n(&core->status, status, __ATOMIC_RELAXED);
	if ((status & VIRTIO_CONFIG_S_FAILED) != 0)
		vdpa_device_set_state(vdev, VDPA_STATE_FAILED);
	else if ((status & VIRTIO_CONFIG_S_DRIVER_OK) != 0) {
		if (core->state != VDPA_STATE_SUSPENDED)
			vdpa_device_set_state(vdev, VDPA_STATE_RUNNING);
	} else
		vdpa_device_set_state(vdev, VDPA_STATE_CONFIGURING);
	return 0;
}

int
vdpa_step_features(struct vdpa_device *vdev, uint64_t features)
{
	struct vdpa_device_core *core = vdev->core;
	uint64_t extra;
	int rc = vdpa_step_check_alive(vdev);

	if (rc < 0)
		return rc;
	if ((core->status & VIRTIO_CONFIG_S_DRIVER) == 0)
		return vdpa_error(EPROTO, "%s: features before DRIVER", vdev->name);
	if ((core->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		return vdpa_error(EPROTO, "%s: features are fixed after FEATURES_OK", vdev->name);
	extra = features & ~vdev->config->get_device_features(vdev);
	if (extra != 0)
		return vdpa_error(EINVAL, "%s: the device does not have the features 0x%" PRIx64,
				  vdev->name, extra);
	rc = VDPA_OP(vdev, -1, "set_driver_features",
		     vdev->config->set_driver_features(vdev, features));
	if (rc < 0)
		return rc;
	__atomic_store_n(&core->features, features, __ATOMIC_RELAXED);
	core->features_set = true;
	return 0;
}

static int
check_iova_range(struct vdpa_device *vdev, const struct vdpa_iotlb *tlb)
{
	struct vdpa_iova_range range;

	if (tlb == NULL || vdev->config->get_iova_range == NULL)
		return 0;
	range = vdev->config->get_iova_range(vdev);
	for (uint32_t i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region *r = tlb->regions[i];

		if (r->iova < range.first || r->iova + r->size - 1 > range.last)
			return vdpa_error(EINVAL,
					  "%s: memory 0x%" PRIx64 "-0x%" PRIx64
					  " is out of the device's reach 0x%" PRIx64 "-0x%" PRIx64,
					  vdev->name, r->iova, r->iova + r->size - 1, range.first,
					  range.last);
	}
	return 0;
}

static int
change_memory(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	const struct vdpa_config_ops *ops = vdev->config;

	if (ops->set_map != NULL) {
		struct vdpa_iotlb *whole;
		int rc = vdpa_own_compose(vdev, tlb, &whole);

		if (rc == 0) {
			rc = VDPA_OP(vdev, -1, "set_map", ops->set_map(vdev, 0, whole));
			vdpa_iotlb_put(whole);
		}
		return rc;
	}
	return VDPA_OP(vdev, -1, "memory", vdpa_dma_change(vdev, tlb));
}

/* Whether the device takes this table in its state, and its IOVAs. */
static int
check_table(struct vdpa_device *vdev, const struct vdpa_iotlb *tlb)
{
	struct vdpa_device_core *core = vdev->core;

	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	if (core->memory_ends || vdpa_device_is_gone(vdev))
		return vdpa_error(EIO, "%s: has failed and must be reset first", vdev->name);
	return tlb != core->iotlb ? check_iova_range(vdev, tlb) : 0;
}

/* Of a driver with set_map nobody knows more. */
int
vdpa_step_check_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	int rc = check_table(vdev, tlb);

	if (rc < 0 || tlb == NULL || tlb == vdev->core->iotlb || vdev->dma_user == NULL)
		return rc;
	return VDPA_OP(vdev, -1, "memory", vdpa_dma_check(vdev->dma_user, tlb));
}

int
vdpa_step_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_iotlb *old;
	int rc = check_table(vdev, tlb);

	if (rc < 0 || tlb == core->iotlb)
		return rc;
	rc = vdpa_step_log_cover(vdev, tlb);
	if (rc == 0)
		rc = change_memory(vdev, tlb);
	if (rc < 0)
		return rc;
	old = core->iotlb;
	core->iotlb = vdpa_iotlb_get(tlb);
	vdpa_iotlb_put(old);
	vdpa_counts_memory(vdev);
	for (uint16_t i = 0; i < core->nvqs; i++) {
		struct vdpa_core_vq *vq = &core->vqs[i];

		/* One whose rings are not in it has been stopped before. */
		if (vq->path->set_memory != NULL)
			(void)vq->path->set_memory(vq, tlb);
	}
	return 0;
}

int
vdpa_step_suspend(struct vdpa_device *vdev)
{
	int64_t begun_us;
	int rc = vdpa_step_check_alive(vdev);

	if (rc < 0)
		return rc;
	if (vdev->core->state == VDPA_STATE_SUSPENDED)
		return 0;
	if (vdev->core->state != VDPA_STATE_RUNNING)
		return vdpa_error(EPROTO, "%s: suspend before DRIVER_OK", vdev->name);
	if (!vdev->core->can.suspend)
		return vdpa_error(EOPNOTSUPP, "%s: the device cannot suspend", vdev->name);
	begun_us = vdpa_now_us();
	vdpa_step_path_drain(vdev, -1, VDPA_DRAIN_MS);
	vdpa_phase_end(vdev, VDPA_PHASE_DRAIN, begun_us);
	begun_us = vdpa_now_us();
	rc = VDPA_OP(vdev, -1, "suspend", vdev->config->suspend(vdev));
	vdpa_phase_end(vdev, VDPA_PHASE_SUSPEND, begun_us);
	/* The guest has back what the device has used, or its queues go on. */
	vdpa_step_path_enable(vdev, -1, rc < 0);
	if (rc < 0)
		return rc;
	vdpa_device_set_state(vdev, VDPA_STATE_SUSPENDED);
	return 0;
}

int
vdpa_step_resume(struct vdpa_device *vdev)
{
	int rc = vdpa_step_check_alive(vdev);

	if (rc < 0)
		return rc;
	if (vdev->core->state != VDPA_STATE_SUSPENDED)
		return vdpa_error(EPROTO, "%s: resume of a device that is not suspended",
				  vdev->name);
	rc = VDPA_OP(vdev, -1, "resume", vdev->config->resume(vdev));
	if (rc < 0)
		return rc;
	vdpa_device_set_state(vdev, VDPA_STATE_RUNNING);
	vdpa_step_path_enable(vdev, -1, true);
	vdpa_step_log_vq_runs(vdev);
	/* What could not change its path meanwhile. */
	if (vdev->core->path_work.run != NULL)
		vdpa_work_post(&vdev->core->work, &vdev->core->path_work);
	return 0;
}
