/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* A daemon that another one has started to hand its devices over: --take-over. Without that option
 * these functions do nothing and return 0. */

#ifndef APP_SUCCESSOR_H
#define APP_SUCCESSOR_H

#include <stdbool.h>

#include "options.h"

/* All that can fail without a device has been done: say so, and wait for the devices. 0, or a
 * negative errno with one line in the log. */
int app_successor_begin(const struct app_options *opts);
/* The devices are here: say so, and serve them once the other daemon has agreed. */
int app_successor_commit(const struct app_options *opts);
/* Whether devices that cannot go on here start anew, instead of going back to the other daemon. */
bool app_successor_is_forced(void);
/* One that the other daemon has left, and its words. If it does not go on here, then without force
 * it is named by the error of app_successor_commit(); with force it starts anew once the other
 * daemon cannot come back to it. 0, or -ENOMEM with vdpa_error(). */
int app_successor_note(const char *name, const char *words);
/* Whether it is such a one, and does not go on until now. */
bool app_successor_starts_anew(const char *name);
/* Whether the other daemon has, or may have again, what this one was started to take over. */
bool app_successor_is_pending(const struct app_options *opts);
/* The start has failed: say why. */
void app_successor_fail(const struct app_options *opts);

struct vdpa_control_listener;
/* The control socket of the other daemon; NULL: it has none. */
const struct vdpa_control_listener *app_successor_control(void);
/* This daemon serves it; else it goes once there is no way back. */
void app_successor_control_adopted(void);

#endif /* APP_SUCCESSOR_H */
