/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * EAL's arguments: the user's, and our defaults for what the user left open.
 */

#ifndef APP_EAL_ARGS_H
#define APP_EAL_ARGS_H

#include "options.h"

struct app_eal_args {
	int argc;
	char **argv;	/* ended by NULL; EAL changes its order and entries */
	char **strings; /* what to free: the same as they were */
	bool help;	/* the user wants EAL's help */
	bool telemetry; /* the user has not forbidden it */
};

/*
 * Build them, and make the runtime folder. Returns 0; -EINVAL, with one line on stderr, for what
 * cannot work on this machine; -ENOMEM.
 */
int app_eal_args_build(struct app_eal_args *args, const struct app_options *opts);

void app_eal_args_free(struct app_eal_args *args);

#endif /* APP_EAL_ARGS_H */
