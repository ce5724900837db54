/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The consumer: when a device starts, by what a front end says of its rings; late queues; ends. */

#include <errno.h>
#include <semaphore.h>
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
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include "consumer_priv.h"
#include "control_group.h"
#include "fake_device.h"

#define IOVA	 0x10000
#define MEM_SIZE 0x100000
#define UADDR	 UINT64_C(0x7f0000000000)
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define PACKED	 (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define ENABLES	 (UINT64_C(1) << VHOST_USER_F_PROTOCOL_FEATURES)

/* Longer than the settling, by far. */
#define PATIENCE_MS 10000

struct fixture {
	struct vdpa_dma_domain *dma; /* of hardware */
	struct fake_device *fake;
	struct vdpa_consumer *c;
	sem_t started;
	unsigned int freed;
};

static void
on_started(void *arg)
{
	sem_post(&((struct fixture *)arg)->started);
}

static const struct vdpa_consumer_ops ops = {.started = on_started};

static struct vdpa_mem_region_spec
file_at(uint64_t iova, uint64_t uaddr)
{
	struct vdpa_mem_region_spec spec = {.iova = iova, .uaddr = uaddr, .size = MEM_SIZE};

	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	return spec;
}

static void
set_memory(struct fixture *f)
{
	struct vdpa_mem_region_spec spec = file_at(IOVA, UADDR);

	assert_int_equal(vdpa_consumer_set_memory(f->c, &spec, 1), 0);
	close(spec.fd);
}

static void
make_consumer(struct fixture *f, uint64_t features)
{
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	sem_init(&f->started, 0, 0);
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->c = vdpa_consumer_new(&f->fake->vdev, &ops, f);
	assert_non_null(f->c);
	assert_int_equal(vdpa_consumer_set_features(f->c, features), 0);
	set_memory(f);
}

/* A device that takes late queues. */
static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fake = fake_device_new("fake0", true);
	f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	make_consumer(f, V1);
	*state = f;
	return 0;
}

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

/* One that takes its queues before DRIVER_OK only. */
static int
setup_hardware(void **state, bool enables)
{
	static const struct vdpa_dma_ops dma_ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &dma_ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("fake0", f->dma, enables);
	make_consumer(f, V1 | ENABLES);
	*state = f;
	return 0;
}

static int
setup_block(void **state)
{
	return setup_hardware(state, false);
}

static int
setup_net(void **state)
{
	return setup_hardware(state, true);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_free(f->c);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	sem_destroy(&f->started);
	if (f->dma != NULL)
		vdpa_dma_domain_destroy(f->dma);
	free(f);
	return 0;
}

/* Everything but the enable, and no look at it yet. */
static void
describe_ring(struct fixture *f, uint16_t idx, uint64_t at)
{
	const struct vdpa_consumer_vq_addr addr = {
		.desc = at, .driver = at + 0x1000, .device = at + 0x2000, .log = UINT64_MAX};

	assert_int_equal(vdpa_consumer_set_vq_num(f->c, idx, 64), 0);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, idx, &addr), 0);
	assert_int_equal(vdpa_consumer_set_vq_call(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_consumer_set_vq_kick(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
}

static void
set_up_ring(struct fixture *f, uint16_t idx)
{
	describe_ring(f, idx, UADDR + idx * 0x4000);
	vdpa_consumer_advance(f->c);
}

static void
enable_ring(struct fixture *f, uint16_t idx)
{
	assert_int_equal(vdpa_consumer_enable_vq(f->c, idx, true), 0);
	vdpa_consumer_advance(f->c);
}

static void
announce(struct fixture *f, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++)
		vdpa_consumer_announce_vq(f->c, i);
}

static void
set_status(struct fixture *f, uint8_t status)
{
	vdpa_consumer_set_status(f->c, status);
	vdpa_consumer_advance(f->c);
}

static bool
runs(struct fixture *f)
{
	return vdpa_consumer_is_running(f->c);
}

static bool
wait_for_start(struct fixture *f)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_MS / 1000;
	return sem_timedwait(&f->started, &until) == 0;
}

static unsigned int
ready_queues(const struct fixture *f)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < FAKE_VQS; i++)
		n += f->fake->vq[i].ready;
	return n;
}

