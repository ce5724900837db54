/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Guest memory table: versions (struct vdpa_iotlb), what makes one of another, and what is looked
 * up in them. The regions that versions share are mem_region.c's.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "fault.h"
#include "mem_region.h"
#include "mem_shared.h"
#include "vdpa_error.h"

static int
request_compare_iova(const void *a, const void *b)
{
	const struct mem_region_request *x = a, *y = b;

	return x->spec->iova < y->spec->iova ? -1 : x->spec->iova > y->spec->iova;
}

static int
request_compare_uaddr(const void *a, const void *b)
{
	const struct mem_region_request *x = a, *y = b;

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

/* Addresses of the front end's own process are shown to nobody. */
static int
overlap_uaddr(uint64_t iova, uint64_t other)
{
	return vdpa_error(EINVAL,
			  "memory regions at 0x%" PRIx64 " and 0x%" PRIx64
			  " overlap in the front end's addresses",
			  iova, other);
}

/* Neighbours tell, in either order. The requests are left sorted by IOVA. */
static int
requests_check_overlap(struct mem_region_request *reqs, unsigned int n)
{
	qsort(reqs, n, sizeof(reqs[0]), request_compare_uaddr);
	for (unsigned int i = 1; i < n; i++) {
		const struct vdpa_mem_region_spec *a = reqs[i - 1].spec, *b = reqs[i].spec;

		if (b->uaddr - a->uaddr < a->size)
			return overlap_uaddr(a->iova, b->iova);
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
is_region(const struct vdpa_mem_region *r, const struct mem_region_request *req)
{
	const struct vdpa_mem_region_spec *s = req->spec;

	return r->iova == s->iova && r->size == s->size && r->offset == s->offset &&
	       r->uaddr == s->uaddr && r->readonly == s->readonly && r->dev == req->dev &&
	       r->ino == req->ino && r->generation == s->generation;
}

/* The same region in the old table; not one whose pages were lost: the new mapping may be whole. */
static struct vdpa_mem_region *
region_find(const struct vdpa_iotlb *tlb, const struct mem_region_request *req)
{
	struct vdpa_mem_region *r = region_at(tlb, req->spec->iova);

	if (r != NULL && is_region(r, req) && !mem_region_faulted(r))
		return r;
	return NULL;
}

/*
 * The same region in a table of another device, with a reference for the caller. None in a window:
 * a table has one window at an IOVA, and its own.
 */
static struct vdpa_mem_region *
region_share(const struct vdpa_iotlb *const *others, unsigned int n_others,
	     const struct mem_region_request *req)
{
	for (unsigned int i = 0; i < n_others && !req->spec->in_order; i++) {
		struct vdpa_mem_region *r = region_find(others[i], req);

		if (r != NULL && r->window == NULL)
			return mem_region_get(r);
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
requests_check(struct mem_region_request *reqs, const struct vdpa_mem_region_spec *specs,
	       unsigned int n, uint64_t *size)
{
	*size = 0;
	for (unsigned int i = 0; i < n; i++) {
		int ret = mem_region_check(&reqs[i], &specs[i]);

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
	struct mem_region_request *reqs;
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
		const struct mem_region_request *req = &reqs[tlb->n];
		struct vdpa_mem_region *r = region_find(old, req);

		r = r != NULL ? mem_region_get(r) : region_share(others, n_others, req);
		if (r == NULL)
			ret = mem_region_map(old, tlb, req, &r);
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
find_place(const struct vdpa_iotlb *tlb, const struct mem_region_request *req, uint32_t *by_iova,
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
		return overlap_uaddr(s->iova, r->iova);
	u += r->uaddr < s->uaddr;
	if (u < tlb->n && tlb->by_uaddr[u]->uaddr - s->uaddr < s->size)
		return overlap_uaddr(s->iova, tlb->by_uaddr[u]->iova);
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
	struct mem_region_request req;
	struct vdpa_mem_region *r;
	struct vdpa_iotlb *tlb;
	int ret;

	if (n >= VDPA_MEM_REGIONS_MAX)
		return vdpa_error(E2BIG, "%u memory regions, at most %d", n + 1,
				  VDPA_MEM_REGIONS_MAX);
	ret = mem_region_check(&req, spec);
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
		ret = mem_region_map(old, NULL, &req, &r);
	if (ret < 0) {
		free(tlb);
		return ret;
	}
	for (uint32_t i = 0; i < n; i++) {
		tlb->regions[i + (i >= at)] = mem_region_get(old->regions[i]);
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
				  "no memory region at 0x%" PRIx64 " has 0x%" PRIx64
				  " bytes and that front-end address",
				  iova, size);
	tlb = table_alloc(old->n - 1);
	if (tlb == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < old->n; i++) {
		if (old->regions[i] != r)
			tlb->regions[at++] = mem_region_get(old->regions[i]);
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
		mem_region_put(tlb->regions[i]);
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
	return vdpa_error(EFAULT, "a front-end address is not in the memory table");
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
		if (mem_region_faulted(tlb->regions[i]))
			return true;
	}
	/* The count was read first: a fault that comes meanwhile is another count. */
	__atomic_store_n((uint64_t *)(uintptr_t)&tlb->fault_seen, seen, __ATOMIC_RELAXED);
	return false;
}
