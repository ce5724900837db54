/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Event loops. A loop owns its thread, its epoll set and its lists; members own themselves.
 *
 * The lock guards membership (events, tasks) and says what runs now, so that a deletion from
 * another thread can wait for exactly the handler it takes away and for nothing else. Pollers
 * belong to the loop's thread alone: adding and removing one runs there.
 */

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_cycles.h>
#include <rte_launch.h>
#include <rte_lcore.h>

#include "clock.h"
#include "error_priv.h"
#include "event_loop_priv.h"
#include "poll_window.h"
#include "thread.h"
#include "vdpa_error.h"
#include "vdpa_event.h"

#define BATCH	  64
/* How often a loop that polls looks at its file descriptors. */
#define LOOK_US	  20
/* How long a call looks for its answer before it sleeps: most take less than to wake a thread. */
#define CALL_US	  50
/* Members that there is room for at first. */
#define SLOTS_MIN 16

#define NO_SLOT UINT32_MAX

/*
 * Where a member is entered. epoll is given the slot and its generation and not the member itself,
 * which may be removed, and freed, between epoll_wait() and its handler.
 */
struct slot {
	struct vdpa_event *ev; /* NULL: free */
	uint32_t generation;   /* how many there were before */
	uint32_t next_free;
};

struct vdpa_event_loop {
	char name[16];
	int epfd;
	struct vdpa_event wake; /* its fd wakes the loop for tasks and stop */
	unsigned int lcore_id;
	pthread_t thread;
	uint64_t look_cycles;
	bool stop;	    /* atomic */
	int cpu;	    /* atomic: that its pollers keep busy; -1: none */
	bool tasks_waiting; /* atomic: worth taking the lock */

	/* The loop's thread only. */
	TAILQ_HEAD(, vdpa_poller) awake;
	struct vdpa_poller
		*next_poller;	   /* where the walk goes on; moves when that one is removed */
	struct poll_window window; /* how long to poll, TSC cycles */
	uint64_t last_work;	   /* of any poller */
	bool polled;		   /* in vain since then */
	bool slept;		   /* since then */
	struct epoll_event batch[BATCH];
	struct vdpa_event_loop_stats stats; /* atomic stores, read by anybody */

	pthread_mutex_t lock;
	pthread_cond_t done; /* something that ran has returned */
	struct slot *slots;  /* of the members, by the number that epoll has of each */
	uint32_t n_slots;
	uint32_t free_slot; /* first of those that are free; NO_SLOT: none */
	STAILQ_HEAD(, vdpa_task) tasks;
	struct vdpa_event *running; /* whose handler runs */
	struct vdpa_task *running_task;
};

static __thread struct vdpa_event_loop *self;
static struct vdpa_event_loop *control;

static void
count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static void
wake_handler(struct vdpa_event *ev, uint32_t revents)
{
	eventfd_t value;

	eventfd_read(ev->fd, &value);
}

static void
run_tasks(struct vdpa_event_loop *loop)
{
	struct vdpa_task *task;

	pthread_mutex_lock(&loop->lock);
	__atomic_store_n(&loop->tasks_waiting, false, __ATOMIC_RELAXED);
	while ((task = STAILQ_FIRST(&loop->tasks)) != NULL) {
		STAILQ_REMOVE_HEAD(&loop->tasks, next);
		task->queued = false;
		loop->running_task = task;
		pthread_mutex_unlock(&loop->lock);
		count(&loop->stats.tasks);
		task->run(task);
		pthread_mutex_lock(&loop->lock);
		loop->running_task = NULL;
		pthread_cond_broadcast(&loop->done);
	}
	pthread_mutex_unlock(&loop->lock);
}

/* Under the lock: the member that epoll speaks of; NULL: it was removed since. */
static struct vdpa_event *
find_member(struct vdpa_event_loop *loop, uint64_t key)
{
	const struct slot *slot = &loop->slots[(uint32_t)key];

	return slot->generation == key >> 32 ? slot->ev : NULL;
}