/* How far driver and device are in a split ring. */
static void
set_indexes(struct fixture *f, uint16_t idx, uint16_t avail, uint16_t used)
{
	uint64_t ring = IOVA + idx * 0x4000u;

	memcpy(vdpa_iotlb_range(f->c->iotlb, ring + 0x1002, 2), &avail, 2);
	memcpy(vdpa_iotlb_range(f->c->iotlb, ring + 0x2002, 2), &used, 2);
}

/* The device has used all that there was. */
static void
use_ring(struct fixture *f, uint16_t idx, uint16_t used)
{
	set_indexes(f, idx, used, used);
}

/* Starts. */

/* QEMU with two pairs, of which the guest uses one at first: DRIVER_OK comes last. */
static void
driver_ok_starts_a_device_with_all_its_queues(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_report_status(f->c, true);
	announce(f, 4);
	enable_ring(f, 0);
	enable_ring(f, 1);
	for (uint16_t i = 0; i < 4; i++)
		set_up_ring(f, i);
	assert_false(runs(f));
	set_status(f, 0xf);
	assert_true(runs(f));
	assert_int_equal(ready_queues(f), 4);
	assert_true(!f->fake->vq[1].disabled && f->fake->vq[2].disabled);
	/* MQ later: no restart. */
	f->fake->resets = 0;
	enable_ring(f, 2);
	enable_ring(f, 3);
	assert_false(f->fake->vq[2].disabled || f->fake->vq[3].disabled);
	assert_int_equal(f->fake->resets, 0);
}

/* A guest with one CPU uses one queue of four. */
static void
driver_ok_starts_a_device_with_one_queue_of_four(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_report_status(f->c, true);
	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_false(runs(f));
	set_status(f, 0xf);
	assert_true(runs(f));
	assert_int_equal(ready_queues(f), 1);
}

static void
driver_ok_before_any_queue_is_ready_waits_for_one(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_report_status(f->c, true);
	set_status(f, 0xf);
	assert_false(runs(f));
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(runs(f));
}

static void
without_a_status_late_queues_join_the_first_one(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	set_up_ring(f, 2);
	assert_true(runs(f));
	assert_int_equal(ready_queues(f), 1);
	set_up_ring(f, 0);
	assert_int_equal(ready_queues(f), 2);
	assert_true(vdpa_consumer_has_vq(f->c, 0) && vdpa_consumer_has_vq(f->c, 2));
	assert_false(vdpa_consumer_has_vq(f->c, 1));
}

static void
without_a_status_all_announced_queues_start_together(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	for (uint16_t i = 0; i < 4; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
		assert_int_equal(runs(f), i == 3);
	}
	assert_int_equal(ready_queues(f), 4);
	assert_int_equal(f->fake->resets, 2);
}

/* Firmware uses one queue of four, and nothing says so. */
static void
without_a_status_a_device_starts_when_no_more_queue_comes(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_false(runs(f));
	assert_true(wait_for_start(f));
	assert_true(runs(f));
	assert_int_equal(ready_queues(f), 1);
	assert_true(vdpa_consumer_has_vq(f->c, 0));
}

/* Not before the last one has settled, and with all. */
static void
each_queue_that_becomes_ready_begins_the_settling_anew(void **state)
{
	struct fixture *f = *state;
	int64_t ready_us;

	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	ready_us = f->c->ready_us;
	usleep(1000);
	set_up_ring(f, 1);
	enable_ring(f, 1);
	assert_true(f->c->ready_us > ready_us);
	/* What is said otherwise does not. */
	ready_us = f->c->ready_us;
	vdpa_consumer_advance(f->c);
	assert_int_equal(f->c->ready_us, ready_us);
	assert_true(wait_for_start(f));
	assert_int_equal(ready_queues(f), 2);
}

static void
a_queue_that_is_taken_back_ends_the_settling(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_int_equal(f->c->state, CONSUMER_SETTLING);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), 0);
	assert_int_equal(f->c->state, CONSUMER_STOPPED);
	/* The job that the timer may have posted finds nothing to do. */
	vdpa_work_post(&f->fake->vdev.core->work, &f->c->settled);
	vdpa_work_cancel(&f->c->settled);
	assert_false(runs(f));
}

