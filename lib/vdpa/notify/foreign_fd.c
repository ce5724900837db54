/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The end of file descriptors that somebody else has sent. close(2) of the last one can wait for as
 * long as the sender likes: a TCP socket with SO_LINGER for its peer, a file of a FUSE file system
 * for its server, a pipe for whoever holds its lock by a write from memory that faults. A UNIX
 * socket drops what is queued in it, file descriptors of that kind too. A memory file is freed,
 * which takes seconds for that of a large guest. The threads that take messages serve many, so
 * nothing that could wait is closed on them.
 *
 * Owns the accounts in which such descriptors wait, and the threads that close them (closers). An
 * account is in `pending` while descriptors wait in it and no closer has one of them; a closer
 * takes one descriptor of the first account and puts the account behind the others. There are as
 * many closers as accounts with descriptors, CLOSERS_MAX at most. SPARE_MAX of those that find
 * nothing more wait for SPARE_MS, since the sender of one message sends the next, and to start a
 * thread is dearer than all else that a message costs the control loop; then they end. A close
 * that never returns costs its account its only closer, and the account fills and stays full.
 *
 * Large memory files of all peers wait in an account of their own, `memory`, since their close
 * always ends: what else a peer has sent holds them up no more than they fill the peer's account.
 * Of each one descriptor waits, whatever number comes: as long as it does, no other is the last.
 * Where nobody closes, they are freed where they come from.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <linux/aio_abi.h>

#include "stored_fd.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_log.h"

/* Senders whose descriptors may all keep a thread at the same time. */
#define CLOSERS_MAX  256
#define CLOSER_STACK ((size_t)256 << 10)
#define SPARE_MAX    2
#define SPARE_MS     100
/* Memory in a file that is freed at once: within some milliseconds, which whoever has filled it has
 * spent, too. */
#define FREED_MAX    ((uint64_t)64 << 20)
#define BLOCK	     512 /* of st_blocks */
/* Room for what one more message brings, 261 descriptors at most, and for the end of a connection
 * that has one for each of 256 queues. */
#define ROOM	     (VDPA_FD_WAITING_MAX + 576)

#define TITLES	      "/proc/self/fd"
#define ANONYMOUS     "anon_inode:"
#define EVENTFD_TITLE ANONYMOUS "[eventfd]"
#define DOMAIN_TITLE  ANONYMOUS "[vduse-domain]"
#define PIPE_TITLE    "pipe:["
/* Its devices null, zero, full, random and urandom have nothing to do at their end. */
#define MEM_MAJOR     1

