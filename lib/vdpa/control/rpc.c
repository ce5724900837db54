/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * JSON-RPC 2.0: a line becomes a request that is checked, a call, and a reply. Owns nothing.
 *
 * A request has an id, which the reply repeats, or is a notification, which is carried out and not
 * answered. Its params are an object, which is checked by the method's schema. Batches are refused.
 */

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "frame.h"
#include "methods.h"
#include "rpc.h"
#include "schema.h"

enum control_code
control_code_of(int err)
{
	switch (abs(err)) {
	case EPERM:
	case EACCES:
		return CONTROL_DENIED;
	case ENODEV:
	case ENOENT:
		return CONTROL_NO_OBJECT;
	case EEXIST:
	case EADDRINUSE:
		return CONTROL_EXISTS;
	case EBUSY:
	case EAGAIN:
		return CONTROL_BUSY;
	case EOPNOTSUPP:
		return CONTROL_NOT_SUPPORTED;
	case EINVAL:
		return CONTROL_INVALID_WORDS;
	case ENOMEM:
	case EMFILE:
	case ENFILE:
	case ENOSPC:
		return CONTROL_NO_RESOURCES;
	case ETIMEDOUT:
		return CONTROL_TIMED_OUT;
	default:
		return CONTROL_FAILED;
	}
}

/* A text that a message has, whatever bytes are in it: words may have been cut. */
static json_t *
string_of(const char *text)
{
	json_t *string = json_string(text);
	char *copy;

	if (string != NULL)
		return string;
	copy = strdup(text);
	for (char *c = copy; c != NULL && *c != '\0'; c++)
		if ((*c & 0x80) != 0)
			*c = '?';
	string = json_string(copy != NULL ? copy : "out of memory");
	free(copy);
	return string;
}

/* With the thread's error message; id NULL: it is not known. */
static json_t *
error_reply(json_t *id, enum control_code code, int err)
{
	const char *name = strerrorname_np(abs(err));

	return json_pack("{s:s, s:o, s:{s:i, s:o, s:{s:s}}}", "jsonrpc", "2.0", "id",
			 id != NULL ? json_incref(id) : json_null(), "error", "code", (int)code,
			 "message", string_of(vdpa_error_message()), "data", "errno",
			 name != NULL ? name : "EIO");
}

/* What a request is beside its method and params. 0; -EINVAL with a message. */
static int
check_request(const json_t *request)
{
	const json_t *version = json_object_get(request, "jsonrpc");
	const json_t *id = json_object_get(request, "id");
	const json_t *params = json_object_get(request, "params");
	const char *key;
	json_t *value;

	if (json_is_array(request))
		return vdpa_error(EINVAL, "request: batches are not taken: one request a line");
	if (!json_is_object(request))
		return vdpa_error(EINVAL, "request: an object is expected");
	json_object_foreach((json_t *)(uintptr_t)request, key, value)
	{
		if (strcmp(key, "jsonrpc") != 0 && strcmp(key, "id") != 0 &&
		    strcmp(key, "method") != 0 && strcmp(key, "params") != 0)
			return vdpa_error(EINVAL,
					  "request: member '%.64s' is not known: allowed are "
					  "jsonrpc, id, method, params",
					  key);
	}
	if (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0)
		return vdpa_error(EINVAL, "request: jsonrpc must be \"2.0\"");
	if (id != NULL && !json_is_string(id) && !json_is_integer(id))
		return vdpa_error(EINVAL, "request: id must be a string or an integer");
	if (!json_is_string(json_object_get(request, "method")))
		return vdpa_error(EINVAL, "request: method must be a string");
	if (params != NULL && !json_is_object(params))
		return vdpa_error(EINVAL, "request: params must be an object");
	return 0;
}

/* The method's own reply, or an error. */
static json_t *
call(struct control_conn *conn, const struct control_method *method, json_t *id, json_t *params)
{
	json_t *result;
	int rc;

	if (method->changes && control_conn_right(conn) != CONTROL_RIGHT_FULL) {
		rc = vdpa_error(EACCES,
				"%s: changes something, and user %u may only look: it needs root, "
				"the daemon's user or its group",
				method->name, control_conn_uid(conn));
		return error_reply(id, CONTROL_DENIED, rc);
	}
	rc = control_schema_match(method->params, params, "params");
	if (rc < 0)
		return error_reply(id, CONTROL_INVALID_PARAMS, rc);
	rc = control_method_call(method, conn, params, &result);
	if (rc < 0)
		return error_reply(id, control_code_of(rc), rc);
	return json_pack("{s:s, s:o, s:o}", "jsonrpc", "2.0", "id",
			 id != NULL ? json_incref(id) : json_null(), "result", result);
}

struct table {
	struct control_method *(*get)(const char *name);
	void (*put)(struct control_method *method);
};

