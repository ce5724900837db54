/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A PCI function as pci.c, pci_access.c and pci_irq.c share it; transports see a pointer only. */

#ifndef PCI_DEVICE_H
#define PCI_DEVICE_H

#include <pthread.h>

#include <linux/pci_regs.h>

#include "pci_priv.h"

struct vdpa_pci {
	char *name;
	const struct vdpa_pci_transport *ops;
	void *handle;
	struct vdpa_pci_info info; /* checked */
	struct vdpa_dma_domain *dma;
	struct vdpa_pci_id id;
	unsigned int config_size; /* bytes */
	unsigned int msix_cap;	  /* offset in configuration space */
	unsigned int nr_vectors;
	unsigned int msix_bars; /* bit by BAR: has the table or the pending bits */
	unsigned int timeout_ms;
	bool opened; /* vdpa_pci_open() has succeeded */

	pthread_mutex_t lock;	   /* the command register, and interrupts: */
	unsigned int msix_enabled; /* vectors; 0: off, or parked */
	unsigned int msix_parked;  /* vectors that are on without an eventfd; 0: none */
	bool intx_on;
	bool event_on[VDPA_PCI_EVENT_REMOVE + 1]; /* as an interrupt of the transport */

	/* Taken inside anything else. */
	pthread_mutex_t gone_lock;
	int error; /* set once; 0 or a negative errno */
	char error_text[VDPA_ERROR_MAX];
	int event_fd[VDPA_PCI_EVENT_REMOVE + 1]; /* -1: none */
	bool map_faulted;			 /* by the SIGBUS handler, for any area */
};

/* pci_access.c */

/* For a call that cannot be made any more: the reason as the caller's message, and its errno. */
int vdpa_pci_gone_error(const struct vdpa_pci *pci);
/* As vdpa_pci_config_read(), in host byte order. */
int vdpa_pci_config_read16(struct vdpa_pci *pci, unsigned int offset, uint16_t *value);
int vdpa_pci_config_read32(struct vdpa_pci *pci, unsigned int offset, uint32_t *value);
int vdpa_pci_config_write16(struct vdpa_pci *pci, unsigned int offset, uint16_t value);

/* pci_irq.c */

/* Find the MSI-X capability and believe what can be: nr_vectors. 0, or -EPROTO with a message. */
int vdpa_pci_msix_init(struct vdpa_pci *pci);
/* MSI-X and INTx off. */
void vdpa_pci_irqs_off(struct vdpa_pci *pci);
/* The event that a failure is. */
enum vdpa_pci_event vdpa_pci_event_of(int error);

#endif /* PCI_DEVICE_H */
