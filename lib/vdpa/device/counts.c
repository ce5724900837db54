/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Statistics of a device and its virtqueues; see counts.h. */

#include <string.h>
#include <time.h>

#include "counts.h"
#include "device_priv.h"
#include "ring_index.h"

/* Looks at a ring that moves on meanwhile. */
#define RING_LOOKS 4

static uint64_t
counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void
set(uint64_t *value, uint64_t now)
{
	__atomic_store_n(value, now, __ATOMIC_RELAXED);
}

static bool
runs(enum vdpa_device_state state)
{
	return state == VDPA_STATE_RUNNING || state == VDPA_STATE_SUSPENDED;
}

void
vdpa_counts_state(struct vdpa_device *vdev, enum vdpa_device_state old, enum vdpa_device_state now)
{
	struct vdpa_device_counts *c = &vdev->core->counts;

	if (!runs(old) && runs(now))
		vdpa_count(&c->starts);
	else if (runs(old) && !runs(now))
		vdpa_count(&c->stops);
}

void
vdpa_counts_memory(struct vdpa_device *vdev)
{
	const struct vdpa_iotlb *tlb = vdev->core->iotlb;
	struct vdpa_device_counts *c = &vdev->core->counts;

	set(&c->memory_bytes, tlb != NULL ? tlb->size : 0);
	set(&c->memory_regions, tlb != NULL ? tlb->n : 0);
}

void
vdpa_counts_start(struct vdpa_device *vdev, uint64_t us)
{
	set(&vdev->core->counts.start_us, us);
}

void
vdpa_device_add_connections(struct vdpa_device *vdev, unsigned int n)
{
	uint64_t *connections = &vdev->core->counts.connections;
	uint64_t unknown = 0;

	__atomic_compare_exchange_n(connections, &unknown, 1, false, __ATOMIC_RELAXED,
				    __ATOMIC_RELAXED);
	__atomic_add_fetch(connections, n, __ATOMIC_RELAXED);
}

void
vdpa_device_doorbell_given(struct vdpa_device *vdev, uint16_t idx)
{
	__atomic_store_n(&vdev->core->vqs[idx].counts.gave_doorbell, true, __ATOMIC_RELAXED);
}

/* The vocabulary's number of a name; VDPA_QUEUE_STAT_COUNT: it is the driver's own. */
static unsigned int
id_of(const char *name)
{
#define NAME(id, name, ...) name,
	static const char *const names[] = {VDPA_QUEUE_STATS(NAME)};
#undef NAME
	unsigned int id = 0;

	while (id < VDPA_QUEUE_STAT_COUNT && strcmp(names[id], name) != 0)
		id++;
	return id;
}

static void
know(struct vdpa_queue_stats *s, unsigned int id, uint64_t value)
{
	s->known[id] = true;
	s->value[id] = value;
}

static void
ask_driver(struct vdpa_device *vdev, uint16_t idx, struct vdpa_queue_stats *s)
{
	struct vdpa_stat all[VDPA_VENDOR_STATS_MAX];
	const struct vdpa_config_ops *ops = vdev->config;
	int n = ops->get_vendor_vq_stats != NULL
			? ops->get_vendor_vq_stats(vdev, idx, all, RTE_DIM(all))
			: 0;

	for (int i = 0; i < RTE_MIN(n, (int)RTE_DIM(all)); i++) {
		unsigned int id = id_of(all[i].name);

		if (id < VDPA_QUEUE_STAT_COUNT)
			know(s, id, all[i].value);
		else
			s->vendor[s->n_vendor++] = all[i];
	}
}

static uint64_t
find(const struct vdpa_stat *stats, unsigned int n, const char *name)
{
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(stats[i].name, name) == 0)
			return stats[i].value;
	return 0;
}

