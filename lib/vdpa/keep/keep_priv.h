/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* What the two kinds of store have in common, and where they differ (vdpa_keep.h). */

#ifndef KEEP_PRIV_H
#define KEEP_PRIV_H

#include <stdbool.h>

#include "vdpa_keep.h"

/* How long a store may take to answer. */
#define KEEP_PATIENCE_MS 5000

/*
 * A kind of store. Each returns 0 or a negative errno with a message; after -EPIPE or -ETIMEDOUT
 * the store is given up, and close() alone is called. Calls come one at a time, names are valid.
 */
struct keep_ops {
	int (*put)(void *store, const char *name, int fd);
	int (*del)(void *store, const char *name);
	/* The descriptor. Asked for names that keep_add_left() was called for. */
	int (*take)(void *store, const char *name);
	int (*barrier)(void *store, int timeout_ms);
	/* Send what the next process needs to go on with the store: its keep_..._open() reads it
	 * from the other end of the socket. What follows is reopen() or close(). */
	int (*hand_over)(void *store, int sock);
	/* The next process is not there any more: as the store was when it was handed over. */
	int (*reopen)(void *store, struct vdpa_keep *k, const struct keep_ops **ops, void **out);
	void (*close)(void *store);
};

/* 1 to VDPA_KEEP_NAME_MAX characters of those allowed. */
bool keep_is_name(const char *name);

/* By a store that is being opened: a former life has left something under this name. 0, or
 * -EPROTO, -ENOMEM with a message. */
int keep_add_left(struct vdpa_keep *k, const char *name);

/*
 * Reach a store. On success its ops and store are set, and keep_add_left() was called for all that
 * is in it. sock: where the process that has the store hands it over; -1: there is none such.
 * -ENOENT with a message: there is none; else as vdpa_keep_open().
 */
int keep_systemd_open(struct vdpa_keep *k, int sock, const struct keep_ops **ops, void **store);
int keep_unix_open(struct vdpa_keep *k, const char *path, const struct keep_ops **ops,
		   void **store);

#endif /* KEEP_PRIV_H */
