/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The shadow virtqueue: how chains pass between both rings, and where the guest's stands. When they
 * pass is mover.c.
 *
 * A chain keeps one id on its way, the vring's, under which is kept what the guest's side needs of
 * it. A guest with VIRTIO_F_IN_ORDER gets its chains back in their order, whatever the device does:
 * they pass a queue in which a used one waits for older ones.
 */

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include <linux/virtio_config.h>

#include <rte_common.h>
#include <rte_cycles.h>

#include "error_priv.h"
#include "mover_priv.h"
#include "pages.h"
#include "shadow.h"
#include "vdpa_error.h"

#define BURST VDPA_MOVER_BURST
/* Buffers of a chain that is taken in a burst; a longer one is taken by itself. */
#define SEGS  20

/* A chain of a guest with VIRTIO_F_IN_ORDER. */
struct waiting {
	struct vdpa_vq_taken taken;
	uint32_t len;
	bool used;
};

struct shadow {
	struct vdpa_mover m;
	bool in_order;
	bool full;
	bool leaving, resting; /* resting: at_beginning() was called */
	uint64_t rest_until;   /* TSC: gives up waiting at the beginning then; 0: does not wait */
	struct vdpa_vq_taken *taken; /* by the vring's id */
	/* With in_order: positions in a ring of m.num. */
	struct waiting *waiting;
	uint16_t *waits_at; /* by id */
	uint32_t first, n_waiting;

	/* Scratch. */
	struct vdpa_vq_plain plain[BURST];
	struct vdpa_vq_chain burst[BURST];
	struct iovec iov[BURST][SEGS];
	struct vdpa_vring_seg segs[SEGS];
	struct iovec *long_iov; /* of the longest chain */
	struct vdpa_vring_seg *long_segs;
};

static inline struct shadow *
shadow_of(struct vdpa_mover *m)
{
	return (struct shadow *)m;
}

/* What the device has written of a chain's buffers. */
static void
log_chain(struct vdpa_mover *m, uint16_t id, uint32_t written)
{
	uint64_t left = m->lengths_tell ? written : UINT64_MAX, len;
	const struct vdpa_vring_seg *segs;
	unsigned int n;

	segs = vdpa_vring_segs(m->ring, id, &n);
	for (unsigned int i = 0; i < n && left > 0; i++) {
		if (!segs[i].write)
			continue;
		len = RTE_MIN((uint64_t)segs[i].len, left);
		vdpa_dirty_log_mark(m->log, segs[i].iova, len);
		left -= len;
	}
}

/* A used chain of a guest that gets them in order: hand over all that need not wait any more. */
static void
push_in_order(struct shadow *s, uint16_t id, uint32_t len)
{
	const uint16_t at = 0;
	struct waiting *w = &s->waiting[s->waits_at[id]];

	w->used = true;
	w->len = len;
	while (s->n_waiting > 0 && s->waiting[s->first].used) {
		w = &s->waiting[s->first];
		w->used = false;
		vdpa_vq_push_taken(s->m.guest, &w->taken, &at, &w->len, 1);
		s->first = s->first + 1 == s->m.num ? 0 : s->first + 1;
		s->n_waiting--;
	}
}

static unsigned int
shadow_complete(struct vdpa_mover *m, bool *more)
{
	struct shadow *s = shadow_of(m);
	uint32_t written[BURST];
	uint16_t ids[BURST];
	int n = vdpa_vring_take_burst(m->ring, ids, written, BURST);

	if (n <= 0)
		return 0;
	*more = n == BURST;
	vdpa_vq_prefetch_used(m->guest, (unsigned int)n);
	for (int i = 0; unlikely(m->log != NULL) && i < n; i++)
		log_chain(m, ids[i], written[i]);
	if (likely(!s->in_order))
		vdpa_vq_push_taken(m->guest, s->taken, ids, written, (unsigned int)n);
	for (int i = 0; unlikely(s->in_order) && i < n; i++)
		push_in_order(s, ids[i], written[i]);
	s->full = false;
	return (unsigned int)n;
}

