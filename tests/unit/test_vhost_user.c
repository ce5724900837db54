/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The device behind a vhost-user connection, without the connection. */

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
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>

#include "device_priv.h"
#include "event_loop_priv.h"
#include "vdpa_compat.h"
#include "fake_device.h"
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

	assert_non_null(f->fake);
	f->fake->freed = &f->freed;
	assert_int_equal(vdpa_register_device(&f->fake->vdev), 0);
	f->dev = (struct vhu_device){.vdev = &f->fake->vdev, .nvqs = FAKE_VQS, .features = V1};
	f->dev.fds = vdpa_fd_account_create();
	pthread_mutex_init(&f->dev.lock, NULL);
	f->s = vdpa_vhu_session_new(&f->dev, 0);
	assert_non_null(f->s);
	f->s->features = V1 | RTE_BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
	f->s->features_set = true;
	spec.fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(spec.fd, MEM_SIZE), 0);
	assert_int_equal(vdpa_vhu_session_set_memory(f->s, &spec, 1), 0);
	close(spec.fd);
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fake = fake_device_new("fake0", true);
	f->fake->backend_features = RTE_BIT64(VDPA_BACKEND_F_ENABLE_AFTER_DRIVER_OK);
	make_session(f);
	f->s->features = V1;
	*state = f;
	return 0;
}

static int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

/* A device that takes its queues before DRIVER_OK only. */
static int
setup_hardware(void **state, bool enables)
{
	static const struct vdpa_dma_ops ops = {.map = map_nothing, .unmap = map_nothing};
	struct vdpa_dma_limits limits = {.page_size = 4096};
	struct fixture *f = calloc(1, sizeof(*f));

	assert_int_equal(vdpa_dma_domain_create("iommu", &ops, NULL, &limits, &f->dma), 0);
	f->fake = fake_hardware_new("fake0", f->dma, enables);
	make_session(f);
	*state = f;
	return 0;
}

static int
setup_block(void **state)
{
	return setup_hardware(state, false);
}

static int
setup_net(void **state)
{
	int rc = setup_hardware(state, true);

	((struct fixture *)*state)->dev.is_net = true;
	return rc;
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
make_ring(struct vhu_session *s, uint16_t idx, uint64_t uaddr)
{
	struct vhu_ring *r = &s->rings[idx];

	r->num = 64;
	r->desc_user = uaddr;
	r->driver_user = uaddr + 0x1000;
	r->device_user = uaddr + 0x2000;
	r->addr_set = true;
	assert_int_equal(vdpa_vhu_ring_set_call(s, idx, eventfd(0, EFD_NONBLOCK)), 0);
	assert_int_equal(vdpa_vhu_ring_set_kick(s, idx, eventfd(0, EFD_NONBLOCK)), 0);
}

static void
wait_for_sem(struct vdpa_task *task)
{
	sem_wait(task->arg);
}

static void
a_failed_start_takes_the_eventfds_from_the_queues_that_run(void **state)
{
	struct fixture *f = *state;
	struct vdpa_task task;
	struct fake_vq vq;
	sem_t sem;

	make_ring(f->s, 0, UADDR);
	vdpa_vhu_session_advance(f->s);
	assert_true(f->s->running);
	assert_int_equal(f->fake->vq[0].call_fd, f->s->rings[0].call_fd);

	/* What the core is to do about it comes late. */
	sem_init(&sem, 0, 0);
	task = (struct vdpa_task){.run = wait_for_sem, .arg = &sem};
	vdpa_task_post(vdpa_event_loop_failures(), &task);
	make_ring(f->s, 1, UADDR + MEM_SIZE);
	vdpa_vhu_session_advance(f->s);
	vq = f->fake->vq[0];
	sem_post(&sem);
	vdpa_task_cancel(&task);
	sem_destroy(&sem);
	assert_true(f->s->failed);
	/* The front end may close them now, and their numbers be given to other files. */
	assert_false(vq.ready);
	assert_int_equal(vq.kick_fd, -1);
	assert_int_equal(vq.call_fd, -1);
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
a_failed_start_names_queue_and_cause_once(void **state)
{
	struct fixture *f = *state;
	char why[256];

	f->fake->tells = true;
	f->fake->calls = 0;
	f->fake->fail_at = 6;
	make_ring(f->s, 0, UADDR);
	vdpa_vhu_session_advance(f->s);
	assert_true(f->s->failed);
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_string_equal(why, "start: queue 0: the fan has stopped (EIO)");
}

/* The front end has these queues: it has sent a call eventfd for each. */
static void
tell_queues(struct fixture *f, uint16_t n)
{
	for (uint16_t i = 0; i < n; i++)
		vdpa_vhu_ring_note(f->s, i);
}

static void
set_up_ring(struct fixture *f, uint16_t idx)
{
	make_ring(f->s, idx, UADDR + idx * 0x4000);
	vdpa_vhu_session_advance(f->s);
}

static void
enable_ring(struct fixture *f, uint16_t idx)
{
	assert_int_equal(vdpa_vhu_ring_enable(f->s, idx, true), 0);
	vdpa_vhu_session_advance(f->s);
}

static unsigned int
ready_queues(const struct fixture *f)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < FAKE_VQS; i++)
		n += f->fake->vq[i].ready;
	return n;
}

