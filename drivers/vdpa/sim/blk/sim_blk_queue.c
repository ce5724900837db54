/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The request engine of a sim_blk virtqueue: pops chains into requests, hands them to the back end
 * through the queue's channel, and pushes them as they complete, in any order. All of it runs on
 * the device's worker, in the device's turns: the channel's fd wakes the device, nothing else.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "pages.h"
#include "sim_blk.h"

/* Completions taken at a time. */
#define REAP_BURST	64
/*
 * Requests of a stopped queue are given this long to end by themselves, so that a device that is
 * suspended loses none; then they are cancelled, in time for the core's own limit.
 */
#define CANCEL_AFTER_MS (SIM_DRAIN_TIMEOUT_MS / 2)

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void
set_inflight(struct sim_blk_queue *bq)
{
	__atomic_store_n(&bq->stats.inflight, bq->depth - bq->nfree, __ATOMIC_RELEASE);
}

static void
release(struct sim_blk_queue *bq, struct sim_blk_request *req)
{
	STAILQ_INSERT_HEAD(&bq->free, req, next);
	bq->nfree++;
}

/*
 * The queue was stopped and this request was not carried out, or not all of it: the inflight area
 * has it, and whoever is given that does it again, from its beginning.
 */
static bool
is_handed_over(struct sim_blk_queue *bq, struct sim_blk_request *req)
{
	if (!bq->handing_over || req->io.result != -ECANCELED)
		return false;
	bq->handed_over++;
	release(bq, req);
	return true;
}

/* Push a request with its status; its memory is the driver's after the next flush. */
static void
finish(struct sim_blk_queue *bq, struct sim_blk_request *req)
{
	int err = req->io.result;
	uint32_t written = 0;

	if (req->status != NULL) {
		*(volatile uint8_t *)req->status = err == 0		? VIRTIO_BLK_S_OK
						   : err == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
									: VIRTIO_BLK_S_IOERR;
		/* The status is the last byte: all before it counts as written, read or not. */
		written = req->chain.in_len;
		if (err != 0)
			sim_count(err == -EOPNOTSUPP ? &bq->stats.unsupported
						     : &bq->stats.io_errors,
				  1);
	} else {
		sim_count(&bq->stats.malformed, 1);
	}
	if (err != 0 && err != -EOPNOTSUPP && !bq->error_logged) {
		bq->error_logged = true;
		VDPA_LOG_LIMITED(&bq->blk->log, WARNING,
				 "%s: queue %u: a request failed: %s (later ones are only counted)",
				 bq->q->dev->vdev.name, bq->q->idx,
				 req->status != NULL ? strerror(-err) : "it has no status byte");
	}
	vdpa_vq_push(bq->q->vq, &req->chain, written);
	release(bq, req);
}

/* The back end is done with the request's I/O: true when there is no more to do for it. */
static bool
io_done(struct sim_blk_queue *bq, struct sim_blk_request *req)
{
	while (req->io.result == 0 && sim_blk_request_next_range(req))
		if (!bq->ch->be->ops->submit(bq->ch, &req->io))
			return false;
	return true;
}

static void
count_request(struct sim_blk_queue *bq, const struct sim_blk_request *req)
{
	/* By an index, not by cases: it is for every request. */
	sim_count(&bq->stats.requests[req->io.op], 1);
	sim_count(&bq->stats.bytes[req->io.op], req->io.len);
}

/* Take completions. Returns how many requests were pushed. */
static unsigned int
reap(struct sim_blk_queue *bq)
{
	const struct sim_blk_backend_ops *ops = bq->ch->be->ops;
	struct sim_blk_io *ios[REAP_BURST];
	unsigned int n, pushed = 0;

	n = ops->reap(bq->ch, ios, REAP_BURST);
	for (unsigned int i = 0; i < n; i++) {
		struct sim_blk_request *req = container_of(ios[i], struct sim_blk_request, io);

		if (io_done(bq, req) && !is_handed_over(bq, req)) {
			finish(bq, req);
			pushed++;
		}
	}
	return pushed;
}

static void
kick_channel(struct sim_blk_queue *bq)
{
	const struct sim_blk_backend_ops *ops = bq->ch->be->ops;
	int err;

	if (ops->kick == NULL)
		return;
	err = ops->kick(bq->ch);
	bq->resubmit = err == -EAGAIN;
	if (err != 0 && err != -EAGAIN && !bq->q->failed)
		sim_queue_fail(bq->q, err);
}

static void
publish(struct sim_blk_queue *bq)
{
	vdpa_vq_flush(bq->q->vq);
	vdpa_vq_notify(bq->q->vq);
	set_inflight(bq);
}

