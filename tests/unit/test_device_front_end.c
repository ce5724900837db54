/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a front end is told: failures, changed configuration, removal; and what the device is named.
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
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "args_priv.h"
#include "device_test.h"
#include "snapshot.h"
#include "vfio_user.h"
#include "vfio_user_device.h"
#include "vhost_user.h"

bool __wrap_vdpa_restart_holds(void);

/* Another process may go on with what this one has. */
static bool holds;

bool
__wrap_vdpa_restart_holds(void)
{
	return __atomic_load_n(&holds, __ATOMIC_SEQ_CST);
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

/* A job that keeps the device's others waiting. */
struct gate {
	struct vdpa_work work;
	sem_t entered, leave;
};

static void
wait_in_gate(struct vdpa_work *work)
{
	struct gate *gate = work->arg;

	sem_post(&gate->entered);
	sem_wait(&gate->leave);
}

static void
close_gate(struct vdpa_device *vdev, struct gate *gate)
{
	gate->work = (struct vdpa_work){.run = wait_in_gate, .arg = gate};
	sem_init(&gate->entered, 0, 0);
	sem_init(&gate->leave, 0, 0);
	vdpa_work_post(vdpa_get_work_queue(vdev), &gate->work);
	sem_wait(&gate->entered);
}

static void
open_gate(struct gate *gate)
{
	sem_post(&gate->leave);
	vdpa_work_cancel(&gate->work);
	sem_destroy(&gate->entered);
	sem_destroy(&gate->leave);
}

static unsigned int told_doorbell[FAKE_VQS];

static void
note_doorbell(struct vdpa_device *vdev, uint16_t qidx)
{
	__atomic_add_fetch(&told_doorbell[qidx], 1, __ATOMIC_SEQ_CST);
}

static const struct vdpa_frontend_ops doorbell_ops = {.remove = ignore_removal,
						      .doorbell_changed = note_doorbell};

static void
doorbells_that_change_again_and_again_are_told_once(void **state)
{
	struct vdpa_frontend fe = {.name = "noting", .ops = &doorbell_ops};
	struct fixture *f = *state;
	struct gate gate;

	memset(told_doorbell, 0, sizeof(told_doorbell));
	vdpa_device_set_frontend(f->vdev, &fe);
	close_gate(f->vdev, &gate);
	for (unsigned int i = 0; i < 3; i++) {
		vdpa_device_doorbell_changed(f->vdev, 1);
		vdpa_device_doorbell_changed(f->vdev, 3);
	}
	open_gate(&gate);
	EVENTUALLY(TOLD(told_doorbell[3]) == 1);
	assert_int_equal(TOLD(told_doorbell[1]), 1);
	assert_int_equal(TOLD(told_doorbell[0]), 0);
	vdpa_device_doorbell_changed(f->vdev, 3);
	EVENTUALLY(TOLD(told_doorbell[3]) == 2);
	assert_int_equal(TOLD(told_doorbell[1]), 1);
	vdpa_unregister_device(f->vdev);
}

static void
nobody_is_told_of_doorbells_after_the_end(void **state)
{
	struct vdpa_frontend fe = {.name = "noting", .ops = &doorbell_ops};
	struct fixture *f = *state;
	struct gate gate;

	memset(told_doorbell, 0, sizeof(told_doorbell));
	/* Nor before there is anybody. */
	vdpa_device_doorbell_changed(f->vdev, 0);
	close_gate(f->vdev, &gate);
	vdpa_device_set_frontend(f->vdev, &fe);
	vdpa_device_doorbell_changed(f->vdev, 1);
	vdpa_unregister_device(f->vdev);
	open_gate(&gate);
	close_gate(f->vdev, &gate);
	open_gate(&gate);
	assert_int_equal(TOLD(told_doorbell[0]), 0);
	assert_int_equal(TOLD(told_doorbell[1]), 0);
}

static void
a_kick_of_the_front_ends_reaches_the_device(void **state)
{
	struct fixture *f = *state;
	unsigned int kicks;

	/* Nobody to kick. */
	vdpa_device_kick_vq(f->vdev, 0);
	f->vqs[1].kick_fd = -1;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (uint16_t i = 0; i < 2; i++) {
		kicks = TOLD(f->fake->vq[i].kicks);
		vdpa_device_kick_vq(f->vdev, i);
		EVENTUALLY(TOLD(f->fake->vq[i].kicks) == kicks + 1);
	}
	/* Not started, and not there. */
	vdpa_device_kick_vq(f->vdev, 2);
	vdpa_device_kick_vq(f->vdev, FAKE_VQS);
	vdpa_device_kick_vq(f->vdev, UINT16_MAX);
	assert_int_equal(f->fake->vq[2].kicks, 0);
}

static void
note_sizes(struct vfu_device *dev, void *arg)
{
	uint16_t *sizes = arg;

	for (uint16_t i = 0; i < FAKE_VQS; i++)
		sizes[i] = dev->vp.queues[i].size;
}

/* Serve the device at a socket in the folder. */
static void
probe(struct vdpa_device *vdev, const struct vdpa_frontend *fe, const char *word,
      const char *folder)
{
	const struct vdpa_param_table table = {.params = fe->params};
	struct vdpa_words words;
	struct vdpa_args args;
	char text[64];

	snprintf(text, sizeof(text), "%s %s/s.sock", word, folder);
	assert_int_equal(vdpa_words_split(text, &words), 0);
	assert_int_equal(vdpa_args_parse(&words, 0, &table, 1, &args), 0);
	assert_int_equal(fe->ops->probe(vdev, &args), 0);
	vdpa_words_free(&words);
}

static void
a_vfio_user_client_is_offered_each_queue_as_large_as_it_may_be(void **state)
{
	char folder[] = "/tmp/uvdpa-front-end.XXXXXX";
	struct fixture *f = *state;
	uint16_t sizes[FAKE_VQS];

	assert_non_null(mkdtemp(folder));
	f->vdev->core->vqs[1].num_max = 32;
	probe(f->vdev, &vdpa_vfio_user_frontend, "vfio_user", folder);
	assert_int_equal(vdpa_vfus_for_each(f->vdev->name, note_sizes, sizes), 1);
	assert_int_equal(sizes[0], vdpa_get_vq_num_max(f->vdev));
	assert_int_equal(sizes[1], 32);
	vdpa_vfio_user_frontend.ops->remove(f->vdev);
	assert_int_equal(rmdir(folder), 0);
}

/* A new process that an upgrade does not come to leaves no file that nobody serves. */
static void
a_socket_that_no_other_process_has_goes_with_its_device(void **state)
{
	char folder[] = "/tmp/uvdpa-front-end.XXXXXX";
	struct fixture *f = *state;

	assert_non_null(mkdtemp(folder));
	__atomic_store_n(&holds, true, __ATOMIC_SEQ_CST);
	probe(f->vdev, &vdpa_vfio_user_frontend, "vfio_user", folder);
	vdpa_vfio_user_frontend.ops->remove(f->vdev);
	assert_int_equal(rmdir(folder), 0);
	assert_int_equal(mkdir(folder, 0700), 0);
	probe(f->vdev, &vdpa_vhost_user_frontend, "socket", folder);
	vdpa_vhost_user_frontend.ops->remove(f->vdev);
	__atomic_store_n(&holds, false, __ATOMIC_SEQ_CST);
	assert_int_equal(rmdir(folder), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_failure_stops_the_device_once_and_names_the_cause),
		TEST(a_new_front_end_is_told_of_what_it_missed),
		TEST(a_failed_device_that_dies_is_gone),
		TEST(a_failure_is_told_whole),
		TEST(nothing_works_after_unregistration),
		TEST(names_are_unique_and_plain),
		TEST(configuration_is_bounded_and_generation_safe),
		TEST(a_changed_configuration_is_shown_without_asking),
		TEST(a_device_that_is_being_shown_keeps_its_front_end),
		TEST(doorbells_that_change_again_and_again_are_told_once),
		TEST(nobody_is_told_of_doorbells_after_the_end),
		TEST(a_kick_of_the_front_ends_reaches_the_device),
		TEST(a_vfio_user_client_is_offered_each_queue_as_large_as_it_may_be),
		TEST(a_socket_that_no_other_process_has_goes_with_its_device),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
