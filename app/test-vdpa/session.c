/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A driver's session with a device; see session.h. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <rte_common.h>

#include "clock.h"
#include "session.h"
#include "virtio_compat.h"

#define NUM_DEFAULT   256u
#define SLOTS_DEFAULT 64u
#define ROOM_DEFAULT  4096u
#define RING_ALIGN    4096u
#define DOORBELL_MAX  (1u << 20) /* bytes of one */
/* Guest memory in front of and behind the rings and buffers that nothing points to. */
#define MARGIN	      4096u

static uint64_t
align_up(uint64_t value, uint64_t to)
{
	return (value + to - 1) & ~(to - 1);
}

uint64_t
session_features(const struct target *t, unsigned int flags)
{
	static const struct {
		unsigned int flag, bit;
	} ring[] = {
		{SESSION_PACKED, VIRTIO_F_RING_PACKED},
		{SESSION_INDIRECT, VIRTIO_RING_F_INDIRECT_DESC},
		{SESSION_EVENT_IDX, VIRTIO_RING_F_EVENT_IDX},
		{SESSION_IN_ORDER, VIRTIO_F_IN_ORDER},
		{SESSION_RING_RESET, VIRTIO_F_RING_RESET},
		{SESSION_NOTIFICATION_DATA, VIRTIO_F_NOTIFICATION_DATA},
	};
	uint64_t want = RING_FEATURE(VIRTIO_F_VERSION_1) | t->must | t->own_features;

	for (unsigned int i = 0; i < sizeof(ring) / sizeof(ring[0]); i++)
		if (flags & ring[i].flag)
			want |= RING_FEATURE(ring[i].bit);
	if (t->device_id == TARGET_NET) {
		want |= RING_FEATURE(VIRTIO_NET_F_MAC) | RING_FEATURE(VIRTIO_NET_F_STATUS);
		if (flags & SESSION_MQ)
			want |= RING_FEATURE(VIRTIO_NET_F_MQ);
		if (flags & SESSION_MERGEABLE)
			want |= RING_FEATURE(VIRTIO_NET_F_MRG_RXBUF);
		if (flags & SESSION_CTRL_VQ)
			want |= RING_FEATURE(VIRTIO_NET_F_CTRL_VQ) |
				RING_FEATURE(VIRTIO_NET_F_CTRL_RX) |
				RING_FEATURE(VIRTIO_NET_F_CTRL_MAC_ADDR);
	} else if (t->device_id == TARGET_BLOCK) {
		want |= RING_FEATURE(VIRTIO_BLK_F_SIZE_MAX) | RING_FEATURE(VIRTIO_BLK_F_SEG_MAX) |
			RING_FEATURE(VIRTIO_BLK_F_RO) | RING_FEATURE(VIRTIO_BLK_F_BLK_SIZE) |
			RING_FEATURE(VIRTIO_BLK_F_FLUSH) | RING_FEATURE(VIRTIO_BLK_F_DISCARD) |
			RING_FEATURE(VIRTIO_BLK_F_WRITE_ZEROES) | RING_FEATURE(VIRTIO_BLK_F_MQ);
	}
	return want & (t->features | t->own_features);
}

static bool
in_session(const struct session *s, uint16_t idx)
{
	return idx >= s->params.first && idx - s->params.first < s->params.n;
}

static int
queue_init(struct session *s, uint16_t idx, uint64_t ring_iova, uint64_t slots_iova)
{
	struct queue *q = &s->q[idx];
	uint32_t n = s->params.slots;
	int rc;

	rc = ring_driver_init(&q->ring, &s->mem, s->features, s->num, ring_iova);
	if (rc < 0)
		return rc;
	q->used = true;
	q->nslots = n;
	q->slots = slots_iova;
	q->free = calloc(n, sizeof(*q->free));
	q->slot_of = calloc(s->num, sizeof(*q->slot_of));
	q->tag = calloc(n, sizeof(*q->tag));
	q->noted = calloc(n, sizeof(*q->noted));
	q->shadow = malloc((size_t)n * s->slot_size);
	q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->free == NULL || q->slot_of == NULL || q->tag == NULL || q->noted == NULL ||
	    q->shadow == NULL)
		return -ENOMEM;
	return q->kick_fd < 0 || q->call_fd < 0 ? -errno : 0;
}

