/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The uvdpad protocol: four methods, whose clients speak of device-ids and sockets where we speak
 * of words. Owns the socket and the map; keeps nothing of the devices that it makes.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "bus.h"
#include "frame.h"
#include "methods.h"
#include "rpc.h"
#include "setup.h"
#include "uvdpad_id.h"
#include "vdpa.h"
#include "vdpa_event.h"

/* Members that an interface has in a list may come back with it. */
#define INTERFACE                                                                                  \
	"'vdpa_id':{'type':'integer','description':'not looked at'},"                              \
	"'driver':{'type':'string','description':'not looked at'}"
#define DEVICE_ID "'device-id':{'type':'string','minLength':1,'maxLength':48}"

static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static struct control_server *server;
/* Fixed while there is a server. */
static struct uvdpad_map map;

/* A device with an interface, as the bus has it. */
struct found {
	const char *id; /* NULL: any */
	json_t *list;	/* of [name, id, number] */
};

static bool
collect(const struct vdpa_bus_entry *e, void *arg)
{
	char id[VDPA_UVDPAD_ID_MAX + 1];
	struct found *found = arg;

	if (e->fe != NULL && e->mdev != NULL && uvdpad_id_of(&map, e->name, e->mdev->name, id) &&
	    (found->id == NULL || strcmp(found->id, id) == 0))
		json_array_append_new(found->list,
				      json_pack("[s, s, I]", e->name, id, (json_int_t)e->id));
	return true;
}

/* Devices with this id, one at most, or all. */
static json_t *
find_devices(const char *id)
{
	struct found found = {.id = id, .list = json_array()};

	vdpa_bus_for_each(collect, &found);
	return found.list;
}

/* An interface as clients know it; NULL: there is no socket, or no device any more. */
static json_t *
describe(const char *name, const char *id, json_int_t number)
{
	char *text = vdpa_dev_show(name);
	json_t *dev = text != NULL ? json_loads(text, 0, NULL) : NULL, *iface = NULL;
	const char *socket, *mode, *driver, *mgmtdev;

	free(text);
	socket = json_string_value(json_object_get(dev, "socket"));
	mode = json_string_value(json_object_get(dev, "socket_mode"));
	driver = json_string_value(json_object_get(dev, "driver"));
	mgmtdev = json_string_value(json_object_get(dev, "mgmtdev"));
	if (socket != NULL && mode != NULL)
		iface = json_pack("{s:I, s:s, s:s, s:s, s:s}", "vdpa_id", number, "device-id", id,
				  "socket-path", socket, "socket-mode", mode, "driver",
				  driver != NULL ? driver : mgmtdev);
	json_decref(dev);
	return iface;
}

static int
call_version(struct control_conn *conn, const json_t *params, json_t **result)
{
	*result = json_string(UVDPA_VERSION);
	return *result == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;
}

static int
call_list(struct control_conn *conn, const json_t *params, json_t **result)
{
	json_t *devices = find_devices(NULL), *device, *iface;
	size_t i;

	*result = json_array();
	json_array_foreach(devices, i, device)
	{
		iface = describe(json_string_value(json_array_get(device, 0)),
				 json_string_value(json_array_get(device, 1)),
				 json_integer_value(json_array_get(device, 2)));
		if (iface != NULL)
			json_array_append_new(*result, iface);
	}
	json_decref(devices);
	return *result == NULL ? vdpa_error(ENOMEM, "out of memory") : 0;
}

static const char *
member(const json_t *params, const char *name)
{
	return json_string_value(json_object_get(params, name));
}

/* The name of the device that has this id; "": none. */
static void
find_name(const char *id, char name[static VDPA_NAME_MAX])
{
	json_t *devices = find_devices(id);

	name[0] = '\0';
	if (json_array_size(devices) > 0)
		snprintf(name, VDPA_NAME_MAX, "%s",
			 json_string_value(json_array_get(json_array_get(devices, 0), 0)));
	json_decref(devices);
}

/* A path goes between double quotes among the words. */
static int
check_path(const char *path)
{
	if (path[0] == '/' && strchr(path, '"') == NULL)
		return 0;
	return vdpa_error(EINVAL,
			  "socket-path '%s': an absolute path without double quotes is expected",
			  path);
}

static int
call_create(struct control_conn *conn, const json_t *params, json_t **result)
{
	const char *path = member(params, "socket-path");
	bool client = strcmp(member(params, "socket-mode"), "client") == 0;
	char name[VDPA_NAME_MAX], *words;
	struct uvdpad_entry e;
	int rc;

	rc = check_path(path);
	if (rc == 0)
		rc = uvdpad_resolve(&map, member(params, "device-id"), &e);
	if (rc < 0)
		return rc;
	find_name(e.id, name);
	if (name[0] != '\0')
		rc = vdpa_error(EEXIST, "device-id '%s': has an interface already, device %s", e.id,
				name);
	else if (asprintf(&words, "name %s %s socket \"%s\"%s", e.name, e.words, path,
			  client ? " client" : "") < 0)
		rc = vdpa_error(ENOMEM, "out of memory");
	free(e.words);
	if (rc < 0)
		return rc;
	rc = vdpa_dev_add(words);
	free(words);
	return rc;
}

