/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end vduse with a fake kernel: what is offered, what messages do, what a successor
 * finds, and messages and answers of ioctls that make no sense.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>

#include <cmocka.h>

#include "test_util.h"
#include "vdpa.h"
#include "vdpa_bus.h"
#include "vduse_priv.h"

#define MEM_SIZE 0x100000
#define IOVA	 0x10000
#define QUEUES	 4
#define ANSWER	 30000 /* ms */

struct range {
	uint64_t start, last, offset;
	uint8_t perm;
};

/* The kernel's side of one device. */
static struct {
	bool exists, refuses;
	_Alignas(8) char config[sizeof(struct vduse_dev_config) + 4096];
	int ours; /* the other end of what the front end reads and writes */
	uint64_t features;
	struct vduse_vq_info vqs[QUEUES];
	int mem;
	struct range ranges[16];
	unsigned int n_ranges, kickfds, irqs;
	unsigned int *fuzz; /* ioctls answer at random by this seed */
	uint32_t id;
} kernel;

static const struct vduse_dev_config *
config(void)
{
	return (const struct vduse_dev_config *)kernel.config;
}

static int
fake_open(const char *path, int flags)
{
	int pair[2];

	if (strcmp(path, "/dev/vduse/control") == 0)
		return memfd_create("control", MFD_CLOEXEC);
	if (!kernel.exists) {
		errno = ENOENT;
		return -1;
	}
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(fcntl(pair[0], F_SETFL, O_NONBLOCK), 0);
	if (kernel.ours >= 0)
		close(kernel.ours);
	kernel.ours = pair[1];
	return pair[0];
}

static int
fail_with(int err)
{
	errno = err;
	return -1;
}

static int
get_fd(struct vduse_iotlb_entry *e)
{
	for (unsigned int i = 0; i < kernel.n_ranges; i++) {
		const struct range *r = &kernel.ranges[i];

		if (r->last < e->start)
			continue;
		*e = (struct vduse_iotlb_entry){
			.offset = r->offset, .start = r->start, .last = r->last, .perm = r->perm};
		return dup(kernel.mem);
	}
	return fail_with(EINVAL);
}

static int
fake_ioctl(int fd, unsigned long request, void *arg)
{
	const struct vduse_dev_config *c = arg;
	struct vduse_vq_info *info = arg;

	/* A job may still be at it when the test goes on. */
	unsigned int *fuzz = __atomic_load_n(&kernel.fuzz, __ATOMIC_RELAXED);

	if (fuzz != NULL && rand_r(fuzz) % 16 == 0)
		return fail_with(rand_r(fuzz) % 2 == 0 ? EPERM : ENOMEM);
	switch (request) {
	case VDUSE_CREATE_DEV:
		if (kernel.exists)
			return fail_with(EEXIST);
		memcpy(kernel.config, c, sizeof(*c) + c->config_size);
		kernel.exists = true;
		return 0;
	case VDUSE_DESTROY_DEV:
		if (kernel.refuses)
			return fail_with(EBUSY);
		kernel.exists = false;
		return 0;
	case VDUSE_DEV_GET_FEATURES:
		*(uint64_t *)arg = kernel.features;
		return 0;
	case VDUSE_VQ_GET_INFO:
		if (info->index >= QUEUES)
			return fail_with(EINVAL);
		kernel.vqs[info->index].index = info->index;
		*info = kernel.vqs[info->index];
		return 0;
	case VDUSE_VQ_SETUP_KICKFD:
		kernel.kickfds++;
		return 0;
	case VDUSE_VQ_INJECT_IRQ:
		kernel.irqs++;
		return 0;
	case VDUSE_IOTLB_GET_FD:
		return get_fd(arg);
	default:
		return 0;
	}
}

static char run_dir[64];
static const struct vduse_kernel fake = {
	.open = fake_open, .ioctl = fake_ioctl, .run_dir = run_dir};

/* Send a request and wait for its answer; the result. */
static uint32_t
ask(struct vduse_dev_request *req, struct vduse_dev_response *resp)
{
	struct pollfd in = {.fd = kernel.ours, .events = POLLIN};

	req->request_id = ++kernel.id;
	assert_int_equal(write(kernel.ours, req, sizeof(*req)), sizeof(*req));
	assert_int_equal(poll(&in, 1, ANSWER), 1);
	assert_int_equal(read(kernel.ours, resp, sizeof(*resp)), sizeof(*resp));
	assert_int_equal(resp->request_id, req->request_id);
	return resp->result;
}

static uint32_t
set_status(uint8_t status)
{
	struct vduse_dev_request req = {.type = VDUSE_SET_STATUS, .s.status = status};
	struct vduse_dev_response resp;

	return ask(&req, &resp);
}

