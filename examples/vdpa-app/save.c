/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What runs as a configuration file. Owns nothing: the words of devices are the library's to keep.
 */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <vdpa.h>

#include "program.h"
#include "save.h"

static void
print_header(FILE *out)
{
	char now[sizeof("2026-01-01T00:00:00Z")] = "";
	time_t t = time(NULL);
	struct tm tm;

	if (gmtime_r(&t, &tm) != NULL)
		strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", &tm);
	fprintf(out, "# %s %s, %s: settings of its file, and devices as they were then.\n",
		app_program.name, APP_VERSION, now);
}

/* In quotation marks where it would not be one word without. */
static void
print_value(FILE *out, const char *value)
{
	bool quoted = *value == '\0';

	for (const char *c = value; *c != '\0'; c++)
		quoted |= isspace((unsigned char)*c) != 0;
	fprintf(out, quoted ? "\"%s\"" : "%s", value);
}

static void
print_setting(FILE *out, const struct app_setting_row *row, const char *value)
{
	fprintf(out, "%s ", row->name);
	if (row->words)
		fputs(value, out);
	else
		print_value(out, value);
	fputc('\n', out);
}

static int
print_device(const char *name, uint64_t id, const char *words, void *arg)
{
	fprintf(arg, "%s\n", words);
	return 0;
}

int
app_save(const struct app_settings *settings, char **text)
{
	FILE *out;
	size_t len;
	int rc;

	*text = NULL;
	out = open_memstream(text, &len);
	if (out == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	print_header(out);
	for (unsigned int i = 0; i < APP_SETTINGS; i++)
		for (unsigned int j = 0; j < settings->of[i].n; j++)
			print_setting(out, &app_setting_rows[i], settings->of[i].value[j]);
	rc = vdpa_dev_words_each(print_device, out);
	if (fclose(out) != 0 && rc == 0)
		rc = vdpa_error(ENOMEM, "out of memory");
	if (rc < 0) {
		free(*text);
		*text = NULL;
	}
	return rc;
}
