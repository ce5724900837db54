/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Settings of the daemon as a whole, the same on the command line (--poll-us 20) and in a
 * configuration file (poll-us 20): their names, what each may be, and values that were given.
 */

#ifndef APP_SETTINGS_H
#define APP_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include <rte_config.h>

#define APP_POLL_US_MAX	   1000000u /* microseconds */
#define APP_STATS_MAX	   86400u   /* seconds */
#define APP_POLL_LCORE_MAX RTE_MAX_LCORE

enum app_setting {
	APP_POLL_LCORES,
	APP_POLL_US,
	APP_STATS,
	APP_LOG_LEVEL,
	APP_NAME,
	APP_CONTROL,
	APP_CONTROL_GROUP,
	APP_CONTROL_READ_GROUP,
	APP_UVDPAD,
	APP_UVDPAD_MAP,
	APP_KEEP,
	APP_EAL,    /* arguments of EAL; on the command line they stand before "--" */
	APP_PLUGIN, /* on the command line: -d */
	APP_SETTINGS,
};

/* What a setting is. */
struct app_setting_row {
	const char *name;
	bool many;	/* each value that is given counts, not the last alone */
	bool words;	/* its value is several words: the rest of the line */
	bool file_only; /* the command line has it in a form of its own */
	bool line_only; /* a file has it not */
	/* It is the path of a socket, behind this text; NULL: it is none. */
	const char *path;
	bool at_runtime; /* a reload applies it; others wait for the next start */
	/* 0; -EINVAL with vdpa_error(), beginning with the setting's name; -ENOMEM. */
	int (*check)(const char *name, const char *value);
};
extern const struct app_setting_row app_setting_rows[APP_SETTINGS];

/* APP_SETTINGS: there is none of that name. */
enum app_setting app_setting_find(const char *name);

struct app_settings {
	struct {
		char **value;
		unsigned int n;
	} of[APP_SETTINGS];
};

/* Check and add a value. 0; as app_setting_row.check(). */
int app_settings_add(struct app_settings *s, enum app_setting which, const char *value);

/* The value that was given last; NULL: none. */
const char *app_settings_get(const struct app_settings *s, enum app_setting which);

void app_settings_free(struct app_settings *s);

/* Values that app_settings_add() has taken. */
unsigned int app_parse_number(const char *value);
unsigned int app_parse_lcores(const char *value, unsigned int lcores[APP_POLL_LCORE_MAX]);

/* The level's name in a value of log-level, LEVEL or PATTERN:LEVEL, and what it is to rte_log; NULL
 * for a value that is none. */
const char *app_log_level(const char *value, uint32_t *level);

#endif /* APP_SETTINGS_H */
