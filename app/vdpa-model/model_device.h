/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the model has of a device of the front end "vfio-user", between its files. */

#ifndef MODEL_DEVICE_H
#define MODEL_DEVICE_H

#include "model_function.h"
#include "vfio_user_device.h"

struct model_admin;

/* vfu_device.own */
struct model_device {
	struct model_function function;
	struct model_admin *admin;  /* NULL: none */
	struct vdpa_event tick;	    /* of faults that happen by themselves */
	struct vdpa_work tick_work; /* what it posts */
	unsigned int fault_round;   /* of corrupted packed rings */
};

static inline struct model_device *
model_of(const struct vfu_device *dev)
{
	return dev->own;
}

/* Run fn(arg) as a job of the functions', and wait for it: what it returned, and its error message.
 * Not in such a job. */
int model_call(int (*fn)(void *arg), void *arg);

/* Faults that act by themselves (fault_actions.c). Fini after a failure too. */
int model_faults_init(struct vfu_device *dev);
void model_faults_quiesce(struct vfu_device *dev);
void model_faults_fini(struct vfu_device *dev);
/* Begin or end them, as the mask and the device's state say. */
void model_faults_update(struct vfu_device *dev);
/* A new mask, in a job: those that act at once do. */
void model_faults_change(struct vfu_device *dev, uint32_t mask);

#endif /* MODEL_DEVICE_H */
