/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The VDUSE front end: a device of ours is one of the host's own kernel (linux/vduse.h), so that
 * this has a disk or a netdev of it, or gives it to others as /dev/vhost-vdpa-N. Owns the devices
 * that it serves; what is offered to the kernel, and what the core calls, is here.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "error_priv.h"
#include "restart.h"
#include "vdpa_error.h"
#include "vdpa_log.h"
#include "vduse.h"
#include "vduse_priv.h"

#define BOUNCE_MIN (UINT64_C(1) << 20)
#define BOUNCE_MAX (UINT64_C(1) << 30)

/* Features of rings and transport that VDUSE can carry; those of a class are the others (virtio
 * 1.2, 6). No message of VDUSE's resets a queue, suspends a device or has an administration queue.
 */
#define RING_FEATURES                                                                              \
	(RTE_BIT64(VIRTIO_F_NOTIFY_ON_EMPTY) | RTE_BIT64(VIRTIO_F_ANY_LAYOUT) |                    \
	 RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC) | RTE_BIT64(VIRTIO_RING_F_EVENT_IDX) |             \
	 RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM) |                     \
	 RTE_BIT64(VIRTIO_F_RING_PACKED) | RTE_BIT64(VIRTIO_F_IN_ORDER) |                          \
	 RTE_BIT64(VIRTIO_F_ORDER_PLATFORM))
#define NOT_CLASS_FEATURES (~UINT64_C(0) >> (63 - 49) & ~UINT64_C(0xffffff))

/* What the kernel refuses of a class, as each is written by the driver, and what hangs on that. */
#define NET_REFUSED                                                                                \
	(RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_MQ) |                            \
	 RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE))
#define BLK_REFUSED RTE_BIT64(VIRTIO_BLK_F_CONFIG_WCE)

/* A device's node is /dev/vduse/NAME, beside the kernel's own, and it has a folder in sysfs. */
static int
check_name(const char *name)
{
	if (name[0] == '.' || strcmp(name, "control") == 0)
		return vdpa_error(EINVAL,
				  "name '%s': cannot be one of a VDUSE device, whose node is "
				  "/dev/vduse/NAME: it is `control`, or begins with a dot",
				  name);
	return 0;
}

static int
offer(struct vduse_device *dev)
{
	struct vdpa_device *vdev = dev->vdev;
	uint32_t id = vdpa_get_device_id(vdev);
	uint64_t features = vdpa_consumer_offered_features(vdev, false);

	if (id != VIRTIO_ID_NET && id != VIRTIO_ID_BLOCK)
		return vdpa_error(
			ENOTSUP,
			"%s: VDUSE has net and block devices only, this one is of virtio type "
			"%u",
			vdev->name, id);
	features &= ~NOT_CLASS_FEATURES | RING_FEATURES;
	features &= ~(id == VIRTIO_ID_NET ? NET_REFUSED : BLK_REFUSED);
	features |= RTE_BIT64(VIRTIO_F_ACCESS_PLATFORM);
	if ((features & RTE_BIT64(VIRTIO_F_VERSION_1)) == 0)
		return vdpa_error(ENOTSUP, "%s: VDUSE needs a device with VIRTIO_F_VERSION_1",
				  vdev->name);
	dev->features = features;
	return 0;
}

static const struct vdpa_param_choice mode_choices[] = {
	{.name = "virtio", .help = "a disk or a netdev of the host's (the default)"},
	{.name = "vhost", .help = "/dev/vhost-vdpa-N"},
	{.name = "none", .help = "/dev/vduse/NAME only: `vdpa dev add` is left to the operator"},
	{.name = NULL},
};

static const struct vdpa_param_choice inflight_choices[] = {
	{.name = "auto",
	 .help = "of block devices, and where the device does so itself (the "
		 "default)"},
	{.name = "on", .help = "of any: one that does not by itself runs on shadow virtqueues"},
	{.name = "off", .help = "never"},
	{.name = NULL},
};

static void
parse(struct vduse_device *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *mode = vdpa_args_find(args, "mode");
	const struct vdpa_arg *inflight = vdpa_args_find(args, "inflight");
	bool keeps_account = vdpa_device_tracks_inflight(dev->vdev);

	if (mode != NULL)
		dev->mode = (enum vduse_mode)(mode->choice - mode_choices);
	if (inflight != NULL)
		dev->tracking = (enum vduse_tracking)(inflight->choice - inflight_choices);
	dev->bounce_size = vdpa_args_u64(args, "bounce", 0);
	dev->tracks = dev->tracking == VDUSE_INFLIGHT_ON ||
		      (dev->tracking == VDUSE_INFLIGHT_AUTO &&
		       (keeps_account || vdpa_get_device_id(dev->vdev) == VIRTIO_ID_BLOCK));
}

