/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The end of file descriptors that a peer has sent: what closes at once, what waits and for whom.
 * A TCP socket with SO_LINGER and a peer that does not read is what waits as long as we like.
 */

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"

#include "stored_fd.h"
#include "vdpa_foreign_fd.h"

#define LINGER_S  600
#define TIMEOUT_S 60
/* Of memory, more than is freed at once. */
#define LARGE	  (((off_t)64 << 20) + 4096)

static bool no_threads;
static unsigned int threads_asked;

/* Closers are the only threads here. */
int
pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg)
{
	int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = NULL;

	threads_asked++;
	if (no_threads)
		return EAGAIN;
	*(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
	return real(thread, attr, fn, arg);
}

static unsigned int titles_read;

ssize_t
readlinkat(int dir, const char *path, char *buf, size_t len)
{
	titles_read++;
	return syscall(SYS_readlinkat, dir, path, buf, len);
}

static unsigned int
count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n;
}

static bool
is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static bool
comes_true(bool (*condition)(void *arg), void *arg)
{
	const struct timespec pause = {.tv_nsec = 1000000};

	for (unsigned int i = 0; i < TIMEOUT_S * 1000; i++) {
		if (condition(arg))
			return true;
		nanosleep(&pause, NULL);
	}
	return false;
}

static bool
is_empty(void *arg)
{
	return vdpa_fd_account_waiting(arg) == 0;
}

static bool
has_room(void *arg)
{
	return !vdpa_fd_account_full(arg);
}

static bool
threads_are(void *arg)
{
	return count_threads() == *(unsigned int *)arg;
}

static bool
fds_are(void *arg)
{
	return count_fds() == *(unsigned int *)arg;
}

/* A TCP socket whose last close waits for its peer, which does not read. */
struct lingering {
	int ours, peer;
};

