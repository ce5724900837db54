/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * vdpa-app as a program: it brings nothing but the library.
 */

#include <stddef.h>

#include "program.h"

const struct app_program app_program = {
	.name = "vdpa-app",
	.summary = "Serve vDPA devices to virtual machines and DPDK applications.",
	.example = "name net0 mgmtdev sim_net socket /run/net0.sock",
};
