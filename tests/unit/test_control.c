/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The server of lines under the control socket: framing, bounds, who is let in, and its end. The
 * service is the test's; who is connected is, too (the linker wraps control_cred_get()).
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "conn.h"
#include "event_loop_priv.h"
#include "frame.h"
#include "server.h"
#include "test_util.h"
#include "vdpa_error.h"

#define OWNER	 ((uid_t)4242)
#define MEMBER	 ((uid_t)5001)
#define STRANGER ((uid_t)5003)
#define GROUP	 ((gid_t)6000)

static struct control_server *server;
static char path[108], folder[64];
static uid_t next_uid; /* of who connects; atomic */
static unsigned int served;
static bool held; /* "wait" does not end; atomic */

int __wrap_control_cred_get(int fd, struct control_cred *cred);

int
__wrap_control_cred_get(int fd, struct control_cred *cred)
{
	uid_t uid = __atomic_load_n(&next_uid, __ATOMIC_SEQ_CST);

	*cred = (struct control_cred){.uid = uid, .gid = uid == MEMBER ? GROUP : 7000, .pid = 1};
	return 0;
}

/* "echo TEXT": TEXT; "big N": N bytes; "join": to lines of bit 0; "none": no reply; "wait". */
static char *
serve(struct control_conn *conn, const char *line, size_t len)
{
	char *reply = NULL;

	__atomic_add_fetch(&served, 1, __ATOMIC_SEQ_CST);
	if (len > 0 && line[len - 1] == '\n')
		len--;
	if (len >= 4 && memcmp(line, "none", 4) == 0)
		return NULL;
	if (len >= 4 && memcmp(line, "join", 4) == 0)
		control_conn_join(conn, 1);
	if (len >= 4 && memcmp(line, "wait", 4) == 0)
		while (__atomic_load_n(&held, __ATOMIC_SEQ_CST))
			usleep(1000);
	if (len >= 4 && memcmp(line, "big ", 4) == 0) {
		size_t n = strtoul(line + 4, NULL, 10);

		reply = malloc(n + 1);
		memset(reply, 'x', n);
		reply[n] = '\0';
		return reply;
	}
	if (asprintf(&reply, "%.*s", (int)len, line) < 0)
		return NULL;
	return reply;
}

static char *
refuse(enum control_refusal why, const struct control_server *s)
{
	char *text = NULL;

	return asprintf(&text, "refused %d", why) < 0 ? NULL : text;
}

static const struct control_service service = {
	.name = "test", .frame = control_frame_lines, .serve = serve, .refuse = refuse};

static int
open_with(const struct control_limits *limits)
{
	const struct control_setup conf = {
		.service = &service,
		.path = path,
		.mode = 0600,
		.socket_group = (gid_t)-1,
		.policy = {.owner = OWNER, .group = GROUP, .read_group = (gid_t)-1},
		.limits = *limits,
	};

	__atomic_store_n(&next_uid, OWNER, __ATOMIC_SEQ_CST);
	__atomic_store_n(&held, false, __ATOMIC_SEQ_CST);
	served = 0;
	return control_server_open(&conf, &server);
}

static const struct control_limits usual = {.connections = 8,
					    .reserve = 2,
					    .per_user = 3,
					    .rate = 1000000,
					    .request_ms = 60000,
					    .output = 4u << 20};

static int
setup(void **state)
{
	snprintf(folder, sizeof(folder), "/tmp/uvdpa-control.XXXXXX");
	if (mkdtemp(folder) == NULL)
		return -1;
	snprintf(path, sizeof(path), "%s/c.sock", folder);
	return vdpa_event_control_init();
}

static int
teardown(void **state)
{
	vdpa_event_control_fini();
	return rmdir(folder);
}

static int
open_usual(void **state)
{
	return open_with(&usual);
}

static int
close_server(void **state)
{
	control_server_close(server);
	server = NULL;
	return 0;
}

