/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The virtio driver over a function in memory, for its tests: a device of it, and its guest.
 * Include it after cmocka.h. */

#ifndef VIRTIO_TEST_H
#define VIRTIO_TEST_H

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "test_util.h"
#include <linux/virtio_pci.h>

#include "device_priv.h"
#include "event_loop_priv.h"
#include "fake_guest.h"
#include "fake_virtio.h"
#include "fault.h"
#include "builtin.h"
#include "virtio_priv.h"

#define MEM_SIZE   FAKE_GUEST_SIZE
#define MEM_IOVA   FAKE_GUEST_IOVA
#define QUEUE_STEP FAKE_GUEST_VQ_STEP
#define V1	   RTE_BIT64(VIRTIO_F_VERSION_1)
#define PACKED	   RTE_BIT64(VIRTIO_F_RING_PACKED)
#define MQ	   RTE_BIT64(VIRTIO_NET_F_MQ)
#define DATA	   RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA)
#define WORDS	   "name v0 mgmtdev fake/v0 timeout_ms 60 "
#define BUS_MASTER 0x04

struct fixture {
	struct fake_virtio v;
	struct vdpa_device *vdev;
	struct fake_guest guest;
	int spare;
	unsigned int fds; /* before there was a device */
};

static inline struct virtio_device *
device(struct fixture *f)
{
	return virtio_dev(f->vdev);
}

static inline bool
bus_master(const struct fixture *f)
{
	return (f->v.pci.config[4] & BUS_MASTER) != 0;
}

static inline uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline void
prepare(struct fixture *f)
{
	fake_guest_init(&f->guest);
	f->guest.start.features = V1 | MQ;
	f->spare = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	f->fds = count_fds();
}

static inline int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	prepare(f);
	*state = f;
	return 0;
}

static inline int
teardown(void **state)
{
	struct fixture *f = *state;

	vdpa_dev_del("v0");
	/* Closed, and everything let go. */
	assert_null(f->v.pci.open);
	assert_int_equal(f->v.pci.n_mapped, 0);
	if (f->v.pci.name != NULL)
		fake_virtio_fini(&f->v);
	assert_int_equal(count_fds(), f->fds);
	fake_guest_fini(&f->guest);
	close(f->spare);
	free(f);
	return 0;
}

static inline int
add(struct fixture *f, const char *words)
{
	int rc = vdpa_dev_add(words);

	if (rc == 0) {
		f->vdev = vdpa_find_device("v0");
		assert_non_null(f->vdev);
		vdpa_put_device(f->vdev);
	}
	return rc;
}

/* A net device of pairs, all queues of which are to be started. */
static inline void
add_net(struct fixture *f, uint16_t pairs, const char *words)
{
	fake_virtio_init(&f->v, "v0", pairs);
	assert_int_equal(add(f, words), 0);
	f->guest.start.features = V1 | (pairs > 1 ? MQ : 0);
	fake_guest_set_queues(&f->guest, (uint16_t)(2 * pairs));
}

/* The front end's connection ends: nothing is left in the device's reach. */
static inline void
end_binding(struct fixture *f)
{
	fake_guest_leave(f->vdev);
	assert_int_equal(f->v.pci.n_mapped, 0);
}

static inline void
start(struct fixture *f)
{
	fake_guest_start(&f->guest, f->vdev);
	/* Starting rings the doorbells for kicks that came too early. */
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++)
		f->v.vq[i].kicks = 0;
}

/* Whether a queue runs on a shadow, and the device has a ring of ours for it. */
static inline bool
is_on_shadow(struct fixture *f, uint16_t idx)
{
	struct vdpa_stat stats[16];
	unsigned int n = RTE_DIM(stats);
	bool shadow = strcmp(vdpa_device_vq_path(f->vdev, idx, stats, &n), "shadow") == 0;

	assert_int_equal(f->v.vq[idx].desc - MEM_IOVA >= MEM_SIZE, shadow);
	assert_int_equal(f->v.vq[idx].device - MEM_IOVA >= MEM_SIZE, shadow);
	return shadow;
}

/* Queue idx is to go on in the middle of its split ring, all of which was used until there. */
static inline void
go_on_at(struct fixture *f, uint16_t idx, uint16_t place)
{
	struct vdpa_vq_config *vq = &f->guest.vqs[idx];

	memcpy(vdpa_iotlb_range(f->guest.tlb, vq->driver + 2, 2), &place, 2);
	memcpy(vdpa_iotlb_range(f->guest.tlb, vq->device + 2, 2), &place, 2);
	vq->state = (struct vdpa_vq_state){.split.avail_index = place};
}

/* Where kicks carry data the consumer writes the doorbells itself. */
static inline void
take_eventfds_away(struct fixture *f)
{
	for (uint16_t i = 0; i < f->guest.start.nvqs; i++)
		f->guest.vqs[i].kick_fd = -1;
}

static inline void
assert_refused(int rc, int err, const char *text)
{
	assert_int_equal(rc, -err);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' does not say '%s'", vdpa_error_message(), text);
}

static inline void
refuses_features(struct fake_virtio *v)
{
	v->refuses_features = true;
}

static inline int
group_setup(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	if (vdpa_init(NULL) < 0)
		return -1;
	/* The library keeps a file descriptor for it from the first use on. */
	vdpa_eventfd_signal(fd);
	vdpa_eventfd_take(fd);
	close(fd);
	return 0;
}

static inline int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif /* VIRTIO_TEST_H */
