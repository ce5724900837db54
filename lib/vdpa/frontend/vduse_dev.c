/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's VDUSE device: made with our device's class, features and configuration, or taken up
 * again where a predecessor has left it, and destroyed. It belongs to no process: it is there until
 * somebody destroys it, which the kernel refuses while it is on the vDPA bus or open.
 *
 * Owns its descriptor.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "error_priv.h"
#include "vdpa_bus.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vduse_priv.h"

#define CONTROL	 "/dev/vduse/control"
#define NODE	 "/dev/vduse/%s"
#define VQ_ALIGN 4096
/* How long the node may take to come, and a process that was killed to let go of the device. */
#define OPEN_US	 5000000
#define NAP_NS	 10000000
#define TRIES	 50

static int
kernel_open(const char *path, int flags)
{
	return open(path, flags);
}

static int
kernel_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg);
}

static bool
kernel_is_domain(int fd)
{
	return vdpa_fd_is_vduse_domain(fd);
}

static const struct vduse_kernel the_kernel = {
	.open = kernel_open, .ioctl = kernel_ioctl, .is_domain = kernel_is_domain};

const struct vduse_kernel *vdpa_vduse_kernel = &the_kernel;

static int
open_control(const struct vduse_device *dev)
{
	uint64_t version = VDUSE_API_VERSION;
	int fd = vdpa_vduse_kernel->open(CONTROL, O_RDWR | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return vdpa_error(ENOENT, "%s: %s is not there: modprobe vduse", dev->vdev->name,
				  CONTROL);
	if (fd < 0)
		return vdpa_error(errno, "%s: %s: %m", dev->vdev->name, CONTROL);
	if (vdpa_vduse_kernel->ioctl(fd, VDUSE_SET_API_VERSION, &version) < 0) {
		int rc = vdpa_error(errno, "%s: version of VDUSE: %m", dev->vdev->name);

		close(fd);
		return rc;
	}
	return fd;
}

static int
create(struct vduse_device *dev, int control)
{
	size_t len = vdpa_get_config_size(dev->vdev);
	struct vduse_dev_config *config = calloc(1, sizeof(*config) + len);
	int rc;

	if (config == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", dev->vdev->name);
	snprintf(config->name, sizeof(config->name), "%s", dev->vdev->name);
	config->device_id = vdpa_get_device_id(dev->vdev);
	config->vendor_id = vdpa_get_vendor_id(dev->vdev);
	config->features = dev->features;
	config->vq_num = dev->nvqs;
	config->vq_align = VQ_ALIGN;
	config->config_size = (uint32_t)len;
	rc = vdpa_get_config(dev->vdev, 0, config->config, len);
	if (rc == 0 && vdpa_vduse_kernel->ioctl(control, VDUSE_CREATE_DEV, config) < 0)
		rc = vdpa_error(errno, "%s: VDUSE device: %m%s", dev->vdev->name,
				errno == EPERM ? "; a net device needs CAP_NET_ADMIN" : "");
	free(config);
	return rc;
}

/* Who else has the device's node open. */
static void
find_opener(const struct vduse_device *dev, char *buf, size_t len)
{
	char path[96];

	snprintf(path, sizeof(path), NODE, dev->vdev->name);
	vdpa_bus_opener(path, buf, len);
}

/* How often it is tried where a process has its node open, which may do so again and again. */
static int
destroy(struct vduse_device *dev, int control, unsigned int tries)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	char name[VDUSE_NAME_MAX] = {0}, user[64];

	snprintf(name, sizeof(name), "%s", dev->vdev->name);
	for (unsigned int i = 0; i < tries; i++) {
		if (i > 0)
			nanosleep(&nap, NULL);
		if (vdpa_vduse_kernel->ioctl(control, VDUSE_DESTROY_DEV, name) == 0)
			return 0;
		if (errno != EBUSY)
			return vdpa_error(errno, "%s: the VDUSE device stays: %m", dev->vdev->name);
	}
	if (vdpa_vduse_bus_has(dev))
		return vdpa_error(EBUSY, "%s: the VDUSE device stays: the kernel uses it",
				  dev->vdev->name);
	find_opener(dev, user, sizeof(user));
	return vdpa_error(EBUSY, "%s: the VDUSE device stays: " NODE " is open in %s",
			  dev->vdev->name, dev->vdev->name, user);
}

/* Open the node, which comes a moment after the device, and which a predecessor that was killed
 * leaves a moment after its end. */
static int
open_node(struct vduse_device *dev)
{
	int64_t until = vdpa_now_us() + OPEN_US;
	char path[96], user[64];

	snprintf(path, sizeof(path), NODE, dev->vdev->name);
	for (;;) {
		struct timespec nap = {.tv_nsec = NAP_NS};

		dev->fd = vdpa_vduse_kernel->open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
		if (dev->fd >= 0)
			return 0;
		if (errno == EBUSY && vdpa_now_us() > until) {
			find_opener(dev, user, sizeof(user));
			return vdpa_error(EBUSY, "%s: %s: %s serves it", dev->vdev->name, path,
					  user);
		}
		if ((errno != ENOENT && errno != EBUSY) || vdpa_now_us() > until)
			return vdpa_error(errno, "%s: %s: %m", dev->vdev->name, path);
		nanosleep(&nap, NULL);
	}
}

static int
set_up_vqs(struct vduse_device *dev)
{
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		struct vduse_vq_config config = {.index = i,
						 .max_size = vdpa_get_vq_size_max(dev->vdev, i)};

		if (vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_VQ_SETUP, &config) < 0)
			return vdpa_error(errno, "%s: queue %u: %m", dev->vdev->name, i);
	}
	return 0;
}

