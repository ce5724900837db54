/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Work queues and the threads that run them. Owns the threads, the list of queues that wait for
 * one, and the rule of how many there are:
 *
 *   - up to THREADS_BASE start as soon as a queue has to wait;
 *   - beyond that a thread starts only in place of one that is stuck, that is, whose job has run
 *     for longer than STUCK_MS. While queues wait, a timer counts those every STUCK_MS and starts
 *     as many more: so 32 devices in their time-outs are passed within some milliseconds, and a
 *     thousand short jobs need two threads;
 *   - a thread that finds no work for IDLE_MS ends.
 *
 * So there are never more threads than queues with work. One lock guards it all, held for a few
 * instructions at a time.
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "event_loop_priv.h"
#include "thread.h"
#include "vdpa_log.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"

#define THREADS_BASE 2
#define STUCK_MS     1
#define IDLE_MS	     200
/* How long to wait before a thread that could not be started is tried again. */
#define RETRY_MS     100

/* A thread of the pool, on its own stack. */
struct worker {
	uint64_t id;
	int64_t job_since_us; /* 0: it has none */
	TAILQ_ENTRY(worker) next;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;			       /* a queue waits, or the end has come */
static pthread_cond_t done = PTHREAD_COND_INITIALIZER; /* a job or a thread has ended */
static STAILQ_HEAD(, vdpa_work_queue) ready = STAILQ_HEAD_INITIALIZER(ready);
static TAILQ_HEAD(, worker) workers = TAILQ_HEAD_INITIALIZER(workers);
static unsigned int waiting; /* queues in ready; read without the lock too */
static unsigned int threads; /* there, or about to be */
static unsigned int idle;    /* of those, wait for work or are about to look for some */
static bool open;	     /* between init and fini */
static bool growing;	     /* the timer runs */
static bool cannot_start;    /* logged: no thread can be had */
static uint64_t last_id;
static uint64_t jobs_run, threads_started;
static struct vdpa_timer growth;
static __thread uint64_t self;

static void *worker_main(void *arg);

/* Under the lock. */
static void
start_thread(void)
{
	int rc;

	threads++;
	rc = vdpa_thread_start("vdpa-work", worker_main, NULL, NULL);
	if (rc == 0) {
		threads_started++;
		idle++;
		cannot_start = false;
		return;
	}
	threads--;
	if (!cannot_start)
		VDPA_LOG(ERR, "a thread for device work cannot be started: %s", strerror(rc));
	cannot_start = true;
}

/* Under the lock: look again soon whether the queues that wait have threads. */
static void
watch(void)
{
	if (waiting <= idle || growing)
		return;
	growing = true;
	vdpa_timer_start(&growth, cannot_start ? RETRY_MS : STUCK_MS);
}

/* Under the lock: one queue more waits. */
static void
find_thread(void)
{
	if (waiting > idle && threads < THREADS_BASE)
		start_thread();
	else
		pthread_cond_signal(&wake);
	watch();
}

static void
grow(struct vdpa_timer *timer)
{
	int64_t now_us = vdpa_now_us();
	const struct worker *w;
	unsigned int stuck = 0;

	pthread_mutex_lock(&lock);
	growing = false;
	TAILQ_FOREACH (w, &workers, next)
		stuck += w->job_since_us != 0 && now_us - w->job_since_us >= STUCK_MS * 1000;
	if (stuck == 0 && threads < THREADS_BASE)
		stuck = 1;
	for (unsigned int i = idle; i < waiting && stuck > 0; i++, stuck--) {
		start_thread();
		if (cannot_start)
			break;
	}
	watch();
	pthread_mutex_unlock(&lock);
}

/* Under the lock, which it lets go meanwhile. */
static void
run_job(struct worker *w, struct vdpa_work_queue *queue)
{
	struct vdpa_work *work = STAILQ_FIRST(&queue->jobs);

	STAILQ_REMOVE_HEAD(&queue->jobs, next);
	work->queued = false;
	queue->running = work;
	queue->thread = self;
	w->job_since_us = vdpa_now_us();
	jobs_run++;
	pthread_mutex_unlock(&lock);
	work->run(work);
	pthread_mutex_lock(&lock);
	w->job_since_us = 0;
	queue->running = NULL;
	queue->thread = 0;
	queue->scheduled = !STAILQ_EMPTY(&queue->jobs);
	/* Behind the others: a queue with much to do is no reason for them to wait. */
	if (queue->scheduled) {
		STAILQ_INSERT_TAIL(&ready, queue, next);
		__atomic_store_n(&waiting, waiting + 1, __ATOMIC_RELAXED);
	}
	pthread_cond_broadcast(&done);
}

/* Under the lock. False: there was no work for IDLE_MS. */
static bool
wait_for_work(void)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += IDLE_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	idle++;
	while (STAILQ_EMPTY(&ready) && open && rc == 0)
		rc = pthread_cond_timedwait(&wake, &lock, &until);
	idle--;
	return !STAILQ_EMPTY(&ready);
}

