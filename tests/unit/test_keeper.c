/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A keeper and the daemon's side of it: what outlives a daemon, who is served, and what the keeper
 * may do.
 */

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
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
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <rte_common.h>

#include "confine.h"
#include "keeper_test.h"
#include "vdpa_peer.h"

/* What the kernel says of a peer, where the test says otherwise. */
static uid_t peer_uid;
static bool peer_is_other;

int __real_vdpa_peer_of_socket(int fd, struct vdpa_peer *peer);
int __wrap_vdpa_peer_of_socket(int fd, struct vdpa_peer *peer);

int
__wrap_vdpa_peer_of_socket(int fd, struct vdpa_peer *peer)
{
	int rc = __real_vdpa_peer_of_socket(fd, peer);

	if (__atomic_load_n(&peer_is_other, __ATOMIC_ACQUIRE))
		peer->uid = peer_uid;
	return rc;
}

static void
the_next_process_finds_what_was_put(void **state)
{
	struct vdpa_keep *k = open_keep();
	int ends[2];
	char byte;

	assert_string_equal(left(k), "");
	put_count(k, "net0:call:1", 7);
	put_count(k, "net0:call:0", 5);
	assert_int_equal(pipe(ends), 0);
	put(k, "a", ends[1]);
	put(k, "Z.9_-", ends[1]);
	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	/* It is not a former life's. */
	assert_string_equal(left(k), "");
	assert_int_equal(vdpa_keep_take(k, "a"), -ENOENT);
	close(ends[1]);
	vdpa_keep_close(k);

	for (unsigned int life = 0; life < 3; life++) {
		int fd;

		k = open_keep();
		assert_string_equal(left(k), "Z.9_- a net0:call:0 net0:call:1 ");
		assert_int_equal(take_count(k, "net0:call:0"), 5);
		assert_int_equal(take_count(k, "net0:call:1"), 7);
		fd = vdpa_keep_take(k, life == 0 ? "a" : "Z.9_-");
		assert_int_equal(write(fd, "x", 1), 1);
		close(fd);
		assert_int_equal(read(ends[0], &byte, 1), 1);
		assert_int_equal(vdpa_keep_take(k, "b"), -ENOENT);
		vdpa_keep_close(k);
	}
	close(ends[0]);
}

static int
stop_at_once(const char *name, void *arg)
{
	return 7;
}

static void
a_name_has_what_was_put_last(void **state)
{
	struct vdpa_keep *k = open_keep();

	put_count(k, "a", 1);
	put_count(k, "b", 2);
	put_count(k, "c", 3);
	put_count(k, "a", 4);
	assert_int_equal(vdpa_keep_del(k, "c"), 0);
	assert_int_equal(vdpa_keep_del(k, "none"), 0);
	vdpa_keep_close(k);

	k = open_keep();
	assert_string_equal(left(k), "a b ");
	assert_int_equal(take_count(k, "a"), 4);
	put_count(k, "a", 5);
	assert_int_equal(vdpa_keep_take(k, "a"), -ENOENT);
	assert_string_equal(left(k), "b ");
	assert_int_equal(vdpa_keep_for_each(k, stop_at_once, NULL), 7);
	assert_int_equal(vdpa_keep_for_each(k, drop_it, k), 0);
	assert_string_equal(left(k), "");
	vdpa_keep_close(k);

	k = open_keep();
	assert_string_equal(left(k), "a ");
	assert_int_equal(take_count(k, "a"), 5);
	vdpa_keep_close(k);
}

