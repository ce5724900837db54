/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How long a device may keep a thread waiting that others share. One wait lasts one time-out at
 * most. What waits take beyond a little that each has free is drawn from one patience, so that a
 * device that keeps answering just before its time-out is given up too. A machine that stands still
 * for seconds, as a virtual one may, uses up no wait: of each sleep in a wait only so much counts.
 */

#ifndef VDPA_PATIENCE_H
#define VDPA_PATIENCE_H

#include <stdint.h>

#include <rte_common.h>

/* At its fullest, in time-outs. */
#define VDPA_PATIENCE_TIMEOUTS 3
/* It grows by one part in so many of the time that passes. */
#define VDPA_PATIENCE_REFILL   8
/* What each wait has free, as one part in so many of a time-out: more than a busy host takes to
 * give both sides a CPU. */
#define VDPA_PATIENCE_FREE     20
#define VDPA_PATIENCE_FREE_US  50000 /* at most */

/* A thread that waits sleeps for so long at most before it looks at the clock, and of what a sleep
 * takes beyond its length so much counts: more than a busy machine takes to give a thread a CPU. */
#define VDPA_PATIENCE_SLEEP_US 100000
#define VDPA_PATIENCE_SLACK_US 50000

struct vdpa_patience {
	int64_t timeout_us;
	int64_t free_us;  /* of each wait */
	int64_t left_us;  /* below 0: overdrawn */
	int64_t begin_us; /* of the last wait, by vdpa_now_us(); later by what is no part of it */
	int64_t begin_left_us;
};

static inline void
vdpa_patience_init(struct vdpa_patience *p, unsigned int timeout_ms, int64_t now_us)
{
	p->timeout_us = (int64_t)timeout_ms * 1000;
	p->free_us = RTE_MIN(p->timeout_us / VDPA_PATIENCE_FREE, VDPA_PATIENCE_FREE_US);
	p->left_us = VDPA_PATIENCE_TIMEOUTS * p->timeout_us;
	p->begin_us = now_us;
}

/* A wait begins: how long it may last, in microseconds. */
static inline int64_t
vdpa_patience_begin(struct vdpa_patience *p, int64_t now_us)
{
	int64_t full_us = VDPA_PATIENCE_TIMEOUTS * p->timeout_us, limit_us;

	p->left_us += (now_us - p->begin_us) / VDPA_PATIENCE_REFILL;
	p->left_us = RTE_MIN(p->left_us, full_us);
	p->begin_us = now_us;
	p->begin_left_us = p->left_us;
	limit_us = p->free_us + RTE_MAX(p->left_us, 0);
	return RTE_MIN(limit_us, p->timeout_us);
}

/* In a wait, a sleep of so long has taken so long. */
static inline void
vdpa_patience_slept(struct vdpa_patience *p, int64_t meant_us, int64_t took_us)
{
	p->begin_us += RTE_MAX(took_us - meant_us - VDPA_PATIENCE_SLACK_US, 0);
}

/* By how much waits were longer than what each has free, less what has grown back since. */
static inline int64_t
vdpa_patience_late_us(const struct vdpa_patience *p)
{
	return VDPA_PATIENCE_TIMEOUTS * p->timeout_us - p->left_us;
}

/* It has lasted until now; may be said again later. How long that is, in microseconds. */
static inline int64_t
vdpa_patience_draw(struct vdpa_patience *p, int64_t now_us)
{
	int64_t waited = now_us - p->begin_us;

	p->left_us = p->begin_left_us - RTE_MAX(waited - p->free_us, 0);
	return waited;
}

#endif /* VDPA_PATIENCE_H */
