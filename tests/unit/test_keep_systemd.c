/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * systemd's store of descriptors, played by the test: it stores what a daemon sends to
 * NOTIFY_SOCKET by systemd's rules (a file once, nothing when full, removal by name) and hands it
 * to the next one by LISTEN_FDS. Each life of a daemon is a process of its own, this program with
 * the name of what it does; a daemon is killed at each of its steps.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <rte_common.h>

#include "fake_systemd.h"
#include "tlv.h"
#include "vdpa_error.h"
#include "vdpa_journal.h"
#include "vdpa_keep.h"

/* The daemon's lives. */

/* System calls that change what outlives the process, until it is killed; 0: never. */
static unsigned int steps_left;

ssize_t __real_sendmsg(int fd, const struct msghdr *mh, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *mh, int flags);
ssize_t __real_pwrite64(int fd, const void *buf, size_t len, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t len, off_t at);

static void
step(void)
{
	if (steps_left > 0 && --steps_left == 0)
		kill(getpid(), SIGKILL);
}

ssize_t
__wrap_sendmsg(int fd, const struct msghdr *mh, int flags)
{
	step();
	return __real_sendmsg(fd, mh, flags);
}

ssize_t
__wrap_pwrite64(int fd, const void *buf, size_t len, off_t at)
{
	step();
	return __real_pwrite64(fd, buf, len, at);
}

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition,                 \
				vdpa_error_message());                                             \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static struct vdpa_keep *
open_keep(void)
{
	struct vdpa_keep *k;

	CHECK(vdpa_keep_open("systemd", &k) == 0);
	return k;
}

/* An eventfd with this count. */
static void
put_count(struct vdpa_keep *k, const char *name, unsigned int count)
{
	int fd = eventfd(count, EFD_CLOEXEC | EFD_NONBLOCK);

	CHECK(vdpa_keep_put(k, name, fd) == 0);
	close(fd);
}

/* 0: there is none. */
static unsigned int
take_count(struct vdpa_keep *k, const char *name)
{
	int fd = vdpa_keep_take(k, name);
	eventfd_t count = 0;

	if (fd == -ENOENT)
		return 0;
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC);
	CHECK(eventfd_read(fd, &count) == 0 && eventfd_write(fd, count) == 0);
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
	static char list[4096];

	list[0] = '\0';
	CHECK(vdpa_keep_for_each(k, join, list) == 0);
	return list;
}

