/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The words of dev add: which there are, what they mean together, and the help about them.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "add_words.h"
#include "pci_name.h"
#include "pci_parent.h"
#include "registry.h"
#include "vdpa_error.h"
#include "vm.h"

/* In the order of enum vdpa_migration. */
static const struct vdpa_param_choice migration_choices[] = {
	{.name = "auto",
	 .help = "by the device's dirty log, else by a relay of used buffers or by shadow "
		 "virtqueues for as long as one is on (the default)"},
	{.name = "shadow", .help = "every queue runs on a shadow virtqueue, always"},
	{.name = "relay",
	 .help = "the used buffers of every queue are relayed, always: split rings, of devices "
		 "that "
		 "begin in the middle of a ring"},
	{.name = "log", .help = "by the device's dirty log or not at all"},
	{.name = "off", .help = "not at all: no dirty log is offered"},
	{.name = NULL},
};

/* Words that every device takes. */
static const struct vdpa_param common_params[] = {
	{.name = "name",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "the device's name, A-Z a-z 0-9 . _ -"},
	{.name = "mgmtdev",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "MGMTDEV",
	 .max = VDPA_MGMTDEV_NAME_MAX - 1,
	 .help = "what makes it, see the list of management devices"},
	{.name = "frontend",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "FRONTEND",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "who serves it; default: the front end whose words are given, else none"},
	{.name = "vm",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "NAME",
	 .max = VDPA_NAME_MAX - 1,
	 .help = "virtual machine that it serves, A-Z a-z 0-9 . _ -: devices of one VM share a "
		 "container and the pins of its memory (default: it serves one by itself)"},
	{.name = "migration",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = migration_choices,
	 .help = "how a guest with this device migrates, and goes on after a stop:"},
	{.name = NULL},
};

enum vdpa_migration
vdpa_words_migration(const struct vdpa_args *args)
{
	const struct vdpa_arg *arg = vdpa_args_find(args, "migration");

	return arg != NULL ? (enum vdpa_migration)(arg->choice - migration_choices)
			   : VDPA_MIGRATION_AUTO;
}

const char *
vdpa_words_migration_name(enum vdpa_migration mode)
{
	return migration_choices[mode].name;
}

static bool
has_word(const struct vdpa_frontend *fe, const char *word)
{
	for (const struct vdpa_param *p = fe->params; p != NULL && p->name != NULL; p++)
		if (strcmp(p->name, word) == 0)
			return true;
	return false;
}

/* A word of front ends of which none was chosen, or another. */
static int
refuse_word(const char *word, struct vdpa_frontend *const *fes, unsigned int n,
	    const struct vdpa_frontend *chosen)
{
	const struct vdpa_frontend *only = NULL;
	unsigned int found = 0;
	char names[128] = "";
	size_t len = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (!has_word(fes[i], word))
			continue;
		only = fes[i];
		if (len < sizeof(names))
			len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s",
						found > 0 ? ", " : "", fes[i]->name);
		found++;
	}
	if (chosen != NULL)
		return vdpa_error(EINVAL, "%s: is a word of the front end%s %s, not of %s", word,
				  found > 1 ? "s" : "", names, chosen->name);
	if (found == 1 && only->implied_by != NULL)
		return vdpa_error(EINVAL, "%s: is a word of the front end %s, which needs %s", word,
				  only->name, only->implied_by);
	return vdpa_error(EINVAL, "%s: is a word of the front end%s %s: name %s by frontend NAME",
			  word, found > 1 ? "s" : "", names, found > 1 ? "one" : "it");
}

/* Words were refused, of which one may have been read as that of a front end that nobody meant: its
 * value says nothing then, and which front end is meant has to be said. */
static int
refuse_meaningless(const struct vdpa_add_request *req, struct vdpa_frontend *const *fes,
		   unsigned int n, int rc)
{
	/* Behind name NAME mgmtdev MGMTDEV. */
	for (unsigned int w = 4; w < req->words.n; w++) {
		unsigned int found = 0;

		for (unsigned int i = 0; i < n; i++)
			found += has_word(fes[i], req->words.word[w]);
		if (found > 1)
			return refuse_word(req->words.word[w], fes, n, NULL);
	}
	return rc;
}

