/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The store that is systemd's, of the service that this process is (sd_notify(3), FDSTORE=1). Owns
 * the socket to systemd, a duplicate of each descriptor that is stored, and the table of names.
 *
 * systemd's own names are no names of ours: what is stored has a number, "uvdpa-NUMBER-NAME", and
 * the table, a journal that is stored itself as "uvdpa-names", says which number a name has. For
 * systemd
 *   - stores a file once, and ignores it under a second name: the memory file of a guest that has
 *     two regions comes twice. Here both names have one number; that two descriptors are one file
 *     is told by kcmp(2), for which the duplicates are held;
 *   - cannot put one descriptor in the place of another: it would be removed before or after. Here
 *     the new one is stored, the table's record changed, and then the old one removed, so that a
 *     crash leaves what no name has, and that is removed by the next process;
 *   - allows no colon in a name.
 *
 * systemd answers nothing. A pipe that it is given tells by its end that all before has been read,
 * and another one, offered for the store, whether it had room for one more.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <search.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/kcmp.h>

#include "clock.h"
#include "fd_message.h"
#include "keep_priv.h"
#include "tlv.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_journal.h"
#include "vdpa_log.h"

/* The first descriptor that systemd hands over, and how many it may. */
#define LISTEN_FIRST	3
#define LISTEN_MAX	1000000
#define PREFIX		"uvdpa-"
#define TABLE_NAME	PREFIX "names"
#define PROBE_NAME	PREFIX "probe"
#define NAMES_MAX	65536
/* Bytes of the table's records: a number. */
#define NUMBER_SIZE	8
#define NUMBER_MAX	(UINT64_MAX >> 1)
/* A name of systemd's, at most: prefix, number, name. */
#define STORE_NAME_SIZE (sizeof(PREFIX) + 20 + 1 + VDPA_KEEP_NAME_MAX + 1)

/* A descriptor that is stored. */
struct stored {
	int fd;
	uint64_t number;
	unsigned int names;
	char name[STORE_NAME_SIZE]; /* as systemd has it */
};

/* A name, and what it is of. */
struct named {
	char name[VDPA_KEEP_NAME_MAX + 1];
	struct stored *stored;
};

struct systemd {
	int sock;
	uint64_t next; /* number */
	struct vdpa_journal *table;
	struct vdpa_tree files;	       /* of struct stored, by the file they are of */
	struct vdpa_tree names;	       /* of struct named */
	struct vdpa_fd_account *ended; /* what was stored may take its time to close */
};

static int
compare_names(const void *a, const void *b)
{
	return strcmp(((const struct named *)a)->name, ((const struct named *)b)->name);
}

/* An order of files that holds as long as both are open. */
static int
compare_files(const void *a, const void *b)
{
	pid_t self = getpid();
	long rc = syscall(SYS_kcmp, self, self, KCMP_FILE, ((const struct stored *)a)->fd,
			  ((const struct stored *)b)->fd);

	return rc == 1 ? -1 : rc == 2 ? 1 : 0;
}

static struct named *
find_named(const struct systemd *s, const char *name)
{
	struct named like;

	strcpy(like.name, name);
	return vdpa_tree_find(&s->names, &like);
}

/* Words to systemd, with a descriptor unless fd is -1. */
static int
notify(const struct systemd *s, const char *words, int fd)
{
	struct iovec iov = {(void *)(uintptr_t)words, strlen(words)};
	/* The socket has a time-out. */
	ssize_t n = vdpa_send_fd(s->sock, &iov, 1, fd, 0);

	if (n >= 0)
		return 0;
	if (errno == EAGAIN)
		return vdpa_error(ETIMEDOUT, "systemd's store: systemd reads nothing");
	if (fd >= 0 && (errno == EBADF || errno == ETOOMANYREFS))
		return vdpa_error(errno, "systemd's store: %m");
	return vdpa_error(EPIPE, "systemd's store: %m");
}

static int
send_removal(const struct systemd *s, const char *store_name)
{
	char words[sizeof("FDSTOREREMOVE=1\nFDNAME=") + STORE_NAME_SIZE];

	snprintf(words, sizeof(words), "FDSTOREREMOVE=1\nFDNAME=%s", store_name);
	return notify(s, words, -1);
}

