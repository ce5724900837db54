/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Where a request ends: with its line, or in a stream of JSON objects that nothing need separate.
 * Pure functions. */

#ifndef CONTROL_FRAME_H
#define CONTROL_FRAME_H

#include <stdbool.h>
#include <stddef.h>

/* How far the end of a request has been looked for; all zero at its beginning. */
struct control_scan {
	size_t seen;	    /* bytes that were looked at */
	unsigned int depth; /* objects and arrays that are open behind them */
	bool in_string, escaped;
};

/*
 * Bytes of the first request, a line with its newline; 0: it is not whole. buf is what has come
 * since the request began, and is the same and more with each call for it; scan is what was found
 * by the calls before.
 */
size_t control_frame_lines(const char *buf, size_t len, struct control_scan *scan);

/*
 * The same in a stream of JSON objects. Blanks by themselves are a request without meaning, and so
 * is anything else that does not begin an object, up to the end of its line or of what has come.
 * Whether an object's text is JSON is not looked at: only brackets and strings are.
 */
size_t control_frame_objects(const char *buf, size_t len, struct control_scan *scan);

#endif /* CONTROL_FRAME_H */
