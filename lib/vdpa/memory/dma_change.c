/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Users of a DMA domain, and how one goes from a table to another.
 *
 * A change has three stages. First the table that comes is claimed beside the one in force, and all
 * is checked that can be known. Then what is missing of it is mapped, a chunk at a time, and the
 * lock is given away between two chunks: whoever else changes meanwhile sees both claims, maps
 * what both need and unmaps nothing of it. Last the table is put in force, and the entries that
 * nobody claims any more are unmapped, again one at a time. A failure takes the claim back; the
 * entries that it leaves unclaimed are unmapped, and what had to make room is mapped again.
 *
 * Nobody counts users: whether an IOVA is claimed is asked of their tables. So what is mapped and
 * what should be cannot drift apart.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>

#include "clock.h"
#include "dma_priv.h"
#include "error_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

/* A transport that takes fewer mappings than this gets regions whole. */
#define CUT_MIN 4096

/* Ranges of IOVAs, ascending, each of one region. */
struct piece {
	uint64_t first, last;
	const struct vdpa_mem_region *region;
};

struct pieces {
	struct piece *at;
	size_t n, room;
};

struct change {
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_user *user;
	struct vdpa_iotlb *old, *now;
	struct pieces added, removed;
	struct pieces lost; /* where entries were unmapped that the old table may claim */
	bool cut;	    /* what is mapped ends where a chunk does */
	bool room;	    /* unmap first what goes: else there is no room */
	bool silent;	    /* the transport has unmapped all by itself */
	bool committed;	    /* the new table is in force */
};

static int
push(const struct vdpa_dma_domain *dom, struct pieces *p, uint64_t first, uint64_t last,
     const struct vdpa_mem_region *region)
{
	if (p->n > 0 && p->at[p->n - 1].region == region && region != NULL &&
	    p->at[p->n - 1].last + 1 == first) {
		p->at[p->n - 1].last = last;
		return 0;
	}
	if (p->n == p->room) {
		size_t room = p->room > 0 ? 2 * p->room : 16;
		struct piece *grown = realloc(p->at, room * sizeof(*grown));

		if (grown == NULL)
			return vdpa_error(ENOMEM, "%s: out of memory", dom->name);
		p->at = grown;
		p->room = room;
	}
	p->at[p->n++] = (struct piece){.first = first, .last = last, .region = region};
	return 0;
}

/* What only one table has of a region that only it has. */
static int
collect(const struct vdpa_mem_region *region, bool in_now, void *arg)
{
	struct change *c = arg;
	const struct dma_id id = dma_id_of(region);
	uint64_t last, upto;
	int rc = in_now ? dma_check_region(c->dom, region) : 0;

	if (rc < 0)
		return rc;
	last = dma_region_last(c->dom, region);
	for (uint64_t at = region->iova; rc == 0; at = upto + 1) {
		const struct vdpa_mem_region *r =
			dma_region_at(c->dom, in_now ? c->old : c->now, at, &upto);
		struct dma_id has;

		if (upto > last)
			upto = last;
		if (r != NULL)
			has = dma_id_of(r);
		if (r == NULL || !dma_id_equal(&has, &id))
			rc = push(c->dom, in_now ? &c->added : &c->removed, at, upto, region);
		if (upto == last)
			break;
	}
	return rc;
}

/*
 * Note in the entries that a piece is claimed, or not any more. Before the claim is made, or after
 * it was dropped: what others claim too is no difference.
 */
static void
account(struct vdpa_dma_domain *dom, const struct piece *p, bool claimed)
{
	const struct dma_id id = dma_id_of(p->region);
	uint64_t upto;

	for (uint64_t at = p->first;; at = upto + 1) {
		bool others = dma_claimed(dom, NULL, at, &id, &upto);

		upto = RTE_MIN(upto, p->last);
		for (struct dma_entry *e = others ? NULL : dma_entry_at(dom, at);
		     e != NULL && e->first <= upto; e = dma_entry_at(dom, e->last + 1)) {
			uint64_t bytes = RTE_MIN(e->last, upto) - RTE_MAX(e->first, at) + 1;

			if (dma_entry_is(e, &id))
				dma_entry_want(dom, e,
					       claimed ? e->wanted + bytes : e->wanted - bytes);
			if (e->last >= upto)
				break;
		}
		if (upto == p->last)
			return;
	}
}

