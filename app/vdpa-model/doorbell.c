/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Doorbells by memory and by message. A word that nobody has rung holds DOORBELL_IDLE; a ring
 * writes the queue's index, or index and position with notification data, to it or to its lower
 * half. Rings between two looks are one ring. The memory is a client's to write at any time: its
 * value is used for nothing but to see that it has changed.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <fcntl.h>

#include <rte_common.h>

#include "doorbell.h"
#include "vdpa_args.h"
#include "vdpa_log.h"

/* No queue has the index 0xffff. */
#define DOORBELL_IDLE UINT32_MAX

static uint32_t *
word(const struct doorbells *d, uint16_t idx)
{
	return (uint32_t *)(void *)(d->mem + (size_t)idx * d->mult);
}

static void
arm(struct doorbells *d, unsigned int us)
{
	/* 0 would disarm it. */
	struct itimerspec when = {.it_value.tv_nsec = (long)us * 1000 + 1};

	timerfd_settime(d->timer.fd, 0, &when, NULL);
}

static void
count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

static bool
look(struct doorbells *d)
{
	bool rung = false;

	for (uint16_t i = 0; i < d->n; i++) {
		uint32_t *w = word(d, i);

		if (__atomic_load_n(w, __ATOMIC_RELAXED) == DOORBELL_IDLE)
			continue;
		__atomic_exchange_n(w, DOORBELL_IDLE, __ATOMIC_ACQ_REL);
		count(&d->queues[i].by_memory);
		(void)eventfd_write(d->queues[i].kick_fd, 1);
		rung = true;
	}
	return rung;
}

static void
on_timer(struct vdpa_event *ev, uint32_t revents)
{
	struct doorbells *d = ev->arg;
	uint64_t expired;

	if (read(ev->fd, &expired, sizeof(expired)) < 0 ||
	    !__atomic_load_n(&d->running, __ATOMIC_ACQUIRE))
		return;
	if (look(d))
		d->wait_us = 0;
	d->wait_us = RTE_MIN(d->wait_us * 2, DOORBELL_IDLE_US_MAX);
	d->wait_us = RTE_MAX(d->wait_us, d->poll_us);
	arm(d, d->wait_us);
}

static void
forget(struct doorbells *d)
{
	for (uint16_t i = 0; i < d->n; i++)
		__atomic_store_n(word(d, i), DOORBELL_IDLE, __ATOMIC_RELAXED);
}

/* Memory that a client cannot take away under us: its size is sealed. */
static int
make_memory(struct doorbells *d)
{
	d->fd = memfd_create("vdpa-model-notify", MFD_CLOEXEC | MFD_ALLOW_SEALING);
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

static int
make_timer(struct doorbells *d, struct vdpa_event_loop *loop)
{
	d->timer.fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (d->timer.fd < 0)
		return vdpa_error(errno, "timer for doorbells: %s", strerror(errno));
	d->timer.events = EPOLLIN;
	d->timer.handler = on_timer;
	d->timer.arg = d;
	return vdpa_event_add(loop, &d->timer);
}

int
doorbells_init(struct doorbells *d, struct vdpa_event_loop *loop, uint16_t n, uint32_t mult,
	       size_t offset, size_t len, unsigned int poll_us)
{
	int rc;

	*d = (struct doorbells){.mult = mult,
				.fd = -1,
				.offset = offset,
				.len = len,
				.poll = poll_us != 0,
				.poll_us = poll_us,
				.timer.fd = -1};
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
	if (d->poll) {
		rc = make_memory(d);
		if (rc == 0)
			rc = make_timer(d, loop);
		if (rc < 0)
			goto err;
	}
	return 0;
err:
	doorbells_fini(d);
	return rc;
}

void
doorbells_fini(struct doorbells *d)
{
	__atomic_store_n(&d->running, false, __ATOMIC_RELEASE);
	vdpa_event_del(&d->timer);
	if (d->timer.fd >= 0)
		close(d->timer.fd);
	if (d->mem != NULL)
		munmap(d->mem, d->len);
	if (d->fd >= 0)
		close(d->fd);
	for (uint16_t i = 0; i < d->n; i++)
		close(d->queues[i].kick_fd);
	free(d->queues);
	*d = (struct doorbells){.fd = -1, .timer.fd = -1};
}

void
doorbells_start(struct doorbells *d)
{
	if (!d->poll)
		return;
	__atomic_store_n(&d->running, true, __ATOMIC_RELEASE);
	arm(d, 0);
}

void
doorbells_stop(struct doorbells *d)
{
	eventfd_t value;

	__atomic_store_n(&d->running, false, __ATOMIC_RELEASE);
	if (d->poll)
		forget(d);
	for (uint16_t i = 0; i < d->n; i++)
		(void)eventfd_read(d->queues[i].kick_fd, &value);
}

void
doorbells_ring(struct doorbells *d, uint16_t idx)
{
	count(&d->queues[idx].by_message);
	(void)eventfd_write(d->queues[idx].kick_fd, 1);
}
