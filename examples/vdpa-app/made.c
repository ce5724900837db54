/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The devices that stand in configuration files. Of each that was made of a line, its number says
 * whether the device that runs by its name is still that one, or somebody has deleted it by hand
 * and perhaps added another. A change is planned for each device by itself, from three sets of
 * words: of the line that it was made of, of the line that there is now, and those that it has.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vdpa.h>
#include <vdpa_args.h>

#include "log.h"
#include "made.h"
#include "restart.h"
#include "successor.h"

struct made {
	char name[VDPA_NAME_MAX];
	char *words; /* of the line */
	uint64_t id;
	bool left; /* by this number, to another daemon */
};

struct made_list {
	struct made *made;
	unsigned int n;
};

static struct made_list now;

static void
free_list(struct made_list *list)
{
	for (unsigned int i = 0; i < list->n; i++)
		free(list->made[i].words);
	free(list->made);
	*list = (struct made_list){.n = 0};
}

static int
no_memory(void)
{
	return vdpa_error(ENOMEM, "out of memory");
}

static int
note(struct made_list *list, const char *name, const char *words, uint64_t id)
{
	struct made *made = reallocarray(list->made, list->n + 1, sizeof(*made));
	char *copy = strdup(words);

	if (made != NULL)
		list->made = made;
	if (made == NULL || copy == NULL) {
		free(copy);
		return no_memory();
	}
	made[list->n] = (struct made){.words = copy, .id = id};
	strcpy(made[list->n].name, name);
	list->n++;
	return 0;
}

static const struct made *
find_made(const struct made_list *list, const char *name)
{
	for (unsigned int i = 0; i < list->n; i++)
		if (strcmp(list->made[i].name, name) == 0)
			return &list->made[i];
	return NULL;
}

bool
app_made_has(const char *name)
{
	return find_made(&now, name) != NULL;
}

/* The device's number; 0: there is none. */
static uint64_t
running_id(const char *name)
{
	uint64_t id = 0;

	free(vdpa_dev_words(name, &id));
	return id;
}

int
app_made_start(const struct app_options *opts)
{
	const struct app_config *c = &opts->config;
	bool keeps = opts->keep != NULL;
	/* A daemon that hands over has closed what its successor makes, and others stand still. */
	int64_t left_us = keeps && opts->take_over == 0 ? APP_RESTART_PATIENCE_US : 0;
	char where[512];
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && i < c->n_devs; i++) {
		const struct app_dev *dev = &c->devs[i];

		/* One that a former daemon has left goes on already, or is made once nobody else
		 * can go on with it. */
		rc = (keeps && running_id(dev->name) != 0) || app_successor_starts_anew(dev->name)
			     ? 0
			     : app_restart_add(dev->words, &left_us);
		if (rc == 0 && dev->of_file)
			rc = note(&now, dev->name, dev->words, running_id(dev->name));
		if (rc < 0) {
			app_place_print(&dev->place, where, sizeof(where));
			app_log(LOG_ERR, dev->name, "%s: %s", where, vdpa_error_message());
		}
	}
	return rc;
}

/* What is to be done with a device of the new files. */
enum plan {
	PLAN_KEEP,
	PLAN_ADD,
	PLAN_SET,
	PLAN_REMAKE,
	PLAN_FAILED, /* nothing: it has failed */
};

struct step {
	const struct app_dev *dev;
	enum plan plan;
	char *set;   /* words of dev set */
	char *words; /* that the device has */
};

/* A reload, which result is of. */
struct change {
	const bool *stop;
	json_t *result;
	struct made_list after;
	int rc; /* -ENOMEM: not everything is written down */
};

static void
list_name(struct change *ch, const char *key, const char *name)
{
	if (json_array_append_new(json_object_get(ch->result, key), json_string(name)) < 0)
		ch->rc = no_memory();
}

static void
fail(struct change *ch, const char *name, const char *error)
{
	json_t *failed = json_pack("{s:s,s:s}", "name", name, "error", error);

	app_log(LOG_ERR, name, "reload: %s: %s", name, error);
	if (json_array_append_new(json_object_get(ch->result, "failed"), failed) < 0)
		ch->rc = no_memory();
}

static void
keep_note(struct change *ch, const char *name, const char *words, uint64_t id)
{
	if (note(&ch->after, name, words, id) < 0)
		ch->rc = -ENOMEM;
}

static bool
stopped(struct change *ch, const char *name)
{
	if (!__atomic_load_n(ch->stop, __ATOMIC_ACQUIRE))
		return false;
	fail(ch, name, "the daemon is being stopped");
	return true;
}

