/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The dirty log of a device that keeps one in hardware: what it has written is in the front end's
 * bitmap in time, while it runs and whatever stops it.
 */

#include <errno.h>
#include <pthread.h>
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
#include <linux/vhost.h>
#include <linux/virtio_config.h>

#include "consumer_priv.h"
#include "control_group.h"
#include "fake_device.h"
#include "test_util.h"

#define IOVA	 0x10000
#define MEM_SIZE 0x100000
#define UADDR	 UINT64_C(0x7f0000000000)
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)
#define PACKED	 (UINT64_C(1) << VIRTIO_F_RING_PACKED)
#define LOG_ALL	 (UINT64_C(1) << VHOST_F_LOG_ALL)
#define QUEUES	 FAKE_VQS

/* Pages: of a buffer, of another, and of the used ring of queue i, by set_up(). */
#define BUFFER	0x80u
#define LATE	0x81u
#define USED(i) (0x12u + 4 * (i))
#define DESC(i) (0x10u + 4 * (i))

/* What a device is like that has to stop. */
enum kind {
	SUSPENDS,
	TAKES_LATE_VQS,
	RESETS_VQS,
	HALTS,
};

struct fixture {
	struct vdpa_dma_domain *dma; /* of hardware */
	struct fake_device *fake;
	struct vdpa_consumer *c;
	uint8_t bits[2][4096]; /* of two logs */
	struct vdpa_dirty_log log[2];
	unsigned int freed;
};

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

static void
add_memory(struct fixture *f, uint64_t iova)
{
	struct vdpa_mem_region_spec spec = {.iova = iova, .uaddr = UADDR + iova, .size = MEM_SIZE};

	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &spec), 0);
	close(spec.fd);
}

static int
setup_kind(void **state, enum kind kind)
{
	static const struct vdpa_dma_ops dma_ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	for (unsigned int i = 0; i < 2; i++)
		f->log[i] = (struct vdpa_dirty_log){
			.bitmap = f->bits[i], .size = sizeof(f->bits[i]), .fd = -1};
	if (kind == RESETS_VQS || kind == HALTS)
		assert_int_equal(vdpa_dma_domain_create("iommu", &dma_ops, NULL, &limits, &f->dma),
				 0);
	f->fake = fake_logging_new("fake0", f->dma);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	f->fake->resets_vqs = kind == RESETS_VQS;
	if (kind == TAKES_LATE_VQS)
		f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->c = vdpa_consumer_new(&f->fake->vdev, NULL, NULL);
	add_memory(f, IOVA);
	*state = f;
	return 0;
}

static int
setup(void **state)
{
	return setup_kind(state, SUSPENDS);
}

static int
setup_late(void **state)
{
	return setup_kind(state, TAKES_LATE_VQS);
}

static int
setup_resetting(void **state)
{
	return setup_kind(state, RESETS_VQS);
}

static int
setup_halting(void **state)
{
	return setup_kind(state, HALTS);
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	f->fake->fail_reset = false;
	vdpa_consumer_free(f->c);
	vdpa_unregister_device(&f->fake->vdev);
	assert_false(f->fake->vdev.core->dirty.on || f->fake->vdev.core->dirty.timer.armed);
	assert_null(f->fake->log);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	vdpa_dma_domain_destroy(f->dma);
	free(f);
	return 0;
}

static void
set_addr(struct fixture *f, uint16_t idx, uint64_t log)
{
	uint64_t at = UADDR + IOVA + idx * 0x4000u;
	const struct vdpa_consumer_vq_addr addr = {
		.desc = at, .driver = at + 0x1000, .device = at + 0x2000, .log = log};

	assert_int_equal(vdpa_consumer_set_vq_addr(f->c, idx, &addr), 0);
}

static void
set_up(struct fixture *f, uint16_t idx)
{
	assert_int_equal(vdpa_consumer_set_vq_num(f->c, idx, 64), 0);
	set_addr(f, idx, USED(idx) << 12);
	assert_int_equal(vdpa_consumer_set_vq_kick(f->c, idx, eventfd(0, EFD_NONBLOCK)), 0);
}

