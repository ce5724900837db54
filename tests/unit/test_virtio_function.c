/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The virtio driver against a function in memory: what it takes of capabilities, words, types and
 * management, and what it refuses.
 */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "steps.h"
#include "virtio_test.h"

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
	assert_int_equal(features, RTE_BIT64(28) | RTE_BIT64(29) | V1 | PACKED | RTE_BIT64(3) |
					   RTE_BIT64(5) | RTE_BIT64(16) | MQ | DATA);
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
other_device(struct fake_virtio *v)
{
	v->pci.config[3] = 0x20;
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
		{other_device, ENODEV, "no driver serves 1af4:2041"},
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
what_is_no_virtio_device_is_refused_by_name_too(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 2);
	other_device(&f->v);
	assert_refused(vdpa_dev_add(WORDS "driver virtio"), ENODEV,
		       "1af4:2041 is not a virtio device");
	assert_null(f->v.pci.open);
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

/* A front end hears it when it gives the size, and not when the queue starts. */
static void
each_queue_is_as_large_as_the_function_and_the_word_have_it(void **state)
{
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 2);
	f->v.vq[1].size_max = f->v.vq[1].size = 64;
	assert_int_equal(add(f, WORDS "queue_size 128"), 0);
	assert_int_equal(vdpa_check_vq_num(f->vdev, 0, false, 128), 0);
	assert_int_equal(vdpa_check_vq_num(f->vdev, 0, false, 256), -EINVAL);
	assert_int_equal(vdpa_check_vq_num(f->vdev, 1, false, 64), 0);
	assert_int_equal(vdpa_check_vq_num(f->vdev, 1, false, 128), -EINVAL);
	assert_string_equal(vdpa_error_message(), "v0: queue 1: size 128, allowed are 1 to 64");
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
	f->v.features &= ~(RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR) | RTE_BIT64(VIRTIO_NET_F_MTU));
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
	assert_true((vdpa_get_device_features(f->vdev) & RTE_BIT64(17)) != 0);
	assert_int_equal(vdpa_set_config(f->vdev, 3, "\x5a", 1), 0);
	assert_int_equal(f->v.pci.bar[FAKE_VIRTIO_BAR].mem[FAKE_VIRTIO_CONFIG + 3], 0x5a);
	f->guest.start = (struct vdpa_start_config){
		.features = V1, .iotlb = f->guest.tlb, .vqs = f->guest.vqs, .nvqs = 5};
	for (unsigned int i = 0; i < 5; i++)
		f->guest.vqs[i].ready = true;
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
	assert_int_equal(vdpa_device_set_vq_call(f->vdev, 0, f->guest.call[1]), 0);
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

/* A driver's table over the service's. */

static struct {
	struct vdpa_config_ops ops;
	void *later;
} over;

static int
add_over(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	 const char *name, const struct vdpa_args *args)
{
	static const struct vdpa_virtio_kind kind = {.ops = &over.ops};

	return vdpa_virtio_add(&kind, mdev, pci, name, args);
}

static uint32_t
vendor_of_over(struct vdpa_device *vdev)
{
	return 0x7e57;
}

static void
a_table_of_another_version_is_taken_or_refused_as_a_whole(void **state)
{
	static const struct vdpa_param params[] = {VDPA_VIRTIO_PARAMS, {0}};
	static const struct vdpa_pci_match ids[] = {{VDPA_PCI_DEVICE(0xfff0, 1)}, {0}};
	static struct vdpa_driver driver = {
		.name = "over", .params = params, .pci_ids = ids, .pci_add = add_over};
	struct fixture *f = *state;

	fake_virtio_init(&f->v, "v0", 1);
	assert_int_equal(vdpa_register_driver(&driver), 0);
	over.ops.get_vendor_id = vendor_of_over;
	assert_refused(add(f, WORDS "driver over"), EINVAL, "a size of 0 bytes");
	over.ops.size = sizeof(over);
	over.later = &over;
	assert_refused(add(f, WORDS "driver over"), E2BIG, "ops of a later version");
	over.later = NULL;
	assert_int_equal(add(f, WORDS "driver over"), 0);
	assert_int_equal(f->vdev->config->get_vendor_id(f->vdev), 0x7e57);
	vdpa_unregister_driver(&driver);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		T(a_function_tells_what_it_is),
		T(what_cannot_be_is_refused),
		T(what_is_no_virtio_device_is_refused_by_name_too),
		T(a_reserved_bar_is_passed_by),
		T(words_show_and_limit),
		T(each_queue_is_as_large_as_the_function_and_the_word_have_it),
		T(words_that_the_device_cannot_follow_are_refused),
		T(another_type_has_the_queues_that_it_counts),
		T(a_type_has_the_configuration_that_virtio_gives_it),
		T(a_function_makes_one_device),
		T(statistics_count_what_passes_through_us),
		T(a_table_of_another_version_is_taken_or_refused_as_a_whole),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
