/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* File descriptors when they are short: the reserve, and what the message names. */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "vdpa.h"
#include "vdpa_fd.h"

#define LIMIT	64
#define RESERVE (LIMIT / 8)

static int
lower_limit(void **state)
{
	static struct rlimit old;
	struct rlimit limit;

	getrlimit(RLIMIT_NOFILE, &old);
	limit = old;
	limit.rlim_cur = LIMIT;
	*state = &old;
	return setrlimit(RLIMIT_NOFILE, &limit);
}

static int
restore_limit(void **state)
{
	for (int fd = 10; fd < LIMIT; fd++)
		close(fd);
	return setrlimit(RLIMIT_NOFILE, *state);
}

static void
the_highest_numbers_are_the_reserve(void **state)
{
	assert_false(vdpa_fd_in_reserve(-1));
	assert_false(vdpa_fd_in_reserve(LIMIT - RESERVE - 1));
	assert_true(vdpa_fd_in_reserve(LIMIT - RESERVE));
	assert_true(vdpa_fd_in_reserve(LIMIT - 1));
}

static void
room_ends_where_the_reserve_begins(void **state)
{
	int fd, next;

	do
		fd = fcntl(0, F_DUPFD_CLOEXEC, 10);
	while (fd < LIMIT - RESERVE - 3);
	/* Whatever lies below 10 is not counted on. */
	while ((next = dup(0)) < 10)
		;
	close(next);
	assert_int_equal(vdpa_fd_room(2, "net0"), 0);
	assert_int_equal(vdpa_fd_room(3, "net0"), -EMFILE);
	assert_non_null(strstr(vdpa_error_message(),
			       "net0: no file descriptor: RLIMIT_NOFILE is 64, "
			       "56 in use, 8 kept for management"));
	/* It takes nothing with it. */
	assert_int_equal(vdpa_fd_room(2, "net0"), 0);
}

static void
other_errors_keep_their_text(void **state)
{
	assert_int_equal(vdpa_fd_error(ENOMEM, "net0"), -ENOMEM);
	assert_string_equal(vdpa_error_message(), "net0: Cannot allocate memory");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_highest_numbers_are_the_reserve, lower_limit,
						restore_limit),
		cmocka_unit_test_setup_teardown(room_ends_where_the_reserve_begins, lower_limit,
						restore_limit),
		cmocka_unit_test(other_errors_keep_their_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