/* A guest that migrates. */
static void
start_with(struct fixture *f, uint64_t features)
{
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[0]), 0);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | features), 0);
	for (uint16_t i = 0; i < QUEUES; i++)
		set_up(f, i);
	vdpa_consumer_advance(f->c);
	assert_true(vdpa_consumer_is_running(f->c));
	__atomic_store_n(&f->fake->log_syncs, 0, __ATOMIC_SEQ_CST);
}

static void
start(struct fixture *f)
{
	start_with(f, LOG_ALL);
}

static bool
is_in(const struct fixture *f, unsigned int log, unsigned int page)
{
	return (__atomic_load_n(&f->bits[log][page / 8], __ATOMIC_SEQ_CST) & 1u << page % 8) != 0;
}

static unsigned int
count(const struct fixture *f, unsigned int log)
{
	unsigned int n = 0;

	for (unsigned int page = 0; page < 8 * sizeof(f->bits[log]); page++)
		n += is_in(f, log, page);
	return n;
}

static void
forget(struct fixture *f)
{
	memset(f->bits, 0, sizeof(f->bits));
}

static void
stop_vqs(struct fixture *f)
{
	for (uint16_t i = 0; i < QUEUES; i++)
		vdpa_consumer_get_vq_base(f->c, i, false);
}

/* Buffers, rings, and nothing else. */
static void
all_is_in(const struct fixture *f)
{
	assert_true(is_in(f, 0, BUFFER) && is_in(f, 0, LATE));
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_true(is_in(f, 0, USED(i)));
	assert_int_equal(count(f, 0), 2 + QUEUES);
}

/* While it runs. */

static void
what_the_hardware_has_logged_is_seen_while_it_runs(void **state)
{
	struct fixture *f = *state;

	start(f);
	for (unsigned int round = 0; round < 2; round++) {
		forget(f);
		fake_write(f->fake, BUFFER + round);
		EVENTUALLY(is_in(f, 0, BUFFER + round));
		EVENTUALLY(is_in(f, 0, USED(QUEUES - 1)));
		assert_int_equal(count(f, 0), 1 + QUEUES);
	}
}

/* A guest that goes on within a migration has buffers in its rings. */
static void
the_first_page_that_is_written_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	f->fake->early_page = BUFFER;
	start(f);
	EVENTUALLY(is_in(f, 0, BUFFER));
	stop_vqs(f);
	forget(f);
	for (uint16_t i = 0; i < QUEUES; i++)
		set_up(f, i);
	vdpa_consumer_advance(f->c);
	EVENTUALLY(is_in(f, 0, BUFFER));
}

static void
a_log_that_the_device_refuses_fails_its_start(void **state)
{
	struct fixture *f = *state;

	f->fake->fail_log_start = true;
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[0]), 0);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | LOG_ALL), 0);
	for (uint16_t i = 0; i < QUEUES; i++)
		set_up(f, i);
	vdpa_consumer_advance(f->c);
	assert_false(vdpa_consumer_is_running(f->c));
	assert_int_equal(f->fake->status & VIRTIO_CONFIG_S_DRIVER_OK, 0);
	assert_non_null(strstr(f->fake->vdev.core->failure, "log_start"));
}

static void
nothing_is_asked_without_a_log(void **state)
{
	struct fixture *f = *state;

	start_with(f, 0);
	assert_false(f->fake->vdev.core->dirty.timer.armed);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | LOG_ALL), 0);
	assert_true(f->fake->vdev.core->dirty.timer.armed);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1), 0);
	assert_false(f->fake->vdev.core->dirty.timer.armed);
	stop_vqs(f);
	assert_int_equal(f->fake->log_stops, 1);
	assert_int_equal(f->fake->log_syncs, 1);
}

static void
rings_that_the_front_end_does_not_log_are_not_marked(void **state)
{
	struct fixture *f = *state;

	start(f);
	set_addr(f, 0, UINT64_MAX);
	stop_vqs(f);
	assert_false(is_in(f, 0, USED(0)));
	assert_true(is_in(f, 0, USED(1)));
}

