/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The command line of test-vdpa. */

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vdpa.h>

#include "cli.h"
#include "conformance.h"
#include "plugins.h"

enum {
	OPT_DEV = 256,
	OPT_SOCKET,
	OPT_JSON,
	OPT_CASE,
	OPT_LIST,
	OPT_TYPE,
	OPT_LOOPBACK,
	OPT_NO_STATUS,
	OPT_OVERWRITE,
	OPT_TIMEOUT_SCALE,
	OPT_SEED,
	OPT_DURATION,
	OPT_SIZE,
	OPT_QUEUES,
	OPT_DEPTH,
	OPT_PACKED,
	OPT_WRITE,
	OPT_MEASURE,
	OPT_RATE,
	OPT_LOG_LEVEL,
};

static const struct option long_options[] = {
	{"dev", required_argument, NULL, OPT_DEV},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"json", required_argument, NULL, OPT_JSON},
	{"case", required_argument, NULL, OPT_CASE},
	{"list", no_argument, NULL, OPT_LIST},
	{"type", required_argument, NULL, OPT_TYPE},
	{"loopback", required_argument, NULL, OPT_LOOPBACK},
	{"no-status", no_argument, NULL, OPT_NO_STATUS},
	{"overwrite", no_argument, NULL, OPT_OVERWRITE},
	{"timeout-scale", required_argument, NULL, OPT_TIMEOUT_SCALE},
	{"seed", required_argument, NULL, OPT_SEED},
	{"duration", required_argument, NULL, OPT_DURATION},
	{"size", required_argument, NULL, OPT_SIZE},
	{"queues", required_argument, NULL, OPT_QUEUES},
	{"depth", required_argument, NULL, OPT_DEPTH},
	{"packed", no_argument, NULL, OPT_PACKED},
	{"write", no_argument, NULL, OPT_WRITE},
	{"measure", required_argument, NULL, OPT_MEASURE},
	{"rate", required_argument, NULL, OPT_RATE},
	{"log-level", required_argument, NULL, OPT_LOG_LEVEL},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'v'},
	{NULL, 0, NULL, 0},
};

void
cli_usage(void)
{
	puts("usage: test-vdpa conformance|bench|info (--dev WORDS | --socket PATH) [OPTION...]\n"
	     "                 [-- EAL-OPTION...]\n"
	     "\n"
	     "Drive a vDPA device without a virtual machine.\n"
	     "\n"
	     "  conformance            run named cases; TAP on standard output\n"
	     "  bench                  measure throughput, latency, start, stop and swap times\n"
	     "  info                   identity, features, configuration, doorbell\n"
	     "\n"
	     "Device:\n"
	     "  --dev WORDS            make it in this process: words of dev add without name, "
	     "such\n"
	     "                         as \"mgmtdev sim_net backend loopback\"\n"
	     "  --socket PATH          reach it as a vhost-user front end\n"
	     "  -d FILE                with --dev: load drivers, a plugin or a folder of them\n"
	     "  --type net|block|other its type, where a socket does not tell (default: guessed)\n"
	     "  --loopback yes|no|auto frames sent to a net device come back; yes: they must\n"
	     "                         (default auto: find out)\n"
	     "  --no-status            by --socket: negotiate no STATUS, as front ends before QEMU "
	     "7\n"
	     "  --overwrite            the disk of a block device may be overwritten\n"
	     "\n"
	     "Conformance:\n"
	     "  --case GLOB            only cases whose name matches; may be given 64 times\n"
	     "  --list                 print the cases and what each is about\n"
	     "  --timeout-scale PERCENT  of every time-out, 10 to 10000 (default 100)\n"
	     "  --seed N               of the patterns (default: the time; it is printed)\n"
	     "\n"
	     "Bench:\n"
	     "  --duration SECONDS     of each measurement, 0.1 to 3600 (default 2)\n"
	     "  --size BYTES           of a frame (default 64) or request (default 4096)\n"
	     "  --queues N             queue pairs or queues (default: all)\n"
	     "  --depth N              buffers under way a queue, 1 to 256 (default 64)\n"
	     "  --packed               packed rings (default: split)\n"
	     "  --write                write requests, with --overwrite (default: reads)\n"
	     "  --measure WHAT         throughput, kicks or life alone (default: all of them)\n"
	     "  --rate N               instead of them: N units a second, 0 to 1000000, one after\n"
	     "                         another, with interrupts\n"
	     "\n"
	     "  --json FILE            results as JSON, - for standard output\n"
	     "  --log-level LEVEL      of the library: error, warning, notice, info, debug\n"
	     "  -h, --help             print this\n"
	     "  -v, --version          print the version\n"
	     "\n"
	     "Exit code: 0 all well, 1 a case fails or the device does not work, 2 usage.");
}

