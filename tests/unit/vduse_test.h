/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A kernel for tests of the front end vduse, with one device, and its messages. Link with
 * --wrap=fstat64, --wrap=open64 and --wrap=vdpa_fd_account_full. */

#ifndef VDUSE_TEST_H
#define VDUSE_TEST_H

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
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
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>

#include <cmocka.h>

#include "args_priv.h"
#include "device_priv.h"
#include "fake_device.h"
#include "test_util.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_bus.h"
#include "vdpa_fd.h"
#include "vduse.h"
#include "vduse_priv.h"

#define MEM_SIZE 0x100000
#define IOVA	 0x10000
#define QUEUES	 4
#define ANSWER	 30000 /* ms */

struct range {
	uint64_t start, last, offset;
	uint8_t perm;
	int fd; /* 0: kernel.mem */
};

/* The kernel's side of one device. */
static struct {
	bool exists, refuses;
	_Alignas(8) char config[sizeof(struct vduse_dev_config) + 4096];
	int ours; /* the other end of what the front end reads and writes */
	uint64_t features;
	struct vduse_vq_info vqs[QUEUES];
	uint16_t sizes[QUEUES];
	int mem;
	int domain;    /* the file that is the domain's; -1: none is */
	int iotlb_err; /* of asking for a range; 0: none */
	int kick[QUEUES];
	struct range ranges[16];
	unsigned int n_ranges, kickfds, irqs, iotlb_asked, busy;
	unsigned int *fuzz; /* ioctls answer at random by this seed */
	uint32_t id;
} kernel;

/* What the front end asks files and the kernel of its files. */
static struct {
	unsigned int stats_of_pipes;
	bool account_full;
	const char *held; /* a path that another has open; NULL: none */
} asked;

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);
bool __real_vdpa_fd_account_full(struct vdpa_fd_account *a);
bool __wrap_vdpa_fd_account_full(struct vdpa_fd_account *a);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);

int
__wrap_fstat64(int fd, struct stat *st)
{
	if (vdpa_fd_is_pipe(fd))
		asked.stats_of_pipes++;
	return __real_fstat64(fd, st);
}

bool
__wrap_vdpa_fd_account_full(struct vdpa_fd_account *a)
{
	return asked.account_full || __real_vdpa_fd_account_full(a);
}

int
__wrap_open64(const char *path, int flags, ...)
{
	if (asked.held != NULL && strcmp(path, asked.held) == 0) {
		errno = EBUSY;
		return -1;
	}
	return __real_open64(path, flags, 0600);
}

static inline const struct vduse_dev_config *
config(void)
{
	return (const struct vduse_dev_config *)kernel.config;
}

static inline int
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

static inline int
fail_with(int err)
{
	errno = err;
	return -1;
}

static inline int
get_fd(struct vduse_iotlb_entry *e)
{
	kernel.iotlb_asked++;
	if (kernel.iotlb_err != 0)
		return fail_with(kernel.iotlb_err);
	for (unsigned int i = 0; i < kernel.n_ranges; i++) {
		const struct range *r = &kernel.ranges[i];

		if (r->last < e->start)
			continue;
		*e = (struct vduse_iotlb_entry){
			.offset = r->offset, .start = r->start, .last = r->last, .perm = r->perm};
		return dup(r->fd != 0 ? r->fd : kernel.mem);
	}
	return fail_with(EINVAL);
}

