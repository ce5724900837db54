/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Events as they happen, one a line. */

#include <stdlib.h>
#include <string.h>

#include "vdpactl.h"

static bool
is_head(const char *key)
{
	return strcmp(key, "time") == 0 || strcmp(key, "event") == 0 || strcmp(key, "name") == 0;
}

static void
print_word(const json_t *event, const char *key, const char *none, const char *after)
{
	const json_t *value = json_object_get(event, key);

	if (value != NULL)
		print_value(stdout, value);
	else
		fputs(none, stdout);
	fputs(after, stdout);
}

/* "TIME NAME EVENT KEY VALUE ..." */
static void
print_event(const json_t *event)
{
	const char *key;
	json_t *value;

	print_word(event, "time", "-", " ");
	print_word(event, "name", "-", " ");
	print_word(event, "event", "-", "");
	json_object_foreach((json_t *)(uintptr_t)event, key, value)
	{
		if (is_head(key))
			continue;
		fputc(' ', stdout);
		print_safe(stdout, key);
		fputc(' ', stdout);
		print_value(stdout, value);
	}
	fputc('\n', stdout);
}

/* What is asked for; NULL: all. */
static json_t *
wanted(int argc, char **argv)
{
	json_t *names, *params;

	if (argc == 0)
		return NULL;
	names = json_array();
	for (int i = 0; i < argc; i++)
		json_array_append_new(names, json_string(argv[i]));
	params = json_object();
	json_object_set_new(params, "events", names);
	return params;
}

int
cmd_monitor(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer = ctl_call(ctl, "events.subscribe", wanted(argc, argv)), *event;
	struct client_error err;

	if (answer == NULL)
		return EXIT_FAILURE;
	json_decref(answer);
	for (unsigned long n = 0; ctl->count == 0 || n < ctl->count;) {
		event = client_next(ctl->client, -1, &err);
		if (event == NULL && err.message[0] == '\0')
			continue;
		if (event == NULL) {
			ctl_print_error(&err);
			/* Each event is a line of its own, and there is no further one. */
			ctl->json = false;
			return EXIT_FAILURE;
		}
		n++;
		if (ctl->json) {
			struct out line = {.file = stdout};

			out_value(&line, NULL, event);
			fputc('\n', stdout);
		} else {
			print_event(event);
		}
		json_decref(event);
		if (fflush(stdout) != 0)
			break;
	}
	ctl->json = false;
	return 0;
}
