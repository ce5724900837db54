/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The fence of a keeper: what it does to a function, when, and that one function costs no other.
 * Functions are played by eventfds for which this test answers the kernel's calls.
 */

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
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
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <cmocka.h>
#include <rte_common.h>

#include "confine.h"
#include "fence.h"
#include "fence_test.h"
#include "keeper_test.h"
#include "restart.h"
#include "vdpa_restart.h"

/* One function. */

static const char *
fenced(unsigned int i, int fd, bool expected)
{
	static struct fence_outcome outcome;
	enum fence_step step = FENCE_WAITS;

	vdpa_fence_function(fd, &step, &outcome);
	close(fd);
	if (outcome.fenced != expected)
		fail_msg("function %u: %s", i, outcome.text);
	return outcome.text;
}

static void
a_function_is_stopped_before_it_is_reset(void **state)
{
	int fd = make_function(0);
	const char *text = fenced(0, fd, true);

	assert_int_equal(functions[0].resets, 1);
	assert_int_equal(functions[0].at_reset, PCI_COMMAND_MEMORY);
	assert_int_equal(functions[0].command, PCI_COMMAND_MEMORY);
	assert_non_null(strstr(text, "fenced: reset; bus master is off"));
}

/* The kernel restores the command register after a reset. */
static void *
set_master_at_reset(void *arg)
{
	pthread_mutex_lock(&lock);
	while (functions[0].resets == 0) {
		pthread_mutex_unlock(&lock);
		usleep(100);
		pthread_mutex_lock(&lock);
	}
	functions[0].command |= PCI_COMMAND_MASTER;
	released = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return NULL;
}

static void
bus_master_that_a_reset_brings_back_is_cleared_again(void **state)
{
	int fd = make_function(0);
	pthread_t thread;

	functions[0].hangs_in_reset = true;
	pthread_create(&thread, NULL, set_master_at_reset, NULL);
	fenced(0, fd, true);
	pthread_join(thread, NULL);
	assert_int_equal(functions[0].writes, 2);
	assert_false(is_master(0));
}

static void
a_function_without_a_reset_loses_bus_master(void **state)
{
	int fd = make_function(0);
	const char *text;

	functions[0].no_reset = true;
	text = fenced(0, fd, true);
	assert_int_equal(functions[0].command, PCI_COMMAND_MEMORY);
	assert_non_null(strstr(text, "bus master cleared, as it has no reset"));
}

static void
a_reset_that_fails_leaves_bus_master_off(void **state)
{
	int fd = make_function(0);
	const char *text;

	functions[0].reset_error = EIO;
	text = fenced(0, fd, true);
	assert_false(is_master(0));
	assert_non_null(strstr(text, strerror(EIO)));
}

static void
a_reset_that_is_refused_for_now_is_tried_again(void **state)
{
	int fd = make_function(0);

	functions[0].busy = 2;
	fenced(0, fd, true);
	assert_int_equal(functions[0].resets, 1);
}

static void
bus_master_that_stays_on_is_no_fence(void **state)
{
	int fd = make_function(0);

	functions[0].stuck_on = true;
	assert_non_null(strstr(fenced(0, fd, false), "bus master stays on"));
	assert_int_equal(functions[0].resets, 1);
}

static void
a_register_that_cannot_be_read_is_no_fence(void **state)
{
	int fd = make_function(0);

	functions[0].read_error = EIO;
	assert_non_null(strstr(fenced(0, fd, false), strerror(EIO)));
	/* What can be done is. */
	assert_int_equal(functions[0].resets, 1);
}

static void
a_function_that_has_left_the_bus_is_fenced(void **state)
{
	int fd = make_function(0);

	functions[0].gone = true;
	assert_non_null(strstr(fenced(0, fd, true), "has left the bus"));
	assert_int_equal(functions[0].writes, 0);
}

