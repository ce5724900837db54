/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * `top`: the table of devices and virtqueues, again and again. On a terminal it is a page with
 * keys; elsewhere a table, or as many as -n says. A daemon that goes is waited for.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "terminal.h"
#include "top_table.h"
#include "vdpactl.h"

#define DELAY_SECONDS  1.0
/* The first rates come sooner. */
#define FIRST_SECONDS  0.3
/* A page stands still no longer than this, whatever the daemon does. */
#define ANSWER_SECONDS 5u
#define HEAD_LINES     3 /* of the page, and one of keys at its end */

struct top {
	struct ctl *ctl;
	struct top_table table;
	struct top_order order;
	double taken;	    /* when the last sample was, seconds */
	size_t first;	    /* row on the page */
	char trouble[1100]; /* why there is no newer sample; "" */
};

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The member of an answer; NULL and the reason in top->trouble. */
static json_t *
ask(struct top *top, const char *method, const char *member)
{
	struct client_error err;
	json_t *answer = client_call(top->ctl->client, method, NULL, &err);
	json_t *value = json_incref(json_object_get(answer, member));

	if (answer == NULL)
		snprintf(top->trouble, sizeof(top->trouble), "%s", err.message);
	else if (value == NULL)
		snprintf(top->trouble, sizeof(top->trouble),
			 "the daemon's answer to %s is not understood", method);
	json_decref(answer);
	return value;
}

/* A newer sample; without one the last table stands, and the connection is made anew next time. */
static int
sample(struct top *top)
{
	json_t *dev, *stats = NULL;
	double at;

	if (top->ctl->client == NULL) {
		top->ctl->client = client_open(top->ctl->path);
		if (top->ctl->client == NULL) {
			snprintf(top->trouble, sizeof(top->trouble), "%s", strerror(errno));
			return -1;
		}
		client_set_timeout(top->ctl->client, ANSWER_SECONDS);
	}
	dev = ask(top, "dev.show", "dev");
	at = now();
	if (dev != NULL)
		stats = ask(top, "dev.stats", "stats");
	if (stats != NULL) {
		/* Between the moments at which the statistics were asked for. */
		top_table_update(&top->table, dev, stats, at - top->taken);
		top->taken = at;
		top->trouble[0] = '\0';
	} else {
		client_close(top->ctl->client);
		top->ctl->client = NULL;
		top_table_forget(&top->table);
	}
	json_decref(dev);
	json_decref(stats);
	return stats != NULL ? 0 : -1;
}

static void
print_trouble(const struct top *top)
{
	fprintf(stderr, "vdpactl: %s: ", top->ctl->path);
	print_safe(stderr, top->trouble);
	fputc('\n', stderr);
}

static void
print_head(FILE *file, const struct top *top)
{
	time_t t = time(NULL);
	char clock[16] = "";
	struct tm tm;

	if (localtime_r(&t, &tm) != NULL)
		strftime(clock, sizeof(clock), "%H:%M:%S", &tm);
	fprintf(file, "vdpactl top - %s  ", clock);
	if (top->trouble[0] != '\0') {
		fprintf(file, "%s: ", top->ctl->path);
		print_safe(file, top->trouble);
	} else {
		top_print_summary(file, &top->table, &top->order);
	}
}

/* A table for a file, or for another program. */
static int
print_plain(struct top *top)
{
	if (top_table_sort(&top->table, &top->order) < 0)
		return -1;
	print_head(stdout, top);
	fputc('\n', stdout);
	top_print_titles(stdout, &top->order, 0);
	fputc('\n', stdout);
	for (size_t i = 0; i < top->table.n; i++) {
		top_print_row(stdout, &top->table.rows[i], 0);
		fputc('\n', stdout);
	}
	return fflush(stdout) != 0 ? -1 : 0;
}

static int
run_plain(struct top *top, double delay)
{
	unsigned long count = top->ctl->count != 0 ? top->ctl->count : 1;

	for (unsigned long i = 0; i <= count; i++) {
		struct timespec t = {(time_t)delay, (long)((delay - (double)(time_t)delay) * 1e9)};

		if (i > 0)
			nanosleep(&t, NULL);
		if (sample(top) < 0) {
			print_trouble(top);
			return EXIT_FAILURE;
		}
		/* The first one has no rates. */
		if (i > 0 && print_plain(top) < 0)
			return EXIT_FAILURE;
		if (i > 0 && i < count)
			fputc('\n', stdout);
	}
	return 0;
}

static size_t
page_rows(int lines)
{
	return lines > HEAD_LINES + 1 ? (size_t)(lines - HEAD_LINES - 1) : 1;
}

/* Keep what is shown within the table. */
static void
clamp(struct top *top, size_t rows)
{
	size_t last = top->table.n > rows ? top->table.n - rows : 0;

	if (top->first > last)
		top->first = last;
}

