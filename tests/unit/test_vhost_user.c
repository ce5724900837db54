/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The device behind a vhost-user connection, without the connection. */

#include <dirent.h>
#include <errno.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "control_group.h"
#include "device_priv.h"
#include "fake_device.h"
#include "page_holders.h"
#include "test_util.h"
#include "vhost_user_priv.h"

#define MEM_SIZE 0x100000
#define UADDR	 UINT64_C(0x7f0000000000)
#define V1	 (UINT64_C(1) << VIRTIO_F_VERSION_1)

struct fixture {
	struct vdpa_dma_domain *dma; /* of hardware */
	struct fake_device *fake;
	struct vhu_device dev;
	struct vhu_session *s;
	unsigned int freed;
};

static void
make_session(struct fixture *f)
{
	struct vdpa_mem_region_spec spec = {.iova = 0x10000, .uaddr = UADDR, .size = MEM_SIZE};
	struct vdpa_peer peer;

	vdpa_peer_self(&peer);
	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->dev = (struct vhu_device){.vdev = &f->fake->vdev, .nvqs = FAKE_VQS, .features = V1};
	f->dev.fds = vdpa_fd_account_create();
	pthread_mutex_init(&f->dev.lock, NULL);
	f->s = vdpa_vhu_session_new(&f->dev, &peer);
	assert_non_null(f->s);
	assert_int_equal(vdpa_consumer_set_features(f->s->consumer,
						    V1 | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES)),
			 0);
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_consumer_set_memory(f->s->consumer, &spec, 1), 0);
	close(spec.fd);
}

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

/* A device that takes its queues before DRIVER_OK only. */
static int
setup(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("fake0", f->dma, false);
	make_session(f);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_vhu_session_free(f->s);
	vdpa_fd_account_destroy(f->dev.fds);
	vdpa_unregister_device(&f->fake->vdev);
	vdpa_put_device(&f->fake->vdev);
	assert_int_equal(f->freed, 1);
	pthread_mutex_destroy(&f->dev.lock);
	if (f->dma != NULL)
		vdpa_dma_domain_destroy(f->dma);
	free(f);
	return 0;
}

static void
set_up_ring(struct fixture *f, uint16_t idx)
{
	uint64_t at = UADDR + idx * 0x4000;
	const struct vdpa_consumer_vq_addr addr = {
		.desc = at, .driver = at + 0x1000, .device = at + 0x2000, .log = UINT64_MAX};
	struct vdpa_consumer *c = f->s->consumer;

	assert_int_equal(vdpa_consumer_set_vq_num(c, idx, 64), 0);
	assert_int_equal(vdpa_consumer_set_vq_addr(c, idx, &addr), 0);
	assert_int_equal(vdpa_consumer_set_vq_call(c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_consumer_set_vq_kick(c, idx, eventfd(0, EFD_NONBLOCK)), 0);
	vdpa_vhu_session_advance(f->s);
}

/* A line of the log names the device and the queue once. */
static void
what_a_line_begins_with_is_not_said_again(void **state)
{
	struct fixture *f = *state;

	vdpa_error(EIO, "fake0: queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, 0), "queue 1: it is stuck");
	assert_string_equal(vdpa_vhu_why(&f->dev, -1), "queue 1: it is stuck");
	vdpa_error(EIO, "fake01: queue 1");
	assert_string_equal(vdpa_vhu_why(&f->dev, 1), "fake01: queue 1");
}

static void
enable_ring(struct fixture *f, uint16_t idx)
{
	assert_int_equal(vdpa_consumer_enable_vq(f->s->consumer, idx, true), 0);
	vdpa_vhu_session_advance(f->s);
}

#define DOORBELL_FEATURES                                                                          \
	(RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |                                            \
	 RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD) |                                        \
	 RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER))

/* A back-end channel; its other end is returned. */
static int
open_channel(struct fixture *f, uint64_t protocol)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	f->s->protocol |= protocol;
	f->s->backend_fd = pair[0];
	assert_int_equal(vdpa_peer_of_socket(pair[0], &f->s->channel), 0);
	f->dev.session = f->s;
	return pair[1];
}

