/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A driver's table of ops, and calls of them. */

#ifndef VDPA_OP_H
#define VDPA_OP_H

#include <stddef.h>

#include "error_priv.h"
#include "vdpa_driver.h"

/* The table of config ops in the first version, whose last op was free: what every driver has. */
#define VDPA_OPS_SIZE_MIN                                                                          \
	(offsetof(struct vdpa_config_ops, free) + sizeof(((struct vdpa_config_ops *)NULL)->free))

/*
 * Copy a driver's table, whose first member is its size, into one of ours: what a shorter one lacks
 * becomes NULL. name, for messages: what the table is for. -EINVAL for one that is shorter than min
 * bytes, which every version has had; -E2BIG for one that is longer and not NULL there.
 */
int vdpa_ops_copy(void *to, size_t size, const void *from, size_t min, const char *name);

/*
 * An op of the driver failed (errors: vdpa_error_count() before it). Keeps the message that it set,
 * which knows more, else says which op it was; names device and queue (-1: the device).
 */
int vdpa_op_failed(struct vdpa_device *vdev, int qidx, const char *op, int rc, unsigned int errors);

/* Call an op: its result, with a message where it fails. */
#define VDPA_OP(vdev, qidx, op, call)                                                              \
	({                                                                                         \
		unsigned int errors_ = vdpa_error_count();                                         \
		int rc_ = (call);                                                                  \
		rc_ < 0 ? vdpa_op_failed(vdev, qidx, op, rc_, errors_) : rc_;                      \
	})

#endif /* VDPA_OP_H */