static void
config_run(struct vdpa_work *work)
{
	struct vduse_device *dev = work->arg;
	const char *name = dev->vdev->name;

	if (!vdpa_vduse_is_broken(dev) && vdpa_vduse_dev_set_config(dev) < 0)
		VDPA_LOG_LIMITED(&dev->log, ERR, "%s: vduse: %s", name,
				 vdpa_error_cause(vdpa_error_message(), name, -1));
}

static struct vduse_device *
alloc_device(struct vdpa_device *vdev)
{
	bool net = vdpa_get_device_id(vdev) == VIRTIO_ID_NET;
	uint16_t n = vdpa_consumer_data_vqs(vdev);
	struct vduse_device *dev;

	if (net)
		n = RTE_MIN(n, 2);
	dev = calloc(1, sizeof(*dev) + n * sizeof(dev->vqs[0]));
	if (dev == NULL)
		return NULL;
	dev->vdev = vdev;
	dev->nvqs = n;
	dev->fd = dev->record.fd = dev->memory.bounce_fd = -1;
	vdpa_vduse_memory_renew(dev);
	dev->event = (struct vdpa_event){
		.events = EPOLLIN | EPOLLONESHOT, .handler = vdpa_vduse_readable, .arg = dev};
	dev->messages = (struct vdpa_work){.run = vdpa_vduse_messages_run, .arg = dev};
	dev->kicked = (struct vdpa_work){.run = vdpa_vduse_kicked_run, .arg = dev};
	dev->config = (struct vdpa_work){.run = config_run, .arg = dev};
	dev->retry = (struct vdpa_timer){.expired = vdpa_vduse_retry, .arg = dev};
	for (uint16_t i = 0; i < n; i++) {
		dev->vqs[i].dev = dev;
		dev->vqs[i].idx = i;
		dev->vqs[i].kick_fd = dev->vqs[i].call_fd = -1;
	}
	dev->fds = vdpa_fd_account_create();
	dev->consumer = vdpa_consumer_new(vdev, NULL, NULL);
	if (dev->consumer != NULL)
		vdpa_consumer_report_status(dev->consumer, true);
	return dev;
}

/* No job runs any more. */
static void
free_device(struct vduse_device *dev)
{
	vdpa_consumer_free(dev->consumer);
	vdpa_vduse_memory_free(dev);
	vdpa_fd_account_destroy(dev->fds);
	free(dev);
}

/* On return no message, kick or interrupt is handled. */
static void
stop_serving(struct vduse_device *dev)
{
	/* Events post jobs, and jobs arm events: no job runs after the first round, so that none
	 * has an event in the second. */
	for (unsigned int round = 0; round < 2; round++) {
		vdpa_event_del(&dev->event);
		for (uint16_t i = 0; i < dev->nvqs; i++)
			vdpa_event_del(&dev->vqs[i].kick_ev);
		vdpa_work_cancel(&dev->messages);
		vdpa_work_cancel(&dev->kicked);
		vdpa_work_cancel(&dev->config);
	}
	vdpa_vduse_stop(dev);
	vdpa_timer_stop(&dev->retry);
}

static int
start_serving(struct vduse_device *dev)
{
	int rc = dev->resumed ? vdpa_vduse_dev_set_config(dev) : 0;

	if (rc < 0)
		return rc;
	dev->resumes = dev->resumed;
	dev->event.fd = dev->fd;
	rc = vdpa_event_add(vdpa_event_loop_control(), &dev->event);
	if (rc == 0 && dev->resumes)
		vdpa_work_post(vdpa_get_work_queue(dev->vdev), &dev->messages);
	return rc;
}

static int
vduse_probe(struct vdpa_device *vdev, const struct vdpa_args *args)
{
	struct vduse_device *dev = alloc_device(vdev);
	struct vdpa_error_saved error;
	int rc;

	if (dev == NULL || dev->fds == NULL || dev->consumer == NULL) {
		if (dev != NULL)
			free_device(dev);
		return vdpa_error(ENOMEM, "%s: out of memory", vdev->name);
	}
	parse(dev, args);
	rc = check_name(vdev->name);
	if (rc == 0)
		rc = offer(dev);
	if (rc == 0)
		rc = vdpa_vduse_dev_open(dev);
	if (rc < 0) {
		free_device(dev);
		return rc;
	}
	vdpa_device_add_connections(vdev, 1);
	vdpa_set_drvdata(vdev, dev);
	vdpa_restart_goes_by_itself(vdev->name);
	rc = start_serving(dev);
	if (rc == 0)
		rc = vdpa_vduse_bus_add(dev);
	if (rc == 0) {
		if (dev->resumed)
			VDPA_LOG(NOTICE, "%s: vduse: taken up where a process before this one was",
				 vdev->name);
		return 0;
	}
	vdpa_error_save(&error);
	vdpa_set_drvdata(vdev, NULL);
	if (!dev->resumed && vdpa_vduse_bus_has(dev))
		(void)vdpa_vduse_bus_del(dev);
	stop_serving(dev);
	vdpa_vduse_record_close(dev, dev->resumed);
	vdpa_vduse_dev_close(dev, !dev->resumed);
	free_device(dev);
	vdpa_error_restore(&error);
	return rc;
}

