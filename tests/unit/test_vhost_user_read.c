/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How bytes and file descriptors of a vhost-user connection become messages, however they were
 * sent: everything lies in the socket before it is read. Reads are counted.
 */

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"
#include "vhost_user_priv.h"

#define TIMEOUT_MS 5000

/* That gave something. */
static unsigned int reads; /* atomic */

ssize_t __real_recvmsg(int fd, struct msghdr *msg, int flags);
ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags);

ssize_t
__wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	ssize_t n = __real_recvmsg(fd, msg, flags);

	if (n > 0)
		__atomic_add_fetch(&reads, 1, __ATOMIC_SEQ_CST);
	return n;
}

/* A device, and a connection that is not served yet. */
struct fixture {
	struct fake_device *fake;
	struct vhu_device dev;
	int fd, other;
	int event, channel[2];
	unsigned int freed, fds;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int pair[2];

	f->fds = count_fds();
	f->fake = fake_device_new("fake0", true);
	f->fake->freed = &f->freed;
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->dev = (struct vhu_device){.vdev = &f->fake->vdev, .nvqs = FAKE_VQS};
	f->dev.protocol = VHU_PROTOCOL(BACKEND_REQ) | VHU_PROTOCOL(REPLY_ACK);
	f->dev.fds = vdpa_fd_account_create();
	pthread_mutex_init(&f->dev.lock, NULL);
	vdpa_vhu_conn_init(&f->dev);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	f->fd = pair[0];
	f->other = pair[1];
	f->event = eventfd(0, EFD_NONBLOCK);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, f->channel), 0);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_vhu_conn_close(&f->dev);
	close(f->fd);
	close(f->event);
	close(f->channel[0]);
	close(f->channel[1]);
	vdpa_fd_account_destroy(f->dev.fds);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	pthread_mutex_destroy(&f->dev.lock);
	/* Sockets are closed by a thread of their own. */
	EVENTUALLY(count_fds() == f->fds);
	free(f);
	return 0;
}

static int
open_connection(void *arg)
{
	struct fixture *f = arg;
	struct vdpa_peer self;

	vdpa_peer_self(&self);
	return vdpa_vhu_conn_open(&f->dev, f->other, &self);
}

/* Now what was sent is read. */
static void
serve(struct fixture *f)
{
	__atomic_store_n(&reads, 0, __ATOMIC_SEQ_CST);
	assert_int_equal(vdpa_event_loop_call(vdpa_event_loop_control(), open_connection, f), 0);
}

static void
send_bytes(const struct fixture *f, const void *bytes, size_t len, const int *fds,
	   unsigned int nfds)
{
	struct iovec iov = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
	union {
		char buf[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control = {.buf = {0}};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};

	if (nfds > 0) {
		struct cmsghdr *cmsg;

		hdr.msg_control = control.buf;
		hdr.msg_controllen = CMSG_LEN(nfds * sizeof(int));
		cmsg = CMSG_FIRSTHDR(&hdr);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(cmsg), fds, nfds * sizeof(int));
	}
	assert_int_equal(sendmsg(f->fd, &hdr, 0), len);
}

/* A message as it is sent: with an eventfd, a socket or nothing. */
struct message {
	uint32_t request, size;
	uint64_t u64;
	enum { NOTHING, EVENT, CHANNEL } with;
};

static struct vhu_msg
bytes_of(const struct message *m)
{
	return (struct vhu_msg){.request = m->request,
				.flags = VHU_FLAGS_VERSION,
				.size = m->size,
				.payload.u64 = m->u64};
}

static const int *
fd_of(const struct fixture *f, const struct message *m)
{
	return m->with == EVENT ? &f->event : m->with == CHANNEL ? &f->channel[1] : NULL;
}

/* The connection lives, and everything before was taken: each of these is answered, in its turn. */
static void
assert_answers(const struct fixture *f, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		struct pollfd in = {.fd = f->fd, .events = POLLIN};
		struct vhu_msg msg;

		assert_int_equal(poll(&in, 1, TIMEOUT_MS), 1);
		assert_int_equal(recv(f->fd, &msg, VHU_HDR_SIZE + 8, MSG_WAITALL),
				 VHU_HDR_SIZE + 8);
		assert_int_equal(msg.request, VHU_GET_FEATURES);
		assert_int_equal(msg.size, 8);
	}
}

#define NONE(request)                                                                              \
	{                                                                                          \
		VHU_##request, 0, 0, NOTHING                                                       \
	}
