/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Packed virtqueues as a device has them (virtio 1.2, 2.8). Owns the fields of the packed layout in
 * struct vdpa_virtqueue.
 *
 * Used descriptors are written when they are pushed, except that the first of a batch is held back
 * until the flush: a driver looks at the descriptors in ring order, so it sees all or none.
 */

#include <rte_atomic.h>
#include <rte_prefetch.h>

#include "virtqueue_priv.h"

#define PACKED_LEN(word)   ((uint32_t)(word))
#define PACKED_ID(word)	   ((uint16_t)((word) >> 32))
#define PACKED_FLAGS(word) ((uint16_t)((word) >> 48))

#define PACKED_F_AVAIL (1u << VRING_PACKED_DESC_F_AVAIL)
#define PACKED_F_USED  (1u << VRING_PACKED_DESC_F_USED)

int
vdpa_vq_packed_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb)
{
	struct vdpa_ring_size size = vdpa_ring_size(true, vq->num);

	vq->desc = vdpa_iotlb_range(tlb, vq->desc_iova, size.desc);
	if (vq->desc == NULL)
		return vdpa_vq_bad(vq, EFAULT, "descriptor ring outside memory");
	vq->driver_event = vdpa_iotlb_range(tlb, vq->driver_iova, size.driver);
	if (vq->driver_event == NULL)
		return vdpa_vq_bad(vq, EFAULT, "driver event structure outside memory");
	vq->device_event = vdpa_iotlb_range(tlb, vq->device_iova, size.device);
	if (vq->device_event == NULL)
		return vdpa_vq_bad(vq, EFAULT, "device event structure outside memory");
	return 0;
}

void
vdpa_vq_packed_set_avail(struct vdpa_virtqueue *vq, uint16_t pos, bool wrap)
{
	vq->last_avail = pos;
	vq->avail_wrap = wrap;
	vq->avail_want = wrap ? PACKED_F_AVAIL : PACKED_F_USED;
}

int
vdpa_vq_packed_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_state *state)
{
	const uint16_t avail = state->packed.last_avail_idx, used = state->packed.last_used_idx;
	const uint8_t avail_wrap = state->packed.last_avail_counter;
	const uint8_t used_wrap = state->packed.last_used_counter;

	if (avail >= vq->num || used >= vq->num || avail_wrap > 1 || used_wrap > 1)
		return vdpa_vq_bad(vq, EINVAL, "state outside the virtqueue");
	/* The used position follows the available one, by one turn at most. */
	if (avail_wrap == used_wrap ? avail < used : avail > used)
		return vdpa_vq_bad(vq, EINVAL, "used index of the state ahead of its avail index");
	vdpa_vq_packed_set_avail(vq, avail, avail_wrap);
	vq->last_used = used;
	vq->used_wrap = used_wrap;
	return 0;
}

/* Ring slots that the driver may have filled: those not outstanding. */
static inline uint32_t
packed_room(const struct vdpa_virtqueue *vq)
{
	return vq->avail_wrap == vq->used_wrap
		       ? vq->num - (uint32_t)(vq->last_avail - vq->last_used)
		       : (uint32_t)(vq->last_used - vq->last_avail);
}

int
vdpa_vq_packed_add(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, struct vdpa_vq_desc d)
{
	uint16_t flags = PACKED_FLAGS(d.word);

	if (!(flags & VRING_DESC_F_INDIRECT))
		return vdpa_vq_parts_add(vq, p, d.addr, PACKED_LEN(d.word),
					 flags & VRING_DESC_F_WRITE);
	if (flags & VRING_DESC_F_NEXT)
		return vdpa_vq_bad(vq, EPROTO, "indirect descriptor with next");
	return vdpa_vq_parts_add_indirect(vq, p, d.addr, PACKED_LEN(d.word));
}

/* Everything but a single plain descriptor; `d` is the one at pos. The buffer id is the last's. */
static __rte_noinline int
packed_parse_chain(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, struct vdpa_vq_desc d,
		   uint32_t pos, uint32_t room)
{
	struct vdpa_vq_parts p;
	uint16_t n = 0;
	int ret;

	vdpa_vq_parts_init(&p, chain);
	for (;;) {
		if (n == room)
			return vdpa_vq_bad(vq, EPROTO,
					   "chain longer than the free part of the virtqueue");
		ret = vq->tracker != NULL ? vdpa_vq_tracker_keep(vq, n, d) : 0;
		if (ret == 0)
			ret = vdpa_vq_packed_add(vq, &p, d);
		n++;
		if (ret < 0)
			return ret;
		if (!(PACKED_FLAGS(d.word) & VRING_DESC_F_NEXT))
			break;
		if (++pos == vq->num)
			pos = 0;
		d = vdpa_vq_desc_read(&vq->desc[pos]);
	}
	chain->id = PACKED_ID(d.word);
	chain->ndesc = n;
	vq->walked += n;
	return vdpa_vq_parts_done(&p, chain);
}