/* That the front end reports the status it may say late: then DRIVER_OK counts. */
static void
a_status_that_is_reported_ends_the_settling(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_int_equal(f->c->state, CONSUMER_SETTLING);
	vdpa_consumer_report_status(f->c, true);
	usleep(2 * VDPA_CONSUMER_SETTLE_MS * 1000);
	vdpa_consumer_advance(f->c);
	assert_false(runs(f));
	vdpa_consumer_set_status(f->c, VIRTIO_CONFIG_S_DRIVER_OK);
	vdpa_consumer_advance(f->c);
	assert_true(runs(f));
}

static void
a_connection_that_ends_while_it_settles_starts_nothing(void **state)
{
	struct fixture *f = *state;

	announce(f, 4);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	vdpa_consumer_free(f->c);
	f->c = NULL;
	usleep(2 * VDPA_CONSUMER_SETTLE_MS * 1000);
	assert_int_equal(vdpa_device_get_state(&f->fake->vdev), VDPA_STATE_IDLE);
}

/* Late queues and failures. */

static void
wait_for_sem(struct vdpa_work *work)
{
	sem_wait(work->arg);
}

static void
a_failed_start_takes_the_eventfds_from_the_queues_that_run(void **state)
{
	struct fixture *f = *state;
	struct vdpa_work work;
	struct fake_vq vq;
	sem_t sem;

	set_up_ring(f, 0);
	assert_true(runs(f));
	assert_int_equal(f->fake->vq[0].call_fd, f->c->vqs[0].call_fd);

	/* What the core is to do about it comes late. */
	sem_init(&sem, 0, 0);
	work = (struct vdpa_work){.run = wait_for_sem, .arg = &sem};
	vdpa_work_post(&f->fake->vdev.core->work, &work);
	describe_ring(f, 1, UADDR + 0x8000);
	f->fake->fail_at = f->fake->calls + 1;
	vdpa_consumer_advance(f->c);
	vq = f->fake->vq[0];
	sem_post(&sem);
	vdpa_work_cancel(&work);
	sem_destroy(&sem);
	assert_int_equal(f->c->state, CONSUMER_FAILED);
	assert_int_equal(vdpa_consumer_get_status(f->c), VIRTIO_CONFIG_S_NEEDS_RESET);
	/* The front end may close them now, and their numbers be given to other files. */
	assert_false(vq.ready);
	assert_int_equal(vq.kick_fd, -1);
	assert_int_equal(vq.call_fd, -1);
}

static void
a_failed_start_names_queue_and_cause_once(void **state)
{
	struct fixture *f = *state;
	char why[256];

	f->fake->sets_message = true;
	f->fake->calls = 0;
	f->fake->fail_at = 6;
	set_up_ring(f, 0);
	assert_int_equal(f->c->state, CONSUMER_FAILED);
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_string_equal(why, "start: queue 0: the fan has stopped (EIO)");
}

static void
a_late_queue_fails_alone(void **state)
{
	struct fixture *f = *state;
	eventfd_t count;
	int err = eventfd(0, EFD_NONBLOCK);

	announce(f, 2);
	for (uint16_t i = 0; i < 2; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	vdpa_consumer_set_vq_err(f->c, 2, dup(err));
	assert_int_equal(ready_queues(f), 2);
	/* Of those that are under way it is not known which they are: the device cannot restart. */
	set_indexes(f, 0, 3, 1);
	set_up_ring(f, 2);
	enable_ring(f, 2);
	assert_int_equal(eventfd_read(err, &count), 0);
	assert_true(runs(f));
	assert_int_equal(ready_queues(f), 2);
	/* Said once, whatever else the front end has to say. */
	vdpa_consumer_advance(f->c);
	assert_int_equal(eventfd_read(err, &count), -1);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 2, false), 0);
	assert_int_equal(ready_queues(f), 2);
	close(err);
}

