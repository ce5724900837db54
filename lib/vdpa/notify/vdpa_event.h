/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_event.h
 * Event loops: one thread that waits for file descriptors, runs tasks and, while there is work,
 * polls. The control loop (vdpa_event_loop_control()) serves every device's control events; workers
 * are further loops that execute the virtqueues of software devices.
 *
 * A loop never grows with its members: one epoll set, intrusive members, no allocation on the run
 * path. Idle, it makes no system call at all: it sleeps in epoll_wait() without a time-out.
 */

#ifndef VDPA_EVENT_H
#define VDPA_EVENT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_event_loop;

/** How vdpa_event_loop_create() makes a loop. */
struct vdpa_event_loop_params {
	const char *name; /**< thread name, at most 15 characters */
	unsigned int
		lcore_id;     /**< EAL lcore to poll on, never sleeping; LCORE_ID_ANY: own thread */
	unsigned int poll_us; /**< microseconds of polling after the last work found; 0: none */
};

/** A file descriptor in a loop. Embed it; zero-initialise it. Public fields are yours to set. */
struct vdpa_event {
	int fd;
	uint32_t events; /**< EPOLLIN, EPOLLOUT, ...; level-triggered unless EPOLLET; once if
			  * EPOLLONESHOT, until vdpa_event_rearm() */
	/** Runs on the loop's thread. May delete its own event. */
	void (*handler)(struct vdpa_event *ev, uint32_t revents);
	void *arg;
	struct vdpa_event_loop *loop; /**< set while added */
	uint32_t slot;		      /**< the loop's, under its lock */
};

/**
 * Work that is polled while there is some: a set of virtqueues. Embed it; zero-initialise it.
 * While a poller is awake the loop calls poll() again and again. When poll() has returned 0 for the
 * loop's poll_us, the loop calls sleep(): it arms notifications and returns true when it may sleep,
 * or false when work came in meanwhile. Asleep, it is woken by vdpa_poller_wake(), usually from the
 * handler of its kick event. On a polling lcore sleep() is never called.
 */
struct vdpa_poller {
	unsigned int (*poll)(struct vdpa_poller *poller);
	bool (*sleep)(struct vdpa_poller *poller);
	void *arg;
	struct vdpa_event_loop *loop; /**< set while added */
	uint64_t last_work;	      /**< TSC cycles; the loop's */
	bool awake;		      /**< the loop's */
	TAILQ_ENTRY(vdpa_poller) next;
};

/** A function to run once on a loop. Embed it; zero-initialise it. Posting never allocates. */
struct vdpa_task {
	void (*run)(struct vdpa_task *task);
	void *arg;
	struct vdpa_event_loop *loop; /**< where it was posted last */
	bool queued;		      /**< the loop's, under its lock */
	STAILQ_ENTRY(vdpa_task) next;
};

/** Counters of a loop since it was created. */
struct vdpa_event_loop_stats {
	uint64_t wakeups; /**< returns from a sleeping epoll_wait() */
	uint64_t polls;	  /**< calls of poll() that found work */
	uint64_t events;  /**< handler calls */
	uint64_t tasks;	  /**< tasks run */
};

/**
 * Make a loop and start its thread (or its lcore: which must be idle, and stays taken).
 * @return 0; -EINVAL; -EBUSY for an lcore that runs something; -ENOMEM or the errno of epoll,
 * eventfd or thread creation.
 */
int vdpa_event_loop_create(const struct vdpa_event_loop_params *params,
			   struct vdpa_event_loop **loop);

/** Stop the thread and free the loop. It must have no members left. Not from its own thread. */
void vdpa_event_loop_destroy(struct vdpa_event_loop *loop);

/** The control loop, from vdpa_init() to vdpa_cleanup(); NULL outside. */
struct vdpa_event_loop *vdpa_event_loop_control(void);

/** Whether the caller runs on the loop's own thread. */
bool vdpa_event_loop_is_self(const struct vdpa_event_loop *loop);

/**
 * Run fn(arg) on the loop's thread and wait for it to return. Runs it directly when called from
 * that thread. What runs on a loop is bounded, so the wait is. The caller must hold no lock that a
 * handler, poller or task of this loop takes.
 * @return what fn returned; where that is an error with a message (vdpa_error()), the message is
 * the caller's.
 */
int vdpa_event_loop_call(struct vdpa_event_loop *loop, int (*fn)(void *arg), void *arg);

/**
 * vdpa_event_loop_call() while n loops stand still: fn may use what belongs to any of them, and
 * change their pollers and events, as if on their threads. Each loop waits until all after it in
 * `loops` have come to their tasks.
 *
 * @param loops  in an order that is the same for all callers, or two calls wait for each other. Of
 * a loop's own thread: only with that loop as the first.
 * @return what fn returned. From any thread.
 */
int vdpa_event_loop_call_all(struct vdpa_event_loop *const *loops, unsigned int n,
			     int (*fn)(void *arg), void *arg);

void vdpa_event_loop_stats(struct vdpa_event_loop *loop, struct vdpa_event_loop_stats *stats);

/**
 * Add an event. From any thread.
 * @return 0; -EINVAL when it is added already; the errno of epoll_ctl(2) otherwise.
 */
int vdpa_event_add(struct vdpa_event_loop *loop, struct vdpa_event *ev);

/**
 * Remove an event. From any thread; when it returns, the handler neither runs nor will (but for the
 * call that deletes it from inside). No-op for one that is not added. The fd is the caller's to
 * close, afterwards.
 */
void vdpa_event_del(struct vdpa_event *ev);

/**
 * Let an event with EPOLLONESHOT be seen once more; no-op for one that is not added. From any
 * thread: whoever does it hands the event back to the loop.
 */
void vdpa_event_rearm(struct vdpa_event *ev);

/** Add a poller, awake. From any thread. */
int vdpa_poller_add(struct vdpa_event_loop *loop, struct vdpa_poller *poller);

/** Remove a poller, as vdpa_event_del(); from inside its own poll() too, but its memory stays until
 * that returns. */
void vdpa_poller_del(struct vdpa_poller *poller);

/** Wake a poller: only from its loop's thread. */
void vdpa_poller_wake(struct vdpa_poller *poller);

/** Queue a task, once until it has begun to run. From any thread; one mutex, one eventfd write. */
void vdpa_task_post(struct vdpa_event_loop *loop, struct vdpa_task *task);

/** Take a task back: when it returns, the task is not queued and not running (but for itself). */
void vdpa_task_cancel(struct vdpa_task *task);

/**
 * Signal an eventfd that others have too. Never waits, whatever they have done to the counter or to
 * its O_NONBLOCK. One system call. Where the kernel denies asynchronous I/O (io_setup(2)) it is a
 * plain write.
 */
void vdpa_eventfd_signal(int fd);

/** Reset the counter of such an eventfd, without waiting. False when it cannot be read. */
bool vdpa_eventfd_take(int fd);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_EVENT_H */
