/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Threads of the library: they block the application's signals, and run on the CPUs that the
 * process had when it began, since EAL pins the main thread to one of them.
 */

#ifndef VDPA_THREAD_H
#define VDPA_THREAD_H

#include <pthread.h>

/*
 * Start fn(arg) on a thread of that name (at most 15 characters). thread NULL: it is detached.
 * Returns 0 or the positive errno of pthread_create(3). From any thread.
 */
int vdpa_thread_start(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *thread);

#endif /* VDPA_THREAD_H */
