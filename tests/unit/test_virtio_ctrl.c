/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The control queue of the virtio driver, and a device that abuses it. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "virtio_test.h"

/* The control queue. */

static void
the_device_is_told_pairs_address_and_mode(void **state)
{
	const uint8_t mac[6] = {0x52, 0, 0, 0, 0, 7};
	struct fixture *f = *state;

	add_net(f, 4, WORDS "mac 52:00:00:00:00:07");
	for (unsigned int packed = 0; packed < 2; packed++) {
		f->guest.start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
		start(f);
		assert_int_equal(f->v.pairs, 4);
		assert_true(f->v.promisc);
		assert_memory_equal(f->v.mac, mac, sizeof(mac));
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		memset(f->v.mac, 0, sizeof(f->v.mac));
	}
}

/* More commands than the ring has places, so that it wraps; and those that change nothing are not
 * given. */
static void
pairs_follow_the_queues_that_are_enabled(void **state)
{
	struct fixture *f = *state;

	add_net(f, 4, WORDS);
	for (unsigned int i = 0; i < 4; i++) {
		f->guest.start.features =
			V1 | MQ | (i % 2 != 0 ? PACKED : 0) | (i / 2 != 0 ? DATA : 0);
		if (i / 2 != 0)
			take_eventfds_away(f);
		start(f);
		f->v.commands = 0;
		for (unsigned int round = 0; round < 20; round++) {
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 4, false), 0);
			assert_int_equal(f->v.pairs, 2);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 5, false), 0);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 5, true), 0);
			assert_int_equal(f->v.pairs, 2);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 4, true), 0);
			assert_int_equal(f->v.pairs, 4);
			assert_int_equal(f->v.vq[4].enable, 1);
		}
		assert_int_equal(f->v.commands, 40);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
}

static void
a_hostile_control_queue_fails_the_start_in_time(void **state)
{
	static const struct {
		enum fake_virtio_ctrl ctrl;
		bool split_only;
		int err;
		const char *text;
	} cases[] = {
		{FAKE_CTRL_SILENT, false, ETIMEDOUT, "does not answer in time"},
		{FAKE_CTRL_JUMPS, true, EPROTO, "uses what it was not given"},
		{FAKE_CTRL_WRONG_ID, false, EPROTO, "a descriptor it was not given"},
		{FAKE_CTRL_REFUSES, false, EPERM, "refuses command 0 of class 4"},
		{FAKE_CTRL_NO_ACK, false, EPROTO, "without answering it"},
		{FAKE_CTRL_NEEDS_RESET, false, EIO, "needs a reset"},
	};
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (unsigned int packed = 0; packed < (cases[i].split_only ? 1 : 2); packed++) {
			uint64_t began = now_ms();

			f->v.ctrl = cases[i].ctrl;
			f->guest.start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
			for (unsigned int q = 0; q < 4; q++)
				f->guest.vqs[q].state = (struct vdpa_vq_state){0};
			for (unsigned int q = 0; packed != 0 && q < 4; q++)
				f->guest.vqs[q].state.packed.last_avail_counter =
					f->guest.vqs[q].state.packed.last_used_counter = 1;
			assert_refused(vdpa_device_start(f->vdev, &f->guest.start), cases[i].err,
				       cases[i].text);
			assert_true(now_ms() - began < 5000);
			end_binding(f);
			assert_int_equal(count_fds(), idle);
		}
	}
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	for (unsigned int q = 0; q < 4; q++)
		f->guest.vqs[q].state = (struct vdpa_vq_state){0};
	f->guest.start.features = V1 | MQ;
	start(f);
}

/* And while it runs: nobody knows how many pairs it uses now. */
static void
a_control_queue_that_fails_later_fails_the_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 2, WORDS);
	start(f);
	f->v.ctrl = FAKE_CTRL_SILENT;
	assert_refused(vdpa_device_enable_vq(f->vdev, 2, false), ETIMEDOUT,
		       "does not answer in time");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "control queue"));
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	start(f);
	assert_int_equal(f->v.pairs, 2);
}

/* A region more, where the control queue is. */
static struct vdpa_iotlb *
memory_over_ctrl(struct fixture *f)
{
	const struct vdpa_mem_region_spec spec = {.iova = f->v.vq[f->v.ctrl_idx].desc & ~0xfffULL,
						  .uaddr = 1ULL << 40,
						  .size = 0x1000,
						  .fd = f->guest.mem_fd};
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_add(f->guest.tlb, &spec, &tlb), 0);
	return tlb;
}

