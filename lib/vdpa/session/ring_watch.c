/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Which buffers of a split ring a device has taken and not used, over a stop of it that happens
 * while the guest goes on: for devices that neither say where a queue stands nor finish what they
 * took.
 *
 * A look at a running ring may prove it: when all is used, or when the part of both rings that they
 * still remember shows that buffers came back in order. What happens from then to the stop
 * stands in the rings: what became available since, and what was used. So the buffers of the
 * look, and what came, without what went, are those that the device has lost; whatever the order in
 * which it used them. Where the rings have gone round meanwhile, or say what cannot be, nothing is
 * known. The guest may write what it likes there, and misleads its own queue.
 */

#include <string.h>

#include <rte_byteorder.h>

#include "ring_index.h"
#include "ring_watch.h"
#include "session_priv.h"

/* Flags and index before the entries (virtio 1.2, 2.7.6 and 2.7.8). */
#define RING_ENTRIES 4
#define USED_ELEM    8

struct rings {
	const uint8_t *avail, *used; /* the entries */
	uint32_t num, mask;
};

static bool
find_rings(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf, struct rings *r)
{
	r->num = conf->num;
	r->mask = conf->num - 1;
	if (tlb == NULL)
		return false;
	r->avail = vdpa_iotlb_range(tlb, conf->driver + RING_ENTRIES, 2 * (uint64_t)conf->num);
	r->used =
		vdpa_iotlb_range(tlb, conf->device + RING_ENTRIES, USED_ELEM * (uint64_t)conf->num);
	return r->avail != NULL && r->used != NULL;
}

static uint16_t
avail_head(const struct rings *r, uint16_t pos)
{
	const uint16_t *p = (const void *)(r->avail + sizeof(*p) * (pos & r->mask));

	return rte_le_to_cpu_16(__atomic_load_n(p, __ATOMIC_RELAXED));
}

static uint32_t
used_id(const struct rings *r, uint16_t pos)
{
	const uint32_t *p = (const void *)(r->used + (size_t)USED_ELEM * (pos & r->mask));

	return rte_le_to_cpu_32(__atomic_load_n(p, __ATOMIC_RELAXED));
}

/* By how much index a is behind b; more than the ring has where it is ahead. */
static uint16_t
behind(uint16_t a, uint16_t b)
{
	return (uint16_t)(b - a);
}

/* Count one more or one less of a head. False for what cannot be. */
static bool
count(uint8_t *has, uint32_t num, uint32_t head, int by)
{
	if (head >= num || has[head] == (by > 0))
		return false;
	has[head] = by > 0;
	return true;
}

/*
 * Whether buffers come back in order, as far as the rings remember it while the guest goes on: it
 * overwrites the oldest entries of the avail ring.
 */
static bool
is_in_order(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf, const struct rings *r,
	    uint16_t avail, uint16_t used)
{
	uint32_t window = r->num - behind(used, avail), same = 0;
	uint16_t now;

	/* From the youngest to the oldest, up to the first that differs. */
	while (same < window && used_id(r, (uint16_t)(used - same - 1)) ==
					avail_head(r, (uint16_t)(used - same - 1)))
		same++;
	if (same == window)
		return true;
	/* It may have been overwritten since. */
	return same > 0 && vdpa_ring_avail_idx(tlb, conf->driver, &now) &&
	       behind(avail, now) >= window - same;
}

bool
vdpa_ring_watch(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf,
		struct vdpa_ring_watch *w)
{
	struct rings r;

	w->known = false;
	if (!find_rings(tlb, conf, &r) || !vdpa_ring_used_idx(tlb, conf->device, &w->used) ||
	    !vdpa_ring_avail_idx(tlb, conf->driver, &w->avail) || behind(w->used, w->avail) > r.num)
		return false;
	memset(w->has, 0, r.num);
	for (uint16_t i = w->used; i != w->avail; i++)
		if (!count(w->has, r.num, avail_head(&r, i), 1))
			return false;
	w->known = w->used == w->avail || is_in_order(tlb, conf, &r, w->avail, w->used);
	return w->known;
}

/* What the device had at the look and got since, without what it has used. */
static bool
replay(const struct rings *r, struct vdpa_ring_watch *w, uint16_t avail, uint16_t used)
{
	uint16_t u = w->used, a = w->avail;

	if (!w->known || behind(u, used) > r->num || behind(a, avail) > r->num ||
	    behind(used, avail) > r->num)
		return false;
	/* A head may have come, gone and come again: each came before it went. */
	while (u != used || a != avail) {
		/* Read once: the guest may write there meanwhile. */
		uint32_t id = u != used ? used_id(r, u) : UINT32_MAX;

		if (id < r->num && w->has[id] != 0) {
			w->has[id] = 0;
			u++;
			continue;
		}
		if (a == avail || !count(w->has, r->num, avail_head(r, a++), 1))
			return false;
	}
	return true;
}

bool
vdpa_ring_left(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf,
	       struct vdpa_ring_watch *w, uint16_t *heads, struct vdpa_ring_left *left)
{
	uint16_t avail, used, want;
	struct rings r;
	uint32_t n = 0;

	if (!find_rings(tlb, conf, &r) || !vdpa_ring_used_idx(tlb, conf->device, &used) ||
	    !vdpa_ring_avail_idx(tlb, conf->driver, &avail) || !replay(&r, w, avail, used))
		return false;
	want = behind(used, avail);
	*left = (struct vdpa_ring_left){.n = want, .used = used, .last = true};
	/* By when each became available last, from the youngest. */
	for (uint32_t i = 1; i <= r.num && n < want; i++) {
		uint16_t head = avail_head(&r, (uint16_t)(avail - i));

		if (head >= r.num || w->has[head] == 0)
			continue;
		w->has[head] = 0;
		heads[want - ++n] = head;
		left->last = left->last && n == i;
	}
	/* Of one that the avail ring has forgotten it is not known when it came. */
	return n == want && memchr(w->has, 1, r.num) == NULL;
}
