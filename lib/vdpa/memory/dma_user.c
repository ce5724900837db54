/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Users of a DMA domain: how one joins and leaves, and what is mended and given back when its
 * device starts and stops. Their tables change in dma_change.c.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "dma_change.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

bool
vdpa_dma_is_broken(const struct vdpa_dma_user *user)
{
	bool broken;

	dma_lock(user->dom);
	broken = user->broken;
	dma_unlock(user->dom);
	return broken;
}

/* Map what a failure has left missing of the table, before the device runs: a chunk a turn. */
static int
repair(struct vdpa_dma_user *user)
{
	struct vdpa_dma_domain *dom = user->dom;
	struct dma_filling f = {.dom = dom, .tlb = user->table, .last = UINT64_MAX};
	int rc = dma_unmap_stuck(user, false, false);

	/* What fails from here on, by this user or by others, says so anew. */
	dma_lock(dom);
	f.cut = dma_change_is_cut(dom, 1);
	user->broken = rc < 0;
	dma_unlock(dom);
	if (rc < 0 || f.tlb == NULL)
		return rc;
	do {
		dma_lock(dom);
		rc = dma_fill_one(&f);
		if (rc < 0)
			user->broken = true;
		dma_unlock(dom);
	} while (rc == 1);
	return rc;
}

/* The next entry that is mapped for nobody in part and that no device uses, from *at on. */
static struct dma_entry *
find_retained(const struct vdpa_dma_domain *dom, uint64_t at)
{
	struct dma_entry *e;

	for (e = dma_entry_at(dom, at); e != NULL; e = dma_entry_at(dom, e->last + 1)) {
		if (!e->own && !e->stuck && e->wanted > 0 && e->wanted < e->last - e->first + 1 &&
		    dma_entry_in_use_by(dom, e, NULL) == NULL)
			return e;
		if (e->last == UINT64_MAX)
			break;
	}
	return NULL;
}

/*
 * Unmap what is retained and not in use, an entry a turn. One that cannot be unmapped does no harm:
 * it is the guest's memory, and mapped as before. Where a part that stays cannot be mapped again,
 * those who have it are broken, and mend that when they start: it is no failure of whoever stops.
 */
static void
trim(struct vdpa_dma_domain *dom)
{
	struct dma_entry *e, was;
	uint64_t at = 0;

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
			else if (dma_restore(dom, was.first, was.last) < 0)
				VDPA_LOG_LIMITED(&dom->log, ERR,
						 "%s: memory at IOVA 0x%" PRIx64 "-0x%" PRIx64
						 " is not mapped again: %s",
						 dom->name, was.first, was.last,
						 vdpa_error_message());
		}
		dma_unlock(dom);
	} while (e != NULL && at != 0);
}

int
vdpa_dma_set_running(struct vdpa_dma_user *user, bool running)
{
	bool broken;

	dma_lock(user->dom);
	user->running = running;
	if (!running)
		user->stray = false;
	broken = user->broken;
	dma_unlock(user->dom);
	if (!running)
		trim(user->dom);
	return running && broken ? repair(user) : 0;
}

void
vdpa_dma_set_stray(struct vdpa_dma_user *user)
{
	dma_lock(user->dom);
	user->stray = true;
	dma_unlock(user->dom);
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
