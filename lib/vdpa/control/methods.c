/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registry of methods. Owns the list, which holds the library's own from the first look on and
 * an application's from when it adds them until it takes them away. One lock guards the list; a
 * method that is carried out is counted, and not taken away meanwhile.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "methods.h"
#include "schema.h"

#define NAME_MIN     3
#define NAME_MAX_LEN 63

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t unused = PTHREAD_COND_INITIALIZER;
static LIST_HEAD(, control_method) methods = LIST_HEAD_INITIALIZER(methods);
static bool ready; /* the library's own are in the list */
static unsigned int n_added;

/* Under the lock. */
static struct control_method *
find(const char *name)
{
	struct control_method *m;

	LIST_FOREACH (m, &methods, next)
		if (strcmp(m->name, name) == 0)
			return m;
	return NULL;
}

/* A schema from its text; NULL: that of an empty object. */
static int
load_schema(const char *method, const char *text, json_t **schema)
{
	json_error_t error;

	*schema = json_loads(text != NULL ? text
					  : "{\"type\":\"object\",\"additionalProperties\":false}",
			     JSON_REJECT_DUPLICATES, &error);
	if (*schema == NULL)
		return vdpa_error(EINVAL, "method %s: schema: %s at %d", method, error.text,
				  error.position);
	if (control_schema_check(*schema) < 0)
		return -EINVAL;
	if (!json_is_string(json_object_get(*schema, "type")) ||
	    strcmp(json_string_value(json_object_get(*schema, "type")), "object") != 0)
		return vdpa_error(EINVAL, "method %s: schema: its type must be object", method);
	return 0;
}

void
control_method_free(struct control_method *m)
{
	json_decref(m->params);
	json_decref(m->result);
	free(m);
}

static int
method_new(const char *name, const char *params, const char *result, struct control_method **out)
{
	struct control_method *m = calloc(1, sizeof(*m));
	int rc;

	if (m == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	m->name = name;
	rc = load_schema(name, params, &m->params);
	if (rc == 0)
		rc = load_schema(name, result, &m->result);
	if (rc < 0)
		control_method_free(m);
	else
		*out = m;
	return rc;
}

/* Text with ' for ", so that it can be read where it is written. */
static char *
unquote(const char *text)
{
	char *copy = text != NULL ? strdup(text) : NULL;

	for (char *c = copy; c != NULL && *c != '\0'; c++)
		if (*c == '\'')
			*c = '"';
	return copy;
}

int
control_method_make(const struct control_builtin *builtin, struct control_method **out)
{
	char *params = unquote(builtin->params), *result = unquote(builtin->result);
	struct control_method *m;
	int rc;

	rc = method_new(builtin->name, params, result, &m);
	free(params);
	free(result);
	if (rc < 0)
		return rc;
	m->help = builtin->help;
	m->changes = builtin->changes;
	m->builtin = builtin;
	*out = m;
	return 0;
}

static int
add_builtin(const struct control_builtin *builtin)
{
	struct control_method *m;
	int rc = control_method_make(builtin, &m);

	if (rc == 0)
		LIST_INSERT_HEAD(&methods, m, next);
	return rc;
}

/* Under the lock. */
static int
add_builtins(void)
{
	int rc = 0;

	for (const struct control_builtin *b = control_builtins; !ready && b->name != NULL; b++) {
		if (find(b->name) == NULL)
			rc = add_builtin(b);
		if (rc < 0)
			return rc;
	}
	ready = true;
	return 0;
}

int
control_methods_init(void)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = add_builtins();
	pthread_mutex_unlock(&lock);
	return rc;
}

static bool
name_is_valid(const char *name)
{
	size_t len = name != NULL ? strlen(name) : 0;

	return len >= NAME_MIN && len <= NAME_MAX_LEN &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._") == len;
}

