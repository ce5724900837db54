/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The device behind a vhost-user connection, without the connection. */

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

#include "device_priv.h"
#include "event_loop_priv.h"
#include "fake_device.h"
#include "vhost_user_priv.h"

#define MEM_SIZE 0x100000
#define UADDR	 UINT64_C(0x7f0000000000)
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)

struct fixture {
	struct fake_device *fake;
	struct vhu_device dev;
	struct vhu_session *s;
	unsigned int freed;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct vdpa_mem_region_spec spec = {.iova = 0x10000, .uaddr = UADDR, .size = MEM_SIZE};

	f->fake = fake_device_new("fake0", true);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->dev = (struct vhu_device){.vdev = &f->fake->vdev, .nvqs = FAKE_VQS, .features = V1};
	pthread_mutex_init(&f->dev.lock, NULL);
	f->s = vdpa_vhu_session_new(&f->dev, 0);
	assert_non_null(f->s);
	f->s->features = V1;
	f->s->features_set = true;
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_vhu_session_set_memory(f->s, &spec, 1), 0);
	close(spec.fd);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_vhu_session_free(f->s);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	pthread_mutex_destroy(&f->dev.lock);
	free(f);
	return 0;
}

static void
make_ring(struct vhu_session *s, uint16_t idx, uint64_t uaddr)
{
	struct vhu_ring *r = &s->rings[idx];

	r->num = 64;
	r->desc_user = uaddr;
	r->driver_user = uaddr + 0x1000;
	r->device_user = uaddr + 0x2000;
	r->addr_set = true;
	assert_int_equal(vdpa_vhu_ring_set_call(s, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_vhu_ring_set_kick(s, idx, eventfd(0, EFD_NONBLOCK)), 0);
}

static void
wait_for_sem(struct vdpa_task *task)
{
	sem_wait(task->arg);
}

static void
a_failed_start_takes_the_eventfds_from_the_queues_that_run(void **state)
{
	struct fixture *f = *state;
	struct vdpa_task task;
	struct fake_vq vq;
	sem_t sem;

	make_ring(f->s, 0, UADDR);
	vdpa_vhu_session_advance(f->s);
	assert_true(f->s->running);
	assert_int_equal(f->fake->vq[0].call_fd, f->s->rings[0].call_fd);

	/* Whatever the control loop is to do comes late. */
	sem_init(&sem, 0, 0);
	task = (struct vdpa_task){.run = wait_for_sem, .arg = &sem};
	vdpa_task_post(vdpa_event_loop_control(), &task);
	make_ring(f->s, 1, UADDR + MEM_SIZE);
	vdpa_vhu_session_advance(f->s);
	vq = f->fake->vq[0];
	sem_post(&sem);
	vdpa_task_cancel(&task);
	sem_destroy(&sem);
	assert_true(f->s->failed);
	/* The front end may close them now, and their numbers be given to other files. */
	assert_false(vq.ready);
	assert_int_equal(vq.kick_fd, -1);
	assert_int_equal(vq.call_fd, -1);
}

/* A line of the log names the device and the queue once. */
static void
what_a_line_begins_with_is_not_said_again(void **state)
{
	struct fixture *f = *state;

	vdpa_error(EIO, "fake0: queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 0), "queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, -1), "queue 1: it is stuck");
	vdpa_error(EIO, "fake01: queue 1");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "fake01: queue 1");
}

static void
a_failed_start_names_queue_and_cause_once(void **state)
{
	struct fixture *f = *state;
	char why[256];

	f->fake->tells = true;
	f->fake->calls = 0;
	f->fake->fail_at = 6;
	make_ring(f->s, 0, UADDR);
	vdpa_vhu_session_advance(f->s);
	assert_true(f->s->failed);
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_string_equal(why, "start: queue 0: the fan has stopped (EIO)");
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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			a_failed_start_takes_the_eventfds_from_the_queues_that_run, setup,
			teardown),
		cmocka_unit_test_setup_teardown(what_a_line_begins_with_is_not_said_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_failed_start_names_queue_and_cause_once, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
