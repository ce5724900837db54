/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Doorbells by memory and by message. A word that nobody has rung holds DOORBELL_IDLE; a ring
 * writes the queue's index, or index and position with notification data, to it or to its lower
 * half. Rings between two looks are one ring. The memory is a client's to write at any time: its
 * value is used for nothing but to see that it has changed, and to be shown.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <rte_common.h>
#include <rte_lcore.h>

#include "vfio_user_doorbell.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_log.h"

/* No queue has the index 0xffff. */
#define DOORBELL_IDLE UINT32_MAX

#define NS_PER_US UINT64_C(1000)
#define NS_PER_S  UINT64_C(1000000000)

static uint32_t *
word(const struct vfu_bells *d, uint16_t idx)
{
	return (uint32_t *)(void *)(d->mem + (size_t)idx * d->mult);
}

uint32_t
vdpa_vfus_bells_get_flag(const struct vfu_bells *d, uint16_t idx)
{
	return __atomic_load_n(word(d, idx) + 1, __ATOMIC_RELAXED);
}

void
vdpa_vfus_bells_set_flag(struct vfu_bells *d, uint16_t idx, uint32_t value)
{
	/* What it tells of, used descriptors, was written before. */
	__atomic_store_n(word(d, idx) + 1, value, __ATOMIC_RELEASE);
}

static uint64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void
count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* What the ring's driver says of its place: the engine looks at the ring in any case. */
static void
note(struct vfu_bell *q, uint32_t data)
{
	__atomic_store_n(&q->position, (uint16_t)(data >> 16), __ATOMIC_RELAXED);
}

static bool
look(struct vfu_bells *d)
{
	bool rung = false;

	for (uint16_t i = 0; i < d->n; i++) {
		uint32_t *w = word(d, i);

		if (__atomic_load_n(w, __ATOMIC_RELAXED) == DOORBELL_IDLE)
			continue;
		note(&d->queues[i], __atomic_exchange_n(w, DOORBELL_IDLE, __ATOMIC_ACQ_REL));
		count(&d->queues[i].by_memory);
		(void)eventfd_write(d->queues[i].kick_fd, 1);
		rung = true;
	}
	return rung;
}

/* Look at one function, and decide when to look again. */
static void
look_and_plan(struct vfu_bells *d, uint64_t now)
{
	if (look(d))
		d->wait_us = 0;
	d->wait_us = RTE_MIN(d->wait_us * 2, DOORBELL_IDLE_US_MAX);
	d->wait_us = RTE_MAX(d->wait_us, d->poll_us);
	d->due = now + d->wait_us * NS_PER_US;
}

/* For the function that is due first; none: never. */
static void
arm(struct vfu_watch *w)
{
	struct itimerspec when = {0};
	struct vfu_bells *d;
	uint64_t first = UINT64_MAX;

	TAILQ_FOREACH (d, &w->watched, next)
		first = RTE_MIN(first, d->due);
	if (first != UINT64_MAX) {
		when.it_value.tv_sec = (time_t)(first / NS_PER_S);
		when.it_value.tv_nsec = (long)(first % NS_PER_S);
	}
	timerfd_settime(w->timer.fd, TFD_TIMER_ABSTIME, &when, NULL);
}

static void
on_timer(struct vdpa_event *ev, uint32_t revents)
{
	struct vfu_watch *w = ev->arg;
	uint64_t expired, now;
	struct vfu_bells *d;

	if (read(ev->fd, &expired, sizeof(expired)) < 0)
		return;
	now = now_ns();
	/* Those that are due soon come along, so that all idle ones end up with one wake-up. */
	TAILQ_FOREACH (d, &w->watched, next)
		if (d->due <= now + d->wait_us * NS_PER_US / 2)
			look_and_plan(d, now);
	arm(w);
}

int
vdpa_vfus_watch_init(struct vfu_watch *w)
{
	const struct vdpa_event_loop_params params = {.name = "vdpa-doorbell",
						      .lcore_id = LCORE_ID_ANY};
	int rc;

	*w = (struct vfu_watch){.timer.events = EPOLLIN, .timer.handler = on_timer};
	TAILQ_INIT(&w->watched);
	w->timer.arg = w;
	w->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (w->timer.fd < 0)
		return vdpa_error(errno, "timer for doorbells: %s", strerror(errno));
	rc = vdpa_event_loop_create(&params, &w->loop);
	return rc < 0 ? rc : vdpa_event_add(w->loop, &w->timer);
}

void
vdpa_vfus_watch_fini(struct vfu_watch *w)
{
	vdpa_event_del(&w->timer);
	vdpa_event_loop_destroy(w->loop);
	w->loop = NULL;
	if (w->timer.fd >= 0)
		close(w->timer.fd);
	w->timer.fd = -1;
}

