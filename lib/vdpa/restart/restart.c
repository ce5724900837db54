/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the process keeps for the next one, and what it finds of a former one. Owns the store, the
 * journal and the words of devices. One lock guards all of it; it is innermost, and held while the
 * store is waited for.
 *
 * From a process that lives to the next one: the former copies the records before it hands the
 * store over, and the next one changes the store (vdpa_keep.h) and hears front ends
 * (vdpa_restart_when_it_goes()) only from vdpa_restart_go() on. So the former one may have back
 * what it had.
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
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_journal.h"
#include "vdpa_keep.h"
#include "vdpa_log.h"
#include "vdpa_restart.h"

/* Records of a device begin with its words; what follows is its front end's. */
#define TYPE_WORDS 1

#define DEVICES_MAX  4096
#define JOURNAL_NAME "journal"
/* How long changes of devices are waited for. */
#define CHANGES_S    10
/* The words take part of a slot: a line of a configuration file at most. */
#define SLOT_SIZE    (VDPA_RESTART_RECORD_MAX + 16384u)

/* A device of this process. */
struct device {
	char *name;
	char *words;
	bool written; /* its record is this process' */
	bool by_itself;
	bool alone;    /* it works while no process lives */
	bool given_up; /* nothing of it is kept any more, for its life */
	char *why;     /* it, or its connection, does not go on; NULL: nobody has said so */
	/* What this process has put into the store; vdpa_keep.h lists a former one's alone. */
	char (*put)[VDPA_RESTART_WHAT_MAX];
	unsigned int nput, room;
	TAILQ_ENTRY(device) next;
};

/* A record as it was when the store was handed over. */
struct copy {
	char *device;
	uint8_t *record;
	size_t len;
};

static struct {
	pthread_mutex_t lock;
	struct vdpa_keep *keep; /* NULL: nothing is kept */
	struct vdpa_journal *journal;
	bool failed; /* the store: it was said, and nothing is kept any more */
	bool leaves;
	unsigned int changes; /* of devices, which are under way */
	bool frozen;	      /* no other begins, but for this thread's */
	pthread_t freezer;
	bool holds; /* a former process may go on with what was taken over */
	TAILQ_HEAD(, vdpa_restart_waiter) waiters;
	struct copy *copies; /* once it was handed over */
	unsigned int ncopies;
	bool handed;
	struct vdpa_restart_waiter *calls; /* the one that is being called */
	unsigned int taken;		   /* devices of a former process */
	TAILQ_HEAD(, device) devices;
	uint8_t *slot; /* SLOT_SIZE bytes, for records that are put together */
} state = {.lock = PTHREAD_MUTEX_INITIALIZER,
	   .waiters = TAILQ_HEAD_INITIALIZER(state.waiters),
	   .devices = TAILQ_HEAD_INITIALIZER(state.devices)};

/* A waiter's call has ended. */
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;
/* The last change of a device has ended. */
static pthread_cond_t unchanged = PTHREAD_COND_INITIALIZER;

static void
lock(void)
{
	pthread_mutex_lock(&state.lock);
}

static void
unlock(void)
{
	pthread_mutex_unlock(&state.lock);
}

bool
vdpa_restart_is_on(void)
{
	bool on;

	lock();
	on = state.keep != NULL && !state.failed;
	unlock();
	return on;
}

bool
vdpa_restart_leaves(void)
{
	return __atomic_load_n(&state.leaves, __ATOMIC_ACQUIRE);
}

/* Under the lock, as all that follow up to the calls. */

static struct device *
find(const char *name)
{
	struct device *d;

	TAILQ_FOREACH (d, &state.devices, next)
		if (strcmp(d->name, name) == 0)
			return d;
	return NULL;
}

static int
not_kept(void)
{
	return vdpa_error(EPIPE, "nothing is kept for the next process");
}