/* 256 descriptors are one page; the structure that the device writes is in another. */
static void
all_of_a_packed_ring_is_marked(void **state)
{
	struct fixture *f = *state;

	start_with(f, LOG_ALL | PACKED);
	stop_vqs(f);
	for (unsigned int i = 0; i < QUEUES; i++)
		assert_true(is_in(f, 0, DESC(i)) && is_in(f, 0, USED(i)));
	assert_int_equal(count(f, 0), 2 * QUEUES);
}

/* The end. */

static void
a_page_written_before_the_last_queue_stops_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	stop_vqs(f);
	all_is_in(f);
	assert_int_equal(f->fake->log_stops, 1);
}

/* QEMU disables all, and asks then where they stand; a log is large, and this takes its guest's
 * time. */
static void
queues_that_were_disabled_are_not_asked_for_one_by_one(void **state)
{
	struct fixture *f = *state;
	unsigned int before;

	start(f);
	for (uint16_t i = 0; i < QUEUES; i++)
		assert_int_equal(vdpa_consumer_enable_vq(f->c, i, true), 0);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	for (uint16_t i = 0; i < QUEUES; i++)
		assert_int_equal(vdpa_consumer_enable_vq(f->c, i, false), 0);
	before = __atomic_load_n(&f->fake->log_syncs, __ATOMIC_SEQ_CST);
	stop_vqs(f);
	all_is_in(f);
	/* For the queues, and after the reset; or by the timer. */
	assert_in_range(f->fake->log_syncs - before, 2, 3);
}

static void
a_page_written_before_status_0_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	vdpa_consumer_set_status(f->c, 0);
	all_is_in(f);
}

static void
a_page_written_before_a_reset_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	vdpa_consumer_reset(f->c);
	all_is_in(f);
}

static void
a_page_written_before_the_connection_ends_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	vdpa_consumer_free(f->c);
	f->c = NULL;
	all_is_in(f);
}

static void
a_page_written_before_the_device_is_deleted_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	vdpa_unregister_device(&f->fake->vdev);
	all_is_in(f);
}

static void
a_page_written_before_the_device_fails_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	vdpa_device_fail(&f->fake->vdev, 0, EIO, "the test has it fail");
	EVENTUALLY(vdpa_device_get_state(&f->fake->vdev) == VDPA_STATE_FAILED);
	all_is_in(f);
	stop_vqs(f);
}

static void
a_page_written_before_a_suspension_is_in_the_log(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	assert_int_equal(vdpa_suspend(&f->fake->vdev), 0);
	all_is_in(f);
	/* And it writes again. */
	forget(f);
	assert_int_equal(vdpa_resume(&f->fake->vdev), 0);
	fake_write(f->fake, BUFFER);
	stop_vqs(f);
	all_is_in(f);
}

static void
the_log_is_up_to_date_when_the_front_end_ends_it(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	fake_write(f->fake, LATE);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1), 0);
	all_is_in(f);
	assert_true(vdpa_consumer_is_running(f->c));
	assert_null(f->fake->log);
}

static void
another_log_finds_the_one_before_up_to_date(void **state)
{
	struct fixture *f = *state;

	start(f);
	fake_write(f->fake, BUFFER);
	fake_write(f->fake, LATE);
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[1]), 0);
	all_is_in(f);
	forget(f);
	f->fake->late_page = LATE;
	stop_vqs(f);
	assert_int_equal(count(f, 0), 0);
	assert_true(is_in(f, 1, LATE) && is_in(f, 1, USED(0)) && is_in(f, 1, USED(1)));
}

static void
a_log_that_the_device_refuses_leaves_the_one_before(void **state)
{
	struct fixture *f = *state;

	start(f);
	f->fake->fail_log_start = true;
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[1]), -EINVAL);
	forget(f);
	fake_write(f->fake, BUFFER);
	f->fake->late_page = LATE;
	stop_vqs(f);
	all_is_in(f);
	assert_int_equal(count(f, 1), 0);
}

