/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a keeper holds (hold.h). Owns the descriptors. The name of one begins with its device, up to
 * the first colon: what waits to be closed is counted for each device, since whoever has sent a
 * descriptor to a device may keep its close(2) waiting, and no other device is to wait with it.
 */

#include <errno.h>
#include <search.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "fence.h"
#include "hold.h"
#include "keep_priv.h"
#include "tree.h"
#include "vdpa_foreign_fd.h"

/* Whom descriptors are for: as long as some are held or wait to be closed. */
struct device {
	LIST_ENTRY(device) next;
	char name[VDPA_KEEP_NAME_MAX + 1];
	unsigned int held;
	struct vdpa_fd_account *ended; /* of its descriptors, those that wait to be closed */
};

struct held {
	char name[VDPA_KEEP_NAME_MAX + 1];
	int fd;
	struct device *device;
	SLIST_ENTRY(held) chosen; /* by a fence */
};

struct hold {
	unsigned int max, n;
	struct vdpa_tree names;	  /* of struct held */
	struct vdpa_tree devices; /* of struct device */
	LIST_HEAD(, device) all;  /* what is in devices */
};

static int
compare_held(const void *a, const void *b)
{
	return strcmp(((const struct held *)a)->name, ((const struct held *)b)->name);
}

static int
compare_devices(const void *a, const void *b)
{
	return strcmp(((const struct device *)a)->name, ((const struct device *)b)->name);
}

struct hold *
hold_create(unsigned int max)
{
	struct hold *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->max = max;
	h->names.compare = compare_held;
	h->devices.compare = compare_devices;
	LIST_INIT(&h->all);
	return h;
}

static struct held *
find_held(const struct hold *h, const char *name)
{
	struct held like;

	if (!keep_is_name(name))
		return NULL;
	strcpy(like.name, name);
	return vdpa_tree_find(&h->names, &like);
}

static void
drop_device(struct hold *h, struct device *d)
{
	vdpa_tree_del(&h->devices, d);
	LIST_REMOVE(d, next);
	vdpa_fd_account_destroy(d->ended);
	free(d);
}

/* Devices of which nothing is held and nothing waits. */
static void
sweep_devices(struct hold *h)
{
	struct device *d = LIST_FIRST(&h->all), *next;

	for (; d != NULL; d = next) {
		next = LIST_NEXT(d, next);
		if (d->held == 0 && vdpa_fd_account_waiting(d->ended) == 0)
			drop_device(h, d);
	}
}

static struct device *
find_or_add_device(struct hold *h, const char *name)
{
	struct device like, *d;
	size_t len = strcspn(name, ":");

	memcpy(like.name, name, len);
	like.name[len] = '\0';
	d = vdpa_tree_find(&h->devices, &like);
	if (d != NULL)
		return d;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return NULL;
	memcpy(d->name, like.name, len + 1);
	d->ended = vdpa_fd_account_create();
	if (d->ended != NULL && vdpa_tree_add(&h->devices, d) == 0) {
		LIST_INSERT_HEAD(&h->all, d, next);
		return d;
	}
	vdpa_fd_account_destroy(d->ended);
	free(d);
	return NULL;
}

/* A name for this device; a negative errno. */
static int
add_held(struct hold *h, struct device *d, const char *name, struct held **out)
{
	struct held *held;

	if (h->n >= h->max)
		return -ENOSPC;
	held = calloc(1, sizeof(*held));
	if (held == NULL)
		return -ENOMEM;
	strcpy(held->name, name);
	held->device = d;
	held->fd = -1;
	if (vdpa_tree_add(&h->names, held) < 0) {
		free(held);
		return -ENOMEM;
	}
	h->n++;
	d->held++;
	*out = held;
	return 0;
}

int
hold_put(struct hold *h, const char *name, int fd)
{
	struct held *held = find_held(h, name);
	struct device *d;
	int rc = -EINVAL;

	/* It may be the last duplicate, and its close(2) may wait: it is always a device's. */
	if (!keep_is_name(name) || (d = find_or_add_device(h, name)) == NULL) {
		close(fd);
		return keep_is_name(name) ? -ENOMEM : -EINVAL;
	}
	rc = vdpa_fd_account_full(d->ended) ? -EBUSY : 0;
	if (rc == 0 && held == NULL)
		rc = add_held(h, d, name, &held);
	if (rc == 0) {
		int before = held->fd;

		held->fd = fd;
		fd = before;
	}
	vdpa_close_foreign(d->ended, fd);
	sweep_devices(h);
	return rc;
}

static void
drop_held(struct hold *h, struct held *held)
{
	vdpa_tree_del(&h->names, held);
	vdpa_close_foreign(held->device->ended, held->fd);
	held->device->held--;
	h->n--;
	free(held);
}

