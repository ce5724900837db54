/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The virtio driver against a function in memory: what it refuses, that every wait ends, the vector
 * ladder, the control queue and a device that abuses it, and that nothing is left of a session.
 */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "test_util.h"
#include <linux/virtio_pci.h>

#include "device_priv.h"
#include "event_loop_priv.h"
#include "fake_virtio.h"
#include "fault.h"
#include "builtin.h"
#include "virtio.h"

#define MEM_SIZE   0x200000
#define MEM_IOVA   0x100000
#define QUEUE_STEP 0x4000
#define V1	   VIRTIO_BIT(VIRTIO_F_VERSION_1)
#define PACKED	   VIRTIO_BIT(VIRTIO_F_RING_PACKED)
#define MQ	   VIRTIO_BIT(VIRTIO_NET_F_MQ)
#define DATA	   VIRTIO_BIT(VIRTIO_F_NOTIFICATION_DATA)
#define WORDS	   "name v0 mgmtdev fake/v0 timeout_ms 60 "
#define BUS_MASTER 0x04

/* The driver under test, for parents of the fake transport. */
static const char *const matches[] = {"fake/*", NULL};
static struct vdpa_driver driver;

struct fixture {
	struct fake_virtio v;
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb;
	struct vdpa_vq_config vqs[FAKE_VIRTIO_VQS];
	struct vdpa_start_config start;
	int mem_fd;
	int call[FAKE_VIRTIO_VQS], kick[FAKE_VIRTIO_VQS], spare;
	unsigned int fds; /* before there was a device */
};

static struct virtio_device *
device(struct fixture *f)
{
	return virtio_dev(f->vdev);
}

static bool
bus_master(const struct fixture *f)
{
	return (f->v.pci.config[4] & BUS_MASTER) != 0;
}

static uint64_t
signals(int fd)
{
	eventfd_t n;

	return eventfd_read(fd, &n) == 0 ? n : 0;
}

/* Once, and soon. */
static void
assert_signalled(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	assert_int_equal(poll(&p, 1, 5000), 1);
	assert_int_equal(signals(fd), 1);
}

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void
prepare(struct fixture *f)
{
	struct vdpa_mem_region_spec spec;

	f->mem_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f->mem_fd, MEM_SIZE), 0);
	spec = (struct vdpa_mem_region_spec){.iova = MEM_IOVA, .size = MEM_SIZE, .fd = f->mem_fd};
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &f->tlb), 0);
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++) {
		uint64_t at = MEM_IOVA + i * QUEUE_STEP;

		f->call[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		f->kick[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		f->vqs[i] = (struct vdpa_vq_config){.num = 64,
						    .enabled = true,
						    .desc = at,
						    .driver = at + 0x1000,
						    .device = at + 0x2000,
						    .kick_fd = f->kick[i],
						    .call_fd = f->call[i]};
	}
	f->start = (struct vdpa_start_config){
		.features = V1 | MQ, .iotlb = f->tlb, .vqs = f->vqs, .nvqs = 0};
	f->spare = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	f->fds = count_fds();
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	prepare(f);
	*state = f;
	return 0;
}

static int
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
	vdpa_iotlb_put(f->tlb);
	close(f->mem_fd);
	close(f->spare);
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++) {
		close(f->call[i]);
		close(f->kick[i]);
	}
	free(f);
	return 0;
}

static int
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
static void
add_net(struct fixture *f, uint16_t pairs, const char *words)
{
	fake_virtio_init(&f->v, "v0", pairs);
	assert_int_equal(add(f, words), 0);
	f->start.nvqs = (uint16_t)(2 * pairs);
	f->start.features = V1 | (pairs > 1 ? MQ : 0);
	for (uint16_t i = 0; i < f->start.nvqs; i++)
		f->vqs[i].ready = true;
}

/* The front end's connection ends: nothing is left in the device's reach. */
static void
end_binding(struct fixture *f)
{
	assert_int_equal(vdpa_device_set_memory(f->vdev, NULL), 0);
	assert_int_equal(f->v.pci.n_mapped, 0);
}

static void
start(struct fixture *f)
{
	if ((f->start.features & PACKED) != 0)
		for (uint16_t i = 0; i < f->start.nvqs; i++)
			f->vqs[i].state.packed.last_avail_counter =
				f->vqs[i].state.packed.last_used_counter = 1;
	if (vdpa_device_start(f->vdev, &f->start) < 0)
		fail_msg("start: %s", vdpa_error_message());
	/* Starting rings the doorbells for kicks that came too early. */
	for (unsigned int i = 0; i < FAKE_VIRTIO_VQS; i++)
		f->v.vq[i].kicks = 0;
}

/* Where kicks carry data the consumer writes the doorbells itself. */
static void
take_eventfds_away(struct fixture *f)
{
	for (uint16_t i = 0; i < f->start.nvqs; i++)
		f->vqs[i].kick_fd = -1;
}

static void
assert_refused(int rc, int err, const char *text)
{
	assert_int_equal(rc, -err);
	if (strstr(vdpa_error_message(), text) == NULL)
		fail_msg("'%s' does not say '%s'", vdpa_error_message(), text);
}

static bool
mgmtdev_is_there(void)
{
	char *text = vdpa_mgmtdev_show();
	bool there;

	assert_non_null(text);
	there = strstr(text, "fake/v0") != NULL;
	free(text);
	return there;
}

/* Capabilities. */

static void
a_function_tells_what_it_is(void **state)
{
	struct fixture *f = *state;
	uint64_t features;
	uint8_t config[12];

	add_net(f, 4, WORDS);
	assert_int_equal(vdpa_get_device_id(f->vdev), 1);
	assert_int_equal(vdpa_get_vq_count(f->vdev), 8);
	assert_int_equal(vdpa_get_config_size(f->vdev), 24);
	assert_int_equal(vdpa_get_config(f->vdev, 0, config, sizeof(config)), 0);
	assert_int_equal(config[0], 0x52);
	assert_int_equal(config[8], 4);
	features = vdpa_get_device_features(f->vdev);
	assert_int_equal(features, VIRTIO_BIT(28) | VIRTIO_BIT(29) | V1 | PACKED | VIRTIO_BIT(3) |
					   VIRTIO_BIT(5) | VIRTIO_BIT(16) | MQ | DATA);
}

static void
cap_common_outside(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[10] = 2; /* offset 0x20000 */
}

static void
cap_common_beyond_end(struct fake_virtio *v)
{
	memset(&fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[12], 0xff, 4);
}

static void
cap_common_small(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[12] = 52;
}

static void
cap_common_misaligned(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[8] = 2;
}

static void
cap_cut_short(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG)[2] = 16;
}

static void
cap_odd_multiplier(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG)[16] = 6;
}

static void
cap_multiplier_of_one(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG)[16] = 1;
}

static void
cap_notify_outside(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG)[10] = 1;
}

static void
cap_no_notify(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG)[3] = 77;
}

static void
cap_no_isr(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_ISR_CFG)[3] = 77;
}

