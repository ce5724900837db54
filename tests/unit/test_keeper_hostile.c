/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A keeper and daemons that say what they should not, or end or hang in the middle. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>
#include <rte_common.h>

#include "keeper_test.h"

#define MESSAGES 20000

/* Daemons that say what they should not. */

static void
a_message_that_is_none_ends_the_connection(void **state)
{
	struct keeper_msg msg, answer;
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
	/* The first test: nothing from before is still being closed. */
	unsigned int before = count_fds();
	struct vdpa_keep *k;

	k = open_keep();
	put(k, "kept", fds[0]);
	vdpa_keep_close(k);
	for (unsigned int i = 0; i < 9; i++) {
		size_t len = sizeof(msg);
		unsigned int n = 0;
		int conn = raw_connect();

		while (recv(conn, &answer, sizeof(answer), 0) == (ssize_t)sizeof(answer) &&
		       answer.result == -EBUSY) {
			close(conn);
			conn = raw_connect();
		}
		msg = message(KEEPER_PUT, "a");
		switch (i) {
		case 0:
			msg.magic++;
			break;
		case 1:
			msg.version++;
			n = 1;
			break;
		case 2:
			msg.op = KEEPER_HELLO;
			break;
		case 3:
			msg.op = 99;
			break;
		case 4:
			msg.op = KEEPER_DEL;
			n = 1;
			break;
		case 5:
			memset(msg.name, 'x', sizeof(msg.name));
			n = 1;
			break;
		case 6:
			len--;
			n = 1;
			break;
		case 7:
			len = 1;
			break;
		default:
			msg.op = KEEPER_TAKE;
			n = 2;
			/* Two are none, so this one is answered, and the next ends it. */
			raw_send(conn, &msg, sizeof(msg), fds, n);
			recv(conn, &answer, sizeof(answer), 0);
			assert_int_equal(answer.result, -ENOENT);
			n = 0;
			msg.op = 0;
		}
		raw_send(conn, &msg, len, fds, n);
		if (recv(conn, &answer, sizeof(answer), 0) > 0)
			fail_msg("case %u is answered with %d", i, answer.result);
		close(conn);
	}
	k = open_keep();
	assert_string_equal(left(k), "kept ");
	vdpa_keep_close(k);
	wait_for_fds(before + 1);
	close(fds[0]);
	close(fds[1]);
}

static void
requests_that_are_wrong_are_answered_so(void **state)
{
	static const struct {
		enum keeper_op op;
		const char *name;
		unsigned int fds;
		int result;
	} wrong[] = {
		{KEEPER_PUT, "a", 0, -EBADF},	{KEEPER_PUT, "a", 2, -EBADF},
		{KEEPER_PUT, "", 1, -EINVAL},	{KEEPER_PUT, "a/b", 1, -EINVAL},
		{KEEPER_DEL, "a", 0, -ENOENT},	{KEEPER_DEL, "", 0, -ENOENT},
		{KEEPER_TAKE, "a", 0, -ENOENT}, {KEEPER_TAKE, "\x80", 0, -ENOENT},
		{KEEPER_LIST, "zzz", 0, 0},
	};
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)}, conn = raw_connect();
	unsigned int before;
	struct keeper_msg msg;

	assert_int_equal(recv(conn, &msg, sizeof(msg), 0), sizeof(msg));
	before = count_fds();
	for (unsigned int i = 0; i < RTE_DIM(wrong); i++) {
		msg = message(wrong[i].op, wrong[i].name);
		raw_send(conn, &msg, sizeof(msg), fds, wrong[i].fds);
		assert_int_equal(recv(conn, &msg, sizeof(msg), 0), sizeof(msg));
		assert_int_equal(msg.result, wrong[i].result);
	}
	assert_int_equal(count_fds(), before);
	close(conn);
	close(fds[0]);
	close(fds[1]);
}

static void
a_daemon_that_reads_no_answers_is_cut_off(void **state)
{
	struct keeper_msg msg = message(KEEPER_NOOP, "");
	int conn = raw_connect();
	ssize_t n;

	do
		n = raw_send(conn, &msg, sizeof(msg), NULL, 0);
	while (n > 0);
	assert_true(errno == EPIPE || errno == ECONNRESET);
	close(conn);
	vdpa_keep_close(open_keep());
}

