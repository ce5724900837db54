/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The driver vhost_vdpa over a kernel that the test plays: what it asks for at a start and a stop,
 * what it makes of wrong answers, memory as batches that are taken back, the control queue in an
 * address space of its own, and a parent that is taken away.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "control_group.h"
#include "device_priv.h"
#include "mgmt.h"
#include "test_util.h"
#include "vdpa_bus.h"
#include "vhost_vdpa_test.h"

#define GUEST	 UINT64_C(0x100000)
#define MEM_SIZE UINT64_C(0x100000)
#define V1	 RTE_BIT64(VIRTIO_F_VERSION_1)
#define MQ	 RTE_BIT64(VIRTIO_NET_F_MQ)

static struct fixture {
	struct vdpa_device *vdev;
	struct vdpa_iotlb *tlb;
	struct vdpa_vq_config vqs[4];
	int mem_fd, kick[4], call;
	unsigned int fds;
} f;

/* The process keeps some files from its first start on. */
static bool warming;

static int
add(const char *words)
{
	char text[256];

	snprintf(text, sizeof(text), "name v0 mgmtdev vhost-vdpa/%s %s", k.path, words);
	return vdpa_dev_add(text);
}

static void
add_device(const char *words)
{
	if (add(words) < 0)
		fail_msg("%s", vdpa_error_message());
	f.vdev = vdpa_find_device("v0");
	assert_non_null(f.vdev);
}

static void
del_device(void)
{
	vdpa_put_device(f.vdev);
	f.vdev = NULL;
	assert_int_equal(vdpa_dev_del("v0"), 0);
}

static struct vdpa_iotlb *
table(unsigned int regions)
{
	struct vdpa_mem_region_spec specs[4];
	struct vdpa_iotlb *tlb;

	for (unsigned int i = 0; i < regions; i++)
		specs[i] = (struct vdpa_mem_region_spec){.iova = GUEST + i * 2 * MEM_SIZE,
							 .uaddr = GUEST + i * 2 * MEM_SIZE,
							 .size = MEM_SIZE,
							 .offset = i * MEM_SIZE,
							 .fd = f.mem_fd};
	assert_int_equal(vdpa_iotlb_create(f.tlb, specs, regions, &tlb), 0);
	return tlb;
}

static int
set_memory(unsigned int regions)
{
	struct vdpa_iotlb *tlb = table(regions);
	int rc = vdpa_device_set_memory(f.vdev, tlb);

	vdpa_iotlb_put(rc == 0 ? f.tlb : tlb);
	if (rc == 0)
		f.tlb = tlb;
	return rc;
}

static int
start(uint64_t features, unsigned int queues)
{
	const struct vdpa_start_config conf = {
		.features = features, .iotlb = f.tlb, .vqs = f.vqs, .nvqs = 4};

	for (unsigned int i = 0; i < 4; i++)
		f.vqs[i].ready = i < queues;
	return vdpa_device_start(f.vdev, &conf);
}

static int
setup(void **state)
{
	memset(&f, 0, sizeof(f));
	fake_kernel_open();
	f.fds = count_fds();
	f.mem_fd = memfd_create("guest", MFD_CLOEXEC);
	assert_int_equal(ftruncate(f.mem_fd, 4 * MEM_SIZE), 0);
	f.call = eventfd(0, EFD_NONBLOCK);
	f.tlb = table(1);
	for (unsigned int i = 0; i < 4; i++) {
		f.kick[i] = eventfd(0, EFD_NONBLOCK);
		f.vqs[i] = (struct vdpa_vq_config){.enabled = true,
						   .num = 64,
						   .desc = GUEST + i * 0x4000,
						   .driver = GUEST + i * 0x4000 + 0x1000,
						   .device = GUEST + i * 0x4000 + 0x2000,
						   .kick_fd = f.kick[i],
						   .call_fd = f.call};
	}
	return 0;
}

