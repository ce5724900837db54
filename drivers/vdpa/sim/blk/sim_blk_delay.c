/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The word `delay_ms N`: a slow disk, for tests of what must not wait for one. A back end in front
 * of another: each I/O waits N milliseconds, in order, before the other back end is given it. A
 * cancellation ends those that wait at once, and none of them has touched the disk.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "clock.h"
#include "sim_blk_backend.h"
#include "vdpa_args.h"

struct delay_backend {
	struct sim_blk_backend be;
	struct sim_blk_backend_ops ops;
	struct sim_blk_backend *disk;
	int64_t delay_us;
};

struct delay_channel {
	struct sim_blk_channel ch;
	struct sim_blk_channel *disk;
	int timer_fd;
	STAILQ_HEAD(, sim_blk_io) waiters; /* in the order of their times */
	STAILQ_HEAD(, sim_blk_io) cancelled;
	unsigned int held; /* I/Os that the disk does not have */
};

static struct delay_backend *
delay_of(const struct sim_blk_channel *ch)
{
	return (struct delay_backend *)ch->be;
}

static void
delay_close(struct sim_blk_backend *be)
{
	struct delay_backend *db = (struct delay_backend *)be;

	db->disk->ops->close(db->disk);
	free(db);
}

static int
delay_resize(struct sim_blk_backend *be)
{
	struct delay_backend *db = (struct delay_backend *)be;
	int rc = db->disk->ops->resize(db->disk);

	__atomic_store_n(&be->size, db->disk->size, __ATOMIC_RELAXED);
	return rc;
}

/* One fd for the time of the next I/O and for the disk's completions. */
static int
open_fds(struct delay_channel *dc)
{
	struct epoll_event in = {.events = EPOLLIN};

	dc->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	dc->ch.fd = epoll_create1(EPOLL_CLOEXEC);
	if (dc->timer_fd < 0 || dc->ch.fd < 0 ||
	    epoll_ctl(dc->ch.fd, EPOLL_CTL_ADD, dc->timer_fd, &in) < 0 ||
	    (dc->disk->fd >= 0 && epoll_ctl(dc->ch.fd, EPOLL_CTL_ADD, dc->disk->fd, &in) < 0))
		return vdpa_error(errno, "delay_ms: %m");
	return 0;
}

static void
delay_channel_close(struct sim_blk_channel *ch)
{
	struct delay_channel *dc = (struct delay_channel *)ch;

	if (ch->fd >= 0)
		close(ch->fd);
	if (dc->timer_fd >= 0)
		close(dc->timer_fd);
	dc->disk->be->ops->channel_close(dc->disk);
	free(dc);
}

static int
delay_channel_open(struct sim_blk_backend *be, unsigned int depth, struct sim_blk_channel **out)
{
	struct delay_backend *db = (struct delay_backend *)be;
	struct delay_channel *dc = calloc(1, sizeof(*dc));
	int rc;

	if (dc == NULL)
		return vdpa_error(ENOMEM, "no memory for a channel");
	dc->ch.be = be;
	dc->ch.fd = dc->timer_fd = -1;
	STAILQ_INIT(&dc->waiters);
	STAILQ_INIT(&dc->cancelled);
	rc = db->disk->ops->channel_open(db->disk, depth, &dc->disk);
	if (rc < 0) {
		free(dc);
		return rc;
	}
	rc = open_fds(dc);
	if (rc < 0) {
		delay_channel_close(&dc->ch);
		return rc;
	}
	dc->ch.group = dc->disk->group;
	*out = &dc->ch;
	return 0;
}

static void
set_timer(struct delay_channel *dc)
{
	const struct sim_blk_io *io = STAILQ_FIRST(&dc->waiters);
	struct itimerspec at = {0};

	if (io != NULL) {
		at.it_value.tv_sec = io->due_us / 1000000;
		at.it_value.tv_nsec = io->due_us % 1000000 * 1000;
	}
	/* Setting it takes back that it has expired, too. */
	timerfd_settime(dc->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static bool
delay_submit(struct sim_blk_channel *ch, struct sim_blk_io *io)
{
	struct delay_channel *dc = (struct delay_channel *)ch;
	bool first = STAILQ_EMPTY(&dc->waiters);

	io->due_us = vdpa_now_us() + delay_of(ch)->delay_us;
	STAILQ_INSERT_TAIL(&dc->waiters, io, next);
	dc->held++;
	ch->inflight++;
	if (first)
		set_timer(dc);
	return false;
}

static int
delay_kick(struct sim_blk_channel *ch)
{
	struct delay_channel *dc = (struct delay_channel *)ch;
	const struct sim_blk_backend_ops *ops = dc->disk->be->ops;

	return ops->kick != NULL ? ops->kick(dc->disk) : 0;
}

static unsigned int
delay_reap(struct sim_blk_channel *ch, struct sim_blk_io **ios, unsigned int n)
{
	struct delay_channel *dc = (struct delay_channel *)ch;
	const struct sim_blk_backend_ops *ops = dc->disk->be->ops;
	int64_t now = vdpa_now_us();
	struct sim_blk_io *io;
	unsigned int done;

	dc->disk->turn = ch->turn;
	done = ops->reap(dc->disk, ios, n);
	while (done < n && (io = STAILQ_FIRST(&dc->cancelled)) != NULL) {
		STAILQ_REMOVE_HEAD(&dc->cancelled, next);
		dc->held--;
		ios[done++] = io;
	}
	while (done < n && (io = STAILQ_FIRST(&dc->waiters)) != NULL && io->due_us <= now &&
	       dc->disk->waiting == 0 && sim_turn_left(ch->turn)) {
		STAILQ_REMOVE_HEAD(&dc->waiters, next);
		dc->held--;
		if (ops->submit(dc->disk, io))
			ios[done++] = io;
	}
	set_timer(dc);
	ch->inflight = dc->held + dc->disk->inflight;
	ch->waiting = dc->disk->waiting;
	return done;
}

static void
delay_cancel(struct sim_blk_channel *ch)
{
	struct delay_channel *dc = (struct delay_channel *)ch;
	struct sim_blk_io *io;

	STAILQ_FOREACH (io, &dc->waiters, next)
		io->result = -ECANCELED;
	STAILQ_CONCAT(&dc->cancelled, &dc->waiters);
	dc->disk->be->ops->cancel(dc->disk);
}

static const struct sim_blk_backend_ops delay_ops = {
	.close = delay_close,
	.channel_open = delay_channel_open,
	.channel_close = delay_channel_close,
	.submit = delay_submit,
	.kick = delay_kick,
	.reap = delay_reap,
	.cancel = delay_cancel,
};

int
sim_blk_delay_open(unsigned int delay_ms, struct sim_blk_backend **be)
{
	struct delay_backend *db = calloc(1, sizeof(*db));

	if (db == NULL)
		return vdpa_error(ENOMEM, "no memory for the back end");
	db->disk = *be;
	db->delay_us = (int64_t)delay_ms * 1000;
	db->ops = delay_ops;
	db->ops.name = (*be)->ops->name;
	db->ops.in_order = (*be)->ops->in_order;
	db->ops.resize = (*be)->ops->resize != NULL ? delay_resize : NULL;
	db->be = **be;
	db->be.ops = &db->ops;
	*be = &db->be;
	return 0;
}
