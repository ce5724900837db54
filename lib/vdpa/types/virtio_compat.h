/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Feature bits of virtio 1.2 (chapter 6): Linux's own header, and the bits that it lacks here.
 * Linux 6.1's names all but NOTIFICATION_DATA, older ones lack RING_RESET too.
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

#endif /* VDPA_VIRTIO_COMPAT_H */
