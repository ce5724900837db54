/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices that outlive the daemon, where --keep says in which store. What a former daemon has left
 * is made first, by the words that it had; the configuration has a say in whether it may go on.
 */

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <vdpa.h>
#include <vdpa_args.h>
#include <vdpa_restart.h>

#include "clock.h"
#include "config_file.h"
#include "log.h"
#include "restart.h"
#include "successor.h"

#define LOOK_US 20000

int
app_restart_begin(const struct app_options *opts)
{
	int rc = opts->keep != NULL ? vdpa_restart_begin(opts->keep) : 0;

	if (rc < 0)
		app_log(LOG_ERR, NULL, "keep: %s", vdpa_error_message());
	return rc;
}

/* A disk's last requests have its file until the kernel has ended them, and its socket has another
 * descriptor until the store has closed that. Each try may wait, too, such as for a server's
 * answer. */
int
app_restart_add(const char *words, int64_t *left_us)
{
	int rc = vdpa_dev_add(words);

	while ((rc == -EBUSY || rc == -EADDRINUSE) && *left_us > 0) {
		int64_t began_us = app_now_us();

		usleep(LOOK_US);
		rc = vdpa_dev_add(words);
		*left_us -= app_now_us() - began_us;
	}
	return rc;
}

/* Which device the error is of. */
static int
add_cause(const char *name)
{
	char why[512];

	snprintf(why, sizeof(why), "%s", vdpa_error_message());
	return strncmp(why, name, strlen(name)) == 0
		       ? -EPROTO
		       : vdpa_error(EPROTO, "%s does not go on: %s", name, why);
}

/* What this daemon lacks, whichever the device is. */
static bool
is_own_fault(int rc)
{
	return rc == -ENOMEM || rc == -EMFILE || rc == -ENFILE;
}

struct take_over {
	const struct app_options *opts;
	int64_t left_us;
};

static int
take_over(const char *name, const char *words, void *arg)
{
	struct take_over *t = arg;
	const struct app_options *opts = t->opts;
	const struct app_dev *dev = app_config_find(&opts->config, name);
	int rc = dev != NULL ? vdpa_words_compare(words, dev->words, NULL) : VDPA_WORDS_SAME;

	if (rc == -ENOMEM)
		return rc;
	if (rc != VDPA_WORDS_SAME && opts->take_over != 0)
		return vdpa_error(EPROTO, "%s: its words have changed", name);
	if (rc != VDPA_WORDS_SAME) {
		app_log(LOG_WARNING, name, "restart: %s: does not go on: its words have changed",
			name);
		vdpa_restart_drop(name);
		return 0;
	}
	if (dev == NULL)
		app_log(LOG_NOTICE, name, "restart: %s: goes on, in no configuration", name);
	if (opts->take_over != 0 && app_successor_note(name, words) < 0)
		return -ENOMEM;
	rc = app_restart_add(words, &t->left_us);
	if (rc < 0) {
		/* The daemon that has handed it over goes on with it, or it starts anew later. */
		if (opts->take_over != 0) {
			bool forced = app_successor_is_forced() && !is_own_fault(rc);

			rc = add_cause(name);
			if (!forced)
				return rc;
			app_log(LOG_ERR, name, "take-over: %s", vdpa_error_message());
			return 0;
		}
		app_log(LOG_ERR, name, "restart: %s: does not go on: %s", name,
			vdpa_error_message());
		vdpa_restart_drop(name);
	}
	return 0;
}

int
app_restart_take_over(const struct app_options *opts)
{
	struct take_over t = {.opts = opts, .left_us = APP_RESTART_PATIENCE_US};
	int rc = 0;

	if (opts->keep != NULL)
		rc = vdpa_restart_each(take_over, &t);
	if (rc < 0)
		app_log(LOG_ERR, NULL, "restart: %s", vdpa_error_message());
	return rc;
}

void
app_restart_settle(const struct app_options *opts)
{
	unsigned int n;

	if (opts->keep == NULL)
		return;
	n = vdpa_restart_settle();
	app_log(LOG_INFO, NULL, "took over %u device%s", n, n == 1 ? "" : "s");
}

void
app_restart_leave(const struct app_options *opts)
{
	int n;

	if (opts->keep == NULL)
		return;
	n = vdpa_restart_leave();
	/* They are the other daemon's, which says what becomes of them. */
	if (app_successor_is_pending(opts))
		return;
	if (n < 0)
		app_log(LOG_ERR, NULL, "leaves no device to the next process: %s",
			vdpa_error_message());
	else
		app_log(LOG_INFO, NULL, "leaves %d device%s to the next process", n,
			n == 1 ? "" : "s");
}
