/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Split virtqueues as the driver has them (virtio 1.2, 2.7). Owns the fields of the split layout in
 * struct vdpa_vring. Of the ring's memory it reads the device's area alone.
 */

#include <string.h>

#include "vring_priv.h"

#define SPLIT_WORD(len, flags, next)                                                               \
	((uint64_t)(len) | (uint64_t)(flags) << 32 | (uint64_t)(next) << 48)

/* The used event follows the avail ring, the avail event the used ring. */
static uint16_t *
split_used_event(const struct vdpa_vring *r)
{
	return &r->avail->ring[r->num];
}

static uint16_t *
split_avail_event(const struct vdpa_vring *r)
{
	return (uint16_t *)(void *)&r->used->ring[r->num];
}

void
vring_split_setup(struct vdpa_vring *r, const struct vdpa_vq_state *place)
{
	const struct vdpa_ring_size size = vdpa_ring_size(false, r->num);
	const uint16_t at = place->split.avail_index;

	if (!r->foreign)
		memset(r->desc, 0, size.desc);
	memset(r->avail, 0, size.driver);
	memset(r->used, 0, size.device);
	r->avail->idx = rte_cpu_to_le_16(at);
	r->used->idx = rte_cpu_to_le_16(at);
	/* A device that was asked for kicks at this place. */
	*split_avail_event(r) = rte_cpu_to_le_16(at);
	r->at.seq = r->at.published = r->at.taken = r->at.used_seen = at;
	vring_split_ask_calls(r);
}

static inline uint16_t
split_flags(const struct vdpa_vring_seg *seg)
{
	return seg->write ? VRING_DESC_F_WRITE : 0;
}

/* The chain whose descriptors are written gets its avail entry. */
static inline uint16_t
split_offer(struct vdpa_vring *r, struct vring_progress *at, uint16_t id, uint16_t ndesc)
{
	__atomic_store_n(&r->avail->ring[at->seq & (r->num - 1)], rte_cpu_to_le_16(id),
			 __ATOMIC_RELAXED);
	vring_link(r, at, id, ndesc);
	return id;
}

static inline uint16_t
split_add(struct vdpa_vring *r, struct vring_progress *at, const struct vdpa_vring_seg *seg,
	  uint16_t flags, uint32_t room)
{
	const uint16_t id = vring_take_free(r, at, at->n_free);

	vring_desc_write(&r->desc[id], seg->iova, SPLIT_WORD(seg->len, flags, 0));
	vring_note_one(&r->chain[id], seg, room);
	return split_offer(r, at, id, 1);
}

int
vring_split_add_one(struct vdpa_vring *r, const struct vdpa_vring_seg *seg)
{
	return split_add(r, &r->at, seg, split_flags(seg), seg->write ? seg->len : 0);
}

unsigned int
vring_split_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains, unsigned int n,
		      struct vdpa_vq_taken *kept)
{
	const uint16_t *free_list = r->free_list + r->at.n_free;
	const uint32_t mask = r->num - 1;
	struct vring_two_words *desc = r->desc;
	struct vring_chain *chain = r->chain;
	uint16_t *ring = r->avail->ring;
	const uint64_t seq = r->at.seq;
	unsigned int i;

	for (i = 0; i < n && likely(vring_is_single(&chains[i])); i++) {
		const struct vdpa_vq_chain *k = &chains[i];
		const uint16_t id = *--free_list, flags = k->nin ? VRING_DESC_F_WRITE : 0;

		vring_desc_write(&desc[id], (uintptr_t)k->iov[0].iov_base,
				 SPLIT_WORD((uint32_t)k->iov[0].iov_len, flags, 0));
		__atomic_store_n(&ring[(seq + i) & mask], rte_cpu_to_le_16(id), __ATOMIC_RELAXED);
		vring_note_plain(&chain[id], k, &kept[id], seq + i);
	}
	r->at.seq = seq + i;
	r->at.n_free -= i;
	return i;
}

void
vring_split_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains, unsigned int n,
		      struct vdpa_vq_taken *kept)
{
	const uint16_t *free_list = r->free_list + r->at.n_free;
	const uint32_t mask = r->num - 1;
	struct vring_two_words *desc = r->desc;
	struct vring_chain *chain = r->chain;
	uint16_t *ring = r->avail->ring;
	const uint64_t seq = r->at.seq;