/* Wait for events (timeout in ms, -1: for ever) and run their handlers. */
static void
look(struct vdpa_event_loop *loop, int timeout)
{
	int n = epoll_wait(loop->epfd, loop->batch, BATCH, timeout);

	if (timeout != 0)
		count(&loop->stats.wakeups);
	for (int i = 0; i < n; i++) {
		struct vdpa_event *ev;

		pthread_mutex_lock(&loop->lock);
		ev = find_member(loop, loop->batch[i].data.u64);
		loop->running = ev;
		pthread_mutex_unlock(&loop->lock);
		if (ev == NULL)
			continue;
		count(&loop->stats.events);
		ev->handler(ev, loop->batch[i].events);
		pthread_mutex_lock(&loop->lock);
		loop->running = NULL;
		pthread_cond_broadcast(&loop->done);
		pthread_mutex_unlock(&loop->lock);
	}
}

/* Each poller that is awake once. Whether one of them found work. */
static bool
run_pollers(struct vdpa_event_loop *loop, uint64_t now)
{
	uint64_t window = poll_window_len(&loop->window);
	struct vdpa_poller *p;
	bool worked = false;

	for (p = TAILQ_FIRST(&loop->awake); p != NULL; p = loop->next_poller) {
		loop->next_poller = TAILQ_NEXT(p, next);
		if (p->poll(p) != 0) {
			count(&loop->stats.polls);
			p->last_work = now;
			worked = true;
			continue;
		}
		if (loop->lcore_id != LCORE_ID_ANY || now - p->last_work < window)
			continue;
		if (p->loop == loop && p->awake && p->sleep(p)) {
			TAILQ_REMOVE(&loop->awake, p, next);
			p->awake = false;
		}
	}
	loop->next_poller = NULL;
	return worked;
}

/* Work was found: has polling caught it? */
static void
learn(struct vdpa_event_loop *loop, uint64_t now)
{
	if (loop->slept)
		poll_window_slept(&loop->window, now - loop->last_work);
	else if (loop->polled)
		poll_window_caught(&loop->window, now - loop->last_work);
	loop->slept = false;
	loop->polled = false;
	loop->last_work = now;
}

/* Nothing was found: let the threads run that the work may come from, where nobody else waits. */
static void
give_way(struct vdpa_event_loop *loop)
{
	const struct vdpa_poller *p = TAILQ_FIRST(&loop->awake);

	loop->polled = true;
	if (p == NULL || !p->gives_way || TAILQ_NEXT(p, next) != NULL)
		return;
	count(&loop->stats.yields);
	sched_yield();
}

static void
run(struct vdpa_event_loop *loop)
{
	uint64_t now, looked = 0;

	self = loop;
	while (!__atomic_load_n(&loop->stop, __ATOMIC_ACQUIRE)) {
		if (__atomic_load_n(&loop->tasks_waiting, __ATOMIC_ACQUIRE))
			run_tasks(loop);
		if (TAILQ_EMPTY(&loop->awake)) {
			__atomic_store_n(&loop->cpu, -1, __ATOMIC_RELAXED);
			look(loop, -1);
			loop->slept = true;
			continue;
		}
		__atomic_store_n(&loop->cpu, sched_getcpu(), __ATOMIC_RELAXED);
		now = rte_rdtsc();
		if (run_pollers(loop, now))
			learn(loop, now);
		else
			give_way(loop);
		if (now - looked >= loop->look_cycles) {
			looked = now;
			look(loop, 0);
		}
	}
	self = NULL;
}

static void *
thread_main(void *arg)
{
	struct vdpa_event_loop *loop = arg;

	run(loop);
	return NULL;
}

static int
lcore_main(void *arg)
{
	run(arg);
	return 0;
}

static int
start_thread(struct vdpa_event_loop *loop)
{
	int rc;

	if (loop->lcore_id != LCORE_ID_ANY) {
		rc = rte_eal_remote_launch(lcore_main, loop, loop->lcore_id);
		return rc < 0 ? vdpa_error(EBUSY, "lcore %u: is busy", loop->lcore_id) : 0;
	}
	rc = vdpa_thread_start(loop->name, thread_main, loop, &loop->thread);
	return rc != 0 ? vdpa_error(rc, "thread %s: %s", loop->name, strerror(rc)) : 0;
}