/* One that asks without an end: the keeper finds one more request whenever it looks. */
static struct {
	bool on;
	int conn;
	unsigned int asked, answered;
} hasty;

ssize_t __real_recvmsg(int sock, struct msghdr *mh, int flags);
ssize_t __wrap_recvmsg(int sock, struct msghdr *mh, int flags);

ssize_t
__wrap_recvmsg(int sock, struct msghdr *mh, int flags)
{
	struct keeper_msg msg = message(KEEPER_NOOP, "");

	if (!__atomic_load_n(&hasty.on, __ATOMIC_ACQUIRE) ||
	    !pthread_equal(pthread_self(), keeper.thread))
		return __real_recvmsg(sock, mh, flags);
	/* It reads its answers. */
	while (__atomic_load_n(&hasty.answered, __ATOMIC_ACQUIRE) < hasty.asked)
		sched_yield();
	hasty.asked++;
	memcpy(mh->msg_iov[0].iov_base, &msg, sizeof(msg));
	mh->msg_controllen = 0;
	mh->msg_flags = 0;
	return sizeof(msg);
}

static void *
read_answers(void *arg)
{
	struct keeper_msg msg;

	while (recv(hasty.conn, &msg, sizeof(msg), 0) > 0)
		__atomic_add_fetch(&hasty.answered, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* Whoever comes meanwhile is answered, if only that the keeper is busy. */
static void
a_daemon_that_goes_on_asking_holds_up_nobody(void **state)
{
	const struct timeval patience = {.tv_sec = 30};
	struct keeper_msg msg, busy = {.result = 0};
	int other;
	pthread_t thread;

	hasty.conn = raw_connect();
	assert_int_equal(recv(hasty.conn, &msg, sizeof(msg), 0), sizeof(msg));
	pthread_create(&thread, NULL, read_answers, NULL);
	__atomic_store_n(&hasty.on, true, __ATOMIC_RELEASE);
	other = raw_connect();
	setsockopt(other, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	recv(other, &busy, sizeof(busy), 0);
	__atomic_store_n(&hasty.on, false, __ATOMIC_RELEASE);
	assert_int_equal(busy.result, -EBUSY);
	close(other);
	shutdown(hasty.conn, SHUT_RDWR);
	pthread_join(thread, NULL);
	close(hasty.conn);
}

static uint64_t rng = 0x9e3779b97f4a7c15;

static uint32_t
below(uint32_t n)
{
	rng ^= rng >> 12;
	rng ^= rng << 25;
	rng ^= rng >> 27;
	return (uint32_t)((rng * UINT64_C(2685821657736338717) >> 32) % n);
}

static void
no_messages_do_harm(void **state)
{
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)}, conn = -1;
	unsigned int connections = 0, answers = 0;
	struct vdpa_keep *k;

	for (unsigned int i = 0; i < MESSAGES; i++) {
		struct keeper_msg msg;
		char name[8];
		static char answer[sizeof(msg) + KEEPER_LIST_MAX];
		bool spoiled = below(8) == 0;

		if (conn < 0) {
			conn = raw_connect();
			connections++;
			/* The former connection's end may not have been noticed. */
			if (recv(conn, &msg, sizeof(msg), 0) != sizeof(msg) || msg.result < 0) {
				close(conn);
				conn = -1;
				continue;
			}
		}
		snprintf(name, sizeof(name), "%c:%u", 'a' + (char)below(3), below(20));
		msg = message(KEEPER_PUT + below(5), name);
		if (spoiled)
			((uint8_t *)&msg)[below(sizeof(msg))] ^= (uint8_t)(1u << below(8));
		if (raw_send(conn, &msg, below(50) == 0 ? below(sizeof(msg) + 1) : sizeof(msg), fds,
			     msg.op == KEEPER_PUT || below(20) == 0 ? below(3) : 0) < 0 ||
		    below(200) == 0 || recv(conn, answer, sizeof(answer), 0) <= 0) {
			close(conn);
			conn = -1;
		} else {
			const struct keeper_msg *got = (const void *)answer;

			answers++;
			/* What came with it is closed by the kernel: no room was given for it. */
			assert_int_equal(got->magic, KEEPER_MAGIC);
		}
	}
	if (conn >= 0)
		close(conn);
	print_message("%u connections, %u answers\n", connections, answers);
	assert_true(answers > MESSAGES / 2 && connections > 10);
	k = open_keep();
	assert_int_equal(vdpa_keep_for_each(k, drop_it, k), 0);
	put(k, "a", fds[0]);
	vdpa_keep_close(k);
	close(fds[0]);
	close(fds[1]);
}

/* Keepers that say what they should not. */

enum lie {
	LIE_SILENT,
	LIE_SHORT,
	LIE_MAGIC,
	LIE_OP,
	LIE_ID,
	LIE_FD,
	LIE_END,
	LIE_ERRNO,
	LIES,
};

static enum lie lie;
static bool lie_in_list, lie_in_hello;

static void
send_lie(int conn, struct keeper_msg *msg)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	size_t len = sizeof(*msg);

	msg->result = 0;
	switch (lie) {
	case LIE_SILENT:
		len = 0;
		break;
	case LIE_SHORT:
		len--;
		break;
	case LIE_MAGIC:
		msg->magic++;
		break;
	case LIE_OP:
		msg->op++;
		break;
	case LIE_ID:
		msg->id++;
		break;
	case LIE_ERRNO:
		msg->result = -ETIMEDOUT;
		break;
	default:
		break;
	}
	if (lie == LIE_END)
		shutdown(conn, SHUT_RDWR);
	else if (len > 0)
		raw_send(conn, msg, len, &fd, lie == LIE_FD);
	close(fd);
}

