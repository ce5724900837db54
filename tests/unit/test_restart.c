/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a process says of its devices, at any time and before it leaves them, and that it does not
 * leave them where the store is gone; that nobody changes devices that are being left; what becomes
 * of them where they do not go over; and of those that were handed over where the store is full.
 */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "keeper_test.h"
#include "restart.h"
#include "restart_priv.h"
#include "vdpa_restart.h"

#define RECORD "what its front end says"

/* Names and reasons, as they were said. */
static int
note(const char *name, const char *why, void *arg)
{
	char *text = arg;

	snprintf(text + strlen(text), 1000 - strlen(text), "%s: %s\n", name, why);
	return 0;
}

static int
check(char text[1000])
{
	text[0] = '\0';
	return vdpa_restart_check(note, text);
}

static void
keep_device(const char *name)
{
	vdpa_restart_set_words(name, name);
	assert_int_equal(vdpa_restart_write(name, RECORD, sizeof(RECORD)), 0);
}

static int
begin(void **state)
{
	(void)with_keeper(state);
	if (vdpa_restart_begin(keeper.where) < 0)
		fail_msg("%s", vdpa_error_message());
	keep_device("net0");
	return 0;
}

static int
end(void **state)
{
	vdpa_restart_thaw();
	vdpa_restart_forget_words("net0");
	vdpa_restart_forget_words("net1");
	vdpa_restart_forget_words("function0");
	vdpa_restart_end();
	return without_keeper(state);
}

static void
a_device_that_is_lost_is_not_counted(void **state)
{
	keep_device("function0");
	vdpa_restart_taken("net0");
	vdpa_restart_taken("function0");
	assert_int_equal(vdpa_restart_count(), 2);
	for (unsigned int i = 0; i < 2; i++)
		vdpa_restart_lost("function0");
	assert_int_equal(vdpa_restart_count(), 1);
	/* One that is forgotten on the way out of a failure leaves the cause to be said. */
	vdpa_error(EINVAL, "the cause");
	vdpa_restart_forget("net0");
	assert_string_equal(vdpa_error_message(), "the cause");
}

static void
what_cannot_be_left_is_not(void **state)
{
	char text[1000];

	assert_int_equal(check(text), 0);
	stop_keeper();
	assert_true(check(text) < 0);
	assert_true(vdpa_restart_leave() < 0);
	assert_false(vdpa_restart_leaves());
}

static void
a_store_that_dies_behind_the_check_is_noticed(void **state)
{
	char text[1000];

	assert_int_equal(check(text), 0);
	stop_keeper();
	assert_true(vdpa_restart_leave() < 0);
	assert_false(vdpa_restart_leaves());
}

static void *
change(void *arg)
{
	int rc = vdpa_restart_change_begins();

	if (rc == 0)
		vdpa_restart_change_ends();
	*(int *)arg = rc;
	return NULL;
}

static int
change_in_thread(void)
{
	pthread_t thread;
	int rc = 1;

	assert_int_equal(pthread_create(&thread, NULL, change, &rc), 0);
	pthread_join(thread, NULL);
	return rc;
}

static void
frozen_devices_are_changed_by_nobody_else(void **state)
{
	int rc;

	assert_int_equal(change_in_thread(), 0);
	assert_int_equal(vdpa_restart_freeze(), 0);
	assert_int_equal(vdpa_restart_freeze(), -EALREADY);
	assert_int_equal(change_in_thread(), -EBUSY);
	change(&rc);
	assert_int_equal(rc, 0);
	vdpa_restart_thaw();
	assert_int_equal(change_in_thread(), 0);
	/* Whoever leaves them changes none, either. */
	assert_int_equal(vdpa_restart_leave(), 1);
	change(&rc);
	assert_int_equal(rc, -EBUSY);
}

static void *
freeze(void *arg)
{
	*(int *)arg = vdpa_restart_freeze();
	return NULL;
}