static void
account_all(struct vdpa_dma_domain *dom, const struct pieces *p, bool claimed)
{
	for (size_t i = 0; i < p->n; i++)
		account(dom, &p->at[i], claimed);
}

/* No other user has other memory where a piece comes. */
static int
check_contradiction(const struct change *c, const struct piece *p)
{
	const struct dma_id id = dma_id_of(p->region);
	const struct vdpa_dma_user *user;

	LIST_FOREACH (user, &c->dom->users, next) {
		const struct vdpa_mem_region *r;

		if (user == c->user)
			continue;
		r = dma_user_region(user, p->first, p->last, &id, false);
		if (r != NULL)
			return vdpa_error(EBUSY,
					  "%s: memory of %s at IOVA 0x%" PRIx64 "-0x%" PRIx64
					  " overlaps 0x%" PRIx64 "-0x%" PRIx64
					  " of %s, which is other memory: devices of one IOMMU "
					  "group serve one guest",
					  c->dom->name, c->user->name, p->region->iova,
					  dma_region_last(c->dom, p->region), r->iova,
					  dma_region_last(c->dom, r), user->name);
	}
	return 0;
}

/* Whether others have memory of the region, too. */
static bool
is_shared(const struct change *c, const struct vdpa_mem_region *r)
{
	const struct dma_view others = {.without = c->user};
	const struct dma_id id = dma_id_of(r);

	return dma_claimed_bytes(c->dom, &others, r->iova, dma_region_last(c->dom, r), &id) > 0;
}

/* All that is in a domain can be reached by all of its devices: one that joins shows by memory that
 * it has in common with the others that it serves the same guest. */
static int
check_same_guest(const struct change *c)
{
	const struct vdpa_dma_user *user;
	const struct vdpa_mem_region *r;

	if (c->dom->one_guest || dma_user_has_memory(c->user) || c->now == NULL || c->now->n == 0)
		return 0;
	LIST_FOREACH (user, &c->dom->users, next) {
		if (dma_user_has_memory(user))
			break;
	}
	if (user == NULL)
		return 0;
	for (uint32_t i = 0; i < c->now->n; i++)
		if (is_shared(c, c->now->regions[i]))
			return 0;
	r = c->now->regions[0];
	return vdpa_error(EBUSY,
			  "%s: memory of %s at IOVA 0x%" PRIx64 "-0x%" PRIx64
			  " is none of the guest's that %s has: devices of one IOMMU group serve "
			  "one guest",
			  c->dom->name, c->user->name, r->iova, dma_region_last(c->dom, r),
			  user->name);
}

/* Claim the new table beside the old one. */
static int
claim(struct change *c)
{
	int rc;

	dma_lock(c->dom);
	rc = check_same_guest(c);
	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = check_contradiction(c, &c->added.at[i]);
	if (rc == 0) {
		account_all(c->dom, &c->added, true);
		c->user->coming = vdpa_iotlb_get(c->now);
	}
	dma_unlock(c->dom);
	return rc;
}

/* Memory of the driver's own in [first, last]; NULL: none. */
static struct dma_entry *
own_in(const struct vdpa_dma_domain *dom, uint64_t first, uint64_t last)
{
	for (struct dma_entry *e = dma_entry_at(dom, first); e != NULL && e->first <= last;
	     e = dma_entry_at(dom, e->last + 1)) {
		if (e->own)
			return e;
		if (e->last >= last)
			break;
	}
	return NULL;
}

static int
refuse_own(const struct change *c, const struct piece *p, uint64_t first, uint64_t last,
	   const char *why)
{
	return vdpa_error(EBUSY,
			  "%s: memory of %s at IOVA 0x%" PRIx64 "-0x%" PRIx64 " overlaps 0x%" PRIx64
			  "-0x%" PRIx64
			  ", which is the driver's own memory and cannot be moved%s%s",
			  c->dom->name, c->user->name, p->first, p->last, first, last,
			  why != NULL ? ": " : "", why != NULL ? why : "");
}

