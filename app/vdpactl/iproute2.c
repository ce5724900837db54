/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The verbs of iproute2's `vdpa` that show something, with the output of its version 6.1 to the
 * byte: what it leaves out, the blanks at ends of lines and of keys, and the bits that it knows no
 * name of. tests/integration/iproute2.json has what the program itself prints.
 */

#include <stdlib.h>
#include <string.h>

#include <linux/virtio_ids.h>

#include "feature_names.h"
#include "vdpactl.h"

/* The output of such a verb is {"SECTION":{"NAME":{...},...}}, and a line or more for each in text.
 */
static void
section_open(struct ctl *ctl, const char *section)
{
	if (!ctl->json)
		return;
	out_open(&ctl->out, NULL, '{');
	out_open(&ctl->out, section, '{');
}

static void
section_close(struct ctl *ctl)
{
	if (!ctl->json)
		return;
	out_close(&ctl->out, '}');
	out_close(&ctl->out, '}');
}

static void
entry_open(struct ctl *ctl, const char *name)
{
	if (ctl->json) {
		out_open(&ctl->out, name, '{');
		return;
	}
	print_safe(stdout, name);
	fputs(": ", stdout);
}

static void
entry_close(struct ctl *ctl)
{
	if (ctl->json)
		out_close(&ctl->out, '}');
	else
		fputc('\n', stdout);
}

/*
 * A member, if it is there; in text between two words of its own: iproute2 has the blank now before
 * and now after.
 */
static void
print_member(struct ctl *ctl, const json_t *obj, const char *key, const char *before,
	     const char *after)
{
	const json_t *value = json_object_get(obj, key);

	if (value == NULL || json_is_null(value))
		return;
	if (ctl->json) {
		out_value(&ctl->out, key, value);
		return;
	}
	fputs(before, stdout);
	print_value(stdout, value);
	fputs(after, stdout);
}

static void
print_word(struct ctl *ctl, const char *key, const char *before, const char *word)
{
	if (ctl->json) {
		out_string(&ctl->out, key, word);
		return;
	}
	fputs(before, stdout);
	print_safe(stdout, word);
}

/* A list on a line of its own. */
static void
list_open(struct ctl *ctl, const char *key)
{
	if (ctl->json)
		out_open(&ctl->out, key, '[');
	else
		printf("\n  %s", key);
}

static void
list_close(struct ctl *ctl)
{
	if (ctl->json)
		out_close(&ctl->out, ']');
}

/* The bit of a feature by its number or by one of its names; -1 where it is none. */
static int
feature_bit(const json_t *feature, uint32_t device_id)
{
	const char *name = json_string_value(feature);

	if (json_is_integer(feature) && json_integer_value(feature) >= 0 &&
	    json_integer_value(feature) < 64)
		return (int)json_integer_value(feature);
	for (unsigned int bit = 0; name != NULL && bit < 64; bit++) {
		const char *ours = feature_name(device_id, bit);
		const char *theirs = feature_name_iproute2(device_id, bit);

		if ((ours != NULL && strcmp(ours, name) == 0) ||
		    (theirs != NULL && strcmp(theirs, name) == 0))
			return (int)bit;
	}
	return -1;
}

static void
print_features(struct ctl *ctl, const json_t *obj, const char *key, uint32_t device_id)
{
	const json_t *features = json_object_get(obj, key), *feature;
	size_t i;

	if (!json_is_array(features))
		return;
	list_open(ctl, key);
	json_array_foreach(features, i, feature)
	{
		int bit = feature_bit(feature, device_id);
		const char *name = bit < 0 ? json_string_value(feature)
					   : feature_name_iproute2(device_id, (unsigned int)bit);

		if (name != NULL)
			print_word(ctl, NULL, " ", name);
		else if (ctl->json)
			out_integer(&ctl->out, NULL, bit);
		else
			printf(" bit_%d", bit);
	}
	list_close(ctl);
}

static void
show_mgmtdev(struct ctl *ctl, const json_t *obj)
{
	const json_t *classes = json_object_get(obj, "supported_classes"), *class;
	uint32_t device_id = 0;
	size_t i;

	if (json_is_array(classes)) {
		list_open(ctl, "supported_classes");
		json_array_foreach(classes, i, class)
		{
			const char *name = json_string_value(class);
			if (name != NULL && strcmp(name, "net") == 0)
				device_id = VIRTIO_ID_NET;
			else if (name != NULL && strcmp(name, "block") == 0)
				device_id = VIRTIO_ID_BLOCK;
			else
				name = "< unknown class >";
			print_word(ctl, NULL, " ", name);
		}
		list_close(ctl);
	}
	print_member(ctl, obj, "max_supported_vqs", "\n  max_supported_vqs ", "");
	print_features(ctl, obj, "dev_features", device_id);
}

static const char *
shown_type(const json_t *type)
{
	const char *name = json_string_value(type);

	return name != NULL && (strcmp(name, "network") == 0 || strcmp(name, "block") == 0)
		       ? name
		       : "<unknown type>";
}

