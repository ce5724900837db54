/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between virtio_pci.c, the BARs, and virtio_pci_config.c, the configuration space. */

#ifndef MODEL_VIRTIO_PCI_PRIV_H
#define MODEL_VIRTIO_PCI_PRIV_H

#include "virtio_pci.h"

/* Lay out header, BARs and capabilities; params and notify_len are set. */
void vp_config_init(struct vp_function *vp);
/* Everything that can be written, as at power-on. */
void vp_config_reset(struct vp_function *vp);

#endif /* MODEL_VIRTIO_PCI_PRIV_H */