static void
drop_doorbell(struct queue *q)
{
	if (q->doorbell_map != NULL)
		munmap(q->doorbell_map, q->doorbell_len);
	q->doorbell_map = NULL;
	q->doorbell = NULL;
}

static void
queue_fini(struct queue *q)
{
	drop_doorbell(q);
	if (q->kick_fd >= 0)
		close(q->kick_fd);
	if (q->call_fd >= 0)
		close(q->call_fd);
	free(q->shadow);
	free(q->noted);
	free(q->tag);
	free(q->slot_of);
	free(q->free);
	if (q->used)
		ring_driver_fini(&q->ring);
}

/* As after a reset, or at a place of its own: nothing posted, every slot free and filled with the
 * guard byte. */
static void
queue_reset(struct session *s, struct queue *q, const struct vdpa_vq_state *place)
{
	uint64_t count;

	if (place != NULL)
		ring_driver_reset_at(&q->ring, place);
	else
		ring_driver_reset(&q->ring);
	memset(slot_va(s, q, 0), SLOT_GUARD_BYTE, (size_t)q->nslots * s->slot_size);
	q->nfree = q->nslots;
	for (uint32_t i = 0; i < q->nslots; i++)
		q->free[i] = q->nslots - 1 - i;
	q->kicks = 0;
	q->calls = 0;
	/* What was signalled before the stop. */
	(void)!read(q->kick_fd, &count, sizeof(count));
	(void)!read(q->call_fd, &count, sizeof(count));
}

int
session_init(struct session *s, struct target *t, const struct session_params *params)
{
	uint64_t ring_bytes, slots_bytes, slots_iova, sizes[2];
	int rc;

	memset(s, 0, sizeof(*s));
	s->t = t;
	s->params = *params;
	if (s->params.n == 0)
		s->params.n = (uint16_t)(target_data_vqs(t) - params->first);
	s->features = session_features(t, params->flags);
	s->num = params->num != 0 ? params->num : NUM_DEFAULT;
	if (s->num > t->num_max)
		s->num = t->num_max;
	s->room = params->room != 0 ? params->room : ROOM_DEFAULT;
	s->rx_room = s->room;
	if (s->params.slots == 0)
		s->params.slots = s->num < SLOTS_DEFAULT ? s->num : SLOTS_DEFAULT;
	s->slot_size = (uint32_t)align_up(SLOT_DATA + s->room + SLOT_GUARD, 64);
	s->nq = t->nvqs;
	s->q = calloc(s->nq, sizeof(*s->q));
	if (s->q == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < s->nq; i++) {
		s->q[i].idx = i;
		s->q[i].kick_fd = s->q[i].call_fd = -1;
	}

	ring_bytes = align_up(ring_driver_bytes(s->num), RING_ALIGN);
	slots_bytes = (uint64_t)s->params.slots * s->slot_size;
	sizes[0] = align_up(2 * MARGIN + s->params.n * ring_bytes, RING_ALIGN);
	sizes[1] = align_up(2 * MARGIN + s->params.n * slots_bytes, RING_ALIGN);
	slots_iova = RING_MEM_IOVA + sizes[0];
	if (params->one_region != 0)
		sizes[0] = align_up(RTE_MAX(params->one_region, sizes[0] + sizes[1]), RING_ALIGN);
	rc = ring_mem_init(&s->mem, sizes, params->one_region != 0 ? 1 : 2);
	for (uint16_t i = 0; rc == 0 && i < s->nq; i++) {
		uint64_t k = (uint64_t)(i - s->params.first);

		if (in_session(s, i))
			rc = queue_init(s, i, RING_MEM_IOVA + MARGIN + k * ring_bytes,
					slots_iova + MARGIN + k * slots_bytes);
	}
	if (rc == 0)
		return 0;
	vdpa_error(rc, "guest memory for %u queues of %u: %s", s->params.n, s->num, strerror(-rc));
	session_fini(s);
	return rc;
}

int
session_fini(struct session *s)
{
	int rc = session_stop(s);

	for (uint16_t i = 0; s->q != NULL && i < s->nq; i++)
		queue_fini(&s->q[i]);
	free(s->q);
	ring_mem_fini(&s->mem);
	memset(s, 0, sizeof(*s));
	return rc;
}

