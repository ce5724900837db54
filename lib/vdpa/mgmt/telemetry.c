/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices on DPDK's telemetry socket, so that dpdk-telemetry.py can look at those of a running
 * process. The commands read only: who is connected is not known here, and telemetry's thread ends
 * for good when its accept(2) fails once. Changes go over the control socket. The commands call the
 * public API and turn its JSON into the telemetry library's own values; they own nothing.
 *
 * A command that fails answers {"error": "..."}: telemetry's own answer to a failed callback is a
 * bare null.
 *
 * Limits of the telemetry library that show here: names consist of letters, digits, '_' and '/';
 * strings in an object have at most 127 characters; an object has at most 256 fields, an array at
 * most 512 values; what of a reply is beyond 16 KiB is dropped without a word; and 22.11 reads
 * outside an array for a character above 0x7f. Other characters are replaced by '_' and '?', longer
 * strings go on in the fields NAME_2, NAME_3, ..., and longer lists come in pages. There is no
 * null: what is not known of statistics is "unknown".
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <rte_telemetry.h>
#include <rte_version.h>

#include "bus.h"
#include "mgmt.h"
#include "telemetry.h"
#include "vdpa.h"
#include "vdpa_args.h"
#include "vdpa_driver.h"
#include "vdpa_log.h"

/* Commands that once changed something. */
#define CHANGE_PREFIX "/vdpa/dev/"

/* JSON text that surely fits in a reply: telemetry writes 16 KiB and silently drops what is more,
 * and an index per queue comes on top. */
#define REPLY_TEXT_MAX 12288

#if RTE_VERSION < RTE_VERSION_NUM(23, 3, 0, 0)
#define tel_add_dict_uint  rte_tel_data_add_dict_u64
#define tel_add_array_uint rte_tel_data_add_array_u64
#define TEL_UINT_VAL	   RTE_TEL_U64_VAL
#else
#define tel_add_dict_uint  rte_tel_data_add_dict_uint
#define tel_add_array_uint rte_tel_data_add_array_uint
#define TEL_UINT_VAL	   RTE_TEL_UINT_VAL
#endif

static void
copy_name(char *dst, size_t size, const char *src)
{
	size_t i;

	for (i = 0; i + 1 < size && src[i] != '\0'; i++) {
		char c = src[i];

		dst[i] = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
					 (c >= 'a' && c <= 'z') || c == '/'
				 ? c
				 : '_';
	}
	dst[i] = '\0';
}

static void
copy_string(char *dst, size_t size, const char *src)
{
	size_t i;

	for (i = 0; i + 1 < size && src[i] != '\0'; i++)
		dst[i] = src[i] >= ' ' && src[i] <= '~' ? src[i] : '?';
	dst[i] = '\0';
}

/* How much of text goes into one string: all of it, or up to and with its last blank that fits. */
static size_t
first_piece(const char *text)
{
	size_t len = strlen(text), fits = RTE_TEL_MAX_STRING_LEN - 1;

	if (len <= fits)
		return len;
	for (len = fits; len > fits / 2; len--)
		if (text[len - 1] == ' ')
			return len;
	return fits;
}

/* A text of any length: NAME, NAME_2, ..., which one after the other are the text. */
static int
add_string(struct rte_tel_data *d, const char *name, const char *value)
{
	char text[RTE_TEL_MAX_STRING_LEN], key[RTE_TEL_MAX_STRING_LEN];
	unsigned int part = 1;
	int rc;

	do {
		size_t len = first_piece(value);

		copy_string(text, len + 1, value);
		value += len;
		if (part == 1)
			snprintf(key, sizeof(key), "%s", name);
		else
			snprintf(key, sizeof(key), "%.*s_%u", (int)sizeof(key) - 12, name, part);
		rc = rte_tel_data_add_dict_string(d, key, text);
		part++;
	} while (rc == 0 && *value != '\0');
	return rc;
}

static int
reply_pair(struct rte_tel_data *d, const char *name, const char *value)
{
	rte_tel_data_start_dict(d);
	return add_string(d, name, value);
}

static int
reply_error(struct rte_tel_data *d)
{
	return reply_pair(d, "error", vdpa_error_message());
}

static void fill_dict(struct rte_tel_data *d, json_t *object);

