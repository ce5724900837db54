/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Event loops: membership across threads, tasks, pollers that sleep, and no work when idle. */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"
#include <rte_common.h>
#include <rte_lcore.h>

#include "../../lib/vdpa/notify/poll_window.h"
#include "work_poller.h"

static int
setup(void **state)
{
	const struct vdpa_event_loop_params params = {
		.name = "test", .lcore_id = LCORE_ID_ANY, .poll_us = 50};

	return vdpa_event_loop_create(&params, (struct vdpa_event_loop **)state);
}

static int
teardown(void **state)
{
	vdpa_event_loop_destroy(*state);
	return 0;
}

struct counter {
	struct vdpa_event ev;
	unsigned int count;
	unsigned int in_handler;
	unsigned int dwell_us;
	bool del_self;
};

static void
count_event(struct vdpa_event *ev, uint32_t revents)
{
	struct counter *c = ev->arg;
	eventfd_t value;

	INC(c->in_handler);
	eventfd_read(ev->fd, &value);
	if (c->dwell_us != 0)
		usleep(c->dwell_us);
	if (c->del_self)
		vdpa_event_del(ev);
	INC(c->count);
	__atomic_sub_fetch(&c->in_handler, 1, __ATOMIC_SEQ_CST);
}

static void
counter_open(struct counter *c)
{
	memset(c, 0, sizeof(*c));
	c->ev = (struct vdpa_event){.fd = eventfd(0, EFD_NONBLOCK),
				    .events = EPOLLIN,
				    .handler = count_event,
				    .arg = c};
	assert_true(c->ev.fd >= 0);
}

static void
an_event_is_handled_until_it_is_deleted(void **state)
{
	struct vdpa_event_loop *loop = *state;
	struct counter c;

	counter_open(&c);
	assert_int_equal(vdpa_event_add(loop, &c.ev), 0);
	assert_int_equal(vdpa_event_add(loop, &c.ev), -EINVAL);
	eventfd_write(c.ev.fd, 1);
	EVENTUALLY(LOAD(c.count) == 1);
	vdpa_event_del(&c.ev);
	vdpa_event_del(&c.ev);
	eventfd_write(c.ev.fd, 1);
	usleep(20000);
	assert_int_equal(LOAD(c.count), 1);
	assert_int_equal(vdpa_event_add(loop, &c.ev), 0);
	EVENTUALLY(LOAD(c.count) == 2);
	vdpa_event_del(&c.ev);
	close(c.ev.fd);
}

static void
a_bad_fd_is_refused(void **state)
{
	struct counter c = {.ev = {.fd = 1000000, .events = EPOLLIN, .handler = count_event}};

	assert_int_equal(vdpa_event_add(*state, &c.ev), -EBADF);
	assert_null(c.ev.loop);
}

static void
a_handler_may_delete_its_own_event(void **state)
{
	struct counter c;

	counter_open(&c);
	c.del_self = true;
	assert_int_equal(vdpa_event_add(*state, &c.ev), 0);
	eventfd_write(c.ev.fd, 1);
	EVENTUALLY(LOAD(c.count) == 1);
	eventfd_write(c.ev.fd, 1);
	usleep(20000);
	assert_int_equal(LOAD(c.count), 1);
	close(c.ev.fd);
}

static void
deletion_waits_for_its_handler_and_for_no_other(void **state)
{
	struct counter slow, other;

	counter_open(&slow);
	counter_open(&other);
	slow.dwell_us = 200000;
	assert_int_equal(vdpa_event_add(*state, &slow.ev), 0);
	assert_int_equal(vdpa_event_add(*state, &other.ev), 0);
	eventfd_write(slow.ev.fd, 1);
	EVENTUALLY(LOAD(slow.in_handler) == 1);
	/* While the slow handler runs: another event goes at once ... */
	vdpa_event_del(&other.ev);
	assert_int_equal(LOAD(slow.in_handler), 1);
	/* ... and its own only after it has returned. */
	vdpa_event_del(&slow.ev);
	assert_int_equal(LOAD(slow.in_handler), 0);
	assert_int_equal(LOAD(slow.count), 1);
	close(slow.ev.fd);
	close(other.ev.fd);
}

/* Members come, fire and go from another thread, freed at once: a stale one would be a use after
 * free. */