static void
a_connection_that_is_kept_does_not_end(void **state)
{
	struct vdpa_keep *k = open_keep();
	int ends[2], fd;
	char byte;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	put(k, "net0:conn:0", ends[1]);
	close(ends[1]);
	assert_int_equal(write(ends[0], "x", 1), 1);
	vdpa_keep_close(k);

	k = open_keep();
	fd = vdpa_keep_take(k, "net0:conn:0");
	assert_int_equal(read(fd, &byte, 1), 1);
	assert_int_equal(byte, 'x');
	close(fd);
	assert_int_equal(recv(ends[0], &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(vdpa_keep_del(k, "net0:conn:0"), 0);
	assert_int_equal(read(ends[0], &byte, 1), 0);
	close(ends[0]);
	vdpa_keep_close(k);
}

static void
many_names_are_found_in_order(void **state)
{
	char name[VDPA_KEEP_NAME_MAX + 1], last[VDPA_KEEP_NAME_MAX + 1];
	struct vdpa_keep *k = open_keep();
	int fd = eventfd(0, EFD_CLOEXEC);

	memset(last, 'x', sizeof(last));
	last[VDPA_KEEP_NAME_MAX] = '\0';
	for (unsigned int i = 0; i < 1000; i++) {
		memcpy(name, last, sizeof(name));
		name[snprintf(name, 8, "%04u", (i * 7) % 1000)] = ':';
		put(k, name, fd);
	}
	close(fd);
	vdpa_keep_close(k);
	k = open_keep();
	for (unsigned int i = 0; i < 1000; i++) {
		memcpy(name, last, sizeof(name));
		name[snprintf(name, 8, "%04u", i)] = ':';
		fd = vdpa_keep_take(k, name);
		assert_true(fd >= 0);
		close(fd);
	}
	vdpa_keep_close(k);
}

static void
what_is_out_of_bounds_is_refused(void **state)
{
	char name[VDPA_KEEP_NAME_MAX + 2];
	struct vdpa_keep *k;
	int fd;

	assert_int_equal(vdpa_keep_open("somewhere", &k), -EINVAL);
	assert_int_equal(vdpa_keep_open("unix:", &k), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[VDPA_KEEP_NAME_MAX + 1] = '\0';
	k = open_keep();
	fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(vdpa_keep_put(k, name, fd), -EINVAL);
	assert_int_equal(vdpa_keep_put(k, "", fd), -EINVAL);
	assert_int_equal(vdpa_keep_put(k, "a b", fd), -EINVAL);
	assert_int_equal(vdpa_keep_put(k, "a/b", fd), -EINVAL);
	assert_int_equal(vdpa_keep_del(k, "a\n"), -EINVAL);
	assert_int_equal(vdpa_keep_take(k, ""), -EINVAL);
	assert_int_equal(vdpa_keep_put(k, "a", -1), -EBADF);
	assert_int_equal(vdpa_keep_put(k, "a", 4000), -EBADF);
	name[VDPA_KEEP_NAME_MAX] = '\0';
	put(k, name, fd);
	close(fd);
	vdpa_keep_close(k);
}

static void
a_keeper_that_is_full_takes_no_more_names(void **state)
{
	struct vdpa_keep *k;
	int fd = eventfd(0, EFD_CLOEXEC);

	start_keeper(2, 0);
	k = open_keep();
	put(k, "a", fd);
	put(k, "b", fd);
	assert_int_equal(vdpa_keep_put(k, "c", fd), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "larger --max"));
	put(k, "a", fd);
	assert_int_equal(vdpa_keep_del(k, "b"), 0);
	put(k, "c", fd);
	vdpa_keep_close(k);
	k = open_keep();
	assert_string_equal(left(k), "a c ");
	vdpa_keep_close(k);
	close(fd);
}

/* One daemon at a time. */

static void *
close_soon(void *arg)
{
	usleep(100000);
	vdpa_keep_close(arg);
	return NULL;
}

static void
a_second_daemon_waits_for_the_end_of_the_first(void **state)
{
	struct vdpa_keep *k = open_keep(), *second;
	pthread_t thread;

	put_count(k, "a", 1);
	assert_int_equal(vdpa_keep_open(keeper.where, &second), -EBUSY);
	assert_null(second);
	pthread_create(&thread, NULL, close_soon, k);
	second = open_keep();
	pthread_join(thread, NULL);
	assert_string_equal(left(second), "a ");
	vdpa_keep_close(second);
}

static void
the_last_words_of_a_dead_daemon_count(void **state)
{
	struct keeper_msg msg;
	struct vdpa_keep *k;

	for (unsigned int i = 0; i < 50; i++) {
		int conn = raw_connect(), fd = eventfd(i, EFD_CLOEXEC | EFD_NONBLOCK);

		/* Its greeting: it is served. */
		assert_int_equal(recv(conn, &msg, sizeof(msg), 0), sizeof(msg));
		assert_int_equal(msg.result, 0);
		msg = message(KEEPER_PUT, "a");
		raw_send(conn, &msg, sizeof(msg), &fd, 1);
		close(conn);
		close(fd);
		k = open_keep();
		if (i > 0)
			assert_int_equal(take_count(k, "a"), i);
		vdpa_keep_close(k);
	}
}

static void
another_user_is_refused(void **state)
{
	struct vdpa_keep *k;
	struct keeper_msg msg;
	int conn;

	/* What the keeper says. */
	peer_uid = geteuid() + 1;
	__atomic_store_n(&peer_is_other, true, __ATOMIC_RELEASE);
	conn = raw_connect();
	assert_int_equal(recv(conn, &msg, sizeof(msg), 0), sizeof(msg));
	assert_int_equal(msg.op, KEEPER_HELLO);
	assert_int_equal(msg.result, -EPERM);
	assert_int_equal(recv(conn, &msg, sizeof(msg), 0), 0);
	close(conn);
	/* And what a daemon does with a keeper of another user. */
	assert_int_equal(vdpa_keep_open(keeper.where, &k), -EPERM);
	assert_non_null(strstr(vdpa_error_message(), "user"));
	peer_uid = 0;
	k = open_keep();
	vdpa_keep_close(k);
}

static void
a_keeper_that_dies_costs_the_store_alone(void **state)
{
	struct vdpa_keep *k = open_keep();
	int fd = eventfd(0, EFD_CLOEXEC);

	put(k, "a", fd);
	stop_keeper();
	assert_int_equal(vdpa_keep_put(k, "b", fd), -EPIPE);
	assert_int_equal(vdpa_keep_put(k, "c", fd), -EPIPE);
	assert_int_equal(vdpa_keep_del(k, "a"), -EPIPE);
	assert_int_equal(vdpa_keep_barrier(k, 0), -EPIPE);
	vdpa_keep_close(k);
	close(fd);
	assert_int_equal(vdpa_keep_open(keeper.where, &k), -ENOENT);
	/* A keeper that was killed leaves its socket's file. */
	fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 1), 0);
	close(keeper.listen.fd);
	close(fd);
	assert_int_equal(vdpa_keep_open(keeper.where, &k), -ENOENT);
	start_keeper(KEEPER_MAX, 0);
	k = open_keep();
	assert_string_equal(left(k), "");
	vdpa_keep_close(k);
}

