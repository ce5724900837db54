/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The VDUSE front end, for the list of built-in front ends. */

#ifndef VDUSE_H
#define VDUSE_H

#include "vdpa_frontend.h"

extern struct vdpa_frontend vdpa_vduse_frontend;

#endif /* VDUSE_H */
