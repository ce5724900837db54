/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Figures of stops, moves and logs (figures.h). Owns nothing but counters: phases are timed by
 * whoever goes through them, pages are counted where they are marked (dirty_log.c), chains by their
 * paths.
 */

#include <string.h>

#include "counts.h"
#include "device_priv.h"
#include "figures.h"

/* A rate of less time says little. */
#define RATE_US 100000

static const struct {
	const char *count, *last, *max;
} phase_names[VDPA_PHASES] = {
#define PHASE(id, name) [VDPA_PHASE_##id] = {name "_count", name "_us", name "_max_us"}
	PHASE(START, "start"),	     PHASE(LOG_ON, "log_on"),	PHASE(SWITCH, "switch"),
	PHASE(LOG_SYNC, "log_sync"), PHASE(LOG_OFF, "log_off"), PHASE(DRAIN, "drain"),
	PHASE(SUSPEND, "suspend"),   PHASE(RESET, "reset"),	PHASE(STOP_VQ, "stop_vq"),
	PHASE(SAVE, "save"),	     PHASE(LOAD, "load"),
#undef PHASE
};

static const struct {
	const char *forwarded, *completed, *rate;
} mover_names[VDPA_MOVERS] = {
	[VDPA_MOVED_BY_RELAY] = {"relay_forwarded", "relay_completed", "relay_rate"},
	[VDPA_MOVED_BY_SHADOW] = {"shadow_forwarded", "shadow_completed", "shadow_rate"},
};

static uint64_t
load(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void
store(uint64_t *counter, uint64_t value)
{
	__atomic_store_n(counter, value, __ATOMIC_RELAXED);
}

void
vdpa_phase_end(struct vdpa_device *vdev, enum vdpa_phase phase, int64_t begun_us)
{
	struct vdpa_phase_figure *f = &vdev->core->figures.phases[phase];
	int64_t now_us = vdpa_now_us();
	uint64_t us = now_us > begun_us ? (uint64_t)(now_us - begun_us) : 0;

	store(&f->last_us, us);
	store(&f->max_us, RTE_MAX(load(&f->max_us), us));
	store(&f->count, load(&f->count) + 1);
}

/* Paths that relay have descriptors of the guest's, shadows have not. */
static enum vdpa_moved_by
mover_of(const struct vdpa_path *path)
{
	return path->own == VDPA_OWN_RINGS ? VDPA_MOVED_BY_RELAY : VDPA_MOVED_BY_SHADOW;
}

/* What a queue's path has moved since it began, and has under way. */
static struct vdpa_moved
look_at(const struct vdpa_core_vq *vq, const struct vdpa_path *path, uint64_t *in_flight)
{
	struct vdpa_moved moved = {0};
	struct vdpa_stat stats[VDPA_PATH_STATS_MAX];
	unsigned int n;

	n = path->get_stats != NULL ? path->get_stats(vq, stats, RTE_DIM(stats)) : 0;
	for (unsigned int i = 0; i < n; i++) {
		if (strcmp(stats[i].name, "forwarded") == 0)
			moved.forwarded = stats[i].value;
		else if (strcmp(stats[i].name, "completed") == 0)
			moved.completed = stats[i].value;
		else if (strcmp(stats[i].name, "in_flight") == 0 && in_flight != NULL)
			*in_flight += stats[i].value;
	}
	return moved;
}

void
vdpa_figures_note(struct vdpa_core_vq *vq, const struct vdpa_path *path)
{
	struct vdpa_moved now = look_at(vq, path, NULL);
	struct vdpa_moved *ended = &vq->vdev->core->figures.ended[mover_of(path)];

	ended->forwarded += now.forwarded - vq->moved.forwarded;
	ended->completed += now.completed - vq->moved.completed;
	vq->moved = now;
}

static uint64_t
rate_of(struct vdpa_figures *f, enum vdpa_moved_by mover, uint64_t completed)
{
	int64_t now_us = vdpa_now_us(), passed_us = now_us - f->looks[mover].at_us;

	if (passed_us < RATE_US)
		return f->looks[mover].rate;
	f->looks[mover].rate = (uint64_t)((double)(completed - f->looks[mover].completed) * 1e6 /
					  (double)passed_us);
	f->looks[mover].at_us = now_us;
	f->looks[mover].completed = completed;
	return f->looks[mover].rate;
}

static unsigned int
put(struct vdpa_stat *stats, unsigned int n, unsigned int at, const char *name, uint64_t value)
{
	if (at < n)
		stats[at] = (struct vdpa_stat){.name = name, .value = value};
	return at + 1;
}

unsigned int
vdpa_device_figures(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	struct vdpa_device_core *core = vdev->core;
	struct vdpa_figures *f = &core->figures;
	struct vdpa_moved moved[VDPA_MOVERS];
	uint64_t in_flight = 0, rates[VDPA_MOVERS];
	unsigned int at = 0;

	pthread_mutex_lock(&core->show_lock);
	memcpy(moved, f->ended, sizeof(moved));
	for (uint16_t i = 0; i < core->nvqs; i++) {
		const struct vdpa_core_vq *vq = &core->vqs[i];
		struct vdpa_moved now = look_at(vq, vq->path, &in_flight);

		moved[mover_of(vq->path)].forwarded += now.forwarded;
		moved[mover_of(vq->path)].completed += now.completed;
	}
	for (unsigned int m = 0; m < VDPA_MOVERS; m++)
		rates[m] = rate_of(f, m, moved[m].completed);
	pthread_mutex_unlock(&core->show_lock);

	at = put(stats, n, at, "log_pages", load(&f->pages));
	at = put(stats, n, at, "in_flight", in_flight);
	for (unsigned int m = 0; m < VDPA_MOVERS; m++) {
		at = put(stats, n, at, mover_names[m].forwarded, moved[m].forwarded);
		at = put(stats, n, at, mover_names[m].completed, moved[m].completed);
		at = put(stats, n, at, mover_names[m].rate, rates[m]);
	}
	for (unsigned int p = 0; p < VDPA_PHASES; p++) {
		at = put(stats, n, at, phase_names[p].count, load(&f->phases[p].count));
		at = put(stats, n, at, phase_names[p].last, load(&f->phases[p].last_us));
		at = put(stats, n, at, phase_names[p].max, load(&f->phases[p].max_us));
	}
	return RTE_MIN(at, n);
}