int
vdpa_event_loop_create(const struct vdpa_event_loop_params *params, struct vdpa_event_loop **out)
{
	struct vdpa_event_loop *loop = calloc(1, sizeof(*loop));
	int rc;

	if (loop == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	snprintf(loop->name, sizeof(loop->name), "%s", params->name);
	loop->lcore_id = params->lcore_id;
	poll_window_init(&loop->window, rte_get_tsc_hz() / 1000000 * params->poll_us);
	loop->look_cycles = rte_get_tsc_hz() / 1000000 * LOOK_US;
	TAILQ_INIT(&loop->awake);
	loop->free_slot = NO_SLOT;
	loop->cpu = -1;
	STAILQ_INIT(&loop->tasks);
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->done, NULL);

	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epfd < 0) {
		rc = vdpa_error(errno, "epoll: %s", strerror(errno));
		goto err_loop;
	}
	loop->wake.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (loop->wake.fd < 0) {
		rc = vdpa_error(errno, "eventfd: %s", strerror(errno));
		goto err_epoll;
	}
	loop->wake.events = EPOLLIN;
	loop->wake.handler = wake_handler;
	rc = vdpa_event_add(loop, &loop->wake);
	if (rc < 0)
		goto err_wake;
	rc = start_thread(loop);
	if (rc < 0)
		goto err_wake;
	*out = loop;
	return 0;

err_wake:
	close(loop->wake.fd);
err_epoll:
	close(loop->epfd);
err_loop:
	pthread_cond_destroy(&loop->done);
	pthread_mutex_destroy(&loop->lock);
	free(loop->slots);
	free(loop);
	return rc;
}

void
vdpa_event_loop_destroy(struct vdpa_event_loop *loop)
{
	if (loop == NULL)
		return;
	__atomic_store_n(&loop->stop, true, __ATOMIC_RELEASE);
	eventfd_write(loop->wake.fd, 1);
	if (loop->lcore_id != LCORE_ID_ANY)
		rte_eal_wait_lcore(loop->lcore_id);
	else
		pthread_join(loop->thread, NULL);
	close(loop->wake.fd);
	close(loop->epfd);
	pthread_cond_destroy(&loop->done);
	pthread_mutex_destroy(&loop->lock);
	free(loop->slots);
	free(loop);
}

struct vdpa_event_loop *
vdpa_event_loop_control(void)
{
	return control;
}

int
vdpa_event_control_init(void)
{
	struct vdpa_event_loop_params params = {
		.name = "vdpa-control", .lcore_id = LCORE_ID_ANY, .poll_us = 0};
	int rc;

	rc = vdpa_event_loop_create(&params, &control);
	if (rc < 0)
		return rc;
	rc = vdpa_timer_init(control);
	if (rc < 0) {
		vdpa_event_loop_destroy(control);
		control = NULL;
		return rc;
	}
	vdpa_work_init();
	return 0;
}

void
vdpa_event_control_fini(void)
{
	vdpa_work_fini();
	vdpa_timer_fini();
	vdpa_event_loop_destroy(control);
	control = NULL;
}

/* A call for which several loops stand still. */
struct all_call {
	struct vdpa_event_loop *const *loops;
	unsigned int n, at;
	int (*fn)(void *arg);
	void *arg;
};

/* The one that this thread executes: it stands for the threads of all these loops. */
static __thread const struct all_call *standing;

bool
vdpa_event_loop_is_self(const struct vdpa_event_loop *loop)
{
	if (self == loop)
		return true;
	for (unsigned int i = 0; standing != NULL && i < standing->n; i++)
		if (standing->loops[i] == loop)
			return true;
	return false;
}

struct loop_call {
	struct vdpa_task task;
	int (*fn)(void *arg);
	void *arg;
	int rc;
	bool done; /* atomic, set under the loop's lock; the last that is touched */
	char message[VDPA_ERROR_MAX];
};

static void
call_run(struct vdpa_task *task)
{
	struct loop_call *call = task->arg;
	struct vdpa_event_loop *loop = task->loop;
	unsigned int errors_before = vdpa_error_count();
	int rc = call->fn(call->arg);

	if (rc < 0 && vdpa_error_count() != errors_before)
		snprintf(call->message, sizeof(call->message), "%s", vdpa_error_message());
	pthread_mutex_lock(&loop->lock);
	call->rc = rc;
	__atomic_store_n(&call->done, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&loop->done);
	pthread_mutex_unlock(&loop->lock);
}

/* Whether the call was answered at once. */
static bool
answered_soon(const struct loop_call *call)
{
	int64_t until_us = vdpa_now_us() + CALL_US;
	bool done;

	do {
		/* On the same CPU, the loop answers now. */
		sched_yield();
		done = __atomic_load_n(&call->done, __ATOMIC_ACQUIRE);
	} while (!done && vdpa_now_us() < until_us);
	return done;
}

