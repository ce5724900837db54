/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * JSON as iproute2 writes it: compact, or in its own pretty form (four blanks a level, arrays in
 * one line). Tools compare it byte for byte, and jansson's writer has another form.
 */

#ifndef OUT_H
#define OUT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

struct out {
	FILE *file;
	bool pretty;
	bool more; /* a value stands before the next one */
	unsigned int depth;
};

/* An object or an array; key: its own in the object around it, NULL where there is none. */
void out_open(struct out *out, const char *key, char bracket);
/* bracket: '}' or ']'. */
void out_close(struct out *out, char bracket);
/* A value of any kind; key as above. */
void out_value(struct out *out, const char *key, const json_t *value);
void out_string(struct out *out, const char *key, const char *text);
void out_integer(struct out *out, const char *key, json_int_t value);
void out_bool(struct out *out, const char *key, bool value);

/*
 * The length of the character that text begins with (UTF-8; not 0), and whether a terminal only
 * shows it: *safe is false for control characters, C1's too, and for bytes that are no UTF-8.
 */
size_t text_char(const char *text, bool *safe);

/* Text for a terminal: what is not safe is a '?'. */
void print_safe(FILE *file, const char *text);
/* The same for text of several lines, which stay. */
void print_safe_lines(FILE *file, const char *text);
/*
 * The same, filled up with blanks to a width in characters: before it, or behind it where the width
 * is negative, as printf() does.
 */
void print_padded(FILE *file, const char *text, int width);
/* The same for any value; objects and arrays as compact JSON. */
void print_value(FILE *file, const json_t *value);

#endif /* OUT_H */
