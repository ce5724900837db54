/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Packed virtqueues as the driver has them (virtio 1.2, 2.8). Owns the fields of the packed layout
 * in struct vdpa_vring.
 *
 * Descriptors are written when they are added, except that the second word of the first is held
 * back until it is published: a device looks at them in ring order, so it sees all or none.
 */

#include <string.h>

#include <rte_atomic.h>

#include "vring_priv.h"

#define PACKED_WORD(len, id, flags)                                                                \
	((uint64_t)(len) | (uint64_t)(id) << 32 | (uint64_t)(flags) << 48)
#define PACKED_LEN(word)   ((uint32_t)(word))
#define PACKED_ID(word)	   ((uint16_t)((word) >> 32))
#define PACKED_FLAGS(word) ((uint16_t)((word) >> 48))

#define PACKED_F_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_F_USED  (1u << VRING_PACKED_DESC_F_USED)
#define PACKED_F_BOTH  (PACKED_F_AVAIL | PACKED_F_USED)

void
vring_packed_setup(struct vdpa_vring *r, const struct vdpa_vq_state *place)
{
	const uint16_t at = place->packed.last_avail_idx;
	const bool wrap = place->packed.last_avail_counter;

	/* As two laps have left it: this one's up to the place, the former one's behind. */
	for (uint32_t i = 0; i < r->num; i++)
		vring_desc_write(&r->desc[i], 0,
				 PACKED_WORD(0, 0, (i < at) == wrap ? PACKED_F_BOTH : 0));
	*r->device_event = rte_cpu_to_le_32((uint32_t)VRING_PACKED_EVENT_FLAG_ENABLE << 16);
	r->at.avail_pos = r->at.used_pos = at;
	r->at.avail_wrap = wrap;
	r->at.used_want = wrap ? PACKED_F_BOTH : 0;
	vring_packed_ask_calls(r);
}

static inline uint16_t
packed_flags(const struct vring_progress *at, bool write)
{
	return (write ? VRING_DESC_F_WRITE : 0) | (at->avail_wrap ? PACKED_F_AVAIL : PACKED_F_USED);
}

/* The descriptor at avail_pos. */
static inline void
packed_write(struct vdpa_vring *r, struct vring_progress *at, uint64_t addr, uint64_t word,
	     bool head)
{
	struct vring_two_words *d = &r->desc[at->avail_pos];

	__atomic_store_n(&d->addr, rte_cpu_to_le_64(addr), __ATOMIC_RELAXED);
	if (head && vring_added(at) == 0) {
		at->held_pos = at->avail_pos;
		at->held_word = word;
	} else {
		__atomic_store_n(&d->word, rte_cpu_to_le_64(word), __ATOMIC_RELAXED);
	}
	if (unlikely(++at->avail_pos == r->num)) {
		at->avail_pos = 0;
		at->avail_wrap = !at->avail_wrap;
	}
}

static inline uint16_t
packed_offer(struct vdpa_vring *r, struct vring_progress *at, uint16_t id, uint16_t ndesc)
{
	vring_link(r, at, id, ndesc);
	at->added_slots += ndesc;
	return id;
}

static inline uint16_t
packed_add(struct vdpa_vring *r, struct vring_progress *at, const struct vdpa_vring_seg *seg,
	   uint16_t more, uint32_t room)
{
	const uint16_t id = vring_take_free(r, at, r->num - vring_in_flight(at));
	const uint16_t flags = packed_flags(at, seg->write) | more;

	packed_write(r, at, seg->iova, PACKED_WORD(seg->len, id, flags), true);
	vring_note_one(&r->chain[id], seg, room);
	return packed_offer(r, at, id, 1);
}

int
vring_packed_add_one(struct vdpa_vring *r, const struct vdpa_vring_seg *seg)
{
	return packed_add(r, &r->at, seg, 0, seg->write ? seg->len : 0);
}

unsigned int
vring_packed_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains, unsigned int n,
		       struct vdpa_vq_taken *kept)
{
	struct vring_progress *at = &r->at;
	const uint16_t *free_list = r->free_list + (r->num - vring_in_flight(at));
	const uint64_t wrap = (uint64_t)(at->avail_wrap ? PACKED_F_AVAIL : PACKED_F_USED) << 48;
	const bool first = vring_added(at) == 0;
	struct vring_two_words *desc = &r->desc[at->avail_pos];
	struct vring_chain *chain = r->chain;
	unsigned int i;

