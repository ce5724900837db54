/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Split virtqueues as a device has them (virtio 1.2, 2.7). Owns the fields of the split layout in
 * struct vdpa_virtqueue; touches guest memory only through the ring pointers that were translated
 * at set-up and the buffers' addresses as they are parsed.
 */

#include <rte_atomic.h>
#include <rte_prefetch.h>

#include "virtqueue_priv.h"

#define SPLIT_LEN(word)	  ((uint32_t)(word))
#define SPLIT_FLAGS(word) ((uint16_t)((word) >> 32))
#define SPLIT_NEXT(word)  ((uint16_t)((word) >> 48))

/* Chains that are popped at once, whatever is asked for. */
#define SPLIT_BURST 64

/* The used event follows the avail ring, the avail event the used ring. */
static uint16_t *
split_used_event(const struct vdpa_virtqueue *vq)
{
	return &vq->avail->ring[vq->num];
}

static uint16_t *
split_avail_event(const struct vdpa_virtqueue *vq)
{
	return (uint16_t *)(void *)&vq->used->ring[vq->num];
}

int
vdpa_vq_split_map(struct vdpa_virtqueue *vq, struct vdpa_iotlb *tlb)
{
	struct vdpa_ring_size size = vdpa_ring_size(false, vq->num);

	vq->desc = vdpa_iotlb_range(tlb, vq->desc_iova, size.desc);
	if (vq->desc == NULL)
		return vdpa_vq_bad(vq, EFAULT, "descriptor table outside memory");
	vq->avail = vdpa_iotlb_range(tlb, vq->driver_iova, size.driver);
	if (vq->avail == NULL)
		return vdpa_vq_bad(vq, EFAULT, "avail ring outside memory");
	vq->used = vdpa_iotlb_range(tlb, vq->device_iova, size.device);
	if (vq->used == NULL)
		return vdpa_vq_bad(vq, EFAULT, "used ring outside memory");
	return 0;
}

int
vdpa_vq_split_setup(struct vdpa_virtqueue *vq, const struct vdpa_vq_state *state)
{
	uint16_t used = rte_le_to_cpu_16(__atomic_load_n(&vq->used->idx, __ATOMIC_RELAXED));

	if ((uint16_t)(state->split.avail_index - used) > vq->num)
		return vdpa_vq_bad(vq, EINVAL, "avail index of the state too far from used index");
	vq->last_avail = state->split.avail_index;
	vq->shadow_avail = vq->last_avail;
	vq->last_used = used;
	return 0;
}

/* Read the driver's index. How many chains it has for us, or a negative errno. */
static int
split_refresh(struct vdpa_virtqueue *vq)
{
	/* Acquire: the entries and descriptors that the index covers are read after it. */
	uint16_t idx = rte_le_to_cpu_16(__atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE));
	uint16_t n = idx - vq->last_avail;

	/* What is outstanding cannot be made available a second time. */
	if (unlikely(n + vdpa_vq_outstanding(vq) > vq->num))
		return vdpa_vq_bad(vq, EPROTO, "avail index ahead by more than the virtqueue size");
	vq->shadow_avail = idx;
	return n;
}

/* The chain that begins with d. 0 or a negative errno. */
static int
split_walk(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, struct vdpa_vq_desc d)
{
	uint32_t left = vq->num;
	int ret;

	for (;;) {
		uint16_t flags = SPLIT_FLAGS(d.word), next;

		if (flags & VRING_DESC_F_INDIRECT) {
			if (flags & VRING_DESC_F_NEXT)
				return vdpa_vq_bad(vq, EPROTO, "indirect descriptor with next");
			ret = vdpa_vq_parts_add_indirect(vq, p, d.addr, SPLIT_LEN(d.word));
		} else {
			ret = vdpa_vq_parts_add(vq, p, d.addr, SPLIT_LEN(d.word),
						flags & VRING_DESC_F_WRITE);
		}
		if (ret < 0)
			return ret;
		if (!(flags & VRING_DESC_F_NEXT)) {
			vq->walked += vq->num - left + 1;
			return 0;
		}
		if (--left == 0)
			return vdpa_vq_bad(vq, EPROTO, "descriptor loop");
		next = SPLIT_NEXT(d.word);
		if (next >= vq->num)
			return vdpa_vq_bad(vq, EPROTO, "descriptor index outside the virtqueue");
		d = vdpa_vq_desc_read(&vq->desc[next]);
	}
}