void
session_vq_config(const struct session *s, uint16_t idx, struct vdpa_vq_config *conf)
{
	const struct queue *q = &s->q[idx];
	struct vdpa_vq_params params;

	ring_driver_params(&q->ring, &params);
	*conf = (struct vdpa_vq_config){
		.ready = true,
		.enabled = true,
		.num = params.num,
		.desc = params.desc,
		.driver = params.driver,
		.device = params.device,
		.state = params.state,
		/* An eventfd carries no data: such a queue is kicked by its doorbell. */
		.kick_fd = s->features & RING_FEATURE(VIRTIO_F_NOTIFICATION_DATA) ? -1 : q->kick_fd,
		.call_fd = q->call_fd,
	};
}

/* Start what `vqs` has, and note how long it takes. */
static int
start(struct session *s, const struct vdpa_vq_config *vqs)
{
	const struct vdpa_start_config conf = {
		.features = s->features, .iotlb = s->mem.tlb, .vqs = vqs, .nvqs = s->nq};
	uint64_t from = now_ns();
	int rc = s->t->ops->start(s->t, &conf);

	s->start_ns = now_ns() - from;
	s->started = rc == 0;
	return rc;
}

static struct vdpa_vq_config *
no_vqs(const struct session *s)
{
	struct vdpa_vq_config *vqs = calloc(s->nq, sizeof(*vqs));

	for (uint16_t i = 0; vqs != NULL && i < s->nq; i++)
		vqs[i].kick_fd = vqs[i].call_fd = -1;
	return vqs;
}

static int
start_at(struct session *s, const uint16_t *late, unsigned int n, const struct vdpa_vq_state *place)
{
	struct vdpa_vq_config *vqs = no_vqs(s);
	int rc;

	if (vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < s->nq; i++) {
		bool is_late = false;

		for (unsigned int k = 0; k < n; k++)
			is_late |= late[k] == i;
		s->q[i].running = s->q[i].used && !is_late;
		if (!s->q[i].used)
			continue;
		queue_reset(s, &s->q[i], place);
		if (!s->q[i].running)
			continue;
		session_vq_config(s, i, &vqs[i]);
		if (place != NULL)
			vqs[i].state = *place;
	}
	rc = start(s, vqs);
	free(vqs);
	return rc;
}

int
session_start_again(struct session *s, const struct vdpa_vq_state *places)
{
	struct vdpa_vq_config *vqs = no_vqs(s);
	int rc;

	if (vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < s->nq; i++) {
		s->q[i].running = s->q[i].used;
		if (!s->q[i].used)
			continue;
		session_vq_config(s, i, &vqs[i]);
		vqs[i].state = places[i];
	}
	rc = start(s, vqs);
	free(vqs);
	return rc;
}

int
session_start_without(struct session *s, const uint16_t *late, unsigned int n)
{
	return start_at(s, late, n, NULL);
}

int
session_start(struct session *s)
{
	return start_at(s, NULL, 0, NULL);
}

int
session_start_at(struct session *s, const struct vdpa_vq_state *place)
{
	return start_at(s, NULL, 0, place);
}

int
session_stop(struct session *s)
{
	uint64_t from;
	int rc;

	if (!s->started)
		return 0;
	s->started = false;
	for (uint16_t i = 0; i < s->nq; i++) {
		drop_doorbell(&s->q[i]);
		s->q[i].running = false;
	}
	from = now_ns();
	rc = s->t->ops->stop(s->t);
	s->stop_ns = now_ns() - from;
	return rc;
}

int
session_start_vq(struct session *s, uint16_t idx, const struct vdpa_vq_state *state)
{
	struct queue *q = &s->q[idx];
	struct vdpa_vq_config conf;
	int rc;

	if (state == NULL)
		queue_reset(s, q, NULL);
	session_vq_config(s, idx, &conf);
	if (state != NULL)
		conf.state = *state;
	rc = s->t->ops->start_vq(s->t, idx, &conf);
	q->running = rc == 0;
	return rc;
}

int
session_stop_vq(struct session *s, uint16_t idx, struct vdpa_vq_state *state)
{
	drop_doorbell(&s->q[idx]);
	s->q[idx].running = false;
	return s->t->ops->stop_vq(s->t, idx, state);
}

