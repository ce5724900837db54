/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vring_priv.h
 * Internal: the driver's side of a virtqueue itself, and what vring.c, vring_split.c,
 * vring_packed.c and vring_store.c share.
 *
 * Ring memory and indirect tables are written and, but for the words that a device writes, never
 * read: what decides lies in struct vdpa_vring and its arrays.
 */

#ifndef VRING_PRIV_H
#define VRING_PRIV_H

#include <errno.h>
#include <linux/virtio_ring.h>

#include <rte_branch_prediction.h>
#include <rte_byteorder.h>
#include <rte_common.h>

#include "vdpa_vring.h"

/* So much always means a kick. */
#define VRING_UNKICKED_MAX (UINT16_MAX + 1u)

/* log2 of VDPA_VQ_NUM_MAX: classes of copies. */
#define VRING_CLASSES 16
/* Entries of the smallest table: a cache line. */
#define VRING_BLOCK   4
#define VRING_ORDERS  30

/**
 * A descriptor of either layout as two words: addr, and
 * split: len (bits 0 to 31), flags (32 to 47), next (48 to 63);
 * packed: len (bits 0 to 31), id (32 to 47), flags (48 to 63).
 */
struct vring_two_words {
	uint64_t addr;
	uint64_t word;
};
_Static_assert(sizeof(struct vring_two_words) == 16, "virtio 1.2, 2.7.5 and 2.8.13");

/** A chain in flight, by its id. */
struct vring_chain {
	union {
		struct vdpa_vring_seg one; /* n == 1 */
		struct {
			uint64_t iova_;
			uint64_t len_write; /* of one: both at once, little-endian */
		};
		struct {
			struct vdpa_vring_seg *segs;
			uint32_t at;	/* of the table: its first block; of the class: its item */
			bool table;	/* it lies in a table */
			uint8_t class_; /* without one: the class of the copy */
		} many;
	};
	uint64_t seq;  /* number of the add; split: the low half is its avail position */
	uint32_t room; /* bytes that the device may write */
	union {
		struct {
			uint16_t n;	/* buffers; kept after it was taken */
			uint16_t ndesc; /* ring descriptors; 0: not in flight */
		};
		uint32_t shape; /* both at once */
	};
};
_Static_assert(sizeof(struct vring_chain) == 32, "two a cache line");

/** Of a chain of one buffer in one descriptor, which almost all are: in flight, and not. */
#if RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN
#define VRING_ONE     0x10001u
#define VRING_ONE_OFF 0x00001u
#else
#define VRING_ONE     0x10001u
#define VRING_ONE_OFF 0x10000u
#endif

/** Copies of chains that take ring descriptors, of up to 2^class buffers each. */
struct vring_class {
	struct vdpa_vring_seg *segs;
	uint16_t *free_list; /* items that were given back, a stack */
	uint16_t n_free;
	uint16_t n_fresh; /* items from here on were never taken */
};

/** A free block of tables, by the number of its first VRING_BLOCK entries. */
struct vring_block {
	uint32_t prev, next;
};

/** The memory for indirect tables: blocks of VRING_BLOCK << order entries, each at a multiple of
 * its size; two free halves become one again. */
struct vring_tables {
	struct vring_two_words *mem;
	uint64_t iova;
	struct vdpa_vring_seg *segs; /* copies, entry by entry */
	uint32_t n_blocks;
	uint32_t max;	 /* entries of the largest block when all are free */
	uint32_t orders; /* bit: a block of that order is free */
	uint32_t head[VRING_ORDERS];
	struct vring_block *block;
	uint8_t *state; /* of a block's first: order, and whether it is free */
};

/**
 * How far a vring is. A burst has a copy of it, which the compiler keeps in registers: no store to
 * the ring's memory can change that.
 */
struct vring_progress {
	/*
	 * Chains since the start, free-running: seq - taken are in flight, and seq - published of
	 * these are not with the device. Of a split ring the low halves are its indexes.
	 */
	uint64_t seq, published, taken;
	uint64_t held_word;   /* packed: the second word of the first of what is added */
	uint32_t n_free;      /* ring descriptors */
	uint32_t added_slots; /* packed: descriptors of what is added */
	uint16_t avail_pos;   /* packed: of the next add */
	uint16_t used_pos;    /* packed: of the next take */
	uint16_t used_seen;   /* split: the device's index as last read */
	uint16_t turn;	      /* in order: the next descriptor (split) or id (packed) */
	uint16_t held_pos;    /* packed: of the first of what is added */
	uint16_t used_want;   /* packed: flag bits of a used descriptor at used_pos */
	bool avail_wrap;      /* packed */
};

