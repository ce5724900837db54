/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a keeper may ask of the kernel once it serves. */

#ifndef KEEPER_CONFINE_H
#define KEEPER_CONFINE_H

/*
 * From here on this process, and each thread that it starts, may only receive, hold, send and close
 * descriptors, fence functions (fence.h: three requests of VFIO, and two bytes read and written at
 * a place of a file), and what its libraries need for that: anything else is EPERM. It opens no
 * file and no socket, and starts no process. 0, or a negative errno: -EINVAL where the kernel has
 * no seccomp filters. For a process of one thread.
 */
int confine(void);

#endif /* KEEPER_CONFINE_H */
