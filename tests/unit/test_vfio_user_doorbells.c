/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Doorbells of the vfio-user client, which no answer follows, against a server that may be busy. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "event_loop_priv.h"
#include "vdpa_event.h"
#include "vfu_test.h"

/* An answer that waits until it is released. */
static void
held_hook(struct vfu_server *s, const struct vfio_user_header *request, struct vfu_reply *reply)
{
	for (unsigned int i = 0; i < PATIENT_MS / 2 && !LOAD(*(bool *)s->arg); i++)
		usleep(1000);
}

static void
a_post_is_a_write_that_asks_for_no_reply(void **state)
{
	struct function f;
	uint32_t value = 0x12345678;

	start_and_open(&f);
	assert_int_equal(T->post(f.handle, 4, 12292, &value, 4), 0);
	value = 7;
	assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), 0);
	/* In order: what is answered comes after what is not. */
	assert_int_equal(T->read(f.handle, 4, 12292, &value, 4), 0);
	assert_int_equal(value, 0x12345678);
	assert_int_equal(LOAD(server.n_writes), 2);
	assert_int_equal(server.writes[0].flags, VFIO_USER_NO_REPLY);
	assert_int_equal(server.writes[0].count, 4);
	assert_int_equal(server.writes[1].offset, 12288);
	assert_int_equal(server.writes[1].value, 7);
	assert_int_equal(T->post(f.handle, 4, 0, &value, 9), -EINVAL);
	T->close(f.handle);
}

static void *
read_slowly(void *arg)
{
	struct reader *r = arg;
	uint32_t value;

	r->rc = T->read(r->f->handle, CONFIG, 0, &value, 4);
	__atomic_store_n(&r->done, true, __ATOMIC_RELEASE);
	return NULL;
}

static void
a_post_does_not_wait_behind_a_slow_request(void **state)
{
	bool released = false;
	unsigned int before;
	struct function f;
	struct reader reader = {.f = &f};
	pthread_t thread;
	uint16_t value = 1;

	start_and_open(&f);
	before = LOAD(server.requests);
	vfu_server_set_hook(&server, held_hook, &released);
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
	EVENTUALLY(LOAD(server.requests) > before);
	for (unsigned int i = 0; i < 100; i++)
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), 0);
	assert_false(LOAD(reader.done));
	__atomic_store_n(&released, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(reader.rc, 0);
	EVENTUALLY(LOAD(server.n_writes) == 100);
	T->close(f.handle);
}

static void
doorbells_wait_for_room_in_the_socket_and_none_is_lost(void **state)
{
	bool seen[16] = {false};
	struct function f;
	uint32_t n;

	assert_int_equal(vdpa_event_control_init(), 0);
	start_and_open(&f);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	/* Far more than fit, of 16 queues. */
	for (uint16_t i = 0; i < 10000; i++) {
		uint16_t queue = i < 9000 ? i % 8 : i % 16;

		assert_int_equal(T->post(f.handle, 4, 12288 + 4 * queue, &queue, 2), 0);
	}
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	/* Queues 8 to 15 were not among what fitted: the control loop sends what waits. */
	EVENTUALLY(LOAD(server.memory[4][12288 + 4 * 15]) == 15);
	n = LOAD(server.n_writes);
	assert_true(n < 2000);
	for (uint32_t i = n > VFU_LOG_MAX ? n - VFU_LOG_MAX : 0; i < n; i++)
		seen[server.writes[i % VFU_LOG_MAX].value % 16] = true;
	for (unsigned int i = 0; i < 16; i++)
		assert_true(seen[i]);
	T->close(f.handle);
	vdpa_event_control_fini();
}

