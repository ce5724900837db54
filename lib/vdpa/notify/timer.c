/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Timers of the control loop. Owns one timerfd and the list of timers that run, the next to expire
 * first. The lock guards the list and says which timer's function runs, so that a stop waits for
 * that one only.
 */

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock.h"
#include "event_loop_priv.h"
#include "vdpa_error.h"
#include "vdpa_event.h"
#include "vdpa_timer.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t done = PTHREAD_COND_INITIALIZER;
static TAILQ_HEAD(timer_list, vdpa_timer) timers = TAILQ_HEAD_INITIALIZER(timers);
static struct vdpa_timer *running;
static struct vdpa_event event = {.fd = -1};

/* Under the lock: the timerfd is set to the first deadline. */
static void
arm(void)
{
	const struct vdpa_timer *first = TAILQ_FIRST(&timers);
	struct itimerspec when = {0};

	if (first != NULL) {
		when.it_value.tv_sec = first->deadline_us / 1000000;
		when.it_value.tv_nsec = first->deadline_us % 1000000 * 1000;
	}
	timerfd_settime(event.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void
handler(struct vdpa_event *ev, uint32_t revents)
{
	int64_t now_us = vdpa_now_us();
	struct vdpa_timer *timer;
	uint64_t expirations;

	if (read(ev->fd, &expirations, sizeof(expirations)) < 0)
		return;
	pthread_mutex_lock(&lock);
	while ((timer = TAILQ_FIRST(&timers)) != NULL && timer->deadline_us <= now_us) {
		TAILQ_REMOVE(&timers, timer, next);
		timer->armed = false;
		running = timer;
		pthread_mutex_unlock(&lock);
		timer->expired(timer);
		pthread_mutex_lock(&lock);
		running = NULL;
		pthread_cond_broadcast(&done);
	}
	arm();
	pthread_mutex_unlock(&lock);
}

int
vdpa_timer_init(struct vdpa_event_loop *loop)
{
	int rc;

	event = (struct vdpa_event){.events = EPOLLIN, .handler = handler};
	event.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (event.fd < 0)
		return vdpa_error(errno, "timerfd: %s", strerror(errno));
	rc = vdpa_event_add(loop, &event);
	if (rc < 0) {
		close(event.fd);
		event.fd = -1;
	}
	return rc;
}

void
vdpa_timer_fini(void)
{
	vdpa_event_del(&event);
	close(event.fd);
	event.fd = -1;
}

void
vdpa_timer_start(struct vdpa_timer *timer, unsigned int ms)
{
	struct vdpa_timer *before;

	pthread_mutex_lock(&lock);
	if (timer->armed)
		TAILQ_REMOVE(&timers, timer, next);
	timer->deadline_us = vdpa_now_us() + (int64_t)ms * 1000;
	timer->armed = true;
	TAILQ_FOREACH_REVERSE(before, &timers, timer_list, next)
	if (before->deadline_us <= timer->deadline_us)
		break;
	if (before != NULL)
		TAILQ_INSERT_AFTER(&timers, before, timer, next);
	else
		TAILQ_INSERT_HEAD(&timers, timer, next);
	if (TAILQ_FIRST(&timers) == timer)
		arm();
	pthread_mutex_unlock(&lock);
}

void
vdpa_timer_stop(struct vdpa_timer *timer)
{
	pthread_mutex_lock(&lock);
	if (timer->armed) {
		TAILQ_REMOVE(&timers, timer, next);
		timer->armed = false;
	}
	while (running == timer && !vdpa_event_loop_is_self(event.loop))
		pthread_cond_wait(&done, &lock);
	/* It may have started itself again meanwhile. */
	if (timer->armed) {
		TAILQ_REMOVE(&timers, timer, next);
		timer->armed = false;
	}
	pthread_mutex_unlock(&lock);
}
