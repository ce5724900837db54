/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DMA domains: what the IOMMU translates, the domain's lock, and the driver's own memory. How to
 * map is the transport's (struct vdpa_dma_ops); what is mapped, and when, dma_change.c's.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <rte_common.h>

#include "dma_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* Ranges of one domain: an IOMMU reserves a handful. */
#define RANGES_MAX    4096
/*
 * Bytes of one mapping. VFIO pins some 10 GiB a second at best, so that a turn of the lock stays
 * below half a second; what is mapped anew when one is replaced is less than that.
 */
#define CHUNK_DEFAULT (UINT64_C(1) << 30)

void
dma_lock(struct vdpa_dma_domain *dom)
{
	uint64_t mine;

	pthread_mutex_lock(&dom->turn_lock);
	mine = dom->turns++;
	while (dom->turn != mine)
		pthread_cond_wait(&dom->turn_cond, &dom->turn_lock);
	pthread_mutex_unlock(&dom->turn_lock);
}

void
dma_unlock(struct vdpa_dma_domain *dom)
{
	pthread_mutex_lock(&dom->turn_lock);
	dom->turn++;
	pthread_cond_broadcast(&dom->turn_cond);
	pthread_mutex_unlock(&dom->turn_lock);
}

static int
ranges_copy(struct vdpa_dma_domain *dom, const struct vdpa_dma_range *ranges, unsigned int n_ranges)
{
	static const struct vdpa_dma_range all = {0, UINT64_MAX};
	const struct vdpa_dma_range *from = n_ranges > 0 ? ranges : &all;
	unsigned int n = n_ranges > 0 ? n_ranges : 1;

	dom->n_ranges = 0;
	if (n > RANGES_MAX)
		return vdpa_error(EINVAL, "%s: %u ranges of IOVAs", dom->name, n);
	dom->ranges = calloc(n, sizeof(*dom->ranges));
	if (dom->ranges == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", dom->name);
	for (unsigned int i = 0; i < n; i++) {
		if (from[i].first > from[i].last || (i > 0 && from[i].first <= from[i - 1].last))
			return vdpa_error(EINVAL,
					  "%s: range of IOVAs 0x%" PRIx64 "-0x%" PRIx64
					  " is reversed or out of order",
					  dom->name, from[i].first, from[i].last);
		if (i > 0 && from[i].first - from[i - 1].last == 1)
			dom->ranges[dom->n_ranges - 1].last = from[i].last;
		else
			dom->ranges[dom->n_ranges++] = from[i];
	}
	return 0;
}

int
vdpa_dma_domain_create(const char *name, const struct vdpa_dma_ops *ops, void *arg,
		       const struct vdpa_dma_limits *limits, struct vdpa_dma_domain **out)
{
	uint64_t chunk = limits->chunk_size != 0 ? limits->chunk_size : CHUNK_DEFAULT;
	struct vdpa_dma_domain *dom;
	int ret;

	if (limits->page_size == 0 || (limits->page_size & (limits->page_size - 1)) != 0)
		return vdpa_error(EINVAL, "%s: IOMMU page size 0x%" PRIx64, name,
				  limits->page_size);
	if ((chunk & (chunk - 1)) != 0)
		return vdpa_error(EINVAL, "%s: mappings of 0x%" PRIx64 " bytes", name, chunk);
	dom = calloc(1, sizeof(*dom));
	if (dom == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	dom->ops = ops;
	dom->arg = arg;
	dom->page_size = limits->page_size;
	dom->chunk_size = chunk > limits->page_size ? chunk : limits->page_size;
	LIST_INIT(&dom->users);
	dom->one_guest = limits->one_guest;
	dom->max_mappings = limits->max_mappings;
	dom->name = strdup(name);
	if (dom->name == NULL) {
		ret = vdpa_error(ENOMEM, "%s: out of memory", name);
		goto err_free;
	}
	ret = ranges_copy(dom, limits->ranges, limits->n_ranges);
	if (ret < 0)
		goto err_ranges;
	pthread_mutex_init(&dom->turn_lock, NULL);
	pthread_cond_init(&dom->turn_cond, NULL);
	vdpa_page_holders_init(&dom->holders);
	*out = dom;
	return 0;

err_ranges:
	free(dom->ranges);
	free(dom->name);
err_free:
	free(dom);
	return ret;
}

void
vdpa_dma_domain_set_batch(struct vdpa_dma_domain *dom, const struct vdpa_dma_batch *batch)
{
	dom->batch = batch;
}

int
vdpa_dma_domain_set_ranges(struct vdpa_dma_domain *dom, const struct vdpa_dma_range *ranges,
			   unsigned int n)
{
	struct vdpa_dma_domain other = {.name = dom->name};
	int ret = ranges_copy(&other, ranges, n);

	if (ret < 0) {
		free(other.ranges);
		return ret;
	}
	dma_lock(dom);
	free(dom->ranges);
	dom->ranges = other.ranges;
	dom->n_ranges = other.n_ranges;
	dma_unlock(dom);
	return 0;
}

/* The IOVAs can be translated, by pages of the IOMMU. */
static int
check_iova(const struct vdpa_dma_domain *dom, uint64_t first, uint64_t last)
{
	const struct vdpa_dma_range *r = dom->ranges;
	unsigned int i = 0, hole;

	while (i < dom->n_ranges && r[i].last < first)
		i++;
	if (i == dom->n_ranges)
		return vdpa_error(EINVAL,
				  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				  " is above 0x%" PRIx64 ", the last that the IOMMU translates",
				  dom->name, first, last, r[i - 1].last);
	if (r[i].first <= first && last <= r[i].last)
		return 0;
	/* It begins in the hole before range i, or reaches into the one after it. */
	hole = r[i].first <= first ? i + 1 : i;
	if (hole == dom->n_ranges)
		return vdpa_error(EINVAL,
				  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				  " ends above 0x%" PRIx64 ", the last that the IOMMU translates",
				  dom->name, first, last, r[i].last);
	return vdpa_error(EINVAL,
			  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64 " overlaps 0x%" PRIx64
			  "-0x%" PRIx64 ", which the IOMMU reserves",
			  dom->name, first, last, hole > 0 ? r[hole - 1].last + 1 : 0,
			  r[hole].first - 1);
}

/*
 * The region begins with a page of the IOMMU. It may end within one, which is mapped as a whole
 * where the file has that page too: the device then reaches bytes of the front end's own file, and
 * no other region can lie there, as it would begin within a page.
 */
static int
check_pages(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r, uint64_t size)
{
	uint64_t last = r->iova + r->size - 1;

	if (r->size == 0 || last < r->iova || size == 0 || r->iova + size - 1 < r->iova)
		return vdpa_error(EINVAL,
				  "%s: memory at IOVA 0x%" PRIx64 " of 0x%" PRIx64
				  " bytes wraps around",
				  dom->name, r->iova, r->size);
	if (((r->iova | r->offset | (uintptr_t)r->va) & (dom->page_size - 1)) != 0)
		return vdpa_error(EINVAL,
				  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				  ", offset 0x%" PRIx64 " in its file, does not begin with one of "
				  "the IOMMU's pages of 0x%" PRIx64,
				  dom->name, r->iova, last, r->offset, dom->page_size);
	if (size > r->size && (uintptr_t)r->va + size > (uintptr_t)r->map + r->map_len)
		return vdpa_error(EINVAL,
				  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				  " ends within one of the IOMMU's pages of 0x%" PRIx64
				  ", which its file does not fill",
				  dom->name, r->iova, last, dom->page_size);
	return 0;
}

int
dma_check_region(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region)
{
	uint64_t size = (region->size + dom->page_size - 1) & ~(dom->page_size - 1);
	int ret = check_pages(dom, region, size);

	if (ret < 0)
		return ret;
	/* The ranges change when another IOMMU joins. */
	dma_lock(dom);
	ret = check_iova(dom, region->iova, region->iova + size - 1);
	dma_unlock(dom);
	return ret;
}

/* Whether nobody has anything in size bytes below top; else below what there could be room. */
static bool
is_hole(const struct vdpa_dma_domain *dom, uint64_t size, uint64_t *top)
{
	const struct dma_entry *e = dma_entry_below(dom, *top);
	uint64_t begin;

	if (e != NULL && e->last >= *top - size) {
		*top = e->first;
		return false;
	}
	/* Mapped or about to be. */
	if (dma_claim_in(dom, *top - size, *top - 1, &begin)) {
		*top = begin;
		return false;
	}
	return true;
}

bool
vdpa_dma_is_in_use(struct vdpa_dma_domain *dom)
{
	bool used;

	dma_lock(dom);
	used = dma_has_memory(dom);
	dma_unlock(dom);
	return used;
}

/* The highest hole of size bytes, whole pages. With the lock. */
static int
find_hole(const struct vdpa_dma_domain *dom, uint64_t size, uint64_t page, uint64_t *iova)
{
	for (unsigned int i = dom->n_ranges; i-- > 0;) {
		const struct vdpa_dma_range *r = &dom->ranges[i];
		/* The last page of all is left out: a device may compute with its end. */
		uint64_t top = r->last < UINT64_MAX - page ? r->last + 1 : -page;

		for (;;) {
			top &= ~(page - 1);
			if (top < size || top - size < r->first)
				break;
			if (is_hole(dom, size, &top)) {
				*iova = top - size;
				return 0;
			}
		}
	}
	return vdpa_error(ENOSPC, "%s: no %" PRIu64 " bytes of IOVAs in one piece are free",
			  dom->name, size);
}

/*
 * Memory of its own file, aligned to the IOMMU's pages. Sealed: who gets the file cannot shrink it
 * under our mapping.
 */
static int
own_memory(const struct vdpa_dma_domain *dom, struct vdpa_dma_buf *buf, struct stat *st)
{
	size_t slack = dom->page_size > (uint64_t)sysconf(_SC_PAGESIZE) ? dom->page_size : 0;
	size_t skip;
	uint8_t *map;
	int ret;

	buf->fd = memfd_create("uvdpa-dma", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (buf->fd < 0)
		return vdpa_error(errno, "%s: memfd_create: %m", dom->name);
	if (ftruncate(buf->fd, (off_t)buf->size) < 0 ||
	    fcntl(buf->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0 ||
	    fstat(buf->fd, st) < 0) {
		ret = vdpa_error(errno, "%s: memory file of %zu bytes: %m", dom->name, buf->size);
		goto err_close;
	}
	map = mmap(NULL, buf->size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		ret = vdpa_error(errno, "%s: mmap of %zu bytes: %m", dom->name, buf->size);
		goto err_close;
	}
	skip = -(uintptr_t)map & (dom->page_size - 1);
	buf->va = map + skip;
	if (mmap(buf->va, buf->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, buf->fd, 0) ==
	    MAP_FAILED) {
		ret = vdpa_error(errno, "%s: mmap of %zu bytes: %m", dom->name, buf->size);
		munmap(map, buf->size + slack);
		goto err_close;
	}
	if (skip > 0)
		munmap(map, skip);
	if (slack > skip)
		munmap(map + skip + buf->size, slack - skip);
	return 0;

err_close:
	close(buf->fd);
	return ret;
}

/* Map memory of the driver's own, as m says but for the IOVA, which is chosen. */
static int
map_own(struct vdpa_dma_domain *dom, const struct dma_entry *e, uint64_t page,
	struct vdpa_dma_mapping *m)
{
	int ret;

	dma_lock(dom);
	ret = find_hole(dom, m->size, page, &m->iova);
	if (ret == 0)
		ret = dma_entry_map(dom, e, m);
	dma_unlock(dom);
	return ret;
}

/*
 * What cannot be unmapped keeps its IOVA until the domain goes. Our view can go: the pages live as
 * long as whoever can still reach them.
 */
static void
unmap_own(struct vdpa_dma_domain *dom, uint64_t iova)
{
	struct dma_entry *e;

	dma_lock(dom);
	e = dma_entry_at(dom, iova);
	if (e != NULL && e->own && e->first == iova) {
		e->owner = (struct vdpa_dma_owner){.user = NULL};
		if (dma_entry_unmap(dom, e) < 0)
			VDPA_LOG(ERR,
				 "%s: the driver's memory at IOVA 0x%" PRIx64 " stays mapped: %s",
				 dom->name, iova, vdpa_error_message());
	}
	dma_unlock(dom);
}

int
vdpa_dma_alloc(struct vdpa_dma_domain *dom, size_t size, const struct vdpa_dma_owner *owner,
	       struct vdpa_dma_buf *buf)
{
	uint64_t page = dom->page_size, sys_page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct vdpa_dma_buf b = {.fd = -1};
	struct dma_entry e = {.own = true};
	struct vdpa_dma_mapping m;
	struct stat st;
	int ret;

	if (page < sys_page)
		page = sys_page;
	if (size == 0 || size > (SIZE_MAX >> 1) - page)
		return vdpa_error(EINVAL, "%s: %zu bytes of memory for DMA", dom->name, size);
	b.size = (size + page - 1) & ~(page - 1);
	ret = own_memory(dom, &b, &st);
	if (ret < 0)
		return ret;
	e.id = (struct dma_id){.dev = st.st_dev, .ino = st.st_ino};
	e.wanted = b.size;
	if (owner != NULL)
		e.owner = *owner;

	m = (struct vdpa_dma_mapping){.size = b.size, .va = b.va, .fd = b.fd};
	ret = map_own(dom, &e, page, &m);
	if (ret < 0) {
		munmap(b.va, b.size);
		close(b.fd);
		return ret;
	}
	b.iova = m.iova;
	*buf = b;
	return 0;
}

void
vdpa_dma_free(struct vdpa_dma_domain *dom, struct vdpa_dma_buf *buf)
{
	if (buf->va == NULL)
		return;
	unmap_own(dom, buf->iova);
	munmap(buf->va, buf->size);
	close(buf->fd);
	memset(buf, 0, sizeof(*buf));
}

int
vdpa_dma_map_log(struct vdpa_dma_domain *dom, const struct vdpa_dirty_log *log,
		 const struct vdpa_dma_owner *owner, struct vdpa_dma_log *map)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip = log->offset & (page - 1);
	struct dma_entry e = {.own = true};
	struct vdpa_dma_mapping m;
	struct stat st;
	int ret;

	if (log->size == 0 || log->size > (UINT64_MAX >> 1) - 2 * page)
		return vdpa_error(EINVAL, "%s: a dirty log of %" PRIu64 " bytes", dom->name,
				  log->size);
	if (log->fd < 0)
		return vdpa_error(EOPNOTSUPP, "%s: the dirty log's file is not known", dom->name);
	if (dom->page_size > page || (((uintptr_t)log->bitmap ^ skip) & (page - 1)) != 0)
		return vdpa_error(EOPNOTSUPP,
				  "%s: the dirty log, at offset 0x%" PRIx64
				  " in its file, cannot be mapped by pages of 0x%" PRIx64,
				  dom->name, log->offset, RTE_MAX(dom->page_size, page));
	if (fstat(log->fd, &st) < 0)
		return vdpa_error(errno, "%s: the dirty log's file: %m", dom->name);
	m = (struct vdpa_dma_mapping){.size = (skip + log->size + page - 1) & ~(page - 1),
				      .va = log->bitmap - skip,
				      .fd = log->fd,
				      .offset = log->offset - skip};
	e.id = (struct dma_id){.dev = st.st_dev, .ino = st.st_ino};
	e.wanted = m.size;
	if (owner != NULL)
		e.owner = *owner;
	ret = map_own(dom, &e, page, &m);
	if (ret == 0)
		*map = (struct vdpa_dma_log){
			.iova = m.iova + skip, .first = m.iova, .size = m.size};
	return ret;
}

void
vdpa_dma_unmap_log(struct vdpa_dma_domain *dom, struct vdpa_dma_log *map)
{
	if (map->size == 0)
		return;
	unmap_own(dom, map->first);
	memset(map, 0, sizeof(*map));
}

void
vdpa_dma_get_stats(struct vdpa_dma_domain *dom, struct vdpa_dma_stats *stats)
{
	const struct vdpa_dma_stats *s = &dom->stats;

	stats->maps = __atomic_load_n(&s->maps, __ATOMIC_RELAXED);
	stats->unmaps = __atomic_load_n(&s->unmaps, __ATOMIC_RELAXED);
	stats->bytes_mapped = __atomic_load_n(&s->bytes_mapped, __ATOMIC_RELAXED);
	stats->bytes_retained = __atomic_load_n(&s->bytes_retained, __ATOMIC_RELAXED);
	stats->replaced = __atomic_load_n(&s->replaced, __ATOMIC_RELAXED);
	stats->change_us = __atomic_load_n(&s->change_us, __ATOMIC_RELAXED);
	stats->mappings = __atomic_load_n(&s->mappings, __ATOMIC_RELAXED);
}

struct vdpa_page_holders *
vdpa_dma_page_holders(struct vdpa_dma_domain *dom)
{
	return &dom->holders;
}

void
vdpa_dma_domain_destroy(struct vdpa_dma_domain *dom)
{
	if (dom == NULL)
		return;
	if (dom->n > 0)
		VDPA_LOG(WARNING, "%s: %u mappings, %" PRIu64 " bytes, were left; unmapped",
			 dom->name, dom->n, dom->stats.bytes_mapped);
	while (dom->root != NULL) {
		if (dma_entry_unmap(dom, dom->root) == 0)
			continue;
		VDPA_LOG(ERR, "%s: IOVA 0x%" PRIx64 " stays mapped: %s", dom->name,
			 dom->root->first, vdpa_error_message());
		dma_entry_forget(dom, dom->root);
	}
	vdpa_page_holders_fini(&dom->holders);
	pthread_cond_destroy(&dom->turn_cond);
	pthread_mutex_destroy(&dom->turn_lock);
	free(dom->ranges);
	free(dom->name);
	free(dom);
}
