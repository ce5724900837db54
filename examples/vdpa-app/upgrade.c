/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * An upgrade: the old daemon's part (handover.h). Owns the new process until it has the devices.
 *
 * First the new daemon is started and checks all that it can without a device; then the devices of
 * this one stand still, and the store and the control socket go over; then the new one takes the
 * devices up and says so; from then on there is no way back, and this process ends. If anything
 * fails before, the new process is ended, and this one takes its own devices up again, as a next
 * process would.
 *
 * It waits, so it has a thread of its own or that of whoever asks for it over the control socket,
 * one at a time, and no reload beside it.
 */

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vdpa.h>
#include <vdpa_args.h>
#include <vdpa_control.h>
#include <vdpa_restart.h>
#include <vdpa_uvdpad.h>

#include "clock.h"
#include "control.h"
#include "handover.h"
#include "log.h"
#include "made.h"
#include "notify.h"
#include "program.h"
#include "reload.h"
#include "stays.h"
#include "upgrade.h"

/* How often the end of this daemon is looked for, and how long a process that has said that it has
 * failed may take to end. */
#define LOOK_MS	      100
#define END_MS	      2000
/* How long one that was killed may take: it executes nothing any more. */
#define KILLED_MS     10000
/* How long the new daemon may take to say that it serves: for the figure alone. */
#define SERVING_MS    5000
/* Where the new process has its end of the socket. */
#define SOCKET_FD     3
#define OPTION	      "--take-over=3"
/* For so long a device is tried again that this process has had, and how often. */
#define AGAIN_US      10000000
#define AGAIN_LOOK_US 50000

extern char **environ;

static char own_path[PATH_MAX];
static char **own_argv;
static int own_argc;
static const struct app_options *options; /* atomic; NULL: not yet */
static bool stop;			  /* atomic */
static bool done;			  /* atomic */

/* Held while one is at work. */
static pthread_mutex_t upgrade_lock = PTHREAD_MUTEX_INITIALIZER;

/* The thread for signals. */
static struct {
	pthread_mutex_t lock;
	pthread_t thread;
	bool started; /* to be joined */
	bool working;
} background = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct saved {
	char *name, *words;
	bool is_made; /* by this process, once more */
	bool was_left;
};

/* One upgrade. */
struct upgrade {
	const struct app_upgrade *how;
	const char *program;
	int sock; /* to the new process */
	pid_t pid;
	int64_t deadline_us;
	struct app_stays stays; /* devices that do not go on */
	/* All devices, as they were when they were left. */
	struct saved *saved;
	unsigned int nsaved;
	bool has_control;
	int64_t still_us; /* since when */
	char version[64];
	bool frozen;	  /* nobody else changes devices */
	bool has_stopped; /* those that do not go on have ended */
	bool has_left;	  /* all others, too */
};

void
app_upgrade_init(int argc, char **argv)
{
	ssize_t n = readlink("/proc/self/exe", own_path, sizeof(own_path) - 1);

	own_path[n > 0 ? n : 0] = '\0';
	own_argv = argv;
	/* What the process before this one has added to its arguments is no argument of this one's.
	 */
	own_argc = argc > 0 && strcmp(argv[argc - 1], OPTION) == 0 ? argc - 1 : argc;
}

void
app_upgrade_open(const struct app_options *opts)
{
	__atomic_store_n(&options, opts, __ATOMIC_RELEASE);
}

bool
app_upgrade_is_done(void)
{
	return __atomic_load_n(&done, __ATOMIC_ACQUIRE);
}

/* The new process. */

/* The environment but for what systemd has said of this process alone. */
static char **
make_environment(void)
{
	static const char *const own[] = {
		"WATCHDOG_PID=", "LISTEN_PID=", "LISTEN_FDS=", "LISTEN_FDNAMES="};
	unsigned int n = 0, count = 0;
	char **env;

	while (environ[count] != NULL)
		count++;
	env = calloc(count + 1, sizeof(*env));
	for (unsigned int i = 0; env != NULL && i < count; i++) {
		bool is_own = false;

		for (unsigned int j = 0; j < sizeof(own) / sizeof(own[0]); j++)
			is_own |= strncmp(environ[i], own[j], strlen(own[j])) == 0;
		if (!is_own)
			env[n++] = environ[i];
	}
	return env;
}