static struct lingering
lingering(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct linger linger = {.l_onoff = 1, .l_linger = LINGER_S};
	socklen_t len = sizeof(in);
	static const char data[65536];
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 4096;
	struct lingering l;

	l.ours = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(listener >= 0 && l.ours >= 0);
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	setsockopt(l.ours, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	assert_int_equal(bind(listener, (struct sockaddr *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(listener, (struct sockaddr *)&in, &len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(connect(l.ours, (struct sockaddr *)&in, sizeof(in)), 0);
	l.peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(l.peer >= 0);
	close(listener);
	while (send(l.ours, data, sizeof(data), MSG_DONTWAIT) > 0)
		;
	assert_int_equal(setsockopt(l.ours, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	return l;
}

static void
send_fd(int to, int fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control = {.buf = {0}};
	char byte = 0;
	struct iovec iov = {.iov_base = &byte, .iov_len = 1};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	assert_int_equal(sendmsg(to, &msg, 0), 1);
}

static void
what_cannot_wait_is_closed_at_once(void **state)
{
	static const char *const devices[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random",
					      "/dev/urandom"};
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds(), n = 0;
	int given[7];

	given[n++] = eventfd(0, EFD_CLOEXEC);
	given[n++] = memfd_create("test", MFD_CLOEXEC);
	for (unsigned int i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
		given[n++] = open(devices[i], O_RDONLY | O_CLOEXEC);
	assert_int_equal(n, sizeof(given) / sizeof(given[0]));
	/* Were one of them to be closed apart, it would stay. */
	no_threads = true;
	for (unsigned int i = 0; i < n; i++) {
		assert_true(given[i] >= 0);
		assert_int_equal(vdpa_close_foreign(account, given[i]), 0);
		assert_false(is_open(given[i]));
	}
	no_threads = false;
	assert_int_equal(vdpa_close_foreign(account, -1), 0);
	assert_int_equal(vdpa_close_connection(account, -1), 0);
	assert_int_equal(vdpa_fd_account_waiting(account), 0);
	assert_int_equal(count_threads(), threads);
	assert_int_equal(count_fds(), fds);
	vdpa_fd_account_destroy(account);
	vdpa_fd_account_destroy(NULL);
}

/* A memory file of some bytes, none of which is a hole. */
static int
memory_file(off_t size)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(posix_fallocate(fd, 0, size), 0);
	return fd;
}

/* Its last close frees it, and whoever has filled it says how long that takes. */
static void
large_memory_is_closed_apart(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	int small = memory_file(4096), sparse = memfd_create("test", MFD_CLOEXEC);
	int large = memory_file(LARGE);

	(void)state;
	assert_int_equal(ftruncate(sparse, LARGE), 0);
	no_threads = true;
	threads_asked = 0;
	assert_int_equal(vdpa_close_foreign(account, small), 0);
	assert_false(is_open(small));
	assert_int_equal(vdpa_close_foreign(account, sparse), 0);
	assert_false(is_open(sparse));
	assert_int_equal(threads_asked, 0);
	/* Where there is no thread for it, it is closed here: that ends, so a guest's memory is not
	 * refused. */
	assert_int_equal(vdpa_close_foreign(account, dup(large)), 0);
	assert_int_equal(threads_asked, 1);
	assert_int_equal(count_fds(), fds + 1);
	no_threads = false;
	assert_int_equal(vdpa_close_foreign(account, large), 0);
	assert_int_equal(threads_asked, 2);
	assert_int_equal(vdpa_fd_account_waiting(account), 0);
	assert_true(comes_true(fds_are, &fds));
	assert_true(comes_true(threads_are, &threads));
	vdpa_fd_account_destroy(account);
}

/* Nor is it held up by what else its sender has sent, or fills the account with it. A guest maps
 * and unmaps one file by a descriptor each time. */
static void
memory_is_freed_beside_what_waits(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	struct lingering l = lingering();
	int memory = memory_file(LARGE);

	(void)state;
	assert_int_equal(vdpa_close_foreign(account, l.ours), 0);
	for (unsigned int i = 0; i < 3 * VDPA_FD_WAITING_MAX; i++)
		assert_int_equal(vdpa_close_foreign(account, dup(memory)), 0);
	assert_int_equal(vdpa_close_foreign(account, memory), 0);
	assert_int_equal(vdpa_fd_account_waiting(account), 1);
	fds++; /* the other socket */
	assert_true(comes_true(fds_are, &fds));
	fds--;
	close(l.peer);
	assert_true(comes_true(is_empty, account));
	assert_true(comes_true(fds_are, &fds));
	assert_true(comes_true(threads_are, &threads));
	vdpa_fd_account_destroy(account);
}

/* A store's thread serves everybody: it gets what closes at once, and a socket that nobody may fill
 * any more. */
static void
what_may_wait_is_not_stored(void **state)
{
	struct lingering l = lingering();
	int pair[2], named = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), given[8];
	unsigned int n = 0;

	(void)state;
	given[n++] = eventfd(0, EFD_CLOEXEC);
	given[n++] = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	given[n++] = pair[0];
	for (unsigned int i = 0; i < n; i++)
		assert_true(vdpa_fd_can_be_stored(given[i]));
	assert_int_equal(write(pair[0], "x", 1), 1);
	given[n++] = pair[1];
	assert_int_equal(pipe2(&given[n], O_CLOEXEC), 0);
	n += 2;
	given[n++] = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	given[n++] = open("/", O_PATH | O_CLOEXEC);
	for (unsigned int i = 3; i < n; i++)
		assert_false(vdpa_fd_can_be_stored(given[i]));
	assert_false(vdpa_fd_can_be_stored(named));
	assert_false(vdpa_fd_can_be_stored(l.ours));
	assert_false(vdpa_fd_can_be_stored(-1));
	for (unsigned int i = 0; i < n; i++)
		close(given[i]);
	close(named);
	close(l.peer);
	close(l.ours);
}

static void
what_may_wait_is_closed_by_a_thread_that_ends(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(vdpa_close_foreign(account, pair[0]), 0);
	assert_int_equal(vdpa_close_foreign(account, pair[1]), 0);
	assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
	assert_int_equal(vdpa_close_foreign(account, pair[0]), 0);
	assert_int_equal(vdpa_close_foreign(account, pair[1]), 0);
	assert_int_equal(
		vdpa_close_foreign(account, open("/proc/self/status", O_RDONLY | O_CLOEXEC)), 0);
	assert_int_equal(vdpa_close_foreign(account, open("/", O_PATH | O_CLOEXEC)), 0);
	assert_true(comes_true(is_empty, account));
	assert_true(comes_true(fds_are, &fds));
	assert_true(comes_true(threads_are, &threads));
	vdpa_fd_account_destroy(account);
}

/* Of a store, and charged to nobody. */
static void
stray_descriptor_is_not_waited_for(void **state)
{
	unsigned int threads = count_threads(), fds = count_fds();
	struct lingering l = lingering();

	(void)state;
	vdpa_close_stray(eventfd(0, EFD_CLOEXEC));
	assert_int_equal(count_threads(), threads);
	vdpa_close_stray(l.ours);
	assert_int_equal(count_threads(), threads + 1);
	close(l.peer);
	assert_true(comes_true(threads_are, &threads));
	assert_true(comes_true(fds_are, &fds));
}

/* As many as one sender may have waiting, all with a close that does not return. */
static void
one_sender_fills_its_own_account_only(void **state)
{
	struct vdpa_fd_account *bad = vdpa_fd_account_create(), *good = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	struct lingering l[VDPA_FD_WAITING_MAX + 1];

	for (unsigned int i = 0; i <= VDPA_FD_WAITING_MAX; i++)
		l[i] = lingering();
	for (unsigned int i = 0; i < VDPA_FD_WAITING_MAX; i++) {
		assert_int_equal(vdpa_close_foreign(bad, l[i].ours), 0);
		assert_false(vdpa_fd_account_full(bad));
	}
	/* One more is taken as well, and is the last. */
	assert_int_equal(vdpa_close_foreign(bad, l[VDPA_FD_WAITING_MAX].ours), -EBUSY);
	assert_true(vdpa_fd_account_full(bad));
	assert_int_equal(vdpa_fd_account_waiting(bad), VDPA_FD_WAITING_MAX + 1);

	for (unsigned int i = 0; i < 3 * VDPA_FD_WAITING_MAX; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

		assert_int_equal(vdpa_close_foreign(good, fd), 0);
		assert_true(comes_true(is_empty, good));
		assert_false(is_open(fd));
	}
	assert_true(vdpa_fd_account_full(bad));
	threads++;
	assert_true(comes_true(threads_are, &threads));
	/* The peers go, and with them what waited for them. */
	for (unsigned int i = 0; i <= VDPA_FD_WAITING_MAX; i++)
		close(l[i].peer);
	assert_true(comes_true(is_empty, bad));
	assert_false(vdpa_fd_account_full(bad));
	threads--;
	assert_true(comes_true(threads_are, &threads));
	assert_int_equal(count_fds(), fds);
	vdpa_fd_account_destroy(good);
	vdpa_fd_account_destroy(bad);
}

/* 3,000 messages of 8 descriptors each; who reads them obeys, and none is left. */
static void
flood_leaves_nothing_behind(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds(), most = 0, busy = 0;

	for (unsigned int i = 0; i < 3000; i++) {
		int rc = 0;

		for (unsigned int j = 0; j < 8; j++) {
			int fd = j % 4 == 0   ? open("/dev/null", O_RDWR | O_CLOEXEC)
				 : j % 4 == 1 ? open("/proc/self/status", O_RDONLY | O_CLOEXEC)
					      : socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

			assert_true(fd >= 0);
			rc |= vdpa_close_foreign(account, fd);
		}
		if (vdpa_fd_account_waiting(account) > most)
			most = vdpa_fd_account_waiting(account);
		if (rc == 0)
			continue;
		busy++;
		assert_true(comes_true(has_room, account));
	}
	assert_true(most <= VDPA_FD_WAITING_MAX + 8);
	assert_true(comes_true(is_empty, account));
	assert_true(comes_true(threads_are, &threads));
	assert_int_equal(count_fds(), fds);
	print_message("%u waited at most, %u messages met a full account\n", most, busy);
	vdpa_fd_account_destroy(account);
}

static void
connection_with_what_nobody_has_read_is_closed_apart(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	struct lingering l = lingering();
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	send_fd(pair[1], l.ours);
	close(l.ours);
	assert_int_equal(vdpa_close_connection(account, pair[0]), 0);
	assert_int_equal(vdpa_fd_account_waiting(account), 1);
	/* It has ended for its peer all the same. */
	assert_int_equal(send(pair[1], "", 1, MSG_NOSIGNAL), -1);
	close(l.peer);
	assert_true(comes_true(is_empty, account));
	close(pair[1]);

	/* One that is read to its end does not need that. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	no_threads = true;
	assert_int_equal(vdpa_close_connection(account, pair[0]), 0);
	no_threads = false;
	assert_false(is_open(pair[0]));
	close(pair[1]);
	assert_true(comes_true(threads_are, &threads));
	assert_int_equal(count_fds(), fds);
	vdpa_fd_account_destroy(account);
}

static void
account_may_end_before_its_descriptors(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create();
	unsigned int threads = count_threads(), fds = count_fds();
	struct lingering a = lingering(), b = lingering();

	assert_int_equal(vdpa_close_foreign(account, a.ours), 0);
	assert_int_equal(vdpa_close_foreign(account, b.ours), 0);
	vdpa_fd_account_destroy(account);
	close(a.peer);
	close(b.peer);
	assert_true(comes_true(threads_are, &threads));
	assert_true(comes_true(fds_are, &fds));
}

/* Nobody closes then, so nobody may bring more; the next use of any account tries again. */
static void
without_a_thread_an_account_is_full(void **state)
{
	struct vdpa_fd_account *account = vdpa_fd_account_create(),
			       *other = vdpa_fd_account_create();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	no_threads = true;
	assert_int_equal(vdpa_close_foreign(account, fd), -EBUSY);
	assert_true(vdpa_fd_account_full(account));
	assert_true(is_open(fd));
	assert_false(vdpa_fd_account_full(other));
	no_threads = false;
	(void)vdpa_fd_account_full(other);
	assert_true(comes_true(is_empty, account));
	assert_false(is_open(fd));
	assert_false(vdpa_fd_account_full(account));
	vdpa_fd_account_destroy(other);
	vdpa_fd_account_destroy(account);
}

static void
an_eventfd_is_told_from_others(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC), memory = memfd_create("anon_inode:[eventfd]", 0);

	assert_true(vdpa_fd_is_eventfd(event));
	assert_false(vdpa_fd_is_eventfd(memory));
	assert_false(vdpa_fd_is_eventfd(-1));
	close(event);
	close(memory);
}

/* A title is dear, and a start asks for two eventfds a queue. */
static void
an_eventfd_is_known_without_its_title(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), memory = memfd_create("memory", 0);
	eventfd_t count;

	assert_false(vdpa_fd_is_eventfd(memory));
	titles_read = 0;
	for (unsigned int i = 0; i < 100; i++)
		assert_true(vdpa_fd_is_eventfd(event));
	assert_int_equal(titles_read, 0);
	/* And it was not signalled. */
	assert_int_equal(eventfd_read(event, &count), -1);
	assert_int_equal(errno, EAGAIN);
	close(event);
	close(memory);
}

/* The parent's descriptors are others, by the same numbers. */
static void
a_forked_process_looks_at_its_own(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC), memory = memfd_create("memory", MFD_CLOEXEC), status;
	pid_t pid;

	assert_true(vdpa_fd_is_eventfd(event));
	assert_false(vdpa_fd_is_eventfd(memory));
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int other = dup(memory);

		if (dup2(event, memory) < 0 || dup2(other, event) < 0)
			_exit(2);
		_exit(vdpa_fd_is_eventfd(memory) && !vdpa_fd_is_eventfd(event) ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(vdpa_fd_is_eventfd(event));
	close(event);
	close(memory);
}

/* One is held, whoever asks, and no program that is started gets it. */
static void
one_descriptor_is_held(void **state)
{
	int event = eventfd(0, EFD_CLOEXEC), held = -1;
	unsigned int before;
	char link[64], path[64];

	assert_true(vdpa_fd_is_eventfd(event));
	before = count_fds();
	for (unsigned int i = 0; i < 100; i++)
		assert_true(vdpa_fd_is_eventfd(event));
	assert_int_equal(count_fds(), before);
	for (int fd = 3; fd < 256; fd++) {
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, link, sizeof(link) - 1);
		link[n > 0 ? n : 0] = '\0';
		if (strncmp(link, "/proc/", 6) == 0 && strcmp(link + strlen(link) - 3, "/fd") == 0)
			held = fd;
	}
	assert_true(held >= 0);
	assert_int_equal(fcntl(held, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(event);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_cannot_wait_is_closed_at_once),
		cmocka_unit_test(large_memory_is_closed_apart),
		cmocka_unit_test(memory_is_freed_beside_what_waits),
		cmocka_unit_test(what_may_wait_is_not_stored),
		cmocka_unit_test(what_may_wait_is_closed_by_a_thread_that_ends),
		cmocka_unit_test(stray_descriptor_is_not_waited_for),
		cmocka_unit_test(one_sender_fills_its_own_account_only),
		cmocka_unit_test(flood_leaves_nothing_behind),
		cmocka_unit_test(connection_with_what_nobody_has_read_is_closed_apart),
		cmocka_unit_test(account_may_end_before_its_descriptors),
		cmocka_unit_test(without_a_thread_an_account_is_full),
		cmocka_unit_test(an_eventfd_is_told_from_others),
		cmocka_unit_test(an_eventfd_is_known_without_its_title),
		cmocka_unit_test(a_forked_process_looks_at_its_own),
		cmocka_unit_test(one_descriptor_is_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
