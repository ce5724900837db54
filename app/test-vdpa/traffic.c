/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Traffic of any kind: lanes, posting, taking, stalls; see traffic.h. */

#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ring.h>

#include "traffic.h"

/* Bursts, so that a ring is now full and now nearly empty. */
#define POST_BURST	 16u
#define TAKE_BURST	 64
/* How long a device has that did not move, once it is kicked again or its ring is looked at. */
#define SECOND_CHANCE_MS 200u
/* What a device that is being stopped has sent may be on its way so long. */
#define REST_MS		 20u

static uint64_t
next_random(uint64_t *state)
{
	/* xorshift64*: every seed but 0 gives all 64-bit values. */
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return *state * 0x2545f4914f6cdd1dull;
}

void
pattern_fill(void *buf, uint32_t len, uint64_t seed)
{
	uint8_t *p = buf;

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t word = next_random(&seed);

		memcpy(p + i, &word, len - i < 8 ? len - i : 8);
	}
}

uint32_t
pattern_check(const void *buf, uint32_t len, uint64_t seed)
{
	const uint8_t *p = buf;

	seed = seed * 0x9e3779b97f4a7c15ull + 1;
	for (uint32_t i = 0; i < len; i += 8) {
		uint64_t word = next_random(&seed);
		uint32_t n = len - i < 8 ? len - i : 8;

		if (memcmp(p + i, &word, n) != 0) {
			for (uint32_t k = 0; k < n; k++)
				if (p[i + k] != ((uint8_t *)&word)[k])
					return i + k;
		}
	}
	return len;
}

static const struct traffic_kind *
kind_of(const struct traffic *x)
{
	return x->s->t->device_id == TARGET_NET ? &traffic_net : &traffic_block;
}

int
traffic_post(struct traffic *x, struct queue *q, uint32_t slot, const struct ring_buf *bufs,
	     unsigned int n)
{
	int id;

	slot_remember(x->s, q, slot);
	q->noted[slot] = x->notes;
	if (x->indirect && n > 1)
		id = ring_driver_post_indirect(&q->ring, bufs, n,
					       slot_iova(x->s, q, slot) + SLOT_TABLE);
	else
		id = ring_driver_post(&q->ring, bufs, n);
	if (id < 0)
		return -1;
	/* The table is the driver's too: it must come back as it was given. */
	if (x->indirect && n > 1)
		memcpy(q->shadow + (size_t)slot * x->s->slot_size + SLOT_TABLE,
		       slot_va(x->s, q, slot) + SLOT_TABLE, 16 * (size_t)n);
	q->slot_of[id] = slot;
	return id;
}

static void
fill_rx(struct traffic *x, struct lane *l)
{
	struct ring_buf bufs[SLOT_PARTS_MAX];

	while (l->rx->nfree > 0) {
		uint32_t slot = l->rx->free[l->rx->nfree - 1];
		unsigned int n = kind_of(x)->make_rx(x, l, slot, bufs);

		if (traffic_post(x, l->rx, slot, bufs, n) < 0)
			return;
		l->rx->nfree--;
	}
}

static void
post_lane(struct traffic *x, struct lane *l)
{
	struct ring_buf bufs[SLOT_PARTS_MAX];
	unsigned int n;

	if (!l->tx->running)
		return;
	if (l->rx != NULL && l->rx->running) {
		fill_rx(x, l);
		queue_kick(l->rx);
	}
	for (unsigned int i = 0; i < POST_BURST && l->sent < x->units; i++) {
		uint32_t slot;

		/* What is not yet back counts as under way too: the echo needs room. */
		if (l->sent - (x->echo ? l->received : l->completed) >= x->depth)
			break;
		if (l->tx->nfree == 0)
			break;
		slot = l->tx->free[l->tx->nfree - 1];
		n = kind_of(x)->make(x, l, slot, l->sent, bufs);
		if (n == 0)
			break;
		if (traffic_post(x, l->tx, slot, bufs, n) < 0)
			break;
		if (kind_of(x)->made != NULL)
			kind_of(x)->made(x, l, l->sent);
		l->tx->nfree--;
		l->sent++;
	}
	queue_kick(l->tx);
}