/* Whether this process keeps something of the device. */
static int
check_kept(const struct device *d, const char *device)
{
	if (state.keep == NULL || state.failed)
		return not_kept();
	if (d == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: an application made it without words", device);
	if (d->given_up)
		return vdpa_error(ECANCELED, "%s", d->why != NULL ? d->why : "out of memory");
	return 0;
}

/* The store does not keep any more, so what the journal says of it is worth nothing. */
static int
store_failed(int rc)
{
	if (!state.failed)
		VDPA_LOG(ERR,
			 "restart: nothing is kept for the next process any more, devices go on "
			 "here: %s",
			 vdpa_error_message());
	state.failed = true;
	return rc;
}

static void
full_name(char buf[VDPA_KEEP_NAME_MAX + 1], const char *device, const char *what)
{
	snprintf(buf, VDPA_KEEP_NAME_MAX + 1, "%s:%s", device, what);
}

/* The part of a store's name behind the device's; NULL: it is of another one. */
static const char *
what_of(const char *name, const char *device)
{
	size_t len = strlen(device);

	return strncmp(name, device, len) == 0 && name[len] == ':' ? name + len + 1 : NULL;
}

static unsigned int
find_put(const struct device *d, const char *what)
{
	unsigned int i = 0;

	while (i < d->nput && strcmp(d->put[i], what) != 0)
		i++;
	return i;
}

static int
note_put(struct device *d, const char *what)
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
note_del(struct device *d, const char *what)
{
	unsigned int i = find_put(d, what);

	if (i < d->nput)
		memmove(d->put[i], d->put[--d->nput], sizeof(d->put[0]));
}

static void
drop_put(struct device *d)
{
	char name[VDPA_KEEP_NAME_MAX + 1];

	for (unsigned int i = 0; i < d->nput; i++) {
		full_name(name, d->name, d->put[i]);
		(void)vdpa_keep_del(state.keep, name);
	}
	d->nput = 0;
}

/* Under the lock: the function of a device that a former process has left, and this one has not put
 * itself. A descriptor of the caller's, or a negative errno. */
static int
take_former_function(const char *device)
{
	const struct device *d = find(device);
	char name[VDPA_KEEP_NAME_MAX + 1];

	full_name(name, device, VDPA_RESTART_FUNCTION);
	/* A process that lives may yet go on with it. */
	if (state.keep == NULL || state.failed || state.holds ||
	    (d != NULL && find_put(d, VDPA_RESTART_FUNCTION) < d->nput))
		return -ENOENT;
	return vdpa_keep_take(state.keep, name);
}

/* Nobody goes on with it. The descriptor is taken over; none where it is negative. */
static void
fence_function(const char *device, int fd)
{
	enum fence_step step = FENCE_WAITS;
	struct fence_outcome outcome;

	if (fd >= 0 && vdpa_fence_may_be_function(fd)) {
		vdpa_fence_function(fd, &step, &outcome);
		if (outcome.fenced)
			VDPA_LOG(NOTICE, "%s: restart: its function, which is not taken over: %s",
				 device, outcome.text);
		else
			VDPA_LOG(ERR, "%s: restart: its function, which is not taken over: %s",
				 device, outcome.text);
	}
	if (fd >= 0)
		close(fd);
}

/* Without the lock. */
static void
fence_former(const char *device)
{
	int fd;

	lock();
	fd = take_former_function(device);
	unlock();
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

/* Under the lock, which nobody else needs yet: the process begins, or settles. */
static void
fence_strays(bool (*wanted)(const char *name, void *arg))
{
	struct strays s = {.wanted = wanted};

	if (state.keep != NULL && !state.failed)
		(void)vdpa_keep_for_each(state.keep, collect_stray, &s);
	for (unsigned int i = 0; i < s.n; i++) {
		fence_function(s.device[i], take_former_function(s.device[i]));
		free(s.device[i]);
	}
	free(s.device);
}

struct prune {
	const char *device; /* NULL: any */
	bool (*wanted)(const char *what, void *arg);
	void *arg;
};

static int
prune_one(const char *name, void *arg)
{
	const struct prune *p = arg;
	const char *what = p->device != NULL ? what_of(name, p->device) : name;

	if (what != NULL && strcmp(name, JOURNAL_NAME) != 0 &&
	    (p->wanted == NULL || !p->wanted(what, p->arg)))
		(void)vdpa_keep_del(state.keep, name);
	return 0;
}

static void
prune(const struct prune *p)
{
	if (state.keep != NULL && !state.failed)
		(void)vdpa_keep_for_each(state.keep, prune_one, (void *)(uintptr_t)p);
}

/* The record with the words in front. */
static int
write_record(struct device *d, const void *record, size_t len)
{
	struct vdpa_tlv_buf buf = {.data = state.slot, .size = SLOT_SIZE};
	int rc;

	(void)vdpa_tlv_put(&buf, TYPE_WORDS, VDPA_TLV_CRITICAL, d->words,
			   (uint32_t)strlen(d->words));
	if (buf.overflow || len > buf.size - buf.len)
		return vdpa_error(EMSGSIZE, "%s: %zu bytes of state are more than are kept",
				  d->name, len);
	memcpy(buf.data + buf.len, record, len);
	rc = vdpa_journal_write(state.journal, d->name, buf.data, buf.len + len);
	if (rc == 0)
		d->written = true;
	return rc;
}

/* The journal's name of a part; a device's name has no slash. */
static void
part_name(char buf[VDPA_JOURNAL_NAME_MAX + 1], const char *device, const char *part)
{
	snprintf(buf, VDPA_JOURNAL_NAME_MAX + 1, "%s/%s", device, part);
}

/* A record that is in the journal: its words, and where what follows begins. All of it lies in
 * state.slot. */
static int
read_record(const char *device, struct vdpa_tlv *words, struct vdpa_tlv_reader *rest)
{
	int len = vdpa_journal_read(state.journal, device, state.slot, SLOT_SIZE);

	if (len < 0)
		return len;
	*rest = (struct vdpa_tlv_reader){
		.data = state.slot, .left = (size_t)len, .what = "the record"};
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
	struct device *d;
	char *copy;

	if (!vdpa_restart_is_on())
		return;
	copy = strdup(words);
	lock();
	d = find(device);
	if (d == NULL && copy != NULL) {
		d = calloc(1, sizeof(*d));
		if (d != NULL)
			d->name = strdup(device);
		if (d != NULL && d->name != NULL) {
			TAILQ_INSERT_TAIL(&state.devices, d, next);
		} else {
			free(d);
			d = NULL;
		}
	}
	if (d == NULL || copy == NULL) {
		free(copy);
		VDPA_LOG(ERR, "%s: restart: out of memory: it is not kept", device);
		unlock();
		return;
	}
	free(d->words);
	d->words = copy;
	if (d->written && read_record(device, &old, &rest) == 0) {
		uint8_t *record = malloc(rest.left);

		if (record != NULL) {
			memcpy(record, rest.data, rest.left);
			if (write_record(d, record, rest.left) < 0)
				VDPA_LOG(ERR, "%s: restart: %s", device, vdpa_error_message());
		}
		free(record);
	}
	unlock();
}

void
vdpa_restart_forget_words(const char *device)
{
	struct device *d;

	lock();
	d = find(device);
	if (d != NULL) {
		TAILQ_REMOVE(&state.devices, d, next);
		free(d->name);
		free(d->words);
		free(d->why);
		free(d->put);
		free(d);
	}
	unlock();
}

int
vdpa_restart_put(const char *device, const char *what, int fd)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct device *d;
	int rc;

	full_name(name, device, what);
	lock();
	d = find(device);
	rc = check_kept(d, device);
	if (rc == 0)
		rc = note_put(d, what);
	if (rc == 0) {
		rc = vdpa_keep_put(state.keep, name, fd);
		/* What one device has too much of costs that device. */
		if (rc == -EPIPE || rc == -ETIMEDOUT)
			store_failed(rc);
	}
	unlock();
	return rc;
}

void
vdpa_restart_del(const char *device, const char *what)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct device *d;

	if (strcmp(what, VDPA_RESTART_FUNCTION) == 0)
		fence_former(device);
	full_name(name, device, what);
	lock();
	d = find(device);
	if (d != NULL)
		note_del(d, what);
	if (state.keep != NULL && !state.failed) {
		int rc = vdpa_keep_del(state.keep, name);

		if (rc == -EPIPE || rc == -ETIMEDOUT)
			store_failed(rc);
	}
	unlock();
}

