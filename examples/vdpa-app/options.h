/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The command line: what the user asked for, checked before EAL starts.
 */

#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>

#include <rte_config.h>

#define APP_POLL_US_MAX	   1000000u /* microseconds */
#define APP_STATS_MAX	   86400u   /* seconds */
#define APP_CONFIG_MAX	   4096u    /* devices of one daemon */
#define APP_POLL_LCORE_MAX RTE_MAX_LCORE
#define APP_LINE_MAX	   8192u	/* bytes of a line of the configuration file */
#define APP_FILE_MAX	   (16ul << 20) /* bytes of the file */

/* A device the user asked for, and where. */
struct app_dev {
	char *words;
	char *where; /* "--dev 1", "FILE:LINE" */
};

struct app_options {
	int eal_argc;	 /* the user's EAL options, without the program's name */
	char **eal_argv; /* points into argv */
	int eal_own;	 /* of them, those that the program itself put first */
	struct app_dev *devs;
	unsigned int n_devs;
	unsigned int poll_lcores[APP_POLL_LCORE_MAX];
	unsigned int n_poll_lcores;
	unsigned int poll_us;  /* as struct vdpa_init_params has it */
	unsigned int stats_s;  /* 0: no statistics lines */
	const char *log_level; /* NULL: the default */
	bool json;	       /* statistics when stopping */
	bool help;
	bool list;
	bool version;
};

/*
 * Read the command line. On a mistake: one line on stderr that names it and what is allowed.
 * Returns 0, -EINVAL for a mistake of the user's or -ENOMEM.
 */
int app_options_parse(struct app_options *opts, int argc, char **argv);

void app_options_free(struct app_options *opts);

void app_usage(void);

#endif /* APP_OPTIONS_H */