struct vdpa_fd_account {
	TAILQ_ENTRY(vdpa_fd_account) next; /* in pending */
	bool closing;			   /* a closer has one of its descriptors */
	bool abandoned;			   /* to be freed with the last descriptor */
	unsigned int first, n;		   /* of fds, a ring */
	int fds[ROOM];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static TAILQ_HEAD(, vdpa_fd_account) pending = TAILQ_HEAD_INITIALIZER(pending);
static struct vdpa_fd_account memory; /* of all peers */
static unsigned int active;	      /* accounts in which something waits or is being closed */
static unsigned int closers;
static unsigned int spares; /* of those, wait */
static pthread_cond_t pending_cond = PTHREAD_COND_INITIALIZER;
static bool failure_logged; /* that a closer could not be started */

static int titles = -1; /* TITLES, held; atomic */
static pthread_once_t titles_once = PTHREAD_ONCE_INIT;
static bool follows_forks; /* what is held is exchanged in a forked process */

static aio_context_t questions; /* of requests that are refused; 0: there is none */
static pthread_once_t questions_once = PTHREAD_ONCE_INIT;

/* The beginning of the descriptor's title, as the kernel tells it. What has a name in a file system
 * begins with a slash or with a parenthesis, so no file can be called like one of ours. */
struct title {
	char text[64];
};

/* Of a forked process the directory is another one; the one held is its parent's. */
static void
forked(void)
{
	if (titles >= 0)
		close(titles);
	titles = -1;
}

static void
init_titles(void)
{
	follows_forks = pthread_atfork(NULL, NULL, forked) == 0;
}

/* The directory of titles, held, since to walk there takes longer than to read a title. -1: there
 * is no /proc, or no descriptor to spare. */
static int
hold_titles(void)
{
	int fd = __atomic_load_n(&titles, __ATOMIC_ACQUIRE), none = -1;

	if (fd >= 0)
		return fd;
	pthread_once(&titles_once, init_titles);
	if (!follows_forks)
		return -1;
	fd = open(TITLES, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (!vdpa_fd_in_reserve(fd) &&
	    __atomic_compare_exchange_n(&titles, &none, fd, false, __ATOMIC_ACQ_REL,
					__ATOMIC_ACQUIRE))
		return fd;
	close(fd);
	return none;
}

static struct title
title_of(int fd)
{
	char path[sizeof(TITLES "/2147483647")];
	struct title title = {.text = ""};
	int dir = hold_titles();
	ssize_t n;

	if (fd < 0)
		return title;
	snprintf(path, sizeof(path), TITLES "/%d", fd);
	n = dir >= 0 ? readlinkat(dir, path + sizeof(TITLES), title.text, sizeof(title.text) - 1)
		     : readlink(path, title.text, sizeof(title.text) - 1);
	title.text[n > 0 ? n : 0] = '\0';
	return title;
}

static bool
begins_with(const struct title *title, const char *text)
{
	return strncmp(title->text, text, strlen(text)) == 0;
}

/*
 * A memory device below our own /dev: the file system of another one might be the sender's. What
 * that file system knows is asked for without asking its server.
 */
static bool
is_memory_device(int fd)
{
	struct statx st;
	struct stat null;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0 ||
	    !S_ISCHR(st.stx_mode) || st.stx_rdev_major != MEM_MAJOR)
		return false;
	if (stat("/dev/null", &null) < 0 || !S_ISCHR(null.st_mode) ||
	    major(null.st_dev) != st.stx_dev_major || minor(null.st_dev) != st.stx_dev_minor)
		return false;
	return st.stx_rdev_minor == 3 || st.stx_rdev_minor == 5 ||
	       (st.stx_rdev_minor >= 7 && st.stx_rdev_minor <= 9);
}

static void
init_questions(void)
{
	if (syscall(SYS_io_setup, 1, &questions) < 0)
		questions = 0;
}

/*
 * Whether the kernel takes fd for what an asynchronous request signals, which an eventfd alone is:
 * asked by one whose buffer is nowhere (EFAULT), which is looked at next. Nothing is signalled. It
 * is a fifth of what a title costs; and where it is refused for another reason the title decides:
 * in a forked process, which has no such context, or by a kernel before 5.8.
 */
static bool
can_be_signalled(int fd)
{
	struct iocb request = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)fd,
		.aio_buf = UINT64_MAX,
		.aio_nbytes = 1,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct iocb *requests[] = {&request};

	pthread_once(&questions_once, init_questions);
	return questions != 0 && syscall(SYS_io_submit, questions, 1L, requests) < 0 &&
	       errno == EFAULT;
}

bool
vdpa_fd_is_eventfd(int fd)
{
	struct title title;

	if (can_be_signalled(fd))
		return true;
	title = title_of(fd);
	return begins_with(&title, EVENTFD_TITLE);
}

bool
vdpa_fd_is_pipe(int fd)
{
	struct title title = title_of(fd);

	return begins_with(&title, PIPE_TITLE);
}

bool
vdpa_fd_is_vduse_domain(int fd)
{
	struct title title = title_of(fd);

	return begins_with(&title, DOMAIN_TITLE);
}

static bool
is_nameless(int fd, int (*get_name)(int fd, struct sockaddr *addr, socklen_t *len))
{
	struct sockaddr_un name;
	socklen_t len = sizeof(name);

	return get_name(fd, (struct sockaddr *)&name, &len) == 0 &&
	       len == offsetof(struct sockaddr_un, sun_path);
}

