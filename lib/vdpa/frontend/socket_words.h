/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The words of every front end that makes a UNIX socket: who may connect to it. */

#ifndef SOCKET_WORDS_H
#define SOCKET_WORDS_H

#include <errno.h>
#include <sys/types.h>

#include "vdpa_args.h"

#define SOCKET_MODE_DEFAULT 0600

/* Rows of a front end's table of words. */
#define SOCKET_WORDS                                                                               \
	{.name = "mode",                                                                           \
	 .type = VDPA_PARAM_MODE,                                                                  \
	 .metavar = "MODE",                                                                        \
	 .help = "permissions of the socket, octal; default 0600"},                                \
	{                                                                                          \
		.name = "group", .type = VDPA_PARAM_STRING, .metavar = "NAME", .min = 1,           \
		.max = 255,                                                                        \
		.help = "group of the socket, by name or number; default: that of the process",    \
	}

static inline mode_t
socket_words_mode(const struct vdpa_args *args)
{
	return (mode_t)vdpa_args_u64(args, "mode", SOCKET_MODE_DEFAULT);
}

/* *gid: (gid_t)-1 where no group is named. 0; -EINVAL with vdpa_error() for one that this machine
 * does not have. */
static inline int
socket_words_group(const struct vdpa_args *args, gid_t *gid)
{
	const char *group = vdpa_args_str(args, "group", NULL);

	*gid = (gid_t)-1;
	return group != NULL && vdpa_group_find(group, gid) < 0 ? -EINVAL : 0;
}

#endif /* SOCKET_WORDS_H */
