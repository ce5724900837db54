/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What is shown of a configuration without asking the device: snapshot.c. */

#ifndef VDPA_SNAPSHOT_H
#define VDPA_SNAPSHOT_H

#include "vdpa_driver.h"

/*
 * The configuration as it was read last. Whoever reads it notes it, under the device's
 * lock; it is read anew when the device tells of a change, when management has made one, and at a
 * start when the generation is another.
 */
void vdpa_snapshot_init(struct vdpa_device *vdev);
void vdpa_snapshot_note(struct vdpa_device *vdev, size_t offset, const void *buf, size_t len,
			uint32_t generation);
void vdpa_snapshot_refresh(struct vdpa_device *vdev);
/* Have it read by a job of the device's. Never waits. */
void vdpa_snapshot_post(struct vdpa_device *vdev);
/* At a start, under the device's lock. */
void vdpa_snapshot_check(struct vdpa_device *vdev);
/* Its first len bytes, what is missing as zeroes; false where it could not be read. */
bool vdpa_snapshot_get(struct vdpa_device *vdev, void *buf, size_t len);

#endif /* VDPA_SNAPSHOT_H */