	/* Up to the ring's end: what is behind it has another wrap counter. */
	n = RTE_MIN(n, r->num - at->avail_pos);
	for (i = 0; i < n && likely(vring_is_single(&chains[i])); i++) {
		const struct vdpa_vq_chain *k = &chains[i];
		const uint16_t id = *--free_list, flags = k->nin ? VRING_DESC_F_WRITE : 0;
		const uint64_t word = wrap | PACKED_WORD((uint32_t)k->iov[0].iov_len, id, flags);

		if (unlikely(i == 0 && first)) {
			__atomic_store_n(&desc->addr,
					 rte_cpu_to_le_64((uintptr_t)k->iov[0].iov_base),
					 __ATOMIC_RELAXED);
			at->held_pos = at->avail_pos;
			at->held_word = word;
		} else {
			vring_desc_write(&desc[i], (uintptr_t)k->iov[0].iov_base, word);
		}
		vring_note_plain(&chain[id], k, &kept[id], at->seq + i);
	}
	at->seq += i;
	at->n_free -= i;
	at->added_slots += i;
	at->avail_pos += (uint16_t)i;
	if (unlikely(at->avail_pos == r->num)) {
		at->avail_pos = 0;
		at->avail_wrap = !at->avail_wrap;
	}
	return i;
}

unsigned int
vring_packed_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains, unsigned int n,
		       struct vdpa_vq_taken *kept)
{
	struct vring_progress *at = &r->at;
	const uint16_t *free_list = r->free_list + (r->num - vring_in_flight(at));
	const uint64_t wrap = (uint64_t)(at->avail_wrap ? PACKED_F_AVAIL : PACKED_F_USED) << 48;
	struct vring_two_words *desc = &r->desc[at->avail_pos];
	const bool first = vring_added(at) == 0;
	struct vring_chain *chain = r->chain;
	const uint64_t seq = at->seq;

	n = RTE_MIN(n, r->num - at->avail_pos);
	for (unsigned int i = 0; i < n; i++) {
		const struct vdpa_vq_plain k = chains[i];
		const uint16_t id = *--free_list;
		/* The bit that says so is shifted to WRITE. */
		const uint64_t word = wrap | (uint32_t)k.len_write | (uint64_t)id << 32 |
				      (k.len_write & VDPA_VQ_PLAIN_WRITE) << 17;

		if (unlikely(i == 0 && first)) {
			__atomic_store_n(&desc->addr, rte_cpu_to_le_64(k.iova), __ATOMIC_RELAXED);
			at->held_pos = at->avail_pos;
			at->held_word = word;
		} else {
			vring_desc_write(&desc[i], k.iova, word);
		}
		vring_note_words(&chain[id], &k, &kept[id], seq + i);
	}
	at->seq = seq + n;
	at->n_free -= n;
	at->added_slots += n;
	at->avail_pos += (uint16_t)n;
	if (unlikely(at->avail_pos == r->num)) {
		at->avail_pos = 0;
		at->avail_wrap = !at->avail_wrap;
	}
	return n;
}

int
vring_packed_add_given(struct vdpa_vring *r, const struct vdpa_vring_seg *table, uint32_t room)
{
	return packed_add(r, &r->at, table, VRING_DESC_F_INDIRECT, room);
}

static int
packed_add_table(struct vdpa_vring *r, const struct vring_chain *c, uint16_t id, uint32_t n)
{
	const struct vdpa_vring_seg *segs = c->many.segs;
	const uint16_t flags = packed_flags(&r->at, false) | VRING_DESC_F_INDIRECT;
	uint64_t iova;
	struct vring_two_words *t = vring_table_of(r, c, &iova);

	/* All entries in turn; of their flags WRITE alone has a meaning (virtio 1.2, 2.8.7). */
	for (uint32_t i = 0; i < n; i++)
		vring_desc_write(
			&t[i], segs[i].iova,
			PACKED_WORD(segs[i].len, 0, segs[i].write ? VRING_DESC_F_WRITE : 0));
	packed_write(r, &r->at, iova, PACKED_WORD(n * sizeof(*t), id, flags), true);
	return packed_offer(r, &r->at, id, 1);
}