int
vdpa_restart_take(const char *device, const char *what)
{
	char name[VDPA_KEEP_NAME_MAX + 1];
	int rc;

	full_name(name, device, what);
	lock();
	rc = state.keep == NULL ? not_kept() : vdpa_keep_take(state.keep, name);
	unlock();
	return rc;
}

int
vdpa_restart_write(const char *device, const void *record, size_t len)
{
	struct device *d;
	int rc;

	lock();
	d = find(device);
	rc = check_kept(d, device);
	if (rc == 0)
		rc = write_record(d, record, len);
	unlock();
	return rc;
}

int
vdpa_restart_read(const char *device, void *buf, size_t size)
{
	const struct device *d;
	struct vdpa_tlv_reader rest;
	struct vdpa_tlv words;
	int rc;

	lock();
	d = find(device);
	if (state.keep == NULL || (d != NULL && d->written))
		rc = vdpa_error(ENOENT, "%s: no former process has left it", device);
	else
		rc = read_record(device, &words, &rest);
	if (rc == 0 && rest.left > size)
		rc = vdpa_error(EPROTO, "%s: its record is too long", device);
	if (rc == 0) {
		memcpy(buf, rest.data, rest.left);
		rc = (int)rest.left;
	}
	unlock();
	return rc;
}

int
vdpa_restart_write_part(const char *device, const char *part, const void *record, size_t len)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];
	int rc;

	part_name(name, device, part);
	lock();
	rc = check_kept(find(device), device);
	if (rc == 0)
		rc = vdpa_journal_write(state.journal, name, record, len);
	unlock();
	return rc;
}

