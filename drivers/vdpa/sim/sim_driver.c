/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The simulator's place in management: a driver whose parents are the classes by name, and one
 * management device for each.
 */

#include <string.h>

#include "sim.h"

static const struct sim_class *const classes[] = {&sim_net_class, &sim_blk_class};

static struct vdpa_mgmt_dev mgmt_devs[RTE_DIM(classes)];

static int
mgmt_dev_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	struct sim_device *dev;
	int rc;

	rc = sim_device_create(mdev->priv, mdev, name, args, &dev);
	if (rc < 0)
		return rc;
	rc = vdpa_register_device(&dev->vdev);
	if (rc < 0)
		vdpa_put_device(&dev->vdev);
	return rc;
}

static void
mgmt_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
	vdpa_put_device(vdev);
}

static int
mgmt_dev_set_attr(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev,
		  const struct vdpa_args *args)
{
	struct sim_device *dev = sim_dev(vdev);

	if (dev->class->set_attr == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: has no attributes to set", vdev->name);
	return dev->class->set_attr(dev, args);
}

static const struct vdpa_mgmt_dev_ops mgmt_ops = {
	.dev_add = mgmt_dev_add,
	.dev_del = mgmt_dev_del,
	.dev_set_attr = mgmt_dev_set_attr,
};

static int
sim_probe(struct vdpa_driver *drv, const char *parent)
{
	for (unsigned int i = 0; i < RTE_DIM(classes); i++) {
		const struct sim_class *class = classes[i];
		struct vdpa_mgmt_dev *mdev = &mgmt_devs[i];

		if (strcmp(class->name, parent) != 0)
			continue;
		*mdev = (struct vdpa_mgmt_dev){
			.name = class->name,
			.help = class->help,
			.ops = &mgmt_ops,
			.device_id = class->device_id,
			.supported_features = class->supported_features,
			.max_supported_vqs = class->max_vqs,
			.params = class->params,
			.attr_params = class->attr_params,
			.priv = (void *)(uintptr_t) class,
		};
		return vdpa_mgmtdev_register(mdev);
	}
	return -ENODEV;
}

static void
sim_remove(struct vdpa_driver *drv)
{
	for (unsigned int i = 0; i < RTE_DIM(mgmt_devs); i++)
		if (mgmt_devs[i].ops != NULL) {
			vdpa_mgmtdev_unregister(&mgmt_devs[i]);
			mgmt_devs[i].ops = NULL;
		}
}

static const char *const matches[] = {"sim_net", "sim_blk", NULL};

struct vdpa_driver vdpa_sim_driver = {
	.name = "sim",
	.match = matches,
	.probe = sim_probe,
	.remove = sim_remove,
};
