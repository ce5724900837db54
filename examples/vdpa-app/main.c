/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The daemon. It starts EAL and uvdpa, adds the devices that it was given, and waits for signals;
 * the library's threads do the work. It uses the library's public API only.
 */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_common.h>
#include <rte_lcore.h>
#include <rte_version.h>

#include <vdpa.h>
#include <vdpa_control.h>
#include <vdpa_fd.h>
#include <vdpa_restart.h>
#include <vdpa_uvdpad.h>

#include "clock.h"
#include "config_methods.h"
#include "control.h"
#include "eal_start.h"
#include "log.h"
#include "made.h"
#include "notify.h"
#include "options.h"
#include "program.h"
#include "reload.h"
#include "report.h"
#include "restart.h"
#include "runtime_dir.h"
#include "successor.h"
#include "upgrade.h"

/* Exit codes; see --help. */
enum {
	APP_STOPPED = 0,
	APP_FAILED = 1,
	APP_USAGE = 2,
};

/* Signals for us are blocked in every thread and fetched by the main one: none interrupts anything,
 * and a second one changes nothing. */
static void
block_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGTERM);
	sigaddset(signals, SIGHUP);
	sigaddset(signals, SIGUSR2);
	sigprocmask(SIG_BLOCK, signals, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int
print_words_help(void)
{
	char *text = vdpa_words_help();

	if (text == NULL) {
		app_log(LOG_ERR, NULL, "%s", vdpa_error_message());
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
			app_log(LOG_ERR, NULL,
				"--poll-lcores: %u is not among the EAL lcores given by -l or "
				"--lcores",
				lcore);
			return -EINVAL;
		}
		if (lcore == rte_get_main_lcore()) {
			app_log(LOG_ERR, NULL,
				"--poll-lcores: %u is the main lcore, which only waits for "
				"signals; give one more to EAL",
				lcore);
			return -EINVAL;
		}
	}
	return 0;
}

/* Wait for one of the signals until a time, INT64_MAX: for ever. 0: none came. */
static int
wait_for_signal(const sigset_t *signals, int64_t until_us)
{
	struct timespec wait;
	int64_t left_us;
	int signum;

	do {
		if (until_us == INT64_MAX) {
			signum = sigwaitinfo(signals, NULL);
			continue;
		}
		left_us = until_us - app_now_us();
		if (left_us < 0)
			left_us = 0;
		wait.tv_sec = left_us / 1000000;
		wait.tv_nsec = left_us % 1000000 * 1000;
		signum = sigtimedwait(signals, NULL, &wait);
	} while (signum < 0 && errno == EINTR);
	return signum > 0 ? signum : 0;
}

/* Whether the daemon goes on. Without a file, there is nothing to reload, and SIGHUP is what it is
 * for any program: its terminal has gone. */
static bool
handle_signal(const struct app_options *opts, int signum)
{
	if (signum == SIGUSR2) {
		/* The upgrade says by the same signal that it is done. */
		if (app_upgrade_is_done())
			return false;
		app_upgrade_begin();
		return true;
	}
	if (signum != SIGHUP || !app_options_has_file(opts))
		return signum == 0;
	app_reload_begin();
	return true;
}

/* Until a signal asks to stop: which one. */
static int
run(const struct app_options *opts, const sigset_t *signals)
{
	int64_t stats_us = INT64_MAX, alive_us = app_now_us(), period_us;
	int signum;

	if (opts->stats_s > 0)
		stats_us = app_now_us() + (int64_t)opts->stats_s * 1000000;
	do {
		if (app_now_us() >= stats_us) {
			app_report_stats();
			stats_us += (int64_t)opts->stats_s * 1000000;
		}
		if (app_now_us() >= alive_us) {
			period_us = app_notify_alive();
			alive_us = period_us < 0 ? INT64_MAX : app_now_us() + period_us;
		}
		signum = wait_for_signal(signals, RTE_MIN(stats_us, alive_us));
	} while (handle_signal(opts, signum));
	return signum;
}

