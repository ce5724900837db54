/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The steps of a device's set-up and the rules of virtio 1.2 (2.1, 3.1) about their order. Every
 * step that reaches a driver's op passes here, whether a front end takes it by itself (calls.c)
 * or as a part of a start (session.c). With the device's lock held.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <linux/virtio_config.h>

#include "device_priv.h"
#include "vdpa_log.h"

#define STATUS_DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK |      \
	 VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)

int
vdpa_op_failed(struct vdpa_device *vdev, int qidx, const char *op, int rc, unsigned int errors)
{
	size_t len = strlen(vdev->name);
	char own[VDPA_ERROR_MAX], queue[32] = "";

	snprintf(own, sizeof(own), "%s", vdpa_error_message());
	if (qidx >= 0)
		snprintf(queue, sizeof(queue), "queue %d: ", qidx);
	if (vdpa_error_count() == errors)
		return vdpa_error(rc, "%s: %s%s: %s", vdev->name, queue, op, strerror(-rc));
	if (strncmp(own, vdev->name, len) == 0 && own[len] == ':')
		return rc;
	return vdpa_error(rc, "%s: %s%s", vdev->name, queue, own);
}

static int
check_alive(struct vdpa_device *vdev)
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

static int
check_idx(struct vdpa_device *vdev, uint16_t idx)
{
	if (idx >= vdev->core->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, idx,
				  vdev->core->nvqs);
	return 0;
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

	/* A driver that maps by itself can do so only once the device has reset. */
	if (rc == 0 && core->iotlb != NULL && vdev->dma == NULL)
		rc = ops->set_map != NULL
			     ? VDPA_OP(vdev, -1, "set_map", ops->set_map(vdev, 0, NULL))
			     : vdpa_dma_change(vdev, NULL);
	rc = vdpa_dma_end(vdev, rc);
	if (rc == 0 && ops->release_dma != NULL)
		ops->release_dma(vdev);
	core->memory_ends = rc < 0;
	if (rc < 0)
		vdpa_device_set_state(vdev, VDPA_STATE_FAILED);
	return rc;
}

int
vdpa_step_quiesce(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;
	bool gone;
	int rc;

	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);

	for (uint16_t i = 0; i < core->nvqs; i++)
		vdpa_event_del(&core->vqs[i].relay);
	rc = VDPA_OP(vdev, -1, "the device does not reset", vdev->config->reset(vdev));
	for (uint16_t i = 0; i < core->nvqs; i++) {
		core->vqs[i].ready = core->vqs[i].was_reset = core->vqs[i].halted = false;
		core->vqs[i].lost = false;
		core->vqs[i].conf = (struct vdpa_vq_config){.kick_fd = -1, .call_fd = -1};
	}
	__atomic_store_n(&core->status, 0, __ATOMIC_RELAXED);
	__atomic_store_n(&core->features, 0, __ATOMIC_RELAXED);
	core->features_set = false;
	core->logging = false;
	gone = vdpa_device_is_gone(vdev);
	if (rc < 0 || gone || core->memory_ends)
		rc = vdpa_step_end_memory(vdev, rc);
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

int
vdpa_step_stop(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;

	if (core->state == VDPA_STATE_IDLE && core->status == 0)
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
	rc = check_alive(vdev);
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
	int rc = check_alive(vdev);

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

	if (ops->set_map != NULL)
		return VDPA_OP(vdev, -1, "set_map", ops->set_map(vdev, 0, tlb));
	return VDPA_OP(vdev, -1, "memory", vdpa_dma_change(vdev, tlb));
}

int
vdpa_step_map(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_iotlb *old;
	int rc;

	if (core->state == VDPA_STATE_ALLOCATED || core->state == VDPA_STATE_REMOVED)
		return vdpa_error(ENODEV, "%s: is not registered", vdev->name);
	if (core->memory_ends || vdpa_device_is_gone(vdev))
		return vdpa_error(EIO, "%s: has failed and must be reset first", vdev->name);
	if (tlb == core->iotlb)
		return 0;
	rc = check_iova_range(vdev, tlb);
	if (rc == 0)
		rc = change_memory(vdev, tlb);
	if (rc < 0)
		return rc;
	old = core->iotlb;
	core->iotlb = vdpa_iotlb_get(tlb);
	vdpa_iotlb_put(old);
	return 0;
}

