/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The command line and the configuration file. Everything is checked here, the words of each device
 * too, so that a mistake costs one line and no time: EAL has not started yet.
 */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vdpa.h>

#include "options.h"
#include "plugins.h"
#include "program.h"

enum {
	OPT_DEV = 256,
	OPT_CONFIG,
	OPT_POLL_LCORES,
	OPT_POLL_US,
	OPT_STATS,
	OPT_JSON,
	OPT_LOG_LEVEL,
	OPT_LIST,
	OPT_HELP,
	OPT_VERSION,
};

#define SHORT_OPTIONS "+:hd:"

static const struct option long_options[] = {
	{"dev", required_argument, NULL, OPT_DEV},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"poll-lcores", required_argument, NULL, OPT_POLL_LCORES},
	{"poll-us", required_argument, NULL, OPT_POLL_US},
	{"stats", required_argument, NULL, OPT_STATS},
	{"json", no_argument, NULL, OPT_JSON},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"list", no_argument, NULL, OPT_LIST},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	{0},
};

void
app_usage(void)
{
	printf("usage: %s [EAL options --] [options]\n"
	       "\n"
	       "%s\n"
	       "\n"
	       "  --dev WORDS         add a device, e.g. --dev \"%s\";\n"
	       "                      may be repeated\n"
	       "  --config FILE       add the devices of FILE: the same words, one device a line, "
	       "# "
	       "starts a comment\n"
	       "  -d FILE             load drivers: a plugin, or a folder of them; EAL's -d does "
	       "too; "
	       "may be\n"
	       "                      repeated\n"
	       "  --poll-lcores LIST  CPUs that poll simulated devices and never sleep, e.g. 1 or "
	       "2-3,5 (none)\n"
	       "  --poll-us N         without them: microseconds to look for more work before "
	       "sleeping, at\n"
	       "                      most, where that finds it, 0 to %u (%u)\n"
	       "  --stats SECONDS     print a line of statistics per device every SECONDS, 1 to "
	       "%u\n"
	       "  --json              print all statistics as a line of JSON when stopping\n"
	       "  --log-level LEVEL   error, warning, notice, info or debug (notice); "
	       "PATTERN:LEVEL "
	       "for one DPDK log type\n"
	       "  --list              list PCI functions that a driver serves, and the words of "
	       "management\n"
	       "                      devices, drivers and front ends\n"
	       "  --help              this text, and the words\n"
	       "  --version           versions of this program and of DPDK\n"
	       "\n"
	       "Exit code: 0 stopped by SIGINT, SIGTERM or SIGHUP; 1 could not start; 2 wrong "
	       "usage.\n",
	       app_program.name, app_program.summary, app_program.example, APP_POLL_US_MAX,
	       VDPA_POLL_US_DEFAULT, APP_STATS_MAX);
}

static int __attribute__((format(printf, 1, 2))) usage_error(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", app_program.name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return -EINVAL;
}

static int
out_of_memory(void)
{
	fprintf(stderr, "%s: out of memory\n", app_program.name);
	return -ENOMEM;
}

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
parse_option_number(const char *option, const char *text, unsigned int min, unsigned int max,
		    unsigned int *value)
{
	if (parse_number(text, text + strlen(text), max, value) < 0 || *value < min)
		return usage_error("%s: '%s' is not a number from %u to %u", option, text, min,
				   max);
	return 0;
}

static int
add_poll_lcore(struct app_options *opts, unsigned int lcore)
{
	unsigned int i;

	for (i = 0; i < opts->n_poll_lcores; i++)
		if (opts->poll_lcores[i] == lcore)
			return usage_error("--poll-lcores: %u is given twice", lcore);
	opts->poll_lcores[opts->n_poll_lcores++] = lcore;
	return 0;
}

