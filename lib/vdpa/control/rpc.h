/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* JSON-RPC 2.0 over a server of lines. */

#ifndef CONTROL_RPC_H
#define CONTROL_RPC_H

#include "server.h"

/* Codes of JSON-RPC 2.0, 5.1, and ours: doc/control-protocol.md says when each comes. */
enum control_code {
	CONTROL_PARSE = -32700,
	CONTROL_INVALID_REQUEST = -32600,
	CONTROL_NO_METHOD = -32601,
	CONTROL_INVALID_PARAMS = -32602,
	CONTROL_INTERNAL = -32603,
	CONTROL_DENIED = -32001,
	CONTROL_NO_OBJECT = -32002,
	CONTROL_EXISTS = -32003,
	CONTROL_BUSY = -32004,
	CONTROL_NOT_SUPPORTED = -32005,
	CONTROL_INVALID_WORDS = -32006,
	CONTROL_NO_RESOURCES = -32007,
	CONTROL_TIMED_OUT = -32008,
	CONTROL_FAILED = -32009,
};

/* The code of an errno that a method has failed with. */
enum control_code control_code_of(int err);

struct control_method;

/*
 * Carry out a request: what a service of other methods does with one. get() is a method to call
 * until put(); NULL, with a message, for a name that there is not.
 */
char *control_rpc_serve(struct control_conn *conn, const char *text, size_t len,
			struct control_method *(*get)(const char *name),
			void (*put)(struct control_method *method));

/* What a service says to a peer that is not served. */
char *control_rpc_refuse(enum control_refusal why, const struct control_server *server);

/* What a service of methods does with a line, and with a peer that is not served. */
extern const struct control_service control_rpc_service;

#endif /* CONTROL_RPC_H */