static unsigned int
segments(const struct vdpa_vq_chain *chain, struct vdpa_vring_seg *segs)
{
	unsigned int n = chain->nout + chain->nin;

	for (unsigned int i = 0; i < n; i++)
		segs[i] = (struct vdpa_vring_seg){.iova = (uintptr_t)chain->iov[i].iov_base,
						  .len = (uint32_t)chain->iov[i].iov_len,
						  .write = i >= chain->nout};
	return n;
}

static inline void
remember(struct shadow *s, uint16_t id, const struct vdpa_vq_taken *taken)
{
	uint32_t at;

	s->taken[id] = *taken;
	if (likely(!s->in_order))
		return;
	at = s->first + s->n_waiting++;
	at = at >= s->m.num ? at - s->m.num : at;
	s->waits_at[id] = (uint16_t)at;
	s->waiting[at] = (struct waiting){.taken = *taken};
}

/* Give the device one chain. 1; 0 where there is no room for it now; a negative errno when the
 * shadow has failed. */
static int
forward_chain(struct shadow *s, const struct vdpa_vq_chain *chain, struct vdpa_vring_seg *segs)
{
	struct vdpa_mover *m = &s->m;
	unsigned int n = segments(chain, segs);
	int id;

	if (unlikely(n == 0)) {
		/* Descriptors of no bytes: nothing for the device. A guest that gets its chains in
		 * order waits until none is before it. */
		if (s->in_order && s->n_waiting > 0)
			return 0;
		vdpa_vq_push(m->guest, chain, 0);
		vdpa_vq_flush(m->guest);
		vdpa_mover_count(&m->stats.completed, 1);
		vdpa_vq_notify(m->guest);
		return 1;
	}
	id = vdpa_vring_add(m->ring, segs, n);
	if (likely(id >= 0)) {
		remember(s, (uint16_t)id, &chain->taken);
		return 1;
	}
	if (id == -ENOSPC) {
		vdpa_mover_count(&m->stats.full, 1);
		return 0;
	}
	if (id == -EMSGSIZE)
		vdpa_mover_fail(m, EMSGSIZE, "",
				"a chain has more buffers than the device's ring has room");
	else
		vdpa_mover_fail_device(m, vdpa_vring_error(m->ring));
	return id;
}

/* Chains that were popped, up to the first that the device has no room for; that one and what is
 * behind it goes back. */
static unsigned int
forward_chains(struct shadow *s, unsigned int n, struct vdpa_vring_seg *segs)
{
	unsigned int i = 0;

	for (;;) {
		int rc;

		if (likely(!s->in_order))
			i += vdpa_vring_add_burst(s->m.ring, &s->burst[i], n - i, s->taken);
		if (likely(i == n))
			return n;
		rc = forward_chain(s, &s->burst[i], segs);
		if (unlikely(rc <= 0)) {
			vdpa_vq_rewind(s->m.guest, &s->burst[i].taken);
			s->full = rc == 0;
			return i;
		}
		if (++i == n)
			return n;
	}
}

static void
bind_short(struct shadow *s, unsigned int i)
{
	s->burst[i].iov = s->iov[i];
	s->burst[i].iov_max = SEGS;
}

/* A chain of more buffers than a burst has room for, by itself. */
static unsigned int
forward_long(struct shadow *s)
{
	struct vdpa_vq_chain *chain = &s->burst[0];
	unsigned int n = 0;
	int rc;

	vdpa_vq_rewind(s->m.guest, &chain->taken);
	chain->iov = s->long_iov;
	chain->iov_max = VDPA_VQ_NUM_MAX;
	rc = vdpa_vq_pop(s->m.guest, chain);
	if (rc == -EMSGSIZE)
		vdpa_mover_fail(&s->m, EMSGSIZE, "",
				"a chain has more buffers than a device can be given");
	else if (rc < 0)
		vdpa_mover_fail_guest(&s->m, -rc);
	if (rc > 0)
		n = forward_chains(s, 1, s->long_segs);
	bind_short(s, 0);
	return n;
}

