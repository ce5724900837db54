/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * vdpactl: devices of a running daemon, over its control socket, in the grammar of iproute2's
 * `vdpa`. This file has the options, the objects with their commands and help, and the connection.
 * No EAL and no library of ours: it has done its work before a DPDK program has started.
 */

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "control_path.h"
#include "vdpactl.h"

/* A word of the command line: a verb, or an object with words of its own. */
struct command {
	const char *name;
	const char *alias; /* NULL: none */
	bool whole;	   /* no abbreviation is taken, as iproute2 does for some */
	int (*run)(struct ctl *ctl, int argc, char **argv);
	const struct command *sub;				/* an object's */
	int (*without)(struct ctl *ctl, int argc, char **argv); /* an object's, without a command */
	const char *usage; /* what follows the name; NULL: nothing */
	const char *help;
};

static const struct command mgmtdev_commands[] = {
	{.name = "show",
	 .alias = "list",
	 .run = cmd_mgmtdev_show,
	 .usage = "[ MGMTDEV ]",
	 .help = "what management devices can make"},
	{.name = NULL},
};

static const struct command config_commands[] = {
	{.name = "show",
	 .run = cmd_dev_config_show,
	 .usage = "[ DEV ]",
	 .help = "the virtio configuration of devices"},
	{.name = NULL},
};

static const struct command vstats_commands[] = {
	{.name = "show",
	 .whole = true,
	 .run = cmd_dev_vstats_show,
	 .usage = "DEV qidx QUEUE_INDEX",
	 .help = "descriptors of one virtqueue"},
	{.name = NULL},
};

/* Where two have the same beginning, the first one has the abbreviation: iproute2's own. */
static const struct command dev_commands[] = {
	{.name = "show",
	 .alias = "list",
	 .run = cmd_dev_show,
	 .usage = "[ DEV ]",
	 .help = "devices; with -s their statistics"},
	{.name = "add",
	 .run = cmd_dev_add,
	 .usage = "name NAME mgmtdev MGMTDEV [ WORD [ VALUE ] ]...",
	 .help = "make a device; dev add help has the words: mac, mtu, max_vqp, ..."},
	{.name = "del", .run = cmd_dev_del, .usage = "DEV", .help = "stop and remove a device"},
	{.name = "config", .sub = config_commands, .without = cmd_dev_config_show},
	{.name = "vstats", .whole = true, .sub = vstats_commands},
	{.name = "set",
	 .run = cmd_dev_set,
	 .usage = "[ name ] DEV WORD [ VALUE ]...",
	 .help = "change a device; dev set help has the words: link, resize, ..."},
	{.name = "info",
	 .run = cmd_dev_info,
	 .usage = "[ show ] [ DEV ]",
	 .help = "all that is known of devices: state, front end, features, memory"},
	{.name = "stats",
	 .run = cmd_dev_stats,
	 .usage = "[ show ] [ DEV ]",
	 .help = "all counters of devices and their virtqueues"},
	{.name = "queues",
	 .run = cmd_dev_queues,
	 .usage = "[ show ] [ DEV ]",
	 .help = "a table of virtqueues"},
	{.name = NULL},
};

static const struct command commands[] = {
	{.name = "mgmtdev", .sub = mgmtdev_commands},
	{.name = "dev", .sub = dev_commands, .without = cmd_dev_show},
	{.name = "monitor",
	 .run = cmd_monitor,
	 .usage = "[ -n COUNT ] [ EVENT... ]",
	 .help = "events as they happen, one a line"},
	{.name = "top",
	 .run = cmd_top,
	 .usage = "[ -d SECONDS ] [ -n COUNT ] [ DEV... ]",
	 .help = "a live table of devices and virtqueues"},
	{.name = "metrics",
	 .run = cmd_metrics,
	 .usage = "[ --output FILE ]",
	 .help = "counters in Prometheus' text format"},
	{.name = "reload",
	 .run = cmd_reload,
	 .help = "let the daemon read its configuration file again"},
	{.name = "save",
	 .run = cmd_save,
	 .usage = "[ FILE ]",
	 .help = "what runs now, as a configuration file"},
	{.name = "shutdown",
	 .run = cmd_shutdown,
	 .help = "end the daemon and its devices, also those that a restart would keep"},
	{.name = "upgrade",
	 .run = cmd_upgrade,
	 .usage = "[ --check | --force ] [ --timeout SECONDS ] [ PROGRAM ]",
	 .help = "start the daemon's program anew, or PROGRAM, and hand the devices\n"
		 "over to it: guests and their front ends go on. Refused where a\n"
		 "device would not, but for --force; --check says which do, and\n"
		 "changes nothing. SECONDS (30): for the new one's start, and again\n"
		 "from when devices stand still"},
	{.name = "version", .run = cmd_version, .help = "versions of vdpactl and of the daemon"},
	{.name = "methods", .run = cmd_methods, .help = "the methods of the control socket"},
	{.name = "call",
	 .run = cmd_call,
	 .usage = "METHOD [ PARAMS ]",
	 .help = "carry out a method with params, a JSON object"},
	{.name = NULL},
};

