/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Configuration files while the daemon runs. Owns what a reload has accepted: the settings of the
 * files as they were read last without a mistake. The devices are made.c's.
 *
 * A reload waits for devices, so that it runs in a thread of its own or of whoever asks for it over
 * the control socket, one at a time.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <rte_common.h>
#include <rte_log.h>

#include <vdpa.h>
#include <vdpa_control.h>

#include "log.h"
#include "made.h"
#include "notify.h"
#include "program.h"
#include "reload.h"
#include "save.h"

static const struct app_options *options; /* atomic; NULL: not yet */
static bool stop;			  /* atomic */

/* Held while one is at work. */
static pthread_mutex_t reload_lock = PTHREAD_MUTEX_INITIALIZER;

/* The configuration that was accepted last, after the one of the start. */
static pthread_mutex_t accepted_lock = PTHREAD_MUTEX_INITIALIZER;
static struct app_config accepted;
static bool any_accepted;

/* The thread for signals. */
static struct {
	pthread_mutex_t lock;
	pthread_t thread;
	bool started; /* to be joined */
	bool working;
	bool again;
} background = {.lock = PTHREAD_MUTEX_INITIALIZER};

void
app_reload_init(const struct app_options *opts)
{
	__atomic_store_n(&options, opts, __ATOMIC_RELEASE);
}

static bool
same_values(const struct app_settings *a, const struct app_settings *b, unsigned int which)
{
	if (a->of[which].n != b->of[which].n)
		return false;
	for (unsigned int i = 0; i < a->of[which].n; i++)
		if (strcmp(a->of[which].value[i], b->of[which].value[i]) != 0)
			return false;
	return true;
}

/* Settings that are other than at the start, and that nothing but a start applies. */
static void
list_next_start(const struct app_config *c, json_t *names)
{
	for (unsigned int i = 0; i < APP_SETTINGS; i++) {
		const struct app_setting_row *row = &app_setting_rows[i];

		/* The command line overrules it, then as now. */
		if (row->at_runtime || (!row->many && options->given.of[i].n > 0) ||
		    same_values(&c->settings, &options->config.settings, i))
			continue;
		app_log(LOG_WARNING, NULL,
			"reload: %s has changed: it takes effect when the daemon is started anew",
			row->name);
		json_array_append_new(names, json_string(row->name));
	}
}

/* The one setting that is applied while the daemon runs. */
static void
apply_log_level(const struct app_config *before, const struct app_config *c)
{
	const char *value = app_settings_get(&c->settings, APP_LOG_LEVEL), *name;
	char pattern[256] = "lib.uvdpa";
	uint32_t level = RTE_LOG_NOTICE;

	if (options->given.of[APP_LOG_LEVEL].n > 0 ||
	    same_values(&before->settings, &c->settings, APP_LOG_LEVEL))
		return;
	if (value == NULL)
		value = "notice";
	name = app_log_level(value, &level);
	if (name > value)
		snprintf(pattern, sizeof(pattern), "%.*s", (int)(name - 1 - value), value);
	if (rte_log_set_level_pattern(pattern, level) < 0)
		app_log(LOG_WARNING, NULL, "reload: log-level: '%s' cannot be set", value);
	else
		app_log(LOG_NOTICE, NULL, "reload: log-level: %s: %s", pattern, name);
}

/* Takes c over. */
static void
accept_config(struct app_config *c)
{
	struct app_config old;

	pthread_mutex_lock(&accepted_lock);
	old = accepted;
	accepted = *c;
	any_accepted = true;
	pthread_mutex_unlock(&accepted_lock);
	app_config_free(&old);
}

static int
report_mistakes(struct app_mistakes *mistakes)
{
	const struct app_mistake *first;
	unsigned int n = mistakes->n + mistakes->more;
	char *text = NULL, where[512] = "";
	size_t len;
	FILE *out;

	out = open_memstream(&text, &len);
	if (out != NULL) {
		app_mistakes_print(out, "reload: ", mistakes);
		if (fclose(out) == 0)
			for (char *save, *line = strtok_r(text, "\n", &save); line != NULL;
			     line = strtok_r(NULL, "\n", &save))
				app_log(LOG_ERR, NULL, "%s", line);
		free(text);
	}
	app_log(LOG_ERR, NULL, "reload: %u mistake%s: nothing is changed", n, n == 1 ? "" : "s");
	if (mistakes->n == 0)
		return vdpa_error(EINVAL, "%u mistakes: nothing is changed", n);
	first = mistakes->list;
	app_place_print(&first->place, where, sizeof(where));
	return n == 1 ? vdpa_error(EINVAL, "%s: %s", where, first->text)
		      : vdpa_error(EINVAL, "%s: %s (the first of %u mistakes)", where, first->text,
				   n);
}