	for (unsigned int i = 0; i < n; i++) {
		const struct vdpa_vq_plain k = chains[i];
		const uint16_t id = *--free_list;

		/* WRITE is the bit above the one that says so. */
		vring_desc_write(&desc[id], k.iova,
				 k.len_write + (k.len_write & VDPA_VQ_PLAIN_WRITE));
		__atomic_store_n(&ring[(seq + i) & mask], rte_cpu_to_le_16(id), __ATOMIC_RELAXED);
		vring_note_words(&chain[id], &k, &kept[id], seq + i);
	}
	r->at.seq = seq + n;
	r->at.n_free -= n;
}

int
vring_split_add_given(struct vdpa_vring *r, const struct vdpa_vring_seg *table, uint32_t room)
{
	return split_add(r, &r->at, table, VRING_DESC_F_INDIRECT, room);
}

unsigned int
vring_split_add_heads(struct vdpa_vring *r, const uint16_t *heads, unsigned int n)
{
	const uint32_t mask = r->num - 1;
	struct vring_chain *chain = r->chain;
	const bool in_order = r->in_order;
	uint16_t *ring = r->avail->ring;
	uint64_t seq = r->at.seq;
	unsigned int i;

	for (i = 0; i < n; i++, seq++) {
		const uint32_t head = heads[i];

		if (unlikely(head > mask || chain[head].shape != VRING_ONE_OFF))
			break;
		__atomic_store_n(&ring[seq & mask], rte_cpu_to_le_16((uint16_t)head),
				 __ATOMIC_RELAXED);
		chain[head].shape = VRING_ONE;
		chain[head].seq = seq;
		if (unlikely(in_order))
			r->order[seq & r->order_mask] = (uint16_t)head;
	}
	r->at.seq = seq;
	r->at.n_free -= i;
	return i;
}

static int
split_add_table(struct vdpa_vring *r, struct vring_chain *c, uint16_t id, uint32_t n)
{
	uint64_t iova;
	struct vring_two_words *t = vring_table_of(r, c, &iova);
	const struct vdpa_vring_seg *segs = c->many.segs;

	for (uint32_t i = 0; i < n; i++) {
		const bool last = i + 1 == n;

		vring_desc_write(&t[i], segs[i].iova,
				 SPLIT_WORD(segs[i].len,
					    split_flags(&segs[i]) | (last ? 0 : VRING_DESC_F_NEXT),
					    last ? 0 : i + 1));
	}
	vring_desc_write(&r->desc[id], iova, SPLIT_WORD(n * sizeof(*t), VRING_DESC_F_INDIRECT, 0));
	return split_offer(r, &r->at, id, 1);
}

static int
split_add_descs(struct vdpa_vring *r, const struct vring_chain *c, uint16_t id, uint32_t n)
{
	const struct vdpa_vring_seg *segs = c->many.segs;
	uint32_t left = r->at.n_free - 1;
	uint16_t k = id;

	for (uint32_t i = 0; i + 1 < n; i++) {
		const uint16_t next = vring_take_free(r, &r->at, left--);

		vring_desc_write(
			&r->desc[k], segs[i].iova,
			SPLIT_WORD(segs[i].len, split_flags(&segs[i]) | VRING_DESC_F_NEXT, next));
		r->next[k] = next;
		k = next;
	}
	vring_desc_write(&r->desc[k], segs[n - 1].iova,
			 SPLIT_WORD(segs[n - 1].len, split_flags(&segs[n - 1]), 0));
	return split_offer(r, &r->at, id, (uint16_t)n);
}

int
vring_split_add_many(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, uint32_t n)
{
	struct vring_chain *c;
	uint16_t id;

	if (!r->in_order)
		id = r->free_list[r->at.n_free - 1];
	else
		id = r->at.turn;
	c = &r->chain[id];
	if (!vring_store_copy(r, c, segs, n))
		return -ENOSPC;
	(void)vring_take_free(r, &r->at, r->at.n_free);
	return c->many.table ? split_add_table(r, c, id, n) : split_add_descs(r, c, id, n);
}

