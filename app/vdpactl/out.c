/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* JSON in iproute2's form, and text that is safe to print. */

#include <stdlib.h>
#include <string.h>

#include "out.h"

/* Of a sequence that begins so; 0: none does. */
static size_t
sequence_len(unsigned char first)
{
	if (first < 0x80)
		return 1;
	if (first >= 0xc2 && first < 0xe0)
		return 2;
	if (first >= 0xe0 && first < 0xf0)
		return 3;
	return first >= 0xf0 && first < 0xf5 ? 4 : 0;
}

size_t
text_char(const char *text, bool *safe)
{
	unsigned char first = (unsigned char)text[0];
	size_t len = sequence_len(first);

	for (size_t i = 1; i < len; i++)
		if (((unsigned char)text[i] & 0xc0) != 0x80)
			len = 0;
	*safe = len > 0 && first >= ' ' && first != 0x7f &&
		(first != 0xc2 || (unsigned char)text[1] >= 0xa0);
	return len > 0 ? len : 1;
}

static void
write_text(struct out *out, const char *text)
{
	static const char plain[] = "\t\n\r\f\b\\\"", letter[] = "tnrfb\\\"";
	const char *found;
	size_t len;
	bool safe;

	fputc('"', out->file);
	for (; *text != '\0'; text += len) {
		found = strchr(plain, *text);
		len = text_char(text, &safe);
		if (found != NULL)
			fprintf(out->file, "\\%c", letter[found - plain]);
		else if (safe)
			fwrite(text, 1, len, out->file);
		else /* of C1 the second byte is the number */
			fprintf(out->file, "\\u%04x", (unsigned char)text[len - 1]);
	}
	fputc('"', out->file);
}

static void
new_line(struct out *out)
{
	if (out->pretty)
		fprintf(out->file, "\n%*s", (int)(4 * out->depth), "");
}

/* What stands before a value: a comma where another one does, and its key on a line of its own. */
static void
begin(struct out *out, const char *key)
{
	if (out->more)
		fputc(',', out->file);
	if (key != NULL) {
		new_line(out);
		write_text(out, key);
		fputs(out->pretty ? ": " : ":", out->file);
	}
	out->more = true;
}

void
out_open(struct out *out, const char *key, char bracket)
{
	begin(out, key);
	fputc(bracket, out->file);
	if (bracket == '[' && out->pretty)
		fputc(' ', out->file);
	out->more = false;
	out->depth++;
}

void
out_close(struct out *out, char bracket)
{
	out->depth--;
	if (out->more && bracket == '}')
		new_line(out);
	else if (out->more && out->pretty)
		fputc(' ', out->file);
	fputc(bracket, out->file);
	out->more = true;
}

void
out_string(struct out *out, const char *key, const char *text)
{
	begin(out, key);
	write_text(out, text);
}

void
out_integer(struct out *out, const char *key, json_int_t value)
{
	begin(out, key);
	fprintf(out->file, "%" JSON_INTEGER_FORMAT, value);
}

void
out_bool(struct out *out, const char *key, bool value)
{
	begin(out, key);
	fputs(value ? "true" : "false", out->file);
}

void
out_value(struct out *out, const char *key, const json_t *value)
{
	const char *name;
	json_t *member;
	size_t i;

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		out_open(out, key, '{');
		json_object_foreach((json_t *)(uintptr_t)value, name, member)
			out_value(out, name, member);
		out_close(out, '}');
		break;
	case JSON_ARRAY:
		out_open(out, key, '[');
		json_array_foreach(value, i, member) out_value(out, NULL, member);
		out_close(out, ']');
		break;
	case JSON_STRING:
		out_string(out, key, json_string_value(value));
		break;
	case JSON_INTEGER:
		out_integer(out, key, json_integer_value(value));
		break;
	case JSON_REAL:
		begin(out, key);
		fprintf(out->file, "%.17g", json_real_value(value));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		out_bool(out, key, json_is_true(value));
		break;
	case JSON_NULL:
		begin(out, key);
		fputs("null", out->file);
		break;
	}
}

static void
print_chars(FILE *file, const char *text, const char *allowed)
{
	size_t len;
	bool safe;

	for (; *text != '\0'; text += len) {
		len = text_char(text, &safe);
		if (safe || strchr(allowed, *text) != NULL)
			fwrite(text, 1, len, file);
		else
			fputc('?', file);
	}
}

void
print_safe(FILE *file, const char *text)
{
	print_chars(file, text, "");
}

void
print_safe_lines(FILE *file, const char *text)
{
	print_chars(file, text, "\t\n");
}

void
print_padded(FILE *file, const char *text, int width)
{
	int n = 0;
	bool safe;

	for (const char *at = text; *at != '\0'; at += text_char(at, &safe))
		n++;
	if (n < width)
		fprintf(file, "%*s", width - n, "");
	print_safe(file, text);
	if (n < -width)
		fprintf(file, "%*s", -width - n, "");
}

void
print_value(FILE *file, const json_t *value)
{
	char *text;

	switch (json_typeof(value)) {
	case JSON_STRING:
		print_safe(file, json_string_value(value));
		break;
	case JSON_INTEGER:
		fprintf(file, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
		break;
	default:
		text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
		print_safe(file, text != NULL ? text : "?");
		free(text);
		break;
	}
}