static uint32_t
update_iotlb(void)
{
	struct vduse_dev_request req = {.type = VDUSE_UPDATE_IOTLB, .iova.last = UINT64_MAX};
	struct vduse_dev_response resp;

	return ask(&req, &resp);
}

static struct vduse_dev_response
get_vq_state(uint32_t idx)
{
	struct vduse_dev_request req = {.type = VDUSE_GET_VQ_STATE, .vq_state.index = idx};
	struct vduse_dev_response resp;

	(void)ask(&req, &resp);
	return resp;
}

static enum vdpa_device_state
state_of(const char *name)
{
	struct vdpa_device *vdev = vdpa_find_device(name);
	enum vdpa_device_state state = vdpa_device_get_state(vdev);

	vdpa_put_device(vdev);
	return state;
}

static void
wait_for(const char *name, enum vdpa_device_state state)
{
	for (unsigned int i = 0; i < ANSWER && state_of(name) != state; i++)
		usleep(1000);
	assert_int_equal(state_of(name), state);
}

static void
add(const char *words)
{
	if (vdpa_dev_add(words) < 0)
		fail_msg("dev add %s: %s", words, vdpa_error_message());
}

static void
one_range(void)
{
	kernel.ranges[0] =
		(struct range){.start = IOVA, .last = IOVA + MEM_SIZE - 1, .perm = VDUSE_ACCESS_RW};
	kernel.n_ranges = 1;
}

static void
ready_ring(uint16_t idx)
{
	uint64_t at = IOVA + idx * 0x8000u;

	kernel.vqs[idx] = (struct vduse_vq_info){.num = 64,
						 .desc_addr = at,
						 .driver_addr = at + 0x2000,
						 .device_addr = at + 0x4000,
						 .ready = 1};
}

/* As a user of /dev/vhost-vdpa-N sets a device up. */
static void
start_device(const char *name)
{
	kernel.features = RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM);
	one_range();
	ready_ring(0);
	assert_int_equal(set_status(0), VDUSE_REQ_RESULT_OK);
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	assert_int_equal(set_status(3), VDUSE_REQ_RESULT_OK);
	assert_int_equal(set_status(11), VDUSE_REQ_RESULT_OK);
	assert_int_equal(set_status(15), VDUSE_REQ_RESULT_OK);
	wait_for(name, VDPA_STATE_RUNNING);
}

#define BLK "name d0 mgmtdev sim_blk backend ram 1M frontend vduse mode none"
#define NET "name n0 mgmtdev sim_net backend loopback frontend vduse mode none"

static void
what_vduse_refuses_is_not_offered(void **state)
{
	add(BLK);
	assert_string_equal(config()->name, "d0");
	assert_int_equal(config()->device_id, 2);
	assert_true(config()->features & RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM));
	assert_false(config()->features & RTE_BIT64(VIRTIO_BLK_F_CONFIG_WCE));
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_false(kernel.exists);
	add(NET);
	assert_int_equal(config()->vq_num, 2);
	assert_false(config()->features &
		     (RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_MQ) |
		      RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE) | RTE_BIT64(40)));
	assert_int_equal(vdpa_dev_del("n0"), 0);
}