/*
 * How many chains may be given to the device, of a queue that is to come to rest where its ring
 * begins anew. Near there they go one by one, as each may take several slots.
 */
static unsigned int
chains_to_beginning(struct shadow *s)
{
	struct vdpa_mover *m = &s->m;
	uint32_t to_go = vdpa_vq_to_beginning(m->guest);
	uint64_t now;

	__atomic_store_n(&m->stats.to_go, to_go, __ATOMIC_RELAXED);
	if (to_go > 0) {
		s->rest_until = 0;
		return to_go > 2 * BURST ? BURST : 1;
	}
	if (s->resting)
		return 0;
	now = rte_rdtsc();
	if (s->rest_until == 0)
		s->rest_until = now + rte_get_tsc_hz() / 1000 * VDPA_SHADOW_REST_MS;
	if (vdpa_vring_in_flight(m->ring) == 0 && s->n_waiting == 0) {
		s->resting = true;
		m->ops->at_beginning(m->arg);
		return 0;
	}
	return now < s->rest_until ? 0 : 1;
}

/* Chains of one buffer, which almost all are, by the short way. How many; other: the next is none,
 * or there is no room for it. */
static unsigned int
forward_plain(struct shadow *s, bool *other)
{
	const unsigned int room = vdpa_vring_room(s->m.ring);
	unsigned int n;

	n = vdpa_vq_pop_plain(s->m.guest, s->plain, RTE_MIN(room, (unsigned int)BURST), other);
	if (likely(n > 0))
		vdpa_vring_add_plain(s->m.ring, s->plain, n, s->taken);
	return n;
}

static unsigned int
shadow_forward(struct vdpa_mover *m, bool *more)
{
	struct shadow *s = shadow_of(m);
	unsigned int max = BURST, n;
	bool other;
	int rc;

	if (unlikely(s->full))
		return 0;
	if (unlikely(s->leaving))
		max = chains_to_beginning(s);
	if (unlikely(max == 0))
		return 0;
	if (likely(!s->in_order && !s->leaving)) {
		n = forward_plain(s, &other);
		*more = other || n == BURST;
		if (likely(n > 0 || !other))
			return n;
		*more = false;
	}
	rc = vdpa_vq_pop_burst(m->guest, s->burst, max);
	if (likely(rc > 0)) {
		n = forward_chains(s, (unsigned int)rc, s->segs);
		*more = n == max;
		return n;
	}
	if (rc == -EMSGSIZE) {
		*more = true;
		return forward_long(s);
	}
	if (rc < 0)
		vdpa_mover_fail_guest(m, -rc);
	return 0;
}

static bool
shadow_arm(struct vdpa_mover *m)
{
	const struct shadow *s = shadow_of(m);

	/* What there is no room for waits for the device. */
	if (s->resting || s->full)
		return false;
	/* At the beginning it waits for the device, but not for long. */
	if (s->leaving && s->rest_until != 0 && rte_rdtsc() < s->rest_until)
		return true;
	return vdpa_vq_enable_kicks(m->guest);
}

static void
shadow_free(struct vdpa_mover *m)
{
	struct shadow *s = shadow_of(m);

	free(s->waits_at);
	free(s->waiting);
	vdpa_pages_free(s->long_segs, VDPA_VQ_NUM_MAX, sizeof(s->long_segs[0]));
	vdpa_pages_free(s->long_iov, VDPA_VQ_NUM_MAX, sizeof(s->long_iov[0]));
	free(s->taken);
	free(s);
}

static const struct vdpa_mover_kind shadow_kind = {
	.name = "shadow",
	.complete = shadow_complete,
	.forward = shadow_forward,
	.arm = shadow_arm,
	.free = shadow_free,
};

static int
allocate(struct shadow *s)
{
	s->taken = calloc(s->m.num, sizeof(s->taken[0]));
	s->long_iov = vdpa_pages_alloc(VDPA_VQ_NUM_MAX, sizeof(s->long_iov[0]));
	s->long_segs = vdpa_pages_alloc(VDPA_VQ_NUM_MAX, sizeof(s->long_segs[0]));
	if (s->in_order) {
		s->waiting = calloc(s->m.num, sizeof(s->waiting[0]));
		s->waits_at = calloc(s->m.num, sizeof(s->waits_at[0]));
	}
	if (s->taken == NULL || s->long_iov == NULL || s->long_segs == NULL ||
	    (s->in_order && (s->waiting == NULL || s->waits_at == NULL)))
		return vdpa_error(ENOMEM, "out of memory");
	return 0;
}

