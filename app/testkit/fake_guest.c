/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The guest without a virtual machine: where its rings lie, and a start of a device on them. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/virtio_config.h>

#include "fake_guest.h"

#define AVAIL_AT UINT64_C(0x1000)
#define USED_AT	 UINT64_C(0x2000)

static void
init_vq(struct fake_guest *g, unsigned int idx)
{
	uint64_t at = FAKE_GUEST_IOVA + idx * FAKE_GUEST_VQ_STEP;

	g->call[idx] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	g->kick[idx] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_true(g->call[idx] >= 0 && g->kick[idx] >= 0);
	g->vqs[idx] = (struct vdpa_vq_config){.num = FAKE_GUEST_VQ_NUM,
					      .enabled = true,
					      .desc = at,
					      .driver = at + AVAIL_AT,
					      .device = at + USED_AT,
					      .kick_fd = g->kick[idx],
					      .call_fd = g->call[idx]};
}

void
fake_guest_init(struct fake_guest *g)
{
	struct vdpa_mem_region_spec spec = {.iova = FAKE_GUEST_IOVA, .size = FAKE_GUEST_SIZE};

	memset(g, 0, sizeof(*g));
	g->mem_fd = spec.fd = memfd_create("fake_guest", MFD_CLOEXEC);
	assert_true(g->mem_fd >= 0);
	assert_int_equal(ftruncate(g->mem_fd, (off_t)FAKE_GUEST_SIZE), 0);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &g->tlb), 0);
	for (unsigned int i = 0; i < FAKE_GUEST_VQS; i++)
		init_vq(g, i);
	g->start = (struct vdpa_start_config){
		.features = UINT64_C(1) << VIRTIO_F_VERSION_1, .iotlb = g->tlb, .vqs = g->vqs};
}

void
fake_guest_fini(struct fake_guest *g)
{
	vdpa_iotlb_put(g->tlb);
	close(g->mem_fd);
	for (unsigned int i = 0; i < FAKE_GUEST_VQS; i++) {
		close(g->call[i]);
		close(g->kick[i]);
	}
}

void
fake_guest_set_queues(struct fake_guest *g, uint16_t nvqs)
{
	assert_in_range(nvqs, 1, FAKE_GUEST_VQS);
	g->start.nvqs = nvqs;
	for (uint16_t i = 0; i < nvqs; i++)
		g->vqs[i].ready = true;
}

void
fake_guest_start(struct fake_guest *g, struct vdpa_device *vdev)
{
	if ((g->start.features & UINT64_C(1) << VIRTIO_F_RING_PACKED) != 0)
		for (uint16_t i = 0; i < g->start.nvqs; i++)
			g->vqs[i].state.packed.last_avail_counter =
				g->vqs[i].state.packed.last_used_counter = 1;
	if (vdpa_device_start(vdev, &g->start) < 0)
		fail_msg("start: %s", vdpa_error_message());
}

void
fake_guest_leave(struct vdpa_device *vdev)
{
	if (vdpa_device_set_memory(vdev, NULL) < 0)
		fail_msg("the memory does not go: %s", vdpa_error_message());
}
