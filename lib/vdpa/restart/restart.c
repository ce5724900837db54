/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the process keeps of its devices for the next one: descriptors in the store, records in the
 * journal, the words. Owns the state of this room (restart_priv.h); how a process begins and ends
 * with it is restart_process.c's.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

#include "error_priv.h"
#include "fence_function.h"
#include "restart.h"
#include "restart_priv.h"
#include "stored_fd.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_journal.h"
#include "vdpa_keep.h"
#include "vdpa_log.h"
#include "vdpa_restart.h"

/* Records of a device begin with its words; what follows is its front end's. */
#define TYPE_WORDS 1

struct restart_state restart_state = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.show_lock = PTHREAD_MUTEX_INITIALIZER,
	.called = PTHREAD_COND_INITIALIZER,
	.unchanged = PTHREAD_COND_INITIALIZER,
	.waiters = TAILQ_HEAD_INITIALIZER(restart_state.waiters),
	.devices = TAILQ_HEAD_INITIALIZER(restart_state.devices),
};

void
restart_lock(void)
{
	pthread_mutex_lock(&restart_state.lock);
}

void
restart_unlock(void)
{
	pthread_mutex_unlock(&restart_state.lock);
}

bool
vdpa_restart_is_on(void)
{
	bool on;

	restart_lock();
	on = restart_state.keep != NULL && !restart_state.failed;
	restart_unlock();
	return on;
}

bool
vdpa_restart_leaves(void)
{
	return __atomic_load_n(&restart_state.leaves, __ATOMIC_ACQUIRE);
}

/* Under the lock, as all that follow up to the calls. */

struct restart_device *
restart_find(const char *name)
{
	struct restart_device *d;

	TAILQ_FOREACH (d, &restart_state.devices, next)
		if (strcmp(d->name, name) == 0)
			return d;
	return NULL;
}

int
restart_not_kept(void)
{
	return vdpa_error(EPIPE, "nothing is kept for the next process");
}

/* Whether this process keeps something of the device. */
static int
check_kept(const struct restart_device *d, const char *device)
{
	if (restart_state.keep == NULL || restart_state.failed)
		return restart_not_kept();
	if (d == NULL)
		return vdpa_error(EOPNOTSUPP,
				  "%s: an application made it without words, or it is removed",
				  device);
	if (d->given_up)
		return vdpa_error(ECANCELED, "%s", d->why != NULL ? d->why : "out of memory");
	return 0;
}

/* The store does not keep any more, so what the journal says of it is worth nothing. */
int
restart_store_failed(int rc)
{
	if (!restart_state.failed)
		VDPA_LOG(ERR,
			 "restart: nothing is kept for the next process any more, devices go on "
			 "here: %s",
			 vdpa_error_message());
	restart_show_lock();
	restart_state.failed = true;
	restart_show_unlock();
	return rc;
}

/* What one device has too much of costs that device. */
int
restart_judge(int rc)
{
	return vdpa_keep_is_gone(rc) ? restart_store_failed(rc) : rc;
}

static void
full_name(char buf[VDPA_KEEP_NAME_MAX + 1], const char *device, const char *what)
{
	snprintf(buf, VDPA_KEEP_NAME_MAX + 1, "%s:%s", device, what);
}

/* The part of a store's name behind the device's; NULL: it is of another one. */
const char *
restart_what_of(const char *name, const char *device)
{
	size_t len = strlen(device);

	return strncmp(name, device, len) == 0 && name[len] == ':' ? name + len + 1 : NULL;
}

static unsigned int
find_put(const struct restart_device *d, const char *what)
{
	unsigned int i = 0;

	while (i < d->nput && strcmp(d->put[i], what) != 0)
		i++;
	return i;
}

