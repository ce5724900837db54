/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The clock of time-outs. */

#ifndef VDPA_CLOCK_H
#define VDPA_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Microseconds since some time; never goes back. */
static inline int64_t
vdpa_now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

#endif /* VDPA_CLOCK_H */
