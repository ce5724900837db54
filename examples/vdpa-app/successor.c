/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The new daemon of an upgrade (handover.h). The end of the socket says that the other one is dead:
 * behind `taken` nobody else has the devices then. A daemon that gives up says `stop` before. The
 * other one can end this process, since it is its parent: no process in between is allowed.
 */

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <jansson.h>

#include <vdpa.h>
#include <vdpa_args.h>
#include <vdpa_control.h>
#include <vdpa_restart.h>

#include "config_file.h"
#include "handover.h"
#include "log.h"
#include "made.h"
#include "notify.h"
#include "program.h"
#include "restart.h"
#include "successor.h"

/* The other daemon has sent it before this one was started. */
#define BEGIN_MS 10000

static struct vdpa_control_listener listener = {.fd = -1};
static bool listener_is_served;
static json_int_t expected;
static bool has_gone; /* the other daemon, for good */
static bool force;
/* Words by name: of devices that the other daemon has left, and of those that do not go on here. */
static json_t *left_words, *anew_words;

static int
give_up(void)
{
	app_log(LOG_ERR, NULL, "take-over: %s", vdpa_error_message());
	return -EPROTO;
}

bool
app_successor_is_forced(void)
{
	return force;
}

int
app_successor_note(const char *name, const char *words)
{
	if (left_words == NULL)
		left_words = json_object();
	return json_object_set_new(left_words, name, json_string(words)) < 0
		       ? vdpa_error(ENOMEM, "out of memory")
		       : 0;
}

bool
app_successor_starts_anew(const char *name)
{
	return json_object_get(left_words, name) != NULL && !vdpa_restart_is_taken(name);
}

const struct vdpa_control_listener *
app_successor_control(void)
{
	return listener.fd >= 0 ? &listener : NULL;
}

void
app_successor_control_adopted(void)
{
	listener_is_served = true;
}

/* Nobody serves the other daemon's control socket any more: by the configuration there is another,
 * or none. Its file goes, unless somebody has put another one there. */
static void
drop_listener(void)
{
	struct sockaddr_un un = {.sun_family = AF_UNSPEC};
	socklen_t len = sizeof(un) - 1;
	struct stat st;

	if (listener.fd < 0 || listener_is_served)
		return;
	if (getsockname(listener.fd, (struct sockaddr *)&un, &len) == 0 &&
	    un.sun_family == AF_UNIX && un.sun_path[0] != '\0' && lstat(un.sun_path, &st) == 0 &&
	    S_ISSOCK(st.st_mode) && st.st_dev == listener.dev && st.st_ino == listener.ino)
		unlink(un.sun_path);
	close(listener.fd);
	listener.fd = -1;
}

/* The names of devices that do not go on by their words, and of those without a line here. */
static int
compare_words(const struct app_options *opts, int fd, json_t *anew, json_t *absent)
{
	json_t *devices = json_loadfd(fd, 0, NULL), *device;
	size_t i;
	int rc = json_is_array(devices) ? 0 : vdpa_error(EPROTO, "there is no list of devices");

	json_array_foreach(devices, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "name"));
		const char *words = json_string_value(json_object_get(device, "words"));
		const struct app_dev *dev =
			name != NULL ? app_config_find(&opts->config, name) : NULL;

		if (name != NULL && dev == NULL)
			json_array_append_new(absent, json_string(name));
		if (rc < 0 || words == NULL || dev == NULL)
			continue;
		if (vdpa_words_compare(words, dev->words, NULL) != VDPA_WORDS_SAME)
			json_array_append_new(anew, json_string(name));
	}
	json_decref(devices);
	return rc;
}