static int
note_put(struct restart_device *d, const char *what)
{
	if (strlen(what) >= VDPA_RESTART_WHAT_MAX)
		return vdpa_error(EINVAL, "%s: '%s' is too long", d->name, what);
	if (find_put(d, what) < d->nput)
		return 0;
	if (d->nput == d->room) {
		unsigned int room = d->room * 2 + 16;
		void *put = reallocarray(d->put, room, sizeof(d->put[0]));

		if (put == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		d->put = put;
		d->room = room;
	}
	strcpy(d->put[d->nput++], what);
	return 0;
}

static void
note_del(struct restart_device *d, const char *what)
{
	unsigned int i = find_put(d, what);

	if (i < d->nput)
		memmove(d->put[i], d->put[--d->nput], sizeof(d->put[0]));
}

void
restart_refused(const char *name, void *arg)
{
	struct restart_device *d;

	(void)arg;
	TAILQ_FOREACH (d, &restart_state.devices, next) {
		const char *what = restart_what_of(name, d->name);

		if (what == NULL || d->given_up || find_put(d, what) == d->nput)
			continue;
		VDPA_LOG(WARNING, "%s: restart: does not go on in the next process: %s", d->name,
			 vdpa_error_message());
		restart_give_up(d, vdpa_error_message());
		d->refused = true;
	}
}

static void
drop_put(struct restart_device *d)
{
	char name[VDPA_KEEP_NAME_MAX + 1];

	for (unsigned int i = 0; i < d->nput; i++) {
		full_name(name, d->name, d->put[i]);
		(void)vdpa_keep_del(restart_state.keep, name);
	}
	d->nput = 0;
}

/* Under the lock: the function of a device that a former process has left, and this one has not put
 * itself. A descriptor of the caller's, or a negative errno. */
static int
take_former_function(const char *device)
{
	const struct restart_device *d = restart_find(device);
	char name[VDPA_KEEP_NAME_MAX + 1];

	full_name(name, device, VDPA_RESTART_FUNCTION);
	/* A process that lives may yet go on with it. */
	if (restart_state.keep == NULL || restart_state.failed || restart_state.holds ||
	    (d != NULL && find_put(d, VDPA_RESTART_FUNCTION) < d->nput))
		return -ENOENT;
	return vdpa_keep_take(restart_state.keep, name);
}

/* Nobody goes on with it. The descriptor is taken over; none where it is negative. */
static void
fence_function(const char *device, int fd)
{
	enum fence_step step = FENCE_WAITS;
	struct fence_outcome outcome;

	if (fd < 0)
		return;
	/* A name says nothing of what it has. */
	if (!vdpa_fence_may_be_function(fd)) {
		vdpa_close_stray(fd);
		return;
	}
	vdpa_fence_function(fd, &step, &outcome);
	if (outcome.fenced)
		VDPA_LOG(NOTICE, "%s: restart: its function, which is not taken over: %s", device,
			 outcome.text);
	else
		VDPA_LOG(ERR, "%s: restart: its function, which is not taken over: %s", device,
			 outcome.text);
	close(fd);
}

/* Without the lock. */
static void
fence_former(const char *device)
{
	int fd;

	restart_lock();
	fd = take_former_function(device);
	restart_unlock();
	fence_function(device, fd);
}

struct strays {
	bool (*wanted)(const char *name, void *arg); /* NULL: none is */
	char **device;
	unsigned int n;
};

static int
collect_stray(const char *name, void *arg)
{
	const char *what = strchr(name, ':');
	struct strays *s = arg;
	char **device, *copy;

	if (what == NULL || strcmp(what + 1, VDPA_RESTART_FUNCTION) != 0 ||
	    (s->wanted != NULL && s->wanted(name, NULL)))
		return 0;
	device = reallocarray(s->device, s->n + 1, sizeof(*device));
	copy = strndup(name, (size_t)(what - name));
	if (device != NULL)
		s->device = device;
	if (device == NULL || copy == NULL) {
		free(copy);
		return vdpa_error(ENOMEM, "out of memory");
	}
	s->device[s->n++] = copy;
	return 0;
}

void
restart_fence_strays(bool (*wanted)(const char *name, void *arg))
{
	struct strays s = {.wanted = wanted};

	restart_lock();
	if (restart_state.keep != NULL && !restart_state.failed)
		(void)vdpa_keep_for_each(restart_state.keep, collect_stray, &s);
	restart_unlock();
	for (unsigned int i = 0; i < s.n; i++) {
		fence_former(s.device[i]);
		free(s.device[i]);
	}
	free(s.device);
}

static int
prune_one(const char *name, void *arg)
{
	const struct restart_prune *p = arg;
	const char *what = p->device != NULL ? restart_what_of(name, p->device) : name;

	if (what != NULL && strcmp(name, RESTART_JOURNAL) != 0 &&
	    (p->wanted == NULL || !p->wanted(what, p->arg)))
		(void)vdpa_keep_del(restart_state.keep, name);
	return 0;
}

void
restart_prune_store(const struct restart_prune *p)
{
	if (restart_state.keep != NULL && !restart_state.failed)
		(void)vdpa_keep_for_each(restart_state.keep, prune_one, (void *)(uintptr_t)p);
}

/* The record with the words in front. */
static int
write_record(struct restart_device *d, const void *record, size_t len)
{
	struct vdpa_tlv_buf buf = {.data = restart_state.slot, .size = RESTART_SLOT};
	int rc;

	(void)vdpa_tlv_put(&buf, TYPE_WORDS, VDPA_TLV_CRITICAL, d->words,
			   (uint32_t)strlen(d->words));
	if (buf.overflow || len > buf.size - buf.len)
		return vdpa_error(EMSGSIZE, "%s: %zu bytes of state are more than are kept",
				  d->name, len);
	memcpy(buf.data + buf.len, record, len);
	rc = vdpa_journal_write(restart_state.journal, d->name, buf.data, buf.len + len);
	if (rc == 0 && !d->written)
		restart_set_written(d, true);
	return rc;
}

/* The journal's name of a part; a device's name has no slash. */
static void
part_name(char buf[VDPA_JOURNAL_NAME_MAX + 1], const char *device, const char *part)
{
	snprintf(buf, VDPA_JOURNAL_NAME_MAX + 1, "%s/%s", device, part);
}

/* A record that is in the journal: its words, and where what follows begins. All of it lies in
 * restart_state.slot. */
int
restart_read_record(const char *device, struct vdpa_tlv *words, struct vdpa_tlv_reader *rest)
{
	int len;

	if (restart_state.journal == NULL)
		return restart_not_kept();
	len = vdpa_journal_read(restart_state.journal, device, restart_state.slot, RESTART_SLOT);
	if (len < 0)
		return len;
	*rest = (struct vdpa_tlv_reader){
		.data = restart_state.slot, .left = (size_t)len, .what = "the record"};
	if (vdpa_tlv_next(rest, words) != 1 || words->type != TYPE_WORDS || words->len == 0 ||
	    memchr(words->data, '\0', words->len) != NULL)
		return vdpa_error(EPROTO, "%s: its record does not begin with its words", device);
	return 0;
}

/* Calls. */

void
vdpa_restart_set_words(const char *device, const char *words)
{
	struct vdpa_tlv_reader rest;
	struct vdpa_tlv old;
	struct restart_device *d;
	char *copy;

	if (!vdpa_restart_is_on())
		return;
	copy = strdup(words);
	restart_lock();
	d = restart_find(device);
	if (d == NULL && copy != NULL) {
		d = calloc(1, sizeof(*d));
		if (d != NULL)
			d->name = strdup(device);
		if (d != NULL && d->name != NULL) {
			restart_show_lock();
			TAILQ_INSERT_TAIL(&restart_state.devices, d, next);
			restart_show_unlock();
		} else {
			free(d);
			d = NULL;
		}
	}
	if (d == NULL || copy == NULL) {
		free(copy);
		VDPA_LOG(ERR, "%s: restart: out of memory: it is not kept", device);
		restart_unlock();
		return;
	}
	free(d->words);
	d->words = copy;
	if (d->written && restart_read_record(device, &old, &rest) == 0) {
		uint8_t *record = malloc(rest.left);

		if (record != NULL) {
			memcpy(record, rest.data, rest.left);
			if (write_record(d, record, rest.left) < 0)
				VDPA_LOG(ERR, "%s: restart: %s", device, vdpa_error_message());
		}
		free(record);
	}
	restart_unlock();
}

void
vdpa_restart_forget_words(const char *device)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL) {
		restart_show_lock();
		TAILQ_REMOVE(&restart_state.devices, d, next);
		restart_show_unlock();
		free(d->name);
		free(d->words);
		free(d->why);
		free(d->kill);
		free(d->put);
		free(d);
	}
	restart_unlock();
}

