/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_log.h
 * The library's log: DPDK's, with one log type `lib.uvdpa` (EAL option
 * --log-level=lib.uvdpa:debug).
 */

#ifndef VDPA_LOG_H
#define VDPA_LOG_H

#include <rte_log.h>

/** The log type; registered when the library is loaded. */
extern int vdpa_logtype;

/** VDPA_LOG(ERR, "%s: queue %u: %s", ...): level ERR, WARNING, NOTICE, INFO or DEBUG. */
#define VDPA_LOG(level, fmt, ...)                                                                  \
	rte_log(RTE_LOG_##level, (uint32_t)vdpa_logtype, "vdpa: " fmt "\n", ##__VA_ARGS__)

#endif /* VDPA_LOG_H */
