/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where the control socket is unless a path is given: decided here for the process that listens and
 * for vdpactl, which compiles this file in. It uses nothing of the library.
 */

#ifndef CONTROL_PATH_H
#define CONTROL_PATH_H

#include <stddef.h>

/*
 * Root's is /run/uvdpa/control.sock, another user's $XDG_RUNTIME_DIR/uvdpa/control.sock; that of a
 * daemon with a name is in a folder of that name beside it. Any thread.
 *
 * name: NULL or "": the daemon without one; else 1 to 63 letters, digits, '.', '_' and '-', no '.'
 * first. Returns 0; -EINVAL for another name; -ENOENT where XDG_RUNTIME_DIR is not set to an
 * absolute path; -ENAMETOOLONG where the path does not fit in buf, or in a socket's address.
 */
int vdpa_control_default_path(const char *name, char *buf, size_t size);

/* The same for another socket: a file beside the control socket. */
int vdpa_runtime_path(const char *name, const char *file, char *buf, size_t size);

#endif /* CONTROL_PATH_H */
