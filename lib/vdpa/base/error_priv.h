/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The thread's error message, for code that passes on what somebody else may have said better. */

#ifndef VDPA_ERROR_PRIV_H
#define VDPA_ERROR_PRIV_H

#include <stdint.h>

/* Longest message, with its NUL. */
#define VDPA_ERROR_MAX 512

/* How many errors the calling thread has reported by vdpa_error(): one more after a call that
 * failed means that the message is about this failure. */
unsigned int vdpa_error_count(void);

/* A message that is kept while other calls may set theirs. */
struct vdpa_error_saved {
	char text[VDPA_ERROR_MAX];
};

/* Keep the calling thread's message, and set it again: around what is undone after a failure, so
 * that the first cause is what the caller reads. */
void vdpa_error_save(struct vdpa_error_saved *saved);
void vdpa_error_restore(const struct vdpa_error_saved *saved);

/* A message without "NAME: " and "queue QIDX: " in front (QIDX negative: no queue), for a line that
 * says both already. */
const char *vdpa_error_cause(const char *message, const char *name, int64_t qidx);

#endif /* VDPA_ERROR_PRIV_H */
