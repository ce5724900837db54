/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Chains that go from an inflight area back to the ring that they came from. A ring still has what
 * was taken and not returned as long as chains were returned in their order: split, its avail
 * entries are overwritten only when there is room; packed, a used descriptor is written in the
 * place of the oldest chain.
 */

#include <stdlib.h>

#include <rte_byteorder.h>

#include "inflight_priv.h"

/* Whether the ring has the chains of these entries, one behind the other from what was used last on
 * to where the next one is taken. */
static bool
split_has(const struct vdpa_virtqueue *vq, const struct vdpa_vq_resubmit *list, uint32_t n)
{
	if ((uint16_t)(vq->last_avail - vq->last_used) != n)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		const uint16_t *at =
			&vq->avail->ring[(uint16_t)(vq->last_used + i) & (vq->num - 1)];

		if (rte_le_to_cpu_16(__atomic_load_n(at, __ATOMIC_RELAXED)) != list[i].entry)
			return false;
	}
	return true;
}

/* The same: a slot that was used since has other flags. */
static bool
packed_has(const struct vdpa_virtqueue *vq, const struct vdpa_vq_resubmit *list, uint32_t n)
{
	const struct vdpa_vq_tracker *t = vq->tracker;
	uint32_t pos = vq->last_used, slots = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint16_t e = list[i].entry;
		const uint16_t ndesc = t->ndesc[e];

		slots += ndesc;
		if (ndesc == 0 || slots > t->num)
			return false;
		for (uint16_t k = 0; k < ndesc; k++, e = t->next[e]) {
			const struct inflight_packed_desc *s;
			uint64_t word;

			if (e >= t->num)
				return false;
			s = &t->packed->desc[e];
			word = rte_le_to_cpu_64(
				__atomic_load_n(&vq->desc[pos].word, __ATOMIC_RELAXED));
			if (word != ((uint64_t)s->flags << 48 | (uint64_t)s->id << 32 | s->len))
				return false;
			pos = pos + 1 == t->num ? 0 : pos + 1;
		}
	}
	return pos == vq->last_avail &&
	       (vq->last_used + slots >= t->num) == (vq->avail_wrap != vq->used_wrap);
}

/* What the area has, in that order. */
static uint32_t
list_taken(const struct vdpa_virtqueue *vq, struct vdpa_vq_resubmit *list)
{
	const struct vdpa_vq_tracker *t = vq->tracker;
	uint32_t n = 0;

	for (uint32_t i = 0; i < t->num; i++) {
		const struct inflight_packed_desc *packed = &t->packed->desc[i];
		const struct inflight_split_desc *split = &t->split->desc[i];

		if (vq->packed ? packed->inflight : split->inflight)
			list[n++] = (struct vdpa_vq_resubmit){
				.counter = vq->packed ? packed->counter : split->counter,
				.entry = (uint16_t)i};
	}
	qsort(list, n, sizeof(*list), vdpa_vq_resubmit_compare);
	return n;
}

static int
put_back(struct vdpa_virtqueue *vq)
{
	struct vdpa_vq_tracker *t = vq->tracker;
	struct vdpa_vq_resubmit *list;
	uint32_t n;
	bool has;

	if (t->n_pending > 0)
		return -EBUSY;
	list = calloc(t->num, sizeof(*list));
	if (list == NULL)
		return -ENOMEM;
	n = list_taken(vq, list);
	has = vq->packed ? packed_has(vq, list, n) : split_has(vq, list, n);
	/* What was compared with a page that was lost is zeroes. */
	has = has && vdpa_vq_check_fault(vq) == 0;
	for (uint32_t i = n; has && i-- > 0;)
		vdpa_vq_tracker_release(vq, list[i].entry);
	if (has && vq->packed)
		vdpa_vq_packed_set_avail(vq, vq->last_used, vq->used_wrap);
	else if (has)
		vq->last_avail = vq->last_used;
	if (has)
		t->n_resubmit = t->next_resubmit = 0;
	free(list);
	return has ? 0 : -EBUSY;
}

unsigned int
vdpa_vq_left(const struct vdpa_virtqueue *vq)
{
	return vq->status == VDPA_VQ_RUNNING && vq->tracker != NULL ? vdpa_vq_tracker_left(vq) : 0;
}

int
vdpa_vq_put_back(struct vdpa_virtqueue *vq, struct vdpa_vq_state *state)
{
	int ret;

	if (vq->status != VDPA_VQ_RUNNING || vq->tracker == NULL)
		return -EINVAL;
	ret = put_back(vq);
	return ret < 0 ? ret : vdpa_vq_get_state(vq, state);
}