static inline int
fake_ioctl(int fd, unsigned long request, void *arg)
{
	const struct vduse_vq_eventfd *kick = arg;
	const struct vduse_vq_config *vq = arg;
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
		if (kernel.busy > 0) {
			kernel.busy--;
			return fail_with(EBUSY);
		}
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
	case VDUSE_VQ_SETUP:
		assert_in_range(vq->index, 0, QUEUES - 1);
		kernel.sizes[vq->index] = vq->max_size;
		return 0;
	case VDUSE_VQ_SETUP_KICKFD:
		if (kick->index < QUEUES) {
			if (kernel.kick[kick->index] >= 0)
				close(kernel.kick[kick->index]);
			kernel.kick[kick->index] = dup(kick->fd);
		}
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

static inline bool
fake_is_domain(int fd)
{
	struct stat a, b;

	return kernel.domain >= 0 && __real_fstat64(fd, &a) == 0 &&
	       __real_fstat64(kernel.domain, &b) == 0 && a.st_ino == b.st_ino;
}

static char run_dir[64], sysfs[64];
static const struct vduse_kernel fake = {
	.open = fake_open, .ioctl = fake_ioctl, .is_domain = fake_is_domain, .run_dir = run_dir};

/* Send a request and wait for its answer; the result. */
static inline uint32_t
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

static inline uint32_t
set_status(uint8_t status)
{
	struct vduse_dev_request req = {.type = VDUSE_SET_STATUS, .s.status = status};
	struct vduse_dev_response resp;

	return ask(&req, &resp);
}

static inline uint32_t
update_iotlb(void)
{
	struct vduse_dev_request req = {.type = VDUSE_UPDATE_IOTLB, .iova.last = UINT64_MAX};
	struct vduse_dev_response resp;

	return ask(&req, &resp);
}

static inline struct vduse_dev_response
get_vq_state(uint32_t idx)
{
	struct vduse_dev_request req = {.type = VDUSE_GET_VQ_STATE, .vq_state.index = idx};
	struct vduse_dev_response resp;

	(void)ask(&req, &resp);
	return resp;
}

static inline enum vdpa_device_state
state_of(const char *name)
{
	struct vdpa_device *vdev = vdpa_find_device(name);
	enum vdpa_device_state state = vdpa_device_get_state(vdev);

	vdpa_put_device(vdev);
	return state;
}

static inline void
wait_for(const char *name, enum vdpa_device_state state)
{
	for (unsigned int i = 0; i < ANSWER && state_of(name) != state; i++)
		usleep(1000);
	assert_int_equal(state_of(name), state);
}

static inline void
add(const char *words)
{
	if (vdpa_dev_add(words) < 0)
		fail_msg("dev add %s: %s", words, vdpa_error_message());
}

static inline void
one_range(void)
{
	kernel.ranges[0] =
		(struct range){.start = IOVA, .last = IOVA + MEM_SIZE - 1, .perm = VDUSE_ACCESS_RW};
	kernel.n_ranges = 1;
}

static inline void
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
static inline void
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

/* A tree of files for sysfs, in which the device is on the bus; driver "" for none. */
static inline void
on_the_bus(const char *name, const char *driver)
{
	char path[256], target[64];

	for (const char *const *p =
		     (const char *const[]){"bus", "bus/vdpa", "bus/vdpa/devices",
					   "bus/vdpa/drivers", "bus/vdpa/drivers/virtio_vdpa",
					   "bus/vdpa/drivers/vhost_vdpa", NULL};
	     *p != NULL; p++) {
		snprintf(path, sizeof(path), "%s/%s", sysfs, *p);
		assert_true(mkdir(path, 0755) == 0 || errno == EEXIST);
	}
	snprintf(path, sizeof(path), "%s/bus/vdpa/devices/%s", sysfs, name);
	assert_int_equal(mkdir(path, 0755), 0);
	if (driver[0] == '\0')
		return;
	snprintf(path, sizeof(path), "%s/bus/vdpa/devices/%s/driver", sysfs, name);
	snprintf(target, sizeof(target), "../../drivers/%s", driver);
	assert_int_equal(symlink(target, path), 0);
}

static inline int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return ftw->level > 0 ? remove(path) : 0;
}

static inline void
off_the_bus(void)
{
	assert_int_equal(nftw(sysfs, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

static inline struct vduse_device *
front_end_of(const char *name)
{
	struct vdpa_device *vdev = vdpa_find_device(name);
	struct vduse_device *dev = vdpa_get_drvdata(vdev);

	vdpa_put_device(vdev);
	return dev;
}

/* Where in which file the memory at an IOVA is; false: there is none. Of a device between two
 * messages. */
static inline bool
memory_at(const char *name, uint64_t iova, ino_t *ino, uint64_t *offset)
{
	const struct vdpa_iotlb *tlb = front_end_of(name)->vdev->core->iotlb;

	if (tlb == NULL)
		return false;
	for (uint32_t i = 0; i < tlb->n; i++) {
		const struct vdpa_mem_region *r = tlb->regions[i];

		if (iova >= r->iova && iova - r->iova < r->size) {
			*ino = r->ino;
			*offset = r->offset + (iova - r->iova);
			return true;
		}
	}
	return false;
}

static inline ino_t
inode_of(int fd)
{
	struct stat st;

	assert_int_equal(__real_fstat64(fd, &st), 0);
	return st.st_ino;
}

static inline void
kick(uint16_t idx)
{
	vdpa_eventfd_signal(kernel.kick[idx]);
}

static inline int
group_setup(void **state)
{
	snprintf(sysfs, sizeof(sysfs), "/tmp/uvdpa-vduse-sysfs.XXXXXX");
	assert_non_null(mkdtemp(sysfs));
	vdpa_bus_set_roots(sysfs, "/nonexistent");
	kernel.domain = -1;
	for (unsigned int i = 0; i < QUEUES; i++)
		kernel.kick[i] = -1;
	snprintf(run_dir, sizeof(run_dir), "/tmp/uvdpa-vduse.XXXXXX");
	assert_non_null(mkdtemp(run_dir));
	kernel.ours = -1;
	kernel.mem = memfd_create("user", MFD_CLOEXEC);
	assert_int_equal(ftruncate(kernel.mem, MEM_SIZE), 0);
	vdpa_vduse_kernel = &fake;
	return vdpa_init(NULL);
}

static inline int
group_teardown(void **state)
{
	vdpa_cleanup();
	if (kernel.ours >= 0)
		close(kernel.ours);
	close(kernel.mem);
	for (unsigned int i = 0; i < QUEUES; i++)
		if (kernel.kick[i] >= 0)
			close(kernel.kick[i]);
	return rmdir(sysfs) == 0 ? rmdir(run_dir) : -1;
}

#endif /* VDUSE_TEST_H */