int
vdpa_restart_read_part(const char *device, const char *part, void *buf, size_t size)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];
	int rc;

	part_name(name, device, part);
	lock();
	rc = state.keep == NULL ? not_kept() : vdpa_journal_read(state.journal, name, buf, size);
	unlock();
	return rc;
}

void
vdpa_restart_remove_part(const char *device, const char *part)
{
	char name[VDPA_JOURNAL_NAME_MAX + 1];

	part_name(name, device, part);
	lock();
	if (state.journal != NULL)
		(void)vdpa_journal_remove(state.journal, name);
	unlock();
}

static int
remove_if_part(const char *name, void *arg)
{
	const char *device = arg;
	size_t len = strlen(device);

	if (strncmp(name, device, len) == 0 && name[len] == '/')
		(void)vdpa_journal_remove(state.journal, name);
	return 0;
}

void
vdpa_restart_forget(const char *device)
{
	const struct prune all = {.device = device};
	struct device *d;

	fence_former(device);
	lock();
	d = find(device);
	if (d != NULL)
		d->written = false;
	/* The journal is memory of ours: a record that nobody keeps up any more goes, too, where
	 * the store does not answer. */
	if (state.journal != NULL) {
		(void)vdpa_journal_remove(state.journal, device);
		(void)vdpa_journal_for_each(state.journal, remove_if_part,
					    (void *)(uintptr_t)device);
	}
	if (state.keep != NULL && !state.failed) {
		if (d != NULL)
			drop_put(d);
		prune(&all);
	}
	unlock();
}

void
vdpa_restart_prune(const char *device, bool (*wanted)(const char *what, void *arg), void *arg)
{
	const struct prune p = {.device = device, .wanted = wanted, .arg = arg};

	lock();
	prune(&p);
	unlock();
}

void
vdpa_restart_says(const char *device, const char *why)
{
	char *copy = why != NULL ? strdup(why) : NULL;
	struct device *d;

	lock();
	d = find(device);
	if (d != NULL && !d->given_up) {
		free(d->why);
		d->why = copy;
		copy = NULL;
	}
	unlock();
	free(copy);
}

void
vdpa_restart_give_up(const char *device, const char *why)
{
	struct device *d;

	vdpa_restart_says(device, why);
	lock();
	d = find(device);
	if (d != NULL)
		d->given_up = true;
	unlock();
	vdpa_restart_forget(device);
}

