/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_dma.h
 * DMA domains: which memory a device that uses the platform's IOMMU can reach, and at which IOVA.
 *
 * A transport (VFIO container, vfio-user connection) makes a domain from its two functions, map and
 * unmap; a driver without map ops of its own gives the domain to the core (struct vdpa_device.dma),
 * which is a user of it (struct vdpa_dma_user) for as long as the device is registered. A user has
 * a table of the guest's memory in the domain, vdpa_dma_set(); it is replaced by another table by
 * differences of ranges (IOVA, file, offset in the file, whether the device may write), however
 * they are cut into regions.
 *
 * Several devices may share a domain (functions of one IOMMU group must), and then serve one guest:
 * memory that two tables have is mapped once, and stays until neither has it.
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
	bool readonly;	 /**< the device must not be able to write there */
};

/**
 * How a transport maps. Called with the domain's lock held, one at a time.
 *
 * va and fd of a mapping are valid during the call of map, and later only for as long as some table
 * has the memory: a region that QEMU describes anew, in two pieces or with more at its end, is
 * another mapping of our process, and the one that was mapped by goes with its table. What map has
 * done must hold all the same: VFIO has pinned the pages, a vfio-user server has its own mapping of
 * the file.
 */
struct vdpa_dma_ops {
	/** Readable by the device on return, and writable unless it is read-only. 0 or a negative
	 * errno with vdpa_error(). */
	int (*map)(void *arg, const struct vdpa_dma_mapping *m);
	/**
	 * By iova and size, those of an earlier map; va is NULL and fd -1.
	 * On return the device cannot reach it. 0; also when the transport is gone, because then
	 * nothing is left to unmap. A negative errno with vdpa_error(): it is still mapped.
	 */
	int (*unmap)(void *arg, const struct vdpa_dma_mapping *m);
	/**
	 * Optional: whether so many more bytes can be mapped, as far as that can be known (a limit
	 * of locked memory). Asked before a change maps anything. 0 or a negative errno with
	 * vdpa_error().
	 */
	int (*check)(void *arg, uint64_t bytes);
};

/**
 * How a transport takes the calls of one change of memory together, where each by itself would cost
 * it as much as all of them. Called with the domain's lock held.
 */
struct vdpa_dma_batch {
	/** What map and unmap do from now on need not be in force before end. 0 or a negative errno
	 * with vdpa_error(): nothing has begun. */
	int (*begin)(void *arg);
	/** What was mapped and unmapped since begin is in force on return, also where some of the
	 * calls have failed; with no call since begin, all that is mapped is put in force anew. A
	 * negative errno with vdpa_error(): nobody knows what is. */
	int (*end)(void *arg);
};