static void
cap_no_common(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[3] = 77;
}

static void
cap_reserved_bar(struct fake_virtio *v)
{
	fake_virtio_cap(v, VIRTIO_PCI_CAP_COMMON_CFG)[4] = 6;
}

static void
other_vendor(struct fake_virtio *v)
{
	v->pci.config[0] = 0x86;
}

static void
doorbell_outside(struct fake_virtio *v)
{
	v->vq[1].notify_off = 0x3000; /* times 4 is the length */
}

static void
no_version_1(struct fake_virtio *v)
{
	v->features &= ~V1;
}

static void
no_queues(struct fake_virtio *v)
{
	v->num_queues = 0;
}

static void
queue_of_no_size(struct fake_virtio *v)
{
	v->vq[1].size_max = v->vq[1].size = 0;
}

static void
no_pairs(struct fake_virtio *v)
{
	memset(&v->pci.bar[FAKE_VIRTIO_BAR].mem[FAKE_VIRTIO_CONFIG + 8], 0, 2);
}

static void
more_pairs_than_queues(struct fake_virtio *v)
{
	v->num_queues = 3;
}

static void
refuses_features(struct fake_virtio *v)
{
	v->refuses_features = true;
}

static void
does_not_reset(struct fake_virtio *v)
{
	v->never_resets = true;
	v->status = 1;
	v->pci.can_reset = false;
}

static void
reads_all_ones(struct fake_virtio *v)
{
	v->pci.all_ones = true;
}

static void
what_cannot_be_is_refused(void **state)
{
	static const struct {
		void (*spoil)(struct fake_virtio *v);
		int err;
		const char *text;
	} cases[] = {
		{cap_common_outside, EPROTO, "common configuration capability at 0x4c points out"},
		{cap_common_beyond_end, EPROTO, "points outside of BAR 4"},
		{cap_common_small, EPROTO, "common configuration structure has 52 bytes"},
		{cap_common_misaligned, EPROTO, "common configuration structure at 0x2 is not"},
		{cap_cut_short, EPROTO, "notification capability at 0x7c has 16 bytes"},
		{cap_odd_multiplier, EPROTO, "multiplier 6"},
		{cap_multiplier_of_one, EPROTO, "multiplier 1"},
		{cap_notify_outside, EPROTO, "notification capability at 0x7c points outside"},
		{cap_no_notify, EPROTO, "no notification capability"},
		{cap_no_isr, EPROTO, "no ISR status capability"},
		{cap_no_common, ENOTSUP, "legacy-only"},
		{cap_reserved_bar, ENOTSUP, "legacy-only"},
		{other_vendor, ENOTSUP, "1a86:1041 is not a virtio device"},
		{doorbell_outside, EPROTO, "queue 1: the doorbell at 0xc000 is outside"},
		{no_version_1, ENOTSUP, "VIRTIO_F_VERSION_1"},
		{no_queues, EPROTO, "0 queues"},
		{queue_of_no_size, EPROTO, "queue 1 of 4: the device gives its size as 0"},
		{no_pairs, EPROTO, "0 queue pairs"},
		{more_pairs_than_queues, EPROTO, "has 3 queues, its 2 pairs need 4"},
		{refuses_features, EIO, "refuses the features"},
		{does_not_reset, ETIMEDOUT, "does not reset within 60 ms"},
		{reads_all_ones, ENODEV, "fake/v0"},
	};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned int fds = count_fds();

		fake_virtio_init(&f->v, "v0", 2);
		cases[i].spoil(&f->v);
		assert_refused(vdpa_dev_add(WORDS), cases[i].err, cases[i].text);
		assert_non_null(strstr(vdpa_error_message(), "fake/v0"));
		assert_null(f->v.pci.open);
		assert_int_equal(f->v.pci.n_mapped, 0);
		assert_false(mgmtdev_is_there());
		fake_virtio_fini(&f->v);
		assert_int_equal(count_fds(), fds);
	}
	memset(&f->v, 0, sizeof(f->v));
}

static void
a_reserved_bar_is_passed_by(void **state)
{
	struct virtio_pci_cap good;
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	memcpy(&good, fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_COMMON_CFG), sizeof(good));
	cap_reserved_bar(&f->v);
	fake_pci_add_cap(&f->v.pci, &good, sizeof(good));
	assert_int_equal(add(f, WORDS), 0);
}

/* Words. */

static void
words_show_and_limit(void **state)
{
	struct fixture *f = *state;
	uint8_t config[12];

	add_net(f, 4, WORDS "mac 52:00:00:00:00:07 mtu 1400 max_vqp 2 queue_size 128");
	assert_int_equal(vdpa_get_vq_count(f->vdev), 4);
	assert_int_equal(f->vdev->config->get_vq_num_max(f->vdev), 128);
	assert_int_equal(vdpa_get_config(f->vdev, 0, config, sizeof(config)), 0);
	assert_int_equal(config[5], 7);
	assert_int_equal(config[8] | config[9] << 8, 2);
	assert_int_equal(config[10] | config[11] << 8, 1400);
	/* A read from the middle of a field gets the middle of it. */
	assert_int_equal(vdpa_get_config(f->vdev, 5, config, 4), 0);
	assert_int_equal(config[0], 7);
	assert_int_equal(config[3], 2);
}

static void
words_that_the_device_cannot_follow_are_refused(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 2);
	assert_refused(vdpa_dev_add(WORDS "max_vqp 3"), EINVAL, "max_vqp 3: the device has 2");
	assert_refused(vdpa_dev_add(WORDS "mtu 9000"), EINVAL, "mtu 9000: the device has 1500");
	assert_refused(vdpa_dev_add(WORDS "queue_size 512"), EINVAL, "the device has 256");
	assert_refused(vdpa_dev_add(WORDS "device_features 0x20000"), EINVAL, "the device has");
	f->v.features &= ~(VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | VIRTIO_BIT(VIRTIO_NET_F_MTU));
	assert_refused(vdpa_dev_add(WORDS "mac 52:00:00:00:00:07"), EOPNOTSUPP, "mac: ");
	assert_refused(vdpa_dev_add(WORDS "mtu 1500"), EOPNOTSUPP, "mtu: ");
	f->v.pci.config[2] = 0x42;
	assert_refused(vdpa_dev_add(WORDS "max_vqp 1"), EINVAL, "word of net devices");
	assert_refused(vdpa_dev_add(WORDS "colour red"), EINVAL, "colour");
	assert_false(mgmtdev_is_there());
}

