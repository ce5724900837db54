/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Starts and stops of the virtio driver: what it sets up, that nothing is left of a session, where
 * a queue stands, and queues that come late.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

/* Start and stop. */

static void
a_start_sets_up_what_the_front_end_gave(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	start(f);
	assert_int_equal(f->v.status, 0x0f);
	assert_true(bus_master(f));
	/* The driver's own features beside the guest's. */
	assert_int_equal(f->v.driver_features, V1 | MQ | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
						       RTE_BIT64(VIRTIO_F_RING_RESET) |
						       RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) |
						       RTE_BIT64(VIRTIO_NET_F_CTRL_RX) |
						       RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR));
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].enable, 1);
		assert_int_equal(f->v.vq[i].size, 64);
		assert_int_equal(f->v.vq[i].desc, f->guest.vqs[i].desc);
		assert_int_equal(f->v.vq[i].driver, f->guest.vqs[i].driver);
		assert_int_equal(f->v.vq[i].device, f->guest.vqs[i].device);
	}
	/* Guest memory and the control queue. */
	assert_int_equal(f->v.pci.n_mapped, 2);
	assert_int_equal(f->v.vq[4].enable, 1);
	assert_int_equal(f->v.vq[4].vector, FAKE_VIRTIO_NO_VECTOR);
}

static void
a_stop_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	for (unsigned int i = 0; i < 10; i++) {
		f->guest.start.features = V1 | MQ | (i % 2 == 0 ? PACKED : 0);
		for (unsigned int q = 0; q < 4; q++)
			f->guest.vqs[q].state = (struct vdpa_vq_state){0};
		start(f);
		assert_true(count_fds() > idle);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		assert_int_equal(count_fds(), idle);
		assert_int_equal(f->v.status, 0);
		assert_false(f->v.pci.msix_on);
		assert_false(bus_master(f));
		assert_null(device(f)->hw.doorbells.va);
	}
	assert_int_equal(f->v.pci.resets, 0);
}

/* The control queue's ring is kept, and what a guest had the device write there is not. */
static void
starts_of_one_binding_map_nothing_again(void **state)
{
	struct fixture *f = *state;
	struct vdpa_dma_stats first, now;
	const struct vdpa_dma_buf *own;

	add_net(f, 2, WORDS);
	start(f);
	vdpa_dma_get_stats(f->vdev->dma, &first);
	assert_int_equal(first.maps, 2);
	own = &device(f)->ctrl.mem;
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		memset(own->va, 0xff, own->size);
		f->guest.start.features = V1 | MQ | (i % 2 == 0 ? PACKED : 0);
		for (unsigned int q = 0; q < 4; q++)
			f->guest.vqs[q].state = (struct vdpa_vq_state){0};
		start(f);
		assert_true(f->v.promisc);
		assert_int_equal(((const uint8_t *)own->va)[own->size - 1], 0);
	}
	vdpa_dma_get_stats(f->vdev->dma, &now);
	assert_int_equal(now.maps, 2);
	assert_int_equal(now.unmaps, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

/* Each step of the transport fails once: the start is unwound, and the next one works. */
static void
a_start_that_fails_is_unwound(void **state)
{
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	f->v.pci.irq_err = EIO;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EIO, "interrupt not set");
	f->v.pci.irq_err = 0;
	assert_int_equal(count_fds(), idle);
	f->v.pci.map_err = ENOMEM;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), ENOMEM, "DMA not mapped");
	f->v.pci.map_err = 0;
	f->v.refuses_features = true;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EINVAL, "refuses the features");
	f->v.refuses_features = false;
	f->v.never_enables = true;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EIO,
		       "the device does not enable queue 0");
	f->v.never_enables = false;
	end_binding(f);
	assert_int_equal(count_fds(), idle);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.status, 0);
	start(f);
}

static void
a_guest_without_version_1_is_refused(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->guest.start.features = 0;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EINVAL, "VIRTIO_F_VERSION_1");
}

static void
a_second_pair_needs_mq(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	f->guest.start.features = V1;
	assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EINVAL, "VIRTIO_NET_F_MQ");
	/* With one pair the control queue comes third, and there is nobody to ask for more. */
	f->guest.start.nvqs = 2;
	start(f);
	assert_int_equal(f->v.pci.n_msix, 3);
	assert_int_equal(f->v.vq[1].vector, 2);
	/* One that comes late is refused too, and takes nothing from those that are there. */
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->guest.vqs[2]), EINVAL,
		       "VIRTIO_NET_F_MQ");
	assert_int_equal(f->v.pci.msix[1], f->guest.call[0]);
	assert_int_equal(f->v.pci.msix[2], f->guest.call[1]);
	assert_int_equal(f->v.vq[2].enable, 1);
	assert_true(f->v.promisc);
}

/* Where a queue stands. */

/* Queue 1 stands in the middle of a ring. */
static void
stand_in_the_middle(struct fixture *f, bool packed)
{
	f->guest.start.features = V1 | (packed ? PACKED : 0);
	go_on_at(f, 1, packed ? 0 : 17);
	for (unsigned int i = 0; packed && i < 2; i++)
		f->guest.vqs[i].state.packed.last_avail_counter =
			f->guest.vqs[i].state.packed.last_used_counter = 1;
	if (packed)
		f->guest.vqs[1].state.packed.last_avail_idx =
			f->guest.vqs[1].state.packed.last_used_idx = 17;
}