int
vdpa_control_add_method(const struct vdpa_control_method *method)
{
	struct control_method *m;
	int rc;

	if (!name_is_valid(method->name))
		return vdpa_error(EINVAL, "method '%s': allowed are %d to %d of a-z 0-9 . _",
				  method->name != NULL ? method->name : "", NAME_MIN, NAME_MAX_LEN);
	rc = method_new(method->name, method->params, method->result, &m);
	if (rc < 0)
		return rc;
	m->help = method->help != NULL ? method->help : "";
	m->changes = method->changes;
	m->application = *method;
	pthread_mutex_lock(&lock);
	rc = add_builtins();
	if (rc == 0 && find(method->name) != NULL)
		rc = vdpa_error(EEXIST, "method '%s': there is one of that name", method->name);
	else if (rc == 0 && n_added == VDPA_CONTROL_METHODS_MAX)
		rc = vdpa_error(ENOSPC, "method '%s': there are %u already", method->name, n_added);
	if (rc == 0) {
		LIST_INSERT_HEAD(&methods, m, next);
		n_added++;
	}
	pthread_mutex_unlock(&lock);
	if (rc < 0)
		control_method_free(m);
	return rc;
}

void
vdpa_control_remove_method(const char *name)
{
	struct control_method *m;

	pthread_mutex_lock(&lock);
	m = find(name);
	if (m != NULL && m->builtin == NULL) {
		LIST_REMOVE(m, next);
		n_added--;
		while (m->users > 0)
			pthread_cond_wait(&unused, &lock);
		control_method_free(m);
	}
	pthread_mutex_unlock(&lock);
}

struct control_method *
control_method_get(const char *name)
{
	struct control_method *m;

	pthread_mutex_lock(&lock);
	m = find(name);
	if (m != NULL)
		m->users++;
	pthread_mutex_unlock(&lock);
	return m;
}

void
control_method_put(struct control_method *method)
{
	pthread_mutex_lock(&lock);
	if (--method->users == 0)
		pthread_cond_broadcast(&unused);
	pthread_mutex_unlock(&lock);
}

/* An application's speaks text. */
static int
call_application(const struct vdpa_control_method *method, const json_t *params, json_t **result)
{
	char *text = json_dumps(params, JSON_COMPACT), *answer = NULL;
	json_error_t error;
	int rc;

	if (text == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	rc = method->call(text, &answer, method->arg);
	free(text);
	if (rc == 0 && answer != NULL) {
		*result = json_loads(answer, 0, &error);
		if (!json_is_object(*result)) {
			json_decref(*result);
			*result = NULL;
			rc = vdpa_error(EBADMSG, "%s: its answer is no JSON object: %s",
					method->name, error.text);
		}
	}
	free(answer);
	return rc;
}

int
control_method_call(const struct control_method *method, struct control_conn *conn,
		    const json_t *params, json_t **result)
{
	int rc;

	*result = NULL;
	rc = method->builtin != NULL ? method->builtin->call(conn, params, result)
				     : call_application(&method->application, params, result);
	if (rc == 0 && *result == NULL) {
		*result = json_object();
		if (*result == NULL)
			rc = vdpa_error(ENOMEM, "out of memory");
	}
	return rc;
}

static int
compare(const void *a, const void *b)
{
	const struct control_method *const *one = a, *const *other = b;

	return strcmp((*one)->name, (*other)->name);
}

/* In the order of their names. */
json_t *
control_methods_list(void)
{
	json_t *list = json_array();
	struct control_method *m, **all;
	size_t n = 0, i = 0;

	pthread_mutex_lock(&lock);
	LIST_FOREACH (m, &methods, next)
		n++;
	all = calloc(n, sizeof(struct control_method *));
	LIST_FOREACH (m, &methods, next)
		if (all != NULL)
			all[i++] = m;
	n = i;
	if (n > 0)
		qsort(all, n, sizeof(struct control_method *), compare);
	for (i = 0; i < n; i++)
		json_array_append_new(list, json_pack("{s:s, s:s, s:b, s:o, s:o}", "name",
						      all[i]->name, "help", all[i]->help, "changes",
						      (int)all[i]->changes, "params",
						      json_deep_copy(all[i]->params), "result",
						      json_deep_copy(all[i]->result)));
	pthread_mutex_unlock(&lock);
	free(all);
	return list;
}