static void
report_result(const json_t *result)
{
	char *text = json_dumps(result, JSON_COMPACT);

	(void)vdpa_control_emit("config.reloaded", text);
	free(text);
	app_log(LOG_NOTICE, NULL,
		"reload: %zu added, %zu removed, %zu changed, %" JSON_INTEGER_FORMAT
		" kept, %zu failed",
		json_array_size(json_object_get(result, "added")),
		json_array_size(json_object_get(result, "removed")),
		json_array_size(json_object_get(result, "changed")),
		json_integer_value(json_object_get(result, "kept")),
		json_array_size(json_object_get(result, "failed")));
}

/* Under the reload lock. */
static int
reload(json_t **result)
{
	struct app_mistakes mistakes = {.n = 0};
	json_t *next_start = json_array();
	struct app_config c;
	int rc;

	rc = app_options_read(options, &c, &mistakes);
	if (rc == 0)
		rc = app_config_check(&c, &mistakes);
	if (rc == 0 && mistakes.n + mistakes.more > 0)
		rc = report_mistakes(&mistakes);
	app_mistakes_free(&mistakes);
	if (rc < 0) {
		app_config_free(&c);
		json_decref(next_start);
		return rc;
	}
	list_next_start(&c, next_start);
	rc = app_made_change(&c, &stop, result);
	if (rc == 0)
		apply_log_level(any_accepted ? &accepted : &options->config, &c);
	if (*result != NULL) {
		json_object_set(*result, "next_start", next_start);
		report_result(*result);
	}
	if (rc < 0) {
		json_decref(*result);
		*result = NULL;
	}
	json_decref(next_start);
	/* What was not carried out in full is compared with again. */
	if (rc == 0)
		accept_config(&c);
	else
		app_config_free(&c);
	return rc;
}

int
app_reload(json_t **result)
{
	int rc;

	*result = NULL;
	if (__atomic_load_n(&options, __ATOMIC_ACQUIRE) == NULL)
		return vdpa_error(EBUSY, "the daemon is being started");
	if (!app_options_has_file(options))
		return vdpa_error(EOPNOTSUPP, "no configuration file: start with --config FILE");
	if (pthread_mutex_trylock(&reload_lock) != 0)
		return vdpa_error(EBUSY, "a reload or an upgrade is at work");
	if (__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
		rc = vdpa_error(ESHUTDOWN, "the daemon is being stopped");
	} else {
		app_notify_reloading();
		rc = reload(result);
		if (rc < 0 && rc != -EINVAL)
			app_log(LOG_ERR, NULL, "reload: %s", vdpa_error_message());
		app_notify_ready();
	}
	pthread_mutex_unlock(&reload_lock);
	return rc;
}

bool
app_reload_lock(void)
{
	return pthread_mutex_trylock(&reload_lock) == 0;
}

void
app_reload_unlock(void)
{
	pthread_mutex_unlock(&reload_lock);
}

static void *
run_background(void *arg)
{
	json_t *result;
	bool again;

	do {
		pthread_mutex_lock(&background.lock);
		background.again = false;
		pthread_mutex_unlock(&background.lock);
		/* One that a client has asked for may not have seen what the signal is about. */
		pthread_mutex_lock(&reload_lock);
		pthread_mutex_unlock(&reload_lock);
		app_reload(&result);
		json_decref(result);
		pthread_mutex_lock(&background.lock);
		again = background.again;
		background.working = again;
		pthread_mutex_unlock(&background.lock);
	} while (again);
	return NULL;
}

void
app_reload_begin(void)
{
	int rc = 0;

	pthread_mutex_lock(&background.lock);
	if (background.working) {
		background.again = true;
	} else {
		if (background.started)
			pthread_join(background.thread, NULL);
		rc = pthread_create(&background.thread, NULL, run_background, NULL);
		background.started = background.working = rc == 0;
	}
	pthread_mutex_unlock(&background.lock);
	if (rc != 0)
		app_log(LOG_ERR, NULL, "reload: no thread for it: %s", strerror(rc));
}

int
app_reload_save(char **text)
{
	int rc;

	if (__atomic_load_n(&options, __ATOMIC_ACQUIRE) == NULL)
		return vdpa_error(EBUSY, "the daemon is being started");
	pthread_mutex_lock(&accepted_lock);
	rc = app_save(any_accepted ? &accepted.settings : &options->config.settings, text);
	pthread_mutex_unlock(&accepted_lock);
	return rc;
}

void
app_reload_fini(void)
{
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	if (background.started)
		pthread_join(background.thread, NULL);
	background.started = false;
	/* One that a client has asked for. */
	pthread_mutex_lock(&reload_lock);
	pthread_mutex_unlock(&reload_lock);
	app_config_free(&accepted);
	any_accepted = false;
}
