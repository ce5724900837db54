/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* An operator's side of a keeper's socket. */

#ifndef KEEPER_ASK_H
#define KEEPER_ASK_H

#include <stdbool.h>

/*
 * Ask the keeper at a path to fence the functions that it holds, and print what it did to each;
 * force: also while a daemon is served. Waits for its answer a minute at most. 0: no function is
 * held any more, and each was stopped; or a negative errno, after a line on standard error.
 */
int ask_for_fence(const char *path, bool force);

#endif /* KEEPER_ASK_H */
