/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A poller with work that a test produces, for an event loop. */

#ifndef WORK_POLLER_H
#define WORK_POLLER_H

#include <sys/eventfd.h>

#include "vdpa_event.h"

#define LOAD(x) __atomic_load_n(&(x), __ATOMIC_SEQ_CST)
#define INC(x)	__atomic_add_fetch(&(x), 1, __ATOMIC_SEQ_CST)

/* A queue of work between a producer and a poller with notifications, as a virtqueue has it. */
struct work {
	struct vdpa_poller poller;
	struct vdpa_event kick;
	unsigned int produced, consumed;
	unsigned int armed; /* the producer must kick */
	unsigned int sleeps;
	unsigned int polls;
};

static inline unsigned int
work_poll(struct vdpa_poller *poller)
{
	struct work *w = poller->arg;
	unsigned int n = LOAD(w->produced) - w->consumed;

	INC(w->polls);
	__atomic_store_n(&w->consumed, w->consumed + n, __ATOMIC_SEQ_CST);
	return n;
}

static inline bool
work_sleep(struct vdpa_poller *poller)
{
	struct work *w = poller->arg;

	__atomic_store_n(&w->armed, 1, __ATOMIC_SEQ_CST);
	if (LOAD(w->produced) != w->consumed) {
		__atomic_store_n(&w->armed, 0, __ATOMIC_SEQ_CST);
		return false;
	}
	INC(w->sleeps);
	return true;
}

static inline void
work_kick(struct vdpa_event *ev, uint32_t revents)
{
	struct work *w = ev->arg;
	eventfd_t value;

	eventfd_read(ev->fd, &value);
	__atomic_store_n(&w->armed, 0, __ATOMIC_SEQ_CST);
	vdpa_poller_wake(&w->poller);
}

#endif /* WORK_POLLER_H */