/* "1", "1,3", "2-4,6" */
static int
parse_poll_lcores(struct app_options *opts, const char *text)
{
	const unsigned int max = RTE_MAX_LCORE - 1;
	const char *pos = text;
	unsigned int first, last;
	int ret;

	for (;;) {
		size_t len = strcspn(pos, ",");
		const char *dash = memchr(pos, '-', len);

		if (parse_number(pos, dash != NULL ? dash : pos + len, max, &first) < 0)
			goto bad;
		last = first;
		if (dash != NULL && parse_number(dash + 1, pos + len, max, &last) < 0)
			goto bad;
		if (last < first)
			goto bad;
		for (; first <= last; first++) {
			ret = add_poll_lcore(opts, first);
			if (ret < 0)
				return ret;
		}
		if (pos[len] == '\0')
			return 0;
		pos += len + 1;
	}
bad:
	return usage_error("--poll-lcores: '%s' is not a list of CPUs from 0 to %u such as 1 or "
			   "2-3,5",
			   text, max);
}

static int
check_log_level(const char *text)
{
	static const char *const levels[] = {"emergency", "alert",  "critical", "error",
					     "warning",	  "notice", "info",	"debug"};
	const char *level = strrchr(text, ':');
	unsigned int i;

	level = level == NULL ? text : level + 1;
	for (i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcmp(level, levels[i]) == 0 && text[0] != ':')
			return 0;
	return usage_error("--log-level: '%s' is not emergency, alert, critical, error, warning, "
			   "notice, info or debug, nor PATTERN: and one of these",
			   text);
}

/* Takes over where. */
static int
add_dev(struct app_options *opts, const char *words, char *where)
{
	struct app_dev *devs;
	int ret;

	if (where == NULL)
		return out_of_memory();
	if (opts->n_devs == APP_CONFIG_MAX) {
		ret = usage_error("%s: more than %u devices", where, APP_CONFIG_MAX);
		goto fail;
	}
	if (vdpa_dev_check(words) < 0) {
		ret = usage_error("%s: %s", where, vdpa_error_message());
		goto fail;
	}
	devs = reallocarray(opts->devs, opts->n_devs + 1, sizeof(*devs));
	if (devs == NULL) {
		ret = out_of_memory();
		goto fail;
	}
	opts->devs = devs;
	devs[opts->n_devs].words = strdup(words);
	if (devs[opts->n_devs].words == NULL) {
		ret = out_of_memory();
		goto fail;
	}
	devs[opts->n_devs++].where = where;
	return 0;
fail:
	free(where);
	return ret;
}

static int
add_dev_option(struct app_options *opts, const char *words, unsigned int nth)
{
	char *where;

	if (asprintf(&where, "--dev %u", nth) < 0)
		where = NULL;
	return add_dev(opts, words, where);
}

/*
 * A line without its end, in a buffer of APP_LINE_MAX + 1 bytes. Neither a line nor the file may be
 * without end, as those of /dev/zero are. Returns 1; 0 at the end of the file; -EINVAL, told.
 */
static int
read_line(FILE *f, const char *path, unsigned int n_line, size_t *total, char *line)
{
	size_t len = 0;
	int c;

	while ((c = getc_unlocked(f)) != EOF && c != '\n') {
		if (c == '\0')
			return usage_error("%s:%u: a NUL byte; one device a line is expected", path,
					   n_line);
		if (len == APP_LINE_MAX)
			return usage_error("%s:%u: longer than %u bytes; one device a line is "
					   "expected",
					   path, n_line, APP_LINE_MAX);
		line[len++] = (char)c;
	}
	if (c == EOF && ferror(f))
		return usage_error("--config: cannot read '%s': %s", path, strerror(errno));
	*total += len + 1;
	if (*total > APP_FILE_MAX)
		return usage_error("--config: '%s' is longer than %lu MiB", path,
				   APP_FILE_MAX >> 20);
	line[len] = '\0';
	return len > 0 || c != EOF;
}

/* One device a line; blank lines and lines that start with # are skipped. */
static int
read_config(struct app_options *opts, const char *path)
{
	char line[APP_LINE_MAX + 1];
	unsigned int n_line = 0;
	size_t total = 0;
	int ret;
	FILE *f;

	f = fopen(path, "re");
	if (f == NULL)
		return usage_error("--config: cannot open '%s': %s", path, strerror(errno));
	while ((ret = read_line(f, path, ++n_line, &total, line)) > 0) {
		char *start, *where;

		line[strcspn(line, "\r")] = '\0';
		start = line + strspn(line, " \t");
		if (*start == '\0' || *start == '#')
			continue;
		if (asprintf(&where, "%s:%u", path, n_line) < 0)
			where = NULL;
		ret = add_dev(opts, start, where);
		if (ret < 0)
			break;
	}
	fclose(f);
	return ret;
}