static void
events_may_come_and_go_while_others_fire(void **state)
{
	enum { N = 16, ROUNDS = 2000 };
	struct counter *c[N] = {NULL};
	unsigned int seed = 1;

	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned int k = (unsigned int)rand_r(&seed) % N;

		if (c[k] == NULL) {
			c[k] = malloc(sizeof(*c[k]));
			counter_open(c[k]);
			assert_int_equal(vdpa_event_add(*state, &c[k]->ev), 0);
			eventfd_write(c[k]->ev.fd, 1);
		} else {
			vdpa_event_del(&c[k]->ev);
			close(c[k]->ev.fd);
			free(c[k]);
			c[k] = NULL;
		}
	}
	for (unsigned int k = 0; k < N; k++) {
		if (c[k] == NULL)
			continue;
		EVENTUALLY(LOAD(c[k]->count) == 1);
		vdpa_event_del(&c[k]->ev);
		close(c[k]->ev.fd);
		free(c[k]);
	}
}

static int
add_one(void *arg)
{
	INC(*(unsigned int *)arg);
	return 42;
}

static int
call_again(void *arg)
{
	void **pair = arg;

	assert_true(vdpa_event_loop_is_self(pair[0]));
	return vdpa_event_loop_call(pair[0], add_one, pair[1]);
}

static void
a_call_runs_on_the_loop_and_returns_its_result(void **state)
{
	unsigned int n = 0;
	void *pair[2] = {*state, &n};

	assert_false(vdpa_event_loop_is_self(*state));
	assert_int_equal(vdpa_event_loop_call(*state, add_one, &n), 42);
	assert_int_equal(vdpa_event_loop_call(*state, call_again, pair), 42);
	assert_int_equal(n, 2);
}

/* What a caller does while it waits; both are the program's instead of the C library's. */
static struct {
	bool watched; /* atomic: the rest is in use */
	bool waits;   /* atomic: the loop may answer */
	bool answers; /* atomic: it is about to */
	bool slept;   /* atomic */
	unsigned int sleeps;
} caller;

int __real_sched_yield(void);
int __wrap_sched_yield(void);
int __real_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);
int __wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex);

int
__wrap_sched_yield(void)
{
	__atomic_store_n(&caller.waits, true, __ATOMIC_SEQ_CST);
	if (LOAD(caller.watched)) {
		while (!LOAD(caller.answers))
			usleep(1000);
		/* All that is left to the loop is to say so. */
		usleep(20000);
	}
	return __real_sched_yield();
}

int
__wrap_pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	caller.sleeps += LOAD(caller.watched);
	__atomic_store_n(&caller.slept, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&caller.waits, true, __ATOMIC_SEQ_CST);
	return __real_pthread_cond_wait(cond, mutex);
}

static int
answer_when_waited_for(void *arg)
{
	while (!LOAD(caller.waits))
		usleep(100);
	__atomic_store_n(&caller.answers, true, __ATOMIC_SEQ_CST);
	return 0;
}

static void
a_caller_who_is_answered_at_once_does_not_sleep(void **state)
{
	unsigned int sleeps = 1;

	for (unsigned int i = 0; i < 10 && sleeps > 0; i++) {
		memset(&caller, 0, sizeof(caller));
		__atomic_store_n(&caller.watched, true, __ATOMIC_SEQ_CST);
		assert_int_equal(vdpa_event_loop_call(*state, answer_when_waited_for, NULL), 0);
		__atomic_store_n(&caller.watched, false, __ATOMIC_SEQ_CST);
		sleeps = caller.sleeps;
	}
	assert_int_equal(sleeps, 0);
}

static int
add_one_late(void *arg)
{
	while (!LOAD(caller.slept))
		usleep(100);
	return add_one(arg);
}

/* One who is not sleeps, and does not take CPU time from the loop. */
static void
a_caller_who_waits_for_long_sleeps(void **state)
{
	unsigned int n = 0;

	memset(&caller, 0, sizeof(caller));
	assert_int_equal(vdpa_event_loop_call(*state, add_one_late, &n), 42);
	assert_int_equal(n, 1);
	assert_true(LOAD(caller.slept));
}

/* A poller that always has work, and how often it was asked. */
static unsigned int
poll_busily(struct vdpa_poller *poller)
{
	INC(*(unsigned int *)poller->arg);
	return 1;
}

static int
stay_on_cpu(void *arg)
{
	return sched_setaffinity(0, sizeof(cpu_set_t), arg);
}