static void *
worker_main(void *arg)
{
	struct worker w = {0};
	struct vdpa_work_queue *queue;

	pthread_mutex_lock(&lock);
	w.id = self = ++last_id;
	TAILQ_INSERT_TAIL(&workers, &w, next);
	idle--;
	while (!STAILQ_EMPTY(&ready) || wait_for_work()) {
		queue = STAILQ_FIRST(&ready);
		STAILQ_REMOVE_HEAD(&ready, next);
		__atomic_store_n(&waiting, waiting - 1, __ATOMIC_RELAXED);
		/* For those behind it; of itself a queue is not kept waiting. */
		watch();
		run_job(&w, queue);
	}
	TAILQ_REMOVE(&workers, &w, next);
	threads--;
	pthread_cond_broadcast(&done);
	pthread_mutex_unlock(&lock);
	return NULL;
}

void
vdpa_work_init(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&wake, &attr);
	pthread_condattr_destroy(&attr);
	growth = (struct vdpa_timer){.expired = grow};
	pthread_mutex_lock(&lock);
	open = true;
	growing = cannot_start = false;
	pthread_mutex_unlock(&lock);
}

void
vdpa_work_fini(void)
{
	vdpa_timer_stop(&growth);
	pthread_mutex_lock(&lock);
	open = false;
	pthread_cond_broadcast(&wake);
	while (threads > 0)
		pthread_cond_wait(&done, &lock);
	pthread_mutex_unlock(&lock);
	pthread_cond_destroy(&wake);
}

void
vdpa_work_queue_init(struct vdpa_work_queue *queue)
{
	*queue = (struct vdpa_work_queue){0};
	STAILQ_INIT(&queue->jobs);
}

void
vdpa_work_post(struct vdpa_work_queue *queue, struct vdpa_work *work)
{
	pthread_mutex_lock(&lock);
	if (!work->queued) {
		work->queued = true;
		work->queue = queue;
		STAILQ_INSERT_TAIL(&queue->jobs, work, next);
		if (!queue->scheduled) {
			queue->scheduled = true;
			STAILQ_INSERT_TAIL(&ready, queue, next);
			__atomic_store_n(&waiting, waiting + 1, __ATOMIC_RELAXED);
			find_thread();
		}
	}
	pthread_mutex_unlock(&lock);
}

void
vdpa_work_cancel(struct vdpa_work *work)
{
	pthread_mutex_lock(&lock);
	for (;;) {
		struct vdpa_work_queue *queue = work->queue;

		if (queue == NULL)
			break;
		if (work->queued) {
			STAILQ_REMOVE(&queue->jobs, work, vdpa_work, next);
			work->queued = false;
		}
		/* The queue itself may be freed now: nothing of it is left with the threads. */
		if (queue->scheduled && queue->running == NULL && STAILQ_EMPTY(&queue->jobs)) {
			STAILQ_REMOVE(&ready, queue, vdpa_work_queue, next);
			queue->scheduled = false;
			__atomic_store_n(&waiting, waiting - 1, __ATOMIC_RELAXED);
		}
		if (queue->running != work || (self != 0 && queue->thread == self))
			break;
		pthread_cond_wait(&done, &lock);
	}
	pthread_mutex_unlock(&lock);
}

bool
vdpa_work_is_awaited(void)
{
	return __atomic_load_n(&waiting, __ATOMIC_RELAXED) > 0;
}

void
vdpa_work_stats(struct vdpa_work_stats *stats)
{
	pthread_mutex_lock(&lock);
	*stats = (struct vdpa_work_stats){.jobs = jobs_run,
					  .started = threads_started,
					  .threads = threads,
					  .waiting = waiting};
	pthread_mutex_unlock(&lock);
}
