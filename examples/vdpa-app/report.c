/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Lines about devices, written from the JSON text that the library gives. A field that a device
 * lacks is left out; fields keep the order in which the library has them.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include <vdpa.h>

#include "report.h"

/* An object keyed by device name, NULL when it cannot be had. */
static json_t *
parse(char *text)
{
	json_t *root;

	if (text == NULL)
		return NULL;
	root = json_loads(text, 0, NULL);
	free(text);
	return root;
}

static const char *
string_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

void
app_report_devices(void)
{
	json_t *root = parse(vdpa_dev_show(NULL)), *dev;
	const char *name;

	if (root == NULL || json_object_size(root) == 0)
		puts("no device yet");
	json_object_foreach(root, name, dev)
	{
		const char *mgmtdev = string_of(dev, "mgmtdev");
		const char *mac = string_of(dev, "mac");
		const char *backend = string_of(dev, "backend");
		const char *frontend = string_of(dev, "frontend");

		printf("%s: %s", name, mgmtdev != NULL ? mgmtdev : "unmanaged");
		if (mac != NULL)
			printf(", mac %s", mac);
		if (backend != NULL)
			printf(", backend %s", backend);
		if (frontend != NULL)
			printf(", %s", frontend);
		putchar('\n');
	}
	json_decref(root);
}

/* "rx_packets 3, tx_packets 4": the counters of an object, zero or not. */
static void
print_counters(const json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value) if (json_is_integer(value))
		printf(", %s %" JSON_INTEGER_FORMAT, key, json_integer_value(value));
}

void
app_report_stats(void)
{
	json_t *root = parse(vdpa_dev_stats(NULL)), *dev;
	char now[sizeof("23:59:59")] = "";
	time_t t = time(NULL);
	const char *name;
	struct tm tm;

	if (localtime_r(&t, &tm) != NULL)
		strftime(now, sizeof(now), "%H:%M:%S", &tm);
	json_object_foreach(root, name, dev)
	{
		const char *state = string_of(dev, "state");

		printf("%s %s: %s", now, name, state != NULL ? state : "unknown");
		print_counters(dev);
		putchar('\n');
	}
	json_decref(root);
}