int
vdpa_vq_split_walk(struct vdpa_virtqueue *vq, struct vdpa_vq_parts *p, uint16_t head)
{
	if (unlikely(head >= vq->num))
		return vdpa_vq_bad(vq, EPROTO, "head descriptor outside the virtqueue");
	return split_walk(vq, p, vdpa_vq_desc_read(&vq->desc[head]));
}

/* Everything but a single plain descriptor. */
static __rte_noinline int
split_parse_chain(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, struct vdpa_vq_desc d)
{
	struct vdpa_vq_parts p;
	int ret;

	vdpa_vq_parts_init(&p, chain);
	ret = split_walk(vq, &p, d);
	return ret < 0 ? ret : vdpa_vq_parts_done(&p, chain);
}

static inline int
split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head)
{
	struct vdpa_vq_desc d;
	uint16_t flags;

	if (unlikely(head >= vq->num))
		return vdpa_vq_bad(vq, EPROTO, "head descriptor outside the virtqueue");
	d = vdpa_vq_desc_read(&vq->desc[head]);
	flags = SPLIT_FLAGS(d.word);
	if (likely(!(flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)) &&
		   vdpa_vq_single(&vq->region, chain, d.addr, SPLIT_LEN(d.word),
				  flags & VRING_DESC_F_WRITE)))
		return 1;
	return split_parse_chain(vq, chain, d);
}

int
vdpa_vq_split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head)
{
	vdpa_vq_note(chain, head, 1, 0, 0);
	return split_parse(vq, chain, head);
}

/* Chains of one plain buffer, up to the first that is none, which is read again. How many. Not
 * inline: the registers are its own. */
static __rte_noinline unsigned int
split_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, const uint16_t *heads,
		unsigned int n)
{
	const struct vdpa_vq_region region = vq->region;
	const struct vdpa_vq_desc *desc = vq->desc;
	const uint16_t pos = vq->last_avail, seq = (uint16_t)vq->counters.popped;
	const uint32_t mask = vq->num - 1;
	uint64_t note = VDPA_VQ_NOTE(0, 1, pos, seq);
	unsigned int i;

	n = vdpa_vq_note_max(n, pos, seq);
	for (i = 0; i < n; i++, note += VDPA_VQ_NOTE(0, 0, 1, 1)) {
		const uint32_t head = heads[i];
		struct vdpa_vq_desc d;

		if (unlikely(head > mask))
			break;
		d = vdpa_vq_desc_read(&desc[head]);
		if (unlikely(SPLIT_FLAGS(d.word) & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT) ||
			     !vdpa_vq_single(&region, &chains[i], d.addr, SPLIT_LEN(d.word),
					     SPLIT_FLAGS(d.word) & VRING_DESC_F_WRITE)))
			break;
		chains[i].taken.word = note | VDPA_VQ_NOTE(head, 0, 0, 0);
	}
	vdpa_vq_count(&vq->counters.popped, i);
	return i;
}

/* The driver's index as it was read, or once more where there are less than n. How many there are,
 * or a negative errno. */
static inline int
split_ready(struct vdpa_virtqueue *vq, unsigned int n)
{
	const unsigned int ready = (uint16_t)(vq->shadow_avail - vq->last_avail);

	return ready < n ? split_refresh(vq) : (int)ready;
}

/* The next n heads, and have the descriptors transferred together: the driver's CPU wrote them. */
static inline void
split_read_heads(const struct vdpa_virtqueue *vq, uint16_t *heads, unsigned int n)
{
	const uint16_t mask = (uint16_t)(vq->num - 1), *ring = vq->avail->ring;
	const struct vdpa_vq_desc *desc = vq->desc;
	const uint16_t pos = vq->last_avail;

	for (unsigned int i = 0; i < n; i++) {
		heads[i] = rte_le_to_cpu_16(
			__atomic_load_n(&ring[(uint16_t)(pos + i) & mask], __ATOMIC_RELAXED));
		rte_prefetch0(&desc[heads[i] & mask]);
	}
}

