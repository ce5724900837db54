/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Work queues: order within one, several at once, threads for as long as there is work; timers. */

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "event_loop_priv.h"
#include "test_util.h"
#include "vdpa_event.h"
#include "vdpa_timer.h"
#include "vdpa_work.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define INC(x)	__atomic_add_fetch(&(x), 1, __ATOMIC_SEQ_CST)
#define STUCK	32

static int
setup(void **state)
{
	return vdpa_event_control_init();
}

static int
teardown(void **state)
{
	vdpa_event_control_fini();
	return 0;
}

struct job {
	struct vdpa_work work;
	sem_t *wait;	       /* until it is posted */
	unsigned int *running; /* of its queue */
	unsigned int *order;   /* counts jobs that ran */
	unsigned int place;    /* this one's */
	unsigned int runs;
	bool overlapped;
};

static void
run(struct vdpa_work *work)
{
	struct job *job = work->arg;

	if (job->running != NULL && INC(*job->running) != 1)
		job->overlapped = true;
	if (job->wait != NULL)
		sem_wait(job->wait);
	if (job->order != NULL)
		job->place = INC(*job->order);
	if (job->running != NULL)
		__atomic_sub_fetch(job->running, 1, __ATOMIC_SEQ_CST);
	INC(job->runs);
}

static unsigned int
threads(void)
{
	struct vdpa_work_stats stats;

	vdpa_work_stats(&stats);
	return stats.threads;
}

static void
jobs_of_one_queue_run_in_order_and_one_at_a_time(void **state)
{
	struct vdpa_work_queue queue;
	struct job jobs[100] = {0};
	unsigned int running = 0, order = 0;

	vdpa_work_queue_init(&queue);
	for (unsigned int i = 0; i < 100; i++) {
		jobs[i] = (struct job){.work = {.run = run, .arg = &jobs[i]},
				       .running = &running,
				       .order = &order};
		vdpa_work_post(&queue, &jobs[i].work);
	}
	EVENTUALLY(LOAD(order) == 100 && LOAD(jobs[99].runs) == 1);
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(jobs[i].place, i + 1);
		assert_false(jobs[i].overlapped);
		vdpa_work_cancel(&jobs[i].work);
	}
}

static void
a_job_is_queued_once(void **state)
{
	struct vdpa_work_queue queue;
	struct job first = {.work = {.run = run, .arg = &first}};
	struct job job = {.work = {.run = run, .arg = &job}};
	sem_t sem;

	sem_init(&sem, 0, 0);
	first.wait = &sem;
	vdpa_work_queue_init(&queue);
	vdpa_work_post(&queue, &first.work);
	for (unsigned int i = 0; i < 3; i++)
		vdpa_work_post(&queue, &job.work);
	sem_post(&sem);
	EVENTUALLY(LOAD(job.runs) == 1);
	vdpa_work_cancel(&job.work);
	assert_int_equal(job.runs, 1);
	vdpa_work_post(&queue, &job.work);
	EVENTUALLY(LOAD(job.runs) == 2);
	vdpa_work_cancel(&job.work);
	vdpa_work_cancel(&first.work);
	sem_destroy(&sem);
}

static void
a_queue_runs_beside_any_number_that_are_stuck(void **state)
{
	struct vdpa_work_queue queues[STUCK], healthy;
	struct job jobs[STUCK], job = {.work = {.run = run, .arg = &job}};
	struct vdpa_work_stats before, stats;
	unsigned int runs;
	sem_t sem;

	vdpa_work_stats(&before);
	sem_init(&sem, 0, 0);
	for (unsigned int i = 0; i < STUCK; i++) {
		vdpa_work_queue_init(&queues[i]);
		jobs[i] = (struct job){.work = {.run = run, .arg = &jobs[i]}, .wait = &sem};
		vdpa_work_post(&queues[i], &jobs[i].work);
	}
	vdpa_work_queue_init(&healthy);
	vdpa_work_post(&healthy, &job.work);
	for (unsigned int i = 0; i < 30000 && LOAD(job.runs) == 0; i++)
		usleep(1000);
	runs = LOAD(job.runs);
	vdpa_work_stats(&stats);
	for (unsigned int i = 0; i < STUCK; i++)
		sem_post(&sem);
	assert_int_equal(runs, 1);
	assert_in_range(stats.threads, 2, STUCK + 2);
	for (unsigned int i = 0; i < STUCK; i++) {
		EVENTUALLY(LOAD(jobs[i].runs) == 1);
		vdpa_work_cancel(&jobs[i].work);
	}
	vdpa_work_cancel(&job.work);
	/* No work, no threads. */
	EVENTUALLY(threads() == 0);
	vdpa_work_stats(&stats);
	assert_int_equal(stats.jobs - before.jobs, STUCK + 1);
	assert_int_equal(stats.waiting, 0);
	sem_destroy(&sem);
}

static void
short_jobs_of_many_queues_need_few_threads(void **state)
{
	static struct vdpa_work_queue queues[1000];
	static struct job jobs[1000];
	struct vdpa_work_stats before, after;
	unsigned int order = 0;

	vdpa_work_stats(&before);
	for (unsigned int i = 0; i < 1000; i++) {
		vdpa_work_queue_init(&queues[i]);
		jobs[i] = (struct job){.work = {.run = run, .arg = &jobs[i]}, .order = &order};
		vdpa_work_post(&queues[i], &jobs[i].work);
	}
	EVENTUALLY(LOAD(order) == 1000);
	for (unsigned int i = 0; i < 1000; i++)
		vdpa_work_cancel(&jobs[i].work);
	vdpa_work_stats(&after);
	/* On a machine that is busy a job may look stuck now and then; a thread each is far off. */
	assert_in_range(after.started - before.started, 1, 100);
}

