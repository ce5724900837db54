/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The daemon's own methods of the control socket: config.check, config.reload and config.save. */

#ifndef APP_CONFIG_METHODS_H
#define APP_CONFIG_METHODS_H

/* Before the socket is opened. Calls are refused until app_reload_init(). 0, or a negative errno
 * with vdpa_error(). */
int app_config_methods_add(void);

/* No call runs on return, or will. */
void app_config_methods_remove(void);

#endif /* APP_CONFIG_METHODS_H */