static int
send_store(const struct systemd *s, const char *store_name, int fd)
{
	char words[sizeof("FDSTORE=1\nFDPOLL=0\nFDNAME=") + STORE_NAME_SIZE];

	/* Unless it is said, systemd drops what is readable as an error: the end of a connection.
	 */
	snprintf(words, sizeof(words), "FDSTORE=1\nFDPOLL=0\nFDNAME=%s", store_name);
	return notify(s, words, fd);
}

/* Send the end of a pipe; its other end, or a negative errno. */
static int
send_pipe(const struct systemd *s, const char *store_name)
{
	int ends[2], rc;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return vdpa_fd_error(errno, "systemd's store");
	rc = store_name != NULL ? send_store(s, store_name, ends[1])
				: notify(s, "BARRIER=1", ends[1]);
	close(ends[1]);
	if (rc == 0)
		return ends[0];
	close(ends[0]);
	return rc;
}

/* Whether nobody has the other end of a pipe, by the deadline. */
static bool
is_ended(int fd, int64_t deadline_us)
{
	struct pollfd p = {.fd = fd};
	int64_t left_us;
	int rc;

	do {
		left_us = deadline_us - vdpa_now_us();
		rc = poll(&p, 1, left_us > 0 ? (int)((left_us + 999) / 1000) : 0);
	} while (rc < 0 && errno == EINTR);
	return rc > 0;
}

static int
systemd_barrier(void *store, int timeout_ms)
{
	int64_t deadline_us = vdpa_now_us() + (int64_t)timeout_ms * 1000;
	const struct systemd *s = store;
	int probe = send_pipe(s, PROBE_NAME), barrier, rc = 0;

	if (probe < 0)
		return probe;
	barrier = send_pipe(s, NULL);
	if (barrier < 0) {
		close(probe);
		return barrier;
	}
	if (!is_ended(barrier, deadline_us))
		rc = vdpa_error(ETIMEDOUT, "systemd's store: systemd does not answer");
	else if (is_ended(probe, 0))
		rc = vdpa_error(ENOSPC,
				"systemd's store is absent or full; raise FileDescriptorStoreMax= "
				"of the service");
	close(barrier);
	close(probe);
	if (rc == 0)
		rc = send_removal(s, PROBE_NAME);
	return rc;
}

/* What is stored and named. */

/* An end of a descriptor that is in `files`. */
static int
drop_stored(struct systemd *s, struct stored *stored)
{
	int rc = send_removal(s, stored->name);

	vdpa_tree_del(&s->files, stored);
	vdpa_close_foreign(s->ended, stored->fd);
	free(stored);
	return rc;
}

/* A name is not of this descriptor any more. */
static int
unname(struct systemd *s, struct stored *stored)
{
	return --stored->names == 0 ? drop_stored(s, stored) : 0;
}

