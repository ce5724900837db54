/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What stops, moves and logs of a device have cost: how long each phase took, pages that were
 * logged, buffers that paths of ours have moved. Counted over the device's life. figures.c.
 */

#ifndef VDPA_FIGURES_H
#define VDPA_FIGURES_H

#include <stdint.h>

#include "clock.h"

struct vdpa_core_vq;
struct vdpa_device;
struct vdpa_path;
struct vdpa_stat;

/* Phases of a session and of a migration. What begins within another is a part of that one too. */
enum vdpa_phase {
	VDPA_PHASE_START,  /* reset to DRIVER_OK, with the paths' begin */
	VDPA_PHASE_LOG_ON, /* a front end gives a log: queues change their paths, the device logs */
	VDPA_PHASE_SWITCH, /* what changes its path stands still: a queue, or all at once */
	VDPA_PHASE_LOG_SYNC, /* hardware's log is brought over, or all memory marked */
	VDPA_PHASE_LOG_OFF,  /* the log ends, and what can leaves its paths */
	VDPA_PHASE_DRAIN,    /* requests end before a stop */
	VDPA_PHASE_SUSPEND,  /* the device's own suspension */
	VDPA_PHASE_RESET,    /* the device's own reset */
	VDPA_PHASE_STOP_VQ,  /* a queue's stop, to where it stands (GET_VRING_BASE) */
	VDPA_PHASE_SAVE,     /* the state is saved */
	VDPA_PHASE_LOAD,     /* the state is loaded */
	VDPA_PHASES,
};

struct vdpa_phase_figure {
	uint64_t count, last_us, max_us; /* atomic; written by one thread at a time */
};

/* Chains. */
struct vdpa_moved {
	uint64_t forwarded, completed;
};

enum vdpa_moved_by {
	VDPA_MOVED_BY_RELAY,
	VDPA_MOVED_BY_SHADOW,
	VDPA_MOVERS,
};

struct vdpa_figures {
	struct vdpa_phase_figure phases[VDPA_PHASES];
	uint64_t pages; /* bits of a log that were set and had not been; atomic */
	struct vdpa_moved ended[VDPA_MOVERS]; /* show lock: by paths that have ended */
	struct {
		int64_t at_us;
		uint64_t completed, rate;
	} looks[VDPA_MOVERS]; /* show lock: what the rates are of */
};

/* A phase that began at begun_us (vdpa_now_us()) is over, whatever came of it. */
void vdpa_phase_end(struct vdpa_device *vdev, enum vdpa_phase phase, int64_t begun_us);

/* Under the show lock: note what a queue's path has moved until now; the last time when it has
 * stopped and its statistics are still there. */
void vdpa_figures_note(struct vdpa_core_vq *vq, const struct vdpa_path *path);

/*
 * Up to n statistics of the device; how many there are. From any thread; without the device's lock.
 * A rate is of the time since the figures were last asked for, 100 ms at least, and in chains a
 * second.
 */
unsigned int vdpa_device_figures(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n);

#endif /* VDPA_FIGURES_H */
