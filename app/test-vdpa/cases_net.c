/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Cases of net devices (virtio 1.2, 5.1). */

#include <string.h>

#include <linux/virtio_net.h>

#include <vdpa.h>

#include "traffic.h"

#define CTRL_MS 2000u

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

/* One command of the control queue, which is the last one; its answer, or a negative verdict. */
static int
command(struct run *r, struct session *s, uint8_t class, uint8_t cmd, const void *data,
	uint32_t len)
{
	struct queue *q = &s->q[s->nq - 1];
	uint8_t *va = slot_va(s, q, 0);
	uint64_t iova = slot_iova(s, q, 0), end = now_ns() + run_ms(r, CTRL_MS) * 1000000;
	const struct ring_buf bufs[] = {
		{.iova = iova + SLOT_HEADER, .len = 2},
		{.iova = iova + SLOT_DATA, .len = len},
		{.iova = iova + SLOT_STATUS, .len = 1, .write = true},
	};
	uint32_t got;
	uint16_t id;
	int rc = 0;

	va[SLOT_HEADER] = class;
	va[SLOT_HEADER + 1] = cmd;
	va[SLOT_STATUS] = 0xff;
	memcpy(va + SLOT_DATA, data, len);
	ring_driver_post(&q->ring, bufs, 3);
	queue_kick(q);
	while (rc == 0 && now_ns() < end) {
		rc = ring_driver_take(&q->ring, &id, &got);
		if (rc == 0)
			sleep_us(200);
	}
	if (rc < 0)
		return run_fail(r, "control queue: %s", q->ring.bad);
	if (rc == 0)
		return run_fail(r, "control queue: class %u command %u is not answered", class,
				cmd);
	return va[SLOT_STATUS];
}

static int
control_queue(struct run *r)
{
	const struct session_params params = {.flags = SESSION_CTRL_VQ | SESSION_MQ,
					      .n = r->t->nvqs};
	const uint8_t on = 1;
	const uint16_t too_many = 0x8001;
	struct session s;
	int rc;

	if (r->t->nvqs % 2 == 0)
		return run_skip(r, "the control queue is not the front end's");
	rc = run_need(r, SESSION_CTRL_VQ);
	if (rc == 0)
		rc = run_start(r, &s, &params);
	if (rc != 0)
		return rc;
	r->step = "giving commands to the control queue";
	if (target_has(r->t, VIRTIO_NET_F_CTRL_RX)) {
		rc = command(r, &s, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, &on, 1);
		if (rc > 0)
			rc = run_fail(r, "control queue: promiscuous mode is answered %d", rc);
	}
	if (rc == 0) {
		rc = command(r, &s, 0xee, 0, &on, 1);
		rc = rc == VIRTIO_NET_ERR ? 0
		     : rc < 0		  ? rc
			      : run_fail(r, "control queue: an unknown class is answered %d", rc);
	}
	if (rc == 0 && target_has(r->t, VIRTIO_NET_F_MQ)) {
		rc = command(r, &s, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &too_many,
			     2);
		rc = rc == VIRTIO_NET_ERR ? 0
		     : rc < 0		  ? rc
			      : run_fail(r, "control queue: 0x8001 pairs are answered %d", rc);
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
	{"net_control_queue", "control commands are answered, unknown ones with an error", 15000,
	 TARGET_NET, control_queue},
	{.name = NULL},
};