/* Have the driver's own memory out of the way of a piece. */
static int
move_own(const struct change *c, const struct piece *p)
{
	uint64_t first = 0, last = 0, before = UINT64_MAX;

	for (;;) {
		struct vdpa_dma_owner owner = {.user = NULL};
		struct vdpa_error_saved why;
		const struct dma_entry *e;

		dma_lock(c->dom);
		e = own_in(c->dom, p->first, p->last);
		if (e != NULL) {
			owner = e->owner;
			first = e->first;
			last = e->last;
		}
		dma_unlock(c->dom);
		if (e == NULL)
			return 0;
		/* Another user's may go at any time, and its driver with it. */
		if (owner.user != c->user || owner.move == NULL || first == before)
			return refuse_own(c, p, first, last, NULL);
		before = first;
		if (owner.move(owner.arg) < 0) {
			vdpa_error_save(&why);
			return refuse_own(c, p, first, last, why.text);
		}
	}
}

/* Another user whose device may be using the entry; NULL: nobody. */
static const struct vdpa_dma_user *
in_use_by(const struct vdpa_dma_domain *dom, const struct dma_entry *e,
	  const struct vdpa_dma_user *but)
{
	const struct vdpa_dma_user *user;

	LIST_FOREACH (user, &dom->users, next) {
		if (user != but && user->running &&
		    dma_user_region(user, e->first, e->last, &e->id, true) != NULL)
			return user;
	}
	return NULL;
}

/* An entry that has other memory than a piece can be unmapped. */
static int
check_replace(const struct change *c, const struct dma_entry *e, const struct piece *p)
{
	const struct vdpa_dma_user *user;

	if (e->own)
		return refuse_own(c, p, e->first, e->last, NULL);
	user = e->stuck ? NULL : in_use_by(c->dom, e, c->user);
	if (user == NULL)
		return 0;
	return vdpa_error(EBUSY,
			  "%s: memory of %s at IOVA 0x%" PRIx64 "-0x%" PRIx64
			  " comes into the mapping 0x%" PRIx64 "-0x%" PRIx64
			  ", of which %s uses another part",
			  c->dom->name, c->user->name, p->first, p->last, e->first, e->last,
			  user->name);
}

/* What a change takes of the transport. */
struct need {
	uint64_t bytes;
	uint64_t regions, chunks; /* mappings: of whole regions, and as they are cut */
};

static void
need_more(const struct vdpa_dma_domain *dom, struct need *n, uint64_t first, uint64_t last)
{
	n->bytes += last - first + 1;
	n->regions++;
	n->chunks += last / dom->chunk_size - first / dom->chunk_size + 1;
}

static int
need_piece(const struct change *c, struct need *n, const struct piece *p)
{
	const struct dma_id id = dma_id_of(p->region);
	uint64_t at = p->first;
	int rc;

	for (struct dma_entry *e = dma_entry_at(c->dom, at); e != NULL && e->first <= p->last;
	     e = dma_entry_at(c->dom, e->last + 1)) {
		if (dma_entry_is(e, &id)) {
			if (e->first > at)
				need_more(c->dom, n, at, e->first - 1);
			if (e->last >= p->last)
				return 0;
			at = e->last + 1;
			continue;
		}
		rc = check_replace(c, e, p);
		if (rc < 0)
			return rc;
		if (e->last >= p->last)
			break;
	}
	need_more(c->dom, n, at, p->last);
	return 0;
}

/* Whether nobody will claim a byte of an entry when the change is over. */
static bool
goes_whole(const struct change *c, const struct dma_entry *e)
{
	const struct dma_view after = {.without_table = c->user};

	return dma_claimed_bytes(c->dom, &after, e->first, e->last, &e->id) == 0;
}

/* Call fn() for each entry that goes with the change. */
static int
each_going(struct change *c, int (*fn)(struct change *c, struct dma_entry *e, void *arg), void *arg)
{
	uint64_t next = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->removed.n; i++) {
		const struct piece *p = &c->removed.at[i];
		const struct dma_id id = dma_id_of(p->region);
		uint64_t at = RTE_MAX(p->first, next), last;
		struct dma_entry *e;

		while (rc == 0 && at <= p->last && (e = dma_entry_at(c->dom, at)) != NULL &&
		       e->first <= p->last) {
			last = e->last;
			if (dma_entry_is(e, &id) && goes_whole(c, e))
				rc = fn(c, e, arg);
			if (last == UINT64_MAX)
				return rc;
			at = next = last + 1;
		}
	}
	return rc;
}

