/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Workers: the event loops that execute virtqueues in software, of simulated devices and of
 * shadows. With poll lcores, one for each, given to users in turn; otherwise one thread for all of
 * them, which sleeps when they idle. A worker exists while it has a user.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <rte_common.h>
#include <rte_lcore.h>

#include "error_priv.h"
#include "settings.h"
#include "vdpa_error.h"
#include "vdpa_worker.h"

struct vdpa_worker {
	struct vdpa_event_loop *loop;
	unsigned int users;
	unsigned int slot;
};

static pthread_mutex_t workers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vdpa_worker *workers[RTE_MAX_LCORE]; /* by poll lcore in the order given, or [0] */
static unsigned int next_slot;

static struct vdpa_worker *
worker_create(const struct vdpa_settings *s, unsigned int slot)
{
	struct vdpa_event_loop_params params = {.lcore_id = LCORE_ID_ANY, .poll_us = s->poll_us};
	struct vdpa_worker *worker = calloc(1, sizeof(*worker));
	char name[32] = "vdpa-worker";

	if (worker == NULL) {
		vdpa_error(ENOMEM, "out of memory");
		return NULL;
	}
	if (s->n_poll_lcores > 0) {
		params.lcore_id = s->poll_lcores[slot];
		snprintf(name, sizeof(name), "vdpa-worker-%u", slot);
	}
	params.name = name;
	if (vdpa_event_loop_create(&params, &worker->loop) < 0) {
		free(worker);
		return NULL;
	}
	worker->slot = slot;
	return worker;
}

/* The worker of a slot, for one more user. With the lock. */
static struct vdpa_worker *
worker_take(const struct vdpa_settings *s, unsigned int slot)
{
	if (workers[slot] == NULL)
		workers[slot] = worker_create(s, slot);
	if (workers[slot] != NULL)
		workers[slot]->users++;
	return workers[slot];
}

/* With the lock. */
static void
worker_drop(struct vdpa_worker *worker)
{
	if (--worker->users > 0)
		return;
	workers[worker->slot] = NULL;
	/* Under the lock: its lcore must be free before the next worker takes it. */
	vdpa_event_loop_destroy(worker->loop);
	free(worker);
}

struct vdpa_worker *
vdpa_worker_get(struct vdpa_worker *worker)
{
	if (worker == NULL)
		return vdpa_worker_get_all(&worker, 1) == 0 ? worker : NULL;
	pthread_mutex_lock(&workers_lock);
	worker->users++;
	pthread_mutex_unlock(&workers_lock);
	return worker;
}

static int
by_slot(const void *a, const void *b)
{
	const struct vdpa_worker *const *x = a, *const *y = b;

	return (*x)->slot < (*y)->slot ? -1 : (*x)->slot > (*y)->slot;
}

int
vdpa_worker_get_all(struct vdpa_worker **workers_out, unsigned int n)
{
	const struct vdpa_settings *s = &vdpa_settings;
	unsigned int slots = RTE_MAX(s->n_poll_lcores, 1u), i;

	if (n > slots)
		return vdpa_error(EINVAL,
				  "workers %u: that takes as many lcores that poll, and %u do: see "
				  "vdpa-app's --poll-lcores",
				  n, s->n_poll_lcores);
	pthread_mutex_lock(&workers_lock);
	for (i = 0; i < n; i++) {
		workers_out[i] = worker_take(s, (next_slot + i) % slots);
		if (workers_out[i] == NULL)
			break;
	}
	if (i == n)
		next_slot = (next_slot + n) % slots;
	for (unsigned int k = 0; i < n && k < i; k++)
		worker_drop(workers_out[k]);
	pthread_mutex_unlock(&workers_lock);
	if (i < n)
		return -ENOMEM;
	qsort(workers_out, n, sizeof(workers_out[0]), by_slot);
	return 0;
}

void
vdpa_worker_put(struct vdpa_worker *worker)
{
	pthread_mutex_lock(&workers_lock);
	worker_drop(worker);
	pthread_mutex_unlock(&workers_lock);
}

struct vdpa_event_loop *
vdpa_worker_loop(const struct vdpa_worker *worker)
{
	return worker->loop;
}
