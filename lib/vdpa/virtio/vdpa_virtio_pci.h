/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_virtio_pci.h
 * A modern virtio-pci function as registers (virtio 1.2, 4.1), for drivers: where its structures
 * lie, checked, and what is read and written there. Knows PCI and virtio, and nothing of vDPA;
 * vdpa_virtio.h makes a device of it.
 *
 * The function is not trusted: every offset, length and multiplier is checked against the BAR that
 * it names before anything is accessed by it, and every wait has a bound.
 *
 * Threads: one at a time for calls that select a queue or a half of the features, which ops are, by
 * the device's lock. Status, generation, ISR, configuration and doorbells are for any thread.
 */

#ifndef VDPA_VIRTIO_PCI_H
#define VDPA_VIRTIO_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa_driver.h"
#include "vdpa_pci.h"

#ifdef __cplusplus
extern "C" {
#endif

/** No MSI-X vector (4.1.5.1.2). */
#define VDPA_VIRTIO_NO_VECTOR 0xffff

/** Kinds of structures that a capability names (4.1.4). */
enum vdpa_virtio_cap {
	VDPA_VIRTIO_CAP_COMMON = 1,
	VDPA_VIRTIO_CAP_NOTIFY = 2,
	VDPA_VIRTIO_CAP_ISR = 3,
	VDPA_VIRTIO_CAP_DEVICE = 4,
	VDPA_VIRTIO_CAP_VENDOR = 9,
};

/** Selectors of the common configuration, by their offsets there (4.1.4.3). */
enum vdpa_virtio_selector {
	VDPA_VIRTIO_SELECT_DEVICE_FEATURE = 0, /**< 32 bits */
	VDPA_VIRTIO_SELECT_DRIVER_FEATURE = 8, /**< 32 bits */
	VDPA_VIRTIO_SELECT_QUEUE = 22,	       /**< 16 bits */
};

/** Where a structure lies. length 0: the function has none. */
struct vdpa_virtio_part {
	uint8_t bar;
	uint32_t offset; /**< bytes, in the BAR */
	uint32_t length; /**< bytes, within the BAR */
};

struct vdpa_virtio_pci;

/** Where a vendor's function differs from the specification. NULL or 0: it follows it there. */
struct vdpa_virtio_pci_ops {
	/**
	 * Fill in type, the structures and the multiplier, by vdpa_virtio_pci_find(), by
	 * vdpa_virtio_pci_bar_caps() or otherwise. 0; -ENODEV: not a function of this kind, ask the
	 * next driver; another negative errno with the message.
	 */
	int (*find)(struct vdpa_virtio_pci *hw);
	/** A capability of the vendor's own (VDPA_VIRTIO_CAP_VENDOR), found at pos of the list's
	 * space. 0, or a negative errno with the message: the function is not taken. */
	int (*vendor_cap)(struct vdpa_virtio_pci *hw, unsigned int pos);
	/**
	 * Write a selector, and return when what it selects can be read. false: the function did
	 * not take it in time; no register is read by it then, and every call fails until a reset.
	 * With vdpa_virtio_wait(), which bounds it.
	 */
	bool (*select)(struct vdpa_virtio_pci *hw, enum vdpa_virtio_selector selector,
		       uint16_t value);
	/** What is written to the status to reset the function; it reads 0 when that is done. */
	uint8_t reset_status;
};

struct vdpa_patience;

/** A function. A driver reads it, and writes what struct vdpa_virtio_pci_ops.find fills in. */
struct vdpa_virtio_pci {
	struct vdpa_pci *pci;
	const struct vdpa_virtio_pci_ops *ops; /**< never NULL */
	uint16_t type;			       /**< virtio device id: 1 net, 2 block, ... */
	uint32_t multiplier;		       /**< of queue_notify_off, bytes (4.1.4.4) */
	struct vdpa_virtio_part common, notify, isr, config;
	/** BARs that a virtio capability of whatever kind names: bit n for BAR n. */
	unsigned int cap_bars;

	struct vdpa_patience *patience; /**< the service's, like all that follows */
	uint32_t doorbell_last;		/**< the highest offset seen in the notify structure */
	bool notification_data;		/**< negotiated */
	bool stuck;			/**< a selector was not taken, until the next reset */
	struct vdpa_pci_area doorbells; /**< the notify structure from its start; va NULL: none */
	/** A former process has set it up, and it runs: what is to be written is compared. */
	bool adopts;
};

/** What a queue is before anybody sets it up. */
struct vdpa_virtio_vq_info {
	uint16_t num_max;  /**< largest size; 0: the function has no such queue */
	uint32_t doorbell; /**< offset in the notify structure, bytes */
	bool takes_data;   /**< room for 32 bits, as VIRTIO_F_NOTIFICATION_DATA needs */
};

/** How a queue is enabled. */
struct vdpa_virtio_vq_conf {
	uint16_t num;
	uint16_t vector;	       /**< or VDPA_VIRTIO_NO_VECTOR */
	uint64_t desc, driver, device; /**< IOVAs */
};

/**
 * A wait that ends: for (vdpa_virtio_wait_start(&w, hw); !done();) if (!vdpa_virtio_wait(&w))
 * time-out. It lasts the function's time-out at most (word `timeout_ms`), and all waits for a
 * function draw on one patience.
 */
struct vdpa_virtio_wait {
	struct vdpa_virtio_pci *hw;
	unsigned int ms; /**< how long it lasts at most */
	unsigned int nap_us;
};

void vdpa_virtio_wait_start(struct vdpa_virtio_wait *wait, struct vdpa_virtio_pci *hw);
/** Sleep a little; false when the time is over. */
bool vdpa_virtio_wait(struct vdpa_virtio_wait *wait);

/**
 * As struct vdpa_virtio_pci_ops.find, by PCI ids and the capability list of the configuration space
 * (4.1.2, 4.1.4). -ENODEV: the device id is none of virtio's; -ENOTSUP for a legacy-only function;
 * -EPROTO for a capability that cannot be; what vdpa_pci_config_read() returns.
 */
int vdpa_virtio_pci_find(struct vdpa_virtio_pci *hw);
/**
 * The same by a capability list inside a BAR, laid out as that of a configuration space of 256
 * bytes: the byte at base + 0x34 says where the list begins, positions count from base. The type is
 * the caller's to find.
 */
int vdpa_virtio_pci_bar_caps(struct vdpa_virtio_pci *hw, unsigned int bar, uint32_t base);

/** 0 while the function answers, else a negative errno with the message: what vdpa_pci_error()
 * says, or -ETIMEDOUT for a selector that was not taken. */
int vdpa_virtio_pci_check(const struct vdpa_virtio_pci *hw);

uint8_t vdpa_virtio_pci_get_status(struct vdpa_virtio_pci *hw);
void vdpa_virtio_pci_set_status(struct vdpa_virtio_pci *hw, uint8_t status);

/** Device-specific configuration; offset + len within config.length. 0 or
 * vdpa_virtio_pci_check(). */
int vdpa_virtio_pci_read_config(struct vdpa_virtio_pci *hw, uint32_t offset, void *buf,
				uint32_t len);
int vdpa_virtio_pci_write_config(struct vdpa_virtio_pci *hw, uint32_t offset, const void *buf,
				 uint32_t len);

/**
 * Write queue_enable and see it taken. 0 is for functions that take it, as a virtio device need not
 * (4.1.4.3.2): then it waits until the queue stands still. 0; -EIO for a queue that is not enabled,
 * -ETIMEDOUT for one that is not disabled; vdpa_virtio_pci_check().
 */
int vdpa_virtio_pci_vq_set_enable(struct vdpa_virtio_pci *hw, uint16_t idx, bool enable);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_VIRTIO_PCI_H */
