/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The table of `top`: rates of devices and virtqueues out of two answers of the daemon, sorted, and
 * a line of text for each. Knows no terminal.
 */

#ifndef TOP_TABLE_H
#define TOP_TABLE_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

enum top_column { TOP_UNITS, TOP_BYTES, TOP_KICKS, TOP_INTERRUPTS, TOP_DEPTH, TOP_COLUMNS };

/* What is shown. */
enum top_view { TOP_ALL, TOP_DEVICES, TOP_QUEUES, TOP_VIEWS };

/* A device (queue -1) or one of its virtqueues. */
struct top_row {
	const char *device;
	int queue;
	const char *type, *path;   /* a device's: its class and its state */
	double value[TOP_COLUMNS]; /* each second, but the depth; NAN where nobody knows */
	double key; /* of its device, or its own in TOP_QUEUES: what it is sorted by */
};

struct top_table {
	json_t *dev, *stats; /* the members of these answers, by device */
	json_t *before;	     /* statistics of the sample before; NULL: none */
	double seconds;	     /* since then */
	struct top_row *rows;
	size_t n, room;
};

struct top_order {
	enum top_view view;
	int column; /* -1: by name */
	bool reverse;
	char **patterns; /* of devices' names, as of files'; n_patterns 0: all */
	int n_patterns;
};

/* A newer sample, of which the table takes its own references, seconds after the last one. */
void top_table_update(struct top_table *table, json_t *dev, json_t *stats, double seconds);

/* Forget the last sample: the next one has no rates. */
void top_table_forget(struct top_table *table);

/* Make and sort the rows. Returns 0, or -1 for lack of memory. */
int top_table_sort(struct top_table *table, const struct top_order *order);

void top_table_free(struct top_table *table);

/* "3 devices: 2 running, 1 idle", of all that are shown. */
void top_print_summary(FILE *file, const struct top_table *table, const struct top_order *order);

/* The titles, and a row; width: columns of the terminal, 80 or more are filled. No end of line. */
void top_print_titles(FILE *file, const struct top_order *order, int width);
void top_print_row(FILE *file, const struct top_row *row, int width);

/* What a column is called in a line of help. */
const char *top_column_name(int column);

#endif /* TOP_TABLE_H */