/* The size of the bounce range, before the device is on the bus. */
static int
set_bounce_size(const struct vduse_device *dev)
{
	char path[128];
	int fd, rc = 0;

	if (dev->bounce_size == 0)
		return 0;
	snprintf(path, sizeof(path), "/sys/class/vduse/%s/bounce_size", dev->vdev->name);
	fd = vdpa_vduse_kernel->open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || dprintf(fd, "%llu", (unsigned long long)dev->bounce_size) < 0)
		rc = vdpa_error(errno, "%s: bounce: %s: %m", dev->vdev->name, path);
	if (fd >= 0)
		close(fd);
	return rc;
}

static int
make(struct vduse_device *dev, int control)
{
	int rc = vdpa_vduse_record_open(dev, true);

	if (rc < 0)
		return rc;
	rc = open_node(dev);
	if (rc == 0)
		rc = set_up_vqs(dev);
	if (rc == 0)
		rc = set_bounce_size(dev);
	if (rc == 0)
		return 0;
	if (dev->fd >= 0)
		close(dev->fd);
	dev->fd = -1;
	vdpa_vduse_record_close(dev, false);
	return rc;
}

/* A device of this name is there. One that the kernel does not use is made anew; one that it does
 * use is taken up if it is ours. */
static int
take_up(struct vduse_device *dev, int control)
{
	int rc;

	if (!vdpa_vduse_bus_has(dev) && destroy(dev, control, 1) == 0)
		return create(dev, control);
	rc = vdpa_vduse_record_open(dev, false);
	if (rc < 0) {
		struct vdpa_error_saved why;

		vdpa_error_save(&why);
		return vdpa_error(
			EEXIST,
			"a VDUSE device '%s' is in use, and cannot be taken up (%s): vdpa dev "
			"del %s",
			dev->vdev->name, vdpa_error_cause(why.text, dev->vdev->name, -1),
			dev->vdev->name);
	}
	dev->resumed = true;
	return 0;
}

int
vdpa_vduse_dev_open(struct vduse_device *dev)
{
	struct vdpa_error_saved error;
	int control = open_control(dev), rc;

	if (control < 0)
		return control;
	rc = create(dev, control);
	if (rc == -EEXIST)
		rc = take_up(dev, control);
	if (rc == 0 && dev->resumed) {
		rc = open_node(dev);
		if (rc < 0)
			vdpa_vduse_record_close(dev, true);
	} else if (rc == 0) {
		rc = make(dev, control);
		if (rc < 0) {
			vdpa_error_save(&error);
			(void)destroy(dev, control, TRIES);
			vdpa_error_restore(&error);
		}
	}
	close(control);
	return rc;
}

void
vdpa_vduse_dev_close(struct vduse_device *dev, bool destroys)
{
	int control;

	if (dev->fd < 0)
		return;
	close(dev->fd);
	dev->fd = -1;
	if (!destroys)
		return;
	control = open_control(dev);
	if (control < 0 || destroy(dev, control, TRIES) < 0)
		VDPA_LOG(WARNING, "%s", vdpa_error_message());
	if (control >= 0)
		close(control);
}

int
vdpa_vduse_dev_set_config(struct vduse_device *dev)
{
	size_t len = vdpa_get_config_size(dev->vdev);
	struct vduse_config_data *config = calloc(1, sizeof(*config) + len);
	int rc;

	if (config == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", dev->vdev->name);
	config->length = (uint32_t)len;
	rc = vdpa_get_config(dev->vdev, 0, config->buffer, len);
	if (rc == 0 && vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_DEV_SET_CONFIG, config) < 0)
		rc = vdpa_error(errno, "%s: configuration: %m", dev->vdev->name);
	free(config);
	/* Nobody is to be interrupted before DRIVER_OK. */
	if (rc == 0 && vdpa_vduse_kernel->ioctl(dev->fd, VDUSE_DEV_INJECT_CONFIG_IRQ, NULL) < 0 &&
	    errno != EINVAL)
		rc = vdpa_error(errno, "%s: configuration interrupt: %m", dev->vdev->name);
	return rc;
}
