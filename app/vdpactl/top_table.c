/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The table of `top`. */

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "out.h"
#include "top_table.h"
#include "vdpa_stats.h"

#define DEVICE_WIDTH 16 /* on a terminal of 80 columns; a wider one has all it has more */
#define WIDTH	     80
#define TYPE_WIDTH   5
#define PATH_WIDTH   11

static const struct {
	const char *title, *name;
	const char *keys[2]; /* in dev.stats; the second where the first is missing */
	bool rate;
	int width;
} columns[TOP_COLUMNS] = {
	[TOP_UNITS] = {"PKT|RQ/S",
		       "packets or requests",
		       {VDPA_QSTAT_PACKETS, VDPA_QSTAT_REQUESTS},
		       true,
		       8},
	[TOP_BYTES] = {"BYTES/S", "bytes", {VDPA_QSTAT_BYTES}, true, 8},
	[TOP_KICKS] = {"KICKS/S", "kicks", {VDPA_QSTAT_KICKS}, true, 7},
	[TOP_INTERRUPTS] = {"INTR/S", "interrupts", {VDPA_QSTAT_INTERRUPTS}, true, 7},
	[TOP_DEPTH] = {"DEPTH", "depth", {VDPA_QSTAT_RING_DEPTH}, false, 6},
};

const char *
top_column_name(int column)
{
	return column < 0 ? "name" : columns[column].name;
}

/* The statistic of a column; NULL where a queue of this kind has none. */
static const json_t *
statistic(const json_t *queue, enum top_column column)
{
	const json_t *value = json_object_get(queue, columns[column].keys[0]);

	return value != NULL || columns[column].keys[1] == NULL
		       ? value
		       : json_object_get(queue, columns[column].keys[1]);
}

static double
rate(const json_t *now, const json_t *before, double seconds)
{
	json_int_t grown;

	if (!json_is_integer(now) || !json_is_integer(before) || seconds <= 0 ||
	    __builtin_sub_overflow(json_integer_value(now), json_integer_value(before), &grown))
		return NAN;
	/* A counter that has gone back is another device's under this name. */
	if (grown < 0)
		return NAN;
	return (double)grown / seconds;
}

static double
queue_value(const json_t *queue, const json_t *before, enum top_column column, double seconds)
{
	const json_t *now = statistic(queue, column);

	if (columns[column].rate)
		return rate(now, statistic(before, column), seconds);
	return json_is_number(now) ? json_number_value(now) : NAN;
}

static const char *
text_of(const json_t *obj, const char *key, const char *none)
{
	const char *text = json_string_value(json_object_get(obj, key));

	return text != NULL ? text : none;
}

/* As short as a column needs them. */
static const char *
short_word(const char *word)
{
	static const char *const words[][2] = {{"control_vq", "ctrl"},
					       {"request", "req"},
					       {"shadow (inflight)", "inflight"},
					       {"network", "net"}};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strcmp(word, words[i][0]) == 0)
			return words[i][1];
	return word;
}

static struct top_row *
add_row(struct top_table *table)
{
	struct top_row *bigger;

	if (table->n == table->room) {
		table->room = 2 * table->room + 64;
		bigger = realloc(table->rows, table->room * sizeof(*bigger));
		if (bigger == NULL)
			return NULL;
		table->rows = bigger;
	}
	return &table->rows[table->n++];
}

static bool
is_wanted(const struct top_order *order, const char *device)
{
	for (int i = 0; i < order->n_patterns; i++)
		if (fnmatch(order->patterns[i], device, 0) == 0)
			return true;
	return order->n_patterns == 0;
}

/* A device's row and those of its queues. What one queue does not know, the sum does not. */
static int
add_device(struct top_table *table, const char *device, const json_t *dev)
{
	const json_t *stats = json_object_get(table->stats, device), *queue;
	const json_t *queues = json_object_get(stats, "queues");
	const json_t *before = json_object_get(json_object_get(table->before, device), "queues");
	struct top_row sum = {.device = device,
			      .queue = -1,
			      .type = short_word(text_of(dev, "type", "-")),
			      .path = text_of(dev, "state", "-")};
	bool any[TOP_COLUMNS] = {false};
	size_t first = table->n, i;

	if (add_row(table) == NULL)
		return -1;
	json_array_foreach(queues, i, queue)
	{
		struct top_row *row = add_row(table);

		if (row == NULL)
			return -1;
		row->device = device;
		row->queue = (int)i;
		row->type = short_word(text_of(queue, "queue_type", "-"));
		row->path = short_word(text_of(queue, "path", "-"));
		for (int c = 0; c < TOP_COLUMNS; c++) {
			row->value[c] = queue_value(queue, json_array_get(before, i),
						    (enum top_column)c, table->seconds);
			if (statistic(queue, (enum top_column)c) == NULL)
				continue;
			sum.value[c] += row->value[c];
			any[c] = true;
		}
	}
	for (int c = 0; c < TOP_COLUMNS; c++)
		if (!any[c])
			sum.value[c] = NAN;
	table->rows[first] = sum;
	return 0;
}

/* Which rows stay, and by what each is sorted. */
static void
choose(struct top_table *table, const struct top_order *order)
{
	double of_device = 0, key;
	size_t n = 0;

	for (size_t i = 0; i < table->n; i++) {
		struct top_row *row = &table->rows[i];

		key = order->column < 0 ? 0 : row->value[order->column];
		/* What is not known is less than nothing. */
		if (isnan(key))
			key = -1;
		if (row->queue < 0)
			of_device = key;
		row->key = order->view == TOP_QUEUES ? key : of_device;
		if ((order->view == TOP_DEVICES && row->queue >= 0) ||
		    (order->view == TOP_QUEUES && row->queue < 0))
			continue;
		table->rows[n++] = *row;
	}
	table->n = n;
}