static void
fill_array(struct rte_tel_data *d, json_t *array)
{
	bool strings = false;
	size_t i;
	json_t *value;

	json_array_foreach(array, i, value) strings |= json_is_string(value);
	rte_tel_data_start_array(d, strings ? RTE_TEL_STRING_VAL : TEL_UINT_VAL);
	json_array_foreach(array, i, value)
	{
		char text[RTE_TEL_MAX_STRING_LEN];

		if (strings && json_is_string(value)) {
			copy_string(text, sizeof(text), json_string_value(value));
			rte_tel_data_add_array_string(d, text);
		} else if (strings && json_is_integer(value)) {
			/* A feature bit without a name, among those that have one. */
			snprintf(text, sizeof(text), "%" JSON_INTEGER_FORMAT,
				 json_integer_value(value));
			rte_tel_data_add_array_string(d, text);
		} else if (!strings && json_is_integer(value)) {
			tel_add_array_uint(d, (uint64_t)json_integer_value(value));
		}
	}
}

/* Telemetry has no array of objects: it becomes an object keyed by index. */
static void
fill_dict_of_array(struct rte_tel_data *d, json_t *array)
{
	json_t *object = json_object(), *value;
	char key[24];
	size_t i;

	json_array_foreach(array, i, value)
	{
		snprintf(key, sizeof(key), "%zu", i);
		json_object_set(object, key, value);
	}
	fill_dict(d, object);
	json_decref(object);
}

/* Containers belong to telemetry once they are added; the caller sees to it that adding works. */
static void
add_container(struct rte_tel_data *d, const char *name, json_t *value)
{
	struct rte_tel_data *inner = rte_tel_data_alloc();

	if (inner == NULL) {
		add_string(d, name, "out of memory");
		return;
	}
	if (json_is_object(value))
		fill_dict(inner, value);
	else if (json_is_object(json_array_get(value, 0)))
		fill_dict_of_array(inner, value);
	else
		fill_array(inner, value);
	rte_tel_data_add_dict_container(d, name, inner, 0);
}

static void
add_value(struct rte_tel_data *d, const char *name, json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		add_container(d, name, value);
		break;
	case JSON_STRING:
		add_string(d, name, json_string_value(value));
		break;
	case JSON_INTEGER:
		tel_add_dict_uint(d, name, (uint64_t)json_integer_value(value));
		break;
	case JSON_TRUE:
	case JSON_FALSE:
		add_string(d, name, json_is_true(value) ? "true" : "false");
		break;
	default:
		add_string(d, name, "");
		break;
	}
}

/* As many fields as fit; so that nothing added below can be refused, and leak. */
static void
fill_dict(struct rte_tel_data *d, json_t *object)
{
	unsigned int n = 0;
	const char *key;
	json_t *value;

	rte_tel_data_start_dict(d);
	json_object_foreach(object, key, value)
	{
		char name[RTE_TEL_MAX_STRING_LEN];

		if (n++ == RTE_TEL_MAX_DICT_ENTRIES)
			break;
		copy_name(name, sizeof(name), key);
		add_value(d, name, value);
	}
}

static int
reply_object(struct rte_tel_data *d, json_t *object)
{
	fill_dict(d, object);
	return 0;
}

/* The object in a JSON text, which it frees; NULL with the thread's error message set. */
static json_t *
parse(char *text)
{
	json_t *root;

	if (text == NULL)
		return NULL;
	root = json_loads(text, 0, NULL);
	if (!json_is_object(root)) {
		json_decref(root);
		root = NULL;
		vdpa_error(ENOMEM, "cannot read the library's own JSON: out of memory");
	}
	free(text);
	return root;
}

static int
reply_json(struct rte_tel_data *d, char *text)
{
	json_t *root = parse(text);
	int ret;

	if (root == NULL)
		return reply_error(d);
	ret = reply_object(d, root);
	json_decref(root);
	return ret;
}

/*
 * A list of names that may be longer than a reply: from an entry's number on, as many as fit. The
 * numbers grow and are not used again, so a reader of several pages misses no entry that stays.
 */
struct page {
	struct rte_tel_data *names;
	uint64_t from;
	uint64_t next; /* where the next one begins; 0: this is the last */
	unsigned int n, left_off;
	uint64_t count; /* of the whole list */
	size_t room;
};