/* Size, addresses and state of a queue: before it is ready, and after FEATURES_OK. */
static int
check_vq_setup(struct vdpa_device *vdev, uint16_t idx, const char *what)
{
	struct vdpa_device_core *core = vdev->core;
	int rc = check_alive(vdev);

	if (rc == 0)
		rc = check_idx(vdev, idx);
	if (rc < 0)
		return rc;
	if ((core->status & VIRTIO_CONFIG_S_FEATURES_OK) == 0)
		return vdpa_error(EPROTO, "%s: queue %u: %s before FEATURES_OK", vdev->name, idx,
				  what);
	if (core->vqs[idx].ready)
		return vdpa_error(EBUSY, "%s: queue %u: %s while it is ready", vdev->name, idx,
				  what);
	if (core->state == VDPA_STATE_RUNNING && !core->vqs[idx].was_reset && !core->can.late_vqs)
		return vdpa_error(EBUSY, "%s: queue %u: %s after DRIVER_OK, which it cannot take",
				  vdev->name, idx, what);
	return 0;
}

/* A part of a ring lies in guest memory, aligned as virtio 1.2 (2.7, 2.8) has it. */
static int
check_ring_part(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_iotlb *tlb,
		const char *part, uint64_t iova, uint64_t len, uint32_t align)
{
	if ((iova & (align - 1)) != 0)
		return vdpa_error(EINVAL, "%s: queue %u: %s at 0x%" PRIx64 " is not aligned to %u",
				  vdev->name, idx, part, iova, align);
	if (tlb == NULL || vdpa_iotlb_range(tlb, iova, len) == NULL)
		return vdpa_error(EFAULT,
				  "%s: queue %u: %s at 0x%" PRIx64 ", %" PRIu64
				  " bytes, is outside guest memory",
				  vdev->name, idx, part, iova, len);
	return 0;
}

int
vdpa_step_check_rings(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
		      const struct vdpa_iotlb *tlb)
{
	bool packed = (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_ring_size size = vdpa_ring_size(packed, conf->num);
	int rc;

	rc = check_ring_part(vdev, idx, tlb, packed ? "descriptor ring" : "descriptor table",
			     conf->desc, size.desc, 16);
	if (rc == 0)
		rc = check_ring_part(vdev, idx, tlb,
				     packed ? "driver event suppression" : "avail ring",
				     conf->driver, size.driver, packed ? 4 : 2);
	if (rc == 0)
		rc = check_ring_part(vdev, idx, tlb,
				     packed ? "device event suppression" : "used ring",
				     conf->device, size.device, 4);
	return rc;
}

static bool
has_addresses(const struct vdpa_vq_config *conf)
{
	return conf->desc != 0 || conf->driver != 0 || conf->device != 0;
}

int
vdpa_step_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	const struct vdpa_config_ops *ops = vdev->config;
	int rc = check_vq_setup(vdev, idx, "size");
	struct vdpa_vq_config conf;
	uint32_t min, max;
	bool packed;

	if (rc < 0)
		return rc;
	packed = (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	min = ops->get_vq_num_min != NULL ? ops->get_vq_num_min(vdev) : 1;
	max = RTE_MIN((uint32_t)ops->get_vq_num_max(vdev), (uint32_t)VDPA_VQ_NUM_MAX);
	if (num < min || num > max)
		return vdpa_error(EINVAL, "%s: queue %u: size %u, allowed are %u to %u", vdev->name,
				  idx, num, min, max);
	if (!packed && (num & (num - 1)) != 0)
		return vdpa_error(EINVAL, "%s: queue %u: size %u of a split ring, no power of two",
				  vdev->name, idx, num);
	conf = vdev->core->vqs[idx].conf;
	conf.num = num;
	rc = has_addresses(&conf) ? vdpa_step_check_rings(vdev, idx, &conf, vdev->core->iotlb) : 0;
	if (rc == 0)
		rc = VDPA_OP(vdev, idx, "set_vq_num", ops->set_vq_num(vdev, idx, num));
	if (rc < 0)
		return rc;
	vdev->core->vqs[idx].conf.num = num;
	return 0;
}

int
vdpa_step_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		     uint64_t device)
{
	int rc = check_vq_setup(vdev, idx, "addresses");
	struct vdpa_vq_config *conf, now;

	if (rc < 0)
		return rc;
	conf = &vdev->core->vqs[idx].conf;
	if (conf->num == 0)
		return vdpa_error(EPROTO, "%s: queue %u: addresses before the size", vdev->name,
				  idx);
	now = *conf;
	now.desc = desc;
	now.driver = driver;
	now.device = device;
	rc = vdpa_step_check_rings(vdev, idx, &now, vdev->core->iotlb);
	if (rc < 0)
		return rc;
	rc = VDPA_OP(vdev, idx, "set_vq_address",
		     vdev->config->set_vq_address(vdev, idx, desc, driver, device));
	if (rc < 0)
		return rc;
	*conf = now;
	return 0;
}

