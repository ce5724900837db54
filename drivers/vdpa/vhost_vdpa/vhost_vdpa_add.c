/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * How a device comes of a parent, `vhost-vdpa/NAME` with NAME on the kernel's vDPA bus, and goes.
 * The parent's file is open from dev add to dev del, so that nobody else has it meanwhile.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "error_priv.h"
#include "vdpa_log.h"
#include "vhost_vdpa.h"
#include "vhost_vdpa_compat.h"
#include "virtio_compat.h"
#include "virtio_type.h"

#define PREFIX	   "vhost-vdpa/"
#define VHOST_VDPA "vhost_vdpa"

/* Where a field of a net device's configuration is (5.1.4). */
#define NET_CONFIG(field) offsetof(struct virtio_net_config, field)

/* On the control loop. */
static void
on_gone(void *arg)
{
	struct vhost_vdpa *dev = arg;

	__atomic_store_n(&dev->gone, true, __ATOMIC_RELEASE);
	vdpa_device_gone(&dev->vdev, ENODEV,
			 "the kernel takes %s back: its vDPA device is deleted or unbound",
			 dev->kernel.path);
}

void
vv_free(struct vdpa_device *vdev)
{
	struct vhost_vdpa *dev = vv_dev(vdev);

	vv_watch_del(&dev->watch);
	vv_ctrl_release(dev);
	for (uint16_t i = 0; dev->vqs != NULL && i < dev->nvqs; i++)
		vv_kernel_unmap_doorbell(dev->vqs[i].doorbell);
	vdpa_dma_domain_destroy(dev->dom);
	/* The kernel resets the parent and unmaps what is left. */
	vv_kernel_close(&dev->kernel);
	pthread_mutex_destroy(&dev->kick_lock);
	free(dev->vqs);
	free(dev->parent);
}

/* What the parent has, and the words. */

/* Pairs of a net device: as many as it has, or as the word says. */
static int
count_pairs(struct vhost_vdpa *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *word = vdpa_args_find(args, "max_vqp");
	uint64_t mq = RTE_BIT64(VIRTIO_NET_F_MQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_VQ);
	uint16_t le, pairs;
	int rc;

	dev->hw_pairs = 1;
	if ((dev->info.features & mq) == mq &&
	    dev->config_size >= NET_CONFIG(max_virtqueue_pairs) + sizeof(le)) {
		rc = vv_kernel_get_config(&dev->kernel, NET_CONFIG(max_virtqueue_pairs), &le,
					  sizeof(le));
		if (rc < 0)
			return rc;
		dev->hw_pairs = rte_le_to_cpu_16(le);
	}
	/* Without as many queues, and one for the commands, there are no pairs to choose from. */
	if (dev->hw_pairs < 1 || 2u * dev->hw_pairs + (dev->hw_pairs > 1) > dev->info.nvqs)
		return vdpa_error(EPROTO,
				  "%s: the device says that it has %u queue pairs, of %u "
				  "queues",
				  dev->parent, dev->hw_pairs, dev->info.nvqs);
	pairs = RTE_MIN(dev->hw_pairs, VDPA_VQ_MAX / 2);
	if (word != NULL && word->u64 > pairs)
		return vdpa_error(EINVAL, "max_vqp %" PRIu64 ": the device has %u", word->u64,
				  pairs);
	dev->nvqs = (uint16_t)(2 * (word != NULL ? word->u64 : pairs));
	return 0;
}

static int
find_queues(struct vhost_vdpa *dev, const struct vdpa_args *args)
{
	uint16_t max = 0, size;
	uint64_t limit;
	int rc = 0;

	dev->nvqs = (uint16_t)RTE_MIN(dev->info.nvqs, (uint32_t)VDPA_VQ_MAX);
	if (dev->info.device_id == VIRTIO_ID_NET)
		rc = count_pairs(dev, args);
	else if (vdpa_args_has(args, "max_vqp"))
		rc = vdpa_error(EINVAL, "max_vqp: is a word of net devices; this one has type %u",
				dev->info.device_id);
	if (rc < 0)
		return rc;
	dev->vqs = calloc(dev->nvqs, sizeof(dev->vqs[0]));
	if (dev->vqs == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		dev->vqs[i].kick_fd = dev->vqs[i].own_kick = -1;
		rc = vv_kernel_vq_size(&dev->kernel, i, dev->info.num_max, &size);
		if (rc < 0)
			return rc;
		size = (uint16_t)RTE_MIN(rte_align32prevpow2(size), (uint32_t)VDPA_VQ_NUM_MAX);
		dev->vqs[i].size_max = size;
		max = RTE_MAX(max, size);
	}
	limit = vdpa_args_u64(args, "queue_size", max);
	if (limit > max)
		return vdpa_error(EINVAL, "queue_size %" PRIu64 ": the device has %u", limit, max);
	dev->num_max = (uint16_t)limit;
	for (uint16_t i = 0; i < dev->nvqs; i++)
		dev->vqs[i].size_max = RTE_MIN(dev->vqs[i].size_max, dev->num_max);
	return 0;
}

