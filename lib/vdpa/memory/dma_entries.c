/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Entries of a DMA domain: the mappings of its transport, disjoint, in a tree by IOVA. The tree is
 * a treap: as deep as a random one, whatever order a guest has its memory mapped in.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include <rte_random.h>

#include "dma_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

struct dma_entry *
dma_entry_at(const struct vdpa_dma_domain *dom, uint64_t iova)
{
	struct dma_entry *e = dom->root, *found = NULL;

	while (e != NULL) {
		if (e->last >= iova) {
			found = e;
			e = e->left;
		} else {
			e = e->right;
		}
	}
	return found;
}

struct dma_entry *
dma_entry_below(const struct vdpa_dma_domain *dom, uint64_t iova)
{
	struct dma_entry *e = dom->root, *found = NULL;

	while (e != NULL) {
		if (e->first < iova) {
			found = e;
			e = e->right;
		} else {
			e = e->left;
		}
	}
	return found;
}

/* Parts of a tree: what begins below iova, and the rest. */
static void
tree_split(struct dma_entry *t, uint64_t iova, struct dma_entry **low, struct dma_entry **high)
{
	while (t != NULL) {
		if (t->first < iova) {
			*low = t;
			low = &t->right;
			t = t->right;
		} else {
			*high = t;
			high = &t->left;
			t = t->left;
		}
	}
	*low = *high = NULL;
}

static void
tree_insert(struct dma_entry **at, struct dma_entry *e)
{
	while (*at != NULL && (*at)->priority >= e->priority)
		at = e->first < (*at)->first ? &(*at)->left : &(*at)->right;
	tree_split(*at, e->first, &e->left, &e->right);
	*at = e;
}

static void
tree_remove(struct dma_entry **at, const struct dma_entry *e)
{
	struct dma_entry *low = e->left, *high = e->right;

	while (*at != e)
		at = e->first < (*at)->first ? &(*at)->left : &(*at)->right;
	while (low != NULL && high != NULL) {
		if (low->priority >= high->priority) {
			*at = low;
			at = &low->right;
			low = low->right;
		} else {
			*at = high;
			at = &high->left;
			high = high->left;
		}
	}
	*at = low != NULL ? low : high;
}

void
dma_entry_want(struct vdpa_dma_domain *dom, struct dma_entry *e, uint64_t wanted)
{
	/* What is more is less of the other, modulo 2^64. */
	__atomic_sub_fetch(&dom->stats.bytes_retained, wanted - e->wanted, __ATOMIC_RELAXED);
	e->wanted = wanted;
}

void
dma_entry_set_stuck(struct vdpa_dma_domain *dom, struct dma_entry *e, bool stuck,
		    struct vdpa_dma_user *user)
{
	dom->n_stuck += (uint32_t)stuck - (uint32_t)e->stuck;
	e->stuck = stuck;
	e->stuck_of = stuck ? user : NULL;
}

void
dma_entry_set_kept(struct vdpa_dma_domain *dom, struct dma_entry *e, bool kept)
{
	dom->n_kept += (uint32_t)kept - (uint32_t)e->kept;
	e->kept = kept;
}

void
dma_note_changed(struct vdpa_dma_domain *dom)
{
	if (dom->changed != NULL)
		dom->changed(dom->changed_arg);
}

static struct dma_entry *
insert(struct vdpa_dma_domain *dom, const struct dma_entry *as, uint64_t first, uint64_t size)
{
	struct dma_entry *e = malloc(sizeof(*e));

	if (e == NULL) {
		vdpa_error(ENOMEM, "%s: out of memory", dom->name);
		return NULL;
	}
	*e = *as;
	e->first = first;
	e->last = first + size - 1;
	e->priority = rte_rand();
	e->kept = false;
	dma_entry_set_kept(dom, e, as->kept);
	tree_insert(&dom->root, e);
	dom->n++;
	__atomic_store_n(&dom->stats.mappings, dom->n, __ATOMIC_RELAXED);
	__atomic_add_fetch(&dom->stats.bytes_mapped, size, __ATOMIC_RELAXED);
	__atomic_add_fetch(&dom->stats.bytes_retained, size - e->wanted, __ATOMIC_RELAXED);
	return e;
}

static void
drop(struct vdpa_dma_domain *dom, struct dma_entry *e)
{
	uint64_t size = e->last - e->first + 1;

	tree_remove(&dom->root, e);
	dma_entry_set_stuck(dom, e, false, NULL);
	dma_entry_set_kept(dom, e, false);
	dom->n--;
	__atomic_store_n(&dom->stats.mappings, dom->n, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&dom->stats.bytes_mapped, size, __ATOMIC_RELAXED);
	__atomic_sub_fetch(&dom->stats.bytes_retained, size - e->wanted, __ATOMIC_RELAXED);
	free(e);
}

int
dma_entry_map(struct vdpa_dma_domain *dom, const struct dma_entry *as,
	      const struct vdpa_dma_mapping *m)
{
	struct dma_entry *e;
	int rc;

	if (dom->max_mappings > 0 && dom->n >= dom->max_mappings)
		return vdpa_error(ENOSPC,
				  "%s: %u memory regions are mapped, the IOMMU takes no more",
				  dom->name, dom->n);
	e = insert(dom, as, m->iova, m->size);
	if (e == NULL)
		return -ENOMEM;
	/* Before: whoever comes after this process is to know of all that may be mapped. */
	dma_note_changed(dom);
	rc = dom->ops->map(dom->arg, m);
	__atomic_add_fetch(&dom->stats.maps, 1, __ATOMIC_RELAXED);
	if (rc < 0) {
		drop(dom, e);
		dma_note_changed(dom);
		return rc;
	}
	VDPA_LOG(DEBUG, "%s: mapped IOVA 0x%" PRIx64 "-0x%" PRIx64, dom->name, e->first, e->last);
	return 0;
}

int
dma_entry_restore(struct vdpa_dma_domain *dom, const struct dma_entry *as)
{
	return insert(dom, as, as->first, as->last - as->first + 1) != NULL ? 0 : -ENOMEM;
}

void
dma_entry_forget(struct vdpa_dma_domain *dom, struct dma_entry *e)
{
	drop(dom, e);
	dma_note_changed(dom);
}

int
dma_entry_unmap(struct vdpa_dma_domain *dom, struct dma_entry *e)
{
	const struct vdpa_dma_mapping m = {
		.iova = e->first, .size = e->last - e->first + 1, .fd = -1};
	int rc;

	if (e->kept && !dma_kept_is_there(dom, e)) {
		dma_entry_forget(dom, e);
		return 0;
	}
	rc = dom->ops->unmap(dom->arg, &m);
	__atomic_add_fetch(&dom->stats.unmaps, 1, __ATOMIC_RELAXED);
	if (rc < 0)
		return rc;
	VDPA_LOG(DEBUG, "%s: unmapped IOVA 0x%" PRIx64 "-0x%" PRIx64, dom->name, e->first, e->last);
	dma_entry_forget(dom, e);
	return 0;
}