/* What passed between the guest and the path that the queue is on. */
static struct vdpa_signals
of_path(const struct vdpa_core_vq *vq, struct vdpa_queue_stats *s)
{
	s->n_path_stats = vq->path->get_stats != NULL
				  ? vq->path->get_stats(vq, s->path_stats, VDPA_PATH_STATS_MAX)
				  : 0;
	return (struct vdpa_signals){
		.kicks = find(s->path_stats, s->n_path_stats, VDPA_PATH_STAT_GUEST_KICKS),
		.interrupts = find(s->path_stats, s->n_path_stats, VDPA_PATH_STAT_CALLS)};
}

/* What the driver says; 0 where it does not. */
static struct vdpa_signals
of_device(const struct vdpa_queue_stats *s)
{
	return (struct vdpa_signals){.kicks = s->value[VDPA_QUEUE_STAT_KICKS],
				     .interrupts = s->value[VDPA_QUEUE_STAT_INTERRUPTS]};
}

static struct vdpa_signals
ask_device(struct vdpa_core_vq *vq)
{
	struct vdpa_queue_stats s = {.n_vendor = 0};

	ask_driver(vq->vdev, (uint16_t)(vq - vq->vdev->core->vqs), &s);
	return of_device(&s);
}

void
vdpa_counts_path_begins(struct vdpa_core_vq *vq)
{
	vq->counts.before = ask_device(vq);
}

void
vdpa_counts_path_ends(struct vdpa_core_vq *vq)
{
	struct vdpa_vq_counts *c = &vq->counts;
	struct vdpa_queue_stats s = {.n_vendor = 0};
	struct vdpa_signals now = ask_device(vq), path = of_path(vq, &s);

	c->hidden.kicks += now.kicks - c->before.kicks;
	c->hidden.interrupts += now.interrupts - c->before.interrupts;
	c->ended.kicks += path.kicks;
	c->ended.interrupts += path.interrupts;
	c->taken = path;
}

void
vdpa_counts_path_ended(struct vdpa_core_vq *vq, struct vdpa_signals all)
{
	struct vdpa_vq_counts *c = &vq->counts;

	c->ended.kicks += all.kicks - c->taken.kicks;
	c->ended.interrupts += all.interrupts - c->taken.interrupts;
	c->taken = (struct vdpa_signals){0};
}

/* Of the device's signals those that were the guest's. */
static uint64_t
direct(uint64_t device, uint64_t hidden, uint64_t before, bool on_path)
{
	return on_path ? before - hidden : device - hidden;
}

/* The guest's kicks and interrupts, of all paths that the queue has been on. Show lock. */
static void
sum_up(struct vdpa_device *vdev, struct vdpa_core_vq *vq, struct vdpa_queue_stats *s)
{
	const struct vdpa_vq_counts *c = &vq->counts;
	bool on_path = vq->path != &vdpa_path_direct;
	bool ran_direct = __atomic_load_n(&c->ran_direct, __ATOMIC_RELAXED);
	bool sees_kicks = vdev->config->set_vq_kick == NULL &&
			  !__atomic_load_n(&c->gave_doorbell, __ATOMIC_RELAXED);
	struct vdpa_signals path = of_path(vq, s), device = of_device(s);
	uint64_t relayed = counted(&c->relayed), kicks;
	bool *known = s->known;

	path.kicks += c->ended.kicks;
	path.interrupts += c->ended.interrupts;
	kicks = known[VDPA_QUEUE_STAT_KICKS]
			? direct(device.kicks, c->hidden.kicks, c->before.kicks, on_path)
			: relayed;
	known[VDPA_QUEUE_STAT_KICKS] |= sees_kicks || !ran_direct;
	s->value[VDPA_QUEUE_STAT_KICKS] = kicks + path.kicks;
	known[VDPA_QUEUE_STAT_INTERRUPTS] |= !ran_direct;
	s->value[VDPA_QUEUE_STAT_INTERRUPTS] =
		direct(device.interrupts, c->hidden.interrupts, c->before.interrupts, on_path) +
		path.interrupts;
	know(s, VDPA_QUEUE_STAT_KICKS_RELAYED, relayed + path.kicks);
}

