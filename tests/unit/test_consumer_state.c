/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A consumer's state: what is saved after a stop, and what a start makes of what was loaded. */

#include <errno.h>
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

#include "consumer_priv.h"
#include "control_group.h"
#include "fake_device.h"
#include "saved_state.h"

#define IOVA	 0x10000
#define MEM_SIZE 0x100000
#define UADDR	 UINT64_C(0x7f0000000000)
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)

struct fixture {
	struct vdpa_dma_domain *dma; /* of hardware */
	struct fake_device *fake;
	struct vdpa_consumer *c;
};

static void
make_consumer(struct fixture *f)
{
	struct vdpa_mem_region_spec spec = {.iova = IOVA, .uaddr = UADDR, .size = MEM_SIZE};

	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->c = vdpa_consumer_new(&f->fake->vdev, NULL, NULL);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1), 0);
	vdpa_consumer_keep_state(f->c, true);
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_consumer_set_memory(f->c, &spec, 1), 0);
	close(spec.fd);
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fake = fake_device_new("fake0", true);
	f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	make_consumer(f);
	*state = f;
	return 0;
}

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

static int
setup_hardware(void **state)
{
	static const struct vdpa_dma_ops dma_ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &dma_ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("fake0", f->dma, true);
	make_consumer(f);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_consumer_free(f->c);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	if (f->dma != NULL)
		vdpa_dma_domain_destroy(f->dma);
	free(f);
	return 0;
}

static void
start_ring(struct fixture *f, uint16_t idx)
{
	uint64_t at = UADDR + idx * 0x4000u;
	const struct vdpa_consumer_vq_addr addr = {
		.desc = at, .driver = at + 0x1000, .device = at + 0x2000, .log = UINT64_MAX};

	assert_int_equal(vdpa_consumer_set_vq_num(f->c, idx, 64), 0);
	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, idx, &addr), 0);
	assert_int_equal(vdpa_consumer_set_vq_call(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_consumer_set_vq_kick(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	vdpa_consumer_advance(f->c);
}

static void
save(struct fixture *f, struct vdpa_saved_state *s)
{
	uint8_t *buf;
	size_t len;

	assert_int_equal(vdpa_consumer_save_state(f->c, &buf, &len), 0);
	assert_int_equal(vdpa_saved_state_read(s, buf, len), 0);
	free(buf);
}

static int
load(struct fixture *f, const struct vdpa_saved_state *s)
{
	size_t len = vdpa_saved_state_size(s);
	uint8_t *buf = malloc(len);
	int rc;

	vdpa_saved_state_write(s, buf);
	rc = vdpa_consumer_load_state(f->c, buf, len);
	free(buf);
	return rc;
}

static void
assert_place(const struct vdpa_saved_vq *vq, uint32_t num, uint32_t base)
{
	assert_true(vq->known);
	assert_int_equal(vq->num, num);
	assert_int_equal(vq->base, base);
}

static void
a_stop_leaves_places_to_save(void **state)
{
	struct fixture *f = *state;
	struct vdpa_saved_state s;
	uint8_t *buf;
	size_t len;

	save(f, &s);
	assert_true(s.features == V1 && !s.vqs[0].known);
	start_ring(f, 0);
	f->fake->vq[0].state.split.avail_index = 42;
	assert_int_equal(vdpa_consumer_save_state(f->c, &buf, &len), -EBUSY);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), 42);
	save(f, &s);
	assert_place(&s.vqs[0], 64, 42);
	assert_false(s.vqs[1].known);
	/* A front end that resets the status before it asks, or after. */
	vdpa_consumer_set_status(f->c, 0);
	save(f, &s);
	assert_place(&s.vqs[0], 64, 42);
	vdpa_consumer_reset(f->c);
	save(f, &s);
	assert_false(s.vqs[0].known);
	start_ring(f, 1);
	f->fake->vq[1].state.split.avail_index = 9;
	vdpa_consumer_set_status(f->c, 0);
	save(f, &s);
	assert_place(&s.vqs[1], 64, 9);
}

