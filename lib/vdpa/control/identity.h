/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Whose control socket it is: control.c. */

#ifndef CONTROL_IDENTITY_H
#define CONTROL_IDENTITY_H

/* What the method `version` says of the program; as long as the socket is open. */
const char *control_program(void);
const char *control_version(void);

#endif /* CONTROL_IDENTITY_H */
