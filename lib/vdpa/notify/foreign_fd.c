/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The end of file descriptors that somebody else has sent. close(2) of the last one can wait for as
 * long as the sender likes: a TCP socket with SO_LINGER for its peer, a file of a FUSE file system
 * for its server. A UNIX socket drops what is queued in it, file descriptors of that kind too. The
 * threads that take messages serve many, so nothing that could wait is closed on them.
 */

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vdpa_event.h"
#include "vdpa_log.h"

/* At most so many wait at once; what else would wait stays open. */
#define CLOSERS_MAX   64
#define CLOSER_STACK  ((size_t)256 << 10)
#define EVENTFD_TITLE "anon_inode:[eventfd]"

static unsigned int closers; /* atomic */

static bool
is_eventfd(int fd)
{
	char path[sizeof("/proc/self/fd/2147483647")], link[sizeof(EVENTFD_TITLE)];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, link, sizeof(link));
	return n == (ssize_t)sizeof(link) - 1 && memcmp(link, EVENTFD_TITLE, (size_t)n) == 0;
}

static void *
closer(void *arg)
{
	close((int)(intptr_t)arg);
	__atomic_fetch_sub(&closers, 1, __ATOMIC_RELEASE);
	return NULL;
}

static int
start_closer(int fd)
{
	sigset_t all, old;
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, CLOSER_STACK);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	rc = pthread_create(&thread, &attr, closer, (void *)(intptr_t)fd);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return rc;
}

static void
close_apart(int fd)
{
	if (__atomic_fetch_add(&closers, 1, __ATOMIC_ACQUIRE) < CLOSERS_MAX &&
	    start_closer(fd) == 0)
		return;
	__atomic_fetch_sub(&closers, 1, __ATOMIC_RELEASE);
	VDPA_LOG(WARNING,
		 "a file descriptor that was received stays open: %d others do not close in time",
		 CLOSERS_MAX);
}

void
vdpa_close_foreign(int fd)
{
	if (fd < 0)
		return;
	/* Memory files are the ones that have seals. */
	if (is_eventfd(fd) || fcntl(fd, F_GET_SEALS) >= 0)
		close(fd);
	else
		close_apart(fd);
}

void
vdpa_close_connection(int fd)
{
	int queued;

	if (fd < 0)
		return;
	/* Nothing comes any more; what has come may have descriptors with it. */
	(void)shutdown(fd, SHUT_RDWR);
	if (ioctl(fd, FIONREAD, &queued) == 0 && queued == 0)
		close(fd);
	else
		close_apart(fd);
}
