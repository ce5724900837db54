/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Requests in a stream, each of whose bytes is looked at once. Owns nothing. */

#include <string.h>

#include "frame.h"

size_t
control_frame_lines(const char *buf, size_t len, struct control_scan *scan)
{
	const char *newline = memchr(buf + scan->seen, '\n', len - scan->seen);

	if (newline != NULL)
		return (size_t)(newline - buf) + 1;
	scan->seen = len;
	return 0;
}

static bool
is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* One more byte of an object; whether it is its last. */
static bool
step(struct control_scan *scan, char c)
{
	if (scan->in_string) {
		if (scan->escaped)
			scan->escaped = false;
		else if (c == '\\')
			scan->escaped = true;
		else if (c == '"')
			scan->in_string = false;
		return false;
	}
	switch (c) {
	case '"':
		scan->in_string = true;
		return false;
	case '{':
	case '[':
		scan->depth++;
		return false;
	case '}':
	case ']':
		/* The last one is left to be found again: the request may have to wait. */
		if (scan->depth == 1)
			return true;
		scan->depth--;
		return false;
	default:
		return false;
	}
}

/* What begins no object: the blanks, or a line of something else. */
static size_t
skip(const char *buf, size_t len)
{
	const char *newline;
	size_t n = 0;

	while (n < len && is_blank(buf[n]))
		n++;
	if (n > 0)
		return n;
	newline = memchr(buf, '\n', len);
	return newline != NULL ? (size_t)(newline - buf) + 1 : len;
}

size_t
control_frame_objects(const char *buf, size_t len, struct control_scan *scan)
{
	if (len == 0)
		return 0;
	if (buf[0] != '{')
		return skip(buf, len);
	for (; scan->seen < len; scan->seen++)
		if (step(scan, buf[scan->seen]))
			return scan->seen + 1;
	return 0;
}
