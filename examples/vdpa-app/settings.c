/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Settings of the daemon as a whole: one table for the command line and the configuration file.
 * Owns the values that were given.
 */

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#include <rte_common.h>
#include <rte_log.h>

#include <vdpa.h>
#include <vdpa_args.h>

#include "settings.h"

/* Digits only: no sign, no blank, no other base. */
static int
parse_number(const char *text, const char *end, unsigned int max, unsigned int *value)
{
	unsigned long long v = 0;

	if (text == end)
		return -EINVAL;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		v = v * 10 + (unsigned int)(*text - '0');
		if (v > max)
			return -ERANGE;
	}
	*value = (unsigned int)v;
	return 0;
}

static int
check_number(const char *name, const char *text, unsigned int min, unsigned int max)
{
	unsigned int value;

	if (parse_number(text, text + strlen(text), max, &value) < 0 || value < min)
		return vdpa_error(EINVAL, "%s: '%s' is not a number from %u to %u", name, text, min,
				  max);
	return 0;
}

static int
check_poll_us(const char *name, const char *text)
{
	return check_number(name, text, 0, APP_POLL_US_MAX);
}

static int
check_stats(const char *name, const char *text)
{
	return check_number(name, text, 1, APP_STATS_MAX);
}

/* "1", "1,3", "2-4,6": how many; -EINVAL; -EEXIST with the CPU that is there twice in *twice. */
static int
parse_lcores(const char *text, unsigned int *lcores, unsigned int *twice)
{
	const unsigned int max = APP_POLL_LCORE_MAX - 1;
	bool taken[APP_POLL_LCORE_MAX] = {false};
	unsigned int first, last, n = 0;

	for (const char *pos = text;;) {
		size_t len = strcspn(pos, ",");
		const char *dash = memchr(pos, '-', len);

		if (parse_number(pos, dash != NULL ? dash : pos + len, max, &first) < 0)
			return -EINVAL;
		last = first;
		if (dash != NULL && parse_number(dash + 1, pos + len, max, &last) < 0)
			return -EINVAL;
		if (last < first)
			return -EINVAL;
		for (; first <= last; first++) {
			*twice = first;
			if (taken[first])
				return -EEXIST;
			taken[first] = true;
			lcores[n++] = first;
		}
		if (pos[len] == '\0')
			return (int)n;
		pos += len + 1;
	}
}

static int
check_poll_lcores(const char *name, const char *text)
{
	unsigned int lcores[APP_POLL_LCORE_MAX], twice;
	int rc = parse_lcores(text, lcores, &twice);

	if (rc == -EEXIST)
		return vdpa_error(EINVAL, "%s: %u is given twice", name, twice);
	if (rc < 0)
		return vdpa_error(EINVAL,
				  "%s: '%s' is not a list of CPUs from 0 to %u such as 1 or 2-3,5",
				  name, text, APP_POLL_LCORE_MAX - 1);
	return 0;
}

const char *
app_log_level(const char *value, uint32_t *level)
{
	static const char *const names[] = {"emergency", "alert",  "critical", "error",
					    "warning",	 "notice", "info",     "debug"};
	const char *name = strrchr(value, ':');

	name = name == NULL ? value : name + 1;
	for (uint32_t i = 0; i < RTE_DIM(names) && value[0] != ':'; i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		*level = RTE_LOG_EMERG + i;
		return name;
	}
	return NULL;
}

static int
check_log_level(const char *name, const char *text)
{
	uint32_t level;

	if (app_log_level(text, &level) != NULL)
		return 0;
	return vdpa_error(
		EINVAL,
		"%s: '%s' is not emergency, alert, critical, error, warning, notice, info "
		"or debug, nor PATTERN: and one of these",
		name, text);
}

static int
check_name(const char *name, const char *text)
{
	size_t len = strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				  "0123456789._-");

	if (len == 0 || text[len] != '\0' || len >= VDPA_NAME_MAX || text[0] == '.')
		return vdpa_error(EINVAL,
				  "%s: '%s': allowed are 1 to %d of A-Z a-z 0-9 . _ -, the first "
				  "not a dot",
				  name, text, VDPA_NAME_MAX - 1);
	return 0;
}

/* Of a socket; "off" for none. */
static int
check_socket(const char *name, const char *text)
{
	const size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	size_t len = strlen(text);

	if (len == 0 || len > max)
		return vdpa_error(
			EINVAL, "%s: '%s': %zu characters, allowed are a path of 1 to %zu, or off",
			name, text, len, max);
	return 0;
}

static int
check_group(const char *name, const char *text)
{
	char why[512];
	gid_t gid;

	if (vdpa_group_find(text, &gid) == 0)
		return 0;
	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	return vdpa_error(EINVAL, "%s: %s", name, why);
}

static int
check_eal(const char *name, const char *text)
{
	struct vdpa_words words;
	int rc = vdpa_words_split(text, &words);

	if (rc < 0)
		return rc;
	for (unsigned int i = 0; rc == 0 && i < words.n; i++)
		if (strcmp(words.word[i], "--") == 0)
			rc = vdpa_error(EINVAL,
					"%s: '--' ends EAL's arguments on the command line; leave "
					"it out here",
					name);
	vdpa_words_free(&words);
	return rc;
}

