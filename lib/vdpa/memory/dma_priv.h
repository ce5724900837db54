/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DMA domains from within: entries (what the transport has mapped), claims (what the tables of the
 * users ask for), and the lock that all of it is under.
 *
 *     dma_domain.c    the domain, its limits, its lock, own memory
 *     dma_entries.c   entries: the tree by IOVA, map and unmap of one
 *     dma_claims.c    what the users' tables say of an IOVA
 *     dma_plan.c      what a change of a table takes, and what is checked of it
 *     dma_fill.c      mapping what tables claim
 *     dma_change.c    from one table of a user to another, and back where that fails
 *     dma_user.c      users, their start and stop
 *     dma_kept.c      mappings of a former process
 *
 * A transport cannot unmap a part of an entry. An entry is therefore kept while a user claims any
 * byte of it; what nobody claims of it is retained. `wanted` counts the bytes that somebody claims,
 * so that nobody looks at the whole of an entry when a part of it comes or goes.
 */

#ifndef DMA_PRIV_H
#define DMA_PRIV_H

#include <pthread.h>
#include <sys/queue.h>

#include "log_limit.h"
#include "page_holders.h"
#include "vdpa_dma.h"

/* What makes memory at an IOVA the same memory: the file, where in it IOVA 0 would be, and what the
 * device may do there. */
struct dma_id {
	dev_t dev;
	ino_t ino;
	uint64_t generation;
	uint64_t shift; /* offset - iova, modulo 2^64 */
	bool readonly;
};

/* One mapping of the transport. */
struct dma_entry {
	uint64_t first, last; /* inclusive: an entry may end at 2^64 */
	struct dma_id id;
	uint64_t wanted; /* bytes that a user claims; own: all */
	bool own;	 /* the driver's, by vdpa_dma_alloc() */
	bool kept;	 /* a former process', and not this one's yet */
	struct vdpa_dma_owner owner;
	/* It could not be unmapped after the last claim on it. Nobody may rely on what it maps. */
	bool stuck;
	struct vdpa_dma_user *stuck_of; /* whose it was last; NULL: has left */
	struct dma_entry *left, *right;
	uint64_t priority;
};

struct vdpa_dma_user {
	LIST_ENTRY(vdpa_dma_user) next;
	struct vdpa_dma_domain *dom;
	char *name;
	/* Claimed are both; `coming` only while a change goes on. Written by the user's own thread
	 * under the lock, so that it may read them without. */
	struct vdpa_iotlb *table, *coming;
	bool stray;   /* its device did not reset, and may still reach what comes */
	bool running; /* its device may access memory at this moment */
	bool broken;  /* a part of `table` may not be mapped, or more than `table` is */
};

struct vdpa_dma_domain {
	char *name;
	const struct vdpa_dma_ops *ops;
	const struct vdpa_dma_batch *batch; /* NULL: each call is in force by itself */
	bool unsettled; /* the end of a batch has failed: nobody knows what is in force */
	void *arg;
	uint64_t page_size, chunk_size;
	bool one_guest; /* its users were said to serve one */
	unsigned int max_mappings;
	struct vdpa_dma_range *ranges; /* ascending, none adjacent to the next */
	unsigned int n_ranges;

	/*
	 * The domain's lock, taken in turns: a change takes it anew for each call of the transport,
	 * and with a plain mutex others would not get it before the change is over. Over all
	 * below, and calls of ops.
	 */
	pthread_mutex_t turn_lock;
	pthread_cond_t turn_cond;
	uint64_t turn, turns;

	struct dma_entry *root;
	uint32_t n, n_stuck, n_kept;
	/* dma_kept.c: of a domain that outlives the process. */
	int (*adopt)(void *arg, const struct vdpa_dma_mapping *m);
	void (*changed)(void *arg);
	void *changed_arg;
	LIST_HEAD(, vdpa_dma_user) users;
	struct vdpa_log_limit log; /* for lines that a guest can cause */

	/* Read without the lock, which a transport may hold for as long as its time-out. */
	struct vdpa_dma_stats stats;

	struct vdpa_page_holders holders;
};

/* dma_domain.c */
void dma_lock(struct vdpa_dma_domain *dom);
void dma_unlock(struct vdpa_dma_domain *dom);
/* Without the lock. What is wrong with a region by itself: pages of the IOMMU, IOVAs that it
 * translates. */
int dma_check_region(struct vdpa_dma_domain *dom, const struct vdpa_mem_region *region);

/* dma_entries.c; with the lock. */

/* The first entry that ends at iova or above; NULL: none. */
struct dma_entry *dma_entry_at(const struct vdpa_dma_domain *dom, uint64_t iova);
/* The last entry that begins below iova; NULL: none. */
struct dma_entry *dma_entry_below(const struct vdpa_dma_domain *dom, uint64_t iova);
/* Map what m says, as an entry with what else `as` says. */
int dma_entry_map(struct vdpa_dma_domain *dom, const struct dma_entry *as,
		  const struct vdpa_dma_mapping *m);