/* QEMU with two pairs, of which the guest uses one at first: DRIVER_OK comes last. */
static void
driver_ok_starts_a_device_with_all_its_queues(void **state)
{
	struct fixture *f = *state;

	f->s->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS);
	tell_queues(f, 4);
	enable_ring(f, 0);
	enable_ring(f, 1);
	for (uint16_t i = 0; i < 4; i++)
		set_up_ring(f, i);
	assert_false(f->s->running);
	f->s->status_used = true;
	f->s->status = 0xf;
	vdpa_vhu_session_advance(f->s);
	assert_true(f->s->running);
	assert_int_equal(ready_queues(f), 4);
	assert_true(!f->fake->vq[1].disabled && f->fake->vq[2].disabled);
	/* MQ later: no restart. */
	f->fake->resets = 0;
	enable_ring(f, 2);
	enable_ring(f, 3);
	assert_false(f->fake->vq[2].disabled || f->fake->vq[3].disabled);
	assert_int_equal(f->fake->resets, 0);
}

/* virtio-user without the status: sets up all receive queues, then all others, enables a pair. */
static void
without_a_status_all_known_queues_start_together(void **state)
{
	struct fixture *f = *state;

	f->s->features |= RTE_BIT64(VIRTIO_NET_F_MQ);
	tell_queues(f, 4);
	set_up_ring(f, 0);
	set_up_ring(f, 2);
	set_up_ring(f, 1);
	/* One that enables as it goes must not start it early either. */
	enable_ring(f, 0);
	assert_false(f->s->running);
	set_up_ring(f, 3);
	assert_true(f->s->running);
	assert_int_equal(ready_queues(f), 4);
}

static void
without_mq_a_net_device_starts_with_one_pair(void **state)
{
	struct fixture *f = *state;

	tell_queues(f, 4);
	enable_ring(f, 0);
	enable_ring(f, 1);
	set_up_ring(f, 0);
	assert_false(f->s->running);
	set_up_ring(f, 1);
	assert_true(f->s->running);
	assert_int_equal(ready_queues(f), 2);
}

/* Firmware uses one queue of four; QEMU enables all at the end. */
static void
queues_that_are_enabled_but_not_set_up_are_not_waited_for(void **state)
{
	struct fixture *f = *state;

	tell_queues(f, 4);
	set_up_ring(f, 0);
	for (uint16_t i = 0; i < 4; i++) {
		assert_false(f->s->running);
		enable_ring(f, i);
	}
	assert_true(f->s->running);
	assert_int_equal(ready_queues(f), 1);
}

static void
a_late_queue_fails_alone(void **state)
{
	struct fixture *f = *state;
	uint16_t one = 1;
	uint32_t base;
	eventfd_t count;
	int err = eventfd(0, EFD_NONBLOCK);

	tell_queues(f, 2);
	vdpa_vhu_ring_set_err(f->s, 2, dup(err));
	for (uint16_t i = 0; i < 2; i++)
		set_up_ring(f, i);
	enable_ring(f, 0);
	enable_ring(f, 1);
	assert_int_equal(ready_queues(f), 2);
	memcpy(vdpa_iotlb_range(f->s->iotlb, 0x12002, 2), &one, 2);
	set_up_ring(f, 2);
	enable_ring(f, 2);
	assert_int_equal(eventfd_read(err, &count), 0);
	assert_true(f->s->running && !f->s->failed);
	assert_int_equal(ready_queues(f), 2);
	/* Said once, whatever else the front end has to say. */
	vdpa_vhu_session_advance(f->s);
	assert_int_equal(eventfd_read(err, &count), -1);
	vdpa_vhu_ring_stop(f->s, 2, &base);
	assert_int_equal(base, 0);
	assert_int_equal(ready_queues(f), 2);
	close(err);
}

