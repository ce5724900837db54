/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The core's rules: status, steps out of order, start that unwinds, failure, words. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"
#include <linux/virtio_config.h>

#include "device_priv.h"
#include "event_loop_priv.h"
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

static void
make_device(struct fixture *f, bool own_kick)
{
	f->fake = fake_device_new("fake0", own_kick);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	f->vdev = &f->fake->vdev;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	f->fake->calls = 0;
}

static int
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

static int
setup(void **state)
{
	return setup_with(state, false);
}

static int
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

static void
status_bits_are_set_in_order(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_set_status(f->vdev, 0x01), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_CONFIGURING);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0f), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_set_status(f->vdev, 0), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	assert_int_equal(f->fake->status, 0);
}

/* Every transition from every reachable status: what is not an allowed step is refused and changes
 * nothing. */
static void
every_illegal_status_transition_is_refused(void **state)
{
	static const uint8_t path[] = {0x00, 0x01, 0x03, 0x0b, 0x0f};
	struct fixture *f = *state;
	unsigned int refused = 0;

	for (unsigned int at = 0; at < sizeof(path); at++) {
		for (unsigned int to = 1; to < 256; to++) {
			bool forward = at + 1 < sizeof(path) && to == path[at + 1];
			bool same = to == path[at];
			/* ACKNOWLEDGE and DRIVER may come together; a driver may give up at any
			 * time. */
			bool both = at == 0 && to == 0x03;
			bool gives_up = (to & 0x80) != 0;

			assert_int_equal(vdpa_reset(f->vdev), 0);
			for (unsigned int i = 1; i <= at; i++) {
				if (path[i] == 0x0b)
					assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
				assert_int_equal(vdpa_set_status(f->vdev, path[i]), 0);
			}
			if (to == 0x0b && at == 2)
				assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
			if (gives_up)
				continue;
			if (forward || same || both) {
				assert_int_equal(vdpa_set_status(f->vdev, (uint8_t)to), 0);
				continue;
			}
			assert_int_equal(vdpa_set_status(f->vdev, (uint8_t)to), -EPROTO);
			assert_int_equal(f->fake->status, path[at]);
			assert_int_equal(vdpa_get_status(f->vdev), path[at]);
			refused++;
		}
	}
	/* 5 statuses x 127 values without FAILED, less 4 steps, 4 repeats, 1 double step. */
	assert_int_equal(refused, 5 * 127 - 9);
}

static void
features_ok_that_does_not_stick_is_an_error(void **state)
{
	struct fixture *f = *state;

	f->fake->sticky_status = true;
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "refuses the features"));
}

static void
features_are_fixed_after_features_ok(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), -EPROTO);
	assert_int_equal(vdpa_set_status(f->vdev, 0x03), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), -EPROTO);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1 | 1), -EINVAL);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, 0x0b), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), -EPROTO);
	assert_int_equal(f->fake->features, V1);
}