static int
accept_one(void)
{
	struct pollfd p = {.fd = keeper.listen.fd, .events = POLLIN};

	poll(&p, 1, -1);
	return accept4(keeper.listen.fd, NULL, NULL, SOCK_CLOEXEC);
}

/* Answer as a keeper does, but for the last thing. */
static void *
run_liar(void *arg)
{
	int conn = accept_one();
	struct keeper_msg msg = message(KEEPER_HELLO, "");

	if (lie_in_hello)
		send_lie(conn, &msg);
	else
		raw_send(conn, &msg, sizeof(msg), NULL, 0);
	while (recv(conn, &msg, sizeof(msg), 0) > 0) {
		if (msg.op == KEEPER_LIST && !lie_in_list) {
			msg.result = 0;
			raw_send(conn, &msg, sizeof(msg), NULL, 0);
		} else {
			send_lie(conn, &msg);
		}
	}
	close(conn);
	return NULL;
}

static void
a_keeper_that_lies_is_given_up(void **state)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	unsigned int before;

	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	before = count_fds();
	for (lie = 0; lie < LIES; lie++) {
		struct vdpa_keep *k;
		pthread_t thread;

		pthread_create(&thread, NULL, run_liar, NULL);
		k = open_keep();
		/* One wait for a keeper that says nothing, and none after it. */
		if (lie == LIE_SILENT)
			assert_int_equal(vdpa_keep_barrier(k, 50), -ETIMEDOUT);
		else
			assert_int_equal(vdpa_keep_put(k, "a", fd), -EPIPE);
		assert_int_equal(vdpa_keep_put(k, "a", fd), -EPIPE);
		assert_int_equal(vdpa_keep_barrier(k, 0), -EPIPE);
		vdpa_keep_close(k);
		pthread_join(thread, NULL);
		assert_int_equal(count_fds(), before);
	}
	vdpa_listen_unlink(&keeper.listen);
	close(keeper.listen.fd);
	close(fd);
}

static void
a_keeper_that_lies_at_first_is_not_used(void **state)
{
	unsigned int before;

	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	before = count_fds();
	for (unsigned int i = 0; i < 2; i++) {
		lie_in_hello = i == 0;
		lie_in_list = i == 1;
		for (lie = LIE_SHORT; lie < LIES; lie++) {
			struct vdpa_keep *k;
			pthread_t thread;
			int rc;

			/* A greeting has no id to be wrong. */
			if (lie_in_hello && (lie == LIE_ID || lie == LIE_FD))
				continue;
			pthread_create(&thread, NULL, run_liar, NULL);
			rc = vdpa_keep_open(keeper.where, &k);
			/* Answered, and not waited for. */
			if (rc >= 0 || rc == -ETIMEDOUT)
				fail_msg("lie %d in %s is believed", lie,
					 i == 0 ? "hello" : "list");
			assert_null(k);
			pthread_join(thread, NULL);
			assert_int_equal(count_fds(), before);
		}
	}
	lie_in_hello = lie_in_list = false;
	vdpa_listen_unlink(&keeper.listen);
	close(keeper.listen.fd);
}

