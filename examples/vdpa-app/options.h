/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The command line: what the user asked for, with the files that it names, checked before EAL
 * starts.
 */

#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>

#include <vdpa_args.h>

#include "config_file.h"
#include "settings.h"

/* What brings devices, in the order of the command line. */
struct app_source {
	char *text;	      /* a file's path, or the words of a device */
	unsigned int nth_dev; /* from 1; 0: it is a file */
};

struct app_options {
	int eal_argc;	 /* the user's EAL options, without the program's name */
	char **eal_argv; /* points into argv and the strings of eal_words */
	int eal_own;	 /* of them, those that the program itself put first */

	/* As struct vdpa_init_params has them. */
	unsigned int poll_lcores[APP_POLL_LCORE_MAX];
	unsigned int n_poll_lcores;
	unsigned int poll_us;

	unsigned int stats_s; /* 0: no statistics lines */
	/* NULL: not given. */
	const char *log_level;
	const char *name;
	const char *control, *control_group, *control_read_group;
	const char *uvdpad;
	const char *keep;	 /* the store of devices that outlive the daemon */
	const char **uvdpad_map; /* "ID WORDS" */
	unsigned int n_uvdpad_map;

	int take_over; /* a socket to the daemon that hands its devices over; 0: none */
	bool json;     /* statistics when stopping */
	bool help;
	bool list;
	bool version;
	bool check; /* look at the configuration file only */

	/* What the above is made of. */
	struct app_source *sources;
	unsigned int n_sources;
	struct app_settings given; /* on the command line: they overrule a file's */
	struct app_config config;
	struct vdpa_words *eal_words; /* of files */
	unsigned int n_eal_words;
};

/*
 * Read the command line and its files. Each mistake becomes a line on stderr that names it and what
 * is allowed. Returns 0, -EINVAL for a mistake of the user's or -ENOMEM.
 */
int app_options_parse(struct app_options *opts, int argc, char **argv);

/*
 * Read the files once more, and the devices of the command line with them: for a reload. Words
 * are not checked: app_config_check(). 0; -ENOMEM. c is to be freed in any case.
 */
int app_options_read(const struct app_options *opts, struct app_config *c,
		     struct app_mistakes *mistakes);

/* Whether a file is among the sources. */
bool app_options_has_file(const struct app_options *opts);

void app_options_free(struct app_options *opts);

void app_usage(void);

#endif /* APP_OPTIONS_H */