static void
ring_setup_is_refused_before_features_ok_and_while_ready(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state initial = {0};

	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 64), -EPROTO);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_set_vq_num(f->vdev, 0, 64), -EBUSY);
	assert_int_equal(vdpa_set_vq_address(f->vdev, 0, 0x10000, 0x11000, 0x12000), -EBUSY);
	assert_int_equal(vdpa_set_vq_state(f->vdev, 0, &initial), -EBUSY);
	/* A queue that is not ready, on a device that takes none after DRIVER_OK. */
	assert_int_equal(vdpa_set_vq_num(f->vdev, 3, 64), -EBUSY);
	assert_int_equal(vdpa_set_vq_num(f->vdev, FAKE_VQS, 64), -EINVAL);
	/* Suspended: the state may be set. */
	assert_int_equal(vdpa_suspend(f->vdev), 0);
	assert_int_equal(vdpa_set_vq_state(f->vdev, 0, &initial), 0);
	assert_int_equal(vdpa_resume(f->vdev), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
bad_rings_are_refused_with_the_reason(void **state)
{
	static const struct {
		uint32_t num;
		uint64_t desc, driver, device;
		int rc;
		const char *says;
	} bad[] = {
		{0, 0x10000, 0x11000, 0x12000, -EINVAL, "size 0"},
		{2, 0x10000, 0x11000, 0x12000, -EINVAL, "allowed are 4 to 256"},
		{96, 0x10000, 0x11000, 0x12000, -EINVAL, "power of two"},
		{512, 0x10000, 0x11000, 0x12000, -EINVAL, "allowed are 4 to 256"},
		{64, 0x10008, 0x11000, 0x12000, -EINVAL, "aligned"},
		{64, 0x10000, 0x11001, 0x12000, -EINVAL, "aligned"},
		{64, 0x10000, 0x11000, 0x12002, -EINVAL, "aligned"},
		{64, 0x0, 0x11000, 0x12000, -EFAULT, "outside guest memory"},
		{64, 0x10000 + MEM_SIZE - 16, 0x11000, 0x12000, -EFAULT, "outside guest memory"},
		{64, 0x10000, 0x10000 + MEM_SIZE - 2, 0x12000, -EFAULT, "avail ring"},
		{64, 0x10000, 0x11000, 0xfffffffffffffff0, -EFAULT, "used ring"},
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		f->vqs[1].num = bad[i].num;
		f->vqs[1].desc = bad[i].desc;
		f->vqs[1].driver = bad[i].driver;
		f->vqs[1].device = bad[i].device;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), bad[i].rc);
		assert_non_null(strstr(vdpa_error_message(), bad[i].says));
		assert_non_null(strstr(vdpa_error_message(), "fake0: queue 1"));
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	}
}

static void
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

/* Fail each op of a start in turn: the start says so, and nothing is left behind. */
static void
start_unwinds_wherever_it_fails(void **state)
{
	struct fixture *f = *state;
	unsigned int fds = count_fds(), at;

	for (at = 1; at < 1000; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		f->fake->failed_op = NULL;
		if (vdpa_device_start(f->vdev, &f->start) == 0)
			break;
		assert_non_null(f->fake->failed_op);
		assert_non_null(strstr(vdpa_error_message(), "fake0"));
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
		nothing_is_left(f);
		assert_int_equal(count_fds(), fds);
	}
	/* 4 statuses, features, map, config_cb, 5 for each of 2 queues; kicks are relayed or an op.
	 */
	assert_in_range(at, 4 + 3 + 2 * 5 + 1, 4 + 3 + 2 * 6 + 1);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	f->fake->fail_at = 0;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	nothing_is_left(f);
}

/* The driver knows why; what the core could say of it is less. */
static void
the_message_of_an_op_is_kept(void **state)
{
	struct fixture *f = *state;

	f->fake->sets_message = true;
	for (unsigned int at = 1;; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start(f->vdev, &f->start) == 0)
			break;
		if (strstr(f->fake->failed_op, "_vq_") != NULL)
			assert_non_null(strstr(vdpa_error_message(), "fake0: queue "));
		else
			assert_string_equal(vdpa_error_message(), "fake0: the fan has stopped");
		assert_non_null(strstr(vdpa_error_message(), ": the fan has stopped"));
	}
	/* An old message is not taken for the op's. */
	f->fake->sets_message = false;
	f->fake->calls = 0;
	f->fake->fail_at = 1;
	vdpa_error(EIO, "something else");
	assert_int_equal(vdpa_suspend(f->vdev), -EIO);
	assert_string_equal(vdpa_error_message(), "fake0: suspend: Input/output error");
}

static int
setup_own_kick(void **state)
{
	return setup_with(state, true);
}