static void
cancelling_waits_for_its_own_job_only(void **state)
{
	struct vdpa_work_queue queue;
	struct job first = {.work = {.run = run, .arg = &first}};
	struct job second = {.work = {.run = run, .arg = &second}};
	sem_t sem;

	sem_init(&sem, 0, 0);
	first.wait = &sem;
	vdpa_work_queue_init(&queue);
	vdpa_work_post(&queue, &first.work);
	vdpa_work_post(&queue, &second.work);
	/* The first is stuck: the second goes without having run. */
	vdpa_work_cancel(&second.work);
	assert_int_equal(second.runs, 0);
	sem_post(&sem);
	vdpa_work_cancel(&first.work);
	assert_in_range(first.runs, 0, 1);
	assert_int_equal(second.runs, 0);
	sem_destroy(&sem);
}

static void
cancel_self(struct vdpa_work *work)
{
	struct job *job = work->arg;

	vdpa_work_post(work->queue, work);
	vdpa_work_cancel(work);
	INC(job->runs);
}

static void
a_job_may_post_and_cancel_itself(void **state)
{
	struct vdpa_work_queue queue;
	struct job job = {.work = {.run = cancel_self, .arg = &job}};

	vdpa_work_queue_init(&queue);
	vdpa_work_post(&queue, &job.work);
	EVENTUALLY(LOAD(job.runs) == 1);
	vdpa_work_cancel(&job.work);
	assert_int_equal(job.runs, 1);
}

static void
post_again(struct vdpa_work *work)
{
	struct job *job = work->arg;

	/* As long as it takes to become stuck. */
	usleep(2000);
	if (INC(job->runs) < 10)
		vdpa_work_post(work->queue, work);
}

/* Its thread is about to take it, so nobody looks after it by a timer. */
static void
a_queue_that_makes_way_for_none_wakes_nobody(void **state)
{
	struct vdpa_event_loop_stats before, after;
	struct vdpa_work_queue queue;
	struct job job = {.work = {.run = post_again, .arg = &job}};

	vdpa_work_queue_init(&queue);
	vdpa_event_loop_stats(vdpa_event_loop_control(), &before);
	vdpa_work_post(&queue, &job.work);
	EVENTUALLY(LOAD(job.runs) == 10);
	vdpa_event_loop_stats(vdpa_event_loop_control(), &after);
	assert_int_equal(after.wakeups - before.wakeups, 0);
	vdpa_work_cancel(&job.work);
}

struct alarm {
	struct vdpa_timer timer;
	unsigned int *order;
	unsigned int place;
	unsigned int runs;
	unsigned int again; /* starts itself so many times more */
};

static void
expire(struct vdpa_timer *timer)
{
	struct alarm *alarm = timer->arg;

	if (alarm->order != NULL)
		__atomic_store_n(&alarm->place, INC(*alarm->order), __ATOMIC_RELEASE);
	if (alarm->again > 0) {
		alarm->again--;
		vdpa_timer_start(timer, 1);
	}
	INC(alarm->runs);
}

static void
timers_expire_in_the_order_of_their_deadlines(void **state)
{
	static const unsigned int ms[] = {30, 10, 20};
	struct alarm alarms[3];
	unsigned int order = 0;

	for (unsigned int i = 0; i < 3; i++) {
		alarms[i] = (struct alarm){.timer = {.expired = expire, .arg = &alarms[i]},
					   .order = &order};
		vdpa_timer_start(&alarms[i].timer, ms[i]);
	}
	EVENTUALLY(LOAD(order) == 3);
	assert_int_equal(LOAD(alarms[1].place), 1);
	assert_int_equal(LOAD(alarms[2].place), 2);
	assert_int_equal(LOAD(alarms[0].place), 3);
}

static void
a_timer_that_is_stopped_does_not_expire(void **state)
{
	struct alarm stopped = {.timer = {.expired = expire, .arg = &stopped}};
	struct alarm later = {.timer = {.expired = expire, .arg = &later}};

	vdpa_timer_start(&stopped.timer, 20);
	vdpa_timer_start(&later.timer, 40);
	vdpa_timer_stop(&stopped.timer);
	EVENTUALLY(LOAD(later.runs) == 1);
	assert_int_equal(stopped.runs, 0);
	vdpa_timer_stop(&later.timer);
	vdpa_timer_stop(&later.timer);
}

static void
a_timer_may_start_itself_again(void **state)
{
	struct alarm alarm = {.timer = {.expired = expire, .arg = &alarm}, .again = 2};

	vdpa_timer_start(&alarm.timer, 1);
	EVENTUALLY(LOAD(alarm.runs) == 3);
	vdpa_timer_stop(&alarm.timer);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(jobs_of_one_queue_run_in_order_and_one_at_a_time,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_job_is_queued_once, setup, teardown),
		cmocka_unit_test_setup_teardown(a_queue_runs_beside_any_number_that_are_stuck,
						setup, teardown),
		cmocka_unit_test_setup_teardown(short_jobs_of_many_queues_need_few_threads, setup,
						teardown),
		cmocka_unit_test_setup_teardown(cancelling_waits_for_its_own_job_only, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_job_may_post_and_cancel_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(a_queue_that_makes_way_for_none_wakes_nobody, setup,
						teardown),
		cmocka_unit_test_setup_teardown(timers_expire_in_the_order_of_their_deadlines,
						setup, teardown),
		cmocka_unit_test_setup_teardown(a_timer_that_is_stopped_does_not_expire, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_timer_may_start_itself_again, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