/* Unmap an entry and free it; on failure it stays. */
int dma_entry_unmap(struct vdpa_dma_domain *dom, struct dma_entry *e);
/* Free an entry that the transport does not map any more. */
void dma_entry_forget(struct vdpa_dma_domain *dom, struct dma_entry *e);
/* Change e->wanted, and the figure that follows from it. */
void dma_entry_want(struct vdpa_dma_domain *dom, struct dma_entry *e, uint64_t wanted);
void dma_entry_set_stuck(struct vdpa_dma_domain *dom, struct dma_entry *e, bool stuck,
			 struct vdpa_dma_user *user);
/* An entry that the transport has mapped already. 0 or -ENOMEM. */
int dma_entry_restore(struct vdpa_dma_domain *dom, const struct dma_entry *as);
void dma_entry_set_kept(struct vdpa_dma_domain *dom, struct dma_entry *e, bool kept);
/* What is mapped has changed, or is about to: it is written down, where it is kept. */
void dma_note_changed(struct vdpa_dma_domain *dom);

/* With the lock: whether a table of the user's has memory, or one that comes. */
static inline bool
dma_user_has_memory(const struct vdpa_dma_user *user)
{
	return (user->table != NULL && user->table->n > 0) ||
	       (user->coming != NULL && user->coming->n > 0);
}

/* With the lock: whether any user has. */
static inline bool
dma_has_memory(const struct vdpa_dma_domain *dom)
{
	const struct vdpa_dma_user *user;

	LIST_FOREACH (user, &dom->users, next) {
		if (dma_user_has_memory(user))
			return true;
	}
	return false;
}

static inline bool
dma_id_equal(const struct dma_id *a, const struct dma_id *b)
{
	return a->ino == b->ino && a->dev == b->dev && a->generation == b->generation &&
	       a->shift == b->shift && a->readonly == b->readonly;
}

static inline struct dma_id
dma_id_of(const struct vdpa_mem_region *r)
{
	return (struct dma_id){.dev = r->dev,
			       .ino = r->ino,
			       .generation = r->generation,
			       .shift = r->offset - r->iova,
			       .readonly = r->readonly};
}

/* An entry that is this memory and can be relied on. */
static inline bool
dma_entry_is(const struct dma_entry *e, const struct dma_id *id)
{
	return !e->own && !e->stuck && dma_id_equal(&e->id, id);
}

/* dma_claims.c; with the lock, but for the first two. */

/* Last IOVA of a region, by whole pages of the IOMMU. */
uint64_t dma_region_last(const struct vdpa_dma_domain *dom, const struct vdpa_mem_region *r);
/* The region of a table (NULL: none) that has the IOVA, or NULL; the answer is the same up to *upto
 * (inclusive). */
const struct vdpa_mem_region *dma_region_at(const struct vdpa_dma_domain *dom,
					    const struct vdpa_iotlb *tlb, uint64_t iova,
					    uint64_t *upto);
/* Who is looked at: all users, but for ... */
struct dma_view {
	const struct vdpa_dma_user *without_table; /* the table in force of this one */
	const struct vdpa_dma_user *without;	   /* all of this one */
};
/* Whether the memory is claimed at the IOVA; the same holds up to *upto. */
bool dma_claimed(const struct vdpa_dma_domain *dom, const struct dma_view *view, uint64_t iova,
		 const struct dma_id *id, uint64_t *upto);
/* Bytes of [first, last] at which the memory is claimed. */
uint64_t dma_claimed_bytes(const struct vdpa_dma_domain *dom, const struct dma_view *view,
			   uint64_t first, uint64_t last, const struct dma_id *id);
/* A region of a user's that has an IOVA of [first, last], and is this memory or, `same` being
 * false, is not; any for an id of NULL. NULL: there is none. */
const struct vdpa_mem_region *dma_user_region(const struct vdpa_dma_user *user, uint64_t first,
					      uint64_t last, const struct dma_id *id, bool same);
/* Whether anybody claims an IOVA of [first, last]: where the region begins that does. */
bool dma_claim_in(const struct vdpa_dma_domain *dom, uint64_t first, uint64_t last,
		  uint64_t *begin);

/* dma_kept.c; without the lock: what a former process has mapped, and this table has, becomes this
 * process'. 0; -EPROTO where it may be other memory. */
int dma_kept_adopt(struct vdpa_dma_domain *dom, const struct vdpa_iotlb *tlb);
/* With the lock: whether the transport has mapped an entry of a former process. One that was killed
 * before it mapped, or after it unmapped, has it recorded. */
bool dma_kept_is_there(struct vdpa_dma_domain *dom, const struct dma_entry *e);

#endif /* DMA_PRIV_H */