static void
another_type_has_the_queues_that_it_counts(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 2);
	f->v.pci.config[2] = 0x42; /* block */
	f->v.is_net = false;
	f->v.vq[4].size_max = f->v.vq[4].size = 256;
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_device_id(f->vdev), 2);
	assert_int_equal(vdpa_get_vq_count(f->vdev), 5);
	/* Bits of a net device's control queue mean something else here. */
	assert_true((vdpa_get_device_features(f->vdev) & VIRTIO_BIT(17)) != 0);
	assert_int_equal(vdpa_set_config(f->vdev, 3, "\x5a", 1), 0);
	assert_int_equal(f->v.pci.bar[FAKE_VIRTIO_BAR].mem[FAKE_VIRTIO_CONFIG + 3], 0x5a);
	f->start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->tlb, .vqs = f->vqs, .nvqs = 5};
	for (unsigned int i = 0; i < 5; i++)
		f->vqs[i].ready = true;
	start(f);
	assert_int_equal(f->v.commands, 0);
	assert_int_equal(f->v.vq[4].enable, 1);
}

static void
a_type_has_the_configuration_that_virtio_gives_it(void **state)
{
	static const struct {
		uint8_t type;
		unsigned int size;
	} cases[] = {{4, 0}, {2, 64}, {19, 8}, {36, 64}};
	struct fixture *f = *state;

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		fake_virtio_init(&f->v, "v0", 1);
		f->v.is_net = false;
		f->v.pci.config[2] = (uint8_t)(0x40 + cases[i].type);
		assert_int_equal(add(f, WORDS), 0);
		assert_int_equal(vdpa_get_config_size(f->vdev), cases[i].size);
		assert_int_equal(vdpa_dev_del("v0"), 0);
		fake_virtio_fini(&f->v);
	}
	memset(&f->v, 0, sizeof(f->v));
}

/* Start and stop. */

static void
a_start_sets_up_what_the_front_end_gave(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	start(f);
	assert_int_equal(f->v.status, 0x0f);
	assert_true(bus_master(f));
	/* The driver's own features beside the guest's. */
	assert_int_equal(f->v.driver_features, V1 | MQ | VIRTIO_BIT(VIRTIO_F_ACCESS_PLATFORM) |
						       VIRTIO_BIT(VIRTIO_F_RING_RESET) |
						       VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) |
						       VIRTIO_BIT(VIRTIO_NET_F_CTRL_RX) |
						       VIRTIO_BIT(VIRTIO_NET_F_CTRL_MAC_ADDR));
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].enable, 1);
		assert_int_equal(f->v.vq[i].size, 64);
		assert_int_equal(f->v.vq[i].desc, f->vqs[i].desc);
		assert_int_equal(f->v.vq[i].driver, f->vqs[i].driver);
		assert_int_equal(f->v.vq[i].device, f->vqs[i].device);
	}
	/* Guest memory and the control queue. */
	assert_int_equal(f->v.pci.n_mapped, 2);
	assert_int_equal(f->v.vq[4].enable, 1);
	assert_int_equal(f->v.vq[4].vector, FAKE_VIRTIO_NO_VECTOR);
}

static void
a_stop_leaves_nothing(void **state)
{
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	for (unsigned int i = 0; i < 10; i++) {
		f->start.features = V1 | MQ | (i % 2 == 0 ? PACKED : 0);
		for (unsigned int q = 0; q < 4; q++)
			f->vqs[q].state = (struct vdpa_vq_state){0};
		start(f);
		assert_true(count_fds() > idle);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		assert_int_equal(count_fds(), idle);
		assert_int_equal(f->v.status, 0);
		assert_false(f->v.pci.msix_on);
		assert_false(bus_master(f));
		assert_null(device(f)->hw.doorbells.va);
	}
	assert_int_equal(f->v.pci.resets, 0);
}

/* The control queue's ring is kept, and what a guest had the device write there is not. */
static void
starts_of_one_binding_map_nothing_again(void **state)
{
	struct fixture *f = *state;
	struct vdpa_dma_stats first, now;
	const struct vdpa_dma_buf *own;

	add_net(f, 2, WORDS);
	start(f);
	vdpa_dma_get_stats(f->vdev->dma, &first);
	assert_int_equal(first.maps, 2);
	own = &device(f)->ctrl.mem;
	for (unsigned int i = 0; i < 10; i++) {
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		memset(own->va, 0xff, own->size);
		f->start.features = V1 | MQ | (i % 2 == 0 ? PACKED : 0);
		for (unsigned int q = 0; q < 4; q++)
			f->vqs[q].state = (struct vdpa_vq_state){0};
		start(f);
		assert_true(f->v.promisc);
		assert_int_equal(((const uint8_t *)own->va)[own->size - 1], 0);
	}
	vdpa_dma_get_stats(f->vdev->dma, &now);
	assert_int_equal(now.maps, 2);
	assert_int_equal(now.unmaps, 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

/* Each step of the transport fails once: the start is unwound, and the next one works. */
static void
a_start_that_fails_is_unwound(void **state)
{
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	f->v.pci.irq_err = EIO;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EIO, "interrupt not set");
	f->v.pci.irq_err = 0;
	assert_int_equal(count_fds(), idle);
	f->v.pci.map_err = ENOMEM;
	assert_refused(vdpa_device_start(f->vdev, &f->start), ENOMEM, "DMA not mapped");
	f->v.pci.map_err = 0;
	f->v.refuses_features = true;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EINVAL, "refuses the features");
	f->v.refuses_features = false;
	f->v.never_enables = true;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EIO,
		       "the device does not enable queue 0");
	f->v.never_enables = false;
	end_binding(f);
	assert_int_equal(count_fds(), idle);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.status, 0);
	start(f);
}

static void
a_guest_without_version_1_is_refused(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->start.features = 0;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EINVAL, "VIRTIO_F_VERSION_1");
}

static void
a_second_pair_needs_mq(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	f->start.features = V1;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EINVAL, "VIRTIO_NET_F_MQ");
	/* With one pair the control queue comes third, and there is nobody to ask for more. */
	f->start.nvqs = 2;
	start(f);
	assert_int_equal(f->v.pci.n_msix, 3);
	assert_int_equal(f->v.vq[1].vector, 2);
	/* One that comes late is refused too, and takes nothing from those that are there. */
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), EINVAL, "VIRTIO_NET_F_MQ");
	assert_int_equal(f->v.pci.msix[1], f->call[0]);
	assert_int_equal(f->v.pci.msix[2], f->call[1]);
	assert_int_equal(f->v.vq[2].enable, 1);
	assert_true(f->v.promisc);
}

/* Waits. */

static void
a_reset_that_never_ends_is_bounded(void **state)
{
	struct fixture *f = *state;
	uint64_t began;

	add_net(f, 1, WORDS);
	start(f);
	f->v.never_resets = true;
	began = now_ms();
	assert_refused(vdpa_device_stop(f->vdev), ETIMEDOUT, "does not reset within 60 ms");
	assert_true(now_ms() - began < 5000);
	assert_int_equal(f->v.pci.resets, 1);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	/* It reaches no memory, and nobody hears of it. */
	assert_false(bus_master(f));
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_resets = false;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.n_mapped, 0);
	start(f);
}

static void
what_does_not_reset_and_cannot_be_reset_reaches_no_memory(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.pci.can_reset = false;
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	f->v.never_resets = true;
	assert_refused(vdpa_device_stop(f->vdev), ETIMEDOUT, "does not reset within 60 ms");
	assert_false(bus_master(f));
	/* The guest's memory is out of its reach; what it has of the driver's is the control
	 * queue. */
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_resets = false;
}