/* The file of a descriptor, stored unless it is. */
static int
store_file(struct systemd *s, const char *name, int fd, struct stored **out)
{
	struct stored like = {.fd = fd}, *stored;
	int rc;

	if (fcntl(fd, F_GETFD) < 0)
		return vdpa_error(errno, "keep: '%s': %m", name);
	*out = vdpa_tree_find(&s->files, &like);
	if (*out != NULL)
		return 0;
	stored = calloc(1, sizeof(*stored));
	if (stored == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	stored->fd = vdpa_fd_dup(fd, name);
	if (stored->fd < 0) {
		rc = stored->fd;
		goto err_free;
	}
	stored->number = s->next;
	snprintf(stored->name, sizeof(stored->name), PREFIX "%" PRIu64 "-%s", stored->number, name);
	for (char *p = stored->name; *p != '\0'; p++)
		if (*p == ':')
			*p = '/';
	rc = vdpa_tree_add(&s->files, stored) < 0 ? vdpa_error(ENOMEM, "keep: out of memory")
						  : send_store(s, stored->name, stored->fd);
	if (rc == -ETOOMANYREFS && systemd_barrier(s, KEEP_PATIENCE_MS) == 0)
		/* What was sent and not read is bounded by the kernel. */
		rc = send_store(s, stored->name, stored->fd);
	if (rc < 0)
		goto err_close;
	s->next++;
	*out = stored;
	return 0;
err_close:
	vdpa_tree_del(&s->files, stored);
	vdpa_close_foreign(s->ended, stored->fd);
err_free:
	free(stored);
	return rc;
}

static int
find_or_add_name(struct systemd *s, const char *name, struct named **out)
{
	struct named *named = find_named(s, name);

	*out = named;
	if (named != NULL)
		return 0;
	named = calloc(1, sizeof(*named));
	if (named == NULL)
		return vdpa_error(ENOMEM, "keep: out of memory");
	strcpy(named->name, name);
	if (vdpa_tree_add(&s->names, named) < 0) {
		free(named);
		return vdpa_error(ENOMEM, "keep: out of memory");
	}
	*out = named;
	return 0;
}

static void
drop_name(struct systemd *s, struct named *named)
{
	vdpa_tree_del(&s->names, named);
	free(named);
}

static int
systemd_put(void *store, const char *name, int fd)
{
	struct systemd *s = store;
	struct stored *stored, *before;
	struct named *named;
	uint8_t number[NUMBER_SIZE];
	int rc = find_or_add_name(s, name, &named);

	if (rc < 0)
		return rc;
	before = named->stored;
	rc = store_file(s, name, fd, &stored);
	if (rc < 0)
		goto err_name;
	if (stored == before)
		return 0;
	vdpa_le_put(number, stored->number, sizeof(number));
	rc = vdpa_journal_write(s->table, name, number, sizeof(number));
	if (rc < 0)
		goto err_stored;
	named->stored = stored;
	stored->names++;
	return before != NULL ? unname(s, before) : 0;
err_stored:
	if (stored->names == 0)
		drop_stored(s, stored);
err_name:
	if (before == NULL)
		drop_name(s, named);
	return rc;
}

static int
systemd_del(void *store, const char *name)
{
	struct systemd *s = store;
	struct named *named = find_named(s, name);
	struct stored *stored;
	int rc;

	if (named == NULL)
		return 0;
	rc = vdpa_journal_remove(s->table, name);
	if (rc < 0)
		return rc;
	stored = named->stored;
	drop_name(s, named);
	return unname(s, stored);
}

static int
systemd_take(void *store, const char *name)
{
	const struct named *named = find_named(store, name);

	return named != NULL ? vdpa_fd_dup(named->stored->fd, name)
			     : vdpa_error(ENOENT, "keep: nothing is kept as '%s'", name);
}

static void
free_stored(void *node)
{
	struct stored *stored = node;

	if (stored->fd >= 0)
		close(stored->fd);
	free(stored);
}

static void
systemd_close(void *store)
{
	struct systemd *s = store;

	/* The store has each of them, so none of these is the last; -1: it was taken back. */
	tdestroy(s->files.root, free_stored);
	tdestroy(s->names.root, free);
	vdpa_journal_close(s->table);
	vdpa_fd_account_destroy(s->ended);
	if (s->sock >= 0)
		close(s->sock);
	free(s);
}

static int systemd_hand_over(void *store, int sock);
static int systemd_reopen(void *store, struct vdpa_keep *k, const struct keep_ops **ops,
			  void **out);

static const struct keep_ops systemd_ops = {
	.put = systemd_put,
	.del = systemd_del,
	.take = systemd_take,
	.barrier = systemd_barrier,
	.hand_over = systemd_hand_over,
	.reopen = systemd_reopen,
	.close = systemd_close,
};

/* What a former life has left. */

/* A descriptor of ours among those that systemd has handed over. */
struct handed {
	const char *name; /* as systemd has it */
	int fd;
	struct stored *stored;
};

struct handed_list {
	char *names;	/* what `name` points into */
	bool own_names; /* each of them is the list's */
	struct handed *fds;
	unsigned int n;
};

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

/* Those of LISTEN_FDS whose names are of ours; they are the store's from now on. */
static int
read_listen(struct handed_list *list)
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
	rc = find_or_add_name(a->s, name, &named);
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
			rc = send_removal(s, h->name);
	}
	return rc;
}

static int
adopt(struct systemd *s, struct vdpa_keep *k, struct handed_list *list, bool reopens)
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
	return rc < 0 ? rc : send_store(s, TABLE_NAME, vdpa_journal_fd(s->table));
}

/* After a failure: what was not adopted. */
static void
close_rest(struct systemd *s, struct handed_list *list)
{
	for (unsigned int i = 0; i < list->n; i++)
		if (list->fds[i].stored == NULL && list->fds[i].fd >= 0)
			vdpa_close_foreign(s->ended, list->fds[i].fd);
}

