/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What an upgrade finds out before it changes anything: which program may be started, and which
 * devices do not go on in the new process, with the reasons. Under the lock of upgrades; errors are
 * negative, with vdpa_error().
 */

#ifndef APP_STAYS_H
#define APP_STAYS_H

#include <limits.h>
#include <stdbool.h>

#include <jansson.h>

#include "options.h"

/* Devices that do not go on. */
struct app_stays {
	json_t *names; /* in the order in which they were found */
	json_t *why;   /* reasons, by name */
	/* By name, whether no configuration has the device, as far as is known: one that does not
	 * go on is lost then, since nobody makes it anew. */
	json_t *absent;
};

int app_stays_init(struct app_stays *s);
void app_stays_fini(struct app_stays *s);

/*
 * Whether a program may be started on a client's word; its real path. -EINVAL for a relative path,
 * -EACCES, -EPERM where others could change it, what realpath(3) says.
 */
int app_stays_check_program(const char *given, char path[PATH_MAX]);

/* First look: the store is asked whether it is there, and the devices whether they go on. They may
 * be looked at again, and those that were found before stay. -EOPNOTSUPP without --keep, -EPIPE for
 * a store that has failed. */
int app_stays_look(struct app_stays *s, const struct app_options *opts);
/* What the new program has said of devices: the message `checked`. */
int app_stays_note_checked(struct app_stays *s, const json_t *checked);

/* What it has said of those that it has, with force: the message `taken`. It makes those that start
 * anew by the words that they have. */
int app_stays_note_taken(struct app_stays *s, const json_t *taken);

/* One that does not go on; the first reason counts. */
int app_stays_add(struct app_stays *s, const char *name, const char *why);

bool app_stays_has(const struct app_stays *s, const char *name);
/* 0 where all devices go on, or force is given; else -EBUSY, which names them. */
int app_stays_refuse(const struct app_stays *s, bool force);
/* Names of devices that do not go on: those that are lost, or those that start anew. */
json_t *app_stays_list(const struct app_stays *s, bool lost);
/* Log those that start anew, and those that are lost, each with the reason. */
void app_stays_log(const struct app_stays *s);
/* *result, which must be freed: an object `devices`, of all devices, with name, goes_on, and for
 * those that do not `why` and `lost`. */
int app_stays_describe(const struct app_stays *s, json_t **result);

#endif /* APP_STAYS_H */