/* Names as people count: net2 before net10. */
static int
compare(const void *a, const void *b, void *arg)
{
	const struct top_row *x = a, *y = b;
	const struct top_order *order = arg;
	int less = order->reverse ? -1 : 1, by_name = strverscmp(x->device, y->device);

	if (x->key != y->key)
		return x->key > y->key ? -less : less;
	if (by_name != 0)
		return order->column < 0 ? less * by_name : by_name;
	return x->queue - y->queue;
}

int
top_table_sort(struct top_table *table, const struct top_order *order)
{
	const char *device;
	json_t *dev;

	table->n = 0;
	json_object_foreach(table->dev, device,
			    dev) if (is_wanted(order, device) &&
				     add_device(table, device, dev) < 0) return -1;
	choose(table, order);
	if (table->n > 0)
		qsort_r(table->rows, table->n, sizeof(table->rows[0]), compare,
			(void *)(uintptr_t)order);
	return 0;
}

void
top_table_update(struct top_table *table, json_t *dev, json_t *stats, double seconds)
{
	json_decref(table->dev);
	json_decref(table->before);
	table->before = table->stats;
	table->dev = json_incref(dev);
	table->stats = json_incref(stats);
	table->seconds = seconds;
	table->n = 0;
}

void
top_table_forget(struct top_table *table)
{
	json_decref(table->dev);
	json_decref(table->stats);
	json_decref(table->before);
	table->dev = table->stats = table->before = NULL;
	table->n = 0;
}

void
top_table_free(struct top_table *table)
{
	top_table_forget(table);
	free(table->rows);
}

void
top_print_summary(FILE *file, const struct top_table *table, const struct top_order *order)
{
	/* More states than there are would be another word of the daemon's: it is not counted
	 * apart. */
	struct {
		const char *state;
		unsigned int n;
	} counts[16] = {{NULL, 0}};
	unsigned int devices = 0;
	const char *device;
	json_t *dev;

	json_object_foreach(table->dev, device, dev)
	{
		const char *state = text_of(dev, "state", "unknown");
		size_t i = 0;

		if (!is_wanted(order, device))
			continue;
		devices++;
		while (i < 15 && counts[i].state != NULL && strcmp(counts[i].state, state) != 0)
			i++;
		counts[i].state = counts[i].state != NULL && i == 15 ? "other" : state;
		counts[i].n++;
	}
	fprintf(file, "%u device%s", devices, devices == 1 ? "" : "s");
	for (size_t i = 0; i < 16 && counts[i].state != NULL; i++) {
		fprintf(file, "%s %u ", i == 0 ? ":" : ",", counts[i].n);
		print_safe(file, counts[i].state);
	}
}

/* A number in at most 5 characters, three digits of it at least. */
static void
short_number(char text[16], double value)
{
	static const char units[] = " kMGTPE";
	unsigned int unit = 0;

	if (isnan(value)) {
		strcpy(text, "-");
		return;
	}
	if (value < 99999.5) {
		/* What is not 0 does not look so. */
		bool whole = value >= 99.95 || value == floor(value);

		snprintf(text, 16, "%.*f", whole ? 0 : value < 9.995 ? 2 : 1, value);
		return;
	}
	while (value >= 999.5 && unit < sizeof(units) - 2) {
		value /= 1000;
		unit++;
	}
	snprintf(text, 16, "%.*f%c", value < 9.995 ? 2 : value < 99.95 ? 1 : 0, value, units[unit]);
}

static int
device_width(int width)
{
	return DEVICE_WIDTH + (width > WIDTH ? width - WIDTH : 0);
}

/* In exactly that many characters; the last is a '~' where there are more. */
static void
print_name(FILE *file, const char *name, int width)
{
	size_t at = 0, last = 0;
	char text[1024];
	bool safe;
	int n;

	for (n = 0; n < width && name[at] != '\0'; n++) {
		last = at;
		at += text_char(name + at, &safe);
	}
	if (name[at] == '\0' || last + 1 >= sizeof(text)) {
		snprintf(text, sizeof(text), "%s", name);
	} else {
		memcpy(text, name, last);
		strcpy(text + last, "~");
	}
	print_padded(file, text, -width);
}

void
top_print_titles(FILE *file, const struct top_order *order, int width)
{
	fprintf(file, "%-*s%4s %-*s %-*s", device_width(width), "DEVICE", "Q", TYPE_WIDTH, "TYPE",
		PATH_WIDTH,
		order->view == TOP_QUEUES    ? "PATH"
		: order->view == TOP_DEVICES ? "STATE"
					     : "STATE|PATH");
	for (int c = 0; c < TOP_COLUMNS; c++)
		fprintf(file, " %*s", columns[c].width, columns[c].title);
}

void
top_print_row(FILE *file, const struct top_row *row, int width)
{
	char number[16];

	print_name(file, row->device, device_width(width));
	if (row->queue < 0)
		strcpy(number, "");
	else
		snprintf(number, sizeof(number), "%d", row->queue);
	fprintf(file, "%4s ", number);
	print_name(file, row->type, TYPE_WIDTH);
	fputc(' ', file);
	print_name(file, row->path, PATH_WIDTH);
	for (int c = 0; c < TOP_COLUMNS; c++) {
		short_number(number, row->value[c]);
		fprintf(file, " %*s", columns[c].width, number);
	}
}
