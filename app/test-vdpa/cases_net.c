/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Cases of net devices (virtio 1.2, 5.1) but for their control queue. */

#include <string.h>

#include <vdpa.h>

#include "traffic.h"

static int
frame_sizes(struct run *r, uint32_t size)
{
	const struct session_params params = {.n = 2};
	struct traffic x = {.units = 300, .size = size};
	struct session s;
	int rc = run_need_echo(r);

	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	rc = traffic_run(r, &s, &x);
	return run_finish(r, &s, rc);
}

static int
smallest_frames(struct run *r)
{
	return frame_sizes(r, 60);
}

static int
largest_frames(struct run *r)
{
	return frame_sizes(r, 1514);
}

/* Buffers smaller than the frames: each takes several, and their number is told. */
static int
mergeable(struct run *r, unsigned int flags)
{
	const struct session_params params = {
		.flags = SESSION_MERGEABLE | flags, .n = 2, .room = 256};
	struct traffic x = {.units = 600, .size = 240};
	struct session s;
	int rc = run_need_echo(r);

	if (rc == 0)
		rc = run_need(r, params.flags);
	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	/* What is sent lies in slots of the same size; so the buffers to receive are cut. */
	s.rx_room = 64;
	rc = traffic_run(r, &s, &x);
	return run_finish(r, &s, rc);
}

static int
split_mergeable(struct run *r)
{
	return mergeable(r, 0);
}

static int
packed_mergeable(struct run *r)
{
	return mergeable(r, SESSION_PACKED);
}

static int
each_pair_alone(struct run *r)
{
	const struct session_params params = {.flags = SESSION_MQ};
	struct session s;
	int rc;

	if (target_data_vqs(r->t) < 4)
		return run_skip(r, "the device has one queue pair");
	rc = run_need_echo(r);
	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	for (uint16_t i = 0; rc == 0 && i < target_data_vqs(r->t) / 2; i++) {
		struct traffic x = {.units = 100, .first_lane = i, .nlanes = 1};

		rc = traffic_run(r, &s, &x);
	}
	return run_finish(r, &s, rc);
}

const struct run_case net_cases[] = {
	{"net_smallest_frames", "frames of 60 bytes come back whole", 30000, TARGET_NET,
	 smallest_frames},
	{"net_largest_frames", "frames of 1514 bytes come back whole", 30000, TARGET_NET,
	 largest_frames},
	{"net_mergeable_split", "a frame over several receive buffers, split ring", 30000,
	 TARGET_NET, split_mergeable},
	{"net_mergeable_packed", "a frame over several receive buffers, packed ring", 30000,
	 TARGET_NET, packed_mergeable},
	{"net_pairs", "each queue pair gets its own frames back", 30000, TARGET_NET,
	 each_pair_alone},
	{.name = NULL},
};