static int
by_number(const void *a, const void *b)
{
	const unsigned int *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Not at the scheduler's next tick, which comes after thousands of polls. */
static void
a_caller_on_a_busy_loops_cpu_gets_it_back_with_the_answer(void **state)
{
	unsigned int polls = 0, n = 0, between[51];
	struct vdpa_poller poller = {.poll = poll_busily, .arg = &polls};
	cpu_set_t all, one;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(vdpa_event_loop_call(*state, stay_on_cpu, &one), 0);
	assert_int_equal(vdpa_poller_add(*state, &poller), 0);
	EVENTUALLY(LOAD(polls) > 0);
	for (unsigned int i = 0; i < RTE_DIM(between); i++) {
		unsigned int before = LOAD(polls);

		assert_int_equal(vdpa_event_loop_call(*state, add_one, &n), 42);
		between[i] = LOAD(polls) - before;
	}
	vdpa_poller_del(&poller);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
	qsort(between, RTE_DIM(between), sizeof(between[0]), by_number);
	/* Others may have the CPU meanwhile: most calls, not all. */
	printf("FIGURE: polls during a call: median %u, 90 %% %u, all %u\n",
	       between[RTE_DIM(between) / 2], between[RTE_DIM(between) * 9 / 10], polls);
	assert_in_range(between[RTE_DIM(between) / 2], 0, 500);
	assert_int_equal(n, RTE_DIM(between));
}

struct task_counter {
	struct vdpa_task task;
	unsigned int runs;
	unsigned int dwell_us;
};

static void
count_task(struct vdpa_task *task)
{
	struct task_counter *t = task->arg;

	if (t->dwell_us != 0)
		usleep(t->dwell_us);
	INC(t->runs);
}

static void
a_task_runs_once_however_often_it_is_posted_before(void **state)
{
	struct task_counter first = {.dwell_us = 100000}, t = {0};

	first.task = (struct vdpa_task){.run = count_task, .arg = &first};
	t.task = (struct vdpa_task){.run = count_task, .arg = &t};
	vdpa_task_post(*state, &first.task);
	for (unsigned int i = 0; i < 10; i++)
		vdpa_task_post(*state, &t.task);
	EVENTUALLY(LOAD(t.runs) == 1);
	usleep(5000);
	assert_int_equal(LOAD(t.runs), 1);
	vdpa_task_post(*state, &t.task);
	EVENTUALLY(LOAD(t.runs) == 2);
	vdpa_task_cancel(&first.task);
	vdpa_task_cancel(&t.task);
}

static void
a_cancelled_task_neither_runs_nor_is_running(void **state)
{
	struct task_counter first = {.dwell_us = 100000}, t = {0};

	first.task = (struct vdpa_task){.run = count_task, .arg = &first};
	t.task = (struct vdpa_task){.run = count_task, .arg = &t};
	vdpa_task_post(*state, &first.task);
	vdpa_task_post(*state, &t.task);
	vdpa_task_cancel(&t.task);
	vdpa_task_cancel(&first.task);
	usleep(20000);
	assert_int_equal(LOAD(t.runs), 0);
	assert_true(LOAD(first.runs) <= 1);
	/* Cancelled while it runs: the cancel waits for its end. */
	first.runs = 0;
	vdpa_task_post(*state, &first.task);
	usleep(20000);
	vdpa_task_cancel(&first.task);
	assert_int_equal(LOAD(first.runs), 1);
}

static void
no_work_is_lost_between_polling_and_sleeping(void **state)
{
	struct work w = {.poller = {.poll = work_poll, .sleep = work_sleep}};

	w.poller.arg = &w;
	w.kick = (struct vdpa_event){
		.fd = eventfd(0, EFD_NONBLOCK), .events = EPOLLIN, .handler = work_kick, .arg = &w};
	assert_int_equal(vdpa_event_add(*state, &w.kick), 0);
	assert_int_equal(vdpa_poller_add(*state, &w.poller), 0);
	assert_int_equal(vdpa_poller_add(*state, &w.poller), -EINVAL);
	for (unsigned int i = 1; i <= 3000; i++) {
		INC(w.produced);
		if (LOAD(w.armed) != 0)
			eventfd_write(w.kick.fd, 1);
		/* Gaps around the time after which the poller sleeps, 50 us. */
		if (i % 3 == 0)
			usleep(i % 120);
		EVENTUALLY(LOAD(w.consumed) == i);
	}
	EVENTUALLY(LOAD(w.armed) == 1);
	assert_true(LOAD(w.sleeps) > 1);
	vdpa_poller_del(&w.poller);
	vdpa_event_del(&w.kick);
	INC(w.produced);
	usleep(5000);
	assert_int_equal(LOAD(w.consumed), 3000);
	close(w.kick.fd);
}

/* A piece of work a while after the last: whether polling for the window would have caught it. */
static bool
work_after(struct poll_window *w, uint64_t gap, uint64_t wake_up)
{
	if (gap <= poll_window_len(w)) {
		poll_window_caught(w, gap);
		return true;
	}
	poll_window_slept(w, gap + wake_up);
	return false;
}

static void
a_window_that_catches_nothing_goes_to_nothing(void **state)
{
	struct poll_window w;
	uint64_t spent = 0;
	unsigned int tries = 0;

	poll_window_init(&w, 1000);
	for (unsigned int i = 0; i < POLL_WINDOW_LATE_MAX; i++) {
		assert_in_range(poll_window_len(&w), 1, 1000);
		assert_false(work_after(&w, 5000, 0));
	}
	assert_int_equal(poll_window_len(&w), 0);
	/* From now on the whole maximum, more and more seldom. */
	for (unsigned int i = 0; i < 10000; i++) {
		tries += poll_window_len(&w) != 0;
		spent += poll_window_len(&w);
		assert_false(work_after(&w, 5000, 0));
	}
	assert_in_range(tries, 1, 20);
	assert_int_equal(spent, 1000 * tries);
}

static void
a_window_grows_to_what_it_catches(void **state)
{
	struct poll_window w;
	unsigned int caught = 0;

	poll_window_init(&w, 1000);
	while (poll_window_len(&w) > 0)
		work_after(&w, 5000, 0);
	/* One that comes soon is not enough, two are. */
	assert_false(work_after(&w, 400, 0));
	assert_int_equal(poll_window_len(&w), 0);
	for (unsigned int i = 0; i < 100; i++)
		caught += work_after(&w, 400, 0);
	assert_in_range(caught, 96, 100);
	assert_in_range(poll_window_len(&w), 800, 1000);
	/* And no longer than it takes. */
	for (unsigned int i = 0; i < 100; i++)
		assert_true(work_after(&w, 50, 0));
	assert_in_range(poll_window_len(&w), 1000 / POLL_WINDOW_PARTS, 200);
	/* Something in between does not undo it. */
	assert_false(work_after(&w, 5000, 0));
	assert_true(work_after(&w, 50, 0));
}

/* Asleep, the wake-up makes each gap late. */
static void
a_window_of_nothing_is_tried_again(void **state)
{
	struct poll_window w;
	unsigned int n = 0;

	poll_window_init(&w, 1000);
	while (poll_window_len(&w) > 0)
		work_after(&w, 5000, 0);
	while (!work_after(&w, 600, 500))
		assert_in_range(++n, 1, POLL_WINDOW_RETRY_MIN);
	for (unsigned int i = 0; i < 100; i++)
		assert_true(work_after(&w, 600, 500));
}

static void
work_soon_and_late_in_turn_keeps_a_short_window(void **state)
{
	struct poll_window w;
	unsigned int caught = 0;

	poll_window_init(&w, 1000);
	for (unsigned int i = 0; i < 1000; i++) {
		caught += work_after(&w, 60, 20);
		caught += work_after(&w, 9000, 20);
	}
	assert_in_range(caught, 950, 1000);
	assert_in_range(poll_window_len(&w), 60, 250);
}

static void
a_window_without_a_maximum_never_polls(void **state)
{
	struct poll_window w;

	poll_window_init(&w, 0);
	for (unsigned int i = 0; i < 1000; i++) {
		work_after(&w, 1 + i % 7, 0);
		assert_int_equal(poll_window_len(&w), 0);
	}
}

static void
an_idle_loop_never_wakes(void **state)
{
	struct vdpa_event_loop_stats before, after;
	struct work w[64];

	for (unsigned int i = 0; i < 64; i++) {
		memset(&w[i], 0, sizeof(w[i]));
		w[i].poller =
			(struct vdpa_poller){.poll = work_poll, .sleep = work_sleep, .arg = &w[i]};
		assert_int_equal(vdpa_poller_add(*state, &w[i].poller), 0);
	}
	for (unsigned int i = 0; i < 64; i++)
		EVENTUALLY(LOAD(w[i].sleeps) == 1);
	usleep(20000);
	vdpa_event_loop_stats(*state, &before);
	usleep(500000);
	vdpa_event_loop_stats(*state, &after);
	assert_int_equal(after.wakeups, before.wakeups);
	for (unsigned int i = 0; i < 64; i++)
		vdpa_poller_del(&w[i].poller);
}

static void
every_signal_of_an_eventfd_counts(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK), status;
	eventfd_t value;
	pid_t pid;

	for (unsigned int i = 0; i < 1000; i++)
		vdpa_eventfd_signal(fd);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 1000);
	pid = fork();
	if (pid == 0) {
		vdpa_eventfd_signal(fd);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 1);
	close(fd);
}

