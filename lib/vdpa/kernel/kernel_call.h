/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Calls about devices of the kernel's vDPA bus that the kernel may keep for as long as it likes:
 * adding or binding a device has a driver probe it, which reads a disk's partitions, and deleting
 * or unbinding one waits for those who use it. Such a call has a thread of its own, which holds
 * nothing of this process, and is waited for with a bound.
 */

#ifndef VDPA_KERNEL_CALL_H
#define VDPA_KERNEL_CALL_H

#include <stddef.h>

/* How long a call is waited for, in milliseconds: longer than the kernel waits for one answer of a
 * VDUSE device. */
#define VDPA_KERNEL_WAIT_MS 45000

/*
 * Carry out run(arg) on a thread of its own, without the descriptors of this process: 0 or a
 * negative errno with vdpa_error().
 * @param device  of the kernel's bus: there is one call about it at a time.
 * @param what    for messages, such as "vdpa dev add"; copied.
 * @param arg     size bytes: run() has a copy, as the call may outlive its caller, which is copied
 * back when run() has returned.
 * @return what run() returns, with its message; -ETIMEDOUT where the kernel goes on beyond the
 * bound; -EBUSY where a call about the device that was given up so is not over; -ENOMEM, -EAGAIN
 * for want of a thread. With no lock that the device's messages need.
 */
int vdpa_kernel_call(const char *device, const char *what, int (*run)(void *arg), void *arg,
		     size_t size);

/* For tests: another bound; 0: that of above. */
void vdpa_kernel_call_set_wait(unsigned int ms);

#endif /* VDPA_KERNEL_CALL_H */
