/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The control socket of the process: its path, its permissions, its beginning and end. Owns the one
 * server, and the folders that were made for its default path.
 */

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error_priv.h"
#include "events.h"
#include "identity.h"
#include "methods.h"
#include "rpc.h"
#include "setup.h"
#include "vdpa_control.h"
#include "vdpa_args.h"
#include "vdpa_event.h"

#define CONNECTIONS 32
#define RESERVE	    4
#define PER_USER    8
#define RATE	    1000
#define REQUEST_MS  10000
#define OUTPUT	    (4u << 20)

/* Times that another process may remove the folder between our mkdir(2) and our socket. */
#define TRIES 8

/* The lock guards server against its end, for events; start and stop are one at a time. */
static pthread_mutex_t start_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct control_server *server;
static char program[64], version[64];
/* Folders that were made, the inner one first; "": none. */
static char made[2][sizeof(((struct sockaddr_un *)NULL)->sun_path)];

const char *
control_program(void)
{
	return program;
}

const char *
control_version(void)
{
	return version;
}

/* Remove what was made and is empty: another process may have its socket there. */
static void
remove_folders(void)
{
	for (unsigned int i = 0; i < 2; i++) {
		if (made[i][0] != '\0')
			(void)rmdir(made[i]);
		made[i][0] = '\0';
	}
}