/* Completions came while the device slept. */
static void
on_completions(struct vdpa_event *ev, uint32_t revents)
{
	struct sim_blk_queue *bq = ev->arg;

	/* Without a request under way it is what a cancellation leaves behind, and no turn comes.
	 */
	if (bq->nfree == bq->depth)
		reap(bq);
	else
		sim_wake(bq->q->dev);
}

static void
cancel(struct sim_blk_queue *bq)
{
	bq->cancelled = true;
	bq->ch->be->ops->cancel(bq->ch);
}

/* Requests of a stopped queue end by themselves, or at last by force. */
static void
push_drain(struct sim_blk_queue *bq)
{
	if (bq->cancelled || now_ms() - bq->stopped_at <= CANCEL_AFTER_MS)
		return;
	VDPA_LOG(WARNING, "%s: queue %u: cancelling %u requests that do not end",
		 bq->q->dev->vdev.name, bq->q->idx, bq->depth - bq->nfree);
	cancel(bq);
}

/* The last one has left the queue that was stopped. */
static void
report_hand_over(struct sim_blk_queue *bq)
{
	if (bq->nfree != bq->depth || bq->handed_over == 0)
		return;
	VDPA_LOG_LIMITED(&bq->blk->log, INFO,
			 "%s: queue %u: stopped, %u requests are left to do in the inflight area",
			 bq->q->dev->vdev.name, bq->q->idx, bq->handed_over);
	bq->handed_over = 0;
}

static void
read_limits(const struct sim_blk *blk, struct sim_blk_limits *l)
{
	const struct sim_device *dev = blk->dev;
	uint64_t features = dev->features;

	*l = (struct sim_blk_limits){
		.size = __atomic_load_n(&blk->be->size, __ATOMIC_RELAXED),
		.granularity = blk->be->granularity,
		.read_only = blk->read_only,
		/* A driver that cannot flush relies on every write being durable. */
		.durable = (features & SIM_BIT(VIRTIO_BLK_F_FLUSH)) == 0 ||
			   !__atomic_load_n(&blk->write_cache, __ATOMIC_RELAXED),
		.discard = (features & SIM_BIT(VIRTIO_BLK_F_DISCARD)) != 0,
		.write_zeroes = (features & SIM_BIT(VIRTIO_BLK_F_WRITE_ZEROES)) != 0,
		.max_discard = blk->be->max_discard,
		.max_write_zero = blk->be->max_write_zero,
	};
}

unsigned int
sim_blk_process(struct sim_queue *q, unsigned int budget)
{
	struct sim_blk_queue *bq = q->priv;
	struct sim_blk *blk = bq->blk;
	struct sim_blk_limits limits;
	unsigned int work, taken = 0;
	bool pushed;
	int err = 0;

	if (unlikely(budget == 0))
		push_drain(bq);
	work = reap(bq);
	pushed = work > 0;
	read_limits(blk, &limits);
	/* None is taken before those that were have had their share: a stop waits for few. */
	while (taken < budget && bq->ch->waiting == 0 && sim_turn_left(bq->ch->turn)) {
		struct sim_blk_request *req = STAILQ_FIRST(&bq->free);
		uint32_t type;

		if (bq->ch->group != 0 && taken > 0 && taken % bq->ch->group == 0)
			kick_channel(bq);
		bq->starved = req == NULL;
		if (req == NULL || q->failed)
			break;
		err = vdpa_vq_pop(q->vq, &req->chain);
		if (err == 0 || (err < 0 && err != -EMSGSIZE))
			break;
		STAILQ_REMOVE_HEAD(&bq->free, next);
		bq->nfree--;
		taken++;
		if (err == -EMSGSIZE) {
			/* Where its status byte is has not been read. */
			req->status = NULL;
			req->io.result = -EMSGSIZE;
			finish(bq, req);
			pushed = true;
			err = 0;
			continue;
		}
		switch (sim_blk_request_read(req, &limits, blk->serial, &type)) {
		case SIM_BLK_SUBMIT:
			count_request(bq, req);
			if (!bq->ch->be->ops->submit(bq->ch, &req->io) || !io_done(bq, req))
				continue;
			break;
		case SIM_BLK_DONE:
			break;
		case SIM_BLK_MALFORMED:
			req->io.result = -EINVAL;
			break;
		}
		finish(bq, req);
		pushed = true;
	}
	/* Also when nothing was pushed: a completion may have led to the next system call. */
	kick_channel(bq);
	if (pushed)
		publish(bq);
	else
		set_inflight(bq);
	if (unlikely(budget == 0))
		report_hand_over(bq);
	if (err < 0 && !q->failed)
		sim_queue_fail(q, err);
	return work + taken + bq->resubmit + bq->ch->waiting;
}

