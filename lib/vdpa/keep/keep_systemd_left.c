/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a process finds in systemd's store (keep_systemd.c): what systemd has handed over of a
 * former one, or the process that lives still. Each descriptor gets its name by the table that is
 * stored beside it; what has none is dropped. Owns the descriptors until they are the store's.
 */

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "fd_message.h"
#include "keep_priv.h"
#include "keep_systemd.h"
#include "tlv.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_journal.h"
#include "vdpa_log.h"

/* The first descriptor that systemd hands over, and how many it may. */
#define LISTEN_FIRST 3
#define LISTEN_MAX   1000000

static bool
read_number(const char *text, unsigned long max, unsigned long *value)
{
	char *end;

	if (text == NULL || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	*value = strtoul(text, &end, 10);
	return errno == 0 && *end == '\0' && *value <= max;
}

int
keep_systemd_read_listen(struct handed_list *list)
{
	const char *names = getenv("LISTEN_FDNAMES");
	unsigned long pid, n;
	char *name, *next;

	if (!read_number(getenv("LISTEN_PID"), INT32_MAX, &pid) || (pid_t)pid != getpid() ||
	    !read_number(getenv("LISTEN_FDS"), LISTEN_MAX, &n) || names == NULL)
		return 0;
	list->names = strdup(names);
	list->fds = calloc(n + 1, sizeof(*list->fds));
	if (list->names == NULL || list->fds == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	next = list->names;
	for (unsigned long i = 0; i < n && (name = strsep(&next, ":")) != NULL; i++) {
		int fd = LISTEN_FIRST + (int)i;

		if (strncmp(name, PREFIX, strlen(PREFIX)) != 0 ||
		    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			continue;
		list->fds[list->n++] = (struct handed){.name = name, .fd = fd};
	}
	if (list->n == 0)
		return 0;
	/* They are handed over once. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return 0;
}

/* The number in a name of ours; 0: it is none. */
static uint64_t
number_of(const char *store_name)
{
	const char *text = store_name + strlen(PREFIX);
	char *end;
	uint64_t number;

	if (text[0] < '1' || text[0] > '9' || strlen(store_name) >= STORE_NAME_SIZE)
		return 0;
	errno = 0;
	number = strtoull(text, &end, 10);
	return errno == 0 && *end == '-' && number <= NUMBER_MAX ? number : 0;
}

/* The table of what a former life has left; NULL: there is none, or none that can be believed. */
static struct vdpa_journal *
open_table(const struct handed_list *list)
{
	struct vdpa_journal *table = NULL;
	unsigned int found = 0;

	for (unsigned int i = 0; i < list->n; i++) {
		if (strcmp(list->fds[i].name, TABLE_NAME) != 0)
			continue;
		if (++found > 1) {
			VDPA_LOG(ERR, "systemd's store: it has two tables of names");
			vdpa_journal_close(table);
			return NULL;
		}
		if (vdpa_journal_open(list->fds[i].fd, &table) < 0)
			table = NULL;
	}
	return table;
}

static int
compare_handed(const void *a, const void *b)
{
	uint64_t x = number_of(((const struct handed *)a)->name);
	uint64_t y = number_of(((const struct handed *)b)->name);

	return x < y ? -1 : x > y;
}

struct adopting {
	struct vdpa_keep *k;
	struct systemd *s;
	struct handed_list *list; /* sorted by number */
	bool reopens;		  /* the table may have names of a process that has failed */
};

/* The descriptor of this number; NULL: none, or more than one. */
static struct handed *
find_handed(const struct handed_list *list, uint64_t number)
{
	unsigned int low = 0, high = list->n;

	if (number == 0)
		return NULL;
	while (low < high) {
		unsigned int mid = (low + high) / 2;

		if (number_of(list->fds[mid].name) < number)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == list->n || number_of(list->fds[low].name) != number ||
	    (low + 1 < list->n && number_of(list->fds[low + 1].name) == number))
		return NULL;
	return &list->fds[low];
}

/* A descriptor that was handed over, as one that is stored. Its file may be under two numbers only
 * where a hostile store says so: the second is none then. */
static struct stored *
adopt_handed(struct systemd *s, struct handed *handed)
{
	struct stored *stored;

	if (handed->stored != NULL)
		return handed->stored;
	stored = calloc(1, sizeof(*stored));
	if (stored == NULL)
		return NULL;
	*stored = (struct stored){.fd = handed->fd, .number = number_of(handed->name)};
	snprintf(stored->name, sizeof(stored->name), "%s", handed->name);
	if (vdpa_tree_add(&s->files, stored) < 0) {
		free(stored);
		return NULL;
	}
	handed->stored = stored;
	return stored;
}

/* A name of the table: it is adopted with its descriptor, or forgotten. */
static int
adopt_name(const char *name, void *arg)
{
	struct adopting *a = arg;
	uint8_t number[NUMBER_SIZE];
	struct handed *handed = NULL;
	struct stored *stored = NULL;
	struct named *named;
	int rc;

	if (keep_is_name(name) &&
	    vdpa_journal_read(a->s->table, name, number, sizeof(number)) == sizeof(number))
		handed = find_handed(a->list, vdpa_le_get(number, sizeof(number)));
	if (handed != NULL)
		stored = adopt_handed(a->s, handed);
	if (stored == NULL) {
		if (!a->reopens)
			VDPA_LOG(WARNING, "systemd's store: '%s': its descriptor is not there",
				 name);
		return vdpa_journal_remove(a->s->table, name);
	}
	rc = keep_systemd_find_or_add_name(a->s, name, &named);
	if (rc < 0)
		return rc;
	named->stored = stored;
	stored->names++;
	return keep_add_left(a->k, name);
}

/* What no name has is of a process that was killed between two steps. */
static int
drop_rest(struct systemd *s, struct handed_list *list, bool table)
{
	int rc = 0;

	for (unsigned int i = 0; i < list->n; i++) {
		struct handed *h = &list->fds[i];

		s->next = number_of(h->name) >= s->next ? number_of(h->name) + 1 : s->next;
		if (h->stored != NULL)
			continue;
		vdpa_close_foreign(s->ended, h->fd);
		h->fd = -1;
		if (rc == 0 && (!table || strcmp(h->name, TABLE_NAME) != 0) &&
		    strlen(h->name) < STORE_NAME_SIZE)
			rc = keep_systemd_send_removal(s, h->name);
	}
	return rc;
}

int
keep_systemd_adopt(struct systemd *s, struct vdpa_keep *k, struct handed_list *list, bool reopens)
{
	struct adopting a = {.k = k, .s = s, .list = list, .reopens = reopens};
	bool table;
	int rc = 0;

	s->table = open_table(list);
	table = s->table != NULL;
	if (!table && list->n > 0)
		VDPA_LOG(ERR,
			 "systemd's store: %u descriptors are left without a table of names: they "
			 "are dropped",
			 list->n);
	if (list->n > 0)
		qsort(list->fds, list->n, sizeof(*list->fds), compare_handed);
	if (table)
		rc = vdpa_journal_for_each(s->table, adopt_name, &a);
	if (rc == 0)
		rc = drop_rest(s, list, table);
	if (rc < 0 || table)
		return rc;
	rc = vdpa_journal_create(NAMES_MAX, NUMBER_SIZE, &s->table);
	return rc < 0 ? rc : keep_systemd_send_store(s, TABLE_NAME, vdpa_journal_fd(s->table));
}

void
keep_systemd_close_rest(struct systemd *s, struct handed_list *list)
{
	for (unsigned int i = 0; i < list->n; i++)
		if (list->fds[i].stored == NULL && list->fds[i].fd >= 0)
			vdpa_close_foreign(s->ended, list->fds[i].fd);
}

/* From one process to the next, while both live. */

/* The last message of a store that is handed over; no name of the store. */
#define HANDED_END "."

struct collecting {
	struct handed_list *list;
	bool take; /* the descriptors become the list's */
};

static void
collect_one(const void *node, VISIT visit, void *arg)
{
	struct collecting *c = arg;
	struct stored *stored;

	if (visit != postorder && visit != leaf)
		return;
	stored = *(struct stored *const *)node;
	c->list->fds[c->list->n++] = (struct handed){.name = stored->name, .fd = stored->fd};
	if (c->take)
		stored->fd = -1;
}

static void
count_one(const void *node, VISIT visit, void *arg)
{
	if (visit == postorder || visit == leaf)
		++*(unsigned int *)arg;
}

int
keep_systemd_collect(struct systemd *s, struct handed_list *list, bool take)
{
	struct collecting c = {.list = list, .take = take};
	unsigned int n = 0;

	twalk_r(s->files.root, count_one, &n);
	list->fds = calloc(n + 2, sizeof(*list->fds));
	if (list->fds == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	twalk_r(s->files.root, collect_one, &c);
	return 0;
}

static int
hand_one(int sock, const char *name, int fd)
{
	struct iovec iov = {(void *)(uintptr_t)name, strlen(name)};

	if (vdpa_send_fd(sock, &iov, 1, fd, 0) >= 0)
		return 0;
	return vdpa_error(errno, "systemd's store: '%s' is not handed over: %m", name);
}

int
keep_systemd_hand_over(void *store, int sock)
{
	struct timeval patience = {.tv_sec = KEEP_PATIENCE_MS / 1000};
	struct handed_list list = {.n = 0};
	struct systemd *s = store;
	int rc = keep_systemd_collect(s, &list, false);

	if (rc == 0 && setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0)
		rc = vdpa_error(errno, "systemd's store: %m");

	if (rc == 0)
		rc = hand_one(sock, TABLE_NAME, vdpa_journal_fd(s->table));
	for (unsigned int i = 0; rc == 0 && i < list.n; i++)
		rc = hand_one(sock, list.fds[i].name, list.fds[i].fd);
	if (rc == 0)
		rc = hand_one(sock, HANDED_END, -1);
	free(list.fds);
	return rc;
}

/* One message of them: its name in `name`, and its descriptor; -1: none came with it. */
static int
receive_one(int sock, char name[STORE_NAME_SIZE], int *fd)
{
	struct iovec iov = {name, STORE_NAME_SIZE - 1};
	int flags;
	ssize_t n = vdpa_receive_fd(sock, &iov, 1, 0, fd, &flags);

	if (n <= 0)
		return vdpa_error(EPIPE, "systemd's store is not handed over: %s",
				  n == 0 ? "the other process has ended" : strerror(errno));
	name[n] = '\0';
	/* The kernel leaves out what there is no number for. */
	return (flags & MSG_CTRUNC) != 0 ? vdpa_fd_error(EMFILE, "systemd's store") : 0;
}

static int
add_handed(struct handed_list *list, const char *name, int fd)
{
	struct handed *fds;

	if (list->n % 64 == 0) {
		fds = reallocarray(list->fds, list->n + 64, sizeof(*fds));
		if (fds == NULL)
			return vdpa_error(ENOMEM, "keep: out of memory");
		list->fds = fds;
	}
	list->fds[list->n] = (struct handed){.name = strdup(name), .fd = fd};
	if (list->fds[list->n].name == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	list->n++;
	return 0;
}

int
keep_systemd_receive(int sock, struct handed_list *list)
{
	struct timeval patience = {.tv_sec = KEEP_PATIENCE_MS / 1000};
	char name[STORE_NAME_SIZE];
	int fd, rc;

	list->own_names = true;
	if (setsockopt(sock, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
		return vdpa_error(errno, "systemd's store: %m");
	for (;;) {
		rc = receive_one(sock, name, &fd);
		if (rc < 0 || (fd < 0 && strcmp(name, HANDED_END) == 0))
			return rc;
		if (fd < 0 || strncmp(name, PREFIX, strlen(PREFIX)) != 0 || list->n == LISTEN_MAX)
			rc = vdpa_error(EPROTO, "systemd's store: what is handed over is none");
		else
			rc = add_handed(list, name, fd);
		if (rc < 0) {
			if (fd >= 0)
				close(fd);
			return rc;
		}
	}
}

void
keep_systemd_free_list(struct handed_list *list)
{
	for (unsigned int i = 0; list->own_names && i < list->n; i++)
		free((char *)(uintptr_t)list->fds[i].name);
	free(list->fds);
	free(list->names);
}
