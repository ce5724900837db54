/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The simulator core with a class that completes late, or never: it pops and keeps. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"

#include "../../drivers/vdpa/sim/sim.h"
#include "ring_driver.h"
#include "vdpa_frontend.h"

#define MEM_SIZE (1u << 20)
#define NUM	 16
#define BUF	 (RING_MEM_IOVA + 0x80000)

/* One request at a time, of a device with one virtqueue. */
struct keeper {
	struct vdpa_vq_chain chain;
	struct iovec iov[4];
	unsigned int kept; /* atomic */
};

static int
keeper_init(struct sim_device *dev, const struct vdpa_args *args, struct vdpa_worker **worker)
{
	struct keeper *k = calloc(1, sizeof(*k));

	k->chain.iov = k->iov;
	k->chain.iov_max = 4;
	dev->priv = k;
	dev->nvqs = 1;
	dev->device_features = SIM_RING_FEATURES;
	return 0;
}

static void
keeper_fini(struct sim_device *dev)
{
	free(dev->priv);
}

static unsigned int
keeper_process(struct sim_queue *q, unsigned int budget)
{
	struct keeper *k = q->dev->priv;

	if (budget == 0 || k->kept > 0 || vdpa_vq_pop(q->vq, &k->chain) != 1)
		return 0;
	__atomic_store_n(&k->kept, 1, __ATOMIC_RELEASE);
	return 1;
}

static unsigned int
keeper_outstanding(struct sim_queue *q)
{
	struct keeper *k = q->dev->priv;

	return __atomic_load_n(&k->kept, __ATOMIC_ACQUIRE);
}

static const struct sim_class keeper_class = {
	.name = "keeper",
	.device_id = 2,
	.config_size = 8,
	.max_vqs = 1,
	.init = keeper_init,
	.fini = keeper_fini,
	.process = keeper_process,
	.outstanding = keeper_outstanding,
};

struct fixture {
	struct sim_device *dev;
	struct vdpa_device *vdev;
	struct keeper *keeper;
	struct ring_mem mem;
	struct ring_driver ring;
	struct vdpa_vq_config conf;
	struct vdpa_start_config start;
};

static void
post(struct fixture *f)
{
	struct ring_buf b = {.iova = BUF, .len = 8, .write = true};

	assert_true(ring_driver_post(&f->ring, &b, 1) >= 0);
	eventfd_write(f->conf.kick_fd, 1);
}

/* Complete what is kept, as a class does: on the worker, into guest memory, then push. */
static int
complete(void *arg)
{
	struct fixture *f = arg;
	struct sim_queue *q = &f->dev->vqs[0];

	memcpy(f->keeper->iov[0].iov_base, "complete", 8);
	vdpa_vq_push(q->vq, &f->keeper->chain, 8);
	vdpa_vq_flush(q->vq);
	vdpa_vq_notify(q->vq);
	__atomic_store_n(&f->keeper->kept, 0, __ATOMIC_RELEASE);
	return 0;
}

static int
setup(void **state)
{
	static const struct vdpa_args no_words;
	const uint64_t size = MEM_SIZE;
	struct fixture *f = calloc(1, sizeof(*f));
	struct ring_driver *r = &f->ring;

	assert_int_equal(sim_device_create(&keeper_class, NULL, "keep0", &no_words, &f->dev), 0);
	f->dev->drain_timeout_ms = 20;
	f->vdev = &f->dev->vdev;
	f->keeper = f->dev->priv;
	assert_int_equal(vdpa_register_device(f->vdev), 0);
	assert_int_equal(ring_mem_init(&f->mem, &size, 1), 0);
	assert_int_equal(ring_driver_init(r, &f->mem, SIM_BIT(SIM_F_VERSION_1), NUM, RING_MEM_IOVA),
			 0);
	f->conf = (struct vdpa_vq_config){.ready = true,
					  .enabled = true,
					  .num = NUM,
					  .desc = r->desc,
					  .driver = r->drv,
					  .device = r->dev,
					  .kick_fd = eventfd(0, EFD_NONBLOCK),
					  .call_fd = eventfd(0, EFD_NONBLOCK)};
	f->start = (struct vdpa_start_config){.features = SIM_BIT(SIM_F_VERSION_1),
					      .iotlb = f->mem.tlb,
					      .vqs = &f->conf,
					      .nvqs = 1};
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	post(f);
	EVENTUALLY(keeper_outstanding(&f->dev->vqs[0]) == 1);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	if (keeper_outstanding(&f->dev->vqs[0]) > 0)
		sim_call(f->dev, complete, f);
	vdpa_unregister_device(f->vdev);
	vdpa_put_device(f->vdev);
	assert_int_equal(f->mem.tlb->refcnt, 1);
	close(f->conf.kick_fd);
	close(f->conf.call_fd);
	ring_driver_fini(&f->ring);
	ring_mem_fini(&f->mem);
	free(f);
	return 0;
}

