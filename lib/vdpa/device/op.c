/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is said of an op of the driver's that failed. */

#include <stdio.h>
#include <string.h>

#include "error_priv.h"
#include "op.h"

int
vdpa_op_failed(struct vdpa_device *vdev, int qidx, const char *op, int rc, unsigned int errors)
{
	size_t len = strlen(vdev->name);
	char own[VDPA_ERROR_MAX], queue[32] = "";

	snprintf(own, sizeof(own), "%s", vdpa_error_message());
	if (qidx >= 0)
		snprintf(queue, sizeof(queue), "queue %d: ", qidx);
	if (vdpa_error_count() == errors)
		return vdpa_error(rc, "%s: %s%s: %s", vdev->name, queue, op, strerror(-rc));
	if (strncmp(own, vdev->name, len) == 0 && own[len] == ':')
		return rc;
	return vdpa_error(rc, "%s: %s%s", vdev->name, queue, own);
}