static void
a_reset_of_the_function_helps_where_the_device_does_not(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	start(f);
	f->v.never_resets = f->v.resets_by_function = true;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.resets, 1);
	end_binding(f);
	start(f);
	assert_true(bus_master(f));
}

/* The thread that waits is shared: what is borne with once is not every time. */
static void
resets_that_end_late_again_and_again_exhaust_the_patience(void **state)
{
	enum { CYCLES = 40, TIMEOUT_MS = 60 };
	struct fixture *f = *state;
	unsigned int short_waits = 0;

	add_net(f, 1, WORDS);
	f->v.resets_by_function = true;
	for (unsigned int i = 0; i < CYCLES; i++) {
		uint64_t began;

		start(f);
		f->v.never_resets = true;
		began = now_ms();
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		/* On a busy machine some take longer; without a limit for all none is shorter. */
		short_waits += now_ms() - began < TIMEOUT_MS / 2;
	}
	assert_int_equal(f->v.pci.resets, CYCLES);
	assert_true(short_waits >= CYCLES / 5);
}

static void
a_queue_that_never_resets_is_bounded(void **state)
{
	struct fixture *f = *state;
	unsigned int short_waits = 0;
	struct vdpa_vq_state at;

	add_net(f, 4, WORDS);
	start(f);
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_stop_vq(f->vdev, 1, &at), ETIMEDOUT,
		       "the device does not reset queue 1 within 60 ms");
	/* The others are not waited for one by one. */
	for (uint16_t i = 2; i < 8; i++) {
		uint64_t began = now_ms();

		assert_true(vdpa_device_stop_vq(f->vdev, i, &at) < 0);
		short_waits += now_ms() - began < 30;
	}
	assert_true(short_waits >= 3);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	start(f);
}

static void
a_device_that_is_gone_is_no_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	f->v.pci.all_ones = true;
	assert_refused(vdpa_device_stop(f->vdev), ENODEV, "fake/v0");
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
}

static void
a_removal_fails_the_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	assert_true(f->v.pci.req >= 0);
	eventfd_write(f->v.pci.req, 1);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "asks for fake/v0 back"));
}

static void
a_device_that_needs_a_reset_has_failed(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 1, WORDS);
	start(f);
	fake_virtio_change_config(&f->v, VIRTIO_CONFIG_S_NEEDS_RESET);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "needs a reset"));
	EVENTUALLY(f->v.status == 0);
	start(f);
}

static void
a_device_that_dies_when_it_has_failed_is_gone(void **state)
{
	struct fixture *f = *state;
	char why[512];

	add_net(f, 1, WORDS);
	start(f);
	fake_virtio_change_config(&f->v, VIRTIO_CONFIG_S_NEEDS_RESET);
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	EVENTUALLY(f->v.status == 0);
	assert_false(vdpa_device_is_gone(f->vdev));
	/* The next register that is read finds out. */
	f->v.pci.all_ones = true;
	assert_true(vdpa_device_stop(f->vdev) < 0);
	EVENTUALLY(vdpa_device_is_gone(f->vdev));
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "before that: "));
	assert_non_null(strstr(why, "needs a reset"));
}

/* The ladder. */

static void
each_queue_has_a_vector_that_signals_the_guest(void **state)
{
	struct fixture *f = *state;
	int other = f->spare;
	uint64_t relayed;

	add_net(f, 2, WORDS);
	start(f);
	assert_int_equal(f->v.pci.n_msix, 5);
	assert_int_equal(f->v.config_vector, 0);
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(f->v.vq[i].vector, 1 + i);
		assert_int_equal(f->v.pci.msix[1 + i], f->call[i]);
	}
	relayed = device(f)->irq.relayed;
	assert_true(fake_virtio_interrupt(&f->v, 2));
	assert_int_equal(signals(f->call[2]), 1);
	assert_int_equal(device(f)->irq.relayed, relayed);

	/* Swapped while it runs: the new one hears of what may have come in between, others do
	 * not, and the queue is not touched. */
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 2, other), 0);
	assert_int_equal(f->v.pci.msix[3], other);
	assert_int_equal(signals(other), 1);
	assert_int_equal(signals(f->call[1]) + signals(f->call[2]) + signals(f->call[3]), 0);
	assert_int_equal(f->v.vq[2].enable, 1);
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 2, -1), 0);
	assert_int_equal(f->v.pci.msix[3], -1);
	assert_false(fake_virtio_interrupt(&f->v, 2));
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
queues_share_vectors_when_there_are_few(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS "vectors 3");
	start(f);
	assert_int_equal(f->v.pci.n_msix, 3);
	for (unsigned int i = 0; i < 4; i++)
		assert_int_equal(f->v.vq[i].vector, 1 + i % 2);
	assert_true(fake_virtio_interrupt(&f->v, 1));
	assert_signalled(f->call[3]);
	assert_int_equal(signals(f->call[1]), 1);
	assert_int_equal(signals(f->call[0]) + signals(f->call[2]), 0);
	assert_int_equal(device(f)->irq.relayed, 1);
}

/* Three queues with two vectors: the first is shared, the second is not. */
static void
a_vector_of_one_queue_is_not_relayed_beside_shared_ones(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS "vectors 4");
	start(f);
	assert_int_equal(f->v.vq[0].vector, 1);
	assert_int_equal(f->v.vq[3].vector, 1);
	assert_int_equal(f->v.pci.msix[2], f->call[1]);
	assert_int_equal(f->v.pci.msix[3], f->call[2]);
	assert_true(fake_virtio_interrupt(&f->v, 3));
	assert_signalled(f->call[3]);
	assert_int_equal(signals(f->call[0]), 1);
}

static void
one_vector_serves_all(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 2, WORDS "vectors 1");
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	assert_int_equal(f->v.pci.n_msix, 1);
	assert_true(fake_virtio_interrupt(&f->v, 1));
	for (unsigned int i = 0; i < 4; i++)
		assert_signalled(f->call[i]);
	/* The generation tells whether it was the configuration. */
	usleep(20000);
	assert_int_equal(signals(config), 0);
	fake_virtio_change_config(&f->v, 0);
	assert_signalled(config);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
the_line_serves_where_there_are_no_vectors(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 2, WORDS "vectors 0");
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	assert_false(f->v.pci.msix_on);
	assert_int_equal(f->v.vq[0].vector, FAKE_VIRTIO_NO_VECTOR);
	for (unsigned int round = 0; round < 3; round++) {
		assert_true(fake_virtio_interrupt(&f->v, 1));
		for (unsigned int i = 0; i < 4; i++)
			assert_signalled(f->call[i]);
		assert_int_equal(signals(config), 0);
		EVENTUALLY(!f->v.pci.intx_masked);
		fake_virtio_change_config(&f->v, 0);
		assert_signalled(config);
		assert_int_equal(signals(f->call[0]), 0);
		EVENTUALLY(!f->v.pci.intx_masked);
	}
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->v.pci.intx, -1);
}

