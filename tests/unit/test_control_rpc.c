/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* JSON-RPC on the control socket: what is a request, which error becomes which code, and methods of
 * an application's own. No socket: lines go to the service as a connection hands them over. */

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "conn.h"
#include "methods.h"
#include "rpc.h"
#include "test_util.h"
#include "vdpa_control.h"
#include "vdpa_error.h"

static struct control_server server = {
	.setup =
		{.service = &control_rpc_service,
		 .limits = {.connections = 32, .per_user = 8, .request_ms = 10000, .output = 4096}},
};
static struct control_conn conn = {.server = &server, .right = CONTROL_RIGHT_FULL, .uid = 1000};

/* The reply to a line, parsed; NULL: there is none. */
static json_t *
ask(const char *line)
{
	char *text = control_rpc_service.serve(&conn, line, strlen(line));
	json_t *reply;

	if (text == NULL)
		return NULL;
	assert_null(strchr(text, '\n'));
	reply = json_loads(text, 0, NULL);
	assert_non_null(reply);
	assert_string_equal(json_string_value(json_object_get(reply, "jsonrpc")), "2.0");
	free(text);
	return reply;
}

static int
code_of(const json_t *reply)
{
	const json_t *error = json_object_get(reply, "error");

	assert_true((error != NULL) != (json_object_get(reply, "result") != NULL));
	return (int)json_integer_value(json_object_get(error, "code"));
}

static const char *
message_of(const json_t *reply)
{
	return json_string_value(json_object_get(json_object_get(reply, "error"), "message"));
}

/* The code of a line's reply, and part of its message. */
static void
fails(const char *line, int code, const char *part)
{
	json_t *reply = ask(line);

	assert_non_null(reply);
	if (code_of(reply) != code || strstr(message_of(reply), part) == NULL)
		fail_msg("%s: %d, %s", line, code_of(reply), message_of(reply));
	json_decref(reply);
}

/* A method that fails with what it is asked for and says so, or repeats its params. */
static int
echo(const char *params, char **result, void *arg)
{
	json_t *root = json_loads(params, 0, NULL);
	const char *text = json_string_value(json_object_get(root, "text"));
	int err = (int)json_integer_value(json_object_get(root, "err"));
	unsigned int *calls = arg;

	__atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST);
	if (err != 0)
		vdpa_error(err, "%s", text != NULL ? text : "net0: queue 1: as asked for");
	json_decref(root);
	if (err != 0)
		return -err;
	*result = strdup(params);
	return 0;
}

static unsigned int calls;
static const struct vdpa_control_method echo_method = {
	.name = "test.echo",
	.help = "repeats",
	.params = "{\"type\":\"object\",\"properties\":{\"err\":{\"type\":\"integer\"}}}",
	.result = "{\"type\":\"object\"}",
	.changes = true,
	.call = echo,
	.arg = &calls,
};

static int
setup(void **state)
{
	return control_methods_init() < 0 || vdpa_control_add_method(&echo_method) < 0;
}

static int
teardown(void **state)
{
	vdpa_control_remove_method("test.echo");
	return 0;
}

static void
a_request_is_answered_with_its_id_whatever_that_is(void **state)
{
	static const char *const ids[] = {"7", "\"seven\"", "-1", "\"\"", "9007199254740993"};
	char line[256];

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		json_t *reply, *id = json_loads(ids[i], JSON_DECODE_ANY, NULL);

		snprintf(line, sizeof(line),
			 "{\"jsonrpc\":\"2.0\",\"id\":%s,\"method\":\"test.echo\",\"params\":"
			 "{\"a\":[1]}}",
			 ids[i]);
		reply = ask(line);
		assert_true(json_equal(json_object_get(reply, "id"), id));
		assert_int_equal(code_of(reply), 0);
		assert_int_equal(
			json_array_size(json_object_get(json_object_get(reply, "result"), "a")), 1);
		json_decref(reply);
		json_decref(id);
	}
}

static void
a_notification_is_carried_out_and_not_answered(void **state)
{
	unsigned int before = calls;

	assert_null(ask("{\"jsonrpc\":\"2.0\",\"method\":\"test.echo\"}"));
	assert_int_equal(calls, before + 1);
	/* Not even where it fails. */
	assert_null(ask("{\"jsonrpc\":\"2.0\",\"method\":\"test.echo\",\"params\":{\"err\":5}}"));
	assert_null(ask("{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}"));
}

