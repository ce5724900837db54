/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Calls that the kernel may keep. Owns the list of those that are under way: a call is its thread's
 * and its waiter's, and the last of both frees it.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "error_priv.h"
#include "kernel_call.h"
#include "vdpa_error.h"

struct call {
	LIST_ENTRY(call) next;
	char device[256];
	char what[32];
	int (*run)(void *arg);

	pthread_cond_t ended;
	bool done, abandoned;
	int rc;
	struct vdpa_error_saved error;
	_Alignas(max_align_t) unsigned char arg[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, call) calls = LIST_HEAD_INITIALIZER(calls);
static unsigned int wait_ms = VDPA_KERNEL_WAIT_MS;

void
vdpa_kernel_call_set_wait(unsigned int ms)
{
	wait_ms = ms != 0 ? ms : VDPA_KERNEL_WAIT_MS;
}

/* Under the lock. */
static void
call_free(struct call *c)
{
	LIST_REMOVE(c, next);
	pthread_cond_destroy(&c->ended);
	free(c);
}

static void *
run(void *arg)
{
	struct call *c = arg;
	int rc;

	/* A thread that the kernel holds must not keep the descriptors of this process open when
	 * that ends: the successor's device would be busy. They are not copied first: closing the
	 * copy of a front end's file may wait for whoever serves it. */
	if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_UNSHARE) < 0)
		rc = vdpa_error(errno, "own descriptors for a thread: %s", strerror(errno));
	else
		rc = c->run(c->arg);
	pthread_mutex_lock(&lock);
	c->rc = rc;
	if (rc < 0)
		vdpa_error_save(&c->error);
	c->done = true;
	if (c->abandoned)
		call_free(c);
	else
		pthread_cond_signal(&c->ended);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static int
start(struct call *c)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attr, run, c);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

/* Under the lock. Whether it has ended within the bound; else it is its thread's from now on. */
static bool
wait(struct call *c)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!c->done && pthread_cond_clockwait(&c->ended, &lock, CLOCK_MONOTONIC, &until) == 0)
		;
	c->abandoned = !c->done;
	return c->done;
}

/* Under the lock. */
static int
check_no_other(const char *device)
{
	const struct call *c;

	LIST_FOREACH (c, &calls, next) {
		if (strcmp(c->device, device) == 0)
			return vdpa_error(EBUSY, "%s: the kernel is still at %s%s", device,
					  c->abandoned ? "an earlier " : "", c->what);
	}
	return 0;
}

int
vdpa_kernel_call(const char *device, const char *what, int (*fn)(void *arg), void *arg, size_t size)
{
	struct call *c = calloc(1, sizeof(*c) + size);
	int rc;

	if (c == NULL)
		return vdpa_error(ENOMEM, "%s: %s: out of memory", device, what);
	snprintf(c->device, sizeof(c->device), "%s", device);
	snprintf(c->what, sizeof(c->what), "%s", what);
	c->run = fn;
	memcpy(c->arg, arg, size);
	pthread_cond_init(&c->ended, NULL);
	pthread_mutex_lock(&lock);
	rc = check_no_other(device);
	LIST_INSERT_HEAD(&calls, c, next);
	if (rc == 0) {
		rc = start(c);
		if (rc < 0)
			rc = vdpa_error(rc, "%s: %s: %s", device, what, strerror(-rc));
		else if (!wait(c))
			rc = vdpa_error(
				ETIMEDOUT,
				"%s: %s: the kernel is still at it after %u s: it waits for "
				"the device, or for those who use it",
				device, what, wait_ms / 1000);
		else if (c->rc < 0)
			vdpa_error_restore(&c->error);
	}
	if (c->done) {
		rc = c->rc;
		memcpy(arg, c->arg, size);
	}
	if (!c->abandoned)
		call_free(c);
	pthread_mutex_unlock(&lock);
	return rc;
}
