/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Devices whose queues change their paths, and what their guest and they do with the rings. Include
 * it after cmocka.h. */

#ifndef PATHS_TEST_H
#define PATHS_TEST_H

#include <sys/eventfd.h>

#include "hardware_test.h"

#define BUFFER	  (IOVA(1) + 0x3000)
#define LOG_BYTES 0x80
#define STANDS_AT 5

/* How a device stops one queue, and whether it tells and loads places. */
enum kind {
	ONE_BY_ONE, /* queues come and go; it tells places */
	RESETS_TELLING,
	RESETS, /* RING_RESET, and no places */
	RESTARTS_TELLING,
	RESTARTS,
	KINDS,
};

struct paths {
	struct fixture *f;
	enum kind kind;
	uint8_t bitmap[LOG_BYTES];
	struct vdpa_dirty_log log;
	uint64_t used_iova[FAKE_VQS];
	int kick[2], call[2];
};

static inline void
begin(struct paths *p, void **state, enum kind kind)
{
	struct fixture *f = *state;
	struct vdpa_device_core *core = f->vdev->core;

	memset(p, 0, sizeof(*p));
	p->f = f;
	p->kind = kind;
	p->log = (struct vdpa_dirty_log){.bitmap = p->bitmap, .size = LOG_BYTES, .fd = -1};
	f->fake->tells_places = kind != RESETS && kind != RESTARTS;
	f->fake->stops_vqs = kind == ONE_BY_ONE;
	f->fake->resets_vqs = kind == RESETS || kind == RESETS_TELLING;
	core->can.late_vqs = kind == ONE_BY_ONE;
	core->can.vq_reset = f->fake->resets_vqs;
	for (unsigned int i = 0; i < 2; i++) {
		p->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		p->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->vqs[i].kick_fd = p->kick[i];
		f->vqs[i].call_fd = p->call[i];
		/* Of the used ring; not where it lies, but in the log. */
		p->used_iova[i] = f->vqs[i].device;
	}
	p->used_iova[2] = p->used_iova[3] = UINT64_MAX;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (unsigned int i = 0; i < 2; i++) {
		split_ring(f, i, STANDS_AT, STANDS_AT);
		if (f->fake->tells_places)
			f->fake->vq[i].state.split.avail_index = STANDS_AT;
	}
}

/* The guest's connection ends, of a device that runs, stands still or has failed. */
static inline void
end(struct paths *p)
{
	struct fixture *f = p->f;

	f->fake->fail_at = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_true(LIST_EMPTY(&f->vdev->core->own));
	assert_int_equal(f->transport.n, 2);
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->transport.n, 0);
	for (unsigned int i = 0; i < 2; i++) {
		split_ring(f, i, 0, 0);
		f->vqs[i].kick_fd = f->vqs[i].call_fd = -1;
		close(p->kick[i]);
		close(p->call[i]);
	}
}

static inline int
start_log(struct paths *p)
{
	return vdpa_device_set_log(p->f->vdev, &p->log, p->used_iova);
}

static inline int
end_log(struct paths *p)
{
	return vdpa_device_set_log(p->f->vdev, NULL, NULL);
}

static inline bool
is_marked(const struct paths *p, uint64_t iova)
{
	return (__atomic_load_n(&p->bitmap[iova >> 15], __ATOMIC_ACQUIRE) >> (iova >> 12 & 7) &
		1) != 0;
}

static inline unsigned int
n_marked(const struct paths *p)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < LOG_BYTES; i++)
		n += (unsigned int)__builtin_popcount(p->bitmap[i]);
	return n;
}

/* The n-th buffer of a guest's queue, which the device fills. */
static inline void
post_buffer(struct paths *p, unsigned int idx, uint16_t n)
{
	const struct vdpa_vq_config *vq = &p->f->vqs[idx];
	struct vring_desc {
		uint64_t addr;
		uint32_t len;
		uint16_t flags, next;
	} desc = {.addr = BUFFER + idx * 0x1000, .len = 64, .flags = 2};

	memcpy(memory_of(p->f, vq->desc + (n % 8) * 16u), &desc, sizeof(desc));
	put16(p->f, vq->driver + 4 + 2 * (n % 8), n % 8);
	__atomic_store_n((uint16_t *)(void *)memory_of(p->f, vq->driver + 2), n + 1,
			 __ATOMIC_RELEASE);
	eventfd_write(p->kick[idx], 1);
}

