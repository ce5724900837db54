/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Mapping what tables claim: of one table from an IOVA on, a chunk at a time, or of all tables in a
 * range. What is in the way is other memory of the user whose table changes, and is replaced.
 */

#include <errno.h>
#include <inttypes.h>

#include <rte_common.h>

#include "dma_change.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* Unmap an entry that somebody may claim; a failure of the change brings it back. */
int
dma_change_unmap_for_now(struct dma_change *c, struct dma_entry *e, void *arg)
{
	int rc = dma_pieces_push(c->dom, &c->lost, e->first, e->last, NULL);

	return rc == 0 ? dma_entry_unmap(c->dom, e) : rc;
}

static int replace(struct dma_change *c, struct dma_entry *e, const struct dma_piece *p);

/* An entry in [first, last] that is not this memory; NULL: none. *upto is cut to what lies before
 * the first that is. */
static struct dma_entry *
find_obstacle(const struct vdpa_dma_domain *dom, uint64_t first, uint64_t *upto,
	      const struct dma_id *id)
{
	struct dma_entry *e = dma_entry_at(dom, first);

	if (e == NULL || e->first > *upto)
		return NULL;
	if (!dma_entry_is(e, id))
		return e;
	*upto = e->first - 1;
	return NULL;
}

/* Map memory of a region, with whatever somebody claims of it. */
static int
map_range(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r, uint64_t first,
	  uint64_t last)
{
	const struct vdpa_dma_mapping m = {.iova = first,
					   .size = last - first + 1,
					   .va = r->va + (first - r->iova),
					   .fd = r->fd,
					   .offset = r->offset + (first - r->iova),
					   .readonly = r->readonly};
	struct dma_entry e = {.id = dma_id_of(r)};

	e.wanted = dma_claimed_bytes(dom, NULL, first, last, &e.id);
	return dma_entry_map(dom, &e, &m);
}

/* Go on behind an IOVA. */
static void
fill_behind(struct dma_filling *f, uint64_t iova)
{
	f->done = iova >= f->last;
	f->at = iova + 1;
}

/* Whether there is something to map at f->at; go on behind what is not. *upto receives how far the
 * region goes. */
static bool
fill_wanted(struct dma_filling *f, const struct vdpa_mem_region **r, uint64_t *upto)
{
	const struct dma_entry *e;
	struct dma_id id;

	*r = dma_region_at(f->dom, f->tlb, f->at, upto);
	if (*r == NULL) {
		fill_behind(f, *upto);
		return false;
	}
	id = dma_id_of(*r);
	if (f->only != NULL && !dma_id_equal(&id, f->only)) {
		fill_behind(f, *upto);
		return false;
	}
	e = dma_entry_at(f->dom, f->at);
	if (e == NULL || e->first > f->at || !dma_entry_is(e, &id))
		return true;
	fill_behind(f, RTE_MIN(*upto, e->last));
	return false;
}

/* Map the next chunk that is missing. 1, or 0 when nothing is. With the lock. */
int
dma_fill_one(struct dma_filling *f)
{
	const struct vdpa_mem_region *r;
	uint64_t upto;
	int rc = 0;

	while (rc == 0 && !f->done) {
		struct dma_entry *obstacle;
		struct dma_id id;

		if (!fill_wanted(f, &r, &upto))
			continue;
		id = dma_id_of(r);
		upto = RTE_MIN(upto, f->last);
		if (f->cut)
			upto = RTE_MIN(upto, f->at | (f->dom->chunk_size - 1));
		obstacle = find_obstacle(f->dom, f->at, &upto, &id);
		if (obstacle != NULL) {
			rc = replace(f->change, obstacle, &(struct dma_piece){f->at, upto, r});
		} else {
			rc = map_range(f->dom, r, f->at, upto);
			if (rc == 0)
				rc = 1;
			fill_behind(f, upto);
		}
	}
	return rc;
}

/* dma_fill_one() to the end. With the lock. */
int
dma_fill_all(struct dma_filling f)
{
	int rc;

	while ((rc = dma_fill_one(&f)) == 1)
		;
	return rc;
}

/* Map what anybody claims of a range, but for the table in force of `without`: of this memory
 * only, unless id is NULL. With the lock. */
static int
fill_claims(struct vdpa_dma_domain *dom, uint64_t first, uint64_t last, const struct dma_id *id,
	    const struct vdpa_dma_user *without)
{
	struct vdpa_dma_user *user;
	int rc = 0;

	LIST_FOREACH (user, &dom->users, next) {
		for (int i = user == without; i < 2; i++) {
			int one = dma_fill_all(
				(struct dma_filling){.dom = dom,
						     .tlb = i == 0 ? user->table : user->coming,
						     .only = id,
						     .at = first,
						     .last = last});

			if (rc == 0)
				rc = one;
		}
	}
	return rc;
}

/* fill_claims() of all that is claimed in a range. Whose memory does not come back is noted. With
 * the lock. */
int
dma_restore(struct vdpa_dma_domain *dom, uint64_t first, uint64_t last)
{
	struct vdpa_dma_user *user;
	int rc = fill_claims(dom, first, last, NULL, NULL);

	if (rc == 0)
		return 0;
	LIST_FOREACH (user, &dom->users, next) {
		if (dma_user_region(user, first, last, NULL, true) != NULL)
			user->broken = true;
	}
	return rc;
}

/* Unmap an entry that lies where a piece comes, which is other memory, and map anew what stays of
 * it. With the lock. */
static int
replace(struct dma_change *c, struct dma_entry *e, const struct dma_piece *p)
{
	struct dma_entry was = *e;
	bool rest;
	int rc;

	if (c == NULL)
		return vdpa_error(EBUSY,
				  "memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
				  " cannot be mapped: 0x%" PRIx64 "-0x%" PRIx64
				  " is mapped to other memory",
				  p->first, p->last, e->first, e->last);
	rc = dma_change_check_replace(c, e, p);
	if (rc < 0)
		return rc;
	if (e->stuck)
		return dma_entry_unmap(c->dom, e);
	rest = !dma_change_goes_whole(c, e);
	rc = dma_change_unmap_for_now(c, e, NULL);
	if (rc < 0 || !rest)
		return rc;
	__atomic_add_fetch(&c->dom->stats.replaced, 1, __ATOMIC_RELAXED);
	VDPA_LOG_LIMITED(&c->dom->log, NOTICE,
			 "%s: mapping 0x%" PRIx64 "-0x%" PRIx64 " is replaced, since %s has other "
			 "memory at IOVA 0x%" PRIx64 "-0x%" PRIx64 " of it now",
			 c->dom->name, was.first, was.last, c->user->name,
			 RTE_MAX(p->first, was.first), RTE_MIN(p->last, was.last));
	return fill_claims(c->dom, was.first, was.last, &was.id, c->user);
}