void
vdpa_device_get_vq_stats(struct vdpa_device *vdev, uint16_t idx, struct vdpa_queue_stats *s)
{
	struct vdpa_core_vq *vq = &vdev->core->vqs[idx];

	memset(s->known, 0, sizeof(s->known));
	memset(s->value, 0, sizeof(s->value));
	s->n_vendor = 0;
	pthread_mutex_lock(&vdev->core->show_lock);
	s->path = vq->path->name;
	ask_driver(vdev, idx, s);
	sum_up(vdev, vq, s);
	pthread_mutex_unlock(&vdev->core->show_lock);
	if (s->known[VDPA_QUEUE_STAT_ERRORS])
		s->value[VDPA_QUEUE_STAT_ERRORS] += counted(&vq->counts.failures);
}

void
vdpa_device_get_stats(struct vdpa_device *vdev, struct vdpa_device_stats *s)
{
	const struct vdpa_device_counts *c = &vdev->core->counts;
	uint64_t connections = counted(&c->connections), start_us = counted(&c->start_us);

	*s = (struct vdpa_device_stats){
		.value = {[VDPA_DEVICE_STAT_MEMORY_BYTES] = counted(&c->memory_bytes),
			  [VDPA_DEVICE_STAT_MEMORY_REGIONS] = counted(&c->memory_regions),
			  [VDPA_DEVICE_STAT_START_US] = start_us,
			  [VDPA_DEVICE_STAT_STARTS] = counted(&c->starts),
			  [VDPA_DEVICE_STAT_STOPS] = counted(&c->stops),
			  [VDPA_DEVICE_STAT_FAILURES] = counted(&c->failures),
			  [VDPA_DEVICE_STAT_CONNECTIONS] = connections - (connections != 0)}};
	memset(s->known, true, sizeof(s->known));
	s->known[VDPA_DEVICE_STAT_START_US] = start_us != 0;
	s->known[VDPA_DEVICE_STAT_CONNECTIONS] = connections != 0;
}

/*
 * Buffers in a split ring: the device uses what was available, so that its index is looked at
 * first. A ring that moves on by more than its size between the two looks is looked at again.
 */
static bool
split_depth(const struct vdpa_iotlb *tlb, const struct vdpa_vq_config *conf, uint64_t *depth)
{
	uint16_t used, avail;

	for (unsigned int i = 0; i < RING_LOOKS; i++) {
		if (!vdpa_ring_used_idx(tlb, conf->device, &used) ||
		    !vdpa_ring_avail_idx(tlb, conf->driver, &avail))
			return false;
		*depth = (uint16_t)(avail - used);
		if (*depth <= conf->num)
			return true;
	}
	return false;
}

static void
look_at_ring(const struct vdpa_device *vdev, const struct vdpa_core_vq *vq,
	     struct vdpa_queue_stats *s)
{
	const struct vdpa_device_core *core = vdev->core;
	uint64_t depth;

	if (!vdpa_device_started(vdev) || vq->conf.num == 0) {
		know(s, VDPA_QUEUE_STAT_RING_SIZE, 0);
		know(s, VDPA_QUEUE_STAT_RING_DEPTH, 0);
		return;
	}
	know(s, VDPA_QUEUE_STAT_RING_SIZE, vq->conf.num);
	/* A packed ring says of no descriptor whether the driver has got to it. */
	if ((core->guest_features & RTE_BIT64(VIRTIO_F_RING_PACKED)) == 0 &&
	    split_depth(core->iotlb, &vq->conf, &depth))
		know(s, VDPA_QUEUE_STAT_RING_DEPTH, depth);
}

void
vdpa_device_look_at_rings(struct vdpa_device *vdev, struct vdpa_queue_stats *s, uint16_t n)
{
	struct vdpa_device_core *core = vdev->core;
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += VDPA_RINGS_WAIT_US * 1000L;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	if (pthread_mutex_clocklock(&core->lock, CLOCK_MONOTONIC, &until) != 0)
		return;
	for (uint16_t i = 0; i < n; i++)
		look_at_ring(vdev, &core->vqs[i], &s[i]);
	pthread_mutex_unlock(&core->lock);
}