/* Account for a chain taken at pos; gives the position after it. */
static inline uint32_t
packed_take(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t id, uint16_t ndesc,
	    uint32_t pos, uint64_t popped)
{
	vdpa_vq_took(vq, chain, id, ndesc, (uint16_t)(pos | (uint32_t)vq->avail_wrap << 15),
		     popped);
	pos += ndesc;
	if (unlikely(pos >= vq->num)) {
		pos -= vq->num;
		vdpa_vq_packed_set_avail(vq, 0, !vq->avail_wrap);
	}
	return pos;
}

static bool
packed_is_avail(const struct vdpa_virtqueue *vq)
{
	uint64_t word =
		rte_le_to_cpu_64(__atomic_load_n(&vq->desc[vq->last_avail].word, __ATOMIC_RELAXED));

	return (PACKED_FLAGS(word) & (PACKED_F_AVAIL | PACKED_F_USED)) == vq->avail_want;
}

/* Fetch for writing the lines of n descriptors from pos on, up to the ring's end. A hint. */
static inline void
packed_prefetch(const struct vdpa_virtqueue *vq, uint32_t pos, unsigned int n)
{
	uint32_t last = RTE_MIN(pos + n, vq->num);

	for (; pos < last; pos += RTE_CACHE_LINE_SIZE / sizeof(*vq->desc))
		rte_prefetch0_write(&vq->desc[pos]);
}

/* Chains of one plain buffer, up to the first that is none, which is read again, or to the ring's
 * end. How many. Not inline: the registers are its own. */
static __rte_noinline unsigned int
packed_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	const struct vdpa_vq_region region = vq->region;
	const uint16_t plain = PACKED_F_AVAIL | PACKED_F_USED | VRING_DESC_F_NEXT |
			       VRING_DESC_F_INDIRECT,
		       want = vq->avail_want;
	const uint32_t pos = vq->last_avail;
	const uint16_t slot = (uint16_t)(pos | (uint32_t)vq->avail_wrap << 15);
	const struct vdpa_vq_desc *p = &vq->desc[pos];
	const uint16_t seq = (uint16_t)vq->counters.popped;
	uint64_t note = VDPA_VQ_NOTE(0, 1, slot, seq);
	unsigned int i;

	n = vdpa_vq_note_max(n, slot, seq);
	n = RTE_MIN(n, vq->num - pos);
	n = RTE_MIN(n, packed_room(vq));
	for (i = 0; i < n; i++, p++, note += VDPA_VQ_NOTE(0, 0, 1, 1)) {
		/* Acquire: the address is there when the flags say so. */
		const uint64_t word = rte_le_to_cpu_64(__atomic_load_n(&p->word, __ATOMIC_ACQUIRE));
		const uint16_t flags = PACKED_FLAGS(word);

		if ((flags & plain) != want)
			break;
		if (unlikely(!vdpa_vq_single(
			    &region, &chains[i],
			    rte_le_to_cpu_64(__atomic_load_n(&p->addr, __ATOMIC_RELAXED)),
			    PACKED_LEN(word), flags & VRING_DESC_F_WRITE)))
			break;
		chains[i].taken.word = note | VDPA_VQ_NOTE(PACKED_ID(word), 0, 0, 0);
	}
	vdpa_vq_count(&vq->counters.popped, i);
	vq->last_avail = (uint16_t)(pos + i);
	if (unlikely(pos + i == vq->num))
		vdpa_vq_packed_set_avail(vq, 0, !vq->avail_wrap);
	return i;
}

