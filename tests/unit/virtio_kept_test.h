/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Two processes, one after the other, that have a virtio function: the first one leaves it in the
 * store of kept_store_test.h. Include it after cmocka.h and virtio_test.h.
 */

#ifndef VIRTIO_KEPT_TEST_H
#define VIRTIO_KEPT_TEST_H

#include <stdbool.h>
#include <stdint.h>

#include "kept_store_test.h"

static inline int
setup_store(void **state)
{
	store.on = true;
	return setup(state);
}

static inline int
teardown_store(void **state)
{
	int rc;

	/* A device that is deleted is not kept. */
	vdpa_dev_del("v0");
	__wrap_vdpa_restart_del("v0", store.what);
	rc = teardown(state);
	store.on = false;
	store.len = -ENOENT;
	store.writes = 0;
	store.write_err = 0;
	store.given_up = store.holds = false;
	store.lost = 0;
	return rc;
}

static inline void
begin(struct fixture *f, uint16_t pairs, uint64_t features)
{
	fake_virtio_init(&f->v, "v0", pairs);
	f->v.pci.keeps = true;
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.features = V1 | (pairs > 1 ? MQ : 0) | features;
	fake_guest_set_queues(&f->guest, (uint16_t)(2 * pairs));
	assert_int_equal(vdpa_device_can_restart(f->vdev), 0);
	assert_true(f->v.pci.is_kept);
	start(f);
}

/* As at the end of a process that leaves its devices: none of them can be deleted by itself then.
 */
static inline void
end_process(struct fixture *f)
{
	store.leaves = true;
	assert_int_equal(vdpa_device_leave(f->vdev), 0);
	assert_int_equal(vdpa_dev_del("v0"), -EBUSY);
	vdpa_dev_del_all();
	store.leaves = false;
}

/* The process ends, and the function goes on. */
static inline void
leave(struct fixture *f)
{
	end_process(f);
	assert_null(f->v.pci.open);
	assert_true(f->v.pci.is_left);
	assert_int_equal(f->v.status, 0x0f);
	assert_true(bus_master(f));
	assert_true(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 2);
}

/* The next one begins. */
static inline void
come_back(struct fixture *f)
{
	if (add(f, WORDS) < 0)
		fail_msg("%s", vdpa_error_message());
	(void)vdpa_device_can_restart(f->vdev);
}

/* As a front end's record says it. */
static inline int
start_again(struct fixture *f)
{
	int rc = vdpa_device_set_memory(f->vdev, f->guest.tlb);

	return rc < 0 ? rc : vdpa_device_start(f->vdev, &f->guest.start);
}

/* What the function has, but for what selects and what rings. */
struct snapshot {
	uint8_t status, config[64];
	uint64_t features;
	uint16_t config_vector;
	struct fake_virtio_vq vq[FAKE_VIRTIO_VQS];
	unsigned int commands, resets;
	bool msix_on;
	unsigned int n_msix;
};

static inline struct snapshot
look(const struct fixture *f)
{
	struct snapshot s = {.status = f->v.status,
			     .features = f->v.driver_features,
			     .config_vector = f->v.config_vector,
			     .commands = f->v.commands,
			     .resets = f->v.pci.resets,
			     .msix_on = f->v.pci.msix_on,
			     .n_msix = f->v.pci.n_msix};

	memcpy(s.config, f->v.pci.config, sizeof(s.config));
	memcpy(s.vq, f->v.vq, sizeof(s.vq));
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++)
		s.vq[i].kicks = 0;
	return s;
}

static inline void
assert_same(const struct fixture *f, const struct snapshot *before)
{
	struct snapshot now = look(f);

	assert_int_equal(now.status, before->status);
	assert_int_equal(now.features, before->features);
	assert_int_equal(now.config_vector, before->config_vector);
	assert_int_equal(now.commands, before->commands);
	assert_int_equal(now.resets, before->resets);
	assert_int_equal(now.n_msix, before->n_msix);
	assert_true(now.msix_on);
	assert_memory_equal(now.config, before->config, sizeof(now.config));
	assert_memory_equal(now.vq, before->vq, sizeof(now.vq));
}

/* What the device reaches is the guest's memory, by this process' mapping, and the control queue.
 */
static inline void
assert_mapped(struct fixture *f)
{
	const struct vdpa_dma_buf *own = &device(f)->ctrl.mem;

	assert_int_equal(f->v.pci.n_mapped, 2);
	assert_ptr_equal(fake_pci_dma(&f->v.pci, MEM_IOVA, MEM_SIZE),
			 vdpa_iotlb_range(f->guest.tlb, MEM_IOVA, MEM_SIZE));
	assert_ptr_equal(fake_pci_dma(&f->v.pci, own->iova, own->size), own->va);
}

#endif /* VIRTIO_KEPT_TEST_H */