/* A guest's driver that begins anew twice, and a front end that goes on where queue 0 stood. */
static uint32_t
start_anew_and_in_the_middle(struct fixture *f)
{
	uint32_t base = 0;

	vdpa_consumer_report_status(f->c, true);
	for (unsigned int round = 0; round < 3; round++) {
		for (uint16_t i = 0; i < 2; i++) {
			assert_int_equal(vdpa_consumer_set_vq_base(f->c, i, round < 2 ? 0 : base),
					 0);
			describe_ring(f, i, UADDR + i * 0x4000);
			assert_int_equal(vdpa_consumer_enable_vq(f->c, i, true), 0);
			if (round == 2)
				use_ring(f, i, (uint16_t)base);
		}
		set_status(f, 0xf);
		if (round == 2)
			break;
		assert_true(runs(f));
		use_ring(f, 0, 7);
		assert_int_equal(vdpa_consumer_get_vq_base(f->c, 1, false), 0);
		assert_int_equal(f->fake->status, 0);
		base = vdpa_consumer_get_vq_base(f->c, 0, false);
		assert_int_equal(base, 7);
		assert_int_equal(f->c->state, CONSUMER_STOPPED);
		assert_int_equal(vdpa_device_get_state(&f->fake->vdev), VDPA_STATE_IDLE);
	}
	return base;
}

static void
a_stopped_device_starts_anew_and_by_a_shadow_in_the_middle(void **state)
{
	struct fixture *f = *state;
	struct vdpa_stat stats[16];
	uint32_t base = start_anew_and_in_the_middle(f);

	assert_true(runs(f));
	for (uint16_t i = 0; i < 2; i++) {
		unsigned int n = RTE_DIM(stats);

		assert_string_equal(vdpa_device_vq_path(&f->fake->vdev, i, stats, &n), "shadow");
		/* A ring that is not the guest's, from its beginning. */
		assert_true(f->fake->vq[i].desc - IOVA >= MEM_SIZE);
		assert_int_equal(f->fake->vq[i].state.split.avail_index, 0);
	}
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), base);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 1, false), base);
}

static void
without_shadows_a_stopped_device_starts_not_in_the_middle(void **state)
{
	struct fixture *f = *state;
	char why[256];

	vdpa_device_set_migration(&f->fake->vdev, VDPA_MIGRATION_OFF);
	start_anew_and_in_the_middle(f);
	assert_int_equal(f->c->state, CONSUMER_FAILED);
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "the word `migration` allows no shadow"));
}

/* Where a queue stands. */

static void
a_failed_device_says_how_far_a_split_ring_was_used(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 3), 0);
	set_up_ring(f, 0);
	use_ring(f, 0, 9);
	vdpa_device_fail(&f->fake->vdev, 0, EIO, "broken");
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), 9);
	/* And the device can be had again. */
	set_up_ring(f, 0);
	assert_true(runs(f));
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 9);
}

static void
a_failed_device_says_where_a_packed_ring_began(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | PACKED), 0);
	assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 0x80058005), 0);
	set_up_ring(f, 0);
	set_up_ring(f, 1);
	assert_int_equal(ready_queues(f), 2);
	vdpa_device_fail(&f->fake->vdev, 0, EIO, "broken");
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), 0x80058005);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 1, false), 0x80008000);
}

/* A place of 0: of a new ring it stands for wrap counters of 1, of one that has gone round it does
 * not, of which not even slot 0 need have been used last. */
static void
a_packed_ring_that_has_gone_round_is_not_taken_for_a_new_one(void **state)
{
	struct fixture *f = *state;
	struct vring_packed_desc *ring;

	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | PACKED), 0);
	ring = vdpa_iotlb_range(f->c->iotlb, IOVA, 4 * sizeof(*ring));
	assert_non_null(ring);
	for (int used = 0; used < 2; used++) {
		ring[0].flags = 1 << VRING_PACKED_DESC_F_AVAIL;
		ring[3].flags = (uint16_t)(used << VRING_PACKED_DESC_F_USED);
		assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 0), 0);
		set_up_ring(f, 0);
		assert_true(runs(f));
		assert_int_equal(f->fake->vq[0].state.packed.last_avail_counter, !used);
		assert_int_equal(f->fake->vq[0].state.packed.last_used_counter, !used);
		vdpa_consumer_get_vq_base(f->c, 0, false);
	}
}