static void
a_device_that_does_not_reset_is_failed_until_it_does(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->fail_reset = true;
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_true((vdpa_get_status(f->vdev) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ETIMEDOUT);
	/* It may still reach the memory, which therefore stays mapped. */
	assert_true(f->tlb->refcnt > 1);
	f->fake->fail_reset = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
kicks_are_relayed_until_the_queue_stops(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;
	unsigned int kicks;

	f->vqs[1].kick_fd = -1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	eventfd_write(f->kick_fd[0], 1);
	EVENTUALLY(__atomic_load_n(&f->fake->vq[0].kicks, __ATOMIC_SEQ_CST) == 1);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	kicks = f->fake->vq[0].kicks;
	eventfd_write(f->kick_fd[0], 1);
	usleep(20000);
	assert_int_equal(f->fake->vq[0].kicks, kicks);
}

static void
an_eventfd_is_refused_where_kicks_carry_data(void **state)
{
	struct fixture *f = *state;

	f->start.features = V1 | UINT64_C(1) << VIRTIO_F_NOTIFICATION_DATA;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "queue 0: kicks carry data"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	for (unsigned int i = 0; i < f->start.nvqs; i++)
		f->vqs[i].kick_fd = -1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, f->kick_fd[0]), -EOPNOTSUPP);
	/* Nor does the core kick by itself: it does not know the position. */
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, -1), 0);
	assert_int_equal(f->fake->vq[0].kicks, 0);
}

static void
a_device_that_waits_for_eventfds_itself_takes_them_beside_data(void **state)
{
	struct fixture *f = *state;

	f->start.features = V1 | UINT64_C(1) << VIRTIO_F_NOTIFICATION_DATA;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_set_vq_kick(f->vdev, 0, f->kick_fd[2]), 0);
	assert_int_equal(f->fake->vq[0].kicks, 1);
}

static void
a_disabled_queue_goes_on_where_it_stopped(void **state)
{
	struct fixture *f = *state;

	for (unsigned int late = 0; late < 2; late++) {
		f->vdev->core->can.late_vqs = late != 0;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		f->fake->vq[0].state.split.avail_index = 42;
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, false), 0);
		assert_false(f->fake->vq[0].ready);
		assert_true(f->fake->vq[1].ready);
		/* What becomes of the device meanwhile does not lose it. */
		if (!late)
			assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
		else
			f->fake->vq[0].state.split.avail_index = 0;
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, true), 0);
		assert_true(f->fake->vq[0].ready);
		assert_int_equal(f->fake->vq[0].state.split.avail_index, 42);
		assert_int_equal(f->fake->vq[0].kick_fd, f->fake->vq[1].kick_fd);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
}

static void
a_failed_restart_for_a_late_queue_leaves_the_others_running(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	/* The second op: reading where the first queue stands. */
	f->fake->calls = 0;
	f->fake->fail_at = 2;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EIO);
	assert_string_equal(f->fake->failed_op, "fake_get_vq_state");
	assert_non_null(strstr(vdpa_error_message(), "queue 0: get_vq_state"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_false(f->fake->suspended);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready);
}

/* Whatever fails on the way: the device goes on, or it is FAILED and its front end hears of it. */
static void
a_failed_restart_never_leaves_a_device_idle_unheard(void **state)
{
	struct fixture *f = *state;
	unsigned int failed = 0;

	f->vdev->core->can.late_vqs = false;
	for (unsigned int at = 1;; at++) {
		f->fake->fail_at = 0;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]) == 0)
			break;
		assert_in_range(at, 1, 100);
		if (vdpa_device_get_state(f->vdev) != VDPA_STATE_RUNNING) {
			EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
			failed++;
		}
		f->fake->fail_at = 0;
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
	/* Suspend and the two states let it go on; the steps of the start do not. */
	assert_true(failed > 10);
}

static void
a_late_queue_restarts_a_device_that_cannot_take_it(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = false;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->vq[0].state.split.avail_index = 77;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_true(f->fake->vq[0].ready && f->fake->vq[1].ready && f->fake->vq[2].ready);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 77);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), -EBUSY);
}

static void
a_late_queue_starts_alone_where_the_device_can(void **state)
{
	struct fixture *f = *state;

	f->vdev->core->can.late_vqs = true;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (unsigned int at = 1;; at++) {
		f->fake->calls = 0;
		f->fake->fail_at = at;
		if (vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]) == 0)
			break;
		assert_true(at < 20);
		assert_false(f->fake->vq[2].ready && f->fake->failed_op == NULL);
		assert_int_equal(f->fake->vq[2].call_fd, -1);
		assert_null(f->vdev->core->vqs[2].relay.loop);
		assert_true(f->fake->vq[0].ready);
	}
	assert_true(f->fake->vq[2].ready);
}

