/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_pci.h
 * PCI functions for drivers: registers, doorbell pages, MSI-X, DMA, over whatever reaches them.
 *
 * A function is opened by the name of its management device: `pci/0000:06:00.2` (the kernel's
 * vfio-pci) or `vfio-user/PATH` (a device in another process, on the UNIX socket PATH). A driver
 * cannot tell the two apart. It never dereferences a BAR for registers: reads and writes name (BAR,
 * offset) and are checked against the BAR's size; only doorbell and memory areas are mapped for it.
 *
 * A function is not trusted. Reads of one that is gone (surprise removal, disconnected, a request
 * that was not answered in time) give all ones, writes do nothing, both at once and for good:
 * vdpa_pci_error() says so. Every wait is bounded.
 *
 * Threads: calls on one function may come from any thread; each is atomic by itself. The kick path
 * (vdpa_pci_post16(), vdpa_pci_post32()) never waits.
 */

#ifndef VDPA_PCI_H
#define VDPA_PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vdpa_dma.h"
#include "vdpa_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

/** BARs are 0 to 5. */
#define VDPA_PCI_BARS 6

struct vdpa_pci;

/** Longest wait for one answer where nobody says another, milliseconds. */
#define VDPA_PCI_TIMEOUT_MS 1000u

/** How vdpa_pci_open() opens a function. Zero-initialise it; a zero field is the default. */
struct vdpa_pci_params {
	/** Virtual machine that the function serves, by name: functions of one VM share a DMA
	 * domain where the transport can (VFIO: one container, and one set of pins). NULL: none.
	 * Only for the call. */
	const char *vm;
	/** Longest wait for one answer over vfio-user, milliseconds; 0: VDPA_PCI_TIMEOUT_MS. */
	unsigned int timeout_ms;
};

/** What a function says that it is. */
struct vdpa_pci_id {
	uint16_t vendor, device;
	uint16_t subsystem_vendor, subsystem;
	uint32_t class_code; /**< 24 bits */
	uint8_t revision;
};

/**
 * Open a function: it is ours alone, memory decoding on, bus master off, no interrupt set.
 *
 * @param name    `pci/ADDRESS` (or just the address), `vfio-user/PATH`, or a name of a transport
 *                that was registered (vdpa_pci_transport.h).
 * @param params  NULL for the defaults.
 * @return 0; a negative errno with one line that names the function, the fact and the command that
 * mends it: -EINVAL for a name that is none of these; -ENODEV for no such function; -EBUSY for one
 * that is bound to another driver or open elsewhere, or whose group is not viable (it names the
 * function in the way and its driver); -EACCES for /dev/vfio without permission; -ENOTSUP for no
 * IOMMU, or a group in no-IOMMU mode; -ECONNREFUSED, -ENOENT for a socket where nobody listens;
 * -EPROTO for a vfio-user server that does not keep to the protocol; -ETIMEDOUT for one that does
 * not answer; -ENOMEM. Nothing is left open then.
 */
int vdpa_pci_open(const char *name, const struct vdpa_pci_params *params, struct vdpa_pci **out);

/**
 * Interrupts off, bus master off, reset where it can be, everything unmapped and closed. NULL:
 * no-op. Where Linux has not noticed that a function was pulled out, it waits up to a minute in
 * here for it to come back from the reset.
 */
void vdpa_pci_close(struct vdpa_pci *pci);

/** The full name, `pci/0000:06:00.2` or `vfio-user/PATH`; for messages. */
const char *vdpa_pci_name(const struct vdpa_pci *pci);
const struct vdpa_pci_id *vdpa_pci_get_id(const struct vdpa_pci *pci);
/** Longest wait for an answer that it was opened with, milliseconds; for a driver's own waits. */
unsigned int vdpa_pci_timeout_ms(const struct vdpa_pci *pci);
/** NUMA node, -1 when unknown. */
int vdpa_pci_numa_node(const struct vdpa_pci *pci);

/**
 * 0 while the function answers; the negative errno of the first failure once it does not any more:
 * -ENODEV removed or disconnected, -ETIMEDOUT, -EPROTO; vdpa_pci_error_text() is its one line.
 */
int vdpa_pci_error(const struct vdpa_pci *pci);
const char *vdpa_pci_error_text(const struct vdpa_pci *pci);

/**
 * Ask the function whether it is there: reads its class code (a kernel answers for the vendor id
 * even after removal). False when it is gone, now or before. Registers that read all ones ask by
 * themselves.
 */
bool vdpa_pci_present(struct vdpa_pci *pci);

/* Configuration space. */

/** -EINVAL past its size (256 or 4096 bytes); vdpa_pci_error() when it is gone (buf is all ones).
 */
int vdpa_pci_config_read(struct vdpa_pci *pci, unsigned int offset, void *buf, size_t len);
int vdpa_pci_config_write(struct vdpa_pci *pci, unsigned int offset, const void *buf, size_t len);