static void
a_vector_that_is_not_granted_leads_down_the_ladder(void **state)
{
	struct fixture *f = *state;

	add_net(f, 4, WORDS);
	f->v.vectors_granted = 4;
	start(f);
	assert_int_equal(f->v.pci.n_msix, 4);
	assert_int_equal(f->v.vq[7].vector, 2);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->v.vectors_granted = 0;
	start(f);
	assert_false(f->v.pci.msix_on);
	assert_true(f->v.pci.intx >= 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	f->v.pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 0;
}

static void
a_device_without_interrupts_does_not_start(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.pci.nr_irqs[VFIO_PCI_INTX_IRQ_INDEX] = 0;
	assert_int_equal(add(f, WORDS "vectors 0"), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	assert_refused(vdpa_device_start(f->vdev, &f->start), ENOSPC, "interrupt line");
}

static void
a_change_of_the_configuration_reaches_the_front_end(void **state)
{
	struct fixture *f = *state;
	int config = f->spare;

	add_net(f, 1, WORDS);
	start(f);
	assert_int_equal(f->vdev->config->set_config_cb(f->vdev, config), 0);
	fake_virtio_change_config(&f->v, 0);
	assert_signalled(config);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static void
a_slow_answer_delays_no_kick(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	start(f);
	__atomic_store_n(&f->v.hold_status, true, __ATOMIC_RELEASE);
	fake_virtio_change_config(&f->v, 0);
	EVENTUALLY(__atomic_load_n(&f->v.holding_status, __ATOMIC_ACQUIRE));
	eventfd_write(f->kick[1], 1);
	EVENTUALLY(__atomic_load_n(&f->v.vq[1].kicks, __ATOMIC_SEQ_CST) == 1);
	__atomic_store_n(&f->v.hold_status, false, __ATOMIC_RELEASE);
}

/* The control queue. */

static void
the_device_is_told_pairs_address_and_mode(void **state)
{
	const uint8_t mac[6] = {0x52, 0, 0, 0, 0, 7};
	struct fixture *f = *state;

	add_net(f, 4, WORDS "mac 52:00:00:00:00:07");
	for (unsigned int packed = 0; packed < 2; packed++) {
		f->start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
		start(f);
		assert_int_equal(f->v.pairs, 4);
		assert_true(f->v.promisc);
		assert_memory_equal(f->v.mac, mac, sizeof(mac));
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		memset(f->v.mac, 0, sizeof(f->v.mac));
	}
}

/* More commands than the ring has places, so that it wraps; and those that change nothing are not
 * given. */
static void
pairs_follow_the_queues_that_are_enabled(void **state)
{
	struct fixture *f = *state;

	add_net(f, 4, WORDS);
	for (unsigned int i = 0; i < 4; i++) {
		f->start.features = V1 | MQ | (i % 2 != 0 ? PACKED : 0) | (i / 2 != 0 ? DATA : 0);
		if (i / 2 != 0)
			take_eventfds_away(f);
		start(f);
		f->v.commands = 0;
		for (unsigned int round = 0; round < 20; round++) {
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 4, false), 0);
			assert_int_equal(f->v.pairs, 2);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 5, false), 0);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 5, true), 0);
			assert_int_equal(f->v.pairs, 2);
			assert_int_equal(vdpa_device_enable_vq(f->vdev, 4, true), 0);
			assert_int_equal(f->v.pairs, 4);
			assert_int_equal(f->v.vq[4].enable, 1);
		}
		assert_int_equal(f->v.commands, 40);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
	}
}

static void
a_hostile_control_queue_fails_the_start_in_time(void **state)
{
	static const struct {
		enum fake_virtio_ctrl ctrl;
		bool split_only;
		int err;
		const char *text;
	} cases[] = {
		{FAKE_CTRL_SILENT, false, ETIMEDOUT, "does not answer in time"},
		{FAKE_CTRL_JUMPS, true, EPROTO, "uses what it was not given"},
		{FAKE_CTRL_WRONG_ID, false, EPROTO, "a descriptor it was not given"},
		{FAKE_CTRL_REFUSES, false, EPERM, "refuses command 0 of class 4"},
		{FAKE_CTRL_NO_ACK, false, EPROTO, "without answering it"},
		{FAKE_CTRL_NEEDS_RESET, false, EIO, "needs a reset"},
	};
	struct fixture *f = *state;
	unsigned int idle;

	add_net(f, 2, WORDS);
	idle = count_fds();
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		for (unsigned int packed = 0; packed < (cases[i].split_only ? 1 : 2); packed++) {
			uint64_t began = now_ms();

			f->v.ctrl = cases[i].ctrl;
			f->start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
			for (unsigned int q = 0; q < 4; q++)
				f->vqs[q].state = (struct vdpa_vq_state){0};
			for (unsigned int q = 0; packed != 0 && q < 4; q++)
				f->vqs[q].state.packed.last_avail_counter =
					f->vqs[q].state.packed.last_used_counter = 1;
			assert_refused(vdpa_device_start(f->vdev, &f->start), cases[i].err,
				       cases[i].text);
			assert_true(now_ms() - began < 5000);
			end_binding(f);
			assert_int_equal(count_fds(), idle);
		}
	}
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	for (unsigned int q = 0; q < 4; q++)
		f->vqs[q].state = (struct vdpa_vq_state){0};
	f->start.features = V1 | MQ;
	start(f);
}

/* And while it runs: nobody knows how many pairs it uses now. */
static void
a_control_queue_that_fails_later_fails_the_device(void **state)
{
	struct fixture *f = *state;
	char why[256];

	add_net(f, 2, WORDS);
	start(f);
	f->v.ctrl = FAKE_CTRL_SILENT;
	assert_refused(vdpa_device_enable_vq(f->vdev, 2, false), ETIMEDOUT,
		       "does not answer in time");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f->vdev, why, sizeof(why));
	assert_non_null(strstr(why, "control queue"));
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	start(f);
	assert_int_equal(f->v.pairs, 2);
}

/* A region more, where the control queue is. */
static struct vdpa_iotlb *
memory_over_ctrl(struct fixture *f)
{
	const struct vdpa_mem_region_spec spec = {.iova = f->v.vq[f->v.ctrl_idx].desc & ~0xfffULL,
						  .uaddr = 1ULL << 40,
						  .size = 0x1000,
						  .fd = f->mem_fd};
	struct vdpa_iotlb *tlb;

	assert_int_equal(vdpa_iotlb_add(f->tlb, &spec, &tlb), 0);
	return tlb;
}

