/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* test-vdpa bench: what a device does in a second, and how long it takes over things. */

#ifndef BENCH_H
#define BENCH_H

#include "cli.h"
#include "target.h"

/* Measure and print. The exit code. */
int bench_run(struct target *t, const struct cli_options *opts);

#endif /* BENCH_H */
