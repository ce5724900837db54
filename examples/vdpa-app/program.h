/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What tells one program apart from another that is started, stopped and told of its devices alike:
 * vdpa-app itself, and programs that bring a front end of their own.
 */

#ifndef APP_PROGRAM_H
#define APP_PROGRAM_H

#include <jansson.h>

struct app_program {
	const char *name;
	const char *summary; /* one line */
	const char *example; /* words of a device */
	/* Optional: whose default control socket it has, so that programs do not meet there. */
	const char *instance;
	/* Optional. Make words known, before anything is parsed; errors have vdpa_error(). */
	int (*register_words)(void);
	/* Optional: after vdpa_init(), and before vdpa_cleanup(). */
	int (*start)(void);
	void (*stop)(void);
	/* Optional: more for --help and --list. */
	void (*print_help)(void);
	/* Optional: statistics of its own for --json, an object keyed by device name. */
	json_t *(*stats)(void);
	const char *stats_key; /* under which they stand in a device's */
};

extern const struct app_program app_program;

#endif /* APP_PROGRAM_H */