/* The front end that was named, or whose words were given. */
static int
choose_frontend(struct vdpa_add_request *req, struct vdpa_frontend *const *fes,
		const char *const *used, unsigned int n)
{
	const char *named = vdpa_args_str(&req->args, "frontend", NULL);
	char known[128] = "";
	size_t len = 0;

	for (unsigned int i = 0; i < n; i++) {
		if (named != NULL ? strcmp(fes[i]->name, named) == 0
				  : req->fe == NULL && fes[i]->implied_by != NULL &&
					    vdpa_args_has(&req->args, fes[i]->implied_by))
			req->fe = fes[i];
		if (len < sizeof(known))
			len += (size_t)snprintf(known + len, sizeof(known) - len, "%s%s",
						len > 0 ? ", " : "", fes[i]->name);
	}
	if (named != NULL && req->fe == NULL)
		return vdpa_error(EINVAL, "frontend '%s': allowed are %s", named, known);
	for (unsigned int i = 0; i < n; i++)
		if (used[i] != NULL && fes[i] != req->fe)
			return refuse_word(used[i], fes, n, req->fe);
	return 0;
}

/* The front end that the words name, or else imply: of words that several front ends have, each its
 * own, they mean that one's. NULL: none. A value that looks like it changes nothing but that. */
static struct vdpa_frontend *
meant_frontend(const struct vdpa_words *words)
{
	struct vdpa_frontend *fe, *implied = NULL;

	for (unsigned int i = 0; i < words->n; i++)
		TAILQ_FOREACH (fe, &vdpa_registry.frontends, next) {
			if (strcmp(words->word[i], "frontend") == 0 && i + 1 < words->n &&
			    strcmp(words->word[i + 1], fe->name) == 0)
				return fe;
			if (implied == NULL && fe->implied_by != NULL &&
			    strcmp(words->word[i], fe->implied_by) == 0)
				implied = fe;
		}
	return implied;
}

/* The word vm: a name, and a front end that says whose process its peer is. */
static int
check_vm(const struct vdpa_add_request *req)
{
	const char *vm = vdpa_args_str(&req->args, "vm", NULL);
	int rc;

	if (vm == NULL)
		return 0;
	rc = vdpa_vm_check_name(vm);
	if (rc == 0 && req->fe != NULL && !req->fe->tells_uid)
		rc = vdpa_error(EINVAL,
				"vm '%s': the front end %s does not tell the uid of whom it "
				"serves, which devices of one VM have in common",
				vm, req->fe->name);
	return rc;
}