static int
teardown(void **state)
{
	if (f.vdev != NULL)
		del_device();
	else
		(void)vdpa_dev_del("v0");
	vdpa_iotlb_put(f.tlb);
	for (unsigned int i = 0; i < 4; i++)
		close(f.kick[i]);
	close(f.call);
	close(f.mem_fd);
	if (!warming)
		assert_int_equal(count_fds(), f.fds);
	fake_kernel_close();
	return 0;
}

static void
what_a_parent_has_is_what_is_offered(void **state)
{
	uint8_t config[sizeof(struct virtio_net_config)];
	const struct vdpa_config_ops *ops;

	add_device("");
	ops = f.vdev->config;
	assert_int_equal(ops->get_device_id(f.vdev), VIRTIO_ID_NET);
	assert_int_equal(ops->get_vq_count(f.vdev), 4);
	assert_int_equal(ops->get_vq_size(f.vdev, 3), 128);
	assert_int_equal(ops->get_device_features(f.vdev), V1 | MQ | RTE_BIT64(VIRTIO_NET_F_MAC));
	assert_int_equal(ops->get_config_size(f.vdev), sizeof(config));
	assert_int_equal(ops->get_config(f.vdev, 0, config, sizeof(config)), 0);
	assert_int_equal(config[offsetof(struct virtio_net_config, max_virtqueue_pairs)], 2);
	assert_non_null(ops->suspend);
	/* Which of the kernel's own it uses. */
	assert_int_equal(k.acked_backend & ~UINT64_C(0x17e), 0);
	del_device();
	/* Without what a control queue is for there is one pair. */
	k.features &= ~(MQ | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ));
	k.backend &= ~RTE_BIT64(VHOST_BACKEND_F_RESUME);
	k.nvqs = 2;
	k.vring_size = 0;
	add_device("max_vqp 1 queue_size 32");
	assert_int_equal(f.vdev->config->get_vq_count(f.vdev), 2);
	assert_int_equal(f.vdev->config->get_vq_size(f.vdev, 0), 32);
	assert_null(f.vdev->config->suspend);
	assert_int_equal(add("max_vqp 2"), -EEXIST);
}

static void
wrong_answers_of_a_parent_are_refused(void **state)
{
	const struct vhost_vdpa_iova_range range = k.range;

#define REFUSED(field, value, err, text)                                                           \
	do {                                                                                       \
		__typeof__(k.field) was_ = k.field;                                                \
		k.field = (value);                                                                 \
		assert_int_equal(add(""), -(err));                                                 \
		if (strstr(vdpa_error_message(), text) == NULL)                                    \
			fail_msg("%s", vdpa_error_message());                                      \
		k.field = was_;                                                                    \
	} while (0)
	REFUSED(nvqs, 0, EPROTO, "has 0 queues");
	REFUSED(nvqs, 0x20000, EPROTO, "has 131072 queues");
	REFUSED(nvqs, 3, EPROTO, "2 queue pairs, of 3 queues");
	REFUSED(num_max, 0, EPROTO, "have no room");
	REFUSED(config_size, 1u << 30, EPROTO, "1073741824 bytes");
	REFUSED(range.first, UINT64_MAX, ENOTSUP, "reaches no IOVA");
	k.range.last = 0;
	k.range.first = 1;
	assert_int_equal(add(""), -EPROTO);
	k.range = range;
	REFUSED(config[8], 0, EPROTO, "0 queue pairs");
	REFUSED(features, 0, ENOTSUP, "VIRTIO_F_VERSION_1");
	REFUSED(backend, 0, ENOTSUP, "VHOST_IOTLB_MSG_V2");
	k.err = EPERM;
	REFUSED(fails, VHOST_VDPA_GET_VQS_COUNT, EPERM, "VHOST_VDPA_GET_VQS_COUNT");
	add_device("");
}