static void
other_queues_keep_running_when_one_stops(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state vqst;

	/* Stopping one queue of a device that only stops as a whole: suspended, read, resumed. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	f->fake->vq[0].state.split.avail_index = 5;
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), 0);
	assert_int_equal(vqst.split.avail_index, 5);
	assert_false(f->fake->vq[0].ready);
	assert_true(f->fake->vq[1].ready);
	assert_false(f->fake->suspended);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &vqst), -EPROTO);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &vqst), 0);
}

static void
a_failure_stops_the_device_once_and_names_the_cause(void **state)
{
	struct fixture *f = *state;
	char why[256];

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_fail(f->vdev, 1, EPROTO, "descriptor %s", "loop");
	vdpa_device_fail(f->vdev, 0, EIO, "something later");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_string_equal(why, "queue 1: descriptor loop (EPROTO)");
	nothing_is_left(f);
	assert_int_equal(vdpa_set_status(f->vdev, 0x01), -EIO);
	/* It can be used again. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_string_equal(why, "");
}

static unsigned int told_failed, told_config;

static void
note_failed(struct vdpa_device *vdev, int qidx)
{
	__atomic_add_fetch(&told_failed, 1, __ATOMIC_SEQ_CST);
}

static void
note_config(struct vdpa_device *vdev)
{
	__atomic_add_fetch(&told_config, 1, __ATOMIC_SEQ_CST);
}

static const struct vdpa_frontend_ops noting_ops = {.failed = note_failed,
						    .config_changed = note_config};

static void
ignore_removal(struct vdpa_device *vdev)
{
}

#define TOLD(counter) __atomic_load_n(&(counter), __ATOMIC_SEQ_CST)

static bool
config_was_missed(struct vdpa_device *vdev)
{
	bool missed;

	pthread_mutex_lock(&vdev->core->show_lock);
	missed = vdev->core->config_missed;
	pthread_mutex_unlock(&vdev->core->show_lock);
	return missed;
}

/* What happens before the front end's probe has succeeded is told when it has. */
static void
a_new_front_end_is_told_of_what_it_missed(void **state)
{
	struct vdpa_frontend_ops ops = noting_ops;
	struct vdpa_frontend fe = {.name = "noting", .ops = &ops};
	struct fixture *f = *state;

	ops.remove = ignore_removal;
	told_failed = told_config = 0;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_fail(f->vdev, -1, EIO, "early");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	eventfd_write(f->vdev->core->config_fd, 1);
	EVENTUALLY(config_was_missed(f->vdev));
	vdpa_device_set_frontend(f->vdev, &fe);
	EVENTUALLY(TOLD(told_failed) == 1);
	EVENTUALLY(TOLD(told_config) == 1);
	/* And once. */
	vdpa_device_fail(f->vdev, -1, EIO, "again");
	eventfd_write(f->vdev->core->config_fd, 1);
	EVENTUALLY(TOLD(told_config) == 2);
	assert_int_equal(TOLD(told_failed), 1);
	vdpa_unregister_device(f->vdev);
}

static void
a_failed_device_that_dies_is_gone(void **state)
{
	struct vdpa_frontend_ops ops = noting_ops;
	struct vdpa_frontend fe = {.name = "noting", .ops = &ops};
	struct fixture *f = *state;
	char why[VDPA_FAILURE_MAX];
	char *shown;

	ops.remove = ignore_removal;
	told_failed = 0;
	vdpa_device_set_frontend(f->vdev, &fe);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_device_fail(f->vdev, -1, EIO, "needs a reset");
	EVENTUALLY(TOLD(told_failed) == 1);
	assert_false(vdpa_device_is_gone(f->vdev));
	vdpa_device_gone(f->vdev, ECONNRESET, "the server hung up");
	vdpa_device_gone(f->vdev, EIO, "and again");
	EVENTUALLY(TOLD(told_failed) == 2);
	assert_true(vdpa_device_is_gone(f->vdev));
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_string_equal(why,
			    "the server hung up (ECONNRESET); before that: needs a reset (EIO)");
	/* The fake would reset; one that is gone does not come back all the same. */
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ENODEV);
	assert_int_equal(vdpa_reset(f->vdev), -ENODEV);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	shown = vdpa_dev_show("fake0");
	assert_non_null(strstr(shown, "the server hung up"));
	assert_non_null(strstr(shown, "\"failed\""));
	free(shown);
	vdpa_unregister_device(f->vdev);
}