static int
choose_features(struct vhost_vdpa *dev, const struct vdpa_args *args)
{
	const struct vdpa_arg *mask = vdpa_args_find(args, "device_features");
	uint64_t mq = RTE_BIT64(VIRTIO_NET_F_MQ);

	if (!vv_has(dev->info.features, VIRTIO_F_VERSION_1))
		return vdpa_error(ENOTSUP, "%s: the device does not offer VIRTIO_F_VERSION_1",
				  dev->parent);
	dev->offered =
		virtio_type_guest_features(dev->info.device_id, dev->info.features, dev->nvqs);
	/* The kernel's kicks carry no data. */
	dev->offered &= ~RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA);
	if (dev->info.device_id == VIRTIO_ID_NET && (vv_ctrl_features(dev) & mq) == 0)
		dev->offered &= ~mq;
	if (mask == NULL)
		return 0;
	if ((mask->u64 & ~dev->offered) != 0)
		return vdpa_error(EINVAL,
				  "device_features 0x%" PRIx64 ": the device has 0x%" PRIx64,
				  mask->u64, dev->offered);
	dev->offered = mask->u64 | RTE_BIT64(VIRTIO_F_VERSION_1);
	return 0;
}

static int
take_mac(struct vhost_vdpa *dev, const struct vdpa_args *args)
{
	uint64_t set_mac = RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR);
	const struct vdpa_arg *mac = vdpa_args_find(args, "mac");

	if (mac == NULL)
		return 0;
	if (dev->info.device_id != VIRTIO_ID_NET)
		return vdpa_error(EINVAL, "mac: is a word of net devices; this one has type %u",
				  dev->info.device_id);
	if ((dev->info.features & set_mac) != set_mac ||
	    dev->config_size < NET_CONFIG(mac) + sizeof(dev->mac))
		return vdpa_error(
			EOPNOTSUPP,
			"mac: the device does not let its address be set here; give it to "
			"the kernel's vdpa dev add");
	dev->has_mac = true;
	memcpy(dev->mac, mac->mac, sizeof(dev->mac));
	return 0;
}

static int
look_at_parent(struct vhost_vdpa *dev, const struct vdpa_args *args)
{
	int rc = vv_kernel_ask_parent(&dev->kernel, &dev->info);

	if (rc < 0)
		return rc;
	/* What is behind the type's own reads as anything. */
	dev->config_size = RTE_MIN(dev->info.config_size,
				   (uint32_t)virtio_type(dev->info.device_id)->config_size);
	rc = find_queues(dev, args);
	if (rc == 0)
		rc = choose_features(dev, args);
	if (rc == 0)
		rc = take_mac(dev, args);
	return rc == 0 ? vv_dma_create(dev) : rc;
}

/* Which file the parent's is; *had: the driver that it was taken from, "" for none. */
static int
find_file(const char *parent, const struct vdpa_args *args, char *path, size_t size, char *had)
{
	char driver[VDPA_BUS_NAME_MAX];
	int rc;

	had[0] = '\0';
	if (parent[0] == '/') {
		if (vdpa_args_has(args, "rebind"))
			return vdpa_error(
				EINVAL, "rebind: is for the name of a device on the vDPA bus, not "
					"for a path");
		if (strlen(parent) >= size)
			return vdpa_error(ENAMETOOLONG, "%s: too long", parent);
		strcpy(path, parent);
		return 0;
	}
	rc = vdpa_bus_driver(parent, driver, sizeof(driver));
	if (rc == 0 && strcmp(driver, VHOST_VDPA) != 0) {
		if (!vdpa_bus_has_driver(VHOST_VDPA))
			return vdpa_error(ENOENT,
					  "vDPA device '%s' is bound to %s, and the kernel has no "
					  "driver vhost_vdpa: modprobe vhost_vdpa",
					  parent, driver[0] != '\0' ? driver : "no driver");
		if (!vdpa_args_has(args, "rebind"))
			return vdpa_error(
				EBUSY,
				"vDPA device '%s' is bound to %s; the word `rebind` takes "
				"it from there to vhost_vdpa",
				parent, driver[0] != '\0' ? driver : "no driver");
		rc = vdpa_bus_bind(parent, VHOST_VDPA);
		if (rc == 0)
			strcpy(had, driver);
	}
	return rc == 0 ? vdpa_bus_char_path(parent, path, size) : rc;
}

static int
create(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args,
       struct vv_kernel *kernel)
{
	struct vdpa_config_ops ops = vv_ops(vv_kernel_has(kernel, VHOST_BACKEND_F_SUSPEND) &&
					    vv_kernel_has(kernel, VHOST_BACKEND_F_RESUME));
	struct vhost_vdpa *dev = vdpa_alloc_device(struct vhost_vdpa, vdev, name, &ops);
	struct vdpa_error_saved error;
	int rc;

