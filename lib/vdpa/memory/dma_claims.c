/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Claims: what the users' tables say of an IOVA. A table is searched by bisection, and each answer
 * says how far it holds, so that a walk takes one step for each region and gap that it meets.
 */

#include "dma_priv.h"

static const struct dma_view everybody;

uint64_t
dma_region_last(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r)
{
	return r->iova + ((r->size + dom->page_size - 1) & ~(dom->page_size - 1)) - 1;
}

const struct vdpa_mem_region *
dma_region_at(const struct vdpa_dma_domain *dom, const struct vdpa_iotlb *tlb, uint64_t iova,
	      uint64_t *upto)
{
	const struct vdpa_mem_region *r;
	uint32_t i;

	*upto = UINT64_MAX;
	if (tlb == NULL || tlb->n == 0)
		return NULL;
	i = vdpa_iotlb_index(tlb, iova);
	r = tlb->regions[i];
	if (r->iova > iova) {
		*upto = r->iova - 1;
		return NULL;
	}
	if (iova <= dma_region_last(dom, r)) {
		*upto = dma_region_last(dom, r);
		return r;
	}
	if (i + 1 < tlb->n)
		*upto = tlb->regions[i + 1]->iova - 1;
	return NULL;
}

bool
dma_claimed(const struct vdpa_dma_domain *dom, const struct dma_view *view, uint64_t iova,
	    const struct dma_id *id, uint64_t *upto)
{
	const struct vdpa_dma_user *user;

	if (view == NULL)
		view = &everybody;
	*upto = UINT64_MAX;
	LIST_FOREACH (user, &dom->users, next) {
		if (user == view->without)
			continue;
		for (int i = user == view->without_table; i < 2; i++) {
			const struct vdpa_mem_region *r;
			struct dma_id has;
			uint64_t end;

			r = dma_region_at(dom, i == 0 ? user->table : user->coming, iova, &end);
			if (r != NULL) {
				has = dma_id_of(r);
				if (dma_id_equal(&has, id)) {
					*upto = end;
					return true;
				}
			}
			if (end < *upto)
				*upto = end;
		}
	}
	return false;
}

uint64_t
dma_claimed_bytes(const struct vdpa_dma_domain *dom, const struct dma_view *view, uint64_t first,
		  uint64_t last, const struct dma_id *id)
{
	uint64_t bytes = 0, upto;

	for (uint64_t at = first;; at = upto + 1) {
		bool claimed = dma_claimed(dom, view, at, id, &upto);

		if (upto > last)
			upto = last;
		if (claimed)
			bytes += upto - at + 1;
		if (upto == last)
			return bytes;
	}
}

const struct vdpa_mem_region *
dma_user_region(const struct vdpa_dma_user *user, uint64_t first, uint64_t last,
		const struct dma_id *id, bool same)
{
	for (int i = 0; i < 2; i++) {
		const struct vdpa_iotlb *tlb = i == 0 ? user->table : user->coming;
		uint64_t at = first, upto;

		for (;; at = upto + 1) {
			const struct vdpa_mem_region *r = dma_region_at(user->dom, tlb, at, &upto);

			if (r != NULL) {
				struct dma_id has = dma_id_of(r);

				if (id == NULL || dma_id_equal(&has, id) == same)
					return r;
			}
			if (upto >= last)
				break;
		}
	}
	return NULL;
}

bool
dma_claim_in(const struct vdpa_dma_domain *dom, uint64_t first, uint64_t last, uint64_t *begin)
{
	const struct vdpa_dma_user *user;
	bool found = false;

	LIST_FOREACH (user, &dom->users, next) {
		const struct vdpa_mem_region *r = dma_user_region(user, first, last, NULL, true);

		if (r != NULL && (!found || r->iova < *begin)) {
			*begin = r->iova;
			found = true;
		}
	}
	return found;
}
