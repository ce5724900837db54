/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How a process begins with what a former one has left, leaves its devices to the next one, and
 * hands them over to one that lives: vdpa_restart.h. Owns no state of its own (restart_priv.h).
 *
 * From a process that lives to the next one: the former copies the records before it hands the
 * store over, and the next one changes the store (vdpa_keep.h) and hears front ends
 * (vdpa_restart_when_it_goes()) only from vdpa_restart_go() on. So the former one may have back
 * what it had.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "error_priv.h"
#include "restart.h"
#include "restart_priv.h"
#include "stored_fd.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_journal.h"
#include "vdpa_keep.h"
#include "vdpa_log.h"
#include "vdpa_restart.h"

/* How long changes of devices are waited for. */
#define CHANGES_S   10
#define DEVICES_MAX 4096
/* Why a device does not go over whose record was changed by somebody else. */
#define UNREADABLE  "its record in the journal cannot be read"

/* Under the lock. */
static void
close_journal(void)
{
	vdpa_journal_close(restart_state.journal);
	restart_state.journal = NULL;
}

/* Under the lock. */
static int
put_journal(void)
{
	int rc = vdpa_keep_put(restart_state.keep, RESTART_JOURNAL,
			       vdpa_journal_fd(restart_state.journal));

	if (rc < 0)
		close_journal();
	return rc;
}

/* Under the lock. */
static int
create_journal(void)
{
	int rc = vdpa_journal_create(DEVICES_MAX, RESTART_SLOT, &restart_state.journal);

	return rc < 0 ? rc : put_journal();
}

/* Under the lock. The former process' journal, or a new one. */
static int
open_journal(void)
{
	const struct restart_prune all = {.device = NULL};
	int fd = vdpa_keep_take(restart_state.keep, RESTART_JOURNAL), rc = fd < 0 ? fd : 0;

	if (fd >= 0) {
		rc = vdpa_journal_open(fd, &restart_state.journal);
		close(fd);
		if (rc == 0 && vdpa_journal_slot_size(restart_state.journal) < RESTART_SLOT) {
			vdpa_journal_close(restart_state.journal);
			rc = vdpa_error(EPROTO, "its records are shorter than this version's");
		}
		if (rc == 0)
			return 0;
	}
	/* What passes takes nothing from anybody. */
	if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM || rc == -ETIMEDOUT || rc == -EPIPE)
		return rc;
	if (fd >= 0 || rc != -ENOENT)
		VDPA_LOG(ERR, "restart: nothing of a former process goes on: %s",
			 vdpa_error_message());
	/* Between two processes that live, the former one goes on. */
	if (restart_state.holds)
		return rc == 0 || rc == -ENOENT ? vdpa_error(EPROTO, "no journal is handed over")
						: rc;
	/* The process begins, so no other thread is there. */
	restart_unlock();
	restart_fence_strays(NULL);
	restart_lock();
	restart_prune_store(&all);
	rc = create_journal();
	/* A store that has room for nothing else keeps no device. */
	if (rc == 0)
		rc = vdpa_keep_barrier(restart_state.keep, 0);
	if (rc < 0)
		close_journal();
	return rc;
}

static int
begin(const char *where, int sock)
{
	int rc;

	restart_lock();
	if (restart_state.keep != NULL) {
		restart_unlock();
		return vdpa_error(EALREADY, "devices are kept already");
	}
	restart_state.slot = malloc(RESTART_SLOT);
	rc = restart_state.slot == NULL ? vdpa_error(ENOMEM, "out of memory")
	     : sock < 0			? vdpa_keep_open(where, &restart_state.keep)
					: vdpa_keep_open_handed(where, sock, &restart_state.keep);
	__atomic_store_n(&restart_state.holds, sock >= 0, __ATOMIC_RELEASE);
	if (rc == 0) {
		rc = open_journal();
		if (rc < 0) {
			struct vdpa_error_saved error;

			vdpa_error_save(&error);
			vdpa_keep_close(restart_state.keep);
			vdpa_error_restore(&error);
		}
	}
	if (rc < 0) {
		free(restart_state.slot);
		restart_state.slot = NULL;
		restart_state.keep = NULL;
		restart_state.journal = NULL;
		__atomic_store_n(&restart_state.holds, false, __ATOMIC_RELEASE);
	}
	restart_state.failed = restart_state.leaves = restart_state.frozen = false;
	restart_state.taken = 0;
	restart_unlock();
	return rc;
}

