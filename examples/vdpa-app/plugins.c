/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Plugins with drivers. EAL loads what its -d names, but only when it starts: by then the words of
 * devices have been checked, and --help has been printed. So they are loaded here, and EAL is not
 * given them.
 */

#include <errno.h>
#include <string.h>

#include <rte_common.h>

#include <vdpa.h>

#include "log.h"
#include "plugins.h"

int
app_plugin_load(const char *path)
{
	if (vdpa_plugin_load(path) == 0)
		return 0;
	app_log(LOG_ERR, NULL, "-d: %s", vdpa_error_message());
	return -EINVAL;
}

int
app_plugin_option(int argc, char *const *argv, const char **path)
{
	if (strncmp(argv[0], "-d", 2) != 0)
		return 0;
	if (argv[0][2] != '\0') {
		*path = argv[0] + 2;
		return 1;
	}
	if (argc < 2)
		return 0;
	*path = argv[1];
	return 2;
}

int
app_plugins_load_eal(int argc, char *const *argv)
{
	const char *path;
	int n, rc = 0;

	for (int i = 0; rc == 0 && i < argc; i += RTE_MAX(n, 1)) {
		n = app_plugin_option(argc - i, argv + i, &path);
		if (n > 0)
			rc = app_plugin_load(path);
	}
	return rc;
}
