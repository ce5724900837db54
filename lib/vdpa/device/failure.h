/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A device that fails: failure.c. */

#ifndef VDPA_FAILURE_H
#define VDPA_FAILURE_H

#include "vdpa_driver.h"

/*
 * Under the device's lock: stop the device if it has reported a failure that nobody has acted on;
 * returns whether it had. The job that is posted for a failure calls this, and so does a stop that
 * comes before the job: any other call to a failed device would cost one time-out after the other.
 */
bool vdpa_device_stop_failed(struct vdpa_device *vdev);

/* Before anybody can report one. */
void vdpa_failure_init(struct vdpa_device *vdev);

/* Under the device's lock: notice that it is FAILED, and why. */
void vdpa_failure_notice(struct vdpa_device *vdev);

#endif /* VDPA_FAILURE_H */