/* QEMU 7.2 to 8.0 asks after the reset. */
static void
status_0_keeps_where_queues_stopped_and_a_reset_does_not(void **state)
{
	struct fixture *f = *state;

	for (unsigned int round = 0; round < 2; round++) {
		set_up_ring(f, 0);
		f->fake->vq[0].state.split.avail_index = 42;
		if (round == 0)
			vdpa_consumer_set_status(f->c, 0);
		else
			vdpa_consumer_reset(f->c);
		assert_false(runs(f));
		assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), round == 0 ? 42 : 0);
		assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 0), 0);
	}
	/* A ring that was forgotten must be described again. */
	vdpa_consumer_advance(f->c);
	assert_false(runs(f));
}

static void
facts_of_a_ring_that_runs_do_not_change(void **state)
{
	struct fixture *f = *state;
	const struct vdpa_consumer_vq_addr elsewhere = {.desc = UADDR + 0x8000,
							.driver = UADDR + 0x9000,
							.device = UADDR + 0xa000,
							.log = UINT64_MAX};
	struct vdpa_consumer_vq_addr logged = {
		.desc = UADDR, .driver = UADDR + 0x1000, .device = UADDR + 0x2000, .log = 0x12000};

	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 48), -EINVAL);
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 0), -EINVAL);
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, VDPA_VQ_NUM_MAX * 2), -EINVAL);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, 0, &elsewhere), -EINVAL);
	set_up_ring(f, 0);
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 32), -EBUSY);
	assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 1), -EBUSY);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, 0, &elsewhere), -EBUSY);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, 0, &logged), 0);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | PACKED), -EBUSY);
	assert_int_equal(vdpa_consumer_set_inflight(f->c, NULL, 64, 1, false), -EBUSY);
}

/* Not first when it starts. */
static void
rings_that_the_device_cannot_take_are_refused_when_they_are_described(void **state)
{
	struct fixture *f = *state;
	const struct vdpa_consumer_vq_addr bad[] = {
		{.desc = UADDR + 8, .driver = UADDR + 0x1000, .device = UADDR + 0x2000},
		{.desc = UADDR, .driver = UADDR + 0x1001, .device = UADDR + 0x2000},
		{.desc = UADDR, .driver = UADDR + 0x1000, .device = UADDR + 0x2002},
	};

	/* The device says 4 to 256. */
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 2), -EINVAL);
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 512), -EINVAL);
	assert_string_equal(vdpa_error_message(), "fake0: queue 0: size 512, allowed are 4 to 256");
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, 0, 256), 0);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(vdpa_consumer_set_vq_addr(f->c, 0, &bad[i]), -EINVAL);
		assert_non_null(strstr(vdpa_error_message(), "is not aligned to"));
	}
}

/* Every kick would have to tell a position, and the first ones come by eventfd. */
static void
notification_data_is_never_offered(void **state)
{
	struct fixture *f = *state;
	struct vdpa_device *vdev = &f->fake->vdev;
	uint64_t data = RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);

	assert_int_equal(vdpa_get_device_features(vdev) & data, data);
	assert_int_equal(vdpa_consumer_offered_features(vdev, false) & data, 0);
	assert_int_equal(vdpa_consumer_offered_features(vdev, true) & data, 0);
}

/* Memory. */

static const struct vdpa_dma_range bits39 = {.last = (UINT64_C(1) << 39) - 1};

static void
a_table_that_is_refused_stops_no_queue(void **state)
{
	struct fixture *f = *state;
	/* Rings that move, and memory that the IOMMU does not translate. */
	struct vdpa_mem_region_spec specs[] = {file_at(IOVA + MEM_SIZE, UADDR),
					       file_at(bits39.last + 1, UADDR + MEM_SIZE)};
	struct vdpa_dma_stats stats;

	vdpa_dma_domain_set_ranges(f->dma, &bits39, 1);
	vdpa_consumer_report_status(f->c, true);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	set_status(f, 0xf);
	assert_true(runs(f));
	f->fake->resets = 0;
	assert_int_equal(vdpa_consumer_set_memory(f->c, specs, 2), -EINVAL);
	assert_true(runs(f));
	assert_true(vdpa_consumer_has_vq(f->c, 0));
	assert_int_equal(ready_queues(f), 1);
	assert_int_equal(f->fake->resets, 0);
	/* And from memory that is elsewhere altogether, which the core looks at. */
	specs[0].uaddr += 4 * MEM_SIZE;
	assert_int_equal(vdpa_consumer_set_memory(f->c, specs, 2), -EINVAL);
	assert_true(vdpa_consumer_has_vq(f->c, 0));
	vdpa_dma_get_stats(f->dma, &stats);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(vdpa_consumer_count_memory(f->c), 1);
	close(specs[0].fd);
	close(specs[1].fd);
}