struct vdpa_vring {
	/* Read by every burst. */
	bool ready; /* set up and not broken */
	bool packed;
	bool event_idx;
	bool in_order;
	bool foreign; /* split: the descriptors are another's */
	bool calls_off;
	uint32_t num;
	struct vring_chain *chain;
	struct vring_two_words *desc;
	union {
		struct vring_avail *avail; /* split */
		uint32_t *driver_event;	   /* packed: off_wrap, flags << 16 */
	};
	union {
		struct vring_used *used;
		uint32_t *device_event;
	};
	/* A stack of num: free descriptors (split) or ids (packed); not in order. */
	uint16_t *free_list;
	uint16_t *next; /* split: the descriptor after it in its chain */
	/* In order, where what is in flight was added in a row: the ids, by the number of the add.
	 */
	uint16_t *order;
	uint32_t order_mask;

	/* Written by every burst. */
	struct vring_progress at;
	uint32_t unkicked;  /* split: chains, packed: descriptors published since the last ask */
	uint32_t batch_len; /* of the last of the batch */
	uint16_t batch;	    /* in order: chains that the last entry stands for and are not taken */

	/* Seldom. */
	bool indirect;
	struct vring_tables tables;
	struct vring_class class_[VRING_CLASSES];
	char error[160];
} __rte_cache_aligned;

/** Chains that were added and not taken; not published; published and not taken. */
static inline uint32_t
vring_in_flight(const struct vring_progress *at)
{
	return (uint32_t)(at->seq - at->taken);
}

static inline uint32_t
vring_added(const struct vring_progress *at)
{
	return (uint32_t)(at->seq - at->published);
}

static inline uint32_t
vring_at_device(const struct vring_progress *at)
{
	return (uint32_t)(at->published - at->taken);
}

/** Break it. Returns -EPROTO. */
int vring_bad(struct vdpa_vring *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** The cause for which vring_entry_is_bad(). Returns -EPROTO. */
int vring_bad_entry(struct vdpa_vring *r, uint32_t id, uint32_t len);

/** Whether a used entry says what it may not: an id that is none of a published chain in flight,
 * or more bytes than that has room for. */
static inline bool
vring_entry_is_bad(const struct vdpa_vring *r, uint32_t id, uint32_t len)
{
	const struct vring_chain *c = &r->chain[id];

	return unlikely(id >= r->num || c->ndesc == 0 || len > c->room ||
			c->seq >= r->at.published);
}

static inline void
vring_desc_write(struct vring_two_words *d, uint64_t addr, uint64_t word)
{
	__atomic_store_n(&d->addr, rte_cpu_to_le_64(addr), __ATOMIC_RELAXED);
	__atomic_store_n(&d->word, rte_cpu_to_le_64(word), __ATOMIC_RELAXED);
}

/** A free descriptor (split) or id (packed); there is one. `left` is how many. */
static inline uint16_t
vring_take_free(const struct vdpa_vring *r, struct vring_progress *at, uint32_t left)
{
	uint16_t k = at->turn;

	if (likely(!r->in_order))
		return r->free_list[left - 1];
	at->turn = (uint16_t)(k + 1u == r->num ? 0 : k + 1u);
	return k;
}

/** Field by field: a caller has just written them so, and what was stored in pieces is not
 * forwarded to a load of all. */
static inline void
vring_copy_seg(struct vdpa_vring_seg *to, const struct vdpa_vring_seg *seg)
{
	to->iova = seg->iova;
	to->len = seg->len;
	to->write = seg->write;
}

/** Whether a chain has one buffer. */
static inline bool
vring_is_single(const struct vdpa_vq_chain *chain)
{
	return chain->nout + chain->nin == 1;
}

/** Note a chain of one buffer in flight, as vring_note_one() and vring_link(), not in order; and
 * what is kept of it. */
static inline void
vring_note_plain(struct vring_chain *c, const struct vdpa_vq_chain *chain,
		 struct vdpa_vq_taken *kept, uint64_t seq)
{
	c->one.iova = (uintptr_t)chain->iov[0].iov_base;
	c->one.len = (uint32_t)chain->iov[0].iov_len;
	c->one.write = chain->nin != 0;
	c->room = chain->in_len;
	c->shape = VRING_ONE;
	c->seq = seq;
	/* Not the struct: what was stored in pieces is not forwarded to a load of all. */
	kept->word = chain->taken.word;
	kept->entry = chain->taken.entry;
}

/** The same as vring_note_plain() of what vdpa_vq_pop_plain() gives. */
static inline void
vring_note_words(struct vring_chain *c, const struct vdpa_vq_plain *k, struct vdpa_vq_taken *kept,
		 uint64_t seq)
{
	c->one.iova = k->iova;
#if RTE_BYTE_ORDER == RTE_LITTLE_ENDIAN
	c->len_write = k->len_write;
#else
	c->one.len = (uint32_t)k->len_write;
	c->one.write = k->len_write >> 32;
#endif
	/* Its length where the device writes it, else nothing. */
	c->room = (uint32_t)k->len_write & -(uint32_t)(k->len_write >> 32);
	c->shape = VRING_ONE;
	c->seq = seq;
	kept->word = k->taken;
}

/** Note a chain of one buffer. */
static inline void
vring_note_one(struct vring_chain *c, const struct vdpa_vring_seg *seg, uint32_t room)
{
	vring_copy_seg(&c->one, seg);
	c->room = room;
	c->n = 1;
}

/** The chain is in flight, as the youngest. */
static inline void
vring_link(struct vdpa_vring *r, struct vring_progress *at, uint16_t id, uint16_t ndesc)
{
	struct vring_chain *c = &r->chain[id];

	c->ndesc = ndesc;
	c->seq = at->seq;
	if (unlikely(r->in_order))
		r->order[at->seq & r->order_mask] = id;
	at->seq++;
	at->n_free -= ndesc;
}

/* vring_store.c */

int vring_store_init(struct vdpa_vring *r, const struct vdpa_vring_params *params);
void vring_store_fini(struct vdpa_vring *r);
/**
 * Copy a chain of several buffers: into a table's place when there is one of n entries, else beside
 * n ring descriptors. false: there are not so many free.
 */
bool vring_store_copy(struct vdpa_vring *r, struct vring_chain *c,
		      const struct vdpa_vring_seg *segs, uint32_t n);
/** The entries of its table, and where the device finds them. */
struct vring_two_words *vring_table_of(const struct vdpa_vring *r, const struct vring_chain *c,
				       uint64_t *iova);
/** The table and the copy are free again; what is in them stays until the next add. */
void vring_store_give(struct vdpa_vring *r, struct vring_chain *c);

/** In order: the oldest chain in flight. */
static inline uint16_t
vring_first(const struct vdpa_vring *r)
{
	return r->order[r->at.taken & r->order_mask];
}

/** In order: the next chain of a batch. */
static inline uint16_t
vring_take_of_batch(struct vdpa_vring *r, uint32_t *len)
{
	const uint16_t id = vring_first(r);

	/* Of those before the last the device says no length: their buffers are full. */
	*len = --r->batch == 0 ? r->batch_len : r->chain[id].room;
	return id;
}

/** The chain is not in flight any more. Its ring descriptors are the caller's to free. */
static inline void
vring_unlink(struct vdpa_vring *r, struct vring_progress *at, uint16_t id)
{
	struct vring_chain *c = &r->chain[id];

	at->n_free += c->ndesc;
	at->taken++;
	c->ndesc = 0;
	if (unlikely(c->n > 1))
		vring_store_give(r, c);
}

/* vring_split.c and vring_packed.c; r->ready. A descriptor is free for an
 * add; add_given: by the caller's table. */

void vring_split_setup(struct vdpa_vring *r, const struct vdpa_vq_state *place);
int vring_split_add_one(struct vdpa_vring *r, const struct vdpa_vring_seg *seg);
unsigned int vring_split_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains,
				   unsigned int n, struct vdpa_vq_taken *kept);
