/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The steps of a queue's set-up: its size, addresses, state and readiness, and what is checked of
 * each. With the device's lock held.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/virtio_config.h>

#include "device_priv.h"
#include "op.h"
#include "steps.h"

static int
check_idx(struct vdpa_device *vdev, uint16_t idx)
{
	if (idx >= vdev->core->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, idx,
				  vdev->core->nvqs);
	return 0;
}

/* Size, addresses and state of a queue: before it is ready, and after FEATURES_OK. */
static int
check_vq_setup(struct vdpa_device *vdev, uint16_t idx, const char *what)
{
	struct vdpa_device_core *core = vdev->core;
	int rc = vdpa_step_check_alive(vdev);

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

int
vdpa_check_vq_num(const struct vdpa_device *vdev, uint16_t idx, bool packed, uint32_t num)
{
	uint32_t min = vdev->core->vq_num_min, max = vdev->core->vqs[idx].num_max;

	if (num < min || num > max)
		return vdpa_error(EINVAL, "%s: queue %u: size %u, allowed are %u to %u", vdev->name,
				  idx, num, min, max);
	if (!packed && !rte_is_power_of_2(num))
		return vdpa_error(EINVAL, "%s: queue %u: size %u of a split ring, no power of two",
				  vdev->name, idx, num);
	return 0;
}

/* The parts of a ring, for messages. */
static const struct {
	const char *desc, *driver, *device;
} part_names[] = {
	{"descriptor table", "avail ring", "used ring"},
	{"descriptor ring", "driver event suppression", "device event suppression"},
};

static int
check_align(const struct vdpa_device *vdev, uint16_t idx, const char *part, uint64_t iova,
	    uint32_t align)
{
	return (iova & (align - 1)) == 0
		       ? 0
		       : vdpa_error(EINVAL,
				    "%s: queue %u: %s at 0x%" PRIx64 " is not aligned to %u",
				    vdev->name, idx, part, iova, align);
}

int
vdpa_check_vq_align(const struct vdpa_device *vdev, uint16_t idx, bool packed, uint64_t desc,
		    uint64_t driver, uint64_t device)
{
	uint32_t own = vdev->core->vq_align;
	int rc;

	rc = check_align(vdev, idx, part_names[packed].desc, desc, RTE_MAX(own, 16u));
	if (rc == 0)
		rc = check_align(vdev, idx, part_names[packed].driver, driver, packed ? 4 : 2);
	if (rc == 0)
		rc = check_align(vdev, idx, part_names[packed].device, device, RTE_MAX(own, 4u));
	return rc;
}

static int
check_memory(const struct vdpa_device *vdev, uint16_t idx, const struct vdpa_iotlb *tlb,
	     const char *part, uint64_t iova, uint64_t len)
{
	if (tlb == NULL || vdpa_iotlb_range(tlb, iova, len) == NULL)
		return vdpa_error(EFAULT,
				  "%s: queue %u: %s at 0x%" PRIx64 ", %" PRIu64
				  " bytes, is outside guest memory",
				  vdev->name, idx, part, iova, len);
	return 0;
}

/* What of a ring is not ours. */
static int
check_parts(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
	    const struct vdpa_iotlb *tlb, bool packed, enum vdpa_own_parts own)
{
	struct vdpa_ring_size size = vdpa_ring_size(packed, conf->num);
	int rc;

	if (own == VDPA_OWN_ALL)
		return 0;
	rc = check_memory(vdev, idx, tlb, part_names[packed].desc, conf->desc, size.desc);
	if (rc < 0 || own == VDPA_OWN_RINGS)
		return rc;
	rc = check_memory(vdev, idx, tlb, part_names[packed].driver, conf->driver, size.driver);
	if (rc == 0)
		rc = check_memory(vdev, idx, tlb, part_names[packed].device, conf->device,
				  size.device);
	return rc;
}

int
vdpa_step_check_rings(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_config *conf,
		      const struct vdpa_iotlb *tlb)
{
	bool packed = (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	int rc = vdpa_check_vq_align(vdev, idx, packed, conf->desc, conf->driver, conf->device);

	return rc == 0 ? check_parts(vdev, idx, conf, tlb, packed, vdev->core->vqs[idx].own) : rc;
}

int
vdpa_step_check_guest_rings(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_iotlb *tlb)
{
	bool packed = (vdev->core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;

	return check_parts(vdev, idx, &vdev->core->vqs[idx].conf, tlb, packed, VDPA_OWN_NONE);
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

	if (rc == 0)
		rc = vdpa_check_vq_num(
			vdev, idx, (vdev->core->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0,
			num);
	if (rc < 0)
		return rc;
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
		rc = vdpa_step_check_alive(vdev);
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
	if (ready && vq->path == &vdpa_path_direct)
		__atomic_store_n(&vq->counts.ran_direct, true, __ATOMIC_RELAXED);
	rc = VDPA_OP(vdev, idx, "set_vq_ready", vdev->config->set_vq_ready(vdev, idx, ready));
	if (rc < 0)
		return rc;
	vq->ready = ready;
	if (ready)
		vdpa_step_log_vq_runs(vdev);
	return 0;
}