static void
what_is_no_pci_function_is_not_touched(void **state)
{
	for (unsigned int i = 0; i < 3; i++) {
		int fd = make_function(0);

		functions[0].no_pci = i == 0;
		functions[0].no_info = i == 1;
		functions[0].read_only = i == 2;
		fenced(0, fd, false);
		assert_int_equal(functions[0].asked, 1);
		assert_int_equal(functions[0].writes + functions[0].resets, 0);
	}
	/* The kernel's own answer of what is none. */
	fenced(0, eventfd(0, EFD_CLOEXEC), false);
}

/* Many. */

struct reports {
	unsigned int fenced, not ;
	char text[4][200];
};

static void
note(void *arg, const char *name, const struct fence_outcome *outcome)
{
	struct reports *r = arg;

	if (outcome->fenced)
		r->fenced++;
	else if (r->not ++ < RTE_DIM(r->text))
		snprintf(r->text[r->not -1], sizeof(r->text[0]), "%s: %s", name, outcome->text);
}

static void
release(void)
{
	pthread_mutex_lock(&lock);
	released = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* More that hang than are fenced at the same time. */
static void
functions_that_hang_cost_no_other(void **state)
{
	unsigned int before = count_fds();
	struct fence *f = fence_create();
	struct reports r = {0};
	unsigned int hang = FENCE_THREADS + 1;

	for (unsigned int i = 0; i < FUNCTIONS; i++) {
		char name[32];
		int fd = make_function(i);

		functions[i].hangs_in_reset = i < hang;
		snprintf(name, sizeof(name), "net%u:vfio-device", i);
		assert_int_equal(fence_add(f, name, fd), 0);
	}
	functions[hang - 1].hangs_in_reset = false;
	functions[hang - 1].hangs_in_info = true;
	fence_run(f, note, &r);
	fence_destroy(f);
	assert_int_equal(r.fenced, FUNCTIONS - hang);
	assert_int_equal(r.not, hang);
	assert_non_null(strstr(r.text[0], "its reset has not ended"));
	for (unsigned int i = 0; i < FUNCTIONS; i++)
		assert_int_equal(is_master(i), i == hang - 1);
	/* Those that hung are fenced and closed in the end. */
	release();
	wait_for_fds(before);
	assert_false(is_master(hang - 1));
}

/* What is held. */

static void
a_fence_finds_functions_whatever_their_names_are(void **state)
{
	struct hold *h = hold_create(100);
	struct reports r = {0};
	struct hold_fenced done;
	int other = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(hold_put(h, "net0:vfio-device", make_function(0)), 0);
	assert_int_equal(hold_put(h, "net1:fd.1.2", make_function(1)), 0);
	assert_int_equal(hold_put(h, "net0:vfio-group", dup(other)), 0);
	assert_int_equal(hold_put(h, "net0:vfio-container.1", dup(other)), 0);
	assert_int_equal(hold_put(h, "net2:vfio-device", dup(other)), 0);
	assert_int_equal(hold_put(h, "net0:connection", dup(other)), 0);
	assert_int_equal(hold_put(h, "net3:vfio-user", dup(other)), 0);
	assert_int_equal(hold_put(h, "journal", dup(other)), 0);
	assert_int_equal(hold_put(h, "net4:vfio-users", dup(other)), 0);
	done = hold_fence(h, note, &r);
	/* The connection to a vfio-user server is dropped, and nothing is asked of it. */
	assert_int_equal(done.fenced, 3);
	assert_int_equal(done.failed, 0);
	assert_int_equal(r.fenced, 3);
	assert_false(is_master(0));
	assert_false(is_master(1));
	assert_int_equal(hold_count(h), 3);
	assert_true(hold_find(h, "net0:connection") >= 0);
	assert_true(hold_find(h, "net4:vfio-users") >= 0);
	assert_true(hold_find(h, "journal") >= 0);
	hold_destroy(h);
	close(other);
}

/* Whose descriptor is another's: a connection is no function by any name. */
static void
a_connection_is_no_function(void **state)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_false(vdpa_fence_may_be_function(pair[0]));
	assert_non_null(strstr(fenced(0, pair[0], false), "is no PCI function of VFIO"));
	/* Nothing was sent. */
	assert_int_equal(recv(pair[1], &(char){0}, 1, MSG_DONTWAIT), 0);
	close(pair[1]);
}

