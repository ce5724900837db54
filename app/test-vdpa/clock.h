/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Time for waits and measurements. */

#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of the monotonic clock. */
static inline uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/*
 * The clock by which a device is waited for, in nanoseconds, of this thread: between two looks at
 * the device no more than LOOK_NS go by. What a machine that stands still takes from this thread,
 * it takes from the device too, and is not counted.
 */
#define LOOK_NS 20000000u

static inline uint64_t
waited_ns(void)
{
	static _Thread_local uint64_t looked_at, waited;
	uint64_t now = now_ns(), passed = now - looked_at;

	waited += passed < LOOK_NS ? passed : LOOK_NS;
	looked_at = now;
	return waited;
}

static inline void
sleep_us(unsigned int us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};

	nanosleep(&ts, NULL);
}

#endif /* CLOCK_H */
