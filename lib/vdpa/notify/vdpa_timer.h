/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_timer.h
 * One-shot timers on the control loop. They share one timerfd, so an idle process has no more
 * wake-ups than timers that expire.
 */

#ifndef VDPA_TIMER_H
#define VDPA_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A timer. Embed it; zero-initialise it. expired and arg are yours to set. */
struct vdpa_timer {
	/** Runs on the control loop, so it waits for nothing; it may start the timer again. */
	void (*expired)(struct vdpa_timer *timer);
	void *arg;
	int64_t deadline_us; /**< the service's */
	bool armed;	     /**< the service's */
	TAILQ_ENTRY(vdpa_timer) next;
};

/**
 * Let the timer expire once, ms milliseconds from now; one that runs already is set anew. Between
 * vdpa_init() and vdpa_cleanup(), from any thread. Inserting is cheap for timers that expire last.
 */
void vdpa_timer_start(struct vdpa_timer *timer, unsigned int ms);

/**
 * Stop the timer: on return expired() neither runs nor will run (but for the call that stops it
 * from inside). No-op for one that does not run. From any thread, with no lock held that expired()
 * takes.
 */
void vdpa_timer_stop(struct vdpa_timer *timer);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_TIMER_H */
