/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The kernel's vDPA bus, between vdpa_bus.c and vdpa_bus_user.c. */

#ifndef VDPA_KERNEL_BUS_PRIV_H
#define VDPA_KERNEL_BUS_PRIV_H

#include <stdbool.h>
#include <stddef.h>

#define VDPA_BUS_CHAR_PREFIX "vhost-vdpa-"

/* "/sys" and "/dev", or what stands for them in a test. */
extern const char *vdpa_bus_sys_root, *vdpa_bus_dev_root;

/* The folder of a device, or a file in it. 0; -EINVAL for what can be no name; -ENAMETOOLONG. */
int vdpa_bus_path(const char *name, const char *file, char *buf, size_t size);

/* The first name in a folder that begins with prefix; false: there is none, or no such folder. */
bool vdpa_bus_find(const char *folder, const char *prefix, char *buf, size_t len);

#endif /* VDPA_KERNEL_BUS_PRIV_H */
