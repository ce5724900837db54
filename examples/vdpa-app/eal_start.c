/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The start of EAL, told in the user's words where it fails: EAL prints a hundred lines of usage on
 * stdout then, which name no mistake. Owns EAL's arguments, which EAL keeps pointers to.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <rte_eal.h>
#include <rte_errno.h>

#include "eal_args.h"
#include "eal_start.h"
#include "log.h"
#include "runtime_dir.h"

static struct app_eal_args eal;

/* What EAL printed while stdout was a file of ours. */
static void
replay(int file)
{
	char text[4096];
	ssize_t n;

	lseek(file, 0, SEEK_SET);
	while ((n = read(file, text, sizeof(text))) > 0)
		fwrite(text, 1, (size_t)n, stdout);
}

static int
init_quietly(void)
{
	int file = memfd_create("stdout", MFD_CLOEXEC);
	int old = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
	bool quiet;
	int rc, err;

	fflush(stdout);
	quiet = file >= 0 && old >= 0 && dup2(file, STDOUT_FILENO) >= 0;
	rc = rte_eal_init(eal.argc, eal.argv);
	err = rte_errno;
	fflush(stdout);
	if (quiet) {
		dup2(old, STDOUT_FILENO);
		if (rc >= 0)
			replay(file);
	}
	if (file >= 0)
		close(file);
	if (old >= 0)
		close(old);
	return rc < 0 ? -err : 0;
}

static void
tell_failure(const struct app_options *opts, int err)
{
	char given[512] = "";
	size_t used = 0;

	for (int i = opts->eal_own; i < opts->eal_argc && used < sizeof(given); i++)
		used += (size_t)snprintf(given + used, sizeof(given) - used, "%s %s",
					 i == opts->eal_own ? " with" : "", opts->eal_argv[i]);
	app_log(LOG_ERR, NULL, "EAL does not start%s: %s%s", given, strerror(err),
		used > 0 ? "; without these, the defaults work on any machine" : "");
}

int
app_eal_start(const struct app_options *opts)
{
	int rc = app_eal_args_build(&eal, opts);

	if (rc == -ENOMEM)
		app_log(LOG_ERR, NULL, "out of memory");
	if (rc < 0)
		return rc;
	/* EAL prints its help and ends the process. */
	rc = eal.help ? rte_eal_init(eal.argc, eal.argv) : init_quietly();
	if (rc < 0) {
		tell_failure(opts, -rc);
		app_eal_args_free(&eal);
		return rc;
	}
	app_runtime_started(eal.telemetry);
	return 0;
}

void
app_eal_stop(void)
{
	rte_eal_cleanup();
	app_eal_args_free(&eal);
}
