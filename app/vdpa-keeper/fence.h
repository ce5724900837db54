/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The fence: functions of VFIO are stopped before the last descriptor of them is closed. Somebody
 * else may have a doorbell page of a function mapped (a VMM with a host notifier does); the
 * function then goes on after that close, and writes to memory for which no process answers.
 *
 * A descriptor is written to once the kernel has said that it is a PCI function of VFIO, whatever
 * its name is. A function may take long, or for ever: each has a thread of its own.
 */

#ifndef KEEPER_FENCE_H
#define KEEPER_FENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "fence_function.h"

/* How long one function may take. What takes longer is reported and goes on by itself. */
#define FENCE_PATIENCE_MS 3000
/* Functions that are fenced at the same time. */
#define FENCE_THREADS	  64

/* Functions to be fenced. */
struct fence;

/* A line for each function, in the order in which they end; from the thread in fence_run(). */
typedef void fence_report(void *arg, const char *name, const struct fence_outcome *outcome);

/* Without any. NULL: out of memory. One thread uses it. */
struct fence *fence_create(void);

/* One more, which is closed once it is fenced; name is copied. 0; -ENOMEM: fd is the caller's. */
int fence_add(struct fence *f, const char *name, int fd);

/*
 * Fence all that were added, report each, and close them. Returns when the last one is closed or
 * has had its FENCE_PATIENCE_MS: one that is slow is reported as not fenced, with the step that it
 * is at, and its thread goes on with it. Where no thread can be started, this one waits.
 */
void fence_run(struct fence *f, fence_report *report, void *arg);

/* After fence_run(), or without any. NULL: no-op. */
void fence_destroy(struct fence *f);

#endif /* KEEPER_FENCE_H */
