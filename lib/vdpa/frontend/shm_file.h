/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Files that a front end's peer may lend as memory. */

#ifndef SHM_FILE_H
#define SHM_FILE_H

#include <stdbool.h>

/*
 * Whether fd is a file in memory: memfd, tmpfs, hugetlbfs. Asks the file system nothing. Any other,
 * above all one served by a process (FUSE) or over a network, could keep each access waiting.
 */
bool vdpa_vhu_is_shm(int fd);
/* What to say of another, and how to change it. */
#define VHU_NOT_SHM                                                                                \
	"the file is not a shared memory file (memfd, tmpfs, hugetlbfs), and another can make an " \
	"access wait; QEMU: memory-backend-memfd, or mem-path=/dev/shm; libvirt: <source "         \
	"type='memfd'/> in <memoryBacking>"

#endif /* SHM_FILE_H */