static void
show_page(struct top *top)
{
	static const char keys[] =
		"q quit  n p b k i d sort  r reverse  t view  arrows, PgUp, PgDn";
	int width, lines;
	char *page = NULL;
	size_t len = 0, rows;
	FILE *file = open_memstream(&page, &len);

	if (file == NULL)
		return;
	terminal_size(&width, &lines);
	rows = page_rows(lines);
	if (top_table_sort(&top->table, &top->order) < 0)
		top->table.n = 0;
	clamp(top, rows);
	print_head(file, top);
	fprintf(file, "\nsorted by %s%s, rows %zu to %zu of %zu\n\033[7m",
		top_column_name(top->order.column), top->order.reverse ? ", reversed" : "",
		top->table.n > 0 ? top->first + 1 : 0,
		top->first + rows < top->table.n ? top->first + rows : top->table.n, top->table.n);
	top_print_titles(file, &top->order, width);
	fputs("\033[0m\n", file);
	for (size_t i = 0; i < rows; i++) {
		if (top->first + i < top->table.n) {
			const struct top_row *row = &top->table.rows[top->first + i];

			fputs(row->queue < 0 && top->order.view == TOP_ALL ? "\033[1m" : "", file);
			top_print_row(file, row, width);
			fputs("\033[0m", file);
		}
		fputc('\n', file);
	}
	fprintf(file, "\033[7m%-*.*s\033[0m", width > 80 ? 80 : width - 1, width - 1, keys);
	if (fclose(file) == 0)
		terminal_show(page, len);
	free(page);
}

static void
sort_by(struct top *top, int column)
{
	top->order.column = column;
	top->first = 0;
}

/* Whether the program goes on. */
static bool
do_key(struct top *top, int key)
{
	int width, lines;
	size_t rows;

	terminal_size(&width, &lines);
	rows = page_rows(lines);
	switch (key) {
	case KEY_END:
	case 'q':
	case 'Q':
		return false;
	case 'n':
		sort_by(top, -1);
		break;
	case 'p':
		sort_by(top, TOP_UNITS);
		break;
	case 'b':
		sort_by(top, TOP_BYTES);
		break;
	case 'k':
		sort_by(top, TOP_KICKS);
		break;
	case 'i':
		sort_by(top, TOP_INTERRUPTS);
		break;
	case 'd':
		sort_by(top, TOP_DEPTH);
		break;
	case 'r':
		top->order.reverse = !top->order.reverse;
		break;
	case 't':
		top->order.view = (top->order.view + 1) % TOP_VIEWS;
		top->first = 0;
		break;
	case KEY_UP:
		top->first -= top->first > 0;
		break;
	case KEY_DOWN:
		top->first++;
		break;
	case KEY_PAGE_UP:
		top->first -= top->first > rows ? rows : top->first;
		break;
	case KEY_PAGE_DOWN:
		top->first += rows;
		break;
	case KEY_HOME:
		top->first = 0;
		break;
	case KEY_BOTTOM:
		top->first = top->table.n;
		break;
	default:
		break;
	}
	clamp(top, rows);
	return true;
}

static int
run_page(struct top *top, double delay)
{
	double next = now() + (delay < FIRST_SECONDS ? delay : FIRST_SECONDS), left;
	unsigned long shown = 0;

	if (sample(top) < 0) {
		print_trouble(top);
		return EXIT_FAILURE;
	}
	if (terminal_open() < 0)
		return EXIT_FAILURE;
	show_page(top);
	for (;;) {
		left = next - now();
		if (!do_key(top, terminal_key(left > 0 ? (int)(left * 1000) + 1 : 0)))
			break;
		if (now() >= next) {
			sample(top);
			next = now() + delay;
			shown++;
		}
		show_page(top);
		if (top->ctl->count != 0 && shown >= top->ctl->count)
			break;
	}
	terminal_close();
	return 0;
}

int
cmd_top(struct ctl *ctl, int argc, char **argv)
{
	struct top top = {.ctl = ctl,
			  .order = {.column = -1, .patterns = argv, .n_patterns = argc}};
	double delay = ctl->delay != 0 ? ctl->delay : DELAY_SECONDS;
	int status;

	if (ctl->json) {
		fprintf(stderr, "top has no JSON; `vdpactl -j dev stats` does\n");
		ctl->json = false;
		return EXIT_FAILURE;
	}
	if (ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	client_set_timeout(ctl->client, ANSWER_SECONDS);
	status = isatty(STDOUT_FILENO) && isatty(STDIN_FILENO) ? run_page(&top, delay)
							       : run_plain(&top, delay);
	top_table_free(&top.table);
	return status;
}
