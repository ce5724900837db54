/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A PCI function as pci.c, pci_access.c and pci_irq.c share it; transports see a pointer only. */

#ifndef PCI_DEVICE_H
#define PCI_DEVICE_H

#include <pthread.h>

#include <linux/pci_regs.h>

#include "pci_priv.h"
#include "restart.h"

/* Mapped registers. */
struct vdpa_pci_window {
	unsigned int bar;
	uint64_t offset;
	struct vdpa_pci_area area;
};

/* A virtio function has three structures of registers. */
#define VDPA_PCI_WINDOWS 4

struct vdpa_pci {
	char *name;
	const struct vdpa_pci_transport *ops; /* atomic: vdpa_pci_ops() */
	void *handle;
	struct vdpa_pci_info info; /* checked */
	struct vdpa_dma_domain *dma;
	struct vdpa_pci_id id;
	unsigned int config_size; /* bytes */
	unsigned int msix_cap;	  /* offset in configuration space */
	unsigned int nr_vectors;
	unsigned int msix_bars; /* bit by BAR: has the table or the pending bits */
	unsigned int timeout_ms;
	bool opened;				  /* vdpa_pci_open() has succeeded */
	struct vdpa_pci_kept *kept;		  /* NULL: it ends with the process */
	struct vdpa_pci_transport *left_ops;	  /* malloc; calls that do nothing */
	const struct vdpa_pci_transport *own_ops; /* those before it was left behind */
	bool is_left_behind;			  /* the next process has it; atomic, behind ops */

	/* pci_held.c. A process that lives may have it back. */
	pthread_mutex_t held_lock; /* around locks of transports */
	bool is_held;		   /* atomic */
	bool is_idle;		   /* nothing is lost by a reset all the same */
	struct vdpa_restart_waiter waiter;

	pthread_mutex_t lock; /* the command register, new windows, and interrupts: */
	bool command_known;
	uint16_t command;	   /* what is in it, where that is known */
	unsigned int msix_enabled; /* vectors; 0: off, or parked */
	unsigned int msix_parked;  /* vectors that are on without an eventfd; 0: none */
	bool intx_on;
	bool event_on[VDPA_PCI_EVENT_REMOVE + 1]; /* as an interrupt of the transport */

	unsigned int n_windows; /* read by atomic load; they stay until the close */
	struct vdpa_pci_window windows[VDPA_PCI_WINDOWS];

	/* Taken inside anything else. */
	pthread_mutex_t gone_lock;
	int error; /* set once; 0 or a negative errno */
	char error_text[VDPA_ERROR_MAX];
	int event_fd[VDPA_PCI_EVENT_REMOVE + 1]; /* -1: none */
	bool map_faulted;			 /* by the SIGBUS handler, for any area */
};

/* The calls in force: others from vdpa_pci_leave() on, which may come while another thread accesses
 * registers. */
static inline const struct vdpa_pci_transport *
vdpa_pci_ops(const struct vdpa_pci *pci)
{
	return __atomic_load_n(&pci->ops, __ATOMIC_ACQUIRE);
}

static inline bool
vdpa_pci_is_left_behind(const struct vdpa_pci *pci)
{
	return __atomic_load_n(&pci->is_left_behind, __ATOMIC_ACQUIRE);
}

/* pci_access.c */

/* For a call that cannot be made any more: the reason as the caller's message, and its errno. */
int vdpa_pci_gone_error(const struct vdpa_pci *pci);
/* A call of a transport has failed: what it said since errors_before (vdpa_error_count()) is why
 * the function is gone. */
void vdpa_pci_transport_failed(struct vdpa_pci *pci, int err, unsigned int errors_before);
/* As vdpa_pci_map(), of what is not to be given away. */
int vdpa_pci_map_ours(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size,
		      struct vdpa_pci_area *area);
/* As vdpa_pci_config_read(), in host byte order. */
int vdpa_pci_config_read16(struct vdpa_pci *pci, unsigned int offset, uint16_t *value);
int vdpa_pci_config_read32(struct vdpa_pci *pci, unsigned int offset, uint32_t *value);
int vdpa_pci_config_write16(struct vdpa_pci *pci, unsigned int offset, uint16_t value);

/* pci_registers.c */

/* Of a function that is gone: mapped registers reach it no more, and hold its file no more. 0, or
 * what mmap(2) says. */
int vdpa_pci_cut_windows(struct vdpa_pci *pci);
/* While nobody accesses registers. */
void vdpa_pci_unmap_windows(struct vdpa_pci *pci);

/* pci.c: memory decoding on, bus master off. */
int vdpa_pci_enable_memory(struct vdpa_pci *pci);

/* pci_kept.c, around vdpa_pci_open() and vdpa_pci_close(). */

/* Before the transport opens it: what is recorded of it, if the device of this name (NULL: none) is
 * kept. 0 or -ENOMEM. */
int vdpa_pci_kept_begin(struct vdpa_pci *pci, const char *device);
/* Once it is open: the transport has it as it was left, or not. What its domain has mapped. -ESTALE
 * where that cannot be its domain: it is to be closed, and opened anew. */
int vdpa_pci_kept_opened(struct vdpa_pci *pci, bool is_left);
/* Once it is known what it is. -EPROTO where it is another one, which cannot begin anew. */
int vdpa_pci_kept_identified(struct vdpa_pci *pci);
/* Before it is closed, and then. */
void vdpa_pci_kept_end(struct vdpa_pci *pci);
void vdpa_pci_kept_free(struct vdpa_pci *pci);
/* The process reaches it no more. 0, or -ENOMEM. */
int vdpa_pci_kept_leave(struct vdpa_pci *pci);
/* No other process has it back any more. */
void vdpa_pci_kept_goes(struct vdpa_pci *pci);

/* pci_held.c */

/* The function is as a former process has left it, which may have it back where it lives. 0, or
 * -ENOMEM. */
int vdpa_pci_hold(struct vdpa_pci *pci);
/* Whether one may. */
bool vdpa_pci_waits(const struct vdpa_pci *pci);
/* -EBUSY, with a message. */
int vdpa_pci_held_error(const struct vdpa_pci *pci);
/* Before it is closed. */
void vdpa_pci_hold_ends(struct vdpa_pci *pci);

/* pci_irq.c */

/* Find the MSI-X capability and believe what can be: nr_vectors. 0, or -EPROTO with a message. */
int vdpa_pci_msix_init(struct vdpa_pci *pci);
/* MSI-X and INTx off. */
void vdpa_pci_irqs_off(struct vdpa_pci *pci);
/* The event that a failure is. */
enum vdpa_pci_event vdpa_pci_event_of(int error);

#endif /* PCI_DEVICE_H */
