/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Doorbells of a vhost-user front end: given when a queue starts, taken back when it stops, and
 * while it runs. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "page_holders.h"
#include "test_util.h"
#include "vhost_user_test.h"

static void
a_queue_that_starts_gives_its_doorbell_and_takes_it_back(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;
	uint32_t base;
	uint16_t *page;

	start_with_doorbells(f, 2);
	for (uint16_t i = 0; i < 2; i++) {
		assert_int_equal(next_doorbell(channel, &area, &fd), 0);
		assert_int_equal(area.u64, i);
		assert_int_equal(area.size, 0x1000);
		assert_int_equal(area.offset, 0x3000 + i * 0x1000);
		/* The very page of the device. */
		page = mmap(NULL, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    (off_t)area.offset);
		assert_ptr_not_equal(page, MAP_FAILED);
		*page = (uint16_t)(0xd000 + i);
		munmap(page, area.size);
		close(fd);
		assert_int_equal(pread(f->fake->doorbell.fd, &base, 2, (off_t)area.offset), 2);
		assert_int_equal((uint16_t)base, 0xd000 + i);
	}
	/* Said once. */
	vdpa_vhu_session_advance(f->s);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	vdpa_vhu_take_doorbell(f->s, 1);
	vdpa_consumer_get_vq_base(f->s->consumer, 1, false);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, 1 | VHU_FILE_NOFD);
	assert_int_equal(fd, -1);
	vdpa_vhu_take_doorbell(f->s, 0);
	vdpa_consumer_reset(f->s->consumer);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, 0 | VHU_FILE_NOFD);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	/* And again. */
	for (uint16_t i = 0; i < 2; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	close(fd);
	close(f->fake->doorbell.fd);
	close(channel);
}

static void
the_doorbells_of_a_device_that_fails_are_taken_back(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;

	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	close(fd);
	vdpa_vhu_take_doorbells(&f->dev);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, VHU_FILE_NOFD);
	close(f->fake->doorbell.fd);
	close(channel);
}

static void
a_doorbell_that_is_not_one_page_is_not_given(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;

	f->fake->doorbell.size = 4;
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(vdpa_consumer_is_running(f->s->consumer));
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	close(channel);
}

static void
no_doorbell_is_given_that_was_not_negotiated(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
					      RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER));
	int fd;

	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	close(f->fake->doorbell.fd);
	close(channel);
}

/* A page with the whole device is noted, and goes to whose guest it is and to nobody else. */
static void
the_page_of_a_whole_device_goes_to_the_user_who_is_connected(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;
	struct vdpa_page_holders held;

	f->fake->doorbell.whole_device = true;
	f->s->channel.uid++;
	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	assert_false(vdpa_page_holders_look(vdpa_dma_page_holders(f->dma)).any);

	f->s->channel.uid--;
	vdpa_vhu_take_doorbell(f->s, 0);
	vdpa_vhu_give_doorbells(f->s);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_true(fd >= 0);
	close(fd);
	held = vdpa_page_holders_look(vdpa_dma_page_holders(f->dma));
	assert_true(held.any);
	assert_int_equal(held.first.uid, geteuid());
	assert_int_equal(held.first.pid, getpid());
	close(f->fake->doorbell.fd);
	close(channel);
}

/* What does not fit into the channel is lost; nobody waits. */
static void
a_front_end_that_does_not_read_its_channel_holds_up_nobody(void **state)
{
	struct fixture *f = *state;
	int channel = open_channel(f, DOORBELL_FEATURES);

	start_with_doorbells(f, 1);
	for (unsigned int i = 0; i < 2000; i++) {
		vdpa_vhu_take_doorbell(f->s, 0);
		vdpa_consumer_get_vq_base(f->s->consumer, 0, false);
		set_up_ring(f, 0);
		assert_true(vdpa_consumer_is_running(f->s->consumer));
	}
	close(f->fake->doorbell.fd);
	close(channel);
}

/* While the queue runs. */

static void
pass_on(struct vdpa_device *vdev, uint16_t qidx)
{
	vdpa_vhu_doorbell_changed(vdpa_get_drvdata(vdev), qidx);
}

static void
ignore_removal(struct vdpa_device *vdev)
{
}

static int
setup_front_end(void **state)
{
	static const struct vdpa_frontend_ops ops = {.remove = ignore_removal,
						     .doorbell_changed = pass_on};
	static struct vdpa_frontend fe = {.name = "passing", .ops = &ops};
	struct fixture *f;

	setup(state);
	f = *state;
	vdpa_set_drvdata(&f->fake->vdev, &f->dev);
	vdpa_device_set_frontend(&f->fake->vdev, &fe);
	return 0;
}

static void
set_doorbells(struct fixture *f, bool there)
{
	vdpa_device_lock(&f->fake->vdev);
	f->fake->doorbell.size = there ? 0x1000 : 0;
	vdpa_device_unlock(&f->fake->vdev);
}

