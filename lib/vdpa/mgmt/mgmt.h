/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Management as the rest of the core sees it. */

#ifndef VDPA_MGMT_H
#define VDPA_MGMT_H

#include "vdpa_driver.h"
#include "vdpa_frontend.h"

/* What is built in, each list ended by NULL; builtin.c, above all layers, defines them. */
extern struct vdpa_driver *const vdpa_builtin_drivers[];
extern struct vdpa_frontend *const vdpa_builtin_frontends[];

/* Register what is built in; unregister everything, devices first, also those that are being added
 * or removed by others. */
int vdpa_mgmt_init(void);
void vdpa_mgmt_fini(void);

/* Call fn for each management device, under the management lock, while it returns 0. */
int vdpa_mgmtdev_for_each(int (*fn)(struct vdpa_mgmt_dev *mdev, void *arg), void *arg);

/* Look at one, likewise. -ENODEV when there is none. */
int vdpa_mgmtdev_look(const char *name, void (*fn)(const struct vdpa_mgmt_dev *mdev, void *arg),
		      void *arg);

/* show.c: one management device as JSON text, as vdpa_mgmtdev_show() has it. NULL: -errno in errno.
 */
char *vdpa_mgmtdev_show_one(const char *name);

#endif /* VDPA_MGMT_H */