/* An id and the words of a device without name and front end, which the library looks at. */
static int
check_uvdpad_map(const char *name, const char *text)
{
	struct vdpa_words words;
	int rc = vdpa_words_split(text, &words);

	if (rc < 0)
		return rc;
	/* Whether they make a device is known once plugins are loaded: vdpa_uvdpad_start(). */
	if (words.n < 2)
		rc = vdpa_error(EINVAL, "%s: '%s' is not an ID and words", name, text);
	vdpa_words_free(&words);
	return rc;
}

/* The store of devices that outlive the daemon. */
static int
check_keep(const char *name, const char *text)
{
	if (strcmp(text, "systemd") == 0)
		return 0;
	if (strncmp(text, "unix:", strlen("unix:")) == 0 && text[strlen("unix:")] != '\0')
		return 0;
	return vdpa_error(EINVAL,
			  "%s: '%s': allowed are systemd, or unix: and the path of a "
			  "vdpa-keeper's socket",
			  name, text);
}

static int
check_file(const char *name, const char *text)
{
	return *text != '\0' ? 0 : vdpa_error(EINVAL, "%s: a path is missing", name);
}

const struct app_setting_row app_setting_rows[APP_SETTINGS] = {
	[APP_POLL_LCORES] = {.name = "poll-lcores", .check = check_poll_lcores},
	[APP_POLL_US] = {.name = "poll-us", .check = check_poll_us},
	[APP_STATS] = {.name = "stats", .check = check_stats},
	[APP_LOG_LEVEL] = {.name = "log-level", .check = check_log_level, .at_runtime = true},
	[APP_NAME] = {.name = "name", .line_only = true, .check = check_name},
	[APP_CONTROL] = {.name = "control", .path = "", .check = check_socket},
	[APP_CONTROL_GROUP] = {.name = "control-group", .check = check_group},
	[APP_CONTROL_READ_GROUP] = {.name = "control-read-group", .check = check_group},
	[APP_UVDPAD] = {.name = "uvdpad", .path = "", .check = check_socket},
	[APP_UVDPAD_MAP] = {.name = "uvdpad-map",
			    .many = true,
			    .words = true,
			    .check = check_uvdpad_map},
	[APP_KEEP] = {.name = "keep", .path = "unix:", .check = check_keep},
	[APP_EAL] =
		{.name = "eal", .many = true, .words = true, .file_only = true, .check = check_eal},
	[APP_PLUGIN] = {.name = "plugin", .many = true, .file_only = true, .check = check_file},
};

/* A value as it is kept: a relative path is one of the folder that the daemon is started in, and
 * stays that wherever the daemon, or the one that follows it, goes. NULL with errno. */
static char *
from_root(const struct app_setting_row *row, const char *value)
{
	const char *path = value;
	char *folder, *whole;
	int len = 0;

	if (row->path != NULL && strncmp(value, row->path, strlen(row->path)) == 0)
		path = value + strlen(row->path);
	if (row->path == NULL || path[0] == '/' || strcmp(value, "off") == 0 ||
	    strcmp(value, "systemd") == 0)
		return strdup(value);
	folder = getcwd(NULL, 0);
	if (folder == NULL)
		return NULL;
	len = asprintf(&whole, "%.*s%s/%s", (int)(path - value), value,
		       strcmp(folder, "/") == 0 ? "" : folder, path);
	free(folder);
	return len < 0 ? NULL : whole;
}

enum app_setting
app_setting_find(const char *name)
{
	unsigned int i;

	for (i = 0; i < APP_SETTINGS; i++)
		if (strcmp(app_setting_rows[i].name, name) == 0)
			break;
	return (enum app_setting)i;
}

int
app_settings_add(struct app_settings *s, enum app_setting which, const char *value)
{
	const struct app_setting_row *row = &app_setting_rows[which];
	int rc = row->check(row->name, value);
	char **values, *copy;

	if (rc < 0)
		return rc;
	values = reallocarray(s->of[which].value, s->of[which].n + 1, sizeof(*values));
	if (values == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	s->of[which].value = values;
	copy = from_root(row, value);
	if (copy == NULL)
		return vdpa_error(errno, "%s: '%s': %m", row->name, value);
	/* As long as it is now. */
	rc = row->check(row->name, copy);
	if (rc < 0) {
		free(copy);
		return rc;
	}
	values[s->of[which].n++] = copy;
	return 0;
}

const char *
app_settings_get(const struct app_settings *s, enum app_setting which)
{
	unsigned int n = s->of[which].n;

	return n > 0 ? s->of[which].value[n - 1] : NULL;
}

void
app_settings_free(struct app_settings *s)
{
	for (unsigned int i = 0; i < APP_SETTINGS; i++) {
		for (unsigned int j = 0; j < s->of[i].n; j++)
			free(s->of[i].value[j]);
		free(s->of[i].value);
	}
	memset(s, 0, sizeof(*s));
}

unsigned int
app_parse_number(const char *value)
{
	unsigned int number = 0;

	(void)parse_number(value, value + strlen(value), UINT32_MAX, &number);
	return number;
}

unsigned int
app_parse_lcores(const char *value, unsigned int lcores[APP_POLL_LCORE_MAX])
{
	unsigned int twice;
	int n = parse_lcores(value, lcores, &twice);

	return n > 0 ? (unsigned int)n : 0;
}