/* Seconds that an upgrade may have, at most: daemon.upgrade's. */
#define UPGRADE_SECONDS_MAX 600u

static const char options_help[] =
	"       OPTIONS := { -V[ersion] | -j[son] | -p[retty] | -s[tatistics] | -h[elp]\n"
	"                   | -S[ocket] PATH | --control PATH | --name INSTANCE }\n";

bool
ctl_is(const char *word, const char *name)
{
	return word[0] != '\0' && strncmp(word, name, strlen(word)) == 0;
}

static bool
is_command(const struct command *c, const char *word)
{
	if (c->whole)
		return strcmp(word, c->name) == 0;
	return ctl_is(word, c->name) || (c->alias != NULL && ctl_is(word, c->alias));
}

/* What a command does, each line of it behind so many blanks. */
static void
print_lines(FILE *file, int indent, const char *help)
{
	for (size_t len; *help != '\0'; help += len + (help[len] == '\n')) {
		len = strcspn(help, "\n");
		fprintf(file, "%*s%.*s\n", indent, "", (int)len, help);
	}
}

/* Every verb of a table on a line of its own, with what it does below. */
static void
print_commands(FILE *file, const char *before, const struct command *table)
{
	char path[64];

	for (const struct command *c = table; c->name != NULL; c++) {
		snprintf(path, sizeof(path), "%s %s", before, c->name);
		if (c->sub != NULL) {
			print_commands(file, path, c->sub);
			continue;
		}
		fprintf(file, "       vdpactl%s%s%s\n", path, c->usage != NULL ? " " : "",
			c->usage != NULL ? c->usage : "");
		print_lines(file, 11, c->help);
	}
}

static void
print_help(FILE *file, const char *before, const struct command *table)
{
	int column;

	if (table == commands)
		fprintf(file, "Usage: vdpactl [ OPTIONS ] OBJECT { COMMAND | help }\n");
	column = table == commands ? fprintf(file, "where  OBJECT := {")
				   : fprintf(file, "Usage: vdpactl [ OPTIONS ]%s {", before);
	for (const struct command *c = table; c->name != NULL; c++) {
		if (column + (int)strlen(c->name) > 76)
			column = fprintf(file, "\n                  ") - 1;
		column += fprintf(file, "%s %s", c == table ? "" : " |", c->name);
	}
	fprintf(file, " }\n%s\n", table == commands ? options_help : "");
	print_commands(file, before, table);
}

static int
run_command(struct ctl *ctl, const char *before, const struct command *table, bool help, int argc,
	    char **argv)
{
	const struct command *c;
	char path[64];

	for (c = table; argc > 0 && c->name != NULL; c++)
		if (!ctl_is(argv[0], "help") && is_command(c, argv[0]))
			break;
	if (argc == 0 || ctl_is(argv[0], "help")) {
		print_help(stdout, before, table);
		ctl->json = false;
		return 0;
	}
	if (c->name == NULL) {
		fprintf(stderr, "%s \"%s\" not found\n", table == commands ? "Object" : "Command",
			argv[0]);
		return EXIT_FAILURE;
	}
	snprintf(path, sizeof(path), "%s %s", before, c->name);
	if (c->sub != NULL && argc == 1 && !help) {
		if (c->without != NULL)
			return c->without(ctl, 0, argv + 1);
		/* As iproute2: help, and an error only where it takes a word to mean something. */
		print_help(c->whole ? stderr : stdout, path, c->sub);
		ctl->json = false;
		return c->whole ? EXIT_FAILURE : 0;
	}
	if (c->sub != NULL)
		return run_command(ctl, path, c->sub, help, argc - 1, argv + 1);
	if (help || (argc == 2 && strcmp(argv[1], "help") == 0 && c->usage == NULL)) {
		printf("Usage: vdpactl%s%s%s\n", path, c->usage != NULL ? " " : "",
		       c->usage != NULL ? c->usage : "");
		print_lines(stdout, 7, c->help);
		ctl->json = false;
		return 0;
	}
	return c->run(ctl, argc - 1, argv + 1);
}

