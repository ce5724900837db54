/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The library's log type, and what a stream of DPDK's log may know of the line that it is given. */

#include <stdarg.h>
#include <stddef.h>

#include "vdpa_log.h"

RTE_LOG_REGISTER(vdpa_logtype, lib.uvdpa, NOTICE);

/* Of the line that this thread is writing. */
static __thread const struct vdpa_log_place *current;

const struct vdpa_log_place *
vdpa_log_place(void)
{
	return current;
}

void
vdpa_log(uint32_t level, const struct vdpa_log_place *place, const char *fmt, ...)
{
	const struct vdpa_log_place *outer = current;
	va_list ap;

	current = place;
	va_start(ap, fmt);
	rte_vlog(level, (uint32_t)vdpa_logtype, fmt, ap);
	va_end(ap);
	current = outer;
}