void vring_split_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains, unsigned int n,
			   struct vdpa_vq_taken *kept);
int vring_split_add_given(struct vdpa_vring *r, const struct vdpa_vring_seg *table, uint32_t room);
int vring_split_add_many(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, uint32_t n);
unsigned int vring_split_add_heads(struct vdpa_vring *r, const uint16_t *heads, unsigned int n);
void vring_split_publish(struct vdpa_vring *r);
bool vring_split_wants_kick(struct vdpa_vring *r);
/** Up to n chains, which is not 0. How many; 0; -EPROTO, at the first. */
int vring_split_take(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n);
bool vring_split_has_used(const struct vdpa_vring *r);
void vring_split_ask_calls(struct vdpa_vring *r);
void vring_split_disable_calls(struct vdpa_vring *r);

void vring_packed_setup(struct vdpa_vring *r, const struct vdpa_vq_state *place);
int vring_packed_add_one(struct vdpa_vring *r, const struct vdpa_vring_seg *seg);
unsigned int vring_packed_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains,
				    unsigned int n, struct vdpa_vq_taken *kept);
/** Up to the ring's end. How many. */
unsigned int vring_packed_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains,
				    unsigned int n, struct vdpa_vq_taken *kept);
int vring_packed_add_given(struct vdpa_vring *r, const struct vdpa_vring_seg *table, uint32_t room);
int vring_packed_add_many(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, uint32_t n);
void vring_packed_publish(struct vdpa_vring *r);
bool vring_packed_wants_kick(struct vdpa_vring *r);
uint16_t vring_packed_next(const struct vdpa_vring *r);
int vring_packed_take(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n);
bool vring_packed_has_used(const struct vdpa_vring *r);
void vring_packed_ask_calls(struct vdpa_vring *r);
void vring_packed_disable_calls(struct vdpa_vring *r);

#endif /* VRING_PRIV_H */