int
session_use_doorbell(struct session *s, uint16_t idx)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct vdpa_notification_area area;
	struct queue *q = &s->q[idx];
	struct stat st;
	uint64_t start;
	int rc;

	rc = s->t->ops->doorbell(s->t, idx, &area);
	if (rc < 0)
		return rc;
	if (area.size < sizeof(uint32_t) || area.size > DOORBELL_MAX ||
	    area.offset > (uint64_t)INT64_MAX - DOORBELL_MAX || area.offset % sizeof(uint32_t) != 0)
		return vdpa_error(EPROTO, "queue %u: a doorbell of %llu bytes at 0x%llx", idx,
				  (unsigned long long)area.size, (unsigned long long)area.offset);
	/* Behind the end of a file there is a signal, not a doorbell. */
	if (fstat(area.fd, &st) < 0 ||
	    (S_ISREG(st.st_mode) && (uint64_t)st.st_size < area.offset + area.size))
		return vdpa_error(EPROTO,
				  "queue %u: a doorbell of %llu bytes at 0x%llx, behind the "
				  "end of its file",
				  idx, (unsigned long long)area.size,
				  (unsigned long long)area.offset);
	start = area.offset & ~(page - 1);
	q->doorbell_len = align_up(area.offset + area.size, page) - start;
	q->doorbell_map = mmap(NULL, q->doorbell_len, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd,
			       (off_t)start);
	if (q->doorbell_map == MAP_FAILED) {
		q->doorbell_map = NULL;
		return vdpa_error(errno, "queue %u: its doorbell cannot be mapped: %s", idx,
				  strerror(errno));
	}
	q->doorbell = (uint8_t *)q->doorbell_map + (area.offset - start);
	return 0;
}

uint64_t
slot_iova(const struct session *s, const struct queue *q, uint32_t slot)
{
	return q->slots + (uint64_t)slot * s->slot_size;
}

uint8_t *
slot_va(const struct session *s, const struct queue *q, uint32_t slot)
{
	return ring_mem_va(&s->mem, slot_iova(s, q, slot));
}

void
slot_remember(struct session *s, struct queue *q, uint32_t slot)
{
	memcpy(q->shadow + (size_t)slot * s->slot_size, slot_va(s, q, slot), s->slot_size);
}

bool
slot_unchanged_but(const struct session *s, const struct queue *q, uint32_t slot,
		   const struct slot_range *ranges, unsigned int n, uint32_t *where)
{
	const uint8_t *was = q->shadow + (size_t)slot * s->slot_size, *is = slot_va(s, q, slot);

	for (uint32_t at = 0; at < s->slot_size;) {
		uint32_t end = s->slot_size, next = 0;

		/* From `at` to the next range, if `at` is not in one. */
		for (unsigned int i = 0; i < n; i++) {
			if (at >= ranges[i].offset && at - ranges[i].offset < ranges[i].len)
				next = ranges[i].offset + ranges[i].len;
			else if (ranges[i].offset > at && ranges[i].len > 0 &&
				 ranges[i].offset < end)
				end = ranges[i].offset;
		}
		if (next != 0) {
			at = next;
			continue;
		}
		if (memcmp(was + at, is + at, end - at) != 0) {
			while (was[at] == is[at])
				at++;
			*where = at;
			return false;
		}
		at = end;
	}
	return true;
}

/* Virtio 1.2, 4.1.5.2: the queue, and where the next buffer will be made available. */
static uint32_t
notification_data(const struct queue *q)
{
	return q->idx | (uint32_t)vdpa_vring_next(q->ring.ring) << 16;
}

void
queue_kick_always(struct queue *q)
{
	/* It is for all that was posted. */
	(void)ring_driver_kick_wanted(&q->ring);
	q->kicks++;
	if (q->doorbell != NULL) {
		/* What was posted before the doorbell, on any memory the doorbell is in. */
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		if (q->ring.features & RING_FEATURE(VIRTIO_F_NOTIFICATION_DATA))
			*(volatile uint32_t *)q->doorbell = notification_data(q);
		else
			*(volatile uint16_t *)q->doorbell = q->idx;
	} else {
		eventfd_write(q->kick_fd, 1);
	}
}

void
queue_kick(struct queue *q)
{
	if (ring_driver_kick_wanted(&q->ring))
		queue_kick_always(q);
}

uint64_t
queue_take_calls(struct queue *q)
{
	uint64_t count = 0;

	if (read(q->call_fd, &count, sizeof(count)) != sizeof(count))
		return 0;
	q->calls += count;
	return count;
}
