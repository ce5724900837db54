/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What a word means that names a group of users. Owns nothing. */

#include <errno.h>
#include <grp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "vdpa_args.h"
#include "vdpa_error.h"

/* Most groups' entries; those of a directory may be longer, up to this many bytes. */
#define ENTRY_FEW 4096
#define ENTRY_MAX (1u << 20)

/* 0; ENOENT: none of that name; else what getgrnam_r(3) says, ERANGE beyond ENTRY_MAX. */
static int
look_up(const char *text, gid_t *gid)
{
	struct group group, *found = NULL;
	int err = ERANGE;

	for (size_t size = ENTRY_FEW; err == ERANGE && size <= ENTRY_MAX; size *= 4) {
		char *buf = malloc(size);

		if (buf == NULL)
			return ENOMEM;
		err = getgrnam_r(text, &group, buf, size, &found);
		if (err == 0 && found != NULL)
			*gid = group.gr_gid;
		free(buf);
	}
	/* The answers of a directory that has none, or is not there. */
	if (err == ESRCH || err == EBADF || err == EPERM)
		err = ENOENT;
	return err == 0 && found == NULL ? ENOENT : err;
}

int
vdpa_group_find(const char *text, gid_t *gid)
{
	int err = look_up(text, gid);
	unsigned long number;
	char *end;

	if (err == 0)
		return 0;
	errno = 0;
	number = strtoul(text, &end, 10);
	if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && number < UINT32_MAX) {
		*gid = (gid_t)number;
		return 0;
	}
	if (err != ENOENT)
		return vdpa_error(EINVAL, "group '%s': %s", text, strerror(err));
	return vdpa_error(EINVAL, "group '%s': there is none of that name", text);
}
