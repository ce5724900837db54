/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The state of this room, which its files share. One lock guards all of it; it is innermost but for
 * the show lock (restart_said.c), and held while the store is waited for.
 */

#ifndef RESTART_PRIV_H
#define RESTART_PRIV_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "restart.h"
#include "tlv.h"
#include "vdpa_journal.h"
#include "vdpa_keep.h"

/* The journal's name in the store. */
#define RESTART_JOURNAL "journal"
/* Bytes of a slot: a record, and the words, which are a line of a configuration file at most. */
#define RESTART_SLOT	(VDPA_RESTART_RECORD_MAX + 16384u)

/* A device of this process. */
struct restart_device {
	char *name;
	char *words;
	bool written; /* its record is this process' */
	bool by_itself;
	bool taken;	 /* it is a former process', and counted */
	bool given_up;	 /* nothing of it is kept any more, for its life */
	bool refused;	 /* it was given up by vdpa_restart_go(), and is still to be forgotten */
	bool unreadable; /* what vdpa_restart_check() has found of its record */
	char *why;	 /* it, or its connection, does not go on; NULL: nobody has said so */
	char *kill;	 /* the same, where the process is killed */
	/* What this process has put into the store; vdpa_keep.h lists a former one's alone. */
	char (*put)[VDPA_RESTART_WHAT_MAX];
	unsigned int nput, room;
	TAILQ_ENTRY(restart_device) next;
};

/* A record, or a part of one, as it was when the store was handed over. */
struct restart_copy {
	char *device; /* NULL: its device was lost meanwhile */
	uint8_t *record;
	size_t len;
};

struct restart_state {
	pthread_mutex_t lock;
	/* Below the lock, and never held while anything is waited for: who changes the list of
	 * devices, `written`, `by_itself`, `why` or `kill` of a device, or `keep` or `failed` while
	 * there are devices, holds both. */
	pthread_mutex_t show_lock;
	struct vdpa_keep *keep;	      /* NULL: nothing is kept */
	struct vdpa_journal *journal; /* NULL: nothing is kept, or the store has failed */
	bool failed;		      /* the store: it was said, and nothing is kept any more */
	bool leaves;
	unsigned int changes; /* of devices, which are under way */
	bool frozen;	      /* no other begins, but for this thread's */
	pthread_t freezer;
	pthread_cond_t unchanged; /* the last change of a device has ended */
	bool holds;		  /* atomic: a former process may go on with what was taken over */
	TAILQ_HEAD(, vdpa_restart_waiter) waiters;
	struct vdpa_restart_waiter *calls; /* the one that is being called */
	pthread_cond_t called;		   /* a waiter's call has ended */
	struct restart_copy *copies;	   /* once it was handed over */
	unsigned int ncopies;
	bool handed;
	int *connections; /* duplicates of those that were left */
	unsigned int nconnections;
	unsigned int taken; /* devices of a former process */
	TAILQ_HEAD(, restart_device) devices;
	uint8_t *slot; /* RESTART_SLOT bytes, for records that are put together */
};

extern struct restart_state restart_state;

/* Without the lock, as it waits for each function, which may take as long as the kernel's reset:
 * stop the functions of a former process that are not wanted (NULL: none is) and that this one has
 * not put itself. wanted() is called under the lock. */
void restart_fence_strays(bool (*wanted)(const char *name, void *arg));

void restart_lock(void);
void restart_unlock(void);

/* restart_said.c: around a change of what is shown, under the lock. */
void restart_show_lock(void);
void restart_show_unlock(void);
void restart_set_written(struct restart_device *d, bool written);
/* Under either lock. Why a device does not go on in the next process; NULL: it does. */
const char *restart_why_not(const struct restart_device *d);
/* Under the lock: vdpa_restart_give_up() but for dropping what is kept of the device. */
void restart_give_up(struct restart_device *d, const char *why);

/* Under the lock, all that follow. */

/* A device of this process; NULL: it has none of this name. */
struct restart_device *restart_find(const char *name);
/* -EPIPE, with a message. */
int restart_not_kept(void);
/* rc. The store does not keep any more, so what the journal says of it is worth nothing: said once.
 */
int restart_store_failed(int rc);
/* rc, as the store has answered: where it is gone, that is restart_store_failed(). */
int restart_judge(int rc);
/* For vdpa_keep_go(): a device of which something is refused that it still wants is given up. */
void restart_refused(const char *name, void *arg);
/* The part of a store's name behind the device's; NULL: it is of another one. */
const char *restart_what_of(const char *name, const char *device);
/* A record that is in the journal: its words, and where what follows begins. All of it lies in the
 * slot. 0, or a negative errno with a message. */
int restart_read_record(const char *device, struct vdpa_tlv *words, struct vdpa_tlv_reader *rest);

/* The device's record goes, with its parts. */
void restart_remove_record(const char *device);

/* Which of a former process' descriptors are dropped. */
struct restart_prune {
	const char *device; /* NULL: any */
	bool (*wanted)(const char *what, void *arg);
	void *arg;
};

void restart_prune_store(const struct restart_prune *p);

#endif /* RESTART_PRIV_H */
