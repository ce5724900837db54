/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registers of a function as the files of this folder use them, beside vdpa_virtio_pci.h:
 * opening, features, queues, vectors, doorbells. Drivers have the config ops for these.
 */

#ifndef VIRTIO_PCI_PRIV_H
#define VIRTIO_PCI_PRIV_H

#include <linux/virtio_ring.h>

#include "patience.h"
#include "vdpa_virtio_pci.h"
#include "virtio_compat.h"

/* Device status, beside VIRTIO_CONFIG_S_*. */
#define VIRTIO_STATUS_GONE 0xff /* all ones: nobody answers */

#define VIRTIO_NEEDS_RESET_TEXT "the device says that it needs a reset"

/* ISR status (4.1.4.5). */
#define VIRTIO_ISR_QUEUE  0x01
#define VIRTIO_ISR_CONFIG 0x02

/* What every device has of the common configuration, and of each doorbell; bytes. */
#define VIRTIO_COMMON_SIZE   56
#define VIRTIO_DOORBELL_SIZE 2

/*
 * Find the structures of an open function; nothing is written to it yet: a reset comes next, or
 * hw->adopts. patience outlives hw. 0; a negative errno with one line that names the function and
 * the fact: what ops->find returns.
 */
int virtio_pci_open(struct vdpa_virtio_pci *hw, struct vdpa_pci *pci,
		    const struct vdpa_virtio_pci_ops *ops, struct vdpa_patience *patience);

/*
 * Reset and wait for it; where that does not come, a reset of the function; where there is none, at
 * least no more DMA. 0; -ENODEV for one that is gone; -ETIMEDOUT: "does not reset".
 */
int virtio_pci_reset(struct vdpa_virtio_pci *hw);

/*
 * VIRTIO_F_SUSPEND (virtio 1.4, 3.4): the device finishes what it took and stands still, or goes
 * on, and the status says so when that is done. 0; -ETIMEDOUT; -EIO for a device that needs a reset
 * instead; vdpa_virtio_pci_check(). After an error it does one or the other.
 */
int virtio_pci_suspend(struct vdpa_virtio_pci *hw);
int virtio_pci_resume(struct vdpa_virtio_pci *hw);

uint64_t virtio_pci_get_features(struct vdpa_virtio_pci *hw);
void virtio_pci_set_features(struct vdpa_virtio_pci *hw, uint64_t features);
/* The features that its driver has written are these. 0; -EPROTO for others. */
int virtio_pci_check_features(struct vdpa_virtio_pci *hw, uint64_t features);
uint8_t virtio_pci_get_generation(struct vdpa_virtio_pci *hw);

uint16_t virtio_pci_num_queues(struct vdpa_virtio_pci *hw);
/* Size and doorbell of a queue. -EPROTO for a doorbell outside of the notify structure. */
int virtio_pci_vq_info(struct vdpa_virtio_pci *hw, uint16_t idx, struct vdpa_virtio_vq_info *info);
/* The same of what somebody else says of the doorbell; virtio_pci_vq_info() has checked its own. */
int virtio_pci_check_doorbell(struct vdpa_virtio_pci *hw, uint16_t idx,
			      struct vdpa_virtio_vq_info *info);
/* Whether queue_enable of a queue is set, or a negative errno. */
int virtio_pci_vq_is_enabled(struct vdpa_virtio_pci *hw, uint16_t idx);
/* Set the queue up and enable it. -ENOSPC for a vector, -EIO for a queue not granted. */
int virtio_pci_vq_enable(struct vdpa_virtio_pci *hw, uint16_t idx,
			 const struct vdpa_virtio_vq_conf *vq);
/* Whether the common configuration has the register of VIRTIO_F_RING_RESET. */
bool virtio_pci_has_vq_reset(const struct vdpa_virtio_pci *hw);
/* Reset one queue (VIRTIO_F_RING_RESET) and wait for it. -ETIMEDOUT. */
int virtio_pci_vq_reset(struct vdpa_virtio_pci *hw, uint16_t idx);

/* Where the administration queues begin (VIRTIO_F_ADMIN_VQ, negotiated), and how many there are.
 * -EPROTO for one that cannot be. */
int virtio_pci_admin_queue(struct vdpa_virtio_pci *hw, uint16_t *idx, uint16_t *num);

/* Bring an event to a vector. -ENOSPC when the function has no resources for it. */
int virtio_pci_vq_vector(struct vdpa_virtio_pci *hw, uint16_t idx, uint16_t vector);
int virtio_pci_config_vector(struct vdpa_virtio_pci *hw, uint16_t vector);
/* Reading it acknowledges the interrupt. All ones when the function is gone. */
uint8_t virtio_pci_isr(struct vdpa_virtio_pci *hw);

/* Map the doorbells that virtio_pci_vq_info() has found, as far as they are not yet. Where that
 * cannot be, they are posted. */
void virtio_pci_map_doorbells(struct vdpa_virtio_pci *hw);
void virtio_pci_unmap_doorbells(struct vdpa_virtio_pci *hw);
/*
 * Data path: tell the function to look at a queue. data: the queue in the lower half; the position
 * in the ring in the upper one, which goes out where VIRTIO_F_NOTIFICATION_DATA was negotiated. The
 * doorbell takes data then. Never waits.
 */
void virtio_pci_kick(struct vdpa_virtio_pci *hw, uint32_t doorbell, uint32_t data);
/* The doorbell as a page to give away; -EOPNOTSUPP where it shares it or is not mapped. */
int virtio_pci_doorbell_page(const struct vdpa_virtio_pci *hw, uint32_t doorbell,
			     struct vdpa_notification_area *area);

#endif /* VIRTIO_PCI_PRIV_H */
