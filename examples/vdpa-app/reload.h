/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Configuration files while the daemon runs: they are read again, and what runs is written as one.
 */

#ifndef APP_RELOAD_H
#define APP_RELOAD_H

#include <jansson.h>

#include "options.h"

/* After the devices have been made. opts stay until app_reload_fini(). */
void app_reload_init(const struct app_options *opts);

/*
 * Read the files again and apply what is different. A mistake in them changes nothing. *result, an
 * object, is to be freed: that of app_made_change(), and next_start, the names of settings that
 * have changed and wait for the next start. 0; -EINVAL for mistakes: they are in the log, the first
 * in vdpa_error(); -EOPNOTSUPP where no file was given; -EBUSY while another reload is at work;
 * -ESHUTDOWN at the end; -ENOMEM. It takes as long as its devices do. Not from the main thread.
 */
int app_reload(json_t **result);

/* The same in a thread of its own; never waits. Where one is at work, another follows it, since the
 * files may have changed since it read them. By the main thread. */
void app_reload_begin(void);

/* What runs now as the text of a file: app_save(). Any thread. */
int app_reload_save(char **text);

/* Keep reloads out for a while; false where one is at work. */
bool app_reload_lock(void);
void app_reload_unlock(void);

/* No reload works on return, or will: one that does ends at its next device. */
void app_reload_fini(void);

#endif /* APP_RELOAD_H */