static void
a_control_queue_gives_way_to_the_guests_memory(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;
	uint64_t was;

	add_net(f, 2, WORDS);
	for (unsigned int packed = 0; packed < 2; packed++) {
		f->guest.start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
		start(f);
		tlb = memory_over_ctrl(f);
		was = f->v.vq[f->v.ctrl_idx].desc;
		assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
		assert_int_not_equal(f->v.vq[f->v.ctrl_idx].desc, was);
		assert_int_equal(f->v.pci.n_mapped, 3);
		/* It works where it is now. */
		assert_int_equal(f->v.pairs, 2);
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 2, false), 0);
		assert_int_equal(f->v.pairs, 1);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		/* Between two starts it is kept, unless the guest's memory comes there. */
		start(f);
		vdpa_iotlb_put(tlb);
		tlb = memory_over_ctrl(f);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
		assert_null(device(f)->ctrl.mem.va);
		f->guest.start.iotlb = tlb;
		start(f);
		assert_int_equal(f->v.pci.n_mapped, 3);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		f->guest.start.iotlb = f->guest.tlb;
		vdpa_iotlb_put(tlb);
	}
}

static void
a_control_queue_that_cannot_be_reset_keeps_its_place(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;
	uint64_t was;

	fake_virtio_init(&f->v, "v0", 2);
	f->v.features &= ~RTE_BIT64(VIRTIO_F_RING_RESET);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 4;
	f->guest.start.features = V1 | MQ;
	for (uint16_t i = 0; i < 4; i++)
		f->guest.vqs[i].ready = true;
	start(f);
	tlb = memory_over_ctrl(f);
	was = f->v.vq[f->v.ctrl_idx].desc;
	assert_refused(vdpa_device_set_memory(f->vdev, tlb), EBUSY,
		       "which is the driver's own memory and cannot be moved");
	assert_non_null(strstr(vdpa_error_message(), "control queue 4 is in use"));
	assert_int_equal(f->v.vq[f->v.ctrl_idx].desc, was);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	vdpa_iotlb_put(tlb);
}

static void
a_control_queue_that_does_not_reset_fails_the_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;

	add_net(f, 2, WORDS);
	start(f);
	tlb = memory_over_ctrl(f);
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_set_memory(f->vdev, tlb), EBUSY, "cannot be moved");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	f->v.never_resets_vq = false;
	start(f);
	vdpa_iotlb_put(tlb);
}

static void
a_device_that_may_not_be_promiscuous_starts(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	start(f);
	assert_false(f->v.promisc);
}

/* What is no refusal does not pass for one. */
static void
a_broken_control_queue_is_no_refusal_to_be_promiscuous(void **state)
{
	static const struct {
		enum fake_virtio_ctrl ctrl;
		int err;
	} cases[] = {
		{FAKE_CTRL_NO_ACK, EPROTO},
		{FAKE_CTRL_NEEDS_RESET, EIO},
		{FAKE_CTRL_SILENT, ETIMEDOUT},
	};
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		f->v.ctrl = cases[i].ctrl;
		assert_int_equal(vdpa_device_start(f->vdev, &f->guest.start), -cases[i].err);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	}
}

static void
a_device_without_control_queue_works_without(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.features &= ~(RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | MQ);
	assert_int_equal(add(f, WORDS), 0);
	f->guest.start.nvqs = 2;
	f->guest.start.features = V1;
	f->guest.vqs[0].ready = f->guest.vqs[1].ready = true;
	start(f);
	assert_int_equal(f->v.commands, 0);
	assert_int_equal(f->v.vq[2].enable, 0);
	assert_int_equal(f->v.pci.n_mapped, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(the_device_is_told_pairs_address_and_mode),
		T(pairs_follow_the_queues_that_are_enabled),
		T(a_hostile_control_queue_fails_the_start_in_time),
		T(a_control_queue_that_fails_later_fails_the_device),
		T(a_control_queue_gives_way_to_the_guests_memory),
		T(a_control_queue_that_cannot_be_reset_keeps_its_place),
		T(a_control_queue_that_does_not_reset_fails_the_device),
		T(a_device_that_may_not_be_promiscuous_starts),
		T(a_broken_control_queue_is_no_refusal_to_be_promiscuous),
		T(a_device_without_control_queue_works_without),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
