/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How long a loop polls before it sleeps. The window follows what polling catches: it grows to
 * about twice the gap between two pieces of work, up to a maximum, and goes to nothing where
 * several times in a row the next work comes later than that: then polling costs a CPU, and the
 * loop sleeps before each piece of work all the same. Work that follows soon upon some and late
 * upon other work keeps a short window.
 *
 * A gap that the loop has slept through includes the time that the wake-up took, so that work which
 * polling would catch may look late: once in many such gaps the loop polls for the whole maximum,
 * to find out.
 *
 * Times are in the caller's unit, TSC cycles in the event loop. Not thread-safe.
 */

#ifndef VDPA_POLL_WINDOW_H
#define VDPA_POLL_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_common.h>

/** The smallest window that is not nothing: this part of the maximum. */
#define POLL_WINDOW_PARTS     8
/** Gaps beyond the maximum, with none caught between them, until the window is nothing. */
#define POLL_WINDOW_LATE_MAX  4
/** Gaps within the maximum, one after another, until there is a window again. */
#define POLL_WINDOW_SOON_MIN  2
/** Late gaps without a window before the whole maximum is tried: at first, and after failures. */
#define POLL_WINDOW_RETRY_MIN 64
#define POLL_WINDOW_RETRY_MAX 1024

struct poll_window {
	uint64_t max;	    /**< 0: never poll */
	uint64_t len;	    /**< what was learnt: 0, or from a part of max to max */
	bool trying;	    /**< the whole maximum this time, whatever was learnt */
	unsigned int late;  /**< gaps beyond the maximum since one was caught */
	unsigned int soon;  /**< without a window: gaps within the maximum in a row */
	unsigned int idle;  /**< without a window: late gaps since the last attempt */
	unsigned int retry; /**< of those until the next one */
};

/** A window that begins at its maximum. */
static inline void
poll_window_init(struct poll_window *w, uint64_t max)
{
	*w = (struct poll_window){.max = max, .len = max, .retry = POLL_WINDOW_RETRY_MIN};
}

/** For how long to poll after the last work. */
static inline uint64_t
poll_window_len(const struct poll_window *w)
{
	return w->trying ? w->max : w->len;
}

static inline void
poll_window_set(struct poll_window *w, uint64_t len)
{
	len = RTE_MAX(len, w->max / POLL_WINDOW_PARTS);
	w->len = RTE_MIN(len, w->max);
	w->trying = false;
	w->soon = 0;
	w->idle = 0;
}

/** Polling found work, `gap` after the last. */
static inline void
poll_window_caught(struct poll_window *w, uint64_t gap)
{
	w->late = 0;
	w->retry = POLL_WINDOW_RETRY_MIN;
	if (w->trying)
		poll_window_set(w, 2 * RTE_MIN(gap, w->max));
	else if (gap > w->len / 2)
		poll_window_set(w, 2 * w->len);
	else if (gap < w->len / 4)
		poll_window_set(w, w->len - w->len / 4);
}

/** Work came when the loop slept, `gap` after the last. */
static inline void
poll_window_slept(struct poll_window *w, uint64_t gap)
{
	if (gap <= w->max) {
		if (w->len > 0 || w->trying || ++w->soon >= POLL_WINDOW_SOON_MIN)
			poll_window_set(w, 2 * w->len);
		return;
	}
	w->soon = 0;
	if (w->trying)
		w->retry = RTE_MIN(2 * w->retry, (unsigned int)POLL_WINDOW_RETRY_MAX);
	w->trying = false;
	if (++w->late >= POLL_WINDOW_LATE_MAX)
		w->len = 0;
	else if (w->late > 1 && w->len > 0)
		poll_window_set(w, w->len / 2);
	if (w->len > 0 || ++w->idle < w->retry)
		return;
	w->idle = 0;
	w->trying = true;
}

#endif /* VDPA_POLL_WINDOW_H */
