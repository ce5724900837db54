/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Mappings that outlive the process. A domain of the next one begins with the entries that a former
 * one has made; they are no user's until a table claims their memory, as what is retained of an
 * entry is not. So that what the guest's table is now decides what stays, by the same rules as any
 * change of it, however it was cut into mappings before.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dma_kept.h"
#include "dma_priv.h"
#include "vdpa_error.h"
#include "vdpa_log.h"

void
vdpa_dma_keep(struct vdpa_dma_domain *dom, void (*changed)(void *arg), void *arg)
{
	dma_lock(dom);
	dom->changed = changed;
	dom->changed_arg = arg;
	dma_note_changed(dom);
	dma_unlock(dom);
}

int
vdpa_dma_kept_each(struct vdpa_dma_domain *dom, int (*fn)(const struct vdpa_dma_kept *m, void *arg),
		   void *arg)
{
	int rc = 0;

	for (struct dma_entry *e = dma_entry_at(dom, 0); rc == 0 && e != NULL;
	     e = e->last < UINT64_MAX ? dma_entry_at(dom, e->last + 1) : NULL) {
		const struct vdpa_dma_kept m = {
			.iova = e->first,
			.size = e->last - e->first + 1,
			.dev = e->id.dev,
			.ino = e->id.ino,
			.offset = e->own ? 0 : e->id.shift + e->first,
			.is_readonly = e->id.readonly,
		};

		rc = fn(&m, arg);
	}
	return rc;
}

int
vdpa_dma_kept_check(const char *name, uint64_t page_size, const struct vdpa_dma_kept *m, size_t n)
{
	uint64_t next = 0;

	for (size_t i = 0; i < n; i++) {
		if (m[i].size == 0 || m[i].iova + (m[i].size - 1) < m[i].iova || m[i].iova < next ||
		    (i > 0 && next == 0) ||
		    ((m[i].iova | m[i].size | m[i].offset) & (page_size - 1)) != 0 ||
		    m[i].offset > INT64_MAX || m[i].size > INT64_MAX - m[i].offset ||
		    m[i].is_readonly > 1)
			return vdpa_error(EPROTO,
					  "%s: IOVA 0x%" PRIx64 " of 0x%" PRIx64
					  " bytes is no mapping of its domain",
					  name, m[i].iova, m[i].size);
		next = m[i].iova + m[i].size;
	}
	return 0;
}

int
vdpa_dma_kept_restore(struct vdpa_dma_domain *dom, const struct vdpa_dma_kept *m, size_t n,
		      bool maps_are_more, int (*adopt)(void *arg, const struct vdpa_dma_mapping *m))
{
	int rc = vdpa_dma_kept_check(dom->name, dom->page_size, m, n);

	if (rc < 0)
		return rc;
	dma_lock(dom);
	dom->adopt = adopt;
	if (dom->max_mappings > 0 && maps_are_more)
		dom->max_mappings += (unsigned int)n;
	for (size_t i = 0; rc == 0 && i < n; i++) {
		struct dma_entry e = {
			.first = m[i].iova,
			.last = m[i].iova + m[i].size - 1,
			.id = {.dev = (dev_t)m[i].dev,
			       .ino = (ino_t)m[i].ino,
			       .shift = m[i].offset - m[i].iova,
			       .readonly = m[i].is_readonly != 0},
			.kept = true,
		};

		rc = dma_entry_restore(dom, &e);
	}
	dma_unlock(dom);
	return rc;
}

/* A region of the table that is memory of the entry. */
static const struct vdpa_mem_region *
find_region(const struct vdpa_dma_domain *dom, const struct vdpa_iotlb *tlb,
	    const struct dma_entry *e)
{
	uint64_t upto;

	for (uint64_t at = e->first;; at = upto + 1) {
		const struct vdpa_mem_region *r = dma_region_at(dom, tlb, at, &upto);

		if (r != NULL) {
			const struct dma_id id = dma_id_of(r);

			if (dma_entry_is(e, &id))
				return r;
		}
		if (upto >= e->last)
			return NULL;
	}
}

/* By a mapping of ours, which need not stay: the pages are pinned already. */
static int
adopt(struct vdpa_dma_domain *dom, const struct dma_entry *e, const struct vdpa_mem_region *r)
{
	struct vdpa_dma_mapping m = {.iova = e->first,
				     .size = e->last - e->first + 1,
				     .fd = r->fd,
				     .offset = e->id.shift + e->first,
				     .readonly = e->id.readonly};
	bool has_all = r->iova <= e->first && dma_region_last(dom, r) >= e->last;
	int rc;

	if (has_all)
		m.va = (uint8_t *)r->va + (e->first - r->iova);
	else
		m.va = mmap(NULL, m.size, PROT_READ | (m.readonly ? 0 : PROT_WRITE), MAP_SHARED,
			    r->fd, (off_t)m.offset);
	if (m.va == MAP_FAILED)
		return vdpa_error(errno, "%s: mmap of %" PRIu64 " bytes: %m", dom->name, m.size);
	rc = dom->adopt(dom->arg, &m);
	if (!has_all)
		munmap(m.va, m.size);
	return rc;
}