static inline uint16_t
used_idx(struct paths *p, unsigned int idx)
{
	return __atomic_load_n((uint16_t *)(void *)memory_of(p->f, p->f->vqs[idx].device + 2),
			       __ATOMIC_ACQUIRE);
}

/* The memory of the shadow or relay that a queue's rings lie in. */
static inline const struct vdpa_own_area *
own_of(struct paths *p, unsigned int idx)
{
	const struct vdpa_own_area *own;

	LIST_FOREACH (own, &p->f->vdev->core->own, next)
		if (p->f->fake->vq[idx].device - own->dma.iova < own->dma.size)
			return own;
	fail_msg("the ring of queue %u lies nowhere", idx);
	return NULL;
}

/* The ring that the device was given for a queue, as it executes that. */
static inline struct vdpa_virtqueue *
open_ring(struct paths *p, unsigned int idx)
{
	const struct fake_vq *fake = &p->f->fake->vq[idx];
	const struct vdpa_own_area *own = own_of(p, idx);
	struct vdpa_mem_region_spec spec = {.iova = own->dma.iova,
					    .uaddr = own->dma.iova,
					    .size = own->dma.size,
					    .fd = own->dma.fd};
	struct vdpa_vq_params params = {.num = fake->num,
					.desc = fake->desc,
					.driver = fake->driver,
					.device = fake->device,
					.state = fake->state};
	struct vdpa_virtqueue *vq = vdpa_vq_alloc(-1);
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_add(p->f->tlb, &spec, &tlb), 0);
	assert_int_equal(vdpa_vq_setup(vq, &params, tlb), 0);
	vdpa_iotlb_put(tlb);
	vdpa_vq_set_call(vq, fake->call_fd);
	return vq;
}

/* The next buffer of it; the chain's own iovec. */
static inline void
take(struct vdpa_virtqueue *vq, struct vdpa_vq_chain *chain, struct iovec *iov)
{
	int rc = 0;

	*chain = (struct vdpa_vq_chain){.iov = iov, .iov_max = 1};
	for (unsigned int i = 0; rc == 0 && i < 5000; i++) {
		rc = vdpa_vq_pop(vq, chain);
		usleep(rc == 0 ? 1000 : 0);
	}
	assert_int_equal(rc, 1);
}

static inline void
use(struct vdpa_virtqueue *vq, const struct vdpa_vq_chain *chain)
{
	memset(chain->iov[0].iov_base, 0x5a, 8);
	vdpa_vq_push(vq, chain, 8);
	vdpa_vq_flush(vq);
	vdpa_vq_notify(vq);
}

static inline void
execute(struct paths *p, unsigned int idx, unsigned int n)
{
	struct vdpa_virtqueue *vq = open_ring(p, idx);
	struct vdpa_vq_chain chain;
	struct iovec iov;

	/* The place of a ring that is relayed is the device's to say. */
	if (p->f->fake->vq[idx].desc == p->f->vqs[idx].desc)
		p->f->fake->vq[idx].state.split.avail_index += (uint16_t)n;
	for (; n > 0; n--) {
		take(vq, &chain, &iov);
		use(vq, &chain);
	}
	vdpa_vq_free(vq);
}

static inline bool
loads_places(enum kind kind)
{
	return kind == ONE_BY_ONE || kind == RESETS_TELLING || kind == RESTARTS_TELLING;
}

/* Whether a queue has rings of ours: a relay's where the device loads places, else a shadow's. */
static inline bool
has_changed(struct fixture *f, uint16_t idx, enum kind kind)
{
	return loads_places(kind) ? is_relayed(f, idx) : is_on_shadow(f, idx);
}

#endif /* PATHS_TEST_H */