static int
watch(void *arg)
{
	struct vfu_bells *d = arg;

	if (!d->watched)
		TAILQ_INSERT_TAIL(&d->watch->watched, d, next);
	d->watched = true;
	look_and_plan(d, now_ns());
	arm(d->watch);
	return 0;
}

static int
unwatch(void *arg)
{
	struct vfu_bells *d = arg;

	if (d->watched)
		TAILQ_REMOVE(&d->watch->watched, d, next);
	d->watched = false;
	arm(d->watch);
	return 0;
}

static void
forget(struct vfu_bells *d)
{
	for (uint16_t i = 0; i < d->n; i++) {
		__atomic_store_n(word(d, i), DOORBELL_IDLE, __ATOMIC_RELAXED);
		if (d->flags)
			vdpa_vfus_bells_set_flag(d, i, 0);
	}
}

/* Memory that a client cannot take away under us: its size is sealed. */
static int
make_memory(struct vfu_bells *d)
{
	d->fd = memfd_create("vdpa-notify", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (d->fd < 0 || ftruncate(d->fd, (off_t)(d->offset + d->len)) < 0 ||
	    fcntl(d->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return vdpa_error(errno, "memory for doorbells: %s", strerror(errno));
	d->mem = mmap(NULL, d->len, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, (off_t)d->offset);
	if (d->mem == MAP_FAILED) {
		d->mem = NULL;
		return vdpa_error(errno, "memory for doorbells: %s", strerror(errno));
	}
	forget(d);
	return 0;
}

int
vdpa_vfus_bells_init(struct vfu_bells *d, struct vfu_watch *watcher, uint16_t n, uint32_t mult,
		     size_t offset, size_t len, unsigned int poll_us, bool flags)
{
	int rc;

	*d = (struct vfu_bells){.mult = mult,
				.fd = -1,
				.offset = offset,
				.len = len,
				.poll = poll_us != 0,
				.flags = flags,
				.poll_us = poll_us,
				.watch = watcher};
	d->queues = calloc(n, sizeof(*d->queues));
	if (d->queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (; d->n < n; d->n++) {
		d->queues[d->n].kick_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		if (d->queues[d->n].kick_fd < 0) {
			rc = vdpa_error(errno, "eventfd: %s", strerror(errno));
			goto err;
		}
	}
	if (d->poll || d->flags) {
		rc = make_memory(d);
		if (rc < 0)
			goto err;
	}
	return 0;
err:
	vdpa_vfus_bells_fini(d);
	return rc;
}

void
vdpa_vfus_bells_renew(struct vfu_bells *d)
{
	struct vfu_bells old = *d;

	if (d->mem == NULL)
		return;
	if (make_memory(d) == 0) {
		munmap(old.mem, old.len);
		close(old.fd);
		return;
	}
	VDPA_LOG(WARNING, "doorbells: the last client keeps them: %s", vdpa_error_message());
	if (d->fd >= 0)
		close(d->fd);
	d->fd = old.fd;
	d->mem = old.mem;
}

int
vdpa_vfus_bells_adopt(struct vfu_bells *d, int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	uint8_t *mem;

	if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &st) < 0 ||
	    (uint64_t)st.st_size != d->offset + d->len)
		return vdpa_error(EPROTO, "what was kept of its doorbells is not their memory");
	mem = mmap(NULL, d->len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)d->offset);
	if (mem == MAP_FAILED)
		return vdpa_error(errno, "memory for doorbells: %s", strerror(errno));
	munmap(d->mem, d->len);
	close(d->fd);
	d->mem = mem;
	d->fd = fd;
	return 0;
}

void
vdpa_vfus_bells_fini(struct vfu_bells *d)
{
	if (d->mem != NULL) {
		vdpa_event_loop_call(d->watch->loop, unwatch, d);
		munmap(d->mem, d->len);
	}
	if (d->fd >= 0)
		close(d->fd);
	for (uint16_t i = 0; i < d->n; i++)
		close(d->queues[i].kick_fd);
	free(d->queues);
	*d = (struct vfu_bells){.fd = -1};
}

void
vdpa_vfus_bells_start(struct vfu_bells *d)
{
	if (d->poll)
		vdpa_event_loop_call(d->watch->loop, watch, d);
}

void
vdpa_vfus_bells_stop(struct vfu_bells *d)
{
	eventfd_t value;

	if (d->poll)
		vdpa_event_loop_call(d->watch->loop, unwatch, d);
	if (d->mem != NULL)
		forget(d);
	for (uint16_t i = 0; i < d->n; i++)
		(void)eventfd_read(d->queues[i].kick_fd, &value);
}

void
vdpa_vfus_bells_ring(struct vfu_bells *d, uint16_t idx, uint32_t data)
{
	note(&d->queues[idx], data);
	count(&d->queues[idx].by_message);
	(void)eventfd_write(d->queues[idx].kick_fd, 1);
}
