/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The daemon hands its devices over to another one, which it starts, and ends. */

#ifndef APP_UPGRADE_H
#define APP_UPGRADE_H

#include <stdbool.h>

#include <jansson.h>

#include "options.h"

/* Seconds that the new daemon has before it is given up: for its start, and again from when the
 * devices stand still. */
#define APP_UPGRADE_S	  30
#define APP_UPGRADE_S_MAX 600

struct app_upgrade {
	const char *program; /* NULL: the path that this daemon was started by */
	bool force;	     /* devices that cannot go on start anew */
	bool check;	     /* only say which devices go on */
	bool by_signal;	     /* nobody reads the error but in the log */
	unsigned int timeout_s;
};

/* In main(), first: the program and its arguments as they are. */
void app_upgrade_init(int argc, char **argv);
/* Requests are answered from now on. opts stays the caller's. */
void app_upgrade_open(const struct app_options *opts);

/*
 * Do it, on the caller's thread, which may wait. 0: the devices are another process', *result says
 * whose, and the main thread is told by SIGUSR2; else a negative errno with vdpa_error(), and all
 * is as before. With `check` *result says what would become of each device, and all is as before.
 */
int app_upgrade(const struct app_upgrade *how, json_t **result);
/* By SIGUSR2, on a thread of its own. */
void app_upgrade_begin(void);
/* Whether the devices are another process'. */
bool app_upgrade_is_done(void);
/* No more requests: one that is under way is given up, unless it is done. The same. */
bool app_upgrade_fini(void);

#endif /* APP_UPGRADE_H */