int
vdpa_restart_begin(const char *where)
{
	return begin(where, -1);
}

int
vdpa_restart_begin_handed(const char *where, int sock)
{
	return begin(where, sock);
}

unsigned int
vdpa_restart_format(void)
{
	return VDPA_JOURNAL_VERSION;
}

unsigned int
vdpa_restart_count(void)
{
	unsigned int n;

	restart_lock();
	n = restart_state.taken;
	restart_unlock();
	return n;
}

/* Call those that wait, each without the lock. */
static void
call_waiters(void)
{
	struct vdpa_restart_waiter *w;

	while ((w = TAILQ_FIRST(&restart_state.waiters)) != NULL) {
		TAILQ_REMOVE(&restart_state.waiters, w, next);
		w->waits = false;
		restart_state.calls = w;
		restart_unlock();
		w->go(w);
		restart_lock();
		restart_state.calls = NULL;
		pthread_cond_broadcast(&restart_state.called);
	}
}

/* Under the lock, which is released while one is forgotten: devices of which something was refused,
 * before their waiters are called. */
static void
forget_refused(void)
{
	struct restart_device *d = TAILQ_FIRST(&restart_state.devices);
	char name[VDPA_KEEP_NAME_MAX + 1];

	while (d != NULL) {
		if (!d->refused) {
			d = TAILQ_NEXT(d, next);
			continue;
		}
		d->refused = false;
		snprintf(name, sizeof(name), "%s", d->name);
		restart_unlock();
		vdpa_restart_forget(name);
		restart_lock();
		d = TAILQ_FIRST(&restart_state.devices);
	}
}

int
vdpa_restart_go(void)
{
	int rc = 0;

	restart_lock();
	if (restart_state.keep != NULL && restart_state.holds) {
		rc = restart_judge(vdpa_keep_go(restart_state.keep, restart_refused, NULL));
		/* What may be missing in the store costs its device. */
		if (rc < 0 && !restart_state.failed) {
			VDPA_LOG(WARNING, "restart: %s", vdpa_error_message());
			rc = 0;
		}
		__atomic_store_n(&restart_state.holds, false, __ATOMIC_RELEASE);
		forget_refused();
		call_waiters();
	}
	restart_unlock();
	return rc;
}

struct names {
	char **name;
	unsigned int n;
};

static int
collect(const char *device, void *arg)
{
	struct names *all = arg;
	char **name = reallocarray(all->name, all->n + 1, sizeof(*name));
	char *copy = strdup(device);

	if (name != NULL)
		all->name = name;
	if (name == NULL || copy == NULL) {
		free(copy);
		return vdpa_error(ENOMEM, "out of memory");
	}
	all->name[all->n++] = copy;
	return 0;
}

/* Devices of a former process which this one does not have. */
static int
collect_former(struct names *all)
{
	struct names both = {.n = 0};
	int rc;

	*all = (struct names){.n = 0};
	restart_lock();
	/* Of what a store that has failed has, nothing can go on. */
	rc = restart_state.journal == NULL || restart_state.failed
		     ? 0
		     : vdpa_journal_for_each(restart_state.journal, collect, &both);
	for (unsigned int i = 0; rc == 0 && i < both.n; i++)
		if (strchr(both.name[i], '/') == NULL && restart_find(both.name[i]) == NULL)
			rc = collect(both.name[i], all);
	restart_unlock();
	for (unsigned int i = 0; i < both.n; i++)
		free(both.name[i]);
	free(both.name);
	return rc;
}

static void
free_names(struct names *all)
{
	for (unsigned int i = 0; i < all->n; i++)
		free(all->name[i]);
	free(all->name);
}

/* The words of a former process' device; NULL: it has no such record any more, or out of memory. */
static char *
former_words(const char *device)
{
	struct vdpa_tlv_reader rest;
	struct vdpa_tlv words;
	char *text = NULL;

	restart_lock();
	if (restart_read_record(device, &words, &rest) == 0)
		text = strndup((const char *)words.data, words.len);
	restart_unlock();
	return text;
}