static int
count_going(struct change *c, struct dma_entry *e, void *arg)
{
	struct need *freed = arg;

	freed->regions++;
	freed->bytes += e->last - e->first + 1;
	return 0;
}

static int
check_bytes(const struct vdpa_dma_domain *dom, uint64_t bytes)
{
	return dom->ops->check != NULL && bytes > 0 ? dom->ops->check(dom->arg, bytes) : 0;
}

/* Regions are cut while there are mappings to spare: half of them are for what may still come. */
static bool
is_cut(const struct vdpa_dma_domain *dom, uint64_t chunks)
{
	return dom->max_mappings == 0 ||
	       (dom->max_mappings >= CUT_MIN && dom->n + chunks <= dom->max_mappings / 2);
}

/* Check all that can be known before anything is mapped. With the lock. */
static int
plan(struct change *c)
{
	const struct vdpa_dma_domain *dom = c->dom;
	struct need need = {.bytes = 0}, freed = {.bytes = 0};
	uint64_t mappings;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = need_piece(c, &need, &c->added.at[i]);
	if (rc < 0)
		return rc;
	c->cut = is_cut(dom, need.chunks);
	mappings = dom->n + (c->cut ? need.chunks : need.regions);
	c->room = dom->max_mappings > 0 && mappings > dom->max_mappings;
	rc = check_bytes(dom, need.bytes);
	if (rc == 0 && !c->room)
		return 0;
	/* What goes has to make room. */
	c->room = true;
	(void)each_going(c, count_going, &freed);
	if (rc < 0 && freed.bytes > 0)
		rc = need.bytes > freed.bytes ? check_bytes(dom, need.bytes - freed.bytes) : 0;
	if (rc == 0 && dom->max_mappings > 0 && mappings > dom->max_mappings + freed.regions)
		rc = vdpa_error(ENOSPC,
				"%s: %u memory regions are mapped, %" PRIu64
				" more are to be, the IOMMU takes %u",
				dom->name, dom->n, mappings - dom->n, dom->max_mappings);
	return rc;
}

/* Unmap an entry that somebody may claim; a failure of the change brings it back. */
static int
unmap_for_now(struct change *c, struct dma_entry *e, void *arg)
{
	int rc = push(c->dom, &c->lost, e->first, e->last, NULL);

	return rc == 0 ? dma_entry_unmap(c->dom, e) : rc;
}

static int replace(struct change *c, struct dma_entry *e, const struct piece *p);

/* What of a table is to be mapped, and how far that is done. */
struct filling {
	struct vdpa_dma_domain *dom;
	const struct vdpa_iotlb *tlb;
	const struct dma_id *only; /* this memory; NULL: all */
	bool cut;
	uint64_t at, last;
	bool done;
	struct change *change; /* whose other memory makes room; NULL: nobody's does */
};

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
					   .offset = r->offset + (first - r->iova)};
	struct dma_entry e = {.id = dma_id_of(r)};

	e.wanted = dma_claimed_bytes(dom, NULL, first, last, &e.id);
	return dma_entry_map(dom, &e, &m);
}

/* Go on behind an IOVA. */
static void
fill_behind(struct filling *f, uint64_t iova)
{
	f->done = iova >= f->last;
	f->at = iova + 1;
}

/* Whether there is something to map at f->at; go on behind what is not. *upto receives how far the
 * region goes. */
static bool
fill_wanted(struct filling *f, const struct vdpa_mem_region **r, uint64_t *upto)
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
static int
fill_one(struct filling *f)
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
			rc = replace(f->change, obstacle, &(struct piece){f->at, upto, r});
		} else {
			rc = map_range(f->dom, r, f->at, upto);
			if (rc == 0)
				rc = 1;
			fill_behind(f, upto);
		}
	}
	return rc;
}

