/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices that go on at a planned end of the process alone (planned_end.c): the one rule of all
 * front ends whose connections outlive the process. What each of them records, and how it starts
 * the device again, is in vhost_user_planned.c and vfio_user_planned.c.
 *
 * None of it is for the control loop, since the store is waited for. Errors are negative, with
 * vdpa_error_message().
 */

#ifndef PLANNED_END_H
#define PLANNED_END_H

#include <stdbool.h>

#include "error_priv.h"
#include "vdpa_frontend.h"

/* Zeroed: it goes on at any end, or at none. */
struct vdpa_planned_end {
	char crash[VDPA_ERROR_MAX]; /* why its connection ends with a kill; "": as above */
	bool starts_late;	    /* once no other process may have the device back */
};

/* A device that `why` keeps from going on where the process is killed: 0 where it goes on at a
 * planned end, with a line in the log that begins with the front end's name; -EOPNOTSUPP and the
 * like where it does at none. */
int vdpa_planned_end_choose(struct vdpa_planned_end *p, struct vdpa_device *vdev,
			    const char *frontend, const char *why);
/* Whether it goes on at a planned end alone. */
bool vdpa_planned_end_is(const struct vdpa_planned_end *p);
/* -EOPNOTSUPP: this is such a device, and the former process had not stopped all that runs. */
int vdpa_planned_end_check(const struct vdpa_planned_end *p, bool runs);
/* The next process has the device, stopped: a kill ends its connection, named so in the store, from
 * now on. Start it by start(arg), or leave that to start_late(). */
int vdpa_planned_end_go_on(struct vdpa_planned_end *p, const char *device, const char *connection,
			   int (*start)(void *arg), void *arg);
/* Where that is left to this call, start it. False: the connection is to end, with a line. */
bool vdpa_planned_end_start_late(struct vdpa_planned_end *p, const struct vdpa_device *vdev,
				 const char *frontend, int (*start)(void *arg), void *arg);

#endif /* PLANNED_END_H */