/* When. */

/* A daemon that has put a function and something else, and has ended. */
static void
leave_function(unsigned int i)
{
	struct vdpa_keep *k = open_keep();
	int fd = make_function(i);

	put(k, "net0:vfio-device", fd);
	close(fd);
	put_count(k, "net0:call:0", 7);
	vdpa_keep_close(k);
}

static void
functions_are_fenced_when_no_daemon_comes(void **state)
{
	struct vdpa_keep *k;

	keeper.fence_s = 1;
	start_keeper(KEEPER_MAX, 0);
	leave_function(0);
	wait_for_fence(0);
	k = open_keep();
	assert_string_equal(left(k), "net0:call:0 ");
	vdpa_keep_close(k);
}

/* They put nothing off, be they there or at their end. */
static void
connections_that_ask_for_nothing_are_no_daemon(void **state)
{
	struct keeper_msg msg;
	int silent;

	keeper.fence_s = 1;
	start_keeper(KEEPER_MAX, 0);
	leave_function(0);
	for (unsigned int i = 0; is_master(0); i++) {
		if (i == 300)
			fail_msg("connections that end put the fence off");
		silent = raw_connect();
		assert_int_equal(recv(silent, &msg, sizeof(msg), 0), sizeof(msg));
		close(silent);
		usleep(100000);
	}
	leave_function(0);
	silent = raw_connect();
	wait_for_fence(0);
	close(silent);
}

static void
functions_are_fenced_before_all_is_dropped(void **state)
{
	struct vdpa_keep *k;

	start_keeper(KEEPER_MAX, 1);
	leave_function(0);
	wait_for_fence(0);
	k = open_keep();
	assert_string_equal(left(k), "");
	vdpa_keep_close(k);
}

static void
a_function_goes_on_while_a_daemon_is_there(void **state)
{
	struct vdpa_keep *k;
	int fd = make_function(0);

	keeper.fence_s = 1;
	start_keeper(KEEPER_MAX, 0);
	k = open_keep();
	put(k, "net0:vfio-device", fd);
	usleep(1500000);
	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	assert_true(is_master(0));
	/* At the keeper's end it is the daemon's, too. */
	stop_keeper();
	assert_true(is_master(0));
	assert_int_equal(functions[0].asked, 0);
	vdpa_keep_close(k);
	close(fd);
}

static void
a_keeper_that_ends_fences_what_no_daemon_has(void **state)
{
	leave_function(0);
	stop_keeper();
	assert_false(is_master(0));
	assert_int_equal(functions[0].resets, 1);
}

/* A daemon that comes back. */

static void
forget_store(void)
{
	/* What was dropped is dropped once all before has been read. */
	vdpa_restart_end();
	vdpa_restart_forget_words("net0");
	vdpa_keep_close(open_keep());
}

static void
a_function_without_a_journal_is_stopped(void **state)
{
	leave_function(0);
	assert_int_equal(vdpa_restart_begin(keeper.where), 0);
	assert_false(is_master(0));
	assert_int_equal(functions[0].resets, 1);
	forget_store();
}

/* A former daemon's device, with its function. */
static void
leave_device(void)
{
	int fd = make_function(0);

	assert_int_equal(vdpa_restart_begin(keeper.where), 0);
	vdpa_restart_set_words("net0", "name net0");
	assert_int_equal(vdpa_restart_put("net0", VDPA_RESTART_FUNCTION, fd), 0);
	assert_int_equal(vdpa_restart_write("net0", "", 0), 0);
	forget_store();
	close(fd);
	assert_true(is_master(0));
	assert_int_equal(vdpa_restart_begin(keeper.where), 0);
	assert_true(is_master(0));
}

