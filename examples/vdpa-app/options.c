/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The command line. Everything is checked here, the files that it names and the words of each
 * device too, so that a mistake costs one line and no time: EAL has not started yet.
 */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vdpa.h>

#include "log.h"
#include "options.h"
#include "plugins.h"
#include "program.h"

enum {
	OPT_DEV = 256,
	OPT_CONFIG,
	OPT_CHECK_CONFIG,
	OPT_JSON,
	OPT_LIST,
	OPT_HELP,
	OPT_VERSION,
	OPT_TAKE_OVER,
	OPT_SETTING, /* and those behind it, by enum app_setting */
};

#define SHORT_OPTIONS "+:hd:"

#define SETTING(which, option)                                                                     \
	{                                                                                          \
		option, required_argument, NULL, OPT_SETTING + which                               \
	}

static const struct option long_options[] = {
	{"dev", required_argument, NULL, OPT_DEV},
	{"config", required_argument, NULL, OPT_CONFIG},
	{"check-config", optional_argument, NULL, OPT_CHECK_CONFIG},
	{"json", no_argument, NULL, OPT_JSON},
	{"list", no_argument, NULL, OPT_LIST},
	{"help", no_argument, NULL, OPT_HELP},
	{"version", no_argument, NULL, OPT_VERSION},
	/* By a daemon that hands over (upgrade.c), and not by hand. */
	{"take-over", required_argument, NULL, OPT_TAKE_OVER},
	SETTING(APP_POLL_LCORES, "poll-lcores"),
	SETTING(APP_POLL_US, "poll-us"),
	SETTING(APP_STATS, "stats"),
	SETTING(APP_LOG_LEVEL, "log-level"),
	SETTING(APP_NAME, "name"),
	SETTING(APP_CONTROL, "control"),
	SETTING(APP_CONTROL_GROUP, "control-group"),
	SETTING(APP_CONTROL_READ_GROUP, "control-read-group"),
	SETTING(APP_UVDPAD, "uvdpad"),
	SETTING(APP_UVDPAD_MAP, "uvdpad-map"),
	SETTING(APP_KEEP, "keep"),
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
	       "and settings:\n"
	       "                      these options without their dashes, see uvdpa.conf(5); "
	       "SIGHUP reads it\n"
	       "                      again and applies what is different\n"
	       "  --check-config [FILE]\n"
	       "                      only look for mistakes in FILE (%s)\n"
	       "  -d FILE             load drivers: a plugin, or a folder of them; EAL's -d does "
	       "too; may be\n"
	       "                      repeated\n"
	       "  --control PATH      control socket, which vdpactl connects to, or off "
	       "(/run/uvdpa/control.sock;\n"
	       "                      of users: $XDG_RUNTIME_DIR/uvdpa/control.sock)\n"
	       "  --control-group GROUP\n"
	       "                      whose members may do everything by it (none)\n"
	       "  --control-read-group GROUP\n"
	       "                      whose members may look at everything by it (none)\n"
	       "  --name NAME         name of this daemon among several: a folder of that name is "
	       "in the path of\n"
	       "                      the control socket\n"
	       "  --uvdpad PATH       socket of the uvdpad protocol, which Kubernetes plugins "
	       "speak (off)\n"
	       "  --uvdpad-map \"ID WORDS\"\n"
	       "                      words that make the device that is asked for by ID; may be "
	       "repeated\n"
	       "  --keep STORE        keep devices for the next daemon, which goes on with them "
	       "and "
	       "their connections:\n"
	       "                      systemd, or unix:PATH of a vdpa-keeper (off); see "
	       "guide-restart.md\n"
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
	       "Exit code: 0 stopped by SIGINT or SIGTERM, or by SIGHUP without --config; 1 could "
	       "not start;\n"
	       "2 wrong usage, or mistakes in a file.\n",
	       app_program.name, app_program.summary, app_program.example, APP_CONFIG_DEFAULT,
	       APP_POLL_US_MAX, VDPA_POLL_US_DEFAULT, APP_STATS_MAX);
}

static int __attribute__((format(printf, 1, 2))) usage_error(const char *fmt, ...)
{
	va_list ap;
	char *text;
	int rc;

	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (rc < 0)
		return -ENOMEM;
	app_log(LOG_ERR, NULL, "%s", text);
	free(text);
	return -EINVAL;
}

static int
out_of_memory(void)
{
	app_log(LOG_ERR, NULL, "out of memory");
	return -ENOMEM;
}

static int
add_source(struct app_options *opts, const char *text, unsigned int nth_dev)
{
	struct app_source *sources =
		reallocarray(opts->sources, opts->n_sources + 1, sizeof(*sources));
	char *copy = strdup(text);

	if (sources != NULL)
		opts->sources = sources;
	if (sources == NULL || copy == NULL) {
		free(copy);
		return out_of_memory();
	}
	sources[opts->n_sources++] = (struct app_source){.text = copy, .nth_dev = nth_dev};
	return 0;
}

