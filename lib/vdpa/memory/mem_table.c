/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory table: versions (struct vdpa_iotlb) and the mappings they share (struct
 * vdpa_mem_region). Owns the duplicated fds and the mappings; each lives as long as a version that
 * has it.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_memory.h"

/* Guest rings and buffers are read in 8-byte words. */
#define REGION_ALIGN 8

/* A region as it was asked for, with what fstat() said of its file. */
struct region_request {
	const struct vdpa_mem_region_spec *spec;
	dev_t dev;
	ino_t ino;
};

static void
region_put(struct vdpa_mem_region *r)
{
	if (__atomic_sub_fetch(&r->refcnt, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	vdpa_fault_unguard(r->map);
	munmap(r->map, r->map_len);
	close(r->fd);
	free(r);
}

static int
region_map(const struct region_request *req, struct vdpa_mem_region **out)
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

	r->fd = fcntl(s->fd, F_DUPFD_CLOEXEC, 0);
	if (r->fd < 0) {
		ret = vdpa_error(errno, "memory region at 0x%" PRIx64 ": fd %d: %m", s->iova,
				 s->fd);
		goto err_free;
	}
	/* hugetlbfs maps and unmaps whole pages of its own size only. */
	if (fstatfs(r->fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && fs.f_bsize > 0)
		page = (uint64_t)fs.f_bsize;
	skip = s->offset & (page - 1);
	if (s->size > SIZE_MAX - skip - (page - 1)) {
		ret = vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": size too large", s->iova);
		goto err_close;
	}
	r->map_len = (s->size + skip + page - 1) & ~(page - 1);
	r->map = mmap(NULL, r->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd,
		      (off_t)(s->offset - skip));
	if (r->map == MAP_FAILED) {
		ret = vdpa_error(errno, "memory region at 0x%" PRIx64 ": mmap: %m", s->iova);
		goto err_close;
	}
	r->va = (uint8_t *)r->map + skip;
	/* A guest's memory is no part of our core dump; not every kernel can leave it out. */
	(void)madvise(r->map, r->map_len, MADV_DONTDUMP);

	ret = vdpa_fault_guard(r->map, r->map_len, &r->faulted);
	if (ret < 0) {
		ret = vdpa_error(ret, "memory region at 0x%" PRIx64 ": too many guarded mappings",
				 s->iova);
		goto err_unmap;
	}
	*out = r;
	return 0;

err_unmap:
	munmap(r->map, r->map_len);
err_close:
	close(r->fd);
err_free:
	free(r);
	return ret;
}

/* What is wrong with one region by itself. */
static int
request_check(struct region_request *req, const struct vdpa_mem_region_spec *s)
{
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
	if ((uint64_t)st.st_size < s->offset + s->size)
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
request_compare(const void *a, const void *b)
{
	const struct region_request *x = a, *y = b;

	return x->spec->iova < y->spec->iova ? -1 : x->spec->iova > y->spec->iova;
}

/* Sorted by IOVA, so neighbours tell for IOVA; front-end addresses are in any order. */
static int
requests_check_overlap(const struct region_request *reqs, unsigned int n)
{
	for (unsigned int i = 1; i < n; i++) {
		const struct vdpa_mem_region_spec *b = reqs[i].spec;

		if (b->iova - reqs[i - 1].spec->iova < reqs[i - 1].spec->size)
			return vdpa_error(EINVAL, "memory regions overlap at 0x%" PRIx64, b->iova);
		for (unsigned int j = 0; j < i; j++) {
			const struct vdpa_mem_region_spec *a = reqs[j].spec;

			if (a->uaddr < b->uaddr + b->size && b->uaddr < a->uaddr + a->size)
				return vdpa_error(EINVAL,
						  "memory regions overlap at front-end address "
						  "0x%" PRIx64,
						  b->uaddr);
		}
	}
	return 0;
}

/* The same region in the old table; not one whose pages were lost: the new mapping may be whole. */
static struct vdpa_mem_region *
region_find(const struct vdpa_iotlb *tlb, const struct region_request *req)
{
	const struct vdpa_mem_region_spec *s = req->spec;

	for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++) {
		struct vdpa_mem_region *r = tlb->regions[i];

		if (r->iova == s->iova && r->size == s->size && r->offset == s->offset &&
		    r->uaddr == s->uaddr && r->dev == req->dev && r->ino == req->ino &&
		    !__atomic_load_n(&r->faulted, __ATOMIC_ACQUIRE))
			return r;
	}
	return NULL;
}

int
vdpa_iotlb_create(const struct vdpa_iotlb *old, const struct vdpa_mem_region_spec *specs,
		  unsigned int n, struct vdpa_iotlb **out)
{
	struct region_request reqs[VDPA_MEM_REGIONS_MAX];
	struct vdpa_iotlb *tlb;
	uint64_t size = 0;
	int ret;

	if (n > VDPA_MEM_REGIONS_MAX)
		return vdpa_error(E2BIG, "%u memory regions, at most %d", n, VDPA_MEM_REGIONS_MAX);
	for (unsigned int i = 0; i < n; i++) {
		ret = request_check(&reqs[i], &specs[i]);
		if (ret < 0)
			return ret;
		/* A file without pages costs its owner nothing and us the addresses that all share.
		 */
		if (specs[i].size > VDPA_MEM_SIZE_MAX - size)
			return vdpa_error(E2BIG, "memory regions of more than %" PRIu64 " TiB",
					  VDPA_MEM_SIZE_MAX >> 40);
		size += specs[i].size;
	}
	if (n > 0)
		qsort(reqs, n, sizeof(reqs[0]), request_compare);
	ret = requests_check_overlap(reqs, n);
	if (ret < 0)
		return ret;

	tlb = calloc(1, sizeof(*tlb) + n * sizeof(tlb->regions[0]));
	if (tlb == NULL)
		return vdpa_error(ENOMEM, "memory table: out of memory");
	tlb->refcnt = 1;
	for (tlb->n = 0; tlb->n < n; tlb->n++) {
		struct vdpa_mem_region *r = region_find(old, &reqs[tlb->n]);

		if (r != NULL) {
			__atomic_add_fetch(&r->refcnt, 1, __ATOMIC_RELAXED);
		} else {
			ret = region_map(&reqs[tlb->n], &r);
			if (ret < 0) {
				vdpa_iotlb_put(tlb);
				return ret;
			}
		}
		tlb->regions[tlb->n] = r;
	}
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
	for (uint32_t i = 0; tlb != NULL && i < tlb->n; i++) {
		if (tlb->regions[i] == r)
			return true;
	}
	return false;
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
	for (uint32_t i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region *r = tlb->regions[i];
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
	if (__builtin_expect(vdpa_fault_seen() == 0, 1))
		return false;
	for (uint32_t i = 0; i < tlb->n; i++) {
		if (__atomic_load_n(&tlb->regions[i]->faulted, __ATOMIC_ACQUIRE))
			return true;
	}
	return false;
}
