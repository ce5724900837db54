/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The daemon. It starts EAL and uvdpa, adds the devices it was told of, and waits for a
 * signal to stop; the library's threads do the work. It uses the library's public API only.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_lcore.h>
#include <rte_version.h>

#include <vdpa.h>
#include <vdpa_fd.h>

#include "eal_start.h"
#include "options.h"
#include "program.h"
#include "report.h"
#include "runtime_dir.h"

/* Exit codes; see --help. */
enum {
	APP_STOPPED = 0,
	APP_FAILED = 1,
	APP_USAGE = 2,
};

/* Signals that stop us are blocked in every thread and fetched by the main one: none interrupts
 * anything, and a second one changes nothing. */
static void
block_signals(sigset_t *stop)
{
	sigemptyset(stop);
	sigaddset(stop, SIGINT);
	sigaddset(stop, SIGTERM);
	sigaddset(stop, SIGHUP);
	sigprocmask(SIG_BLOCK, stop, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int
print_words_help(void)
{
	char *text = vdpa_words_help();

	if (text == NULL) {
		fprintf(stderr, "%s: %s\n", app_program.name, vdpa_error_message());
		return APP_FAILED;
	}
	fputs(text, stdout);
	free(text);
	if (app_program.print_help != NULL)
		app_program.print_help();
	return APP_STOPPED;
}

/* EAL knows only now which lcores there are, when the user chose them. */
static int
check_poll_lcores(const struct app_options *opts)
{
	unsigned int i;

	for (i = 0; i < opts->n_poll_lcores; i++) {
		unsigned int lcore = opts->poll_lcores[i];

		if (!rte_lcore_is_enabled(lcore)) {
			fprintf(stderr,
				"%s: --poll-lcores: %u is not among the EAL lcores "
				"given by -l or --lcores\n",
				app_program.name, lcore);
			return -EINVAL;
		}
		if (lcore == rte_get_main_lcore()) {
			fprintf(stderr,
				"%s: --poll-lcores: %u is the main lcore, which only "
				"waits for signals; give one more to EAL\n",
				app_program.name, lcore);
			return -EINVAL;
		}
	}
	return 0;
}

static int
add_devices(const struct app_options *opts)
{
	unsigned int i;
	int ret;

	for (i = 0; i < opts->n_devs; i++) {
		ret = vdpa_dev_add(opts->devs[i].words);
		if (ret < 0) {
			fprintf(stderr, "%s: %s: %s\n", app_program.name, opts->devs[i].where,
				vdpa_error_message());
			return ret;
		}
	}
	return 0;
}

/* Until a signal asks to stop. */
static void
run(const sigset_t *stop, unsigned int stats_s)
{
	struct timespec next, now, wait;

	if (stats_s == 0) {
		while (sigwaitinfo(stop, NULL) < 0)
			;
		return;
	}
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		next.tv_sec += stats_s;
		do {
			clock_gettime(CLOCK_MONOTONIC, &now);
			wait.tv_sec = next.tv_sec - now.tv_sec;
			wait.tv_nsec = next.tv_nsec - now.tv_nsec;
			if (wait.tv_nsec < 0) {
				wait.tv_sec--;
				wait.tv_nsec += 1000000000;
			}
			if (wait.tv_sec < 0)
				memset(&wait, 0, sizeof(wait));
			if (sigtimedwait(stop, NULL, &wait) > 0)
				return;
		} while (errno == EINTR);
		app_report_stats();
	}
}

static void
report_ready(void)
{
	const char *missing = app_runtime_missing();

	if (missing == NULL)
		puts("ready");
	else
		printf("ready, without management: %s\n", missing);
}

static int
serve(const struct app_options *opts, const sigset_t *stop)
{
	struct vdpa_init_params params = {
		.poll_lcores = opts->poll_lcores,
		.n_poll_lcores = opts->n_poll_lcores,
		.poll_us = opts->poll_us,
	};
	int ret;

	ret = check_poll_lcores(opts);
	if (ret < 0)
		return APP_USAGE;
	ret = vdpa_init(&params);
	if (ret < 0) {
		fprintf(stderr, "%s: cannot start: %s\n", app_program.name, vdpa_error_message());
		return APP_FAILED;
	}
	if (app_program.start != NULL)
		ret = app_program.start();
	if (ret < 0)
		fprintf(stderr, "%s: cannot start: %s\n", app_program.name, vdpa_error_message());
	else
		ret = add_devices(opts);
	if (ret == 0) {
		app_report_devices();
		report_ready();
		run(stop, opts->stats_s);
		puts("stopping");
		if (opts->json)
			app_report_json();
	}
	if (app_program.stop != NULL)
		app_program.stop();
	vdpa_cleanup();
	if (ret == 0)
		return APP_STOPPED;
	return ret == -EINVAL ? APP_USAGE : APP_FAILED;
}

int
main(int argc, char **argv)
{
	struct app_options opts;
	sigset_t stop;
	int ret, code;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (app_program.register_words != NULL && app_program.register_words() < 0) {
		fprintf(stderr, "%s: %s\n", app_program.name, vdpa_error_message());
		return APP_FAILED;
	}
	ret = app_options_parse(&opts, argc, argv);
	if (ret < 0)
		return ret == -EINVAL ? APP_USAGE : APP_FAILED;
	if (opts.version) {
		printf("%s %s, %s\n", app_program.name, APP_VERSION, rte_version());
		code = APP_STOPPED;
		goto out;
	}
	if (opts.help) {
		app_usage();
		putchar('\n');
	}
	if (opts.list)
		app_report_functions();
	if (opts.help || opts.list) {
		code = print_words_help();
		goto out;
	}

	block_signals(&stop);
	/* Every virtqueue costs two or three. */
	vdpa_fd_raise_limit();
	ret = app_eal_start(&opts);
	if (ret < 0) {
		code = ret == -EINVAL ? APP_USAGE : APP_FAILED;
		goto out;
	}
	code = serve(&opts, &stop);
	app_eal_stop();
out:
	app_options_free(&opts);
	return code;
}
