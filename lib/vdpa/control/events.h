/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Events, and who has subscribed to them. */

#ifndef CONTROL_EVENTS_H
#define CONTROL_EVENTS_H

#include <jansson.h>

#include "server.h"

/* Send what happens to devices to the server's subscribers, until control_events_end(). One server
 * at a time. */
void control_events_begin(struct control_server *server);
void control_events_end(void);

/* The methods events.subscribe and events.unsubscribe. */
int control_events_subscribe(struct control_conn *conn, const json_t *params, json_t **result);
int control_events_unsubscribe(struct control_conn *conn, const json_t *params, json_t **result);

/* As vdpa_control_emit(), to the subscribers of this server. */
int control_events_emit(struct control_server *server, const char *event, const char *members);

#endif /* CONTROL_EVENTS_H */
