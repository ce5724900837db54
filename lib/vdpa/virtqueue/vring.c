/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The driver's side of a virtqueue, whatever its layout: set-up, copies of chains, their order, and
 * the way to vring_split.c or vring_packed.c.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>

#include <rte_atomic.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "vring_priv.h"

struct vdpa_vring *
vdpa_vring_alloc(void)
{
	struct vdpa_vring *r = aligned_alloc(_Alignof(struct vdpa_vring), sizeof(*r));

	if (r == NULL)
		return NULL;
	memset(r, 0, sizeof(*r));
	return r;
}

/* All that a set-up has allocated. */
static void
vring_teardown(struct vdpa_vring *r)
{
	vring_store_fini(r);
	free(r->chain);
	free(r->free_list);
	memset(r, 0, sizeof(*r));
}

void
vdpa_vring_free(struct vdpa_vring *r)
{
	if (r == NULL)
		return;
	vring_teardown(r);
	free(r);
}

int
vring_bad(struct vdpa_vring *r, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->error, sizeof(r->error), fmt, ap);
	va_end(ap);
	r->ready = false;
	return -EPROTO;
}

/* The place of the next used entry, for a message. */
static unsigned int
vring_used_at(const struct vdpa_vring *r)
{
	return r->packed ? r->at.used_pos : (uint16_t)r->at.taken;
}

int
vring_bad_entry(struct vdpa_vring *r, uint32_t id, uint32_t len)
{
	if (id >= r->num)
		return vring_bad(r, "used entry %u: id %u of a ring of %u", vring_used_at(r), id,
				 r->num);
	if (r->chain[id].ndesc == 0 || r->chain[id].seq >= r->at.published)
		return vring_bad(r, "used entry %u: id %u is not in flight", vring_used_at(r), id);
	return vring_bad(r, "used id %u: %u bytes written, its buffers hold %u", id, len,
			 r->chain[id].room);
}

static int
vring_refuse(struct vdpa_vring *r, const char *reason)
{
	vring_bad(r, "%s", reason);
	return -EINVAL;
}

/* Sizes and alignments: virtio 1.2, 2.7 and 2.8.10. */
static int
vring_check_params(struct vdpa_vring *r, const struct vdpa_vring_params *p)
{
	const bool packed = (p->features >> VIRTIO_F_RING_PACKED) & 1;

	if (p->num == 0 || p->num > VDPA_VQ_NUM_MAX)
		return vring_refuse(r, "virtqueue size not within 1 to 32768");
	if (!packed && (p->num & (p->num - 1)) != 0)
		return vring_refuse(r, "size of a split virtqueue not a power of two");
	if ((p->desc == NULL && packed) || ((uintptr_t)p->desc & 15) != 0)
		return vring_refuse(r, "descriptor area not aligned to 16 bytes");
	if (p->driver == NULL || ((uintptr_t)p->driver & (packed ? 3 : 1)) != 0)
		return vring_refuse(r, "driver area not aligned");
	if (p->device == NULL || ((uintptr_t)p->device & 3) != 0)
		return vring_refuse(r, "device area not aligned");
	if (((uintptr_t)p->tables & 15) != 0 || (p->tables_iova & 15) != 0)
		return vring_refuse(r, "indirect tables not aligned to 16 bytes");
	if (packed &&
	    (p->place.packed.last_avail_idx >= p->num || p->place.packed.last_avail_counter > 1))
		return vring_refuse(r, "place outside the virtqueue");
	if (packed && (p->place.packed.last_avail_idx != p->place.packed.last_used_idx ||
		       p->place.packed.last_avail_counter != p->place.packed.last_used_counter))
		return vring_refuse(r, "place with chains in flight");
	return 0;
}

