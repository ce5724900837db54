/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* test-vdpa conformance: named cases against one device. */

#ifndef CONFORMANCE_H
#define CONFORMANCE_H

#include <stdio.h>

#include "run.h"

struct conformance_options {
	const char *const *globs; /* of case names */
	unsigned int n_globs;	  /* 0: all */
	const char *json;	  /* file, "-": standard output; NULL: none */
};

/* Print every case with what it is about. */
void conformance_list(FILE *out);
/* Whether a glob names a case at all. */
bool conformance_knows(const char *glob);
/* Run them. TAP on standard output, or on standard error where JSON goes there. The exit code. */
int conformance_run(struct run *r, const struct conformance_options *opts);
/* The same for a device that could not be opened: one failed case, named open. */
int conformance_no_device(const struct conformance_options *opts, const char *where,
			  const char *why);

#endif /* CONFORMANCE_H */