static void
a_queue_in_the_middle_starts_by_a_shadow(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	for (unsigned int packed = 0; packed < 2; packed++) {
		struct vdpa_vq_state at, want;

		stand_in_the_middle(f, packed);
		want = f->guest.vqs[1].state;
		assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), 0);
		assert_true(!is_on_shadow(f, 0) && is_on_shadow(f, 1));
		assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
		assert_memory_equal(&at, &want, sizeof(at));
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		/* The shadow's ring is no longer in the device's reach; the guest's memory and the
		 * control queue are. */
		assert_int_equal(f->v.pci.n_mapped, 2);
	}
}

static void
without_shadows_a_queue_starts_at_the_beginning_only(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	vdpa_device_set_migration(f->vdev, VDPA_MIGRATION_OFF);
	for (unsigned int packed = 0; packed < 2; packed++) {
		stand_in_the_middle(f, packed);
		assert_refused(vdpa_device_start(f->vdev, &f->guest.start), EOPNOTSUPP,
			       "queue 1: it goes on in the middle of its ring");
	}
	f->guest.start.features = V1;
	go_on_at(f, 1, 0);
	f->guest.vqs[0].state = f->guest.vqs[1].state;
	start(f);
	assert_false(is_on_shadow(f, 1));
}

static void
where_a_queue_stopped_is_not_guessed(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	add_net(f, 1, WORDS);
	start(f);
	assert_int_equal(f->vdev->config->set_vq_ready(f->vdev, 0, false), 0);
	assert_int_equal(f->v.vq[0].enable, 0);
	assert_int_equal(f->v.vq[1].enable, 1);
	assert_refused(f->vdev->config->get_vq_state(f->vdev, 0, &at), EOPNOTSUPP,
		       "where it stopped is not known");
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->vdev->config->get_vq_state(f->vdev, 0, &at), 0);
	assert_int_equal(at.split.avail_index, 0);
}

/* Queues that come late. */

static void
a_start_that_failed_is_not_tried_again_without_a_reset(void **state)
{
	const uint8_t ok =
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	assert_int_equal(vdpa_reset(f->vdev), 0);
	assert_int_equal(
		vdpa_set_status(f->vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, ok), 0);
	f->v.never_enables = true;
	for (unsigned int i = 0; i < 3; i++)
		assert_true(vdpa_set_status(f->vdev, ok | VIRTIO_CONFIG_S_DRIVER_OK) < 0);
	/* The control queue's memory, once. */
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_enables = false;
	assert_int_equal(vdpa_reset(f->vdev), 0);
	assert_int_equal(f->v.pci.n_mapped, 1);
	start(f);
}

static void
a_late_queue_starts_where_queues_reset_one_by_one(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	add_net(f, 2, WORDS);
	f->guest.vqs[2].ready = f->guest.vqs[3].ready = false;
	start(f);
	assert_int_equal(f->v.pairs, 1);
	for (uint16_t i = 2; i < 4; i++) {
		assert_int_equal(vdpa_device_start_vq(f->vdev, i, &f->guest.vqs[i]), 0);
		assert_int_equal(f->v.vq[i].enable, 1);
		assert_int_equal(f->v.vq[i].vector, 1 + i);
		assert_int_equal(f->v.vq[i].kicks, 1);
	}
	assert_int_equal(f->v.pairs, 2);
	/* And goes, is not taken, and comes again. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 2, &at), 0);
	assert_int_equal(f->v.pairs, 1);
	assert_int_equal(f->v.vq[2].enable, 0);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->guest.vqs[2]), EPERM,
		       "refuses command");
	assert_int_equal(f->v.vq[2].enable, 0);
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->guest.vqs[2]), 0);
	assert_int_equal(f->v.pairs, 2);
	assert_int_equal(f->v.vq[2].vector, 3);
	assert_int_equal(f->v.pci.msix[3], f->guest.call[2]);
	/* One that is neither wanted nor goes has the guest's memory. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 2, &at), 0);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->guest.vqs[2]), EPERM,
		       "refuses command");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(f->v.status, 0);
}

static void
without_queue_reset_a_queue_stops_with_the_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.features &= ~RTE_BIT64(VIRTIO_F_RING_RESET);
	assert_int_equal(add(f, WORDS), 0);
	assert_false(vdpa_get_capabilities(f->vdev)->late_vqs);
	assert_false(vdpa_get_capabilities(f->vdev)->vq_reset);
	f->guest.start.nvqs = 2;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	f->guest.start.features = V1;
	start(f);
	assert_refused(f->vdev->config->set_vq_ready(f->vdev, 0, false), EOPNOTSUPP,
		       "stops only with the device");
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), 0);
	assert_int_equal(f->v.status, 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

/* A structure without the register: the feature is not taken. */
static void
queue_reset_needs_its_register(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_COMMON_CFG)[12] = 56;
	assert_int_equal(add(f, WORDS), 0);
	assert_false(vdpa_get_capabilities(f->vdev)->late_vqs);
	assert_false(vdpa_get_capabilities(f->vdev)->vq_reset);
	f->guest.start.nvqs = 2;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	f->guest.start.features = V1;
	start(f);
	assert_false(virtio_has(f->v.driver_features, VIRTIO_F_RING_RESET));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_start_sets_up_what_the_front_end_gave),
		T(a_stop_leaves_nothing),
		T(starts_of_one_binding_map_nothing_again),
		T(a_start_that_fails_is_unwound),
		T(a_guest_without_version_1_is_refused),
		T(a_second_pair_needs_mq),
		T(a_queue_in_the_middle_starts_by_a_shadow),
		T(without_shadows_a_queue_starts_at_the_beginning_only),
		T(where_a_queue_stopped_is_not_guessed),
		T(a_start_that_failed_is_not_tried_again_without_a_reset),
		T(a_late_queue_starts_where_queues_reset_one_by_one),
		T(without_queue_reset_a_queue_stops_with_the_device),
		T(queue_reset_needs_its_register),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