/** Limits of a domain, as the transport found them. */
struct vdpa_dma_limits {
	const struct vdpa_dma_range *ranges; /**< usable IOVAs, ascending, disjoint; copied */
	unsigned int n_ranges;		     /**< 0: all of them */
	uint64_t page_size;		     /**< alignment of IOVA and size, bytes; power of two */
	unsigned int max_mappings;	     /**< 0: no limit */
	/** No mapping of guest memory goes across a multiple of this IOVA (bytes, power of two, not
	 * below page_size; 0: 1 GiB), as long as there are mappings to spare. */
	uint64_t chunk_size;
	/** Its users were said to serve one guest; else each that joins must show it, by memory
	 * that it has in common with the others. */
	bool one_guest;
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
 * The transport takes changes together. Before the domain has a user; it never has more than one.
 * What is mapped by itself, such as vdpa_dma_alloc() does, comes outside of begin and end.
 * @param batch  static.
 */
void vdpa_dma_domain_set_batch(struct vdpa_dma_domain *dom, const struct vdpa_dma_batch *batch);

/**
 * Unmap all that is left (one warning says how much) and free the domain. Its users have left.
 * NULL: no-op.
 */
void vdpa_dma_domain_destroy(struct vdpa_dma_domain *dom);

/** Who has memory in a domain: a device. Its calls come from one thread at a time. */
struct vdpa_dma_user;

/**
 * The IOVAs that can be used are others now, as when another IOMMU has joined the container. What
 * is mapped stays.
 * @param ranges  n of them, as in struct vdpa_dma_limits; 0: all IOVAs. Copied.
 * @return 0; -EINVAL for ranges that make no sense; -ENOMEM. From any thread.
 */
int vdpa_dma_domain_set_ranges(struct vdpa_dma_domain *dom, const struct vdpa_dma_range *ranges,
			       unsigned int n);

/** Whether any user has memory in the domain. From any thread. */
bool vdpa_dma_is_in_use(struct vdpa_dma_domain *dom);

/**
 * Be a user of a domain, with no memory yet.
 * @param name  of the device, for messages; copied.
 * @return 0; -ENOMEM. From any thread.
 */
int vdpa_dma_join(struct vdpa_dma_domain *dom, const char *name, struct vdpa_dma_user **out);

/** Set no memory, if there is some, and be no user any more. What cannot be unmapped stays until
 * the domain goes; one line says so. NULL: no-op. From any thread. */
void vdpa_dma_leave(struct vdpa_dma_user *user);

/**
 * Have this table of guest memory in the domain, in place of the one before.
 *
 * What both have is not touched: the device may use it meanwhile. What only the new one has is
 * mapped first, in pieces of at most the domain's chunk_size, and then what only the old one has is
 * unmapped. Between two calls of the transport other users of the domain have their turn. A mapping
 * of which a part goes stays whole, since a transport cannot unmap a part; the rest is retained:
 * mapped for nobody until all of it goes, it is claimed again, or the device does not run
 * (vdpa_dma_set_running()). Where the new table has other memory at IOVAs that are mapped, that
 * mapping is unmapped before; if a part of it stays, that part is mapped anew (it is replaced,
 * which one line says and which is counted), and the device cannot reach it for that time.
 *
 * A region that ends within a page of the IOMMU is mapped to the end of that page, which must be
 * mapped from its file too; that page is then no other region's.
 *
 * All that can be known is checked before anything is mapped. On failure the domain has what it had
 * before, unless vdpa_dma_is_broken(). For no memory there is no way back: whatever can be unmapped
 * is, and what cannot be is tried again by the next call of the user's, which fails if it cannot
 * be then, and of any user's that brings memory where nobody has any: that is another guest's.
 *
 * @param tlb  a reference is taken; NULL: no memory.
 * @return 0; -EINVAL with a message for IOVAs that the IOMMU cannot translate or that are reserved
 * (it names them), or a region that does not begin with one of its pages; -EBUSY for IOVAs at which
 * another user has other memory, or the driver has its own and cannot move it (the message names
 * both ranges), for a table of another guest than the domain's, for one of the next guest while
 * another user's device is stray, and for a mapping to be replaced
 * that another user needs while it runs; -ENOSPC beyond max_mappings; -ENOMEM (the message names
 * RLIMIT_MEMLOCK where that is it); what ops->check, map and unmap say. From any thread.
 */
int vdpa_dma_set(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb);

/**
 * What vdpa_dma_set() would refuse, as far as that can be known; changes nothing. What only a call
 * of the transport or of a driver's move can show (pages that cannot be pinned, own memory that
 * cannot be moved) may fail later all the same.
 * @param tlb  not NULL.
 * @return as of vdpa_dma_set(). From any thread.
 */
int vdpa_dma_check(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb);

/** Whether a change of the user's or of another's could not be taken back: the domain may lack
 * memory of the table in force, or have more. Until the next vdpa_dma_set() of no memory. */
bool vdpa_dma_is_broken(const struct vdpa_dma_user *user);

/**
 * Whether the user's device may use its memory from now on; at first it does not. Before a device
 * runs, what is missing of its table is mapped. When none does that has memory in a mapping, what
 * is retained of it is unmapped. One that does not run has reset: it is stray no more.
 * @return 0; what ops->map and unmap say: the table is not wholly mapped then. From any thread.
 */
int vdpa_dma_set_running(struct vdpa_dma_user *user, bool running);

/**
 * The user's device did not reset, and nothing keeps it from what comes into the domain. Until it
 * does, vdpa_dma_set() of memory where nobody has any fails with -EBUSY for the other users: it
 * would be the next guest's. From any thread.
 */
void vdpa_dma_set_stray(struct vdpa_dma_user *user);

/** Have no memory in the domain, which the transport has forgotten by itself: nothing is unmapped.
 * Only for a domain of one user. */
void vdpa_dma_forget(struct vdpa_dma_user *user);

/** Memory of the driver's own that the device can reach. */
struct vdpa_dma_buf {
	void *va; /**< zeroed */
	uint64_t iova;
	size_t size; /**< bytes, whole pages */
	int fd;
};

/** How memory of the driver's own gives way to a guest's. */
struct vdpa_dma_owner {
	struct vdpa_dma_user *user; /**< the device's; only a change of this one asks to move */
	/**
	 * A region of the guest's is to come where the memory lies: allocate other memory, have the
	 * device use that, free this one. Called by the thread of the change, which has the
	 * device's lock, and without the domain's. 0 or a negative errno: it cannot, and the region
	 * is refused.
	 */
	int (*move)(void *arg);
	void *arg;
};

/**
 * Allocate and map at the highest free IOVAs (guest memory is at the low ones).
 * @param size  bytes, rounded up to whole pages.
 * @param owner NULL: it cannot be moved. Copied.
 * @return 0; -EINVAL for no bytes; -ENOSPC when there is no hole, or beyond max_mappings; -ENOMEM;
 * what memfd_create(2), mmap(2) or ops->map says. Nothing is left then. From any thread.
 */
int vdpa_dma_alloc(struct vdpa_dma_domain *dom, size_t size, const struct vdpa_dma_owner *owner,
		   struct vdpa_dma_buf *buf);
/** Unmap and free. Zeroed buf: no-op. IOVAs that cannot be unmapped stay taken until the domain
 * goes, which is logged. From any thread. */
void vdpa_dma_free(struct vdpa_dma_domain *dom, struct vdpa_dma_buf *buf);

/** A front end's dirty log in a domain, by vdpa_dma_map_log(). */
struct vdpa_dma_log {
	uint64_t iova;	/**< of the first byte of its bitmap, and so of the bit of IOVA 0 */
	uint64_t first; /**< of the page with that byte */
	uint64_t size;	/**< of the mapping, bytes, whole pages; 0: none */
};

/**
 * Map a front end's dirty log at the highest free IOVAs, for hardware that writes the bitmap by
 * itself; for log_start. The guest can name that IOVA in a descriptor, and so have the device write
 * to it: what is harmed then is the guest's own migration.
 *
 * Right for hardware only that sets bits by atomic operations: the front end clears them meanwhile,
 * and other devices of the guest may set bits in the same log. For other hardware, and for a log
 * that cannot be mapped, log to memory of vdpa_dma_alloc(), and vdpa_dirty_log_merge() it.
 *
 * @param log   as log_start has it; its bitmap stays mapped in the process until
 * vdpa_dma_unmap_log().
 * @param owner NULL: it cannot be moved. move() maps it once more, and unmaps it here. Copied.
 * @return 0; -EOPNOTSUPP for a log whose file is not known (rte_vhost's), that is not where it is
 * in its file by whole pages, or pages of the IOMMU larger than the system's; -EINVAL for no bytes;
 * -ENOSPC when there is no hole, or beyond max_mappings; -ENOMEM; what ops->map says. Nothing is
 * mapped then. From any thread, also from inside ops.
 */
int vdpa_dma_map_log(struct vdpa_dma_domain *dom, const struct vdpa_dirty_log *log,
		     const struct vdpa_dma_owner *owner, struct vdpa_dma_log *map);
/** The device cannot reach it any more; for log_stop. Zeroed map: no-op. IOVAs that cannot be
 * unmapped stay taken until the domain goes, which is logged. From any thread. */
void vdpa_dma_unmap_log(struct vdpa_dma_domain *dom, struct vdpa_dma_log *map);

/** Counts since the domain was made, and what is mapped now. From any thread, without waiting. */
struct vdpa_dma_stats {
	uint64_t maps, unmaps;	 /**< calls of ops */
	uint64_t bytes_mapped;	 /**< now */
	uint64_t bytes_retained; /**< of these: in no table any more */
	uint64_t replaced;	 /**< mappings unmapped though a part of them stayed */
	uint64_t change_us;	 /**< how long the last change of a table took, microseconds */
	uint32_t mappings;	 /**< now */
};
void vdpa_dma_get_stats(struct vdpa_dma_domain *dom, struct vdpa_dma_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_DMA_H */
