/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The vhost-user front end, for the list of built-in front ends. */

#ifndef VHOST_USER_H
#define VHOST_USER_H

#include "vdpa_frontend.h"

extern struct vdpa_frontend vdpa_vhost_user_frontend;

#endif /* VHOST_USER_H */