int
vdpa_event_loop_call(struct vdpa_event_loop *loop, int (*fn)(void *arg), void *arg)
{
	struct loop_call call;

	if (vdpa_event_loop_is_self(loop))
		return fn(arg);
	call.fn = fn;
	call.arg = arg;
	call.done = false;
	call.message[0] = '\0';
	call.task = (struct vdpa_task){.run = call_run, .arg = &call};
	vdpa_task_post(loop, &call.task);
	/* Who gives the CPU to a busy loop by a yield has it back at the scheduler's next tick,
	 * milliseconds later; who sleeps, when the loop has answered. */
	if (sched_getcpu() == __atomic_load_n(&loop->cpu, __ATOMIC_RELAXED) ||
	    !answered_soon(&call)) {
		pthread_mutex_lock(&loop->lock);
		while (!__atomic_load_n(&call.done, __ATOMIC_RELAXED))
			pthread_cond_wait(&loop->done, &loop->lock);
		pthread_mutex_unlock(&loop->lock);
	}
	/* What was said over there is the caller's error. */
	if (call.message[0] != '\0')
		vdpa_error(call.rc, "%s", call.message);
	return call.rc;
}

static int
call_next(void *arg)
{
	struct all_call *call = arg;
	const struct all_call *outer = standing;
	int rc;

	if (call->at < call->n)
		return vdpa_event_loop_call(call->loops[call->at++], call_next, call);
	standing = call;
	rc = call->fn(call->arg);
	standing = outer;
	return rc;
}

int
vdpa_event_loop_call_all(struct vdpa_event_loop *const *loops, unsigned int n, int (*fn)(void *arg),
			 void *arg)
{
	struct all_call call = {.loops = loops, .n = n, .fn = fn, .arg = arg};

	return call_next(&call);
}

void
vdpa_event_loop_stats(struct vdpa_event_loop *loop, struct vdpa_event_loop_stats *stats)
{
	stats->wakeups = __atomic_load_n(&loop->stats.wakeups, __ATOMIC_RELAXED);
	stats->polls = __atomic_load_n(&loop->stats.polls, __ATOMIC_RELAXED);
	stats->events = __atomic_load_n(&loop->stats.events, __ATOMIC_RELAXED);
	stats->tasks = __atomic_load_n(&loop->stats.tasks, __ATOMIC_RELAXED);
	stats->yields = __atomic_load_n(&loop->stats.yields, __ATOMIC_RELAXED);
}