static void
a_change_that_is_under_way_is_waited_for(void **state)
{
	pthread_t thread;
	int rc = 1;

	assert_int_equal(vdpa_restart_change_begins(), 0);
	assert_int_equal(pthread_create(&thread, NULL, freeze, &rc), 0);
	/* It has begun to wait once nobody else may begin. */
	while (vdpa_restart_change_begins() == 0)
		vdpa_restart_change_ends();
	vdpa_restart_change_ends();
	pthread_join(thread, NULL);
	assert_int_equal(rc, 0);
}

static void
shows(const char *name, enum vdpa_restart_fate fate, const char *why)
{
	char text[256] = "";

	assert_int_equal(vdpa_restart_look(name, text, sizeof(text)), fate);
	assert_string_equal(text, why);
}

static void
what_becomes_of_a_device_is_shown(void **state)
{
	shows("net0", VDPA_RESTART_GOES_ON, "");
	shows("net1", VDPA_RESTART_NOT_KEPT, "");
	vdpa_restart_says("net0", "its connection is of another kind");
	shows("net0", VDPA_RESTART_ENDS, "its connection is of another kind");
	vdpa_restart_says("net0", NULL);
	shows("net0", VDPA_RESTART_GOES_ON, "");
	vdpa_restart_says_of_kill("net0", "its rings end with the process");
	shows("net0", VDPA_RESTART_GOES_ON_UNLESS_KILLED, "its rings end with the process");
	/* Nobody has written a record. */
	vdpa_restart_set_words("function0", "function0");
	shows("function0", VDPA_RESTART_ENDS,
	      "devices of its front end start anew in this version");
	vdpa_restart_goes_by_itself("function0");
	shows("function0", VDPA_RESTART_BY_ITSELF, "");
	vdpa_restart_give_up("net0", "it is too long");
	shows("net0", VDPA_RESTART_ENDS, "it is too long");
	stop_keeper();
	assert_true(vdpa_restart_leave() < 0);
	shows("net0", VDPA_RESTART_ENDS, "the store has failed");
	shows("function0", VDPA_RESTART_BY_ITSELF, "");
}

/* The room's lock is held while the store is waited for. */
static void
what_is_shown_waits_for_no_store(void **state)
{
	restart_lock();
	shows("net0", VDPA_RESTART_GOES_ON, "");
	restart_unlock();
}

/* What somebody else does to the journal: the newest record of the device does not check any more.
 */
static void
spoil(const char *record)
{
	static char head[1 << 20];
	int fd = vdpa_journal_fd(restart_state.journal);
	ssize_t n = pread(fd, head, sizeof(head), 0);
	char *at = memmem(head, (size_t)n, record, strlen(record) + 1);

	assert_non_null(at);
	at[0] ^= 1;
	assert_int_equal(pwrite(fd, at, 1, at - head), 1);
}

/* The names of devices that a former process has left. */
static int
note_former(const char *name, const char *words, void *arg)
{
	return note(name, words, arg);
}

static const char *
former(void)
{
	static char text[1000];

	text[0] = '\0';
	assert_int_equal(vdpa_restart_each(note_former, text), 0);
	return text;
}

/* As vdpa_dev_del_all() ends devices that are left. */
static void
leave(void)
{
	assert_int_equal(vdpa_restart_leave(), 2);
	vdpa_restart_forget_words("net0");
	vdpa_restart_forget_words("net1");
}

static void
a_record_that_does_not_read_is_named_before_anything_stands_still(void **state)
{
	char text[1000];

	keep_device("net1");
	assert_int_equal(check(text), 0);
	assert_string_equal(text, "");
	spoil("net1");
	assert_int_equal(check(text), 0);
	assert_string_equal(text, "net1: its record in the journal cannot be read\n");
	/* The next one takes its place. */
	assert_int_equal(vdpa_restart_write("net1", RECORD, sizeof(RECORD)), 0);
	assert_int_equal(check(text), 0);
	assert_string_equal(text, "");
	/* A part is of its device. */
	assert_int_equal(vdpa_restart_write_part("net1", "pci", RECORD, sizeof(RECORD)), 0);
	spoil("net1/pci");
	assert_int_equal(check(text), 0);
	assert_string_equal(text, "net1: its record in the journal cannot be read\n");
}