int
vdpa_shadow_create(const struct vdpa_mover_params *params, struct vdpa_mover **out)
{
	struct shadow *s = calloc(1, sizeof(*s));
	int rc;

	if (s == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	s->in_order = (params->guest.features >> VIRTIO_F_IN_ORDER & 1) != 0;
	for (unsigned int i = 0; i < BURST; i++)
		bind_short(s, i);
	rc = vdpa_mover_init(&s->m, &shadow_kind, params);
	if (rc == 0)
		rc = allocate(s);
	if (rc < 0) {
		vdpa_mover_free(&s->m);
		return rc;
	}
	*out = &s->m;
	return 0;
}

static int
do_count_reading(void *arg)
{
	const struct vdpa_mover *m = arg;

	return m->failed ? -1 : (int)vdpa_vring_reading(m->ring);
}

bool
vdpa_shadow_drain(struct vdpa_mover *m, unsigned int ms)
{
	struct timespec nap = {.tv_nsec = 20000};
	uint64_t waited = 0;

	if (ms > 0)
		vdpa_mover_take_again(m);
	vdpa_mover_pause(m, true);
	while (m->running) {
		int n = vdpa_mover_on_loop(m, do_count_reading, m);

		if (n == 0)
			break;
		if (n < 0 || waited > (uint64_t)ms * 1000000)
			return false;
		nanosleep(&nap, NULL);
		waited += (uint64_t)nap.tv_nsec;
		nap.tv_nsec = RTE_MIN(nap.tv_nsec * 2, 1000000L);
	}
	return true;
}

struct leave {
	struct shadow *s;
	bool leave;
};

static int
do_leave(void *arg)
{
	const struct leave *l = arg;
	struct shadow *s = l->s;
	struct vdpa_mover *m = &s->m;

	s->leaving = l->leave;
	s->resting = false;
	s->rest_until = 0;
	__atomic_store_n(&m->stats.to_go, l->leave ? vdpa_vq_to_beginning(m->guest) : 0,
			 __ATOMIC_RELAXED);
	__atomic_store_n(&m->stats.leaving, l->leave, __ATOMIC_RELAXED);
	vdpa_poller_wake(&m->poller);
	return 0;
}

void
vdpa_shadow_leave(struct vdpa_mover *m, bool leave)
{
	if (m->running)
		vdpa_mover_on_loop(m, do_leave, &(struct leave){shadow_of(m), leave});
}

int
vdpa_shadow_end(struct vdpa_mover *m, struct vdpa_vq_state *state, unsigned int *in_flight)
{
	struct shadow *s = shadow_of(m);
	const struct vdpa_vq_taken *oldest = NULL;
	int id, rc;

	vdpa_mover_end(m);
	id = vdpa_vring_oldest(m->ring);
	*in_flight = s->in_order ? s->n_waiting : vdpa_vring_in_flight(m->ring);
	if (s->in_order && s->n_waiting > 0)
		oldest = &s->waiting[s->first].taken;
	else if (id >= 0)
		oldest = &s->taken[id];
	rc = vdpa_vq_get_state(m->guest, state);
	if (rc != -EBUSY || oldest == NULL)
		return rc;
	/* A used chain among those that would be given back would be executed twice. */
	if (vdpa_vq_popped_since(m->guest, oldest) != vdpa_vring_in_flight(m->ring))
		return -EBUSY;
	vdpa_vq_rewind(m->guest, oldest);
	return vdpa_vq_get_state(m->guest, state);
}

int
vdpa_shadow_put_back(struct vdpa_mover *m, struct vdpa_vq_state *state)
{
	return vdpa_vq_put_back(m->guest, state);
}
