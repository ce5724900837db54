/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices of the kernel's vDPA bus made and deleted by generic netlink, as iproute2's `vdpa dev
 * add` and `vdpa dev del` do. The kernel works in the caller's system call: adding a device lets
 * its drivers probe it, which read a disk's partitions, and deleting one waits for those who use
 * it. So a call has a thread of its own, which holds nothing of this process, and is waited for
 * with a bound.
 *
 * From any thread, with no lock that the device's messages need. Errors come with vdpa_error().
 */

#ifndef VDPA_KERNEL_NETLINK_H
#define VDPA_KERNEL_NETLINK_H

/* How long a call is waited for, in milliseconds: longer than the kernel waits for one answer of a
 * VDUSE device. */
#define VDPA_NETLINK_WAIT_MS 45000

/*
 * Have a management device (`vduse`) make a device. 0; -ENODEV where the kernel has no vDPA bus or
 * no such management device; -EPERM without CAP_NET_ADMIN; -EEXIST; -ETIMEDOUT where the kernel
 * goes on beyond the bound; what the kernel says.
 */
int vdpa_netlink_dev_add(const char *name, const char *mgmtdev);

/* Delete a device. 0; -ENODEV where there is none; else as above. */
int vdpa_netlink_dev_del(const char *name);

#endif /* VDPA_KERNEL_NETLINK_H */
