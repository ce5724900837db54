/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The wire of a connection that outlives the process: which descriptors of a peer reach the store,
 * and what the next process gets for those that do not. The store is played by the test.
 */

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
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
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cmocka.h>

#include "kept_wire.h"
#include "restart.h"
#include "test_util.h"
#include "vdpa_error.h"

#define PLACES 16
#define FDS    4
#define LEN    5

static struct {
	char what[PLACES][64];
	int fd[PLACES];
	unsigned int n;
} store;

int __wrap_vdpa_restart_put(const char *device, const char *what, int fd);
void __wrap_vdpa_restart_del(const char *device, const char *what);
int __wrap_vdpa_restart_take(const char *device, const char *what);

int
__wrap_vdpa_restart_put(const char *device, const char *what, int fd)
{
	assert_string_equal(device, "v0");
	assert_true(store.n < PLACES);
	snprintf(store.what[store.n], sizeof(store.what[0]), "%s", what);
	store.fd[store.n++] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return 0;
}

void
__wrap_vdpa_restart_del(const char *device, const char *what)
{
	(void)device;
	(void)what;
}

int
__wrap_vdpa_restart_take(const char *device, const char *what)
{
	(void)device;
	for (unsigned int i = 0; i < store.n; i++)
		if (strcmp(store.what[i], what) == 0)
			return fcntl(store.fd[i], F_DUPFD_CLOEXEC, 0);
	return vdpa_error(ENOENT, "nothing is left as %s", what);
}

static void
send_fds(int to, const int *fds, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FDS * sizeof(int))];
	} control = {.buf = {0}};
	char bytes[LEN] = "byte";
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = CMSG_SPACE(n * sizeof(int))};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(n * sizeof(int));
	memcpy(CMSG_DATA(c), fds, n * sizeof(int));
	assert_int_equal(sendmsg(to, &msg, 0), sizeof(bytes));
}

/* Look at a message with n descriptors and take it, as a process does that is killed behind it. */
static void
take_message(struct vdpa_wire *w, const int *sent, unsigned int n)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(FDS * sizeof(int))];
	} control;
	char bytes[64];
	struct iovec iov = {.iov_base = bytes, .iov_len = sizeof(bytes)};
	struct msghdr hdr = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control.buf)};
	struct vdpa_wire_fds fds = {.n = 0};
	int pair[2], rc, seen[FDS];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	send_fds(pair[0], sent, n);
	assert_int_equal(vdpa_wire_look(w, pair[1], &hdr, &fds, FDS, &rc), LEN);
	assert_int_equal(rc, 0);
	assert_int_equal(vdpa_wire_count_fds(&hdr), n);
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&hdr); c != NULL; c = CMSG_NXTHDR(&hdr, c)) {
		memcpy(seen, CMSG_DATA(c), n * sizeof(int));
		for (unsigned int i = 0; i < n; i++)
			close(seen[i]);
	}
	assert_int_equal(vdpa_wire_receive(w, pair[1], LEN, n, 0, 0, &fds), 1);
	free(fds.live);
	close(pair[0]);
	close(pair[1]);
}

struct taken {
	int fd[FDS];
	unsigned int n;
};

static int
take(void *arg, uint64_t message, vdpa_wire_id id, int fd)
{
	struct taken *t = arg;

	assert_int_equal(message, 0);
	assert_int_equal(id, t->n + 1);
	assert_true(t->n < FDS);
	t->fd[t->n++] = fd;
	return 0;
}

static bool
is_same(int a, int b)
{
	struct stat x, y;

	assert_int_equal(fstat(a, &x), 0);
	assert_int_equal(fstat(b, &y), 0);
	return x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static void
make_wire(struct vdpa_wire *w)
{
	*w = (struct vdpa_wire){.device = "v0", .ids = 16, .input = 1024};
	assert_int_equal(vdpa_wire_make(w), 0);
	vdpa_wire_begin(w);
	assert_int_equal(store.n, 1); /* its file */
}

static int
empty_store(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < store.n; i++)
		close(store.fd[i]);
	store.n = 0;
	return 0;
}

static void
what_may_make_the_store_wait_does_not_reach_it(void **state)
{
	int sent[FDS], pipes[2];
	struct vdpa_wire w;

	(void)state;
	make_wire(&w);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	sent[0] = pipes[0];
	sent[1] = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	sent[2] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	sent[3] = open("/", O_PATH | O_CLOEXEC);
	take_message(&w, sent, 4);
	assert_int_equal(store.n, 1);
	for (unsigned int i = 0; i < 4; i++)
		close(sent[i]);
	close(pipes[1]);
	vdpa_wire_unmap(&w);
}

/* The message is carried out by the next process, which refuses it: memory that is no memory file,
 * beside one that is. */
static void
the_next_process_refuses_what_was_not_stored(void **state)
{
	int sent[3] = {memfd_create("test", MFD_CLOEXEC),
		       open("/proc/self/status", O_RDONLY | O_CLOEXEC), eventfd(0, EFD_CLOEXEC)};
	struct vdpa_wire_fds fds = {.n = 0};
	struct taken taken = {.n = 0};
	struct vdpa_wire w;
	uint64_t received;
	uint8_t bytes[64];
	struct stat st;

	(void)state;
	make_wire(&w);
	take_message(&w, sent, 3);
	assert_int_equal(store.n, 3);
	vdpa_wire_unmap(&w);

	assert_int_equal(vdpa_wire_take(&w), 0);
	assert_true(vdpa_wire_is_of(&w, 1));
	assert_int_equal(vdpa_wire_resume(&w, 0, bytes, sizeof(bytes), &received), LEN);
	assert_int_equal(vdpa_wire_resume_fds(&w, 0, received, FDS, &fds, take, &taken), 0);
	assert_int_equal(taken.n, 3);
	assert_true(is_same(taken.fd[0], sent[0]));
	assert_int_equal(fstat(taken.fd[1], &st), 0);
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
	assert_true(is_same(taken.fd[2], sent[2]));
	/* It is in no store. */
	assert_int_equal(fds.n, 2);
	free(fds.live);
	for (unsigned int i = 0; i < 3; i++) {
		close(taken.fd[i]);
		close(sent[i]);
	}
	vdpa_wire_unmap(&w);
}

/* Where all of them were stored, one that is gone is no other. */
static void
what_was_stored_and_is_gone_ends_the_connection(void **state)
{
	int sent[1] = {memfd_create("test", MFD_CLOEXEC)};
	struct vdpa_wire_fds fds = {.n = 0};
	struct taken taken = {.n = 0};
	struct vdpa_wire w;

	(void)state;
	make_wire(&w);
	take_message(&w, sent, 1);
	assert_int_equal(store.n, 2);
	close(store.fd[--store.n]);
	assert_int_equal(vdpa_wire_resume_fds(&w, 0, LEN, FDS, &fds, take, &taken), -ENOENT);
	assert_int_equal(taken.n, 0);
	close(sent[0]);
	vdpa_wire_unmap(&w);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(what_may_make_the_store_wait_does_not_reach_it,
					  empty_store),
		cmocka_unit_test_teardown(the_next_process_refuses_what_was_not_stored,
					  empty_store),
		cmocka_unit_test_teardown(what_was_stored_and_is_gone_ends_the_connection,
					  empty_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
