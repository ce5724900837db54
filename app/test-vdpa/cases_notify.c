/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of notifications, both ways: interrupts that must come and those that must not, eventfds
 * swapped under load, kicks through the relay and through the doorbell page.
 */

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <linux/virtio_ring.h>

#include <vdpa.h>

#include "traffic.h"

/* Interrupts nobody asked for: one in so many buffers is forgiven, and a few at the start. */
#define SPURIOUS_PER  16u
#define SPURIOUS_FREE 2u
#define IDLE_MS	      300u
#define SETTLE_MS     50 /* for what is signalled late */
#define SWAPS	      200u
#define SWAP_STEPS    4u
#define CONFIG_MS     2000u

static int
by_interrupts(struct run *r, unsigned int flags)
{
	/* Bursts, single buffers, and a few at a time: devices signal after each burst. */
	static const unsigned int depths[] = {0, 1, 3};
	const struct session_params params = {.flags = flags | SESSION_MQ};
	struct session s;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < sizeof(depths) / sizeof(depths[0]); i++) {
		struct traffic x = {.units = 300, .depth = depths[i], .wait_calls = true};

		rc = traffic_run(r, &s, &x);
	}
	return run_finish(r, &s, rc);
}

static int
split_interrupts(struct run *r)
{
	return by_interrupts(r, 0);
}

static int
packed_interrupts(struct run *r)
{
	return by_interrupts(r, SESSION_PACKED);
}

static int
split_interrupts_event_index(struct run *r)
{
	return by_interrupts(r, SESSION_EVENT_IDX);
}

static int
packed_interrupts_event_index(struct run *r)
{
	return by_interrupts(r, SESSION_EVENT_IDX | SESSION_PACKED);
}

/* More interrupts than used buffers can explain? */
static int
check_spurious(struct run *r, const struct queue *q, uint64_t used, uint64_t allowed)
{
	if (q->calls > allowed)
		return run_fail(r,
				"queue %u: %llu spurious interrupts: %llu came, %llu buffers used",
				q->idx, (unsigned long long)(q->calls - allowed),
				(unsigned long long)q->calls, (unsigned long long)used);
	return 0;
}

static int
suppressed(struct run *r, unsigned int flags)
{
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	/* One at a time: a device that signals does so for each. */
	struct traffic x = {.units = 300, .depth = 1};
	struct session s;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; i < params.n; i++)
		ring_driver_no_calls(&s.q[i].ring);
	rc = traffic_run(r, &s, &x);
	for (uint16_t i = 0; rc == 0 && i < params.n; i++) {
		queue_take_calls(&s.q[i]);
		rc = check_spurious(r, &s.q[i], x.units, x.units / SPURIOUS_PER + SPURIOUS_FREE);
	}
	return run_finish(r, &s, rc);
}

static int
split_interrupts_suppressed(struct run *r)
{
	return suppressed(r, 0);
}

static int
packed_interrupts_suppressed(struct run *r)
{
	return suppressed(r, SESSION_PACKED);
}

static int
spurious_interrupts(struct run *r)
{
	const struct session_params params = {.n = target_lane_vqs(r->t)};
	struct traffic x = {.units = 200, .wait_calls = true};
	struct session s;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	rc = traffic_run(r, &s, &x);
	if (rc == 0) {
		uint64_t was[2] = {0, 0};

		/* A device may signal buffers that were taken before it did. */
		r->step = "waiting for interrupts of the last buffers";
		sleep_us((unsigned int)run_ms(r, SETTLE_MS) * 1000);
		for (uint16_t i = 0; i < params.n; i++) {
			queue_take_calls(&s.q[i]);
			was[i] = s.q[i].calls;
		}
		r->step = "counting interrupts of an idle device";
		sleep_us((unsigned int)run_quiet_ms(r, IDLE_MS) * 1000);
		for (uint16_t i = 0; i < params.n; i++)
			queue_take_calls(&s.q[i]);
		for (uint16_t i = 0; rc == 0 && i < params.n; i++) {
			rc = check_spurious(r, &s.q[i], 0, was[i] + SPURIOUS_FREE);
			if (rc == 0)
				rc = check_spurious(r, &s.q[i], x.units, x.units + SPURIOUS_FREE);
		}
	} else if (rc == RUN_SKIPPED) {
		/* Nothing is known of its traffic: an idle device is silent all the same. */
		sleep_us((unsigned int)run_quiet_ms(r, IDLE_MS) * 1000);
		queue_take_calls(&s.q[0]);
		r->verdict = 0;
		rc = check_spurious(r, &s.q[0], 0, SPURIOUS_FREE);
	}
	return run_finish(r, &s, rc);
}