static void
put_some(void)
{
	struct vdpa_keep *k = open_keep();
	int memory = memfd_create("guest", MFD_CLOEXEC), ends[2];

	CHECK(strcmp(left(k), "") == 0);
	/* A guest's memory in two regions of one file, which comes twice. */
	CHECK(vdpa_keep_put(k, "net0:mem:0", memory) == 0);
	CHECK(vdpa_keep_put(k, "net0:mem:1", dup(memory)) == 0);
	CHECK(pwrite(memory, "guest", 5, 0) == 5);
	put_count(k, "net0:call:0", 5);
	put_count(k, "net0:call:1", 6);
	put_count(k, "net0:call:1", 7);
	put_count(k, "net0:kick:0", 8);
	CHECK(vdpa_keep_del(k, "net0:kick:0") == 0);
	CHECK(vdpa_keep_del(k, "net0:kick:1") == 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	CHECK(vdpa_keep_put(k, "net0:conn:0", ends[0]) == 0);
	CHECK(vdpa_keep_put(k, "net0:peer:0", ends[1]) == 0);
	CHECK(write(ends[1], "x", 1) == 1);
	CHECK(vdpa_keep_take(k, "net0:call:0") == -ENOENT);
	CHECK(vdpa_keep_put(k, "a/b", memory) == -EINVAL);
	CHECK(vdpa_keep_put(k, "a", 900) == -EBADF);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
	kill(getpid(), SIGKILL);
}

static void
find_some(void)
{
	struct vdpa_keep *k = open_keep();
	char byte[5];
	int a, b;

	CHECK(getenv("LISTEN_FDS") == NULL && getenv("LISTEN_PID") == NULL);
	CHECK(strcmp(left(k), "net0:call:0 net0:call:1 net0:conn:0 net0:mem:0 net0:mem:1 "
			      "net0:peer:0 ") == 0);
	CHECK(take_count(k, "net0:call:0") == 5 && take_count(k, "net0:call:1") == 7);
	CHECK(take_count(k, "net0:kick:0") == 0);
	a = vdpa_keep_take(k, "net0:mem:0");
	b = vdpa_keep_take(k, "net0:mem:1");
	CHECK(a >= 0 && b >= 0 && a != b && is_same_file(a, b));
	CHECK(pread(a, byte, 5, 0) == 5 && memcmp(byte, "guest", 5) == 0);
	a = vdpa_keep_take(k, "net0:conn:0");
	CHECK(recv(a, byte, 5, MSG_DONTWAIT) == 1 && byte[0] == 'x');
	CHECK(recv(a, byte, 5, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	CHECK(send(a, "x", 1, 0) == 1);
	b = vdpa_keep_take(k, "net0:peer:0");
	CHECK(recv(b, byte, 5, MSG_DONTWAIT) == 1);
	CHECK(send(b, "x", 1, 0) == 1);
}

/* One name of a file that has two is enough. */
static void
drop_one(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(vdpa_keep_del(k, "net0:mem:0") == 0);
	CHECK(vdpa_keep_take(k, "net0:mem:0") == -ENOENT);
	CHECK(vdpa_keep_take(k, "net0:mem:1") >= 0);
	put_count(k, "net0:call:0", 9);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
find_rest(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(strcmp(left(k), "net0:call:0 net0:call:1 net0:conn:0 net0:mem:1 net0:peer:0 ") == 0);
	CHECK(take_count(k, "net0:call:0") == 9);
	CHECK(vdpa_keep_take(k, "net0:mem:1") >= 0);
}

static int
drop_it(const char *name, void *arg)
{
	return vdpa_keep_del(arg, name);
}

static void
drop_all(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(vdpa_keep_for_each(k, drop_it, k) == 0);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
	vdpa_keep_close(k);
}

static unsigned int
count_store(const char *prefix)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < systemd.n; i++)
		n += strncmp(systemd.store[i].name, prefix, strlen(prefix)) == 0;
	return n;
}

static void
the_next_process_finds_what_was_put(void **state)
{
	assert_int_equal(run_life("put_some", 0), -1);
	/* Five files and the table. */
	assert_int_equal(systemd.n, 6);
	assert_int_equal(run_life("find_some", 0), 0);
	/* Nothing is taken out of the store. */
	assert_int_equal(run_life("find_some", 0), 0);
	assert_int_equal(run_life("drop_one", 0), 0);
	assert_int_equal(systemd.n, 6);
	assert_int_equal(run_life("find_rest", 0), 0);
	assert_int_equal(run_life("drop_all", 0), 0);
	assert_int_equal(systemd.n, 1);
	assert_int_equal(count_store("uvdpa-names"), 1);
}

/* One life that changes names in all ways: what may be found at any point of it. */

static void
before_change(void)
{
	struct vdpa_keep *k = open_keep();

	put_count(k, "replaced", 1);
	put_count(k, "dropped", 2);
	put_count(k, "shared:0", 3);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
change(void)
{
	struct vdpa_keep *k = open_keep();
	int shared = vdpa_keep_take(k, "shared:0");

	put_count(k, "replaced", 11);
	CHECK(vdpa_keep_del(k, "dropped") == 0);
	put_count(k, "added", 12);
	/* A second name of a file, the first one's end, and another file in its place. */
	CHECK(vdpa_keep_put(k, "shared:1", shared) == 0);
	CHECK(vdpa_keep_del(k, "shared:0") == 0);
	put_count(k, "shared:0", 13);
	CHECK(vdpa_keep_put(k, "shared:0", shared) == 0);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
	steps_left = 0;
}

static bool
is_one_of(unsigned int value, unsigned int a, unsigned int b, unsigned int c)
{
	return value == a || value == b || value == c;
}

static void
find_changed(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(is_one_of(take_count(k, "replaced"), 1, 11, 11));
	CHECK(is_one_of(take_count(k, "dropped"), 2, 0, 0));
	CHECK(is_one_of(take_count(k, "added"), 0, 12, 12));
	CHECK(is_one_of(take_count(k, "shared:0"), 3, 0, 13));
	CHECK(is_one_of(take_count(k, "shared:1"), 0, 3, 3));
	/* A file with a name is never lost on the way. */
	CHECK(take_count(k, "shared:0") == 3 || take_count(k, "shared:1") == 3);
	put_count(k, "next", 21);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

/* Names that are found, and of them the files. */
static void
find_nothing_more(void)
{
	struct vdpa_keep *k = open_keep();
	unsigned int files = 0;

	files += take_count(k, "replaced") != 0;
	files += take_count(k, "dropped") != 0;
	files += take_count(k, "added") != 0;
	files += take_count(k, "next") == 21;
	files += take_count(k, "shared:0") == 3 || take_count(k, "shared:1") == 3;
	files += take_count(k, "shared:0") == 13;
	_exit(100 + (int)files);
}

static void
a_process_killed_at_any_step_leaves_what_works(void **state)
{
	unsigned int steps = 1;
	int rc;

	do {
		assert_int_equal(run_life("before_change", 0), 0);
		assert_int_equal(systemd.n, 4);
		rc = run_life("change", steps++);
		assert_true(rc == 0 || rc == -1);
		if (run_life("find_changed", 0) != 0)
			fail_msg("killed at step %u", steps - 1);
		/* What no name has was removed: the table is one more. */
		assert_int_equal(run_life("find_nothing_more", 0), 100 + (int)systemd.n - 1);
		assert_int_equal(run_life("drop_all", 0), 0);
		assert_int_equal(systemd.n, 1);
	} while (rc == -1);
	print_message("killed at %u steps\n", steps - 2);
	assert_true(steps > 15);
}

static void
open_first(void)
{
	put_count(open_keep(), "a", 1);
}

static void
open_again(void)
{
	struct vdpa_keep *k = open_keep();

	put_count(k, "a", 2);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
a_process_killed_while_it_opens_leaves_what_works(void **state)
{
	unsigned int steps = 1;
	int rc;

	do {
		rc = run_life("open_first", steps++);
		assert_true(rc == 0 || rc == -1);
		assert_int_equal(run_life("open_again", 0), 0);
		assert_int_equal(systemd.n, 2);
		end(state);
	} while (rc == -1);
	assert_true(steps > 4);
}

/* Stores that are too small, absent or deaf. */

static void
fill(void)
{
	struct vdpa_keep *k = open_keep();

	put_count(k, "a", 1);
	put_count(k, "b", 2);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
	put_count(k, "c", 3);
	CHECK(vdpa_keep_barrier(k, 0) == -ENOSPC);
	CHECK(strstr(vdpa_error_message(), "FileDescriptorStoreMax=") != NULL);
	CHECK(vdpa_keep_del(k, "c") == 0);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
	put_count(k, "c", 3);
}

static void
find_full(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(take_count(k, "a") == 1 && take_count(k, "b") == 2 && take_count(k, "c") == 3);
}

static void
a_store_that_is_full_says_so(void **state)
{
	/* The table and two, and one to see that there is room. */
	systemd.max = 4;
	assert_int_equal(run_life("fill", 0), 0);
	/* All that fits is there for the next. */
	assert_int_equal(systemd.n, 4);
	assert_int_equal(run_life("find_full", 0), 0);
}

static void
find_no_store(void)
{
	struct vdpa_keep *k;

	CHECK(vdpa_keep_open("systemd", &k) == -ENOSPC && k == NULL);
	/* And no keeper either. */
	setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
	CHECK(geteuid() == 0 || vdpa_keep_open(NULL, &k) == -ENOENT);
	unsetenv("NOTIFY_SOCKET");
	CHECK(vdpa_keep_open("systemd", &k) == -ENOENT && k == NULL);
	setenv("NOTIFY_SOCKET", "vsock:2:1", 1);
	CHECK(vdpa_keep_open("systemd", &k) == -ENOENT && k == NULL);
	setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
	CHECK(vdpa_keep_open("systemd", &k) < 0 && k == NULL);
}

static void
a_service_without_a_store_says_so(void **state)
{
	systemd.max = 0;
	assert_int_equal(run_life("find_no_store", 0), 0);
	assert_int_equal(systemd.n, 0);
}

static void
open_default(void)
{
	struct vdpa_keep *k;

	CHECK(vdpa_keep_open(NULL, &k) == 0);
	put_count(k, "a", 1);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
a_service_with_a_store_uses_it_by_default(void **state)
{
	assert_int_equal(run_life("open_default", 0), 0);
	assert_int_equal(systemd.n, 2);
}

static void
wait_for_the_deaf(void)
{
	struct vdpa_keep *k;

	CHECK(vdpa_keep_open("systemd", &k) == -ETIMEDOUT && k == NULL);
}

static void
a_systemd_that_reads_nothing_is_waited_for_once(void **state)
{
	systemd.deaf = true;
	assert_int_equal(run_life("wait_for_the_deaf", 0), 0);
	while (hear_one())
		;
}

/* Stores that anybody may have filled. */

static void
put_one(void)
{
	struct vdpa_keep *k = open_keep();

	put_count(k, "a", 1);
	put_count(k, "b", 2);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
find_one(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(take_count(k, "a") == 1 && take_count(k, "b") == 2);
}

static void
find_nothing(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(strcmp(left(k), "") == 0);
	put_count(k, "a", 1);
	put_count(k, "b", 2);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static void
find_b(void)
{
	struct vdpa_keep *k = open_keep();

	CHECK(strcmp(left(k), "b ") == 0 && take_count(k, "b") == 2);
	CHECK(vdpa_keep_barrier(k, 0) == 0);
}

static unsigned int
index_of(const char *suffix)
{
	for (unsigned int i = 0; i < systemd.n; i++)
		if (strstr(systemd.store[i].name, suffix) != NULL)
			return i;
	fail();
	return 0;
}

/* What is not ours remains as it is. */
static void
look_at_foreign(void)
{
	int fd = -1;

	find_one();
	for (int i = LISTEN_FDS; i < LISTEN_FDS + 5; i++)
		if (fcntl(i, F_GETFD) == 0)
			fd = i;
	/* It is the one that exec(2) does not close. */
	CHECK(fd >= 0);
}

static void
a_descriptor_that_is_not_ours_is_left_alone(void **state)
{
	assert_int_equal(run_life("put_one", 0), 0);
	store(eventfd(0, EFD_CLOEXEC), "http.socket");
	assert_int_equal(run_life("look_at_foreign", 0), 0);
	assert_int_equal(count_store("http.socket"), 1);
	assert_int_equal(systemd.n, 4);
}

static void
a_store_without_its_table_is_dropped(void **state)
{
	assert_int_equal(run_life("put_one", 0), 0);
	forget("uvdpa-names");
	assert_int_equal(run_life("find_nothing", 0), 0);
	assert_int_equal(systemd.n, 3);
	assert_int_equal(run_life("find_one", 0), 0);

	/* One that is no journal, and two of them. */
	forget("uvdpa-names");
	store(eventfd(0, EFD_CLOEXEC), "uvdpa-names");
	assert_int_equal(run_life("find_nothing", 0), 0);
	assert_int_equal(systemd.n, 3);
	store(memfd_create("second", MFD_CLOEXEC), "uvdpa-names");
	assert_int_equal(run_life("find_nothing", 0), 0);
	assert_int_equal(systemd.n, 3);
	assert_int_equal(run_life("find_one", 0), 0);
}

static void
a_name_without_its_descriptor_is_forgotten(void **state)
{
	assert_int_equal(run_life("put_one", 0), 0);
	forget(systemd.store[index_of("-a")].name);
	assert_int_equal(run_life("find_b", 0), 0);
	assert_int_equal(systemd.n, 2);
	assert_int_equal(run_life("find_b", 0), 0);
}

static void
a_number_that_is_there_twice_is_none(void **state)
{
	assert_int_equal(run_life("put_one", 0), 0);
	store(eventfd(0, EFD_CLOEXEC), systemd.store[index_of("-a")].name);
	assert_int_equal(run_life("find_b", 0), 0);
	assert_int_equal(systemd.n, 2);
}

/* Records of the table as the test wants them. */
static void
write_table(const char *name, const void *record, size_t len)
{
	struct vdpa_journal *j;

	assert_int_equal(vdpa_journal_open(systemd.store[index_of("uvdpa-names")].fd, &j), 0);
	assert_int_equal(vdpa_journal_write(j, name, record, len), 0);
	vdpa_journal_close(j);
}

static void
a_table_that_lies_costs_its_names_alone(void **state)
{
	static const uint64_t numbers[] = {0, 3, 99, UINT64_MAX};
	uint8_t number[8];

	for (unsigned int i = 0; i < RTE_DIM(numbers) + 2; i++) {
		assert_int_equal(run_life("put_one", 0), 0);
		vdpa_le_put(number, numbers[i % RTE_DIM(numbers)], 8);
		if (i < RTE_DIM(numbers))
			write_table("a", number, 8);
		else if (i == RTE_DIM(numbers))
			write_table("a", number, 7);
		else
			write_table("a", NULL, 0);
		/* What is no name of ours. */
		write_table("c/d", number, 8);
		assert_int_equal(run_life("find_b", 0), 0);
		assert_int_equal(systemd.n, 2);
		assert_int_equal(run_life("find_b", 0), 0);
		end(state);
	}
}

static void
names_of_the_store_that_are_odd_do_no_harm(void **state)
{
	static const char *const odd[] = {"uvdpa-",    "uvdpa-0-a",  "uvdpa-x",
					  "uvdpa-1",   "uvdpa-01-a", "uvdpa-99999999999999999999-a",
					  "uvdpa--1-", "uvdpa-9-",   "uvdpa-probe"};

	assert_int_equal(run_life("put_one", 0), 0);
	for (unsigned int i = 0; i < RTE_DIM(odd); i++)
		store(eventfd(0, EFD_CLOEXEC), odd[i]);
	assert_int_equal(systemd.n, 3 + RTE_DIM(odd));
	assert_int_equal(run_life("find_one", 0), 0);
	assert_int_equal(systemd.n, 3);
	assert_int_equal(run_life("find_one", 0), 0);
}

static const struct {
	const char *name;
	void (*live)(void);
} lives[] = {
	{"put_some", put_some},
	{"find_some", find_some},
	{"drop_one", drop_one},
	{"find_rest", find_rest},
	{"drop_all", drop_all},
	{"before_change", before_change},
	{"change", change},
	{"find_changed", find_changed},
	{"find_nothing_more", find_nothing_more},
	{"open_first", open_first},
	{"open_again", open_again},
	{"fill", fill},
	{"find_full", find_full},
	{"find_no_store", find_no_store},
	{"open_default", open_default},
	{"wait_for_the_deaf", wait_for_the_deaf},
	{"put_one", put_one},
	{"find_one", find_one},
	{"find_nothing", find_nothing},
	{"find_b", find_b},
	{"look_at_foreign", look_at_foreign},
};

/* A life of a daemon: this program, run by itself. */
static int
live(const char *name, const char *steps)
{
	steps_left = (unsigned int)atoi(steps);
	for (unsigned int i = 0; i < RTE_DIM(lives); i++) {
		if (strcmp(lives[i].name, name) != 0)
			continue;
		lives[i].live();
		/* Most end in the middle; where all was closed, a leak is one. */
		if (lives[i].live != drop_all)
			_exit(0);
		return 0;
	}
	return 98;
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, begin, end)

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(the_next_process_finds_what_was_put),
		TEST(a_process_killed_at_any_step_leaves_what_works),
		TEST(a_process_killed_while_it_opens_leaves_what_works),
		TEST(a_store_that_is_full_says_so),
		TEST(a_service_without_a_store_says_so),
		TEST(a_service_with_a_store_uses_it_by_default),
		TEST(a_systemd_that_reads_nothing_is_waited_for_once),
		TEST(a_descriptor_that_is_not_ours_is_left_alone),
		TEST(a_store_without_its_table_is_dropped),
		TEST(a_name_without_its_descriptor_is_forgotten),
		TEST(a_number_that_is_there_twice_is_none),
		TEST(a_table_that_lies_costs_its_names_alone),
		TEST(names_of_the_store_that_are_odd_do_no_harm),
	};

	if (argc == 3)
		return live(argv[1], argv[2]);
	return cmocka_run_group_tests(tests, group_start, group_end);
}
