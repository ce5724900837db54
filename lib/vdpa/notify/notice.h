/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Notices: what happens to devices, for whoever watches. The rooms that know say so by
 * vdpa_notice(); they know no watcher, and pay for one atomic load while there is none.
 */

#ifndef NOTICE_H
#define NOTICE_H

#include <sys/queue.h>

enum vdpa_notice_kind {
	VDPA_NOTICE_ADDED,	  /* on the bus, and served by its front end */
	VDPA_NOTICE_REMOVED,	  /* the name is free */
	VDPA_NOTICE_CONNECTED,	  /* its front end has a consumer */
	VDPA_NOTICE_DISCONNECTED, /* it has none any more */
	VDPA_NOTICE_STARTED,	  /* DRIVER_OK */
	VDPA_NOTICE_STOPPED,	  /* reset after it ran */
	VDPA_NOTICE_FAILED,	  /* text: why */
	VDPA_NOTICE_LINK,	  /* text: "up", "down" */
	VDPA_NOTICE_MIGRATION,	  /* text: the phase, "log_on", "log_off", "saved", "loaded" */
};

/* Embed it; fn and arg are yours to set. */
struct vdpa_notice_watch {
	/* On the thread where it happens, with locks of the core's held: it calls nothing of a
	 * device's, and waits for nothing. One at a time, in the order of what happens. */
	void (*fn)(enum vdpa_notice_kind kind, const char *device, const char *text, void *arg);
	void *arg;
	LIST_ENTRY(vdpa_notice_watch) next; /* the service's */
};

/* text: NULL where the kind has none. From any thread, with any lock of the core's. */
void vdpa_notice(enum vdpa_notice_kind kind, const char *device, const char *text);

void vdpa_notice_watch(struct vdpa_notice_watch *watch);
/* On return fn neither runs nor will. Not from fn. */
void vdpa_notice_unwatch(struct vdpa_notice_watch *watch);

#endif /* NOTICE_H */
