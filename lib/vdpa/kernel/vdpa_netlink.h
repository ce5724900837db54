/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices of the kernel's vDPA bus made and deleted by generic netlink, as iproute2's `vdpa dev
 * add` and `vdpa dev del` do. The kernel works in the caller's system call, so each is bounded by
 * vdpa_kernel_call().
 *
 * From any thread, with no lock that the device's messages need. Errors come with vdpa_error().
 */

#ifndef VDPA_KERNEL_NETLINK_H
#define VDPA_KERNEL_NETLINK_H

/*
 * Have a management device (`vduse`) make a device. 0; -ENODEV where the kernel has no vDPA bus or
 * no such management device; -EPERM without CAP_NET_ADMIN; -EEXIST; -ETIMEDOUT where the kernel
 * goes on beyond the bound; -EBUSY where it goes on so from before; what the kernel says.
 */
int vdpa_netlink_dev_add(const char *name, const char *mgmtdev);

/* Delete a device. 0; -ENODEV where there is none; else as above. */
int vdpa_netlink_dev_del(const char *name);

#endif /* VDPA_KERNEL_NETLINK_H */
