/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_memory.h
 * Guest memory: the table of regions that a front end gives, as the core owns it.
 *
 * A `struct vdpa_iotlb` is one version of the table: immutable, reference-counted, sorted by IOVA.
 * It is looked up in logarithmic time, since a front end with memory slots has hundreds of regions.
 * A `struct vdpa_mem_region` in it is one mapping, reference-counted too, so that the next version
 * shares what did not change: same IOVA, front-end address, size, file identity (device, inode and
 * generation) and offset, and no page of it lost. A change is a new version plus a diff; unchanged
 * memory is never unmapped.
 *
 * A front end can shrink a memory file under our mapping. Reading it then raises SIGBUS; uvdpa's
 * handler replaces the lost page by an anonymous one and marks the region as faulted, and the
 * device that uses it fails at its next burst (vdpa_iotlb_faulted()).
 */

#ifndef VDPA_MEMORY_H
#define VDPA_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Regions in one table, at most: as many as VFIO's type1 maps for one device by default. Each is
 * one or two mappings of the process, which has vm.max_map_count of them for all tables: a large
 * table leaves some to the others (-ENOSPC). A front end's own limit is the front end's to check.
 */
#define VDPA_MEM_REGIONS_MAX 65535
/** Bytes of one guest's memory, at most. */
#define VDPA_MEM_SIZE_MAX    (UINT64_C(8) << 40)

/** A region as a front end describes it. */
struct vdpa_mem_region_spec {
	uint64_t iova;	 /**< guest physical address (bytes), what descriptors hold */
	uint64_t uaddr;	 /**< the front end's own virtual address, what its messages hold */
	uint64_t size;	 /**< bytes, not 0 */
	uint64_t offset; /**< of the region in the file, bytes */
	int fd;		 /**< shared memory file; duplicated, the caller keeps its own */
	/** Where regions follow each other in IOVA, they do in our address space too, whatever
	 * their offsets in the file are: a ring may lie in several (vdpa_iotlb_range()). For a
	 * front end that tells of memory page by page. Costs a second mapping for each region that
	 * has no neighbour. Without effect for huge pages, for a region that no window of
	 * VDPA_MEM_WINDOW bytes has as a whole, and where other memory is still used at the IOVA.
	 */
	bool in_order;
	bool readonly; /**< the device must not write there: a chain that asks for it is bad */
	/** The file is one that a kernel driver lends, such as a VDUSE domain: neither a type nor a
	 * size is known of it, and its inode is shared by files that have nothing in common. */
	bool kernel_file;
	/** Part of the file's identity, for files in which other memory may come to lie at the same
	 * offset: the front end counts up, and the region is unmapped and mapped anew. Else 0. */
	uint64_t generation;
};

/** Bytes of IOVA, aligned, in which regions keep their order. As many windows as there may be
 * regions take VDPA_MEM_SIZE_MAX bytes of our addresses. */
#define VDPA_MEM_WINDOW (UINT64_C(128) << 20)

struct vdpa_mem_file;
struct vdpa_mem_window;

/** A mapped region. Read-only for everybody but the core. */
struct vdpa_mem_region {
	uint64_t iova;
	uint64_t uaddr;
	uint64_t size;
	uint64_t offset;
	uint8_t *va;   /**< our address of iova */
	int fd;	       /**< our duplicate, one for all regions of a file */
	bool readonly; /**< as it was asked for */
	dev_t dev;     /**< with ino and generation: the file's identity */
	ino_t ino;
	uint64_t generation;
	void *map; /**< what was mmap()ed, page- or hugepage-aligned */
	size_t map_len;
	struct vdpa_mem_file *file;	  /**< whose fd it is */
	struct vdpa_mem_window *window;	  /**< where it is mapped in order; NULL: by itself */
	uint32_t mappings;		  /**< of the process, that count as its own */
	LIST_ENTRY(vdpa_mem_region) live; /**< of the window */
	uint32_t refcnt;
	bool faulted; /**< set by the SIGBUS handler; read with __atomic */
};

/** One version of a guest's memory. */
struct vdpa_iotlb {
	uint32_t refcnt;
	uint32_t n;	     /**< regions */
	uint64_t size;	     /**< bytes of all regions */
	uint64_t fault_seen; /**< no region was faulted at this count of faults; atomic */
	struct vdpa_mem_region **by_uaddr; /**< the same regions by ascending front-end address */
	struct vdpa_mem_region *regions[]; /**< by ascending IOVA, disjoint */
};

