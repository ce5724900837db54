/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of the data path: rings of each layout and with each feature, many times round, on every
 * queue. What is checked of every buffer is in traffic.h.
 */

#include "traffic.h"

/* Round a ring of 256 several times, and through the 16 bits of a split index once. */
#define WRAPS	   4u
#define SMALL_RING 64u
#define INDEX_WRAP 70000u

struct variant {
	unsigned int flags;
	bool indirect;
	uint32_t num;
	uint64_t units; /* of each lane; 0: WRAPS rings */
	unsigned int depth;
	uint32_t size;
	unsigned int parts;
	uint16_t queues; /* 0: all */
};

static int
run_variant(struct run *r, const struct variant *v)
{
	const struct session_params params = {.flags = v->flags, .num = v->num, .n = v->queues};
	struct traffic x = {
		.indirect = v->indirect, .depth = v->depth, .size = v->size, .parts = v->parts};
	struct session s;
	int rc = run_need(r, v->flags & ~SESSION_MQ);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	x.units = v->units != 0 ? v->units : (uint64_t)WRAPS * s.num;
	rc = traffic_run(r, &s, &x);
	return run_finish(r, &s, rc);
}

static int
split_wraps(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_MQ});
}

static int
packed_wraps(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_MQ | SESSION_PACKED});
}

static int
split_index_wraps(struct run *r)
{
	return run_variant(r, &(struct variant){.num = SMALL_RING,
						.units = INDEX_WRAP,
						.size = r->t->device_id == TARGET_NET ? 60 : 0,
						.parts = 1,
						.queues = target_lane_vqs(r->t)});
}

static int
packed_small_ring(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_PACKED,
						.num = SMALL_RING,
						.units = 100 * SMALL_RING,
						.queues = target_lane_vqs(r->t)});
}

/* Not a power of two, and no multiple of what a chain takes: chains cross the ring's end. */
static int
packed_odd_ring(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_PACKED,
						.num = 67,
						.units = 50 * 67,
						.queues = target_lane_vqs(r->t)});
}

static int
split_indirect(struct run *r)
{
	return run_variant(
		r, &(struct variant){.flags = SESSION_INDIRECT | SESSION_MQ, .indirect = true});
}

static int
packed_indirect(struct run *r)
{
	return run_variant(
		r, &(struct variant){.flags = SESSION_INDIRECT | SESSION_PACKED | SESSION_MQ,
				     .indirect = true});
}

static int
split_event_index(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_EVENT_IDX | SESSION_MQ});
}

static int
packed_event_index(struct run *r)
{
	return run_variant(
		r, &(struct variant){.flags = SESSION_EVENT_IDX | SESSION_PACKED | SESSION_MQ});
}

static int
split_in_order(struct run *r)
{
	return run_variant(r, &(struct variant){.flags = SESSION_IN_ORDER | SESSION_MQ});
}

static int
packed_in_order(struct run *r)
{
	return run_variant(
		r, &(struct variant){.flags = SESSION_IN_ORDER | SESSION_PACKED | SESSION_MQ});
}

static int
one_at_a_time(struct run *r)
{
	return run_variant(
		r, &(struct variant){.depth = 1, .units = 300, .queues = target_lane_vqs(r->t)});
}

static int
long_chains(struct run *r)
{
	return run_variant(
		r, &(struct variant){.parts = 8, .units = 512, .queues = target_lane_vqs(r->t)});
}

static int
multi_queue(struct run *r)
{
	if (target_data_vqs(r->t) <= target_lane_vqs(r->t))
		return run_skip(r, "the device has one %s",
				r->t->device_id == TARGET_NET ? "queue pair" : "queue");
	return run_variant(
		r, &(struct variant){.flags = SESSION_MQ | SESSION_EVENT_IDX | SESSION_INDIRECT,
				     .units = 2000});
}

/* Between and after bursts nothing is used that was not made available. */
static int
used_ring_valid(struct run *r, unsigned int flags)
{
	enum { BURSTS = 10, QUIET_US = 20000 };
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	struct traffic x = {.units = 0};
	struct session s;
	int rc = run_need(r, flags);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	rc = traffic_begin(r, &s, &x);
	for (int i = 0; rc == 0 && i < BURSTS; i++) {
		x.units += 64;
		x.progress_at = waited_ns();
		rc = traffic_finish(&x);
		if (rc != 0)
			break;
		sleep_us(QUIET_US);
		/* A receive queue may hold frames of somebody else: those are no error. */
		rc = traffic_step(&x);
		rc = rc > 0 ? 0 : rc;
	}
	traffic_end(&x);
	return run_finish(r, &s, rc);
}

static int
split_used_ring(struct run *r)
{
	return used_ring_valid(r, 0);
}

static int
packed_used_ring(struct run *r)
{
	return used_ring_valid(r, SESSION_PACKED);
}

const struct run_case data_cases[] = {
	{"split_wraps", "every queue, split ring, round the ring and round again", 60000, 0,
	 split_wraps},
	{"split_used_ring", "used index, ids and lengths are valid, also when idle, split ring",
	 30000, 0, split_used_ring},
	{"packed_used_ring", "the same, packed ring", 30000, 0, packed_used_ring},
	{"split_index_wraps", "a split ring past 65536 buffers", 60000, 0, split_index_wraps},
	{"split_indirect", "indirect tables in a split ring", 60000, 0, split_indirect},
	{"split_event_index", "kicks as a split ring's event index asks for them", 60000, 0,
	 split_event_index},
	{"split_in_order", "buffers used in order, split ring", 60000, 0, split_in_order},
	{"packed_wraps", "every queue, packed ring, round the ring and round again", 60000, 0,
	 packed_wraps},
	{"packed_small_ring", "a packed ring 100 times round", 60000, 0, packed_small_ring},
	{"packed_odd_ring", "a packed ring whose size is no power of two", 60000, 0,
	 packed_odd_ring},
	{"packed_indirect", "indirect tables in a packed ring", 60000, 0, packed_indirect},
	{"packed_event_index", "kicks as a packed ring's event structure asks for them", 60000, 0,
	 packed_event_index},
	{"packed_in_order", "buffers used in order, packed ring", 60000, 0, packed_in_order},
	{"one_at_a_time", "one buffer under way: each needs its kick", 30000, 0, one_at_a_time},
	{"long_chains", "chains of ten descriptors", 30000, 0, long_chains},
	{"multi_queue", "all queues at the same time", 60000, 0, multi_queue},
	{.name = NULL},
};