int
vdpa_restart_put(const char *device, const char *what, int fd)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct restart_device *d;
	int rc;

	full_name(name, device, what);
	restart_lock();
	d = restart_find(device);
	rc = check_kept(d, device);
	if (rc == 0)
		rc = note_put(d, what);
	if (rc == 0)
		rc = restart_judge(vdpa_keep_put(restart_state.keep, name, fd));
	restart_unlock();
	return rc;
}

void
vdpa_restart_del(const char *device, const char *what)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct restart_device *d;

	if (strcmp(what, VDPA_RESTART_FUNCTION) == 0)
		fence_former(device);
	full_name(name, device, what);
	restart_lock();
	d = restart_find(device);
	if (d != NULL)
		note_del(d, what);
	if (restart_state.keep != NULL && !restart_state.failed)
		(void)restart_judge(vdpa_keep_del(restart_state.keep, name));
	restart_unlock();
}

int
vdpa_restart_take(const char *device, const char *what)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	int rc;

	full_name(name, device, what);
	restart_lock();
	rc = restart_state.keep == NULL ? restart_not_kept()
					: vdpa_keep_take(restart_state.keep, name);
	restart_unlock();
	return rc;
}

int
vdpa_restart_write(const char *device, const void *record, size_t len)
{
	struct restart_device *d;
	int rc;

	restart_lock();
	d = restart_find(device);
	rc = check_kept(d, device);
	if (rc == 0)
		rc = write_record(d, record, len);
	restart_unlock();
	return rc;
}

