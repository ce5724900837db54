/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The grammar as the core uses it: parsing words against several tables. */

#ifndef VDPA_ARGS_PRIV_H
#define VDPA_ARGS_PRIV_H

#include <stdio.h>

#include "vdpa_args.h"

struct vdpa_param_table {
	const struct vdpa_param *params; /* NULL: empty */
	const char **used; /* optional: receives a word of this table that was given */
};

/*
 * Parse words[first ..] against the tables, the first that knows a word. args points into words:
 * keep them while args is in use. -EINVAL with a message that names the word and what is allowed.
 */
int vdpa_args_parse(const struct vdpa_words *words, unsigned int first,
		    const struct vdpa_param_table *tables, unsigned int ntables,
		    struct vdpa_args *args);

/* The rows of a table for --help. */
void vdpa_params_print(FILE *out, const struct vdpa_param *params);

#endif /* VDPA_ARGS_PRIV_H */
