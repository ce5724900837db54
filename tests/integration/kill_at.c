/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Loaded before a daemon (LD_PRELOAD): it kills itself right before the system call with the number
 * UVDPA_KILL_AT, from 1, of those by which it speaks with its store, its front ends and its event
 * loops. UVDPA_KILL_ARM: they are counted once that file is there. UVDPA_KILL_BY=STOP: it stops
 * instead.
 */

#include <dlfcn.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static bool
is_armed(void)
{
	static bool armed;
	const char *path = getenv("UVDPA_KILL_ARM");

	if (!__atomic_load_n(&armed, __ATOMIC_RELAXED) && path != NULL && access(path, F_OK) != 0)
		return false;
	__atomic_store_n(&armed, true, __ATOMIC_RELAXED);
	return true;
}

static void
step(void)
{
	static unsigned long count;
	const char *at = getenv("UVDPA_KILL_AT"), *by = getenv("UVDPA_KILL_BY");

	if (at != NULL && is_armed() &&
	    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) == strtoul(at, NULL, 10))
		kill(getpid(), by != NULL && strcmp(by, "STOP") == 0 ? SIGSTOP : SIGKILL);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
	step();
	return NEXT(sendmsg)(fd, msg, flags);
}

ssize_t
recvmsg(int fd, struct msghdr *msg, int flags)
{
	step();
	return NEXT(recvmsg)(fd, msg, flags);
}

int
sendmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags)
{
	step();
	return NEXT(sendmmsg)(fd, msgs, n, flags);
}

int
recvmmsg(int fd, struct mmsghdr *msgs, unsigned int n, int flags, struct timespec *timeout)
{
	step();
	return NEXT(recvmmsg)(fd, msgs, n, flags, timeout);
}

int
epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	step();
	return NEXT(epoll_ctl)(epfd, op, fd, event);
}
