/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The default paths of the daemon's sockets. */

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include "control_path.h"

#define NAME_LEN_MAX 63

static bool
is_name(const char *name)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
				      "0123456789._-";
	size_t len = strlen(name);

	return len <= NAME_LEN_MAX && name[0] != '.' && strspn(name, allowed) == len;
}

int
vdpa_runtime_path(const char *name, const char *file, char *buf, size_t size)
{
	const char *base = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");
	bool named = name != NULL && name[0] != '\0';
	int len;

	if (named && !is_name(name))
		return -EINVAL;
	if (base == NULL || base[0] != '/')
		return -ENOENT;
	len = snprintf(buf, size, "%s/uvdpa/%s%s%s", base, named ? name : "", named ? "/" : "",
		       file);
	if (len >= (int)sizeof(((struct sockaddr_un *)NULL)->sun_path) || (size_t)len >= size)
		return -ENAMETOOLONG;
	return 0;
}

int
vdpa_control_default_path(const char *name, char *buf, size_t size)
{
	return vdpa_runtime_path(name, "control.sock", buf, size);
}