/* The next message, of a doorbell; -1 when there is none. fd receives what came with it, or -1. */
static int
next_doorbell(int channel, struct vhu_vring_area *area, int *fd)
{
	struct vhu_msg msg;
	struct iovec iov = {.iov_base = &msg, .iov_len = VHU_HDR_SIZE + sizeof(*area)};
	char control[CMSG_SPACE(sizeof(int))];
	struct msghdr hdr = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(channel, &hdr, 0);

	*fd = -1;
	if (n < 0)
		return -1;
	assert_int_equal(n, iov.iov_len);
	assert_int_equal(msg.request, VHU_BACKEND_VRING_HOST_NOTIFIER_MSG);
	assert_int_equal(msg.flags, VHU_FLAGS_VERSION);
	assert_int_equal(msg.size, sizeof(*area));
	*area = msg.payload.area;
	if (CMSG_FIRSTHDR(&hdr) != NULL)
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&hdr)), sizeof(*fd));
	return 0;
}

static void
start_with_doorbells(struct fixture *f, uint16_t n)
{
	f->fake->doorbell.fd = memfd_create("doorbell", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->fake->doorbell.fd, 0x10000), 0);
	f->fake->doorbell.offset = 0x3000;
	f->fake->doorbell.size = 0x1000;
	for (uint16_t i = 0; i < n; i++)
		vdpa_consumer_announce_vq(f->s->consumer, i);
	for (uint16_t i = 0; i < n; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	assert_true(vdpa_consumer_is_running(f->s->consumer));
}

static void
a_queue_that_starts_gives_its_doorbell_and_takes_it_back(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;
	uint32_t base;
	uint16_t *page;

	start_with_doorbells(f, 2);
	for (uint16_t i = 0; i < 2; i++) {
		assert_int_equal(next_doorbell(channel, &area, &fd), 0);
		assert_int_equal(area.u64, i);
		assert_int_equal(area.size, 0x1000);
		assert_int_equal(area.offset, 0x3000 + i * 0x1000);
		/* The very page of the device. */
		page = mmap(NULL, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			    (off_t)area.offset);
		assert_ptr_not_equal(page, MAP_FAILED);
		*page = (uint16_t)(0xd000 + i);
		munmap(page, area.size);
		close(fd);
		assert_int_equal(pread(f->fake->doorbell.fd, &base, 2, (off_t)area.offset), 2);
		assert_int_equal((uint16_t)base, 0xd000 + i);
	}
	/* Said once. */
	vdpa_vhu_session_advance(f->s);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	vdpa_vhu_take_doorbell(f->s, 1);
	vdpa_consumer_get_vq_base(f->s->consumer, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, 1 | VHU_FILE_NOFD);
	assert_int_equal(fd, -1);
	vdpa_vhu_take_doorbell(f->s, 0);
	vdpa_consumer_reset(f->s->consumer);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, 0 | VHU_FILE_NOFD);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	/* And again. */
	for (uint16_t i = 0; i < 2; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	close(fd);
	close(f->fake->doorbell.fd);
	close(channel);
}

static void
the_doorbells_of_a_device_that_fails_are_taken_back(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;

	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	close(fd);
	vdpa_vhu_take_doorbells(&f->dev);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, VHU_FILE_NOFD);
	close(f->fake->doorbell.fd);
	close(channel);
}

static void
a_doorbell_that_is_not_one_page_is_not_given(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;

	f->fake->doorbell.size = 4;
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(vdpa_consumer_is_running(f->s->consumer));
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	close(channel);
}

static void
no_doorbell_is_given_that_was_not_negotiated(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, RTE_BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |
					      RTE_BIT64(VHOST_USER_PROTOCOL_F_HOST_NOTIFIER));
	int fd;

	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	close(f->fake->doorbell.fd);
	close(channel);
}

/* A page with the whole device is noted, and goes to whose guest it is and to nobody else. */
static void
the_page_of_a_whole_device_goes_to_the_user_who_is_connected(void **state)
{
	struct fixture *f = *state;
	struct vhu_vring_area area;
	int channel = open_channel(f, DOORBELL_FEATURES), fd;
	struct vdpa_page_holders held;

	f->fake->doorbell.whole_device = true;
	f->s->channel.uid++;
	start_with_doorbells(f, 1);
	assert_int_equal(next_doorbell(channel, &area, &fd), -1);
	assert_false(vdpa_page_holders_look(vdpa_dma_page_holders(f->dma)).any);

	f->s->channel.uid--;
	vdpa_vhu_take_doorbell(f->s, 0);
	vdpa_vhu_give_doorbells(f->s);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_true(fd >= 0);
	close(fd);
	held = vdpa_page_holders_look(vdpa_dma_page_holders(f->dma));
	assert_true(held.any);
	assert_int_equal(held.first.uid, geteuid());
	assert_int_equal(held.first.pid, getpid());
	close(f->fake->doorbell.fd);
	close(channel);
}