/* A guest's driver that begins anew, and a front end that wants to go on in the middle. */
static void
a_stopped_device_starts_anew_but_not_in_the_middle(void **state)
{
	struct fixture *f = *state;
	uint16_t used = 7;
	uint32_t base;
	char why[256];

	f->s->protocol = RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS);
	f->s->status = 0xf;
	for (unsigned int round = 0; round < 3; round++) {
		for (uint16_t i = 0; i < 2; i++) {
			f->s->rings[i].base_set = true;
			f->s->rings[i].base = round < 2 ? 0 : base;
			make_ring(f->s, i, UADDR + i * 0x4000);
			assert_int_equal(vdpa_vhu_ring_enable(f->s, i, true), 0);
		}
		vdpa_vhu_session_advance(f->s);
		if (round == 2)
			break;
		assert_true(f->s->running);
		memcpy(vdpa_iotlb_range(f->s->iotlb, 0x12002, 2), &used, 2);
		vdpa_vhu_ring_stop(f->s, 1, &base);
		assert_int_equal(base, 0);
		assert_int_equal(f->fake->status, 0);
		vdpa_vhu_ring_stop(f->s, 0, &base);
		assert_int_equal(base, 7);
		assert_false(f->s->running || f->s->failed);
		assert_int_equal(vdpa_device_get_state(&f->fake->vdev), VDPA_STATE_IDLE);
	}
	assert_true(f->s->failed);
	vdpa_device_failure(&f->fake->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "starts at the beginning of a ring only"));
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
	tell_queues(f, n);
	for (uint16_t i = 0; i < n; i++) {
		set_up_ring(f, i);
		enable_ring(f, i);
	}
	assert_true(f->s->running);
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
	vdpa_vhu_ring_stop(f->s, 1, &base);
	assert_int_equal(next_doorbell(channel, &area, &fd), 0);
	assert_int_equal(area.u64, 1 | VHU_FILE_NOFD);
	assert_int_equal(fd, -1);
	vdpa_vhu_session_reset(f->s, false);
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
	tell_queues(f, 1);
	set_up_ring(f, 0);
	enable_ring(f, 0);
	assert_true(f->s->running);
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

/* What does not fit into the channel is lost; nobody waits. */
static void
a_front_end_that_does_not_read_its_channel_holds_up_nobody(void **state)
{
	struct fixture *f = *state;
	int channel = open_channel(f, DOORBELL_FEATURES);
	uint32_t base;

	start_with_doorbells(f, 1);
	for (unsigned int i = 0; i < 2000; i++) {
		vdpa_vhu_ring_stop(f->s, 0, &base);
		set_up_ring(f, 0);
		assert_true(f->s->running);
	}
	close(f->fake->doorbell.fd);
	close(channel);
}

static int
group_setup(void **state)
{
	return vdpa_event_control_init();
}

static int
group_teardown(void **state)
{
	vdpa_event_control_fini();
	return 0;
}

#define TEST(fn, setup) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_failed_start_takes_the_eventfds_from_the_queues_that_run, setup),
		TEST(what_a_line_begins_with_is_not_said_again, setup),
		TEST(a_failed_start_names_queue_and_cause_once, setup),
		TEST(driver_ok_starts_a_device_with_all_its_queues, setup_net),
		TEST(without_a_status_all_known_queues_start_together, setup_net),
		TEST(without_mq_a_net_device_starts_with_one_pair, setup_net),
		TEST(queues_that_are_enabled_but_not_set_up_are_not_waited_for, setup_block),
		TEST(a_late_queue_fails_alone, setup_block),
		TEST(a_stopped_device_starts_anew_but_not_in_the_middle, setup_block),
		TEST(a_queue_that_starts_gives_its_doorbell_and_takes_it_back, setup_block),
		TEST(the_doorbells_of_a_device_that_fails_are_taken_back, setup_block),
		TEST(a_doorbell_that_is_not_one_page_is_not_given, setup_block),
		TEST(no_doorbell_is_given_that_was_not_negotiated, setup_block),
		TEST(a_front_end_that_does_not_read_its_channel_holds_up_nobody, setup_block),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
