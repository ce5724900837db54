/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The kernel's interface of /dev/vhost-vdpa-N: Linux' own header, and what Linux 6.1's lacks of it.
 * Kernels that lack it too refuse the request, or do not offer the feature.
 */

#ifndef VHOST_VDPA_COMPAT_H
#define VHOST_VDPA_COMPAT_H

#include <linux/vhost.h>

/* Linux 6.3 */
#ifndef VHOST_VDPA_RESUME
#define VHOST_VDPA_RESUME _IO(VHOST_VIRTIO, 0x7E)
#endif
#ifndef VHOST_BACKEND_F_RESUME
#define VHOST_BACKEND_F_RESUME 0x5
#endif

/* Linux 6.6 */
#ifndef VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK
#define VHOST_BACKEND_F_ENABLE_AFTER_DRIVER_OK 0x6
#endif

/* Linux 6.7 */
#ifndef VHOST_BACKEND_F_IOTLB_PERSIST
#define VHOST_BACKEND_F_IOTLB_PERSIST 0x8
#endif

/* Linux 6.9 */
#ifndef VHOST_VDPA_GET_VRING_SIZE
#define VHOST_VDPA_GET_VRING_SIZE _IOWR(VHOST_VIRTIO, 0x82, struct vhost_vring_state)
#endif

#endif /* VHOST_VDPA_COMPAT_H */