int
vdpa_restart_each(int (*fn)(const char *name, const char *words, void *arg), void *arg)
{
	struct names all;
	int rc = collect_former(&all);

	for (unsigned int i = 0; rc == 0 && i < all.n; i++) {
		char *words = former_words(all.name[i]);

		if (words != NULL)
			rc = fn(all.name[i], words, arg);
		free(words);
	}
	free_names(&all);
	return rc;
}

void
vdpa_restart_drop(const char *name)
{
	vdpa_restart_forget(name);
}

/* Whether a descriptor of the store is one of a device of this process. */
static bool
has_owner(const char *name, void *arg)
{
	const struct restart_device *d;

	(void)arg;
	TAILQ_FOREACH (d, &restart_state.devices, next)
		if (d->written && restart_what_of(name, d->name) != NULL)
			return true;
	return false;
}

unsigned int
vdpa_restart_settle(void)
{
	const struct restart_prune strays = {.wanted = has_owner};
	struct names all;
	unsigned int taken;

	if (collect_former(&all) == 0)
		for (unsigned int i = 0; i < all.n; i++) {
			VDPA_LOG(WARNING, "%s: restart: does not go on: nobody has made it again",
				 all.name[i]);
			vdpa_restart_forget(all.name[i]);
		}
	free_names(&all);
	/* Other devices serve meanwhile, and write their records. */
	restart_fence_strays(has_owner);
	restart_lock();
	restart_prune_store(&strays);
	taken = restart_state.taken;
	restart_unlock();
	return taken;
}

/* Under the lock. Whether the store is there, as one that has died is noticed when it is asked, and
 * has room. */
static int
ask_store(void)
{
	if (restart_state.keep == NULL || restart_state.failed)
		return restart_not_kept();
	return restart_judge(vdpa_keep_barrier(restart_state.keep, 0));
}

int
vdpa_restart_leave(void)
{
	const struct restart_device *d;
	unsigned int n = 0;
	int rc;

	restart_lock();
	rc = ask_store();
	/* One that is full has what the next process needs. What the other process has is left to
	 * it in any case. */
	if (!vdpa_keep_is_gone(rc) || restart_state.holds) {
		__atomic_store_n(&restart_state.leaves, true, __ATOMIC_RELEASE);
		TAILQ_FOREACH (d, &restart_state.devices, next)
			n += d->written;
		rc = (int)n;
	}
	restart_unlock();
	return rc;
}

bool
vdpa_restart_is_left(const char *name)
{
	bool is_left;

	restart_lock();
	is_left = restart_state.journal != NULL &&
		  vdpa_journal_read(restart_state.journal, name, restart_state.slot,
				    RESTART_SLOT) >= 0;
	restart_unlock();
	return is_left;
}

int
vdpa_restart_freeze(void)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CHANGES_S;
	restart_lock();
	if (restart_state.frozen) {
		restart_unlock();
		return vdpa_error(EALREADY, "devices stay as they are already");
	}
	restart_state.frozen = true;
	restart_state.freezer = pthread_self();
	while (restart_state.changes > 0 && rc == 0)
		rc = pthread_cond_clockwait(&restart_state.unchanged, &restart_state.lock,
					    CLOCK_MONOTONIC, &until);
	if (restart_state.changes > 0) {
		restart_state.frozen = false;
		rc = vdpa_error(EBUSY, "a device is being added, changed or deleted");
	} else {
		rc = 0;
	}
	restart_unlock();
	return rc;
}

void
vdpa_restart_thaw(void)
{
	restart_lock();
	restart_state.frozen = false;
	restart_unlock();
}

struct told {
	char *name, *why;
};

/* The device that a record or a part of one is of. */
static void
device_of(const char *record, char device[VDPA_JOURNAL_NAME_MAX + 1])
{
	snprintf(device, VDPA_JOURNAL_NAME_MAX + 1, "%.*s", (int)strcspn(record, "/"), record);
}