static void
a_failure_is_told_whole(void **state)
{
	struct fixture *f = *state;
	char long_cause[VDPA_ERROR_MAX], why[VDPA_FAILURE_MAX];

	memset(long_cause, 'x', sizeof(long_cause));
	strcpy(long_cause + sizeof(long_cause) - 8, "1234567");
	vdpa_device_fail(f->vdev, 3, EIO, "%s", long_cause);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "xx1234567 (EIO)"));
	vdpa_device_gone(f->vdev, ENODEV, "%s and more", long_cause);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "xx1234... (ENODEV); before that: queue 3: xxx"));
	assert_non_null(strstr(why, "xx1234567 (EIO)"));
}

static void
nothing_works_after_unregistration(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_unregister_device(f->vdev);
	nothing_is_left(f);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), -ENODEV);
	assert_int_equal(vdpa_set_status(f->vdev, 1), -ENODEV);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	vdpa_device_fail(f->vdev, 0, EIO, "too late");
	assert_null(vdpa_find_device("fake0"));
}

static void
names_are_unique_and_plain(void **state)
{
	struct fixture *f = *state;
	struct fake_device *again = fake_device_new("fake0", false);

	assert_int_equal(vdpa_register_device(&again->vdev), -EEXIST);
	vdpa_put_device(&again->vdev);
	assert_null(fake_device_new("", false));
	assert_null(fake_device_new("a/b", false));
	assert_non_null(f->vdev);
}

static void
configuration_is_bounded_and_generation_safe(void **state)
{
	struct fixture *f = *state;
	uint8_t buf[64];

	assert_int_equal(vdpa_get_config(f->vdev, 0, buf, 64), 0);
	assert_int_equal(vdpa_get_config(f->vdev, 64, buf, 0), 0);
	assert_int_equal(vdpa_get_config(f->vdev, 1, buf, 64), -EINVAL);
	assert_int_equal(vdpa_get_config(f->vdev, SIZE_MAX, buf, 2), -EINVAL);
	assert_int_equal(vdpa_set_config(f->vdev, 0, buf, 1), -EOPNOTSUPP);
	f->fake->keeps_changing = true;
	f->fake->config_reads = 0;
	assert_int_equal(vdpa_get_config(f->vdev, 0, buf, 4), -EIO);
	assert_in_range(f->fake->config_reads, 1, 16);
	/* Slow, too: not for as many times as long. */
	f->fake->config_us = 60000;
	f->fake->config_reads = 0;
	assert_int_equal(vdpa_get_config(f->vdev, 0, buf, 4), -EIO);
	assert_int_equal(f->fake->config_reads, 2);
	f->fake->keeps_changing = false;
	f->fake->config_us = 120000;
	assert_int_equal(vdpa_get_config(f->vdev, 0, buf, 4), 0);
}

