/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What an upgrade finds out before it changes anything (stays.h). */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vdpa.h>
#include <vdpa_args.h>
#include <vdpa_restart.h>

#include "config_file.h"
#include "log.h"
#include "made.h"
#include "stays.h"

/* Characters of all names and reasons in an error. */
#define REASONS_MAX 1024

/* What must not be started on a client's word. */

/* A file or folder that nobody but root and this user can change; a sticky folder is one. */
static int
check_owner(const char *path, bool last)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return vdpa_error(errno, "program '%s': %m", path);
	if (last && !S_ISREG(st.st_mode))
		return vdpa_error(EACCES, "program '%s': is no file", path);
	if (last && (st.st_mode & (S_ISUID | S_ISGID)) != 0)
		return vdpa_error(EPERM, "program '%s': changes its user or group (setuid, setgid)",
				  path);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) ||
	    ((st.st_mode & 022) != 0 && (last || (st.st_mode & S_ISVTX) == 0)))
		return vdpa_error(EPERM,
				  "program '%s': users other than root and the daemon's own may "
				  "change it",
				  path);
	return 0;
}

int
app_stays_check_program(const char *given, char path[PATH_MAX])
{
	char part[PATH_MAX];
	int rc = 0;

	if (given[0] != '/')
		return vdpa_error(EINVAL, "program '%s': allowed is an absolute path", given);
	if (realpath(given, path) == NULL)
		return vdpa_error(errno, "program '%s': %m", given);
	for (const char *p = path; rc == 0 && p != NULL; p = strchr(p + 1, '/')) {
		snprintf(part, sizeof(part), "%.*s", p == path ? 1 : (int)(p - path), path);
		rc = check_owner(part, false);
	}
	if (rc == 0)
		rc = check_owner(path, true);
	if (rc == 0 && access(path, X_OK) < 0)
		rc = vdpa_error(errno, "program '%s': %m", path);
	return rc;
}

/* Devices. */

static int
no_memory(void)
{
	return vdpa_error(ENOMEM, "out of memory");
}

int
app_stays_init(struct app_stays *s)
{
	*s = (struct app_stays){
		.names = json_array(), .why = json_object(), .absent = json_object()};
	return s->names != NULL && s->why != NULL && s->absent != NULL ? 0 : no_memory();
}

void
app_stays_fini(struct app_stays *s)
{
	json_decref(s->names);
	json_decref(s->why);
	json_decref(s->absent);
}

bool
app_stays_has(const struct app_stays *s, const char *name)
{
	return json_object_get(s->why, name) != NULL;
}

static bool
is_lost(const struct app_stays *s, const char *name)
{
	return app_stays_has(s, name) && json_is_true(json_object_get(s->absent, name));
}

int
app_stays_add(struct app_stays *s, const char *name, const char *why)
{
	if (app_stays_has(s, name))
		return 0;
	return json_object_set_new(s->why, name, json_string(why)) < 0 ||
			       json_array_append_new(s->names, json_string(name)) < 0
		       ? no_memory()
		       : 0;
}

int
app_stays_note_taken(struct app_stays *s, const json_t *taken)
{
	const char *text;
	json_t *name;
	size_t i;
	int rc = 0;

	json_array_foreach(json_object_get(taken, "anew"), i, name)
	{
		text = json_string_value(name);
		if (rc < 0 || text == NULL)
			continue;
		rc = app_stays_add(s, text, "the new daemon cannot go on with it");
		if (rc == 0 && json_object_set_new(s->absent, text, json_false()) < 0)
			rc = no_memory();
	}
	return rc;
}

static int
note_told(const char *name, const char *why, void *arg)
{
	return app_stays_add(arg, name, why);
}

static int
collect_name(const char *name, uint64_t id, const char *words, void *arg)
{
	(void)id;
	(void)words;
	return json_array_append_new(arg, json_string(name)) < 0 ? no_memory() : 0;
}

/* By what is shown of the device. One that has ended meanwhile is nobody's. */
static int
look_at(struct app_stays *s, const char *name, const struct app_options *opts)
{
	const struct app_dev *dev = app_config_find(&opts->config, name);
	char *text = vdpa_dev_show(name);
	json_t *shown = text != NULL ? json_loads(text, 0, NULL) : NULL;
	const json_t *restart = json_object_get(shown, "restart");
	const char *why = json_string_value(json_object_get(restart, "why"));
	int rc = 0;

	free(text);
	/* What the new program has said counts. */
	if (json_object_get(s->absent, name) == NULL &&
	    json_object_set_new(
		    s->absent, name,
		    json_boolean(!app_made_has(name) && (dev == NULL || dev->of_file))) < 0)
		rc = no_memory();
	if (rc == 0 && json_is_false(json_object_get(restart, "goes_on")))
		rc = app_stays_add(s, name, why != NULL ? why : "?");
	json_decref(shown);
	return rc;
}

