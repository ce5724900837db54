/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Between pci.c, which knows what a PCI function is, and the transports that reach one (vfio.c,
 * vfio_user.c). A transport moves bytes and file descriptors; bounds, capabilities, the command
 * register, "gone for good" and messages about the function itself are pci.c's.
 */

#ifndef VDPA_PCI_PRIV_H
#define VDPA_PCI_PRIV_H

#include <stdarg.h>

#include <linux/vfio.h>

#include "error_priv.h"
#include "vdpa_pci.h"

/* Regions and interrupts are numbered as in linux/vfio.h, which vfio-user took over. */
#define VDPA_PCI_REGION_CONFIG VFIO_PCI_CONFIG_REGION_INDEX
#define VDPA_PCI_REGIONS       VFIO_PCI_NUM_REGIONS
#define VDPA_PCI_SPARSE_MAX    16

/* "0000:06:00.2" with a domain of up to 32 bits, and its NUL. */
#define VDPA_PCI_ADDRESS_MAX 20

/* A part of a region that can be mapped. */
struct vdpa_pci_mmap_part {
	uint64_t offset, size;
};

struct vdpa_pci_region {
	uint64_t size;	   /* 0: none */
	uint32_t flags;	   /* VFIO_REGION_INFO_FLAG_* */
	int fd;		   /* to mmap; -1: not to be mapped */
	bool whole_device; /* fd is the function's own: who has it has everything */
	/* What is mapped are the function's registers themselves, by the kernel, and not memory
	 * that another process has: they may be read and written there. */
	bool is_device;
	uint64_t fd_offset;
	/* Parts that can be mapped; n_parts 0 with FLAG_MMAP: all of it. */
	unsigned int n_parts;
	struct vdpa_pci_mmap_part parts[VDPA_PCI_SPARSE_MAX];
};

/* What a transport has found out on open. pci.c checks it: sizes, parts, what has a meaning in PCI.
 * All zero, fd -1 and numa_node -1 when the transport gets it. */
struct vdpa_pci_info {
	struct vdpa_pci_region regions[VDPA_PCI_REGIONS];
	unsigned int nr_irqs[VFIO_PCI_NUM_IRQS]; /* by VFIO_PCI_*_IRQ_INDEX; 0: none */
	bool can_reset;
	bool close_resets; /* the transport's close does: no need to before */
	int numa_node;
};

struct vdpa_pci_transport {
	const char *prefix; /* "pci/", "vfio-user/" */
	/*
	 * Connect and fill *info; *dma is the transport's until close.
	 * where follows the prefix. vdpa_pci_name(pci) works already. A negative errno with
	 * vdpa_error(), nothing left open.
	 */
	int (*open)(struct vdpa_pci *pci, const char *where, const struct vdpa_pci_params *params,
		    struct vdpa_pci_info *info, struct vdpa_dma_domain **dma, void **handle);
	void (*close)(void *handle);
	/* Optional: what the function is, without opening it. 0, or -ENODEV with vdpa_error(). */
	int (*identify)(const char *where, struct vdpa_pci_id *id);
	/*
	 * Little endian bytes; len is 1, 2, 4 or 8, or any for configuration space. 0, or a
	 * negative errno with vdpa_error(): the function is then gone (vdpa_pci_gone() has been
	 * called or is by pci.c, with that message).
	 */
	int (*read)(void *handle, unsigned int region, uint64_t offset, void *buf, size_t len);
	int (*write)(void *handle, unsigned int region, uint64_t offset, const void *buf,
		     size_t len);
	/* As write, never waits. */
	int (*post)(void *handle, unsigned int region, uint64_t offset, const void *buf,
		    size_t len);
	/*
	 * VFIO_DEVICE_SET_IRQS by index. fds: count of them from start on, -1 for none; NULL with
	 * count 0: the index off. unmask: of INTx.
	 */
	int (*set_irqs)(void *handle, unsigned int index, unsigned int start, unsigned int count,
			const int *fds);
	int (*unmask_irq)(void *handle, unsigned int index);
	int (*reset)(void *handle);
	/*
	 * Optional: take the function, which is gone for pci.c, out of its DMA domain, so that it
	 * reaches nothing that others have there. Only close follows.
	 */
	int (*cut_off)(void *handle);
	/*
	 * Optional, where a region's fd is the whole device: a file of this part alone, whole
	 * pages, which reaches it from offset 0 and ends with the function. -EOPNOTSUPP where the
	 * kernel makes none.
	 */
	int (*export_part)(void *handle, unsigned int region, uint64_t offset, uint64_t size);
};

extern const struct vdpa_pci_transport vdpa_pci_vfio, vdpa_pci_vfio_user;
/* pci_name.c: the transport of a name, and the name in full, to be freed. -EINVAL or -ENOMEM. */
int vdpa_pci_resolve(const char *name, const struct vdpa_pci_transport **ops, char **full);
/* For tests: one more transport, tried first; NULL: none. */
void vdpa_pci_set_test_transport(const struct vdpa_pci_transport *transport);

/*
 * The function is gone, for good: the first call counts, is logged and signals the remove event
 * (-ENODEV) or the error event (else). The message is one line that begins with the function's
 * name, as vdpa_error()'s do. From any thread; it takes no lock but its own.
 */
void vdpa_pci_gone(struct vdpa_pci *pci, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

#endif /* VDPA_PCI_PRIV_H */
