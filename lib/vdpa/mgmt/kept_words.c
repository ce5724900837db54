/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The words that a device is made of: how they are kept while it is there, what dev set does to
 * them, and how two sets of words are compared by what they mean. The text itself is in the
 * device's place on the bus.
 */

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kept_words.h"
#include "registry.h"
#include "vdpa.h"

static int
no_memory(void)
{
	return vdpa_error(ENOMEM, "out of memory");
}

/* In quotation marks where it would not be one word without. */
static void
print_word(FILE *out, const char *word)
{
	bool quoted = *word == '\0';

	for (const char *c = word; *c != '\0'; c++)
		quoted |= isspace((unsigned char)*c) != 0;
	fprintf(out, quoted ? "\"%s\"" : "%s", word);
}

static void
print_arg(FILE *out, const struct vdpa_arg *arg)
{
	print_word(out, arg->param->name);
	if (arg->choice != NULL) {
		fputc(' ', out);
		print_word(out, arg->choice->name);
	}
	if (arg->str != NULL) {
		fputc(' ', out);
		print_word(out, arg->str);
	}
}

static char *
to_text(const struct vdpa_args *args, const char *first)
{
	const char *separator = "";
	char *text = NULL;
	size_t len;
	FILE *out;

	out = open_memstream(&text, &len);
	if (out != NULL && first != NULL) {
		print_word(out, first);
		separator = " ";
	}
	for (unsigned int i = 0; out != NULL && i < args->n; i++) {
		fputs(separator, out);
		print_arg(out, &args->arg[i]);
		separator = " ";
	}
	if (out == NULL || fclose(out) != 0) {
		free(text);
		no_memory();
		return NULL;
	}
	return text;
}

char *
vdpa_kept_words_text(const struct vdpa_args *args)
{
	return to_text(args, NULL);
}

static const struct vdpa_param *
find_param(const struct vdpa_param *params, const char *name)
{
	for (; params != NULL && params->name != NULL; params++)
		if (strcmp(params->name, name) == 0)
			return params;
	return NULL;
}

/* Whether dev add of such a device has the word. */
static const struct vdpa_param *
add_param(const struct vdpa_add_request *req, const char *name)
{
	const struct vdpa_param *param = find_param(req->mdev->params, name);

	if (param == NULL && req->drv != NULL)
		param = find_param(req->drv->params, name);
	return param;
}

static void
drop_request(struct vdpa_add_request *req)
{
	vdpa_registry_put(req->mdev);
	vdpa_words_free(&req->words);
}

static int
put_arg(struct vdpa_args *args, const struct vdpa_arg *arg)
{
	for (unsigned int i = 0; i < args->n; i++)
		if (strcmp(args->arg[i].param->name, arg->param->name) == 0) {
			args->arg[i] = *arg;
			return 0;
		}
	if (args->n == VDPA_ARGS_MAX)
		return vdpa_error(EINVAL, "more than %u words", VDPA_ARGS_MAX);
	args->arg[args->n++] = *arg;
	return 0;
}

int
vdpa_kept_words_merge(const struct vdpa_bus_entry *e, const struct vdpa_args *args, char **out)
{
	struct vdpa_add_request req;
	int rc;

	*out = NULL;
	if (e->words == NULL)
		return 0;
	vdpa_registry_lock();
	rc = vdpa_words_parse_add(e->words, &req);
	if (rc < 0)
		goto out;
	for (unsigned int i = 0; rc == 0 && i < args->n; i++)
		if (add_param(&req, args->arg[i].param->name) != NULL)
			rc = put_arg(&req.args, &args->arg[i]);
	if (rc == 0) {
		*out = vdpa_kept_words_text(&req.args);
		rc = *out != NULL ? 0 : -ENOMEM;
	}
	drop_request(&req);
out:
	vdpa_registry_unlock();
	return rc;
}

/* Words of a device, and those that stand for what it does not say. */
struct compared {
	struct vdpa_add_request req;
	struct vdpa_words defaults[VDPA_ARGS_MAX];
	unsigned int n_defaults;
};