/* The kernel's device is taken off the bus while ours still serves it: a disk writes what it has
 * cached. One that the kernel has given up goes without that, where nobody uses it. */
static int
vduse_withdraw(struct vdpa_device *vdev, bool leave)
{
	struct vduse_device *dev = vdpa_get_drvdata(vdev);
	int rc;

	if (dev == NULL)
		return 0;
	rc = leave ? vdpa_vduse_bus_check_unused(dev, true) : 0;
	if (rc == 0)
		rc = vdpa_vduse_bus_del(dev);
	if (rc == 0 || !vdpa_vduse_is_broken(dev))
		return rc;
	VDPA_LOG(NOTICE, "%s: vduse: the kernel keeps a dead device: %s", vdev->name,
		 vdpa_error_cause(vdpa_error_message(), vdev->name, -1));
	return 0;
}

static void
vduse_remove(struct vdpa_device *vdev)
{
	struct vduse_device *dev = vdpa_get_drvdata(vdev);
	bool stays;

	if (dev == NULL)
		return;
	vdpa_set_drvdata(vdev, NULL);
	stays = vdpa_vduse_bus_has(dev);
	stop_serving(dev);
	if (stays && vdpa_vduse_is_broken(dev))
		VDPA_LOG(NOTICE,
			 "%s: vduse: the kernel's device is dead and cannot be taken up: `vdpa dev "
			 "del %s` once nobody uses it",
			 vdev->name, vdev->name);
	else if (stays)
		VDPA_LOG(NOTICE,
			 "%s: vduse: the kernel still uses the device: it waits for one that is "
			 "added by the same name and words, or for `vdpa dev del %s`",
			 vdev->name, vdev->name);
	vdpa_vduse_record_close(dev, stays);
	vdpa_vduse_dev_close(dev, !stays);
	free_device(dev);
}

/* On the control loop: what is read of the device may wait for its lock. */
static void
vduse_config_changed(struct vdpa_device *vdev)
{
	struct vduse_device *dev = vdpa_get_drvdata(vdev);

	if (dev != NULL)
		vdpa_work_post(vdpa_get_work_queue(vdev), &dev->config);
}

static void
vduse_failed(struct vdpa_device *vdev, int qidx)
{
	struct vduse_device *dev = vdpa_get_drvdata(vdev);

	/* VDUSE has no word for NEEDS_RESET. */
	if (dev != NULL)
		VDPA_LOG_LIMITED(&dev->log, WARNING,
				 "%s: vduse: the kernel cannot be told that the device has failed: "
				 "its driver waits until it resets the device",
				 vdev->name);
}

static void
vduse_describe(struct vdpa_device *vdev, char *buf, size_t len)
{
	vdpa_vduse_bus_describe(vdev, buf, len);
}

static const struct vdpa_frontend_ops vduse_ops = {
	.probe = vduse_probe,
	.withdraw = vduse_withdraw,
	.remove = vduse_remove,
	.config_changed = vduse_config_changed,
	.failed = vduse_failed,
	.describe = vduse_describe,
};

static const struct vdpa_param vduse_params[] = {
	{.name = "mode",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = mode_choices,
	 .help = "as what the host's kernel has the device:"},
	{.name = "bounce",
	 .type = VDPA_PARAM_SIZE,
	 .metavar = "SIZE",
	 .min = BOUNCE_MIN,
	 .max = BOUNCE_MAX,
	 .help = "memory through which the kernel's own driver moves data; default 64M"},
	{.name = "inflight",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = inflight_choices,
	 .help = "whether account is kept of requests under way, so that they outlive this "
		 "process:"},
	{.name = NULL},
};

struct vdpa_frontend vdpa_vduse_frontend = {
	.name = "vduse",
	.help = "a device of the host's own kernel: a disk, a netdev or /dev/vhost-vdpa-N",
	.ops = &vduse_ops,
	.params = vduse_params,
};
