/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_dma.h
 * DMA domains: which memory a device that uses the platform's IOMMU can reach, and at which IOVA.
 *
 * A transport (VFIO container, vfio-user connection) makes a domain from its two functions, map and
 * unmap; a driver without map ops of its own gives the domain to the core (struct vdpa_device.dma),
 * which brings the guest's memory into it and out of it, region by region, as the table changes.
 * Several devices may share a domain (functions of one IOMMU group must): a mapping that two of
 * them ask for exists once and is counted.
 *
 * Memory of the driver's own (a control queue's ring) gets an IOVA that no guest memory has,
 * vdpa_dma_alloc(). A guest can name that IOVA in a descriptor: what lies there is as untrusted as
 * guest memory.
 */

#ifndef VDPA_DMA_H
#define VDPA_DMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vdpa_memory.h"

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_dma_domain;

/** Usable IOVAs, both ends inclusive. */
struct vdpa_dma_range {
	uint64_t first;
	uint64_t last;
};

/** One piece of memory in a domain. */
struct vdpa_dma_mapping {
	uint64_t iova;
	uint64_t size;	 /**< bytes */
	void *va;	 /**< our mapping of it; VFIO pins by this */
	int fd;		 /**< shared memory file, not -1; vfio-user sends this */
	uint64_t offset; /**< of va in fd, bytes */
};

/** How a transport maps. Called with the domain's lock held, one at a time. */
struct vdpa_dma_ops {
	/** Readable and writable by the device on return. 0 or a negative errno with vdpa_error().
	 */
	int (*map)(void *arg, const struct vdpa_dma_mapping *m);
	/**
	 * By iova and size; va is NULL and fd -1 where the memory is gone before the mapping.
	 * On return the device cannot reach it. 0; also when the transport is gone, because then
	 * nothing is left to unmap. A negative errno with vdpa_error(): it is still mapped.
	 */
	int (*unmap)(void *arg, const struct vdpa_dma_mapping *m);
};

/** Limits of a domain, as the transport found them. */
struct vdpa_dma_limits {
	const struct vdpa_dma_range *ranges; /**< usable IOVAs, ascending, disjoint; copied */
	unsigned int n_ranges;		     /**< 0: all of them */
	uint64_t page_size;		     /**< alignment of IOVA and size, bytes; power of two */
	unsigned int max_mappings;	     /**< 0: no limit */
};

/**
 * Make a domain.
 * @param name  for messages, such as "pci/0000:06:00.2"; copied.
 * @param arg   for ops; outlives the domain.
 * @return 0; -EINVAL for limits that make no sense; -ENOMEM. From any thread.
 */
int vdpa_dma_domain_create(const char *name, const struct vdpa_dma_ops *ops, void *arg,
			   const struct vdpa_dma_limits *limits, struct vdpa_dma_domain **out);

/**
 * Unmap all that is left (one warning says how much) and free the domain. Its devices are gone.
 * NULL: no-op.
 */
void vdpa_dma_domain_destroy(struct vdpa_dma_domain *dom);

/**
 * The IOVAs that can be used are others now, as when another IOMMU has joined the container. What is
 * mapped stays.
 * @param ranges  n of them, as in struct vdpa_dma_limits; 0: all IOVAs. Copied.
 * @return 0; -EINVAL for ranges that make no sense; -ENOMEM. From any thread.
 */
int vdpa_dma_domain_set_ranges(struct vdpa_dma_domain *dom, const struct vdpa_dma_range *ranges,
			       unsigned int n);

/** Whether memory of a guest's is mapped, by whichever user. From any thread. */
bool vdpa_dma_is_in_use(struct vdpa_dma_domain *dom);

/**
 * Map a region of guest memory for one more user. A region that ends within a page of the IOMMU is
 * mapped to the end of that page, which must be mapped from its file too; that page is then no
 * other region's.
 * @return 0; -EINVAL with a message for IOVAs that the IOMMU cannot translate or that are reserved
 * (it names them), or a region that does not begin with one of its pages; -EBUSY for IOVAs at which
 * other memory is mapped (the message names whose); -ENOSPC beyond max_mappings; -ENOMEM (the
 * message names RLIMIT_MEMLOCK where that is it); what ops->map says. From any thread.
 */
int vdpa_dma_map(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region);

/**
 * vdpa_dma_map() for a user that has nothing mapped. Whatever is in a domain can be reached by all
 * of its devices, so that a user shows by its first region that it serves the same guest: where
 * guest memory is mapped, the region must be a part of that, or it is -EBUSY with a message. Else
 * as vdpa_dma_map().
 */
int vdpa_dma_map_first(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region);

/** One user less; the last unmaps. 0; -ENOENT for what is not mapped; what ops->unmap says: it is
 * still mapped then, and the caller its user. From any thread. */
int vdpa_dma_unmap(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region);

/** Memory of the driver's own that the device can reach. */
struct vdpa_dma_buf {
	void *va; /**< zeroed */
	uint64_t iova;
	size_t size; /**< bytes, whole pages */
	int fd;
};

/**
 * Allocate and map at the highest free IOVAs (guest memory is at the low ones).
 * @param size  bytes, rounded up to whole pages.
 * @return 0; -EINVAL for no bytes; -ENOSPC when there is no hole, or beyond max_mappings; -ENOMEM;
 * what memfd_create(2), mmap(2) or ops->map says. Nothing is left then. From any thread.
 */
int vdpa_dma_alloc(struct vdpa_dma_domain *dom, size_t size, struct vdpa_dma_buf *buf);
/** Unmap and free. Zeroed buf: no-op. IOVAs that cannot be unmapped stay taken until the domain
 * goes, which is logged. From any thread. */
void vdpa_dma_free(struct vdpa_dma_domain *dom, struct vdpa_dma_buf *buf);

/** Counts since the domain was made, and what is mapped now. From any thread, without waiting. */
struct vdpa_dma_stats {
	uint64_t maps, unmaps; /**< calls of ops */
	uint64_t bytes_mapped; /**< now */
	uint32_t mappings;     /**< now */
};
void vdpa_dma_get_stats(struct vdpa_dma_domain *dom, struct vdpa_dma_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_DMA_H */
