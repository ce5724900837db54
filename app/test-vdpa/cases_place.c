/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Cases of where queues stand (virtio 1.2, 2.7 and 2.8): a device that is told a place starts
 * there, and one that stops says where, as its driver counts it. That is what a guest that moves
 * needs.
 */

#include <errno.h>

#include <vdpa.h>

#include "traffic.h"

/* Long enough to go round a ring, and past the end of the index. */
#define UNITS 300u

/* Whether each queue stands where the driver has it, which has taken all that is used. */
static int
compare(struct run *r, const struct session *s, const struct vdpa_vq_state *places)
{
	for (uint16_t i = 0; i < s->nq; i++) {
		const struct vdpa_vq_state *is = &places[i];
		struct vdpa_vq_state want;

		if (!s->q[i].used)
			continue;
		ring_driver_place(&s->q[i].ring, &want);
		if (!s->q[i].ring.packed) {
			if (is->split.avail_index != want.split.avail_index)
				return run_fail(
					r, "queue %u: it says that it stopped at %u, used up to %u",
					i, is->split.avail_index, want.split.avail_index);
			continue;
		}
		if (is->packed.last_avail_idx >= s->q[i].ring.num)
			return run_skip(r, "the device does not say where a packed queue stops");
		if (is->packed.last_avail_idx != want.packed.last_avail_idx ||
		    is->packed.last_used_idx != want.packed.last_used_idx ||
		    is->packed.last_avail_counter != want.packed.last_avail_counter ||
		    is->packed.last_used_counter != want.packed.last_used_counter)
			return run_fail(
				r,
				"queue %u: it says that it stopped at %u and %u (wrap counters %u "
				"and %u), used up to %u (%u)",
				i, is->packed.last_avail_idx, is->packed.last_used_idx,
				is->packed.last_avail_counter, is->packed.last_used_counter,
				want.packed.last_used_idx, want.packed.last_used_counter);
	}
	return 0;
}

/* Stop all queues, in the middle of traffic, and go on in a new start where they stood. */
static int
stop_and_go_on(struct run *r, struct session *s, struct traffic *x)
{
	struct vdpa_vq_state places[VDPA_VQ_MAX] = {0};
	int rc = traffic_stop_queues(x, places);

	if (rc == 0)
		rc = compare(r, s, places);
	if (rc != 0)
		return rc;
	r->step = "stopping the device";
	rc = session_stop(s);
	if (rc < 0)
		return run_failed_call(r, rc, "stopping the device");
	r->step = "starting the device where it stopped";
	rc = session_start_again(s, places);
	if (rc < 0)
		return run_fail(r, "starting the device where it stopped: %s",
				vdpa_error_message());
	/* What was posted before is there still. */
	for (uint16_t i = 0; i < s->nq; i++)
		if (s->q[i].used)
			queue_kick_always(&s->q[i]);
	x->progress_at = waited_ns();
	return 0;
}

/* From one place on, with two stops on the way. */
static int
from_place(struct run *r, unsigned int flags, const struct vdpa_vq_state *place)
{
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	struct vdpa_vq_state places[VDPA_VQ_MAX] = {0};
	struct session s;
	struct traffic x;
	int rc = session_init(&s, r->t, &params);

	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	r->step = "starting at a place";
	rc = session_start_at(&s, place);
	if (rc < 0)
		return run_finish(r, &s, run_failed_call(r, rc, "a queue that starts at a place"));
	rc = traffic_open_on(r, &s, &x);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < 2; i++) {
		rc = traffic_some(&x, UNITS);
		if (rc == 0)
			rc = stop_and_go_on(r, &s, &x);
	}
	/* And with nothing under way. */
	if (rc == 0)
		rc = traffic_drain(&x);
	if (rc == 0)
		rc = traffic_stop_queues(&x, places);
	if (rc == 0)
		rc = compare(r, &s, places);
	traffic_end(&x);
	return run_finish(r, &s, rc);
}

/* In this process a device says at once that it cannot. */
static int
need_places(struct run *r, unsigned int flags)
{
	int rc = run_need(r, flags);

	if (rc == 0 && r->t->trusting)
		rc = run_need_state(r, flags);
	return rc == 0 ? traffic_probe_echo(r) : rc;
}

/*
 * From one place on. A device that does not load places itself, whatever else it can, runs on a
 * shadow, which a queue leaves by its reset when the ring comes round: frames that come meanwhile
 * find no buffer and are dropped. Of a device behind vhost-user it is not known how it does that.
 */
static int
from_place_as_it_can(struct run *r, unsigned int flags, const struct vdpa_vq_state *place)
{
	const bool echoes = r->echoes;
	int rc;

	if (!run_loads_place(r, flags))
		r->echoes = false;
	rc = from_place(r, flags, place);
	r->echoes = echoes;
	return rc;
}

static int
split_places(struct run *r)
{
	/* The end of the index, of its half, and anywhere. */
	const uint16_t places[] = {1, 0x7fff, 0xffff, 0x10000 - UNITS / 2,
				   (uint16_t)(r->seed >> 8)};
	int rc = need_places(r, 0);

	for (unsigned int i = 0; rc == 0 && i < sizeof(places) / sizeof(places[0]); i++)
		rc = from_place_as_it_can(r, 0,
					  &(struct vdpa_vq_state){.split.avail_index = places[i]});
	return rc;
}

static int
packed_places(struct run *r)
{
	const struct session_params params = {.flags = SESSION_PACKED, .n = 1};
	uint32_t num;
	int rc = need_places(r, SESSION_PACKED);
	struct session s;

	if (rc != 0)
		return rc;
	/* How large its rings will be. */
	rc = session_init(&s, r->t, &params);
	if (rc < 0)
		return run_failed_call(r, rc, "no session");
	num = s.num;
	session_fini(&s);
	for (unsigned int i = 0; rc == 0 && i < 8; i++) {
		const uint32_t at[] = {0, num - 1, num / 2, (uint32_t)(r->seed % num)};
		const uint16_t pos = (uint16_t)at[i / 2];
		const uint8_t wrap = i % 2;

		/* The initial place is every other case's. */
		if (pos == 0 && wrap == 1)
			continue;
		rc = from_place_as_it_can(
			r, SESSION_PACKED,
			&(struct vdpa_vq_state){.packed = {.last_avail_idx = pos,
							   .last_used_idx = pos,
							   .last_avail_counter = wrap,
							   .last_used_counter = wrap}});
	}
	return rc;
}

const struct run_case place_cases[] = {
	{"split_places", "split queues start at any index, stop and say where", 60000, 0,
	 split_places},
	{"packed_places", "packed queues start at any place and wrap counter, stop and say where",
	 60000, 0, packed_places},
	{.name = NULL},
};
