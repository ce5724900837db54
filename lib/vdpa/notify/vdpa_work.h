/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_work.h
 * Work queues: what may wait for a device (a start, a stop, a request of its front end) runs there
 * and not on a loop that others need. The jobs of one queue run in order, one at a time; different
 * queues run at once. The threads are shared by all queues: there are as many as there is work for,
 * one that is stuck in a device's time-out is stood in for by another, and none is left when there
 * has been no work for a while.
 */

#ifndef VDPA_WORK_H
#define VDPA_WORK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_work_queue;

/** A job. Embed it; zero-initialise it. run and arg are yours to set. Posting never allocates. */
struct vdpa_work {
	/** May wait for its device for a bounded time; may post and cancel itself. */
	void (*run)(struct vdpa_work *work);
	void *arg;
	struct vdpa_work_queue *queue; /**< where it was posted last */
	bool queued;		       /**< the service's */
	STAILQ_ENTRY(vdpa_work) next;
};

/** The jobs of one device. Embed it; vdpa_work_queue_init() it. All fields are the service's. */
struct vdpa_work_queue {
	STAILQ_HEAD(, vdpa_work) jobs;
	bool scheduled;		   /* it waits for a thread, or has one */
	struct vdpa_work *running; /* what its thread runs */
	uint64_t thread;	   /* which one, while it has one */
	STAILQ_ENTRY(vdpa_work_queue) next;
};

/** Counters since the process began. */
struct vdpa_work_stats {
	uint64_t jobs;	      /**< jobs run */
	uint64_t started;     /**< threads started */
	unsigned int threads; /**< threads there are */
	unsigned int waiting; /**< queues that wait for a thread */
};

void vdpa_work_queue_init(struct vdpa_work_queue *queue);

/**
 * Queue a job, once until it has begun to run. From any thread; it never waits. Between
 * vdpa_init() and vdpa_cleanup().
 */
void vdpa_work_post(struct vdpa_work_queue *queue, struct vdpa_work *work);

/**
 * Take a job back: on return it is not queued and not running (but for the call from inside it).
 * From any thread, with no lock held that the job takes. No-op for one that was never posted.
 */
void vdpa_work_cancel(struct vdpa_work *work);

/** Whether a queue waits for a thread: then a job does not linger. From any thread. */
bool vdpa_work_is_awaited(void);

void vdpa_work_stats(struct vdpa_work_stats *stats);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_WORK_H */