bool
sim_blk_arm(struct sim_queue *q)
{
	struct sim_blk_queue *bq = q->priv;

	/* Without a free request a completion, not a kick, is what comes next. */
	if (bq->nfree == 0)
		return false;
	return vdpa_vq_enable_kicks(q->vq);
}

void
sim_blk_vq_start(struct sim_queue *q)
{
	struct sim_blk_queue *bq = q->priv;

	bq->starved = false;
	bq->cancelled = false;
	bq->handing_over = false;
	bq->handed_over = 0;
	bq->error_logged = false;
}

void
sim_blk_vq_stop(struct sim_queue *q)
{
	struct sim_blk_queue *bq = q->priv;

	bq->stopped_at = now_ms();
	/*
	 * What the kernel has is cancelled, and waited for as at any stop: nothing may write to the
	 * disk or to guest memory once somebody else does the request again.
	 */
	bq->handing_over = q->inflight.addr != NULL && q->inflight.hand_over;
	if (bq->handing_over && bq->nfree != bq->depth)
		cancel(bq);
	set_inflight(bq);
}

unsigned int
sim_blk_outstanding(struct sim_queue *q)
{
	const struct sim_blk_queue *bq = q->priv;

	return (unsigned int)__atomic_load_n(&bq->stats.inflight, __ATOMIC_ACQUIRE);
}

static size_t
n_iovs(const struct sim_blk_queue *bq)
{
	return (size_t)bq->depth * 3 * SIM_BLK_IOV_MAX;
}

static void
requests_free(struct sim_blk_queue *bq)
{
	vdpa_pages_free(bq->iovs, n_iovs(bq), sizeof(*bq->iovs));
	free(bq->requests);
	memset(bq, 0, sizeof(*bq));
}

int
sim_blk_queue_open(struct sim_blk_queue *bq, struct sim_blk *blk, struct sim_queue *q)
{
	int err;

	bq->blk = blk;
	bq->q = q;
	bq->depth = RTE_MIN(blk->dev->vq_num_max, SIM_BLK_DEPTH_MAX);
	STAILQ_INIT(&bq->free);
	bq->requests = calloc(bq->depth, sizeof(*bq->requests));
	bq->iovs = vdpa_pages_alloc(n_iovs(bq), sizeof(*bq->iovs));
	if (bq->requests == NULL || bq->iovs == NULL) {
		err = vdpa_error(ENOMEM, "%s: queue %u: no memory for %u requests",
				 blk->dev->vdev.name, q->idx, bq->depth);
		goto free_requests;
	}
	for (unsigned int i = 0; i < bq->depth; i++) {
		struct sim_blk_request *req = &bq->requests[i];
		struct iovec *iov = bq->iovs + (size_t)i * 3 * SIM_BLK_IOV_MAX;

		req->queue = bq;
		req->chain.iov = iov;
		req->chain.iov_max = SIM_BLK_IOV_MAX;
		req->split = iov + SIM_BLK_IOV_MAX;
		req->io.scratch = iov + 2 * SIM_BLK_IOV_MAX;
		STAILQ_INSERT_TAIL(&bq->free, req, next);
	}
	bq->nfree = bq->depth;
	err = blk->be->ops->channel_open(blk->be, bq->depth, &bq->ch);
	if (err != 0)
		goto free_requests;
	bq->ch->turn = &q->lane->turn;
	if (bq->ch->fd >= 0) {
		bq->event.fd = bq->ch->fd;
		bq->event.events = EPOLLIN;
		bq->event.handler = on_completions;
		bq->event.arg = bq;
		err = vdpa_event_add(sim_loop(blk->dev), &bq->event);
		if (err != 0) {
			vdpa_error(err, "%s: queue %u: cannot wait for completions: %s",
				   blk->dev->vdev.name, q->idx, strerror(-err));
			goto close_channel;
		}
	}
	q->priv = bq;
	return 0;

close_channel:
	blk->be->ops->channel_close(bq->ch);
free_requests:
	requests_free(bq);
	return err;
}

void
sim_blk_queue_close(struct sim_blk_queue *bq)
{
	if (bq->ch == NULL)
		return;
	vdpa_event_del(&bq->event);
	bq->q->priv = NULL;
	if (bq->nfree != bq->depth) {
		/*
		 * The kernel still has requests that it neither finished nor cancelled, and their
		 * iovecs with them: memory that it may write to is never given back.
		 */
		VDPA_LOG(ERR, "%s: queue %u: %u requests never ended, their memory is lost",
			 bq->q->dev->vdev.name, bq->q->idx, bq->depth - bq->nfree);
		return;
	}
	bq->blk->be->ops->channel_close(bq->ch);
	requests_free(bq);
}