int
app_stays_look(struct app_stays *s, const struct app_options *opts)
{
	json_t *names, *name;
	size_t i;
	int rc;

	if (opts->keep == NULL)
		return vdpa_error(
			EOPNOTSUPP,
			"this daemon was started without --keep, so its devices end with "
			"it: start it with --keep once, see guide-restart.md; upgrades go on "
			"from then");
	rc = vdpa_restart_check(note_told, s);
	if (rc == -EPIPE || rc == -ETIMEDOUT) {
		char why[512];

		snprintf(why, sizeof(why), "%s", vdpa_error_message());
		return vdpa_error(EPIPE,
				  "%s; devices go on here: see to the keeper, and then start the "
				  "daemon anew",
				  why);
	}
	/* What passes: a store that is full, or no memory. */
	if (rc < 0)
		return rc;
	names = json_array();
	rc = names == NULL ? no_memory() : vdpa_dev_words_each(collect_name, names);
	json_array_foreach(names, i, name)
	{
		if (rc == 0)
			rc = look_at(s, json_string_value(name), opts);
	}
	json_decref(names);
	return rc;
}

int
app_stays_note_checked(struct app_stays *s, const json_t *checked)
{
	const json_t *absent = json_object_get(checked, "absent");
	const char *key;
	json_t *name, *value;
	size_t i;
	int rc = 0;

	json_array_foreach(json_object_get(checked, "anew"), i, name)
	{
		const char *text = json_string_value(name);

		if (rc == 0 && text != NULL)
			rc = app_stays_add(s, text, "its words have changed");
	}
	/* One of a version before does not say: what is known here remains. */
	if (json_is_array(absent))
		json_object_foreach(s->absent, key, value)
			json_object_set_new(s->absent, key, json_false());
	json_array_foreach(absent, i, name)
	{
		const char *text = json_string_value(name);

		if (rc == 0 && text != NULL &&
		    json_object_set_new(s->absent, text, json_true()) < 0)
			rc = no_memory();
	}
	return rc;
}

/* Names and reasons of one kind; how many there are. */
static size_t
print_reasons(const struct app_stays *s, bool lost, char *buf, size_t size)
{
	size_t n = 0, used = 0, i;
	json_t *name;

	buf[0] = '\0';
	json_array_foreach(s->names, i, name)
	{
		const char *text = json_string_value(name);

		if (is_lost(s, text) != lost)
			continue;
		if (used < size)
			used += (size_t)snprintf(buf + used, size - used, "%s%s (%s)",
						 n > 0 ? ", " : "", text,
						 json_string_value(json_object_get(s->why, text)));
		n++;
	}
	return n;
}

int
app_stays_refuse(const struct app_stays *s, bool force)
{
	char anew[REASONS_MAX], lost[REASONS_MAX];
	size_t nanew = print_reasons(s, false, anew, sizeof(anew));
	size_t nlost = print_reasons(s, true, lost, sizeof(lost)), n = nanew + nlost;

	if (n == 0 || force)
		return 0;
	return vdpa_error(EBUSY,
			  "%zu device%s not go on, and with --force (force: true) %s%s%s%s%s%s", n,
			  n == 1 ? " does" : "s do",
			  nanew == 0   ? ""
			  : nanew == 1 ? "starts anew: "
				       : "start anew: ",
			  anew, nanew > 0 && nlost > 0 ? "; " : "",
			  nlost == 0   ? ""
			  : nlost == 1 ? "is lost: "
				       : "are lost: ",
			  lost, nlost > 0 ? "; no configuration has what is lost" : "");
}

void
app_stays_log(const struct app_stays *s)
{
	json_t *name;
	size_t i;

	json_array_foreach(s->names, i, name)
	{
		const char *text = json_string_value(name);

		app_log(LOG_WARNING, text, "upgrade: %s: %s: %s", text,
			is_lost(s, text) ? "is lost, as no configuration has it" : "starts anew",
			json_string_value(json_object_get(s->why, text)));
	}
}

json_t *
app_stays_list(const struct app_stays *s, bool lost)
{
	json_t *list = json_array(), *name;
	size_t i;

	json_array_foreach(s->names, i, name)
	{
		if (is_lost(s, json_string_value(name)) == lost)
			json_array_append(list, name);
	}
	return list;
}

static int
describe_one(const struct app_stays *s, const char *name, json_t *list)
{
	const json_t *why = json_object_get(s->why, name);
	json_t *one = why == NULL
			      ? json_pack("{s:s,s:b}", "name", name, "goes_on", 1)
			      : json_pack("{s:s,s:b,s:s,s:b}", "name", name, "goes_on", 0, "why",
					  json_string_value(why), "lost", (int)is_lost(s, name));

	return json_array_append_new(list, one) < 0 ? no_memory() : 0;
}

int
app_stays_describe(const struct app_stays *s, json_t **result)
{
	json_t *names = json_array(), *list = json_array(), *name;
	size_t i;
	int rc = names == NULL || list == NULL ? no_memory()
					       : vdpa_dev_words_each(collect_name, names);

	json_array_foreach(names, i, name)
	{
		if (rc == 0)
			rc = describe_one(s, json_string_value(name), list);
	}
	json_decref(names);
	*result = json_pack("{s:o}", "devices", list);
	if (rc == 0 && *result == NULL)
		rc = no_memory();
	return rc;
}
