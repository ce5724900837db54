/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The library's methods: their table, with the schemas of params and results, and what each does by
 * the public API. doc/control-protocol.md is about the same rows; tests compare.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <rte_version.h>

#include "bus.h"
#include "device_priv.h"
#include "events.h"
#include "identity.h"
#include "methods.h"
#include "mgmt.h"
#include "vdpa.h"

/* Names that dev.list gives at once, unless fewer are asked for. */
#define LIST_MAX 1000

static const char *
string_of(const json_t *params, const char *member)
{
	return json_string_value(json_object_get(params, member));
}

/* {"KEY": {NAME: object}}, or of all; from the library's own text, which it frees. text NULL: its
 * error is in errno. */
static int
result_of(const char *key, const char *name, char *text, json_t **result)
{
	json_t *root, *all;
	int err = errno;

	if (text == NULL)
		return -err;
	root = json_loads(text, 0, NULL);
	free(text);
	if (root == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	all = root;
	if (name != NULL) {
		all = json_object();
		json_object_set_new(all, name, root);
	}
	*result = json_pack("{s:o}", key, all);
	return *result != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

static int
show_version(struct control_conn *conn, const json_t *params, json_t **result)
{
	*result = json_pack("{s:s, s:s, s:i, s:i, s:s}", "program", control_program(), "version",
			    control_version(), "protocol", VDPA_CONTROL_PROTOCOL, "pid",
			    (int)getpid(), "dpdk", rte_version());
	return 0;
}

static int
list_methods(struct control_conn *conn, const json_t *params, json_t **result)
{
	*result = json_pack("{s:o}", "methods", control_methods_list());
	return 0;
}

static int
show_mgmtdev(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");

	return result_of("mgmtdev", name,
			 name != NULL ? vdpa_mgmtdev_show_one(name) : vdpa_mgmtdev_show(), result);
}

/* Names behind one, as many as are asked for and one more. */
struct names {
	const char *after; /* NULL: from the first on */
	const char **name;
	size_t n, size;
	bool full; /* out of memory */
};

static bool
collect(const struct vdpa_bus_entry *e, void *arg)
{
	struct names *names = arg;

	if (names->after != NULL && strcmp(e->name, names->after) <= 0)
		return true;
	if (names->n == names->size) {
		size_t size = names->size == 0 ? 64 : 2 * names->size;
		const char **name = reallocarray(names->name, size, sizeof(*name));

		if (name == NULL) {
			names->full = true;
			return false;
		}
		names->name = name;
		names->size = size;
	}
	names->name[names->n] = strdup(e->name);
	names->full = names->name[names->n] == NULL;
	names->n += !names->full;
	return !names->full;
}

static int
compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* In the order of the names, so that a client of several pages misses none that stays. */
static int
list_devices(struct control_conn *conn, const json_t *params, json_t **result)
{
	const json_t *limit = json_object_get(params, "limit");
	size_t max = limit != NULL ? (size_t)json_integer_value(limit) : LIST_MAX;
	struct names names = {.after = string_of(params, "after")};
	json_t *list = json_array();

	vdpa_bus_for_each(collect, &names);
	if (names.n > 0)
		qsort(names.name, names.n, sizeof(*names.name), compare);
	for (size_t i = 0; i < names.n; i++) {
		if (i < max)
			json_array_append_new(list, json_string(names.name[i]));
		free((char *)(uintptr_t)names.name[i]);
	}
	free(names.name);
	if (names.full) {
		json_decref(list);
		return vdpa_error(ENOMEM, "out of memory");
	}
	*result = json_pack("{s:o, s:b}", "names", list, "more", (int)(names.n > max));
	return 0;
}

static int
show_device(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");

	return result_of("dev", name, vdpa_dev_show(name), result);
}

static int
show_config(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");

	return result_of("config", name, vdpa_dev_config(name), result);
}

static int
show_vstats(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");
	json_int_t qidx = json_integer_value(json_object_get(params, "qidx"));

	return result_of("vstats", name, vdpa_dev_vstats(name, (unsigned int)qidx), result);
}

static int
show_stats(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");

	return result_of("stats", name, vdpa_dev_stats(name), result);
}

static int
add_device(struct control_conn *conn, const json_t *params, json_t **result)
{
	return vdpa_dev_add(string_of(params, "words"));
}

static int
delete_device(struct control_conn *conn, const json_t *params, json_t **result)
{
	return vdpa_dev_del(string_of(params, "name"));
}

static int
set_device(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *name = string_of(params, "name");
	char *words;
	int rc;

	/* It is one word, and not the first of several. */
	if (!vdpa_name_is_valid(name))
		return vdpa_error(ENODEV, "device '%s': there is none of that name", name);
	if (asprintf(&words, "%s %s", name, string_of(params, "words")) < 0)
		return vdpa_error(ENOMEM, "out of memory");
	rc = vdpa_dev_set(words);
	free(words);
	return rc;
}

static int
show_words(struct control_conn *conn, const json_t *params, json_t **result)
{
	char *text = vdpa_words_help();

	if (text == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	*result = json_pack("{s:s}", "text", text);
	free(text);
	return *result != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

/* Schemas, with ' for ". */
#define OBJECT(properties)  "{'type':'object','additionalProperties':false," properties "}"
#define PROPERTIES(members) "'properties':{" members "}"
#define REQUIRED(names)	    ",'required':[" names "]"
#define STRING		    "{'type':'string'}"
#define INTEGER		    "{'type':'integer'}"
#define BOOLEAN		    "{'type':'boolean'}"
#define NAME		    "{'type':'string','minLength':1,'maxLength':63,'description':'a device'}"
#define WORDS		    "{'type':'string','maxLength':65536,'description':'as words.help has them'}"
#define ONE_NAME	    OBJECT(PROPERTIES("'name':" NAME) REQUIRED("'name'"))
#define MAYBE_NAME	    OBJECT(PROPERTIES("'name':" NAME))
#define BY_NAME(key, of)                                                                           \
	OBJECT(PROPERTIES("'" key "':{'type':'object','additionalProperties':" of "}")             \
		       REQUIRED("'" key "'"))
/* A name, or the number of a bit that has none. */
#define FEATURES "{'type':'array','items':{'type':['string','integer']}}"
#define EVENTS                                                                                     \
	"{'type':'array','items':{'type':'string','enum':['device.added','device.removed',"        \
	"'device.connected','device.disconnected','device.started','device.stopped',"              \
	"'device.failed','device.link','device.migration','config.reloaded']}}"

#define MGMTDEV                                                                                    \
	OBJECT(PROPERTIES("'supported_classes':{'type':'array','items':" STRING "},"               \
			  "'max_supported_vqs':" INTEGER ",'dev_features':" FEATURES               \
			  ",'features':" STRING ",'help':" STRING)                                 \
		       REQUIRED("'supported_classes','max_supported_vqs','dev_features','"         \
				"features',"                                                       \
				"'help'"))

/* What is not known of a device that is being added or removed is not there. */
#define DEVICE                                                                                     \
	"{'type':'object','properties':{'type':" STRING ",'mgmtdev':{'type':['string','null']},"   \
	"'vendor_id':" INTEGER ",'max_vqs':" INTEGER ",'max_vq_size':" INTEGER ","                 \
	"'state':{'type':'string','enum':['adding','idle','configuring','running','suspended',"    \
	"'failed','removed','removing']},'status':" STRING ",'failure':" STRING ","                \
	"'driver':" STRING ",'frontend':{'type':['string','null']},'frontend_info':" STRING ","    \
	"'frontend_words':{'type':'object','additionalProperties':" STRING "},"                    \
	"'socket':" STRING ",'socket_mode':{'type':'string','enum':['server','client']},"          \
	"'device_features':" STRING ",'negotiated_features':" STRING ","                           \
	"'device_features_names':" FEATURES ",'negotiated_features_names':" FEATURES ","           \
	"'mac':" STRING ",'link':{'type':'string','enum':['up','down']},'max_vq_pairs':" INTEGER   \
	",'mtu':" INTEGER ",'capacity':" INTEGER ",'block_size':" INTEGER ",'read_only':" BOOLEAN  \
	",'vm':" STRING ",'vm_devices':" INTEGER ",'doorbells':" STRING ",'start_us':" INTEGER "," \
	"'dma':{'type':'object','additionalProperties':" INTEGER "},"                              \
	"'page_holder':{'type':'object'},"                                                         \
	"'restart':" OBJECT(                                                                       \
		PROPERTIES("'goes_on':" BOOLEAN ",'why':" STRING ",'ends_by_kill':" STRING)        \
			REQUIRED(                                                                  \
				"'goes_on'")) ","                                                  \
					      "'migration':" OBJECT(PROPERTIES(                    \
						      "'mode':" STRING ",'logging':" BOOLEAN       \
						      ",'log':" STRING)) "},"                      \
									 "'required':['mgmtdev','" \
									 "frontend','state']}"

/* The very members of iproute2's vdpa. */
#define CONFIG                                                                                     \
	OBJECT(PROPERTIES("'mac':" STRING ",'link ':{'type':'string','enum':['up','down']},"       \
			  "'link_announce ':" BOOLEAN ",'max_vq_pairs':" INTEGER ",'mtu':" INTEGER \
			  ",'negotiated_features':" FEATURES))
#define VSTATS                                                                                     \
	OBJECT(PROPERTIES("'queue_type':{'type':'string','enum':['rx','tx','control_vq']},"        \
			  "'received_desc':" INTEGER ",'completed_desc':" INTEGER)                 \
		       REQUIRED("'queue_type','received_desc','completed_desc'"))
#define STATS                                                                                      \
	"{'type':'object','properties':{'device':{'type':'object'},"                               \
	"'queues':{'type':'array','items':{'type':'object'}},'migration':{'type':'object'}},"      \
	"'required':['queues']}"

#define METHOD                                                                                     \
	OBJECT(PROPERTIES("'name':" STRING ",'help':" STRING ",'changes':" BOOLEAN                 \
			  ",'params':{'type':'object'},'result':{'type':'object'}")                \
		       REQUIRED("'name','help','changes','params','result'"))

const struct control_builtin control_builtins[] = {
	{
		.name = "version",
		.help = "the program, its version and process",
		.result = OBJECT(
			PROPERTIES("'program':" STRING ",'version':" STRING ",'protocol':" INTEGER
				   ",'pid':" INTEGER ",'dpdk':" STRING)
				REQUIRED("'program','version','protocol','pid','dpdk'")),
		.call = show_version,
	},
	{
		.name = "methods",
		.help = "the methods that there are, with the schemas of params and result",
		.result = OBJECT(PROPERTIES("'methods':{'type':'array','items':" METHOD "}")
					 REQUIRED("'methods'")),
		.call = list_methods,
	},
	{
		.name = "mgmtdev.show",
		.help = "what makes devices, and what each can make",
		.params =
			OBJECT(PROPERTIES("'name':{'type':'string','minLength':1,"
					  "'maxLength':117,'description':'a management device'}")),
		.result = BY_NAME("mgmtdev", MGMTDEV),
		.call = show_mgmtdev,
	},
	{
		.name = "dev.list",
		.help = "the names of devices, sorted, a page of them",
		.params = OBJECT(PROPERTIES("'after':" NAME ",'limit':{'type':'integer',"
					    "'minimum':1,'maximum':1000}")),
		.result = OBJECT(PROPERTIES("'names':{'type':'array','items':" STRING
					    "},'more':" BOOLEAN) REQUIRED("'names','more'")),
		.call = list_devices,
	},
	{
		.name = "dev.show",
		.help = "a device, or all",
		.params = MAYBE_NAME,
		.result = BY_NAME("dev", DEVICE),
		.call = show_device,
	},
	{
		.name = "dev.config",
		.help = "the configuration of a network device, or of all; {} for others",
		.params = MAYBE_NAME,
		.result = BY_NAME("config", CONFIG),
		.call = show_config,
	},
	{
		.name = "dev.vstats",
		.help = "the descriptors that a queue of a network device has taken and given back",
		.params = OBJECT(PROPERTIES("'name':" NAME ",'qidx':{'type':'integer','minimum':0,"
					    "'maximum':65535}") REQUIRED("'name','qidx'")),
		.result = BY_NAME("vstats", VSTATS),
		.call = show_vstats,
	},
	{
		.name = "dev.stats",
		.help = "the statistics of a device and its queues, or of all",
		.params = MAYBE_NAME,
		.result = BY_NAME("stats", STATS),
		.call = show_stats,
	},
	{
		.name = "dev.add",
		.help = "make a device of words, such as: name net0 mgmtdev sim_net",
		.params = OBJECT(PROPERTIES("'words':" WORDS) REQUIRED("'words'")),
		.changes = true,
		.call = add_device,
	},
	{
		.name = "dev.del",
		.help = "stop and remove a device",
		.params = ONE_NAME,
		.changes = true,
		.call = delete_device,
	},
	{
		.name = "dev.set",
		.help = "change attributes of a device by words, such as: link down",
		.params = OBJECT(PROPERTIES("'name':" NAME ",'words':" WORDS)
					 REQUIRED("'name','words'")),
		.changes = true,
		.call = set_device,
	},
	{
		.name = "words.help",
		.help = "every management device, driver and front end with its words, as text",
		.result = OBJECT(PROPERTIES("'text':" STRING) REQUIRED("'text'")),
		.call = show_words,
	},
	{
		.name = "events.subscribe",
		.help = "be sent events from now on: those named, or all; in place of those before",
		.params = OBJECT(PROPERTIES("'events':" EVENTS)),
		.result = OBJECT(PROPERTIES("'events':" EVENTS) REQUIRED("'events'")),
		.call = control_events_subscribe,
	},
	{
		.name = "events.unsubscribe",
		.help = "be sent no events any more",
		.call = control_events_unsubscribe,
	},
	{.name = NULL},
};
