/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The control socket, as the command line has it. */

#ifndef APP_CONTROL_H
#define APP_CONTROL_H

#include "options.h"

/*
 * Open it. One that was asked for by --control must be had: a negative errno, reported. The default
 * one may be missing, for which there is one line: another daemon may have it.
 */
int app_control_start(const struct app_options *opts);

/* Open the uvdpad socket, if one was asked for: a negative errno, reported. */
int app_uvdpad_start(const struct app_options *opts);

#endif /* APP_CONTROL_H */