static void
a_device_runs_from_driver_ok_to_reset(void **state)
{
	add(BLK);
	start_device("d0");
	assert_int_equal(set_status(0), VDUSE_REQ_RESULT_OK);
	assert_int_equal(state_of("d0"), VDPA_STATE_IDLE);
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
features_that_were_not_offered_are_refused(void **state)
{
	add(BLK);
	kernel.features = UINT64_MAX;
	assert_int_equal(set_status(11), VDUSE_REQ_RESULT_FAILED);
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
a_status_without_bits_it_had_is_refused(void **state)
{
	unsigned int fds;

	add(BLK);
	start_device("d0");
	fds = count_fds();
	for (unsigned int i = 0; i < 100; i++) {
		assert_int_equal(set_status(11), VDUSE_REQ_RESULT_FAILED);
		assert_int_equal(set_status(128), VDUSE_REQ_RESULT_FAILED);
		assert_int_equal(set_status(15), VDUSE_REQ_RESULT_OK);
	}
	assert_int_equal(count_fds(), fds);
	wait_for("d0", VDPA_STATE_RUNNING);
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static void
a_ring_that_leaves_the_memory_stops_and_others_are_unharmed(void **state)
{
	add(BLK);
	start_device("d0");
	kernel.n_ranges = 0;
	assert_int_equal(update_iotlb(), VDUSE_REQ_RESULT_OK);
	assert_int_equal(get_vq_state(0).result, VDUSE_REQ_RESULT_OK);
	assert_int_equal(get_vq_state(77).result, VDUSE_REQ_RESULT_FAILED);
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

/* The kernel's device is in use, so it stays; a successor goes on with it. */
static void
a_successor_goes_on_with_a_device_in_use(void **state)
{
	add(BLK);
	start_device("d0");
	kernel.refuses = true;
	/* As kill -9 leaves the record: it is there, with the status as it was answered. */
	{
		char from[96], to[96];

		snprintf(from, sizeof(from), "%s/vduse-d0", run_dir);
		snprintf(to, sizeof(to), "%s/kept", run_dir);
		assert_int_equal(link(from, to), 0);
		assert_int_equal(vdpa_dev_del("d0"), 0);
		assert_true(kernel.exists);
		assert_int_equal(rename(to, from), 0);
	}
	add(BLK);
	wait_for("d0", VDPA_STATE_RUNNING);
	kernel.refuses = false;
	assert_int_equal(vdpa_dev_del("d0"), 0);
	assert_false(kernel.exists);
}

static void
a_device_in_use_that_is_not_ours_is_refused(void **state)
{
	kernel.exists = kernel.refuses = true;
	assert_int_equal(vdpa_dev_add(BLK), -EEXIST);
	assert_non_null(strstr(vdpa_error_message(), "cannot be taken up"));
	kernel.exists = kernel.refuses = false;
}

/* 10^5 messages about a device whose kernel says what it likes. */
static void
nonsense_costs_its_own_device_only(void **state)
{
	unsigned int seed = 1, n = 100000;
	const char *fewer = getenv("UVDPA_TEST_MESSAGES");

	if (fewer != NULL)
		n = (unsigned int)atoi(fewer);
	add(BLK);
	kernel.features = RTE_BIT64(VIRTIO_F_VERSION_1);
	for (unsigned int i = 0; i < n; i++) {
		static const uint8_t statuses[] = {0, 1, 3, 11, 11, 15, 15, 15, 128, 255};
		struct vduse_dev_request req = {.type = (unsigned int)rand_r(&seed) % 4};
		struct vduse_dev_response resp;
		struct vduse_vq_info *vq = &kernel.vqs[(unsigned int)rand_r(&seed) % QUEUES];

		if (req.type == VDUSE_SET_STATUS)
			req.s.status = statuses[(unsigned int)rand_r(&seed) % sizeof(statuses)];
		else
			req.vq_state.index = (unsigned int)rand_r(&seed) % (QUEUES + 2);
		ready_ring((uint16_t)(vq - kernel.vqs));
		if (rand_r(&seed) % 4 == 0)
			vq->num = (uint32_t)rand_r(&seed);
		if (rand_r(&seed) % 4 == 0)
			vq->device_addr = (uint64_t)rand_r(&seed) << (rand_r(&seed) % 33);
		one_range();
		kernel.n_ranges = (unsigned int)rand_r(&seed) % 4;
		for (unsigned int r = 1; r < kernel.n_ranges; r++)
			kernel.ranges[r] = (struct range){.start = kernel.ranges[r - 1].last + 1,
							  .last = kernel.ranges[r - 1].last +
								  (uint64_t)rand_r(&seed),
							  .offset = (uint64_t)rand_r(&seed),
							  .perm = (uint8_t)rand_r(&seed)};
		kernel.features = RTE_BIT64(VIRTIO_F_VERSION_1) |
				  (rand_r(&seed) % 2 == 0 ? RTE_BIT64(VIRTIO_F_RING_PACKED) : 0);
		kernel.fuzz = &seed;
		(void)ask(&req, &resp);
		kernel.fuzz = NULL;
	}
	memset(kernel.vqs, 0, sizeof(kernel.vqs));
	start_device("d0");
	assert_int_equal(vdpa_dev_del("d0"), 0);
}

static int
group_setup(void **state)
{
	vdpa_bus_set_roots("/nonexistent", "/nonexistent");
	snprintf(run_dir, sizeof(run_dir), "/tmp/uvdpa-vduse.XXXXXX");
	assert_non_null(mkdtemp(run_dir));
	kernel.ours = -1;
	kernel.mem = memfd_create("user", MFD_CLOEXEC);
	assert_int_equal(ftruncate(kernel.mem, MEM_SIZE), 0);
	vdpa_vduse_kernel = &fake;
	return vdpa_init(NULL);
}

static int
group_teardown(void **state)
{
	vdpa_cleanup();
	if (kernel.ours >= 0)
		close(kernel.ours);
	close(kernel.mem);
	return rmdir(run_dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_vduse_refuses_is_not_offered),
		cmocka_unit_test(a_device_runs_from_driver_ok_to_reset),
		cmocka_unit_test(features_that_were_not_offered_are_refused),
		cmocka_unit_test(a_status_without_bits_it_had_is_refused),
		cmocka_unit_test(a_ring_that_leaves_the_memory_stops_and_others_are_unharmed),
		cmocka_unit_test(a_successor_goes_on_with_a_device_in_use),
		cmocka_unit_test(a_device_in_use_that_is_not_ours_is_refused),
		cmocka_unit_test(nonsense_costs_its_own_device_only),
	};

	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
