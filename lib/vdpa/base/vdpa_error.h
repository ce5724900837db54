/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_error.h
 * The calling thread's error message: what a negative errno alone does not say.
 */

#ifndef VDPA_ERROR_H
#define VDPA_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The last failure in the calling thread, one line without a full stop or newline, never NULL.
 * Valid until the next failing call of this thread.
 */
const char *vdpa_error_message(void);

/**
 * Set the calling thread's error message: one line, no full stop, no newline; it may begin with the
 * device's name and a colon.
 * @return -err (err positive or negative), for `return vdpa_error(EINVAL, "...", ...);`
 */
int vdpa_error(int err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif

#endif /* VDPA_ERROR_H */