static int
add_default(struct compared *c, const struct vdpa_param *param)
{
	const struct vdpa_param_table table = {.params = param};
	struct vdpa_words *words = &c->defaults[c->n_defaults];
	struct vdpa_args args;
	char *text;
	int rc;

	if (asprintf(&text, "%s %s", param->name, param->dflt) < 0)
		return no_memory();
	rc = vdpa_words_split(text, words);
	free(text);
	if (rc < 0)
		return rc;
	c->n_defaults++;
	rc = vdpa_args_parse(words, 0, &table, 1, &args);
	return rc < 0 ? rc : put_arg(&c->req.args, &args.arg[0]);
}

static void
drop_compared(struct compared *c)
{
	for (unsigned int i = 0; i < c->n_defaults; i++)
		vdpa_words_free(&c->defaults[i]);
	drop_request(&c->req);
}

/* Under the management lock. On failure nothing is to be dropped. */
static int
parse_compared(const char *text, struct compared *c)
{
	const struct vdpa_param *p;
	int rc;

	c->n_defaults = 0;
	rc = vdpa_words_parse_add(text, &c->req);
	if (rc < 0)
		return rc;
	for (p = c->req.mdev->attr_params; rc == 0 && p != NULL && p->name != NULL; p++)
		if (p->dflt != NULL && add_param(&c->req, p->name) != NULL &&
		    !vdpa_args_has(&c->req.args, p->name))
			rc = add_default(c, p);
	if (rc < 0)
		drop_compared(c);
	return rc;
}

static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool
same_value(const struct vdpa_arg *a, const struct vdpa_arg *b)
{
	enum vdpa_param_type type = a->param->type;

	if (b->param->type != type)
		return false;
	if (type == VDPA_PARAM_CHOICE) {
		if (strcmp(a->choice->name, b->choice->name) != 0)
			return false;
		if (a->choice->metavar == NULL)
			return true;
		type = a->choice->type;
	}
	switch (type) {
	case VDPA_PARAM_UINT:
	case VDPA_PARAM_SIZE:
	case VDPA_PARAM_MODE:
		return a->u64 == b->u64;
	case VDPA_PARAM_MAC:
		return memcmp(a->mac, b->mac, sizeof(a->mac)) == 0;
	case VDPA_PARAM_FLAG:
		return true;
	case VDPA_PARAM_STRING:
	case VDPA_PARAM_CHOICE:
		break;
	}
	return same_text(a->str, b->str);
}

/* Words that are compared by what became of them: the management device and the front end have
 * several names. */
static bool
is_resolved(const char *name)
{
	return strcmp(name, "mgmtdev") == 0 || strcmp(name, "frontend") == 0;
}

/* What of want is other than in have, where dev set can change it, in *set; false: something that
 * it cannot change. */
static bool
find_changes(const struct vdpa_add_request *have, const struct vdpa_add_request *want,
	     struct vdpa_args *set)
{
	const struct vdpa_arg *arg, *old;

	set->n = 0;
	if (have->mdev != want->mdev || have->fe != want->fe)
		return false;
	for (unsigned int i = 0; i < have->args.n; i++) {
		arg = &have->args.arg[i];
		if (!is_resolved(arg->param->name) && !vdpa_args_has(&want->args, arg->param->name))
			return false;
	}
	for (unsigned int i = 0; i < want->args.n; i++) {
		arg = &want->args.arg[i];
		old = vdpa_args_find(&have->args, arg->param->name);
		if (is_resolved(arg->param->name) || (old != NULL && same_value(old, arg)))
			continue;
		if (find_param(want->mdev->attr_params, arg->param->name) == NULL)
			return false;
		set->arg[set->n++] = *arg;
	}
	return true;
}

static int
compare(const struct vdpa_add_request *have, const struct vdpa_add_request *want, char **set)
{
	struct vdpa_args changes;
	char *text;

	if (!find_changes(have, want, &changes))
		return VDPA_WORDS_OTHER;
	if (changes.n == 0)
		return VDPA_WORDS_SAME;
	if (set == NULL)
		return VDPA_WORDS_SETTABLE;
	text = to_text(&changes, want->name);
	if (text == NULL)
		return -ENOMEM;
	*set = text;
	return VDPA_WORDS_SETTABLE;
}