static void
a_record_that_does_not_read_costs_its_own_device(void **state)
{
	keep_device("net1");
	leave();
	spoil("net1");
	assert_int_equal(vdpa_restart_take_back(), 0);
	assert_true(vdpa_restart_is_on());
	assert_string_equal(former(), "net0: net0\n");
}

static void
a_part_that_does_not_read_costs_its_own_device(void **state)
{
	keep_device("net1");
	assert_int_equal(vdpa_restart_write_part("net1", "a", RECORD, sizeof(RECORD)), 0);
	assert_int_equal(vdpa_restart_write_part("net1", "b", RECORD, sizeof(RECORD)), 0);
	assert_int_equal(vdpa_restart_write_part("net0", "a", RECORD, sizeof(RECORD)), 0);
	leave();
	spoil("net1/b");
	assert_int_equal(vdpa_restart_take_back(), 0);
	assert_string_equal(former(), "net0: net0\n");
	assert_int_equal(vdpa_restart_read_part("net1", "a", restart_state.slot, RESTART_SLOT),
			 -ENOENT);
	assert_int_equal(vdpa_restart_read_part("net0", "a", restart_state.slot, RESTART_SLOT),
			 sizeof(RECORD));
}

static void
a_hand_over_that_nobody_takes_gives_the_others_back(void **state)
{
	int socks[2];

	keep_device("net1");
	leave();
	spoil("net1");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks), 0);
	close(socks[1]);
	assert_int_equal(vdpa_restart_hand_over(socks[0]), 0);
	close(socks[0]);
	assert_int_equal(vdpa_restart_take_back(), 0);
	assert_string_equal(former(), "net0: net0\n");
}

/* Whether the front end at this end of a connection sees its end; all else has been closed. */
static bool
has_ended(int sock)
{
	char byte;

	return recv(sock, &byte, 1, MSG_DONTWAIT) == 0;
}

static void
connections_that_nobody_goes_on_with_end(void **state)
{
	for (unsigned int failed = 0; failed < 2; failed++) {
		int socks[2], kept;

		keep_device("net1");
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, socks), 0);
		/* The store's. */
		kept = dup(socks[0]);
		leave();
		vdpa_restart_leaves_connection(socks[0]);
		close(socks[0]);
		if (failed)
			stop_keeper();
		assert_int_equal(vdpa_restart_take_back() < 0, failed);
		assert_int_equal(has_ended(socks[1]), failed);
		close(kept);
		/* Another thread closes the last one. */
		for (unsigned int i = 0; i < 10000 && !has_ended(socks[1]); i++)
			usleep(1000);
		assert_true(has_ended(socks[1]));
		close(socks[1]);
		if (!failed)
			keep_device("net0");
	}
}

/* The process has no memory for a journal: the store comes back, and has none. */
static void
a_process_without_a_journal_goes_on(void **state)
{
	struct rlimit limit, none;
	char buf[64], text[1000];

	keep_device("net1");
	leave();
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	none = (struct rlimit){.rlim_cur = 4096, .rlim_max = limit.rlim_max};
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_true(vdpa_restart_take_back() < 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_null(restart_state.journal);

	assert_string_equal(former(), "");
	assert_int_equal(vdpa_restart_read("net0", buf, sizeof(buf)), -EPIPE);
	assert_int_equal(vdpa_restart_read_part("net0", "pci", buf, sizeof(buf)), -EPIPE);
	vdpa_restart_set_words("net0", "net0");
	assert_int_equal(vdpa_restart_write("net0", RECORD, sizeof(RECORD)), -EPIPE);
	assert_int_equal(vdpa_restart_write_part("net0", "pci", RECORD, sizeof(RECORD)), -EPIPE);
	assert_true(check(text) < 0);
	assert_false(vdpa_restart_is_left("net0"));
	vdpa_restart_remove_part("net0", "pci");
	vdpa_restart_forget("net0");
	assert_int_equal(vdpa_restart_settle(), 0);
	assert_true(vdpa_restart_leave() < 0);
	assert_true(vdpa_restart_take_back() < 0);
}

static void
put_one(const char *device, const char *what)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_int_equal(vdpa_restart_put(device, what, fd), 0);
	close(fd);
}