static void
a_start_goes_on_from_the_places_loaded(void **state)
{
	struct fixture *f = *state;
	struct vdpa_saved_state s, again;

	save(f, &s);
	s.vqs[0] = (struct vdpa_saved_vq){.known = true, .num = 64, .base = 7};
	s.vqs[1] = (struct vdpa_saved_vq){.known = true, .num = 64, .base = 8};
	assert_int_equal(load(f, &s), 0);
	/* And moves on at once. */
	save(f, &again);
	assert_place(&again.vqs[1], 64, 8);
	/* The front end's own word counts. */
	assert_int_equal(vdpa_consumer_set_vq_base(f->c, 1, 5), 0);
	start_ring(f, 0);
	start_ring(f, 1);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 7);
	assert_int_equal(f->fake->vq[1].state.split.avail_index, 5);
	assert_int_equal(load(f, &s), -EBUSY);
}

static void
nothing_of_a_refused_state_is_taken(void **state)
{
	struct fixture *f = *state;
	struct vdpa_saved_state s, now;

	save(f, &s);
	s.vqs[0] = (struct vdpa_saved_vq){.known = true, .num = 64, .base = 7};
	/* The last queue is the one that does not fit. */
	s.vqs[3] = (struct vdpa_saved_vq){.known = true, .num = 48, .base = 7};
	assert_int_equal(load(f, &s), -EINVAL);
	s.vqs[3].known = false;
	s.driver = "parts";
	s.driver_len = 5;
	assert_int_equal(load(f, &s), -EOPNOTSUPP);
	assert_non_null(strstr(vdpa_error_message(), "driver: 5 bytes in the state"));
	save(f, &now);
	assert_false(now.vqs[0].known);
	start_ring(f, 0);
	assert_int_equal(f->fake->vq[0].state.split.avail_index, 0);
}

/* The planned end of a process. */

static void
a_planned_end_says_what_was_known_and_where_each_queue_stands(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	assert_int_equal(vdpa_consumer_vq_count(&f->fake->vdev), FAKE_VQS);
	start_ring(f, 0);
	start_ring(f, 1);
	vdpa_consumer_announce_vq(f->c, 2);
	f->fake->vq[0].state.split.avail_index = 42;
	f->fake->vq[1].state.split.avail_index = 9;
	assert_int_equal(vdpa_consumer_leave(f->c, facts), 0);
	for (uint16_t i = 0; i < 2; i++) {
		assert_true(facts[i].runs && facts[i].has_base && facts[i].has_kick);
		assert_int_equal(facts[i].base, i == 0 ? 42 : 9);
		assert_int_equal(facts[i].num, 64);
		assert_int_equal(facts[i].addr.desc, UADDR + i * 0x4000u);
	}
	assert_true(facts[2].announced && !facts[2].runs);
	/* The device is stopped, and nothing starts it again. */
	assert_int_equal(f->fake->status, 0);
	vdpa_consumer_advance(f->c);
	assert_false(vdpa_consumer_is_running(f->c));
}

static void
a_planned_end_of_a_device_that_has_failed_is_none(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	start_ring(f, 0);
	vdpa_device_fail(&f->fake->vdev, -1, -EIO, "it is broken");
	assert_int_equal(vdpa_consumer_leave(f->c, facts), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "has failed"));
}

/* Behind its last queue nobody would see it; and between two of them the core may act on it. */
static void
a_planned_end_of_a_device_that_fails_meanwhile_is_none(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	for (uint16_t rings = 1; rings <= 2; rings++) {
		f->fake->fails_as_it_stops = false;
		vdpa_consumer_reset(f->c);
		assert_int_equal(vdpa_consumer_set_features(f->c, V1), 0);
		for (uint16_t i = 0; i < rings; i++)
			start_ring(f, i);
		assert_true(vdpa_consumer_is_running(f->c));
		f->fake->fails_as_it_stops = true;
		assert_int_equal(vdpa_consumer_leave(f->c, facts), -EIO);
		assert_non_null(strstr(vdpa_error_message(), "it broke when it stopped"));
		assert_false(vdpa_consumer_is_running(f->c));
	}
}

/* What an earlier connection's device has failed of is no matter of the next one, which has not
 * started it. */
static void
a_planned_end_before_a_start_is_one(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	start_ring(f, 0);
	vdpa_device_fail(&f->fake->vdev, -1, -EIO, "it is broken");
	while (vdpa_device_get_state(&f->fake->vdev) != VDPA_STATE_FAILED)
		usleep(1000);
	vdpa_consumer_free(f->c);
	f->c = vdpa_consumer_new(&f->fake->vdev, NULL, NULL);
	assert_int_equal(vdpa_consumer_leave(f->c, facts), 0);
}

/* A job of the device's: those behind it wait. */
static void
keep_busy(struct vdpa_work *work)
{
	usleep(200000);
}