static int __attribute__((format(printf, 1, 2))) bad(const char *fmt, ...)
{
	va_list ap;

	fputs("test-vdpa: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return -EINVAL;
}

static int
number(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || *value < min ||
	    *value > max)
		return bad("--%s '%s': allowed are %llu to %llu", option, text,
			   (unsigned long long)min, (unsigned long long)max);
	return 0;
}

static int
seconds(const char *text, unsigned int *ms)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value >= 0.1 && value <= 3600))
		return bad("--duration '%s': allowed are 0.1 to 3600 seconds", text);
	*ms = (unsigned int)(value * 1000);
	return 0;
}

static int
one_of(const char *option, const char *text, const char *const *names, unsigned int *which)
{
	for (*which = 0; names[*which] != NULL; ++*which)
		if (strcmp(names[*which], text) == 0)
			return 0;
	return bad("--%s '%s': allowed are %s, %s, %s", option, text, names[0], names[1], names[2]);
}

static int
parse_option(struct cli_options *o, int c, const char *arg)
{
	static const char *const types[] = {"net", "block", "other", NULL};
	static const char *const measures[] = {"throughput", "kicks", "life", NULL};
	static const char *const loopbacks[] = {"auto", "yes", "no", NULL};
	/* A virtio device id that has no cases of its own. */
	static const uint32_t ids[] = {1, 2, 4};
	unsigned int which;
	uint64_t value = 0;
	int rc = 0;

	switch (c) {
	case OPT_DEV:
		o->dev = arg;
		break;
	case OPT_SOCKET:
		o->socket = arg;
		break;
	case OPT_JSON:
		o->json = arg;
		break;
	case OPT_CASE:
		if (o->n_cases == CLI_CASES_MAX)
			return bad("--case: at most %u", CLI_CASES_MAX);
		if (!conformance_knows(arg))
			return bad("--case '%s': no case matches; see --list", arg);
		o->cases[o->n_cases++] = arg;
		break;
	case OPT_LIST:
		o->list = true;
		break;
	case OPT_TYPE:
		rc = one_of("type", arg, types, &which);
		if (rc == 0)
			o->device_id = ids[which];
		break;
	case OPT_LOOPBACK:
		rc = one_of("loopback", arg, loopbacks, &which);
		o->loopback = (enum cli_loopback)which;
		break;
	case OPT_NO_STATUS:
		o->no_status = true;
		break;
	case OPT_OVERWRITE:
		o->overwrite = true;
		break;
	case OPT_TIMEOUT_SCALE:
		rc = number("timeout-scale", arg, 10, 10000, &value);
		o->scale = (unsigned int)value;
		break;
	case OPT_SEED:
		rc = number("seed", arg, 0, UINT64_MAX, &o->seed);
		break;
	case OPT_DURATION:
		rc = seconds(arg, &o->duration_ms);
		break;
	case OPT_SIZE:
		rc = number("size", arg, 60, 1u << 20, &value);
		o->size = (uint32_t)value;
		break;
	case OPT_QUEUES:
		rc = number("queues", arg, 1, VDPA_VQ_MAX, &value);
		o->queues = (unsigned int)value;
		break;
	case OPT_DEPTH:
		rc = number("depth", arg, 1, 256, &value);
		o->depth = (unsigned int)value;
		break;
	case OPT_PACKED:
		o->packed = true;
		break;
	case OPT_WRITE:
		o->write = true;
		break;
	case OPT_MEASURE:
		rc = one_of("measure", arg, measures, &which);
		o->measure = (enum cli_measure)which;
		break;
	case OPT_RATE:
		rc = number("rate", arg, 0, 1000000, &value);
		o->rate = (unsigned int)value;
		o->paced = true;
		break;
	case OPT_LOG_LEVEL:
		o->log_level = arg;
		break;
	case 'd':
		o->plugins = true;
		rc = app_plugin_load(arg);
		break;
	case 'h':
		o->help = true;
		break;
	case 'v':
		o->version = true;
		break;
	}
	return rc;
}

