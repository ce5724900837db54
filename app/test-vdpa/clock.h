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
 * the device up to 20 ms go by. What a machine that stands still takes from this thread, it takes
 * from the device too, and is not counted.
 */
uint64_t waited_ns(void);

static inline void
sleep_us(unsigned int us)
{
	struct timespec ts = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000L};

	nanosleep(&ts, NULL);
}

#endif /* CLOCK_H */
