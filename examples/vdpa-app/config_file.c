/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The configuration file. A line is a device, in the words of dev add, which begin with name or
 * mgmtdev, or a setting and its value. Everything is checked before anything is made of it, and all
 * mistakes are found at once.
 */

#include <errno.h>
#include <search.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <vdpa_args.h>

#include "config_file.h"

void
app_place_print(const struct app_place *place, char *buf, size_t size)
{
	if (place->line > 0)
		snprintf(buf, size, "%s:%u", place->source, place->line);
	else
		snprintf(buf, size, "%s", place->source);
}

static void __attribute__((format(printf, 3, 4)))
add_mistake(struct app_mistakes *mistakes, const struct app_place *place, const char *fmt, ...)
{
	struct app_mistake *list;
	va_list ap;
	char *text;
	int rc;

	va_start(ap, fmt);
	rc = vasprintf(&text, fmt, ap);
	va_end(ap);
	list = mistakes->n < APP_MISTAKES_MAX && rc >= 0
		       ? reallocarray(mistakes->list, mistakes->n + 1, sizeof(*list))
		       : NULL;
	if (list == NULL) {
		if (rc >= 0)
			free(text);
		mistakes->more++;
		return;
	}
	mistakes->list = list;
	list[mistakes->n++] = (struct app_mistake){.place = *place, .text = text};
}

/* Lines of one source in their order; sources in the order in which they were read. */
static int
compare_mistakes(const void *a, const void *b)
{
	const struct app_mistake *one = a, *other = b;

	if (one->place.order != other->place.order)
		return one->place.order < other->place.order ? -1 : 1;
	return one->place.line < other->place.line ? -1 : one->place.line > other->place.line;
}

/* Stable, which qsort(3) need not be. */
void
app_mistakes_sort(struct app_mistakes *mistakes)
{
	for (unsigned int i = 1; i < mistakes->n; i++)
		for (unsigned int j = i;
		     j > 0 && compare_mistakes(&mistakes->list[j - 1], &mistakes->list[j]) > 0;
		     j--) {
			struct app_mistake earlier = mistakes->list[j];

			mistakes->list[j] = mistakes->list[j - 1];
			mistakes->list[j - 1] = earlier;
		}
}

void
app_mistakes_print(FILE *out, const char *prefix, struct app_mistakes *mistakes)
{
	char where[512];

	app_mistakes_sort(mistakes);
	for (unsigned int i = 0; i < mistakes->n; i++) {
		app_place_print(&mistakes->list[i].place, where, sizeof(where));
		fprintf(out, "%s%s: %s\n", prefix, where, mistakes->list[i].text);
	}
	if (mistakes->more > 0)
		fprintf(out, "%sand %u mistakes more\n", prefix, mistakes->more);
}

void
app_mistakes_free(struct app_mistakes *mistakes)
{
	for (unsigned int i = 0; i < mistakes->n; i++)
		free(mistakes->list[i].text);
	free(mistakes->list);
	memset(mistakes, 0, sizeof(*mistakes));
}

static int
no_memory(void)
{
	return vdpa_error(ENOMEM, "out of memory");
}

/* A place in a new source, whose name lasts as long as the config. */
static int
add_source(struct app_config *c, const char *source, struct app_place *place)
{
	char **sources = reallocarray(c->sources, c->n_sources + 1, sizeof(*sources));

	if (sources == NULL)
		return no_memory();
	c->sources = sources;
	sources[c->n_sources] = strdup(source);
	if (sources[c->n_sources] == NULL)
		return no_memory();
	*place = (struct app_place){.source = sources[c->n_sources], .order = c->n_sources};
	c->n_sources++;
	return 0;
}

static int
add_dev(struct app_config *c, const char *words, const struct app_place *place, bool of_file)
{
	struct app_dev *devs = reallocarray(c->devs, c->n_devs + 1, sizeof(*devs));
	char *copy = strdup(words);

	if (devs != NULL)
		c->devs = devs;
	if (devs == NULL || copy == NULL) {
		free(copy);
		return no_memory();
	}
	devs[c->n_devs++] = (struct app_dev){.words = copy, .place = *place, .of_file = of_file};
	return 0;
}

int
app_config_add_dev(struct app_config *c, const char *words, const char *source)
{
	struct app_place place;
	int rc = add_source(c, source, &place);

	return rc == 0 ? add_dev(c, words, &place, false) : rc;
}

static void
unknown_word(struct app_mistakes *mistakes, const struct app_place *place, const char *word)
{
	char known[256] = "";
	size_t used = 0;

	for (unsigned int i = 0; i < APP_SETTINGS && used < sizeof(known); i++)
		if (!app_setting_rows[i].line_only)
			used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s",
						 used > 0 ? ", " : "", app_setting_rows[i].name);
	add_mistake(mistakes, place,
		    "unknown word '%s': a line is a device, name NAME mgmtdev MGMTDEV ..., or one "
		    "of %s",
		    word, known);
}

