/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the core counts of a device and of its virtqueues, and how that and what the driver counts
 * become the statistics of vdpa_stats.h: counts.c. A queue's kicks and interrupts are the guest's:
 * while a path with rings of its own stands between, the path counts them, and what the device
 * counts meanwhile is between the path and the device.
 */

#ifndef VDPA_COUNTS_H
#define VDPA_COUNTS_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa_frontend.h"
#include "vdpa_stats.h"

struct vdpa_core_vq;

/* Of a device, each by atomics. */
struct vdpa_device_counts {
	uint64_t memory_bytes, memory_regions;
	uint64_t start_us; /* of the last start */
	uint64_t starts;   /* 0: start_us is not known */
	uint64_t stops;
	uint64_t failures;
	uint64_t connections; /* one more than there were; 0: nobody counts them */
};

/* Kicks and interrupts. */
struct vdpa_signals {
	uint64_t kicks, interrupts;
};

/* Of a virtqueue. */
struct vdpa_vq_counts {
	uint64_t relayed;   /* kicks passed on to the device; the control loop's, read by atomics */
	uint64_t failures;  /* that name the queue; atomic */
	bool ran_direct;    /* it has run on the direct path; atomic */
	bool gave_doorbell; /* the guest has had its doorbell; atomic */
	/* Show lock: */
	struct vdpa_signals ended; /* of paths that have ended, the last one as far as taken says */
	struct vdpa_signals taken; /* of the last path, in ended already */
	struct vdpa_signals hidden; /* of the device, on paths that have ended */
	struct vdpa_signals before; /* of the device when the path that it is on began */
};

/* Statistics of a queue that are not in the vocabulary, at most. */
#define VDPA_VENDOR_STATS_MAX 64
#define VDPA_PATH_STATS_MAX   16

/* What is known of a queue. */
struct vdpa_queue_stats {
	bool known[VDPA_QUEUE_STAT_COUNT];
	uint64_t value[VDPA_QUEUE_STAT_COUNT];
	const char *path; /* static */
	struct vdpa_stat vendor[VDPA_VENDOR_STATS_MAX];
	struct vdpa_stat path_stats[VDPA_PATH_STATS_MAX];
	unsigned int n_vendor, n_path_stats;
};

/* What is known of a device. */
struct vdpa_device_stats {
	bool known[VDPA_DEVICE_STAT_COUNT];
	uint64_t value[VDPA_DEVICE_STAT_COUNT];
};

static inline void
vdpa_count(uint64_t *counter)
{
	__atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* Under the device's lock. The state changes. */
void vdpa_counts_state(struct vdpa_device *vdev, enum vdpa_device_state old,
		       enum vdpa_device_state now);
/* Other memory is in force. */
void vdpa_counts_memory(struct vdpa_device *vdev);
/* The device has started, which took so long. */
void vdpa_counts_start(struct vdpa_device *vdev, uint64_t us);

/* Under device and show lock: vq->path, which is not the direct one, has been set; it ends, and the
 * device executes the queue no more. */
void vdpa_counts_path_begins(struct vdpa_core_vq *vq);
void vdpa_counts_path_ends(struct vdpa_core_vq *vq);
/* Then, under the show lock: what the path has counted when all was handed over. */
void vdpa_counts_path_ended(struct vdpa_core_vq *vq, struct vdpa_signals all);

/*
 * From any thread, with a reference. The rings are not looked at: RING_SIZE and RING_DEPTH stay
 * unknown.
 */
void vdpa_device_get_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_queue_stats *s);
void vdpa_device_get_stats(struct vdpa_device *vdev, struct vdpa_device_stats *s);

/*
 * RING_SIZE and RING_DEPTH of the first n queues, into s. Takes the device's lock for that; where
 * somebody else has it for longer than VDPA_RINGS_WAIT_US, as at a start, they stay unknown.
 */
#define VDPA_RINGS_WAIT_US 1000
void vdpa_device_look_at_rings(struct vdpa_device *vdev, struct vdpa_queue_stats *s, uint16_t n);

#endif /* VDPA_COUNTS_H */