unsigned int
vdpa_vq_split_pop_plain(struct vdpa_virtqueue *vq, struct vdpa_vq_plain *chains, unsigned int n,
			bool *other)
{
	const uint64_t write = (uint64_t)VRING_DESC_F_WRITE << 32,
		       shape = (uint64_t)(VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT) << 32;
	const struct vdpa_vq_region region = vq->region;
	const struct vdpa_vq_desc *desc = vq->desc;
	const uint16_t pos = vq->last_avail, seq = (uint16_t)vq->counters.popped;
	const uint32_t mask = vq->num - 1;
	uint64_t note = VDPA_VQ_NOTE(0, 1, pos, seq);
	uint16_t heads[SPLIT_BURST];
	unsigned int i;
	int ready;

	n = RTE_MIN(n, (unsigned int)SPLIT_BURST);
	ready = split_ready(vq, n);
	*other = ready < 0;
	if (ready <= 0)
		return 0;
	n = vdpa_vq_note_max(RTE_MIN(n, (unsigned int)ready), pos, seq);
	split_read_heads(vq, heads, n);
	for (i = 0; i < n; i++, note += VDPA_VQ_NOTE(0, 0, 1, 1)) {
		const uint32_t head = heads[i];
		struct vdpa_vq_desc d;

		if (unlikely(head > mask))
			break;
		d = vdpa_vq_desc_read(&desc[head]);
		if (unlikely((d.word & shape) != 0 ||
			     !vdpa_vq_is_inside(&region, d.addr, SPLIT_LEN(d.word))))
			break;
		chains[i].iova = d.addr;
		chains[i].len_write = SPLIT_LEN(d.word) | (d.word & write) >> 1;
		chains[i].taken = note | VDPA_VQ_NOTE(head, 0, 0, 0);
	}
	vdpa_vq_count(&vq->counters.popped, i);
	vq->last_avail = (uint16_t)(pos + i);
	*other = i < (unsigned int)ready;
	return i;
}

int
vdpa_vq_split_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	uint16_t pos = vq->last_avail, heads[SPLIT_BURST];
	const uint64_t begun = vq->walked;
	unsigned int i;
	uint64_t popped;
	int ret;

	n = RTE_MIN(n, (unsigned int)SPLIT_BURST);
	ret = split_ready(vq, n);
	if (unlikely(ret < 0))
		return ret;
	n = RTE_MIN(n, (unsigned int)ret);
	ret = 1;
	split_read_heads(vq, heads, n);
	i = likely(vq->tracker == NULL) ? split_pop_plain(vq, chains, heads, n) : 0;
	pos += (uint16_t)i;
	popped = vq->counters.popped;
	for (; i < n && !vdpa_vq_burst_ends(vq, begun); i++) {
		ret = split_parse(vq, &chains[i], heads[i]);
		if (unlikely(ret < 0))
			break;
		vdpa_vq_took(vq, &chains[i], heads[i], 1, pos++, popped++);
	}
	if (unlikely(ret == -EMSGSIZE && i == 0))
		vdpa_vq_took(vq, &chains[0], heads[0], 1, pos++, popped);
	vq->last_avail = pos;
	return i > 0 ? (int)i : n > 0 ? ret : 0;
}

int
vdpa_vq_split_pass(struct vdpa_virtqueue *vq, uint16_t *heads, unsigned int n)
{
	const uint16_t *ring = vq->avail->ring;
	const uint32_t mask = vq->num - 1, pos = vq->last_avail;
	int ready = split_ready(vq, n);

	if (unlikely(ready < 0))
		return ready;
	n = RTE_MIN(n, (unsigned int)ready);
	for (unsigned int i = 0; i < n; i++) {
		const uint16_t head = rte_le_to_cpu_16(
			__atomic_load_n(&ring[(pos + i) & mask], __ATOMIC_RELAXED));

		heads[i] = head;
		if (unlikely(head > mask))
			return vdpa_vq_bad(vq, EPROTO, "head descriptor outside the virtqueue");
	}
	vq->last_avail = (uint16_t)(pos + n);
	vdpa_vq_count(&vq->counters.popped, n);
	return (int)n;
}