static void
what_is_no_json_is_a_parse_error(void **state)
{
	fails("{", CONTROL_PARSE, "no JSON");
	fails("}{", CONTROL_PARSE, "no JSON");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"id\":2}", CONTROL_PARSE, "duplicate");
	fails("\"\\u0000\"", CONTROL_PARSE, "no JSON");
	fails("{\"a\":\"\xff\"}", CONTROL_PARSE, "no JSON");
	fails("{} {}", CONTROL_PARSE, "no JSON");
	assert_null(ask(""));
	assert_null(ask(" \t\r"));
}

static void
what_is_no_request_is_refused_by_the_member_that_is_wrong(void **state)
{
	fails("[]", CONTROL_INVALID_REQUEST, "batches");
	fails("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\"}]", CONTROL_INVALID_REQUEST,
	      "batches");
	fails("7", CONTROL_INVALID_REQUEST, "object");
	fails("{}", CONTROL_INVALID_REQUEST, "jsonrpc");
	fails("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"version\"}", CONTROL_INVALID_REQUEST,
	      "jsonrpc");
	fails("{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"version\"}", CONTROL_INVALID_REQUEST,
	      "id");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1.5,\"method\":\"version\"}", CONTROL_INVALID_REQUEST,
	      "id");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1}", CONTROL_INVALID_REQUEST, "method");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"params\":[]}",
	      CONTROL_INVALID_REQUEST, "params");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"parms\":{}}",
	      CONTROL_INVALID_REQUEST, "'parms'");
}

static void
methods_and_params_that_there_are_not_are_named(void **state)
{
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.sho\"}", CONTROL_NO_METHOD,
	      "'dev.sho'");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.del\"}", CONTROL_INVALID_PARAMS,
	      "'name' is missing");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.show\",\"params\":{\"nam\":\"a\"}}",
	      CONTROL_INVALID_PARAMS, "'nam' is not known: allowed are name");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"version\",\"params\":{\"a\":1}}",
	      CONTROL_INVALID_PARAMS, "there is none");
}

static void
every_errno_has_one_code_and_its_name_and_message(void **state)
{
	static const struct {
		int err, code;
		const char *name;
	} rows[] = {
		{EACCES, -32001, "EACCES"},
		{ENODEV, -32002, "ENODEV"},
		{EEXIST, -32003, "EEXIST"},
		{EADDRINUSE, -32003, "EADDRINUSE"},
		{EBUSY, -32004, "EBUSY"},
		{EAGAIN, -32004, "EAGAIN"},
		{EOPNOTSUPP, -32005, "EOPNOTSUPP"},
		{EINVAL, -32006, "EINVAL"},
		{ENOMEM, -32007, "ENOMEM"},
		{EMFILE, -32007, "EMFILE"},
		{ENOSPC, -32007, "ENOSPC"},
		{ETIMEDOUT, -32008, "ETIMEDOUT"},
		{EIO, -32009, "EIO"},
		{ESHUTDOWN, -32009, "ESHUTDOWN"},
	};
	char line[128];

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		json_t *reply, *data;

		snprintf(line, sizeof(line),
			 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.echo\",\"params\":"
			 "{\"err\":%d}}",
			 rows[i].err);
		reply = ask(line);
		assert_int_equal(code_of(reply), rows[i].code);
		assert_string_equal(message_of(reply), "net0: queue 1: as asked for");
		data = json_object_get(json_object_get(reply, "error"), "data");
		assert_string_equal(json_string_value(json_object_get(data, "errno")),
				    rows[i].name);
		json_decref(reply);
	}
}

static void
a_reader_is_refused_what_changes_something_and_nothing_else(void **state)
{
	unsigned int before = calls;

	conn.right = CONTROL_RIGHT_READ;
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.echo\"}", CONTROL_DENIED,
	      "user 1000 may only look");
	assert_null(ask("{\"jsonrpc\":\"2.0\",\"method\":\"test.echo\"}"));
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.del\",\"params\":{\"name\":\"a\"}}",
	      CONTROL_DENIED, "dev.del");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.show\",\"params\":{\"name\":\"a\"}}",
	      CONTROL_NO_OBJECT, "'a'");
	conn.right = CONTROL_RIGHT_FULL;
	assert_int_equal(calls, before);
}

static void
an_answer_that_is_too_long_is_an_error_in_its_place(void **state)
{
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"methods\"}", CONTROL_NO_RESOURCES,
	      "longer than 4096 bytes");
}

