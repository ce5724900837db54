/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Calls of a driver's ops. */

#ifndef VDPA_OP_H
#define VDPA_OP_H

#include "error_priv.h"
#include "vdpa_driver.h"

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
