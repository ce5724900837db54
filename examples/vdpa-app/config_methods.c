/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The daemon's own methods of the control socket. They are called on threads of the library,
 * several at once; what they do is reload.c's and config_file.c's.
 */

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <jansson.h>

#include <vdpa.h>
#include <vdpa_control.h>

#include "config_file.h"
#include "config_methods.h"
#include "reload.h"
#include "upgrade.h"

static int
give(json_t *object, char **result)
{
	*result = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	return *result != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

/* What a client sends is looked at only: plugins that it names are not loaded. */
static int
call_check(const char *params, char **result, void *arg)
{
	json_t *object = json_loads(params, 0, NULL), *list = json_array();
	const json_t *text = json_object_get(object, "text");
	struct app_mistakes mistakes = {.n = 0};
	struct app_config c = {.n_devs = 0};
	int rc;

	rc = app_config_read_text(&c, "text", json_string_value(text), json_string_length(text),
				  &mistakes);
	if (rc == 0)
		rc = app_config_check(&c, &mistakes);
	if (rc == 0)
		app_mistakes_sort(&mistakes);
	for (unsigned int i = 0; rc == 0 && i < mistakes.n; i++)
		json_array_append_new(list, json_pack("{s:i,s:s}", "line",
						      (int)mistakes.list[i].place.line, "message",
						      mistakes.list[i].text));
	if (rc == 0)
		rc = give(json_pack("{s:O,s:i}", "mistakes", list, "more", (int)mistakes.more),
			  result);
	json_decref(list);
	json_decref(object);
	app_mistakes_free(&mistakes);
	app_config_free(&c);
	return rc;
}

static int
call_reload(const char *params, char **result, void *arg)
{
	json_t *object;
	int rc = app_reload(&object);

	return rc == 0 ? give(object, result) : rc;
}

static int
call_save(const char *params, char **result, void *arg)
{
	char *text;
	int rc = app_reload_save(&text);

	if (rc < 0)
		return rc;
	rc = give(json_pack("{s:s}", "text", text), result);
	free(text);
	return rc;
}

/* As by hand, whatever --keep says: the main thread takes the signal when it next waits for one. */
static int
call_shutdown(const char *params, char **result, void *arg)
{
	if (kill(getpid(), SIGINT) < 0)
		return vdpa_error(errno, "kill: %m");
	return give(json_object(), result);
}

/* arg: whether it is only said what would be done. */
static int
call_upgrade(const char *params, char **result, void *arg)
{
	json_t *object = json_loads(params, 0, NULL), *done;
	const json_t *timeout = json_object_get(object, "timeout_s");
	const struct app_upgrade how = {
		.program = json_string_value(json_object_get(object, "program")),
		.force = json_is_true(json_object_get(object, "force")),
		.check = arg != NULL,
		.timeout_s =
			timeout != NULL ? (unsigned int)json_integer_value(timeout) : APP_UPGRADE_S,
	};
	int rc = app_upgrade(&how, &done);

	json_decref(object);
	return rc == 0 ? give(done, result) : rc;
}

static char only_checks;

#define NAMES "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}"

static const struct vdpa_control_method methods[] = {
	{
		.name = "config.check",
		/* Not for readers. */
		.changes = true,
		.help = "Look for mistakes in the text of a configuration file; drivers, plugins' "
			"among them, look at the parents that it names",
		.params = "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\","
			  "\"description\":\"as in a file: uvdpa.conf(5)\"}},"
			  "\"required\":[\"text\"],\"additionalProperties\":false}",
		.result = "{\"type\":\"object\",\"properties\":{\"mistakes\":{\"type\":\"array\","
			  "\"items\":{\"type\":\"object\",\"properties\":{"
			  "\"line\":{\"type\":\"integer\",\"minimum\":0},"
			  "\"message\":{\"type\":\"string\"}},"
			  "\"required\":[\"line\",\"message\"]}},"
			  "\"more\":{\"type\":\"integer\",\"minimum\":0,"
			  "\"description\":\"mistakes beyond those\"}},"
			  "\"required\":[\"mistakes\",\"more\"]}",
		.call = call_check,
	},
	{
		.name = "config.reload",
		.help = "Read the configuration files again and apply what is different",
		.result = "{\"type\":\"object\",\"properties\":{\"added\":" NAMES
			  ",\"removed\":" NAMES ",\"changed\":" NAMES
			  ",\"kept\":{\"type\":\"integer\",\"minimum\":0},"
			  "\"failed\":{\"type\":\"array\",\"items\":{\"type\":\"object\","
			  "\"properties\":{\"name\":{\"type\":\"string\"},"
			  "\"error\":{\"type\":\"string\"}},\"required\":[\"name\",\"error\"]}},"
			  "\"next_start\":" NAMES "},\"required\":[\"added\",\"removed\","
			  "\"changed\",\"kept\",\"failed\",\"next_start\"]}",
		.changes = true,
		.call = call_reload,
	},
	{
		.name = "config.save",
		.help = "What runs now as the text of a configuration file",
		.result = "{\"type\":\"object\",\"properties\":{\"text\":{\"type\":\"string\"}},"
			  "\"required\":[\"text\"]}",
		.call = call_save,
	},
	{
		.name = "daemon.shutdown",
		.help = "End the daemon with all of its devices: none is left to the next one",
		.result = "{\"type\":\"object\",\"additionalProperties\":false}",
		.changes = true,
		.call = call_shutdown,
	},
	{
		.name = "daemon.upgrade",
		.help = "Start another daemon, hand the devices over to it, and end",
		.params = "{\"type\":\"object\",\"properties\":{\"program\":{\"type\":\"string\","
			  "\"minLength\":1,\"maxLength\":4095,\"description\":"
			  "\"its absolute path; without it, the daemon's own\"},"
			  "\"force\":{\"type\":\"boolean\","
			  "\"description\":\"also if devices start anew\"},"
			  "\"timeout_s\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":600,"
			  "\"description\":\"for its start, and again for the take-over; 30\"}},"
			  "\"additionalProperties\":false}",
		.result = "{\"type\":\"object\",\"properties\":{"
			  "\"pid\":{\"type\":\"integer\"},\"program\":{\"type\":\"string\"},"
			  "\"version\":{\"type\":\"string\"},"
			  "\"devices\":{\"type\":\"integer\",\"minimum\":0,"
			  "\"description\":\"that went over\"},\"anew\":" NAMES ",\"lost\":" NAMES
			  ",\"gap_ms\":{\"type\":\"integer\",\"minimum\":0,"
			  "\"description\":\"for which they stood still\"}},\"required\":[\"pid\","
			  "\"program\",\"version\",\"devices\",\"anew\",\"lost\",\"gap_ms\"]}",
		.changes = true,
		.call = call_upgrade,
	},
	{
		.name = "daemon.upgrade_check",
		.help = "Which devices would go on in an upgrade: another daemon is started, asked "
			"and ended",
		.params = "{\"type\":\"object\",\"properties\":{\"program\":{\"type\":\"string\","
			  "\"minLength\":1,\"maxLength\":4095,\"description\":"
			  "\"its absolute path; without it, the daemon's own\"},"
			  "\"timeout_s\":{\"type\":\"integer\",\"minimum\":1,\"maximum\":60,"
			  "\"description\":\"for its start; 30\"}},"
			  "\"additionalProperties\":false}",
		.result = "{\"type\":\"object\",\"properties\":{\"program\":{\"type\":\"string\"},"
			  "\"version\":{\"type\":\"string\"},\"devices\":{\"type\":\"array\","
			  "\"items\":{\"type\":\"object\",\"properties\":{"
			  "\"name\":{\"type\":\"string\"},\"goes_on\":{\"type\":\"boolean\"},"
			  "\"why\":{\"type\":\"string\",\"description\":\"it does not\"},"
			  "\"lost\":{\"type\":\"boolean\",\"description\":"
			  "\"--force would not start it anew: no configuration has it\"}},"
			  "\"required\":[\"name\",\"goes_on\"]}}},"
			  "\"required\":[\"program\",\"version\",\"devices\"]}",
		/* It starts a program. */
		.changes = true,
		.call = call_upgrade,
		.arg = &only_checks,
	},
};

int
app_config_methods_add(void)
{
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && i < sizeof(methods) / sizeof(methods[0]); i++)
		rc = vdpa_control_add_method(&methods[i]);
	return rc;
}

void
app_config_methods_remove(void)
{
	for (unsigned int i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		vdpa_control_remove_method(methods[i].name);
}
