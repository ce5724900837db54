/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Management as the rest of the core sees it. */

#ifndef VDPA_MGMT_H
#define VDPA_MGMT_H

#include "vdpa_driver.h"
#include "vdpa_frontend.h"

/* Register what is built in; unregister everything, devices first. */
int vdpa_mgmt_init(void);
void vdpa_mgmt_fini(void);

/* The management lock: while it is held, no device is deleted or loses its front end. Recursive. */
void vdpa_mgmt_lock(void);
void vdpa_mgmt_unlock(void);

/* Call fn for each management device, under the management lock. */
int vdpa_mgmtdev_for_each(int (*fn)(struct vdpa_mgmt_dev *mdev, void *arg), void *arg);

#endif /* VDPA_MGMT_H */
