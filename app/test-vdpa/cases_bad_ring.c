/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of rings that make no sense: the device may drop what is in them or fail, and works again
 * after a reset.
 */

#include <linux/virtio_ring.h>

#include <vdpa.h>

#include "traffic.h"

/* How long a device has with such a ring. */
#define BAD_MS 500u

enum bad { BAD_ADDRESS, BAD_LENGTH, BAD_HEAD, BAD_LOOP, BAD_AVAIL, BAD_INDIRECT };

static void
post_bad(struct session *s, struct queue *q, enum bad bad)
{
	uint64_t top = s->mem.region[s->mem.n - 1].iova + s->mem.region[s->mem.n - 1].size;
	struct ring_buf bufs[2] = {
		{.iova = slot_iova(s, q, 0) + SLOT_HEADER, .len = 16},
		{.iova = slot_iova(s, q, 0) + SLOT_DATA, .len = 512},
	};

	switch (bad) {
	case BAD_ADDRESS:
		bufs[0].iova = top + (64ULL << 20);
		ring_driver_post(&q->ring, bufs, 2);
		break;
	case BAD_LENGTH:
		bufs[1].iova = top - 256;
		bufs[1].len = 1u << 20;
		ring_driver_post(&q->ring, bufs, 2);
		break;
	case BAD_HEAD:
		ring_driver_post(&q->ring, bufs, 2);
		ring_driver_avail(&q->ring)->ring[0] = (uint16_t)(s->num + 5);
		break;
	case BAD_LOOP:
		ring_driver_post(&q->ring, bufs, 2);
		ring_driver_desc(&q->ring)[1].flags |= VRING_DESC_F_NEXT;
		ring_driver_desc(&q->ring)[1].next = 0;
		break;
	case BAD_AVAIL:
		ring_driver_post(&q->ring, bufs, 2);
		__atomic_store_n(&ring_driver_avail(&q->ring)->idx, (uint16_t)(s->num * 3),
				 __ATOMIC_RELEASE);
		break;
	case BAD_INDIRECT:
		if (q->ring.packed) {
			bufs[0].iova = top + (64ULL << 20);
			ring_driver_post(&q->ring, bufs, 1);
			break;
		}
		ring_driver_post(&q->ring, bufs, 1);
		ring_driver_desc(&q->ring)[0].addr = top + (64ULL << 20);
		ring_driver_desc(&q->ring)[0].len = 32;
		ring_driver_desc(&q->ring)[0].flags = VRING_DESC_F_INDIRECT;
		break;
	}
}

static int
bad_ring(struct run *r, enum bad bad, unsigned int flags)
{
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	struct traffic x = {.units = 200};
	struct session s;
	struct queue *q;
	uint64_t end_at;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	q = &s.q[params.n - 1];
	r->step = "giving it a ring that makes no sense";
	/* Disabled first would be too kind: the device meets it while it runs. */
	post_bad(&s, q, bad);
	queue_kick_always(q);
	end_at = now_ns() + run_quiet_ms(r, BAD_MS) * 1000000;
	while (now_ns() < end_at) {
		char why[256] = "";

		r->t->ops->failure(r->t, why, sizeof(why));
		if (why[0] != '\0')
			break;
		sleep_us(10000);
	}
	r->step = "resetting it after a ring that makes no sense";
	if (session_stop(&s) < 0)
		return run_finish(r, &s,
				  run_fail(r, "after a bad ring the device does not reset: %s",
					   vdpa_error_message()));
	if (session_start(&s) < 0)
		return run_finish(r, &s,
				  run_fail(r, "after a bad ring the device does not start: %s",
					   vdpa_error_message()));
	rc = r->t->device_id == TARGET_NET || r->t->device_id == TARGET_BLOCK
		     ? traffic_run(r, &s, &x)
		     : 0;
	return run_finish(r, &s, rc);
}

static int
bad_address(struct run *r)
{
	return bad_ring(r, BAD_ADDRESS, 0);
}

static int
bad_address_packed(struct run *r)
{
	return bad_ring(r, BAD_ADDRESS, SESSION_PACKED);
}

static int
bad_length(struct run *r)
{
	return bad_ring(r, BAD_LENGTH, 0);
}

static int
bad_head(struct run *r)
{
	return bad_ring(r, BAD_HEAD, 0);
}

static int
bad_loop(struct run *r)
{
	return bad_ring(r, BAD_LOOP, 0);
}

static int
bad_avail_index(struct run *r)
{
	return bad_ring(r, BAD_AVAIL, 0);
}

static int
bad_indirect(struct run *r)
{
	return bad_ring(r, BAD_INDIRECT, SESSION_INDIRECT);
}

const struct run_case bad_ring_cases[] = {
	{"bad_address", "recovers from a descriptor outside memory", 15000, 0, bad_address},
	{"bad_address_packed", "the same, packed ring", 15000, 0, bad_address_packed},
	{"bad_length", "recovers from a descriptor that leaves memory", 15000, 0, bad_length},
	{"bad_head", "recovers from a head beyond the descriptor table", 15000, 0, bad_head},
	{"bad_loop", "recovers from a chain without an end", 15000, 0, bad_loop},
	{"bad_avail_index", "recovers from an avail index that jumps", 15000, 0, bad_avail_index},
	{"bad_indirect", "recovers from an indirect table outside memory", 15000, 0, bad_indirect},
	{.name = NULL},
};
