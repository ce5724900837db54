/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What runs as a configuration file: save.c. */

#ifndef APP_SAVE_H
#define APP_SAVE_H

#include "settings.h"

/*
 * The text of a file that makes a daemon with these settings and the devices that run now, each in
 * the words that it has now, in the order in which they were added. *text is to be freed. 0;
 * -ENOMEM. Any thread; nobody waits for it.
 */
int app_save(const struct app_settings *settings, char **text);

#endif /* APP_SAVE_H */