static int
check(const struct app_options *opts, const json_t *begin, int fd, json_t *anew, json_t *absent)
{
	const char *kind = json_string_value(json_object_get(begin, "program"));
	json_int_t protocol = json_integer_value(json_object_get(begin, "protocol"));
	json_int_t format = json_integer_value(json_object_get(begin, "format"));
	const char *keep = json_string_value(json_object_get(begin, "keep"));
	json_int_t pid = json_integer_value(json_object_get(begin, "pid"));

	if (!app_handover_is(begin, "begin") || protocol != APP_HANDOVER_PROTOCOL || fd < 0)
		return vdpa_error(EPROTO,
				  "the other daemon speaks version %d of the hand-over, this "
				  "one version %d",
				  (int)protocol, APP_HANDOVER_PROTOCOL);
	/* One of a version before does not say. */
	if (kind != NULL && strcmp(kind, app_program.name) != 0)
		return vdpa_error(EINVAL, "the other daemon is %.64s, and this one is %s", kind,
				  app_program.name);
	if (pid != getppid())
		return vdpa_error(
			EPROTO,
			"process %d has started this one, and not the other daemon, process %d: "
			"either that has ended, or a script has started the daemon and not by "
			"`exec`",
			(int)getppid(), (int)pid);
	if (format != vdpa_restart_format())
		return vdpa_error(EPROTO,
				  "the other daemon keeps devices in format %d, this one in format "
				  "%u",
				  (int)format, vdpa_restart_format());
	if (keep == NULL || opts->keep == NULL || strcmp(keep, opts->keep) != 0)
		return vdpa_error(EINVAL,
				  "the other daemon keeps devices with `keep %s`, this one's "
				  "configuration has `keep %s`",
				  keep != NULL ? keep : "",
				  opts->keep != NULL ? opts->keep : "off");
	return compare_words(opts, fd, anew, absent);
}

static int
read_take(const json_t *take, int fd)
{
	/* It has only been asked, or the other one has given up. */
	if (app_handover_is(take, "stop"))
		return vdpa_error(ECANCELED,
				  "the other daemon goes on: it has only asked, or given up");
	if (!app_handover_is(take, "take"))
		return vdpa_error(EPROTO, "the other daemon does not hand over");
	expected = json_integer_value(json_object_get(take, "devices"));
	/* One of a version before does not say. */
	force = json_is_true(json_object_get(take, "force"));
	listener = (struct vdpa_control_listener){
		.fd = fd,
		.dev = (uint64_t)json_integer_value(json_object_get(take, "dev")),
		.ino = (uint64_t)json_integer_value(json_object_get(take, "ino"))};
	return 0;
}

int
app_successor_begin(const struct app_options *opts)
{
	json_t *message, *anew, *absent;
	int fd, rc;

	if (opts->take_over == 0)
		return 0;
	anew = json_array();
	absent = json_array();
	message = app_handover_receive(opts->take_over, BEGIN_MS, &fd);
	rc = message == NULL ? -errno : check(opts, message, fd, anew, absent);
	json_decref(message);
	if (fd >= 0)
		close(fd);
	if (rc == 0)
		rc = app_handover_send(opts->take_over,
				       json_pack("{s:s,s:s,s:s,s:O,s:O}", "step", "checked",
						 "program", app_program.name, "version",
						 APP_VERSION, "anew", anew, "absent", absent),
				       -1);
	json_decref(anew);
	json_decref(absent);
	if (rc < 0)
		return give_up();
	message = app_handover_receive(opts->take_over, -1, &fd);
	rc = message == NULL ? -errno : read_take(message, fd);
	json_decref(message);
	if (rc == -ECANCELED) {
		app_log(LOG_INFO, NULL, "take-over: %s", vdpa_error_message());
		return rc;
	}
	if (rc == 0)
		rc = vdpa_restart_begin_handed(opts->keep, opts->take_over);
	return rc < 0 ? give_up() : 0;
}

/* 0: nobody else has the devices, or will. */
static int
wait_for_go(int sock)
{
	json_t *message;
	int fd, rc = 0;

	do
		message = app_handover_receive(sock, -1, &fd);
	while (message == NULL && errno == ETIMEDOUT);
	if (message == NULL && errno == EPIPE)
		app_log(LOG_WARNING, NULL,
			"take-over: the other daemon has died: this one goes on");
	else if (message == NULL)
		rc = -errno;
	else if (!app_handover_is(message, "go"))
		rc = vdpa_error(ECANCELED, "the other daemon keeps its devices");
	json_decref(message);
	if (fd >= 0)
		close(fd);
	return rc;
}

/* Characters of names in an error. */
#define NAMES_MAX 512