static void
what_is_held_is_dropped_when_no_daemon_comes(void **state)
{
	struct vdpa_keep *k;
	int ends[2];
	char byte;

	start_keeper(KEEPER_MAX, 1);
	assert_int_equal(pipe(ends), 0);
	k = open_keep();
	put(k, "a", ends[1]);
	close(ends[1]);
	vdpa_keep_close(k);
	/* Its end is waited for, however long that takes. */
	assert_int_equal(read(ends[0], &byte, 1), 0);
	close(ends[0]);
	k = open_keep();
	assert_string_equal(left(k), "");
	vdpa_keep_close(k);
}

static void
what_is_held_remains_while_a_daemon_is_there(void **state)
{
	struct pollfd p;
	struct vdpa_keep *k;
	int ends[2];

	start_keeper(KEEPER_MAX, 1);
	assert_int_equal(pipe(ends), 0);
	k = open_keep();
	put(k, "a", ends[1]);
	vdpa_keep_close(k);
	close(ends[1]);
	k = open_keep();
	if (left(k)[0] == '\0')
		skip(); /* this machine was too slow to come back in time */
	p = (struct pollfd){.fd = ends[0], .events = POLLIN};
	assert_int_equal(poll(&p, 1, 1500), 0);
	vdpa_keep_close(k);
	close(ends[0]);
}