/* A folder of the default path, which nobody else can write to, by its group neither. */
static int
make_folder(const char *path, char *note)
{
	struct stat st;

	if (mkdir(path, 0755) == 0)
		snprintf(note, sizeof(made[0]), "%s", path);
	else if (errno != EEXIST)
		return vdpa_error(errno, "control socket: folder '%s': %m", path);
	if (lstat(path, &st) < 0)
		return vdpa_error(errno, "control socket: folder '%s': %m", path);
	if (!S_ISDIR(st.st_mode) || (st.st_uid != geteuid() && st.st_uid != 0) ||
	    (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return vdpa_error(EPERM,
				  "control socket: '%s' is no folder that is this user's or root's "
				  "and that nobody else can write to",
				  path);
	return 0;
}

/* .../uvdpa, and .../uvdpa/NAME where the path has a name. */
static int
make_folders(const char *path, bool named)
{
	char inner[sizeof(made[0])], outer[sizeof(made[0])];
	int rc;

	snprintf(inner, sizeof(inner), "%s", path);
	*strrchr(inner, '/') = '\0';
	if (!named)
		return make_folder(inner, made[0]);
	snprintf(outer, sizeof(outer), "%s", inner);
	*strrchr(outer, '/') = '\0';
	rc = make_folder(outer, made[1]);
	return rc < 0 ? rc : make_folder(inner, made[0]);
}

static int
find_path(const struct vdpa_control_params *params, char *path, size_t size)
{
	int rc;

	if (params->path != NULL) {
		if (strlen(params->path) >= size)
			return vdpa_error(EINVAL,
					  "control socket '%.128s': allowed are paths of up to %zu "
					  "characters",
					  params->path, size - 1);
		snprintf(path, size, "%s", params->path);
		return 0;
	}
	rc = vdpa_control_default_path(params->name, path, size);
	if (rc == -ENOENT)
		return vdpa_error(rc, "control socket: no path: XDG_RUNTIME_DIR is not set");
	if (rc == -EINVAL)
		return vdpa_error(rc,
				  "control socket: name '%s': allowed are 1 to 63 of A-Z a-z "
				  "0-9 . _ -, not first a dot",
				  params->name);
	return rc < 0 ? vdpa_error(rc, "control socket: name '%s': the path is too long",
				   params->name != NULL ? params->name : "")
		      : 0;
}

static int
find_groups(const struct vdpa_control_params *params, struct control_setup *setup)
{
	int rc = 0;

	setup->policy = (struct control_policy){
		.owner = geteuid(), .group = (gid_t)-1, .read_group = (gid_t)-1};
	if (params->group != NULL)
		rc = vdpa_group_find(params->group, &setup->policy.group);
	if (rc == 0 && params->read_group != NULL)
		rc = vdpa_group_find(params->read_group, &setup->policy.read_group);
	setup->socket_group = setup->policy.group;
	setup->mode = params->read_group != NULL ? 0666 : params->group != NULL ? 0660 : 0600;
	if (params->mode != 0)
		setup->mode = params->mode & 0777;
	return rc;
}

static struct control_limits
find_limits(const struct vdpa_control_params *params)
{
#define LIMIT(given, dflt) ((given) != 0 ? (given) : (dflt))
	return (struct control_limits){
		.connections = LIMIT(params->max_connections, CONNECTIONS),
		.reserve = RESERVE,
		.per_user = LIMIT(params->max_per_user, PER_USER),
		.rate = LIMIT(params->rate, RATE),
		.request_ms = LIMIT(params->request_ms, REQUEST_MS),
		.output = LIMIT(params->max_output, OUTPUT),
	};
#undef LIMIT
}

int
control_setup_fill(struct control_setup *setup, const struct vdpa_control_params *params)
{
	setup->limits = find_limits(params);
	return find_groups(params, setup);
}

static int
adopt_server(const struct control_setup *setup, const struct vdpa_control_listener *handed,
	     struct control_server **out)
{
	const struct vdpa_listen from = {
		.fd = handed->fd, .dev = (dev_t)handed->dev, .ino = (ino_t)handed->ino};

	return control_server_adopt(setup, &from, out);
}

static int
open_server(const struct vdpa_control_params *params, struct control_server **out)
{
	struct control_setup setup = {.service = &control_rpc_service};
	char path[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int rc;

	rc = find_path(params, path, sizeof(path));
	if (rc == 0)
		rc = control_setup_fill(&setup, params);
	if (rc == 0)
		rc = control_methods_init();
	if (rc < 0)
		return rc;
	setup.path = path;
	for (unsigned int i = 0; i < TRIES; i++) {
		if (params->path == NULL)
			rc = make_folders(path, params->name != NULL && params->name[0] != '\0');
		if (rc == 0 && params->handed != NULL)
			rc = adopt_server(&setup, params->handed, out);
		else if (rc == 0)
			rc = control_server_open(&setup, out);
		if (rc != -ENOENT || params->path != NULL)
			break;
		rc = 0;
	}
	if (rc < 0) {
		struct vdpa_error_saved saved;

		vdpa_error_save(&saved);
		remove_folders();
		vdpa_error_restore(&saved);
	}
	return rc;
}

int
vdpa_control_start(const struct vdpa_control_params *params)
{
	static const struct vdpa_control_params defaults;
	struct control_server *opened;
	int rc;

	if (params == NULL)
		params = &defaults;
	pthread_mutex_lock(&start_lock);
	if (server != NULL) {
		rc = vdpa_error(EALREADY, "control socket: there is one");
	} else if (vdpa_event_loop_control() == NULL) {
		rc = vdpa_error(EPROTO, "uvdpa is not initialised");
	} else {
		/* Before anybody can ask. */
		snprintf(program, sizeof(program), "%s",
			 params->program != NULL ? params->program : "uvdpa");
		snprintf(version, sizeof(version), "%s",
			 params->version != NULL ? params->version : UVDPA_VERSION);
		rc = open_server(params, &opened);
	}
	if (rc == 0) {
		control_events_begin(opened);
		pthread_mutex_lock(&lock);
		server = opened;
		pthread_mutex_unlock(&lock);
	}
	pthread_mutex_unlock(&start_lock);
	return rc;
}

void
vdpa_control_stop(void)
{
	struct control_server *closed;

	pthread_mutex_lock(&start_lock);
	pthread_mutex_lock(&lock);
	closed = server;
	server = NULL;
	pthread_mutex_unlock(&lock);
	if (closed != NULL) {
		control_events_end();
		control_server_close(closed);
		remove_folders();
	}
	pthread_mutex_unlock(&start_lock);
}

int
vdpa_control_hand_over(struct vdpa_control_listener *out)
{
	struct vdpa_listen l;
	int rc = 0;

	pthread_mutex_lock(&start_lock);
	if (server == NULL) {
		rc = vdpa_error(ENOENT, "there is no control socket");
	} else {
		control_server_leave(server, &l);
		*out = (struct vdpa_control_listener){.fd = l.fd, .dev = l.dev, .ino = l.ino};
	}
	pthread_mutex_unlock(&start_lock);
	return rc;
}

int
vdpa_control_take_back(void)
{
	int rc;

	pthread_mutex_lock(&start_lock);
	rc = server != NULL ? control_server_listen(server) : 0;
	pthread_mutex_unlock(&start_lock);
	return rc;
}

int
vdpa_control_emit(const char *event, const char *members)
{
	int rc;

	pthread_mutex_lock(&lock);
	rc = control_events_emit(server, event, members);
	pthread_mutex_unlock(&lock);
	return rc;
}