/* The user's EAL options are what stands before the first "--", if there is one. */
static int
find_separator(int argc, char **argv)
{
	int i;

	for (i = 1; i < argc; i++)
		if (strcmp(argv[i], "--") == 0)
			return i;
	return 0;
}

/* What brings words comes before what uses them, wherever it stands. Mistakes are found later. */
static int
load_plugins(const struct app_options *opts, int argc, char **argv)
{
	int opt, ret;

	ret = app_plugins_load_eal(opts->eal_argc, opts->eal_argv);
	opterr = 0;
	optind = 1;
	while (ret == 0 && (opt = getopt_long(argc, argv, SHORT_OPTIONS, long_options, NULL)) != -1)
		if (opt == 'd')
			ret = app_plugin_load(optarg);
	return ret;
}

int
app_options_parse(struct app_options *opts, int argc, char **argv)
{
	int separator = find_separator(argc, argv);
	const char *hint = separator == 0 ? " (EAL options stand before a '--')" : "";
	unsigned int n_dev = 0;
	int opt, ret = 0;

	memset(opts, 0, sizeof(*opts));
	if (separator != 0) {
		opts->eal_argc = separator - 1;
		opts->eal_argv = argv + 1;
		argv += separator;
		argc -= separator;
	}

	ret = load_plugins(opts, argc, argv);
	/* From the start, also behind a cluster of short options. */
	optind = 0;
	while (ret == 0 &&
	       (opt = getopt_long(argc, argv, SHORT_OPTIONS, long_options, NULL)) != -1) {
		switch (opt) {
		case 'd':
			break;
		case OPT_DEV:
			ret = add_dev_option(opts, optarg, ++n_dev);
			break;
		case OPT_CONFIG:
			ret = read_config(opts, optarg);
			break;
		case OPT_POLL_LCORES:
			opts->n_poll_lcores = 0;
			ret = parse_poll_lcores(opts, optarg);
			break;
		case OPT_POLL_US:
			ret = parse_option_number("--poll-us", optarg, 0, APP_POLL_US_MAX,
						  &opts->poll_us);
			if (ret == 0 && opts->poll_us == 0)
				opts->poll_us = VDPA_POLL_US_NONE;
			break;
		case OPT_STATS:
			ret = parse_option_number("--stats", optarg, 1, APP_STATS_MAX,
						  &opts->stats_s);
			break;
		case OPT_JSON:
			opts->json = true;
			break;
		case OPT_LOG_LEVEL:
			ret = check_log_level(optarg);
			opts->log_level = optarg;
			break;
		case OPT_LIST:
			opts->list = true;
			break;
		case 'h':
		case OPT_HELP:
			opts->help = true;
			break;
		case OPT_VERSION:
			opts->version = true;
			break;
		case ':':
			ret = usage_error("option '%s' needs a value; see --help",
					  argv[optind - 1]);
			break;
		default:
			/* A cluster of short options leaves optind where it was. */
			if (optopt != 0 && optopt < 256)
				ret = usage_error("unknown option '-%c'%s; see --help", optopt,
						  hint);
			else
				ret = usage_error("unknown option '%s'%s; see --help",
						  argv[optind - 1], hint);
			break;
		}
	}
	if (ret == 0 && optind < argc)
		ret = usage_error("unexpected '%s'; see --help", argv[optind]);
	if (ret < 0)
		app_options_free(opts);
	return ret;
}

void
app_options_free(struct app_options *opts)
{
	unsigned int i;

	for (i = 0; i < opts->n_devs; i++) {
		free(opts->devs[i].words);
		free(opts->devs[i].where);
	}
	free(opts->devs);
	opts->devs = NULL;
	opts->n_devs = 0;
}