/* With event indexes: an interrupt for the next used buffer. Otherwise there is one for each. */
static void
arm_calls(struct queue *q)
{
	if (!(q->ring.features & RING_FEATURE(VIRTIO_RING_F_EVENT_IDX)))
		return;
	ring_driver_want_calls(&q->ring);
}

/* What the device wrote of a chain that it used at ring position pos: what differs from the copy
 * of the slot, and the used entry. */
static void
note_written(struct traffic *x, const struct queue *q, uint32_t slot, uint16_t pos)
{
	const uint8_t *was = q->shadow + (size_t)slot * x->s->slot_size,
		      *is = slot_va(x->s, q, slot);
	const struct ring_driver *ring = &q->ring;

	for (uint32_t i = 0; i < x->s->slot_size; i++)
		if (was[i] != is[i])
			page_set_add(x->wrote, slot_iova(x->s, q, slot) + i, 1);
	if (ring->packed) {
		page_set_add(x->wrote, ring->desc + pos * sizeof(struct vring_packed_desc),
			     sizeof(struct vring_packed_desc));
		return;
	}
	page_set_add(x->wrote, ring->dev + offsetof(struct vring_used, idx), sizeof(uint16_t));
	page_set_add(x->wrote,
		     ring->dev + offsetof(struct vring_used, ring) +
			     (pos & (ring->num - 1)) * sizeof(struct vring_used_elem),
		     sizeof(struct vring_used_elem));
}

/* Take and check what is used, up to max. */
static int
drain_queue(struct traffic *x, struct lane *l, struct queue *q, int max)
{
	int n;

	for (n = 0; n < max; n++) {
		uint32_t len, slot;
		uint16_t id, pos = ring_driver_used_pos(&q->ring, NULL);
		int rc = ring_driver_take(&q->ring, &id, &len);

		if (rc < 0)
			return run_fail(x->r, "queue %u: %s", q->idx, ring_driver_bad(&q->ring));
		if (rc == 0)
			break;
		slot = q->slot_of[id];
		if (x->wrote != NULL && q->noted[slot] == x->notes)
			note_written(x, q, slot, pos);
		rc = q == l->tx ? kind_of(x)->check(x, l, slot, len)
				: kind_of(x)->check_rx(x, l, slot, len);
		if (rc != 0)
			return rc;
		q->free[q->nfree++] = slot;
		if (q == l->tx)
			l->completed++;
	}
	return n;
}

static int
take_queue(struct traffic *x, struct lane *l, struct queue *q)
{
	int total = 0, n;

	if (!q->running)
		return 0;
	if (!x->wait_calls)
		return drain_queue(x, l, q, TAKE_BURST);
	if (queue_take_calls(q) == 0)
		return 0;
	do {
		n = drain_queue(x, l, q, INT_MAX);
		arm_calls(q);
		total += n;
	} while (n > 0);
	return n < 0 ? n : total;
}

int
traffic_step(struct traffic *x)
{
	int total = 0;

	x->steps++;
	for (uint16_t i = 0; i < x->nlanes; i++) {
		struct lane *l = &x->lanes[i];
		int n;

		post_lane(x, l);
		n = take_queue(x, l, l->tx);
		if (n < 0)
			return n;
		total += n;
		if (l->rx != NULL) {
			n = take_queue(x, l, l->rx);
			if (n < 0)
				return n;
			total += n;
		}
	}
	if (total > 0)
		x->progress_at = waited_ns();
	return total;
}

static bool
lane_done(const struct traffic *x, const struct lane *l)
{
	return l->sent >= x->units && l->completed == l->sent &&
	       (!x->echo || l->received == l->sent);
}

bool
traffic_done(const struct traffic *x)
{
	for (uint16_t i = 0; i < x->nlanes; i++)
		if (!lane_done(x, &x->lanes[i]))
			return false;
	return true;
}

void
traffic_stop(struct traffic *x)
{
	/* Each lane ends at what it has sent. */
	x->units = 0;
	x->progress_at = waited_ns();
}

static nfds_t
wait_for(struct traffic *x, struct queue *q, struct pollfd *fd)
{
	if (!q->running)
		return 0;
	if (!x->wait_calls) {
		queue_take_calls(q);
		if (!x->no_arming)
			arm_calls(q);
	}
	*fd = (struct pollfd){.fd = q->call_fd, .events = POLLIN};
	return 1;
}