/**
 * A generation that no memory of this process has had, for vdpa_mem_region_spec.generation: of
 * files of the kernel's that share an inode. Never 0. From any thread.
 */
uint64_t vdpa_mem_generation_new(void);

/**
 * Make a table: take over what `old` has unchanged, map the rest.
 *
 * A region may end within the last page of its file: the bytes behind the file's end in that page
 * are memory as good as any.
 *
 * @param old   the version in force; NULL for none. Not changed, not released.
 * @param specs n regions in any order.
 * @param out   receives the table, with one reference for the caller.
 * @return 0; -EINVAL for a region of size 0, one that wraps around, is not aligned to 8 bytes,
 * overlaps another (in IOVA or in front-end addresses) or lies past the last page of its file;
 * -E2BIG for n over VDPA_MEM_REGIONS_MAX or more than VDPA_MEM_SIZE_MAX; -ENOSPC for more mappings
 * than are left to a table; -EBADF for a bad fd; -ENOMEM or another errno of mmap(2). Nothing is
 * left then. From any thread.
 */
int vdpa_iotlb_create(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *specs,
		      unsigned int n, struct vdpa_iotlb **out);

/**
 * Make a table that has one region more than `old` (NULL: none). Only that region's file is looked
 * at, only that region is mapped; the rest is shared.
 *
 * @return 0; -EEXIST for a region that `old` has with the same IOVA, front-end address, size, file
 * and offset; else as vdpa_iotlb_create(). From any thread.
 */
int vdpa_iotlb_add(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *spec,
		   struct vdpa_iotlb **out);

/**
 * Make a table that has one region less than `old`: the one with exactly this IOVA, front-end
 * address and size. Nothing is mapped; the region is unmapped with the last version that has it.
 *
 * @param out receives the table, which has no region where it was the last one.
 * @return 0; -ENOENT when `old` (NULL: none) has no region there; -EINVAL when it has another one;
 * -ENOMEM. From any thread.
 */
int vdpa_iotlb_remove(const struct vdpa_iotlb *old, uint64_t iova, uint64_t uaddr, uint64_t size,
		      struct vdpa_iotlb **out);

/** Take a reference. From any thread. Returns its argument; NULL gives NULL. */
struct vdpa_iotlb *vdpa_iotlb_get(struct vdpa_iotlb *tlb);

/** Drop a reference; the last unmaps regions that no other version holds. NULL: no-op. */
void vdpa_iotlb_put(struct vdpa_iotlb *tlb);

/** Called for each region that differs between two versions. Returns 0 or a negative errno. */
typedef int (*vdpa_iotlb_diff_fn)(const struct vdpa_mem_region *region, bool in_now, void *arg);

/**
 * Call fn() for each region that only one of two versions has (either may be NULL), by ascending
 * IOVA, one of `old` first where both begin at the same. Regions are compared as mappings: one that
 * was split differs from its parts, of which the same memory may be had nevertheless. One pass over
 * both. Ends at the first failure, which it returns.
 */
int vdpa_iotlb_diff(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
		    vdpa_iotlb_diff_fn fn, void *arg);

/** Front-end address to IOVA, for a range within one region. 0 or -EFAULT. Logarithmic. */
int vdpa_iotlb_uaddr_to_iova(const struct vdpa_iotlb *tlb, uint64_t uaddr, uint64_t len,
			     uint64_t *iova);

/** Whether a fault was caught in one of the regions. Cheap: for every burst. */
bool vdpa_iotlb_faulted(const struct vdpa_iotlb *tlb);

/**
 * Index of the last region that begins at iova or below, 0 when none does: the only one that can
 * have it. The table is not empty. Data path: one comparison for one region, log2(n) for more.
 */
static inline uint32_t
vdpa_iotlb_index(const struct vdpa_iotlb *tlb, uint64_t iova)
{
	uint32_t i = 0, half;

	for (uint32_t n = tlb->n; n > 1; n -= half) {
		half = n / 2;
		if (tlb->regions[i + half]->iova <= iova)
			i += half;
	}
	return i;
}

