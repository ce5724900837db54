/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The socket of a keeper: one daemon at a time, and what it asks for (keeper_proto.h). */

#ifndef KEEPER_SERVE_H
#define KEEPER_SERVE_H

#include "hold.h"

struct serve_params {
	int listen_fd;
	int signal_fd;	      /* readable: end */
	unsigned int hold_s;  /* without a daemon, until all is dropped; 0: for ever */
	unsigned int fence_s; /* without a daemon, until functions are fenced; 0: never */
	struct hold *hold;
};

/* Serve until a signal comes; functions that are held without a daemon are fenced then. 0, or a
 * negative errno after a line on standard error. */
int serve(const struct serve_params *params);

/* A line on standard error, after the program's name. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif /* KEEPER_SERVE_H */
