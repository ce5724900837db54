/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The fence (fence.h). Owns the descriptors of functions that are being fenced, and their threads.
 *
 * A job belongs to the thread that runs the fence and to its own thread; the one that lets go of it
 * last frees it. Its step and outcome are written by its own thread.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "fence.h"
#include "vdpa_keep.h"

#define STACK_SIZE ((size_t)256 << 10)

struct job {
	TAILQ_ENTRY(job) next;
	char name[VDPA_KEEP_NAME_MAX + 1];
	int fd;
	enum fence_step step; /* atomic */
	struct fence_outcome outcome;
	int64_t begun_us;
	bool reported;
	bool shared; /* both threads have it; under the lock */
};

TAILQ_HEAD(jobs, job);

struct fence {
	struct jobs waiting, running;
	unsigned int n; /* running */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t progress = PTHREAD_COND_INITIALIZER; /* a job ends, or is closed */

static void
set_step(enum fence_step *step, enum fence_step to)
{
	__atomic_store_n(step, to, __ATOMIC_RELEASE);
}

/* Many. */

struct fence *
fence_create(void)
{
	struct fence *f = calloc(1, sizeof(*f));

	if (f == NULL)
		return NULL;
	TAILQ_INIT(&f->waiting);
	TAILQ_INIT(&f->running);
	return f;
}

int
fence_add(struct fence *f, const char *name, int fd)
{
	struct job *job = calloc(1, sizeof(*job));

	if (job == NULL)
		return -ENOMEM;
	snprintf(job->name, sizeof(job->name), "%s", name);
	job->fd = fd;
	TAILQ_INSERT_TAIL(&f->waiting, job, next);
	return 0;
}

/* Under the lock: one of both threads has done with it. */
static void
let_go(struct job *job)
{
	if (!job->shared)
		free(job);
	else
		job->shared = false;
}

static void *
run(void *arg)
{
	struct job *job = arg;

	vdpa_fence_function(job->fd, &job->step, &job->outcome);
	pthread_mutex_lock(&lock);
	set_step(&job->step, FENCE_ENDS);
	pthread_cond_broadcast(&progress);
	pthread_mutex_unlock(&lock);
	/* The last one resets the function again, where nobody has a part of it mapped. */
	close(job->fd);
	pthread_mutex_lock(&lock);
	set_step(&job->step, FENCE_CLOSED);
	pthread_cond_broadcast(&progress);
	let_go(job);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void
start(struct fence *f)
{
	struct job *job = TAILQ_FIRST(&f->waiting);
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	TAILQ_REMOVE(&f->waiting, job, next);
	TAILQ_INSERT_TAIL(&f->running, job, next);
	f->n++;
	job->begun_us = vdpa_now_us();
	job->shared = true;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	rc = pthread_create(&thread, &attr, run, job);
	pthread_attr_destroy(&attr);
	if (rc != 0)
		run(job);
}

/* Under the lock. */
static void
report_slow(struct job *job, fence_report *report, void *arg)
{
	static const char *const at[] = {
		[FENCE_WAITS] = "it has not begun",
		[FENCE_ASKS] = "VFIO_DEVICE_GET_INFO has not ended",
		[FENCE_STOPS] = "its command register does not answer",
		[FENCE_RESETS] = "its reset has not ended",
		[FENCE_CHECKS] = "its command register does not answer after the reset",
	};
	struct fence_outcome slow = {0};

	snprintf(slow.text, sizeof(slow.text), "not fenced within %d ms: %s", FENCE_PATIENCE_MS,
		 at[__atomic_load_n(&job->step, __ATOMIC_ACQUIRE)]);
	report(arg, job->name, &slow);
}

/* Under the lock: report jobs that have ended, and let go of those that are closed or overdue. When
 * the first of the others is overdue; INT64_MAX: there is none. */
static int64_t
sweep(struct fence *f, fence_report *report, void *arg)
{
	int64_t first_us = INT64_MAX, now_us = vdpa_now_us();
	struct job *job = TAILQ_FIRST(&f->running), *next;

	for (; job != NULL; job = next) {
		enum fence_step step = __atomic_load_n(&job->step, __ATOMIC_ACQUIRE);
		int64_t until_us = job->begun_us + FENCE_PATIENCE_MS * INT64_C(1000);

		next = TAILQ_NEXT(job, next);
		if (step >= FENCE_ENDS && !job->reported) {
			report(arg, job->name, &job->outcome);
			job->reported = true;
		}
		if (step != FENCE_CLOSED && now_us < until_us) {
			first_us = until_us < first_us ? until_us : first_us;
			continue;
		}
		if (!job->reported)
			report_slow(job, report, arg);
		TAILQ_REMOVE(&f->running, job, next);
		f->n--;
		let_go(job);
	}
	return first_us;
}

void
fence_run(struct fence *f, fence_report *report, void *arg)
{
	int64_t until_us;

	do {
		while (f->n < FENCE_THREADS && !TAILQ_EMPTY(&f->waiting))
			start(f);
		pthread_mutex_lock(&lock);
		until_us = sweep(f, report, arg);
		if (f->n > 0 && (f->n == FENCE_THREADS || TAILQ_EMPTY(&f->waiting))) {
			struct timespec until = {.tv_sec = until_us / 1000000,
						 .tv_nsec = until_us % 1000000 * 1000};

			pthread_cond_clockwait(&progress, &lock, CLOCK_MONOTONIC, &until);
		}
		pthread_mutex_unlock(&lock);
	} while (f->n > 0 || !TAILQ_EMPTY(&f->waiting));
}

void
fence_destroy(struct fence *f)
{
	free(f);
}