/**
 * Our address of [iova, iova + *len), cutting *len to what lies in the region of iova.
 * NULL when no region has iova. Data path.
 */
static inline void *
vdpa_iotlb_translate(const struct vdpa_iotlb *tlb, uint64_t iova, uint64_t *len)
{
	const struct vdpa_mem_region *r;
	uint64_t off;

	if (tlb->n == 0)
		return NULL;
	r = tlb->regions[vdpa_iotlb_index(tlb, iova)];
	off = iova - r->iova;
	if (off >= r->size)
		return NULL;
	if (*len > r->size - off)
		*len = r->size - off;
	return r->va + off;
}

/** vdpa_iotlb_range() beyond the region that has iova. */
void *vdpa_iotlb_range_across(const struct vdpa_iotlb *tlb, uint64_t iova, uint64_t len);

/** Our address of the whole range, which must lie in one region, or in several that follow each
 * other and are mapped in order; NULL otherwise. */
static inline void *
vdpa_iotlb_range(const struct vdpa_iotlb *tlb, uint64_t iova, uint64_t len)
{
	uint64_t got = len;
	void *va = vdpa_iotlb_translate(tlb, iova, &got);

	if (__builtin_expect(got == len, 1))
		return va;
	return va != NULL ? vdpa_iotlb_range_across(tlb, iova, len) : NULL;
}

/**
 * Guard a foreign mapping of guest memory (rte_vhost's) by the SIGBUS handler too: a fault in it is
 * repaired and counted. addr and len are whole pages of the mapping. 0 or -ENOMEM.
 * vdpa_fault_unguard() takes it back, before the memory is unmapped; on return *faulted is no
 * longer written. Without effect while the handler is not installed. Threads that read guest memory
 * must not block SIGBUS: the kernel kills the process for a blocked one.
 */
int vdpa_fault_guard(void *addr, size_t len, bool *faulted);
void vdpa_fault_unguard(void *addr);

/** Dirty log of a migration: one bit per 4 KiB page of IOVA space, set with atomic or. */
struct vdpa_dirty_log {
	uint8_t *bitmap;
	uint64_t size;	 /**< bytes of bitmap */
	int fd;		 /**< shared memory file that has it; -1: not known */
	uint64_t offset; /**< of bitmap in fd, bytes */
	uint64_t *past;	 /**< pages past the bitmap are counted there; atomic; NULL: they are not */
	/** The core's: pages that were not marked before are counted there; as above. */
	uint64_t *pages;
	/** The core's, during log_start: the guest's memory, all of which the log is to cover. */
	const struct vdpa_iotlb *tlb;
};

#define VDPA_DIRTY_PAGE_SHIFT 12

/** Bytes of a log that has every page of tlb, in whole words; tlb may be NULL. Any thread. */
uint64_t vdpa_dirty_log_bytes(const struct vdpa_iotlb *tlb);

/** Mark [iova, iova + len) dirty; what lies past the bitmap is counted at most. Data path, any
 * thread. */
void vdpa_dirty_log_mark(const struct vdpa_dirty_log *log, uint64_t iova, uint64_t len);

/** Mark of n pages from iova on those whose bits are set, bit 0 of the first word for the page at
 * iova, and clear the bits. Any thread, one at a time for the bits. */
void vdpa_dirty_log_mark_bits(const struct vdpa_dirty_log *log, uint64_t iova, uint64_t *bits,
			      uint64_t n);

/** Mark all memory of a table (NULL: none): what was written is not known. From any thread. */
void vdpa_dirty_log_mark_all(const struct vdpa_dirty_log *log, const struct vdpa_iotlb *tlb);

/**
 * Take what a device has written to a bitmap of the driver's own over into the log, and clear it
 * there. For log_sync of a device whose writes are no atomic operations: others clear and set bits
 * of the front end's bitmap at the same time, of this one only the caller clears, word by word with
 * an atomic exchange, so that a bit is never lost. From any thread, one at a time for a bitmap.
 *
 * @param own   bit 0 of the first byte is the page at IOVA 0, as in the log; aligned to 8.
 * @param size  bytes of own, a multiple of 8; bits past the end of the log are dropped.
 */
void vdpa_dirty_log_merge(const struct vdpa_dirty_log *log, void *own, uint64_t size);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_MEMORY_H */