/* What is not known. */

static void
all_memory_is_marked_where_the_device_does_not_tell(void **state)
{
	struct fixture *f = *state;

	start(f);
	__atomic_store_n(&f->fake->fail_log_sync, true, __ATOMIC_SEQ_CST);
	stop_vqs(f);
	assert_int_equal(count(f, 0), MEM_SIZE >> 12);
	assert_true(is_in(f, 0, IOVA >> 12) && !is_in(f, 0, (IOVA + MEM_SIZE) >> 12));
}

static void
all_memory_is_marked_where_the_device_does_not_stop(void **state)
{
	struct fixture *f = *state;

	start(f);
	f->fake->fail_reset = true;
	vdpa_device_fail(&f->fake->vdev, 0, EIO, "the test has it fail");
	EVENTUALLY(vdpa_device_get_state(&f->fake->vdev) == VDPA_STATE_FAILED);
	/* The state is seen before the end. */
	vdpa_device_lock(&f->fake->vdev);
	vdpa_device_unlock(&f->fake->vdev);
	assert_int_equal(count(f, 0), MEM_SIZE >> 12);
	/* And nothing is asked of it any more, but to let go of the log. */
	assert_int_equal(f->fake->log_stops, 1);
	__atomic_store_n(&f->fake->log_syncs, 0, __ATOMIC_SEQ_CST);
	stop_vqs(f);
	assert_int_equal(f->fake->log_syncs, 0);
}

static void
hang(void *arg)
{
	sem_t *sems = arg;

	sem_post(&sems[0]);
	sem_wait(&sems[1]);
}

static void *
replace_log(void *arg)
{
	struct fixture *f = arg;

	return (void *)(intptr_t)vdpa_consumer_set_log(f->c, &f->log[1]);
}

/* The front end unmaps a log that it has replaced. */
static void
a_log_is_not_replaced_under_a_device_that_fails(void **state)
{
	struct fixture *f = *state;
	pthread_t front_end;
	sem_t sems[2];
	void *rc;

	sem_init(&sems[0], 0, 0);
	sem_init(&sems[1], 0, 0);
	start(f);
	f->fake->fail_reset = true;
	f->fake->on_log_stop_arg = sems;
	f->fake->on_log_stop = hang;
	vdpa_device_fail(&f->fake->vdev, 0, EIO, "the test has it fail");
	sem_wait(&sems[0]);
	assert_int_equal(vdpa_device_get_state(&f->fake->vdev), VDPA_STATE_FAILED);
	assert_int_equal(pthread_create(&front_end, NULL, replace_log, f), 0);
	usleep(50000);
	assert_int_not_equal(pthread_tryjoin_np(front_end, NULL), 0);
	sem_post(&sems[1]);
	assert_int_equal(pthread_join(front_end, &rc), 0);
	assert_null(rc);
	sem_destroy(&sems[0]);
	sem_destroy(&sems[1]);
}

/* How much of it. */

static void
the_driver_gets_as_much_of_the_log_as_there_is_memory_for(void **state)
{
	struct fixture *f = *state;
	uint64_t pages = (IOVA + MEM_SIZE) >> 12;

	start(f);
	assert_in_range(f->fake->log->size * 8, pages, pages + 64);
	assert_int_equal(f->fake->log_starts, 1);
	add_memory(f, 0x200000);
	pages = (0x200000 + MEM_SIZE) >> 12;
	assert_in_range(f->fake->log->size * 8, pages, pages + 64);
	assert_ptr_equal(f->fake->log->bitmap, f->bits[0]);
	assert_int_equal(f->fake->log_starts, 2);
	/* Less is had already; and other addresses of rings are not the driver's business. */
	assert_int_equal(vdpa_consumer_remove_memory(f->c, 0x200000, UADDR + 0x200000, MEM_SIZE),
			 0);
	set_addr(f, 0, UINT64_MAX);
	assert_int_equal(f->fake->log_starts, 2);
}

