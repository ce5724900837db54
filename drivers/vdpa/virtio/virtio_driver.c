/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The driver of plain virtio-pci functions, of whatever type: the service as it is. */

#include <stdio.h>
#include <stdlib.h>

#include "vdpa_virtio.h"

static const struct vdpa_param params[] = {
	VDPA_VIRTIO_PARAMS,
	{.name = "timeout_ms",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "MS",
	 .min = 1,
	 .max = 10000,
	 .help = "longest wait for a vfio-user server's socket, an answer, a reset or a command "
		 "(default 1000)"},
	{0},
};

static const struct vdpa_virtio_kind kind;

/* A function that somebody named. */
struct parent {
	struct vdpa_mgmt_dev mdev;
	char name[VDPA_MGMTDEV_NAME_MAX];
	TAILQ_ENTRY(parent) next;
};

static TAILQ_HEAD(, parent) parents = TAILQ_HEAD_INITIALIZER(parents); /* management lock */

static int
mgmt_dev_add(struct vdpa_mgmt_dev *mdev, const char *name, const struct vdpa_args *args)
{
	const struct vdpa_pci_params pci_params = {
		.vm = vdpa_args_str(args, "vm", NULL),
		.timeout_ms = (unsigned int)vdpa_args_u64(args, "timeout_ms", 1000)};
	struct vdpa_pci *pci;
	int rc = vdpa_pci_open(mdev->name, &pci_params, &pci);

	if (rc < 0)
		return rc;
	rc = vdpa_virtio_add(&kind, mdev, pci, name, args);
	if (rc < 0)
		vdpa_pci_close(pci);
	return rc;
}

static void
mgmt_dev_del(struct vdpa_mgmt_dev *mdev, struct vdpa_device *vdev)
{
	vdpa_unregister_device(vdev);
}

static const struct vdpa_mgmt_dev_ops mgmt_ops = {
	.dev_add = mgmt_dev_add,
	.dev_del = mgmt_dev_del,
};

static int
virtio_probe(struct vdpa_driver *drv, const char *name)
{
	struct parent *parent = calloc(1, sizeof(*parent));
	int rc;

	if (parent == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	snprintf(parent->name, sizeof(parent->name), "%s", name);
	parent->mdev = (struct vdpa_mgmt_dev){
		.name = parent->name,
		.help = drv->help,
		.ops = &mgmt_ops,
		.params = params,
		.priv = parent,
	};
	rc = vdpa_mgmtdev_register(&parent->mdev);
	if (rc < 0) {
		free(parent);
		return rc;
	}
	TAILQ_INSERT_TAIL(&parents, parent, next);
	return 0;
}

static void
virtio_release(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev)
{
	struct parent *parent = mdev->priv;

	vdpa_mgmtdev_unregister(mdev);
	TAILQ_REMOVE(&parents, parent, next);
	free(parent);
}

static void
virtio_remove(struct vdpa_driver *drv)
{
	while (!TAILQ_EMPTY(&parents))
		virtio_release(drv, &TAILQ_FIRST(&parents)->mdev);
}

static const char *const matches[] = {"pci/*", "vfio-user/*", NULL};

struct vdpa_driver vdpa_virtio_driver = {
	.name = "virtio",
	.match = matches,
	.help = "modern virtio-pci function (net, block or another)",
	.params = params,
	.probe = virtio_probe,
	.release = virtio_release,
	.remove = virtio_remove,
};
