/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Workers: the event loops that execute the virtqueues of simulated devices. With poll lcores, one
 * for each, given to devices in turn; otherwise one thread for all devices, which sleeps when they
 * idle. A worker exists while it has a user.
 */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include <rte_lcore.h>

#include "sim.h"
#include "vdpa_priv.h"

struct sim_worker {
	struct vdpa_event_loop *loop;
	unsigned int users;
	unsigned int slot;
};

static pthread_mutex_t workers_lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_worker *workers[RTE_MAX_LCORE]; /* by poll lcore in the order given, or [0] */
static unsigned int next_slot;

static struct sim_worker *
worker_create(const struct vdpa_settings *s, unsigned int slot)
{
	struct vdpa_event_loop_params params = {.lcore_id = LCORE_ID_ANY, .poll_us = s->poll_us};
	struct sim_worker *worker = calloc(1, sizeof(*worker));
	char name[32] = "vdpa-sim";

	if (worker == NULL) {
		vdpa_error(ENOMEM, "out of memory");
		return NULL;
	}
	if (s->n_poll_lcores > 0) {
		params.lcore_id = s->poll_lcores[slot];
		snprintf(name, sizeof(name), "vdpa-sim-%u", slot);
	}
	params.name = name;
	if (vdpa_event_loop_create(&params, &worker->loop) < 0) {
		free(worker);
		return NULL;
	}
	worker->slot = slot;
	return worker;
}

struct sim_worker *
sim_worker_get(struct sim_worker *worker)
{
	const struct vdpa_settings *s = vdpa_settings();
	unsigned int slot;

	pthread_mutex_lock(&workers_lock);
	if (worker == NULL) {
		slot = s->n_poll_lcores > 0 ? next_slot % s->n_poll_lcores : 0;
		if (workers[slot] == NULL)
			workers[slot] = worker_create(s, slot);
		worker = workers[slot];
		if (worker != NULL)
			next_slot = slot + 1;
	}
	if (worker != NULL)
		worker->users++;
	pthread_mutex_unlock(&workers_lock);
	return worker;
}

void
sim_worker_put(struct sim_worker *worker)
{
	pthread_mutex_lock(&workers_lock);
	if (--worker->users == 0) {
		workers[worker->slot] = NULL;
		/* Under the lock: its lcore must be free before the next worker takes it. */
		vdpa_event_loop_destroy(worker->loop);
		free(worker);
	}
	pthread_mutex_unlock(&workers_lock);
}

struct vdpa_event_loop *
sim_worker_loop(const struct sim_worker *worker)
{
	return worker->loop;
}
