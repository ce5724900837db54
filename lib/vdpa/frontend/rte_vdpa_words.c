/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * DPDK's device arguments as words of dev add. Pure functions; what the words mean is the grammar's
 * to check.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rte_vdpa_words.h"
#include "vdpa_args.h"

/*
 * Copy one item, "word=value" as "word value", and go behind it and its comma. NULL, or what is
 * wrong with it.
 */
static const char *
copy_item(FILE *out, const char **in)
{
	bool quoted = false, in_value = false;
	const char *c = *in;

	if (*c == ',' || *c == '=')
		return "an item does not begin with a word";
	for (; *c != '\0' && (quoted || *c != ','); c++) {
		if (*c == '"')
			quoted = !quoted;
		if (*c != '=' || quoted || in_value) {
			fputc(*c, out);
			continue;
		}
		/* An absent value must not make the next word one. */
		if (c[1] == '\0' || c[1] == ',')
			return "a value is missing after '='";
		in_value = true;
		fputc(' ', out);
	}
	if (quoted)
		return "a quotation mark is not closed";
	*in = *c == ',' ? c + 1 : c;
	return NULL;
}

static const char control_item[] = "control";

/* Behind an item, its comma included. */
static const char *
skip_item(const char *in)
{
	bool quoted = false;

	for (; *in != '\0' && (quoted || *in != ','); in++)
		quoted ^= *in == '"';
	return *in == ',' ? in + 1 : in;
}

/* Whether the item is "control", with a value or without. */
static bool
is_control(const char *in)
{
	const size_t len = sizeof(control_item) - 1;

	return strncmp(in, control_item, len) == 0 &&
	       (in[len] == '=' || in[len] == ',' || in[len] == '\0');
}

/* The value of an item, without its quotation marks; NULL: out of memory. */
static char *
value_of(const char *in)
{
	const char *end = skip_item(in);
	char *value = malloc((size_t)(end - in) + 1), *out = value;

	if (value == NULL)
		return NULL;
	in += sizeof(control_item) - 1;
	if (*in == '=')
		in++;
	for (bool quoted = false; in < end && (quoted || *in != ','); in++) {
		quoted ^= *in == '"';
		if (*in != '"')
			*out++ = *in;
	}
	*out = '\0';
	return value;
}

int
vdpa_rte_control(const char *devargs, char **path)
{
	*path = NULL;
	for (const char *in = devargs != NULL ? devargs : ""; *in != '\0'; in = skip_item(in)) {
		if (!is_control(in))
			continue;
		if (*path != NULL) {
			free(*path);
			*path = NULL;
			return vdpa_error(EINVAL, "control: is given twice");
		}
		*path = value_of(in);
		if (*path == NULL)
			return vdpa_error(ENOMEM, "out of memory");
		if (**path == '\0') {
			free(*path);
			*path = NULL;
			return vdpa_error(EINVAL, "control: a path is missing: control=PATH");
		}
	}
	return 0;
}

char *
vdpa_rte_words(const char *name, const char *devargs)
{
	char *text = NULL;
	const char *in = devargs == NULL ? "" : devargs, *wrong;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (out == NULL)
		goto err_memory;
	fprintf(out, "name %s", name);
	while (*in != '\0') {
		if (is_control(in)) {
			in = skip_item(in);
			continue;
		}
		fputc(' ', out);
		wrong = copy_item(out, &in);
		if (wrong != NULL) {
			vdpa_error(EINVAL, "arguments '%s': %s", devargs, wrong);
			goto err_words;
		}
	}
	fprintf(out, " frontend rte_vdpa");
	if (fclose(out) != 0)
		goto err_memory;
	return text;

err_words:
	fclose(out);
	free(text);
	errno = EINVAL;
	return NULL;
err_memory:
	free(text);
	vdpa_error(ENOMEM, "out of memory");
	errno = ENOMEM;
	return NULL;
}
