/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Events: notices of devices, and an application's own, as lines to the connections that have
 * subscribed. Owns the names of events; whose connection takes part is the server's.
 *
 * A line is made once, on the thread where the thing happens, and only where somebody wants it.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rte_common.h>

#include "events.h"
#include "notice.h"
#include "vdpa_control.h"

/* In the order of enum vdpa_notice_kind, then those of an application; a bit of a mask each. */
static const struct {
	const char *name;
	const char *member; /* what the notice's text is called */
} events[] = {
	[VDPA_NOTICE_ADDED] = {"device.added", NULL},
	[VDPA_NOTICE_REMOVED] = {"device.removed", NULL},
	[VDPA_NOTICE_CONNECTED] = {"device.connected", NULL},
	[VDPA_NOTICE_DISCONNECTED] = {"device.disconnected", NULL},
	[VDPA_NOTICE_STARTED] = {"device.started", NULL},
	[VDPA_NOTICE_STOPPED] = {"device.stopped", NULL},
	[VDPA_NOTICE_FAILED] = {"device.failed", "failure"},
	[VDPA_NOTICE_LINK] = {"device.link", "link"},
	[VDPA_NOTICE_MIGRATION] = {"device.migration", "phase"},
	{"config.reloaded", NULL},
};

#define APPLICATION_FIRST (VDPA_NOTICE_MIGRATION + 1)

static struct vdpa_notice_watch watch;

static void
now(char *buf, size_t size)
{
	struct timespec ts;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(buf, size, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, size - n, ".%06ldZ", ts.tv_nsec / 1000);
}

/* Text of whatever bytes; a failure may hold what a peer has said. */
static json_t *
text_of(const char *text)
{
	json_t *string = json_string(text);

	return string != NULL ? string : json_string("?");
}

/* Takes over params; they may be NULL. */
static void
send(struct control_server *server, unsigned int event, json_t *params)
{
	char time[40], *line;
	json_t *root;

	now(time, sizeof(time));
	root = json_pack("{s:s, s:s, s:{s:s, s:s}}", "jsonrpc", "2.0", "method", "event", "params",
			 "event", events[event].name, "time", time);
	json_object_update(json_object_get(root, "params"), params);
	json_decref(params);
	line = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	if (line != NULL)
		control_server_send(server, UINT32_C(1) << event, line);
	free(line);
}

static void
noticed(enum vdpa_notice_kind kind, const char *device, const char *text, void *arg)
{
	struct control_server *server = arg;
	json_t *params;

	if (!control_server_joined(server, UINT32_C(1) << kind))
		return;
	params = json_object();
	json_object_set_new(params, "name", json_string(device));
	if (events[kind].member != NULL)
		json_object_set_new(params, events[kind].member, text_of(text != NULL ? text : ""));
	send(server, kind, params);
}

void
control_events_begin(struct control_server *server)
{
	watch = (struct vdpa_notice_watch){.fn = noticed, .arg = server};
	vdpa_notice_watch(&watch);
}

void
control_events_end(void)
{
	vdpa_notice_unwatch(&watch);
}

int
control_events_emit(struct control_server *server, const char *event, const char *members)
{
	json_t *params = NULL;
	unsigned int i;

	for (i = APPLICATION_FIRST; i < RTE_DIM(events); i++)
		if (strcmp(events[i].name, event) == 0)
			break;
	if (i == RTE_DIM(events))
		return vdpa_error(EINVAL, "event '%s': is not an application's", event);
	if (members != NULL) {
		params = json_loads(members, 0, NULL);
		if (!json_is_object(params)) {
			json_decref(params);
			return vdpa_error(EINVAL, "event '%s': its members are no JSON object",
					  event);
		}
	}
	if (server != NULL && control_server_joined(server, UINT32_C(1) << i))
		send(server, i, params);
	else
		json_decref(params);
	return 0;
}

/* Names to a mask; all where there are none. */
static uint32_t
mask_of(const json_t *names)
{
	uint32_t mask = 0;

	for (unsigned int i = 0; i < RTE_DIM(events); i++) {
		bool wanted = names == NULL;
		json_t *name;
		size_t j;

		json_array_foreach(names, j, name) wanted |=
			strcmp(json_string_value(name), events[i].name) == 0;
		if (wanted)
			mask |= UINT32_C(1) << i;
	}
	return mask;
}

int
control_events_subscribe(struct control_conn *conn, const json_t *params, json_t **result)
{
	/* The schema has each name. */
	uint32_t mask = mask_of(json_object_get(params, "events"));
	json_t *names = json_array();

	for (unsigned int i = 0; i < RTE_DIM(events); i++)
		if ((mask & UINT32_C(1) << i) != 0)
			json_array_append_new(names, json_string(events[i].name));
	control_conn_join(conn, mask);
	*result = json_pack("{s:o}", "events", names);
	return 0;
}

int
control_events_unsubscribe(struct control_conn *conn, const json_t *params, json_t **result)
{
	control_conn_join(conn, 0);
	return 0;
}