	if (dev == NULL) {
		rc = -errno;
		vdpa_error_save(&error);
		vv_kernel_close(kernel);
		vdpa_error_restore(&error);
		return rc;
	}
	dev->kernel = *kernel;
	dev->vdev.mdev = mdev;
	dev->watch =
		(struct vv_watch){.path = dev->kernel.path, .wd = -1, .gone = on_gone, .arg = dev};
	dev->ctrl.kick_fd = -1;
	pthread_mutex_init(&dev->kick_lock, NULL);
	dev->parent = strdup(mdev->name);
	if (dev->parent == NULL) {
		rc = vdpa_error(ENOMEM, "out of memory");
	} else {
		dev->kernel.name = dev->parent;
		rc = look_at_parent(dev, args);
	}
	if (rc == 0) {
		dev->vdev.dma = dev->dom;
		rc = vdpa_register_device(&dev->vdev);
	}
	if (rc == 0)
		vv_watch_add(&dev->watch, dev->kernel.fd);
	/* The bus has its own reference; without one this frees the device. */
	vdpa_error_save(&error);
	vdpa_put_device(&dev->vdev);
	vdpa_error_restore(&error);
	return rc;
}

static int
dev_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	const char *parent = mdev->name + strlen(PREFIX);
	struct vv_kernel kernel = {.name = mdev->name, .fd = -1};
	char had[VDPA_BUS_NAME_MAX];
	struct vdpa_error_saved error;
	int rc = find_file(parent, args, kernel.path, sizeof(kernel.path), had);

	if (rc == 0)
		rc = vv_kernel_open(&kernel, mdev->name);
	if (rc == 0)
		rc = create(mdev, name, args, &kernel);
	if (rc < 0 && had[0] != '\0') {
		vdpa_error_save(&error);
		if (vdpa_bus_bind(parent, had) < 0)
			VDPA_LOG(WARNING, "%s: %s", mdev->name, vdpa_error_message());
		vdpa_error_restore(&error);
	}
	return rc;
}

static void
dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
}

/* The management device of a name. */

static const struct vdpa_mgmt_dev_ops mgmt_ops = {.dev_add = dev_add, .dev_del = dev_del};

struct vv_mgmt_dev {
	struct vdpa_mgmt_dev mdev;
	char name[VDPA_MGMTDEV_NAME_MAX];
};

static int
probe(struct vdpa_driver *drv, const char *parent)
{
	const char *name = parent + strlen(PREFIX);
	struct vv_mgmt_dev *m;
	int rc;

	/* A device's name, or the path of a file. */
	if (name[0] == '\0' || (name[0] != '/' && strchr(name, '/') != NULL))
		return vdpa_error(EINVAL,
				  "mgmtdev '%s': expected " PREFIX
				  "NAME, with the name of a device "
				  "on the kernel's vDPA bus (ls /sys/bus/vdpa/devices)",
				  parent);
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	/* The caller has looked at its length. */
	snprintf(m->name, sizeof(m->name), "%s", parent);
	m->mdev = (struct vdpa_mgmt_dev){
		.name = m->name, .help = drv->help, .ops = &mgmt_ops, .params = drv->params};
	rc = vdpa_mgmtdev_register(&m->mdev);
	if (rc < 0)
		free(m);
	return rc;
}

static void
release(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev)
{
	vdpa_mgmtdev_unregister(mdev);
	free(mdev);
}

static void
remove_all(struct vdpa_driver *drv)
{
	/* There are only named ones, which are gone already. */
}

static const struct vdpa_param params[] = {
	{.name = "rebind",
	 .type = VDPA_PARAM_FLAG,
	 .help = "take the device from the kernel driver that has it, such as virtio_vdpa, to "
		 "vhost_vdpa"},
	{.name = "mac",
	 .type = VDPA_PARAM_MAC,
	 .metavar = "MAC",
	 .help = "net: address, set by the control queue (default: the device's)"},
	{.name = "max_vqp",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = VDPA_VQ_MAX / 2,
	 .help = "net: queue pairs (default: all that the device has)"},
	{.name = "queue_size",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = VDPA_VQ_NUM_MAX,
	 .help = "largest virtqueue size offered (default: the device's)"},
	{.name = "device_features",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "MASK",
	 .min = 0,
	 .max = UINT64_MAX,
	 .help = "features offered, a subset of the device's (default: all)"},
	{0},
};

static const char *const matches[] = {PREFIX "*", NULL};

struct vdpa_driver vdpa_vhost_vdpa_driver = {
	.name = VHOST_VDPA,
	.match = matches,
	.help = "device on the kernel's vDPA bus, by its /dev/vhost-vdpa-N",
	.params = params,
	.probe = probe,
	.release = release,
	.remove = remove_all,
};