static unsigned int
count_doorbells(struct fixture *f)
{
	unsigned int n;

	pthread_mutex_lock(&f->dev.lock);
	n = vdpa_vhu_count_doorbells(f->s);
	pthread_mutex_unlock(&f->dev.lock);
	return n;
}

static enum vhu_doorbell
doorbell_of(struct fixture *f, uint16_t idx)
{
	enum vhu_doorbell doorbell;

	pthread_mutex_lock(&f->dev.lock);
	doorbell = f->s->doorbells[idx];
	pthread_mutex_unlock(&f->dev.lock);
	return doorbell;
}

static unsigned int
kicks_of(struct fixture *f, uint16_t idx)
{
	return __atomic_load_n(&f->fake->vq[idx].kicks, __ATOMIC_SEQ_CST);
}

/* The next message is that queue idx has a doorbell, or has none any more. */
static void
expect_doorbell(int channel, uint16_t idx, bool given)
{
	struct vhu_vring_area area;
	int fd;

	EVENTUALLY(recv(channel, &area, 1, MSG_PEEK) == 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, idx | (given ? 0 : VHU_FILE_NOFD));
	assert_int_equal(fd >= 0, given);
	if (given)
		close(fd);
}

static void
expect_quiet(int channel)
{
	char byte;

	assert_int_equal(recv(channel, &byte, 1, MSG_PEEK), -1);
	assert_int_equal(errno, EAGAIN);
}

/* Queues 0 and 1 run, and their doorbells are given. The other end of the channel. */
static int
begin(struct fixture *f)
{
	int channel = open_channel(f, DOORBELL_FEATURES);

	start_with_doorbells(f, 2);
	expect_doorbell(channel, 0, true);
	expect_doorbell(channel, 1, true);
	return channel;
}

static void
finish(struct fixture *f, int channel)
{
	close(f->fake->doorbell.fd);
	close(channel);
}

static void
a_doorbell_is_taken_back_and_given_again_while_its_queue_runs(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);
	unsigned int resets = f->fake->resets;

	for (unsigned int i = 0; i < 3; i++) {
		set_doorbells(f, false);
		vdpa_device_doorbell_changed(&f->fake->vdev, 1);
		expect_doorbell(channel, 1, false);
		assert_int_equal(count_doorbells(f), 1);
		set_doorbells(f, true);
		vdpa_device_doorbell_changed(&f->fake->vdev, 1);
		expect_doorbell(channel, 1, true);
		EVENTUALLY(count_doorbells(f) == 2);
	}
	assert_int_equal(f->fake->resets, resets);
	expect_quiet(channel);
	finish(f, channel);
}

/* As of one that began on something of ours. */
static void
a_doorbell_that_comes_later_is_given(void **state)
{
	struct fixture *f = *state;
	int channel = open_channel(f, DOORBELL_FEATURES);

	start_with_doorbells(f, 0);
	set_doorbells(f, false);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(vdpa_consumer_is_running(f->s->consumer));
	expect_quiet(channel);
	set_doorbells(f, true);
	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	expect_doorbell(channel, 0, true);
	/* Not of a queue that does not run. */
	vdpa_device_doorbell_changed(&f->fake->vdev, 1);
	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	usleep(20000);
	expect_quiet(channel);
	finish(f, channel);
}

/* What the guest writes to the page until the front end has taken it away is heard by nobody. */
static void
the_queue_is_kicked_until_the_page_is_out_of_the_guest(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);
	unsigned int kicks = kicks_of(f, 1), others = kicks_of(f, 0);

	set_doorbells(f, false);
	vdpa_device_doorbell_changed(&f->fake->vdev, 1);
	EVENTUALLY(kicks_of(f, 1) >= kicks + 11);
	assert_int_equal(doorbell_of(f, 1), VHU_DOORBELL_TAKEN);
	kicks = kicks_of(f, 1);
	expect_doorbell(channel, 1, false);
	/* And after it was read: the guest's CPUs may be about to write. */
	EVENTUALLY(kicks_of(f, 1) >= kicks + 5);
	EVENTUALLY(doorbell_of(f, 1) == VHU_DOORBELL_NONE);
	usleep(20000);
	kicks = kicks_of(f, 1);
	assert_false(f->s->doorbell_timer.armed);
	usleep(50000);
	assert_int_equal(kicks_of(f, 1), kicks);
	assert_int_equal(kicks_of(f, 0), others);
	finish(f, channel);
}

/* Away and there again before anybody has looked: nothing is to be said, but a kick may be lost. */
static void
a_doorbell_that_is_there_again_stays_and_the_queue_is_kicked(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);
	unsigned int kicks = kicks_of(f, 0);

	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	EVENTUALLY(kicks_of(f, 0) == kicks + 1);
	assert_int_equal(count_doorbells(f), 2);
	usleep(20000);
	assert_int_equal(kicks_of(f, 0), kicks + 1);
	expect_quiet(channel);
	finish(f, channel);
}