unsigned int
vdpa_vq_split_avail(struct vdpa_virtqueue *vq)
{
	uint16_t n = vq->shadow_avail - vq->last_avail;
	int ret;

	if (n > 0)
		return n;
	ret = split_refresh(vq);
	/* The next pop reports an error. */
	return ret < 0 ? 1 : (unsigned int)ret;
}

/* A used element, by one store. */
static inline void
split_write_used(struct vring_used_elem *e, uint32_t id, uint32_t len)
{
	const uint64_t word = rte_cpu_to_le_64((uint64_t)len << 32 | id);

	/* Aligned to 4 bytes; the driver reads it after the index. */
	memcpy(e, &word, sizeof(word));
}

void
vdpa_vq_split_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
		   const uint32_t *written, unsigned int n)
{
	const uint32_t mask = vq->num - 1, pos = vq->last_used;
	struct vring_used_elem *ring = vq->used->ring;

	for (unsigned int i = 0; i < n; i++) {
		struct vring_used_elem *e = &ring[(pos + i) & mask];

		e->id = rte_cpu_to_le_32(chains[i].id);
		e->len = rte_cpu_to_le_32(written != NULL ? written[i] : 0);
	}
	vq->last_used = (uint16_t)(pos + n);
	vq->pending += (uint16_t)n;
}

void
vdpa_vq_split_push_taken(struct vdpa_virtqueue *vq, const struct vdpa_vq_taken *taken,
			 const uint16_t *at, const uint32_t *written, unsigned int n)
{
	const uint32_t mask = vq->num - 1, pos = vq->last_used;
	struct vring_used_elem *ring = vq->used->ring;

	for (unsigned int i = 0; i < n; i++) {
		split_write_used(&ring[(pos + i) & mask], taken[at[i]].id, written[i]);
	}
	vq->last_used = (uint16_t)(pos + n);
	vq->pending += (uint16_t)n;
}

/* Whether a chain has one plain buffer, in the last region, with room for what was written. */
static inline bool
split_log_plain(const struct vdpa_vq_region *region, const struct vdpa_dirty_log *log,
		struct vdpa_vq_desc d, uint32_t written, bool whole)
{
	const uint16_t shape = VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT | VRING_DESC_F_WRITE;
	const uint64_t off = d.addr - region->iova;
	const uint32_t len = SPLIT_LEN(d.word);

	if (unlikely((SPLIT_FLAGS(d.word) & shape) != VRING_DESC_F_WRITE || written > len ||
		     off >= region->size || len > region->size - off))
		return false;
	if (log != NULL)
		vdpa_dirty_log_mark(log, d.addr, whole ? len : written);
	return true;
}

unsigned int
vdpa_vq_split_push_passed(struct vdpa_virtqueue *vq, const uint16_t *heads, const uint32_t *written,
			  unsigned int n, bool whole)
{
	const struct vdpa_vq_region region = vq->region;
	const struct vdpa_dirty_log *log = vq->log;
	const struct vdpa_vq_desc *desc = vq->desc;
	const uint32_t mask = vq->num - 1, pos = vq->last_used;
	struct vring_used_elem *ring = vq->used->ring;
	unsigned int i;

	/* The device's CPU has read them, the driver's has written them. */
	for (i = 0; i < n; i++)
		if (written[i] > 0)
			rte_prefetch0(&desc[heads[i] & mask]);
	for (i = 0; i < n; i++) {
		const uint32_t head = heads[i], len = written[i];

		if (unlikely(head > mask) ||
		    ((len > 0 || whole) &&
		     !split_log_plain(&region, log, vdpa_vq_desc_read(&desc[head]), len, whole)))
			break;
		split_write_used(&ring[(pos + i) & mask], head, len);
	}
	vq->last_used = (uint16_t)(pos + i);
	vq->pending += (uint16_t)i;
	return i;
}

