/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A group of tests beside the control loop, its timers and its work. Include it after cmocka.h. */

#ifndef CONTROL_GROUP_H
#define CONTROL_GROUP_H

#include "event_loop_priv.h"

static inline int
group_setup(void **state)
{
	return vdpa_event_control_init();
}

static inline int
group_teardown(void **state)
{
	vdpa_event_control_fini();
	return 0;
}

#endif /* CONTROL_GROUP_H */