/* rest: what stands behind the setting's name. */
static int
add_setting(struct app_config *c, const struct app_place *place, const struct vdpa_words *words,
	    const char *rest, struct app_mistakes *mistakes)
{
	enum app_setting which = app_setting_find(words->word[0]);
	const struct app_setting_row *row = &app_setting_rows[which];
	char where[512];
	int rc;

	if (which == APP_SETTINGS || row->line_only) {
		unknown_word(mistakes, place, words->word[0]);
		return 0;
	}
	if (words->n < 2 || (words->n > 2 && !row->words)) {
		add_mistake(mistakes, place, "%s: one value is expected, there are %u", row->name,
			    words->n - 1);
		return 0;
	}
	if (!row->many && c->settings.of[which].n > 0) {
		app_place_print(&c->setting_place[which], where, sizeof(where));
		add_mistake(mistakes, place, "%s: is given at %s already", row->name, where);
		return 0;
	}
	rc = app_settings_add(&c->settings, which, row->words ? rest : words->word[1]);
	if (rc == -ENOMEM)
		return rc;
	if (rc < 0) {
		add_mistake(mistakes, place, "%s", vdpa_error_message());
		return 0;
	}
	c->setting_place[which] = *place;
	if (which == APP_UVDPAD_MAP && c->settings.of[which].n <= VDPA_UVDPAD_MAP_MAX)
		c->map_place[c->settings.of[which].n - 1] = *place;
	return 0;
}

static bool
is_device(const struct vdpa_words *words)
{
	return strcmp(words->word[0], "name") == 0 || strcmp(words->word[0], "mgmtdev") == 0;
}

static const char *
behind_word(const char *line)
{
	line += strcspn(line, " \t");
	return line + strspn(line, " \t");
}

static int
add_line(struct app_config *c, const struct app_place *place, const char *line,
	 struct app_mistakes *mistakes)
{
	struct vdpa_words words;
	int rc;

	line += strspn(line, " \t");
	if (*line == '\0' || *line == '#')
		return 0;
	rc = vdpa_words_split(line, &words);
	if (rc == -ENOMEM)
		return rc;
	if (rc < 0) {
		add_mistake(mistakes, place, "%s", vdpa_error_message());
		return 0;
	}
	if (words.n == 0)
		rc = 0;
	else if (is_device(&words))
		rc = add_dev(c, line, place, true);
	else
		rc = add_setting(c, place, &words, behind_word(line), mistakes);
	vdpa_words_free(&words);
	return rc;
}

/* A line without its end, in a buffer of APP_LINE_MAX + 1 bytes; its length is in *len where it is
 * not too long. Neither a line nor the file may be without end, as those of /dev/zero are. Returns
 * 1; 0 at the end of the file, or where there is no use in going on: that is a mistake then. */
static int
read_line(FILE *f, const struct app_place *place, size_t *total, char *line,
	  struct app_mistakes *mistakes)
{
	const struct app_place file = {.source = place->source, .order = place->order};
	size_t len = 0;
	int c;

	while ((c = getc_unlocked(f)) != EOF && c != '\n') {
		if (c == '\0') {
			add_mistake(mistakes, place, "a NUL byte; one device a line is expected");
			return 0;
		}
		if (len == APP_LINE_MAX) {
			add_mistake(mistakes, place,
				    "longer than %u bytes; one device a line is expected",
				    APP_LINE_MAX);
			return 0;
		}
		line[len++] = (char)c;
	}
	if (c == EOF && ferror(f)) {
		add_mistake(mistakes, &file, "cannot be read: %s", strerror(errno));
		return 0;
	}
	*total += len + 1;
	if (*total > APP_FILE_MAX) {
		add_mistake(mistakes, &file, "longer than %lu MiB", APP_FILE_MAX >> 20);
		return 0;
	}
	if (len > 0 && line[len - 1] == '\r')
		len--;
	line[len] = '\0';
	return len > 0 || c != EOF;
}

static int
read_lines(struct app_config *c, struct app_place place, FILE *f, struct app_mistakes *mistakes)
{
	char *line = malloc(APP_LINE_MAX + 1);
	size_t total = 0;
	int rc = 0;

	if (line == NULL)
		return no_memory();
	for (place.line = 1; rc == 0 && read_line(f, &place, &total, line, mistakes) > 0;
	     place.line++)
		rc = add_line(c, &place, line, mistakes);
	free(line);
	return rc;
}

int
app_config_read(struct app_config *c, const char *path, struct app_mistakes *mistakes)
{
	struct app_place place;
	FILE *f;
	int rc;

	rc = add_source(c, path, &place);
	if (rc < 0)
		return rc;
	f = fopen(path, "re");
	if (f == NULL) {
		add_mistake(mistakes, &place, "cannot be opened: %s", strerror(errno));
		return 0;
	}
	rc = read_lines(c, place, f, mistakes);
	fclose(f);
	return rc;
}