static void
print_anew(char names[NAMES_MAX])
{
	const char *name;
	json_t *words;
	size_t used = 0;

	names[0] = '\0';
	json_object_foreach(anew_words, name, words)
	{
		if (used < NAMES_MAX)
			used += (size_t)snprintf(names + used, NAMES_MAX - used, "%s%s",
						 used > 0 ? ", " : "", name);
	}
}

/* Also those that have failed since they were taken over. */
static int
collect_anew(void)
{
	const char *name;
	json_t *words;

	anew_words = json_object();
	json_object_foreach(left_words, name, words)
	{
		if (app_successor_starts_anew(name) && json_object_set(anew_words, name, words) < 0)
			return vdpa_error(ENOMEM, "out of memory");
	}
	return anew_words != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

/* Whether all devices went over, or, by force, those that did not can start anew. Where none went
 * over, it is rather this daemon that has a fault. */
static int
check_taken(unsigned int n)
{
	char names[NAMES_MAX];
	size_t nanew;

	if (collect_anew() < 0)
		return -ENOMEM;
	nanew = json_object_size(anew_words);
	if (n >= expected && nanew == 0)
		return 0;
	print_anew(names);
	if (!force || (json_int_t)(n + nanew) < expected || (n == 0 && expected > 1))
		return vdpa_error(EPROTO,
				  "%u of %d devices went over, and no more%s%s: lines of the log "
				  "say why",
				  n, (int)expected, nanew > 0 ? ", not " : "", names);
	app_log(LOG_WARNING, NULL, "take-over: %u of %d devices went over; by force anew: %s", n,
		(int)expected, names);
	return 0;
}

static int
send_taken(int sock, unsigned int n)
{
	json_t *anew = json_array(), *words;
	const char *name;

	json_object_foreach(anew_words, name, words) json_array_append_new(anew, json_string(name));
	return app_handover_send(
		sock, json_pack("{s:s,s:i,s:o}", "step", "taken", "devices", (int)n, "anew", anew),
		-1);
}

/* Nobody else can go on with them: what is left of each ends, with the function that it may have,
 * and its front end sees the end of its connection. */
static void
start_anew(void)
{
	int64_t left_us = APP_RESTART_PATIENCE_US;
	const char *name;
	json_t *words;

	app_made_leave();
	json_object_foreach(anew_words, name, words)
	{
		int rc = vdpa_dev_del(name);

		if (rc == -ENODEV)
			vdpa_restart_drop(name);
		(void)app_notify_alive();
		if ((rc < 0 && rc != -ENODEV) ||
		    app_restart_add(json_string_value(words), &left_us) < 0)
			app_log(LOG_ERR, name, "take-over: %s: cannot start anew, and is lost: %s",
				name, vdpa_error_message());
	}
	app_made_come_back();
	json_decref(anew_words);
	json_decref(left_words);
	anew_words = left_words = NULL;
}

int
app_successor_commit(const struct app_options *opts)
{
	unsigned int n = vdpa_restart_count();
	int rc;

	if (opts->take_over == 0)
		return 0;
	rc = check_taken(n);
	if (rc == 0)
		rc = send_taken(opts->take_over, n);
	if (rc == 0)
		rc = wait_for_go(opts->take_over);
	if (rc < 0)
		return give_up();
	has_gone = true;
	/* What it cannot keep it serves all the same, as one line has said. */
	(void)vdpa_restart_go();
	/* The devices serve: the old daemon ends, and with it the sockets of those that start anew.
	 */
	(void)app_handover_send(opts->take_over, json_pack("{s:s}", "step", "serving"), -1);
	/* Before a client may change anything. */
	start_anew();
	if (vdpa_control_take_back() < 0)
		app_log(LOG_ERR, NULL, "take-over: control socket: %s", vdpa_error_message());
	drop_listener();
	return 0;
}

bool
app_successor_is_pending(const struct app_options *opts)
{
	return opts->take_over != 0 && !has_gone;
}

void
app_successor_fail(const struct app_options *opts)
{
	if (opts->take_over != 0)
		(void)app_handover_send(
			opts->take_over,
			json_pack("{s:s,s:s}", "step", "failed", "error", vdpa_error_message()),
			-1);
}
