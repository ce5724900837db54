/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A mover's rounds and its life on the loop. Owns the progress of both sides; their memory is the
 * guest's and the caller's.
 *
 * A round: what the device has used goes back to the guest, then what the guest has made available
 * goes to the device, each in bursts. Each side's index is written once a round, and each side is
 * notified once at most, at its end: whether a side wants that is read behind a barrier, which
 * waits for what was written to lines that the guest's CPU has, and so has had time to arrive.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <rte_cycles.h>

#include "error_priv.h"
#include "mover_priv.h"
#include "vdpa_error.h"

/* Bursts of a direction in one round. */
#define ROUNDS 4

void
vdpa_mover_fail(struct vdpa_mover *m, int err, const char *side, const char *why)
{
	char text[VDPA_ERROR_MAX];

	if (m->failed)
		return;
	__atomic_store_n(&m->failed, true, __ATOMIC_RELAXED);
	snprintf(text, sizeof(text), "%s%s", side, why);
	m->ops->failed(m->arg, err, text);
}

void
vdpa_mover_fail_guest(struct vdpa_mover *m, int err)
{
	vdpa_mover_fail(m, err, "", vdpa_vq_error(m->guest));
}

void
vdpa_mover_fail_device(struct vdpa_mover *m, const char *why)
{
	vdpa_mover_fail(m, EIO, "the device broke its ring: ", why);
}

/* Whether a direction that began with so many descriptors walked may have another burst. */
static bool
may_go_on(const struct vdpa_mover *m, unsigned int bursts, uint64_t begun)
{
	return bursts < ROUNDS && !m->failed &&
	       vdpa_vq_walked(m->guest) - begun <= VDPA_MOVER_DESCS;
}

/* How many chains, and whether there may be more. */
static unsigned int
complete(struct vdpa_mover *m, bool *more)
{
	const uint64_t begun = vdpa_vq_walked(m->guest);
	unsigned int n = 0;

	*more = true;
	for (unsigned int i = 0; *more && may_go_on(m, i, begun); i++) {
		*more = false;
		n += m->kind->complete(m, more);
	}
	if (n > 0) {
		vdpa_vq_flush(m->guest);
		vdpa_mover_count(&m->stats.completed, n);
	}
	if (unlikely(!vdpa_vring_is_ready(m->ring)))
		vdpa_mover_fail_device(m, vdpa_vring_error(m->ring));
	return n;
}

static unsigned int
forward(struct vdpa_mover *m)
{
	const uint64_t begun = vdpa_vq_walked(m->guest);
	unsigned int n = 0;
	bool more = true;

	for (unsigned int i = 0; more && may_go_on(m, i, begun); i++) {
		more = false;
		n += m->kind->forward(m, &more);
	}
	if (n > 0) {
		vdpa_mover_count(&m->stats.forwarded, n);
		vdpa_vring_publish(m->ring);
	}
	return n;
}

static void
notify_guest(struct vdpa_mover *m)
{
	if (vdpa_vq_notify(m->guest))
		vdpa_mover_count(&m->stats.calls, 1);
}

static void
notify_device(struct vdpa_mover *m)
{
	if (!vdpa_vring_wants_kick(m->ring))
		return;
	vdpa_mover_count(&m->stats.kicks, 1);
	m->ops->kick(m->arg);
}

static unsigned int
mover_poll(struct vdpa_poller *poller)
{
	struct vdpa_mover *m = poller->arg;
	uint64_t begun = rte_rdtsc();
	unsigned int completed, forwarded = 0;
	bool more;

	if (unlikely(m->failed))
		return 0;
	if (unlikely(m->armed)) {
		m->armed = false;
		vdpa_vring_disable_calls(m->ring);
		vdpa_vq_disable_kicks(m->guest);
	}
	vdpa_vq_prefetch_avail(m->guest);
	completed = complete(m, &more);
	if (likely(!m->paused && !m->failed))
		forwarded = forward(m);
	if (forwarded > 0)
		notify_device(m);
	if (completed > 0)
		notify_guest(m);
	if (completed + forwarded > 0) {
		__atomic_store_n(&m->stats.in_flight, vdpa_vring_in_flight(m->ring),
				 __ATOMIC_RELAXED);
		vdpa_mover_count(&m->stats.busy, rte_rdtsc() - begun);
	}
	return completed + forwarded;
}

static bool
mover_sleep(struct vdpa_poller *poller)
{
	struct vdpa_mover *m = poller->arg;
	bool busy;

	if (m->failed)
		return true;
	m->armed = true;
	busy = vdpa_vring_enable_calls(m->ring);
	if (!m->paused)
		busy = m->kind->arm(m) || busy;
	return !busy;
}

