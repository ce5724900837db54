/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The thread's error message, for code that passes on what somebody else may have said better. */

#ifndef VDPA_ERROR_PRIV_H
#define VDPA_ERROR_PRIV_H

/* Longest message, with its NUL. */
#define VDPA_ERROR_MAX 512

/* How many errors the calling thread has told by vdpa_error(): one more after a call that failed
 * means that the message is about this failure. */
unsigned int vdpa_error_count(void);

#endif /* VDPA_ERROR_PRIV_H */
