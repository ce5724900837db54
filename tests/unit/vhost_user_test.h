/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A fake device behind a vhost-user connection, without the connection. Include it after cmocka.h.
 */

#ifndef VHOST_USER_TEST_H
#define VHOST_USER_TEST_H

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>

#include "control_group.h"
#include "device_priv.h"
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

static inline void
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

static inline int
map_nothing(void *arg, const struct vdpa_dma_mapping *m)
{
	return 0;
}

/* A device that takes its queues before DRIVER_OK only. */
static inline int
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

static inline int
teardown(void **state)
{
	struct fixture *f = *state;

	f->dev.session = NULL;
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

static inline void
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

static inline void
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
static inline int
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
static inline int
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

static inline void
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
	assert_int_equal(vdpa_consumer_is_running(f->s->consumer), n > 0);
}

#endif /* VHOST_USER_TEST_H */
