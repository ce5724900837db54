/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory of a kernel's vDPA device: the kernel's IOTLB is a DMA domain, filled by messages,
 * and pins the pages. A change is one batch, as a parent that takes whole tables gets the table at
 * each message outside of one.
 *
 * Until Linux 6.7, and of parents that do not say VHOST_BACKEND_F_IOTLB_PERSIST, a reset may take
 * the memory from the parent while the kernel's table keeps it. An empty batch gives a parent that
 * takes whole tables that table again; all parents for which Linux leaves that out do.
 */

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

#include <rte_common.h>

#include "vhost_vdpa.h"
#include "vhost_vdpa_compat.h"

/* A guest's physical addresses end here; a parent in software may say that it reaches all 64 bits,
 * the end of which nobody computes with. */
#define IOVA_LAST (RTE_BIT64(52) - 1)

static int
map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vhost_vdpa *dev = arg;

	return vv_kernel_map(&dev->kernel, 0, m->iova, m->size, m->va, m->readonly);
}

static int
unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct vhost_vdpa *dev = arg;

	return vv_kernel_unmap(&dev->kernel, 0, m->iova, m->size);
}

static int
begin(void *arg)
{
	struct vhost_vdpa *dev = arg;

	return vv_kernel_batch_begin(&dev->kernel, 0);
}

static int
end(void *arg)
{
	struct vhost_vdpa *dev = arg;

	return vv_kernel_batch_end(&dev->kernel, 0);
}

static const struct vdpa_dma_ops ops = {.map = map, .unmap = unmap};
static const struct vdpa_dma_batch batch = {.begin = begin, .end = end};

int
vv_dma_create(struct vhost_vdpa *dev)
{
	const struct vdpa_dma_range range = {.first = dev->info.iova_first,
					     .last = RTE_MIN(dev->info.iova_last, IOVA_LAST)};
	const struct vdpa_dma_limits limits = {
		.ranges = &range, .n_ranges = 1, .page_size = (uint64_t)sysconf(_SC_PAGESIZE)};
	int rc;

	if (range.first > range.last)
		return vdpa_error(ENOTSUP, "%s: the parent reaches no IOVA below 0x%" PRIx64,
				  dev->parent, range.last);
	rc = vdpa_dma_domain_create(dev->parent, &ops, dev, &limits, &dev->dom);
	if (rc == 0 && vv_kernel_has(&dev->kernel, VHOST_BACKEND_F_IOTLB_BATCH))
		vdpa_dma_domain_set_batch(dev->dom, &batch);
	return rc;
}

static int
renew(struct vhost_vdpa *dev, uint32_t asid)
{
	int rc = vv_kernel_batch_begin(&dev->kernel, asid);

	return rc == 0 ? vv_kernel_batch_end(&dev->kernel, asid) : rc;
}

int
vv_dma_renew(struct vhost_vdpa *dev)
{
	int rc = 0;

	if (!dev->maps_lost)
		return 0;
	rc = renew(dev, 0);
	if (rc == 0 && dev->ctrl.mem.va != NULL && dev->ctrl.mem_apart)
		rc = renew(dev, dev->ctrl.asid);
	dev->maps_lost = rc < 0;
	return rc;
}