static int
dial(uid_t uid)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	__atomic_store_n(&next_uid, uid, __ATOMIC_SEQ_CST);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static void
say(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* The next line, without its newline; NULL: hung up. It must come within some seconds. */
static const char *
hear(int fd)
{
	static char line[4096];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	size_t n = 0;

	for (; n + 1 < sizeof(line); n++) {
		assert_int_equal(poll(&p, 1, 10000), 1);
		if (recv(fd, &line[n], 1, 0) != 1)
			return NULL;
		if (line[n] == '\n')
			break;
	}
	line[n] = '\0';
	return line;
}

static bool
is_silent(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 0;
}

/* A connection that is served. */
static int
client(uid_t uid)
{
	int fd = dial(uid);

	say(fd, "hello\n");
	assert_string_equal(hear(fd), "hello");
	return fd;
}

static void
requests_are_lines_however_they_are_cut(void **state)
{
	int fd = client(OWNER);

	say(fd, "a\nb\r\n\nc\n");
	assert_string_equal(hear(fd), "a");
	assert_string_equal(hear(fd), "b\r");
	assert_string_equal(hear(fd), "");
	assert_string_equal(hear(fd), "c");
	for (const char *c = "in pieces"; *c != '\0'; c++) {
		assert_int_equal(send(fd, c, 1, 0), 1);
		usleep(1000);
	}
	assert_true(is_silent(fd, 20));
	say(fd, "\nnext\n");
	assert_string_equal(hear(fd), "in pieces");
	assert_string_equal(hear(fd), "next");
	close(fd);
}

static void
a_client_that_has_said_all_is_answered_before_the_end(void **state)
{
	int fd = client(OWNER);

	say(fd, "big 300000\nnone\nlast, without a newline");
	shutdown(fd, SHUT_WR);
	for (unsigned int i = 0; i < 300001;) {
		char buf[65536];
		ssize_t n = recv(fd, buf, RTE_MIN(sizeof(buf), (size_t)300001 - i), 0);

		assert_true(n > 0);
		i += (unsigned int)n;
	}
	assert_string_equal(hear(fd), "last, without a newline");
	assert_null(hear(fd));
	close(fd);
}

static void
the_longest_request_is_served_and_a_longer_one_hung_up(void **state)
{
	static char line[VDPA_CONTROL_REQUEST_MAX + 2];
	int fd = client(OWNER);

	memset(line, 'y', sizeof(line));
	memcpy(line, "none", 4);
	line[VDPA_CONTROL_REQUEST_MAX] = '\n';
	assert_int_equal(send(fd, line, VDPA_CONTROL_REQUEST_MAX + 1, 0),
			 VDPA_CONTROL_REQUEST_MAX + 1);
	say(fd, "after\n");
	assert_string_equal(hear(fd), "after");
	line[VDPA_CONTROL_REQUEST_MAX] = 'y';
	assert_int_equal(send(fd, line, VDPA_CONTROL_REQUEST_MAX + 1, 0),
			 VDPA_CONTROL_REQUEST_MAX + 1);
	assert_string_equal(hear(fd), "refused 3");
	assert_null(hear(fd));
	close(fd);
}

static void
a_request_that_is_begun_and_not_completed_is_hung_up_and_silence_is_not(void **state)
{
	struct control_limits limits = usual;
	int slow, silent;
	int64_t from_us;

	limits.request_ms = 200;
	assert_int_equal(open_with(&limits), 0);
	silent = client(OWNER);
	slow = client(OWNER);
	from_us = vdpa_now_us();
	say(slow, "whole\nhal");
	assert_string_equal(hear(slow), "whole");
	/* Each byte is in time, the request is not. */
	for (unsigned int i = 0; i < 100 && is_silent(slow, 20); i++)
		(void)send(slow, "f", 1, MSG_NOSIGNAL);
	assert_string_equal(hear(slow), "refused 4");
	assert_null(hear(slow));
	assert_true(vdpa_now_us() - from_us >= 200000);
	say(silent, "still here\n");
	assert_string_equal(hear(silent), "still here");
	close(slow);
	close(silent);
}

static void
requests_beyond_the_rate_are_served_later_and_in_order(void **state)
{
	struct control_limits limits = usual;
	char text[32];
	int64_t from_us;
	int fd, other;

	limits.rate = 100;
	assert_int_equal(open_with(&limits), 0);
	fd = client(OWNER);
	other = client(OWNER);
	from_us = vdpa_now_us();
	for (unsigned int i = 0; i < 130; i++) {
		snprintf(text, sizeof(text), "%u\n", i);
		say(fd, text);
	}
	/* Those of another connection do not wait. */
	say(other, "other\n");
	assert_string_equal(hear(other), "other");
	for (unsigned int i = 0; i < 130; i++) {
		snprintf(text, sizeof(text), "%u", i);
		assert_string_equal(hear(fd), text);
	}
	/* A second's worth at once, "hello" was one of it; the rest at the rate. */
	assert_true(vdpa_now_us() - from_us >= 280000);
	close(fd);
	close(other);
}

static void
a_client_that_reads_nothing_is_not_read_either_and_loses_nothing(void **state)
{
	int fd = client(OWNER), other = client(OWNER);
	unsigned int asked = 0, before;
	char buf[65536];
	uint64_t bytes = 0;

	while (asked < 200) {
		say(fd, "big 65536\n");
		asked++;
	}
	/* It is served no further than a pause's worth. */
	do {
		before = __atomic_load_n(&served, __ATOMIC_SEQ_CST);
		usleep(50000);
	} while (__atomic_load_n(&served, __ATOMIC_SEQ_CST) != before);
	assert_true(before < 20);
	say(other, "other\n");
	assert_string_equal(hear(other), "other");
	while (bytes < (uint64_t)asked * 65537) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		assert_true(n > 0);
		bytes += (uint64_t)n;
	}
	say(fd, "done\n");
	assert_string_equal(hear(fd), "done");
	close(fd);
	close(other);
}