/* Under the lock. */
static int
note_unreadable(const char *record, void *arg)
{
	char device[VDPA_JOURNAL_NAME_MAX + 1];
	struct restart_device *d;

	(void)arg;
	if (vdpa_journal_read(restart_state.journal, record, restart_state.slot, RESTART_SLOT) >= 0)
		return 0;
	device_of(record, device);
	d = restart_find(device);
	if (d != NULL)
		d->unreadable = true;
	return 0;
}

/* Under the lock. Which devices have a record that cannot be handed over. */
static void
find_unreadable(void)
{
	struct restart_device *d;

	TAILQ_FOREACH (d, &restart_state.devices, next)
		d->unreadable = false;
	if (restart_state.journal != NULL)
		(void)vdpa_journal_for_each(restart_state.journal, note_unreadable, NULL);
}

int
vdpa_restart_check(int (*fn)(const char *name, const char *why, void *arg), void *arg)
{
	const struct restart_device *d;
	struct told *told = NULL;
	unsigned int n = 0, room = 0;
	int rc;

	restart_lock();
	rc = ask_store();
	find_unreadable();
	TAILQ_FOREACH (d, &restart_state.devices, next)
		room++;
	told = calloc(room + 1, sizeof(*told));
	if (rc == 0 && told == NULL)
		rc = vdpa_error(ENOMEM, "out of memory");
	TAILQ_FOREACH (d, &restart_state.devices, next) {
		const char *why = restart_why_not(d);

		if (why == NULL && d->unreadable)
			why = UNREADABLE;
		if (rc < 0 || why == NULL)
			continue;
		told[n].name = strdup(d->name);
		told[n].why = strdup(why);
		n++;
	}
	restart_unlock();
	for (unsigned int i = 0; i < n; i++) {
		if (rc == 0)
			rc = told[i].name == NULL || told[i].why == NULL
				     ? vdpa_error(ENOMEM, "out of memory")
				     : fn(told[i].name, told[i].why, arg);
		free(told[i].name);
		free(told[i].why);
	}
	free(told);
	return rc;
}

/* Under the lock. */
static void
free_copies(void)
{
	for (unsigned int i = 0; i < restart_state.ncopies; i++) {
		free(restart_state.copies[i].device);
		free(restart_state.copies[i].record);
	}
	free(restart_state.copies);
	restart_state.copies = NULL;
	restart_state.ncopies = 0;
}

/* Under the lock. A record that cannot be copied, or written again, for the reason that the error
 * message has: it costs its own device, of which nothing is left then. */
static void
lose_device(const char *record)
{
	char device[VDPA_JOURNAL_NAME_MAX + 1], other[VDPA_JOURNAL_NAME_MAX + 1];

	device_of(record, device);
	VDPA_LOG(ERR, "%s: restart: does not go on: its record cannot be copied: %s", device,
		 vdpa_error_message());
	restart_remove_record(device);
	for (unsigned int i = 0; i < restart_state.ncopies; i++) {
		struct restart_copy *c = &restart_state.copies[i];

		if (c->device == NULL)
			continue;
		device_of(c->device, other);
		if (strcmp(other, device) != 0)
			continue;
		free(c->device);
		c->device = NULL;
	}
}