/* A device that was of a file and is no longer. */
static void
drop_device(struct change *ch, const struct made *made)
{
	uint64_t id = running_id(made->name);

	if (id == 0 || id != made->id) {
		app_log(LOG_NOTICE, made->name, "reload: %s: %s", made->name,
			id != 0		? "has been added anew by hand: left alone"
			: made->id == 0 ? "was lost before"
					: "has been deleted by hand before");
		return;
	}
	if (!stopped(ch, made->name) && vdpa_dev_del(made->name) == 0) {
		app_log(LOG_NOTICE, made->name, "reload: %s: removed", made->name);
		list_name(ch, "removed", made->name);
		return;
	}
	if (!__atomic_load_n(ch->stop, __ATOMIC_ACQUIRE))
		fail(ch, made->name, vdpa_error_message());
	/* The next reload tries again. */
	keep_note(ch, made->name, made->words, id);
}

static enum plan
plan_of(int difference)
{
	return difference == VDPA_WORDS_SAME	   ? PLAN_KEEP
	       : difference == VDPA_WORDS_SETTABLE ? PLAN_SET
						   : PLAN_REMAKE;
}

static bool
has_word(const struct vdpa_words *words, const char *word)
{
	for (unsigned int i = 0; i < words->n; i++)
		if (strcmp(words->word[i], word) == 0)
			return true;
	return false;
}

/* Whether the new line has words of set, "NAME WORD VALUE ...", that the old one left unsaid: they
 * may mean what the line meant, but somebody has written them. */
static bool
says_anew(const char *set, const char *old_line, const char *new_line)
{
	struct vdpa_words words[3] = {{.n = 0}};
	bool anew = false;

	if (vdpa_words_split(set, &words[0]) == 0 && vdpa_words_split(old_line, &words[1]) == 0 &&
	    vdpa_words_split(new_line, &words[2]) == 0)
		for (unsigned int i = 1; i < words[0].n; i++)
			anew |= !has_word(&words[1], words[0].word[i]) &&
				has_word(&words[2], words[0].word[i]);
	for (unsigned int i = 0; i < 3; i++)
		vdpa_words_free(&words[i]);
	return anew;
}

/* A device that runs, and was made of a line of a file. */
static int
plan_change(struct step *s, const struct made *made)
{
	int rc;

	rc = vdpa_words_compare(s->words, s->dev->words, &s->set);
	if (rc <= 0)
		return rc;
	/* The line says what it said: the difference has been made by hand. */
	if (vdpa_words_compare(made->words, s->dev->words, NULL) == VDPA_WORDS_SAME &&
	    (rc != VDPA_WORDS_SETTABLE || !says_anew(s->set, made->words, s->dev->words))) {
		app_log(LOG_NOTICE, s->dev->name,
			"reload: %s: has been changed by hand, and its line has not: left alone",
			s->dev->name);
		return VDPA_WORDS_SAME;
	}
	return rc;
}

/* A device that runs, and was not. */
static int
plan_adoption(const struct step *s)
{
	int rc = vdpa_words_compare(s->words, s->dev->words, NULL);

	if (rc <= 0)
		return rc;
	return vdpa_error(EEXIST,
			  "a device of that name has been added by hand, of other words: left "
			  "alone; delete it, or give it the words of the file");
}

static void
plan_step(struct change *ch, struct step *s)
{
	const struct made *made = find_made(&now, s->dev->name);
	uint64_t id = 0;
	int rc;

	s->words = vdpa_dev_words(s->dev->name, &id);
	if (s->words == NULL && errno == ENODEV) {
		s->plan = PLAN_ADD;
		if (made != NULL)
			app_log(LOG_NOTICE, s->dev->name,
				"reload: %s: has been deleted by hand: its line brings it back",
				s->dev->name);
		return;
	}
	if (s->words == NULL)
		rc = -errno;
	else if (made != NULL && made->id == id)
		rc = plan_change(s, made);
	else
		rc = plan_adoption(s);
	s->plan = rc >= 0 ? plan_of(rc) : PLAN_FAILED;
	if (rc >= 0)
		return;
	fail(ch, s->dev->name, vdpa_error_message());
	if (made != NULL)
		keep_note(ch, made->name, made->words, made->id);
}

/* The first half of a device that is made anew: its socket and its file become free for others. */
static void
take_down(struct change *ch, struct step *s)
{
	const struct made *made = find_made(&now, s->dev->name);

	if (!stopped(ch, s->dev->name)) {
		if (vdpa_dev_del(s->dev->name) == 0)
			return;
		fail(ch, s->dev->name, vdpa_error_message());
	}
	s->plan = PLAN_FAILED;
	keep_note(ch, made->name, made->words, made->id);
}

static void
set_words(struct change *ch, const struct step *s)
{
	const struct made *made = find_made(&now, s->dev->name);

	if (!stopped(ch, s->dev->name)) {
		if (vdpa_dev_set(s->set) == 0) {
			app_log(LOG_NOTICE, s->dev->name, "reload: %s: set %s", s->dev->name,
				s->set + strlen(s->dev->name) + 1);
			list_name(ch, "changed", s->dev->name);
			keep_note(ch, s->dev->name, s->dev->words, running_id(s->dev->name));
			return;
		}
		fail(ch, s->dev->name, vdpa_error_message());
	}
	keep_note(ch, s->dev->name, made->words, made->id);
}