static void
lines_go_to_those_who_take_part(void **state)
{
	int a = client(OWNER), b = client(OWNER), c = client(OWNER);

	assert_false(control_server_joined(server, 1));
	say(a, "join\n");
	assert_string_equal(hear(a), "join");
	say(b, "join\n");
	assert_string_equal(hear(b), "join");
	assert_true(control_server_joined(server, 1));
	assert_false(control_server_joined(server, 2));
	control_server_send(server, 1, "news");
	control_server_send(server, 2, "other news");
	assert_string_equal(hear(a), "news");
	assert_string_equal(hear(b), "news");
	assert_true(is_silent(a, 20));
	assert_true(is_silent(c, 20));
	close(a);
	close(b);
	EVENTUALLY(!control_server_joined(server, 1));
	close(c);
}

static void
who_does_not_read_its_lines_loses_its_connection_and_nobody_else_does(void **state)
{
	static char line[10001];
	int slow = client(OWNER), quick = client(OWNER);
	char buf[65536];

	memset(line, 'n', sizeof(line) - 1);
	say(slow, "join\n");
	assert_string_equal(hear(slow), "join");
	say(quick, "join\n");
	assert_string_equal(hear(quick), "join");
	for (unsigned int i = 0; i < 1000; i++) {
		size_t left = sizeof(line);

		control_server_send(server, 1, line);
		while (left > 0) {
			ssize_t n = recv(quick, buf, RTE_MIN(left, sizeof(buf)), 0);

			assert_true(n > 0);
			left -= (size_t)n;
		}
	}
	/* What had been sent may be read still, and then the end. */
	for (;;) {
		ssize_t n = recv(slow, buf, sizeof(buf), 0);

		if (n <= 0)
			break;
	}
	say(quick, "still\n");
	assert_string_equal(hear(quick), "still");
	close(slow);
	close(quick);
}

static void
nobody_is_served_who_is_not_let_in(void **state)
{
	int fd = dial(STRANGER);

	assert_string_equal(hear(fd), "refused 0");
	assert_null(hear(fd));
	close(fd);
	close(client(MEMBER));
	assert_int_equal(served, 1);
}

static void
one_user_has_so_many_connections_and_the_owner_more(void **state)
{
	int member[3], owner[8], fd;

	for (unsigned int i = 0; i < 3; i++)
		member[i] = client(MEMBER);
	fd = dial(MEMBER);
	assert_string_equal(hear(fd), "refused 1");
	close(fd);
	/* One that is closed makes room, as soon as that is seen. */
	close(member[0]);
	EVENTUALLY(__atomic_load_n(&server->n_conns, __ATOMIC_SEQ_CST) == 2);
	member[0] = client(MEMBER);
	/* 8, and a reserve of 2. */
	for (unsigned int i = 0; i < 7; i++)
		owner[i] = client(OWNER);
	fd = dial(OWNER);
	assert_string_equal(hear(fd), "refused 2");
	close(fd);
	close(member[0]);
	EVENTUALLY(__atomic_load_n(&server->n_conns, __ATOMIC_SEQ_CST) == 2);
	/* Others do not get what is the owner's. */
	fd = dial(MEMBER);
	assert_string_equal(hear(fd), "refused 2");
	close(fd);
	owner[7] = client(OWNER);
	for (unsigned int i = 0; i < 8; i++)
		close(owner[i]);
	close(member[1]);
	close(member[2]);
}

static void
file_descriptors_are_not_kept(void **state)
{
	int fd = client(OWNER), file = open("/dev/null", O_RDONLY);
	unsigned int before;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.buf = {0}};
	struct iovec iov = {.iov_base = (char[]){"a\n"}, .iov_len = 2};
	struct msghdr hdr = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&hdr);

	before = count_fds();
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(cmsg), &file, sizeof(file));
	assert_int_equal(sendmsg(fd, &hdr, 0), 2);
	assert_string_equal(hear(fd), "refused 5");
	assert_null(hear(fd));
	close(file);
	close(fd);
	/* The server's end of the connection is closed too. */
	EVENTUALLY(count_fds() <= before - 3);
}