int
vdpa_restart_read(const char *device, void *buf, size_t size)
{
	const struct restart_device *d;
	struct vdpa_tlv_reader rest;
	struct vdpa_tlv words;
	int rc;

	restart_lock();
	d = restart_find(device);
	if (restart_state.keep == NULL || (d != NULL && d->written))
		rc = vdpa_error(ENOENT, "%s: no former process has left it", device);
	else
		rc = restart_read_record(device, &words, &rest);
	if (rc == 0 && rest.left > size)
		rc = vdpa_error(EPROTO, "%s: its record is too long", device);
	if (rc == 0) {
		memcpy(buf, rest.data, rest.left);
		rc = (int)rest.left;
	}
	restart_unlock();
	return rc;
}

int
vdpa_restart_write_part(const char *device, const char *part, const void *record, size_t len)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];
	int rc;

	part_name(name, device, part);
	restart_lock();
	rc = check_kept(restart_find(device), device);
	if (rc == 0)
		rc = vdpa_journal_write(restart_state.journal, name, record, len);
	restart_unlock();
	return rc;
}

int
vdpa_restart_read_part(const char *device, const char *part, void *buf, size_t size)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];
	int rc;

	part_name(name, device, part);
	restart_lock();
	rc = restart_state.journal == NULL
		     ? restart_not_kept()
		     : vdpa_journal_read(restart_state.journal, name, buf, size);
	restart_unlock();
	return rc;
}

void
vdpa_restart_remove_part(const char *device, const char *part)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];

	part_name(name, device, part);
	restart_lock();
	if (restart_state.journal != NULL)
		(void)vdpa_journal_remove(restart_state.journal, name);
	restart_unlock();
}