#define U64(request, v)                                                                            \
	{                                                                                          \
		VHU_##request, 8, v, NOTHING                                                       \
	}
#define WITH_EVENT(request)                                                                        \
	{                                                                                          \
		VHU_##request, 8, 0, EVENT                                                         \
	}

/* Those without payload are read with the beginning of what is next: nothing, bytes, bytes with
 * file descriptors; and they have file descriptors of their own or none. */
static const struct message stream[] = {
	U64(SET_PROTOCOL_FEATURES, VHU_PROTOCOL(BACKEND_REQ) | VHU_PROTOCOL(REPLY_ACK)),
	NONE(SET_OWNER),
	WITH_EVENT(SET_VRING_CALL),
	NONE(SET_OWNER),
	NONE(SET_OWNER),
	{VHU_SET_BACKEND_REQ_FD, 0, 0, CHANNEL},
	NONE(SET_OWNER),
	{VHU_SET_BACKEND_REQ_FD, 8, 0, CHANNEL},
	WITH_EVENT(SET_VRING_CALL),
	WITH_EVENT(SET_VRING_KICK),
	NONE(GET_FEATURES),
	U64(SET_VRING_KICK, VHU_FILE_NOFD),
	WITH_EVENT(SET_VRING_ERR),
	{VHU_SET_BACKEND_REQ_FD, 0, 0, CHANNEL},
	{VHU_SET_BACKEND_REQ_FD, 0, 0, CHANNEL},
	NONE(SET_OWNER),
	NONE(GET_FEATURES),
	WITH_EVENT(SET_VRING_CALL),
	NONE(GET_FEATURES),
};
#define STREAM_ANSWERS 3

static void
messages_that_came_together_are_told_apart(void **state)
{
	struct fixture *f = *state;

	for (size_t i = 0; i < RTE_DIM(stream); i++) {
		const struct vhu_msg msg = bytes_of(&stream[i]);

		send_bytes(f, &msg, VHU_HDR_SIZE + msg.size, fd_of(f, &stream[i]),
			   stream[i].with != NOTHING);
	}
	serve(f);
	assert_answers(f, STREAM_ANSWERS);
}

/* Each byte by itself, and the file descriptor with any one of them. */
static void
a_message_may_come_in_pieces(void **state)
{
	struct fixture *f = *state;

	serve(f);
	for (size_t with = 0; with < VHU_HDR_SIZE + 8; with++) {
		for (size_t i = 0; i < RTE_DIM(stream); i++) {
			const struct vhu_msg msg = bytes_of(&stream[i]);
			size_t len = VHU_HDR_SIZE + msg.size;
			size_t at = RTE_MIN(with, len - 1);

			for (size_t b = 0; b < len; b++)
				send_bytes(f, (const char *)&msg + b, 1, fd_of(f, &stream[i]),
					   b == at && stream[i].with != NOTHING);
		}
		assert_answers(f, STREAM_ANSWERS);
	}
}

/* Two messages in one sendmsg(): the file descriptor is that one's which needs it. */
static void
file_descriptors_of_a_pair_go_to_the_one_that_takes_them(void **state)
{
	static const struct message pairs[][2] = {
		{NONE(SET_OWNER), WITH_EVENT(SET_VRING_CALL)},
		{{VHU_SET_BACKEND_REQ_FD, 0, 0, CHANNEL}, NONE(GET_FEATURES)},
		{{VHU_SET_BACKEND_REQ_FD, 0, 0, CHANNEL}, U64(SET_VRING_KICK, VHU_FILE_NOFD)},
		{WITH_EVENT(SET_VRING_CALL), NONE(GET_FEATURES)},
	};
	struct fixture *f = *state;
	const struct vhu_msg first = bytes_of(&stream[0]);

	send_bytes(f, &first, VHU_HDR_SIZE + first.size, NULL, 0);
	for (size_t i = 0; i < RTE_DIM(pairs); i++) {
		const struct vhu_msg a = bytes_of(&pairs[i][0]), b = bytes_of(&pairs[i][1]);
		const struct message *with = &pairs[i][pairs[i][0].with == NOTHING];
		char both[2 * sizeof(a)];

		memcpy(both, &a, VHU_HDR_SIZE + a.size);
		memcpy(both + VHU_HDR_SIZE + a.size, &b, VHU_HDR_SIZE + b.size);
		send_bytes(f, both, 2 * VHU_HDR_SIZE + a.size + b.size, fd_of(f, with), 1);
	}
	serve(f);
	assert_answers(f, 2);
}

