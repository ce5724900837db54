/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Runs inside the laboratory, see test_lab_fence.py: a virtio function whose daemon is killed while
 * a front end has its doorbell page mapped, and a keeper that fences it.
 *
 * A child plays the daemon: it opens the function by VFIO, starts a queue, gives the function's
 * files to the keeper and to the front end, and waits to be killed. The front end is this process:
 * the ring and the buffers are in its memory.
 */

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include <cmocka.h>

#include "../unit/test_util.h"

#include "fd_message.h"
#include "vdpa_error.h"
#include "vdpa_keep.h"

#define IOVA	   0x100000ull
#define SIZE	   0x10000ul
#define RING	   8
#define AVAIL	   0x1000
#define USED	   0x2000
#define BUFFER	   0x3000
#define BUFFER_LEN 64
#define KEEPER	   "/tmp/keeper.sock"
/* Time for what must not happen. */
#define QUIET_US   500000

/* A function, as the daemon has it. */
struct function {
	int container, group, device;
	uint64_t config; /* where its configuration space is in `device` */
	uint64_t common; /* the same for virtio's structures */
	uint64_t doorbell;
};

static uint8_t *memory;
static pid_t daemon_pid, keeper_pid;
static volatile uint16_t *doorbell;
static void *doorbell_page;

static const char *
variable(const char *name)
{
	const char *value = getenv(name);

	if (value == NULL)
		fail_msg("%s is not set", name);
	return value;
}

/* The daemon. What goes wrong ends it, which the front end sees. */

static void
check(bool good, const char *what)
{
	if (good)
		return;
	perror(what);
	_exit(1);
}

static void
write_register(const struct function *f, uint64_t offset, uint64_t value, size_t size)
{
	check(pwrite(f->device, &value, size, (off_t)(f->common + offset)) == (ssize_t)size,
	      "register");
}

static uint64_t
read_register(const struct function *f, uint64_t offset, size_t size)
{
	uint64_t value = 0;

	check(pread(f->device, &value, size, (off_t)(f->common + offset)) == (ssize_t)size,
	      "register");
	return value;
}

static uint64_t
region(const struct function *f, uint32_t index)
{
	struct vfio_region_info info = {.argsz = sizeof(info), .index = index};

	check(ioctl(f->device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0, "region");
	return info.offset;
}

static void
open_function(struct function *f, const char *address, int memory_fd)
{
	char path[64], link[256], *group;
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.iova = IOVA,
		.size = SIZE,
	};
	ssize_t n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	n = readlink(path, link, sizeof(link) - 1);
	check(n > 0, path);
	link[n] = '\0';
	group = strrchr(link, '/') + 1;
	snprintf(path, sizeof(path), "/dev/vfio/%.16s", group);
	f->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	f->group = open(path, O_RDWR | O_CLOEXEC);
	check(f->container >= 0 && f->group >= 0, path);
	check(ioctl(f->group, VFIO_GROUP_SET_CONTAINER, &f->container) == 0, "container");
	check(ioctl(f->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU) == 0, "IOMMU");
	f->device = ioctl(f->group, VFIO_GROUP_GET_DEVICE_FD, address);
	check(f->device >= 0, address);
	map.vaddr = (uintptr_t)mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	check(ioctl(f->container, VFIO_IOMMU_MAP_DMA, &map) == 0, "map");
}

/* Where virtio's structures are. */
static void
find_structures(struct function *f)
{
	uint16_t command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
	struct virtio_pci_notify_cap cap;
	uint64_t notify = 0;
	uint32_t multiplier = 0;
	uint8_t at;

	f->config = region(f, VFIO_PCI_CONFIG_REGION_INDEX);
	check(pwrite(f->device, &command, 2, (off_t)(f->config + PCI_COMMAND)) == 2, "command");
	check(pread(f->device, &at, 1, (off_t)(f->config + PCI_CAPABILITY_LIST)) == 1, "list");
	while (at != 0) {
		check(pread(f->device, &cap, sizeof(cap), (off_t)(f->config + at)) == sizeof(cap),
		      "capability");
		if (cap.cap.cap_vndr == PCI_CAP_ID_VNDR &&
		    cap.cap.cfg_type == VIRTIO_PCI_CAP_COMMON_CFG)
			f->common = region(f, cap.cap.bar) + cap.cap.offset;
		if (cap.cap.cap_vndr == PCI_CAP_ID_VNDR &&
		    cap.cap.cfg_type == VIRTIO_PCI_CAP_NOTIFY_CFG) {
			notify = region(f, cap.cap.bar) + cap.cap.offset;
			multiplier = cap.notify_off_multiplier;
		}
		at = cap.cap.cap_next;
	}
	check(f->common != 0 && notify != 0, "structures");
	f->doorbell = notify + multiplier * read_register(f, VIRTIO_PCI_COMMON_Q_NOFF, 2);
}

