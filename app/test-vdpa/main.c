/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * test-vdpa: drives a vDPA device without a virtual machine. Opens the device in the way that was
 * asked for and hands it to a command.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <rte_version.h>

#include <vdpa.h>
#include <vdpa_fd.h>

#include "bench.h"
#include "cli.h"
#include "conformance.h"
#include "eal_start.h"
#include "program.h"
#include "report.h"

enum {
	EXIT_WELL = 0,
	EXIT_BAD = 1,
	EXIT_USAGE = 2,
};

/* What EAL's arguments are to be called by. */
const struct app_program app_program = {.name = "test-vdpa"};

static int
start_library(const struct cli_options *o)
{
	struct app_options app = {.log_level = o->log_level};
	char prefix[64], telemetry[] = "--no-telemetry";
	char **argv = calloc((size_t)o->eal_argc + 2, sizeof(*argv));
	int rc;

	if (argv == NULL)
		return -ENOMEM;
	/* Beside a daemon, and beside others of our kind. */
	snprintf(prefix, sizeof(prefix), "--file-prefix=test-vdpa.%d", (int)getpid());
	argv[app.eal_argc++] = prefix;
	argv[app.eal_argc++] = telemetry;
	app.eal_own = app.eal_argc;
	for (int i = 0; i < o->eal_argc; i++)
		argv[app.eal_argc++] = o->eal_argv[i];
	app.eal_argv = argv;
	app.poll_us = VDPA_POLL_US_DEFAULT;
	rc = app_eal_start(&app);
	free(argv);
	if (rc < 0)
		return rc;
	rc = vdpa_init(NULL);
	if (rc < 0) {
		fprintf(stderr, "test-vdpa: cannot start: %s\n", vdpa_error_message());
		app_eal_stop();
	}
	return rc;
}

static void
stop_library(void)
{
	vdpa_cleanup();
	app_eal_stop();
}

static int
conform(const struct cli_options *o, struct target *t)
{
	const struct conformance_options opts = {
		.globs = o->cases, .n_globs = o->n_cases, .json = o->json};
	struct run r = {
		.t = t,
		.overwrite = (o->overwrite || !t->keeps_disk) && t->device_id == TARGET_BLOCK &&
			     !target_has(t, VIRTIO_BLK_F_RO),
		.echo_expected = o->loopback == CLI_LOOPBACK_YES ||
				 (o->loopback == CLI_LOOPBACK_AUTO && t->echoes),
		.echo_known = o->loopback == CLI_LOOPBACK_NO,
		.scale = o->scale,
		.seed = o->seed,
	};

	return conformance_run(&r, &opts);
}

static int
run_command(const struct cli_options *o)
{
	const struct conformance_options opts = {.json = o->json};
	const char *where = o->dev != NULL ? o->dev : o->socket;
	struct target t;
	int rc, code;

	rc = o->dev != NULL ? target_core_open(&t, o->dev)
			    : target_vhu_open(&t, o->socket, o->device_id, !o->no_status, o->scale);
	if (rc < 0) {
		if (o->command == CLI_CONFORMANCE && rc != -EINVAL)
			return conformance_no_device(&opts, where, vdpa_error_message());
		fprintf(stderr, "test-vdpa: %s: %s\n", where, vdpa_error_message());
		return rc == -EINVAL ? EXIT_USAGE : EXIT_BAD;
	}
	switch (o->command) {
	case CLI_CONFORMANCE:
		code = conform(o, &t);
		break;
	case CLI_BENCH:
		code = bench_run(&t, o);
		break;
	default:
		code = report_info(&t, o->json) < 0 ? EXIT_BAD : EXIT_WELL;
	}
	t.ops->close(&t);
	return code;
}

/* Of --dev, those of plugins among them. */
static void
print_words(void)
{
	char *text = vdpa_words_help();

	if (text != NULL)
		printf("\n%s", text);
	free(text);
}

int
main(int argc, char **argv)
{
	struct cli_options opts;
	int code, rc;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (cli_parse(&opts, argc, argv) < 0)
		return EXIT_USAGE;
	if (opts.version) {
		printf("test-vdpa %s, %s\n", APP_VERSION, rte_version());
		return EXIT_WELL;
	}
	if (opts.help) {
		cli_usage();
		print_words();
		return EXIT_WELL;
	}
	if (opts.list) {
		conformance_list(stdout);
		return EXIT_WELL;
	}
	signal(SIGPIPE, SIG_IGN);
	/* Every virtqueue costs descriptors on both sides. */
	vdpa_fd_raise_limit();
	/* A socket needs neither EAL nor the core. */
	if (opts.dev != NULL) {
		rc = start_library(&opts);
		if (rc < 0)
			return rc == -EINVAL ? EXIT_USAGE : EXIT_BAD;
	}
	code = run_command(&opts);
	if (opts.dev != NULL)
		stop_library();
	return code;
}