void
vring_split_publish(struct vdpa_vring *r)
{
	/* Release: descriptors, tables and entries are there before the index says so. */
	__atomic_store_n(&r->avail->idx, rte_cpu_to_le_16((uint16_t)r->at.seq), __ATOMIC_RELEASE);
	r->unkicked = RTE_MIN(r->unkicked + vring_added(&r->at), VRING_UNKICKED_MAX);
}

bool
vring_split_wants_kick(struct vdpa_vring *r)
{
	const uint16_t now = (uint16_t)r->at.published;
	uint16_t event;

	if (!r->event_idx)
		return !(__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) &
			 rte_cpu_to_le_16(VRING_USED_F_NO_NOTIFY));
	if (r->unkicked > UINT16_MAX)
		return true;
	event = rte_le_to_cpu_16(__atomic_load_n(split_avail_event(r), __ATOMIC_RELAXED));
	return vring_need_event(event, now, (uint16_t)(now - r->unkicked));
}

static __rte_noinline int
split_bad_index(struct vdpa_vring *r, uint16_t idx)
{
	return vring_bad(
		r, "used index %u is %u beyond what was taken (%u), with %u chains in flight", idx,
		(uint16_t)(idx - r->at.taken), (uint16_t)r->at.taken, vring_at_device(&r->at));
}

/* How many of n entries are there, 0 to n; -EPROTO for an index that cannot be. What was seen of
 * the device's index before is enough to go on with. */
static inline int
split_used(struct vdpa_vring *r, unsigned int n)
{
	uint16_t ready = (uint16_t)(r->at.used_seen - r->at.taken), idx;

	if (ready >= n)
		return (int)n;
	/* Acquire: the entries that the index covers, and the buffers, are read after it. */
	idx = rte_le_to_cpu_16(__atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE));
	if (likely((uint16_t)(idx - r->at.taken) <= vring_at_device(&r->at))) {
		r->at.used_seen = idx;
		ready = (uint16_t)(idx - r->at.taken);
	} else if (ready == 0) {
		return split_bad_index(r, idx);
	}
	return (int)RTE_MIN((unsigned int)ready, n);
}

/* A used entry that is there: each of its words is read once. */
static inline void
split_read_entry(const struct vring_used_elem *e, uint32_t *id, uint32_t *len)
{
	*id = rte_le_to_cpu_32(__atomic_load_n(&e->id, __ATOMIC_RELAXED));
	*len = rte_le_to_cpu_32(__atomic_load_n(&e->len, __ATOMIC_RELAXED));
}

/* A chain's descriptors are ours again, in the order in which they were taken. */
static inline void
split_free(struct vdpa_vring *r, const struct vring_progress *at, uint16_t id)
{
	uint32_t top = at->n_free;
	uint16_t k = id;

	r->free_list[top++] = k;
	for (uint16_t left = r->chain[id].ndesc; unlikely(left > 1); left--) {
		k = r->next[k];
		r->free_list[top++] = k;
	}
}

/* In order: the entry stands for all chains up to its own (virtio 1.2, 2.7.9). */
static int
split_read_batch(struct vdpa_vring *r)
{
	uint32_t id, len;
	uint16_t before;
	int rc = split_used(r, 1);

	if (rc <= 0)
		return rc;
	split_read_entry(&r->used->ring[r->at.taken & (r->num - 1)], &id, &len);
	if (vring_entry_is_bad(r, id, len))
		return vring_bad_entry(r, id, len);
	before = (uint16_t)(r->chain[id].seq - r->at.taken);
	if (before >= (uint16_t)(r->at.used_seen - r->at.taken))
		return vring_bad(r, "used entry %u: id %u is out of order", (uint16_t)r->at.taken,
				 id);
	r->batch = before + 1;
	r->batch_len = len;
	return 1;
}

static __rte_noinline int
split_take_in_order(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		if (r->batch == 0) {
			int rc = split_read_batch(r);

			if (rc <= 0)
				return i > 0 ? (int)i : rc;
		}
		ids[i] = vring_take_of_batch(r, &lens[i]);
		vring_unlink(r, &r->at, ids[i]);
	}
	return (int)i;
}

/* Of a chain that is not one plain buffer: false, it is not in flight. */
static __rte_noinline bool
split_take_long(struct vdpa_vring *r, uint16_t id)
{
	if (r->chain[id].ndesc == 0)
		return false;
	split_free(r, &r->at, id);
	vring_unlink(r, &r->at, id);
	return true;
}

