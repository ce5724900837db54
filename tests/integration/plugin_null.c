/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A plugin with a driver, built out of tree for the tests: the management device null_net, whose
 * network devices move nothing, and PCI functions of ids that nobody has.
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <vdpa_driver.h>

#define NULL_QUEUES 2

struct null_device {
	struct vdpa_device vdev;
	uint8_t status;
	uint64_t depth;
};

static struct null_device *
null_dev(struct vdpa_device *vdev)
{
	return (struct null_device *)(void *)vdev;
}

static int
null_set_vq_address(struct vdpa_device *vdev, uint16_t idx, uint64_t desc, uint64_t driver,
		    uint64_t device)
{
	return 0;
}

static int
null_set_vq_num(struct vdpa_device *vdev, uint16_t idx, uint32_t num)
{
	return 0;
}

static void
null_kick_vq(struct vdpa_device *vdev, uint16_t idx)
{
}

static int
null_set_vq_cb(struct vdpa_device *vdev, uint16_t idx, int fd)
{
	return 0;
}

static int
null_set_vq_ready(struct vdpa_device *vdev, uint16_t idx, bool ready)
{
	return 0;
}

static int
null_set_vq_state(struct vdpa_device *vdev, uint16_t idx, const struct vdpa_vq_state *state)
{
	return 0;
}

static int
null_get_vq_state(struct vdpa_device *vdev, uint16_t idx, struct vdpa_vq_state *state)
{
	return -EOPNOTSUPP;
}

static uint16_t
null_get_vq_count(struct vdpa_device *vdev)
{
	return NULL_QUEUES;
}

static uint16_t
null_get_vq_num_max(struct vdpa_device *vdev)
{
	return 256;
}

static uint64_t
null_get_device_features(struct vdpa_device *vdev)
{
	return UINT64_C(1) << 32;
}

static int
null_set_driver_features(struct vdpa_device *vdev, uint64_t features)
{
	return 0;
}

static uint32_t
null_get_id(struct vdpa_device *vdev)
{
	return 1;
}

static uint8_t
null_get_status(struct vdpa_device *vdev)
{
	return null_dev(vdev)->status;
}

static int
null_set_status(struct vdpa_device *vdev, uint8_t status)
{
	null_dev(vdev)->status = status;
	return 0;
}

static int
null_reset(struct vdpa_device *vdev)
{
	null_dev(vdev)->status = 0;
	return 0;
}

static size_t
null_get_config_size(struct vdpa_device *vdev)
{
	return 12;
}

static int
null_get_config(struct vdpa_device *vdev, size_t offset, void *buf, size_t len)
{
	memset(buf, 0, len);
	return 0;
}

static int
null_set_map(struct vdpa_device *vdev, uint32_t asid, struct vdpa_iotlb *tlb)
{
	return 0;
}

static int
null_get_stats(struct vdpa_device *vdev, struct vdpa_stat *stats, unsigned int n)
{
	if (n > 0)
		stats[0] = (struct vdpa_stat){"depth", null_dev(vdev)->depth};
	return 1;
}

static const struct vdpa_config_ops null_ops = {
	.size = sizeof(struct vdpa_config_ops),
	.set_vq_address = null_set_vq_address,
	.set_vq_num = null_set_vq_num,
	.kick_vq = null_kick_vq,
	.set_vq_cb = null_set_vq_cb,
	.set_vq_ready = null_set_vq_ready,
	.set_vq_state = null_set_vq_state,
	.get_vq_state = null_get_vq_state,
	.get_vq_count = null_get_vq_count,
	.get_vq_num_max = null_get_vq_num_max,
	.get_device_features = null_get_device_features,
	.set_driver_features = null_set_driver_features,
	.get_device_id = null_get_id,
	.get_vendor_id = null_get_id,
	.get_status = null_get_status,
	.set_status = null_set_status,
	.reset = null_reset,
	.get_config_size = null_get_config_size,
	.get_config = null_get_config,
	.get_stats = null_get_stats,
	.set_map = null_set_map,
};

static int
null_dev_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	struct null_device *dev = vdpa_alloc_device(struct null_device, vdev, name, &null_ops);
	int rc;

	if (dev == NULL)
		return -errno;
	dev->vdev.mdev = mdev;
	dev->depth = vdpa_args_u64(args, "depth", 1);
	rc = vdpa_register_device(&dev->vdev);
	vdpa_put_device(&dev->vdev);
	return rc;
}

static void
null_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
}

static const struct vdpa_mgmt_dev_ops mgmt_ops = {.dev_add = null_dev_add, .dev_del = null_dev_del};

static const struct vdpa_param params[] = {
	{.name = "depth",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = 9,
	 .help = "how deep nothing is (default 1)"},
	{0},
};

static struct vdpa_mgmt_dev mgmt_dev = {
	.name = "null_net",
	.help = "a network device that moves nothing",
	.ops = &mgmt_ops,
	.device_id = 1,
	.max_supported_vqs = NULL_QUEUES,
	.params = params,
};

static int
null_probe(struct vdpa_driver *drv, const char *parent)
{
	return vdpa_mgmtdev_register(&mgmt_dev);
}

static void
null_remove(struct vdpa_driver *drv)
{
	vdpa_mgmtdev_unregister(&mgmt_dev);
}

/* It takes no function, but for one whose words are right. */
static int
null_pci_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	     const char *name, const struct vdpa_args *args)
{
	return vdpa_error(ENODEV, "%s: depth %u is not for this function", mdev->name,
			  (unsigned int)vdpa_args_u64(args, "depth", 1));
}

static const char *const matches[] = {"null_net", NULL};
static const struct vdpa_pci_match ids[] = {{VDPA_PCI_DEVICE(0x1ab4, 0x0042)}, {0}};

static struct vdpa_driver null_driver = {
	.name = "null",
	.help = "functions that move nothing",
	.match = matches,
	.params = params,
	.probe = null_probe,
	.remove = null_remove,
	.pci_ids = ids,
	.pci_add = null_pci_add,
};
VDPA_REGISTER_DRIVER(null_driver);