static const struct {
	const char *names;
	size_t len;
	int count;
} lists[] = {
	{"b\0a", 4, 2}, {"a\0a", 4, 2},	 {"a", 1, 1},	 {"a\0", 2, 2},
	{"", 1, 1},	{"a b\0", 4, 1}, {"a\0b", 4, 0}, {"a\0", 2, INT32_MAX},
};

static unsigned int list_idx;

static void *
run_lister(void *arg)
{
	int conn = accept_one();
	struct {
		struct keeper_msg msg;
		char names[8];
	} answer = {.msg = message(KEEPER_HELLO, "")};

	raw_send(conn, &answer.msg, sizeof(answer.msg), NULL, 0);
	while (recv(conn, &answer.msg, sizeof(answer.msg), 0) > 0) {
		memcpy(answer.names, lists[list_idx].names, lists[list_idx].len);
		answer.msg.result = lists[list_idx].count;
		raw_send(conn, &answer, sizeof(answer.msg) + lists[list_idx].len, NULL, 0);
	}
	close(conn);
	return NULL;
}

static void
a_list_that_is_broken_is_refused(void **state)
{
	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	for (list_idx = 0; list_idx < RTE_DIM(lists); list_idx++) {
		struct vdpa_keep *k;
		pthread_t thread;
		int rc;

		pthread_create(&thread, NULL, run_lister, NULL);
		rc = vdpa_keep_open(keeper.where, &k);
		if (rc != -EPROTO)
			fail_msg("list %u: %d", list_idx, rc);
		pthread_join(thread, NULL);
	}
	vdpa_listen_unlink(&keeper.listen);
	close(keeper.listen.fd);
}

/* A list of names, in order, without an end. */
static void *
run_endless_lister(void *arg)
{
	static struct {
		struct keeper_msg msg;
		char names[KEEPER_LIST_MAX];
	} answer;
	unsigned int *sent = arg, n;
	int conn = accept_one();
	size_t at;

	answer.msg = message(KEEPER_HELLO, "");
	raw_send(conn, &answer.msg, sizeof(answer.msg), NULL, 0);
	while (recv(conn, &answer.msg, sizeof(answer.msg), 0) > 0) {
		for (n = 0, at = 0; at + 16 <= sizeof(answer.names); n++)
			at += (size_t)snprintf(answer.names + at, 16, "n%010u", (*sent)++) + 1;
		answer.msg.result = (int32_t)n;
		raw_send(conn, &answer, sizeof(answer.msg) + at, NULL, 0);
	}
	close(conn);
	return NULL;
}

static void
a_list_that_does_not_end_is_refused(void **state)
{
	unsigned int sent = 0;
	struct vdpa_keep *k;
	pthread_t thread;

	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	pthread_create(&thread, NULL, run_endless_lister, &sent);
	assert_int_equal(vdpa_keep_open(keeper.where, &k), -EPROTO);
	assert_non_null(strstr(vdpa_error_message(), "does not end"));
	pthread_join(thread, NULL);
	/* No keeper has more, and what is beyond was not looked at. */
	assert_true(sent > 0 && sent < 1100000);
	vdpa_listen_unlink(&keeper.listen);
	close(keeper.listen.fd);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, with_keeper, without_keeper)
#define OWN(test)  cmocka_unit_test_teardown(test, without_keeper)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(a_message_that_is_none_ends_the_connection),
		WITH(requests_that_are_wrong_are_answered_so),
		WITH(a_daemon_that_reads_no_answers_is_cut_off),
		WITH(a_daemon_that_goes_on_asking_holds_up_nobody),
		WITH(no_messages_do_harm),
		OWN(a_keeper_that_lies_is_given_up),
		OWN(a_keeper_that_lies_at_first_is_not_used),
		OWN(a_list_that_is_broken_is_refused),
		OWN(a_list_that_does_not_end_is_refused),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