/* Under the lock: a free slot for ev. */
static int
take_slot(struct vdpa_event_loop *loop, struct vdpa_event *ev)
{
	if (loop->free_slot == NO_SLOT) {
		uint32_t n = loop->n_slots == 0 ? SLOTS_MIN : 2 * loop->n_slots;
		struct slot *slots = realloc(loop->slots, n * sizeof(*slots));

		if (slots == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		for (uint32_t i = loop->n_slots; i < n; i++)
			slots[i] = (struct slot){.next_free = i + 1 < n ? i + 1 : NO_SLOT};
		loop->free_slot = loop->n_slots;
		loop->slots = slots;
		loop->n_slots = n;
	}
	ev->slot = loop->free_slot;
	loop->free_slot = loop->slots[ev->slot].next_free;
	loop->slots[ev->slot].ev = ev;
	return 0;
}

/* Under the lock. */
static void
give_slot_back(struct vdpa_event_loop *loop, const struct vdpa_event *ev)
{
	struct slot *slot = &loop->slots[ev->slot];

	slot->ev = NULL;
	slot->generation++;
	slot->next_free = loop->free_slot;
	loop->free_slot = ev->slot;
}

/* Under the lock: tell epoll of a member. */
static int
control_epoll(struct vdpa_event_loop *loop, int op, const struct vdpa_event *ev)
{
	struct epoll_event ee = {.events = ev->events};

	ee.data.u64 = (uint64_t)loop->slots[ev->slot].generation << 32 | ev->slot;
	return epoll_ctl(loop->epfd, op, ev->fd, &ee);
}

int
vdpa_event_add(struct vdpa_event_loop *loop, struct vdpa_event *ev)
{
	int rc;

	pthread_mutex_lock(&loop->lock);
	if (ev->loop != NULL)
		rc = vdpa_error(EINVAL, "fd %d: is in a loop already", ev->fd);
	else
		rc = take_slot(loop, ev);
	if (rc == 0 && control_epoll(loop, EPOLL_CTL_ADD, ev) < 0) {
		rc = vdpa_error(errno, "fd %d: epoll: %s", ev->fd, strerror(errno));
		give_slot_back(loop, ev);
	}
	if (rc == 0)
		ev->loop = loop;
	pthread_mutex_unlock(&loop->lock);
	return rc;
}

void
vdpa_event_del(struct vdpa_event *ev)
{
	/* Removed by its own handler: what that did before is seen too. */
	struct vdpa_event_loop *loop = __atomic_load_n(&ev->loop, __ATOMIC_ACQUIRE);

	if (loop == NULL)
		return;
	pthread_mutex_lock(&loop->lock);
	if (ev->loop == loop) {
		epoll_ctl(loop->epfd, EPOLL_CTL_DEL, ev->fd, NULL);
		give_slot_back(loop, ev);
		__atomic_store_n(&ev->loop, NULL, __ATOMIC_RELEASE);
	}
	while (loop->running == ev && !vdpa_event_loop_is_self(loop))
		pthread_cond_wait(&loop->done, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

void
vdpa_event_rearm(struct vdpa_event *ev)
{
	struct vdpa_event_loop *loop = __atomic_load_n(&ev->loop, __ATOMIC_ACQUIRE);

	if (loop == NULL)
		return;
	pthread_mutex_lock(&loop->lock);
	if (ev->loop == loop)
		control_epoll(loop, EPOLL_CTL_MOD, ev);
	pthread_mutex_unlock(&loop->lock);
}

struct poller_change {
	struct vdpa_event_loop *loop;
	struct vdpa_poller *poller;
};

static int
add_poller(void *arg)
{
	struct poller_change *c = arg;

	if (c->poller->loop != NULL)
		return vdpa_error(EINVAL, "the poller is in a loop already");
	c->poller->loop = c->loop;
	c->poller->awake = false;
	vdpa_poller_wake(c->poller);
	return 0;
}

int
vdpa_poller_add(struct vdpa_event_loop *loop, struct vdpa_poller *poller)
{
	struct poller_change c = {.loop = loop, .poller = poller};

	return vdpa_event_loop_call(loop, add_poller, &c);
}

static int
del_poller(void *arg)
{
	struct poller_change *c = arg;

	if (c->poller->loop != c->loop)
		return 0;
	if (c->loop->next_poller == c->poller)
		c->loop->next_poller = TAILQ_NEXT(c->poller, next);
	if (c->poller->awake)
		TAILQ_REMOVE(&c->loop->awake, c->poller, next);
	c->poller->awake = false;
	c->poller->loop = NULL;
	return 0;
}

void
vdpa_poller_del(struct vdpa_poller *poller)
{
	struct poller_change c = {.loop = poller->loop, .poller = poller};

	if (c.loop != NULL)
		vdpa_event_loop_call(c.loop, del_poller, &c);
}

void
vdpa_poller_wake(struct vdpa_poller *poller)
{
	poller->last_work = rte_rdtsc();
	if (poller->awake || poller->loop == NULL)
		return;
	poller->awake = true;
	TAILQ_INSERT_TAIL(&poller->loop->awake, poller, next);
}

void
vdpa_task_post(struct vdpa_event_loop *loop, struct vdpa_task *task)
{
	bool queued;

	pthread_mutex_lock(&loop->lock);
	queued = task->queued;
	if (!queued) {
		task->queued = true;
		task->loop = loop;
		STAILQ_INSERT_TAIL(&loop->tasks, task, next);
		__atomic_store_n(&loop->tasks_waiting, true, __ATOMIC_RELEASE);
	}
	pthread_mutex_unlock(&loop->lock);
	if (!queued)
		eventfd_write(loop->wake.fd, 1);
}

void
vdpa_task_cancel(struct vdpa_task *task)
{
	struct vdpa_event_loop *loop = task->loop;

	if (loop == NULL)
		return;
	pthread_mutex_lock(&loop->lock);
	if (task->queued) {
		STAILQ_REMOVE(&loop->tasks, task, vdpa_task, next);
		task->queued = false;
	}
	while (loop->running_task == task && !vdpa_event_loop_is_self(loop))
		pthread_cond_wait(&loop->done, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}