/* A socket to systemd. */
static int
reach(struct systemd *s)
{
	struct timeval patience = {.tv_sec = KEEP_PATIENCE_MS / 1000};
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	size_t len = path != NULL ? strlen(path) : 0;
	pid_t self = getpid();

	if (len == 0)
		return vdpa_error(ENOENT, "systemd's store: this is no service: NOTIFY_SOCKET is "
					  "not set");
	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(un.sun_path))
		return vdpa_error(ENOENT,
				  "systemd's store: NOTIFY_SOCKET is no UNIX socket: %.128s", path);
	memcpy(un.sun_path, path, len);
	if (path[0] == '@')
		un.sun_path[0] = '\0';
	s->sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s->sock < 0)
		return vdpa_fd_error(errno, "systemd's store");
	if (setsockopt(s->sock, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) < 0 ||
	    connect(s->sock, (struct sockaddr *)&un,
		    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] == '/'))) <
		    0)
		return vdpa_error(errno, "systemd's store: %.128s: %m", path);
	if (syscall(SYS_kcmp, self, self, KCMP_FILE, s->sock, s->sock) != 0)
		return vdpa_error(errno, "systemd's store: kcmp: %m");
	return 0;
}

/* From one process to the next, while both live. */

/* What the new process has stored and this one has not heard of has numbers, too. */
#define REOPEN_GAP (UINT64_C(1) << 32)
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

/* All that is stored but the table; names stay those of s. */
static int
collect_stored(struct systemd *s, struct handed_list *list, bool take)
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

static int
systemd_hand_over(void *store, int sock)
{
	struct timeval patience = {.tv_sec = KEEP_PATIENCE_MS / 1000};
	struct handed_list list = {.n = 0};
	struct systemd *s = store;
	int rc = collect_stored(s, &list, false);

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

/* What the process that has the store hands over, with names that are the list's to free. */
static int
receive_handed(int sock, struct handed_list *list)
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

static void
free_list(struct handed_list *list)
{
	for (unsigned int i = 0; list->own_names && i < list->n; i++)
		free((char *)(uintptr_t)list->fds[i].name);
	free(list->fds);
	free(list->names);
}

static struct systemd *
new_systemd(void)
{
	struct systemd *s = calloc(1, sizeof(*s));

	if (s != NULL)
		s->ended = vdpa_fd_account_create();
	if (s == NULL || s->ended == NULL) {
		free(s);
		vdpa_error(ENOMEM, "keep: out of memory");
		return NULL;
	}
	s->sock = -1;
	s->next = 1;
	s->files.compare = compare_files;
	s->names.compare = compare_names;
	return s;
}

static int
systemd_reopen(void *store, struct vdpa_keep *k, const struct keep_ops **ops, void **out)
{
	struct systemd *former = store, *s = new_systemd();
	struct handed_list list = {.n = 0};
	int rc = s == NULL ? -ENOMEM : reach(s);

	if (rc == 0)
		rc = collect_stored(former, &list, true);
	if (rc == 0) {
		int fd = vdpa_fd_dup(vdpa_journal_fd(former->table), TABLE_NAME);

		if (fd >= 0)
			list.fds[list.n++] = (struct handed){.name = TABLE_NAME, .fd = fd};
		rc = fd < 0 ? fd : adopt(s, k, &list, true);
	}
	if (rc == 0)
		rc = systemd_barrier(s, KEEP_PATIENCE_MS);
	/* A full store is as it was. */
	if (rc == -ENOSPC)
		rc = 0;
	if (rc == 0) {
		s->next += REOPEN_GAP;
		*ops = &systemd_ops;
		*out = s;
	} else if (s != NULL) {
		close_rest(s, &list);
		systemd_close(s);
	}
	free(list.fds);
	return rc;
}

int
keep_systemd_open(struct vdpa_keep *k, int sock, const struct keep_ops **ops, void **store)
{
	struct systemd *s = new_systemd();
	struct handed_list list = {.n = 0};
	int rc;

	if (s == NULL)
		return -ENOMEM;
	rc = reach(s);
	if (rc == 0)
		rc = sock < 0 ? read_listen(&list) : receive_handed(sock, &list);
	if (rc == 0)
		rc = adopt(s, k, &list, false);
	/* systemd listens to the main process, which this one becomes by being handed the store. */
	if (rc == 0 && sock < 0) {
		rc = systemd_barrier(s, KEEP_PATIENCE_MS);
		/* A store that is full has what a take-over needs. */
		if (rc == -ENOSPC && s->names.root != NULL) {
			VDPA_LOG(WARNING, "%s", vdpa_error_message());
			rc = 0;
		}
	}
	if (rc == 0) {
		*ops = &systemd_ops;
		*store = s;
	} else {
		close_rest(s, &list);
		systemd_close(s);
	}
	free_list(&list);
	return rc;
}
