/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The control socket: which one the user has asked for. It is the library's, and ends with it. */

#include <errno.h>
#include <string.h>

#include <vdpa_control.h>
#include <vdpa_uvdpad.h>

#include "control.h"
#include "log.h"
#include "program.h"
#include "successor.h"

int
app_control_start(const struct app_options *opts)
{
	const struct vdpa_control_params params = {
		.path = opts->control,
		.name = opts->name != NULL ? opts->name : app_program.instance,
		.program = app_program.name,
		.version = APP_VERSION,
		.group = opts->control_group,
		.read_group = opts->control_read_group,
	};
	struct vdpa_control_params taken = params;
	bool asked = opts->control != NULL || opts->control_group != NULL ||
		     opts->control_read_group != NULL || opts->name != NULL;
	int ret;

	if (opts->control != NULL && strcmp(opts->control, "off") == 0)
		return 0;
	/* That of the daemon that hands over, unless the configuration has another by now. */
	taken.handed = app_successor_control();
	ret = taken.handed != NULL ? vdpa_control_start(&taken) : -ENOENT;
	if (ret == 0)
		app_successor_control_adopted();
	else
		ret = vdpa_control_start(&params);
	if (ret == 0)
		return 0;
	app_log(asked ? LOG_ERR : LOG_WARNING, NULL, "%s%s",
		asked ? "" : "no control socket, see --control: ", vdpa_error_message());
	return asked ? ret : 0;
}

int
app_uvdpad_start(const struct app_options *opts)
{
	const struct vdpa_control_params params = {
		.path = opts->uvdpad,
		.group = opts->control_group,
		.read_group = opts->control_read_group,
	};
	int ret;

	if (opts->uvdpad == NULL && opts->n_uvdpad_map > 0) {
		app_log(LOG_ERR, NULL, "uvdpad-map needs uvdpad");
		return -EINVAL;
	}
	if (opts->uvdpad == NULL || strcmp(opts->uvdpad, "off") == 0)
		return 0;
	ret = vdpa_uvdpad_start(&params, opts->uvdpad_map, opts->n_uvdpad_map);
	if (ret < 0)
		app_log(LOG_ERR, NULL, "%s", vdpa_error_message());
	return ret;
}