void
traffic_wait(struct traffic *x)
{
	struct pollfd fds[64];
	nfds_t n = 0;

	for (uint16_t i = 0; i < x->nlanes && n + 2 <= 64; i++) {
		struct lane *l = &x->lanes[i];

		n += wait_for(x, l->tx, &fds[n]);
		if (l->rx != NULL)
			n += wait_for(x, l->rx, &fds[n]);
	}
	/* Between the last look and this one an interrupt may have been taken: 1 ms at most. */
	poll(fds, n, 1);
}

/* What is different once a device that stood still is kicked again, or its ring looked at. */
static const char *
why_stalled(struct traffic *x)
{
	bool calls = x->wait_calls;
	uint64_t end;
	int n;

	x->wait_calls = false;
	n = traffic_step(x);
	if (calls && n > 0)
		return "the ring has used buffers, but no interrupt came for them";
	for (uint16_t i = 0; i < x->nlanes; i++) {
		if (x->lanes[i].tx->running)
			queue_kick_always(x->lanes[i].tx);
		if (x->lanes[i].rx != NULL && x->lanes[i].rx->running)
			queue_kick_always(x->lanes[i].rx);
	}
	end = waited_ns() + run_ms(x->r, SECOND_CHANCE_MS) * 1000000;
	while (n == 0 && waited_ns() < end) {
		traffic_wait(x);
		n = traffic_step(x);
	}
	x->wait_calls = calls;
	return n > 0 ? "it moves again after one more kick: a kick was lost, or the device asked "
		       "for "
		       "too few"
		     : "nor after one more kick";
}

static int
stalled(struct traffic *x)
{
	const struct lane *l = x->lanes;
	const char *why;
	int rc = run_check_alive(x->r);

	if (rc != 0)
		return rc;
	for (uint16_t i = 0; i < x->nlanes; i++)
		if (!lane_done(x, &x->lanes[i])) {
			l = &x->lanes[i];
			break;
		}
	if (x->echo && l->completed == l->sent) {
		struct lane was = *l;

		why = why_stalled(x);
		return run_fail(x->r,
				"queue %u: of %llu frames sent on queue %u %llu came back within "
				"%llu ms; %s",
				l->rx->idx, (unsigned long long)was.sent, l->tx->idx,
				(unsigned long long)was.received,
				(unsigned long long)run_ms(x->r, TRAFFIC_STALL_MS), why);
	} else {
		struct lane was = *l;

		why = why_stalled(x);
		return run_fail(
			x->r, "queue %u: no progress for %llu ms: %llu of %llu buffers used; %s",
			l->tx->idx, (unsigned long long)run_ms(x->r, TRAFFIC_STALL_MS),
			(unsigned long long)was.completed, (unsigned long long)was.sent, why);
	}
}

int
traffic_finish(struct traffic *x)
{
	x->r->step = "moving data";
	while (!traffic_done(x)) {
		int n = traffic_step(x);

		if (n < 0)
			return n;
		if (n > 0)
			continue;
		if (waited_ns() - x->progress_at > run_ms(x->r, TRAFFIC_STALL_MS) * 1000000)
			return stalled(x);
		if (run_expired(x->r))
			return run_fail(x->r, "the case's time is over while data moves slowly");
		traffic_wait(x);
	}
	return 0;
}

void
traffic_end(struct traffic *x)
{
	free(x->lanes);
	x->lanes = NULL;
}

int
traffic_begin(struct run *r, struct session *s, struct traffic *x)
{
	bool net = s->t->device_id == TARGET_NET;
	uint16_t per_lane = target_lane_vqs(s->t), all = s->params.n / per_lane;
	int rc;

	x->r = r;
	x->s = s;
	x->lanes = NULL;
	if (!net && s->t->device_id != TARGET_BLOCK)
		return run_skip(r, "no traffic is known for device id %u", s->t->device_id);
	x->echo = net && r->echoes;
	x->depth = x->depth != 0 ? x->depth : s->params.slots / 2;
	if (x->nlanes == 0)
		x->nlanes = (uint16_t)(all - x->first_lane);
	x->lanes = calloc(x->nlanes, sizeof(*x->lanes));
	if (x->lanes == NULL)
		return run_fail(r, "out of memory");
	for (uint16_t i = 0; i < x->nlanes; i++) {
		uint16_t idx = (uint16_t)(s->params.first + (x->first_lane + i) * per_lane);

		x->lanes[i].number = (uint16_t)(x->first_lane + i);
		x->lanes[i].tx = &s->q[net ? idx + 1 : idx];
		x->lanes[i].rx = net ? &s->q[idx] : NULL;
	}
	x->progress_at = waited_ns();
	rc = kind_of(x)->begin(x);
	if (rc != 0)
		traffic_end(x);
	return rc;
}

