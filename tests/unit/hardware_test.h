/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device like a standard virtio function, with guest memory in a DMA domain, for tests of the
 * core. Include it after cmocka.h.
 */

#ifndef HARDWARE_TEST_H
#define HARDWARE_TEST_H

#include <errno.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/virtio_config.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"
#include "vdpa_event.h"

#define REGIONS	    3
#define REGION_SIZE 0x10000
#define IOVA(i)	    (0x100000 * ((uint64_t)(i) + 1))
#define V1	    (UINT64_C(1) << VIRTIO_F_VERSION_1)

/* The transport below the domain: which IOVAs are mapped, and which call is to fail. */
struct transport {
	uint64_t mapped[1024];
	unsigned int n;
	unsigned int maps, unmaps;
	void (*on_change)(struct transport *t); /* before each call; NULL: none */
	unsigned int fail_map, fail_unmap;	/* the n-th from 1 and all later ones; 0: none */
};

struct fixture {
	struct transport transport;
	struct vdpa_dma_domain *dma;
	struct fake_device *fake;
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb; /* regions 0 and 1 */
	struct vdpa_vq_config vqs[FAKE_VQS];
	struct vdpa_start_config start;
	int fd[REGIONS];
	unsigned int freed;
};

static inline int
transport_map(void *arg, const struct vdpa_dma_mapping *m)
{
	struct transport *t = arg;

	if (t->on_change != NULL)
		t->on_change(t);
	if (++t->maps >= t->fail_map && t->fail_map != 0)
		return vdpa_error(ENOSPC, "the IOMMU is full");
	assert_true(t->n < 1024);
	t->mapped[t->n++] = m->iova;
	return 0;
}

static inline int
transport_unmap(void *arg, const struct vdpa_dma_mapping *m)
{
	struct transport *t = arg;

	if (t->on_change != NULL)
		t->on_change(t);
	if (++t->unmaps >= t->fail_unmap && t->fail_unmap != 0)
		return vdpa_error(EIO, "the IOMMU does not answer");
	for (unsigned int i = 0; i < t->n; i++)
		if (t->mapped[i] == m->iova) {
			t->mapped[i] = t->mapped[--t->n];
			return 0;
		}
	fail_msg("0x%lx is not mapped", (unsigned long)m->iova);
	return -ENOENT;
}

static const struct vdpa_dma_ops transport_ops = {.map = transport_map, .unmap = transport_unmap};

/* A table of the regions whose bits are set. */
static inline struct vdpa_iotlb *
table(struct fixture *f, const struct vdpa_iotlb *old, unsigned int regions)
{
	struct vdpa_mem_region_spec specs[REGIONS];
	struct vdpa_iotlb *tlb = NULL;
	unsigned int n = 0;

	for (unsigned int i = 0; i < REGIONS; i++)
		if ((regions & 1u << i) != 0)
			specs[n++] = (struct vdpa_mem_region_spec){.iova = IOVA(i),
								   .uaddr = IOVA(i),
								   .size = REGION_SIZE,
								   .fd = f->fd[i]};
	assert_int_equal(vdpa_iotlb_create(old, specs, n, &tlb), 0);
	return tlb;
}

static inline int
setup(void **state)
{
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	for (unsigned int i = 0; i < REGIONS; i++) {
		f->fd[i] = memfd_create("guest", MFD_CLOEXEC);
		assert_int_equal(ftruncate(f->fd[i], REGION_SIZE), 0);
	}
	f->tlb = table(f, NULL, 0x3);
	assert_int_equal(
		vdpa_dma_domain_create("iommu", &transport_ops, &f->transport, &limits, &f->dma),
		0);
	f->fake = fake_hardware_new("hw0", f->dma, false);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	f->vdev = &f->fake->vdev;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		f->vqs[i] = (struct vdpa_vq_config){.ready = i < 2,
						    .enabled = true,
						    .num = 8,
						    .desc = IOVA(0) + i * 0x1000,
						    .driver = IOVA(0) + i * 0x1000 + 0x400,
						    .device = IOVA(0) + i * 0x1000 + 0x800,
						    .kick_fd = -1,
						    .call_fd = -1};
	f->start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->tlb, .vqs = f->vqs, .nvqs = FAKE_VQS};
	*state = f;
	return 0;
}