static void
report_ready(void)
{
	const char *missing = app_runtime_missing();

	if (missing == NULL)
		app_log(LOG_INFO, NULL, "ready");
	else
		app_log(LOG_INFO, NULL, "ready, without management: %s", missing);
	app_notify_ready();
}

static int
serve(const struct app_options *opts, const sigset_t *signals)
{
	struct vdpa_init_params params = {
		.poll_lcores = opts->poll_lcores,
		.n_poll_lcores = opts->n_poll_lcores,
		.poll_us = opts->poll_us,
	};
	int ret, signum;
	bool over;

	ret = check_poll_lcores(opts);
	if (ret < 0)
		return APP_USAGE;
	ret = vdpa_init(&params);
	if (ret < 0) {
		app_log(LOG_ERR, NULL, "cannot start: %s", vdpa_error_message());
		return APP_FAILED;
	}
	if (app_program.start != NULL)
		ret = app_program.start();
	if (ret < 0)
		app_log(LOG_ERR, NULL, "cannot start: %s", vdpa_error_message());
	else
		ret = app_successor_begin(opts);
	if (ret == 0)
		ret = app_restart_take_over(opts);
	if (ret == 0)
		ret = app_made_start(opts);
	if (ret == 0) {
		ret = app_config_methods_add();
		if (ret < 0)
			app_log(LOG_ERR, NULL, "cannot start: %s", vdpa_error_message());
		else
			ret = app_control_start(opts);
	}
	if (ret == 0)
		ret = app_successor_commit(opts);
	/* Behind a take-over there is no way back, and the devices do not depend on it. */
	if (ret == 0 && app_uvdpad_start(opts) < 0 && opts->take_over == 0)
		ret = -EINVAL;
	if (ret == 0) {
		app_restart_settle(opts);
		app_report_devices();
		/* A client that asks for a reload before is refused. */
		app_reload_init(opts);
		app_upgrade_open(opts);
		report_ready();
		signum = run(opts, signals);
		over = app_upgrade_fini();
		if (!over)
			app_notify_stopping();
		app_log(LOG_INFO, NULL, over ? "another process has the devices" : "stopping");
		app_reload_fini();
		if (signum == SIGTERM && !over)
			app_restart_leave(opts);
		app_notify_fini();
		if (opts->json)
			app_report_json();
	}
	/* One that did not start ends nobody's connection. */
	if (ret < 0) {
		app_successor_fail(opts);
		app_restart_leave(opts);
	}
	/* Before what its methods use. */
	vdpa_uvdpad_stop();
	vdpa_control_stop();
	app_config_methods_remove();
	app_made_fini();
	if (app_program.stop != NULL)
		app_program.stop();
	vdpa_cleanup();
	vdpa_restart_end();
	if (ret == 0)
		return APP_STOPPED;
	return ret == -EINVAL ? APP_USAGE : APP_FAILED;
}

int
main(int argc, char **argv)
{
	struct app_options opts;
	sigset_t signals;
	int ret, code;

	setvbuf(stdout, NULL, _IOLBF, 0);
	app_upgrade_init(argc, argv);
	app_log_init();
	if (app_program.register_words != NULL && app_program.register_words() < 0) {
		app_log(LOG_ERR, NULL, "%s", vdpa_error_message());
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
	if (opts.check) {
		printf("no mistake, devices: %u\n", opts.config.n_devs);
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

	block_signals(&signals);
	/* Every virtqueue costs two or three. */
	vdpa_fd_raise_limit();
	ret = opts.take_over == 0 ? app_restart_begin(&opts) : 0;
	if (ret == 0)
		ret = app_eal_start(&opts);
	if (ret < 0) {
		code = ret == -EINVAL ? APP_USAGE : APP_FAILED;
		goto out;
	}
	code = serve(&opts, &signals);
	app_eal_stop();
out:
	app_options_free(&opts);
	app_log_fini();
	return code;
}