/* A device that is just being made has no type yet, and iproute2's kernel does not show it. */
static bool
is_made(const json_t *obj)
{
	return json_object_get(obj, "type") != NULL;
}

static void
show_dev(struct ctl *ctl, const json_t *obj)
{
	const char *mgmtdev = json_string_value(json_object_get(obj, "mgmtdev"));

	print_word(ctl, "type", "type ", shown_type(json_object_get(obj, "type")));
	print_word(ctl, "mgmtdev", " mgmtdev ", mgmtdev != NULL ? mgmtdev : "");
	print_member(ctl, obj, "vendor_id", " vendor_id ", "");
	print_member(ctl, obj, "max_vqs", " max_vqs ", "");
	print_member(ctl, obj, "max_vq_size", " max_vq_size ", "");
}

static void
show_config(struct ctl *ctl, const json_t *obj)
{
	print_member(ctl, obj, "mac", "mac ", " ");
	print_member(ctl, obj, "link ", "link ", " ");
	print_member(ctl, obj, "link_announce ", "link_announce ", " ");
	print_member(ctl, obj, "max_vq_pairs", "max_vq_pairs ", " ");
	print_member(ctl, obj, "mtu", "mtu ", " ");
	print_features(ctl, obj, "negotiated_features", VIRTIO_ID_NET);
}

/* Its counters have the names that the device gives them. */
static void
show_vstats(struct ctl *ctl, const json_t *obj)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)obj, key, value)
	{
		if (!ctl->json && !json_is_null(value)) {
			print_safe(stdout, key);
			fputc(' ', stdout);
		}
		print_member(ctl, obj, key, "", " ");
	}
}

/* The section of an answer, an entry at a time. */
static int
show(struct ctl *ctl, const char *section, json_t *answer,
     void (*entry)(struct ctl *ctl, const json_t *obj), bool (*shown)(const json_t *obj),
     const json_t *stats)
{
	json_t *all = json_object_get(answer, section), *obj;
	const char *name;

	section_open(ctl, section);
	json_object_foreach(all, name, obj)
	{
		const json_t *more = json_object_get(stats, name);

		if (shown != NULL && !shown(obj))
			continue;
		entry_open(ctl, name);
		entry(ctl, obj);
		if (more != NULL && ctl->json)
			out_value(&ctl->out, "stats", more);
		entry_close(ctl);
		if (more != NULL && !ctl->json)
			print_statistics(more, "  ");
	}
	section_close(ctl);
	json_decref(answer);
	return answer != NULL ? 0 : EXIT_FAILURE;
}

int
cmd_mgmtdev_show(struct ctl *ctl, int argc, char **argv)
{
	const char *name;

	if (ctl_one_name(argc, argv, &name) < 0 || ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	return show(ctl, "mgmtdev", ctl_call(ctl, "mgmtdev.show", ctl_named(name)), show_mgmtdev,
		    NULL, NULL);
}

int
cmd_dev_show(struct ctl *ctl, int argc, char **argv)
{
	json_t *answer, *stats = NULL;
	const char *name;
	int status;

	if (ctl_one_name(argc, argv, &name) < 0 || ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	answer = ctl_call(ctl, "dev.show", ctl_named(name));
	if (ctl->statistics && answer != NULL) {
		stats = ctl_call(ctl, "dev.stats", ctl_named(name));
		if (stats == NULL) {
			json_decref(answer);
			answer = NULL;
		}
	}
	status = show(ctl, "dev", answer, show_dev, is_made, json_object_get(stats, "stats"));
	json_decref(stats);
	return status;
}

int
cmd_dev_config_show(struct ctl *ctl, int argc, char **argv)
{
	const char *name;

	if (ctl_one_name(argc, argv, &name) < 0 || ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	return show(ctl, "config", ctl_call(ctl, "dev.config", ctl_named(name)), show_config, NULL,
		    NULL);
}

int
cmd_dev_vstats_show(struct ctl *ctl, int argc, char **argv)
{
	unsigned long qidx;
	char *end;

	if (argc != 1 && argc != 3) {
		fprintf(stderr, "Usage: vdpactl dev vstats show DEV qidx QUEUE_INDEX\n");
		return EXIT_FAILURE;
	}
	if (argc == 3 && strcmp(argv[1], "qidx") != 0) {
		fprintf(stderr, "Unknown option \"%s\"\n", argv[1]);
		return EXIT_FAILURE;
	}
	if (argc == 1) {
		fprintf(stderr, "queue index is not set.\n");
		return EXIT_FAILURE;
	}
	qidx = strtoul(argv[2], &end, 10);
	if (end == argv[2] || *end != '\0' || argv[2][0] == '-' || qidx > UINT16_MAX) {
		fprintf(stderr, "qidx '%s': not a number from 0 to %u\n", argv[2], UINT16_MAX);
		return EXIT_FAILURE;
	}
	if (ctl_connect(ctl) < 0)
		return EXIT_FAILURE;
	return show(ctl, "vstats",
		    ctl_call(ctl, "dev.vstats",
			     json_pack("{s:s, s:I}", "name", argv[0], "qidx", (json_int_t)qidx)),
		    show_vstats, NULL, NULL);
}
