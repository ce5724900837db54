/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Cases of a device that is suspended as a whole and goes on, without the front end's asking for
 * where its queues stand. */

#include "traffic.h"

/* How long a device is watched that must do nothing. */
#define QUIET_MS 100u

/* Suspend it, let the guest make more available, and see that nothing is used. */
static int
stand_still(struct run *r, struct traffic *x)
{
	uint64_t was;
	int rc;

	r->step = "suspending the device";
	rc = r->t->ops->suspend(r->t);
	if (rc < 0)
		return run_failed_call(r, rc, "suspending the device");
	/* What was used before. */
	while ((rc = traffic_step(x)) > 0)
		;
	was = x->lanes[0].completed;
	for (unsigned int ms = 0; rc == 0 && ms < run_quiet_ms(r, QUIET_MS) / 5; ms++) {
		queue_kick_always(x->lanes[0].tx);
		sleep_us(1000);
		rc = traffic_step(x);
		rc = rc > 0 ? 0 : rc;
	}
	if (rc == 0 && x->lanes[0].completed != was)
		rc = run_fail(r, "uses buffers while it is suspended");
	if (rc != 0)
		return rc;
	r->step = "resuming the device";
	rc = r->t->ops->resume(r->t);
	if (rc < 0)
		return run_failed_call(r, rc, "resuming the device");
	x->progress_at = waited_ns();
	return 0;
}

static int
suspend_with(struct run *r, unsigned int flags)
{
	const struct session_params params = {.flags = flags, .n = target_lane_vqs(r->t)};
	struct session s;
	struct traffic x;
	int rc;

	if (r->t->can == NULL)
		return run_skip(r, "by vhost-user no device is suspended");
	if (!r->t->can->suspend)
		return run_skip(r, "the device cannot suspend");
	rc = run_need(r, flags);
	if (rc == 0)
		rc = traffic_open(r, &s, &x, &params);
	if (rc != 0)
		return rc;
	for (int i = 0; rc == 0 && i < 5; i++) {
		rc = traffic_some(&x, 100);
		if (rc == 0)
			rc = stand_still(r, &x);
	}
	if (rc == 0)
		rc = traffic_some(&x, 100);
	return traffic_close(r, &s, &x, rc);
}

/* Queues may stop one after another: a frame on its way back finds its receive queue stopped. */
static int
suspend(struct run *r, unsigned int flags)
{
	bool echoes;
	int rc = traffic_probe_echo(r);

	echoes = r->echoes;
	r->echoes = false;
	if (rc == 0)
		rc = suspend_with(r, flags);
	r->echoes = echoes;
	return rc;
}

static int
suspend_split(struct run *r)
{
	return suspend(r, 0);
}

static int
suspend_packed(struct run *r)
{
	return suspend(r, SESSION_PACKED);
}

const struct run_case suspend_cases[] = {
	{"suspend_split", "a suspended device moves nothing, and goes on", 30000, 0, suspend_split},
	{"suspend_packed", "the same with packed rings", 30000, 0, suspend_packed},
	{.name = NULL},
};
