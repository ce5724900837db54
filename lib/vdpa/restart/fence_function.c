/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* How a function of VFIO is stopped by its descriptor alone (fence_function.h). */

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include "clock.h"
#include "fence_function.h"

/* The kernel refuses a reset while somebody else uses the function's lock. */
#define RESET_TRIES    5
#define RESET_PAUSE_MS 10

bool
vdpa_fence_may_be_function(int fd)
{
	/* By a group, and by a character device. Files have names that begin with a slash, so none
	 * is called like the first one; the second is what another file system may have. */
	static const char *const titles[] = {"anon_inode:[vfio-device]", "/dev/vfio/devices/"};
	char path[sizeof("/proc/self/fd/2147483647")], title[64];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, title, sizeof(title) - 1);
	title[n > 0 ? n : 0] = '\0';
	for (unsigned int i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
		if (strncmp(title, titles[i], strlen(titles[i])) == 0)
			return true;
	return false;
}

static void
set_step(enum fence_step *step, enum fence_step to)
{
	__atomic_store_n(step, to, __ATOMIC_RELEASE);
}

/* Whether fd is a PCI function whose configuration space can be read and written. */
static bool
ask(int fd, bool *can_reset, uint64_t *config)
{
	struct vfio_device_info device = {.argsz = sizeof(device)};
	struct vfio_region_info region = {
		.argsz = sizeof(region),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	const uint32_t rw = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	if (ioctl(fd, VFIO_DEVICE_GET_INFO, &device) < 0 ||
	    (device.flags & VFIO_DEVICE_FLAGS_PCI) == 0 ||
	    device.num_regions <= VFIO_PCI_CONFIG_REGION_INDEX)
		return false;
	if (ioctl(fd, VFIO_DEVICE_GET_REGION_INFO, &region) < 0 || (region.flags & rw) != rw ||
	    region.size < PCI_COMMAND + sizeof(uint16_t))
		return false;
	*can_reset = (device.flags & VFIO_DEVICE_FLAGS_RESET) != 0;
	*config = region.offset;
	return true;
}

static int
read_command(int fd, uint64_t config, uint16_t *command)
{
	uint16_t le;
	ssize_t n = pread64(fd, &le, sizeof(le), (off64_t)(config + PCI_COMMAND));

	if (n != sizeof(le))
		return n < 0 ? -errno : -EIO;
	*command = le16toh(le);
	return 0;
}

/* Clear bus master where it is on; *command: what the register reads afterwards. All ones: the
 * function has left the bus. */
static int
stop(int fd, uint64_t config, uint16_t *command)
{
	int rc = read_command(fd, config, command);
	uint16_t le;

	if (rc < 0 || *command == UINT16_MAX || (*command & PCI_COMMAND_MASTER) == 0)
		return rc;
	le = htole16(*command & (uint16_t)~PCI_COMMAND_MASTER);
	if (pwrite64(fd, &le, sizeof(le), (off64_t)(config + PCI_COMMAND)) < 0)
		return -errno;
	return read_command(fd, config, command);
}

static int
reset(int fd)
{
	for (unsigned int i = 0; i < RESET_TRIES; i++) {
		if (ioctl(fd, VFIO_DEVICE_RESET) == 0)
			return 0;
		if (errno != EAGAIN)
			break;
		poll(NULL, 0, RESET_PAUSE_MS);
	}
	return -errno;
}

void
vdpa_fence_function(int fd, enum fence_step *step, struct fence_outcome *outcome)
{
	int64_t begun_us = vdpa_now_us();
	uint64_t config;
	uint16_t command;
	bool can_reset;
	char how[64];
	long long us;
	int rc;

	outcome->fenced = false;
	set_step(step, FENCE_ASKS);
	if (!ask(fd, &can_reset, &config)) {
		snprintf(outcome->text, sizeof(outcome->text),
			 "not fenced: the descriptor is no PCI function of VFIO");
		return;
	}
	set_step(step, FENCE_STOPS);
	rc = stop(fd, config, &command);
	set_step(step, FENCE_RESETS);
	if (!can_reset) {
		snprintf(how, sizeof(how), "bus master cleared, as it has no reset");
	} else {
		int failed = reset(fd);

		snprintf(how, sizeof(how), failed == 0 ? "reset" : "bus master cleared, reset: %s",
			 strerror(-failed));
	}
	set_step(step, FENCE_CHECKS);
	if (can_reset)
		rc = stop(fd, config, &command);
	us = (long long)(vdpa_now_us() - begun_us);
	if (rc < 0)
		snprintf(outcome->text, sizeof(outcome->text), "not fenced: command register: %s",
			 strerror(-rc));
	else if (command != UINT16_MAX && (command & PCI_COMMAND_MASTER) != 0)
		snprintf(outcome->text, sizeof(outcome->text), "not fenced: bus master stays on");
	else
		outcome->fenced = true;
	if (outcome->fenced && command == UINT16_MAX)
		snprintf(outcome->text, sizeof(outcome->text),
			 "fenced: the function has left the bus");
	else if (outcome->fenced)
		snprintf(outcome->text, sizeof(outcome->text),
			 "fenced: %s; bus master is off; %lld.%lld ms", how, us / 1000,
			 us % 1000 / 100);
}
