/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the user has written down: devices and settings, of the command line and of configuration
 * files, and the mistakes in it. uvdpa.conf(5) describes a file.
 */

#ifndef APP_CONFIG_FILE_H
#define APP_CONFIG_FILE_H

#include <stdbool.h>
#include <stdio.h>

#include <vdpa.h>
#include <vdpa_uvdpad.h>

#include "settings.h"

#define APP_CONFIG_DEFAULT "/etc/uvdpa/uvdpa.conf"
#define APP_CONFIG_MAX	   4096u	/* devices of one daemon */
#define APP_LINE_MAX	   65536u	/* bytes of a line */
#define APP_FILE_MAX	   (16ul << 20) /* bytes of a file */
#define APP_MISTAKES_MAX   100u		/* that are listed; more are counted */

/* Where something stands. */
struct app_place {
	const char *source; /* a file, "--dev 1", ...; the config's */
	unsigned int order; /* of the source */
	unsigned int line;  /* from 1; 0: it has none */
};

struct app_mistake {
	struct app_place place;
	char *text;
};

struct app_mistakes {
	struct app_mistake *list;
	unsigned int n;	   /* in list */
	unsigned int more; /* beyond APP_MISTAKES_MAX, or for lack of memory */
};

/* A device that is to be made. */
struct app_dev {
	char *words;
	char name[VDPA_NAME_MAX]; /* "": the words are wrong, or not checked yet */
	struct app_place place;
	bool of_file;
};

struct app_config {
	struct app_settings settings; /* of files */
	struct app_place setting_place[APP_SETTINGS];
	struct app_place map_place[VDPA_UVDPAD_MAP_MAX]; /* of each uvdpad-map */
	bool lacks_uvdpad;    /* the command line has none: the file needs one for its map */
	struct app_dev *devs; /* in order */
	unsigned int n_devs;
	char **sources;
	unsigned int n_sources;
};

/*
 * Add the lines of a file, or of a text that is to be called so; what is wrong with a line becomes
 * a mistake, and the next one is read. The words of devices are app_config_check()'s to look at,
 * when all plugins are loaded. 0; -ENOMEM.
 */
int app_config_read(struct app_config *c, const char *path, struct app_mistakes *mistakes);
int app_config_read_text(struct app_config *c, const char *source, const char *text, size_t len,
			 struct app_mistakes *mistakes);

/* Add a device of the command line. 0; -ENOMEM. */
int app_config_add_dev(struct app_config *c, const char *words, const char *source);

/* Check the words of each device, and that no name or socket is there twice. 0; -ENOMEM. */
int app_config_check(struct app_config *c, struct app_mistakes *mistakes);

void app_config_free(struct app_config *c);

/* The device of that name; NULL: there is none. */
const struct app_dev *app_config_find(const struct app_config *c, const char *name);

/* Into the order in which they stand. */
void app_mistakes_sort(struct app_mistakes *mistakes);
/* In that order: "FILE:LINE: text", after the prefix. */
void app_mistakes_print(FILE *out, const char *prefix, struct app_mistakes *mistakes);
/* They point to the config that they were found in: before that is freed. */
void app_mistakes_free(struct app_mistakes *mistakes);

/* "FILE:LINE", as it stands before a message. */
void app_place_print(const struct app_place *place, char *buf, size_t size);

#endif /* APP_CONFIG_FILE_H */