int
traffic_run(struct run *r, struct session *s, struct traffic *x)
{
	int rc = traffic_begin(r, s, x);

	if (rc == 0)
		rc = traffic_finish(x);
	traffic_end(x);
	return rc;
}

int
traffic_some(struct traffic *x, uint64_t n)
{
	uint64_t target = x->lanes[0].completed + n;

	while (x->lanes[0].completed < target) {
		int rc = traffic_step(x);

		if (rc < 0)
			return rc;
		if (rc == 0)
			traffic_wait(x);
		if (waited_ns() - x->progress_at > run_ms(x->r, TRAFFIC_STALL_MS) * 1000000)
			return stalled(x);
		if (run_expired(x->r))
			return run_fail(x->r, "the case's time is over while data moves slowly");
	}
	return 0;
}

int
traffic_open_on(struct run *r, struct session *s, struct traffic *x)
{
	int rc;

	*x = (struct traffic){.units = UINT64_MAX};
	rc = traffic_begin(r, s, x);
	return rc == 0 ? 0 : run_finish(r, s, rc);
}

int
traffic_open(struct run *r, struct session *s, struct traffic *x,
	     const struct session_params *params)
{
	int rc = run_start(r, s, params);

	return rc != 0 ? rc : traffic_open_on(r, s, x);
}

int
traffic_drain(struct traffic *x)
{
	int rc;

	traffic_stop(x);
	rc = traffic_finish(x);
	x->units = UINT64_MAX;
	return rc;
}

void
traffic_note_anew(struct traffic *x)
{
	page_set_clear(x->wrote);
	if (x->lanes[0].rx != NULL && !x->echo)
		x->notes++;
}

int
traffic_take_rest(struct traffic *x)
{
	uint64_t end = now_ns() + run_ms(x->r, REST_MS) * 1000000;
	int total, n;

	do {
		total = 0;
		for (uint16_t i = 0; i < x->nlanes; i++) {
			struct lane *l = &x->lanes[i];

			n = drain_queue(x, l, l->tx, INT_MAX);
			if (n >= 0 && l->rx != NULL) {
				total += n;
				n = drain_queue(x, l, l->rx, INT_MAX);
			}
			if (n < 0)
				return n;
			total += n;
		}
		if (total > 0)
			end = now_ns() + run_ms(x->r, REST_MS) * 1000000;
		else
			sleep_us(1000);
	} while (now_ns() < end && !run_expired(x->r));
	return 0;
}

static int
stop_queue(struct traffic *x, struct queue *q, struct vdpa_vq_state *places)
{
	int rc;

	x->r->step = "stopping a queue";
	rc = session_stop_vq(x->s, q->idx, &places[q->idx]);
	return rc < 0 ? run_failed_call(x->r, rc, "stopping a queue") : 0;
}

int
traffic_stop_queues(struct traffic *x, struct vdpa_vq_state *places)
{
	int rc = 0;

	for (uint16_t i = 0; rc == 0 && i < x->nlanes; i++)
		rc = stop_queue(x, x->lanes[i].tx, places);
	/* Frames that were sent come back while they still can. */
	if (rc == 0)
		rc = traffic_take_rest(x);
	for (uint16_t i = 0; rc == 0 && i < x->nlanes && x->lanes[i].rx != NULL; i++)
		rc = stop_queue(x, x->lanes[i].rx, places);
	return rc == 0 ? traffic_take_rest(x) : rc;
}

int
traffic_close(struct run *r, struct session *s, struct traffic *x, int rc)
{
	if (rc == 0)
		rc = traffic_drain(x);
	traffic_end(x);
	return run_finish(r, s, rc);
}
