/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * PCI functions of VFIO, played by eventfds for which these answer the kernel's calls: link with
 * --wrap of ioctl, pread64, pwrite64 and readlink. Include it after cmocka.h.
 */

#ifndef FENCE_TEST_H
#define FENCE_TEST_H

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <rte_common.h>

#define CONFIG	  0x70000000000
#define FUNCTIONS 200

/* A function, which all duplicates of its eventfd are, by the count of that. */
struct function {
	bool used;
	bool no_pci, no_info, no_reset, read_only;
	bool stuck_on;	     /* bus master cannot be cleared */
	bool gone;	     /* from the bus */
	int read_error;	     /* errno */
	int reset_error;     /* errno */
	unsigned int busy;   /* times that a reset is refused with EAGAIN */
	bool hangs_in_info;  /* until `released` */
	bool hangs_in_reset; /* until `released` */
	uint16_t command;    /* of its configuration space */
	uint16_t at_reset;   /* what it was when the function was reset */
	unsigned int resets, writes, asked;
};

static struct function functions[FUNCTIONS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool released;
static bool asks_kernel; /* each call is the kernel's first, which must not refuse it */
static bool refused;	 /* it was */

/* The function of a descriptor, by the count of its eventfd; NULL: none. */
static inline struct function *
function_of(int fd)
{
	char path[64], text[512] = "", *count;
	int info;
	unsigned int i;

	/* In a process that is confined, /proc cannot be opened: there is one function. */
	if (asks_kernel)
		return fcntl(fd, F_GETFL) >= 0 && functions[0].used ? &functions[0] : NULL;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	info = open(path, O_RDONLY | O_CLOEXEC);
	if (info < 0)
		return NULL;
	if (read(info, text, sizeof(text) - 1) < 0)
		text[0] = '\0';
	close(info);
	count = strstr(text, "eventfd-count:");
	if (count == NULL)
		return NULL;
	i = (unsigned int)strtoul(count + strlen("eventfd-count:"), NULL, 16);
	return i >= 1000 && i < 1000 + FUNCTIONS && functions[i - 1000].used ? &functions[i - 1000]
									     : NULL;
}

static inline void
allow(long rc)
{
	if (rc < 0 && errno == EPERM)
		refused = true;
}

static inline void
wait_for_release(void)
{
	while (!released)
		pthread_cond_wait(&changed, &lock);
}

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
ssize_t __real_pread64(int fd, void *buf, size_t size, off64_t at);
ssize_t __wrap_pread64(int fd, void *buf, size_t size, off64_t at);
ssize_t __real_pwrite64(int fd, const void *buf, size_t size, off64_t at);
ssize_t __wrap_pwrite64(int fd, const void *buf, size_t size, off64_t at);
ssize_t __real_readlink(const char *path, char *buf, size_t size);
ssize_t __wrap_readlink(const char *path, char *buf, size_t size);

static inline int
reset(struct function *f)
{
	if (f->no_reset) {
		errno = EINVAL;
		return -1;
	}
	if (f->busy > 0) {
		f->busy--;
		errno = EAGAIN;
		return -1;
	}
	f->at_reset = f->command;
	f->resets++;
	if (f->hangs_in_reset)
		wait_for_release();
	if (f->reset_error != 0) {
		errno = f->reset_error;
		return -1;
	}
	return 0;
}

static inline int
answer(struct function *f, unsigned long request, void *arg)
{
	struct vfio_device_info *device = arg;
	struct vfio_region_info *region = arg;

	switch (request) {
	case VFIO_DEVICE_GET_INFO:
		f->asked++;
		if (f->hangs_in_info)
			wait_for_release();
		if (f->no_info) {
			errno = ENOTTY;
			return -1;
		}
		assert_true(device->argsz >= offsetof(struct vfio_device_info, cap_offset));
		device->flags = f->no_pci ? VFIO_DEVICE_FLAGS_PLATFORM : VFIO_DEVICE_FLAGS_PCI;
		device->flags |= f->no_reset ? 0 : VFIO_DEVICE_FLAGS_RESET;
		device->num_regions = VFIO_PCI_NUM_REGIONS;
		return 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		assert_int_equal(region->index, VFIO_PCI_CONFIG_REGION_INDEX);
		region->flags = VFIO_REGION_INFO_FLAG_READ |
				(f->read_only ? 0 : VFIO_REGION_INFO_FLAG_WRITE);
		region->size = 256;
		region->offset = CONFIG;
		return 0;
	case VFIO_DEVICE_RESET:
		return reset(f);
	default:
		break;
	}
	fail_msg("request %#lx", request);
	return -1;
}

int
__wrap_ioctl(int fd, unsigned long request, ...)
{
	struct function *f = function_of(fd);
	va_list ap;
	void *arg;
	int rc = -1;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (f == NULL || asks_kernel)
		rc = __real_ioctl(fd, request, arg);
	if (f == NULL)
		return rc;
	if (asks_kernel)
		allow(rc);
	pthread_mutex_lock(&lock);
	rc = answer(f, request, arg);
	pthread_mutex_unlock(&lock);
	return rc;
}

ssize_t
__wrap_pread64(int fd, void *buf, size_t size, off64_t at)
{
	struct function *f = function_of(fd);
	uint16_t value;

	if (f == NULL)
		return __real_pread64(fd, buf, size, at);
	if (asks_kernel)
		allow(__real_pread64(fd, buf, size, at));
	assert_int_equal(size, 2);
	assert_int_equal(at, CONFIG + PCI_COMMAND);
	if (f->read_error != 0) {
		errno = f->read_error;
		return -1;
	}
	value = htole16(f->gone ? UINT16_MAX : f->command);
	memcpy(buf, &value, sizeof(value));
	return 2;
}

ssize_t
__wrap_pwrite64(int fd, const void *buf, size_t size, off64_t at)
{
	struct function *f = function_of(fd);
	uint16_t value;

	if (f == NULL)
		return __real_pwrite64(fd, buf, size, at);
	if (asks_kernel)
		allow(__real_pwrite64(fd, buf, size, at));
	assert_int_equal(size, 2);
	assert_int_equal(at, CONFIG + PCI_COMMAND);
	f->writes++;
	memcpy(&value, buf, sizeof(value));
	f->command = le16toh(value);
	if (f->stuck_on)
		f->command |= PCI_COMMAND_MASTER;
	return 2;
}

ssize_t
__wrap_readlink(const char *path, char *buf, size_t size)
{
	static const char title[] = "anon_inode:[vfio-device]";
	int fd;

	if (sscanf(path, "/proc/self/fd/%d", &fd) != 1 || function_of(fd) == NULL)
		return __real_readlink(path, buf, size);
	if (asks_kernel)
		allow(__real_readlink(path, buf, size));
	memcpy(buf, title, RTE_MIN(size, sizeof(title) - 1));
	return (ssize_t)RTE_MIN(size, sizeof(title) - 1);
}

/* A descriptor of a function that works; what is wrong with it is the test's to set. */
static inline int
make_function(unsigned int i)
{
	int fd = eventfd(1000 + i, EFD_CLOEXEC | EFD_NONBLOCK);

	assert_true(fd >= 0);
	functions[i] =
		(struct function){.used = true, .command = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER};
	return fd;
}

static inline bool
is_master(unsigned int i)
{
	return (__atomic_load_n(&functions[i].command, __ATOMIC_RELAXED) & PCI_COMMAND_MASTER) != 0;
}

/* Wait until bus master is off. */
static inline void
wait_for_fence(unsigned int i)
{
	for (unsigned int ms = 0; is_master(i); ms++) {
		if (ms == 30000)
			fail_msg("function %u is not fenced", i);
		usleep(1000);
	}
}

#endif /* FENCE_TEST_H */
