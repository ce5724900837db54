/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a process leaves to the next one in a store of systemd's that is full: an upgrade is refused
 * before anything stands still, and the journal outlives what becomes of it in any case.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "fake_systemd.h"
#include "restart.h"
#include "restart_priv.h"
#include "vdpa_error.h"
#include "vdpa_restart.h"

#define RECORD "what its front end says"

static void
keep_device(const char *name)
{
	vdpa_restart_set_words(name, name);
	assert_int_equal(vdpa_restart_write(name, RECORD, sizeof(RECORD)), 0);
}

static void
put_one(const char *what)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(vdpa_restart_put("net0", what, fd), 0);
	close(fd);
}

/* From now on the store has room for so many more. */
static void
set_room(unsigned int n)
{
	/* All that was said before has arrived. */
	stop_systemd();
	systemd.max = systemd.n + n;
	start_systemd();
}

static int
begin_net0(void **state)
{
	(void)begin(state);
	setenv("NOTIFY_SOCKET", systemd.path, 1);
	start_systemd();
	if (vdpa_restart_begin("systemd") < 0)
		fail_msg("%s", vdpa_error_message());
	keep_device("net0");
	put_one("a");
	return 0;
}

static int
end_net0(void **state)
{
	vdpa_restart_forget_words("net0");
	vdpa_restart_end();
	stop_systemd();
	return end(state);
}

static int
note_why(const char *name, const char *why, void *arg)
{
	return -ECANCELED;
}

static int
count(const char *name, const char *words, void *arg)
{
	++*(unsigned int *)arg;
	return strcmp(name, "net0") == 0 && strcmp(words, "net0") == 0 ? 0 : -EPROTO;
}

/* Whether systemd has the journal of this process. */
static bool
has_journal(void)
{
	unsigned int found = 0;

	stop_systemd();
	for (unsigned int i = 0; i < systemd.n; i++)
		found += strstr(systemd.store[i].name, "-" RESTART_JOURNAL) != NULL &&
			 is_same_file(systemd.store[i].fd, vdpa_journal_fd(restart_state.journal));
	start_systemd();
	return found == 1;
}

static void
a_full_store_refuses_an_upgrade_and_no_restart(void **state)
{
	assert_int_equal(vdpa_restart_check(note_why, NULL), 0);
	set_room(0);
	assert_int_equal(vdpa_restart_check(note_why, NULL), -ENOSPC);
	assert_non_null(strstr(vdpa_error_message(), "raise FileDescriptorStoreMax="));
	/* It has what the next process needs. */
	assert_true(vdpa_restart_is_on());
	assert_int_equal(vdpa_restart_leave(), 1);
	set_room(1);
	assert_int_equal(vdpa_restart_check(note_why, NULL), 0);
}

/* Where it was filled behind the check. */
static void
a_full_store_that_comes_back_has_a_journal(void **state)
{
	unsigned int n = 0;
	int socks[2];

	set_room(0);
	assert_int_equal(vdpa_restart_leave(), 1);
	vdpa_restart_forget_words("net0");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks), 0);
	assert_int_equal(vdpa_restart_hand_over(socks[0]), -ENOSPC);
	close(socks[0]);
	close(socks[1]);
	assert_int_equal(vdpa_restart_take_back(), 0);
	assert_true(vdpa_restart_is_on());
	assert_true(has_journal());
	assert_int_equal(vdpa_restart_each(count, &n), 0);
	assert_int_equal(n, 1);
}

/* The journal was not in the store before, and there is no room for it: that is said. */
static void
a_store_without_room_for_a_journal_is_given_up(void **state)
{
	set_room(0);
	assert_int_equal(vdpa_restart_leave(), 1);
	vdpa_restart_forget_words("net0");
	stop_systemd();
	systemd.max = 1;
	start_systemd();
	assert_int_equal(vdpa_restart_take_back(), -ENOSPC);
	assert_false(vdpa_restart_is_on());
}

static void
a_store_that_is_full_at_go_goes_on(void **state)
{
	int socks[2];

	assert_int_equal(vdpa_restart_leave(), 1);
	vdpa_restart_forget_words("net0");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks), 0);
	assert_int_equal(vdpa_restart_hand_over(socks[0]), 0);
	vdpa_restart_end();
	assert_int_equal(vdpa_restart_begin_handed("systemd", socks[1]), 0);
	close(socks[0]);
	close(socks[1]);
	keep_device("net0");
	put_one("b");
	set_room(1);
	assert_int_equal(vdpa_restart_go(), 0);
	assert_true(vdpa_restart_is_on());
	assert_true(has_journal());
	assert_true(vdpa_restart_is_left("net0"));
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, begin_net0, end_net0)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_full_store_refuses_an_upgrade_and_no_restart),
		TEST(a_full_store_that_comes_back_has_a_journal),
		TEST(a_store_without_room_for_a_journal_is_given_up),
		TEST(a_store_that_is_full_at_go_goes_on),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