/* A TCP connection whose close(2) waits for a peer that reads nothing; *peer: its other end. */
static int
slow_to_close(int *peer)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	struct linger linger = {.l_onoff = 1, .l_linger = 600};
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), fd;
	socklen_t len = sizeof(in);
	static char data[65536];

	assert_int_equal(bind(server, (struct sockaddr *)&in, len), 0);
	assert_int_equal(getsockname(server, (struct sockaddr *)&in, &len), 0);
	assert_int_equal(listen(server, 1), 0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&in, len), 0);
	*peer = accept(server, NULL, NULL);
	close(server);
	while (send(fd, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	return fd;
}

static void
a_descriptor_that_is_slow_to_close_holds_up_no_device(void **state)
{
	struct vdpa_keep *k = open_keep();
	int peer, fd = slow_to_close(&peer);

	put(k, "net0:file:0", fd);
	put_count(k, "net1:call:0", 1);
	/* The keeper's is the last one. */
	close(fd);
	assert_int_equal(vdpa_keep_del(k, "net0:file:0"), 0);
	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	put_count(k, "net1:call:0", 2);
	put_count(k, "net0:file:0", 3);
	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	vdpa_keep_close(k);
	k = open_keep();
	assert_string_equal(left(k), "net0:file:0 net1:call:0 ");
	vdpa_keep_close(k);
	close(peer);
}

/* What a keeper may do. */

static int
confined(void)
{
	int fd = eventfd(0, 0), ends[2];
	struct hold *h = hold_create(10);
	struct iovec iov = {&fd, sizeof(fd)};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) < 0 || confine() < 0)
		return 1;
	if (open("/dev/null", O_RDONLY) >= 0 || errno != EPERM)
		return 2;
	if (socket(AF_UNIX, SOCK_STREAM, 0) >= 0 || errno != EPERM)
		return 3;
	if (execl("/bin/true", "true", NULL) != -1 || errno != EPERM)
		return 4;
	if (unlink("/tmp/none") != -1 || errno != EPERM)
		return 5;
	if (kill(getpid(), 0) != -1 || errno != EPERM)
		return 6;
	pid = fork();
	if (pid == 0)
		_exit(0);
	if (pid > 0 || errno != EPERM)
		return 7;
	/* What it is for. */
	if (raw_send(ends[0], "x", 1, &fd, 1) != 1 || hold_put(h, "a:b:0", fd) < 0 ||
	    hold_find(h, "a:b:0") != fd || hold_del(h, "a:b:0") < 0)
		return 8;
	/* A descriptor that a thread closes. */
	if (hold_put(h, "a:b:0", ends[0]) < 0 || hold_del(h, "a:b:0") < 0)
		return 9;
	if (recvmsg(ends[1], &mh, 0) != 1 || recvmsg(ends[1], &mh, 0) != 0)
		return 10;
	return 0;
}

static void
a_keeper_that_serves_may_do_little_else(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(confined());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int
as_ourselves(void **state)
{
	__atomic_store_n(&peer_is_other, false, __ATOMIC_RELEASE);
	return without_keeper(state);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, with_keeper, as_ourselves)
#define OWN(test)  cmocka_unit_test_teardown(test, as_ourselves)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		/* While this process has one thread. */
		OWN(a_keeper_that_serves_may_do_little_else),
		WITH(the_next_process_finds_what_was_put),
		WITH(a_name_has_what_was_put_last),
		WITH(a_connection_that_is_kept_does_not_end),
		WITH(many_names_are_found_in_order),
		WITH(what_is_out_of_bounds_is_refused),
		OWN(a_keeper_that_is_full_takes_no_more_names),
		WITH(a_second_daemon_waits_for_the_end_of_the_first),
		WITH(the_last_words_of_a_dead_daemon_count),
		WITH(another_user_is_refused),
		WITH(a_keeper_that_dies_costs_the_store_alone),
		OWN(what_is_held_is_dropped_when_no_daemon_comes),
		OWN(what_is_held_remains_while_a_daemon_is_there),
		WITH(a_descriptor_that_is_slow_to_close_holds_up_no_device),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