/* A keeper with room for one more than a former process has left, the journal and net0's. */
static int
begin_handed(void **state)
{
	int socks[2];

	start_keeper(3, 0);
	assert_int_equal(vdpa_restart_begin(keeper.where), 0);
	keep_device("net0");
	put_one("net0", "former");
	vdpa_restart_end();
	vdpa_restart_forget_words("net0");
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, socks), 0);
	assert_int_equal(vdpa_restart_begin_handed(keeper.where, socks[0]), 0);
	close(socks[0]);
	close(socks[1]);
	return 0;
}

static void
what_is_refused_at_go_costs_its_own_device(void **state)
{
	struct vdpa_keep *k;
	char why[512] = "";

	keep_device("net0");
	keep_device("net1");
	put_one("net1", "a");
	put_one("net1", "b");
	vdpa_restart_del("net0", "former");
	put_one("net0", "own");
	assert_int_equal(vdpa_restart_go(), 0);
	assert_true(vdpa_restart_is_on());
	shows("net0", VDPA_RESTART_GOES_ON, "");
	assert_int_equal(vdpa_restart_look("net1", why, sizeof(why)), VDPA_RESTART_ENDS);
	assert_non_null(strstr(why, "the keeper is full"));
	/* Whoever keeps the rest of it hears why, and there is room again for others. */
	assert_int_equal(vdpa_restart_write("net1", RECORD, sizeof(RECORD)), -ECANCELED);
	put_one("net0", "more");
	vdpa_restart_end();
	k = open_keep();
	assert_string_equal(left(k), "journal net0:more net0:own ");
	vdpa_keep_close(k);
	/* The next process. */
	vdpa_restart_forget_words("net0");
	vdpa_restart_forget_words("net1");
	assert_int_equal(vdpa_restart_begin(keeper.where), 0);
	assert_string_equal(former(), "net0: net0\n");
}

static void
what_is_dropped_again_before_it_is_refused_costs_nothing(void **state)
{
	keep_device("net0");
	keep_device("net1");
	put_one("net1", "a");
	put_one("net1", "b");
	vdpa_restart_del("net1", "b");
	assert_int_equal(vdpa_restart_go(), 0);
	shows("net0", VDPA_RESTART_GOES_ON, "");
	shows("net1", VDPA_RESTART_GOES_ON, "");
}

static void
a_store_that_has_gone_at_go_is_given_up(void **state)
{
	keep_device("net0");
	put_one("net0", "own");
	stop_keeper();
	assert_int_equal(vdpa_restart_go(), -EPIPE);
	assert_false(vdpa_restart_is_on());
	shows("net0", VDPA_RESTART_ENDS, "the store has failed");
}

#define WITH(test)   cmocka_unit_test_setup_teardown(test, begin, end)
#define HANDED(test) cmocka_unit_test_setup_teardown(test, begin_handed, end)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH(a_device_that_is_lost_is_not_counted),
		WITH(what_cannot_be_left_is_not),
		WITH(a_store_that_dies_behind_the_check_is_noticed),
		WITH(frozen_devices_are_changed_by_nobody_else),
		WITH(a_change_that_is_under_way_is_waited_for),
		WITH(what_becomes_of_a_device_is_shown),
		WITH(what_is_shown_waits_for_no_store),
		WITH(a_record_that_does_not_read_is_named_before_anything_stands_still),
		WITH(a_record_that_does_not_read_costs_its_own_device),
		WITH(a_part_that_does_not_read_costs_its_own_device),
		WITH(a_hand_over_that_nobody_takes_gives_the_others_back),
		WITH(connections_that_nobody_goes_on_with_end),
		WITH(a_process_without_a_journal_goes_on),
		HANDED(what_is_refused_at_go_costs_its_own_device),
		HANDED(what_is_dropped_again_before_it_is_refused_costs_nothing),
		HANDED(a_store_that_has_gone_at_go_is_given_up),
	};

	return cmocka_run_group_tests(tests, group_start, group_end);
}
