/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The memory of a function's DMA as it changes under its queues: which stand still, go on, and what
 * becomes of a device that does not let go of memory. Owns nothing; the table is vfio_user_dma.c's.
 */

#include <errno.h>
#include <inttypes.h>

#include <linux/virtio_config.h>
#include <rte_bitops.h>

#include "vdpa_log.h"
#include "vfio_user_device.h"
#include "virtio_compat.h"

static bool
rings_are_in(const struct vfu_device *dev, const struct vp_queue *q, const struct vdpa_iotlb *tlb)
{
	bool packed = (dev->vp.driver_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct vdpa_ring_size size = vdpa_ring_size(packed, q->size);

	return tlb != NULL && vdpa_iotlb_range(tlb, q->desc, size.desc) != NULL &&
	       vdpa_iotlb_range(tlb, q->driver, size.driver) != NULL &&
	       vdpa_iotlb_range(tlb, q->device, size.device) != NULL;
}

/* Queues whose rings are not in the memory, or without bus master all, stand still until they may
 * go on. QEMU takes memory away and gives it back whenever its layout changes. */
void
vdpa_vfus_queues_park(struct vfu_device *dev, const struct vdpa_iotlb *tlb)
{
	bool master = vdpa_vp_bus_master(&dev->vp);

	for (uint16_t i = 0; i < dev->vp.params.nvqs; i++) {
		struct vfu_queue *q = &dev->queues[i];

		if (!q->started || (master && rings_are_in(dev, &dev->vp.queues[i], tlb)))
			continue;
		VDPA_LOG_LIMITED(&dev->log.lines, INFO, "%s: vfio-user: queue %u: stands still: %s",
				 dev->vdev->name, i,
				 master ? "its memory was unmapped" : "no bus master");
		vdpa_vfus_queue_stop(dev, i);
		q->parked = true;
	}
}

/* Queues that stood still go on, if their memory is in the table again. */
void
vdpa_vfus_queues_resume(struct vfu_device *dev)
{
	for (uint16_t i = 0; i < dev->vp.params.nvqs && vfu_may_move(dev); i++)
		if (dev->queues[i].parked &&
		    rings_are_in(dev, &dev->vp.queues[i], dev->dma.iotlb) &&
		    vdpa_vfus_queue_start(dev, i) < 0)
			vdpa_device_fail(dev->vdev, i, EFAULT, "it does not start again");
}

int
vdpa_vfus_device_update_memory(struct vfu_device *dev)
{
	struct vdpa_iotlb *tlb;
	int rc;

	/* One that is started later takes what there is by then; until then it has none. */
	if (!dev->running || vdpa_device_get_state(dev->vdev) == VDPA_STATE_FAILED)
		return vdpa_device_set_memory(dev->vdev, NULL);
	rc = vdpa_vfus_dma_iotlb(&dev->dma, &tlb);
	if (rc < 0)
		return rc;
	vdpa_vfus_queues_park(dev, tlb);
	if (dev->ext->admin_update_memory != NULL)
		dev->ext->admin_update_memory(dev, tlb);
	vdpa_vfus_log_update(dev, tlb);
	rc = vdpa_device_set_memory(dev->vdev, tlb);
	if (rc == 0)
		vdpa_vfus_queues_resume(dev);
	return rc;
}

void
vdpa_vfus_device_give_up(struct vfu_device *dev, int err, const char *what)
{
	vdpa_device_fail(dev->vdev, -1, err, "%s: %s", what, vdpa_error_message());
	vdpa_vfus_queues_forget(dev);
	if (vdpa_device_stop(dev->vdev) < 0)
		VDPA_LOG_LIMITED(&dev->log.lines, ERR, "%s: vfio-user: stop: %s", dev->vdev->name,
				 vdpa_error_message());
	(void)vdpa_device_set_memory(dev->vdev, NULL);
	if (vdpa_vp_needs_reset(&dev->vp))
		vdpa_vfus_config_interrupt(dev);
}
