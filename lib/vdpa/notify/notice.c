/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Notices of devices. Owns the list of who watches, and the lock that puts notices in order. */

#include <pthread.h>

#include "notice.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, vdpa_notice_watch) watches = LIST_HEAD_INITIALIZER(watches);
static unsigned int n_watches; /* atomic */

void
vdpa_notice(enum vdpa_notice_kind kind, const char *device, const char *text)
{
	struct vdpa_notice_watch *watch;

	if (__atomic_load_n(&n_watches, __ATOMIC_ACQUIRE) == 0)
		return;
	pthread_mutex_lock(&lock);
	LIST_FOREACH (watch, &watches, next)
		watch->fn(kind, device, text, watch->arg);
	pthread_mutex_unlock(&lock);
}

void
vdpa_notice_watch(struct vdpa_notice_watch *watch)
{
	pthread_mutex_lock(&lock);
	LIST_INSERT_HEAD(&watches, watch, next);
	__atomic_add_fetch(&n_watches, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lock);
}

void
vdpa_notice_unwatch(struct vdpa_notice_watch *watch)
{
	pthread_mutex_lock(&lock);
	LIST_REMOVE(watch, next);
	__atomic_sub_fetch(&n_watches, 1, __ATOMIC_RELEASE);
	pthread_mutex_unlock(&lock);
}