static void
a_control_queue_gives_way_to_the_guests_memory(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;
	uint64_t was;

	add_net(f, 2, WORDS);
	for (unsigned int packed = 0; packed < 2; packed++) {
		f->start.features = V1 | MQ | (packed != 0 ? PACKED : 0);
		start(f);
		tlb = memory_over_ctrl(f);
		was = f->v.vq[f->v.ctrl_idx].desc;
		assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
		assert_int_not_equal(f->v.vq[f->v.ctrl_idx].desc, was);
		assert_int_equal(f->v.pci.n_mapped, 3);
		/* It works where it is now. */
		assert_int_equal(f->v.pairs, 2);
		assert_int_equal(vdpa_device_enable_vq(f->vdev, 2, false), 0);
		assert_int_equal(f->v.pairs, 1);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		/* Between two starts it is kept, unless the guest's memory comes there. */
		start(f);
		vdpa_iotlb_put(tlb);
		tlb = memory_over_ctrl(f);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		assert_int_equal(vdpa_device_set_memory(f->vdev, tlb), 0);
		assert_null(device(f)->ctrl.mem.va);
		f->start.iotlb = tlb;
		start(f);
		assert_int_equal(f->v.pci.n_mapped, 3);
		assert_int_equal(vdpa_device_stop(f->vdev), 0);
		end_binding(f);
		f->start.iotlb = f->tlb;
		vdpa_iotlb_put(tlb);
	}
}

static void
a_control_queue_that_cannot_be_reset_keeps_its_place(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;
	uint64_t was;

	fake_virtio_init(&f->v, "v0", 2);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_F_RING_RESET);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 4;
	f->start.features = V1 | MQ;
	for (uint16_t i = 0; i < 4; i++)
		f->vqs[i].ready = true;
	start(f);
	tlb = memory_over_ctrl(f);
	was = f->v.vq[f->v.ctrl_idx].desc;
	assert_refused(vdpa_device_set_memory(f->vdev, tlb), EBUSY,
		       "which is the driver's own memory and cannot be moved");
	assert_non_null(strstr(vdpa_error_message(), "control queue 4 is in use"));
	assert_int_equal(f->v.vq[f->v.ctrl_idx].desc, was);
	assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_RUNNING);
	vdpa_iotlb_put(tlb);
}

static void
a_control_queue_that_does_not_reset_fails_the_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_iotlb *tlb;

	add_net(f, 2, WORDS);
	start(f);
	tlb = memory_over_ctrl(f);
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_set_memory(f->vdev, tlb), EBUSY, "cannot be moved");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	f->v.never_resets_vq = false;
	start(f);
	vdpa_iotlb_put(tlb);
}

static void
a_device_that_may_not_be_promiscuous_starts(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	start(f);
	assert_false(f->v.promisc);
}

/* What is no refusal does not pass for one. */
static void
a_broken_control_queue_is_no_refusal_to_be_promiscuous(void **state)
{
	static const struct {
		enum fake_virtio_ctrl ctrl;
		int err;
	} cases[] = {
		{FAKE_CTRL_NO_ACK, EPROTO},
		{FAKE_CTRL_NEEDS_RESET, EIO},
		{FAKE_CTRL_SILENT, ETIMEDOUT},
	};
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		f->v.ctrl = cases[i].ctrl;
		assert_int_equal(vdpa_device_start(f->vdev, &f->start), -cases[i].err);
		assert_int_equal(vdpa_device_get_state(f->vdev), VDPA_STATE_IDLE);
	}
}

static void
a_device_without_control_queue_works_without(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.features &= ~(VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ) | MQ);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	assert_int_equal(f->v.commands, 0);
	assert_int_equal(f->v.vq[2].enable, 0);
	assert_int_equal(f->v.pci.n_mapped, 1);
}

/* Doorbells. */

static void
kicks_are_posted_where_the_doorbell_is_not_mapped(void **state)
{
	struct fixture *f = *state;
	unsigned int posts;

	add_net(f, 2, WORDS);
	start(f);
	posts = f->v.pci.posts;
	eventfd_write(f->kick[3], 1);
	EVENTUALLY(f->v.vq[3].kicks == 1);
	assert_int_equal(f->v.pci.posts, posts + 1);
	assert_int_equal(device(f)->vqs[3].kicks, 1);
}

/* What the server of a function over vfio-user does for a page that may be given away. */
static void
seal_doorbells(struct fixture *f)
{
	assert_int_equal(fcntl(f->v.pci.bar[FAKE_VIRTIO_BAR].fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
}

/* Accesses that wait for the function's answer, in a start with so many queues. */
static unsigned int
answers_of_start(struct fixture *f, uint16_t queues)
{
	unsigned int answered = f->v.pci.answered;

	for (uint16_t i = 0; i < 4; i++)
		f->vqs[i].ready = i < queues;
	start(f);
	answered = f->v.pci.answered - answered;
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	return answered;
}

/* Size, vector and whether it is enabled are read back; what is written is not waited for. */
static void
queue_costs_three_answers_of_the_function(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	assert_int_equal(answers_of_start(f, 4) - answers_of_start(f, 2), 2 * 3);
}

static void
kicks_are_written_where_the_doorbell_is_mapped(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;
	volatile uint16_t *bell, *given;
	unsigned int posts;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	bell = (volatile uint16_t *)(void *)&f->v.pci.bar[FAKE_VIRTIO_BAR]
		       .mem[FAKE_VIRTIO_NOTIFY + 4096];
	start(f);
	posts = f->v.pci.posts;
	*bell = 0xffff;
	eventfd_write(f->kick[1], 1);
	EVENTUALLY(*bell == 1);
	assert_int_equal(f->v.pci.posts, posts);

	/* A page of its own can be given away. */
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), 0);
	assert_int_equal(area.size, 4096);
	assert_false(area.whole_device);
	given = mmap(NULL, area.size, PROT_READ | PROT_WRITE, MAP_SHARED, area.fd,
		     (off_t)area.offset);
	assert_ptr_not_equal(given, MAP_FAILED);
	*given = 0x5a5a;
	assert_int_equal(*bell, 0x5a5a);
	munmap((void *)(uintptr_t)given, area.size);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_null(device(f)->hw.doorbells.va);
}

static void
a_page_says_that_the_whole_device_goes_with_it(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	f->v.pci.bar[FAKE_VIRTIO_BAR].whole_device = true;
	seal_doorbells(f);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), 0);
	assert_true(area.whole_device);
	assert_int_equal(area.offset, device(f)->hw.doorbells.fd_offset + 4096);
}

static void
a_doorbell_that_shares_its_page_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4, true);
	seal_doorbells(f);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	assert_non_null(device(f)->hw.doorbells.va);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 0, &area), -EOPNOTSUPP);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
}

/* The last doorbell's page is not all of the structure's: what follows may be anything. */
static void
a_page_that_the_structure_does_not_fill_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;
	uint8_t *cap;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	seal_doorbells(f);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	cap = fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG);
	cap[12] = 4; /* length 0x1004 */
	cap[13] = 0x10;
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 0, &area), 0);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
}

