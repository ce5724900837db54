/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Files that the kernel takes away. Whoever deletes a vDPA device, or unbinds it, waits in the
 * kernel until its file is closed; the file itself says nothing of it: no event, no error. But its
 * node goes first, and that inotify tells. One inotify instance serves all devices, as a user has
 * few of them.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vdpa_event.h"
#include "vdpa_log.h"
#include "vhost_vdpa.h"

struct watcher {
	struct vdpa_event ev;
	unsigned int users;
};

/* Over all below. The handler takes it, so that none ends its event with it held. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, vv_watch) watches = LIST_HEAD_INITIALIZER(watches);
static struct watcher *watcher;

static bool
is_gone(const struct vv_watch *w)
{
	struct stat st;

	return stat(w->path, &st) < 0 ? errno == ENOENT : st.st_rdev != w->rdev;
}

/* Which of them it was does not matter: there are few, and it is rare. On the control loop. */
static void
on_event(struct vdpa_event *ev, uint32_t revents)
{
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	struct vv_watch *w;

	while (read(ev->fd, buf, sizeof(buf)) > 0)
		;
	pthread_mutex_lock(&lock);
	LIST_FOREACH (w, &watches, next)
		if (is_gone(w))
			w->gone(w->arg);
	pthread_mutex_unlock(&lock);
}

static struct watcher *
watcher_new(void)
{
	struct watcher *new = calloc(1, sizeof(*new));
	int rc;

	if (new == NULL) {
		errno = ENOMEM;
		return NULL;
	}
	new->ev = (struct vdpa_event){.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC),
				      .events = EPOLLIN,
				      .handler = on_event};
	rc = new->ev.fd < 0 ? -errno : vdpa_event_add(vdpa_event_loop_control(), &new->ev);
	if (rc == 0)
		return new;
	if (new->ev.fd >= 0)
		close(new->ev.fd);
	free(new);
	errno = -rc;
	return NULL;
}

void
vv_watch_add(struct vv_watch *w, int fd)
{
	struct stat st;
	int err = 0;

	w->wd = -1;
	pthread_mutex_lock(&lock);
	if (fstat(fd, &st) < 0) {
		err = errno;
		goto out;
	}
	w->rdev = st.st_rdev;
	if (watcher == NULL)
		watcher = watcher_new();
	if (watcher == NULL) {
		err = errno;
		goto out;
	}
	w->wd = inotify_add_watch(watcher->ev.fd, w->path, IN_ATTRIB | IN_DELETE_SELF);
	if (w->wd < 0) {
		err = errno;
		goto out;
	}
	watcher->users++;
	LIST_INSERT_HEAD(&watches, w, next);
	/* It may have gone before. */
	if (is_gone(w))
		w->gone(w->arg);
out:
	pthread_mutex_unlock(&lock);
	if (err != 0)
		VDPA_LOG(WARNING,
			 "%s is not watched: who deletes its device waits until it is closed here "
			 "(%s)",
			 w->path, strerror(err));
}

void
vv_watch_del(struct vv_watch *w)
{
	struct watcher *last = NULL;

	if (w->wd < 0)
		return;
	pthread_mutex_lock(&lock);
	LIST_REMOVE(w, next);
	/* Of a node that is gone the watch is, too. */
	(void)inotify_rm_watch(watcher->ev.fd, w->wd);
	w->wd = -1;
	if (--watcher->users == 0) {
		last = watcher;
		watcher = NULL;
	}
	pthread_mutex_unlock(&lock);
	if (last == NULL)
		return;
	vdpa_event_del(&last->ev);
	close(last->ev.fd);
	free(last);
}