/* So far a burst has come: up to that position, with the descriptors below `top` free. */
static inline void
split_taken(struct vdpa_vring *r, uint32_t pos, const uint16_t *top)
{
	r->at.taken += (uint32_t)(pos - (uint32_t)r->at.taken);
	r->at.n_free = (uint32_t)(top - r->free_list);
}

/* Of another's descriptors: each chain counts as one, of which no length is known. */
static __rte_noinline int
split_take_heads(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	const struct vring_used_elem *ring = r->used->ring;
	const uint32_t mask = r->num - 1, pos = (uint32_t)r->at.taken;
	const uint64_t published = r->at.published;
	struct vring_chain *chain = r->chain;
	const int ready = split_used(r, n);
	uint32_t id = 0, len = 0;
	int i;

	for (i = 0; i < ready; i++) {
		split_read_entry(&ring[(pos + (uint32_t)i) & mask], &id, &len);
		if (unlikely(id > mask || chain[id].shape != VRING_ONE ||
			     chain[id].seq >= published))
			break;
		chain[id].shape = VRING_ONE_OFF;
		ids[i] = (uint16_t)id;
		lens[i] = len;
	}
	if (unlikely(ready <= 0))
		return ready;
	r->at.taken += (uint32_t)i;
	r->at.n_free += (uint32_t)i;
	if (unlikely(i < ready)) {
		int rc = vring_bad_entry(r, id, len);

		return i > 0 ? i : rc;
	}
	return i;
}

int
vring_split_take(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	const struct vring_used_elem *ring = r->used->ring;
	const uint64_t published = r->at.published;
	const uint32_t mask = r->num - 1;
	struct vring_chain *c, *chain = r->chain;
	uint16_t *free_list;
	uint32_t pos, id = 0, len = 0;
	int ready, i;

	if (unlikely(r->in_order))
		return split_take_in_order(r, ids, lens, n);
	if (r->foreign)
		return split_take_heads(r, ids, lens, n);
	ready = split_used(r, n);
	if (ready <= 0)
		return ready;
	pos = (uint32_t)r->at.taken;
	free_list = r->free_list + r->at.n_free;
	for (i = 0; i < ready; i++, pos++) {
		split_read_entry(&ring[pos & mask], &id, &len);
		/* As vring_entry_is_bad(), and at once whether there is more to do. */
		if (unlikely(id > mask))
			break;
		c = &chain[id];
		if (unlikely(len > c->room || c->seq >= published))
			break;
		ids[i] = (uint16_t)id;
		lens[i] = len;
		if (likely(c->shape == VRING_ONE)) {
			c->shape = VRING_ONE_OFF;
			*free_list++ = (uint16_t)id;
			continue;
		}
		split_taken(r, pos, free_list);
		if (unlikely(!split_take_long(r, (uint16_t)id)))
			break;
		free_list = r->free_list + r->at.n_free;
	}
	split_taken(r, pos, free_list);
	/* What was used before it is handed over all the same. */
	if (unlikely(i < ready)) {
		int rc = vring_bad_entry(r, id, len);

		return i > 0 ? i : rc;
	}
	return i;
}

bool
vring_split_has_used(const struct vdpa_vring *r)
{
	return r->at.used_seen != (uint16_t)r->at.taken ||
	       rte_le_to_cpu_16(__atomic_load_n(&r->used->idx, __ATOMIC_RELAXED)) !=
		       (uint16_t)r->at.taken;
}

void
vring_split_ask_calls(struct vdpa_vring *r)
{
	if (r->event_idx)
		__atomic_store_n(split_used_event(r), rte_cpu_to_le_16((uint16_t)r->at.taken),
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n(&r->avail->flags, 0, __ATOMIC_RELAXED);
}

void
vring_split_disable_calls(struct vdpa_vring *r)
{
	/* With an event index: the place that was passed last, a whole turn away. */
	if (r->event_idx)
		__atomic_store_n(split_used_event(r), rte_cpu_to_le_16((uint16_t)(r->at.taken - 1)),
				 __ATOMIC_RELAXED);
	else
		__atomic_store_n(&r->avail->flags, rte_cpu_to_le_16(VRING_AVAIL_F_NO_INTERRUPT),
				 __ATOMIC_RELAXED);
}