static int
find_socket(struct ctl *ctl)
{
	int rc;

	if (ctl->socket != NULL) {
		if (snprintf(ctl->path, sizeof(ctl->path), "%s", ctl->socket) <
		    (int)sizeof(ctl->path))
			return 0;
		rc = -ENAMETOOLONG;
	} else {
		rc = vdpa_control_default_path(ctl->instance, ctl->path, sizeof(ctl->path));
	}
	if (rc == -EINVAL)
		fprintf(stderr, "--name '%s': letters, digits, '.', '_' and '-' are allowed\n",
			ctl->instance);
	else if (rc == -ENOENT)
		fprintf(stderr, "There is no default control socket without XDG_RUNTIME_DIR; "
				"-S PATH names one\n");
	else if (rc < 0)
		fprintf(stderr, "The path of the control socket is too long\n");
	return rc;
}

/* What the reason means here, behind the system's words. */
static const char *
connect_hint(int err)
{
	switch (err) {
	case ENOENT:
	case ECONNREFUSED:
		return ": no daemon listens there";
	case EACCES:
		return ": root and the daemon's --control-group may connect";
	default:
		return "";
	}
}

int
ctl_connect(struct ctl *ctl)
{
	int err;

	if (ctl->client != NULL)
		return 0;
	if (find_socket(ctl) < 0) {
		ctl->json = false;
		return -1;
	}
	ctl->client = client_open(ctl->path);
	if (ctl->client != NULL)
		return 0;
	ctl->json = false;
	err = errno;
	fprintf(stderr, "Failed to connect to %s: %s%s%s\n", ctl->path, strerror(err),
		connect_hint(err),
		ctl->socket != NULL ? "" : "; -S PATH names another control socket");
	return -1;
}

/* "No such device" of "ENODEV"; NULL of what is no name of an error. */
static const char *
describe_errno(const char *name)
{
	for (int e = 1; name[0] != '\0' && e < 256; e++)
		if (strerrorname_np(e) != NULL && strcmp(strerrorname_np(e), name) == 0)
			return strerrordesc_np(e);
	return NULL;
}

void
ctl_print_error(const struct client_error *err)
{
	const char *what = describe_errno(err->cause);

	fputs(err->code == 0 ? "vdpactl: " : "uvdpa answers: ", stderr);
	if (what != NULL)
		fprintf(stderr, "%s: ", what);
	else if (err->code != 0)
		fprintf(stderr, "error %d: ", err->code);
	print_safe(stderr, err->message);
	fputc('\n', stderr);
}

json_t *
ctl_call(struct ctl *ctl, const char *method, json_t *params)
{
	struct client_error err;
	json_t *result;

	if (ctl_connect(ctl) < 0) {
		json_decref(params);
		return NULL;
	}
	result = client_call(ctl->client, method, params, &err);
	if (result == NULL)
		ctl_print_error(&err);
	return result;
}

json_t *
ctl_named(const char *name)
{
	return name != NULL ? json_pack("{s:s}", "name", name) : json_object();
}

int
ctl_one_name(int argc, char **argv, const char **name)
{
	*name = argc > 0 ? argv[0] : NULL;
	if (argc <= 1)
		return 0;
	fprintf(stderr, "Unknown option \"%s\"\n", argv[1]);
	return -1;
}

/* Whether an option of the table, long or short, has this value. */
static bool
is_known(const struct option *options, int value)
{
	for (; options->name != NULL; options++)
		if (options->val == value)
			return true;
	return false;
}

