/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the daemon reports: lines on stdout and stderr, or, where those go to systemd's journal,
 * entries with their level, their device and their place in the source as fields. The library's
 * lines and DPDK's take the same way.
 */

#ifndef APP_LOG_H
#define APP_LOG_H

#include <syslog.h>

/* Before EAL starts. Without it, and where no journal is, lines are text. */
void app_log_init(void);

/* After EAL has ended. */
void app_log_fini(void);

/*
 * One line without its newline. level: LOG_ERR, LOG_WARNING, LOG_NOTICE or LOG_INFO; as text, the
 * first two are on stderr behind the program's name, the others on stdout as they are. device: the
 * name of the one that it is about; NULL: of none. Any thread.
 */
#define app_log(level, device, ...)                                                                \
	app_log_at(__FILE__, __LINE__, __func__, level, device, __VA_ARGS__)
void app_log_at(const char *file, unsigned int line, const char *func, int level,
		const char *device, const char *fmt, ...) __attribute__((format(printf, 6, 7)));

#endif /* APP_LOG_H */
