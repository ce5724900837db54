/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The verbs that show devices in our own form: all that the daemon says of them. What it says
 * beyond what is known here is printed as it comes, so that a newer daemon loses nothing.
 */

#include <stdlib.h>
#include <string.h>

#include "vdpa_stats.h"
#include "vdpactl.h"

#define LINE_WIDTH 80

/* A line that goes on below, its words kept whole. */
struct line {
	int column, indent;
	bool begun; /* a word stands on it, or what it is of */
};

static void
add_word(struct line *line, const char *word)
{
	int len = (int)strlen(word);

	if (line->begun && line->column + 1 + len > LINE_WIDTH && line->column > line->indent) {
		printf("\n%*s", line->indent, "");
		line->column = line->indent;
	} else if (line->begun) {
		fputc(' ', stdout);
		line->column++;
	}
	print_safe(stdout, word);
	line->column += len;
	line->begun = true;
}

/* A value as a text to free(). */
static char *
value_text(const json_t *value)
{
	char number[24];

	switch (json_typeof(value)) {
	case JSON_NULL:
		return strdup("unknown");
	case JSON_STRING:
		return strdup(json_string_value(value)[0] != '\0' ? json_string_value(value)
								  : "\"\"");
	case JSON_INTEGER:
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		return strdup(number);
	default:
		return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
	}
}

/* "key value key value", and the end of the line. */
static void
print_pairs(struct line line, const json_t *obj)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)obj, key, value)
	{
		char *text = value_text(value);
		size_t size = strlen(key) + (text != NULL ? strlen(text) : 1) + 2;
		char *pair = malloc(size);

		if (pair != NULL) {
			snprintf(pair, size, "%s %s", key, text != NULL ? text : "?");
			add_word(&line, pair);
		}
		free(pair);
		free(text);
	}
	fputc('\n', stdout);
}

void
print_statistics(const json_t *stats, const char *indent)
{
	const json_t *device = json_object_get(stats, "device");
	const json_t *queues = json_object_get(stats, "queues"), *queue;
	const json_t *migration = json_object_get(stats, "migration");
	struct line line = {.indent = (int)strlen(indent) + 4, .begun = true};
	size_t i;

	if (json_object_size(device) > 0) {
		line.column = printf("%sdevice", indent);
		print_pairs(line, device);
	}
	json_array_foreach(queues, i, queue)
	{
		line.column = printf("%squeue %zu", indent, i);
		print_pairs(line, queue);
	}
	if (json_object_size(migration) > 0) {
		line.column = printf("%smigration", indent);
		print_pairs(line, migration);
	}
}

/* "show", as iproute2's verbs have it behind an object, may stand before the name. */
static int
one_name(int argc, char **argv, const char **name)
{
	bool show = argc > 0 && strcmp(argv[0], "show") == 0;

	return ctl_one_name(argc - show, argv + show, name);
}

int
cmd_dev_stats(struct ctl *ctl, int argc, char **argv)
{
	const char *name;
	json_t *answer, *stats;

	if (one_name(argc, argv, &name) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "dev.stats", ctl_named(name));
	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json)
		out_value(&ctl->out, NULL, answer);
	else
		json_object_foreach(json_object_get(answer, "stats"), name, stats)
		{
			print_safe(stdout, name);
			fputs(":\n", stdout);
			print_statistics(stats, "  ");
		}
	json_decref(answer);
	return 0;
}

/* Columns of the table of queues; what the statistics have beyond them, `dev stats` shows. */
static const struct {
	const char *key, *title;
	int width; /* negative: flush left */
} columns[] = {
	{"queue_type", "TYPE", -10},
	{"path", "PATH", -17},
	{VDPA_QSTAT_RING_SIZE, "SIZE", 5},
	{VDPA_QSTAT_RING_DEPTH, "DEPTH", 6},
	{VDPA_QSTAT_RECEIVED_DESC, "RECEIVED", 11},
	{VDPA_QSTAT_COMPLETED_DESC, "COMPLETED", 11},
	{VDPA_QSTAT_ERRORS, "ERRORS", 7},
};

#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

static void
print_queue(size_t index, const json_t *queue)
{
	printf("  %4zu", index);
	for (size_t c = 0; c < N_COLUMNS; c++) {
		const json_t *value = json_object_get(queue, columns[c].key);
		char *text = value != NULL && !json_is_null(value) ? value_text(value) : NULL;

		fputc(' ', stdout);
		print_padded(stdout, text != NULL ? text : "-", columns[c].width);
		free(text);
	}
	fputc('\n', stdout);
}

static void
print_queues(const char *name, const json_t *queues)
{
	const json_t *queue;
	size_t i;

	print_safe(stdout, name);
	printf(":\n  %4s", "QIDX");
	for (size_t c = 0; c < N_COLUMNS; c++)
		printf(" %*s", columns[c].width, columns[c].title);
	fputc('\n', stdout);
	json_array_foreach(queues, i, queue) print_queue(i, queue);
}

int
cmd_dev_queues(struct ctl *ctl, int argc, char **argv)
{
	const char *name;
	json_t *answer, *stats;

	if (one_name(argc, argv, &name) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "dev.stats", ctl_named(name));
	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json) {
		out_open(&ctl->out, NULL, '{');
		out_open(&ctl->out, "queues", '{');
	}
	json_object_foreach(json_object_get(answer, "stats"), name, stats)
	{
		const json_t *queues = json_object_get(stats, "queues");

		if (!ctl->json)
			print_queues(name, queues);
		else if (queues != NULL)
			out_value(&ctl->out, name, queues);
	}
	if (ctl->json) {
		out_close(&ctl->out, '}');
		out_close(&ctl->out, '}');
	}
	json_decref(answer);
	return 0;
}

/* "  key: value", a list of words or an object over as many lines as it takes. */
static void
print_info(const char *key, const json_t *value)
{
	struct line line = {.indent = 6, .begun = true};
	const json_t *item;
	char *text;
	size_t i;

	fputs("  ", stdout);
	print_safe(stdout, key);
	fputc(':', stdout);
	line.column = (int)strlen(key) + 3;
	if (json_is_object(value)) {
		print_pairs(line, value);
		return;
	}
	if (json_is_array(value)) {
		json_array_foreach(value, i, item)
		{
			text = value_text(item);
			add_word(&line, text != NULL ? text : "?");
			free(text);
		}
		if (i == 0)
			fputs(" none", stdout);
	} else {
		text = json_is_null(value) ? strdup("none") : value_text(value);
		fputc(' ', stdout);
		print_safe(stdout, text != NULL ? text : "?");
		free(text);
	}
	fputc('\n', stdout);
}

int
cmd_dev_info(struct ctl *ctl, int argc, char **argv)
{
	const char *name, *key;
	json_t *answer, *device, *value;

	if (one_name(argc, argv, &name) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "dev.show", ctl_named(name));
	if (answer == NULL)
		return EXIT_FAILURE;
	if (ctl->json)
		out_value(&ctl->out, NULL, answer);
	else
		json_object_foreach(json_object_get(answer, "dev"), name, device)
		{
			print_safe(stdout, name);
			fputs(":\n", stdout);
			json_object_foreach(device, key, value) print_info(key, value);
		}
	json_decref(answer);
	return 0;
}
