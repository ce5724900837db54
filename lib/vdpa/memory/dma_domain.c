/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DMA domains: the list of what is mapped where, who may map what, and the driver's own memory in
 * it. Owns the list; how to map is the transport's (struct vdpa_dma_ops).
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "page_holders.h"
#include "vdpa_error.h"
#include "vdpa_dma.h"
#include "vdpa_log.h"

/* Ranges of one domain: an IOMMU reserves a handful. */
#define RANGES_MAX 4096

/* What makes two requests the same mapping. A driver's own memory equals nothing else: its file is
 * private. */
struct dma_entry {
	uint64_t iova;
	uint64_t last; /* inclusive: an entry may end at 2^64 */
	uint64_t offset;
	dev_t dev;
	ino_t ino;
	uint32_t users;
	bool own; /* the driver's, by vdpa_dma_alloc() */
};

struct vdpa_dma_domain {
	char *name;
	const struct vdpa_dma_ops *ops;
	void *arg;
	uint64_t page_size;
	unsigned int max_mappings;
	struct vdpa_dma_range *ranges; /* ascending, none adjacent to the next */
	unsigned int n_ranges;

	pthread_mutex_t lock;	   /* entries, and calls of ops */
	struct dma_entry *entries; /* ascending, disjoint */
	uint32_t n, room;

	/* Read without the lock, which a transport may hold for as long as its time-out. */
	struct vdpa_dma_stats stats;

	struct vdpa_page_holders holders;
};