/* A start is such messages: a read takes them up to the first with a file descriptor. */
static void
a_queue_is_set_up_by_two_reads(void **state)
{
	struct fixture *f = *state;
	unsigned int n = 0;

	for (uint64_t i = 0; i < FAKE_VQS; i++) {
		const struct message m[] = {
			U64(SET_VRING_NUM, i | 64ull << 32),   U64(SET_VRING_BASE, i),
			{VHU_SET_VRING_CALL, 8, i, EVENT},     {VHU_SET_VRING_KICK, 8, i, EVENT},
			U64(SET_VRING_ENABLE, i | 1ull << 32), NONE(GET_FEATURES),
		};

		for (size_t j = 0; j < RTE_DIM(m); j++) {
			const struct vhu_msg msg = bytes_of(&m[j]);

			send_bytes(f, &msg, VHU_HDR_SIZE + msg.size, fd_of(f, &m[j]),
				   m[j].with != NOTHING);
			n += m[j].with == EVENT;
		}
	}
	serve(f);
	assert_answers(f, FAKE_VQS);
	usleep(10000);
	/* And one for what is behind the last. */
	assert_int_equal(__atomic_load_n(&reads, __ATOMIC_SEQ_CST), n + 1);
}

/* More than a read has room for, cut anywhere. */
static void
a_long_row_of_messages_is_read_in_parts(void **state)
{
	const struct message m[] = {NONE(GET_FEATURES), U64(SET_VRING_KICK, VHU_FILE_NOFD),
				    WITH_EVENT(SET_VRING_CALL)};
	char bytes[4 * VHU_INPUT_MAX];
	struct fixture *f = *state;
	size_t len = 0;

	for (unsigned int i = 0; i < 80; i++) {
		const struct vhu_msg msg = bytes_of(&m[i % 2]);

		memcpy(bytes + len, &msg, VHU_HDR_SIZE + msg.size);
		len += VHU_HDR_SIZE + msg.size;
	}
	send_bytes(f, bytes, len, NULL, 0);
	for (unsigned int i = 0; i < 40; i++) {
		const struct vhu_msg msg = bytes_of(&m[i % RTE_DIM(m)]);

		send_bytes(f, &msg, VHU_HDR_SIZE + msg.size, fd_of(f, &m[i % RTE_DIM(m)]),
			   m[i % RTE_DIM(m)].with != NOTHING);
	}
	serve(f);
	assert_answers(f, 40 + 14);
	assert_in_range(__atomic_load_n(&reads, __ATOMIC_SEQ_CST), len / VHU_INPUT_MAX,
			len / VHU_INPUT_MAX + 16);
}

/* What came of the message behind the one that ends the connection goes with it. */
static void
file_descriptors_read_ahead_are_closed_with_the_connection(void **state)
{
	const struct message last = {VHU_SET_OWNER, 0, 0, NOTHING};
	const int three[] = {0, 0, 0};
	struct fixture *f = *state;
	struct vhu_msg a = bytes_of(&last), b = {.request = VHU_SET_VRING_CALL};
	struct pollfd in = {.fd = f->fd, .events = POLLIN};
	char c;

	a.flags = 0; /* no version */
	send_bytes(f, &a, VHU_HDR_SIZE, NULL, 0);
	send_bytes(f, &b, VHU_HDR_SIZE, three, 3);
	serve(f);
	assert_int_equal(poll(&in, 1, TIMEOUT_MS), 1);
	/* Hung up, or reset where bytes were left. */
	assert_true(recv(f->fd, &c, 1, 0) <= 0);
}

static int
warm_up(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	/* The library keeps file descriptors for these from the first use on. */
	vdpa_eventfd_signal(fd);
	assert_false(vdpa_fd_is_eventfd(-1));
	close(fd);
	return group_setup(state);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(messages_that_came_together_are_told_apart),
		TEST(a_message_may_come_in_pieces),
		TEST(file_descriptors_of_a_pair_go_to_the_one_that_takes_them),
		TEST(a_queue_is_set_up_by_two_reads),
		TEST(a_long_row_of_messages_is_read_in_parts),
		TEST(file_descriptors_read_ahead_are_closed_with_the_connection),
	};

	return cmocka_run_group_tests(tests, warm_up, group_teardown);
}
