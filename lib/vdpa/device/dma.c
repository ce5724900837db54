/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Memory of devices that map it region by region: by the driver's dma_map and dma_unmap, or in the
 * DMA domain of the platform's IOMMU (struct vdpa_device.dma), which the core fills and empties.
 *
 * A domain is emptied after every reset, above all after one that failed: a device that does not
 * stop is harmless once the IOMMU stops its accesses. Where the driver maps, only its reset can say
 * that the device is out of the memory.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_priv.h"
#include "vdpa_log.h"

/* From one table to another. The first error is why it is taken back; more say that this failed. */
struct change {
	struct vdpa_device *vdev;
	unsigned int held; /* regions in the device's reach */
	unsigned int errors;
	char why[VDPA_ERROR_MAX]; /* of the first */
};

/* Words of dma_mapped. */
static uint32_t
mapped_words(const struct vdpa_iotlb *tlb)
{
	return tlb != NULL ? tlb->n / 64 + (tlb->n % 64 != 0) : 0;
}

/* Regions of the table in force that the device can reach. */
static unsigned int
count_mapped(const struct vdpa_device_core *core)
{
	unsigned int n = 0;

	for (uint32_t i = 0; core->dma_mapped != NULL && i < mapped_words(core->iotlb); i++)
		n += (unsigned int)__builtin_popcountll(core->dma_mapped[i]);
	return n;
}

/* Note what became of a region, if it is one of the table in force. */
static void
note_mapped(struct vdpa_device *vdev, const struct vdpa_mem_region *region, bool mapped)
{
	struct vdpa_device_core *core = vdev->core;
	uint32_t i;

	if (core->iotlb == NULL || core->iotlb->n == 0)
		return;
	i = vdpa_iotlb_index(core->iotlb, region->iova);
	if (core->iotlb->regions[i] != region)
		return;
	if (mapped)
		core->dma_mapped[i / 64] |= RTE_BIT64(i % 64);
	else
		core->dma_mapped[i / 64] &= ~RTE_BIT64(i % 64);
}

static int
note_result(struct change *c, const struct vdpa_mem_region *region, int rc, bool mapped)
{
	if (rc == 0) {
		note_mapped(c->vdev, region, mapped);
		c->held += mapped ? 1 : -1u;
	} else if (c->errors++ == 0) {
		snprintf(c->why, sizeof(c->why), "%s", vdpa_error_message());
	}
	return rc;
}

/* The domain may be another device's too; which must serve the same guest then. */
static int
map_in_domain(const struct change *c, const struct vdpa_mem_region *region)
{
	return c->held == 0 ? vdpa_dma_map_first(c->vdev->dma, region)
			    : vdpa_dma_map(c->vdev->dma, region);
}

static int
map_region(const struct vdpa_mem_region *region, void *arg)
{
	struct change *c = arg;
	struct vdpa_device *vdev = c->vdev;

	return note_result(c, region,
			   VDPA_OP(vdev, -1, "dma_map",
				   vdev->dma != NULL ? map_in_domain(c, region)
						     : vdev->config->dma_map(vdev, 0, region)),
			   true);
}

static int
unmap_region(const struct vdpa_mem_region *region, void *arg)
{
	struct change *c = arg;
	struct vdpa_device *vdev = c->vdev;

	return note_result(c, region,
			   VDPA_OP(vdev, -1, "dma_unmap",
				   vdev->dma != NULL ? vdpa_dma_unmap(vdev->dma, region)
						     : vdev->config->dma_unmap(vdev, 0, region)),
			   false);
}

int
vdpa_dma_change(struct vdpa_device *vdev, struct vdpa_iotlb *tlb)
{
	struct vdpa_device_core *core = vdev->core;
	struct change c = {.vdev = vdev, .held = count_mapped(core)};
	uint32_t words = mapped_words(tlb);
	uint64_t *mapped = NULL;
	int rc;

	if (words > 0) {
		mapped = malloc(words * sizeof(*mapped));
		if (mapped == NULL)
			return vdpa_error(ENOMEM, "%s: memory table: out of memory", vdev->name);
		memset(mapped, 0xff, words * sizeof(*mapped));
		mapped[words - 1] >>= (64 - tlb->n % 64) % 64;
	}
	rc = vdpa_iotlb_diff(core->iotlb, tlb, map_region, unmap_region, &c);
	if (c.errors > 1)
		vdpa_device_fail(vdev, -1, rc, "a change of memory could not be taken back: %s",
				 vdpa_error_message());
	if (rc < 0) {
		free(mapped);
		return vdpa_error(rc, "%s", c.why);
	}
	/* All of tlb is in the device's reach; the caller puts it in force. */
	free(core->dma_mapped);
	core->dma_mapped = mapped;
	return 0;
}

/* Bring the table in force out of the domain. What cannot be is tried again by the next reset. */
static int
empty_domain(struct vdpa_device *vdev)
{
	struct change c = {.vdev = vdev};
	struct vdpa_iotlb *tlb = vdev->core->iotlb;
	int rc = 0;

	for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++) {
		if ((vdev->core->dma_mapped[i / 64] & RTE_BIT64(i % 64)) == 0)
			continue;
		int one = unmap_region(tlb->regions[i], &c);

		if (rc == 0)
			rc = one;
	}
	return rc < 0 ? vdpa_error(rc, "%s", c.why) : 0;
}

int
vdpa_dma_end(struct vdpa_device *vdev, int rc)
{
	struct vdpa_device_core *core = vdev->core;
	char why[VDPA_ERROR_MAX];
	int left = rc;

	if (vdev->dma != NULL) {
		snprintf(why, sizeof(why), "%s", rc < 0 ? vdpa_error_message() : "");
		left = empty_domain(vdev);
		if (left < 0)
			VDPA_LOG(ERR, "%s: memory stays in the device's reach: %s", vdev->name,
				 vdpa_error_message());
		if (rc < 0)
			vdpa_error(rc, "%s", why);
		else
			rc = left;
	}
	/* What the device may still use stays mapped in the process too. */
	if (left == 0) {
		vdpa_iotlb_put(core->iotlb);
		core->iotlb = NULL;
		free(core->dma_mapped);
		core->dma_mapped = NULL;
	}
	return rc;
}