static void
an_eventfd_that_would_block_is_not_waited_for(void **state)
{
	int fd = eventfd(0, 0);
	eventfd_t value;

	/* A wait here lasts until SIGALRM ends the program. */
	alarm(10);
	assert_true(vdpa_eventfd_take(fd));
	assert_int_equal(eventfd_write(fd, UINT64_MAX - 1), 0);
	vdpa_eventfd_signal(fd);
	vdpa_eventfd_signal(fd);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_true(value >= UINT64_MAX - 1);
	alarm(0);
	close(fd);
	assert_false(vdpa_eventfd_take(fd));
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

/* Two loops, a poller of the first, and how many calls hold both. */
struct pair {
	struct vdpa_event_loop *loops[2];
	struct vdpa_poller poller;
	int inside;		 /* atomic */
	unsigned int violations; /* atomic */
	unsigned int calls;
};

static unsigned int
poll_nothing(struct vdpa_poller *poller)
{
	struct pair *p = poller->arg;

	/* On the loop's thread: no call for both is in it meanwhile. */
	if (LOAD(p->inside) != 0)
		INC(p->violations);
	return 0;
}

static bool
sleep_at_once(struct vdpa_poller *poller)
{
	return true;
}

static int
use_both(void *arg)
{
	struct pair *p = arg;

	if (INC(p->inside) != 1 || !vdpa_event_loop_is_self(p->loops[0]) ||
	    !vdpa_event_loop_is_self(p->loops[1]))
		INC(p->violations);
	/* What would wait for the first loop, which waits for us. */
	if (p->poller.loop == NULL)
		vdpa_poller_add(p->loops[0], &p->poller);
	else
		vdpa_poller_del(&p->poller);
	p->calls++;
	__atomic_sub_fetch(&p->inside, 1, __ATOMIC_SEQ_CST);
	return (int)p->calls;
}

static int
call_both(void *arg)
{
	struct pair *p = arg;

	return vdpa_event_loop_call_all(p->loops, 2, use_both, p);
}

static void *
call_often(void *arg)
{
	struct pair *p = arg;

	/* From outside, and from the first loop's thread. */
	for (unsigned int i = 0; i < 500; i++)
		if ((i % 2 == 0 ? call_both(p) : vdpa_event_loop_call(p->loops[0], call_both, p)) <=
		    0)
			INC(p->violations);
	return NULL;
}

static void
a_call_for_two_loops_has_both_to_itself(void **state)
{
	const struct vdpa_event_loop_params params = {
		.name = "other", .lcore_id = LCORE_ID_ANY, .poll_us = 50};
	struct pair p = {.loops = {*state}};
	pthread_t threads[4];

	p.poller = (struct vdpa_poller){.poll = poll_nothing, .sleep = sleep_at_once, .arg = &p};
	assert_int_equal(vdpa_event_loop_create(&params, &p.loops[1]), 0);
	for (unsigned int i = 0; i < RTE_DIM(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, call_often, &p), 0);
	for (unsigned int i = 0; i < RTE_DIM(threads); i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(p.calls, RTE_DIM(threads) * 500);
	assert_int_equal(p.violations, 0);
	assert_null(p.poller.loop);
	assert_false(vdpa_event_loop_is_self(p.loops[0]));
	vdpa_event_loop_destroy(p.loops[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(an_event_is_handled_until_it_is_deleted),
		TEST(a_bad_fd_is_refused),
		TEST(a_handler_may_delete_its_own_event),
		TEST(deletion_waits_for_its_handler_and_for_no_other),
		TEST(events_may_come_and_go_while_others_fire),
		TEST(a_call_runs_on_the_loop_and_returns_its_result),
		TEST(a_caller_who_is_answered_at_once_does_not_sleep),
		TEST(a_caller_who_waits_for_long_sleeps),
		TEST(a_caller_on_a_busy_loops_cpu_gets_it_back_with_the_answer),
		TEST(a_task_runs_once_however_often_it_is_posted_before),
		TEST(a_cancelled_task_neither_runs_nor_is_running),
		TEST(no_work_is_lost_between_polling_and_sleeping),
		cmocka_unit_test(a_window_that_catches_nothing_goes_to_nothing),
		cmocka_unit_test(a_window_grows_to_what_it_catches),
		cmocka_unit_test(a_window_of_nothing_is_tried_again),
		cmocka_unit_test(work_soon_and_late_in_turn_keeps_a_short_window),
		cmocka_unit_test(a_window_without_a_maximum_never_polls),
		TEST(an_idle_loop_never_wakes),
		TEST(every_signal_of_an_eventfd_counts),
		TEST(an_eventfd_that_would_block_is_not_waited_for),
		TEST(a_call_for_two_loops_has_both_to_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