static void
start_queue(const struct function *f)
{
	uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	write_register(f, VIRTIO_PCI_COMMON_STATUS, 0, 1);
	write_register(f, VIRTIO_PCI_COMMON_STATUS, status, 1);
	write_register(f, VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	write_register(f, VIRTIO_PCI_COMMON_GF,
		       1u << (VIRTIO_F_VERSION_1 - 32) | 1u << (VIRTIO_F_ACCESS_PLATFORM - 32), 4);
	status |= VIRTIO_CONFIG_S_FEATURES_OK;
	write_register(f, VIRTIO_PCI_COMMON_STATUS, status, 1);
	check(read_register(f, VIRTIO_PCI_COMMON_STATUS, 1) == status, "features");
	write_register(f, VIRTIO_PCI_COMMON_Q_SELECT, 0, 2);
	write_register(f, VIRTIO_PCI_COMMON_Q_SIZE, RING, 2);
	for (unsigned int i = 0; i < 3; i++) {
		static const uint64_t parts[] = {IOVA, IOVA + AVAIL, IOVA + USED};

		/* DESC, AVAIL and USED have eight bytes each. */
		write_register(f, VIRTIO_PCI_COMMON_Q_DESCLO + 8 * i, (uint32_t)parts[i], 4);
		write_register(f, VIRTIO_PCI_COMMON_Q_DESCHI + 8 * i, parts[i] >> 32, 4);
	}
	write_register(f, VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
	write_register(f, VIRTIO_PCI_COMMON_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK, 1);
}

static void
run_daemon(const char *address, int memory_fd, int sock)
{
	struct function f = {.device = -1};
	struct vdpa_keep *k;
	struct iovec iov;

	open_function(&f, address, memory_fd);
	find_structures(&f);
	start_queue(&f);
	if (vdpa_keep_open("unix:" KEEPER, &k) < 0 ||
	    vdpa_keep_put(k, "rng0:vfio-container", f.container) < 0 ||
	    vdpa_keep_put(k, "rng0:vfio-group", f.group) < 0 ||
	    vdpa_keep_put(k, "rng0:vfio-device", f.device) < 0) {
		fprintf(stderr, "%s\n", vdpa_error_message());
		_exit(1);
	}
	iov = (struct iovec){&f.doorbell, sizeof(f.doorbell)};
	check(vdpa_send_fd(sock, &iov, 1, f.device, 0) == sizeof(f.doorbell), "front end");
	for (;;)
		pause();
}

/* The front end. */

static void
start_keeper(const char *fence_after)
{
	keeper_pid = fork();
	assert_true(keeper_pid >= 0);
	if (keeper_pid == 0) {
		execl(variable("KEEPER"), "vdpa-keeper", "--socket", KEEPER, "--fence-after",
		      fence_after, NULL);
		_exit(1);
	}
	EVENTUALLY(access(KEEPER, F_OK) == 0);
}

static int
end_of(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Start a daemon, and have the doorbell's page. */
static void
start_daemon(const char *address)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	uint64_t at;
	struct iovec iov = {&at, sizeof(at)};
	struct msghdr mh = {.msg_iov = &iov,
			    .msg_iovlen = 1,
			    .msg_control = control.buf,
			    .msg_controllen = sizeof(control.buf)};
	int memory_fd = memfd_create("guest", MFD_CLOEXEC), ends[2], fd;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);

	assert_int_equal(ftruncate(memory_fd, SIZE), 0);
	memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	daemon_pid = fork();
	assert_true(daemon_pid >= 0);
	if (daemon_pid == 0)
		run_daemon(address, memory_fd, ends[1]);
	close(memory_fd);
	close(ends[1]);
	if (recvmsg(ends[0], &mh, MSG_CMSG_CLOEXEC) != sizeof(at))
		fail_msg("the daemon has not started");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&mh)), sizeof(fd));
	doorbell_page =
		mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(at / page * page));
	assert_ptr_not_equal(doorbell_page, MAP_FAILED);
	doorbell = (volatile uint16_t *)((uint8_t *)doorbell_page + at % page);
	close(fd);
	close(ends[0]);
}

static void
kill_daemon(void)
{
	assert_int_equal(kill(daemon_pid, SIGKILL), 0);
	assert_int_equal(end_of(daemon_pid), -SIGKILL);
}

static uint16_t
used(void)
{
	const struct vring_used *ring = (const void *)(memory + USED);

	return __atomic_load_n(&ring->idx, __ATOMIC_ACQUIRE);
}

/* Have the function fill a buffer, and kick it. */
static void
post(void)
{
	struct vring_desc *desc = (void *)memory;
	struct vring_avail *avail = (void *)(memory + AVAIL);
	uint16_t i = avail->idx;

	memset(memory + BUFFER, 0, BUFFER_LEN);
	desc[0] = (struct vring_desc){
		.addr = IOVA + BUFFER, .len = BUFFER_LEN, .flags = VRING_DESC_F_WRITE};
	avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	avail->ring[i % RING] = 0;
	__atomic_store_n(&avail->idx, (uint16_t)(i + 1), __ATOMIC_RELEASE);
	*doorbell = 0;
}

