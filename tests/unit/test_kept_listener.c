/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A process that goes on with a connection of a former one, and whose control loop has no room for
 * the listening socket then: the device is not made, and nothing of its connection is left. Devices
 * are sim_net's, the store is a keeper in a thread of the test's.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "keeper_test.h"
#include "restart.h"
#include "vdpa.h"
#include "vdpa_event.h"
#include "vdpa_restart.h"
#include "vfio_user_proto.h"
#include "vhost_user_proto.h"

/* The control loop. */
static struct {
	bool full;    /* for listening sockets */
	bool went_on; /* the device had its connection when it was found full */
} loop;

int __real_vdpa_event_add(struct vdpa_event_loop *l, struct vdpa_event *ev);
int __wrap_vdpa_event_add(struct vdpa_event_loop *l, struct vdpa_event *ev);

int
__wrap_vdpa_event_add(struct vdpa_event_loop *l, struct vdpa_event *ev)
{
	socklen_t len = sizeof(int);
	int listens = 0;

	if (!loop.full || getsockopt(ev->fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) < 0 ||
	    !listens)
		return __real_vdpa_event_add(l, ev);
	loop.went_on = vdpa_restart_is_taken("net0");
	return vdpa_error(ENOSPC, "fd %d: epoll: no room", ev->fd);
}

/* Of a front end: what makes a device serve it, and a message that is answered. */
struct front_end {
	const char *word;
	const void *message;
	size_t len;
};

static const struct vhu_msg get_features = {.request = VHU_GET_FEATURES, .flags = 1};

static const struct {
	struct vfio_user_header hdr;
	struct vfio_user_version version;
} __attribute__((packed)) agree = {
	.hdr = {.command = VFIO_USER_VERSION, .size = sizeof(agree)},
};

static const struct front_end vhost_user = {"socket", &get_features, VHU_HDR_SIZE};
static const struct front_end vfio_user = {"vfio_user", &agree, sizeof(agree)};

static void
begin(void)
{
	if (vdpa_restart_begin(keeper.where) < 0)
		fail_msg("%s", vdpa_error_message());
}

/* The process ends, and leaves its devices. */
static void
leave(void)
{
	assert_int_equal(vdpa_restart_leave(), 1);
	vdpa_dev_del_all();
	vdpa_restart_end();
}

static int
add(const struct front_end *fe, char path[100])
{
	char words[200];

	snprintf(path, 100, "%s/net0.sock", keeper.dir);
	snprintf(words, sizeof(words), "name net0 mgmtdev sim_net backend loopback %s %s", fe->word,
		 path);
	return vdpa_dev_add(words);
}

static void
ask(int fd, const struct front_end *fe)
{
	assert_int_equal(send(fd, fe->message, fe->len, MSG_NOSIGNAL), fe->len);
}

/* A front end that has had an answer. */
static int
connect_to(const char *path, const struct front_end *fe)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char byte;

	snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	ask(fd, fe);
	assert_int_equal(recv(fd, &byte, 1, 0), 1);
	return fd;
}

/* Whether its connection has ended, behind what it is answered. */
static bool
has_ended(int fd)
{
	char bytes[256];
	ssize_t n;

	do
		n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	while (n > 0);
	return n == 0 || errno == ECONNRESET;
}

static void
a_connection_ends_with_a_device_that_cannot_listen(const struct front_end *fe)
{
	char path[100];
	int fd;

	begin();
	if (add(fe, path) < 0)
		fail_msg("%s", vdpa_error_message());
	fd = connect_to(path, fe);
	leave();

	/* The next process has something to do for it at once. */
	ask(fd, fe);
	begin();
	loop.full = true;
	loop.went_on = false;
	assert_int_equal(add(fe, path), -ENOSPC);
	loop.full = false;
	assert_true(loop.went_on);
	EVENTUALLY(has_ended(fd));
	close(fd);
	assert_int_equal(access(path, F_OK), -1);

	/* Nor does it keep another device from being made. */
	if (add(fe, path) < 0)
		fail_msg("%s", vdpa_error_message());
	close(connect_to(path, fe));
}

static void
a_vhost_user_connection_ends_with_a_device_that_cannot_listen(void **state)
{
	a_connection_ends_with_a_device_that_cannot_listen(&vhost_user);
}

static void
a_vfio_user_connection_ends_with_a_device_that_cannot_listen(void **state)
{
	a_connection_ends_with_a_device_that_cannot_listen(&vfio_user);
}

static int
end(void **state)
{
	loop.full = false;
	vdpa_dev_del_all();
	vdpa_restart_end();
	return without_keeper(state);
}

static int
group_setup(void **state)
{
	int rc = group_start(state);

	return rc < 0 ? rc : vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return group_end(state);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, with_keeper, end)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(a_vhost_user_connection_ends_with_a_device_that_cannot_listen),
		WITH(a_vfio_user_connection_ends_with_a_device_that_cannot_listen),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
