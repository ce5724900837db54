/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The methods that there are: the library's (table.c), and those that an application has added. */

#ifndef CONTROL_METHODS_H
#define CONTROL_METHODS_H

#include <jansson.h>
#include <sys/queue.h>

#include "server.h"
#include "vdpa_control.h"

/* A method of the library's. Schemas are JSON text with ' for ". */
struct control_builtin {
	const char *name, *help;
	const char *params; /* NULL: it takes none */
	const char *result; /* NULL: {} */
	bool changes;
	/* 0 and *result (left NULL: {}), or a negative errno with a message. */
	int (*call)(struct control_conn *conn, const json_t *params, json_t **result);
};

/* table.c; ended by a NULL name. */
extern const struct control_builtin control_builtins[];

/* A method, as it is called. */
struct control_method {
	const char *name, *help;
	json_t *params, *result; /* schemas */
	bool changes;
	const struct control_builtin *builtin;	/* NULL: an application's */
	struct vdpa_control_method application; /* its own */
	unsigned int users;
	LIST_ENTRY(control_method) next;
};

/* Make the library's own known, once; -ENOMEM, or -EINVAL for a schema that is wrong, with a
 * message. From any thread. */
int control_methods_init(void);

/* A method to call, until control_method_put(); NULL: there is none of that name. */
struct control_method *control_method_get(const char *name);
void control_method_put(struct control_method *method);

/* Carry it out with params that its schema allows: 0 and an object, or a negative errno with a
 * message. */
int control_method_call(const struct control_method *method, struct control_conn *conn,
			const json_t *params, json_t **result);

/* A method of a service of its own, in no list; the caller's to free. 0; -ENOMEM, or -EINVAL for a
 * schema that is wrong, with a message. */
int control_method_make(const struct control_builtin *builtin, struct control_method **method);
void control_method_free(struct control_method *method);

/* What the method `methods` returns. */
json_t *control_methods_list(void);

#endif /* CONTROL_METHODS_H */
