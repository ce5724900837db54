/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_log.h
 * The library's log: DPDK's, with one log type `lib.uvdpa` (EAL option
 * --log-level=lib.uvdpa:debug). A line about a device begins with its name and a colon.
 */

#ifndef VDPA_LOG_H
#define VDPA_LOG_H

#include <stdint.h>

#include <rte_log.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The log type; registered when the library is loaded. */
extern int vdpa_logtype;

/** Where in the source a line of the log is written. */
struct vdpa_log_place {
	const char *file; /**< as the compiler was given it */
	const char *func;
	unsigned int line;
};

/**
 * For the stream of an application's own that DPDK's log goes to (rte_openlog_stream()): where the
 * line comes from that the calling thread is writing to it. NULL: it is not one of this library.
 * rte_log_cur_msg_loglevel() has its level. From inside the stream's write function.
 */
const struct vdpa_log_place *vdpa_log_place(void);

/** Write a line: what VDPA_LOG() is made of. From any thread, with any lock held. */
void vdpa_log(uint32_t level, const struct vdpa_log_place *place, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** VDPA_LOG(ERR, "%s: queue %u: %s", ...): level ERR, WARNING, NOTICE, INFO or DEBUG. A line whose
 * level is off costs a comparison. */
#define VDPA_LOG(level, fmt, ...)                                                                  \
	do {                                                                                       \
		const struct vdpa_log_place vdpa_place_ = {__FILE__, __func__, __LINE__};          \
                                                                                                   \
		if (rte_log_can_log((uint32_t)vdpa_logtype, RTE_LOG_##level))                      \
			vdpa_log(RTE_LOG_##level, &vdpa_place_, "vdpa: " fmt "\n", ##__VA_ARGS__); \
	} while (0)

#ifdef __cplusplus
}
#endif

#endif /* VDPA_LOG_H */
