/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A driver's table of ops, whatever version it is of, and what is said of an op that failed. */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "error_priv.h"
#include "op.h"
#include "table.h"

int
vdpa_ops_copy(void *to, size_t size, const void *from, size_t min, const char *name)
{
	size_t theirs = *(const size_t *)from;
	int rc = vdpa_table_copy(to, size, from, min);

	if (rc == -EINVAL)
		return vdpa_error(EINVAL,
				  "%s: the driver's table of ops has a size of %zu bytes, at least "
				  "%zu: set its size to sizeof(struct vdpa_config_ops)",
				  name, theirs, min);
	if (rc == -E2BIG)
		return vdpa_error(E2BIG,
				  "%s: the driver has ops of a later version, behind byte "
				  "%zu of %zu: install the libuvdpa that it was built for",
				  name, size, theirs);
	return rc;
}

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
