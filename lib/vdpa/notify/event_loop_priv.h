/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The control loop's life, for vdpa_init() and for tests of the core. */

#ifndef VDPA_EVENT_LOOP_PRIV_H
#define VDPA_EVENT_LOOP_PRIV_H

int vdpa_event_control_init(void);
void vdpa_event_control_fini(void);

#endif /* VDPA_EVENT_LOOP_PRIV_H */
