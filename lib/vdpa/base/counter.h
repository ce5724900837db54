/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A statistic that one thread counts and any thread reads. Built with -DVDPA_NO_COUNTERS nothing is
 * counted: for `scripts/bench counters`, which measures what counting costs.
 */

#ifndef VDPA_COUNTER_H
#define VDPA_COUNTER_H

#include <stdint.h>

static inline void
vdpa_counter_add(uint64_t *counter, uint64_t n)
{
#ifndef VDPA_NO_COUNTERS
	/* One writer: no locked instruction, and a reader gets whole values. */
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
#else
	(void)counter;
	(void)n;
#endif
}

#endif /* VDPA_COUNTER_H */
