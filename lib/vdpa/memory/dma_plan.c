/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a change of a user's table takes: the pieces that come and go, the claim on the new table
 * beside the one in force, and all that can be checked before anything is mapped. Maps and unmaps
 * nothing.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include <rte_common.h>

#include "dma_change.h"
#include "error_priv.h"
#include "vdpa_error.h"

/* A transport that takes fewer mappings than this gets regions whole. */
#define CUT_MIN 4096

int
dma_pieces_push(const struct vdpa_dma_domain *dom, struct dma_pieces *p, uint64_t first,
		uint64_t last, const struct vdpa_mem_region *region)
{
	if (p->n > 0 && p->at[p->n - 1].region == region && region != NULL &&
	    p->at[p->n - 1].last + 1 == first) {
		p->at[p->n - 1].last = last;
		return 0;
	}
	if (p->n == p->room) {
		size_t room = p->room > 0 ? 2 * p->room : 16;
		struct dma_piece *grown = realloc(p->at, room * sizeof(*grown));

		if (grown == NULL)
			return vdpa_error(ENOMEM, "%s: out of memory", dom->name);
		p->at = grown;
		p->room = room;
	}
	p->at[p->n++] = (struct dma_piece){.first = first, .last = last, .region = region};
	return 0;
}

/* What only one table has of a region that only it has. */
int
dma_change_collect(const struct vdpa_mem_region *region, bool in_now, void *arg)
{
	struct dma_change *c = arg;
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
			rc = dma_pieces_push(c->dom, in_now ? &c->added : &c->removed, at, upto,
					     region);
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
account(struct vdpa_dma_domain *dom, const struct dma_piece *p, bool claimed)
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

void
dma_change_account(struct vdpa_dma_domain *dom, const struct dma_pieces *p, bool claimed)
{
	for (size_t i = 0; i < p->n; i++)
		account(dom, &p->at[i], claimed);
}

/* No other user has other memory where a piece comes. */
static int
check_contradiction(const struct dma_change *c, const struct dma_piece *p)
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
is_shared(const struct dma_change *c, const struct vdpa_mem_region *r)
{
	const struct dma_view others = {.without = c->user};
	const struct dma_id id = dma_id_of(r);

	return dma_claimed_bytes(c->dom, &others, r->iova, dma_region_last(c->dom, r), &id) > 0;
}

/* All that is in a domain can be reached by all of its devices: one that joins shows by memory that
 * it has in common with the others that it serves the same guest. */
static int
check_same_guest(const struct dma_change *c)
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

/* Where nobody has memory, the next guest comes: a device that has not reset would reach it. */
static int
check_strays(const struct dma_change *c)
{
	const struct vdpa_dma_user *user;

	LIST_FOREACH (user, &c->dom->users, next) {
		if (user != c->user && user->stray)
			return vdpa_error(EBUSY,
					  "%s: %s did not reset, and would reach the memory that "
					  "comes to %s: it must be reset first",
					  c->dom->name, user->name, c->user->name);
	}
	return 0;
}

/* With the lock. */
static int
claim(struct dma_change *c)
{
	int rc = check_same_guest(c);

	c->next_guest = c->now != NULL && c->now->n > 0 && !dma_has_memory(c->dom);
	if (rc == 0 && c->next_guest)
		rc = check_strays(c);
	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = check_contradiction(c, &c->added.at[i]);
	if (rc == 0) {
		dma_change_account(c->dom, &c->added, true);
		c->user->coming = vdpa_iotlb_get(c->now);
	}
	return rc;
}

/* Claim the new table beside the old one. */
int
dma_change_claim(struct dma_change *c)
{
	int rc;

	dma_lock(c->dom);
	rc = claim(c);
	dma_unlock(c->dom);
	return rc;
}

/* In one turn of the lock: nobody sees the claim, so nothing hangs on it when it goes. */
int
dma_change_check(struct dma_change *c)
{
	int rc;

	c->asks = true;
	dma_lock(c->dom);
	rc = claim(c);
	if (rc == 0) {
		rc = dma_change_plan(c);
		c->user->coming = NULL;
		vdpa_iotlb_put(c->now);
		dma_change_account(c->dom, &c->added, false);
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
refuse_own(const struct dma_change *c, const struct dma_piece *p, uint64_t first, uint64_t last,
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
int
dma_change_move_own(const struct dma_change *c, const struct dma_piece *p)
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
const struct vdpa_dma_user *
dma_entry_in_use_by(const struct vdpa_dma_domain *dom, const struct dma_entry *e,
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
int
dma_change_check_replace(const struct dma_change *c, const struct dma_entry *e,
			 const struct dma_piece *p)
{
	const struct vdpa_dma_user *user;

	/* The user's own is moved, but not before the change. */
	if (e->own && c->asks && e->owner.user == c->user && e->owner.move != NULL)
		return 0;
	if (e->own)
		return refuse_own(c, p, e->first, e->last, NULL);
	user = e->stuck ? NULL : dma_entry_in_use_by(c->dom, e, c->user);
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
need_piece(const struct dma_change *c, struct need *n, const struct dma_piece *p)
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
		rc = dma_change_check_replace(c, e, p);
		if (rc < 0)
			return rc;
		if (e->last >= p->last)
			break;
	}
	need_more(c->dom, n, at, p->last);
	return 0;
}

/* Whether nobody will claim a byte of an entry when the change is over. */
bool
dma_change_goes_whole(const struct dma_change *c, const struct dma_entry *e)
{
	const struct dma_view after = {.without_table = c->user};

	return dma_claimed_bytes(c->dom, &after, e->first, e->last, &e->id) == 0;
}

/* Call fn() for each entry that goes with the change. */
int
dma_change_each_going(struct dma_change *c,
		      int (*fn)(struct dma_change *c, struct dma_entry *e, void *arg), void *arg)
{
	uint64_t next = 0;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->removed.n; i++) {
		const struct dma_piece *p = &c->removed.at[i];
		const struct dma_id id = dma_id_of(p->region);
		uint64_t at = RTE_MAX(p->first, next), last;
		struct dma_entry *e;

		while (rc == 0 && at <= p->last && (e = dma_entry_at(c->dom, at)) != NULL &&
		       e->first <= p->last) {
			last = e->last;
			if (dma_entry_is(e, &id) && dma_change_goes_whole(c, e))
				rc = fn(c, e, arg);
			if (last == UINT64_MAX)
				return rc;
			at = next = last + 1;
		}
	}
	return rc;
}

static int
count_going(struct dma_change *c, struct dma_entry *e, void *arg)
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
bool
dma_change_is_cut(const struct vdpa_dma_domain *dom, uint64_t chunks)
{
	return dom->max_mappings == 0 ||
	       (dom->max_mappings >= CUT_MIN && dom->n + chunks <= dom->max_mappings / 2);
}

/* Check all that can be known before anything is mapped. With the lock. */
int
dma_change_plan(struct dma_change *c)
{
	const struct vdpa_dma_domain *dom = c->dom;
	struct need need = {.bytes = 0}, freed = {.bytes = 0};
	uint64_t mappings;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = need_piece(c, &need, &c->added.at[i]);
	if (rc < 0)
		return rc;
	c->cut = dma_change_is_cut(dom, need.chunks);
	mappings = dom->n + (c->cut ? need.chunks : need.regions);
	c->room = dom->max_mappings > 0 && mappings > dom->max_mappings;
	rc = check_bytes(dom, need.bytes);
	if (rc == 0 && !c->room)
		return 0;
	/* What goes has to make room. */
	c->room = true;
	(void)dma_change_each_going(c, count_going, &freed);
	if (rc < 0 && freed.bytes > 0)
		rc = need.bytes > freed.bytes ? check_bytes(dom, need.bytes - freed.bytes) : 0;
	if (rc == 0 && dom->max_mappings > 0 && mappings > dom->max_mappings + freed.regions)
		rc = vdpa_error(ENOSPC,
				"%s: %u memory regions are mapped, %" PRIu64
				" more are to be, the IOMMU takes %u",
				dom->name, dom->n, mappings - dom->n, dom->max_mappings);
	return rc;
}