static void
a_message_that_was_cut_within_a_character_is_sent_all_the_same(void **state)
{
	char line[1024], name[700];

	/* Two bytes each, so that the message ends in the middle of one whatever stands before. */
	for (size_t i = 0; i < sizeof(name) - 1; i += 2)
		memcpy(name + i, "\xc3\xa9", 2);
	name[sizeof(name) - 2] = '\0';
	for (unsigned int pad = 0; pad < 2; pad++) {
		snprintf(line, sizeof(line),
			 "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.echo\",\"params\":"
			 "{\"err\":%d,\"text\":\"%s%s\"}}",
			 EINVAL, pad == 0 ? "" : "x", name);
		fails(line, CONTROL_INVALID_WORDS, "...");
	}
}

static void
a_method_is_added_once_and_with_a_schema_that_is_obeyed(void **state)
{
	struct vdpa_control_method m = echo_method;

	assert_int_equal(vdpa_control_add_method(&m), -EEXIST);
	m.name = "dev.show";
	assert_int_equal(vdpa_control_add_method(&m), -EEXIST);
	m.name = "Test";
	assert_int_equal(vdpa_control_add_method(&m), -EINVAL);
	m.name = NULL;
	assert_int_equal(vdpa_control_add_method(&m), -EINVAL);
	m.name = "test.other";
	m.params = "{\"type\":\"object\"";
	assert_int_equal(vdpa_control_add_method(&m), -EINVAL);
	m.params = "{\"type\":\"string\"}";
	assert_int_equal(vdpa_control_add_method(&m), -EINVAL);
	m.params = "{\"type\":\"object\",\"patternProperties\":{}}";
	assert_int_equal(vdpa_control_add_method(&m), -EINVAL);
	m.params = NULL;
	assert_int_equal(vdpa_control_add_method(&m), 0);
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.other\",\"params\":{\"a\":1}}",
	      CONTROL_INVALID_PARAMS, "there is none");
	vdpa_control_remove_method("test.other");
	vdpa_control_remove_method("test.other");
	vdpa_control_remove_method("dev.show");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.other\"}", CONTROL_NO_METHOD,
	      "test.other");
	fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"dev.show\",\"params\":{\"name\":\"a\"}}",
	      CONTROL_NO_OBJECT, "");
}

static void
methods_of_an_application_are_bounded(void **state)
{
	static char names[VDPA_CONTROL_METHODS_MAX][16];
	struct vdpa_control_method m = echo_method;
	unsigned int n = 0;

	for (; n < VDPA_CONTROL_METHODS_MAX; n++) {
		snprintf(names[n], sizeof(names[n]), "test.m%u", n);
		m.name = names[n];
		if (vdpa_control_add_method(&m) < 0)
			break;
	}
	/* One was there already. */
	assert_int_equal(n, VDPA_CONTROL_METHODS_MAX - 1);
	assert_int_equal(vdpa_control_add_method(&m), -ENOSPC);
	while (n-- > 0)
		vdpa_control_remove_method(names[n]);
}

static int
not_json(const char *params, char **result, void *arg)
{
	*result = strdup(arg);
	return 0;
}

static void
an_answer_of_an_application_that_is_no_object_is_a_failure(void **state)
{
	static const char *const bad[] = {"{", "[]", "7", ""};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const struct vdpa_control_method m = {
			.name = "test.bad", .call = not_json, .arg = (void *)(uintptr_t)bad[i]};

		assert_int_equal(vdpa_control_add_method(&m), 0);
		fails("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.bad\"}", CONTROL_FAILED,
		      "no JSON object");
		vdpa_control_remove_method("test.bad");
	}
}

struct slow {
	bool began, go_on, removed;
};

static int
wait_here(const char *params, char **result, void *arg)
{
	struct slow *slow = arg;

	__atomic_store_n(&slow->began, true, __ATOMIC_RELEASE);
	EVENTUALLY(__atomic_load_n(&slow->go_on, __ATOMIC_ACQUIRE));
	return 0;
}

static void *
call_slow(void *arg)
{
	json_decref(ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"test.slow\"}"));
	return NULL;
}

static void *
remove_slow(void *arg)
{
	struct slow *slow = arg;

	vdpa_control_remove_method("test.slow");
	__atomic_store_n(&slow->removed, true, __ATOMIC_RELEASE);
	return NULL;
}