/*
 * Eventfds are not read: edge-triggered, every write is an event, and a read would be a system call
 * more for each.
 */
static void
notified(struct vdpa_event *ev, uint32_t revents)
{
	struct vdpa_mover *m = ev->arg;

	if (revents & EPOLLIN) {
		if (ev == &m->kick)
			vdpa_mover_count(&m->stats.kicked, 1);
		vdpa_poller_wake(&m->poller);
	} else if (revents & (EPOLLERR | EPOLLHUP)) {
		vdpa_event_del(ev);
	}
}

static int
listen_to(struct vdpa_mover *m, struct vdpa_event *ev, int fd)
{
	*ev = (struct vdpa_event){
		.fd = fd, .events = EPOLLIN | EPOLLET, .handler = notified, .arg = m};
	return fd < 0 ? 0 : vdpa_event_add(m->loop, ev);
}

int
vdpa_mover_init(struct vdpa_mover *m, const struct vdpa_mover_kind *kind,
		const struct vdpa_mover_params *params)
{
	struct vdpa_vq_params guest = params->guest;
	int rc;

	m->kind = kind;
	/* The vring has num ids; the guest cannot have more chains than its own ring has slots. */
	m->num = RTE_MAX(params->ring.num, params->guest.num);
	m->lengths_tell = params->lengths_tell;
	m->ops = params->ops;
	m->arg = params->arg;
	m->loop = params->loop;
	m->kick_fd = params->kick_fd;
	m->poller = (struct vdpa_poller){.poll = mover_poll, .sleep = mover_sleep, .arg = m};
	m->guest = vdpa_vq_alloc(-1);
	m->ring = vdpa_vring_alloc();
	m->call.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->call.fd < 0)
		return vdpa_error(errno, "eventfd: %s", strerror(errno));
	if (m->guest == NULL || m->ring == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* Pushes log nothing: what was written is known before. */
	guest.by_iova = true;
	rc = vdpa_vq_setup(m->guest, &guest, params->tlb);
	if (rc < 0)
		return vdpa_error(-rc, "%s", vdpa_vq_error(m->guest));
	rc = vdpa_vring_setup(m->ring, &params->ring);
	if (rc < 0)
		return vdpa_error(-rc, "%s: %s", kind->name, vdpa_vring_error(m->ring));
	vdpa_vq_set_call(m->guest, params->call_fd);
	return 0;
}

void
vdpa_mover_free(struct vdpa_mover *m)
{
	if (m == NULL)
		return;
	vdpa_vq_free(m->guest);
	vdpa_vring_free(m->ring);
	if (m->call.fd >= 0)
		close(m->call.fd);
	m->kind->free(m);
}

int
vdpa_mover_call_fd(const struct vdpa_mover *m)
{
	return m->call.fd;
}

/* What is changed while the loop may run the mover is changed on the loop. */
struct change {
	struct vdpa_mover *m;
	int fd;
	bool flag;
	struct vdpa_iotlb *tlb;
	const struct vdpa_dirty_log *log;
	uint64_t used_iova;
};

int
vdpa_mover_on_loop(struct vdpa_mover *m, int (*fn)(void *arg), void *arg)
{
	return m->running ? vdpa_event_loop_call(m->loop, fn, arg) : fn(arg);
}

static int
on_loop(struct vdpa_mover *m, int (*fn)(void *arg), struct change c)
{
	c.m = m;
	return vdpa_mover_on_loop(m, fn, &c);
}

static int
do_run(void *arg)
{
	struct vdpa_mover *m = ((struct change *)arg)->m;

	vdpa_vq_disable_kicks(m->guest);
	vdpa_vring_disable_calls(m->ring);
	return vdpa_poller_add(m->loop, &m->poller);
}

int
vdpa_mover_run(struct vdpa_mover *m)
{
	int rc = listen_to(m, &m->call, m->call.fd);

	if (rc == 0)
		rc = listen_to(m, &m->kick, m->kick_fd);
	m->running = true;
	if (rc == 0)
		rc = on_loop(m, do_run, (struct change){0});
	return rc;
}

/* A round of what the device has used; whether there may be more. */
static int
do_complete(void *arg)
{
	struct vdpa_mover *m = ((struct change *)arg)->m;
	bool more = false;

	if (!m->failed && complete(m, &more) > 0)
		notify_guest(m);
	return more && !m->failed;
}

