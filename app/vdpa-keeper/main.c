/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * vdpa-keeper: a process that holds a daemon's file descriptors while the daemon is killed, crashes
 * or starts again. It knows nothing of devices but how a function is stopped when no daemon comes
 * (fence.h), reads nothing of what it holds, and so has little to die of. With --fence it is an
 * operator's program that asks a keeper for that.
 */

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "ask.h"
#include "confine.h"
#include "listen.h"
#include "serve.h"
#include "vdpa_error.h"
#include "vdpa_fd.h"
#include "vdpa_foreign_fd.h"
#include "vdpa_keep.h"

#ifdef APP_SYSTEMD
#include <systemd/sd-daemon.h>
#endif

#define MAX_DEFAULT 65536
#define MAX_MAX	    1000000
#define HOLD_MAX    86400
/* Longer than a daemon takes to be started again, with as many devices as a host has. */
#define FENCE_S	    60
/* Descriptors of its own, and those of one message. */
#define OWN_FDS	    300
#define BACKLOG	    8

/* A sanitizer that looks for leaks at the end starts a process and stops this one by ptrace(2),
 * which a keeper that serves may not do (confine.h); without that it would end with an error. Leaks
 * of what it consists of are the unit tests' to find. */
#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define HAS_LEAK_CHECK
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(HAS_LEAK_CHECK)
int __lsan_is_turned_off(void);

int
__lsan_is_turned_off(void)
{
	return 1;
}
#endif

struct options {
	char path[128];
	unsigned int hold_s;
	unsigned int fence_s;
	unsigned int max;
	bool fence; /* ask a keeper for it */
	bool force;
};

static void
usage(void)
{
	printf("usage: vdpa-keeper [options]\n"
	       "       vdpa-keeper --fence [--force] [--socket PATH]\n"
	       "\n"
	       "Hold the file descriptors of a daemon that ends and is started again. With "
	       "--fence,\n"
	       "have the keeper that listens at PATH stop the functions (VFIO) that it holds.\n"
	       "\n"
	       "  --socket PATH   where the daemon finds it: vdpa-app --keep unix:PATH\n"
	       "                  (/run/uvdpa/keeper.sock; of users: "
	       "$XDG_RUNTIME_DIR/uvdpa/keeper.sock)\n"
	       "  --hold SECONDS  drop all when no daemon has come back for so long, 1 to %d "
	       "(never)\n"
	       "  --fence-after SECONDS\n"
	       "                  stop and drop functions when no daemon has come back for so "
	       "long, "
	       "1 to\n"
	       "                  %d, or 0 for never (%d)\n"
	       "  --max N         descriptors that it holds, at most, 1 to %d (%d)\n"
	       "  --fence         ask the keeper to stop and drop functions now\n"
	       "  --force         also while it serves a daemon\n"
	       "  --help          this text\n"
	       "  --version       version of this program\n"
	       "\n"
	       "Exit code: 0 stopped by SIGINT or SIGTERM, or no function is left to stop; 1 could "
	       "not\n"
	       "start, or could not stop all; 2 wrong usage.\n",
	       HOLD_MAX, HOLD_MAX, FENCE_S, MAX_MAX, MAX_DEFAULT);
}

static bool
read_count(const char *text, unsigned int min, unsigned int max, unsigned int *value)
{
	char *end;
	unsigned long n;

	errno = 0;
	n = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || n < min || n > max)
		return false;
	*value = (unsigned int)n;
	return true;
}

static int
wrong_count(const char *option, const char *text, unsigned int min, unsigned int max)
{
	say("--%s: '%.64s': expected %u to %u; see --help", option, text, min, max);
	return 2;
}

/* -1: go on; else the exit code. */
static int
read_options(int argc, char **argv, struct options *o)
{
	static const struct option options[] = {
		{"socket", required_argument, NULL, 's'},
		{"hold", required_argument, NULL, 'o'},
		{"max", required_argument, NULL, 'm'},
		{"fence-after", required_argument, NULL, 'a'},
		{"fence", no_argument, NULL, 'f'},
		{"force", no_argument, NULL, 'F'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	int opt;

	while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (opt) {
		case 's':
			if (strlen(optarg) >= sizeof(o->path)) {
				say("--socket: the path is too long");
				return 2;
			}
			strcpy(o->path, optarg);
			break;
		case 'o':
			if (!read_count(optarg, 1, HOLD_MAX, &o->hold_s))
				return wrong_count("hold", optarg, 1, HOLD_MAX);
			break;
		case 'a':
			if (!read_count(optarg, 0, HOLD_MAX, &o->fence_s))
				return wrong_count("fence-after", optarg, 0, HOLD_MAX);
			break;
		case 'f':
			o->fence = true;
			break;
		case 'F':
			o->force = true;
			break;
		case 'm':
			if (!read_count(optarg, 1, MAX_MAX, &o->max))
				return wrong_count("max", optarg, 1, MAX_MAX);
			break;
		case 'h':
			usage();
			return 0;
		case 'v':
			printf("vdpa-keeper %s\n", APP_VERSION);
			return 0;
		default:
			return 2;
		}
	}
	if (optind < argc) {
		say("unexpected '%.64s'; see --help", argv[optind]);
		return 2;
	}
	if (o->force && !o->fence) {
		say("--force goes with --fence; see --help");
		return 2;
	}
	if (o->path[0] == '\0' && vdpa_keep_default_path(o->path, sizeof(o->path)) < 0) {
		say("there is no default socket without XDG_RUNTIME_DIR: give it as --socket PATH");
		return 2;
	}
	return -1;
}

/* As many as were asked for, or as the process may have. */
static unsigned int
bound_max(unsigned int max)
{
	struct rlimit limit;

	vdpa_fd_raise_limit();
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= (rlim_t)max + OWN_FDS)
		return max;
	if (limit.rlim_cur <= OWN_FDS)
		return 0;
	return (unsigned int)(limit.rlim_cur - OWN_FDS);
}

static int
open_signals(void)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int
main(int argc, char **argv)
{
	struct options o = {.max = MAX_DEFAULT, .fence_s = FENCE_S};
	struct serve_params params = {.signal_fd = -1};
	struct vdpa_listen listen;
	int ret = read_options(argc, argv, &o), rc;

	if (ret >= 0)
		return ret;
	if (o.fence)
		return ask_for_fence(o.path, o.force) < 0 ? 1 : 0;
	o.max = bound_max(o.max);
	params.hold_s = o.hold_s;
	params.fence_s = o.fence_s;
	params.hold = hold_create(o.max);
	params.signal_fd = open_signals();
	if (o.max == 0 || params.hold == NULL || params.signal_fd < 0) {
		say("cannot start: RLIMIT_NOFILE or memory is too small");
		return 1;
	}
	if (vdpa_listen_open_packets(&listen, o.path, 0600, BACKLOG) < 0) {
		say("%s", vdpa_error_message());
		return 1;
	}
	params.listen_fd = listen.fd;
	/* What tells kinds of descriptors apart opens its own once. */
	vdpa_fd_is_eventfd(params.signal_fd);
#ifdef APP_SYSTEMD
	/* Its socket is opened for each message. */
	sd_notify(0, "READY=1");
#endif
	rc = confine();
	if (rc < 0) {
		say("seccomp: %s", strerror(-rc));
		vdpa_listen_unlink(&listen);
		return 1;
	}
	say("listens at %s, holds %u descriptors at most", o.path, o.max);
	/* The socket's file is left: to remove files is not for a process that is confined. */
	rc = serve(&params);
	hold_destroy(params.hold);
	return rc < 0 ? 1 : 0;
}