int
hold_del(struct hold *h, const char *name)
{
	struct held *held = find_held(h, name);

	if (held == NULL)
		return -ENOENT;
	drop_held(h, held);
	sweep_devices(h);
	return 0;
}

int
hold_find(const struct hold *h, const char *name)
{
	const struct held *held = find_held(h, name);

	return held != NULL ? held->fd : -ENOENT;
}

struct listing {
	const char *after;
	char *buf;
	size_t size, len;
	bool full;
	int n;
};

static void
add_to_list(const void *node, VISIT visit, void *arg)
{
	const struct held *held = *(struct held *const *)node;
	struct listing *l = arg;
	size_t len = strlen(held->name) + 1;

	if ((visit != postorder && visit != leaf) || l->full || strcmp(held->name, l->after) <= 0)
		return;
	l->full = len > l->size - l->len;
	if (l->full)
		return;
	memcpy(l->buf + l->len, held->name, len);
	l->len += len;
	l->n++;
}

int
hold_list(const struct hold *h, const char *after, char *buf, size_t size, size_t *len)
{
	struct listing l = {.after = after, .buf = buf, .size = size};

	twalk_r(h->names.root, add_to_list, &l);
	*len = l.len;
	return l.n;
}

unsigned int
hold_count(const struct hold *h)
{
	return h->n;
}

/* A fence of what is held. */
struct fencing {
	fence_report *report;
	void *arg;
	struct hold_fenced result;
	SLIST_HEAD(, held) functions;
	SLIST_HEAD(, held) others; /* that serve functions alone */
};

/* By the name that a daemon gives it. A name may go on behind a period. */
static bool
is_called(const struct held *held, const char *kind)
{
	const char *what = strrchr(held->name, ':');
	size_t len = strlen(kind);

	return what != NULL && strncmp(what + 1, kind, len) == 0 &&
	       (what[len + 1] == '\0' || what[len + 1] == '.');
}

/* Groups and containers, whose they are is no matter, since all functions are closed; and
 * connections to vfio-user servers. */
static bool
serves_functions(const struct held *held)
{
	return is_called(held, "vfio-device") || is_called(held, "vfio-group") ||
	       is_called(held, "vfio-container") || is_called(held, "vfio-user");
}

static void
count_outcome(void *arg, const char *name, const struct fence_outcome *outcome)
{
	struct fencing *f = arg;

	if (outcome->fenced)
		f->result.fenced++;
	else
		f->result.failed++;
	f->report(f->arg, name, outcome);
}

static void
choose(const void *node, VISIT visit, void *arg)
{
	struct held *held = *(struct held *const *)node;
	struct fencing *f = arg;

	if (visit != postorder && visit != leaf)
		return;
	if (vdpa_fence_may_be_function(held->fd))
		SLIST_INSERT_HEAD(&f->functions, held, chosen);
	else if (serves_functions(held))
		SLIST_INSERT_HEAD(&f->others, held, chosen);
}

/* One after the other, where there is no memory to do it at the same time. */
static void
fence_here(struct fencing *f, const struct held *held)
{
	enum fence_step step = FENCE_WAITS;
	struct fence_outcome outcome;

	vdpa_fence_function(held->fd, &step, &outcome);
	count_outcome(f, held->name, &outcome);
}

struct hold_fenced
hold_fence(struct hold *h, fence_report *report, void *arg)
{
	/* It is another process, which nobody here can look into. */
	static const struct fence_outcome hung_up = {
		.fenced = true,
		.text = "closed: a vfio-user server stops the function of a client that has gone"};
	struct fencing f = {.report = report, .arg = arg};
	struct fence *fence = fence_create();
	struct held *held;

	twalk_r(h->names.root, choose, &f);
	while ((held = SLIST_FIRST(&f.functions)) != NULL) {
		SLIST_REMOVE_HEAD(&f.functions, chosen);
		if (fence != NULL && fence_add(fence, held->name, held->fd) == 0)
			held->fd = -1;
		else
			fence_here(&f, held);
		drop_held(h, held);
	}
	if (fence != NULL)
		fence_run(fence, count_outcome, &f);
	fence_destroy(fence);
	while ((held = SLIST_FIRST(&f.others)) != NULL) {
		SLIST_REMOVE_HEAD(&f.others, chosen);
		if (is_called(held, "vfio-user"))
			count_outcome(&f, held->name, &hung_up);
		drop_held(h, held);
	}
	sweep_devices(h);
	return f.result;
}

void
hold_drop_all(struct hold *h)
{
	while (h->names.root != NULL)
		drop_held(h, *(struct held **)h->names.root);
	sweep_devices(h);
}

void
hold_destroy(struct hold *h)
{
	if (h == NULL)
		return;
	hold_drop_all(h);
	while (!LIST_EMPTY(&h->all))
		drop_device(h, LIST_FIRST(&h->all));
	free(h);
}
