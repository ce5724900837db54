/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Tables of functions that others fill in, and that grow from version to version: the first member
 * of one is its size, as whoever filled it in was built with it. */

#ifndef TABLE_H
#define TABLE_H

#include <errno.h>
#include <stddef.h>
#include <string.h>

/*
 * Copy a table: what theirs lacks is NULL, and what it has behind ours must be. min is the size of
 * the first version. 0; -EINVAL for one that is smaller, -E2BIG for functions that are not known
 * here; no message.
 */
static inline int
vdpa_table_copy(void *to, size_t size, const void *from, size_t min)
{
	size_t theirs = *(const size_t *)from;

	if (theirs < min)
		return -EINVAL;
	for (size_t i = size; i < theirs; i++)
		if (((const char *)from)[i] != 0)
			return -E2BIG;
	memset(to, 0, size);
	memcpy(to, from, theirs < size ? theirs : size);
	/* Who copies it on copies one of ours. */
	*(size_t *)to = size;
	return 0;
}

#endif /* TABLE_H */
