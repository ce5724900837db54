/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the process keeps of its devices for the next one (vdpa_restart.h): descriptors in a store
 * (vdpa_keep.h), and a record of each device in a journal (vdpa_journal.h), which names them. A
 * record is the words of the device, which are kept here, and what its front end writes. restart.c;
 * how processes follow each other is restart_process.c's, what is said of devices restart_said.c's.
 *
 * Descriptors are put before the record that names them is written, and dropped behind one that
 * names them no more: whenever the process dies, the store has all that the journal names.
 *
 * A store that fails is given up, with one line: the devices go on as if nothing were kept.
 *
 * Each function may be called from any thread. Those that reach the store wait for it, for a
 * bounded time (vdpa_keep.h): none is called on the control loop. Errors are negative, with
 * vdpa_error_message().
 */

#ifndef RESTART_H
#define RESTART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

/* Bytes of a record, at most: 509 memory regions, 256 queues, and the words. */
#define VDPA_RESTART_RECORD_MAX 98304u
/* Characters of what a descriptor of a device is, at most. */
#define VDPA_RESTART_WHAT_MAX	48

/* What the descriptor of a device's PCI function of VFIO is called. One that a former process has
 * put is stopped before it is dropped, whyever it is (fence_function.h): its driver has ended with
 * that process. That waits for the function as an open of it does. */
#define VDPA_RESTART_FUNCTION "vfio-device"

/* Whether devices are kept: vdpa_restart_begin() was called, and the store has not failed. */
bool vdpa_restart_is_on(void);
/* Whether the process ends and leaves its devices to the next one. */
bool vdpa_restart_leaves(void);

/* The words of a device, from the beginning to its end; management's to say. They become part of
 * its record, at once where there is one already. */
void vdpa_restart_set_words(const char *device, const char *words);
void vdpa_restart_forget_words(const char *device);

/* The descriptor of a device that is called `what`; `what` is [A-Za-z0-9.-]. It stays the caller's.
 * 0; -EPIPE where the store has failed. */
int vdpa_restart_put(const char *device, const char *what, int fd);
void vdpa_restart_del(const char *device, const char *what);
/* The same of a former process: a descriptor of the caller's; -ENOENT. It remains in the store. */
int vdpa_restart_take(const char *device, const char *what);

/* Write the device's record in place of the one it has: after it, the device goes on in the next
 * process. 0; -EMSGSIZE, -ENOSPC: the one from before remains. */
int vdpa_restart_write(const char *device, const void *record, size_t len);
/* What a former process has written last: its length; -ENOENT, also once this process has written
 * its own; -EPROTO for what is no record. */
int vdpa_restart_read(const char *device, void *buf, size_t size);

/*
 * A part of a device's record that another than its front end writes, such as its function's: by
 * itself, under a name of its own, [a-z]. As the calls above, but that a part may be read after it
 * was written; removed with the device's record. A record without the descriptors that it is about
 * is worth nothing, and whoever reads it says so.
 */
int vdpa_restart_write_part(const char *device, const char *part, const void *record, size_t len);
int vdpa_restart_read_part(const char *device, const char *part, void *buf, size_t size);
void vdpa_restart_remove_part(const char *device, const char *part);

/* The device does not go on in the next process: its record and then all of its descriptors are
 * dropped. */
void vdpa_restart_forget(const char *device);
/* Of a former process' descriptors of this device, drop those that nobody wants. */
void vdpa_restart_prune(const char *device, bool (*wanted)(const char *what, void *arg), void *arg);
/* The device, or its connection, does not go on in the next process, and why; NULL: it does. */
void vdpa_restart_says(const char *device, const char *why);
/* The same for good, by another than its front end: what is kept of the device is dropped, and
 * put() and write() fail with -ECANCELED and `why` from now on, so that whoever keeps the rest
 * stops, too. */
void vdpa_restart_give_up(const char *device, const char *why);
bool vdpa_restart_is_given_up(const char *device);
/* It goes on in the next process, and not where this one is killed, and why. */
void vdpa_restart_says_of_kill(const char *device, const char *why);
/* Nothing of the device is kept, and it goes on all the same, by what the kernel has of it. */
void vdpa_restart_goes_by_itself(const char *device);

/* A connection that is left to the next process, before it is closed here: if that process does not
 * come, and this one cannot have its devices back from the store, it is ended, so that its front
 * end connects again. No-op where nothing is left. */
void vdpa_restart_leaves_connection(int fd);

/* What becomes of a device at a restart or an upgrade. */
enum vdpa_restart_fate {
	VDPA_RESTART_NOT_KEPT, /* nothing is kept, or not of this device: it has no words */
	VDPA_RESTART_GOES_ON,
	VDPA_RESTART_GOES_ON_UNLESS_KILLED, /* and why */
	VDPA_RESTART_BY_ITSELF,		    /* by what the kernel has of it */
	VDPA_RESTART_ENDS,		    /* and why */
};
/* As far as this process knows: the store is not asked, and nothing is waited for. */
enum vdpa_restart_fate vdpa_restart_look(const char *device, char *why, size_t size);

/* Around each change of the set of devices, or of their words; management's. -EBUSY while they are
 * being left to another process, but for the thread of vdpa_restart_freeze(). */
int vdpa_restart_change_begins(void);
void vdpa_restart_change_ends(void);

/*
 * What is to happen once nobody else can go on with what was taken over: from vdpa_restart_go() on
 * where a process that lives has handed it over, at once elsewhere. True: go() will be called, on
 * another thread. False: it is the caller's to do. Behind vdpa_restart_waits_no_more() it neither
 * runs nor will; not from go().
 */
struct vdpa_restart_waiter {
	void (*go)(struct vdpa_restart_waiter *w);
	void *arg;
	bool waits;
	TAILQ_ENTRY(vdpa_restart_waiter) next;
};
bool vdpa_restart_when_it_goes(struct vdpa_restart_waiter *w);
/* Whether a process that lives may yet go on with what was taken over. Waits for nothing, with any
 * lock held. */
bool vdpa_restart_holds(void);
void vdpa_restart_waits_no_more(struct vdpa_restart_waiter *w);

/* This process goes on with a device of a former one: it is counted. */
void vdpa_restart_taken(const char *device);
/* It does not, after all. No-op for one that is not counted. */
void vdpa_restart_lost(const char *device);

#endif /* RESTART_H */
