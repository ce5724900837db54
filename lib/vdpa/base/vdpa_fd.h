/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_fd.h
 * File descriptors when they are short. The kernel gives the lowest free number, so the highest
 * VDPA_FD_RESERVE numbers below RLIMIT_NOFILE are free as long as whoever is given one of them
 * gives it back. Management lives from these: DPDK's telemetry thread ends for good when its
 * accept(2) fails once.
 */

#ifndef VDPA_FD_H
#define VDPA_FD_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Descriptors kept for management; an eighth of the limit where that is less. */
#define VDPA_FD_RESERVE 32

/** Whether fd is one of the reserve: refuse what it is for by vdpa_fd_error(), and close it. */
bool vdpa_fd_in_reserve(int fd);

/**
 * Whether n descriptors can be had without the reserve, n at most 16: ask before several are made.
 * The answer holds until another thread makes one.
 * @return 0, or -EMFILE with a message that names `what`, the limit and how to raise it.
 */
int vdpa_fd_room(unsigned int n, const char *what);

/**
 * The message for err, an errno that a call which makes a descriptor has failed with: for EMFILE
 * the limit, how many are in use and how to raise it; for others what strerror(3) says.
 * @return -err.
 */
int vdpa_fd_error(int err, const char *what);

/**
 * A duplicate of fd, closed by exec(2), that is not of the reserve. From any thread.
 * @return it, or a negative errno with vdpa_fd_error()'s message, which names `what`.
 */
int vdpa_fd_dup(int fd, const char *what);

/**
 * Raise the soft RLIMIT_NOFILE to the hard one: for a program to call before it starts threads. The
 * library does not do it by itself, since select(2) in an application may rely on the soft limit.
 */
void vdpa_fd_raise_limit(void);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_FD_H */
