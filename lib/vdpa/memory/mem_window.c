/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Windows of a guest memory table: reservations of our address space for an aligned range of IOVAs,
 * in which a region's place follows from its IOVA. Two versions of a table may have regions of the
 * same memory at the same place, as when a region grows; a place is given back when no region has
 * it any more, and a window with its last region.
 */

#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fault.h"
#include "mem_budget.h"
#include "mem_region.h"

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

bool
mem_region_faulted(const struct vdpa_mem_region *r)
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
	/* The addresses before its first region, or behind it. */
	if (mem_budget_take(iova, 1, 0) < 0)
		goto err_free;
	w->iova = window_iova(iova);
	w->base = mmap(NULL, VDPA_MEM_WINDOW, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (w->base == MAP_FAILED)
		goto err_budget;
	if (vdpa_fault_guard(w->base, VDPA_MEM_WINDOW, &w->faulted) < 0)
		goto err_unmap;
	pthread_mutex_init(&w->lock, NULL);
	return w;

err_unmap:
	munmap(w->base, VDPA_MEM_WINDOW);
err_budget:
	mem_budget_give(1);
err_free:
	free(w);
	return NULL;
}

static void
window_free(struct vdpa_mem_window *w)
{
	vdpa_fault_unguard(w->base);
	munmap(w->base, VDPA_MEM_WINDOW);
	mem_budget_give(1);
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
void
mem_window_leave(struct vdpa_mem_region *r)
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
		if (!mem_region_same_file(other, r) ||
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
void
mem_window_put_in_order(const struct vdpa_iotlb *old, const struct vdpa_iotlb *now,
			struct vdpa_mem_region *r, uint64_t first)
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