/* The new words do not make a device: those that it had do, if nobody has taken what they need. */
static void
put_back(struct change *ch, const struct step *s)
{
	const struct made *made = find_made(&now, s->dev->name);

	if (vdpa_dev_add(s->words) == 0) {
		app_log(LOG_WARNING, s->dev->name, "reload: %s: made again as it was before",
			s->dev->name);
		keep_note(ch, made->name, made->words, running_id(made->name));
		return;
	}
	app_log(LOG_ERR, s->dev->name, "reload: %s: cannot be made again as it was: %s",
		s->dev->name, vdpa_error_message());
	list_name(ch, "removed", s->dev->name);
}

static void
add_device(struct change *ch, const struct step *s)
{
	bool anew = s->plan == PLAN_REMAKE;

	/* One that has been taken down is not left so. */
	if (!anew && stopped(ch, s->dev->name))
		return;
	if (vdpa_dev_add(s->dev->words) == 0) {
		app_log(LOG_NOTICE, s->dev->name, "reload: %s: %s", s->dev->name,
			anew ? "made anew" : "added");
		list_name(ch, anew ? "changed" : "added", s->dev->name);
		keep_note(ch, s->dev->name, s->dev->words, running_id(s->dev->name));
		return;
	}
	fail(ch, s->dev->name, vdpa_error_message());
	if (anew)
		put_back(ch, s);
}

/* Devices that go before those that come, so that these may have their sockets and files. */
static void
carry_out(struct change *ch, const struct app_config *c, struct step *steps, unsigned int n)
{
	const struct app_dev *dev;
	json_int_t kept = 0;

	for (unsigned int i = 0; i < n; i++)
		plan_step(ch, &steps[i]);
	for (unsigned int i = now.n; i > 0; i--) {
		dev = app_config_find(c, now.made[i - 1].name);
		if (dev == NULL || !dev->of_file)
			drop_device(ch, &now.made[i - 1]);
	}
	for (unsigned int i = n; i > 0; i--)
		if (steps[i - 1].plan == PLAN_REMAKE)
			take_down(ch, &steps[i - 1]);
	for (unsigned int i = 0; i < n; i++) {
		struct step *s = &steps[i];

		if (s->plan == PLAN_KEEP) {
			kept++;
			keep_note(ch, s->dev->name, s->dev->words, running_id(s->dev->name));
		} else if (s->plan == PLAN_SET) {
			set_words(ch, s);
		} else if (s->plan != PLAN_FAILED) {
			add_device(ch, s);
		}
	}
	json_object_set_new(ch->result, "kept", json_integer(kept));
}

/* Devices that were added by hand and stand nowhere. */
struct strangers {
	const struct app_config *c;
	unsigned int n;
	char names[200];
};

static int
find_stranger(const char *name, uint64_t id, const char *words, void *arg)
{
	struct strangers *s = arg;
	size_t used = strlen(s->names);

	if (app_config_find(s->c, name) != NULL)
		return 0;
	if (used + strlen(name) + sizeof(", ...") < sizeof(s->names))
		snprintf(s->names + used, sizeof(s->names) - used, "%s%s", used > 0 ? ", " : "",
			 name);
	else if (used > 3 && strcmp(s->names + used - 3, "...") != 0)
		strcat(s->names, ", ...");
	s->n++;
	return 0;
}

static void
report_strangers(const struct app_config *c)
{
	struct strangers s = {.c = c};

	vdpa_dev_words_each(find_stranger, &s);
	if (s.n > 0)
		app_log(LOG_NOTICE, NULL, "reload: added by hand and left alone: %u: %s", s.n,
			s.names);
}

int
app_made_change(const struct app_config *c, const bool *stop, json_t **result)
{
	struct change ch = {.stop = stop};
	struct step *steps = calloc(c->n_devs + 1, sizeof(*steps));
	unsigned int n = 0;

	ch.result = json_pack("{s:[],s:[],s:[],s:i,s:[]}", "added", "removed", "changed", "kept", 0,
			      "failed");
	if (steps == NULL || ch.result == NULL) {
		free(steps);
		json_decref(ch.result);
		return no_memory();
	}
	for (unsigned int i = 0; i < c->n_devs; i++)
		if (c->devs[i].of_file)
			steps[n++].dev = &c->devs[i];
	carry_out(&ch, c, steps, n);
	report_strangers(c);
	for (unsigned int i = 0; i < n; i++) {
		free(steps[i].set);
		free(steps[i].words);
	}
	free(steps);
	free_list(&now);
	now = ch.after;
	*result = ch.result;
	return ch.rc;
}

void
app_made_leave(void)
{
	for (unsigned int i = 0; i < now.n; i++)
		now.made[i].left = running_id(now.made[i].name) == now.made[i].id;
}

void
app_made_come_back(void)
{
	for (unsigned int i = 0; i < now.n; i++)
		if (now.made[i].left)
			now.made[i].id = running_id(now.made[i].name);
}

void
app_made_fini(void)
{
	free_list(&now);
}