/* Of the descriptors it has the standard ones and the socket, and no signal is blocked. */
static int
spawn(struct upgrade *u, int sock, char **argv, char **env)
{
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attr;
	sigset_t none, defaults;
	int rc;

	sigemptyset(&none);
	sigemptyset(&defaults);
	sigaddset(&defaults, SIGPIPE);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attr);
	rc = posix_spawn_file_actions_adddup2(&actions, sock, SOCKET_FD);
	if (rc == 0)
		rc = posix_spawn_file_actions_addclosefrom_np(&actions, SOCKET_FD + 1);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &defaults);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	if (rc == 0)
		rc = posix_spawn(&u->pid, u->program, &actions, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	posix_spawn_file_actions_destroy(&actions);
	if (rc != 0)
		u->pid = 0;
	return rc == 0 ? 0 : vdpa_error(rc, "%s: %s", u->program, strerror(rc));
}

static int
start_program(struct upgrade *u)
{
	char **argv = calloc((size_t)own_argc + 2, sizeof(*argv)), **env = make_environment();
	int socks[2], rc = 0;

	if (argv == NULL || env == NULL)
		rc = vdpa_error(ENOMEM, "out of memory");
	else if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0)
		rc = vdpa_error(errno, "a socket to the new daemon: %m");
	if (rc == 0) {
		memcpy(argv, own_argv, (size_t)own_argc * sizeof(*argv));
		argv[own_argc] = (char[]){OPTION};
		u->sock = socks[0];
		rc = spawn(u, socks[1], argv, env);
		close(socks[1]);
	}
	free(argv);
	free(env);
	return rc;
}

/* How it has ended, in words. */
static void
describe_end(int status, char *buf, size_t size)
{
	if (WIFSIGNALED(status))
		snprintf(buf, size, "was ended by signal %d", WTERMSIG(status));
	else
		snprintf(buf, size, "ended with exit code %d", WEXITSTATUS(status));
}

static pid_t
wait_for_end(pid_t pid, int patience_ms, int *status)
{
	int64_t until_us = app_now_us() + (int64_t)patience_ms * 1000;
	pid_t rc;

	while ((rc = waitpid(pid, status, WNOHANG)) == 0 && app_now_us() < until_us)
		usleep(1000);
	return rc;
}

/* End it, if it has not ended: after a moment where it is about to. How it has ended, in buf. */
static void
end_program(struct upgrade *u, int patience_ms, char *buf, size_t size)
{
	int status = 0;
	pid_t rc;

	snprintf(buf, size, "was not started");
	if (u->pid == 0)
		return;
	rc = wait_for_end(u->pid, patience_ms, &status);
	if (rc == 0) {
		kill(u->pid, SIGKILL);
		rc = wait_for_end(u->pid, KILLED_MS, &status);
	}
	if (rc == 0)
		app_log(LOG_ERR, NULL,
			"upgrade: process %d was killed, and the kernel has not ended it",
			(int)u->pid);
	u->pid = 0;
	if (rc > 0)
		describe_end(status, buf, size);
}

/* The new process is not to go on, whatever it has read so far. */
static void
stop_program(struct upgrade *u, int patience_ms)
{
	char end[64];

	if (u->sock >= 0) {
		(void)app_handover_send(u->sock, json_pack("{s:s}", "step", "stop"), -1);
		close(u->sock);
		u->sock = -1;
	}
	end_program(u, patience_ms, end, sizeof(end));
}

/* Wait for the next word of the new process, which is to be of this step. NULL with an error, which
 * is the process' own where it has said one. */
