/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The command line of test-vdpa, checked before anything starts. */

#ifndef CLI_H
#define CLI_H

#include <stdbool.h>
#include <stdint.h>

#define CLI_CASES_MAX 64u

enum cli_command { CLI_NONE, CLI_CONFORMANCE, CLI_BENCH, CLI_INFO };
enum cli_measure { CLI_MEASURE_THROUGHPUT, CLI_MEASURE_KICKS, CLI_MEASURE_LIFE, CLI_MEASURE_ALL };
enum cli_loopback { CLI_LOOPBACK_AUTO, CLI_LOOPBACK_YES, CLI_LOOPBACK_NO };

struct cli_options {
	enum cli_command command;
	const char *dev;    /* words; NULL */
	const char *socket; /* path; NULL */
	const char *json;
	const char *cases[CLI_CASES_MAX];
	unsigned int n_cases;
	uint32_t device_id; /* --type; 0: guess */
	enum cli_loopback loopback;
	bool list, help, version, no_status, overwrite, packed, write, plugins;
	unsigned int scale;	  /* percent */
	unsigned int duration_ms; /* bench */
	uint32_t size;		  /* bytes; 0: default */
	unsigned int queues;	  /* pairs or queues; 0: all */
	unsigned int depth;
	enum cli_measure measure;
	bool paced;	   /* bench: at a rate, and nothing else */
	unsigned int rate; /* units a second */
	uint64_t seed;
	const char *log_level;
	int eal_argc; /* what stands behind -- */
	char **eal_argv;
};

/* 0 or -EINVAL with one line on standard error. */
int cli_parse(struct cli_options *opts, int argc, char **argv);
void cli_usage(void);

#endif /* CLI_H */
