/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Plugins with drivers (-d), loaded ahead of EAL.
 */

#ifndef APP_PLUGINS_H
#define APP_PLUGINS_H

/* Load one. Returns 0, or -EINVAL with one line on stderr. */
int app_plugin_load(const char *path);

/* Whether EAL's option argv[0] names one: how many arguments that takes; 0: it does not. */
int app_plugin_option(int argc, char *const *argv, const char **path);

/* Load those that EAL's options name. As app_plugin_load(). */
int app_plugins_load_eal(int argc, char *const *argv);

#endif /* APP_PLUGINS_H */
