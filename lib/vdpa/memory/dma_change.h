/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A change of a user's table, between the files that carry it out: dma_plan.c, dma_fill.c and
 * dma_change.c, each using those before it.
 */

#ifndef DMA_CHANGE_H
#define DMA_CHANGE_H

#include "dma_priv.h"

/* Ranges of IOVAs, ascending, each of one region. */
struct dma_piece {
	uint64_t first, last;
	const struct vdpa_mem_region *region;
};

struct dma_pieces {
	struct dma_piece *at;
	size_t n, room;
};

struct dma_change {
	struct vdpa_dma_domain *dom;
	struct vdpa_dma_user *user;
	struct vdpa_iotlb *old, *now;
	struct dma_pieces added, removed;
	struct dma_pieces lost; /* where entries were unmapped that the old table may claim */
	bool cut;		/* what is mapped ends where a chunk does */
	bool room;		/* unmap first what goes: else there is no room */
	bool silent;		/* the transport has unmapped all by itself */
	bool committed;		/* the new table is in force */
	bool next_guest;	/* nobody had memory when it was claimed */
	bool asks;		/* nothing is to change */
};

/* What of a table is to be mapped, and how far that is done. */
struct dma_filling {
	struct vdpa_dma_domain *dom;
	const struct vdpa_iotlb *tlb;
	const struct dma_id *only; /* this memory; NULL: all */
	bool cut;
	uint64_t at, last;
	bool done;
	struct dma_change *change; /* whose other memory makes room; NULL: nobody's does */
};

/* dma_plan.c */

/* Add a range, to the last one where it goes on with the same region. */
int dma_pieces_push(const struct vdpa_dma_domain *dom, struct dma_pieces *p, uint64_t first,
		    uint64_t last, const struct vdpa_mem_region *region);
/* A vdpa_iotlb_diff_fn over a change: what only one table has of a region that only it has. */
int dma_change_collect(const struct vdpa_mem_region *region, bool in_now, void *arg);
/* Claim the new table beside the old one. */
int dma_change_claim(struct dma_change *c);
/* Claim the new table, check all that can be known (dma_change_plan()), and drop the claim. */
int dma_change_check(struct dma_change *c);
/* Have the driver's own memory out of the way of a piece. */
int dma_change_move_own(const struct dma_change *c, const struct dma_piece *p);

/* With the lock. */

/* Note in the entries that pieces are claimed, before they are, or not any more, after that. */
void dma_change_account(struct vdpa_dma_domain *dom, const struct dma_pieces *p, bool claimed);
/* Another user than `but` whose device may be using the entry; NULL: nobody. */
const struct vdpa_dma_user *dma_entry_in_use_by(const struct vdpa_dma_domain *dom,
						const struct dma_entry *e,
						const struct vdpa_dma_user *but);
/* An entry that has other memory than a piece can be unmapped. */
int dma_change_check_replace(const struct dma_change *c, const struct dma_entry *e,
			     const struct dma_piece *p);
/* Whether nobody will claim a byte of an entry when the change is over. */
bool dma_change_goes_whole(const struct dma_change *c, const struct dma_entry *e);
/* Call fn() for each entry that goes with the change. */
int dma_change_each_going(struct dma_change *c,
			  int (*fn)(struct dma_change *c, struct dma_entry *e, void *arg),
			  void *arg);
/* Whether regions are cut into chunks, of which so many more are to be mapped. */
bool dma_change_is_cut(const struct vdpa_dma_domain *dom, uint64_t chunks);
/* Check all that can be known before anything is mapped. */
int dma_change_plan(struct dma_change *c);

/* dma_fill.c; with the lock. */

/* Unmap an entry that somebody may claim; a failure of the change brings it back. */
int dma_change_unmap_for_now(struct dma_change *c, struct dma_entry *e, void *arg);
/* Map the next chunk that is missing. 1, or 0 when nothing is. */
int dma_fill_one(struct dma_filling *f);
/* dma_fill_one() to the end. */
int dma_fill_all(struct dma_filling f);
/* Map all that is claimed in a range. Whose memory does not come back is noted. */
int dma_restore(struct vdpa_dma_domain *dom, uint64_t first, uint64_t last);

/* dma_change.c; without the lock. Try again what could not be unmapped after the user's last table,
 * or after anybody's; silent: the transport has unmapped all by itself. */
int dma_unmap_stuck(struct vdpa_dma_user *user, bool anybody, bool silent);

#endif /* DMA_CHANGE_H */