/* One interrupt for a batch, at the buffer that was named, and none before. */
static int
event_index_batch(struct run *r, unsigned int flags)
{
	enum { BATCH = 16, ROUNDS = 20 };
	const struct session_params params = {.flags = SESSION_EVENT_IDX | flags,
					      .n = target_lane_vqs(r->t)};
	struct traffic x = {.depth = 1, .parts = 1, .no_arming = true};
	struct session s;
	struct queue *q;
	uint64_t calls = 0;
	int rc = run_need(r, params.flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	rc = traffic_begin(r, &s, &x);
	if (rc != 0)
		return run_finish(r, &s, rc);
	q = x.lanes[0].tx;
	for (int i = 0; rc == 0 && i < ROUNDS; i++) {
		uint64_t end;

		/* A chain takes several places of a packed ring: name the first of the next batch's
		 * last buffer only where it is known, else the first buffer. */
		if (q->ring.packed)
			ring_driver_want_calls(&q->ring);
		else
			ring_driver_want_call_at(
				&q->ring,
				(uint16_t)(ring_driver_used_pos(&q->ring, NULL) + BATCH - 1),
				false);
		queue_take_calls(q);
		q->calls = 0;
		x.units += BATCH;
		rc = traffic_finish(&x);
		end = waited_ns() + run_ms(r, TRAFFIC_STALL_MS) * 1000000;
		while (rc == 0 && q->calls == 0 && waited_ns() < end) {
			sleep_us(100);
			queue_take_calls(q);
		}
		if (rc == 0 && q->calls == 0)
			rc = run_fail(r,
				      "queue %u: no interrupt for the buffer that the event "
				      "index names",
				      q->idx);
		calls += q->calls;
	}
	/* It may come late for one batch and count for the next, but not one for each buffer. */
	if (rc == 0 && calls > ROUNDS + ROUNDS * BATCH / SPURIOUS_PER + SPURIOUS_FREE)
		rc = run_fail(r, "queue %u: %llu interrupts for %d batches with an event index",
			      q->idx, (unsigned long long)calls, ROUNDS);
	traffic_end(&x);
	return run_finish(r, &s, rc);
}

static int
split_event_index_batch(struct run *r)
{
	return event_index_batch(r, 0);
}

static int
packed_event_index_batch(struct run *r)
{
	return event_index_batch(r, SESSION_PACKED);
}

/* Another call eventfd; what the old one still says is not lost, as a consumer that masks an
 * interrupt does not lose it. */
static int
swap_call(struct run *r, struct session *s, struct queue *q)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), old = q->call_fd, rc;
	uint64_t count;

	if (fd < 0)
		return run_fail(r, "eventfd: %s", strerror(errno));
	rc = s->t->ops->set_call(s->t, q->idx, fd);
	if (rc < 0) {
		close(fd);
		return run_failed_call(r, rc, "swapping a call eventfd");
	}
	q->call_fd = fd;
	if (read(old, &count, sizeof(count)) == sizeof(count))
		eventfd_write(fd, count);
	close(old);
	return 0;
}

static int
swap_kick(struct run *r, struct session *s, struct queue *q)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), old = q->kick_fd, rc;

	if (fd < 0)
		return run_fail(r, "eventfd: %s", strerror(errno));
	rc = s->t->ops->set_kick(s->t, q->idx, fd);
	if (rc < 0) {
		close(fd);
		return run_failed_call(r, rc, "swapping a kick eventfd");
	}
	q->kick_fd = fd;
	close(old);
	return 0;
}

static int
swap_under_load(struct run *r, bool interrupts,
		int (*swap)(struct run *r, struct session *s, struct queue *q))
{
	const struct session_params params = {.n = target_lane_vqs(r->t),
					      .flags = SESSION_EVENT_IDX};
	struct traffic x = {.units = UINT64_MAX, .wait_calls = interrupts};
	struct session s;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	rc = traffic_begin(r, &s, &x);
	if (rc != 0)
		return run_finish(r, &s, rc);
	r->step = "swapping eventfds";
	for (unsigned int swaps = 0; rc == 0 && swaps < SWAPS && !run_expired(r); swaps++) {
		for (unsigned int i = 0; rc == 0 && i < SWAP_STEPS; i++) {
			rc = traffic_step(&x);
			if (rc == 0)
				traffic_wait(&x);
			rc = rc > 0 ? 0 : rc;
		}
		if (rc == 0)
			rc = swap(r, &s, &s.q[swaps % params.n]);
	}
	traffic_stop(&x);
	if (rc == 0)
		rc = traffic_finish(&x);
	traffic_end(&x);
	return run_finish(r, &s, rc);
}