static void
page_add(struct page *page, uint64_t id, const char *name)
{
	size_t len = strlen(name) + sizeof("\"\",") - 1;

	page->count++;
	if (id < page->from)
		return;
	/* One entry of the array is for what is left off. */
	if (page->next == 0 && (page->n == RTE_TEL_MAX_ARRAY_ENTRIES - 1 || len > page->room))
		page->next = id;
	if (page->next != 0) {
		page->left_off++;
		return;
	}
	rte_tel_data_add_array_string(page->names, name);
	page->n++;
	page->room -= len;
}

static bool
page_add_device(const struct vdpa_bus_entry *e, void *arg)
{
	page_add(arg, e->id, e->name);
	return true;
}

static int
page_add_mgmtdev(struct vdpa_mgmt_dev *mdev, void *arg)
{
	char name[VDPA_MGMTDEV_NAME_MAX];

	copy_string(name, sizeof(name), mdev->name);
	page_add(arg, mdev->id, name);
	return 0;
}

static void
fill_page(struct page *page, bool mgmtdevs)
{
	page->room = REPLY_TEXT_MAX;
	rte_tel_data_start_array(page->names, RTE_TEL_STRING_VAL);
	if (mgmtdevs)
		vdpa_mgmtdev_for_each(page_add_mgmtdev, page);
	else
		vdpa_bus_for_each(page_add_device, page);
}

/* Asked for by a number: an object with the names, how many there are, and what to ask for next. */
static int
reply_page(struct rte_tel_data *d, const char *params, bool mgmtdevs)
{
	struct page page = {.names = rte_tel_data_alloc()};
	char *end;

	if (page.names == NULL)
		return reply_pair(d, "error", "out of memory");
	page.from = strtoull(params, &end, 10);
	if (end == params || *params == '-' || end[strspn(end, " \t\r\n")] != '\0') {
		rte_tel_data_free(page.names);
		return reply_pair(
			d, "error",
			"a page is a number: 0 for the first, then what 'next' of each reply says");
	}
	fill_page(&page, mgmtdevs);
	rte_tel_data_start_dict(d);
	tel_add_dict_uint(d, "count", page.count);
	rte_tel_data_add_dict_container(d, "names", page.names, 0);
	if (page.next != 0)
		tel_add_dict_uint(d, "next", page.next);
	return 0;
}

/* Asked for without: an array of names, whose last entry says so where it is not all of them. */
static int
reply_list(const char *cmd, const char *params, struct rte_tel_data *d, bool mgmtdevs)
{
	struct page page = {.names = d};
	char text[RTE_TEL_MAX_STRING_LEN];

	if (params != NULL && params[strspn(params, " \t\r\n")] != '\0')
		return reply_page(d, params, mgmtdevs);
	fill_page(&page, mgmtdevs);
	if (page.next != 0) {
		snprintf(text, sizeof(text), "... and %u more: %s,%" PRIu64, page.left_off, cmd,
			 page.next);
		rte_tel_data_add_array_string(d, text);
	}
	return 0;
}

/* The name in "NAME" or "NAME,REST", blanks around it dropped, with its NUL within size bytes. */
static const char *
take_name(const char *params, char *name, size_t size, struct rte_tel_data *d)
{
	char text[80];

	const char *start = params != NULL ? params + strspn(params, " \t") : "";
	size_t len = strcspn(start, ", \t\r\n");

	if (len == 0 || len >= size) {
		snprintf(text, sizeof(text),
			 "a name of 1 to %zu characters is expected after the comma", size - 1);
		reply_pair(d, "error", text);
		return NULL;
	}
	memcpy(name, start, len);
	name[len] = '\0';
	return start + len;
}

static int
handle_mgmtdev_list(const char *cmd, const char *params, struct rte_tel_data *d)
{
	return reply_list(cmd, params, d, true);
}

static int
handle_mgmtdev_show(const char *cmd, const char *params, struct rte_tel_data *d)
{
	char name[VDPA_MGMTDEV_NAME_MAX];

	if (take_name(params, name, sizeof(name), d) == NULL)
		return 0;
	return reply_json(d, vdpa_mgmtdev_show_one(name));
}

static int
handle_dev_list(const char *cmd, const char *params, struct rte_tel_data *d)
{
	return reply_list(cmd, params, d, false);
}