/* Under the lock. */
static int
copy_record(const char *device)
{
	struct restart_copy *copies = reallocarray(restart_state.copies, restart_state.ncopies + 1,
						   sizeof(*copies)),
			    *c;
	int len;

	if (copies == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	restart_state.copies = copies;
	len = vdpa_journal_read(restart_state.journal, device, restart_state.slot, RESTART_SLOT);
	if (len < 0)
		return len;
	c = &copies[restart_state.ncopies++];
	*c = (struct restart_copy){.device = strdup(device), .record = malloc((size_t)len + 1)};
	if (c->device == NULL || c->record == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(c->record, restart_state.slot, (size_t)len);
	c->len = (size_t)len;
	return 0;
}

static int
copy_or_lose(const char *record, void *arg)
{
	(void)arg;
	if (copy_record(record) < 0)
		lose_device(record);
	return 0;
}

/* Under the lock. */
static void
copy_records(void)
{
	(void)vdpa_journal_for_each(restart_state.journal, copy_or_lose, NULL);
}

void
vdpa_restart_leaves_connection(int fd)
{
	int *connections, copy;

	restart_lock();
	if (restart_state.leaves) {
		copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
		connections = reallocarray(restart_state.connections,
					   restart_state.nconnections + 1, sizeof(*connections));
		if (connections != NULL)
			restart_state.connections = connections;
		if (connections != NULL && copy >= 0)
			connections[restart_state.nconnections++] = copy;
		else if (copy >= 0)
			close(copy);
	}
	restart_unlock();
}

/* Under the lock. Those that were left; lost: nobody goes on with them, and their front ends are to
 * see that, although the store has them, too. */
static void
drop_connections(bool lost)
{
	for (unsigned int i = 0; i < restart_state.nconnections; i++) {
		if (lost)
			(void)shutdown(restart_state.connections[i], SHUT_RDWR);
		/* The last descriptor of a connection may linger as long as its peer likes. */
		vdpa_close_stray(restart_state.connections[i]);
	}
	free(restart_state.connections);
	restart_state.connections = NULL;
	restart_state.nconnections = 0;
}

int
vdpa_restart_hand_over(int sock)
{
	int rc;

	restart_lock();
	free_copies();
	rc = restart_state.keep == NULL || restart_state.failed ? restart_not_kept() : 0;
	if (rc == 0) {
		copy_records();
		restart_state.handed = true;
		rc = vdpa_keep_hand_over(restart_state.keep, sock);
	}
	restart_unlock();
	return rc;
}

/* A store that is full has no room for two journals, and does not say what it has dropped. */
static int
make_room(struct vdpa_keep *keep)
{
	int rc = vdpa_keep_barrier(keep, 0);

	if (rc != -ENOSPC)
		return rc;
	rc = vdpa_keep_del(keep, RESTART_JOURNAL);
	return rc < 0 ? rc : vdpa_keep_barrier(keep, 0);
}

/* Under the lock. The store as it was when it was handed over, with the records of then: a process
 * that is killed meanwhile leaves the journal that was there before. */
static int
reopen(void)
{
	struct vdpa_keep *keep;
	int rc = vdpa_keep_reopen(restart_state.keep, &keep);

	if (rc < 0)
		return rc;
	vdpa_keep_close(restart_state.keep);
	vdpa_journal_close(restart_state.journal);
	restart_show_lock();
	restart_state.keep = keep;
	restart_show_unlock();
	restart_state.journal = NULL;
	rc = make_room(keep);
	if (rc == 0)
		rc = vdpa_journal_create(DEVICES_MAX, RESTART_SLOT, &restart_state.journal);
	for (unsigned int i = 0; rc == 0 && i < restart_state.ncopies; i++) {
		const struct restart_copy *c = &restart_state.copies[i];

		if (c->device != NULL &&
		    vdpa_journal_write(restart_state.journal, c->device, c->record, c->len) < 0)
			lose_device(c->device);
	}
	return rc < 0 ? rc : put_journal();
}

int
vdpa_restart_take_back(void)
{
	int rc;

	restart_lock();
	rc = restart_state.keep == NULL || restart_state.failed ? restart_not_kept() : 0;
	if (rc == 0 && !restart_state.handed)
		copy_records();
	if (rc == 0)
		rc = reopen();
	if (rc < 0) {
		restart_store_failed(rc);
		if (restart_state.journal == NULL)
			(void)vdpa_journal_create(DEVICES_MAX, RESTART_SLOT,
						  &restart_state.journal);
	}
	drop_connections(rc < 0);
	restart_state.handed = false;
	free_copies();
	__atomic_store_n(&restart_state.leaves, false, __ATOMIC_RELEASE);
	restart_state.taken = 0;
	restart_unlock();
	return rc;
}

void
vdpa_restart_end(void)
{
	restart_lock();
	free_copies();
	drop_connections(false);
	if (restart_state.keep != NULL) {
		if (!restart_state.handed)
			(void)vdpa_keep_barrier(restart_state.keep, 0);
		vdpa_journal_close(restart_state.journal);
		vdpa_keep_close(restart_state.keep);
		free(restart_state.slot);
		restart_state.keep = NULL;
		restart_state.journal = NULL;
		restart_state.slot = NULL;
		restart_state.handed = false;
		__atomic_store_n(&restart_state.holds, false, __ATOMIC_RELEASE);
	}
	restart_unlock();
}