/* Under the lock, as the next one. */
static int
remove_if_part(const char *name, void *arg)
{
	const char *device = arg;
	size_t len = strlen(device);

	if (strncmp(name, device, len) == 0 && name[len] == '/')
		(void)vdpa_journal_remove(restart_state.journal, name);
	return 0;
}

void
restart_remove_record(const char *device)
{
	if (restart_state.journal == NULL)
		return;
	(void)vdpa_journal_remove(restart_state.journal, device);
	(void)vdpa_journal_for_each(restart_state.journal, remove_if_part,
				    (void *)(uintptr_t)device);
}

void
vdpa_restart_forget(const char *device)
{
	const struct restart_prune all = {.device = device};
	struct vdpa_error_saved error;
	struct restart_device *d;

	/* It may be on the way out of a failure, which is what is said. */
	vdpa_error_save(&error);
	fence_former(device);
	restart_lock();
	d = restart_find(device);
	if (d != NULL)
		restart_set_written(d, false);
	/* The journal is memory of ours: a record that nobody keeps up any more goes, too, where
	 * the store does not answer. */
	restart_remove_record(device);
	if (restart_state.keep != NULL && !restart_state.failed) {
		if (d != NULL)
			drop_put(d);
		restart_prune_store(&all);
	}
	restart_unlock();
	vdpa_error_restore(&error);
}

void
vdpa_restart_prune(const char *device, bool (*wanted)(const char *what, void *arg), void *arg)
{
	const struct restart_prune p = {.device = device, .wanted = wanted, .arg = arg};

	restart_lock();
	restart_prune_store(&p);
	restart_unlock();
}

int
vdpa_restart_change_begins(void)
{
	int rc = 0;

	restart_lock();
	if (restart_state.leaves ||
	    (restart_state.frozen && !pthread_equal(restart_state.freezer, pthread_self())))
		rc = vdpa_error(EBUSY, "the devices are being left to another process");
	else
		restart_state.changes++;
	restart_unlock();
	return rc;
}

void
vdpa_restart_change_ends(void)
{
	restart_lock();
	if (--restart_state.changes == 0)
		pthread_cond_broadcast(&restart_state.unchanged);
	restart_unlock();
}

bool
vdpa_restart_holds(void)
{
	return __atomic_load_n(&restart_state.holds, __ATOMIC_ACQUIRE);
}

bool
vdpa_restart_when_it_goes(struct vdpa_restart_waiter *w)
{
	bool holds;

	restart_lock();
	holds = restart_state.holds;
	w->waits = holds;
	if (holds)
		TAILQ_INSERT_TAIL(&restart_state.waiters, w, next);
	restart_unlock();
	return holds;
}

/* A waiter that is called is not waiting any more, and its call is waited for. */
void
vdpa_restart_waits_no_more(struct vdpa_restart_waiter *w)
{
	restart_lock();
	if (w->waits)
		TAILQ_REMOVE(&restart_state.waiters, w, next);
	w->waits = false;
	while (restart_state.calls == w)
		pthread_cond_wait(&restart_state.called, &restart_state.lock);
	restart_unlock();
}

bool
vdpa_restart_is_taken(const char *device)
{
	const struct restart_device *d;
	bool taken;

	restart_lock();
	d = restart_find(device);
	taken = d != NULL && d->taken;
	restart_unlock();
	return taken;
}

void
vdpa_restart_taken(const char *device)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d == NULL || !d->taken)
		restart_state.taken++;
	if (d != NULL)
		d->taken = true;
	restart_unlock();
}

void
vdpa_restart_lost(const char *device)
{
	struct restart_device *d;

	restart_lock();
	d = restart_find(device);
	if (d != NULL && d->taken)
		restart_state.taken--;
	if (d != NULL)
		d->taken = false;
	restart_unlock();
}