int
vdpa_step_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	int rc = vdev->core->state == VDPA_STATE_SUSPENDED ? check_idx(vdev, idx)
							   : check_vq_setup(vdev, idx, "state");

	if (rc < 0)
		return rc;
	rc = VDPA_OP(vdev, idx, "set_vq_state", vdev->config->set_vq_state(vdev, idx, state));
	if (rc < 0)
		return rc;
	vdev->core->vqs[idx].conf.state = *state;
	return 0;
}

int
vdpa_step_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	struct vdpa_core_vq *vq;
	int rc;

	if (!ready) {
		rc = check_alive(vdev);
		if (rc == 0)
			rc = check_idx(vdev, idx);
	} else {
		rc = check_vq_setup(vdev, idx, "ready");
	}
	if (rc < 0)
		return rc;
	vq = &vdev->core->vqs[idx];
	if (vq->ready == ready)
		return 0;
	if (ready && !has_addresses(&vq->conf))
		return vdpa_error(EPROTO, "%s: queue %u: ready before its addresses", vdev->name,
				  idx);
	/* The memory may be another since the addresses were set. */
	if (ready)
		rc = vdpa_step_check_rings(vdev, idx, &vq->conf, vdev->core->iotlb);
	if (rc < 0)
		return rc;
	rc = VDPA_OP(vdev, idx, "set_vq_ready", vdev->config->set_vq_ready(vdev, idx, ready));
	if (rc < 0)
		return rc;
	vq->ready = ready;
	return 0;
}

int
vdpa_step_suspend(struct vdpa_device *vdev)
{
	int rc = check_alive(vdev);

	if (rc < 0)
		return rc;
	if (vdev->core->state == VDPA_STATE_SUSPENDED)
		return 0;
	if (vdev->core->state != VDPA_STATE_RUNNING)
		return vdpa_error(EPROTO, "%s: suspend before DRIVER_OK", vdev->name);
	if (!vdev->core->can.suspend)
		return vdpa_error(EOPNOTSUPP, "%s: the device cannot suspend", vdev->name);
	rc = VDPA_OP(vdev, -1, "suspend", vdev->config->suspend(vdev));
	if (rc < 0)
		return rc;
	vdpa_device_set_state(vdev, VDPA_STATE_SUSPENDED);
	return 0;
}

int
vdpa_step_resume(struct vdpa_device *vdev)
{
	int rc = check_alive(vdev);

	if (rc < 0)
		return rc;
	if (vdev->core->state != VDPA_STATE_SUSPENDED)
		return vdpa_error(EPROTO, "%s: resume of a device that is not suspended",
				  vdev->name);
	rc = VDPA_OP(vdev, -1, "resume", vdev->config->resume(vdev));
	if (rc < 0)
		return rc;
	vdpa_device_set_state(vdev, VDPA_STATE_RUNNING);
	return 0;
}