void
vdpa_vq_split_prefetch_used(const struct vdpa_virtqueue *vq, unsigned int n)
{
	const struct vring_used_elem *ring = vq->used->ring;
	uint32_t first = vq->last_used & (vq->num - 1), last;

	/* The index has a line of its own, unless the ring begins here. */
	rte_prefetch0_write(vq->used);
	last = RTE_MIN(first + n, vq->num);
	for (uint32_t i = first; i < last; i += RTE_CACHE_LINE_SIZE / sizeof(*ring))
		rte_prefetch0_write(&ring[i]);
	rte_prefetch0_write(&ring[last - 1]);
}

static void
split_log_used(struct vdpa_virtqueue *vq)
{
	const uint32_t esize = sizeof(vq->used->ring[0]), mask = vq->num - 1;
	uint32_t first = (uint16_t)(vq->last_used - vq->pending) & mask;
	uint32_t n = RTE_MIN((uint32_t)vq->pending, vq->num - first);

	vdpa_vq_log_ring(vq, vq->used_iova, sizeof(*vq->used) + first * esize, n * esize);
	if (vq->pending > n)
		vdpa_vq_log_ring(vq, vq->used_iova, sizeof(*vq->used), (vq->pending - n) * esize);
	vdpa_vq_log_ring(vq, vq->used_iova, offsetof(struct vring_used, idx), sizeof(uint16_t));
}

void
vdpa_vq_split_flush(struct vdpa_virtqueue *vq)
{
	/* Release: buffers and elements are there before the index says so. */
	__atomic_store_n(&vq->used->idx, rte_cpu_to_le_16(vq->last_used), __ATOMIC_RELEASE);
	if (unlikely(vq->log != NULL))
		split_log_used(vq);
	vq->unsignalled += vq->pending;
}

bool
vdpa_vq_split_wants_call(struct vdpa_virtqueue *vq)
{
	uint16_t event;

	/* The driver writes its event and then reads our index: a store and a load on each side. */
	rte_smp_mb();
	if (!vq->event_idx)
		return !(__atomic_load_n(&vq->avail->flags, __ATOMIC_RELAXED) &
			 rte_cpu_to_le_16(VRING_AVAIL_F_NO_INTERRUPT));
	if (!vq->signalled_valid || vq->unsignalled > UINT16_MAX)
		return true;
	event = rte_le_to_cpu_16(__atomic_load_n(split_used_event(vq), __ATOMIC_RELAXED));
	return vring_need_event(event, vq->last_used, vq->last_used - (uint16_t)vq->unsignalled);
}

bool
vdpa_vq_split_enable_kicks(struct vdpa_virtqueue *vq)
{
	if (vq->event_idx) {
		__atomic_store_n(split_avail_event(vq), rte_cpu_to_le_16(vq->last_avail),
				 __ATOMIC_RELAXED);
		if (unlikely(vq->log != NULL))
			vdpa_vq_log_ring(vq, vq->used_iova,
					 sizeof(*vq->used) + vq->num * sizeof(vq->used->ring[0]),
					 sizeof(uint16_t));
	} else {
		__atomic_store_n(&vq->used->flags, 0, __ATOMIC_RELAXED);
		if (unlikely(vq->log != NULL))
			vdpa_vq_log_ring(vq, vq->used_iova, 0, sizeof(uint16_t));
	}
	rte_smp_mb();
	return rte_le_to_cpu_16(__atomic_load_n(&vq->avail->idx, __ATOMIC_RELAXED)) !=
	       vq->last_avail;
}

void
vdpa_vq_split_disable_kicks(struct vdpa_virtqueue *vq)
{
	/* With an event index the one written last is passed once, and then not for a whole turn.
	 */
	if (vq->event_idx)
		return;
	__atomic_store_n(&vq->used->flags, rte_cpu_to_le_16(VRING_USED_F_NO_NOTIFY),
			 __ATOMIC_RELAXED);
	if (unlikely(vq->log != NULL))
		vdpa_vq_log_ring(vq, vq->used_iova, 0, sizeof(uint16_t));
}