bool
vdpa_restart_is_given_up(const char *device)
{
	const struct device *d;
	bool given_up;

	lock();
	d = find(device);
	given_up = d != NULL && d->given_up;
	unlock();
	return given_up;
}

void
vdpa_restart_goes_by_itself(const char *device)
{
	struct device *d;

	lock();
	d = find(device);
	if (d != NULL)
		d->by_itself = true;
	unlock();
}

void
vdpa_restart_works_alone(const char *device)
{
	struct device *d;

	lock();
	d = find(device);
	if (d != NULL)
		d->alone = true;
	unlock();
}

int
vdpa_restart_change_begins(void)
{
	int rc = 0;

	lock();
	if (state.leaves || (state.frozen && !pthread_equal(state.freezer, pthread_self())))
		rc = vdpa_error(EBUSY, "the devices are being left to another process");
	else
		state.changes++;
	unlock();
	return rc;
}

void
vdpa_restart_change_ends(void)
{
	lock();
	if (--state.changes == 0)
		pthread_cond_broadcast(&unchanged);
	unlock();
}

bool
vdpa_restart_holds(void)
{
	bool holds;

	lock();
	holds = state.holds;
	unlock();
	return holds;
}

bool
vdpa_restart_when_it_goes(struct vdpa_restart_waiter *w)
{
	bool holds;

	lock();
	holds = state.holds;
	w->waits = holds;
	if (holds)
		TAILQ_INSERT_TAIL(&state.waiters, w, next);
	unlock();
	return holds;
}

/* A waiter that is called is not waiting any more, and its call is waited for. */
void
vdpa_restart_waits_no_more(struct vdpa_restart_waiter *w)
{
	lock();
	if (w->waits)
		TAILQ_REMOVE(&state.waiters, w, next);
	w->waits = false;
	while (state.calls == w)
		pthread_cond_wait(&called, &state.lock);
	unlock();
}

void
vdpa_restart_taken(const char *device)
{
	(void)device;
	lock();
	state.taken++;
	unlock();
}

/* The application's. */

/* Under the lock. */
static int
create_journal(void)
{
	int rc = vdpa_journal_create(DEVICES_MAX, SLOT_SIZE, &state.journal);

	if (rc < 0)
		return rc;
	rc = vdpa_keep_put(state.keep, JOURNAL_NAME, vdpa_journal_fd(state.journal));
	if (rc == 0)
		rc = vdpa_keep_barrier(state.keep, 0);
	if (rc < 0) {
		vdpa_journal_close(state.journal);
		state.journal = NULL;
	}
	return rc;
}