bool
app_options_has_file(const struct app_options *opts)
{
	for (unsigned int i = 0; i < opts->n_sources; i++)
		if (opts->sources[i].nth_dev == 0)
			return true;
	return false;
}

static int
add_setting(struct app_options *opts, enum app_setting which, const char *value)
{
	int rc = app_settings_add(&opts->given, which, value);

	if (rc == -ENOMEM)
		return out_of_memory();
	return rc < 0 ? usage_error("--%s", vdpa_error_message()) : 0;
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

static int
unknown_option(int argc, char **argv, const char *hint)
{
	/* A cluster of short options leaves optind where it was. */
	if (optopt != 0 && optopt < 256)
		return usage_error("unknown option '-%c'%s; see --help", optopt, hint);
	return usage_error("unknown option '%s'%s; see --help", argv[optind - 1], hint);
}

/* Take the options as they are. What files and words say is looked at when all are known. */
static int
parse_arguments(struct app_options *opts, int argc, char **argv, const char *hint)
{
	unsigned int n_dev = 0;
	int opt, ret = 0;

	/* From the start, also behind a cluster of short options. */
	optind = 0;
	opterr = 0;
	while (ret == 0 &&
	       (opt = getopt_long(argc, argv, SHORT_OPTIONS, long_options, NULL)) != -1) {
		switch (opt) {
		case 'd':
			ret = add_setting(opts, APP_PLUGIN, optarg);
			break;
		case OPT_DEV:
			ret = add_source(opts, optarg, ++n_dev);
			break;
		case OPT_CONFIG:
			ret = add_source(opts, optarg, 0);
			break;
		case OPT_CHECK_CONFIG:
			opts->check = true;
			/* Its argument may stand by itself. */
			if (optarg == NULL && optind < argc && argv[optind][0] != '-')
				optarg = argv[optind++];
			if (optarg != NULL)
				ret = add_source(opts, optarg, 0);
			break;
		case OPT_JSON:
			opts->json = true;
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
		case OPT_TAKE_OVER:
			opts->take_over = (int)app_parse_number(optarg);
			break;
		case ':':
			ret = usage_error("option '%s' needs a value; see --help",
					  argv[optind - 1]);
			break;
		default:
			ret = opt >= OPT_SETTING
				      ? add_setting(opts, (enum app_setting)(opt - OPT_SETTING),
						    optarg)
				      : unknown_option(argc, argv, hint);
			break;
		}
	}
	if (ret == 0 && optind < argc)
		ret = usage_error("unexpected '%s'; see --help", argv[optind]);
	if (ret == 0 && opts->check && !app_options_has_file(opts))
		ret = add_source(opts, APP_CONFIG_DEFAULT, 0);
	return ret;
}

int
app_options_read(const struct app_options *opts, struct app_config *c,
		 struct app_mistakes *mistakes)
{
	char name[32];
	int ret = 0;

	memset(c, 0, sizeof(*c));
	c->lacks_uvdpad = opts->given.of[APP_UVDPAD].n == 0;
	for (unsigned int i = 0; ret == 0 && i < opts->n_sources; i++) {
		const struct app_source *source = &opts->sources[i];

		if (source->nth_dev == 0) {
			ret = app_config_read(c, source->text, mistakes);
		} else {
			snprintf(name, sizeof(name), "--dev %u", source->nth_dev);
			ret = app_config_add_dev(c, source->text, name);
		}
	}
	return ret;
}

/* Of files, then of the command line. */
static int
join_values(const struct app_options *opts, enum app_setting which, const char ***values,
	    unsigned int *n)
{
	const struct app_settings *const settings[] = {&opts->config.settings, &opts->given};

	*n = 0;
	*values = calloc(settings[0]->of[which].n + settings[1]->of[which].n + 1, sizeof(**values));
	if (*values == NULL)
		return out_of_memory();
	for (unsigned int i = 0; i < 2; i++)
		for (unsigned int j = 0; j < settings[i]->of[which].n; j++)
			(*values)[(*n)++] = settings[i]->of[which].value[j];
	return 0;
}

/* The command line overrules a file. */
static const char *
in_force(const struct app_options *opts, enum app_setting which)
{
	const char *value = app_settings_get(&opts->given, which);

	return value != NULL ? value : app_settings_get(&opts->config.settings, which);
}

static int
apply_settings(struct app_options *opts)
{
	const char *value;

	value = in_force(opts, APP_POLL_LCORES);
	if (value != NULL)
		opts->n_poll_lcores = app_parse_lcores(value, opts->poll_lcores);
	value = in_force(opts, APP_POLL_US);
	if (value != NULL) {
		opts->poll_us = app_parse_number(value);
		if (opts->poll_us == 0)
			opts->poll_us = VDPA_POLL_US_NONE;
	}
	value = in_force(opts, APP_STATS);
	if (value != NULL)
		opts->stats_s = app_parse_number(value);
	opts->log_level = in_force(opts, APP_LOG_LEVEL);
	opts->name = in_force(opts, APP_NAME);
	opts->control = in_force(opts, APP_CONTROL);
	opts->control_group = in_force(opts, APP_CONTROL_GROUP);
	opts->control_read_group = in_force(opts, APP_CONTROL_READ_GROUP);
	opts->uvdpad = in_force(opts, APP_UVDPAD);
	opts->keep = in_force(opts, APP_KEEP);
	return join_values(opts, APP_UVDPAD_MAP, &opts->uvdpad_map, &opts->n_uvdpad_map);
}

/* EAL's arguments: those of files, then those of the command line, of which the later count. */
static int
join_eal_arguments(struct app_options *opts, int given_argc, char **given_argv)
{
	const unsigned int n = opts->config.settings.of[APP_EAL].n;
	unsigned int n_words = 0;

	opts->eal_words = calloc(n + 1, sizeof(*opts->eal_words));
	if (opts->eal_words == NULL)
		return out_of_memory();
	for (unsigned int i = 0; i < n; i++) {
		struct vdpa_words *words = &opts->eal_words[i];

		if (vdpa_words_split(opts->config.settings.of[APP_EAL].value[i], words) < 0)
			return out_of_memory();
		opts->n_eal_words++;
		n_words += words->n;
	}
	opts->eal_argv = calloc(n_words + (unsigned int)given_argc + 1, sizeof(*opts->eal_argv));
	if (opts->eal_argv == NULL)
		return out_of_memory();
	for (unsigned int i = 0; i < n; i++)
		for (unsigned int j = 0; j < opts->eal_words[i].n; j++)
			opts->eal_argv[opts->eal_argc++] =
				(char *)(uintptr_t)opts->eal_words[i].word[j];
	for (int i = 0; i < given_argc; i++)
		opts->eal_argv[opts->eal_argc++] = given_argv[i];
	return 0;
}

/* What brings words comes before what uses them, wherever it stands. */
static int
load_plugins(const struct app_options *opts)
{
	int ret = app_plugins_load_eal(opts->eal_argc, opts->eal_argv);
	const char **files = NULL;
	unsigned int n = 0;

	if (ret == 0)
		ret = join_values(opts, APP_PLUGIN, &files, &n);
	for (unsigned int i = 0; ret == 0 && i < n; i++)
		ret = app_plugin_load(files[i]);
	free(files);
	return ret;
}

static int
read_sources(struct app_options *opts, int eal_argc, char **eal_argv)
{
	struct app_mistakes mistakes = {.n = 0};
	char prefix[64];
	int ret;

	ret = app_options_read(opts, &opts->config, &mistakes);
	if (ret == 0)
		ret = join_eal_arguments(opts, eal_argc, eal_argv);
	if (ret == 0)
		ret = load_plugins(opts);
	if (ret == 0)
		ret = app_config_check(&opts->config, &mistakes);
	if (ret == -ENOMEM)
		out_of_memory();
	/* Mistakes of a file that is looked at are what the user has asked for. */
	snprintf(prefix, sizeof(prefix), "%s: ", app_program.name);
	app_mistakes_print(stderr, opts->check ? "" : prefix, &mistakes);
	if (ret == 0 && mistakes.n + mistakes.more > 0)
		ret = -EINVAL;
	app_mistakes_free(&mistakes);
	return ret;
}

int
app_options_parse(struct app_options *opts, int argc, char **argv)
{
	int separator = find_separator(argc, argv);
	const char *hint = separator == 0 ? " (EAL options stand before a '--')" : "";
	int ret;

	memset(opts, 0, sizeof(*opts));
	ret = parse_arguments(opts, argc - separator, argv + separator, hint);
	if (ret == 0)
		ret = read_sources(opts, separator > 0 ? separator - 1 : 0, argv + 1);
	if (ret == 0)
		ret = apply_settings(opts);
	if (ret < 0)
		app_options_free(opts);
	return ret;
}

void
app_options_free(struct app_options *opts)
{
	for (unsigned int i = 0; i < opts->n_sources; i++)
		free(opts->sources[i].text);
	free(opts->sources);
	for (unsigned int i = 0; i < opts->n_eal_words; i++)
		vdpa_words_free(&opts->eal_words[i]);
	free(opts->eal_words);
	free(opts->eal_argv);
	free(opts->uvdpad_map);
	app_settings_free(&opts->given);
	app_config_free(&opts->config);
	memset(opts, 0, sizeof(*opts));
}
