/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What the parts of vdpactl share: the options of a run, how a verb asks the daemon, and the verbs
 * themselves. One thread; every verb returns the program's exit status, 0 or EXIT_FAILURE, and has
 * then said why on stderr.
 */

#ifndef VDPACTL_H
#define VDPACTL_H

#include <stdbool.h>
#include <stdio.h>

#include <jansson.h>

#include "client.h"
#include "out.h"

struct ctl {
	bool json, pretty, statistics;
	const char *socket;   /* -S; NULL: the default path */
	const char *instance; /* --name; NULL: the daemon without a name */
	const char *output;   /* -o; NULL: stdout */
	unsigned long count;  /* -n; 0: not given */
	double delay;	      /* -d, seconds; 0: not given */
	unsigned int timeout; /* --timeout, seconds; 0: not given */
	bool force;	      /* --force */
	bool check;	      /* --check */
	char path[128];	      /* of the socket, once connected */
	struct client *client;
	struct out out;
};

/* Whether word is an abbreviation of name, as iproute2 takes them: from its first letter on. */
bool ctl_is(const char *word, const char *name);

/* Connect, if that has not been done. Returns 0, or -1 and a line on stderr. */
int ctl_connect(struct ctl *ctl);

/*
 * Carry out a method; takes params (NULL: none). Returns its result, which the caller frees, or
 * NULL and a line on stderr.
 */
json_t *ctl_call(struct ctl *ctl, const char *method, json_t *params);

/* One line on stderr about an answer that is an error, as ctl_call() prints it. */
void ctl_print_error(const struct client_error *err);

/* {"name": name}, or an empty object without a name. */
json_t *ctl_named(const char *name);

/*
 * The one optional name that a verb may have. Returns 0 and the name (NULL: none), or -1 and a line
 * on stderr where there is more.
 */
int ctl_one_name(int argc, char **argv, const char **name);

/* Verbs of iproute2, with its output (iproute2.c), and those that change devices (change.c). */
int cmd_mgmtdev_show(struct ctl *ctl, int argc, char **argv);
int cmd_dev_show(struct ctl *ctl, int argc, char **argv);
int cmd_dev_config_show(struct ctl *ctl, int argc, char **argv);
int cmd_dev_vstats_show(struct ctl *ctl, int argc, char **argv);
int cmd_dev_add(struct ctl *ctl, int argc, char **argv);
int cmd_dev_del(struct ctl *ctl, int argc, char **argv);
int cmd_dev_set(struct ctl *ctl, int argc, char **argv);

/* Ours: devices (inspect.c), the live ones, metrics, and the daemon (daemon.c). */
int cmd_dev_info(struct ctl *ctl, int argc, char **argv);
int cmd_dev_stats(struct ctl *ctl, int argc, char **argv);
int cmd_dev_queues(struct ctl *ctl, int argc, char **argv);
int cmd_monitor(struct ctl *ctl, int argc, char **argv);
int cmd_top(struct ctl *ctl, int argc, char **argv);
int cmd_metrics(struct ctl *ctl, int argc, char **argv);
int cmd_reload(struct ctl *ctl, int argc, char **argv);
int cmd_shutdown(struct ctl *ctl, int argc, char **argv);
int cmd_upgrade(struct ctl *ctl, int argc, char **argv);
int cmd_save(struct ctl *ctl, int argc, char **argv);
int cmd_version(struct ctl *ctl, int argc, char **argv);
int cmd_methods(struct ctl *ctl, int argc, char **argv);
int cmd_call(struct ctl *ctl, int argc, char **argv);

/* In text, the statistics of one device, from dev.stats; each line begins with indent. */
void print_statistics(const json_t *stats, const char *indent);

#endif /* VDPACTL_H */
