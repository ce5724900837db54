/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The settings in force. */

#include "settings.h"

struct vdpa_settings vdpa_settings;
