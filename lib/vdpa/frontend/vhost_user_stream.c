/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The bytes of a device's state, through a file descriptor that a front end gave. It may clear
 * O_NONBLOCK of it, and may hold the pipe's own lock for as long as it likes (by a read or write
 * from memory that faults), so that any system call on it can wait for ever. So a thread does them
 * that nobody waits for without a bound. It owns the stream together with whoever opened it, and
 * the last of them frees it; a front end can hold up that thread, and nothing else. A device has
 * one stream at a time, and with it one such thread.
 *
 * A front end that neither reads nor writes nor closes is given up after IDLE_MS.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error_priv.h"
#include "saved_state.h"
#include "thread.h"
#include "vhost_user_priv.h"

#define IDLE_MS	   10000
/* How soon the thread sees that the stream was abandoned. */
#define LOOK_MS	   50
#define READ_FIRST 4096

struct vhu_stream {
	int fd; /* the thread's */
	bool reads;
	uint8_t *buf; /* the thread's until it has ended */
	size_t len, size;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int owners;
	bool ended;
	bool abandoned; /* atomic */
	int rc;
	struct vdpa_error_saved error; /* with rc < 0 */
};

static void
put(struct vhu_stream *st)
{
	bool last;

	pthread_mutex_lock(&st->lock);
	last = --st->owners == 0;
	pthread_mutex_unlock(&st->lock);
	if (!last)
		return;
	pthread_cond_destroy(&st->changed);
	pthread_mutex_destroy(&st->lock);
	free(st->buf);
	free(st);
}

/* Wait until the file is ready. */
static int
wait_ready(struct vhu_stream *st)
{
	struct pollfd p = {.fd = st->fd, .events = st->reads ? POLLIN : POLLOUT};
	int64_t until_us = vdpa_now_us() + IDLE_MS * 1000;

	for (;;) {
		if (__atomic_load_n(&st->abandoned, __ATOMIC_RELAXED))
			return vdpa_error(ECANCELED, "the state was given up");
		if (poll(&p, 1, LOOK_MS) == 1)
			return 0;
		if (vdpa_now_us() >= until_us)
			return vdpa_error(ETIMEDOUT,
					  "the front end has %s nothing of the state for %d ms",
					  st->reads ? "sent" : "read", IDLE_MS);
	}
}

static int
grow(struct vhu_stream *st)
{
	size_t size = st->size == 0 ? READ_FIRST : 2 * st->size;
	uint8_t *buf = realloc(st->buf, size);

	if (buf == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	st->buf = buf;
	st->size = size;
	return 0;
}

static int
read_all(struct vhu_stream *st)
{
	for (;;) {
		int rc = wait_ready(st);
		ssize_t n;

		if (rc == 0 && st->len == st->size)
			rc = grow(st);
		if (rc < 0)
			return rc;
		n = read(st->fd, st->buf + st->len, st->size - st->len);
		if (n == 0)
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return vdpa_error(errno, "the state cannot be read: %m");
		st->len += n > 0 ? (size_t)n : 0;
		if (st->len > VDPA_SAVED_MAX)
			return vdpa_error(EFBIG, "the state is longer than %zu bytes",
					  VDPA_SAVED_MAX);
	}
}

static int
write_all(struct vhu_stream *st)
{
	for (size_t at = 0; at < st->len;) {
		int rc = wait_ready(st);
		ssize_t n;

		if (rc < 0)
			return rc;
		n = write(st->fd, st->buf + at, st->len - at);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return vdpa_error(n < 0 ? errno : EIO, "the state cannot be written: %m");
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static void *
run(void *arg)
{
	struct vhu_stream *st = arg;
	int rc;

	/* Threads of the library block SIGPIPE. */
	rc = fcntl(st->fd, F_SETFL, O_NONBLOCK) < 0 ? vdpa_error(errno, "fcntl: %m")
	     : st->reads			    ? read_all(st)
						    : write_all(st);
	/* The reader at the other end finds the end of the file before it hears that all is well.
	 */
	close(st->fd);
	pthread_mutex_lock(&st->lock);
	st->rc = rc;
	if (rc < 0)
		vdpa_error_save(&st->error);
	st->ended = true;
	pthread_cond_broadcast(&st->changed);
	pthread_mutex_unlock(&st->lock);
	put(st);
	return NULL;
}

static int
open_stream(int fd, bool reads, uint8_t *buf, size_t len, struct vhu_stream **out)
{
	pthread_condattr_t monotonic;
	struct vhu_stream *st;
	int rc;

	if (!vdpa_fd_is_pipe(fd) && !vdpa_vhu_is_shm(fd)) {
		rc = vdpa_error(EINVAL, "the file descriptor is neither a pipe nor a file in "
					"memory (a pipe does not outlive the process)");
		goto err_buf;
	}
	st = calloc(1, sizeof(*st));
	if (st == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
		goto err_buf;
	}
	*st = (struct vhu_stream){
		.fd = fd, .reads = reads, .buf = buf, .len = len, .size = len, .owners = 2};
	pthread_mutex_init(&st->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&st->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	rc = -vdpa_thread_start("vhu-state", run, st, NULL);
	if (rc == 0) {
		*out = st;
		return 0;
	}
	vdpa_error(rc, "a thread for the state: %s", strerror(-rc));
	pthread_cond_destroy(&st->changed);
	pthread_mutex_destroy(&st->lock);
	free(st);
err_buf:
	free(buf);
	return rc;
}

int
vdpa_vhu_stream_read(int fd, struct vhu_stream **stream)
{
	return open_stream(fd, true, NULL, 0, stream);
}

int
vdpa_vhu_stream_write(int fd, uint8_t *buf, size_t len, struct vhu_stream **stream)
{
	return open_stream(fd, false, buf, len, stream);
}

int
vdpa_vhu_stream_wait(struct vhu_stream *st, unsigned int ms)
{
	struct timespec until;
	int rc = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += ms % 1000 * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&st->lock);
	while (!st->ended && rc == 0)
		rc = pthread_cond_timedwait(&st->changed, &st->lock, &until);
	rc = st->ended ? st->rc : -EINPROGRESS;
	if (st->ended && rc < 0)
		vdpa_error_restore(&st->error);
	pthread_mutex_unlock(&st->lock);
	return rc;
}

const uint8_t *
vdpa_vhu_stream_bytes(const struct vhu_stream *st, size_t *len)
{
	*len = st->len;
	return st->buf;
}

void
vdpa_vhu_stream_abandon(struct vhu_stream *st)
{
	__atomic_store_n(&st->abandoned, true, __ATOMIC_RELAXED);
}

bool
vdpa_vhu_stream_has_ended(struct vhu_stream *st)
{
	bool ended;

	pthread_mutex_lock(&st->lock);
	ended = st->ended;
	pthread_mutex_unlock(&st->lock);
	return ended;
}

void
vdpa_vhu_stream_close(struct vhu_stream *st)
{
	if (st == NULL)
		return;
	vdpa_vhu_stream_abandon(st);
	put(st);
}
