/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How the library's threads are made. Owns the set of CPUs that the process began with. */

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include "thread.h"

struct start {
	char name[16];
	void *(*fn)(void *arg);
	void *arg;
};

static cpu_set_t initial_cpus;

__attribute__((constructor)) static void
remember_cpus(void)
{
	if (sched_getaffinity(0, sizeof(initial_cpus), &initial_cpus) < 0)
		CPU_ZERO(&initial_cpus);
}

static void *
thread_main(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	if (CPU_COUNT(&initial_cpus) > 0)
		sched_setaffinity(0, sizeof(initial_cpus), &initial_cpus);
	pthread_setname_np(pthread_self(), start.name);
	return start.fn(start.arg);
}

int
vdpa_thread_start(const char *name, void *(*fn)(void *arg), void *arg, pthread_t *thread)
{
	struct start *start = malloc(sizeof(*start));
	pthread_attr_t attr;
	pthread_t detached;
	sigset_t all, old;
	int rc;

	if (start == NULL)
		return ENOMEM;
	*start = (struct start){.fn = fn, .arg = arg};
	snprintf(start->name, sizeof(start->name), "%s", name);
	/* Signals are the application's; but a fault is handled in the thread that has it. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGABRT);
	pthread_attr_init(&attr);
	if (thread == NULL)
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = pthread_create(thread != NULL ? thread : &detached, &attr, thread_main, start);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rc != 0)
		free(start);
	return rc;
}
