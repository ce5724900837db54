/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* File descriptors of peers in a store of descriptors (keep/): which of them may go there, and the
 * end of those that have come from there (foreign_fd.c). */

#ifndef STORED_FD_H
#define STORED_FD_H

#include <stdbool.h>

/*
 * Whether a file descriptor that a peer has sent may be put into a store, before its message is
 * looked at. The store, which may be PID 1, asks the descriptor for its file (fstat(2)) and closes
 * it, on a thread that serves everybody else, too: a file of a FUSE file system, a pipe or a TCP
 * socket could make both wait. So these kinds alone may be stored: memory files (memfd, tmpfs,
 * hugetlbfs), eventfds, the memory of a VDUSE device, and UNIX sockets that can be kept
 * (vdpa_fd_can_be_kept()). The last descriptor of a large memory file takes its time, too: a keeper
 * closes it by a thread, and PID 1 does not. Never waits. From any thread.
 */
bool vdpa_fd_can_be_stored(int fd);

/* vdpa_close_foreign() of a descriptor that no account is charged for: one that has come from a
 * store, and may not be what its name says. From any thread. */
void vdpa_close_stray(int fd);

#endif /* STORED_FD_H */