/* It would end the process that it was given to. */
static void
a_page_that_can_be_taken_away_is_not_given_away(void **state)
{
	struct fixture *f = *state;
	struct vdpa_notification_area area;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 4096, true);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1;
	f->vqs[0].ready = f->vqs[1].ready = true;
	start(f);
	assert_int_equal(vdpa_get_vq_notification(f->vdev, 1, &area), -EOPNOTSUPP);
	/* And when it is, the device fails at its next kick. cmocka has a SIGBUS handler of its own
	 * in a test. */
	vdpa_fault_fini();
	assert_int_equal(vdpa_fault_init(), 0);
	assert_int_equal(ftruncate(f->v.pci.bar[FAKE_VIRTIO_BAR].fd, FAKE_VIRTIO_NOTIFY), 0);
	eventfd_write(f->kick[1], 1);
	EVENTUALLY(vdpa_pci_error(device(f)->hw.pci) == -ENODEV);
}

static void
a_kick_before_the_start_is_made_up_for(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->vdev->config->kick_vq(f->vdev, 0);
	assert_int_equal(f->v.vq[0].kicks, 0);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(f->v.vq[0].kicks, 1);
	assert_int_equal(f->v.vq[1].kicks, 1);
}

/* Notification data. */

/* The control queue's kicks are the driver's, which knows the position; fake_virtio.c checks it. Of
 * the others the consumer alone does. */
static void
only_the_control_queue_is_kicked_by_the_driver_where_kicks_carry_data(void **state)
{
	struct fixture *f = *state;

	add_net(f, 2, WORDS);
	f->start.features = V1 | MQ | DATA;
	f->vqs[2].ready = f->vqs[3].ready = false;
	take_eventfds_away(f);
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(f->v.vq[i].kicks, 0);
	assert_true(f->v.vq[f->v.ctrl_idx].kicks > 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	/* Without it, the next session has 16 bits again: the function looks. */
	f->start.features = V1 | MQ;
	assert_int_equal(vdpa_device_start(f->vdev, &f->start), 0);
	for (unsigned int i = 0; i < 2; i++)
		assert_int_equal(f->v.vq[i].kicks, 1);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

/* Doorbells of two bytes, and one at the end of the structure: 32 bits would hit something else. */
static void
data_is_not_offered_without_room_for_it(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init_doorbells(&f->v, "v0", 1, 2, false);
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_device_features(f->vdev) & DATA, 0);
	assert_int_equal(vdpa_dev_del("v0"), 0);
	fake_virtio_fini(&f->v);

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[12] = 6;
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[13] = 0;
	f->v.features &= ~VIRTIO_BIT(VIRTIO_NET_F_CTRL_VQ);
	assert_int_equal(add(f, WORDS), 0);
	assert_int_equal(vdpa_get_device_features(f->vdev) & DATA, 0);
}

static void
a_control_queue_without_room_for_data_is_refused(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[12] = 10;
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_NOTIFY_CFG)[13] = 0;
	assert_int_equal(add(f, WORDS), 0);
	f->start.nvqs = 2;
	f->start.features = V1 | DATA;
	f->vqs[0].ready = f->vqs[1].ready = true;
	take_eventfds_away(f);
	assert_refused(vdpa_device_start(f->vdev, &f->start), EPROTO, "no room for it");
	f->start.features = V1;
	start(f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

/* Where a queue stands. */

static void
a_queue_starts_at_zero_only(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	f->vqs[1].state.split.avail_index = 17;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EOPNOTSUPP,
		       "queue 1: starts at 17: a virtio device can only start at 0");
	f->vqs[1].state.split.avail_index = 0;
	start(f);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);

	f->start.features |= PACKED;
	for (unsigned int i = 0; i < 2; i++)
		f->vqs[i].state.packed.last_avail_counter =
			f->vqs[i].state.packed.last_used_counter = 1;
	f->vqs[0].state.packed.last_used_counter = 0;
	assert_refused(vdpa_device_start(f->vdev, &f->start), EOPNOTSUPP, "queue 0: starts at 0");
}

static void
where_a_queue_stopped_is_not_guessed(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	add_net(f, 1, WORDS);
	start(f);
	assert_int_equal(f->vdev->config->set_vq_ready(f->vdev, 0, false), 0);
	assert_int_equal(f->v.vq[0].enable, 0);
	assert_int_equal(f->v.vq[1].enable, 1);
	assert_refused(f->vdev->config->get_vq_state(f->vdev, 0, &at), EOPNOTSUPP,
		       "where it stopped is not known");
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	assert_int_equal(f->vdev->config->get_vq_state(f->vdev, 0, &at), 0);
	assert_int_equal(at.split.avail_index, 0);
}

/* Queues that come late. */

static void
a_start_that_failed_is_not_tried_again_without_a_reset(void **state)
{
	const uint8_t ok =
		VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	assert_int_equal(vdpa_reset(f->vdev), 0);
	assert_int_equal(
		vdpa_set_status(f->vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER), 0);
	assert_int_equal(vdpa_set_driver_features(f->vdev, V1), 0);
	assert_int_equal(vdpa_set_status(f->vdev, ok), 0);
	f->v.never_enables = true;
	for (unsigned int i = 0; i < 3; i++)
		assert_true(vdpa_set_status(f->vdev, ok | VIRTIO_CONFIG_S_DRIVER_OK) < 0);
	/* The control queue's memory, once. */
	assert_int_equal(f->v.pci.n_mapped, 1);
	f->v.never_enables = false;
	assert_int_equal(vdpa_reset(f->vdev), 0);
	assert_int_equal(f->v.pci.n_mapped, 1);
	start(f);
}

static void
a_late_queue_starts_where_queues_reset_one_by_one(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	add_net(f, 2, WORDS);
	f->vqs[2].ready = f->vqs[3].ready = false;
	start(f);
	assert_int_equal(f->v.pairs, 1);
	for (uint16_t i = 2; i < 4; i++) {
		assert_int_equal(vdpa_device_start_vq(f->vdev, i, &f->vqs[i]), 0);
		assert_int_equal(f->v.vq[i].enable, 1);
		assert_int_equal(f->v.vq[i].vector, 1 + i);
		assert_int_equal(f->v.vq[i].kicks, 1);
	}
	assert_int_equal(f->v.pairs, 2);
	/* And goes, is not taken, and comes again. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 2, &at), 0);
	assert_int_equal(f->v.pairs, 1);
	assert_int_equal(f->v.vq[2].enable, 0);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), EPERM, "refuses command");
	assert_int_equal(f->v.vq[2].enable, 0);
	f->v.ctrl = FAKE_CTRL_ANSWERS;
	assert_int_equal(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), 0);
	assert_int_equal(f->v.pairs, 2);
	assert_int_equal(f->v.vq[2].vector, 3);
	assert_int_equal(f->v.pci.msix[3], f->call[2]);
	/* One that is neither wanted nor goes has the guest's memory. */
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 2, &at), 0);
	f->v.ctrl = FAKE_CTRL_REFUSES;
	f->v.never_resets_vq = true;
	assert_refused(vdpa_device_start_vq(f->vdev, 2, &f->vqs[2]), EPERM, "refuses command");
	EVENTUALLY(vdpa_device_get_state(f->vdev) == VDPA_STATE_FAILED);
	assert_int_equal(f->v.status, 0);
}