static void
a_start_is_the_kernels_and_a_stop_leaves_nothing_there(void **state)
{
	add_device("");
	assert_int_equal(start(V1 | MQ, 4), 0);
	assert_int_equal(k.status, 0xf);
	assert_int_equal(k.acked, V1 | MQ | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |
					  RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) |
					  RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR));
	for (unsigned int i = 0; i < 4; i++) {
		assert_int_equal(k.vrings[i].num, 64);
		assert_int_equal(k.vrings[i].addr.desc_user_addr, f.vqs[i].desc);
		assert_int_equal(k.vrings[i].addr.avail_user_addr, f.vqs[i].driver);
		assert_int_equal(k.vrings[i].addr.used_user_addr, f.vqs[i].device);
		assert_int_equal(k.vrings[i].kick, f.kick[i]);
		assert_int_equal(k.vrings[i].call, f.call);
		assert_true(k.vrings[i].ready);
	}
	assert_true(k.config_call >= 0);
	/* Nobody knows whether the guest has kicked before. */
	assert_int_equal(poll(&(struct pollfd){.fd = f.kick[0], .events = POLLIN}, 1, 0), 1);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
	assert_int_equal(k.status, 0);
	for (unsigned int i = 0; i < QUEUES; i++) {
		assert_int_equal(k.vrings[i].kick, -1);
		assert_int_equal(k.vrings[i].call, -1);
	}
	assert_int_equal(k.config_call, -1);
	del_device();
	assert_int_equal(k.maps.n, 0);
}