/* The stop resets the device, which forgets what it has reported and the core has not acted on. */
static void
a_failure_at_the_last_stop_is_said(void **state)
{
	struct fixture *f = *state;
	struct vdpa_work busy = {.run = keep_busy};
	int err_fd = eventfd(0, EFD_NONBLOCK), copy = dup(err_fd);
	uint64_t n;
	uint8_t *buf;
	size_t len;

	vdpa_consumer_set_vq_err(f->c, 0, err_fd);
	start_ring(f, 0);
	vdpa_work_post(&f->fake->vdev.core->work, &busy);
	f->fake->fails_as_it_stops = true;
	vdpa_consumer_get_vq_base(f->c, 0, false);
	vdpa_work_cancel(&busy);
	assert_int_equal(vdpa_consumer_save_state(f->c, &buf, &len), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "it broke when it stopped"));
	/* Another process loses nothing that this one would have. */
	assert_false(vdpa_consumer_holds_state(f->c));
	assert_int_equal(read(copy, &n, sizeof(n)), sizeof(n));
	close(copy);
	/* Until it starts again. */
	f->fake->fails_as_it_stops = false;
	start_ring(f, 0);
	vdpa_consumer_get_vq_base(f->c, 0, false);
	assert_int_equal(vdpa_consumer_save_state(f->c, &buf, &len), 0);
	free(buf);
}

/* How far driver and device are in a split ring. */
static void
set_indexes(struct fixture *f, uint16_t idx, uint16_t avail, uint16_t used)
{
	uint64_t ring = IOVA + idx * 0x4000u;

	memcpy(vdpa_iotlb_range(f->c->iotlb, ring + 0x1002, 2), &avail, 2);
	memcpy(vdpa_iotlb_range(f->c->iotlb, ring + 0x2002, 2), &used, 2);
}

/* A device that does not say where its queues stand. */
static void
a_planned_end_needs_to_know_what_was_under_way(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	for (unsigned int round = 0; round < 2; round++) {
		start_ring(f, 0);
		assert_true(vdpa_consumer_is_running(f->c));
		set_indexes(f, 0, 3, round == 0 ? 3 : 1);
		if (round == 0) {
			assert_int_equal(vdpa_consumer_leave(f->c, facts), 0);
			assert_int_equal(facts[0].base, 3);
			set_indexes(f, 0, 0, 0);
			assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 0), 0);
			continue;
		}
		assert_int_equal(vdpa_consumer_leave(f->c, facts), -EIO);
		assert_non_null(strstr(vdpa_error_message(), "queue 0 stopped with requests under "
							     "way, and nobody knows which"));
	}
	assert_false(vdpa_consumer_is_running(f->c));
}

/* Where a queue stands that its front end has stopped before: another process would take a guess
 * for a place. */
static void
a_planned_end_asks_of_queues_that_were_stopped_before(void **state)
{
	struct fixture *f = *state;
	struct vdpa_consumer_vq_facts facts[FAKE_VQS];

	start_ring(f, 0);
	set_indexes(f, 0, 3, 1);
	assert_int_equal(vdpa_consumer_get_vq_base(f->c, 0, false), 1);
	assert_true(vdpa_consumer_has_requests(f->c));
	assert_int_equal(vdpa_consumer_leave(f->c, facts), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "queue 0 stopped with requests under way"));
	/* Its driver has begun anew. */
	assert_int_equal(vdpa_consumer_set_vq_base(f->c, 0, 0), 0);
	assert_false(vdpa_consumer_has_requests(f->c));
	assert_int_equal(vdpa_consumer_leave(f->c, facts), 0);
}

int
main(void)
{
#define TEST(t)	    cmocka_unit_test_setup_teardown(t, setup, teardown)
#define HARDWARE(t) cmocka_unit_test_setup_teardown(t, setup_hardware, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_stop_leaves_places_to_save),
		TEST(a_start_goes_on_from_the_places_loaded),
		TEST(nothing_of_a_refused_state_is_taken),
		TEST(a_planned_end_says_what_was_known_and_where_each_queue_stands),
		TEST(a_planned_end_of_a_device_that_has_failed_is_none),
		TEST(a_planned_end_of_a_device_that_fails_meanwhile_is_none),
		TEST(a_planned_end_before_a_start_is_one),
		TEST(a_failure_at_the_last_stop_is_said),
		HARDWARE(a_planned_end_needs_to_know_what_was_under_way),
		HARDWARE(a_planned_end_asks_of_queues_that_were_stopped_before),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