static void
connections_that_end_in_any_way_leave_nothing(void **state)
{
	struct control_limits limits = usual;
	unsigned int before;

	limits.connections = 1000;
	assert_int_equal(open_with(&limits), 0);
	before = count_fds();
	for (unsigned int i = 0; i < 300; i++) {
		int fd = dial(OWNER);

		if (i % 3 == 0)
			say(fd, "half");
		else if (i % 3 == 1)
			say(fd, "big 100000\nbig 100000\nbig 100000\njoin\n");
		close(fd);
	}
	EVENTUALLY(count_fds() <= before);
	EVENTUALLY(!control_server_joined(server, UINT32_MAX));
}

static void *
close_it(void *arg)
{
	control_server_close(server);
	__atomic_store_n((bool *)arg, true, __ATOMIC_SEQ_CST);
	return NULL;
}

static void
the_end_waits_for_what_is_carried_out_and_for_nothing_else(void **state)
{
	int fd, idle, half;
	bool closed = false;
	pthread_t thread;

	assert_int_equal(open_with(&usual), 0);
	idle = client(OWNER);
	half = client(OWNER);
	fd = client(OWNER);
	say(half, "half of it");
	__atomic_store_n(&held, true, __ATOMIC_SEQ_CST);
	say(fd, "wait\nanother\n");
	EVENTUALLY(__atomic_load_n(&served, __ATOMIC_SEQ_CST) == 4);
	pthread_create(&thread, NULL, close_it, &closed);
	usleep(50000);
	assert_false(__atomic_load_n(&closed, __ATOMIC_SEQ_CST));
	__atomic_store_n(&held, false, __ATOMIC_SEQ_CST);
	pthread_join(thread, NULL);
	assert_int_equal(served, 4);
	assert_null(hear(idle));
	assert_int_equal(access(path, F_OK), -1);
	close(idle);
	close(half);
	close(fd);
	server = NULL;
}

static void
a_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not(void **state)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct control_server *first;
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct stat st;

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	close(fd);
	assert_int_equal(open_with(&usual), 0);
	first = server;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(open_with(&usual), -EADDRINUSE);
	close(client(OWNER));
	control_server_close(first);
	/* A file that is no socket is somebody's. */
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	assert_int_equal(open_with(&usual), -EEXIST);
	assert_int_equal(unlink(path), 0);
	/* What another process has put there meanwhile stays. */
	assert_int_equal(open_with(&usual), 0);
	assert_int_equal(unlink(path), 0);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	control_server_close(server);
	assert_int_equal(unlink(path), 0);
	server = NULL;
}

static void
the_umask_does_not_change_the_mode(void **state)
{
	struct control_setup conf = {.service = &service,
				     .path = path,
				     .mode = 0666,
				     .socket_group = getegid(),
				     .limits = usual};
	mode_t mask = umask(0777);
	struct stat st;
	int rc = control_server_open(&conf, &server);

	umask(mask);
	assert_int_equal(rc, 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0666);
	control_server_close(server);
	server = NULL;
}

int
main(void)
{
#define SERVED(test) cmocka_unit_test_setup_teardown(test, open_usual, close_server)
#define CLOSED(test) cmocka_unit_test_teardown(test, close_server)
	const struct CMUnitTest tests[] = {
		SERVED(requests_are_lines_however_they_are_cut),
		SERVED(a_client_that_has_said_all_is_answered_before_the_end),
		SERVED(the_longest_request_is_served_and_a_longer_one_hung_up),
		CLOSED(a_request_that_is_begun_and_not_completed_is_hung_up_and_silence_is_not),
		CLOSED(requests_beyond_the_rate_are_served_later_and_in_order),
		SERVED(a_client_that_reads_nothing_is_not_read_either_and_loses_nothing),
		SERVED(lines_go_to_those_who_take_part),
		SERVED(who_does_not_read_its_lines_loses_its_connection_and_nobody_else_does),
		SERVED(nobody_is_served_who_is_not_let_in),
		SERVED(one_user_has_so_many_connections_and_the_owner_more),
		SERVED(file_descriptors_are_not_kept),
		CLOSED(connections_that_end_in_any_way_leave_nothing),
		CLOSED(the_end_waits_for_what_is_carried_out_and_for_nothing_else),
		CLOSED(a_socket_of_a_dead_process_is_replaced_and_a_live_one_is_not),
		CLOSED(the_umask_does_not_change_the_mode),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
