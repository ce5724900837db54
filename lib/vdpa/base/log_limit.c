/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Which log lines are written: the rate. */

#include "clock.h"
#include "log_limit.h"

#define LINES_BURST 200
#define LINE_US	    1000000

bool
vdpa_log_permit(struct vdpa_log_limit *limit, uint32_t *suppressed)
{
	int64_t now_us = vdpa_now_us();
	int64_t full_us = __atomic_load_n(&limit->full_us, __ATOMIC_RELAXED), from_us;

	do {
		from_us = full_us > now_us ? full_us : now_us;
		if (from_us - now_us > (LINES_BURST - 1) * LINE_US) {
			__atomic_add_fetch(&limit->suppressed, 1, __ATOMIC_RELAXED);
			return false;
		}
	} while (!__atomic_compare_exchange_n(&limit->full_us, &full_us, from_us + LINE_US, true,
					      __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	*suppressed = __atomic_exchange_n(&limit->suppressed, 0, __ATOMIC_RELAXED);
	return true;
}