static void
memory_that_the_log_would_not_cover_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec = {
		.iova = 0x200000, .uaddr = UADDR + 0x200000, .size = MEM_SIZE};

	start(f);
	f->fake->fail_log_start = true;
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &spec), -EINVAL);
	close(spec.fd);
	assert_int_equal(vdpa_consumer_count_memory(f->c), 1);
	assert_true(vdpa_consumer_is_running(f->c));
}

/* The front end would not hear of a page that is written there. */
static void
memory_behind_the_end_of_the_log_is_refused(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec = {.iova = sizeof(f->bits[0]) * 8 << 12,
					    .uaddr = UADDR + (UINT64_C(1) << 32),
					    .size = MEM_SIZE};

	start(f);
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_consumer_add_memory(f->c, &spec), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "a dirty log of "));
	assert_int_equal(vdpa_consumer_count_memory(f->c), 1);
	assert_true(vdpa_consumer_is_running(f->c));
	close(spec.fd);
}

static void
a_log_larger_than_any_guest_needs_is_refused(void **state)
{
	struct fixture *f = *state;

	start_with(f, 0);
	add_memory(f, UINT64_C(1) << 50);
	f->log[1].size = UINT64_C(1) << 40;
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[1]), 0);
	assert_int_equal(vdpa_consumer_set_features(f->c, V1 | LOG_ALL), -EINVAL);
	assert_non_null(strstr(vdpa_error_message(), "fake0: a dirty log of"));
	assert_int_equal(vdpa_consumer_set_log(f->c, &f->log[0]), 0);
}

#define AS(kind, fn) cmocka_unit_test_setup_teardown(fn, setup_##kind, teardown)
#define TEST(fn)     cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_the_hardware_has_logged_is_seen_while_it_runs),
		TEST(the_first_page_that_is_written_is_in_the_log),
		AS(late, the_first_page_that_is_written_is_in_the_log),
		AS(halting, the_first_page_that_is_written_is_in_the_log),
		TEST(a_log_that_the_device_refuses_fails_its_start),
		TEST(nothing_is_asked_without_a_log),
		TEST(rings_that_the_front_end_does_not_log_are_not_marked),
		TEST(all_of_a_packed_ring_is_marked),
		TEST(a_page_written_before_the_last_queue_stops_is_in_the_log),
		AS(late, a_page_written_before_the_last_queue_stops_is_in_the_log),
		AS(resetting, a_page_written_before_the_last_queue_stops_is_in_the_log),
		AS(halting, a_page_written_before_the_last_queue_stops_is_in_the_log),
		AS(late, queues_that_were_disabled_are_not_asked_for_one_by_one),
		TEST(a_page_written_before_status_0_is_in_the_log),
		AS(halting, a_page_written_before_status_0_is_in_the_log),
		TEST(a_page_written_before_a_reset_is_in_the_log),
		TEST(a_page_written_before_the_connection_ends_is_in_the_log),
		TEST(a_page_written_before_the_device_is_deleted_is_in_the_log),
		TEST(a_page_written_before_the_device_fails_is_in_the_log),
		TEST(a_page_written_before_a_suspension_is_in_the_log),
		TEST(the_log_is_up_to_date_when_the_front_end_ends_it),
		TEST(another_log_finds_the_one_before_up_to_date),
		TEST(a_log_that_the_device_refuses_leaves_the_one_before),
		TEST(all_memory_is_marked_where_the_device_does_not_tell),
		AS(halting, all_memory_is_marked_where_the_device_does_not_stop),
		TEST(all_memory_is_marked_where_the_device_does_not_stop),
		AS(halting, a_log_is_not_replaced_under_a_device_that_fails),
		TEST(the_driver_gets_as_much_of_the_log_as_there_is_memory_for),
		TEST(memory_that_the_log_would_not_cover_is_refused),
		TEST(memory_behind_the_end_of_the_log_is_refused),
		TEST(a_log_larger_than_any_guest_needs_is_refused),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
