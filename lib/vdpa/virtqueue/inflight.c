/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Inflight I/O tracking (vhost-user, "Inflight I/O tracking"): which chains were taken and not
 * returned, in memory that the front end keeps while this process dies and comes back.
 *
 * Owns the area and a private copy of its lists: the area is read at set-up, where everything in it
 * is checked, and only written afterwards (but for the descriptors of packed chains, which are
 * parsed with the ring's own checks when they are submitted again). The order of the stores is the
 * specification's; fences keep it, so that a kill between any two of them can be recovered from.
 */

#include <stdlib.h>

#include <rte_atomic.h>

#include "inflight_priv.h"

#define INFLIGHT_VERSION 1

/* A field of the area, which the front end may write meanwhile: it is read once, and what was read
 * is what is checked. */
#define AREA_READ(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)

size_t
vdpa_vq_inflight_size(bool packed, uint32_t num)
{
	return packed ? sizeof(struct inflight_packed) + num * sizeof(struct inflight_packed_desc)
		      : sizeof(struct inflight_split) + num * sizeof(struct inflight_split_desc);
}

int
vdpa_vq_resubmit_compare(const void *a, const void *b)
{
	const struct vdpa_vq_resubmit *x = a, *y = b;

	return x->counter < y->counter ? -1 : x->counter > y->counter;
}

static void
resubmit_add(struct vdpa_vq_tracker *t, uint16_t entry, uint64_t counter)
{
	t->resubmit[t->n_resubmit++] =
		(struct vdpa_vq_resubmit){.counter = counter, .entry = entry};
}

static void
split_init(struct vdpa_vq_tracker *t, uint16_t used_idx)
{
	struct inflight_split *a = t->split;

	memset(a, 0, sizeof(*a) + t->num * sizeof(a->desc[0]));
	a->desc_num = (uint16_t)t->num;
	a->used_idx = used_idx;
	rte_smp_wmb();
	a->version = INFLIGHT_VERSION;
}

int
vdpa_vq_inflight_store(const struct vdpa_vq_inflight *inflight, uint32_t num, uint16_t used,
		       const uint16_t *heads, unsigned int n)
{
	struct vdpa_vq_tracker t = {.num = num, .split = inflight->addr};

	if (inflight->size < vdpa_vq_inflight_size(false, num))
		return -EINVAL;
	split_init(&t, used);
	for (unsigned int i = 0; i < n; i++) {
		t.split->desc[heads[i]].inflight = 1;
		t.split->desc[heads[i]].counter = i + 1;
	}
	return 0;
}

unsigned int
vdpa_vq_inflight_count(const struct vdpa_vq_inflight *inflight, bool packed, uint32_t num,
		       uint64_t below, uint64_t *next)
{
	const struct inflight_split *split = inflight->addr;
	const struct inflight_packed *ring = inflight->addr;
	uint64_t last = 0;
	unsigned int n = 0;

	if (inflight->size < vdpa_vq_inflight_size(packed, num))
		num = 0;
	for (uint32_t i = 0; i < num; i++) {
		const uint64_t *at = packed ? &ring->desc[i].counter : &split->desc[i].counter;
		const uint8_t *flag = packed ? &ring->desc[i].inflight : &split->desc[i].inflight;
		bool taken = __atomic_load_n(flag, __ATOMIC_ACQUIRE) != 0;
		uint64_t counter = __atomic_load_n(at, __ATOMIC_RELAXED);

		n += taken && counter < below;
		last = RTE_MAX(last, counter);
	}
	if (next != NULL)
		*next = last + 1;
	return n;
}

static int
split_recover(struct vdpa_virtqueue *vq, struct vdpa_vq_tracker *t, struct vdpa_vq_state *state)
{
	struct inflight_split *a = t->split;
	uint16_t used = rte_le_to_cpu_16(__atomic_load_n(&vq->used->idx, __ATOMIC_RELAXED));
	uint16_t version = AREA_READ(a->version), batch, head;
	bool written = false;

	if (version == 0) {
		split_init(t, used);
		return 0;
	}
	if (version != INFLIGHT_VERSION)
		return vdpa_vq_bad(vq, EINVAL, "inflight area of an unknown version");
	/* The last batch was published, but perhaps not all of it was taken back. */
	batch = used - AREA_READ(a->used_idx);
	head = AREA_READ(a->last_batch_head);
	t->batch_head = head;
	for (uint32_t i = 0; i < batch && i < t->num && head < t->num; i++) {
		a->desc[head].inflight = 0;
		head = AREA_READ(a->desc[head].next);
	}
	a->used_idx = used;

	for (uint32_t i = 0; i < t->num; i++) {
		uint64_t counter = AREA_READ(a->desc[i].counter);
		bool inflight = AREA_READ(a->desc[i].inflight) != 0;

		if (counter >= t->counter)
			t->counter = counter + 1;
		if (inflight)
			resubmit_add(t, (uint16_t)i, counter);
		written |= inflight || counter != 0;
	}
	/* An area that nothing was ever tracked in has no say in where to start. */
	if (written)
		state->split.avail_index = (uint16_t)(used + t->n_resubmit);
	return 0;
}

static void
packed_init(struct vdpa_vq_tracker *t, const struct vdpa_vq_state *state)
{
	struct inflight_packed *a = t->packed;

	memset(a, 0, sizeof(*a) + t->num * sizeof(a->desc[0]));
	for (uint32_t i = 0; i < t->num; i++) {
		t->next[i] = (uint16_t)(i + 1);
		a->desc[i].next = t->next[i];
	}
	a->desc_num = (uint16_t)t->num;
	a->used_idx = state->packed.last_used_idx;
	a->old_used_idx = a->used_idx;
	a->used_wrap_counter = state->packed.last_used_counter;
	a->old_used_wrap_counter = a->used_wrap_counter;
	rte_smp_wmb();
	a->version = INFLIGHT_VERSION;
}

/* Whether the driver was already shown the last batch: its first descriptor is no longer
 * available. */
static bool
packed_batch_published(const struct vdpa_virtqueue *vq, uint16_t pos, bool wrap)
{
	uint64_t word = rte_le_to_cpu_64(__atomic_load_n(&vq->desc[pos].word, __ATOMIC_RELAXED));
	bool avail = (word >> 48 >> VRING_PACKED_DESC_F_AVAIL) & 1;
	bool used = (word >> 48 >> VRING_PACKED_DESC_F_USED) & 1;

	return avail != wrap || used == wrap;
}

static int
packed_recover(struct vdpa_virtqueue *vq, struct vdpa_vq_tracker *t, struct vdpa_vq_state *state)
{
	struct inflight_packed *a = t->packed;
	uint16_t free_head, used, now_used, e, *tail = &t->free_head;
	uint16_t version = AREA_READ(a->version);
	uint32_t slots = 0;
	bool written = false, wrap, now_wrap;
	uint8_t *seen;
	int ret = 0;

	for (uint32_t i = 0; i < t->num; i++)
		written |=
			AREA_READ(a->desc[i].inflight) != 0 || AREA_READ(a->desc[i].counter) != 0;
	if (version == 0 || (version == INFLIGHT_VERSION && !written)) {
		packed_init(t, state);
		return 0;
	}
	if (version != INFLIGHT_VERSION)
		return vdpa_vq_bad(vq, EINVAL, "inflight area of an unknown version");

	used = AREA_READ(a->old_used_idx);
	wrap = AREA_READ(a->old_used_wrap_counter) != 0;
	now_used = AREA_READ(a->used_idx);
	now_wrap = AREA_READ(a->used_wrap_counter) != 0;
	free_head = AREA_READ(a->old_free_head);
	if (used >= t->num)
		return vdpa_vq_bad(vq, EINVAL, "used index of the inflight area outside the ring");
	if ((now_used != used || now_wrap != wrap) && packed_batch_published(vq, used, wrap)) {
		used = now_used;
		wrap = now_wrap;
		free_head = AREA_READ(a->free_head);
		if (used >= t->num)
			return vdpa_vq_bad(vq, EINVAL,
					   "used index of the inflight area outside the ring");
	}

	seen = calloc(t->num, 1);
	if (seen == NULL)
		return vdpa_vq_bad(vq, ENOMEM, "out of memory");
	for (e = free_head; e < t->num; e = AREA_READ(a->desc[e].next)) {
		if (seen[e])
			goto err_inconsistent;
		seen[e] = 1;
		a->desc[e].inflight = 0;
		*tail = e;
		tail = &t->next[e];
	}
	for (uint32_t i = 0; i < t->num; i++) {
		uint64_t counter = AREA_READ(a->desc[i].counter);
		uint16_t n, d = (uint16_t)i;

		if (counter >= t->counter)
			t->counter = counter + 1;
		if (AREA_READ(a->desc[i].inflight) == 0)
			continue;
		n = AREA_READ(a->desc[i].num);
		if (n == 0 || n > t->num - slots)
			goto err_inconsistent;
		for (uint16_t k = 0; k < n; k++) {
			if (d >= t->num || seen[d])
				goto err_inconsistent;
			seen[d] = 1;
			t->last[i] = d;
			d = AREA_READ(a->desc[d].next);
			if (k + 1 < n)
				t->next[t->last[i]] = d;
		}
		t->ndesc[i] = n;
		slots += n;
		resubmit_add(t, (uint16_t)i, counter);
	}
	/* What is in no list was lost to a kill between two stores. */
	for (uint32_t i = 0; i < t->num; i++) {
		if (!seen[i]) {
			*tail = (uint16_t)i;
			tail = &t->next[i];
		}
	}
	*tail = (uint16_t)t->num;
	for (uint32_t i = 0; i < t->num; i++)
		a->desc[i].next = t->next[i];
	for (uint32_t i = 0; i < t->n_resubmit; i++)
		a->desc[t->resubmit[i].entry].last = t->last[t->resubmit[i].entry];

	a->free_head = a->old_free_head = t->free_head;
	a->used_idx = a->old_used_idx = used;
	a->used_wrap_counter = a->old_used_wrap_counter = wrap;
	state->packed.last_used_idx = used;
	state->packed.last_used_counter = wrap;
	state->packed.last_avail_idx = (uint16_t)((used + slots) % t->num);
	state->packed.last_avail_counter = used + slots >= t->num ? !wrap : wrap;
	goto out;

err_inconsistent:
	ret = vdpa_vq_bad(vq, EINVAL, "inflight area is inconsistent");
out:
	free(seen);
	return ret;
}

int
vdpa_vq_tracker_create(struct vdpa_virtqueue *vq, const struct vdpa_vq_inflight *inflight,
		       struct vdpa_vq_state *state)
{
	const size_t need = vdpa_vq_inflight_size(vq->packed, vq->num);
	const size_t arrays = 5 * (size_t)vq->num * sizeof(uint16_t);
	struct vdpa_vq_tracker *t;
	uint16_t *array;
	int ret;

	if (inflight->size < need || ((uintptr_t)inflight->addr & 7) != 0)
		return vdpa_vq_bad(vq, EINVAL, "inflight area too small or not aligned");
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return vdpa_vq_bad(vq, ENOMEM, "out of memory");
	t->resubmit = calloc(vq->num, sizeof(t->resubmit[0]));
	t->popped = calloc(1, arrays);
	if (t->resubmit == NULL || t->popped == NULL) {
		ret = vdpa_vq_bad(vq, ENOMEM, "out of memory");
		goto err;
	}
	array = t->popped;
	t->pending = array += vq->num;
	t->next = array += vq->num;
	t->last = array += vq->num;
	t->ndesc = array += vq->num;
	t->num = vq->num;
	t->counter = 1;
	t->first_pop = vq->counters.popped;
	t->split = inflight->addr;
	ret = vq->packed ? packed_recover(vq, t, state) : split_recover(vq, t, state);
	if (ret < 0)
		goto err;
	qsort(t->resubmit, t->n_resubmit, sizeof(t->resubmit[0]), vdpa_vq_resubmit_compare);
	t->start_avail = vq->packed ? state->packed.last_avail_idx : state->split.avail_index;
	t->start_wrap = vq->packed && state->packed.last_avail_counter;
	vq->tracker = t;
	return 0;

err:
	vdpa_vq_tracker_free(t);
	return ret;
}

void
vdpa_vq_tracker_free(struct vdpa_vq_tracker *t)
{
	if (t == NULL)
		return;
	free(t->resubmit);
	free(t->popped);
	free(t);
}

unsigned int
vdpa_vq_tracker_left(const struct vdpa_virtqueue *vq)
{
	return vq->tracker->n_resubmit - vq->tracker->next_resubmit;
}

static int
packed_resubmit(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t entry)
{
	struct vdpa_vq_tracker *t = vq->tracker;
	struct vdpa_vq_parts p;
	uint16_t e = entry, id = 0;

	vdpa_vq_parts_init(&p, chain);
	for (uint16_t k = 0; k < t->ndesc[entry]; k++, e = t->next[e]) {
		const struct inflight_packed_desc *s = &t->packed->desc[e];
		struct vdpa_vq_desc d;
		int ret;

		id = __atomic_load_n(&s->id, __ATOMIC_RELAXED);
		d.addr = __atomic_load_n(&s->addr, __ATOMIC_RELAXED);
		d.word = (uint64_t)__atomic_load_n(&s->flags, __ATOMIC_RELAXED) << 48 |
			 (uint64_t)id << 32 | __atomic_load_n(&s->len, __ATOMIC_RELAXED);
		ret = vdpa_vq_packed_add(vq, &p, d);
		if (ret < 0)
			return ret;
	}
	chain->id = id;
	chain->ndesc = t->ndesc[entry];
	return vdpa_vq_parts_done(&p, chain);
}

int
vdpa_vq_tracker_resubmit(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain)
{
	struct vdpa_vq_tracker *t = vq->tracker;
	uint16_t entry;
	int ret;

	if (t->next_resubmit == t->n_resubmit)
		return 0;
	entry = t->resubmit[t->next_resubmit].entry;
	ret = vq->packed ? packed_resubmit(vq, chain, entry)
			 : vdpa_vq_split_parse(vq, chain, entry);
	if (ret < 0 && ret != -EMSGSIZE)
		return ret;
	t->next_resubmit++;
	chain->entry = entry;
	chain->slot = t->start_avail;
	chain->seq = (uint16_t)vq->counters.popped;
	vdpa_vq_count(&vq->counters.popped, 1);
	return ret;
}

int
vdpa_vq_tracker_keep(struct vdpa_virtqueue *vq, uint16_t n, struct vdpa_vq_desc d)
{
	struct vdpa_vq_tracker *t = vq->tracker;
	struct inflight_packed_desc *s;

	if (n == 0)
		t->cursor = t->free_head;
	/* Slots pushed and not flushed are not free here yet, nor may the driver have filled them.
	 */
	if (t->cursor >= t->num)
		return vdpa_vq_bad(vq, EPROTO, "chain longer than the free part of the virtqueue");
	s = &t->packed->desc[t->cursor];
	s->addr = d.addr;
	s->len = (uint32_t)d.word;
	s->id = (uint16_t)(d.word >> 32);
	s->flags = (uint16_t)(d.word >> 48);
	t->cursor_last = t->cursor;
	t->cursor = t->next[t->cursor];
	return 0;
}

void
vdpa_vq_tracker_popped(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain)
{
	struct vdpa_vq_tracker *t = vq->tracker;

	if (!vq->packed) {
		struct inflight_split_desc *s = &t->split->desc[chain->id];

		chain->entry = chain->id;
		s->counter = t->counter++;
		rte_smp_wmb();
		s->inflight = 1;
	} else {
		struct inflight_packed_desc *s = &t->packed->desc[t->free_head];

		chain->entry = t->free_head;
		t->last[chain->entry] = t->cursor_last;
		t->ndesc[chain->entry] = chain->ndesc;
		t->free_head = t->cursor;
		s->num = chain->ndesc;
		s->last = t->cursor_last;
		s->counter = t->counter++;
		rte_smp_wmb();
		s->inflight = 1;
		t->packed->free_head = t->free_head;
		rte_smp_wmb();
		t->packed->old_free_head = t->free_head;
	}
	t->popped[vq->counters.popped % t->num] = chain->entry;
}

void
vdpa_vq_tracker_pushed(struct vdpa_virtqueue *vq, uint16_t entry)
{
	struct vdpa_vq_tracker *t = vq->tracker;

	if (t->n_pending < t->num && entry < t->num)
		t->pending[t->n_pending++] = entry;
}

/* Packed: the entries of a chain go to the head of the free list. */
static void
packed_release(struct vdpa_vq_tracker *t, uint16_t entry)
{
	uint16_t last = t->last[entry];

	t->next[last] = t->free_head;
	t->packed->desc[last].next = t->free_head;
	t->free_head = entry;
}

void
vdpa_vq_tracker_flush_begin(struct vdpa_virtqueue *vq)
{
	struct vdpa_vq_tracker *t = vq->tracker;

	if (!vq->packed) {
		for (uint32_t i = 0; i < t->n_pending; i++) {
			t->split->desc[t->pending[i]].next = t->batch_head;
			t->batch_head = t->pending[i];
		}
		t->split->last_batch_head = t->batch_head;
	} else {
		for (uint32_t i = 0; i < t->n_pending; i++)
			packed_release(t, t->pending[i]);
		t->packed->free_head = t->free_head;
		t->packed->used_idx = vq->last_used;
		t->packed->used_wrap_counter = vq->used_wrap;
	}
	rte_smp_wmb();
}

void
vdpa_vq_tracker_flush_end(struct vdpa_virtqueue *vq)
{
	struct vdpa_vq_tracker *t = vq->tracker;

	rte_smp_wmb();
	for (uint32_t i = 0; i < t->n_pending; i++) {
		if (!vq->packed)
			t->split->desc[t->pending[i]].inflight = 0;
		else
			t->packed->desc[t->pending[i]].inflight = 0;
	}
	rte_smp_wmb();
	if (!vq->packed) {
		t->split->used_idx = vq->last_used;
	} else {
		t->packed->old_free_head = t->free_head;
		t->packed->old_used_idx = vq->last_used;
		t->packed->old_used_wrap_counter = vq->used_wrap;
	}
	t->n_pending = 0;
}

void
vdpa_vq_tracker_release(struct vdpa_virtqueue *vq, uint16_t entry)
{
	struct vdpa_vq_tracker *t = vq->tracker;

	if (!vq->packed) {
		t->split->desc[entry].inflight = 0;
		rte_smp_wmb();
		return;
	}
	packed_release(t, entry);
	t->packed->free_head = t->free_head;
	rte_smp_wmb();
	t->packed->old_free_head = t->free_head;
	rte_smp_wmb();
	t->packed->desc[entry].inflight = 0;
	rte_smp_wmb();
}

bool
vdpa_vq_tracker_rewind(struct vdpa_virtqueue *vq, uint16_t n)
{
	struct vdpa_vq_tracker *t = vq->tracker;
	uint64_t number = vq->counters.popped;
	bool from_area = false;

	while (n-- > 0) {
		if (--number < t->first_pop + t->n_resubmit) {
			/* Still inflight, and to be submitted again. */
			t->next_resubmit--;
			from_area = true;
			continue;
		}
		vdpa_vq_tracker_release(vq, t->popped[number % t->num]);
	}
	if (from_area && vq->packed)
		vdpa_vq_packed_set_avail(vq, t->start_avail, t->start_wrap);
	else if (from_area)
		vq->last_avail = t->start_avail;
	return from_area;
}