static int
handle_dev_show(const char *cmd, const char *params, struct rte_tel_data *d)
{
	char name[VDPA_NAME_MAX];

	if (take_name(params, name, sizeof(name), d) == NULL)
		return 0;
	return reply_json(d, vdpa_dev_show(name));
}

/* Statistics that are not known, at any depth. */
static void
name_unknown(json_t *value)
{
	json_t *member;
	const char *key;
	size_t i;
	void *next;

	json_array_foreach(value, i, member) name_unknown(member);
	json_object_foreach_safe(value, next, key, member)
	{
		if (json_is_null(member))
			json_object_set_new(value, key, json_string("unknown"));
		else
			name_unknown(member);
	}
}

/* The statistics of the queue that "NAME,QUEUE" asks for; the reply is made. */
static int
reply_queue_stats(struct rte_tel_data *d, json_t *queues, const char *text)
{
	char *end;
	unsigned long queue = strtoul(text, &end, 10);

	if (end == text || *end != '\0' || queue >= json_array_size(queues)) {
		char message[64];

		snprintf(message, sizeof(message), "the queue must be a number below %zu",
			 json_array_size(queues));
		return reply_pair(d, "error", message);
	}
	return reply_object(d, json_array_get(queues, queue));
}

static int
handle_dev_stats(const char *cmd, const char *params, struct rte_tel_data *d)
{
	char name[VDPA_NAME_MAX];
	bool too_long = false;
	const char *rest;
	json_t *root;
	char *text;
	int ret;

	rest = take_name(params, name, sizeof(name), d);
	if (rest == NULL)
		return 0;
	text = vdpa_dev_stats(name);
	if (text != NULL)
		too_long = strlen(text) > REPLY_TEXT_MAX;
	root = parse(text);
	if (root == NULL)
		return reply_error(d);
	name_unknown(root);
	if (*rest == ',') {
		ret = reply_queue_stats(d, json_object_get(root, "queues"), rest + 1);
	} else {
		if (too_long)
			json_object_set_new(
				root, "queues",
				json_string("too many for one reply: ask for NAME,QUEUE"));
		ret = reply_object(d, root);
	}
	json_decref(root);
	return ret;
}

/* What changed devices here once: who asks is not known on this socket, so nobody is obeyed. */
static int
handle_change(const char *cmd, const char *params, struct rte_tel_data *d)
{
	char text[256];

	snprintf(text, sizeof(text),
		 "telemetry only reads: use vdpactl dev %s, or the method dev.%s of the control "
		 "socket",
		 cmd + sizeof(CHANGE_PREFIX) - 1, cmd + sizeof(CHANGE_PREFIX) - 1);
	return reply_pair(d, "error", text);
}

static const struct {
	const char *name;
	telemetry_cb handler;
	const char *help;
} commands[] = {
	{"/vdpa/mgmtdev/list", handle_mgmtdev_list,
	 "Returns the names of the management devices. Parameters: none, or PAGE (0, then next)"},
	{"/vdpa/mgmtdev/show", handle_mgmtdev_show,
	 "Returns what a management device can make. Parameters: NAME"},
	{"/vdpa/dev/list", handle_dev_list,
	 "Returns the names of the vDPA devices. Parameters: none, or PAGE (0, then next)"},
	{"/vdpa/dev/show", handle_dev_show, "Returns a vDPA device. Parameters: NAME"},
	{"/vdpa/dev/stats", handle_dev_stats,
	 "Returns the statistics of a vDPA device, or of one of its virtqueues. "
	 "Parameters: NAME[,QUEUE]"},
	{CHANGE_PREFIX "add", handle_change, "Refused: use vdpactl dev add"},
	{CHANGE_PREFIX "del", handle_change, "Refused: use vdpactl dev del"},
	{CHANGE_PREFIX "set", handle_change, "Refused: use vdpactl dev set"},
};

int
vdpa_telemetry_init(void)
{
	static bool registered;
	unsigned int i;
	int ret;

	if (registered)
		return 0;
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		ret = rte_telemetry_register_cmd(commands[i].name, commands[i].handler,
						 commands[i].help);
		if (ret < 0)
			return vdpa_error(ret, "cannot register the telemetry command %s: %s",
					  commands[i].name, strerror(-ret));
	}
	registered = true;
	return 0;
}