int
vdpa_vring_setup(struct vdpa_vring *r, const struct vdpa_vring_params *params)
{
	const uint32_t num = params->num;
	int rc;

	vring_teardown(r);
	rc = vring_check_params(r, params);
	if (rc < 0)
		return rc;
	r->packed = (params->features >> VIRTIO_F_RING_PACKED) & 1;
	r->event_idx = (params->features >> VIRTIO_RING_F_EVENT_IDX) & 1;
	r->indirect = (params->features >> VIRTIO_RING_F_INDIRECT_DESC) & 1;
	r->in_order = (params->features >> VIRTIO_F_IN_ORDER) & 1;
	r->foreign = params->desc == NULL;
	r->num = num;
	r->at.n_free = num;
	r->order_mask = rte_align32pow2(num) - 1;
	r->desc = params->desc;
	r->avail = params->driver;
	r->used = params->device;
	r->chain = aligned_alloc(RTE_CACHE_LINE_SIZE,
				 RTE_ALIGN_CEIL(num * sizeof(*r->chain), RTE_CACHE_LINE_SIZE));
	r->free_list = malloc(((size_t)num * 2 + r->order_mask + 1) * sizeof(*r->free_list));
	if (r->chain == NULL || r->free_list == NULL || vring_store_init(r, params) < 0) {
		vring_teardown(r);
		vring_bad(r, "no memory for a virtqueue of %u", num);
		return -ENOMEM;
	}
	memset(r->chain, 0, num * sizeof(*r->chain));
	r->next = r->free_list + num;
	r->order = r->next + num;
	for (uint32_t i = 0; i < num; i++) {
		r->free_list[i] = (uint16_t)(num - 1 - i);
		/* Of another's descriptors nothing is known; they count as one buffer. */
		r->chain[i].room = r->foreign ? UINT32_MAX : 0;
		r->chain[i].n = r->foreign;
	}
	if (r->packed)
		vring_packed_setup(r, &params->place);
	else
		vring_split_setup(r, &params->place);
	r->ready = true;
	return 0;
}

/* Any chain but that of one buffer. */
static __rte_noinline int
vring_add_many(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, uint32_t n)
{
	if (n == 0 || n > VDPA_VQ_NUM_MAX || n > RTE_MAX(r->num, r->tables.max))
		return -EMSGSIZE;
	if (r->at.n_free == 0)
		return -ENOSPC;
	return r->packed ? vring_packed_add_many(r, segs, n) : vring_split_add_many(r, segs, n);
}

int
vdpa_vring_add(struct vdpa_vring *r, const struct vdpa_vring_seg *segs, unsigned int n)
{
	if (unlikely(!r->ready || r->foreign))
		return -EPROTO;
	if (unlikely(n != 1))
		return vring_add_many(r, segs, n);
	if (unlikely(r->at.n_free == 0))
		return -ENOSPC;
	return r->packed ? vring_packed_add_one(r, segs) : vring_split_add_one(r, segs);
}

unsigned int
vdpa_vring_add_burst(struct vdpa_vring *r, const struct vdpa_vq_chain *chains, unsigned int n,
		     struct vdpa_vq_taken *kept)
{
	if (unlikely(!r->ready || r->foreign || r->in_order))
		return 0;
	n = RTE_MIN(n, r->at.n_free);
	return r->packed ? vring_packed_add_burst(r, chains, n, kept)
			 : vring_split_add_burst(r, chains, n, kept);
}

unsigned int
vdpa_vring_room(const struct vdpa_vring *r)
{
	return r->ready && !r->foreign && !r->in_order ? r->at.n_free : 0;
}

void
vdpa_vring_add_plain(struct vdpa_vring *r, const struct vdpa_vq_plain *chains, unsigned int n,
		     struct vdpa_vq_taken *kept)
{
	unsigned int done;

	if (unlikely(!r->ready || r->foreign || r->in_order))
		return;
	n = RTE_MIN(n, r->at.n_free);
	if (!r->packed) {
		vring_split_add_plain(r, chains, n, kept);
		return;
	}
	/* Up to the ring's end, and from its beginning. */
	done = vring_packed_add_plain(r, chains, n, kept);
	if (unlikely(done < n))
		(void)vring_packed_add_plain(r, chains + done, n - done, kept);
}

int
vdpa_vring_add_table(struct vdpa_vring *r, uint64_t iova, uint32_t len, uint32_t room)
{
	const struct vdpa_vring_seg seg = {.iova = iova, .len = len};

	if (!r->ready || r->foreign)
		return -EPROTO;
	if (r->at.n_free == 0)
		return -ENOSPC;
	return r->packed ? vring_packed_add_given(r, &seg, room)
			 : vring_split_add_given(r, &seg, room);
}

int
vdpa_vring_add_head(struct vdpa_vring *r, uint16_t head)
{
	if (unlikely(!r->ready || !r->foreign))
		return -EPROTO;
	if (unlikely(head >= r->num))
		return -EINVAL;
	if (unlikely(r->chain[head].ndesc != 0))
		return -EEXIST;
	if (unlikely(r->at.n_free == 0))
		return -ENOSPC;
	return vring_split_add_heads(r, &head, 1) == 1 ? 0 : -EPROTO;
}

unsigned int
vdpa_vring_add_heads(struct vdpa_vring *r, const uint16_t *heads, unsigned int n)
{
	if (unlikely(!r->ready || !r->foreign))
		return 0;
	return vring_split_add_heads(r, heads, RTE_MIN(n, r->at.n_free));
}

void
vdpa_vring_publish(struct vdpa_vring *r)
{
	if (unlikely(!r->ready || vring_added(&r->at) == 0))
		return;
	if (r->packed)
		vring_packed_publish(r);
	else
		vring_split_publish(r);
	r->at.published = r->at.seq;
}

