/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Regions of guest memory: what is checked of one that is asked for, its mapping, and its file.
 * Owns the mappings outside windows and the files, one descriptor for all regions of a file; each
 * lives as long as a version of a table that has it.
 */

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault.h"
#include "mem_budget.h"
#include "mem_region.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"

/* Guest rings and buffers are read in 8-byte words. */
#define REGION_ALIGN 8

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
file_find(const struct vdpa_iotlb *tlb, const struct mem_region_request *req)
{
	for (uint32_t i = tlb != NULL ? tlb->n : 0; i-- > 0;) {
		const struct vdpa_mem_region *r = tlb->regions[i];

		if (r->dev == req->dev && r->ino == req->ino &&
		    r->generation == req->spec->generation)
			return r->file;
	}
	return NULL;
}

/* The file of a region: one that either table has, or a duplicate. */
static int
file_get(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
	 const struct mem_region_request *req, struct vdpa_mem_file **out)
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

uint64_t
vdpa_mem_generation_new(void)
{
	static uint64_t last;

	return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

struct vdpa_mem_region *
mem_region_get(struct vdpa_mem_region *r)
{
	__atomic_add_fetch(&r->refcnt, 1, __ATOMIC_RELAXED);
	return r;
}

void
mem_region_put(struct vdpa_mem_region *r)
{
	if (__atomic_sub_fetch(&r->refcnt, 1, __ATOMIC_ACQ_REL) != 0)
		return;
	if (r->window != NULL) {
		mem_window_leave(r);
	} else {
		vdpa_fault_unguard(r->map);
		munmap(r->map, r->map_len);
	}
	mem_budget_give(r->mappings);
	file_put(r->file);
	free(r);
}

/* Map a region anew; `old` and `now` may have its file, and `now` is the table that it is for, or,
 * NULL, `old` is what that had. */
int
mem_region_map(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
	       const struct mem_region_request *req, struct vdpa_mem_region **out)
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
	r->generation = s->generation;
	r->refcnt = 1;

	if (now == NULL)
		now = old;
	r->mappings = s->in_order ? MEM_BUDGET_WINDOW : MEM_BUDGET_REGION;
	ret = mem_budget_take(s->iova, r->mappings,
			      (uint64_t)(now != NULL ? now->n : 0) * r->mappings);
	if (ret < 0)
		goto err_free;
	ret = file_get(old, now, req, &r->file);
	if (ret < 0)
		goto err_budget;
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
		mem_window_put_in_order(old, now, r, s->iova - skip);
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
err_budget:
	mem_budget_give(r->mappings);
err_free:
	free(r);
	return ret;
}

/* What is wrong with one region by itself. */
int
mem_region_check(struct mem_region_request *req, const struct vdpa_mem_region_spec *s)
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
	req->spec = s;
	req->dev = st.st_dev;
	req->ino = st.st_ino;
	if (s->kernel_file)
		return 0;
	if (!S_ISREG(st.st_mode))
		return vdpa_error(EINVAL, "memory region at 0x%" PRIx64 ": fd %d is not a file",
				  s->iova, s->fd);
	/* Its last page is there as a whole. */
	if ((((uint64_t)st.st_size + page - 1) & ~(page - 1)) < s->offset + s->size)
		return vdpa_error(EINVAL,
				  "memory region at 0x%" PRIx64 ": ends at %" PRIu64
				  " in a file of %" PRIu64 " bytes",
				  s->iova, s->offset + s->size, (uint64_t)st.st_size);
	return 0;
}
