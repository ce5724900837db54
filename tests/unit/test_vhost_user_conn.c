/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How the job of a vhost-user connection waits for the next message, in counts. The front end is in
 * the job's own thread: sched_yield() and poll() are the test's, and there it reads the answer and
 * sends its next message, so that it is as fast or as slow as a case wants.
 */

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"
#include "vhost_user_priv.h"

#define LOAD(field)	__atomic_load_n(&(field), __ATOMIC_SEQ_CST)
#define STORE(field, v) __atomic_store_n(&(field), v, __ATOMIC_SEQ_CST)

#define MESSAGES      600u
/* A front end that is too slow is not looked for before 0, 1, 3, 7, 15, 31 and then 63 messages. */
#define PAUSES	      7u
#define LONGEST_PAUSE 64u

/* The front end. While a talk goes on, it is the job's thread alone that touches it. */
static struct {
	bool talks;
	int fd;
	bool fast; /* it sends its next message when the job yields, else when that sleeps */
	unsigned int to_send, sent;
	unsigned int answered; /* atomic */
	unsigned int polls;
	unsigned int sleeps;	 /* of the job, each for a message */
	unsigned int looked_for; /* messages for which the job has yielded and looked again */
	bool looks;		 /* for the next one */
} peer;

/* Keeps a job where it has yielded. */
static struct {
	bool on;	 /* atomic */
	unsigned int in; /* atomic */
} hold;

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_sched_yield(void);
bool __wrap_vdpa_restart_holds(void);

/* Another process may go on with what this one has. */
static bool holds;

bool
__wrap_vdpa_restart_holds(void)
{
	return LOAD(holds);
}

static void
send_message(void)
{
	const struct vhu_msg msg = {.request = VHU_GET_FEATURES, .flags = VHU_FLAGS_VERSION};

	peer.sent++;
	peer.looks = false;
	assert_int_equal(send(peer.fd, &msg, VHU_HDR_SIZE, 0), VHU_HDR_SIZE);
}

/* Whether the front end has read an answer and sent one message more. */
static bool
answer_read(void)
{
	struct vhu_msg msg;

	if (recv(peer.fd, &msg, sizeof(msg), MSG_DONTWAIT) < 0)
		return false;
	if (peer.sent < peer.to_send)
		send_message();
	STORE(peer.answered, peer.answered + 1);
	return peer.answered < peer.to_send;
}

int
__wrap_sched_yield(void)
{
	if (LOAD(hold.on)) {
		__atomic_add_fetch(&hold.in, 1, __ATOMIC_SEQ_CST);
		while (LOAD(hold.on))
			usleep(100);
		return 0;
	}
	if (!LOAD(peer.talks))
		return 0;
	peer.looked_for += !peer.looks;
	peer.looks = true;
	if (peer.fast)
		answer_read();
	return 0;
}

int
__wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	if (LOAD(peer.talks)) {
		peer.polls++;
		peer.sleeps += answer_read();
	}
	return __real_poll(fds, n, timeout);
}

/* A device, with the other end of its connection. */
struct device {
	struct fake_device *fake;
	struct vhu_device dev;
	int fd;
	unsigned int freed;
};

static int
open_connection(void *arg)
{
	struct device *d = arg;
	struct vdpa_peer self;
	int pair[2];

	vdpa_peer_self(&self);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	d->fd = pair[0];
	return vdpa_vhu_conn_open(&d->dev, pair[1], &self);
}

static struct device *
device_open(const char *name)
{
	struct device *d = calloc(1, sizeof(*d));

	d->fake = fake_device_new(name, true);
	d->fake->freed = &d->freed;
	assert_int_equal(vdpa_register_device(&d->fake->vdev), 0);
	d->dev = (struct vhu_device){.vdev = &d->fake->vdev, .nvqs = FAKE_VQS};
	d->dev.fds = vdpa_fd_account_create();
	pthread_mutex_init(&d->dev.lock, NULL);
	vdpa_vhu_conn_init(&d->dev);
	assert_int_equal(vdpa_event_loop_call(vdpa_event_loop_control(), open_connection, d), 0);
	return d;
}

static void
device_close(struct device *d)
{
	vdpa_vhu_conn_close(&d->dev);
	close(d->fd);
	vdpa_fd_account_destroy(d->dev.fds);
	vdpa_unregister_device(&d->fake->vdev);
	vdpa_put_device(&d->fake->vdev);
	assert_int_equal(d->freed, 1);
	pthread_mutex_destroy(&d->dev.lock);
	free(d);
}

static int
setup(void **state)
{
	struct device *d = device_open("fake0");

	memset(&peer, 0, sizeof(peer));
	memset(&hold, 0, sizeof(hold));
	peer.fd = d->fd;
	*state = d;
	return 0;
}

static int
teardown(void **state)
{
	device_close(*state);
	return 0;
}

