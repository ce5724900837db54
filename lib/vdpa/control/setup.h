/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* From an application's parameters to a server's: control.c. */

#ifndef CONTROL_SETUP_H
#define CONTROL_SETUP_H

#include "server.h"
#include "vdpa_control.h"

/* Permissions, rights and limits; path and service are the caller's. 0; -EINVAL for a group that
 * there is not, with a message. */
int control_setup_fill(struct control_setup *setup, const struct vdpa_control_params *params);

#endif /* CONTROL_SETUP_H */