/* Under the lock. The former process' journal, or a new one. */
static int
open_journal(void)
{
	const struct prune all = {.device = NULL};
	int fd = vdpa_keep_take(state.keep, JOURNAL_NAME), rc = fd < 0 ? fd : 0;

	if (fd >= 0) {
		rc = vdpa_journal_open(fd, &state.journal);
		close(fd);
		if (rc == 0 && vdpa_journal_slot_size(state.journal) < SLOT_SIZE) {
			vdpa_journal_close(state.journal);
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
	if (state.holds)
		return rc == 0 || rc == -ENOENT ? vdpa_error(EPROTO, "no journal is handed over")
						: rc;
	fence_strays(NULL);
	prune(&all);
	return create_journal();
}

static int
begin(const char *where, int sock)
{
	int rc;

	lock();
	if (state.keep != NULL) {
		unlock();
		return vdpa_error(EALREADY, "devices are kept already");
	}
	state.slot = malloc(SLOT_SIZE);
	rc = state.slot == NULL ? vdpa_error(ENOMEM, "out of memory")
	     : sock < 0		? vdpa_keep_open(where, &state.keep)
				: vdpa_keep_open_handed(where, sock, &state.keep);
	state.holds = sock >= 0;
	if (rc == 0) {
		rc = open_journal();
		if (rc < 0) {
			struct vdpa_error_saved error;

			vdpa_error_save(&error);
			vdpa_keep_close(state.keep);
			vdpa_error_restore(&error);
		}
	}
	if (rc < 0) {
		free(state.slot);
		state.slot = NULL;
		state.keep = NULL;
		state.journal = NULL;
		state.holds = false;
	}
	state.failed = state.leaves = state.frozen = false;
	state.taken = 0;
	unlock();
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

	lock();
	n = state.taken;
	unlock();
	return n;
}

/* Call those that wait, each without the lock. */
static void
call_waiters(void)
{
	struct vdpa_restart_waiter *w;

	while ((w = TAILQ_FIRST(&state.waiters)) != NULL) {
		TAILQ_REMOVE(&state.waiters, w, next);
		w->waits = false;
		state.calls = w;
		unlock();
		w->go(w);
		lock();
		state.calls = NULL;
		pthread_cond_broadcast(&called);
	}
}

int
vdpa_restart_go(void)
{
	int rc = 0;

	lock();
	if (state.keep != NULL && state.holds) {
		rc = vdpa_keep_go(state.keep);
		if (rc < 0)
			store_failed(rc);
		state.holds = false;
		call_waiters();
	}
	unlock();
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
	lock();
	rc = state.keep == NULL ? 0 : vdpa_journal_for_each(state.journal, collect, &both);
	for (unsigned int i = 0; rc == 0 && i < both.n; i++)
		if (strchr(both.name[i], '/') == NULL && find(both.name[i]) == NULL)
			rc = collect(both.name[i], all);
	unlock();
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

	lock();
	if (read_record(device, &words, &rest) == 0)
		text = strndup((const char *)words.data, words.len);
	unlock();
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
	const struct device *d;

	(void)arg;
	TAILQ_FOREACH (d, &state.devices, next)
		if (d->written && what_of(name, d->name) != NULL)
			return true;
	return false;
}

unsigned int
vdpa_restart_settle(void)
{
	const struct prune strays = {.wanted = has_owner};
	struct names all;
	unsigned int taken;

	if (collect_former(&all) == 0)
		for (unsigned int i = 0; i < all.n; i++) {
			VDPA_LOG(WARNING, "%s: restart: does not go on: nobody has made it again",
				 all.name[i]);
			vdpa_restart_forget(all.name[i]);
		}
	free_names(&all);
	lock();
	fence_strays(has_owner);
	prune(&strays);
	taken = state.taken;
	unlock();
	return taken;
}

/* Under the lock. Whether the store is there: one that has died is noticed when it is asked. */
static int
ask_store(void)
{
	int rc;

	if (state.keep == NULL || state.failed)
		return not_kept();
	rc = vdpa_keep_barrier(state.keep, 0);
	return rc == -EPIPE || rc == -ETIMEDOUT ? store_failed(rc) : 0;
}

int
vdpa_restart_leave(void)
{
	const struct device *d;
	unsigned int n = 0;
	int rc;

	lock();
	rc = ask_store();
	/* What the other process has is left to it in any case. */
	if (rc == 0 || state.holds) {
		__atomic_store_n(&state.leaves, true, __ATOMIC_RELEASE);
		TAILQ_FOREACH (d, &state.devices, next)
			n += d->written;
		rc = (int)n;
	}
	unlock();
	return rc;
}

int
vdpa_restart_freeze(void)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += CHANGES_S;
	lock();
	if (state.frozen) {
		unlock();
		return vdpa_error(EALREADY, "devices stay as they are already");
	}
	state.frozen = true;
	state.freezer = pthread_self();
	while (state.changes > 0 && rc == 0)
		rc = pthread_cond_clockwait(&unchanged, &state.lock, CLOCK_MONOTONIC, &until);
	if (state.changes > 0) {
		state.frozen = false;
		rc = vdpa_error(EBUSY, "a device is being added, changed or deleted");
	} else {
		rc = 0;
	}
	unlock();
	return rc;
}

void
vdpa_restart_thaw(void)
{
	lock();
	state.frozen = false;
	unlock();
}

struct told {
	char *name, *why;
};

int
vdpa_restart_check(int (*fn)(const char *name, const char *why, void *arg), void *arg)
{
	static const char other[] = "devices of its front end start anew in this version";
	static const char alone[] = "a function that works while no daemon lives goes on at a "
				    "restart, by SIGTERM or systemctl restart; not at an upgrade "
				    "in this version";
	const struct device *d;
	struct told *told = NULL;
	unsigned int n = 0, room = 0;
	int rc;

	lock();
	rc = ask_store();
	TAILQ_FOREACH (d, &state.devices, next)
		room++;
	told = calloc(room + 1, sizeof(*told));
	if (rc == 0 && told == NULL)
		rc = vdpa_error(ENOMEM, "out of memory");
	TAILQ_FOREACH (d, &state.devices, next) {
		if (rc < 0 || d->by_itself || (d->written && d->why == NULL && !d->alone))
			continue;
		told[n].name = strdup(d->name);
		told[n].why = strdup(d->why != NULL ? d->why : d->written ? alone : other);
		n++;
	}
	unlock();
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
	for (unsigned int i = 0; i < state.ncopies; i++) {
		free(state.copies[i].device);
		free(state.copies[i].record);
	}
	free(state.copies);
	state.copies = NULL;
	state.ncopies = 0;
}

/* Under the lock. */
static int
copy_record(const char *device, void *arg)
{
	struct copy *copies = reallocarray(state.copies, state.ncopies + 1, sizeof(*copies)), *c;
	int len;

	(void)arg;
	if (copies == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	state.copies = copies;
	len = vdpa_journal_read(state.journal, device, state.slot, SLOT_SIZE);
	if (len < 0)
		return len;
	c = &copies[state.ncopies++];
	*c = (struct copy){.device = strdup(device), .record = malloc((size_t)len + 1)};
	if (c->device == NULL || c->record == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	memcpy(c->record, state.slot, (size_t)len);
	c->len = (size_t)len;
	return 0;
}

int
vdpa_restart_hand_over(int sock)
{
	int rc;

	lock();
	free_copies();
	if (state.keep == NULL || state.failed)
		rc = not_kept();
	else
		rc = vdpa_journal_for_each(state.journal, copy_record, NULL);
	if (rc == 0) {
		state.handed = true;
		rc = vdpa_keep_hand_over(state.keep, sock);
	}
	unlock();
	return rc;
}

/* Under the lock. The store as it was when it was handed over, with the records of then. */
static int
reopen(void)
{
	struct vdpa_keep *keep;
	int rc = vdpa_keep_reopen(state.keep, &keep);

	if (rc < 0)
		return rc;
	vdpa_keep_close(state.keep);
	vdpa_journal_close(state.journal);
	state.keep = keep;
	state.journal = NULL;
	rc = create_journal();
	for (unsigned int i = 0; rc == 0 && i < state.ncopies; i++)
		rc = vdpa_journal_write(state.journal, state.copies[i].device,
					state.copies[i].record, state.copies[i].len);
	return rc;
}

int
vdpa_restart_take_back(void)
{
	int rc = 0;

	lock();
	if (state.keep == NULL || state.failed)
		rc = not_kept();
	else if (!state.handed)
		rc = vdpa_journal_for_each(state.journal, copy_record, NULL);
	if (rc == 0)
		rc = reopen();
	if (rc < 0) {
		store_failed(rc);
		if (state.journal == NULL)
			(void)vdpa_journal_create(DEVICES_MAX, SLOT_SIZE, &state.journal);
	}
	state.handed = false;
	free_copies();
	__atomic_store_n(&state.leaves, false, __ATOMIC_RELEASE);
	state.taken = 0;
	unlock();
	return rc;
}

void
vdpa_restart_end(void)
{
	lock();
	free_copies();
	if (state.keep != NULL) {
		if (!state.handed)
			(void)vdpa_keep_barrier(state.keep, 0);
		vdpa_journal_close(state.journal);
		vdpa_keep_close(state.keep);
		free(state.slot);
		state.keep = NULL;
		state.journal = NULL;
		state.slot = NULL;
		state.handed = state.holds = false;
	}
	unlock();
}