int
vdpa_words_compare(const char *have, const char *want, char **set)
{
	struct compared *c = calloc(2, sizeof(*c));
	int rc;

	if (c == NULL)
		return no_memory();
	vdpa_registry_lock();
	rc = vdpa_registry_add_builtins();
	if (rc == 0)
		rc = parse_compared(have, &c[0]);
	if (rc < 0)
		goto out;
	rc = parse_compared(want, &c[1]);
	if (rc == 0) {
		rc = compare(&c[0].req, &c[1].req, set);
		drop_compared(&c[1]);
	}
	drop_compared(&c[0]);
out:
	vdpa_registry_unlock();
	free(c);
	return rc;
}

int
vdpa_words_unique(const char *words, int (*fn)(const char *word, const char *value, void *arg),
		  void *arg)
{
	struct vdpa_add_request req;
	int rc;

	vdpa_registry_lock();
	rc = vdpa_registry_add_builtins();
	if (rc == 0)
		rc = vdpa_words_parse_add(words, &req);
	if (rc < 0)
		goto out;
	for (unsigned int i = 0; rc == 0 && i < req.args.n; i++) {
		const struct vdpa_arg *a = &req.args.arg[i];

		if (a->param->unique && a->str != NULL)
			rc = fn(a->param->name, a->str, arg);
	}
	drop_request(&req);
out:
	vdpa_registry_unlock();
	return rc;
}

/* Words that are looked at, copied under the bus lock. */
struct kept {
	const char *name; /* the entry's; NULL in a list */
	char *words;
	uint64_t id;
	bool there;
	int rc;
};

static void
look(const struct vdpa_bus_entry *e, void *arg)
{
	struct kept *kept = arg;

	kept->there = e->state == VDPA_BUS_PRESENT || e->state == VDPA_BUS_CHANGING;
	if (!kept->there || e->words == NULL)
		return;
	kept->id = e->id;
	kept->words = strdup(e->words);
	kept->rc = kept->words != NULL ? 0 : no_memory();
}

char *
vdpa_dev_words(const char *name, uint64_t *id)
{
	struct kept kept = {.words = NULL};
	int rc;

	rc = vdpa_bus_look(name, look, &kept);
	if (rc == 0)
		rc = kept.rc;
	if (rc == 0 && kept.words == NULL)
		rc = !kept.there
			     ? vdpa_error(EBUSY, "device '%s': is being added or removed", name)
			     : vdpa_error(EOPNOTSUPP, "device '%s': was not made from words", name);
	if (rc < 0) {
		errno = -rc;
		return NULL;
	}
	if (id != NULL)
		*id = kept.id;
	return kept.words;
}

/* Names of all devices, each with its NUL, ended by an empty one. */
static bool
collect_name(const struct vdpa_bus_entry *e, void *arg)
{
	fwrite(e->name, 1, strlen(e->name) + 1, arg);
	return true;
}

int
vdpa_dev_words_each(int (*fn)(const char *name, uint64_t id, const char *words, void *arg),
		    void *arg)
{
	char *names = NULL, *words;
	uint64_t id;
	size_t len;
	FILE *list;
	int rc = 0;

	list = open_memstream(&names, &len);
	if (list == NULL)
		return no_memory();
	vdpa_bus_for_each(collect_name, list);
	if (fclose(list) != 0) {
		free(names);
		return no_memory();
	}
	for (const char *name = names; rc == 0 && name < names + len; name += strlen(name) + 1) {
		words = vdpa_dev_words(name, &id);
		if (words == NULL && errno == ENOMEM)
			rc = -ENOMEM;
		/* Others have gone meanwhile, or are not there yet. */
		if (words != NULL)
			rc = fn(name, id, words, arg);
		free(words);
	}
	free(names);
	return rc;
}

int
vdpa_dev_check_name(const char *words, char *name, size_t size)
{
	struct vdpa_add_request req;
	int rc;

	vdpa_registry_lock();
	rc = vdpa_registry_add_builtins();
	if (rc == 0)
		rc = vdpa_words_parse_add(words, &req);
	if (rc == 0) {
		if (name != NULL)
			snprintf(name, size, "%s", req.name);
		if (req.fe != NULL && req.fe->ops->check != NULL)
			rc = req.fe->ops->check(&req.args);
		drop_request(&req);
	}
	vdpa_registry_unlock();
	return rc;
}

int
vdpa_dev_check(const char *words)
{
	return vdpa_dev_check_name(words, NULL, 0);
}
