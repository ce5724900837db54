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

/* Everything but a single plain descriptor. */
static __rte_noinline int
split_parse_chain(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, struct vdpa_vq_desc d)
{
	struct vdpa_vq_parts p;
	uint32_t left = vq->num;
	int ret;

	vdpa_vq_parts_init(&p, chain);
	for (;;) {
		uint16_t flags = SPLIT_FLAGS(d.word), next;

		if (flags & VRING_DESC_F_INDIRECT) {
			if (flags & VRING_DESC_F_NEXT)
				return vdpa_vq_bad(vq, EPROTO, "indirect descriptor with next");
			ret = vdpa_vq_parts_add_indirect(vq, &p, d.addr, SPLIT_LEN(d.word));
		} else {
			ret = vdpa_vq_parts_add(vq, &p, d.addr, SPLIT_LEN(d.word),
						flags & VRING_DESC_F_WRITE);
		}
		if (ret < 0)
			return ret;
		if (!(flags & VRING_DESC_F_NEXT))
			return vdpa_vq_parts_done(&p, chain);
		if (--left == 0)
			return vdpa_vq_bad(vq, EPROTO, "descriptor loop");
		next = SPLIT_NEXT(d.word);
		if (next >= vq->num)
			return vdpa_vq_bad(vq, EPROTO, "descriptor index outside the virtqueue");
		d = vdpa_vq_desc_read(&vq->desc[next]);
	}
}

static inline int
split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head)
{
	struct vdpa_vq_desc d;
	uint16_t flags;

	if (unlikely(head >= vq->num))
		return vdpa_vq_bad(vq, EPROTO, "head descriptor outside the virtqueue");
	chain->id = head;
	chain->ndesc = 1;
	d = vdpa_vq_desc_read(&vq->desc[head]);
	flags = SPLIT_FLAGS(d.word);
	if (likely(!(flags & (VRING_DESC_F_NEXT | VRING_DESC_F_INDIRECT)) &&
		   vdpa_vq_single(vq, chain, d.addr, SPLIT_LEN(d.word),
				  flags & VRING_DESC_F_WRITE)))
		return 1;
	return split_parse_chain(vq, chain, d);
}

int
vdpa_vq_split_parse(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, uint16_t head)
{
	return split_parse(vq, chain, head);
}

/* Have the descriptors of the next n heads transferred together: the driver's CPU wrote them. A
 * hint: a head is checked when it is read for use. */
static inline void
split_prefetch_desc(const struct vdpa_virtqueue *vq, unsigned int n)
{
	const uint16_t mask = (uint16_t)(vq->num - 1);
	uint16_t pos = vq->last_avail;

	for (unsigned int i = 0; i < n; i++, pos++) {
		uint16_t head = rte_le_to_cpu_16(
			__atomic_load_n(&vq->avail->ring[pos & mask], __ATOMIC_RELAXED));

		rte_prefetch0(&vq->desc[head & mask]);
	}
}

int
vdpa_vq_split_pop(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chains, unsigned int n)
{
	const uint16_t mask = (uint16_t)(vq->num - 1);
	uint16_t pos = vq->last_avail, seq = (uint16_t)vq->counters.popped;
	unsigned int ready = (uint16_t)(vq->shadow_avail - pos), i;
	int ret = 1;

	if (ready < n) {
		ret = split_refresh(vq);
		if (unlikely(ret < 0))
			return ret;
		ready = (unsigned int)ret;
		if (n > ready)
			n = ready;
		ret = 1;
	}
	split_prefetch_desc(vq, n);
	for (i = 0; i < n; i++, pos++) {
		struct vdpa_vq_chain *chain = &chains[i];
		uint16_t head = rte_le_to_cpu_16(
			__atomic_load_n(&vq->avail->ring[pos & mask], __ATOMIC_RELAXED));

		ret = split_parse(vq, chain, head);
		if (unlikely(ret < 0))
			break;
		chain->slot = pos;
		chain->seq = seq++;
		if (unlikely(vq->tracker != NULL))
			vdpa_vq_tracker_popped(vq, chain);
		vdpa_vq_count(&vq->counters.popped, 1);
	}
	if (unlikely(ret == -EMSGSIZE && i == 0)) {
		chains[0].slot = pos++;
		chains[0].seq = seq;
		if (vq->tracker != NULL)
			vdpa_vq_tracker_popped(vq, &chains[0]);
		vdpa_vq_count(&vq->counters.popped, 1);
	}
	vq->last_avail = pos;
	return i > 0 ? (int)i : n > 0 ? ret : 0;
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

void
vdpa_vq_split_push(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chains,
		   const uint32_t *written, unsigned int n)
{
	const uint16_t mask = (uint16_t)(vq->num - 1);
	struct vring_used_elem *ring = vq->used->ring;
	uint16_t pos = vq->last_used;

	for (unsigned int i = 0; i < n; i++, pos++) {
		ring[pos & mask].id = rte_cpu_to_le_32(chains[i].id);
		ring[pos & mask].len = rte_cpu_to_le_32(written != NULL ? written[i] : 0);
	}
	vq->last_used = pos;
	vq->pending += (uint16_t)n;
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