unsigned int
vdpa_vq_packed_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains, unsigned int n,
			 bool *other)
{
	const uint16_t both = PACKED_F_AVAIL | PACKED_F_USED,
		       plain = both | VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT,
		       want = vq->avail_want;
	const uint64_t write = (uint64_t)VRING_DESC_F_WRITE << 48;
	const struct vdpa_vq_region region = vq->region;
	const uint32_t pos = vq->last_avail;
	const uint16_t slot = (uint16_t)(pos | (uint32_t)vq->avail_wrap << 15);
	const struct vdpa_vq_desc *p = &vq->desc[pos];
	const uint16_t seq = (uint16_t)vq->counters.popped;
	uint64_t note = VDPA_VQ_NOTE(0, 1, slot, seq), addr;
	unsigned int i;

	/* Used descriptors are written to the same lines: have them for writing at once. */
	if (!packed_is_avail(vq)) {
		*other = false;
		return 0;
	}
	packed_prefetch(vq, pos, n);
	n = vdpa_vq_note_max(n, slot, seq);
	n = RTE_MIN(n, vq->num - pos);
	n = RTE_MIN(n, packed_room(vq));
	*other = true;
	for (i = 0; i < n; i++, p++, note += VDPA_VQ_NOTE(0, 0, 1, 1)) {
		/* Acquire: the address is there when the flags say so. */
		const uint64_t word = rte_le_to_cpu_64(__atomic_load_n(&p->word, __ATOMIC_ACQUIRE));

		if ((PACKED_FLAGS(word) & plain) != want) {
			*other = (PACKED_FLAGS(word) & both) == want;
			break;
		}
		addr = rte_le_to_cpu_64(__atomic_load_n(&p->addr, __ATOMIC_RELAXED));
		if (unlikely(!vdpa_vq_is_inside(&region, addr, PACKED_LEN(word))))
			break;
		chains[i].iova = addr;
		chains[i].len_write = PACKED_LEN(word) | (word & write) >> 17;
		chains[i].taken = note | VDPA_VQ_NOTE(PACKED_ID(word), 0, 0, 0);
	}
	vdpa_vq_count(&vq->counters.popped, i);
	vq->last_avail = (uint16_t)(pos + i);
	if (unlikely(pos + i == vq->num))
		vdpa_vq_packed_set_avail(vq, 0, !vq->avail_wrap);
	return i;
}

int
vdpa_vq_packed_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	const uint16_t mask = PACKED_F_AVAIL | PACKED_F_USED;
	uint32_t pos = vq->last_avail, room;
	const uint64_t begun = vq->walked;
	unsigned int i = 0;
	uint64_t popped;
	int ret = 0;

	/* Used descriptors are written to the same lines: have them for writing at once. */
	if (n > 1 && packed_is_avail(vq))
		packed_prefetch(vq, pos, n);
	if (likely(vq->tracker == NULL))
		i = packed_pop_plain(vq, chains, n);
	pos = vq->last_avail;
	room = packed_room(vq);
	popped = vq->counters.popped;
	for (; i < n && !vdpa_vq_burst_ends(vq, begun); i++) {
		struct vdpa_vq_chain *chain = &chains[i];
		struct vdpa_vq_desc *p = &vq->desc[pos], d;
		uint16_t flags, id, ndesc = 1;

		/* Acquire: the rest of the chain is there when the head's flags say so. */
		d.word = rte_le_to_cpu_64(__atomic_load_n(&p->word, __ATOMIC_ACQUIRE));
		flags = PACKED_FLAGS(d.word);
		if ((flags & mask) != vq->avail_want) {
			ret = 0;
			break;
		}
		d.addr = rte_le_to_cpu_64(__atomic_load_n(&p->addr, __ATOMIC_RELAXED));
		if (likely(!(flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)) && room > 0 &&
			   vq->tracker == NULL &&
			   vdpa_vq_single(&vq->region, chain, d.addr, PACKED_LEN(d.word),
					  flags & VRING_DESC_F_WRITE))) {
			id = PACKED_ID(d.word);
		} else {
			ret = packed_parse_chain(vq, chain, d, pos, room);
			if (ret < 0)
				break;
			id = chain->id;
			ndesc = chain->ndesc;
		}
		room -= ndesc;
		pos = packed_take(vq, chain, id, ndesc, pos, popped++);
	}
	if (unlikely(ret == -EMSGSIZE && i == 0))
		pos = packed_take(vq, &chains[0], chains[0].id, chains[0].ndesc, pos, popped);
	vq->last_avail = (uint16_t)pos;
	return i > 0 ? (int)i : ret;
}

unsigned int
vdpa_vq_packed_avail(struct vdpa_virtqueue *vq)
{
	return packed_is_avail(vq);
}

/* The second word of a used descriptor (virtio 1.2, 2.8.14): wrap is the used flags as they are
 * now. */
static inline uint64_t
packed_used_word(uint64_t wrap, uint16_t id, uint32_t written)
{
	uint64_t write = written > 0 ? (uint64_t)VRING_DESC_F_WRITE << 48 : 0;

	return rte_cpu_to_le_64(wrap | write | (uint64_t)id << 32 | written);
}

