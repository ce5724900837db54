/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Feature bits of virtio 1.4 (chapter 6): Linux's own header, and the bits that it lacks here.
 * Linux 6.1's names all of virtio 1.2 but NOTIFICATION_DATA, older ones lack RING_RESET too.
 */

#ifndef VDPA_VIRTIO_COMPAT_H
#define VDPA_VIRTIO_COMPAT_H

#include <linux/virtio_config.h>

#ifndef VIRTIO_F_NOTIFICATION_DATA
#define VIRTIO_F_NOTIFICATION_DATA 38
#endif
#ifndef VIRTIO_F_RING_RESET
#define VIRTIO_F_RING_RESET 40
#endif
#ifndef VIRTIO_F_ADMIN_VQ
#define VIRTIO_F_ADMIN_VQ 41
#endif
#ifndef VIRTIO_F_SUSPEND
#define VIRTIO_F_SUSPEND 43
#endif

/* Device status (2.1). */
#ifndef VIRTIO_CONFIG_S_SUSPEND
#define VIRTIO_CONFIG_S_SUSPEND 16
#endif

#endif /* VDPA_VIRTIO_COMPAT_H */
