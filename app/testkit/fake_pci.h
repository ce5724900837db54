/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A PCI function in memory for unit tests, opened as "fake/NAME" with vdpa_pci_open(). The test
 * fills in what it consists of, watches accesses by callbacks, raises interrupts and makes calls
 * fail. Include it after cmocka.h.
 */

#ifndef FAKE_PCI_H
#define FAKE_PCI_H

#include "vdpa_dma.h"
#include "vdpa_pci_transport.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FAKE_PCI_VECTORS 256
#define FAKE_PCI_PARTS	 4

struct fake_pci;

/* What is registered while there is a function, for tests of transports. */
extern const struct vdpa_pci_transport fake_pci_transport;

/*
 * Before a read is answered from memory, or after a write went there; region 0 to 5 is a BAR, 7 the
 * configuration space. A callback may change what is read by changing the memory or *buf.
 */
typedef void (*fake_pci_read_fn)(struct fake_pci *f, unsigned int region, uint64_t offset,
				 void *buf, size_t len);
typedef void (*fake_pci_write_fn)(struct fake_pci *f, unsigned int region, uint64_t offset,
				  const void *buf, size_t len);

struct fake_pci_bar {
	uint64_t size;
	uint8_t *mem; /* what the device sees; the memory of fd */
	int fd;
	bool mappable;
	bool whole_device;    /* fd is more than the BAR */
	bool is_device;	      /* registers can be mapped */
	unsigned int n_parts; /* of which only these */
	struct {
		uint64_t offset, size;
	} parts[FAKE_PCI_PARTS];
};

struct fake_pci {
	const char *name;
	void *arg; /* the test's */
	uint8_t config[4096];
	size_t config_size;
	struct fake_pci_bar bar[VDPA_PCI_BARS];
	unsigned int nr_irqs[VFIO_PCI_NUM_IRQS];
	bool can_reset;
	int numa_node;
	bool listed; /* what it is can be seen without opening it */
	int part_fd; /* what a part of a BAR is as a file of its own; -1: nothing */

	/* Optional. post: a doorbell that was not mapped; NULL: as write. */
	fake_pci_read_fn on_read;
	fake_pci_write_fn on_write, on_post;
	void (*on_reset)(struct fake_pci *f);

	/* Faults, each in force until changed. Errnos are positive; 0: none. */
	int open_err;  /* of opening */
	int io_err;    /* of every read and write */
	bool all_ones; /* every read gives ones, no write does anything: pulled out */
	int irq_err;   /* of changing interrupts */
	int reset_err;
	int map_err; /* of DMA */
	int unmap_err;
	int log_start_err, log_report_err; /* of the DMA log */

	/* What the driver has done. */
	struct vdpa_pci *open; /* NULL: closed */
	unsigned int opens;
	bool msix_on;
	unsigned int n_msix;	    /* vectors enabled */
	int msix[FAKE_PCI_VECTORS]; /* eventfds, -1: masked */
	int intx, err, req;	    /* eventfds, -1: off */
	bool intx_masked;	    /* by being raised */
	unsigned int resets, posts, irq_calls;
	unsigned int answered; /* reads, and writes that are no posts */
	struct vdpa_dma_domain *dma;
	struct vdpa_dma_mapping mapped[64];
	unsigned int n_mapped;

	/* A process that ends may leave it as it is to the next one, which opens it so. */
	bool keeps;		/* it can */
	bool is_kept, is_left;	/* it is to be, it was */
	unsigned int adoptions; /* mappings that the next process has made its own */

	/* Its DMA log. */
	bool logs_dma; /* it keeps one */
	bool log_on;
	struct vdpa_dma_range log_ranges[VDPA_PCI_DMA_LOG_RANGES]; /* of the last start */
	unsigned int n_log_ranges, log_starts, log_reports, log_stops;
	uint64_t written[4]; /* IOVAs of pages that it has written; 0: none; atomic */

	uint8_t next_cap; /* where the next capability goes */
	uint8_t last_cap; /* the one that points to it, 0: the header */
	struct fake_pci *next;
};

/*
 * A network function of vendor 1af4, device 1041, without BARs, capabilities and interrupts, known
 * to vdpa_pci_open() from now on; name without "fake/", not copied.
 */
void fake_pci_init(struct fake_pci *f, const char *name);
/* Forget it, and free its memory. It must have been closed. */
void fake_pci_fini(struct fake_pci *f);

/* Another function than that, before it is opened. */
void fake_pci_set_ids(struct fake_pci *f, uint16_t vendor, uint16_t device,
		      uint16_t subsystem_vendor, uint16_t subsystem);
/* Give it a 64-bit memory BAR (bar and bar + 1 for the header) of a power of two bytes. */
void fake_pci_add_bar(struct fake_pci *f, unsigned int bar, uint64_t size, bool mappable);
/* Append a capability whose id, next and what follows is body[0 .. len - 1]; body[1] is filled in.
 * Returns its offset. */
uint8_t fake_pci_add_cap(struct fake_pci *f, const void *body, size_t len);
/* MSI-X with n vectors, table and pending bits in a BAR that is there. */
void fake_pci_add_msix(struct fake_pci *f, unsigned int n, unsigned int bar, uint32_t table,
		       uint32_t pba);

/* Raise an MSI-X vector, as far as it is enabled and not masked. Whether it was. */
bool fake_pci_raise(struct fake_pci *f, unsigned int vector);
/* Raise the INTx line, which masks it. Whether it reached anybody. */
bool fake_pci_raise_intx(struct fake_pci *f);
/* What the device sees at an IOVA, NULL where it is not mapped by DMA. */
void *fake_pci_dma(const struct fake_pci *f, uint64_t iova, uint64_t len);

#ifdef __cplusplus
}
#endif

#endif /* FAKE_PCI_H */
