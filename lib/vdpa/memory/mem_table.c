/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory table: versions (struct vdpa_iotlb) and the mappings they share (struct
 * vdpa_mem_region). Owns the mappings and the files, one descriptor for all regions of a file; each
 * lives as long as a version that has it.
 *
 * Regions that are to keep their order are mapped into windows: reservations of our address space
 * for an aligned range of IOVAs, in which a region's place follows from its IOVA. Two versions may
 * have regions of the same memory at the same place, as when a region grows; a place is given back
 * when no region has it any more, and a window with its last region.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault.h"
#include "mem_shared.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_memory.h"

/* Guest rings and buffers are read in 8-byte words. */
#define REGION_ALIGN 8

/* A region as it was asked for, with what fstat() said of its file. */
struct region_request {
	const struct vdpa_mem_region_spec *spec;
	dev_t dev;
	ino_t ino;
};

/* A file with memory of the guest's, by our duplicate of its descriptor. */
struct vdpa_mem_file {
	uint32_t refcnt;
	int fd;
};

static void
file_put(struct vdpa_mem_file *file)
{
	if (__atomic_sub_fetch(&file->refcnt, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	close(file->fd);
	free(file);
}

/* Neighbours lie in one file as a rule, so the search ends soon. */
static struct vdpa_mem_file *
file_find(const struct vdpa_iotlb *tlb, const struct region_request *req)
{
	for (uint32_t i = tlb != NULL ? tlb->n : 0; i-- > 0;) {
		const struct vdpa_mem_region *r = tlb->regions[i];

		if (r->dev == req->dev && r->ino == req->ino)
			return r->file;
	}
	return NULL;
}

/* The file of a region: one that either table has, or a duplicate. */
static int
file_get(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
	 const struct region_request *req, struct vdpa_mem_file **out)
{
	struct vdpa_mem_file *file = file_find(now, req);
	char what[48];

	if (file == NULL)
		file = file_find(old, req);
	if (file != NULL) {
		__atomic_add_fetch(&file->refcnt, 1, __ATOMIC_RELAXED);
		*out = file;
		return 0;
	}
	file = calloc(1, sizeof(*file));
	if (file == NULL)
		return vdpa_error(ENOMEM, "memory region at 0x%" PRIx64 ": out of memory",
				  req->spec->iova);
	file->refcnt = 1;
	snprintf(what, sizeof(what), "memory region at 0x%" PRIx64, req->spec->iova);
	file->fd = vdpa_fd_dup(req->spec->fd, what);
	if (file->fd < 0) {
		int rc = file->fd;

		free(file);
		return rc;
	}
	*out = file;
	return 0;
}

/* A window's regions are found by the part that has them, so that none looks at all of them. */
#define WINDOW_PART  (UINT64_C(1) << 20)
#define WINDOW_PARTS (VDPA_MEM_WINDOW / WINDOW_PART)

/*
 * A window is guarded as one, and with a page lost in it all of its regions are mapped anew
 * elsewhere: whoever uses one uses the others.
 */
struct vdpa_mem_window {
	pthread_mutex_t lock; /* of the mappings in it and the lists */
	uint64_t iova;
	uint8_t *base;
	bool faulted;
	/* By the part that they lie in; the last: those in several. */
	LIST_HEAD(, vdpa_mem_region) live[WINDOW_PARTS + 1];
	uint32_t n_live;
};

static bool
region_faulted(const struct vdpa_mem_region *r)
{
	return __atomic_load_n(r->window != NULL ? &r->window->faulted : &r->faulted,
			       __ATOMIC_ACQUIRE);
}

static uint64_t
window_iova(uint64_t iova)
{
	return iova & ~(VDPA_MEM_WINDOW - 1);
}

static unsigned int
window_part(const struct vdpa_mem_window *w, const uint8_t *first, const uint8_t *end)
{
	uint64_t a = (uint64_t)(first - w->base) / WINDOW_PART;

	return a == (uint64_t)(end - 1 - w->base) / WINDOW_PART ? (unsigned int)a : WINDOW_PARTS;
}

/* Some region that has an address of [first, end): the one that begins first. With the lock. */
static const struct vdpa_mem_region *
window_find(const struct vdpa_mem_window *w, const uint8_t *first, const uint8_t *end)
{
	const struct vdpa_mem_region *found = NULL, *r;
	uint64_t last = (uint64_t)(end - 1 - w->base) / WINDOW_PART;
	uint64_t i = (uint64_t)(first - w->base) / WINDOW_PART;

	for (bool wide = false; !wide; i++) {
		wide = i > last;
		LIST_FOREACH (r, &w->live[wide ? WINDOW_PARTS : i], live) {
			const uint8_t *map = r->map;

			if (map < end && map + r->map_len > first &&
			    (found == NULL || map < (const uint8_t *)found->map))
				found = r;
		}
	}
	return found;
}

/* Reserve addresses for the IOVA's window. NULL: there are none. */
static struct vdpa_mem_window *
window_alloc(uint64_t iova)
{
	struct vdpa_mem_window *w = calloc(1, sizeof(*w));

	if (w == NULL)
		return NULL;
	w->iova = window_iova(iova);
	w->base = mmap(NULL, VDPA_MEM_WINDOW, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->base == MAP_FAILED)
		goto err_free;
	if (vdpa_fault_guard(w->base, VDPA_MEM_WINDOW, &w->faulted) < 0)
		goto err_unmap;
	pthread_mutex_init(&w->lock, NULL);
	return w;

err_unmap:
	munmap(w->base, VDPA_MEM_WINDOW);
err_free:
	free(w);
	return NULL;
}

static void
window_free(struct vdpa_mem_window *w)
{
	vdpa_fault_unguard(w->base);
	munmap(w->base, VDPA_MEM_WINDOW);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

/* The window of a neighbour, if it has the IOVA too. A table has a window at every IOVA at most,
 * as long as nothing went wrong in it. */
static struct vdpa_mem_window *
window_find_in(const struct vdpa_iotlb *tlb, uint64_t iova)
{
	uint32_t i;

	if (tlb == NULL || tlb->n == 0)
		return NULL;
	i = vdpa_iotlb_index(tlb, iova);
	for (uint32_t k = i; k < tlb->n && k <= i + 1; k++) {
		struct vdpa_mem_window *w = tlb->regions[k]->window;

		if (w != NULL && w->iova == window_iova(iova) &&
		    !__atomic_load_n(&w->faulted, __ATOMIC_ACQUIRE))
			return w;
	}
	return NULL;
}

/* Give the place of a region back: addresses that no other has are reserved again, so that nobody
 * else's memory comes there. Where the kernel has no mapping left to split one, they stay until
 * the window goes. */
static void
window_leave(struct vdpa_mem_region *r)
{
	struct vdpa_mem_window *w = r->window;
	uint8_t *at = r->map, *end = at + r->map_len;
	bool empty;

	pthread_mutex_lock(&w->lock);
	LIST_REMOVE(r, live);
	empty = --w->n_live == 0;
	while (!empty && at < end) {
		const struct vdpa_mem_region *other = window_find(w, at, end);
		uint8_t *to = other != NULL ? other->map : end;

		if (to > at)
			(void)mmap(at, (size_t)(to - at), PROT_NONE,
				   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
		at = other != NULL ? to + other->map_len : end;
	}
	pthread_mutex_unlock(&w->lock);
	if (empty)
		window_free(w);
}

/* Whether all that is mapped in a region's place is the same memory. With the lock. */
static bool
window_has_room(const struct vdpa_mem_window *w, const struct vdpa_mem_region *r, const uint8_t *at)
{
	const uint8_t *end = at + r->map_len;

	while (at < end) {
		const struct vdpa_mem_region *other = window_find(w, at, end);

		if (other == NULL)
			return true;
		if (other->dev != r->dev || other->ino != r->ino ||
		    other->offset - other->iova != r->offset - r->iova)
			return false;
		at = (const uint8_t *)other->map + other->map_len;
	}
	return true;
}

/*
 * Move a region's mapping to its place in a window. Whether it was. It is moved, since a mapping
 * that its file refuses, as one that is sealed meanwhile does, would leave a hole here. The same
 * memory over itself changes nothing for those who read it.
 */
static bool
window_enter(struct vdpa_mem_window *w, struct vdpa_mem_region *r, uint64_t first)
{
	uint8_t *at = w->base + (first - w->iova);
	bool moved;

	pthread_mutex_lock(&w->lock);
	moved = window_has_room(w, r, at) &&
		mremap(r->map, r->map_len, r->map_len, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at;
	if (moved) {
		r->map = at;
		r->window = w;
		LIST_INSERT_HEAD(&w->live[window_part(w, at, at + r->map_len)], r, live);
		w->n_live++;
	}
	pthread_mutex_unlock(&w->lock);
	return moved;
}

/* Move a region's mapping, whose first byte is of the IOVA `first`, to where its neighbours are; it
 * stays where it is if it cannot be. */
static void
put_in_order(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now, struct vdpa_mem_region *r,
	     uint64_t first)
{
	struct vdpa_mem_window *w;

	if (r->map_len > VDPA_MEM_WINDOW - (first - window_iova(first)))
		return;
	w = window_find_in(now, first);
	if (w == NULL)
		w = window_find_in(old, first);
	if (w != NULL) {
		(void)window_enter(w, r, first);
		return;
	}
	w = window_alloc(first);
	if (w != NULL && !window_enter(w, r, first))
		window_free(w);
}

static struct vdpa_mem_region *
region_get(struct vdpa_mem_region *r)
{
	__atomic_add_fetch(&r->refcnt, 1, __ATOMIC_RELAXED);
	return r;
}

static void
region_put(struct vdpa_mem_region *r)
{
	if (__atomic_sub_fetch(&r->refcnt, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	if (r->window != NULL) {
		window_leave(r);
	} else {
		vdpa_fault_unguard(r->map);
		munmap(r->map, r->map_len);
	}
	file_put(r->file);
	free(r);
}

/* Map a region anew; `old` and `now` may have its file. */
static int
region_map(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
	   const struct region_request *req, struct vdpa_mem_region **out)
{
	const struct vdpa_mem_region_spec *s = req->spec;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip;
	struct vdpa_mem_region *r;
	struct statfs fs;
	int ret;

	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return vdpa_error(ENOMEM, "memory region at 0x%" PRIx64 ": out of memory", s->iova);
	r->iova = s->iova;
	r->uaddr = s->uaddr;
	r->size = s->size;
	r->offset = s->offset;
	r->readonly = s->readonly;
	r->dev = req->dev;
	r->ino = req->ino;
	r->refcnt = 1;

	ret = file_get(old, now, req, &r->file);
	if (ret < 0)
		goto err_free;
	r->fd = r->file->fd;
	/* hugetlbfs maps and unmaps whole pages of its own size only. */
	if (fstatfs(r->fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0)
		page = (uint64_t)fs.f_bsize;
	skip = s->offset & (page - 1);
	if (s->size > SIZE_MAX - skip - (page - 1)) {
		ret = vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": size too large", s->iova);
		goto err_file;
	}
	r->map_len = (s->size + skip + page - 1) & ~(page - 1);
	r->map = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		      (off_t)(s->offset - skip));
	if (r->map == MAP_FAILED) {
		ret = vdpa_error(errno, "memory region at 0x%" PRIx64 ": mmap: %m", s->iova);
		goto err_file;
	}
	/* A guest's memory is no part of our core dump; not every kernel can leave it out. */
	(void)madvise(r->map, r->map_len, MADV_DONTDUMP);
	if (s->in_order && page == (uint64_t)sysconf(_SC_PAGESIZE) &&
	    (s->iova & (page - 1)) == skip)
		put_in_order(old, now, r, s->iova - skip);
	r->va = (uint8_t *)r->map + skip;

	if (r->window == NULL)
		ret = vdpa_fault_guard(r->map, r->map_len, &r->faulted);
	if (ret < 0) {
		ret = vdpa_error(ret, "memory region at 0x%" PRIx64 ": out of memory", s->iova);
		goto err_unmap;
	}
	*out = r;
	return 0;

err_unmap:
	munmap(r->map, r->map_len);
err_file:
	file_put(r->file);
err_free:
	free(r);
	return ret;
}

/* What is wrong with one region by itself. */
static int
request_check(struct region_request *req, const struct vdpa_mem_region_spec *s)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct stat st;

	if (s->size == 0)
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": size is 0", s->iova);
	if ((s->iova | s->uaddr | s->size | s->offset) & (REGION_ALIGN - 1))
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": not aligned to %d bytes",
				  s->iova, REGION_ALIGN);
	/* The last byte must be addressable, and a region that ends at 2^64 breaks end
	 * arithmetic. */
	if (s->iova + s->size < s->iova || s->uaddr + s->size < s->uaddr ||
	    s->offset + s->size < s->offset || s->offset + s->size > INT64_MAX)
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": wraps around", s->iova);
	if (fstat(s->fd, &st) < 0)
		return vdpa_error(errno, "memory region at 0x%" PRIx64 ": fd %d: %m", s->iova,
				  s->fd);
	if (!S_ISREG(st.st_mode))
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": fd %d is not a file",
				  s->iova, s->fd);
	/* Its last page is there as a whole. */
	if ((((uint64_t)st.st_size + page - 1) & ~(page - 1)) < s->offset + s->size)
		return vdpa_error(EINVAL,
				  "memory region at 0x%" PRIx64 ": ends at %" PRIu64
				  " in a file of %" PRIu64 " bytes",
				  s->iova, s->offset + s->size, (uint64_t)st.st_size);
	req->spec = s;
	req->dev = st.st_dev;
	req->ino = st.st_ino;
	return 0;
}

static int
request_compare_iova(const void *a, const void *b)
{
	const struct region_request *x = a, *y = b;

	return x->spec->iova < y->spec->iova ? -1 : x->spec->iova > y->spec->iova;
}

static int
request_compare_uaddr(const void *a, const void *b)
{
	const struct region_request *x = a, *y = b;

	return x->spec->uaddr < y->spec->uaddr ? -1 : x->spec->uaddr > y->spec->uaddr;
}

static int
region_compare_uaddr(const void *a, const void *b)
{
	const struct vdpa_mem_region *const *x = a, *const *y = b;

	return (*x)->uaddr < (*y)->uaddr ? -1 : (*x)->uaddr > (*y)->uaddr;
}

static int
overlap_iova(uint64_t iova)
{
	return vdpa_error(EINVAL, "memory regions overlap at 0x%" PRIx64, iova);
}

static int
overlap_uaddr(uint64_t uaddr)
{
	return vdpa_error(EINVAL, "memory regions overlap at front-end address 0x%" PRIx64, uaddr);
}

/* Neighbours tell, in either order. The requests are left sorted by IOVA. */
static int
requests_check_overlap(struct region_request *reqs, unsigned int n)
{
	qsort(reqs, n, sizeof(reqs[0]), request_compare_uaddr);
	for (unsigned int i = 1; i < n; i++) {
		const struct vdpa_mem_region_spec *a = reqs[i - 1].spec, *b = reqs[i].spec;

		if (b->uaddr - a->uaddr < a->size)
			return overlap_uaddr(b->uaddr);
	}
	qsort(reqs, n, sizeof(reqs[0]), request_compare_iova);
	for (unsigned int i = 1; i < n; i++) {
		const struct vdpa_mem_region_spec *a = reqs[i - 1].spec, *b = reqs[i].spec;

		if (b->iova - a->iova < a->size)
			return overlap_iova(b->iova);
	}
	return 0;
}

/* The region that has the IOVA, NULL for none. */
static struct vdpa_mem_region *
region_at(const struct vdpa_iotlb *tlb, uint64_t iova)
{
	struct vdpa_mem_region *r;

	if (tlb == NULL || tlb->n == 0)
		return NULL;
	r = tlb->regions[vdpa_iotlb_index(tlb, iova)];
	return iova - r->iova < r->size ? r : NULL;
}

static bool
is_region(const struct vdpa_mem_region *r, const struct region_request *req)
{
	const struct vdpa_mem_region_spec *s = req->spec;

	return r->iova == s->iova && r->size == s->size && r->offset == s->offset &&
	       r->uaddr == s->uaddr && r->readonly == s->readonly && r->dev == req->dev &&
	       r->ino == req->ino;
}

/* The same region in the old table; not one whose pages were lost: the new mapping may be whole. */
static struct vdpa_mem_region *
region_find(const struct vdpa_iotlb *tlb, const struct region_request *req)
{
	struct vdpa_mem_region *r = region_at(tlb, req->spec->iova);

	if (r != NULL && is_region(r, req) && !region_faulted(r))
		return r;
	return NULL;
}

/*
 * The same region in a table of another device, with a reference for the caller. None in a window:
 * a table has one window at an IOVA, and its own.
 */
static struct vdpa_mem_region *
region_share(const struct vdpa_iotlb *const *others, unsigned int n_others,
	     const struct region_request *req)
{
	for (unsigned int i = 0; i < n_others && !req->spec->in_order; i++) {
		struct vdpa_mem_region *r = region_find(others[i], req);

		if (r != NULL && r->window == NULL)
			return region_get(r);
	}
	return NULL;
}

/* Room for n regions, with none in it yet; NULL: out of memory, with the message. */
static struct vdpa_iotlb *
table_alloc(uint32_t n)
{
	struct vdpa_iotlb *tlb = calloc(1, sizeof(*tlb) + 2 * (size_t)n * sizeof(tlb->regions[0]));

	if (tlb == NULL) {
		vdpa_error(ENOMEM, "memory table: out of memory");
		return NULL;
	}
	tlb->refcnt = 1;
	tlb->by_uaddr = &tlb->regions[n];
	return tlb;
}

/* A file without pages costs its owner nothing and us the addresses that all share. */
static int
check_size(uint64_t size, uint64_t more)
{
	if (more > VDPA_MEM_SIZE_MAX - size)
		return vdpa_error(E2BIG, "memory regions of more than %" PRIu64 " TiB",
				  VDPA_MEM_SIZE_MAX >> 40);
	return 0;
}

static int
requests_check(struct region_request *reqs, const struct vdpa_mem_region_spec *specs,
	       unsigned int n, uint64_t *size)
{
	*size = 0;
	for (unsigned int i = 0; i < n; i++) {
		int ret = request_check(&reqs[i], &specs[i]);

		if (ret == 0)
			ret = check_size(*size, specs[i].size);
		if (ret < 0)
			return ret;
		*size += specs[i].size;
	}
	return requests_check_overlap(reqs, n);
}

int
vdpa_iotlb_create_shared(const struct vdpa_iotlb *old, const struct vdpa_iotlb *const *others,
			 unsigned int n_others, const struct vdpa_mem_region_spec *specs,
			 unsigned int n, struct vdpa_iotlb **out)
{
	struct region_request *reqs;
	struct vdpa_iotlb *tlb;
	uint64_t size;
	int ret;

	if (n > VDPA_MEM_REGIONS_MAX)
		return vdpa_error(E2BIG, "%u memory regions, at most %d", n, VDPA_MEM_REGIONS_MAX);
	reqs = calloc(n > 0 ? n : 1, sizeof(*reqs));
	if (reqs == NULL)
		return vdpa_error(ENOMEM, "memory table: out of memory");
	ret = requests_check(reqs, specs, n, &size);
	if (ret < 0)
		goto out;
	tlb = table_alloc(n);
	if (tlb == NULL) {
		ret = -ENOMEM;
		goto out;
	}
	tlb->size = size;
	for (; tlb->n < n; tlb->n++) {
		const struct region_request *req = &reqs[tlb->n];
		struct vdpa_mem_region *r = region_find(old, req);

		r = r != NULL ? region_get(r) : region_share(others, n_others, req);
		if (r == NULL)
			ret = region_map(old, tlb, req, &r);
		if (ret < 0) {
			vdpa_iotlb_put(tlb);
			goto out;
		}
		tlb->regions[tlb->n] = tlb->by_uaddr[tlb->n] = r;
	}
	qsort(tlb->by_uaddr, n, sizeof(tlb->by_uaddr[0]), region_compare_uaddr);
	*out = tlb;
out:
	free(reqs);
	return ret;
}

int
vdpa_iotlb_create(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *specs,
		  unsigned int n, struct vdpa_iotlb **out)
{
	return vdpa_iotlb_create_shared(old, NULL, 0, specs, n, out);
}

/* As vdpa_iotlb_index(), for a front-end address. */
static uint32_t
uaddr_index(const struct vdpa_iotlb *tlb, uint64_t uaddr)
{
	uint32_t i = 0, half;

	for (uint32_t n = tlb->n; n > 1; n -= half) {
		half = n / 2;
		if (tlb->by_uaddr[i + half]->uaddr <= uaddr)
			i += half;
	}
	return i;
}

/* Where a region goes in each order (an empty one: as they are), if it overlaps none. */
static int
find_place(const struct vdpa_iotlb *tlb, const struct region_request *req, uint32_t *by_iova,
	   uint32_t *by_uaddr)
{
	const struct vdpa_mem_region_spec *s = req->spec;
	const struct vdpa_mem_region *r;
	uint32_t i, u;

	if (tlb == NULL || tlb->n == 0)
		return 0;
	i = vdpa_iotlb_index(tlb, s->iova);
	r = tlb->regions[i];
	if (is_region(r, req))
		return vdpa_error(EEXIST, "memory region at 0x%" PRIx64 ": is there already",
				  s->iova);
	if (s->iova - r->iova < r->size)
		return overlap_iova(s->iova);
	i += r->iova < s->iova;
	if (i < tlb->n && tlb->regions[i]->iova - s->iova < s->size)
		return overlap_iova(tlb->regions[i]->iova);
	u = uaddr_index(tlb, s->uaddr);
	r = tlb->by_uaddr[u];
	if (s->uaddr - r->uaddr < r->size)
		return overlap_uaddr(s->uaddr);
	u += r->uaddr < s->uaddr;
	if (u < tlb->n && tlb->by_uaddr[u]->uaddr - s->uaddr < s->size)
		return overlap_uaddr(tlb->by_uaddr[u]->uaddr);
	*by_iova = i;
	*by_uaddr = u;
	return 0;
}

int
vdpa_iotlb_add_shared(const struct vdpa_iotlb *old, const struct vdpa_iotlb *const *others,
		      unsigned int n_others, const struct vdpa_mem_region_spec *spec,
		      struct vdpa_iotlb **out)
{
	uint32_t n = old != NULL ? old->n : 0, at = 0, uat = 0;
	struct region_request req;
	struct vdpa_mem_region *r;
	struct vdpa_iotlb *tlb;
	int ret;

	if (n >= VDPA_MEM_REGIONS_MAX)
		return vdpa_error(E2BIG, "%u memory regions, at most %d", n + 1,
				  VDPA_MEM_REGIONS_MAX);
	ret = request_check(&req, spec);
	if (ret == 0)
		ret = check_size(old != NULL ? old->size : 0, spec->size);
	if (ret == 0)
		ret = find_place(old, &req, &at, &uat);
	if (ret < 0)
		return ret;
	tlb = table_alloc(n + 1);
	if (tlb == NULL)
		return -ENOMEM;
	r = region_share(others, n_others, &req);
	if (r == NULL)
		ret = region_map(old, NULL, &req, &r);
	if (ret < 0) {
		free(tlb);
		return ret;
	}
	for (uint32_t i = 0; i < n; i++) {
		tlb->regions[i + (i >= at)] = region_get(old->regions[i]);
		tlb->by_uaddr[i + (i >= uat)] = old->by_uaddr[i];
	}
	tlb->regions[at] = tlb->by_uaddr[uat] = r;
	tlb->n = n + 1;
	tlb->size = (old != NULL ? old->size : 0) + r->size;
	*out = tlb;
	return 0;
}

int
vdpa_iotlb_add(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *spec,
	       struct vdpa_iotlb **out)
{
	return vdpa_iotlb_add_shared(old, NULL, 0, spec, out);
}

int
vdpa_iotlb_remove(const struct vdpa_iotlb *old, uint64_t iova, uint64_t uaddr, uint64_t size,
		  struct vdpa_iotlb **out)
{
	const struct vdpa_mem_region *r = region_at(old, iova);
	struct vdpa_iotlb *tlb;
	uint32_t at = 0, uat = 0;

	if (r == NULL)
		return vdpa_error(ENOENT, "there is no memory region at 0x%" PRIx64, iova);
	if (r->iova != iova || r->uaddr != uaddr || r->size != size)
		return vdpa_error(EINVAL,
				  "no memory region at 0x%" PRIx64 ", front-end address 0x%" PRIx64
				  ", has 0x%" PRIx64 " bytes",
				  iova, uaddr, size);
	tlb = table_alloc(old->n - 1);
	if (tlb == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < old->n; i++) {
		if (old->regions[i] != r)
			tlb->regions[at++] = region_get(old->regions[i]);
		if (old->by_uaddr[i] != r)
			tlb->by_uaddr[uat++] = old->by_uaddr[i];
	}
	tlb->n = at;
	tlb->size = old->size - size;
	*out = tlb;
	return 0;
}

struct vdpa_iotlb *
vdpa_iotlb_get(struct vdpa_iotlb *tlb)
{
	if (tlb != NULL)
		__atomic_add_fetch(&tlb->refcnt, 1, __ATOMIC_RELAXED);
	return tlb;
}

void
vdpa_iotlb_put(struct vdpa_iotlb *tlb)
{
	if (tlb == NULL || __atomic_sub_fetch(&tlb->refcnt, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	for (uint32_t i = 0; i < tlb->n; i++)
		region_put(tlb->regions[i]);
	free(tlb);
}

int
vdpa_iotlb_diff(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now, vdpa_iotlb_diff_fn fn,
		void *arg)
{
	uint32_t n_old = old != NULL ? old->n : 0, n_now = now != NULL ? now->n : 0;
	int ret = 0;

	for (uint32_t i = 0, j = 0; ret == 0 && (i < n_old || j < n_now);) {
		if (i < n_old && j < n_now && old->regions[i] == now->regions[j]) {
			i++;
			j++;
		} else if (j == n_now ||
			   (i < n_old && old->regions[i]->iova <= now->regions[j]->iova)) {
			ret = fn(old->regions[i++], false, arg);
		} else {
			ret = fn(now->regions[j++], true, arg);
		}
	}
	return ret;
}

int
vdpa_iotlb_uaddr_to_iova(const struct vdpa_iotlb *tlb, uint64_t uaddr, uint64_t len, uint64_t *iova)
{
	if (tlb->n > 0) {
		const struct vdpa_mem_region *r = tlb->by_uaddr[uaddr_index(tlb, uaddr)];
		uint64_t off = uaddr - r->uaddr;

		if (off < r->size && len <= r->size - off) {
			*iova = r->iova + off;
			return 0;
		}
	}
	return vdpa_error(EFAULT, "front-end address 0x%" PRIx64 " is not in the memory table",
			  uaddr);
}

void *
vdpa_iotlb_range_across(const struct vdpa_iotlb *tlb, uint64_t iova, uint64_t len)
{
	uint32_t i = vdpa_iotlb_index(tlb, iova);
	const struct vdpa_mem_region *first = tlb->regions[i], *r = first;
	uint64_t off = iova - r->iova, end = r->iova + r->size;

	if (off >= r->size || r->window == NULL || len > VDPA_MEM_WINDOW)
		return NULL;
	/* A window has as many regions as it has pages, at most. */
	while (end - iova < len) {
		if (++i == tlb->n)
			return NULL;
		r = tlb->regions[i];
		if (r->iova != end || r->window != first->window)
			return NULL;
		end += r->size;
	}
	return first->va + off;
}

bool
vdpa_iotlb_faulted(const struct vdpa_iotlb *tlb)
{
	uint64_t seen = vdpa_fault_seen();

	if (__builtin_expect(__atomic_load_n(&tlb->fault_seen, __ATOMIC_RELAXED) == seen, 1))
		return false;
	for (uint32_t i = 0; i < tlb->n; i++) {
		if (region_faulted(tlb->regions[i]))
			return true;
	}
	/* The count was read first: a fault that comes meanwhile is another count. */
	__atomic_store_n((uint64_t *)(uintptr_t)&tlb->fault_seen, seen, __ATOMIC_RELAXED);
	return false;
}