/* What is shown follows the device: when it tells of a change, and at a start. */
static void
a_changed_configuration_is_shown_without_asking(void **state)
{
	struct fixture *f = *state;
	uint8_t shown[2] = {0};
	unsigned int reads;

	f->fake->config[1] = 7;
	f->fake->generation++;
	eventfd_write(f->vdev->core->config_fd, 1);
	EVENTUALLY(vdpa_snapshot_get(f->vdev, shown, sizeof(shown)) && shown[1] == 7);
	reads = f->fake->config_reads;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	vdpa_unregister_device(f->vdev);
	assert_int_equal(f->fake->config_reads, reads);
	vdpa_put_device(f->vdev);
	/* Changed while nobody listened to it. */
	f->freed = 0;
	make_device(f, false);
	f->fake->config[1] = 9;
	f->fake->generation++;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	EVENTUALLY(vdpa_snapshot_get(f->vdev, shown, sizeof(shown)) && shown[1] == 9);
}

static bool describing, removed, removed_while_describing;

static void
describe_slowly(struct vdpa_device *vdev, char *buf, size_t len)
{
	__atomic_store_n(&describing, true, __ATOMIC_SEQ_CST);
	usleep(50000);
	removed_while_describing = __atomic_load_n(&removed, __ATOMIC_SEQ_CST);
}

static void
note_removal(struct vdpa_device *vdev)
{
	__atomic_store_n(&removed, true, __ATOMIC_SEQ_CST);
}

static void *
show_fake0(void *arg)
{
	return vdpa_dev_show("fake0");
}

static void
a_device_that_is_being_shown_keeps_its_front_end(void **state)
{
	static const struct vdpa_frontend_ops ops = {.describe = describe_slowly,
						     .remove = note_removal};
	struct vdpa_frontend fe = {.name = "slow", .ops = &ops};
	struct fixture *f = *state;
	pthread_t thread;
	void *text;

	vdpa_device_set_frontend(f->vdev, &fe);
	assert_int_equal(pthread_create(&thread, NULL, show_fake0, NULL), 0);
	while (!__atomic_load_n(&describing, __ATOMIC_SEQ_CST))
		usleep(100);
	assert_int_equal(vdpa_dev_del("fake0"), 0);
	assert_int_equal(pthread_join(thread, &text), 0);
	assert_non_null(text);
	free(text);
	assert_true(removed);
	assert_false(removed_while_describing);
}

static int
group_setup(void **state)
{
	return vdpa_event_control_init();
}

static int
group_teardown(void **state)
{
	vdpa_event_control_fini();
	return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(status_bits_are_set_in_order),
		TEST(every_illegal_status_transition_is_refused),
		TEST(features_ok_that_does_not_stick_is_an_error),
		TEST(features_are_fixed_after_features_ok),
		TEST(ring_setup_is_refused_before_features_ok_and_while_ready),
		TEST(bad_rings_are_refused_with_the_reason),
		TEST(start_unwinds_wherever_it_fails),
		cmocka_unit_test_setup_teardown(start_unwinds_wherever_it_fails, setup_own_kick,
						teardown),
		TEST(a_device_that_does_not_reset_is_failed_until_it_does),
		TEST(kicks_are_relayed_until_the_queue_stops),
		TEST(an_eventfd_is_refused_where_kicks_carry_data),
		cmocka_unit_test_setup_teardown(
			a_device_that_waits_for_eventfds_itself_takes_them_beside_data,
			setup_own_kick, teardown),
		TEST(the_message_of_an_op_is_kept),
		TEST(a_disabled_queue_goes_on_where_it_stopped),
		TEST(a_failed_restart_for_a_late_queue_leaves_the_others_running),
		TEST(a_failed_restart_never_leaves_a_device_idle_unheard),
		TEST(a_late_queue_restarts_a_device_that_cannot_take_it),
		TEST(a_late_queue_starts_alone_where_the_device_can),
		TEST(other_queues_keep_running_when_one_stops),
		TEST(a_failure_stops_the_device_once_and_names_the_cause),
		TEST(a_new_front_end_is_told_of_what_it_missed),
		TEST(a_failed_device_that_dies_is_gone),
		TEST(a_failure_is_told_whole),
		TEST(nothing_works_after_unregistration),
		TEST(names_are_unique_and_plain),
		TEST(configuration_is_bounded_and_generation_safe),
		TEST(a_changed_configuration_is_shown_without_asking),
		TEST(a_device_that_is_being_shown_keeps_its_front_end),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
