/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Memory of devices that do not take whole tables: in the DMA domain of the platform's IOMMU
 * (struct vdpa_device.dma), or by the driver's dma_map and dma_unmap, of which a domain of the
 * device's own is made here. So both go by one rule: what stays is not touched, and what is
 * unmapped is what was mapped by one call.
 *
 * A domain is emptied when a front end's connection ends, and after a reset that failed: a device
 * that does not stop is harmless once the IOMMU stops its accesses. Where the driver maps, only its
 * reset can say that the device is out of the memory; all of it is unmapped then.
 */

#include <errno.h>
#include <string.h>

#include "device_dma.h"
#include "device_priv.h"
#include "op.h"
#include "vdpa_log.h"

/* The pages of a device that its driver maps: whatever a region may be aligned to. */
#define DRIVER_PAGE 8

static int
driver_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vdpa_device *vdev = arg;
	const struct vdpa_mem_region piece = {.iova = m->iova,
					      .size = m->size,
					      .offset = m->offset,
					      .va = m->va,
					      .fd = m->fd,
					      .readonly = m->readonly};

	return VDPA_OP(vdev, -1, "dma_map", vdev->config->dma_map(vdev, 0, &piece));
}

static int
driver_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vdpa_device *vdev = arg;
	const struct vdpa_mem_region piece = {.iova = m->iova, .size = m->size, .fd = -1};

	return VDPA_OP(vdev, -1, "dma_unmap", vdev->config->dma_unmap(vdev, 0, &piece));
}

static const struct vdpa_dma_ops driver_ops = {.map = driver_map, .unmap = driver_unmap};

int
vdpa_dma_attach(struct vdpa_device *vdev)
{
	const struct vdpa_dma_limits limits = {.page_size = DRIVER_PAGE};
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_dma_domain *dom = vdev->dma;
	int rc;

	if (vdev->config->set_map != NULL)
		return 0;
	if (dom == NULL) {
		rc = vdpa_dma_domain_create(vdev->name, &driver_ops, vdev, &limits, &core->dma_own);
		if (rc < 0)
			return rc;
		dom = core->dma_own;
	}
	rc = vdpa_dma_join(dom, vdev->name, &vdev->dma_user);
	if (rc < 0) {
		vdpa_dma_domain_destroy(core->dma_own);
		core->dma_own = NULL;
	}
	return rc;
}

void
vdpa_dma_detach(struct vdpa_device *vdev)
{
	struct vdpa_device_core *core = vdev->core;

	if (core->dma_own != NULL)
		vdpa_dma_forget(vdev->dma_user);
	vdpa_dma_leave(vdev->dma_user);
	vdev->dma_user = NULL;
	vdpa_dma_domain_destroy(core->dma_own);
	core->dma_own = NULL;
}

int
vdpa_dma_change(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	struct vdpa_error_saved why;
	int rc = vdpa_dma_set(vdev->dma_user, tlb);

	if (rc < 0 && vdpa_dma_is_broken(vdev->dma_user)) {
		vdpa_error_save(&why);
		vdpa_device_fail(vdev, -1, rc, "a change of memory could not be taken back: %s",
				 why.text);
		vdpa_error_restore(&why);
	}
	return rc;
}

int
vdpa_dma_set_runs(struct vdpa_device *vdev, bool runs)
{
	return vdev->dma_user != NULL ? vdpa_dma_set_running(vdev->dma_user, runs) : 0;
}

/* All memory out of the device's reach. What cannot be is tried again by the next reset. */
static int
empty_domain(struct vdpa_device *vdev, int rc)
{
	struct vdpa_error_saved why;
	int left;

	vdpa_error_save(&why);
	left = vdpa_dma_set(vdev->dma_user, NULL);
	if (left < 0)
		VDPA_LOG(ERR, "%s: memory stays in the device's reach: %s", vdev->name,
			 vdpa_error_message());
	if (rc < 0)
		vdpa_error_restore(&why);
	return left;
}

/*
 * A device that did not reset is out of its own guest memory when that is unmapped, but not out of
 * what other devices have in the same domain. Whoever disturbs them is cut off.
 */
static void
cut_off(struct vdpa_device *vdev)
{
	int rc = -EOPNOTSUPP;

	/* Who needs that now: the next guest of the domain does not come before it has reset. */
	if (!vdpa_dma_is_in_use(vdev->dma)) {
		if (!vdpa_device_is_gone(vdev))
			vdpa_dma_set_stray(vdev->dma_user);
		return;
	}
	if (vdev->config->cut_off != NULL)
		rc = VDPA_OP(vdev, -1, "cut_off", vdev->config->cut_off(vdev));
	if (rc < 0 && !vdpa_device_is_gone(vdev))
		vdpa_dma_set_stray(vdev->dma_user);
	if (rc < 0)
		VDPA_LOG(ERR,
			 "%s: it did not reset, and only its own obedience keeps it from memory of "
			 "other devices: %s",
			 vdev->name, rc == -EOPNOTSUPP ? strerror(-rc) : vdpa_error_message());
	else
		VDPA_LOG(WARNING,
			 "%s: it did not reset, and was cut off from memory that other "
			 "devices use",
			 vdev->name);
}

int
vdpa_dma_end(struct vdpa_device *vdev, int rc)
{
	struct vdpa_device_core *core = vdev->core;
	int left = rc;

	if (vdev->dma != NULL) {
		left = empty_domain(vdev, rc);
		if (rc < 0)
			cut_off(vdev);
		else
			rc = left;
	} else if (rc == 0 && core->dma_own != NULL) {
		vdpa_dma_forget(vdev->dma_user);
	}
	/* What the device may still use stays mapped in the process too. */
	if (left == 0) {
		vdpa_iotlb_put(core->iotlb);
		core->iotlb = NULL;
		vdpa_counts_memory(vdev);
	}
	return rc;
}