static void
a_function_that_is_not_taken_over_is_stopped(void **state)
{
	for (unsigned int i = 0; i < 4; i++) {
		leave_device();
		if (i == 0)
			/* Nobody has made it. */
			(void)vdpa_restart_settle();
		else if (i == 1)
			/* Its words have changed. */
			vdpa_restart_drop("net0");
		else if (i == 2)
			/* Its files are of no use. */
			vdpa_restart_del("net0", VDPA_RESTART_FUNCTION);
		if (i == 3) {
			/* Its record is gone. */
			vdpa_restart_set_words("net0", "name net0");
			(void)vdpa_restart_settle();
		}
		assert_false(is_master(0));
		assert_int_equal(functions[0].resets, 1);
		vdpa_restart_forget("net0");
		forget_store();
	}
}

static void
a_function_that_this_daemon_has_is_not_stopped(void **state)
{
	int fd;

	leave_device();
	/* It takes the function over, and deletes it afterwards. */
	vdpa_restart_set_words("net0", "name net0");
	fd = vdpa_restart_take("net0", VDPA_RESTART_FUNCTION);
	assert_int_equal(vdpa_restart_put("net0", VDPA_RESTART_FUNCTION, fd), 0);
	assert_int_equal(vdpa_restart_write("net0", "", 0), 0);
	(void)vdpa_restart_settle();
	vdpa_restart_forget("net0");
	assert_true(is_master(0));
	assert_int_equal(functions[0].asked, 0);
	close(fd);
	forget_store();
}

static int
note_why(const char *name, const char *why, void *arg)
{
	assert_string_equal(name, "net0");
	snprintf(arg, 64, "%s", why);
	return 0;
}

/* What keeps the function tells what keeps the connection. */
static void
a_device_that_is_given_up_is_kept_no_more(void **state)
{
	char why[64] = "";
	struct vdpa_keep *k;

	leave_device();
	vdpa_restart_set_words("net0", "name net0");
	assert_int_equal(vdpa_restart_put("net0", "connection", STDIN_FILENO), 0);
	assert_int_equal(vdpa_restart_write("net0", "", 0), 0);
	assert_int_equal(vdpa_restart_write_part("net0", "function", "x", 1), 0);
	assert_false(vdpa_restart_is_given_up("net0"));
	vdpa_restart_give_up("net0", "too many mappings");
	assert_true(vdpa_restart_is_given_up("net0"));
	assert_int_equal(vdpa_restart_put("net0", "connection", STDIN_FILENO), -ECANCELED);
	assert_int_equal(vdpa_restart_write("net0", "", 0), -ECANCELED);
	assert_int_equal(vdpa_restart_write_part("net0", "function", "x", 1), -ECANCELED);
	assert_non_null(strstr(vdpa_error_message(), "too many mappings"));
	/* A later record does not clear it. */
	vdpa_restart_says("net0", NULL);
	assert_int_equal(vdpa_restart_check(note_why, why), 0);
	assert_string_equal(why, "too many mappings");
	forget_store();
	k = open_keep();
	assert_string_equal(left(k), "journal ");
	vdpa_keep_close(k);
}

/* By request. */

static int32_t
ask(int conn, enum keeper_op op, const char *name, char *text, size_t size)
{
	struct {
		struct keeper_msg msg;
		char text[4096];
	} reply;
	struct keeper_msg msg = message(op, name);
	ssize_t n;

	assert_int_equal(raw_send(conn, &msg, sizeof(msg), NULL, 0), sizeof(msg));
	n = recv(conn, &reply, sizeof(reply) - 1, 0);
	assert_true(n >= (ssize_t)sizeof(msg));
	((char *)&reply)[n] = '\0';
	assert_int_equal(reply.msg.op, op);
	snprintf(text, size, "%s", reply.text);
	return reply.msg.result;
}

