/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The life of the core's own loops, for vdpa_init() and for tests of the core. */

#ifndef VDPA_EVENT_LOOP_PRIV_H
#define VDPA_EVENT_LOOP_PRIV_H

/*
 * Where devices that have failed are stopped, apart from the control loop: the reset of one that
 * does not answer takes its time-outs, which kicks of others are not to wait for. NULL outside.
 */
struct vdpa_event_loop *vdpa_event_loop_failures(void);

/* Both. */
int vdpa_event_control_init(void);
void vdpa_event_control_fini(void);

#endif /* VDPA_EVENT_LOOP_PRIV_H */
