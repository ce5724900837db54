/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Plugins with drivers. EAL loads what its -d names, but only when it starts: by then the words of
 * devices have been checked, and --help has been printed.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <vdpa.h>

#include "plugins.h"
#include "program.h"

int
app_plugin_load(const char *path)
{
	if (vdpa_plugin_load(path) == 0)
		return 0;
	fprintf(stderr, "%s: -d: %s\n", app_program.name, vdpa_error_message());
	return -EINVAL;
}

int
app_plugins_load_eal(int argc, char *const *argv)
{
	int rc = 0;

	for (int i = 0; rc == 0 && i < argc; i++) {
		if (strcmp(argv[i], "-d") == 0 && i + 1 < argc)
			rc = app_plugin_load(argv[++i]);
		else if (strncmp(argv[i], "-d", 2) == 0 && argv[i][2] != '\0')
			rc = app_plugin_load(argv[i] + 2);
	}
	return rc;
}