static bool
parse_options(struct ctl *ctl, int argc, char **argv, bool *help, bool *version)
{
	enum { OPT_NAME = 256, OPT_FORCE, OPT_CHECK, OPT_TIMEOUT };
	static const struct option options[] = {
		{"Version", no_argument, NULL, 'V'},
		{"version", no_argument, NULL, 'V'},
		{"json", no_argument, NULL, 'j'},
		{"pretty", no_argument, NULL, 'p'},
		{"statistics", no_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{"socket", required_argument, NULL, 'S'},
		/* As the daemon's option is called that says where it is. */
		{"control", required_argument, NULL, 'S'},
		{"name", required_argument, NULL, OPT_NAME},
		{"count", required_argument, NULL, 'n'},
		{"delay", required_argument, NULL, 'd'},
		{"output", required_argument, NULL, 'o'},
		{"force", no_argument, NULL, OPT_FORCE},
		{"check", no_argument, NULL, OPT_CHECK},
		{"timeout", required_argument, NULL, OPT_TIMEOUT},
		{NULL, 0, NULL, 0},
	};
	unsigned long seconds;
	char *end;
	int opt;

	while ((opt = getopt_long(argc, argv, "VjpshS:n:d:o:", options, NULL)) >= 0) {
		switch (opt) {
		case 'V':
			*version = true;
			break;
		case 'j':
			ctl->json = true;
			break;
		case 'p':
			ctl->pretty = true;
			break;
		case 's':
			ctl->statistics = true;
			break;
		case 'h':
			*help = true;
			break;
		case 'S':
			ctl->socket = optarg;
			break;
		case OPT_NAME:
			ctl->instance = optarg;
			break;
		case 'n':
			ctl->count = strtoul(optarg, &end, 10);
			if (end == optarg || *end != '\0' || optarg[0] == '-' || ctl->count == 0) {
				fprintf(stderr, "-n '%s': not a number from 1 on\n", optarg);
				return false;
			}
			break;
		case 'd':
			ctl->delay = strtod(optarg, &end);
			if (end == optarg || *end != '\0' ||
			    !(ctl->delay >= 0.1 && ctl->delay <= 3600)) {
				fprintf(stderr, "-d '%s': not seconds from 0.1 to 3600\n", optarg);
				return false;
			}
			break;
		case 'o':
			ctl->output = optarg;
			break;
		case OPT_FORCE:
			ctl->force = true;
			break;
		case OPT_CHECK:
			ctl->check = true;
			break;
		case OPT_TIMEOUT:
			seconds = strtoul(optarg, &end, 10);
			if (end == optarg || *end != '\0' || optarg[0] == '-' || seconds == 0 ||
			    seconds > UPGRADE_SECONDS_MAX) {
				fprintf(stderr, "--timeout '%s': not seconds from 1 to %u\n",
					optarg, UPGRADE_SECONDS_MAX);
				return false;
			}
			ctl->timeout = (unsigned int)seconds;
			break;
		default:
			/* One that exists lacks its value, or has one: the line says which. */
			if (is_known(options, optopt))
				return false;
			fprintf(stderr, "Unknown option.\n");
			print_help(stderr, "", commands);
			return false;
		}
	}
	return true;
}

/* Options that only some verbs take; any other would leave them out without a word. */
static bool
check_options(const struct ctl *ctl, int argc, char **argv)
{
	const char *verb = "";

	for (const struct command *c = commands; argc > 0 && c->name != NULL; c++)
		if (is_command(c, argv[0])) {
			verb = c->name;
			break;
		}
	bool top = strcmp(verb, "top") == 0, monitor = strcmp(verb, "monitor") == 0;

	if (ctl->count != 0 && !top && !monitor)
		fprintf(stderr, "-n is for top and monitor\n");
	else if (ctl->delay != 0 && !top)
		fprintf(stderr, "-d is for top\n");
	else if (ctl->output != NULL && strcmp(verb, "metrics") != 0)
		fprintf(stderr, "-o is for metrics\n");
	else if ((ctl->force || ctl->check || ctl->timeout != 0) && strcmp(verb, "upgrade") != 0)
		fprintf(stderr, "--force, --check and --timeout are for upgrade\n");
	else if (ctl->force && ctl->check)
		fprintf(stderr, "--check changes nothing, so it does not go with --force\n");
	else
		return true;
	return false;
}

int
main(int argc, char **argv)
{
	struct ctl ctl = {.out = {.file = stdout}};
	bool help = false, version = false;
	int status;

	if (!parse_options(&ctl, argc, argv, &help, &version))
		return EXIT_FAILURE;
	if (version) {
		printf("vdpactl utility, uvdpa-%s\n", APP_VERSION);
		return 0;
	}
	argc -= optind;
	argv += optind;
	if (!help && !check_options(&ctl, argc, argv))
		return EXIT_FAILURE;
	ctl.out.pretty = ctl.pretty;
	status = run_command(&ctl, "", commands, help, argc, argv);
	/* iproute2 ends its JSON so, also where a command has none; not where there is no daemon.
	 */
	if (ctl.json)
		fputc('\n', stdout);
	client_close(ctl.client);
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
		fprintf(stderr, "vdpactl: cannot write: %s\n", strerror(errno));
		status = EXIT_FAILURE;
	}
	return status;
}
