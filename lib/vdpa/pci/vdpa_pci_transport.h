/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_pci_transport.h
 * How a PCI function is reached, for tests (a function in memory) and for ways to functions that
 * the library does not have. `pci/` and `vfio-user/` are such transports; names with the prefix of
 * a registered one are opened by vdpa_pci_open() and named in `dev add` like theirs, and drivers
 * cannot tell them apart.
 *
 * A transport moves bytes and file descriptors. Bounds, capabilities, the command register, "gone
 * for good" and messages about the function itself are the library's.
 */

#ifndef VDPA_PCI_TRANSPORT_H
#define VDPA_PCI_TRANSPORT_H

#include <linux/vfio.h>

#include "vdpa_pci.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Regions and interrupts are numbered as in linux/vfio.h, which vfio-user took over. */
#define VDPA_PCI_REGION_CONFIG VFIO_PCI_CONFIG_REGION_INDEX
#define VDPA_PCI_REGIONS       VFIO_PCI_NUM_REGIONS
#define VDPA_PCI_SPARSE_MAX    16

/** A part of a region that can be mapped; bytes. */
struct vdpa_pci_mmap_part {
	uint64_t offset, size;
};

struct vdpa_pci_region {
	uint64_t size;	   /**< bytes; 0: none */
	uint32_t flags;	   /**< VFIO_REGION_INFO_FLAG_* */
	int fd;		   /**< to mmap; -1: not to be mapped */
	bool whole_device; /**< fd is the function's own: who has it has everything */
	/** What is mapped are the function's registers themselves, by the kernel, and not memory
	 * that another process has: they may be read and written there. */
	bool is_device;
	uint64_t fd_offset;
	/** Parts that can be mapped; n_parts 0 with FLAG_MMAP: all of it. */
	unsigned int n_parts;
	struct vdpa_pci_mmap_part parts[VDPA_PCI_SPARSE_MAX];
};

/** What a transport has found out on open. The library checks it: sizes, parts, what has a meaning
 * in PCI. All zero, fd -1 and numa_node -1 when the transport gets it. */
struct vdpa_pci_info {
	struct vdpa_pci_region regions[VDPA_PCI_REGIONS];
	unsigned int nr_irqs[VFIO_PCI_NUM_IRQS]; /**< by VFIO_PCI_*_IRQ_INDEX; 0: none */
	bool can_reset;
	bool close_resets; /**< the transport's close does: no need to before */
	int numa_node;
	bool is_left; /**< the function is as a former process has left it */
	/** Of such a one: the domain takes max_mappings beside those that are made already. */
	bool maps_are_more;
};

/**
 * A transport. Calls on one function come from any thread, several at once; those that change
 * interrupts, one at a time. New calls stand behind the last one here.
 */
struct vdpa_pci_transport {
	/** sizeof(struct vdpa_pci_transport), as the transport was built with it. */
	size_t size;
	const char *prefix; /**< "pci/", "vfio-user/": letters, digits, - and _, and a slash */
	/**
	 * Connect and fill *info; *dma is the transport's until close.
	 * where follows the prefix. vdpa_pci_name(pci) works already. A negative errno with
	 * vdpa_error(), nothing left open.
	 */
	int (*open)(struct vdpa_pci *pci, const char *where, const struct vdpa_pci_params *params,
		    struct vdpa_pci_info *info, struct vdpa_dma_domain **dma, void **handle);
	void (*close)(void *handle);
	/** Optional: what the function is, without opening it. 0; -ENODEV with vdpa_error();
	 * -EOPNOTSUPP where only opening it shows that. */
	int (*identify)(const char *where, struct vdpa_pci_id *id);
	/**
	 * Little endian bytes; len is 1, 2, 4 or 8, or any for configuration space. 0, or a
	 * negative errno with vdpa_error(): the function is then gone (vdpa_pci_gone() has been
	 * called or is by the library, with that message).
	 */
	int (*read)(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len);
	int (*write)(void *handle, unsigned int region, uint64_t offset, const void *buf,
		     size_t len);
	/** As write, never waits. */
	int (*post)(void *handle, unsigned int region, uint64_t offset, const void *buf,
		    size_t len);
	/**
	 * VFIO_DEVICE_SET_IRQS by index. fds: count of them from start on, -1 for none; NULL with
	 * count 0: the index off. unmask: of INTx.
	 */
	int (*set_irqs)(void *handle, unsigned int index, unsigned int start, unsigned int count,
			const int *fds);
	int (*unmask_irq)(void *handle, unsigned int index);
	int (*reset)(void *handle);
	/**
	 * Optional: take the function, which is gone for the library, out of its DMA domain, so
	 * that it reaches nothing that others have there. Only close follows.
	 */
	int (*cut_off)(void *handle);
	/**
	 * Optional, where a region's fd is the whole device: a file of this part alone, whole
	 * pages, which reaches it from offset 0 and ends with the function. -EOPNOTSUPP where the
	 * kernel makes none.
	 */
	int (*export_part)(void *handle, unsigned int region, uint64_t offset, uint64_t size);

