/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Signals on eventfds that others have too. A write waits while the counter is at its limit, and
 * O_NONBLOCK is no help: it belongs to the open file, so whoever sent us the descriptor can take it
 * away at any time, between a look and the write too. The kernel's own way to signal an eventfd
 * never waits: the counter stays at its limit. From user space it is reached by the completion of
 * an asynchronous request (io_submit(2), IOCB_FLAG_RESFD): here a read of nothing from a memory
 * file, which completes before the call returns.
 *
 * Owns a context of such requests for each thread that has signalled.
 */

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <linux/aio_abi.h>

#include "vdpa_event.h"

#define CONTEXT_EVENTS 64

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t at_exit;
static int nothing = -1;
static __thread aio_context_t context;
static __thread bool tried;

static void
end_of_thread(void *arg)
{
	syscall(SYS_io_destroy, context);
	context = 0;
}

static void
init_once(void)
{
	if (pthread_key_create(&at_exit, end_of_thread) == 0)
		nothing = memfd_create("vdpa-nothing", MFD_CLOEXEC);
}

static void
make_context(void)
{
	tried = true;
	pthread_once(&once, init_once);
	if (nothing < 0 || syscall(SYS_io_setup, CONTEXT_EVENTS, &context) < 0)
		context = 0;
	else
		pthread_setspecific(at_exit, &context);
}

/* Make room for more completions; nobody looks at them. */
static void
reap(void)
{
	struct io_event events[CONTEXT_EVENTS];
	struct timespec now = {0};

	while (syscall(SYS_io_getevents, context, 0L, (long)CONTEXT_EVENTS, events, &now) ==
	       CONTEXT_EVENTS)
		;
}

static bool
submit(int fd)
{
	struct iocb request = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)nothing,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct iocb *requests[] = {&request};

	return syscall(SYS_io_submit, context, 1L, requests) == 1;
}

void
vdpa_eventfd_signal(int fd)
{
	if (__builtin_expect(context == 0 && !tried, 0))
		make_context();
	if (context != 0) {
		if (__builtin_expect(submit(fd), 1))
			return;
		if (errno == EAGAIN) {
			reap();
		} else {
			/* The context is not inherited by a forked process. */
			syscall(SYS_io_destroy, context);
			make_context();
		}
		if (context != 0 && submit(fd))
			return;
	}
	(void)eventfd_write(fd, 1);
}

bool
vdpa_eventfd_take(int fd)
{
	eventfd_t count;
	struct iovec iov = {.iov_base = &count, .iov_len = sizeof(count)};
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP)
		n = read(fd, &count, sizeof(count));
	return n >= 0 || errno == EAGAIN || errno == EINTR;
}