/* It watches for the server's end only: traffic is no event. */
static void
the_control_loop_sleeps_through_requests_and_doorbells(void **state)
{
	struct vdpa_event_loop_stats before, after;
	struct function f;
	uint32_t value;

	assert_int_equal(vdpa_event_control_init(), 0);
	start_and_open(&f);
	vdpa_event_loop_stats(vdpa_event_loop_control(), &before);
	for (unsigned int i = 0; i < 200; i++) {
		assert_int_equal(T->read(f.handle, CONFIG, 0, &value, 4), 0);
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 2), 0);
	}
	vdpa_event_loop_stats(vdpa_event_loop_control(), &after);
	assert_int_equal(after.wakeups, before.wakeups);
	assert_int_equal(after.events, before.events);
	T->close(f.handle);
	vdpa_event_control_fini();
}

static void
a_request_goes_after_the_doorbells_that_wait(void **state)
{
	struct function f;
	struct reader reader = {.f = &f};
	pthread_t thread;
	uint32_t value;

	start_and_open(&f); /* without a control loop */
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	for (uint32_t i = 0; i < 400; i++) {
		value = i;
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), 0);
	}
	assert_int_equal(pthread_create(&thread, NULL, read_slowly, &reader), 0);
	usleep(20000);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	assert_int_equal(reader.rc, 0);
	assert_int_equal(LOAD(server.n_writes), 400);
	assert_int_equal(server.writes[399 % VFU_LOG_MAX].value, 399);
	T->close(f.handle);
}

static void
a_server_that_takes_no_doorbells_is_given_up(void **state)
{
	struct function f;
	uint32_t value;
	int64_t start = now_ms();
	int rc = 0;

	/* The backlog is full of different ones. */
	start_and_open(&f);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	for (value = 0; rc == 0 && value < 10000; value++)
		rc = T->post(f.handle, 4, 12288, &value, 4);
	assert_int_equal(rc, -ETIMEDOUT);
	assert_true(now_ms() - start < 5000);
	T->close(f.handle);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
	EVENTUALLY(LOAD(server.open_connections) == 0);

	/* One has waited too long. The server pauses between two messages. */
	assert_int_equal(open_function(&f, SHORT_MS), 0);
	__atomic_store_n(&server.paused, true, __ATOMIC_RELEASE);
	value = 0;
	EVENTUALLY((rc = T->post(f.handle, 4, 12288, &value, 4)) < 0 || LOAD(server.pausing));
	assert_int_equal(rc, 0);
	for (unsigned int i = 0; i < 1000 && rc == 0; i++)
		rc = T->post(f.handle, 4, 12288, &value, 4);
	usleep(SHORT_MS * 1000 + 10000);
	assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), -ETIMEDOUT);
	assert_int_equal(T->read(f.handle, 4, 0, &value, 4), -ETIMEDOUT);
	assert_message("has not taken a doorbell for 1000 ms");
	T->close(f.handle);
	__atomic_store_n(&server.paused, false, __ATOMIC_RELEASE);
}

static void
answer_all_hook(struct vfu_server *s, const struct vfio_user_header *request,
		struct vfu_reply *reply)
{
	reply->drop = false;
}

static void
a_server_that_answers_posts_is_borne_with(void **state)
{
	struct function f;
	uint32_t value;

	start_and_open(&f);
	vfu_server_set_hook(&server, answer_all_hook, NULL);
	for (uint32_t i = 0; i < 2000; i++) {
		unsigned int before = LOAD(server.n_writes);

		value = i;
		assert_int_equal(T->post(f.handle, 4, 12288, &value, 4), 0);
		EVENTUALLY(LOAD(server.n_writes) > before);
	}
	assert_int_equal(T->read(f.handle, 4, 12288, &value, 4), 0);
	assert_int_equal(value, 1999);
	T->close(f.handle);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_post_is_a_write_that_asks_for_no_reply),
		TEST(a_post_does_not_wait_behind_a_slow_request),
		TEST(doorbells_wait_for_room_in_the_socket_and_none_is_lost),
		TEST(the_control_loop_sleeps_through_requests_and_doorbells),
		TEST(a_request_goes_after_the_doorbells_that_wait),
		TEST(a_server_that_takes_no_doorbells_is_given_up),
		TEST(a_server_that_answers_posts_is_borne_with),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
