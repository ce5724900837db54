/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The administration virtqueue of a function that owns others, and the functions that it owns. All
 * in jobs of one queue, which is that of every function of the process.
 */

#ifndef MODEL_ADMIN_H
#define MODEL_ADMIN_H

#include "model_device.h"

/* Numbers of members: 1 to this. */
#define MODEL_MEMBERS_MAX 64u

/* 0 or a negative errno with vdpa_error(); quiesce and fini after a failure, and without init, too.
 */
int model_admin_init(struct vfu_device *dev);
void model_admin_quiesce(struct vfu_device *dev);
void model_admin_fini(struct vfu_device *dev);

/* The queue starts, where it is set up and may; it stops; it uses this memory. */
int model_admin_start(struct vfu_device *dev);
void model_admin_stop(struct vfu_device *dev);
/* The function is suspended no more: what has come meanwhile. */
void model_admin_resume(struct vfu_device *dev);
void model_admin_update_memory(struct vfu_device *dev, struct vdpa_iotlb *tlb);
/* Its eventfd for interrupts, anew. */
void model_admin_route(struct vfu_device *dev);
/* The owner was reset: its members go on. */
void model_admin_reset(struct vfu_device *dev);
/* Commands executed; any thread. */
uint64_t model_admin_commands(const struct vfu_device *dev);

/* The function becomes the member of that number; or is none any more. -EEXIST for a number that is
 * taken. Not in a job. */
int model_member_add(struct vfu_device *dev, unsigned int number);
void model_member_remove(struct vfu_device *dev);

#endif /* MODEL_ADMIN_H */