static int
ranges_copy(struct vdpa_dma_domain *dom, const struct vdpa_dma_limits *limits)
{
	static const struct vdpa_dma_range all = {0, UINT64_MAX};
	const struct vdpa_dma_range *from = limits->n_ranges > 0 ? limits->ranges : &all;
	unsigned int n = limits->n_ranges > 0 ? limits->n_ranges : 1;

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
	struct vdpa_dma_domain *dom;
	int ret;

	if (limits->page_size == 0 || (limits->page_size & (limits->page_size - 1)) != 0)
		return vdpa_error(EINVAL, "%s: IOMMU page size 0x%" PRIx64, name,
				  limits->page_size);
	dom = calloc(1, sizeof(*dom));
	if (dom == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	dom->ops = ops;
	dom->arg = arg;
	dom->page_size = limits->page_size;
	dom->max_mappings = limits->max_mappings;
	dom->name = strdup(name);
	if (dom->name == NULL) {
		ret = vdpa_error(ENOMEM, "%s: out of memory", name);
		goto err_free;
	}
	ret = ranges_copy(dom, limits);
	if (ret < 0)
		goto err_ranges;
	ret = pthread_mutex_init(&dom->lock, NULL);
	if (ret != 0) {
		ret = vdpa_error(ret, "%s: mutex: %s", name, strerror(ret));
		goto err_ranges;
	}
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

/* Index of the first entry that ends at iova or above. */
static uint32_t
entry_at(const struct vdpa_dma_domain *dom, uint64_t iova)
{
	uint32_t low = 0, high = dom->n;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (dom->entries[mid].last < iova)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
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

/* Put an entry in its place and map it. With the lock. */
static int
entry_map(struct vdpa_dma_domain *dom, uint32_t at, const struct dma_entry *e,
	  const struct vdpa_dma_mapping *m)
{
	int ret;

	if (dom->max_mappings > 0 && dom->n >= dom->max_mappings)
		return vdpa_error(ENOSPC,
				  "%s: %u memory regions are mapped, the IOMMU takes no more",
				  dom->name, dom->n);
	if (dom->n == dom->room) {
		uint32_t room = dom->room > 0 ? 2 * dom->room : 16;
		struct dma_entry *grown = realloc(dom->entries, room * sizeof(*grown));

		if (grown == NULL)
			return vdpa_error(ENOMEM, "%s: out of memory", dom->name);
		dom->entries = grown;
		dom->room = room;
	}
	ret = dom->ops->map(dom->arg, m);
	__atomic_add_fetch(&dom->stats.maps, 1, __ATOMIC_RELAXED);
	if (ret < 0)
		return ret;
	memmove(&dom->entries[at + 1], &dom->entries[at], (dom->n - at) * sizeof(*e));
	dom->entries[at] = *e;
	dom->n++;
	__atomic_store_n(&dom->stats.mappings, dom->n, __ATOMIC_RELAXED);
	__atomic_add_fetch(&dom->stats.bytes_mapped, m->size, __ATOMIC_RELAXED);
	VDPA_LOG(DEBUG, "%s: mapped IOVA 0x%" PRIx64 "-0x%" PRIx64, dom->name, e->iova, e->last);
	return 0;
}

/* Unmap an entry and take it out; on failure it stays. With the lock. */
static int
entry_unmap(struct vdpa_dma_domain *dom, uint32_t at, void *va, int fd)
{
	const struct dma_entry *e = &dom->entries[at];
	struct vdpa_dma_mapping m = {.iova = e->iova,
				     .size = e->last - e->iova + 1,
				     .va = va,
				     .fd = fd,
				     .offset = e->offset};
	int ret;

	ret = dom->ops->unmap(dom->arg, &m);
	__atomic_add_fetch(&dom->stats.unmaps, 1, __ATOMIC_RELAXED);
	if (ret < 0)
		return ret;
	dom->n--;
	memmove(&dom->entries[at], &dom->entries[at + 1], (dom->n - at) * sizeof(*e));
	__atomic_store_n(&dom->stats.mappings, dom->n, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&dom->stats.bytes_mapped, m.size, __ATOMIC_RELAXED);
	VDPA_LOG(DEBUG, "%s: unmapped IOVA 0x%" PRIx64 " size 0x%" PRIx64, dom->name, m.iova,
		 m.size);
	return 0;
}

/* Bytes of whole IOMMU pages that a region takes; 0: more than there are. */
static uint64_t
whole_pages(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r)
{
	return (r->size + dom->page_size - 1) & ~(dom->page_size - 1);
}

/* The entry that is this region's; NULL: there is none. With the lock. */
static struct dma_entry *
entry_of(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r)
{
	uint32_t at = entry_at(dom, r->iova);
	struct dma_entry *e;

	if (at == dom->n)
		return NULL;
	e = &dom->entries[at];
	return !e->own && e->iova == r->iova && e->last - e->iova == whole_pages(dom, r) - 1 &&
			       e->offset == r->offset && e->dev == r->dev && e->ino == r->ino
		       ? e
		       : NULL;
}

/* Whether memory of a guest's is mapped. With the lock. */
static bool
has_guest(const struct vdpa_dma_domain *dom)
{
	for (uint32_t i = 0; i < dom->n; i++)
		if (!dom->entries[i].own)
			return true;
	return false;
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

static int
overlaps_entry(const struct vdpa_dma_domain *dom, const struct dma_entry *wanted,
	       const struct dma_entry *e)
{
	return vdpa_error(EBUSY,
			  "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64 " overlaps 0x%" PRIx64
			  "-0x%" PRIx64 ", which is %s",
			  dom->name, wanted->iova, wanted->last, e->iova, e->last,
			  e->own ? "the driver's own memory"
				 : "mapped to other memory: functions of one IOMMU group serve "
				   "one guest");
}

static int
map_for_user(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region, bool first)
{
	uint64_t size = whole_pages(dom, region);
	const struct vdpa_dma_mapping m = {.iova = region->iova,
					   .size = size,
					   .va = region->va,
					   .fd = region->fd,
					   .offset = region->offset};
	const struct dma_entry wanted = {.iova = region->iova,
					 .last = region->iova + size - 1,
					 .offset = region->offset,
					 .dev = region->dev,
					 .ino = region->ino,
					 .users = 1};
	struct dma_entry *e;
	uint32_t at;
	int ret;

	ret = check_pages(dom, region, size);
	if (ret == 0)
		ret = check_iova(dom, wanted.iova, wanted.last);
	if (ret < 0)
		return ret;

	pthread_mutex_lock(&dom->lock);
	e = entry_of(dom, region);
	at = entry_at(dom, wanted.iova);
	if (e != NULL)
		e->users++;
	else if (at < dom->n && dom->entries[at].iova <= wanted.last)
		ret = overlaps_entry(dom, &wanted, &dom->entries[at]);
	else if (first && has_guest(dom))
		ret = vdpa_error(EBUSY,
				 "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				 " is none of the guest's whose memory is mapped: functions of one "
				 "IOMMU group serve one guest",
				 dom->name, wanted.iova, wanted.last);
	else
		ret = entry_map(dom, at, &wanted, &m);
	pthread_mutex_unlock(&dom->lock);
	return ret;
}

int
vdpa_dma_map(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region)
{
	return map_for_user(dom, region, false);
}

int
vdpa_dma_map_first(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region)
{
	return map_for_user(dom, region, true);
}

int
vdpa_dma_unmap(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region)
{
	struct dma_entry *e;
	int ret = 0;

	pthread_mutex_lock(&dom->lock);
	e = entry_of(dom, region);
	if (e == NULL)
		ret = vdpa_error(ENOENT,
				 "%s: memory at IOVA 0x%" PRIx64 " of 0x%" PRIx64
				 " bytes is not mapped",
				 dom->name, region->iova, region->size);
	else if (e->users > 1)
		e->users--;
	else
		/* The first user's view may be gone; this one's is there. */
		ret = entry_unmap(dom, (uint32_t)(e - dom->entries), region->va, region->fd);
	pthread_mutex_unlock(&dom->lock);
	return ret;
}

/* The highest hole of size bytes, whole pages. With the lock. */
static int
find_hole(const struct vdpa_dma_domain *dom, uint64_t size, uint64_t page, uint64_t *iova)
{
	uint32_t e = dom->n;

	for (unsigned int i = dom->n_ranges; i-- > 0;) {
		const struct vdpa_dma_range *r = &dom->ranges[i];
		/* The last page of all is left out: a device may compute with its end. */
		uint64_t top = r->last < UINT64_MAX - page ? r->last + 1 : -page;

		top &= ~(page - 1);
		for (;;) {
			/* Whatever lies at top or above does not matter any more. */
			while (e > 0 && dom->entries[e - 1].iova >= top)
				e--;
			if (top < size || top - size < r->first)
				break;
			if (e == 0 || dom->entries[e - 1].last < top - size) {
				*iova = top - size;
				return 0;
			}
			top = dom->entries[e - 1].iova;
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

int
vdpa_dma_alloc(struct vdpa_dma_domain *dom, size_t size, struct vdpa_dma_buf *buf)
{
	uint64_t page = dom->page_size, sys_page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct vdpa_dma_buf b = {.fd = -1};
	struct dma_entry e = {.own = true, .users = 1};
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
	e.dev = st.st_dev;
	e.ino = st.st_ino;

	pthread_mutex_lock(&dom->lock);
	ret = find_hole(dom, b.size, page, &b.iova);
	if (ret == 0) {
		const struct vdpa_dma_mapping m = {
			.iova = b.iova, .size = b.size, .va = b.va, .fd = b.fd};

		e.iova = b.iova;
		e.last = b.iova + b.size - 1;
		ret = entry_map(dom, entry_at(dom, e.iova), &e, &m);
	}
	pthread_mutex_unlock(&dom->lock);
	if (ret < 0) {
		munmap(b.va, b.size);
		close(b.fd);
		return ret;
	}
	*buf = b;
	return 0;
}

void
vdpa_dma_free(struct vdpa_dma_domain *dom, struct vdpa_dma_buf *buf)
{
	uint32_t at;

	if (buf->va == NULL)
		return;
	pthread_mutex_lock(&dom->lock);
	at = entry_at(dom, buf->iova);
	/*
	 * What cannot be unmapped keeps its IOVA until the domain goes. Our view can go: the pages
	 * live as long as whoever can still reach them.
	 */
	if (at < dom->n && dom->entries[at].own && dom->entries[at].iova == buf->iova &&
	    entry_unmap(dom, at, buf->va, buf->fd) < 0)
		VDPA_LOG(ERR, "%s: the driver's memory at IOVA 0x%" PRIx64 " stays mapped: %s",
			 dom->name, buf->iova, vdpa_error_message());
	pthread_mutex_unlock(&dom->lock);
	munmap(buf->va, buf->size);
	close(buf->fd);
	memset(buf, 0, sizeof(*buf));
}

void
vdpa_dma_get_stats(struct vdpa_dma_domain *dom, struct vdpa_dma_stats *stats)
{
	stats->maps = __atomic_load_n(&dom->stats.maps, __ATOMIC_RELAXED);
	stats->unmaps = __atomic_load_n(&dom->stats.unmaps, __ATOMIC_RELAXED);
	stats->bytes_mapped = __atomic_load_n(&dom->stats.bytes_mapped, __ATOMIC_RELAXED);
	stats->mappings = __atomic_load_n(&dom->stats.mappings, __ATOMIC_RELAXED);
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
	while (dom->n > 0) {
		if (entry_unmap(dom, dom->n - 1, NULL, -1) == 0)
			continue;
		VDPA_LOG(ERR, "%s: IOVA 0x%" PRIx64 " stays mapped: %s", dom->name,
			 dom->entries[dom->n - 1].iova, vdpa_error_message());
		dom->n--;
	}
	vdpa_page_holders_fini(&dom->holders);
	pthread_mutex_destroy(&dom->lock);
	free(dom->entries);
	free(dom->ranges);
	free(dom->name);
	free(dom);
}