static int
packed_add_descs(struct vdpa_vring *r, const struct vring_chain *c, uint16_t id, uint32_t n)
{
	const struct vdpa_vring_seg *segs = c->many.segs;

	for (uint32_t i = 0; i < n; i++)
		packed_write(r, &r->at, segs[i].iova,
			     PACKED_WORD(segs[i].len, id,
					 packed_flags(&r->at, segs[i].write) |
						 (i + 1 < n ? VRING_DESC_F_NEXT : 0)),
			     i == 0);
	return packed_offer(r, &r->at, id, (uint16_t)n);
}

int
vring_packed_add_many(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, uint32_t n)
{
	const uint32_t left = r->num - vring_in_flight(&r->at);
	const uint16_t id = r->in_order ? r->at.turn : r->free_list[left - 1];
	struct vring_chain *c = &r->chain[id];

	if (!vring_store_copy(r, c, segs, n))
		return -ENOSPC;
	(void)vring_take_free(r, &r->at, left);
	return c->many.table ? packed_add_table(r, c, id, n) : packed_add_descs(r, c, id, n);
}

void
vring_packed_publish(struct vdpa_vring *r)
{
	/* Release: the rest of the batch is there before its first descriptor. */
	__atomic_store_n(&r->desc[r->at.held_pos].word, rte_cpu_to_le_64(r->at.held_word),
			 __ATOMIC_RELEASE);
	r->unkicked = RTE_MIN(r->unkicked + r->at.added_slots, VRING_UNKICKED_MAX);
	r->at.added_slots = 0;
}

bool
vring_packed_wants_kick(struct vdpa_vring *r)
{
	const uint32_t event = rte_le_to_cpu_32(__atomic_load_n(r->device_event, __ATOMIC_RELAXED));
	const uint16_t flags = (event >> 16) & 3;
	int off = event & 0x7fff, end = r->at.avail_pos;

	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !r->event_idx)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (r->unkicked >= r->num)
		return true;
	/* Position on the line that ends at avail_pos, the turn before being negative. */
	if (((event >> VRING_PACKED_EVENT_F_WRAP_CTR) & 1) != r->at.avail_wrap)
		off -= (int)r->num;
	end -= (int)r->at.added_slots;
	return off < end && off >= end - (int)r->unkicked;
}

uint16_t
vring_packed_next(const struct vdpa_vring *r)
{
	const struct vring_progress *at = &r->at;
	const bool held = vring_added(at) > 0;
	const bool wrap =
		held ? at->held_word >> (48 + VRING_PACKED_DESC_F_AVAIL) & 1 : at->avail_wrap;

	return (uint16_t)((held ? at->held_pos : at->avail_pos) |
			  wrap << VRING_PACKED_EVENT_F_WRAP_CTR);
}

/* The next used descriptor is behind the chain's. */
static inline void
packed_pass(struct vdpa_vring *r, struct vring_progress *at, uint16_t id)
{
	const uint32_t ndesc = r->chain[id].ndesc;
	uint32_t pos = at->used_pos + 1u;

	/* A branch, so that the next descriptor's place is guessed and not waited for. */
	if (unlikely(ndesc != 1)) {
		rte_compiler_barrier();
		pos += ndesc - 1;
	}
	if (unlikely(pos >= r->num)) {
		pos -= r->num;
		at->used_want ^= PACKED_F_BOTH;
	}
	at->used_pos = (uint16_t)pos;
	vring_unlink(r, at, id);
}

static __rte_noinline int
packed_bad(struct vdpa_vring *r, uint64_t word)
{
	if (vring_at_device(&r->at) == 0)
		return vring_bad(r, "used descriptor at %u with no chain in flight",
				 r->at.used_pos);
	return vring_bad_entry(r, PACKED_ID(word), PACKED_LEN(word));
}

/* Whether the next one is used. */
static inline bool
packed_read(const struct vdpa_vring *r, const struct vring_progress *at, uint64_t *word)
{
	/* Acquire: the buffers are read after the flags. */
	*word = rte_le_to_cpu_64(__atomic_load_n(&r->desc[at->used_pos].word, __ATOMIC_ACQUIRE));
	return (PACKED_FLAGS(*word) & PACKED_F_BOTH) == at->used_want;
}