static void
without_queue_reset_a_queue_stops_with_the_device(void **state)
{
	struct fixture *f = *state;
	struct vdpa_vq_state at;

	fake_virtio_init(&f->v, "v0", 1);
	f->v.features &= ~VIRTIO_BIT(VIRTIO_F_RING_RESET);
	assert_int_equal(add(f, WORDS), 0);
	assert_false(vdpa_get_capabilities(f->vdev)->late_vqs);
	f->start.nvqs = 2;
	f->vqs[0].ready = f->vqs[1].ready = true;
	f->start.features = V1;
	start(f);
	assert_refused(f->vdev->config->set_vq_ready(f->vdev, 0, false), EOPNOTSUPP,
		       "stops only with the device");
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 0, &at), 0);
	assert_int_equal(f->v.status, 0);
	assert_int_equal(vdpa_device_stop_vq(f->vdev, 1, &at), 0);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
	end_binding(f);
}

/* A structure without the register: the feature is not taken. */
static void
queue_reset_needs_its_register(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	fake_virtio_cap(&f->v, VIRTIO_PCI_CAP_COMMON_CFG)[12] = 56;
	assert_int_equal(add(f, WORDS), 0);
	assert_false(vdpa_get_capabilities(f->vdev)->late_vqs);
	f->start.nvqs = 2;
	f->vqs[0].ready = f->vqs[1].ready = true;
	f->start.features = V1;
	start(f);
	assert_false(virtio_has(f->v.driver_features, VIRTIO_F_RING_RESET));
}

/* Management. */

static void
a_function_makes_one_device(void **state)
{
	struct fixture *f = *state;

	add_net(f, 1, WORDS);
	assert_refused(vdpa_dev_add("name v1 mgmtdev fake/v0"), EBUSY, "is open");
	assert_true(mgmtdev_is_there());
	assert_int_equal(vdpa_dev_del("v0"), 0);
	assert_null(f->v.pci.open);
	assert_false(mgmtdev_is_there());
	assert_int_equal(add(f, WORDS), 0);
}

static void
statistics_count_what_passes_through_us(void **state)
{
	struct fixture *f = *state;
	struct vdpa_stat stats[8];
	int n;

	add_net(f, 1, WORDS);
	start(f);
	f->vdev->config->kick_vq(f->vdev, 1);
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 0, f->call[1]), 0);
	n = f->vdev->config->get_stats(f->vdev, stats, 8);
	assert_int_equal(n, 5);
	assert_string_equal(stats[0].name, "kicks_relayed");
	assert_int_equal(stats[0].value, 1);
	assert_string_equal(stats[2].name, "call_swaps");
	assert_int_equal(stats[2].value, 1);
	assert_string_equal(stats[3].name, "vectors");
	assert_int_equal(stats[3].value, 3);
	assert_int_equal(f->vdev->config->get_stats(f->vdev, stats, 0), 5);
	assert_int_equal(vdpa_device_stop(f->vdev), 0);
}

static int
group_setup(void **state)
{
	int fd = eventfd(0, EFD_NONBLOCK);

	if (vdpa_init(NULL) < 0)
		return -1;
	/* The library keeps a file descriptor for it from the first use on. */
	vdpa_eventfd_signal(fd);
	vdpa_eventfd_take(fd);
	close(fd);
	driver = vdpa_virtio_driver;
	driver.name = "fake_virtio";
	driver.match = matches;
	return vdpa_register_driver(&driver);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	return 0;
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_function_tells_what_it_is),
		T(what_cannot_be_is_refused),
		T(a_reserved_bar_is_passed_by),
		T(words_show_and_limit),
		T(words_that_the_device_cannot_follow_are_refused),
		T(another_type_has_the_queues_that_it_counts),
		T(a_type_has_the_configuration_that_virtio_gives_it),
		T(a_start_sets_up_what_the_front_end_gave),
		T(a_stop_leaves_nothing),
		T(starts_of_one_binding_map_nothing_again),
		T(a_start_that_fails_is_unwound),
		T(a_guest_without_version_1_is_refused),
		T(a_second_pair_needs_mq),
		T(a_reset_that_never_ends_is_bounded),
		T(what_does_not_reset_and_cannot_be_reset_reaches_no_memory),
		T(a_reset_of_the_function_helps_where_the_device_does_not),
		T(resets_that_end_late_again_and_again_exhaust_the_patience),
		T(a_queue_that_never_resets_is_bounded),
		T(a_device_that_is_gone_is_no_device),
		T(a_removal_fails_the_device),
		T(a_device_that_needs_a_reset_has_failed),
		T(a_device_that_dies_when_it_has_failed_is_gone),
		T(each_queue_has_a_vector_that_signals_the_guest),
		T(queues_share_vectors_when_there_are_few),
		T(a_vector_of_one_queue_is_not_relayed_beside_shared_ones),
		T(one_vector_serves_all),
		T(the_line_serves_where_there_are_no_vectors),
		T(a_vector_that_is_not_granted_leads_down_the_ladder),
		T(a_device_without_interrupts_does_not_start),
		T(a_change_of_the_configuration_reaches_the_front_end),
		T(a_slow_answer_delays_no_kick),
		T(the_device_is_told_pairs_address_and_mode),
		T(pairs_follow_the_queues_that_are_enabled),
		T(a_hostile_control_queue_fails_the_start_in_time),
		T(a_control_queue_that_fails_later_fails_the_device),
		T(a_control_queue_gives_way_to_the_guests_memory),
		T(a_control_queue_that_cannot_be_reset_keeps_its_place),
		T(a_control_queue_that_does_not_reset_fails_the_device),
		T(a_device_that_may_not_be_promiscuous_starts),
		T(a_broken_control_queue_is_no_refusal_to_be_promiscuous),
		T(a_device_without_control_queue_works_without),
		T(kicks_are_posted_where_the_doorbell_is_not_mapped),
		T(queue_costs_three_answers_of_the_function),
		T(kicks_are_written_where_the_doorbell_is_mapped),
		T(a_page_says_that_the_whole_device_goes_with_it),
		T(a_doorbell_that_shares_its_page_is_not_given_away),
		T(a_page_that_the_structure_does_not_fill_is_not_given_away),
		T(a_page_that_can_be_taken_away_is_not_given_away),
		T(a_kick_before_the_start_is_made_up_for),
		T(only_the_control_queue_is_kicked_by_the_driver_where_kicks_carry_data),
		T(data_is_not_offered_without_room_for_it),
		T(a_control_queue_without_room_for_data_is_refused),
		T(a_queue_starts_at_zero_only),
		T(where_a_queue_stopped_is_not_guessed),
		T(a_start_that_failed_is_not_tried_again_without_a_reset),
		T(a_late_queue_starts_where_queues_reset_one_by_one),
		T(without_queue_reset_a_queue_stops_with_the_device),
		T(queue_reset_needs_its_register),
		T(a_function_makes_one_device),
		T(statistics_count_what_passes_through_us),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