static void
a_method_is_not_taken_away_while_it_runs(void **state)
{
	struct slow slow = {.began = false};
	const struct vdpa_control_method m = {.name = "test.slow", .call = wait_here, .arg = &slow};
	pthread_t caller, remover;

	assert_int_equal(vdpa_control_add_method(&m), 0);
	pthread_create(&caller, NULL, call_slow, NULL);
	EVENTUALLY(__atomic_load_n(&slow.began, __ATOMIC_ACQUIRE));
	pthread_create(&remover, NULL, remove_slow, &slow);
	usleep(20000);
	assert_false(__atomic_load_n(&slow.removed, __ATOMIC_ACQUIRE));
	__atomic_store_n(&slow.go_on, true, __ATOMIC_RELEASE);
	pthread_join(caller, NULL);
	pthread_join(remover, NULL);
	assert_true(slow.removed);
}

static void
every_refusal_says_what_is_allowed(void **state)
{
	static const struct {
		enum control_refusal why;
		int code;
		const char *part;
	} rows[] = {
		{CONTROL_REFUSED_RIGHT, CONTROL_DENIED, "permission denied"},
		{CONTROL_REFUSED_USER, CONTROL_NO_RESOURCES, "8 connections of one user"},
		{CONTROL_REFUSED_NUMBER, CONTROL_NO_RESOURCES, "32 connections"},
		{CONTROL_REFUSED_LONG, CONTROL_INVALID_REQUEST, "65536 bytes"},
		{CONTROL_REFUSED_SLOW, CONTROL_INVALID_REQUEST, "10000 ms"},
		{CONTROL_REFUSED_FILES, CONTROL_INVALID_REQUEST, "file descriptors"},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *text = control_rpc_service.refuse(rows[i].why, &server);
		json_t *reply = json_loads(text, 0, NULL);

		assert_int_equal(code_of(reply), rows[i].code);
		assert_non_null(strstr(message_of(reply), rows[i].part));
		assert_true(json_is_null(json_object_get(reply, "id")));
		json_decref(reply);
		free(text);
	}
}

static void
an_application_has_its_own_events_only(void **state)
{
	assert_int_equal(vdpa_control_emit("config.reloaded", "{\"kept\":1}"), 0);
	assert_int_equal(vdpa_control_emit("config.reloaded", NULL), 0);
	assert_int_equal(vdpa_control_emit("config.reloaded", "[]"), -EINVAL);
	assert_int_equal(vdpa_control_emit("config.reloaded", "{"), -EINVAL);
	assert_int_equal(vdpa_control_emit("device.added", NULL), -EINVAL);
}

/* What the schema of events.subscribe allows and what there is are the same. */
static void
every_event_can_be_subscribed_to_by_its_name(void **state)
{
	struct control_method *m = control_method_get("events.subscribe");
	json_t *names, *reply;

	names = json_object_get(json_object_get(m->params, "properties"), "events");
	names = json_object_get(json_object_get(names, "items"), "enum");
	reply = ask("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"events.subscribe\"}");
	assert_true(json_equal(json_object_get(json_object_get(reply, "result"), "events"), names));
	control_method_put(m);
	json_decref(reply);
	conn.changes = false;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_request_is_answered_with_its_id_whatever_that_is),
		cmocka_unit_test(a_notification_is_carried_out_and_not_answered),
		cmocka_unit_test(what_is_no_json_is_a_parse_error),
		cmocka_unit_test(what_is_no_request_is_refused_by_the_member_that_is_wrong),
		cmocka_unit_test(methods_and_params_that_there_are_not_are_named),
		cmocka_unit_test(every_errno_has_one_code_and_its_name_and_message),
		cmocka_unit_test(a_reader_is_refused_what_changes_something_and_nothing_else),
		cmocka_unit_test(an_answer_that_is_too_long_is_an_error_in_its_place),
		cmocka_unit_test(a_message_that_was_cut_within_a_character_is_sent_all_the_same),
		cmocka_unit_test(a_method_is_added_once_and_with_a_schema_that_is_obeyed),
		cmocka_unit_test(methods_of_an_application_are_bounded),
		cmocka_unit_test(an_answer_of_an_application_that_is_no_object_is_a_failure),
		cmocka_unit_test(a_method_is_not_taken_away_while_it_runs),
		cmocka_unit_test(every_refusal_says_what_is_allowed),
		cmocka_unit_test(an_application_has_its_own_events_only),
		cmocka_unit_test(every_event_can_be_subscribed_to_by_its_name),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
