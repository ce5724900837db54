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

#include "log.h"
#include "program.h"
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

static void
print_function(const char *name, const json_t *f, int depth)
{
	const char *driver = string_of(f, "driver");
	const char *reason = string_of(f, "reason");

	printf("  %*s%s  %s  ", 2 * depth, "", name, string_of(f, "ids"));
	if (driver != NULL)
		printf("driver %s: ", driver);
	puts(reason != NULL ? reason : "can be used");
}

void
app_report_functions(void)
{
	json_t *root = parse(vdpa_function_show()), *f, *vf;
	const char *name, *vf_name;

	puts("PCI functions of this machine that a driver serves:");
	if (json_object_size(root) == 0)
		puts("  none");
	json_object_foreach(root, name, f)
	{
		print_function(name, f, 0);
		json_object_foreach(json_object_get(f, "vfs"), vf_name, vf)
			print_function(vf_name, vf, 1);
	}
	putchar('\n');
	json_decref(root);
}

static void
print_count(FILE *line, const json_t *dev, const char *key, const char *one, const char *many)
{
	json_int_t n = json_integer_value(json_object_get(dev, key));

	if (n != 0)
		fprintf(line, ", %" JSON_INTEGER_FORMAT " %s", n, n == 1 ? one : many);
}

/* A line about a device, which print() writes. */
static void
report(const char *name, json_t *dev, void (*print)(FILE *line, const char *name, json_t *dev))
{
	char *text = NULL;
	size_t len;
	FILE *line;

	line = open_memstream(&text, &len);
	if (line == NULL)
		return;
	print(line, name, dev);
	if (fclose(line) == 0)
		app_log(LOG_INFO, name, "%s", text);
	free(text);
}

static void
print_device(FILE *line, const char *name, json_t *dev)
{
	const char *mgmtdev = string_of(dev, "mgmtdev");
	const char *mac = string_of(dev, "mac");
	const char *info = string_of(dev, "frontend_info");

	fprintf(line, "%s: %s", name, mgmtdev != NULL ? mgmtdev : "unmanaged");
	if (mac != NULL)
		fprintf(line, ", mac %s", mac);
	print_count(line, dev, "capacity", "byte", "bytes");
	print_count(line, dev, "max_vqs", "virtqueue", "virtqueues");
	fprintf(line, ", %s", info != NULL ? info : "no front end");
}

void
app_report_devices(void)
{
	json_t *root = parse(vdpa_dev_show(NULL)), *dev;
	const char *name;

	if (json_object_size(root) == 0)
		app_log(LOG_INFO, NULL, "no device yet");
	json_object_foreach(root, name, dev) report(name, dev, print_device);
	json_decref(root);
}

/* "rx_packets 3, tx_packets 4" */
static void
print_counters(FILE *line, json_t *counters)
{
	const char *separator = "";
	const char *key;
	json_t *value;

	json_object_foreach(counters, key, value)
	{
		fprintf(line, "%s%s %" JSON_INTEGER_FORMAT, separator, key,
			json_integer_value(value));
		separator = ", ";
	}
}

static void
print_stats(FILE *line, const char *name, json_t *dev)
{
	char now[sizeof("23:59:59")] = "";
	time_t t = time(NULL);
	struct tm tm;

	if (localtime_r(&t, &tm) != NULL)
		strftime(now, sizeof(now), "%H:%M:%S", &tm);
	fprintf(line, "%s %s: ", now, name);
	print_counters(line, json_object_get(dev, "device"));
}

void
app_report_stats(void)
{
	json_t *root = parse(vdpa_dev_stats(NULL)), *dev;
	const char *name;

	json_object_foreach(root, name, dev) report(name, dev, print_stats);
	json_decref(root);
}

void
app_report_json(void)
{
	json_t *root = parse(vdpa_dev_stats(NULL)), *own, *value;
	const char *name;
	char *text;

	own = app_program.stats != NULL ? app_program.stats() : NULL;
	json_object_foreach(own, name, value)
		json_object_set(json_object_get(root, name), app_program.stats_key, value);
	text = json_dumps(root, JSON_COMPACT);
	puts(text != NULL ? text : "{}");
	free(text);
	json_decref(own);
	json_decref(root);
}
