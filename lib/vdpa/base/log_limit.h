/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A bound on log lines that somebody else can cause: a front end, a guest, a device. Each of those
 * has a limit of its own, so that one that floods the log silences nobody but itself.
 */

#ifndef VDPA_LOG_LIMIT_H
#define VDPA_LOG_LIMIT_H

#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>

#include "vdpa_log.h"

/* Embed it; zero-initialise it. */
struct vdpa_log_limit {
	int64_t full_us;     /* atomic: when all lines written so far are paid for */
	uint32_t suppressed; /* atomic: lines left out since the last one written */
};

/*
 * Whether one line more may be written: some 200 at once, then one a second. suppressed: how many
 * were left out before it. From any thread.
 */
bool vdpa_log_permit(struct vdpa_log_limit *limit, uint32_t *suppressed);

/* VDPA_LOG() within the limit. A line whose level is off costs nothing. */
#define VDPA_LOG_LIMITED(limit, level, fmt, ...)                                                   \
	do {                                                                                       \
		uint32_t suppressed_;                                                              \
		if (!rte_log_can_log((uint32_t)vdpa_logtype, RTE_LOG_##level) ||                   \
		    !vdpa_log_permit(limit, &suppressed_))                                         \
			break;                                                                     \
		if (suppressed_ > 0)                                                               \
			VDPA_LOG(level, fmt " (%" PRIu32 " lines before this one left out)",       \
				 ##__VA_ARGS__, suppressed_);                                      \
		else                                                                               \
			VDPA_LOG(level, fmt, ##__VA_ARGS__);                                       \
	} while (0)

#endif /* VDPA_LOG_LIMIT_H */