int
vdpa_words_parse(struct vdpa_add_request *req, const struct vdpa_param *const *more, unsigned int n)
{
	struct vdpa_frontend *fes[FRONTENDS_MAX], *fe, *meant = meant_frontend(&req->words);
	const char *used[FRONTENDS_MAX] = {NULL};
	struct vdpa_param_table *tables;
	unsigned int n_fes = 0, at = 0;
	int rc;

	tables = calloc(2 + n + FRONTENDS_MAX, sizeof(*tables));
	if (tables == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	tables[at++].params = common_params;
	tables[at++].params = req->mdev->params;
	for (unsigned int i = 0; i < n; i++)
		tables[at++].params = more[i];
	if (meant != NULL)
		fes[n_fes++] = meant;
	TAILQ_FOREACH (fe, &vdpa_registry.frontends, next)
		if (fe != meant)
			fes[n_fes++] = fe;
	for (unsigned int i = 0; i < n_fes; i++)
		tables[at++] =
			(struct vdpa_param_table){.params = fes[i]->params, .used = &used[i]};
	req->fe = NULL;
	rc = vdpa_args_parse(&req->words, 0, tables, at, &req->args);
	if (rc < 0 && meant == NULL)
		rc = refuse_meaningless(req, fes, n_fes, rc);
	if (rc == 0)
		rc = choose_frontend(req, fes, used, n_fes);
	if (rc == 0)
		rc = check_vm(req);
	free(tables);
	return rc;
}

int
vdpa_words_parse_add(const char *text, struct vdpa_add_request *req)
{
	const char *mgmtdev = NULL;
	int rc;

	memset(req, 0, sizeof(*req));
	rc = vdpa_words_split(text, &req->words);
	if (rc < 0)
		return rc;
	/* The management device decides which other words there are: name and mgmtdev come first.
	 */
	for (unsigned int i = 0; i + 1 < req->words.n && i < 4; i += 2) {
		if (strcmp(req->words.word[i], "name") == 0)
			req->name = req->words.word[i + 1];
		else if (strcmp(req->words.word[i], "mgmtdev") == 0)
			mgmtdev = req->words.word[i + 1];
	}
	if (req->name == NULL || mgmtdev == NULL) {
		rc = vdpa_error(EINVAL, "device '%s': must begin with name NAME mgmtdev MGMTDEV",
				text);
		goto err;
	}
	rc = vdpa_registry_get(mgmtdev, &req->mdev);
	if (rc < 0)
		goto err;
	rc = vdpa_pci_parent_is(req->mdev) ? vdpa_pci_parent_parse(req)
					   : vdpa_words_parse(req, NULL, 0);
	if (rc == 0)
		return 0;
	vdpa_registry_put(req->mdev);
err:
	vdpa_words_free(&req->words);
	return rc;
}

/* What a driver makes of parents that somebody names. */
static void
print_parents_help(FILE *out, const struct vdpa_driver *drv)
{
	const char *separator = "\nManagement devices";

	for (const char *const *m = drv->match; m != NULL && *m != NULL; m++)
		if (vdpa_pattern_is_prefix(*m)) {
			fprintf(out, "%s %.*s...", separator, (int)strlen(*m) - 1, *m);
			separator = ",";
		}
	if (*separator != ',')
		return;
	fprintf(out, ": %s\n", drv->help != NULL ? drv->help : drv->name);
	if (drv->params != NULL)
		vdpa_params_print(out, drv->params);
}

static void
print_pci_help(FILE *out)
{
	const struct vdpa_driver *drv;

	fprintf(out, "\nManagement devices ");
	for (unsigned int i = 0; vdpa_pci_prefix(i) != NULL; i++)
		fprintf(out, "%s%s...", i > 0 ? ", " : "", vdpa_pci_prefix(i));
	fprintf(out, ": %s\n", vdpa_pci_parent_help);
	vdpa_params_print(out, vdpa_pci_parent_params);
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next) {
		if (drv->pci_ids == NULL)
			continue;
		fprintf(out, "  Driver %s%s%s\n", drv->name, drv->help != NULL ? ": " : "",
			drv->help != NULL ? drv->help : "");
		vdpa_params_print(out, drv->params);
	}
}

char *
vdpa_words_help(void)
{
	struct vdpa_mgmt_dev *mdev;
	struct vdpa_driver *drv;
	struct vdpa_frontend *fe;
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (out == NULL)
		return NULL;
	fprintf(out, "Words of every device:\n");
	vdpa_params_print(out, common_params);
	vdpa_registry_lock();
	vdpa_registry_add_builtins();
	TAILQ_FOREACH (mdev, &vdpa_registry.mgmt_devs, next) {
		if (mdev->named)
			continue;
		fprintf(out, "\nManagement device %s: %s\n", mdev->name, mdev->help);
		vdpa_params_print(out, mdev->params);
		if (mdev->attr_params != NULL) {
			fprintf(out, "  While it exists (dev set):\n");
			vdpa_params_print(out, mdev->attr_params);
		}
	}
	print_pci_help(out);
	TAILQ_FOREACH (drv, &vdpa_registry.drivers, next)
		print_parents_help(out, drv);
	TAILQ_FOREACH (fe, &vdpa_registry.frontends, next) {
		fprintf(out, "\nFront end %s: %s\n", fe->name, fe->help);
		vdpa_params_print(out, fe->params);
	}
	vdpa_registry_unlock();
	if (fclose(out) != 0) {
		free(text);
		return NULL;
	}
	return text;
}
