/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Statistics in Prometheus' text format. vdpa_stats.h has the names; what a driver counts beyond
 * them becomes a sample of one metric with the statistic's name as a label. A metric's samples
 * stand together, whatever device they are of, as the format wants it.
 */

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "vdpa_stats.h"
#include "vdpactl.h"
#include "write_file.h"

struct metric {
	const char *key; /* in dev.stats */
	const char *name;
	enum vdpa_stat_kind kind;
	unsigned int scale; /* divides what dev.stats has */
	const char *help;
};

#define METRIC(id, key, kind, unit, name, scale, help) {key, name, VDPA_STAT_##kind, scale, help},
static const struct metric queue_metrics[] = {VDPA_QUEUE_STATS(METRIC)};
static const struct metric device_metrics[] = {VDPA_DEVICE_STATS(METRIC)};

#define N_QUEUE_METRICS	 (sizeof(queue_metrics) / sizeof(queue_metrics[0]))
#define N_DEVICE_METRICS (sizeof(device_metrics) / sizeof(device_metrics[0]))

/* As vdpa_device_state_name(), and of devices that are being added or removed. */
static const char *const states[] = {"idle",   "configuring", "running", "suspended",
				     "failed", "removed",     "adding",	 "removing"};

static void
head(FILE *file, const char *name, const char *type, const char *help)
{
	fprintf(file, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void
metric_head(FILE *file, const struct metric *m)
{
	head(file, m->name, m->kind == VDPA_STAT_COUNTER ? "counter" : "gauge", m->help);
}

/* ,label="value"; the first of a sample without the comma. */
static void
label(FILE *file, bool first, const char *name, const char *value)
{
	size_t len;
	bool safe;

	fprintf(file, "%s%s=\"", first ? "{" : ",", name);
	for (; *value != '\0'; value += len) {
		len = text_char(value, &safe);
		if (*value == '\\' || *value == '"')
			fputc('\\', file);
		if (*value == '\n')
			fputs("\\n", file);
		else if (safe)
			fwrite(value, 1, len, file);
		else /* the format has no escape for it, and who prints it may have a terminal */
			fputc('?', file);
	}
	fputc('"', file);
}

static void
number(FILE *file, const json_t *value, unsigned int scale)
{
	if (json_is_integer(value) && scale == 1)
		fprintf(file, "} %" JSON_INTEGER_FORMAT "\n", json_integer_value(value));
	else
		fprintf(file, "} %.9g\n", json_number_value(value) / scale);
}

static const char *
text_of(const json_t *obj, const char *key)
{
	const char *text = json_string_value(json_object_get(obj, key));

	return text != NULL ? text : "";
}

static void
queue_labels(FILE *file, const char *device, size_t index, const json_t *queue)
{
	char number_text[24];

	snprintf(number_text, sizeof(number_text), "%zu", index);
	label(file, true, "device", device);
	label(file, false, "queue", number_text);
	label(file, false, "type", text_of(queue, "queue_type"));
}

static bool
is_vendor(const struct metric *known, size_t n, const char *key, const json_t *value)
{
	if (!json_is_number(value))
		return false;
	for (size_t i = 0; i < n; i++)
		if (strcmp(known[i].key, key) == 0)
			return false;
	return true;
}

static void
device_info(FILE *file, const json_t *dev)
{
	static const char name[] = "uvdpa_device_info";
	const char *device;
	json_t *obj;

	head(file, name, "gauge", "A device and what it is.");
	json_object_foreach((json_t *)(uintptr_t)dev, device, obj)
	{
		const char *type = text_of(obj, "type");

		fputs(name, file);
		label(file, true, "device", device);
		label(file, false, "class", strcmp(type, "network") == 0 ? "net" : type);
		label(file, false, "mgmtdev", text_of(obj, "mgmtdev"));
		label(file, false, "driver", text_of(obj, "driver"));
		label(file, false, "frontend", text_of(obj, "frontend"));
		fputs("} 1\n", file);
	}
}

static void
device_states(FILE *file, const json_t *dev)
{
	static const char name[] = "uvdpa_device_state";
	const char *device;
	json_t *obj;

	head(file, name, "gauge", "1 for the state that the device is in, 0 for the others.");
	json_object_foreach((json_t *)(uintptr_t)dev, device,
			    obj) for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
	{
		fputs(name, file);
		label(file, true, "device", device);
		label(file, false, "state", states[i]);
		fprintf(file, "} %d\n", strcmp(text_of(obj, "state"), states[i]) == 0);
	}
}

static void
device_samples(FILE *file, const json_t *stats, const struct metric *m)
{
	const char *device;
	json_t *obj;

	metric_head(file, m);
	json_object_foreach((json_t *)(uintptr_t)stats, device, obj)
	{
		const json_t *value = json_object_get(json_object_get(obj, "device"), m->key);

		if (!json_is_number(value))
			continue;
		fputs(m->name, file);
		label(file, true, "device", device);
		number(file, value, m->scale);
	}
}

static void
device_vendor(FILE *file, const json_t *stats)
{
	static const char name[] = "uvdpa_device_vendor_value";
	const char *device, *key;
	json_t *obj, *value;

	head(file, name, "gauge", "A statistic of the driver's own.");
	json_object_foreach((json_t *)(uintptr_t)stats, device, obj)
		json_object_foreach(json_object_get(obj, "device"), key, value)
	{
		if (!is_vendor(device_metrics, N_DEVICE_METRICS, key, value))
			continue;
		fputs(name, file);
		label(file, true, "device", device);
		label(file, false, "statistic", key);
		number(file, value, 1);
	}
}

static void
queue_info(FILE *file, const json_t *stats)
{
	static const char name[] = "uvdpa_queue_info";
	const char *device;
	json_t *obj, *queue;
	size_t i;

	head(file, name, "gauge", "A virtqueue and the path of its buffers.");
	json_object_foreach((json_t *)(uintptr_t)stats, device, obj)
		json_array_foreach(json_object_get(obj, "queues"), i, queue)
	{
		fputs(name, file);
		queue_labels(file, device, i, queue);
		label(file, false, "path", text_of(queue, "path"));
		fputs("} 1\n", file);
	}
}

static void
queue_samples(FILE *file, const json_t *stats, const struct metric *m)
{
	const char *device;
	json_t *obj, *queue;
	size_t i;

	metric_head(file, m);
	json_object_foreach((json_t *)(uintptr_t)stats, device, obj)
		json_array_foreach(json_object_get(obj, "queues"), i, queue)
	{
		const json_t *value = json_object_get(queue, m->key);

		if (!json_is_number(value))
			continue;
		fputs(m->name, file);
		queue_labels(file, device, i, queue);
		number(file, value, m->scale);
	}
}

static void
queue_vendor(FILE *file, const json_t *stats)
{
	static const char name[] = "uvdpa_queue_vendor_value";
	const char *device, *key;
	json_t *obj, *queue, *value;
	size_t i;

	head(file, name, "gauge", "A statistic of the driver's own, or of the queue's path.");
	json_object_foreach((json_t *)(uintptr_t)stats, device, obj)
		json_array_foreach(json_object_get(obj, "queues"), i, queue)
			json_object_foreach(queue, key, value)
	{
		if (!is_vendor(queue_metrics, N_QUEUE_METRICS, key, value))
			continue;
		fputs(name, file);
		queue_labels(file, device, i, queue);
		label(file, false, "statistic", key);
		number(file, value, 1);
	}
}

/* up: whether the daemon has answered. Daemons of one host are told apart by their names, as the
 * node exporter takes no series twice. */
static void
print_up(FILE *file, const struct ctl *ctl, bool up)
{
	head(file, "uvdpa_up", "gauge", "1 where the daemon has answered, else 0.");
	fputs("uvdpa_up", file);
	label(file, true, "daemon", ctl->instance != NULL ? ctl->instance : "");
	fprintf(file, "} %d\n", up);
}

static void
print_metrics(FILE *file, const struct ctl *ctl, const json_t *dev, const json_t *stats)
{
	print_up(file, ctl, true);
	device_info(file, dev);
	device_states(file, dev);
	for (size_t i = 0; i < N_DEVICE_METRICS; i++)
		device_samples(file, stats, &device_metrics[i]);
	device_vendor(file, stats);
	queue_info(file, stats);
	for (size_t i = 0; i < N_QUEUE_METRICS; i++)
		queue_samples(file, stats, &queue_metrics[i]);
	queue_vendor(file, stats);
}

/* Where it goes: stdout, or the file in one piece. An absent daemon is a sample in the file, too:
 * an old one would go on being read as if it were of now. */
int
cmd_metrics(struct ctl *ctl, int argc, char **argv)
{
	json_t *dev, *stats = NULL;
	char *text = NULL;
	size_t len = 0;
	FILE *file;
	int status = 0;

	if (argc > 0) {
		fprintf(stderr, "Unknown option \"%s\"\n", argv[0]);
		return EXIT_FAILURE;
	}
	file = open_memstream(&text, &len);
	if (file == NULL) {
		fprintf(stderr, "Out of memory\n");
		return EXIT_FAILURE;
	}
	dev = ctl_call(ctl, "dev.show", NULL);
	if (dev != NULL)
		stats = ctl_call(ctl, "dev.stats", NULL);
	if (stats != NULL) {
		print_metrics(file, ctl, json_object_get(dev, "dev"),
			      json_object_get(stats, "stats"));
	} else {
		print_up(file, ctl, false);
		status = EXIT_FAILURE;
	}
	json_decref(dev);
	json_decref(stats);
	if (fclose(file) != 0) {
		fprintf(stderr, "Out of memory\n");
		status = EXIT_FAILURE;
	} else if (ctl->output != NULL) {
		if (write_file(ctl->output, text, len) < 0)
			status = EXIT_FAILURE;
	} else if (status == 0) {
		fwrite(text, 1, len, stdout);
	}
	free(text);
	/* The format is Prometheus', with -j too. */
	ctl->json = false;
	return status;
}