static int
call_swap(struct run *r)
{
	return swap_under_load(r, true, swap_call);
}

static int
kick_swap(struct run *r)
{
	return swap_under_load(r, false, swap_kick);
}

static int
kicks(struct run *r, bool doorbell, unsigned int flags)
{
	const struct session_params params = {.flags = SESSION_MQ | flags};
	struct traffic x = {.units = 200, .depth = 1};
	struct session s;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && doorbell && i < s.nq; i++) {
		if (!s.q[i].running)
			continue;
		rc = session_use_doorbell(&s, i);
		if (rc < 0)
			rc = run_failed_call(r, rc, "the doorbell");
	}
	if (rc == 0)
		rc = traffic_run(r, &s, &x);
	return run_finish(r, &s, rc);
}

static int
kick_relay(struct run *r)
{
	return kicks(r, false, 0);
}

static int
kick_doorbell(struct run *r)
{
	return kicks(r, true, 0);
}

static int
kick_doorbell_data(struct run *r)
{
	return kicks(r, true, SESSION_NOTIFICATION_DATA);
}

static int
kick_doorbell_data_packed(struct run *r)
{
	return kicks(r, true, SESSION_NOTIFICATION_DATA | SESSION_PACKED);
}

static int
config_change(struct run *r)
{
	const struct session_params params = {.n = target_lane_vqs(r->t)};
	unsigned int before;
	struct session s;
	uint8_t was[256], is[256];
	size_t size = r->t->config_size < sizeof(was) ? r->t->config_size : sizeof(was);
	uint64_t end;
	int rc = run_start(r, &s, &params);

	if (rc != 0)
		return rc;
	r->step = "changing the configuration";
	for (int back = 0; rc == 0 && back < 2; back++) {
		rc = r->t->ops->get_config(r->t, 0, was, size);
		before = r->t->ops->config_changes(r->t);
		if (rc == 0)
			rc = r->t->ops->change_config(r->t, back == 1);
		if (rc < 0) {
			rc = run_failed_call(r, rc, "changing the configuration");
			break;
		}
		end = waited_ns() + run_ms(r, CONFIG_MS) * 1000000;
		while (r->t->ops->config_changes(r->t) == before && waited_ns() < end)
			sleep_us(1000);
		if (r->t->ops->config_changes(r->t) == before)
			rc = run_fail(r, "the configuration changed and nobody was told");
		else if (r->t->ops->get_config(r->t, 0, is, size) < 0 || memcmp(was, is, size) == 0)
			rc = run_fail(r, "told of a configuration change, it reads as before");
	}
	return run_finish(r, &s, rc);
}

const struct run_case notify_cases[] = {
	{"kick_relay", "each kick by eventfd reaches the device", 30000, 0, kick_relay},
	{"kick_doorbell", "each kick by the doorbell page reaches the device", 30000, 0,
	 kick_doorbell},
	{"kick_doorbell_data", "the same with NOTIFICATION_DATA, split ring", 30000, 0,
	 kick_doorbell_data},
	{"kick_doorbell_data_packed", "the same with NOTIFICATION_DATA, packed ring", 30000, 0,
	 kick_doorbell_data_packed},
	{"kick_swap", "kick eventfds swapped under load lose nothing", 30000, 0, kick_swap},
	{"split_interrupts", "an interrupt for used buffers, split ring", 30000, 0,
	 split_interrupts},
	{"packed_interrupts", "an interrupt for used buffers, packed ring", 30000, 0,
	 packed_interrupts},
	{"split_interrupts_event", "an interrupt where the event index asks, split ring", 30000, 0,
	 split_interrupts_event_index},
	{"packed_interrupts_event", "an interrupt where the event structure asks, packed ring",
	 30000, 0, packed_interrupts_event_index},
	{"split_interrupts_off", "no interrupts when suppressed, split ring", 30000, 0,
	 split_interrupts_suppressed},
	{"packed_interrupts_off", "no interrupts when suppressed, packed ring", 30000, 0,
	 packed_interrupts_suppressed},
	{"split_event_batch", "one interrupt for a batch, split ring", 30000, 0,
	 split_event_index_batch},
	{"packed_event_batch", "few interrupts for a batch, packed ring", 30000, 0,
	 packed_event_index_batch},
	{"spurious_interrupts", "no more interrupts than used buffers, none when idle", 30000, 0,
	 spurious_interrupts},
	{"call_swap", "call eventfds swapped under load lose no interrupt", 30000, 0, call_swap},
	{"config_change", "a change of the configuration is told", 15000, 0, config_change},
	{.name = NULL},
};