/* In order: the descriptor stands for all chains up to its own (virtio 1.2, 2.8.12). */
static __rte_noinline int
packed_take_in_order(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	unsigned int i;

	for (i = 0; i < n; i++) {
		uint64_t word;

		if (r->batch == 0) {
			if (!packed_read(r, &r->at, &word))
				break;
			if (vring_entry_is_bad(r, PACKED_ID(word), PACKED_LEN(word))) {
				int rc = packed_bad(r, word);

				return i > 0 ? (int)i : rc;
			}
			r->batch = (uint16_t)(r->chain[PACKED_ID(word)].seq - r->at.taken) + 1;
			r->batch_len = PACKED_LEN(word);
		}
		ids[i] = vring_take_of_batch(r, &lens[i]);
		packed_pass(r, &r->at, ids[i]);
	}
	return (int)i;
}

/* Used chains of one buffer, up to the first that is none or may not be, which is read again, or to
 * the ring's end. How many. Not inline: the registers are its own. */
static __rte_noinline unsigned int
packed_take_plain(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	const struct vring_two_words *desc = &r->desc[r->at.used_pos];
	const uint64_t published = r->at.published;
	const uint16_t want = r->at.used_want;
	const uint32_t num = r->num;
	uint16_t *top = r->free_list + (num - vring_in_flight(&r->at));
	struct vring_chain *chain = r->chain;
	unsigned int i;

	n = RTE_MIN(n, num - r->at.used_pos);
	for (i = 0; i < n; i++) {
		/* Acquire: the buffers are read after the flags. */
		const uint64_t word =
			rte_le_to_cpu_64(__atomic_load_n(&desc[i].word, __ATOMIC_ACQUIRE));
		const uint16_t id = PACKED_ID(word);
		struct vring_chain *c = &chain[id];

		if ((PACKED_FLAGS(word) & PACKED_F_BOTH) != want)
			break;
		if (unlikely(id >= num || c->shape != VRING_ONE || PACKED_LEN(word) > c->room ||
			     c->seq >= published))
			break;
		c->shape = VRING_ONE_OFF;
		ids[i] = id;
		lens[i] = PACKED_LEN(word);
		top[i] = id;
	}
	r->at.taken += i;
	r->at.n_free += i;
	r->at.used_pos += (uint16_t)i;
	if (unlikely(r->at.used_pos == num)) {
		r->at.used_pos = 0;
		r->at.used_want ^= PACKED_F_BOTH;
	}
	return i;
}

int
vring_packed_take(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	unsigned int i;

	if (unlikely(r->in_order))
		return packed_take_in_order(r, ids, lens, n);
	for (i = packed_take_plain(r, ids, lens, n); i < n; i++) {
		uint64_t word;

		if (!packed_read(r, &r->at, &word))
			break;
		/* What was used before it is handed over all the same. */
		if (vring_entry_is_bad(r, PACKED_ID(word), PACKED_LEN(word))) {
			int rc = packed_bad(r, word);

			return i > 0 ? (int)i : rc;
		}
		ids[i] = PACKED_ID(word);
		lens[i] = PACKED_LEN(word);
		r->free_list[r->num - vring_in_flight(&r->at)] = PACKED_ID(word);
		packed_pass(r, &r->at, PACKED_ID(word));
	}
	return (int)i;
}

bool
vring_packed_has_used(const struct vdpa_vring *r)
{
	const uint64_t word =
		rte_le_to_cpu_64(__atomic_load_n(&r->desc[r->at.used_pos].word, __ATOMIC_RELAXED));

	return (PACKED_FLAGS(word) & PACKED_F_BOTH) == r->at.used_want;
}

static void
packed_set_event(struct vdpa_vring *r, uint16_t off_wrap, uint16_t flags)
{
	__atomic_store_n(r->driver_event, rte_cpu_to_le_32((uint32_t)flags << 16 | off_wrap),
			 __ATOMIC_RELAXED);
}

void
vring_packed_ask_calls(struct vdpa_vring *r)
{
	if (r->event_idx)
		packed_set_event(r,
				 (uint16_t)(r->at.used_pos | (r->at.used_want !=
							      0) << VRING_PACKED_EVENT_F_WRAP_CTR),
				 VRING_PACKED_EVENT_FLAG_DESC);
	else
		packed_set_event(r, 0, VRING_PACKED_EVENT_FLAG_ENABLE);
}

void
vring_packed_disable_calls(struct vdpa_vring *r)
{
	packed_set_event(r, 0, VRING_PACKED_EVENT_FLAG_DISABLE);
}
