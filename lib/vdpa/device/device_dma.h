/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Memory in the reach of a device: dma.c. */

#ifndef VDPA_DEVICE_DMA_H
#define VDPA_DEVICE_DMA_H

#include "vdpa_driver.h"

/*
 * The memory of a device that has no set_map: by dma_map and dma_unmap or in its DMA domain.
 * Attached while it is registered. No-ops for a device with set_map.
 */
int vdpa_dma_attach(struct vdpa_device *vdev);
void vdpa_dma_detach(struct vdpa_device *vdev);
/* Whether the device may access its memory from now on. An errno where it lacks some of it. */
int vdpa_dma_set_runs(struct vdpa_device *vdev, bool runs);
/*
 * Under the device's lock. Go from the table in force to tlb; on failure that one stays, and the
 * device fails where not even that can be had.
 */
int vdpa_dma_change(struct vdpa_device *vdev, struct vdpa_iotlb *tlb);
/*
 * After a reset (rc: what it returned): bring all memory out of the device's reach, where the core
 * can, and forget it. What is left in its reach stays in core->iotlb, and the errno says so.
 */
int vdpa_dma_end(struct vdpa_device *vdev, int rc);

#endif /* VDPA_DEVICE_DMA_H */
