/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A keeper and the daemon's side of it: what outlives a daemon, what either does when the other
 * ends, hangs or says what it should not. The keeper serves in a thread of the test's.
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
#include "hold.h"
#include "keeper_proto.h"
#include "listen.h"
#include "serve.h"
#include "vdpa_error.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_keep.h"
#include "vdpa_peer.h"

#define MESSAGES 20000
#define MAX	 3000

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

/* The keeper. */

static struct {
	char dir[64], path[100], where[110];
	struct vdpa_listen listen;
	struct serve_params params;
	int stop;
	pthread_t thread;
	bool runs;
} keeper;

static void *
run_keeper(void *arg)
{
	serve(&keeper.params);
	return NULL;
}

static void
start_keeper(unsigned int max, unsigned int hold_s)
{
	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	keeper.stop = eventfd(0, EFD_CLOEXEC);
	keeper.params = (struct serve_params){
		.listen_fd = keeper.listen.fd,
		.signal_fd = keeper.stop,
		.hold_s = hold_s,
		.hold = hold_create(max),
	};
	assert_non_null(keeper.params.hold);
	assert_int_equal(pthread_create(&keeper.thread, NULL, run_keeper, NULL), 0);
	keeper.runs = true;
}

static void
stop_keeper(void)
{
	eventfd_write(keeper.stop, 1);
	pthread_join(keeper.thread, NULL);
	hold_destroy(keeper.params.hold);
	vdpa_listen_unlink(&keeper.listen);
	close(keeper.listen.fd);
	close(keeper.stop);
	keeper.runs = false;
}

static int
group_start(void **state)
{
	strcpy(keeper.dir, "/tmp/uvdpa-test.XXXXXX");
	if (mkdtemp(keeper.dir) == NULL)
		return -1;
	snprintf(keeper.path, sizeof(keeper.path), "%s/keeper.sock", keeper.dir);
	snprintf(keeper.where, sizeof(keeper.where), "unix:%s", keeper.path);
	/* What tells kinds of descriptors apart opens its own once. */
	vdpa_fd_is_eventfd(0);
	return 0;
}

static int
group_end(void **state)
{
	unlink(keeper.path);
	return rmdir(keeper.dir);
}

static int
with_keeper(void **state)
{
	start_keeper(MAX, 0);
	return 0;
}

static int
without_keeper(void **state)
{
	__atomic_store_n(&peer_is_other, false, __ATOMIC_RELEASE);
	if (keeper.runs)
		stop_keeper();
	return 0;
}

/* The daemon's side. */

static struct vdpa_keep *
open_keep(void)
{
	struct vdpa_keep *k;

	if (vdpa_keep_open(keeper.where, &k) < 0)
		fail_msg("%s", vdpa_error_message());
	return k;
}

static void
put(struct vdpa_keep *k, const char *name, int fd)
{
	if (vdpa_keep_put(k, name, fd) < 0)
		fail_msg("%s", vdpa_error_message());
}

/* An eventfd with this count under a name. */
static void
put_count(struct vdpa_keep *k, const char *name, unsigned int count)
{
	int fd = eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK);

	put(k, name, fd);
	close(fd);
}

/* The count of the eventfd that a former life has left. */
static unsigned int
take_count(struct vdpa_keep *k, const char *name)
{
	int fd = vdpa_keep_take(k, name);
	eventfd_t count = 0;

	if (fd < 0)
		fail_msg("%s", vdpa_error_message());
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(eventfd_read(fd, &count), 0);
	assert_int_equal(eventfd_write(fd, count), 0);
	close(fd);
	return (unsigned int)count;
}

static int
join(const char *name, void *arg)
{
	strcat(arg, name);
	strcat(arg, " ");
	return 0;
}

static const char *
left(struct vdpa_keep *k)
{
	static char list[1024];

	list[0] = '\0';
	assert_int_equal(vdpa_keep_for_each(k, join, list), 0);
	return list;
}

static unsigned int
count_fds(void)
{
	unsigned int n = 0;

	for (int fd = 0; fd < 4096; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* Wait until so many are open: an end of a connection is noticed at some time. */
static void
wait_for_fds(unsigned int n)
{
	for (unsigned int ms = 0; count_fds() != n; ms++) {
		if (ms == 30000)
			fail_msg("%u descriptors are open, expected %u", count_fds(), n);
		usleep(1000);
	}
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

static int
drop_it(const char *name, void *arg)
{
	return vdpa_keep_del(arg, name);
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

static int
raw_connect(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, keeper.path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static struct keeper_msg
message(enum keeper_op op, const char *name)
{
	struct keeper_msg msg = {
		.magic = KEEPER_MAGIC, .version = KEEPER_VERSION, .op = (uint16_t)op, .id = 1};

	strcpy(msg.name, name);
	return msg;
}

static ssize_t
raw_send(int conn, const void *data, size_t len, const int *fds, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(4 * sizeof(int))];
	} control;
	struct iovec iov = {(void *)(uintptr_t)data, len};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n > 0) {
		struct cmsghdr *cmsg;

		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE(n * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&mh);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(n * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, n * sizeof(int));
	}
	return sendmsg(conn, &mh, MSG_NOSIGNAL);
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
	start_keeper(MAX, 0);
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

	start_keeper(MAX, 1);
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

	start_keeper(MAX, 1);
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

/* Daemons that say what they should not. */

static void
a_message_that_is_none_ends_the_connection(void **state)
{
	struct keeper_msg msg, answer;
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
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

#define WITH(test) cmocka_unit_test_setup_teardown(test, with_keeper, without_keeper)
#define OWN(test)  cmocka_unit_test_teardown(test, without_keeper)

int
main(void)
{
	const struct CMUnitTest tests[] = {
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
		WITH(a_message_that_is_none_ends_the_connection),
		WITH(requests_that_are_wrong_are_answered_so),
		WITH(a_daemon_that_reads_no_answers_is_cut_off),
		WITH(no_messages_do_harm),
		OWN(a_keeper_that_lies_is_given_up),
		OWN(a_keeper_that_lies_at_first_is_not_used),
		OWN(a_list_that_is_broken_is_refused),
		OWN(a_keeper_that_serves_may_do_little_else),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