/**
 * Walk the capability list (PCI 3.0, 6.7).
 * @param id     capability id, e.g. 0x09 vendor specific.
 * @param after  0 to begin, or the offset that the last call returned.
 * @return offset in configuration space; -ENOENT when there is none (any more); -EPROTO for a list
 * that loops or points into the header (the message says where); vdpa_pci_error() when it is gone.
 */
int vdpa_pci_find_cap(struct vdpa_pci *pci, uint8_t id, unsigned int after);

/* BARs. */

/** Size of a BAR in bytes; 0: none, or I/O ports (which are not supported). */
uint64_t vdpa_pci_bar_size(const struct vdpa_pci *pci, unsigned int bar);

/** Whether [offset, offset + len) lies within the BAR; for capabilities, before they are believed.
 */
bool vdpa_pci_bar_has(const struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t len);

/**
 * Registers, host byte order (PCI is little endian). offset is aligned to the width. Outside the
 * BAR, or misaligned, is a driver's error: all ones or no effect, and the function is marked failed
 * (-EFAULT).
 */
uint8_t vdpa_pci_read8(struct vdpa_pci *pci, unsigned int bar, uint64_t offset);
uint16_t vdpa_pci_read16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset);
uint32_t vdpa_pci_read32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset);
uint64_t vdpa_pci_read64(struct vdpa_pci *pci, unsigned int bar, uint64_t offset);
void vdpa_pci_write8(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint8_t value);
void vdpa_pci_write16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint16_t value);
void vdpa_pci_write32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint32_t value);
void vdpa_pci_write64(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t value);

/**
 * Posted writes, for doorbells that could not be mapped and for registers that are read back:
 * ordered with all other accesses, not waited for. While the function takes none, one that waits
 * to be sent already is not sent twice.
 */
void vdpa_pci_post16(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint16_t value);
void vdpa_pci_post32(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint32_t value);

/**
 * Say that [offset, offset + size) of a BAR has registers which are used often, so that accesses of
 * up to 32 bits there need no system call. It has an effect only over vfio-pci, where the kernel
 * lets that part be mapped, and for four parts; accesses mean the same without. The mapping is not
 * shared with anybody, and ends with vdpa_pci_cut_off() or vdpa_pci_close(). From any thread.
 */
void vdpa_pci_map_registers(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size);

/** A mapped part of a BAR. */
struct vdpa_pci_area {
	volatile void *va; /**< of the offset asked for */
	int fd;		   /**< the transport's; mmap(fd, fd_offset) reaches the same */
	uint64_t fd_offset;
	uint64_t size; /**< bytes */
	void *map;     /**< what was mmap()ed */
	size_t map_len;
	/** Another process can cut the file short: whoever else maps it would die of SIGBUS. Ours
	 * to use (see vdpa_pci_areas_present()), not to be given away. */
	bool shrinkable;
	/** fd reaches all of the function, not only what may be mapped (see struct
	 * vdpa_notification_area). */
	bool whole_device;
	bool own_fd; /**< fd was made for this area, and is closed with it */
};

/**
 * Map [offset, offset + size) of a BAR.
 * @return 0; -EOPNOTSUPP when the transport or device traps this part (use vdpa_pci_post16());
 * -EFAULT past the BAR; -EPROTO for a file that is shorter than the BAR; -ENOMEM;
 * vdpa_pci_error() when it is gone; what mmap(2) says. An area must be
 * unmapped before the function is closed.
 */
int vdpa_pci_map(struct vdpa_pci *pci, unsigned int bar, uint64_t offset, uint64_t size,
		 struct vdpa_pci_area *area);
void vdpa_pci_unmap(struct vdpa_pci *pci, struct vdpa_pci_area *area);

/**
 * After a write to a mapped area: false when an area is lost, with the device removed or its file
 * cut short; the write went nowhere then, and the function is marked as removed. One load unless
 * so, for the kick path.
 */
bool vdpa_pci_areas_present(struct vdpa_pci *pci);

/* Interrupts. Eventfds stay the caller's, open until replaced. */

/** MSI-X vectors that the function has; 0: none. */
unsigned int vdpa_pci_nr_vectors(const struct vdpa_pci *pci);
/** BARs that have the MSI-X table or its pending bits: bit n for BAR n. */
unsigned int vdpa_pci_msix_bars(const struct vdpa_pci *pci);

/**
 * Enable MSI-X with vectors 0 .. n - 1, each without an eventfd (masked). Vectors that are parked
 * are taken over, without a call of the system where n is their number.
 * @param n  1 to vdpa_pci_nr_vectors().
 * @return 0; -EINVAL for another n; -EBUSY when MSI-X or INTx is on; -ENOSPC when the system grants
 * fewer; vdpa_pci_error() when it is gone; else the transport's errno.
 */