static int
is_asleep(void *arg)
{
	const struct sim_device *dev = arg;

	return !dev->lanes[0].poller.awake;
}

/* The front end takes back eventfds and log when the device stops, however it stops. */
static void
a_reset_in_vain_keeps_guest_memory_and_nothing_else(void **state)
{
	struct fixture *f = *state;
	uint8_t bits[64] = {0};
	const struct vdpa_dirty_log log = {.bitmap = bits, .size = sizeof(bits)};
	const uint64_t used_iova = f->ring.dev;
	eventfd_t count;

	assert_int_equal(vdpa_device_set_log(f->vdev, &log, &used_iova), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), -ETIMEDOUT);
	assert_non_null(strstr(vdpa_error_message(), "keep0: requests do not end"));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	assert_ptr_equal(f->dev->tlb, f->mem.tlb);
	/* What its requests write is written behind the log's end. */
	assert_true((bits[BUF / 4096 / 8] & 1u << BUF / 4096 % 8) != 0);
	memset(bits, 0, sizeof(bits));
	/* What never ends does not keep the worker awake. */
	EVENTUALLY(sim_call(f->dev, is_asleep, f->dev) == 1);
	sim_call(f->dev, complete, f);
	assert_memory_equal(ring_mem_va(&f->mem, BUF), "complete", 8);
	assert_int_equal(eventfd_read(f->conf.call_fd, &count), -1);
	for (unsigned int i = 0; i < sizeof(bits); i++)
		assert_int_equal(bits[i], 0);
	/* Now it can be reset. */
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_null(f->dev->tlb);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
}

static void
a_queue_that_does_not_stop_fails_its_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state where;
	char why[256];

	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &where), -ETIMEDOUT);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_string_equal(why, "queue 0: requests do not end within 20 ms (ETIMEDOUT)");
	sim_call(f->dev, complete, f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
a_suspension_in_vain_is_none(void **state)
{
	struct fixture *f = *state;
	uint32_t len;
	uint16_t id;

	assert_int_equal(vdpa_suspend(f->vdev), -ETIMEDOUT);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_enable_vq(f->vdev, 0, false), -ETIMEDOUT);
	sim_call(f->dev, complete, f);
	assert_true(ring_driver_poll(&f->ring, &id, &len));
	post(f);
	EVENTUALLY(keeper_outstanding(&f->dev->vqs[0]) == 1);
}

static void
memory_under_a_request_is_not_changed(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec more = {
		.iova = UINT64_C(1) << 40, .uaddr = UINT64_C(1) << 40, .size = 4096};
	struct vdpa_iotlb *tlb;

	more.fd = f->mem.region[0].fd;
	assert_int_equal(vdpa_iotlb_add(f->mem.tlb, &more, &tlb), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), -ETIMEDOUT);
	sim_call(f->dev, complete, f);
	assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
	vdpa_iotlb_put(tlb);
	post(f);
	EVENTUALLY(keeper_outstanding(&f->dev->vqs[0]) == 1);
}

/* The queue holds its request, which may still be read and written: it does not stop. */
static void
memory_is_not_taken_from_under_a_request(void **state)
{
	struct fixture *f = *state;
	char why[256];

	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), -EIO);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "queue 0: requests do not end"));
	assert_true(f->mem.tlb->refcnt > 1);
	/* Once it has come to an end the reset succeeds, and nothing is left. */
	sim_call(f->dev, complete, f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->mem.tlb->refcnt, 1);
}

static void
a_queue_whose_rings_leave_the_memory_stops(void **state)
{
	struct fixture *f = *state;
	struct vdpa_mem_region_spec spec = {.iova = 0x40000000,
					    .uaddr = RING_MEM_UADDR,
					    .size = MEM_SIZE,
					    .fd = f->mem.region[0].fd};
	struct vdpa_vq_state at;
	struct vdpa_iotlb *tlb;

	sim_call(f->dev, complete, f);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
	assert_true(vdpa_device_vq_is_lost(f->vdev, 0));
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), 0);
	assert_int_equal(at.split.avail_index, 1);
	vdpa_iotlb_put(tlb);
}

static int
group_setup(void **state)
{
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_reset_in_vain_keeps_guest_memory_and_nothing_else),
		TEST(a_queue_that_does_not_stop_fails_its_device),
		TEST(a_suspension_in_vain_is_none),
		TEST(memory_under_a_request_is_not_changed),
		TEST(memory_is_not_taken_from_under_a_request),
		TEST(a_queue_whose_rings_leave_the_memory_stops),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
