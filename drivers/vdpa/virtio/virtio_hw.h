/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A modern virtio-pci function as registers (virtio 1.2, 4.1): where its structures lie, checked,
 * and what is read and written there. Knows PCI and virtio, and nothing of vDPA.
 *
 * The function is not trusted: every offset, length and multiplier is checked against the BAR that
 * it names before anything is accessed by it, and every wait has a bound. Calls that select a queue
 * or a half of the features are not to run at the same time; status, generation, ISR and doorbells
 * may be used from any thread.
 */

#ifndef VIRTIO_HW_H
#define VIRTIO_HW_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/virtio_ring.h>

#include "patience.h"
#include "vdpa_driver.h"
#include "vdpa_pci.h"
#include "virtio_compat.h"

#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

/* Device status, beside VIRTIO_CONFIG_S_*. */
#define VIRTIO_STATUS_GONE 0xff /* all ones: nobody answers */

#define VIRTIO_NEEDS_RESET_TEXT "the device says that it needs a reset"

/* ISR status (4.1.4.5). */
#define VIRTIO_ISR_QUEUE  0x01
#define VIRTIO_ISR_CONFIG 0x02

#define VIRTIO_NO_VECTOR 0xffff

/* Where a structure lies. length 0: the function has none. */
struct virtio_hw_part {
	uint8_t bar;
	uint32_t offset;
	uint32_t length;
};

struct virtio_hw {
	struct vdpa_pci *pci;
	uint16_t type; /* virtio device id: 1 net, 2 block, ... */
	struct virtio_hw_part common, notify, isr, config;
	struct vdpa_patience patience;
	uint32_t multiplier;		/* of queue_notify_off, bytes */
	uint32_t doorbell_last;		/* the highest offset seen in the notify structure */
	bool notification_data;		/* negotiated */
	struct vdpa_pci_area doorbells; /* of the notify structure from its start; va NULL: none */
};

/* What a queue is before anybody sets it up. */
struct virtio_hw_vq_info {
	uint16_t num_max;  /* largest size; 0: the function has no such queue */
	uint32_t doorbell; /* offset in the notify structure, bytes */
	bool takes_data;   /* it has room for 32 bits, as VIRTIO_F_NOTIFICATION_DATA needs */
};

/* How a queue is enabled. */
struct virtio_hw_vq {
	uint16_t num;
	uint16_t vector; /* or VIRTIO_NO_VECTOR */
	uint64_t desc, driver, device;
};

/*
 * A wait that ends: for (virtio_wait_start(&w, hw); !done(); ) if (!virtio_wait(&w)) time-out.
 *
 * All waits for a function draw on its patience.
 */
struct virtio_wait {
	struct virtio_hw *hw;
	unsigned int ms; /* how long it lasts at most */
	unsigned int nap_us;
};

void virtio_wait_start(struct virtio_wait *wait, struct virtio_hw *hw);
/* Sleep a little; false when the time is over. */
bool virtio_wait(struct virtio_wait *wait);

/*
 * Find the structures of an open function, and reset it.
 * @return 0; a negative errno with one line that names the function and the fact: -ENOTSUP for what
 * is no virtio device, or a legacy-only one; -EPROTO for a capability that cannot be; -ETIMEDOUT
 * when it does not reset.
 */
int virtio_hw_open(struct virtio_hw *hw, struct vdpa_pci *pci);
/* Doorbells unmapped; close: DMA off and the function closed too. No-op when not open. */
void virtio_hw_close(struct virtio_hw *hw, bool close);

/* 0 while the function answers, else its first failure, with the message. */
int virtio_hw_check(const struct virtio_hw *hw);

uint8_t virtio_hw_get_status(struct virtio_hw *hw);
void virtio_hw_set_status(struct virtio_hw *hw, uint8_t status);
/*
 * Status 0 and wait for it; where that does not come, a reset of the function; where there is none,
 * at least no more DMA. 0; -ENODEV for one that is gone; -ETIMEDOUT: "does not reset".
 */
int virtio_hw_reset(struct virtio_hw *hw);

uint64_t virtio_hw_get_features(struct virtio_hw *hw);
void virtio_hw_set_features(struct virtio_hw *hw, uint64_t features);

/* Device-specific configuration; offset + len within config.length. 0 or virtio_hw_check(). */
int virtio_hw_read_config(struct virtio_hw *hw, uint32_t offset, void *buf, uint32_t len);
int virtio_hw_write_config(struct virtio_hw *hw, uint32_t offset, const void *buf, uint32_t len);
uint8_t virtio_hw_get_generation(struct virtio_hw *hw);

uint16_t virtio_hw_num_queues(struct virtio_hw *hw);
/* Size and doorbell of a queue. -EPROTO for a doorbell outside of the notify structure. */
int virtio_hw_vq_info(struct virtio_hw *hw, uint16_t idx, struct virtio_hw_vq_info *info);
/* Set the queue up and enable it. -ENOSPC for a vector, -EIO for a queue not granted. */
int virtio_hw_vq_enable(struct virtio_hw *hw, uint16_t idx, const struct virtio_hw_vq *vq);
/* Whether the common configuration has the register of VIRTIO_F_RING_RESET. */
bool virtio_hw_has_vq_reset(const struct virtio_hw *hw);
/* Reset one queue (VIRTIO_F_RING_RESET) and wait for it. -ETIMEDOUT. */
int virtio_hw_vq_reset(struct virtio_hw *hw, uint16_t idx);

/* Bring an event to a vector. -ENOSPC when the function has no resources for it. */
int virtio_hw_vq_vector(struct virtio_hw *hw, uint16_t idx, uint16_t vector);
int virtio_hw_config_vector(struct virtio_hw *hw, uint16_t vector);
/* Reading it acknowledges the interrupt. All ones when the function is gone. */
uint8_t virtio_hw_isr(struct virtio_hw *hw);

/* Map the doorbells that virtio_hw_vq_info() has found. Where that cannot be, they are posted. */
void virtio_hw_map_doorbells(struct virtio_hw *hw);
void virtio_hw_unmap_doorbells(struct virtio_hw *hw);
/*
 * Data path: tell the function to look at a queue. data: the queue in the lower half; the position
 * in the ring in the upper one, which goes out where VIRTIO_F_NOTIFICATION_DATA was negotiated. The
 * doorbell takes data then. Never waits.
 */
void virtio_hw_kick(struct virtio_hw *hw, uint32_t doorbell, uint32_t data);
/* The doorbell as a page to give away; -EOPNOTSUPP where it shares it or is not mapped. */
int virtio_hw_doorbell_page(const struct virtio_hw *hw, uint32_t doorbell,
			    struct vdpa_notification_area *area);

#endif /* VIRTIO_HW_H */
