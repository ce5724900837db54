/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory table: versions (struct vdpa_iotlb) and the mappings they share (struct
 * vdpa_mem_region). Owns the mappings and the files, one descriptor for all regions of a file; each
 * lives as long as a version that has it.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault.h"
#include "vdpa.h"
#include "vdpa_args.h"
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
	vdpa_fault_unguard(r->map);
	munmap(r->map, r->map_len);
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
	r->va = (uint8_t *)r->map + skip;
	/* A guest's memory is no part of our core dump; not every kernel can leave it out. */
	(void)madvise(r->map, r->map_len, MADV_DONTDUMP);

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
	       r->uaddr == s->uaddr && r->dev == req->dev && r->ino == req->ino;
}

/* The same region in the old table; not one whose pages were lost: the new mapping may be whole. */
static struct vdpa_mem_region *
region_find(const struct vdpa_iotlb *tlb, const struct region_request *req)
{
	struct vdpa_mem_region *r = region_at(tlb, req->spec->iova);

	if (r != NULL && is_region(r, req) && !__atomic_load_n(&r->faulted, __ATOMIC_ACQUIRE))
		return r;
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
vdpa_iotlb_create(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *specs,
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

		if (r != NULL)
			region_get(r);
		else
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
vdpa_iotlb_add(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *spec,
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

static bool
tlb_has(const struct vdpa_iotlb *tlb, const struct vdpa_mem_region *r)
{
	return region_at(tlb, r->iova) == r;
}

int
vdpa_iotlb_diff(const struct vdpa_iotlb *old, const struct vdpa_iotlb *new, vdpa_iotlb_diff_fn map,
		vdpa_iotlb_diff_fn unmap, void *arg)
{
	uint32_t nold = old != NULL ? old->n : 0, nnew = new != NULL ? new->n : 0;
	uint32_t i, j = 0;
	int ret;

	for (i = 0; i < nold; i++) {
		if (tlb_has(new, old->regions[i]))
			continue;
		ret = unmap(old->regions[i], arg);
		if (ret < 0)
			goto undo;
	}
	for (j = 0; j < nnew; j++) {
		if (tlb_has(old, new->regions[j]))
			continue;
		ret = map(new->regions[j], arg);
		if (ret < 0)
			goto undo;
	}
	return 0;

undo:
	while (j-- > 0) {
		if (!tlb_has(old, new->regions[j]))
			(void)unmap(new->regions[j], arg);
	}
	while (i-- > 0) {
		if (!tlb_has(new, old->regions[i]))
			(void)map(old->regions[i], arg);
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

bool
vdpa_iotlb_faulted(const struct vdpa_iotlb *tlb)
{
	uint64_t seen = vdpa_fault_seen();

	if (__builtin_expect(__atomic_load_n(&tlb->fault_seen, __ATOMIC_RELAXED) == seen, 1))
		return false;
	for (uint32_t i = 0; i < tlb->n; i++) {
		if (__atomic_load_n(&tlb->regions[i]->faulted, __ATOMIC_ACQUIRE))
			return true;
	}
	/* The count was read first: a fault that comes meanwhile is another count. */
	__atomic_store_n((uint64_t *)(uintptr_t)&tlb->fault_seen, seen, __ATOMIC_RELAXED);
	return false;
}