static int
connect_operator(int expected)
{
	struct keeper_msg msg;
	int conn = raw_connect();

	assert_int_equal(recv(conn, &msg, sizeof(msg), 0), sizeof(msg));
	assert_int_equal(msg.op, KEEPER_HELLO);
	assert_int_equal(msg.result, expected);
	return conn;
}

static void
an_operator_fences_at_once(void **state)
{
	char text[4096];
	int conn;

	leave_function(0);
	/* The daemon's end may not have been noticed. */
	vdpa_keep_close(open_keep());
	conn = connect_operator(0);
	assert_int_equal(ask(conn, KEEPER_FENCE, "net0", text, sizeof(text)), -EINVAL);
	assert_true(is_master(0));
	assert_int_equal(ask(conn, KEEPER_FENCE, "", text, sizeof(text)), 1);
	assert_non_null(strstr(text, "net0:vfio-device: fenced: reset; bus master is off"));
	assert_false(is_master(0));
	assert_int_equal(ask(conn, KEEPER_FENCE, "", text, sizeof(text)), 0);
	assert_string_equal(text, "");
	close(conn);
}

static void
a_function_that_is_not_fenced_is_told(void **state)
{
	char text[4096];
	int conn;

	leave_function(0);
	functions[0].stuck_on = true;
	vdpa_keep_close(open_keep());
	conn = connect_operator(0);
	assert_int_equal(ask(conn, KEEPER_FENCE, "", text, sizeof(text)), -EIO);
	assert_non_null(strstr(text, "not fenced"));
	close(conn);
}

static void
an_operator_is_refused_while_a_daemon_lives(void **state)
{
	struct vdpa_keep *k = open_keep();
	int fd = make_function(0), conn;
	char text[4096];

	put(k, "net0:vfio-device", fd);
	conn = connect_operator(-EBUSY);
	assert_int_equal(ask(conn, KEEPER_FENCE, "", text, sizeof(text)), -EBUSY);
	assert_true(is_master(0));
	assert_int_equal(ask(conn, KEEPER_FENCE_FORCED, "", text, sizeof(text)), 1);
	assert_false(is_master(0));
	/* The daemon is served on. */
	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	vdpa_keep_close(k);
	close(fd);
	/* It has ended since. */
	assert_int_equal(ask(conn, KEEPER_FENCE, "", text, sizeof(text)), 0);
	close(conn);
}

static void
one_that_is_refused_may_ask_for_nothing_else(void **state)
{
	struct vdpa_keep *k = open_keep();
	struct keeper_msg msg;
	int conns[12];

	assert_int_equal(vdpa_keep_barrier(k, 0), 0);
	for (unsigned int op = KEEPER_PUT; op <= KEEPER_NOOP; op++) {
		int fd = eventfd(0, EFD_CLOEXEC), conn = connect_operator(-EBUSY);

		msg = message(op, "net0:call:0");
		raw_send(conn, &msg, sizeof(msg), &fd, op == KEEPER_PUT);
		assert_int_equal(recv(conn, &msg, sizeof(msg), 0), 0);
		close(conn);
		close(fd);
	}
	/* Nor may many wait: the first ones give way. */
	for (unsigned int i = 0; i < RTE_DIM(conns); i++)
		conns[i] = connect_operator(-EBUSY);
	assert_int_equal(recv(conns[0], &msg, sizeof(msg), 0), 0);
	for (unsigned int i = 0; i < RTE_DIM(conns); i++)
		close(conns[i]);
	vdpa_keep_close(k);
	k = open_keep();
	assert_string_equal(left(k), "");
	vdpa_keep_close(k);
}

/* What the kernel lets it do. */

