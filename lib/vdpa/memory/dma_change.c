/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How a user of a DMA domain goes from a table to another.
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
#include <stdlib.h>

#include "clock.h"
#include "dma_change.h"
#include "error_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

static bool
has_obstacle(struct vdpa_dma_domain *dom, const struct dma_piece *p)
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
map_piece(struct dma_change *c, const struct dma_piece *p, bool obstacles)
{
	struct dma_filling f = {.dom = c->dom,
				.tlb = c->now,
				.cut = c->cut,
				.at = p->first,
				.last = p->last,
				.change = c};
	int rc;

	dma_lock(c->dom);
	rc = obstacles || !has_obstacle(c->dom, p) ? dma_fill_one(&f) : 0;
	dma_unlock(c->dom);
	while (rc == 1) {
		dma_lock(c->dom);
		rc = dma_fill_one(&f);
		dma_unlock(c->dom);
	}
	return rc;
}

/* First what takes nothing away: most failures are met there. */
static int
map_added(struct dma_change *c)
{
	int rc = 0;

	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; rc == 0 && i < c->added.n; i++)
			rc = map_piece(c, &c->added.at[i], pass == 1);
	return rc;
}

/* Unmap an entry that nobody claims any more. With the lock. */
static int
unmap_entry(struct dma_change *c, struct dma_entry *e, struct dma_pieces *lost)
{
	int rc = lost != NULL ? dma_pieces_push(c->dom, lost, e->first, e->last, NULL) : 0;

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
unmap_piece(struct dma_change *c, const struct dma_piece *p, struct dma_pieces *lost)
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
unmap_unclaimed(struct dma_change *c, const struct dma_pieces *pieces, struct dma_pieces *lost)
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
commit(struct dma_change *c)
{
	struct vdpa_dma_user *user = c->user;

	dma_lock(c->dom);
	user->table = user->coming;
	user->coming = NULL;
	dma_change_account(c->dom, &c->removed, false);
	dma_unlock(c->dom);
	c->committed = true;
	return unmap_unclaimed(c, &c->removed, &c->lost);
}

/* The transport takes what follows together, until batch_end(). */
static int
batch_begin(struct vdpa_dma_domain *dom)
{
	int rc = 0;

	dma_lock(dom);
	if (dom->batch != NULL)
		rc = dom->batch->begin(dom->arg);
	dma_unlock(dom);
	return rc;
}

static int
batch_end(struct vdpa_dma_domain *dom)
{
	int rc = 0;

	dma_lock(dom);
	if (dom->batch != NULL) {
		rc = dom->batch->end(dom->arg);
		dom->unsettled = rc < 0;
	}
	dma_unlock(dom);
	return rc;
}

/* Have in force what is mapped, where an end has failed. */
static int
settle(struct vdpa_dma_domain *dom)
{
	bool unsettled;
	int rc;

	dma_lock(dom);
	unsettled = dom->unsettled;
	dma_unlock(dom);
	if (!unsettled)
		return 0;
	rc = batch_begin(dom);
	return rc == 0 ? batch_end(dom) : rc;
}

/* What could not be unmapped is the old table's again. With the lock. */
static void
free_stuck(struct dma_change *c)
{
	for (size_t i = 0; i < c->removed.n; i++) {
		const struct dma_piece *p = &c->removed.at[i];
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
undo(struct dma_change *c)
{
	struct vdpa_dma_user *user = c->user;
	int rc, batch = batch_begin(c->dom);

	dma_lock(c->dom);
	if (c->committed) {
		dma_change_account(c->dom, &c->removed, true);
		user->table = c->old;
		free_stuck(c);
	}
	user->coming = NULL;
	dma_change_account(c->dom, &c->added, false);
	dma_unlock(c->dom);
	rc = unmap_unclaimed(c, &c->added, NULL);
	for (size_t i = 0; i < c->lost.n; i++) {
		int one;

		dma_lock(c->dom);
		one = dma_restore(c->dom, c->lost.at[i].first, c->lost.at[i].last);
		dma_unlock(c->dom);
		if (rc == 0)
			rc = one;
	}
	/* Calls outside of a batch are in force, but for what the end of one has left. */
	if (batch == 0)
		batch = batch_end(c->dom);
	else if (!c->dom->unsettled)
		batch = 0;
	if (rc == 0)
		rc = batch;
	if (rc < 0) {
		VDPA_LOG(ERR, "%s: a change of the memory of %s could not be taken back: %s",
			 c->dom->name, user->name, vdpa_error_message());
		dma_lock(c->dom);
		user->broken = true;
		dma_unlock(c->dom);
	}
	vdpa_iotlb_put(c->now);
}

static struct dma_piece
whole(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r)
{
	return (struct dma_piece){.first = r->iova, .last = dma_region_last(dom, r), .region = r};
}

/* Try again what could not be unmapped after the user's last table, or after anybody's. */
int
dma_unmap_stuck(struct vdpa_dma_user *user, bool anybody, bool silent)
{
	struct vdpa_dma_domain *dom = user->dom;
	uint64_t at = 0;
	bool more = true;
	int rc = 0;

	if (silent)
		dom->unsettled = false;
	else
		rc = settle(dom);
	/* An entry a turn. */
	while (more) {
		struct dma_entry *e;
		int one = 0;

		dma_lock(dom);
		e = dom->n_stuck > 0 ? dma_entry_at(dom, at) : NULL;
		while (e != NULL && !(e->stuck && (anybody || e->stuck_of == user)))
			e = e->last < UINT64_MAX ? dma_entry_at(dom, e->last + 1) : NULL;
		more = e != NULL && e->last < UINT64_MAX;
		if (more)
			at = e->last + 1;
		if (e != NULL && silent)
			dma_entry_forget(dom, e);
		else if (e != NULL)
			one = dma_entry_unmap(dom, e);
		dma_unlock(dom);
		if (rc == 0)
			rc = one;
	}
	return rc;
}

static int
make_room(struct dma_change *c)
{
	int rc;

	dma_lock(c->dom);
	rc = dma_change_plan(c);
	if (rc == 0 && c->room)
		rc = dma_change_each_going(c, dma_change_unmap_for_now, NULL);
	dma_unlock(c->dom);
	return rc;
}

/* All that the transport is to do, taken together. */
static int
map_and_unmap(struct dma_change *c)
{
	bool any = c->added.n + c->removed.n > 0;
	int rc = 0, begun = any ? batch_begin(c->dom) : -ECANCELED, end;
	struct vdpa_error_saved why;

	if (any && begun < 0)
		return begun;
	if (c->added.n > 0)
		rc = make_room(c);
	if (rc == 0)
		rc = map_added(c);
	if (rc == 0)
		rc = commit(c);
	if (begun < 0)
		return rc;
	vdpa_error_save(&why);
	end = batch_end(c->dom);
	if (rc == 0)
		return end;
	vdpa_error_restore(&why);
	return rc;
}

static int
change(struct dma_change *c)
{
	int rc = vdpa_iotlb_diff(c->old, c->now, dma_change_collect, c);
	struct vdpa_error_saved why;

	if (rc == 0)
		rc = dma_change_claim(c);
	if (rc < 0)
		return rc;
	/* What was left over of another guest's; whoever comes from now on sees the claim. */
	if (c->next_guest)
		rc = dma_unmap_stuck(c->user, true, false);
	for (size_t i = 0; rc == 0 && i < c->added.n; i++)
		rc = dma_change_move_own(c, &c->added.at[i]);
	if (rc == 0)
		rc = map_and_unmap(c);
	if (rc < 0) {
		vdpa_error_save(&why);
		undo(c);
		vdpa_error_restore(&why);
		return rc;
	}
	vdpa_iotlb_put(c->old);
	return rc;
}

/*
 * Have no memory. That works in any case, so nothing is allocated for it: the old table says what
 * there was. What cannot be unmapped is stuck, and the rest is unmapped all the same.
 */
static int
drop(struct dma_change *c)
{
	uint32_t n = c->old != NULL ? c->old->n : 0;
	/* Where a batch cannot begin, each call is by itself. */
	int rc = 0, begun = !c->silent && n > 0 ? batch_begin(c->dom) : -ECANCELED, end;
	struct vdpa_error_saved why;

	dma_lock(c->dom);
	c->user->table = NULL;
	for (uint32_t i = 0; i < n; i++) {
		struct dma_piece p = whole(c->dom, c->old->regions[i]);

		dma_change_account(c->dom, &(struct dma_pieces){.at = &p, .n = 1}, false);
	}
	dma_unlock(c->dom);
	for (uint32_t i = 0; i < n; i++) {
		struct dma_piece p = whole(c->dom, c->old->regions[i]);
		int one = unmap_piece(c, &p, NULL);

		if (rc == 0)
			rc = one;
	}
	if (begun == 0) {
		vdpa_error_save(&why);
		end = batch_end(c->dom);
		if (rc == 0)
			rc = end;
		else
			vdpa_error_restore(&why);
	}
	vdpa_iotlb_put(c->old);
	return rc;
}

static int
set_table(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb, bool silent)
{
	struct dma_change c = {
		.dom = user->dom, .user = user, .old = user->table, .now = tlb, .silent = silent};
	int64_t start = vdpa_now_us();
	int rc, left = dma_unmap_stuck(user, false, silent);

	if (left < 0 && tlb != NULL)
		return left;
	rc = tlb != NULL ? dma_kept_adopt(c.dom, tlb) : 0;
	if (rc < 0)
		return rc;
	rc = tlb != NULL ? change(&c) : drop(&c);
	if (rc == 0 && tlb == NULL && left == 0)
		user->broken = false;
	if (c.added.n + c.removed.n > 0 || (tlb == NULL && c.old != NULL))
		__atomic_store_n(&c.dom->stats.change_us, (uint64_t)(vdpa_now_us() - start),
				 __ATOMIC_RELAXED);
	free(c.added.at);
	free(c.removed.at);
	free(c.lost.at);
	return rc < 0 ? rc : left;
}

int
vdpa_dma_check(struct vdpa_dma_user *user, struct vdpa_iotlb *tlb)
{
	struct dma_change c = {.dom = user->dom, .user = user, .old = user->table, .now = tlb};
	int rc = vdpa_iotlb_diff(c.old, c.now, dma_change_collect, &c);

	if (rc == 0)
		rc = dma_change_check(&c);
	free(c.added.at);
	free(c.removed.at);
	return rc;
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
