/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The driver of plain virtio-pci functions, of whatever type: the service as it is. */

#include "vdpa_virtio.h"

static int
virtio_add(struct vdpa_driver *drv, struct vdpa_mgmt_dev *mdev, struct vdpa_pci *pci,
	   const char *name, const struct vdpa_args *args)
{
	static const struct vdpa_virtio_kind kind;

	return vdpa_virtio_add(&kind, mdev, pci, name, args);
}

static const struct vdpa_param params[] = {VDPA_VIRTIO_PARAMS, {0}};

static const struct vdpa_pci_match ids[] = {
	{VDPA_PCI_DEVICES(0x1af4, 0x1000, 0x107f)},
	{0},
};

struct vdpa_driver vdpa_virtio_driver = {
	.name = "virtio",
	.help = "modern virtio-pci function (net, block or another)",
	.params = params,
	.pci_ids = ids,
	.pci_add = virtio_add,
};