static int
confined(void)
{
	struct hold *h = hold_create(10);
	struct reports r = {0};
	char buf[8];
	int fd;

	for (unsigned int i = 0; i < FUNCTIONS; i++)
		functions[i].used = false;
	fd = make_function(0);
	asks_kernel = true;
	if (confine() < 0 || hold_put(h, "net0:vfio-device", fd) < 0)
		return 1;
	if (hold_fence(h, note, &r).fenced != 1)
		return 2;
	if (refused)
		return 3;
	functions[0].used = false;
	fd = eventfd(0, 0);
	if (fd >= 0 || errno != EPERM)
		return 4;
	fd = 2;
	/* Requests of VFIO that a fence has no use for, and others; a number that differs above the
	 * 32 bits of a request is the request. */
	if (__real_ioctl(fd, VFIO_GROUP_GET_DEVICE_FD, "x") != -1 || errno != EPERM)
		return 5;
	if (__real_ioctl(fd, VFIO_DEVICE_SET_IRQS, buf) != -1 || errno != EPERM)
		return 6;
	if (__real_ioctl(fd, VFIO_IOMMU_MAP_DMA, buf) != -1 || errno != EPERM)
		return 7;
	if (__real_ioctl(fd, FIONREAD, buf) != -1 || errno != EPERM)
		return 8;
	if (__real_ioctl(fd, VFIO_DEVICE_SET_IRQS | 1ul << 32, buf) != -1 || errno != EPERM)
		return 9;
	if (__real_ioctl(fd, VFIO_DEVICE_RESET) != -1 || errno == EPERM)
		return 10;
	if (__real_pread64(fd, buf, 4, 0) != -1 || errno != EPERM)
		return 11;
	if (__real_pwrite64(fd, buf, 1, 0) != -1 || errno != EPERM)
		return 12;
	if (read(fd, buf, 1) != -1 || errno != EPERM)
		return 13;
	return 0;
}

static void
a_keeper_may_fence_and_ask_for_little_else(void **state)
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
afresh(void **state)
{
	memset(functions, 0, sizeof(functions));
	released = false;
	keeper.fence_s = 0;
	return 0;
}

static int
afresh_with_keeper(void **state)
{
	afresh(state);
	return with_keeper(state);
}

#define FREE(test) cmocka_unit_test_setup_teardown(test, afresh, without_keeper)
#define WITH(test) cmocka_unit_test_setup_teardown(test, afresh_with_keeper, without_keeper)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		/* While this process has one thread. */
		FREE(a_keeper_may_fence_and_ask_for_little_else),
		FREE(a_function_is_stopped_before_it_is_reset),
		FREE(bus_master_that_a_reset_brings_back_is_cleared_again),
		FREE(a_function_without_a_reset_loses_bus_master),
		FREE(a_reset_that_fails_leaves_bus_master_off),
		FREE(a_reset_that_is_refused_for_now_is_tried_again),
		FREE(bus_master_that_stays_on_is_no_fence),
		FREE(a_register_that_cannot_be_read_is_no_fence),
		FREE(a_function_that_has_left_the_bus_is_fenced),
		FREE(what_is_no_pci_function_is_not_touched),
		FREE(functions_that_hang_cost_no_other),
		FREE(a_connection_is_no_function),
		FREE(a_fence_finds_functions_whatever_their_names_are),
		FREE(functions_are_fenced_when_no_daemon_comes),
		FREE(connections_that_ask_for_nothing_are_no_daemon),
		FREE(functions_are_fenced_before_all_is_dropped),
		FREE(a_function_goes_on_while_a_daemon_is_there),
		WITH(a_keeper_that_ends_fences_what_no_daemon_has),
		WITH(a_function_without_a_journal_is_stopped),
		WITH(a_function_that_is_not_taken_over_is_stopped),
		WITH(a_function_that_this_daemon_has_is_not_stopped),
		WITH(a_device_that_is_given_up_is_kept_no_more),
		WITH(an_operator_fences_at_once),
		WITH(a_function_that_is_not_fenced_is_told),
		WITH(an_operator_is_refused_while_a_daemon_lives),
		WITH(one_that_is_refused_may_ask_for_nothing_else),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
