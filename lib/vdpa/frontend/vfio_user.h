/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The vfio-user front end. */

#ifndef VFIO_USER_H
#define VFIO_USER_H

#include "vdpa_frontend.h"

extern struct vdpa_frontend vdpa_vfio_user_frontend;

#endif /* VFIO_USER_H */