/* fill_one() to the end. With the lock. */
static int
fill_all(struct filling f)
{
	int rc;

	while ((rc = fill_one(&f)) == 1)
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
			int one = fill_all(
				(struct filling){.dom = dom,
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
static int
restore(struct vdpa_dma_domain *dom, uint64_t first, uint64_t last)
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
replace(struct change *c, struct dma_entry *e, const struct piece *p)
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
	rc = check_replace(c, e, p);
	if (rc < 0)
		return rc;
	if (e->stuck)
		return dma_entry_unmap(c->dom, e);
	rest = !goes_whole(c, e);
	rc = unmap_for_now(c, e, NULL);
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

static bool
has_obstacle(struct vdpa_dma_domain *dom, const struct piece *p)
{
	const struct dma_id id = dma_id_of(p->region);

	for (struct dma_entry *e = dma_entry_at(dom, p->first); e != NULL && e->first <= p->last;
	     e = dma_entry_at(dom, e->last + 1)) {
		if (!dma_entry_is(e, &id))
			return true;
		if (e->last >= p->last)
			break;
	}
	return false;
}

/* Map a piece, in as many turns as it has chunks. */
static int
map_piece(struct change *c, const struct piece *p, bool obstacles)
{
	struct filling f = {.dom = c->dom,
			    .tlb = c->now,
			    .cut = c->cut,
			    .at = p->first,
			    .last = p->last,
			    .change = c};
	int rc;

	dma_lock(c->dom);
	rc = obstacles || !has_obstacle(c->dom, p) ? fill_one(&f) : 0;
	dma_unlock(c->dom);
	while (rc == 1) {
		dma_lock(c->dom);
		rc = fill_one(&f);
		dma_unlock(c->dom);
	}
	return rc;
}

/* First what takes nothing away: most failures are met there. */
static int
map_added(struct change *c)
{
	int rc = 0;

	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; rc == 0 && i < c->added.n; i++)
			rc = map_piece(c, &c->added.at[i], pass == 1);
	return rc;
}

/* Unmap an entry that nobody claims any more. With the lock. */
static int
unmap_entry(struct change *c, struct dma_entry *e, struct pieces *lost)
{
	int rc = lost != NULL ? push(c->dom, lost, e->first, e->last, NULL) : 0;

	if (rc < 0)
		return rc;
	if (c->silent)
		dma_entry_forget(c->dom, e);
	else
		rc = dma_entry_unmap(c->dom, e);
	if (rc < 0)
		dma_entry_set_stuck(c->dom, e, true, c->user);
	return rc;
}

/*
 * Unmap the entries of a piece that nobody claims any more. `lost` receives where, if it is not
 * NULL, and the first failure ends it then; else it goes on to the end.
 */
static int
unmap_piece(struct change *c, const struct piece *p, struct pieces *lost)
{
	const struct dma_id id = dma_id_of(p->region);
	uint64_t at = p->first;
	bool more = true;
	int rc = 0;

	while (more && (rc == 0 || lost == NULL)) {
		struct dma_entry *e;
		int one = 0;

		dma_lock(c->dom);
		e = dma_entry_at(c->dom, at);
		more = e != NULL && e->last < p->last;
		if (more)
			at = e->last + 1;
		if (e != NULL && e->first <= p->last && e->wanted == 0 && dma_entry_is(e, &id))
			one = unmap_entry(c, e, lost);
		dma_unlock(c->dom);
		if (rc == 0)
			rc = one;
	}
	return rc;
}

static int
unmap_unclaimed(struct change *c, const struct pieces *pieces, struct pieces *lost)
{
	int rc = 0;

	for (size_t i = 0; i < pieces->n && (rc == 0 || lost == NULL); i++) {
		int one = unmap_piece(c, &pieces->at[i], lost);

		if (rc == 0)
			rc = one;
	}
	return rc;
}

/* Put the new table in force, and have out of the domain what only the old one had. */
static int
commit(struct change *c)
{
	struct vdpa_dma_user *user = c->user;

	dma_lock(c->dom);
	user->table = user->coming;
	user->coming = NULL;
	account_all(c->dom, &c->removed, false);
	dma_unlock(c->dom);
	c->committed = true;
	return unmap_unclaimed(c, &c->removed, c->now != NULL ? &c->lost : NULL);
}

/* What could not be unmapped is the old table's again. With the lock. */
static void
free_stuck(struct change *c)
{
	for (size_t i = 0; i < c->removed.n; i++) {
		const struct piece *p = &c->removed.at[i];
		const struct dma_id id = dma_id_of(p->region);

		for (struct dma_entry *e = dma_entry_at(c->dom, p->first);
		     e != NULL && e->first <= p->last; e = dma_entry_at(c->dom, e->last + 1)) {
			if (e->stuck && e->stuck_of == c->user && dma_id_equal(&e->id, &id)) {
				dma_entry_set_stuck(c->dom, e, false, NULL);
				dma_entry_want(
					c->dom, e,
					dma_claimed_bytes(c->dom, NULL, e->first, e->last, &id));
			}
			if (e->last >= p->last)
				break;
		}
	}
}

/* Take the change back. */
static void
undo(struct change *c)
{
	struct vdpa_dma_user *user = c->user;
	int rc;

	dma_lock(c->dom);
	if (c->committed) {
		account_all(c->dom, &c->removed, true);
		user->table = c->old;
		free_stuck(c);
	}
	user->coming = NULL;
	account_all(c->dom, &c->added, false);
	dma_unlock(c->dom);
	rc = unmap_unclaimed(c, &c->added, NULL);
	for (size_t i = 0; i < c->lost.n; i++) {
		int one;

		dma_lock(c->dom);
		one = restore(c->dom, c->lost.at[i].first, c->lost.at[i].last);
		dma_unlock(c->dom);
		if (rc == 0)
			rc = one;
	}
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: a change of the memory of %s could not be taken back: %s",
			 c->dom->name, user->name, vdpa_error_message());
		dma_lock(c->dom);
		user->broken = true;
		dma_unlock(c->dom);
	}
	vdpa_iotlb_put(c->now);
}