/* A message of doorbells that does not matter, until no more fits. The number of them. */
static unsigned int
fill(struct fixture *f)
{
	const struct vhu_msg msg = {.request = VHU_BACKEND_VRING_HOST_NOTIFIER_MSG,
				    .flags = VHU_FLAGS_VERSION,
				    .size = sizeof(msg.payload.area),
				    .payload.area = {.u64 = 3 | VHU_FILE_NOFD}};
	unsigned int n = 0;

	while (vdpa_vhu_send(f->s->backend_fd, &msg, -1) > 0)
		n++;
	assert_in_range(n, 10, 100000);
	return n;
}

static void
a_front_end_that_does_not_read_gets_the_message_when_it_does(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);
	unsigned int n = fill(f), kicks = kicks_of(f, 0);
	struct vdpa_work_stats stats;

	set_doorbells(f, false);
	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	vdpa_device_doorbell_changed(&f->fake->vdev, 1);
	/* It is kicked, and nobody waits for it. */
	EVENTUALLY(kicks_of(f, 0) >= kicks + 5);
	assert_int_equal(doorbell_of(f, 0), VHU_DOORBELL_TO_TAKE);
	vdpa_work_stats(&stats);
	assert_int_equal(stats.waiting, 0);
	assert_int_equal(count_doorbells(f), 0);
	for (unsigned int i = 0; i < n; i++)
		expect_doorbell(channel, 3, false);
	expect_doorbell(channel, 0, false);
	expect_doorbell(channel, 1, false);
	EVENTUALLY(doorbell_of(f, 0) == VHU_DOORBELL_NONE);
	assert_int_equal(doorbell_of(f, 1), VHU_DOORBELL_NONE);
	expect_quiet(channel);
	finish(f, channel);
}

/* Whoever hangs up may have kept the page. */
static void
a_channel_that_is_gone_does_not_stop_the_kicks(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);
	unsigned int kicks = kicks_of(f, 0);

	close(channel);
	set_doorbells(f, false);
	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	EVENTUALLY(kicks_of(f, 0) >= kicks + 9);
	assert_int_equal(doorbell_of(f, 0), VHU_DOORBELL_TO_TAKE);
	close(f->fake->doorbell.fd);
}

/* A stop ends it, with one message whenever it comes. */
static void
a_queue_that_stops_while_its_page_is_on_its_way_back_is_said_once(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);

	set_doorbells(f, false);
	vdpa_device_doorbell_changed(&f->fake->vdev, 1);
	EVENTUALLY(doorbell_of(f, 1) == VHU_DOORBELL_TAKEN);
	vdpa_vhu_take_doorbell(f->s, 1);
	vdpa_consumer_get_vq_base(f->s->consumer, 1, false);
	expect_doorbell(channel, 1, false);
	expect_quiet(channel);
	assert_int_equal(doorbell_of(f, 1), VHU_DOORBELL_NOT_ASKED);
	/* The other one is given back all the same. */
	vdpa_vhu_take_doorbell(f->s, 0);
	expect_doorbell(channel, 0, false);
	EVENTUALLY(!f->s->doorbell_timer.armed);
	finish(f, channel);
}

/* Threads are at work for it, and its memory goes. */
static void
a_connection_that_ends_while_a_page_is_on_its_way_back_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	int channel = begin(f);

	fill(f);
	set_doorbells(f, false);
	vdpa_device_doorbell_changed(&f->fake->vdev, 0);
	vdpa_device_doorbell_changed(&f->fake->vdev, 1);
	usleep(1000);
	finish(f, channel);
}

#define TEST(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_queue_that_starts_gives_its_doorbell_and_takes_it_back, setup),
		TEST(the_doorbells_of_a_device_that_fails_are_taken_back, setup),
		TEST(a_doorbell_that_is_not_one_page_is_not_given, setup),
		TEST(no_doorbell_is_given_that_was_not_negotiated, setup),
		TEST(the_page_of_a_whole_device_goes_to_the_user_who_is_connected, setup),
		TEST(a_front_end_that_does_not_read_its_channel_holds_up_nobody, setup),
		TEST(a_doorbell_is_taken_back_and_given_again_while_its_queue_runs,
		     setup_front_end),
		TEST(a_doorbell_that_comes_later_is_given, setup_front_end),
		TEST(the_queue_is_kicked_until_the_page_is_out_of_the_guest, setup_front_end),
		TEST(a_doorbell_that_is_there_again_stays_and_the_queue_is_kicked, setup_front_end),
		TEST(a_front_end_that_does_not_read_gets_the_message_when_it_does, setup_front_end),
		TEST(a_channel_that_is_gone_does_not_stop_the_kicks, setup_front_end),
		TEST(a_queue_that_stops_while_its_page_is_on_its_way_back_is_said_once,
		     setup_front_end),
		TEST(a_connection_that_ends_while_a_page_is_on_its_way_back_leaves_nothing,
		     setup_front_end),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