static int
call_destroy(struct control_conn *conn, const json_t *params, json_t **result)
{
	char name[VDPA_NAME_MAX];
	struct uvdpad_entry e;
	int rc;

	rc = uvdpad_resolve(&map, member(params, "device-id"), &e);
	if (rc < 0)
		return rc;
	free(e.words);
	find_name(e.id, name);
	if (name[0] == '\0')
		return vdpa_error(ENODEV, "device-id '%s': has no interface", e.id);
	if (strcmp(name, e.name) != 0)
		return vdpa_error(EPERM,
				  "device-id '%s': device %s was not made by create-interface: "
				  "vdpactl dev del %s",
				  e.id, name, name);
	return vdpa_dev_del(name);
}

static const struct control_builtin builtins[] = {
	{
		.name = "version",
		.help = "Return the version of the library",
		.result = "{'type':'object','description':'a string'}",
		.call = call_version,
	},
	{
		.name = "list-interfaces",
		.help = "List devices with a device-id and a socket",
		.result = "{'type':'object','description':'an array'}",
		.call = call_list,
	},
	{
		.name = "create-interface",
		.help = "Make a device and serve it on a socket",
		.params =
			"{'type':'object','properties':{" DEVICE_ID ","
			"'socket-path':{'type':'string','minLength':1,'maxLength':107},"
			"'socket-mode':{'type':'string','enum':['client','server']}," INTERFACE "},"
			"'required':['device-id','socket-path','socket-mode'],"
			"'additionalProperties':false}",
		.changes = true,
		.call = call_create,
	},
	{
		.name = "destroy-interface",
		.help = "Delete a device that create-interface has made",
		.params = "{'type':'object','properties':{" DEVICE_ID ","
			  "'socket-path':{'type':'string'},"
			  "'socket-mode':{'type':'string'}," INTERFACE "},"
			  "'required':['device-id'],'additionalProperties':false}",
		.changes = true,
		.call = call_destroy,
	},
};

#define N_METHODS (sizeof(builtins) / sizeof(builtins[0]))

static struct control_method *methods[N_METHODS];

static struct control_method *
get_method(const char *name)
{
	for (unsigned int i = 0; i < N_METHODS; i++)
		if (methods[i] != NULL && strcmp(methods[i]->name, name) == 0)
			return methods[i];
	vdpa_error(ENOSYS,
		   "method '%.64s': allowed are version, list-interfaces, create-interface, "
		   "destroy-interface",
		   name);
	return NULL;
}

/* They stay as long as there is a server. */
static void
put_method(struct control_method *method)
{
}

static char *
serve(struct control_conn *conn, const char *text, size_t len)
{
	return control_rpc_serve(conn, text, len, get_method, put_method);
}

static const struct control_service service = {
	.name = "uvdpad",
	.serve = serve,
	.refuse = control_rpc_refuse,
	.frame = control_frame_objects,
};

static void
free_methods(void)
{
	for (unsigned int i = 0; i < N_METHODS; i++) {
		if (methods[i] != NULL)
			control_method_free(methods[i]);
		methods[i] = NULL;
	}
}

static int
make_methods(void)
{
	int rc = 0;

	for (unsigned int i = 0; i < N_METHODS && rc == 0; i++)
		rc = control_method_make(&builtins[i], &methods[i]);
	if (rc < 0)
		free_methods();
	return rc;
}

static int
open_server(const struct vdpa_control_params *socket, const char *const *texts, unsigned int n)
{
	struct control_setup setup = {.service = &service};
	int rc;

	rc = control_setup_fill(&setup, socket);
	if (rc < 0)
		return rc;
	setup.path = socket->path != NULL ? socket->path : VDPA_UVDPAD_PATH;
	rc = uvdpad_map_parse(&map, texts, n);
	if (rc < 0)
		return rc;
	rc = make_methods();
	if (rc < 0)
		goto err_map;
	rc = control_server_open(&setup, &server);
	if (rc == 0)
		return 0;
	free_methods();
err_map:
	uvdpad_map_free(&map);
	return rc;
}

int
vdpa_uvdpad_start(const struct vdpa_control_params *socket, const char *const *texts,
		  unsigned int n)
{
	static const struct vdpa_control_params defaults;
	int rc;

	pthread_mutex_lock(&start_lock);
	if (server != NULL)
		rc = vdpa_error(EALREADY, "uvdpad: there is a socket already");
	else if (vdpa_event_loop_control() == NULL)
		rc = vdpa_error(EPROTO, "uvdpa is not initialised");
	else
		rc = open_server(socket != NULL ? socket : &defaults, texts, n);
	pthread_mutex_unlock(&start_lock);
	return rc;
}

void
vdpa_uvdpad_stop(void)
{
	pthread_mutex_lock(&start_lock);
	if (server != NULL) {
		control_server_close(server);
		server = NULL;
		free_methods();
		uvdpad_map_free(&map);
	}
	pthread_mutex_unlock(&start_lock);
}