bool
vdpa_fd_can_be_kept(int fd)
{
	socklen_t dlen = sizeof(int), tlen = sizeof(int);
	int domain, type, queued;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &dlen) < 0 || domain != AF_UNIX)
		return true;
	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &tlen) == 0 && type == SOCK_STREAM &&
	       is_nameless(fd, getsockname) && is_nameless(fd, getpeername) &&
	       shutdown(fd, SHUT_RD) == 0 && ioctl(fd, FIONREAD, &queued) == 0 && queued == 0;
}

/* Memory files are the ones that have seals. */
static bool
is_memory_file(int fd)
{
	return fcntl(fd, F_GET_SEALS) >= 0;
}

bool
vdpa_fd_can_be_stored(int fd)
{
	socklen_t len = sizeof(int);
	int domain;

	if (is_memory_file(fd))
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0)
		return domain == AF_UNIX && vdpa_fd_can_be_kept(fd);
	return vdpa_fd_is_eventfd(fd) || vdpa_fd_is_vduse_domain(fd);
}

/* One that is not. What is cheap to ask is asked first: a title is some ten times as dear as the
 * others. */
static bool
closes_at_once(int fd)
{
	socklen_t len = sizeof(int);
	struct title title;
	int domain;

	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) == 0)
		return false;
	if (is_memory_device(fd))
		return true;
	title = title_of(fd);
	return begins_with(&title, EVENTFD_TITLE) || begins_with(&title, DOMAIN_TITLE);
}

/* Under the lock, but while close(2) waits. */
static void
close_first(struct vdpa_fd_account *a)
{
	int fd = a->fds[a->first];

	TAILQ_REMOVE(&pending, a, next);
	a->first = (a->first + 1) % ROOM;
	a->n--;
	a->closing = true;
	pthread_mutex_unlock(&lock);
	close(fd);
	pthread_mutex_lock(&lock);
	a->closing = false;
	if (a->n > 0) {
		TAILQ_INSERT_TAIL(&pending, a, next);
		return;
	}
	active--;
	if (a->abandoned)
		free(a);
}

/* Under the lock. False: there is nothing to close, and no need to wait for more. */
static bool
wait_for_pending(void)
{
	struct timespec until;
	int rc = 0;

	if (!TAILQ_EMPTY(&pending) || spares == SPARE_MAX)
		return !TAILQ_EMPTY(&pending);
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += SPARE_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000L;
	until.tv_nsec %= 1000000000L;
	spares++;
	while (TAILQ_EMPTY(&pending) && rc == 0)
		rc = pthread_cond_clockwait(&pending_cond, &lock, CLOCK_MONOTONIC, &until);
	spares--;
	return !TAILQ_EMPTY(&pending);
}

static void *
closer(void *arg)
{
	pthread_setname_np(pthread_self(), "vdpa-closer");
	pthread_mutex_lock(&lock);
	while (wait_for_pending())
		close_first(TAILQ_FIRST(&pending));
	closers--;
	pthread_mutex_unlock(&lock);
	return NULL;
}

/* Under the lock. One that cannot be started is tried again whenever any account is used. */
static void
start_closer(void)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	if (TAILQ_EMPTY(&pending))
		return;
	if (spares > 0)
		pthread_cond_signal(&pending_cond);
	if (closers >= active || closers >= CLOSERS_MAX)
		return;
	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, CLOSER_STACK);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = pthread_create(&thread, &attr, closer, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rc == 0)
		closers++;
	else if (!failure_logged)
		VDPA_LOG(ERR, "file descriptors of peers wait to be closed: no thread for it: %s",
			 strerror(rc));
	failure_logged = rc != 0;
}

/* Under the lock. */
static unsigned int
waiting(const struct vdpa_fd_account *a)
{
	return a->n + a->closing;
}

/* Under the lock. Where nobody closes, the first one is one too many. */
static bool
is_full(const struct vdpa_fd_account *a)
{
	return waiting(a) > (closers > 0 ? VDPA_FD_WAITING_MAX : 0);
}

/* Under the lock, with room. */
static void
append(struct vdpa_fd_account *a, int fd)
{
	if (waiting(a) == 0)
		active++;
	a->fds[(a->first + a->n++) % ROOM] = fd;
	if (a->n == 1 && !a->closing)
		TAILQ_INSERT_TAIL(&pending, a, next);
	start_closer();
}

