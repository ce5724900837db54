/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The life of what the core itself waits and works with, for vdpa_init() and for tests of the core.
 */

#ifndef VDPA_EVENT_LOOP_PRIV_H
#define VDPA_EVENT_LOOP_PRIV_H

struct vdpa_event_loop;

/* The control loop, its timers and the threads of the work queues. 0 or a negative errno with
 * vdpa_error_message(). */
int vdpa_event_control_init(void);
/* All devices are gone. */
void vdpa_event_control_fini(void);

/* timer.c: between the loop's creation and its destruction. */
int vdpa_timer_init(struct vdpa_event_loop *loop);
void vdpa_timer_fini(void);

/* work.c: while there are timers. The end waits for the threads, which have no work any more. */
void vdpa_work_init(void);
void vdpa_work_fini(void);

#endif /* VDPA_EVENT_LOOP_PRIV_H */