/* Up to the first word that is no option. */
static int
parse_options(struct cli_options *o, int argc, char **argv)
{
	int c, rc;

	opterr = 0;
	while ((c = getopt_long(argc, argv, "+:hvd:", long_options, NULL)) != -1) {
		if (c == ':')
			return bad("option '%s' needs a value; see --help", argv[optind - 1]);
		/* Short ones may stand together in one argument. */
		if (c == '?' && optopt > 0 && optopt < OPT_DEV && strchr("hvd", optopt) == NULL)
			return bad("unknown option '-%c'; see --help", optopt);
		if (c == '?')
			return bad("unknown option '%s'; see --help", argv[optind - 1]);
		rc = parse_option(o, c, optarg);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int
cli_parse(struct cli_options *o, int argc, char **argv)
{
	static const char *const commands[] = {
		[CLI_CONFORMANCE] = "conformance", [CLI_BENCH] = "bench", [CLI_INFO] = "info"};
	int rc;

	memset(o, 0, sizeof(*o));
	o->scale = 100;
	o->duration_ms = 2000;
	o->depth = 64;
	o->measure = CLI_MEASURE_ALL;
	o->seed = (uint64_t)time(NULL);
	rc = parse_options(o, argc, argv);
	if (rc < 0)
		return rc;
	if (optind < argc && strcmp(argv[optind - 1], "--") != 0) {
		for (unsigned int i = CLI_CONFORMANCE; i <= CLI_INFO; i++)
			if (strcmp(argv[optind], commands[i]) == 0)
				o->command = (enum cli_command)i;
		if (o->command == CLI_NONE)
			return bad("'%s': the commands are conformance, bench and info",
				   argv[optind]);
		optind++;
		/* Options may stand behind the command too. */
		rc = parse_options(o, argc, argv);
		if (rc < 0)
			return rc;
	}
	if (optind < argc && strcmp(argv[optind - 1], "--") != 0)
		return bad("'%s' is too much; EAL's options stand behind --", argv[optind]);
	o->eal_argv = argv + optind;
	o->eal_argc = argc - optind;
	rc = app_plugins_load_eal(o->eal_argc, o->eal_argv);
	if (rc < 0)
		return rc;
	if (o->help || o->version || o->list)
		return 0;
	if (o->command == CLI_NONE)
		return bad("which command: conformance, bench or info?");
	if ((o->dev == NULL) == (o->socket == NULL))
		return bad("give the device by --dev WORDS or --socket PATH, one of them");
	if (o->socket != NULL && o->eal_argc > 0)
		return bad("'%s': a socket is reached without EAL", o->eal_argv[0]);
	if (o->socket != NULL && o->plugins)
		return bad("-d loads drivers of this process: it goes with --dev");
	if (o->no_status && o->socket == NULL)
		return bad("--no-status is about vhost-user: it goes with --socket");
	if (o->write && !o->overwrite)
		return bad("--write overwrites the disk: allow that by --overwrite");
	return 0;
}