static json_t *
expect(struct upgrade *u, const char *step, const char *what)
{
	json_t *message = NULL;
	char end[64];
	int fd = -1;

	while (message == NULL) {
		if (__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) {
			vdpa_error(ESHUTDOWN, "the daemon is being stopped");
			return NULL;
		}
		message = app_handover_receive(u->sock, LOOK_MS, &fd);
		if (message != NULL || errno == ETIMEDOUT) {
			if (message == NULL && app_now_us() > u->deadline_us) {
				vdpa_error(ETIMEDOUT, "%s has not %s within %u s", u->program, what,
					   u->how->timeout_s);
				return NULL;
			}
			continue;
		}
		end_program(u, END_MS, end, sizeof(end));
		vdpa_error(EPIPE, "%s %s before it had %s; its own lines are in the log",
			   u->program, end, what);
		return NULL;
	}
	if (fd >= 0)
		close(fd);
	if (app_handover_is(message, step))
		return message;
	if (app_handover_is(message, "failed")) {
		const char *error = json_string_value(json_object_get(message, "error"));

		vdpa_error(ECANCELED, "%s: %s", u->program, error != NULL ? error : "has failed");
		end_program(u, END_MS, end, sizeof(end));
	} else {
		vdpa_error(EPROTO, "%s speaks no hand-over of this version's", u->program);
	}
	json_decref(message);
	return NULL;
}

/* First step: all that can be checked. */

static int
list_device(const char *name, uint64_t id, const char *words, void *arg)
{
	(void)id;
	return json_array_append_new(arg, json_pack("{s:s,s:s}", "name", name, "words", words)) < 0
		       ? vdpa_error(ENOMEM, "out of memory")
		       : 0;
}