/* What does not fit into the channel is lost; nobody waits. */
static void
a_front_end_that_does_not_read_its_channel_holds_up_nobody(void **state)
{
	struct fixture *f = *state;
	int channel = open_channel(f, DOORBELL_FEATURES);

	start_with_doorbells(f, 1);
	for (unsigned int i = 0; i < 2000; i++) {
		vdpa_vhu_take_doorbell(f->s, 0);
		vdpa_consumer_get_vq_base(f->s->consumer, 0);
		set_up_ring(f, 0);
		assert_true(vdpa_consumer_is_running(f->s->consumer));
	}
	close(f->fake->doorbell.fd);
	close(channel);
}

#define TEST(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)

static int
setup_logging(void **state)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_logging_new("fake0", f->dma);
	make_session(f);
	f->s->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_LOG_SHMFD);
	*state = f;
	return 0;
}

static enum vhu_verdict
set_log_base(struct fixture *f, uint64_t offset)
{
	struct vhu_msg msg = {.request = VHU_SET_LOG_BASE,
			      .flags = VHU_FLAGS_VERSION,
			      .size = sizeof(msg.payload.log),
			      .payload.log = {.mmap_size = 4096, .mmap_offset = offset}};
	struct vhu_received req = {.s = f->s, .msg = &msg, .nfds = 1, .reply_fd = -1};

	req.fds[0] = memfd_create("log", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(req.fds[0], 0x10000), 0);
	return vdpa_vhu_handle(&req);
}

/* Of its files, the descriptors that are open: others may still be closing a test's before. */
static unsigned int
count_logs(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
		char target[64] = "";

		if (readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1) > 0)
			n += strncmp(target, "/memfd:log", strlen("/memfd:log")) == 0;
	}
	closedir(dir);
	return n;
}

/* The driver can map the file by DMA, as long as it is the log. */
static void
a_log_comes_with_its_file(void **state)
{
	struct fixture *f = *state;
	struct vdpa_dma_log map = {.size = 0};

	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_int_equal(set_log_base(f, 0x2000), VHU_VERDICT_REPLY);
	assert_int_equal(vdpa_consumer_set_features(f->s->consumer,
						    V1 | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES) |
							    RTE_BIT64(VHOST_F_LOG_ALL)),
			 0);
	for (unsigned int i = 0; i < 2; i++) {
		assert_non_null(f->fake->log);
		assert_int_equal(f->fake->log->offset, 0x2000 + i * 0x3000);
		assert_int_equal(lseek(f->fake->log->fd, 0, SEEK_END), 0x10000);
		assert_int_equal(vdpa_dma_map_log(f->dma, f->fake->log, NULL, &map), 0);
		vdpa_dma_unmap_log(f->dma, &map);
		/* The one before goes with its file. */
		assert_int_equal(count_logs(), 1);
		assert_int_equal(set_log_base(f, 0x5000), VHU_VERDICT_REPLY);
	}
	/* One that is refused is not kept. */
	f->fake->fail_log_start = true;
	assert_int_equal(set_log_base(f, 0x1000), VHU_VERDICT_CLOSE);
	assert_int_equal(count_logs(), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_a_line_begins_with_is_not_said_again, setup),
		TEST(a_queue_that_starts_gives_its_doorbell_and_takes_it_back, setup),
		TEST(the_doorbells_of_a_device_that_fails_are_taken_back, setup),
		TEST(a_doorbell_that_is_not_one_page_is_not_given, setup),
		TEST(no_doorbell_is_given_that_was_not_negotiated, setup),
		TEST(the_page_of_a_whole_device_goes_to_the_user_who_is_connected, setup),
		TEST(a_front_end_that_does_not_read_its_channel_holds_up_nobody, setup),
		TEST(a_log_comes_with_its_file, setup_logging),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