int
app_config_read_text(struct app_config *c, const char *source, const char *text, size_t len,
		     struct app_mistakes *mistakes)
{
	struct app_place place;
	FILE *f;
	int rc;

	rc = add_source(c, source, &place);
	if (rc < 0 || len == 0)
		return rc;
	f = fmemopen((void *)(uintptr_t)text, len, "r");
	if (f == NULL)
		return no_memory();
	rc = read_lines(c, place, f, mistakes);
	fclose(f);
	return rc;
}

/* What one device has and no other may: its name, its socket. */
struct owned {
	char *text; /* the word and its value */
	const struct app_place *place;
};

/* While the devices are checked. */
struct check {
	void *owned; /* tree */
	const struct app_place *place;
	struct app_mistakes *mistakes;
};

static int
compare_owned(const void *a, const void *b)
{
	const struct owned *one = a, *other = b;

	return strcmp(one->text, other->text);
}

static void
free_owned(void *node)
{
	struct owned *owned = node;

	free(owned->text);
	free(owned);
}

static int
take(const char *word, const char *value, void *arg)
{
	struct check *check = arg;
	struct owned *owned = calloc(1, sizeof(*owned)), **same = NULL;
	char where[512];

	if (owned != NULL && asprintf(&owned->text, "%s '%s'", word, value) < 0)
		owned->text = NULL;
	if (owned != NULL && owned->text != NULL) {
		owned->place = check->place;
		same = tsearch(owned, &check->owned, compare_owned);
	}
	if (same == NULL) {
		if (owned != NULL)
			free_owned(owned);
		return no_memory();
	}
	if (*same == owned)
		return 0;
	app_place_print((*same)->place, where, sizeof(where));
	add_mistake(check->mistakes, check->place, "%s: the device at %s has it already",
		    owned->text, where);
	free_owned(owned);
	return 0;
}

/* Whether each text of the map makes a device. */
static int
check_map(const struct app_config *c, struct app_mistakes *mistakes)
{
	char **text = c->settings.of[APP_UVDPAD_MAP].value;
	unsigned int n = c->settings.of[APP_UVDPAD_MAP].n;
	int rc;

	if (n > 0 && c->lacks_uvdpad && c->settings.of[APP_UVDPAD].n == 0)
		add_mistake(mistakes, &c->map_place[0], "uvdpad-map: needs uvdpad PATH");
	for (unsigned int i = 0; i < n; i++) {
		if (i == VDPA_UVDPAD_MAP_MAX) {
			add_mistake(mistakes, &c->setting_place[APP_UVDPAD_MAP],
				    "uvdpad-map: more than %d", VDPA_UVDPAD_MAP_MAX);
			break;
		}
		rc = vdpa_uvdpad_check(text[i]);
		if (rc == -ENOMEM)
			return rc;
		if (rc < 0)
			add_mistake(mistakes, &c->map_place[i], "%s", vdpa_error_message());
	}
	return 0;
}

int
app_config_check(struct app_config *c, struct app_mistakes *mistakes)
{
	struct check check = {.mistakes = mistakes};
	struct app_dev *dev;
	int rc = check_map(c, mistakes);

	for (unsigned int i = 0; rc == 0 && i < c->n_devs; i++) {
		dev = &c->devs[i];
		if (i >= APP_CONFIG_MAX) {
			add_mistake(mistakes, &dev->place, "more than %u devices", APP_CONFIG_MAX);
			break;
		}
		rc = vdpa_dev_check_name(dev->words, dev->name, sizeof(dev->name));
		if (rc == -ENOMEM)
			break;
		if (rc < 0) {
			add_mistake(mistakes, &dev->place, "%s", vdpa_error_message());
			rc = 0;
			continue;
		}
		check.place = &dev->place;
		rc = take("name", dev->name, &check);
		if (rc == 0)
			rc = vdpa_words_unique(dev->words, take, &check);
	}
	tdestroy(check.owned, free_owned);
	return rc;
}

const struct app_dev *
app_config_find(const struct app_config *c, const char *name)
{
	for (unsigned int i = 0; i < c->n_devs; i++)
		if (strcmp(c->devs[i].name, name) == 0)
			return &c->devs[i];
	return NULL;
}

void
app_config_free(struct app_config *c)
{
	app_settings_free(&c->settings);
	for (unsigned int i = 0; i < c->n_devs; i++)
		free(c->devs[i].words);
	free(c->devs);
	for (unsigned int i = 0; i < c->n_sources; i++)
		free(c->sources[i]);
	free(c->sources);
	memset(c, 0, sizeof(*c));
}