/* Until the front end has all its answers. */
static void
talk(bool fast)
{
	peer.fast = fast;
	peer.to_send = MESSAGES;
	peer.sent = peer.answered = peer.sleeps = peer.looked_for = 0;
	STORE(peer.talks, true);
	send_message();
	for (unsigned int i = 0; i < 30000 && LOAD(peer.answered) < MESSAGES; i++)
		usleep(1000);
	STORE(hold.on, false);
	STORE(peer.talks, false);
	assert_int_equal(LOAD(peer.answered), MESSAGES);
}

/* A start is such messages: no thread sleeps and is woken for any of them. On a busy machine the
 * job may lose the CPU for all of the time for which it looks. */
static void
a_front_end_that_goes_on_at_once_finds_the_job_awake(void **state)
{
	talk(true);
	assert_in_range(peer.sleeps, 0, MESSAGES / 4);
}

/* To look for its messages costs CPU time and finds none. */
static void
a_slow_front_end_is_rarely_looked_for(void **state)
{
	talk(false);
	assert_int_equal(peer.sleeps, MESSAGES - 1);
	assert_in_range(peer.looked_for, 1, PAUSES + MESSAGES / LONGEST_PAUSE);
}

/* One message that comes in time is enough. */
static void
a_front_end_that_has_become_fast_is_looked_for_again(void **state)
{
	talk(false);
	talk(true);
	assert_in_range(peer.sleeps, 0, LONGEST_PAUSE);
}

/* A crowd of front ends must not take the CPUs from the devices. */
static void
one_front_end_at_a_time_is_looked_for(void **state)
{
	const struct vhu_msg msg = {.request = VHU_GET_FEATURES, .flags = VHU_FLAGS_VERSION};
	struct device *other = device_open("fake1");

	STORE(hold.on, true);
	assert_int_equal(send(other->fd, &msg, VHU_HDR_SIZE, 0), VHU_HDR_SIZE);
	EVENTUALLY(LOAD(hold.in) == 1);
	talk(true);
	assert_int_equal(peer.sleeps, MESSAGES - 1);
	assert_int_equal(LOAD(hold.in), 1);
	STORE(hold.on, false);
	device_close(other);
}

/* Behind the message that ends a start or a stop none is waited for, awake or asleep. */
static void
a_stopped_device_s_front_end_is_not_looked_for(void **state)
{
	const uint64_t status = VHU_PROTOCOL(STATUS) | VHU_PROTOCOL(REPLY_ACK);
	const struct vhu_msg protocol = {.request = VHU_SET_PROTOCOL_FEATURES,
					 .flags = VHU_FLAGS_VERSION,
					 .size = sizeof(status),
					 .payload.u64 = status};
	const struct vhu_msg stop = {.request = VHU_SET_STATUS,
				     .flags = VHU_FLAGS_VERSION | VHU_FLAGS_NEED_REPLY,
				     .size = sizeof(status)};
	struct device *d = *state;
	char both[2 * (VHU_HDR_SIZE + sizeof(status))];
	struct vhu_msg answer;

	/* This front end reads its answer here. */
	peer.fd = -1;
	d->dev.protocol = status;
	memcpy(both, &protocol, sizeof(both) / 2);
	memcpy(both + sizeof(both) / 2, &stop, sizeof(both) / 2);
	STORE(peer.talks, true);
	assert_int_equal(send(d->fd, both, sizeof(both), 0), sizeof(both));
	assert_int_equal(recv(d->fd, &answer, sizeof(both) / 2, MSG_WAITALL), sizeof(both) / 2);
	usleep(20000);
	STORE(peer.talks, false);
	assert_int_equal(peer.looked_for, 0);
	assert_int_equal(peer.polls, 0);
}

/* Whether the connection of a device that is deleted has ended for the front end. */
static bool
ends_with_its_device(struct device *d)
{
	int other = dup(d->dev.conn.fd);
	bool ended;
	char byte;

	d->dev.conn.kept = true;
	vdpa_vhu_conn_close(&d->dev);
	ended = recv(d->fd, &byte, 1, MSG_DONTWAIT) == 0;
	if (!ended)
		assert_int_equal(errno, EAGAIN);
	close(other);
	return ended;
}

static void
a_connection_that_another_process_may_have_back_does_not_end(void **state)
{
	struct device *other = device_open("fake1");

	assert_true(ends_with_its_device(other));
	device_close(other);
	STORE(holds, true);
	assert_false(ends_with_its_device(*state));
	STORE(holds, false);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_front_end_that_goes_on_at_once_finds_the_job_awake),
		TEST(a_slow_front_end_is_rarely_looked_for),
		TEST(a_front_end_that_has_become_fast_is_looked_for_again),
		TEST(one_front_end_at_a_time_is_looked_for),
		TEST(a_stopped_device_s_front_end_is_not_looked_for),
		TEST(a_connection_that_another_process_may_have_back_does_not_end),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