static inline int
teardown(void **state)
{
	struct fixture *f = *state;

	f->fake->fail_reset = false;
	f->transport.fail_unmap = 0;
	vdpa_unregister_device(f->vdev);
	assert_int_equal(f->transport.n, 0);
	vdpa_put_device(f->vdev);
	assert_int_equal(f->freed, 1);
	vdpa_dma_domain_destroy(f->dma);
	assert_int_equal(f->tlb->refcnt, 1);
	vdpa_iotlb_put(f->tlb);
	for (unsigned int i = 0; i < REGIONS; i++)
		close(f->fd[i]);
	free(f);
	return 0;
}

/* The rings of queue idx in guest memory. */
static inline uint8_t *
memory_of(struct fixture *f, uint64_t iova)
{
	uint64_t len = 1;

	return vdpa_iotlb_translate(f->tlb, iova, &len);
}

static inline void
put16(struct fixture *f, uint64_t iova, uint16_t value)
{
	memcpy(memory_of(f, iova), &value, sizeof(value));
}

/* What driver and device have written to a split ring. */
static inline void
split_ring(struct fixture *f, unsigned int idx, uint16_t avail, uint16_t used)
{
	/* No head twice among those that are under way. */
	for (uint16_t i = 0; i < avail && i < f->vqs[idx].num; i++)
		put16(f, f->vqs[idx].driver + 4 + 2 * (uint64_t)i, i);
	put16(f, f->vqs[idx].driver + 2, avail);
	put16(f, f->vqs[idx].device + 2, used);
	/* The length of a used buffer. */
	if (used != 0)
		put16(f, f->vqs[idx].device + 4 + 4, 12);
}

/* Whether a queue is relayed: the device has the guest's descriptors, and rings of ours. */
static inline bool
is_relayed(struct fixture *f, uint16_t idx)
{
	struct vdpa_stat stats[16];
	unsigned int n = RTE_DIM(stats);
	const struct fake_vq *vq = &f->fake->vq[idx];

	if (strcmp(vdpa_device_vq_path(f->vdev, idx, stats, &n), "relay") != 0)
		return false;
	assert_true(vq->desc == f->vqs[idx].desc);
	for (unsigned int i = 0; i < REGIONS; i++)
		assert_true(vq->driver - IOVA(i) >= REGION_SIZE &&
			    vq->device - IOVA(i) >= REGION_SIZE);
	assert_true(vq->ready);
	return true;
}

/* Whether a queue runs on a shadow, and the device has a ring of ours for it from its beginning. */
static inline bool
is_on_shadow(struct fixture *f, uint16_t idx)
{
	struct vdpa_stat stats[16];
	unsigned int n = RTE_DIM(stats);
	const char *path = vdpa_device_vq_path(f->vdev, idx, stats, &n);
	const struct fake_vq *vq = &f->fake->vq[idx];
	bool shadow = strcmp(path, "shadow") == 0;

	assert_true(shadow || strcmp(path, "direct") == 0);
	if (!shadow) {
		assert_true(vq->desc == f->vqs[idx].desc && vq->device == f->vqs[idx].device);
		return false;
	}
	for (unsigned int i = 0; i < REGIONS; i++)
		assert_true(vq->desc - IOVA(i) >= REGION_SIZE &&
			    vq->device - IOVA(i) >= REGION_SIZE);
	assert_int_equal(vq->state.split.avail_index, 0);
	assert_true(vq->ready);
	return true;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif /* HARDWARE_TEST_H */