	/* Optional, all four: the function's DMA log, in pages of VDPA_PCI_DMA_LOG_PAGE. */

	/** Whether the function keeps one; nothing changes by it. */
	bool (*dma_log_probe)(void *handle);
	/** Log writes within n ranges of whole pages, ascending and disjoint, 1 to
	 * VDPA_PCI_DMA_LOG_RANGES. A negative errno: there is none then. */
	int (*dma_log_start)(void *handle, const struct vdpa_dma_range *ranges, unsigned int n);
	/** Set the bits of pages that were written, bit 0 of the first word for the page at iova,
	 * and forget that; size is of whole pages within a range. bitmap is zero where it is asked
	 * for the first time, and may keep bits from before. A negative errno: what was written is
	 * not known any more. */
	int (*dma_log_report)(void *handle, uint64_t iova, uint64_t size, uint64_t *bitmap);
	int (*dma_log_stop)(void *handle);

	/* Optional, all four: the function outlives the process. For transports of the library.
	 */

	/**
	 * Put what the function is reached by into the store, under names of the device's, or
	 * (on being false) drop what is there; then handle may be NULL. -EOPNOTSUPP with
	 * vdpa_error() for a function that cannot be kept.
	 */
	int (*keep)(void *handle, const char *device, bool on);
	/** By the domain's arg, as dma_kept.h has it, of a mapping that was recorded. */
	int (*adopt)(void *arg, const struct vdpa_dma_mapping *m);
	/** The next process has the function: close, and unmap of its domain, leave it as it is. */
	void (*leave)(void *handle);
	/** No other process has the function, and this one has left it, or reaches it no more: end
	 * its DMA by what is left of this process' hold on it, and log how. Waits for the function.
	 */
	void (*stop)(void *handle);
};

/**
 * Make names that begin with transport->prefix those of PCI functions. From any thread, before
 * vdpa_init() too.
 *
 * @param transport  copied, but for the prefix, which stays the caller's until it is unregistered.
 * @return 0; -EINVAL with vdpa_error_message() for a prefix that is not allowed, a call that is
 * NULL and not optional, or a size less than any version had; -E2BIG for calls of a later version
 * that this library does not have; -EEXIST for a prefix in use; -ENOMEM.
 */
int vdpa_pci_register_transport(const struct vdpa_pci_transport *transport);
/** Forget the transport of that prefix; no-op where there is none. None of its functions is open or
 * being opened. */
void vdpa_pci_unregister_transport(const char *prefix);

/**
 * The function is gone, for good: the first call counts, is logged and signals the remove event
 * (-ENODEV) or the error event (else). From any thread; it takes no lock but its own.
 *
 * @param err  errno, positive or negative.
 * @param fmt  of a message of one line that begins with the function's name, as vdpa_error()'s do.
 */
void vdpa_pci_gone(struct vdpa_pci *pci, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif

#endif /* VDPA_PCI_TRANSPORT_H */