static bool
is_filled(void)
{
	for (unsigned int i = 0; i < BUFFER_LEN; i++)
		if (memory[BUFFER + i] != 0)
			return true;
	return false;
}

static bool
is_master(const char *address)
{
	char path[64];
	uint16_t command;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/config", address);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(pread(fd, &command, 2, PCI_COMMAND), 2);
	close(fd);
	return (command & PCI_COMMAND_MASTER) != 0;
}

/* The last of what holds the function is this process' page. */
static bool
group_is_free(const char *address)
{
	char path[64], link[256];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	n = readlink(path, link, sizeof(link) - 1);
	assert_true(n > 0);
	link[n] = '\0';
	snprintf(path, sizeof(path), "/dev/vfio/%.16s", strrchr(link, '/') + 1);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* The function works without its daemon: whoever has the page makes it write to memory. */
static void
leave_running(const char *address, const char *fence_after)
{
	start_keeper(fence_after);
	start_daemon(address);
	post();
	EVENTUALLY(used() == 1);
	assert_true(is_filled());
	kill_daemon();
}

static void
works_without_daemon(void)
{
	uint16_t before = used();

	post();
	EVENTUALLY(used() == (uint16_t)(before + 1));
	assert_true(is_filled());
}

/* And after the fence it does not. */
static void
is_fenced(const char *address)
{
	uint16_t before = used();

	assert_false(is_master(address));
	for (unsigned int i = 0; i < 3; i++) {
		post();
		usleep(QUIET_US / 3);
		assert_int_equal(used(), before);
		assert_false(is_filled());
	}
	/* The kernel frees the group once the page is unmapped. */
	assert_false(group_is_free(address));
	munmap(doorbell_page, (size_t)sysconf(_SC_PAGESIZE));
	EVENTUALLY(group_is_free(address));
	munmap(memory, SIZE);
}

static int
ask_for_fence(const char *force)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		execl(variable("KEEPER"), "vdpa-keeper", "--socket", KEEPER, "--fence", force,
		      NULL);
		_exit(99);
	}
	return end_of(pid);
}

static void
end_keeper(void)
{
	assert_int_equal(kill(keeper_pid, SIGTERM), 0);
	assert_int_equal(end_of(keeper_pid), 0);
	unlink(KEEPER);
}

static void
by_request(const char *address)
{
	leave_running(address, "0");
	works_without_daemon();
	assert_int_equal(ask_for_fence(NULL), 0);
	is_fenced(address);
	end_keeper();
}

static void
a_function_with_a_reset_is_fenced_by_request(void **state)
{
	by_request(variable("RESET"));
}

static void
a_function_without_a_reset_is_fenced_by_request(void **state)
{
	by_request(variable("NO_RESET"));
}

static void
a_living_daemon_is_fenced_by_force_alone(void **state)
{
	const char *address = variable("RESET");

	start_keeper("0");
	start_daemon(address);
	assert_int_equal(ask_for_fence(NULL), 1);
	works_without_daemon();
	assert_int_equal(ask_for_fence("--force"), 0);
	kill_daemon();
	is_fenced(address);
	end_keeper();
}

static void
a_function_is_fenced_when_no_daemon_comes(void **state)
{
	const char *address = variable("NO_RESET");

	leave_running(address, "1");
	EVENTUALLY(!is_master(address));
	is_fenced(address);
	end_keeper();
}

static void
a_keeper_that_ends_fences(void **state)
{
	const char *address = variable("NO_RESET");

	leave_running(address, "0");
	works_without_daemon();
	end_keeper();
	is_fenced(address);
}

/* Without a fence: what holds the function is the page alone, and the function goes on. */
static void
a_keeper_that_is_killed_leaves_the_function_running(void **state)
{
	leave_running(variable("NO_RESET"), "0");
	assert_int_equal(kill(keeper_pid, SIGKILL), 0);
	assert_int_equal(end_of(keeper_pid), -SIGKILL);
	unlink(KEEPER);
	works_without_daemon();
	assert_true(is_master(variable("NO_RESET")));
	munmap(doorbell_page, (size_t)sysconf(_SC_PAGESIZE));
	EVENTUALLY(!is_master(variable("NO_RESET")));
	munmap(memory, SIZE);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_function_with_a_reset_is_fenced_by_request),
		cmocka_unit_test(a_function_without_a_reset_is_fenced_by_request),
		cmocka_unit_test(a_living_daemon_is_fenced_by_force_alone),
		cmocka_unit_test(a_function_is_fenced_when_no_daemon_comes),
		cmocka_unit_test(a_keeper_that_ends_fences),
		cmocka_unit_test(a_keeper_that_is_killed_leaves_the_function_running),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