bool
vdpa_vring_wants_kick(struct vdpa_vring *r)
{
	bool wanted;

	if (unlikely(!r->ready || r->unkicked == 0))
		return false;
	/* The device writes its wish and then looks for chains: a store and a load on each side. */
	rte_smp_mb();
	wanted = r->packed ? vring_packed_wants_kick(r) : vring_split_wants_kick(r);
	r->unkicked = 0;
	return wanted;
}

uint16_t
vdpa_vring_next(const struct vdpa_vring *r)
{
	return r->packed ? vring_packed_next(r) : (uint16_t)r->at.published;
}

int
vdpa_vring_take(struct vdpa_vring *r, uint16_t *id, uint32_t *len)
{
	if (unlikely(!r->ready))
		return -EPROTO;
	return r->packed ? vring_packed_take(r, id, len, 1) : vring_split_take(r, id, len, 1);
}

int
vdpa_vring_take_burst(struct vdpa_vring *r, uint16_t *ids, uint32_t *lens, unsigned int n)
{
	if (unlikely(!r->ready || n == 0))
		return n == 0 ? 0 : -EPROTO;
	return r->packed ? vring_packed_take(r, ids, lens, n) : vring_split_take(r, ids, lens, n);
}

bool
vdpa_vring_is_ready(const struct vdpa_vring *r)
{
	return r->ready;
}

bool
vdpa_vring_has_used(const struct vdpa_vring *r)
{
	if (unlikely(!r->ready))
		return false;
	if (r->batch > 0)
		return true;
	return r->packed ? vring_packed_has_used(r) : vring_split_has_used(r);
}

const char *
vdpa_vring_error(const struct vdpa_vring *r)
{
	return r->error;
}

const struct vdpa_vring_seg *
vdpa_vring_segs(const struct vdpa_vring *r, uint16_t id, unsigned int *n)
{
	const struct vring_chain *c;

	if (id >= r->num) {
		*n = 0;
		return NULL;
	}
	c = &r->chain[id];
	*n = c->n;
	return c->n <= 1 ? &c->one : c->many.segs;
}

unsigned int
vdpa_vring_in_flight(const struct vdpa_vring *r)
{
	return vring_in_flight(&r->at);
}

/* The first chain in flight that was added as that number or later; -1 for none. */
static int
vring_added_from(const struct vdpa_vring *r, uint64_t seq)
{
	uint64_t first = UINT64_MAX;
	int id = -1;

	for (uint32_t i = 0; vring_in_flight(&r->at) > 0 && i < r->num; i++) {
		const struct vring_chain *c = &r->chain[i];

		if (c->ndesc > 0 && c->seq >= seq && c->seq < first) {
			first = c->seq;
			id = (int)i;
		}
	}
	return id;
}

int
vdpa_vring_oldest(const struct vdpa_vring *r)
{
	return vring_added_from(r, 0);
}

int
vdpa_vring_younger(const struct vdpa_vring *r, uint16_t id)
{
	if (id >= r->num || r->chain[id].ndesc == 0)
		return -1;
	return vring_added_from(r, r->chain[id].seq + 1);
}

unsigned int
vdpa_vring_reading(const struct vdpa_vring *r)
{
	unsigned int n = 0;

	for (uint32_t i = 0; vring_in_flight(&r->at) > 0 && i < r->num; i++) {
		const struct vring_chain *c = &r->chain[i];

		if (c->ndesc > 0 && !(c->n <= 1 ? &c->one : c->many.segs)->write)
			n++;
	}
	return n;
}

bool
vdpa_vring_enable_calls(struct vdpa_vring *r)
{
	if (unlikely(!r->ready))
		return false;
	r->calls_off = false;
	if (r->packed)
		vring_packed_ask_calls(r);
	else
		vring_split_ask_calls(r);
	rte_smp_mb();
	return vdpa_vring_has_used(r);
}

void
vdpa_vring_disable_calls(struct vdpa_vring *r)
{
	/* The device reads this line: write it only for a change. */
	if (unlikely(!r->ready || r->calls_off))
		return;
	r->calls_off = true;
	if (r->packed)
		vring_packed_disable_calls(r);
	else
		vring_split_disable_calls(r);
}

void
vdpa_vring_place(const struct vdpa_vring *r, struct vdpa_vq_state *place)
{
	memset(place, 0, sizeof(*place));
	if (!r->packed) {
		place->split.avail_index = (uint16_t)r->at.taken;
		return;
	}
	place->packed.last_avail_idx = place->packed.last_used_idx = r->at.used_pos;
	place->packed.last_avail_counter = place->packed.last_used_counter = r->at.used_want != 0;
}