static json_t *
serve_request(struct control_conn *conn, const json_t *request, const struct table *table)
{
	json_t *id = json_object_get(request, "id"), *params, *reply;
	struct control_method *method;
	const char *name;

	if (check_request(request) < 0)
		return error_reply(json_is_string(id) || json_is_integer(id) ? id : NULL,
				   CONTROL_INVALID_REQUEST, EINVAL);
	name = json_string_value(json_object_get(request, "method"));
	method = table->get(name);
	if (method == NULL)
		return error_reply(id, CONTROL_NO_METHOD, ENOSYS);
	params = json_object_get(request, "params");
	params = params != NULL ? json_incref(params) : json_object();
	reply = call(conn, method, id, params);
	json_decref(params);
	table->put(method);
	return reply;
}

static bool
is_blank(const char *line, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r' && line[i] != '\n')
			return false;
	return true;
}

/* The text of a reply, and an error in place of one that no client would read. */
static char *
to_line(json_t *reply, json_t *id, size_t max)
{
	char *text = json_dumps(reply, JSON_COMPACT);

	json_decref(reply);
	if (text != NULL && strlen(text) < max)
		return text;
	if (text == NULL)
		vdpa_error(ENOMEM, "out of memory");
	else
		vdpa_error(ENOSPC,
			   "the answer is longer than %zu bytes: ask for one device by its name",
			   max);
	reply = error_reply(id, CONTROL_NO_RESOURCES, text == NULL ? ENOMEM : ENOSPC);
	free(text);
	text = json_dumps(reply, JSON_COMPACT);
	json_decref(reply);
	return text;
}

char *
control_rpc_serve(struct control_conn *conn, const char *line, size_t len,
		  struct control_method *(*get)(const char *name),
		  void (*put)(struct control_method *method))
{
	const struct table table = {.get = get, .put = put};
	const size_t max = control_server_setup(control_conn_server(conn))->limits.output;
	json_t *request, *reply, *id = NULL;
	json_error_t error;
	char *text = NULL;

	if (is_blank(line, len))
		return NULL;
	request = json_loadb(line, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
	if (request == NULL) {
		vdpa_error(EBADMSG, "request: no JSON: %s at byte %d", error.text, error.position);
		return to_line(error_reply(NULL, CONTROL_PARSE, EBADMSG), NULL, max);
	}
	id = json_object_get(request, "id");
	reply = serve_request(conn, request, &table);
	/* A notification is not answered, whatever became of it. */
	if (id != NULL || check_request(request) < 0)
		text = to_line(reply, json_is_string(id) || json_is_integer(id) ? id : NULL, max);
	else
		json_decref(reply);
	json_decref(request);
	return text;
}

static struct control_method *
get_method(const char *name)
{
	struct control_method *method = control_method_get(name);

	if (method == NULL)
		vdpa_error(ENOSYS, "method '%.64s': there is none of that name; methods lists them",
			   name);
	return method;
}

static char *
serve(struct control_conn *conn, const char *line, size_t len)
{
	return control_rpc_serve(conn, line, len, get_method, control_method_put);
}

char *
control_rpc_refuse(enum control_refusal why, const struct control_server *server)
{
	const struct control_limits *limits = &control_server_setup(server)->limits;
	enum control_code code = CONTROL_INVALID_REQUEST;
	json_t *reply;
	char *text;
	int rc = 0;

	switch (why) {
	case CONTROL_REFUSED_RIGHT:
		code = CONTROL_DENIED;
		rc = vdpa_error(EACCES, "permission denied: allowed are root, the daemon's user, "
					"and the members of its groups");
		break;
	case CONTROL_REFUSED_USER:
		code = CONTROL_NO_RESOURCES;
		rc = vdpa_error(EMFILE, "%u connections of one user are allowed; close one",
				limits->per_user);
		break;
	case CONTROL_REFUSED_NUMBER:
		code = CONTROL_NO_RESOURCES;
		rc = vdpa_error(EMFILE, "%u connections are allowed; close one",
				limits->connections);
		break;
	case CONTROL_REFUSED_LONG:
		rc = vdpa_error(EMSGSIZE, "request: longer than %d bytes",
				VDPA_CONTROL_REQUEST_MAX);
		break;
	case CONTROL_REFUSED_SLOW:
		rc = vdpa_error(ETIMEDOUT, "request: not complete %u ms after its first byte",
				limits->request_ms);
		break;
	case CONTROL_REFUSED_FILES:
		rc = vdpa_error(EINVAL, "request: file descriptors are not taken");
		break;
	}
	reply = error_reply(NULL, code, rc);
	text = json_dumps(reply, JSON_COMPACT);
	json_decref(reply);
	return text;
}

const struct control_service control_rpc_service = {
	.name = "control",
	.frame = control_frame_lines,
	.serve = serve,
	.refuse = control_rpc_refuse,
};