static void
a_region_that_is_refused_leaves_the_others_to_a_device_that_stands_still(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec bad = file_at(bits39.last + 1, UADDR + MEM_SIZE);
	struct vdpa_dma_stats stats;

	vdpa_dma_domain_set_ranges(f->dma, &bits39, 1);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &bad), -EINVAL);
	assert_int_equal(vdpa_consumer_count_memory(f->c), 1);
	vdpa_dma_get_stats(f->dma, &stats);
	assert_int_equal(stats.mappings, 1);
	assert_int_equal(stats.unmaps, 0);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(runs(f));
	close(bad.fd);
}

/* QEMU before 8.0 says each region once for each queue pair. */
static void
a_region_that_is_there_is_repeated_whatever_the_limit(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec specs[] = {file_at(0x400000, UADDR + 0x400000),
					       file_at(0x600000, UADDR + 0x600000)};

	vdpa_consumer_limit_memory(f->c, 2);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &specs[0]), 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &specs[1]), -E2BIG);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &specs[0]), -EEXIST);
	assert_int_equal(vdpa_consumer_count_memory(f->c), 2);
	close(specs[0].fd);
	close(specs[1].fd);
}

#define TEST(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(driver_ok_starts_a_device_with_all_its_queues, setup_net),
		TEST(driver_ok_starts_a_device_with_one_queue_of_four, setup_block),
		TEST(driver_ok_starts_a_device_with_one_queue_of_four, setup),
		TEST(driver_ok_before_any_queue_is_ready_waits_for_one, setup_block),
		TEST(without_a_status_late_queues_join_the_first_one, setup),
		TEST(without_a_status_all_announced_queues_start_together, setup_net),
		TEST(without_a_status_all_announced_queues_start_together, setup_block),
		TEST(without_a_status_a_device_starts_when_no_more_queue_comes, setup_net),
		TEST(without_a_status_a_device_starts_when_no_more_queue_comes, setup_block),
		TEST(each_queue_that_becomes_ready_begins_the_settling_anew, setup_block),
		TEST(a_queue_that_is_taken_back_ends_the_settling, setup_block),
		TEST(a_status_that_is_reported_ends_the_settling, setup_block),
		TEST(a_connection_that_ends_while_it_settles_starts_nothing, setup_block),
		TEST(a_failed_start_takes_the_eventfds_from_the_queues_that_run, setup),
		TEST(a_failed_start_names_queue_and_cause_once, setup),
		TEST(a_late_queue_fails_alone, setup_block),
		TEST(a_stopped_device_starts_anew_and_by_a_shadow_in_the_middle, setup_block),
		TEST(without_shadows_a_stopped_device_starts_not_in_the_middle, setup_block),
		TEST(a_failed_device_says_how_far_a_split_ring_was_used, setup),
		TEST(a_failed_device_says_where_a_packed_ring_began, setup),
		TEST(a_packed_ring_that_has_gone_round_is_not_taken_for_a_new_one, setup),
		TEST(status_0_keeps_where_queues_stopped_and_a_reset_does_not, setup),
		TEST(facts_of_a_ring_that_runs_do_not_change, setup),
		TEST(rings_that_the_device_cannot_take_are_refused_when_they_are_described, setup),
		TEST(notification_data_is_never_offered, setup),
		TEST(a_table_that_is_refused_stops_no_queue, setup_block),
		TEST(a_region_that_is_refused_leaves_the_others_to_a_device_that_stands_still,
		     setup_block),
		TEST(a_region_that_is_there_is_repeated_whatever_the_limit, setup),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
