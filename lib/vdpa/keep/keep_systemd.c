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
 *
 * Here are the store's calls; what a process finds in it, and hands over, is keep_systemd_left.c's.
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
#include "keep_systemd.h"
#include "tlv.h"
#include "tree.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_journal.h"
#include "vdpa_log.h"

#define PROBE_NAME PREFIX "probe"
/* What the new process has stored and this one has not heard of has numbers, too. */
#define REOPEN_GAP (UINT64_C(1) << 32)

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

int
keep_systemd_send_removal(const struct systemd *s, const char *store_name)
{
	char words[sizeof("FDSTOREREMOVE=1\nFDNAME=") + STORE_NAME_SIZE];

	snprintf(words, sizeof(words), "FDSTOREREMOVE=1\nFDNAME=%s", store_name);
	return notify(s, words, -1);
}

int
keep_systemd_send_store(const struct systemd *s, const char *store_name, int fd)
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
	rc = store_name != NULL ? keep_systemd_send_store(s, store_name, ends[1])
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
		rc = keep_systemd_send_removal(s, PROBE_NAME);
	return rc;
}

/* What is stored and named. */

/* An end of a descriptor that is in `files`. */
static int
drop_stored(struct systemd *s, struct stored *stored)
{
	int rc = keep_systemd_send_removal(s, stored->name);

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
	rc = vdpa_tree_add(&s->files, stored) < 0
		     ? vdpa_error(ENOMEM, "keep: out of memory")
		     : keep_systemd_send_store(s, stored->name, stored->fd);
	if (rc == -ETOOMANYREFS && systemd_barrier(s, KEEP_PATIENCE_MS) == 0)
		/* What was sent and not read is bounded by the kernel. */
		rc = keep_systemd_send_store(s, stored->name, stored->fd);
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

int
keep_systemd_find_or_add_name(struct systemd *s, const char *name, struct named **out)
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
	int rc = keep_systemd_find_or_add_name(s, name, &named);

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

static int systemd_reopen(void *store, struct vdpa_keep *k, const struct keep_ops **ops,
			  void **out);

static const struct keep_ops systemd_ops = {
	.put = systemd_put,
	.del = systemd_del,
	.take = systemd_take,
	.barrier = systemd_barrier,
	.hand_over = keep_systemd_hand_over,
	.reopen = systemd_reopen,
	.close = systemd_close,
};

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
		rc = keep_systemd_collect(former, &list, true);
	if (rc == 0) {
		int fd = vdpa_fd_dup(vdpa_journal_fd(former->table), TABLE_NAME);

		if (fd >= 0)
			list.fds[list.n++] = (struct handed){.name = TABLE_NAME, .fd = fd};
		rc = fd < 0 ? fd : keep_systemd_adopt(s, k, &list, true);
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
		keep_systemd_close_rest(s, &list);
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
		rc = sock < 0 ? keep_systemd_read_listen(&list) : keep_systemd_receive(sock, &list);
	if (rc == 0)
		rc = keep_systemd_adopt(s, k, &list, false);
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
		keep_systemd_close_rest(s, &list);
		systemd_close(s);
	}
	keep_systemd_free_list(&list);
	return rc;
}