static void
a_doorbell_that_the_parent_has_is_for_our_kicks(void **state)
{
	uint16_t rung = 0;
	int fd = open(k.path, O_RDWR | O_CLOEXEC);

	assert_int_equal(ftruncate(fd, 5 * 4096), 0);
	k.doorbells = true;
	add_device("");
	assert_int_equal(start(V1 | MQ, 4), 0);
	/* The guest's kicks are the kernel's. */
	assert_int_equal(k.vrings[3].kick, f.kick[3]);
	assert_int_equal(pread(fd, &rung, sizeof(rung), 3 * 4096), 2);
	assert_int_equal(rung, 3);
	assert_int_equal(poll(&(struct pollfd){.fd = f.kick[3], .events = POLLIN}, 1, 0), 0);
	close(fd);
	assert_null(f.vdev->config->get_vq_notification);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
the_control_queue_has_an_address_space_of_its_own(void **state)
{
	const struct fake_map *m;

	add_device("mac 52:54:00:00:00:01");
	assert_int_equal(start(V1 | MQ, 4), 0);
	/* The address, and how many pairs there are. */
	assert_int_equal(k.commands, 2);
	assert_int_equal(k.class, VIRTIO_NET_CTRL_MQ);
	assert_int_equal(k.command, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
	assert_int_equal(k.vrings[4].asid, 1);
	m = find_map(1, k.vrings[4].addr.desc_user_addr);
	assert_non_null(m);
	/* What the guest names is nothing there, and the other way round. */
	assert_null(find_map(0, m->iova));
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
	/* It stays for the next start. */
	assert_int_equal(start(V1 | MQ, 2), 0);
	assert_int_equal(k.commands, 3);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
without_a_group_of_its_own_it_lies_beside_the_guest(void **state)
{
	k.n_asids = 1;
	add_device("");
	assert_int_equal(start(V1 | MQ, 4), 0);
	assert_int_equal(k.commands, 1);
	assert_int_equal(k.vrings[4].asid, 0);
	/* Above all that a guest has. */
	assert_true(k.vrings[4].addr.desc_user_addr > UINT64_C(1) << 50);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
commands_that_are_refused_or_not_answered_end_the_start(void **state)
{
	add_device("");
	k.answer = VIRTIO_NET_ERR;
	assert_int_equal(start(V1 | MQ, 4), -EPERM);
	assert_non_null(strstr(vdpa_error_message(), "refuses command 0 of class 4"));
	k.answer = 0xff;
	assert_int_equal(start(V1 | MQ, 4), -ETIMEDOUT);
	assert_non_null(strstr(vdpa_error_message(), "does not answer in time"));
	k.answer = 0x55;
	assert_int_equal(start(V1 | MQ, 4), -EPROTO);
	k.answer = VIRTIO_NET_OK;
	assert_int_equal(start(V1 | MQ, 4), 0);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
a_change_of_memory_is_one_batch_and_is_taken_back_whole(void **state)
{
	unsigned int set_maps;

	add_device("");
	assert_int_equal(start(V1, 2), 0);
	set_maps = k.set_maps;
	assert_int_equal(set_memory(3), 0);
	assert_int_equal(k.set_maps, set_maps + 1);
	assert_int_equal(k.in_force.n, k.maps.n);
	assert_non_null(find_map(0, GUEST));
	assert_non_null(find_map(0, GUEST + 4 * MEM_SIZE));
	/* A message that fails, and the end. */
	k.map_fails_at = 2;
	assert_true(set_memory(4) < 0);
	assert_null(find_map(0, GUEST + 6 * MEM_SIZE));
	k.end_fails = true;
	assert_true(set_memory(4) < 0);
	assert_null(find_map(0, GUEST + 6 * MEM_SIZE));
	assert_int_equal(k.in_force.n, k.maps.n);
	assert_int_equal(vdpa_device_get_state(f.vdev), VDPA_STATE_RUNNING);
	assert_int_equal(set_memory(1), 0);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
memory_that_is_read_only_is_so_to_the_parent(void **state)
{
	struct vdpa_mem_region_spec spec = {
		.iova = GUEST, .uaddr = GUEST, .size = MEM_SIZE, .fd = f.mem_fd, .readonly = true};
	struct vdpa_iotlb *tlb;

	add_device("");
	assert_int_equal(set_memory(1), 0);
	assert_int_equal(find_map(0, GUEST)->perm, VHOST_ACCESS_RW);
	assert_int_equal(vdpa_iotlb_create(NULL, &spec, 1, &tlb), 0);
	assert_int_equal(vdpa_device_set_memory(f.vdev, tlb), 0);
	assert_int_equal(find_map(0, GUEST)->perm, VHOST_ACCESS_RO);
	/* It may be written to again. */
	assert_int_equal(vdpa_device_set_memory(f.vdev, f.tlb), 0);
	assert_int_equal(find_map(0, GUEST)->perm, VHOST_ACCESS_RW);
	vdpa_iotlb_put(tlb);
}

static void
memory_that_a_reset_has_taken_is_given_again(void **state)
{
	k.forgets = true;
	k.backend &= ~RTE_BIT64(VHOST_BACKEND_F_IOTLB_PERSIST);
	add_device("");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(start(V1 | MQ, 4), 0);
		assert_int_equal(k.in_force.n, k.maps.n);
		assert_int_equal(vdpa_device_stop(f.vdev), 0);
		assert_int_equal(k.in_force.n, 0);
	}
}

static void
a_place_is_told_while_nothing_moves(void **state)
{
	struct vdpa_vq_state st = {.split.avail_index = 7};
	const struct vdpa_config_ops *ops;

	add_device("");
	ops = f.vdev->config;
	f.vqs[1].state.split.avail_index = 0xfff0;
	assert_int_equal(start(V1, 2), 0);
	assert_int_equal(k.vrings[1].base, 0xfff0);
	assert_int_equal(vdpa_suspend(f.vdev), 0);
	assert_true(k.suspended);
	k.vrings[0].base = 12;
	assert_int_equal(ops->get_vq_state(f.vdev, 0, &st), 0);
	assert_int_equal(st.split.avail_index, 12);
	/* No index has more than 16 bits. */
	k.vrings[0].base = 0x10000;
	assert_int_equal(ops->get_vq_state(f.vdev, 0, &st), -EPROTO);
	assert_int_equal(vdpa_resume(f.vdev), 0);
	assert_false(k.suspended);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
	del_device();
	/* One that does not suspend is not asked once it has run. */
	k.backend &= ~RTE_BIT64(VHOST_BACKEND_F_SUSPEND);
	add_device("");
	f.vqs[1].state.split.avail_index = 0;
	assert_int_equal(start(V1, 2), 0);
	assert_int_equal(f.vdev->config->get_vq_state(f.vdev, 0, &st), -EOPNOTSUPP);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
a_packed_place_lies_in_the_ring(void **state)
{
	struct vdpa_vq_state st;

	k.features |= RTE_BIT64(VIRTIO_F_RING_PACKED);
	add_device("");
	for (unsigned int i = 0; i < 2; i++) {
		f.vqs[i].state = (struct vdpa_vq_state){.packed = {.last_avail_idx = 5,
								   .last_used_idx = 3,
								   .last_avail_counter = 0,
								   .last_used_counter = 1}};
	}
	assert_int_equal(start(V1 | RTE_BIT64(VIRTIO_F_RING_PACKED), 2), 0);
	assert_int_equal(k.vrings[0].base, 0x80030005);
	assert_int_equal(vdpa_suspend(f.vdev), 0);
	assert_int_equal(f.vdev->config->get_vq_state(f.vdev, 0, &st), 0);
	assert_memory_equal(&st, &f.vqs[0].state, sizeof(st));
	k.vrings[0].base = 64;
	assert_int_equal(f.vdev->config->get_vq_state(f.vdev, 0, &st), -EPROTO);
	assert_int_equal(vdpa_device_stop(f.vdev), 0);
}

static void
a_start_that_the_parent_does_not_make_is_undone(void **state)
{
	static const unsigned long requests[] = {
		VHOST_SET_FEATURES,	     VHOST_SET_VRING_NUM,	 VHOST_SET_VRING_ADDR,
		VHOST_SET_VRING_BASE,	     VHOST_SET_VRING_CALL,	 VHOST_SET_VRING_KICK,
		VHOST_VDPA_SET_VRING_ENABLE, VHOST_VDPA_SET_CONFIG_CALL, VHOST_VDPA_SET_GROUP_ASID,
		VHOST_VDPA_GET_VRING_GROUP,
	};

	add_device("");
	k.err = EIO;
	for (unsigned int i = 0; i < RTE_DIM(requests); i++) {
		k.fails = requests[i];
		assert_int_equal(start(V1 | MQ, 4), -EIO);
		k.fails = 0;
		assert_int_equal(k.status, 0);
		assert_int_equal(start(V1 | MQ, 4), 0);
		assert_int_equal(vdpa_device_stop(f.vdev), 0);
	}
	/* The kernel says nothing of what the parent does not take. */
	k.refused = VIRTIO_CONFIG_S_DRIVER_OK;
	assert_int_equal(start(V1, 2), -EIO);
	assert_non_null(strstr(vdpa_error_message(), "does not start"));
	k.refused = VIRTIO_CONFIG_S_FEATURES_OK;
	assert_int_equal(start(V1, 2), -EINVAL);
	k.refused = 0;
	assert_int_equal(start(V1, 2), 0);
	k.refused = 0x80;
	assert_int_equal(vdpa_device_stop(f.vdev), -EIO);
	assert_int_equal(vdpa_device_get_state(f.vdev), VDPA_STATE_FAILED);
	/* It is out of the guest's memory all the same, and has no eventfd. */
	assert_null(find_map(0, GUEST));
	assert_int_equal(k.vrings[0].kick, -1);
	k.refused = 0;
}

static void
a_parent_that_is_taken_away_is_let_go(void **state)
{
	char text[256];

	add_device("");
	assert_int_equal(start(V1 | MQ, 4), 0);
	assert_int_equal(unlink(k.path), 0);
	EVENTUALLY(vdpa_device_get_state(f.vdev) == VDPA_STATE_FAILED);
	vdpa_device_failure(f.vdev, text, sizeof(text));
	assert_non_null(strstr(text, "is deleted or unbound (ENODEV)"));
	/* Its file is closed: whoever deletes the vDPA device goes on. */
	for (int fd = 0; fd < 256; fd++)
		assert_false(is_kernel(fd));
	assert_int_equal(start(V1, 2), -ENODEV);
	assert_int_equal(set_memory(2), -EIO);
}

/* The bus is there, and vhost_vdpa is not. */
static void
a_bus_without_the_driver(void)
{
	static const char *const folders[] = {"",
					      "/bus",
					      "/bus/vdpa",
					      "/bus/vdpa/drivers",
					      "/bus/vdpa/devices",
					      "/bus/vdpa/devices/vdpa0"};
	char root[] = "/tmp/uvdpa-test-bus.XXXXXX", path[96];

	assert_non_null(mkdtemp(root));
	for (unsigned int i = 1; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		assert_int_equal(mkdir(path, 0755), 0);
	}
	vdpa_bus_set_roots(root, NULL);
	assert_int_equal(vdpa_dev_add("name a mgmtdev vhost-vdpa/vdpa0"), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), "bound to no driver"));
	assert_non_null(strstr(vdpa_error_message(), "modprobe vhost_vdpa"));
	for (unsigned int i = sizeof(folders) / sizeof(folders[0]); i-- > 0;) {
		snprintf(path, sizeof(path), "%s%s", root, folders[i]);
		assert_int_equal(rmdir(path), 0);
	}
}

static void
what_cannot_be_opened_says_why(void **state)
{
	assert_int_equal(vdpa_dev_check("name a mgmtdev vhost-vdpa/"), -EINVAL);
	assert_int_equal(vdpa_dev_check("name a mgmtdev vhost-vdpa/a/b"), -EINVAL);
	assert_int_equal(vdpa_dev_check("name a mgmtdev vhost-vdpa/vdpa0 rebind"), 0);
	assert_int_equal(add("rebind"), -EINVAL);
	assert_int_equal(vdpa_dev_add("name a mgmtdev vhost-vdpa//nonexistent"), -ENOENT);
	vdpa_bus_set_roots("/nonexistent", NULL);
	assert_int_equal(vdpa_dev_add("name a mgmtdev vhost-vdpa//nonexistent"), -ENOENT);
	assert_non_null(strstr(vdpa_error_message(), "modprobe vhost_vdpa"));
	assert_int_equal(vdpa_dev_add("name a mgmtdev vhost-vdpa/vdpa0"), -ENODEV);
	assert_non_null(strstr(vdpa_error_message(), "modprobe vhost_vdpa"));
	a_bus_without_the_driver();
	vdpa_bus_set_roots(NULL, NULL);
	assert_int_equal(add("max_vqp 3"), -EINVAL);
	assert_int_equal(add("queue_size 256"), -EINVAL);
	assert_int_equal(add("device_features 0x400000000"), -EINVAL);
	k.features &= ~RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);
	assert_int_equal(add("mac 52:54:00:00:00:01"), -EOPNOTSUPP);
}

static int
begin(void **state)
{
	int rc = group_setup(state);

	if (rc == 0)
		rc = vdpa_mgmt_init();
	if (rc == 0)
		rc = setup(state);
	if (rc == 0) {
		add_device("");
		(void)start(V1, 2);
		(void)vdpa_device_stop(f.vdev);
		del_device();
		warming = true;
		rc = teardown(state);
		warming = false;
	}
	return rc;
}

static int
finish(void **state)
{
	vdpa_mgmt_fini();
	return group_teardown(state);
}

int
main(void)
{
#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		test(what_a_parent_has_is_what_is_offered),
		test(wrong_answers_of_a_parent_are_refused),
		test(a_start_is_the_kernels_and_a_stop_leaves_nothing_there),
		test(a_doorbell_that_the_parent_has_is_for_our_kicks),
		test(the_control_queue_has_an_address_space_of_its_own),
		test(without_a_group_of_its_own_it_lies_beside_the_guest),
		test(commands_that_are_refused_or_not_answered_end_the_start),
		test(a_change_of_memory_is_one_batch_and_is_taken_back_whole),
		test(memory_that_is_read_only_is_so_to_the_parent),
		test(memory_that_a_reset_has_taken_is_given_again),
		test(a_place_is_told_while_nothing_moves),
		test(a_packed_place_lies_in_the_ring),
		test(a_start_that_the_parent_does_not_make_is_undone),
		test(a_parent_that_is_taken_away_is_let_go),
		test(what_cannot_be_opened_says_why),
	};

	return cmocka_run_group_tests(tests, begin, finish);
}
