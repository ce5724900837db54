/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A keeper that serves in a thread of the test's, and the daemon's side of it. Include it after
 * cmocka.h.
 */

#ifndef KEEPER_TEST_H
#define KEEPER_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hold.h"
#include "keeper_proto.h"
#include "listen.h"
#include "serve.h"
#include "test_util.h"
#include "vdpa_error.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_keep.h"

/* Descriptors that it holds, at most. */
#define KEEPER_MAX 3000

/* The keeper. */

static struct {
	char dir[64], path[100], where[110];
	struct vdpa_listen listen;
	struct serve_params params;
	int stop;
	pthread_t thread;
	bool runs;
	unsigned int fence_s; /* of the next one that is started */
} keeper;

static inline void *
run_keeper(void *arg)
{
	serve(&keeper.params);
	return NULL;
}

static inline void
start_keeper(unsigned int max, unsigned int hold_s)
{
	assert_int_equal(vdpa_listen_open_packets(&keeper.listen, keeper.path, 0600, 8), 0);
	keeper.stop = eventfd(0, EFD_CLOEXEC);
	keeper.params = (struct serve_params){
		.listen_fd = keeper.listen.fd,
		.signal_fd = keeper.stop,
		.hold_s = hold_s,
		.fence_s = keeper.fence_s,
		.hold = hold_create(max),
	};
	assert_non_null(keeper.params.hold);
	assert_int_equal(pthread_create(&keeper.thread, NULL, run_keeper, NULL), 0);
	keeper.runs = true;
}

static inline void
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

static inline int
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

static inline int
group_end(void **state)
{
	unlink(keeper.path);
	return rmdir(keeper.dir);
}

static inline int
with_keeper(void **state)
{
	start_keeper(KEEPER_MAX, 0);
	return 0;
}

static inline int
without_keeper(void **state)
{
	if (keeper.runs)
		stop_keeper();
	return 0;
}

/* The daemon's side. */

static inline struct vdpa_keep *
open_keep(void)
{
	struct vdpa_keep *k;

	if (vdpa_keep_open(keeper.where, &k) < 0)
		fail_msg("%s", vdpa_error_message());
	return k;
}

static inline void
put(struct vdpa_keep *k, const char *name, int fd)
{
	if (vdpa_keep_put(k, name, fd) < 0)
		fail_msg("%s", vdpa_error_message());
}

/* An eventfd with this count under a name. */
static inline void
put_count(struct vdpa_keep *k, const char *name, unsigned int count)
{
	int fd = eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK);

	put(k, name, fd);
	close(fd);
}

/* The count of the eventfd that a former life has left. */
static inline unsigned int
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

static inline int
join(const char *name, void *arg)
{
	strcat(arg, name);
	strcat(arg, " ");
	return 0;
}

static inline const char *
left(struct vdpa_keep *k)
{
	static char list[1024];

	list[0] = '\0';
	assert_int_equal(vdpa_keep_for_each(k, join, list), 0);
	return list;
}

/* Wait until so many are open: an end of a connection is noticed at some time. */
static inline void
wait_for_fds(unsigned int n)
{
	for (unsigned int ms = 0; count_fds() != n; ms++) {
		if (ms == 30000)
			fail_msg("%u descriptors are open, expected %u", count_fds(), n);
		usleep(1000);
	}
}

static inline int
raw_connect(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	strcpy(un.sun_path, keeper.path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	return fd;
}

static inline struct keeper_msg
message(enum keeper_op op, const char *name)
{
	struct keeper_msg msg = {
		.magic = KEEPER_MAGIC, .version = KEEPER_VERSION, .op = (uint16_t)op, .id = 1};

	strcpy(msg.name, name);
	return msg;
}

static inline ssize_t
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

static inline int
drop_it(const char *name, void *arg)
{
	return vdpa_keep_del(arg, name);
}

#endif /* KEEPER_TEST_H */