static int
close_apart(struct vdpa_fd_account *a, int fd)
{
	bool full;

	pthread_mutex_lock(&lock);
	if (a->n == ROOM) {
		pthread_mutex_unlock(&lock);
		close(fd);
		return -EBUSY;
	}
	append(a, fd);
	full = is_full(a);
	pthread_mutex_unlock(&lock);
	return full ? -EBUSY : 0;
}

/* Under the lock. Whether a descriptor of this file waits there. */
static bool
has_file(const struct vdpa_fd_account *a, const struct stat *file)
{
	struct stat st;

	for (unsigned int i = 0; i < a->n; i++)
		if (fstat(a->fds[(a->first + i) % ROOM], &st) == 0 && st.st_dev == file->st_dev &&
		    st.st_ino == file->st_ino)
			return true;
	return false;
}

/* Under the lock. What was appended last, and nobody may come to close. */
static void
take_back_last(struct vdpa_fd_account *a)
{
	if (--a->n == 0) {
		TAILQ_REMOVE(&pending, a, next);
		active--;
	}
}

static void
close_memory(int fd)
{
	struct stat st;
	bool here = true;

	if (fstat(fd, &st) < 0 || (uint64_t)st.st_blocks * BLOCK <= FREED_MAX) {
		close(fd);
		return;
	}
	pthread_mutex_lock(&lock);
	if (memory.n < ROOM && !has_file(&memory, &st)) {
		append(&memory, fd);
		/* Every account in which something waits has a closer. */
		here = closers < active && !memory.closing;
		if (here)
			take_back_last(&memory);
	} else if (memory.n < ROOM) {
		/* Under the lock: until then it is not the last one. */
		close(fd);
		here = false;
	}
	pthread_mutex_unlock(&lock);
	if (here)
		close(fd);
}

struct vdpa_fd_account *
vdpa_fd_account_create(void)
{
	/* Before a peer sends anything, so that no session is seen to leave one more open, nor its
	 * start to take longer. */
	(void)hold_titles();
	pthread_once(&questions_once, init_questions);
	return calloc(1, sizeof(struct vdpa_fd_account));
}

void
vdpa_fd_account_destroy(struct vdpa_fd_account *a)
{
	if (a == NULL)
		return;
	pthread_mutex_lock(&lock);
	if (waiting(a) == 0)
		free(a);
	else
		a->abandoned = true;
	start_closer();
	pthread_mutex_unlock(&lock);
}

unsigned int
vdpa_fd_account_waiting(struct vdpa_fd_account *a)
{
	unsigned int n;

	pthread_mutex_lock(&lock);
	n = waiting(a);
	pthread_mutex_unlock(&lock);
	return n;
}

bool
vdpa_fd_account_full(struct vdpa_fd_account *a)
{
	bool full;

	pthread_mutex_lock(&lock);
	start_closer();
	full = is_full(a);
	pthread_mutex_unlock(&lock);
	return full;
}

int
vdpa_close_foreign(struct vdpa_fd_account *a, int fd)
{
	if (fd < 0)
		return 0;
	if (is_memory_file(fd))
		close_memory(fd);
	else if (!closes_at_once(fd))
		return close_apart(a, fd);
	else
		close(fd);
	return 0;
}

void
vdpa_close_stray(int fd)
{
	struct vdpa_fd_account *a = vdpa_fd_account_create();

	if (a == NULL) {
		VDPA_LOG(ERR, "file descriptor %d stays open: out of memory", fd);
		return;
	}
	(void)vdpa_close_foreign(a, fd);
	vdpa_fd_account_destroy(a);
}

int
vdpa_close_connection(struct vdpa_fd_account *a, int fd)
{
	int queued;

	if (fd < 0)
		return 0;
	/* Nothing comes any more; what has come may have descriptors with it. */
	(void)shutdown(fd, SHUT_RDWR);
	if (ioctl(fd, FIONREAD, &queued) < 0 || queued != 0)
		return close_apart(a, fd);
	close(fd);
	return 0;
}