int
dma_kept_adopt(struct vdpa_dma_domain *dom, const struct vdpa_iotlb *tlb)
{
	uint64_t at = 0;
	bool more = true;
	int rc = 0;

	/* An entry a turn. */
	while (more && rc != -EPROTO) {
		const struct vdpa_mem_region *r = NULL;
		struct dma_entry *e;

		dma_lock(dom);
		e = dom->n_kept > 0 ? dma_entry_at(dom, at) : NULL;
		more = e != NULL && e->last < UINT64_MAX;
		if (more)
			at = e->last + 1;
		if (e != NULL && e->kept)
			r = find_region(dom, tlb, e);
		if (r != NULL) {
			rc = adopt(dom, e, r);
			/* What it is stays unknown: it goes with what nobody claims. */
			if (rc != -EPROTO)
				dma_entry_set_kept(dom, e, false);
			/* The table has it mapped anew. */
			if (rc == -ENOENT)
				dma_entry_forget(dom, e);
			else if (rc < 0 && rc != -EPROTO)
				VDPA_LOG(WARNING,
					 "%s: IOVA 0x%" PRIx64 ": the memory stays the former "
					 "process' in the kernel's account: %s",
					 dom->name, e->first, vdpa_error_message());
		}
		dma_unlock(dom);
	}
	return rc == -EPROTO ? rc : 0;
}

/* The file is memory of ours: nobody makes it shorter. */
static int
map_own_file(const struct vdpa_dma_domain *dom, struct vdpa_dma_buf *b, struct stat *st)
{
	int seals = fcntl(b->fd, F_GET_SEALS);

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(b->fd, st) < 0 || st->st_size <= 0 ||
	    (uint64_t)st->st_size % dom->page_size != 0)
		return vdpa_error(EPROTO, "%s: what was kept is no memory of the driver's",
				  dom->name);
	b->size = (size_t)st->st_size;
	b->va = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (b->va == MAP_FAILED)
		return vdpa_error(ENOMEM, "%s: mmap of %zu bytes: %m", dom->name, b->size);
	return 0;
}

/* With the lock. */
static int
claim_own(struct vdpa_dma_domain *dom, const struct vdpa_dma_buf *b, const struct stat *st,
	  const struct vdpa_dma_owner *owner)
{
	const struct dma_id id = {.dev = st->st_dev, .ino = st->st_ino, .shift = -b->iova};
	const struct vdpa_dma_mapping m = {
		.iova = b->iova, .size = b->size, .va = b->va, .fd = b->fd};
	struct dma_entry *e = dma_entry_at(dom, b->iova);
	int rc;

	if (e == NULL || !e->kept || e->first != b->iova || e->last != b->iova + b->size - 1 ||
	    !dma_id_equal(&e->id, &id))
		return vdpa_error(ENOENT, "%s: memory of the driver's is not mapped at 0x%" PRIx64,
				  dom->name, b->iova);
	rc = dom->adopt(dom->arg, &m);
	if (rc == -ENOENT || rc == -EPROTO)
		return rc;
	dma_entry_set_kept(dom, e, false);
	e->own = true;
	e->id.shift = 0;
	if (owner != NULL)
		e->owner = *owner;
	dma_entry_want(dom, e, b->size);
	return 0;
}

int
vdpa_dma_kept_own(struct vdpa_dma_domain *dom, uint64_t iova, int fd,
		  const struct vdpa_dma_owner *owner, struct vdpa_dma_buf *buf)
{
	struct vdpa_dma_buf b = {.iova = iova, .fd = fd};
	struct stat st;
	int rc = map_own_file(dom, &b, &st);

	if (rc == 0) {
		dma_lock(dom);
		rc = claim_own(dom, &b, &st, owner);
		dma_unlock(dom);
		if (rc < 0)
			munmap(b.va, b.size);
	}
	if (rc < 0)
		close(fd);
	else
		*buf = b;
	return rc;
}

bool
dma_kept_is_there(struct vdpa_dma_domain *dom, const struct dma_entry *e)
{
	/* No memory of ours: it is not to stay. */
	const struct vdpa_dma_mapping m = {.iova = e->first,
					   .size = e->last - e->first + 1,
					   .va = (void *)(uintptr_t)dom->page_size,
					   .fd = -1};

	return dom->adopt(dom->arg, &m) != -ENOENT;
}

bool
vdpa_dma_kept_is_domain(struct vdpa_dma_domain *dom)
{
	bool found, more = true;
	uint64_t at = 0;

	dma_lock(dom);
	found = dom->n_kept == 0;
	while (!found && more) {
		struct dma_entry *e = dma_entry_at(dom, at);

		more = e != NULL && e->last < UINT64_MAX;
		if (more)
			at = e->last + 1;
		found = e != NULL && e->kept && dma_kept_is_there(dom, e);
	}
	dma_unlock(dom);
	return found;
}

int
vdpa_dma_kept_drop(struct vdpa_dma_domain *dom)
{
	uint64_t at = 0;
	bool more = true;
	int rc = 0;

	while (more) {
		struct dma_entry *e;
		int one = 0;

		dma_lock(dom);
		e = dom->n_kept > 0 ? dma_entry_at(dom, at) : NULL;
		more = e != NULL && e->last < UINT64_MAX;
		if (more)
			at = e->last + 1;
		if (e != NULL && e->kept) {
			one = dma_entry_unmap(dom, e);
			if (one < 0) {
				dma_entry_set_kept(dom, e, false);
				VDPA_LOG(ERR, "%s: memory of a former process stays mapped: %s",
					 dom->name, vdpa_error_message());
				dma_entry_set_stuck(dom, e, true, NULL);
			}
		}
		dma_unlock(dom);
		if (rc == 0)
			rc = one;
	}
	return rc;
}
