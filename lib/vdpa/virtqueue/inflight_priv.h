/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* An inflight area, and what is known of it: for inflight.c and put_back.c. */

#ifndef VDPA_INFLIGHT_PRIV_H
#define VDPA_INFLIGHT_PRIV_H

#include "virtqueue_priv.h"

struct inflight_split_desc {
	uint8_t inflight;
	uint8_t padding[5];
	uint16_t next;
	uint64_t counter;
};

struct inflight_split {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t last_batch_head;
	uint16_t used_idx;
	struct inflight_split_desc desc[];
};

struct inflight_packed_desc {
	uint8_t inflight;
	uint8_t padding;
	uint16_t next;
	uint16_t last;
	uint16_t num;
	uint64_t counter;
	uint16_t id;
	uint16_t flags;
	uint32_t len;
	uint64_t addr;
};

struct inflight_packed {
	uint64_t features;
	uint16_t version;
	uint16_t desc_num;
	uint16_t free_head;
	uint16_t old_free_head;
	uint16_t used_idx;
	uint16_t old_used_idx;
	uint8_t used_wrap_counter;
	uint8_t old_used_wrap_counter;
	uint8_t padding[7];
	struct inflight_packed_desc desc[];
};

_Static_assert(sizeof(struct inflight_split_desc) == 16, "DescStateSplit");
_Static_assert(offsetof(struct inflight_split, desc) == 16, "QueueRegionSplit");
_Static_assert(sizeof(struct inflight_packed_desc) == 32, "DescStatePacked");
_Static_assert(offsetof(struct inflight_packed, desc) == 32, "QueueRegionPacked");

struct vdpa_vq_resubmit {
	uint64_t counter;
	uint16_t entry;
};

struct vdpa_vq_tracker {
	uint32_t num;
	union {
		struct inflight_split *split;
		struct inflight_packed *packed;
	};
	uint64_t counter;   /* of the next chain */
	uint64_t first_pop; /* counters.popped at set-up */
	uint32_t n_resubmit;
	uint32_t next_resubmit;
	uint32_t n_pending;
	uint16_t start_avail; /* where the ring goes on after the chains of the area */
	bool start_wrap;
	uint16_t batch_head; /* split */
	uint16_t free_head;  /* packed; num: none free */
	uint16_t cursor;     /* packed: entry for the next descriptor, and for the one before */
	uint16_t cursor_last;
	struct vdpa_vq_resubmit *resubmit; /* in order of their counters */
	uint16_t *popped;		   /* entries by number of the pop, modulo num */
	uint16_t *pending;		   /* entries pushed and not flushed */
	uint16_t *next;			   /* packed, by entry: as in the area */
	uint16_t *last;
	uint16_t *ndesc;
};

/* For qsort(3): the order in which chains were taken. */
int vdpa_vq_resubmit_compare(const void *a, const void *b);
/* A chain was not taken after all. */
void vdpa_vq_tracker_release(struct vdpa_virtqueue *vq, uint16_t entry);

#endif /* VDPA_INFLIGHT_PRIV_H */