/* n chains: of `chains`, or the entries at[] of `taken`. */
static inline void
packed_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
	    const struct vdpa_vq_taken *taken, const uint16_t *at, const uint32_t *written,
	    unsigned int n)
{
	const uint64_t used = (uint64_t)(PACKED_F_AVAIL | PACKED_F_USED) << 48;
	uint64_t wrap = vq->used_wrap ? used : 0;
	struct vdpa_vq_desc *desc = vq->desc;
	uint32_t pos = vq->last_used;

	for (unsigned int i = 0; i < n; i++) {
		const struct vdpa_vq_taken *t = chains != NULL ? &chains[i].taken : &taken[at[i]];
		uint64_t word = packed_used_word(wrap, t->id, written != NULL ? written[i] : 0);

		if (i == 0 && vq->pending == 0) {
			vq->pending_pos = (uint16_t)pos;
			vq->pending_wrap = wrap != 0;
			vq->pending_word = word;
		} else {
			__atomic_store_n(&desc[pos].word, word, __ATOMIC_RELAXED);
		}
		pos += t->ndesc;
		if (unlikely(pos >= vq->num)) {
			pos -= vq->num;
			wrap ^= used;
		}
	}
	vq->used_wrap = wrap != 0;
	vq->last_used = (uint16_t)pos;
	vq->pending += (uint16_t)n;
}

void
vdpa_vq_packed_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
		    const uint32_t *written, unsigned int n)
{
	packed_push(vq, chains, NULL, NULL, written, n);
}

void
vdpa_vq_packed_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken,
			  const uint16_t *at, const uint32_t *written, unsigned int n)
{
	packed_push(vq, NULL, taken, at, written, n);
}

void
vdpa_vq_packed_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n)
{
	packed_prefetch(vq, vq->last_used, n);
}

/* Slots from the first pending to where the next used descriptor goes. */
static uint32_t
packed_pending_slots(const struct vdpa_virtqueue *vq)
{
	return vq->used_wrap == vq->pending_wrap ? (uint32_t)(vq->last_used - vq->pending_pos)
						 : vq->num - vq->pending_pos + vq->last_used;
}

void
vdpa_vq_packed_flush(struct vdpa_virtqueue *vq)
{
	const uint32_t n = packed_pending_slots(vq);

	/* Release: buffers and the rest of the batch are there before its first descriptor. */
	__atomic_store_n(&vq->desc[vq->pending_pos].word, vq->pending_word, __ATOMIC_RELEASE);
	if (unlikely(vq->log != NULL)) {
		uint32_t head = RTE_MIN(n, vq->num - vq->pending_pos);

		vdpa_vq_log_ring(vq, vq->desc_iova, vq->pending_pos * sizeof(*vq->desc),
				 head * sizeof(*vq->desc));
		if (n > head)
			vdpa_vq_log_ring(vq, vq->desc_iova, 0, (n - head) * sizeof(*vq->desc));
	}
	vq->unsignalled += n;
}

bool
vdpa_vq_packed_wants_call(struct vdpa_virtqueue *vq)
{
	uint32_t event;
	uint16_t flags;
	int off, last = vq->last_used;

	rte_smp_mb();
	event = rte_le_to_cpu_32(__atomic_load_n(vq->driver_event, __ATOMIC_RELAXED));
	flags = (event >> 16) & 3;
	if (flags != VRING_PACKED_EVENT_FLAG_DESC || !vq->event_idx)
		return flags != VRING_PACKED_EVENT_FLAG_DISABLE;
	if (!vq->signalled_valid || vq->unsignalled >= vq->num)
		return true;
	/* Position on the line that ends at last_used, the turn before being negative. */
	off = event & 0x7fff;
	if (((event >> VRING_PACKED_EVENT_F_WRAP_CTR) & 1) != vq->used_wrap)
		off -= (int)vq->num;
	return off < last && off >= last - (int)vq->unsignalled;
}

static void
packed_set_event(struct vdpa_virtqueue *vq, uint16_t off_wrap, uint16_t flags)
{
	__atomic_store_n(vq->device_event, rte_cpu_to_le_32((uint32_t)flags << 16 | off_wrap),
			 __ATOMIC_RELAXED);
	if (unlikely(vq->log != NULL))
		vdpa_vq_log_ring(vq, vq->used_iova, 0, sizeof(uint32_t));
}

bool
vdpa_vq_packed_enable_kicks(struct vdpa_virtqueue *vq)
{
	if (vq->event_idx)
		packed_set_event(vq,
				 (uint16_t)(vq->last_avail |
					    vq->avail_wrap << VRING_PACKED_EVENT_F_WRAP_CTR),
				 VRING_PACKED_EVENT_FLAG_DESC);
	else
		packed_set_event(vq, 0, VRING_PACKED_EVENT_FLAG_ENABLE);
	rte_smp_mb();
	return packed_is_avail(vq);
}

void
vdpa_vq_packed_disable_kicks(struct vdpa_virtqueue *vq)
{
	packed_set_event(vq, 0, VRING_PACKED_EVENT_FLAG_DISABLE);
}