int vdpa_pci_msix_enable(struct vdpa_pci *pci, unsigned int n);
/** MSI-X off, also where it is parked, every eventfd forgotten. No-op when off. */
void vdpa_pci_msix_disable(struct vdpa_pci *pci);
/**
 * Between two uses: every eventfd is forgotten and every vector masked, as after
 * vdpa_pci_msix_disable(), and they stay with the function for the next vdpa_pci_msix_enable(), as
 * to have them allocated anew is dear. vdpa_pci_msix_disable(), vdpa_pci_intx_set(), a reset of the
 * function and its close turn MSI-X off. Where the transport does not mask them, MSI-X is turned
 * off at once. No-op when off or parked.
 */
void vdpa_pci_msix_park(struct vdpa_pci *pci);
/**
 * Signal fd for a vector from now on; -1 masks it. Swapping neither stops the device nor touches
 * other vectors; an interrupt that arrives during the swap may be lost: signal the new fd once.
 * @return 0; -EINVAL for a vector that is not enabled; vdpa_pci_error() when it is gone; else the
 * transport's errno.
 */
int vdpa_pci_msix_set(struct vdpa_pci *pci, unsigned int vector, int fd);
/**
 * The INTx line: signal fd when it is raised, masked then until vdpa_pci_intx_unmask(); -1: off.
 * @return 0; -EOPNOTSUPP where there is none; -EBUSY while MSI-X is on; vdpa_pci_error() when it is
 * gone; else the transport's errno.
 */
int vdpa_pci_intx_set(struct vdpa_pci *pci, int fd);
/** 0; -EINVAL when the line is off; vdpa_pci_error() when it is gone; else the transport's errno.
 */
int vdpa_pci_intx_unmask(struct vdpa_pci *pci);

/** What a function tells out of band. */
enum vdpa_pci_event {
	VDPA_PCI_EVENT_ERROR,  /**< uncorrectable error (AER); vfio-user: protocol failure */
	VDPA_PCI_EVENT_REMOVE, /**< the kernel asks for it back; vfio-user: the server hung up */
};
/**
 * Signal fd for an event; -1: no longer. A function that cannot tell by itself signals it when an
 * access finds out. At once for what has happened already. 0 or the transport's errno.
 */
int vdpa_pci_event_set(struct vdpa_pci *pci, enum vdpa_pci_event event, int fd);

/* DMA. */

/** Let it do DMA (PCI command, bit 2), or stop it. 0 or vdpa_pci_error(). */
int vdpa_pci_set_bus_master(struct vdpa_pci *pci, bool on);
/**
 * Function-level reset; interrupts and bus master are off and the configuration is as after
 * vdpa_pci_open() then. 0; -EOPNOTSUPP where it has none; vdpa_pci_error() when it is gone; else
 * the transport's errno.
 */
int vdpa_pci_reset(struct vdpa_pci *pci);
/**
 * Keep a function that no reset stops from memory that others have in its DMA domain: it is gone
 * for good (-EIO), its bus master is off, and its transport takes it out of the domain.
 * @return 0: it reaches no memory; -EBUSY where another process has a file of the function, or
 * another function of its IOMMU group is in use; -EOPNOTSUPP where the transport cannot; what the
 * kernel says: then nothing but the function's own obedience (bus master) keeps it from the memory.
 * It may wait as long as vdpa_pci_close().
 */
int vdpa_pci_cut_off(struct vdpa_pci *pci);
/** Its DMA domain, for vdpa_device.dma; the function's, until it is closed. */
struct vdpa_dma_domain *vdpa_pci_dma(struct vdpa_pci *pci);

/*
 * The DMA log: which pages the function has written. Over vfio-pci where the kernel's driver of the
 * function has it, over vfio-user where the server has. Calls about one function, one at a time.
 */

/** Bytes of a page of the log. */
#define VDPA_PCI_DMA_LOG_PAGE	4096u
/** Ranges of one log, at most. */
#define VDPA_PCI_DMA_LOG_RANGES 16

/** Whether the function keeps such a log; it is asked each time. */
bool vdpa_pci_logs_dma(struct vdpa_pci *pci);
/**
 * Log what the function writes within these ranges from now on.
 *
 * @param ranges  n of them, 1 to VDPA_PCI_DMA_LOG_RANGES: whole pages, ascending, disjoint.
 * @return 0; -EINVAL for other ranges; -EOPNOTSUPP where the transport has no log;
 * vdpa_pci_error() when it is gone; what the kernel or the server says, such as -EBUSY for a log
 * that runs and -ENOMEM for ranges that are too much for the device. It does not log then.
 */
int vdpa_pci_dma_log_start(struct vdpa_pci *pci, const struct vdpa_dma_range *ranges,
			   unsigned int n);
/**
 * Mark in log the pages of a range that were written since this was asked before, or the log began.
 * @return 0; on a negative errno what was written is not known: the range counts as written.
 */
int vdpa_pci_dma_log_report(struct vdpa_pci *pci, const struct vdpa_dma_range *range,
			    const struct vdpa_dirty_log *log);
/** It logs no more. 0, or a negative errno as above. */
int vdpa_pci_dma_log_stop(struct vdpa_pci *pci);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_PCI_H */