/* All that the device has used, which is given no more: round by round, as between two the loop
 * serves others. */
static void
complete_all(struct vdpa_mover *m)
{
	while (on_loop(m, do_complete, (struct change){0}) > 0)
		;
}

/* A round of what a former process had under way; whether there is more of it. */
static int
do_again(void *arg)
{
	struct vdpa_mover *m = ((struct change *)arg)->m;

	if (m->failed || m->paused || vdpa_vq_left(m->guest) == 0 || forward(m) == 0)
		return 0;
	notify_device(m);
	return vdpa_vq_left(m->guest) > 0;
}

void
vdpa_mover_take_again(struct vdpa_mover *m)
{
	while (m->running && on_loop(m, do_again, (struct change){0}) > 0)
		;
}

static int
do_pause(void *arg)
{
	struct change *c = arg;

	c->m->paused = c->flag;
	vdpa_poller_wake(&c->m->poller);
	return c->flag ? do_complete(c) : 0;
}

void
vdpa_mover_pause(struct vdpa_mover *m, bool paused)
{
	if (!m->running)
		m->paused = paused;
	else if (on_loop(m, do_pause, (struct change){.flag = paused}) > 0)
		complete_all(m);
}

static int
do_end(void *arg)
{
	struct vdpa_mover *m = ((struct change *)arg)->m;

	vdpa_poller_del(&m->poller);
	/* Whoever executes the guest's ring next may never write there. */
	vdpa_vq_enable_kicks(m->guest);
	return do_complete(arg);
}

void
vdpa_mover_end(struct vdpa_mover *m)
{
	vdpa_event_del(&m->kick);
	vdpa_event_del(&m->call);
	if (on_loop(m, do_end, (struct change){0}) > 0)
		complete_all(m);
	m->running = false;
}

int
vdpa_mover_set_kick(struct vdpa_mover *m, int fd)
{
	int rc = 0;

	vdpa_event_del(&m->kick);
	m->kick_fd = fd;
	if (m->running) {
		rc = listen_to(m, &m->kick, fd);
		/* A kick may have come by neither. */
		vdpa_mover_pause(m, m->paused);
	}
	return rc;
}

static int
do_set_call(void *arg)
{
	struct change *c = arg;

	vdpa_vq_set_call(c->m->guest, c->fd);
	return 0;
}

void
vdpa_mover_set_call(struct vdpa_mover *m, int fd)
{
	on_loop(m, do_set_call, (struct change){.fd = fd});
}

static int
do_set_iotlb(void *arg)
{
	struct change *c = arg;
	int rc = vdpa_vq_set_iotlb(c->m->guest, c->tlb);

	if (rc < 0)
		vdpa_mover_fail_guest(c->m, -rc);
	return rc;
}

int
vdpa_mover_set_iotlb(struct vdpa_mover *m, struct vdpa_iotlb *tlb)
{
	return on_loop(m, do_set_iotlb, (struct change){.tlb = tlb});
}

static int
do_set_log(void *arg)
{
	struct change *c = arg;

	c->m->log = c->log;
	vdpa_vq_set_log(c->m->guest, c->log, c->used_iova);
	return 0;
}

void
vdpa_mover_set_log(struct vdpa_mover *m, const struct vdpa_dirty_log *log, uint64_t used_iova)
{
	on_loop(m, do_set_log, (struct change){.log = log, .used_iova = used_iova});
}

void
vdpa_mover_stats(const struct vdpa_mover *m, struct vdpa_mover_stats *stats)
{
	stats->forwarded = __atomic_load_n(&m->stats.forwarded, __ATOMIC_RELAXED);
	stats->completed = __atomic_load_n(&m->stats.completed, __ATOMIC_RELAXED);
	stats->kicks = __atomic_load_n(&m->stats.kicks, __ATOMIC_RELAXED);
	stats->calls = __atomic_load_n(&m->stats.calls, __ATOMIC_RELAXED);
	stats->kicked = __atomic_load_n(&m->stats.kicked, __ATOMIC_RELAXED);
	stats->busy = __atomic_load_n(&m->stats.busy, __ATOMIC_RELAXED);
	stats->full = __atomic_load_n(&m->stats.full, __ATOMIC_RELAXED);
	stats->leaving = __atomic_load_n(&m->stats.leaving, __ATOMIC_RELAXED);
	stats->to_go = __atomic_load_n(&m->stats.to_go, __ATOMIC_RELAXED);
	stats->in_flight = __atomic_load_n(&m->stats.in_flight, __ATOMIC_RELAXED);
}