/* A file with the names and words of devices. */
static int
list_devices(void)
{
	int fd = memfd_create("devices", MFD_CLOEXEC), rc;
	json_t *list = json_array();

	rc = fd < 0 ? vdpa_error(errno, "memfd: %m") : vdpa_dev_words_each(list_device, list);
	if (rc == 0 && (json_dumpfd(list, fd, JSON_COMPACT) < 0 || lseek(fd, 0, SEEK_SET) < 0))
		rc = vdpa_error(ENOMEM, "out of memory");
	json_decref(list);
	if (rc == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return rc;
}

static int
send_begin(struct upgrade *u)
{
	int fd = list_devices(), rc;

	if (fd < 0)
		return fd;
	rc = app_handover_send(u->sock,
			       json_pack("{s:s,s:i,s:i,s:s,s:s,s:s,s:i}", "step", "begin",
					 "protocol", APP_HANDOVER_PROTOCOL, "format",
					 (int)vdpa_restart_format(), "keep", options->keep,
					 "program", app_program.name, "version", APP_VERSION, "pid",
					 (int)getpid()),
			       fd);
	close(fd);
	/* How a process has ended that is not there any more is said where its answer is waited
	 * for. */
	return rc == -EPIPE ? 0 : rc;
}

/* What the new program says of itself and of the devices. */
static int
ask_program(struct upgrade *u)
{
	const char *version, *kind;
	json_t *checked;
	int rc;

	u->deadline_us = app_now_us() + (int64_t)u->how->timeout_s * 1000000;
	rc = start_program(u);
	if (rc == 0)
		rc = send_begin(u);
	if (rc < 0)
		return rc;
	checked = expect(u, "checked", "checked everything");
	if (checked == NULL)
		return -ECANCELED;
	version = json_string_value(json_object_get(checked, "version"));
	snprintf(u->version, sizeof(u->version), "%s", version != NULL ? version : "?");
	/* One of a version before does not say. */
	kind = json_string_value(json_object_get(checked, "program"));
	rc = kind == NULL || strcmp(kind, app_program.name) == 0
		     ? app_stays_note_checked(&u->stays, checked)
		     : vdpa_error(EINVAL, "%s is another program: %.64s, and not %s", u->program,
				  kind, app_program.name);
	json_decref(checked);
	return rc;
}

static int
check_with_program(struct upgrade *u)
{
	int rc = ask_program(u);

	return rc == 0 ? app_stays_refuse(&u->stays, u->how->force) : rc;
}

/* Second step: the devices go over, or come back. */

static int
save_device(const char *name, uint64_t id, const char *words, void *arg)
{
	struct upgrade *u = arg;
	struct saved *saved = reallocarray(u->saved, u->nsaved + 1, sizeof(*saved));

	(void)id;
	if (saved == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	u->saved = saved;
	saved[u->nsaved] = (struct saved){.name = strdup(name), .words = strdup(words)};
	u->nsaved++;
	return saved[u->nsaved - 1].name == NULL || saved[u->nsaved - 1].words == NULL
		       ? vdpa_error(ENOMEM, "out of memory")
		       : 0;
}

static void
free_saved(struct upgrade *u)
{
	for (unsigned int i = 0; i < u->nsaved; i++) {
		free(u->saved[i].name);
		free(u->saved[i].words);
	}
	free(u->saved);
}

static int
check_here(struct upgrade *u)
{
	int rc = app_stays_look(&u->stays, options);

	return rc == 0 ? app_stays_refuse(&u->stays, u->how->force) : rc;
}

/* The store is there, what was checked before the new process was started is so still, and stays so
 * from now on; the words of devices are written down for the way back. */
static int
freeze(struct upgrade *u)
{
	int rc = vdpa_restart_freeze();

	if (rc < 0)
		return rc;
	u->frozen = true;
	rc = check_here(u);
	return rc == 0 ? vdpa_dev_words_each(save_device, u) : rc;
}

/* How many devices the new process finds. One that did not stop is known by now alone: it starts
 * anew, and the others go on. */
static int
count_left(struct upgrade *u)
{
	int n = 0, rc = 0;

	for (unsigned int i = 0; i < u->nsaved && rc == 0; i++) {
		const struct saved *s = &u->saved[i];

		if (vdpa_restart_is_left(s->name))
			n++;
		else if (s->was_left)
			rc = app_stays_add(&u->stays, s->name, "was not left: the log says why");
	}
	return rc < 0 ? rc : n;
}

/* Devices stand still, and nobody is let in. Those that start anew end: their sockets become free.
 * How many are left to the new process. */
static int
leave(struct upgrade *u)
{
	json_t *name;
	size_t i;
	int rc;

	app_made_leave();
	vdpa_uvdpad_stop();
	u->still_us = app_now_us();
	u->has_stopped = true;
	json_array_foreach(u->stays.names, i, name)(void) vdpa_dev_del(json_string_value(name));
	rc = vdpa_restart_leave();
	/* Whatever is deleted behind a failure would end for good. */
	if (rc < 0)
		return rc;
	u->has_left = true;
	for (struct saved *s = u->saved; s < u->saved + u->nsaved; s++)
		s->was_left = vdpa_restart_is_left(s->name);
	vdpa_dev_del_all();
	return count_left(u);
}

static int
send_take(struct upgrade *u, unsigned int expected)
{
	struct vdpa_control_listener l = {.fd = -1};

	u->has_control = vdpa_control_hand_over(&l) == 0;
	return app_handover_send(u->sock,
				 json_pack("{s:s,s:i,s:b,s:I,s:I}", "step", "take", "devices",
					   (int)expected, "force", (int)u->how->force, "dev",
					   (json_int_t)l.dev, "ino", (json_int_t)l.ino),
				 l.fd);
}

static int
hand_over(struct upgrade *u)
{
	int expected, rc;
	json_t *taken;

	expected = leave(u);
	if (expected < 0)
		return expected;
	u->deadline_us = app_now_us() + (int64_t)u->how->timeout_s * 1000000;
	rc = send_take(u, (unsigned int)expected);
	if (rc == 0)
		rc = vdpa_restart_hand_over(u->sock);
	if (rc < 0)
		return rc;
	taken = expect(u, "taken", "taken the devices over");
	if (taken == NULL)
		return -ECANCELED;
	rc = app_stays_note_taken(&u->stays, taken);
	json_decref(taken);
	return rc;
}

/* Whether the device is there, since it was never left or is made again. */
static bool
is_there(const struct upgrade *u, const struct saved *s)
{
	return s->is_made || (!u->has_left && !app_stays_has(&u->stays, s->name));
}

/* What another process could not take may need a moment here, too, such as a server that does not
 * answer. Others do not wait for that longer than for one try. */
static void
make_again(struct upgrade *u)
{
	bool is_first = true, is_last, failed;
	int64_t until_us = 0;

	for (;; is_first = false) {
		is_last = !is_first && app_now_us() >= until_us;
		failed = false;
		for (unsigned int i = 0; i < u->nsaved; i++) {
			struct saved *s = &u->saved[i];

			if (is_there(u, s))
				continue;
			s->is_made = vdpa_dev_add(s->words) == 0;
			failed |= !s->is_made;
			if (!s->is_made && (is_first || is_last))
				app_log(is_last ? LOG_ERR : LOG_WARNING, s->name,
					"upgrade: %s: cannot be made again%s: %s", s->name,
					is_last ? ", and is lost" : " yet", vdpa_error_message());
		}
		if (!failed || is_last)
			return;
		if (is_first)
			until_us = app_now_us() + AGAIN_US;
		usleep(AGAIN_LOOK_US);
	}
}

static void
come_back(struct upgrade *u)
{
	unsigned int n = 0;

	if (u->has_left)
		(void)vdpa_restart_take_back();
	make_again(u);
	if (u->has_left)
		(void)vdpa_restart_settle();
	for (unsigned int i = 0; i < u->nsaved; i++)
		n += is_there(u, &u->saved[i]);
	app_made_come_back();
	if (u->has_control && vdpa_control_take_back() < 0)
		app_log(LOG_ERR, NULL, "upgrade: control socket: %s", vdpa_error_message());
	(void)app_uvdpad_start(options);
	app_log(LOG_NOTICE, NULL, "upgrade: this daemon goes on, with %u device%s", n,
		n == 1 ? "" : "s");
}

/* Third step: behind it the new process has all. One that has died meanwhile has not. */
static int
let_go(struct upgrade *u)
{
	char end[64];
	int status = 0, rc;

	if (waitpid(u->pid, &status, WNOHANG) != 0) {
		u->pid = 0;
		describe_end(status, end, sizeof(end));
		return vdpa_error(EPIPE, "%s %s with the devices; its own lines are in the log",
				  u->program, end);
	}
	/* systemd listens to the main process alone, and the new one stores what it keeps. */
	app_notify_successor(u->pid);
	rc = app_handover_send(u->sock, json_pack("{s:s}", "step", "go"), -1);
	if (rc < 0) {
		stop_program(u, 0);
		app_notify_successor(getpid());
		return vdpa_error(EPIPE,
				  "%s has ended with the devices; its own lines are in the log",
				  u->program);
	}
	__atomic_store_n(&done, true, __ATOMIC_RELEASE);
	return 0;
}

static json_t *
describe(struct upgrade *u)
{
	unsigned int n = 0;
	json_t *message;
	int fd, gap_ms;

	message = app_handover_receive(u->sock, SERVING_MS, &fd);
	json_decref(message);
	if (fd >= 0)
		close(fd);
	gap_ms = (int)((app_now_us() - u->still_us + 999) / 1000);
	for (unsigned int i = 0; i < u->nsaved; i++)
		n += !app_stays_has(&u->stays, u->saved[i].name);
	app_log(LOG_NOTICE, NULL,
		"upgrade: process %d, version %s, has %u device%s, which stood still for %d ms",
		(int)u->pid, u->version, n, n == 1 ? "" : "s", gap_ms);
	app_stays_log(&u->stays);
	return json_pack("{s:i,s:s,s:s,s:i,s:o,s:o,s:i}", "pid", (int)u->pid, "program", u->program,
			 "version", u->version, "devices", (int)n, "anew",
			 app_stays_list(&u->stays, false), "lost", app_stays_list(&u->stays, true),
			 "gap_ms", gap_ms);
}

/* With both locks: what an upgrade would do, as far as that changes nothing. The new process has
 * read nothing that it could go on with; it has a moment to end in, as it has files of EAL's. */
static int
foresee(struct upgrade *u, json_t **result)
{
	char end[64];
	int rc = app_stays_look(&u->stays, options);

	if (rc == 0)
		rc = ask_program(u);
	if (rc == 0)
		stop_program(u, END_MS);
	else
		end_program(u, 0, end, sizeof(end));
	if (rc == 0)
		rc = app_stays_describe(&u->stays, result);
	if (rc == 0 && (json_object_set_new(*result, "program", json_string(u->program)) < 0 ||
			json_object_set_new(*result, "version", json_string(u->version)) < 0))
		rc = vdpa_error(ENOMEM, "out of memory");
	return rc;
}

/* With both locks. */
static int
upgrade(struct upgrade *u, json_t **result)
{
	int rc;

	/* What of the devices is lost the new process alone knows. */
	rc = app_stays_look(&u->stays, options);
	if (rc == 0)
		rc = check_with_program(u);
	if (rc == 0)
		rc = freeze(u);
	if (rc == 0)
		rc = hand_over(u);
	if (rc == 0)
		rc = let_go(u);
	if (rc == 0) {
		*result = describe(u);
		return *result != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
	}
	app_log(LOG_ERR, NULL, "upgrade: %s", vdpa_error_message());
	{
		char *error = strdup(vdpa_error_message());

		stop_program(u, 0);
		if (u->has_stopped)
			come_back(u);
		if (u->frozen)
			vdpa_restart_thaw();
		if (error != NULL)
			vdpa_error(-rc, "%s", error);
		free(error);
	}
	return rc;
}

/* Why an upgrade does not begin: whoever asks by a signal hears it by the log alone. */
static int
refuse(const struct app_upgrade *how, int rc)
{
	if (how->by_signal)
		app_log(LOG_ERR, NULL, "upgrade: %s", vdpa_error_message());
	return rc;
}

int
app_upgrade(const struct app_upgrade *how, json_t **result)
{
	struct upgrade u = {.how = how, .program = own_path, .sock = -1};
	char path[PATH_MAX];
	int rc = 0;

	*result = NULL;
	if (__atomic_load_n(&options, __ATOMIC_ACQUIRE) == NULL)
		return refuse(how, vdpa_error(EBUSY, "the daemon is being started"));
	if (how->program != NULL) {
		rc = app_stays_check_program(how->program, path);
		u.program = path;
	}
	if (rc < 0)
		return refuse(how, rc);
	if (pthread_mutex_trylock(&upgrade_lock) != 0)
		return refuse(how, vdpa_error(EBUSY, "an upgrade is at work"));
	if (__atomic_load_n(&stop, __ATOMIC_ACQUIRE) || app_upgrade_is_done()) {
		rc = refuse(how, vdpa_error(ESHUTDOWN, "the daemon is being stopped"));
	} else if (!app_reload_lock()) {
		rc = refuse(how, vdpa_error(EBUSY, "a reload is at work"));
	} else {
		rc = app_stays_init(&u.stays);
		if (rc == 0)
			rc = how->check ? foresee(&u, result) : upgrade(&u, result);
		app_stays_fini(&u.stays);
		free_saved(&u);
		if (u.sock >= 0)
			close(u.sock);
		app_reload_unlock();
	}
	if (app_upgrade_is_done())
		kill(getpid(), SIGUSR2);
	pthread_mutex_unlock(&upgrade_lock);
	return rc;
}

static void *
run_background(void *arg)
{
	const struct app_upgrade how = {.timeout_s = APP_UPGRADE_S, .by_signal = true};
	json_t *result;

	(void)arg;
	(void)app_upgrade(&how, &result);
	json_decref(result);
	pthread_mutex_lock(&background.lock);
	background.working = false;
	pthread_mutex_unlock(&background.lock);
	return NULL;
}

void
app_upgrade_begin(void)
{
	int rc = 0;

	pthread_mutex_lock(&background.lock);
	if (!background.working) {
		if (background.started)
			pthread_join(background.thread, NULL);
		rc = pthread_create(&background.thread, NULL, run_background, NULL);
		background.started = background.working = rc == 0;
	}
	pthread_mutex_unlock(&background.lock);
	if (rc != 0)
		app_log(LOG_ERR, NULL, "upgrade: no thread for it: %s", strerror(rc));
}

bool
app_upgrade_fini(void)
{
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	if (background.started)
		pthread_join(background.thread, NULL);
	background.started = false;
	/* One that a client has asked for. */
	pthread_mutex_lock(&upgrade_lock);
	pthread_mutex_unlock(&upgrade_lock);
	return app_upgrade_is_done();
}
