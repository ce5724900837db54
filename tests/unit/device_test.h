/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A fake device with its guest, for tests of the core's rules. Include it after cmocka.h. */

#ifndef DEVICE_TEST_H
#define DEVICE_TEST_H

#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "control_group.h"
#include "test_util.h"
#include <linux/virtio_config.h>

#include "device_priv.h"
#include "fake_device.h"

#define MEM_SIZE 0x100000
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)

struct fixture {
	struct fake_device *fake;
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb;
	struct vdpa_vq_config vqs[FAKE_VQS];
	struct vdpa_start_config start;
	int mem_fd, kick_fd[FAKE_VQS], call_fd;
	unsigned int freed;
};

static inline void
make_device(struct fixture *f, bool own_kick)
{
	f->fake = fake_device_new("fake0", own_kick);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	f->vdev = &f->fake->vdev;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	f->fake->calls = 0;
}

static inline int
setup_with(void **state, bool own_kick)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vdpa_mem_region_spec spec;

	f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->mem_fd, MEM_SIZE), 0);
	spec = (struct vdpa_mem_region_spec){
		.iova = 0x10000, .uaddr = 0x7f0000000000, .size = MEM_SIZE, .fd = f->mem_fd};
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &f->tlb), 0);
	f->call_fd = eventfd(0, EFD_NONBLOCK);
	for (unsigned int i = 0; i < FAKE_VQS; i++) {
		f->kick_fd[i] = eventfd(0, EFD_NONBLOCK);
		f->vqs[i] = (struct vdpa_vq_config){
			.ready = i < 2,
			.enabled = true,
			.num = 64,
			.desc = 0x10000 + i * 0x4000,
			.driver = 0x11000 + i * 0x4000,
			.device = 0x12000 + i * 0x4000,
			.kick_fd = f->kick_fd[i],
			.call_fd = f->call_fd,
		};
	}
	f->start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->tlb, .vqs = f->vqs, .nvqs = FAKE_VQS};
	make_device(f, own_kick);
	*state = f;
	return 0;
}

static inline int
setup(void **state)
{
	return setup_with(state, false);
}

static inline int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_unregister_device(f->vdev);
	vdpa_put_device(f->vdev);
	assert_int_equal(f->freed, 1);
	assert_int_equal(f->tlb->refcnt, 1);
	vdpa_iotlb_put(f->tlb);
	close(f->mem_fd);
	for (unsigned int i = 0; i < FAKE_VQS; i++)
		close(f->kick_fd[i]);
	close(f->call_fd);
	free(f);
	return 0;
}

static inline void
nothing_is_left(struct fixture *f)
{
	assert_int_equal(f->fake->status, 0);
	assert_int_equal(f->fake->config_fd, -1);
	/* But for the memory, until the front end's connection ends. */
	(void)vdpa_device_set_memory(f->vdev, NULL);
	assert_null(f->fake->tlb);
	assert_int_equal(f->tlb->refcnt, 1);
	for (unsigned int i = 0; i < FAKE_VQS; i++) {
		assert_false(f->fake->vq[i].ready);
		assert_int_equal(f->fake->vq[i].call_fd, -1);
		assert_int_equal(f->fake->vq[i].kick_fd, -1);
		/* No relay is left: a kick reaches nobody. */
		assert_null(f->vdev->core->vqs[i].relay.loop);
	}
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

#endif /* DEVICE_TEST_H */