/* Try again what could not be unmapped after the user's last table. */
static int
unmap_stuck(struct vdpa_dma_user *user, bool silent)
{
	struct vdpa_dma_domain *dom = user->dom;
	int rc = 0, one = 0;

	dma_lock(dom);
	for (struct dma_entry *e = dom->n_stuck > 0 ? dma_entry_at(dom, 0) : NULL; e != NULL;) {
		uint64_t last = e->last;

		if (e->stuck && e->stuck_of == user && silent)
			dma_entry_forget(dom, e);
		else if (e->stuck && e->stuck_of == user)
			one = dma_entry_unmap(dom, e);
		if (rc == 0)
			rc = one;
		e = last < UINT64_MAX ? dma_entry_at(dom, last + 1) : NULL;
	}
	dma_unlock(dom);
	return rc;
}

static int
make_room(struct change *c)
{
	int rc;

	dma_lock(c->dom);
	rc = plan(c);
	if (rc == 0 && c->room)
		rc = each_going(c, unmap_for_now, NULL);
	dma_unlock(c->dom);
	return rc;
}

static int
change(struct change *c)
{
	int rc = vdpa_iotlb_diff(c->old, c->now, collect, c);
	struct vdpa_error_saved why;

	if (rc == 0)
		rc = claim(c);
	if (rc < 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = move_own(c, &c->added.at[i]);
	if (rc == 0 && c->added.n > 0)
		rc = make_room(c);
	if (rc == 0)
		rc = map_added(c);
	if (rc == 0)
		rc = commit(c);
	if (rc < 0 && c->now != NULL) {
		vdpa_error_save(&why);
		undo(c);
		vdpa_error_restore(&why);
		return rc;
	}
	vdpa_iotlb_put(c->old);
	return rc;
}

static int
set_table(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb, bool silent)
{
	struct change c = {
		.dom = user->dom, .user = user, .old = user->table, .now = tlb, .silent = silent};
	int64_t start = vdpa_now_us();
	int rc, left = unmap_stuck(user, silent);

	if (left < 0 && tlb != NULL)
		return left;
	rc = change(&c);
	if (rc == 0 && tlb == NULL && left == 0)
		user->broken = false;
	if (c.added.n + c.removed.n > 0)
		__atomic_store_n(&c.dom->stats.change_us, (uint64_t)(vdpa_now_us() - start),
				 __ATOMIC_RELAXED);
	free(c.added.at);
	free(c.removed.at);
	free(c.lost.at);
	return rc < 0 ? rc : left;
}

int
vdpa_dma_set(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb)
{
	return set_table(user, tlb, false);
}

void
vdpa_dma_forget(struct vdpa_dma_user *user)
{
	(void)set_table(user, NULL, true);
}

bool
vdpa_dma_is_broken(const struct vdpa_dma_user *user)
{
	bool broken;

	dma_lock(user->dom);
	broken = user->broken;
	dma_unlock(user->dom);
	return broken;
}

/* Map what a failure has left missing of the table, before the device runs. */
static int
repair(struct vdpa_dma_user *user)
{
	int rc = unmap_stuck(user, false);

	dma_lock(user->dom);
	if (rc == 0 && user->table != NULL)
		rc = fill_all((struct filling){.dom = user->dom,
					       .tlb = user->table,
					       .cut = is_cut(user->dom, 1),
					       .last = UINT64_MAX});
	if (rc == 0)
		user->broken = false;
	dma_unlock(user->dom);
	return rc;
}

/* The next entry that is mapped for nobody in part and that no device uses, from *at on. */
static struct dma_entry *
find_retained(const struct vdpa_dma_domain *dom, uint64_t at)
{
	struct dma_entry *e;

	for (e = dma_entry_at(dom, at); e != NULL; e = dma_entry_at(dom, e->last + 1)) {
		if (!e->own && !e->stuck && e->wanted > 0 && e->wanted < e->last - e->first + 1 &&
		    in_use_by(dom, e, NULL) == NULL)
			return e;
		if (e->last == UINT64_MAX)
			break;
	}
	return NULL;
}

/* Unmap what is retained and not in use, an entry a turn. One that cannot be unmapped does no harm:
 * it is the guest's memory, and mapped as before. */
static int
trim(struct vdpa_dma_domain *dom)
{
	struct dma_entry *e, was;
	uint64_t at = 0;
	int rc = 0;

	do {
		dma_lock(dom);
		e = __atomic_load_n(&dom->stats.bytes_retained, __ATOMIC_RELAXED) > 0
			    ? find_retained(dom, at)
			    : NULL;
		if (e != NULL) {
			was = *e;
			at = was.last + 1;
			if (dma_entry_unmap(dom, e) < 0)
				VDPA_LOG_LIMITED(&dom->log, WARNING,
						 "%s: IOVA 0x%" PRIx64 "-0x%" PRIx64
						 " stays mapped whole: %s",
						 dom->name, was.first, was.last,
						 vdpa_error_message());
			else
				rc = restore(dom, was.first, was.last);
		}
		dma_unlock(dom);
	} while (rc == 0 && e != NULL && at != 0);
	return rc;
}

int
vdpa_dma_set_running(struct vdpa_dma_user *user, bool running)
{
	bool broken;

	dma_lock(user->dom);
	user->running = running;
	broken = user->broken;
	dma_unlock(user->dom);
	if (!running)
		return trim(user->dom);
	return broken ? repair(user) : 0;
}

int
vdpa_dma_join(struct vdpa_dma_domain *dom, const char *name, struct vdpa_dma_user **out)
{
	struct vdpa_dma_user *user = calloc(1, sizeof(*user));

	if (user == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	user->dom = dom;
	user->name = strdup(name);
	if (user->name == NULL) {
		free(user);
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	}
	dma_lock(dom);
	LIST_INSERT_HEAD(&dom->users, user, next);
	dma_unlock(dom);
	*out = user;
	return 0;
}

void
vdpa_dma_leave(struct vdpa_dma_user *user)
{
	struct vdpa_dma_domain *dom;

	if (user == NULL)
		return;
	dom = user->dom;
	if (vdpa_dma_set(user, NULL) < 0)
		VDPA_LOG(ERR, "%s: memory of %s stays mapped: %s", dom->name, user->name,
			 vdpa_error_message());
	dma_lock(dom);
	LIST_REMOVE(user, next);
	for (struct dma_entry *e = dom->n_stuck > 0 ? dma_entry_at(dom, 0) : NULL; e != NULL;
	     e = e->last < UINT64_MAX ? dma_entry_at(dom, e->last + 1) : NULL) {
		if (e->stuck_of == user)
			e->stuck_of = NULL;
	}
	dma_unlock(dom);
	free(user->name);
	free(user);
}
