/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The bus. Owns the table of names, in order and as a tree: finding one costs the same few
 * comparisons with one device and with thousands. The registries of drivers, management devices and
 * front ends are in mgmt.c.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bus.h"
#include "device_priv.h"
#include "notice.h"
#include "tree.h"

static pthread_mutex_t bus_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER; /* an entry is PRESENT again, or gone */
static TAILQ_HEAD(entry_list, vdpa_bus_entry) entries = TAILQ_HEAD_INITIALIZER(entries);
static pthread_mutex_t tree_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t last_id;

_Static_assert(offsetof(struct vdpa_bus_entry, name) == 0, "an entry begins with its key");

static int
compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Of entries, by name: the first member. Changed under both locks, so that either is enough to read
 * it; the tree's own is held for nothing else. */
static struct vdpa_tree tree = {.compare = compare};

/* From here to vdpa_bus_reserve(): under the bus lock. */

static struct vdpa_bus_entry *
find(const char *name)
{
	return vdpa_tree_find(&tree, name);
}

static int
insert(const char *name, enum vdpa_bus_state state, struct vdpa_mgmt_dev *mdev,
       struct vdpa_bus_entry **out)
{
	struct vdpa_bus_entry *e = calloc(1, sizeof(*e));
	int rc;

	if (e == NULL)
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	snprintf(e->name, sizeof(e->name), "%s", name);
	pthread_mutex_lock(&tree_lock);
	rc = vdpa_tree_add(&tree, e);
	pthread_mutex_unlock(&tree_lock);
	if (rc < 0) {
		free(e);
		return vdpa_error(ENOMEM, "%s: out of memory", name);
	}
	e->id = ++last_id;
	e->state = state;
	e->mdev = mdev;
	if (mdev != NULL)
		mdev->users++;
	TAILQ_INSERT_TAIL(&entries, e, next);
	*out = e;
	return 0;
}

/* The device is there for all to use. */
static void
announce(struct vdpa_bus_entry *e)
{
	if (!e->announced)
		vdpa_notice(VDPA_NOTICE_ADDED, e->name, NULL);
	e->announced = true;
}

static void
drop(struct vdpa_bus_entry *e)
{
	if (e->announced)
		vdpa_notice(VDPA_NOTICE_REMOVED, e->name, NULL);
	pthread_mutex_lock(&tree_lock);
	vdpa_tree_del(&tree, e);
	pthread_mutex_unlock(&tree_lock);
	TAILQ_REMOVE(&entries, e, next);
	if (e->mdev != NULL)
		e->mdev->users--;
	free(e->words);
	free(e);
}

/* Why the name cannot be had: -EEXIST or -EBUSY. */
static int
taken(const struct vdpa_bus_entry *e)
{
	static const char *const doing[] = {
		[VDPA_BUS_ADDING] = "added",
		[VDPA_BUS_CHANGING] = "changed",
		[VDPA_BUS_REMOVING] = "removed",
	};

	if (e->state == VDPA_BUS_PRESENT)
		return vdpa_error(EEXIST, "name '%s': a device has it already", e->name);
	return vdpa_error(EBUSY, "device '%s': is being %s", e->name, doing[e->state]);
}

static struct vdpa_device *
claim(struct vdpa_bus_entry *e, enum vdpa_bus_state state)
{
	e->state = state;
	vdpa_get_device(e->vdev);
	return e->vdev;
}

int
vdpa_bus_reserve(const char *name, struct vdpa_mgmt_dev *mdev, struct vdpa_frontend *fe,
		 struct vdpa_bus_entry **out)
{
	struct vdpa_bus_entry *e;
	int rc;

	pthread_mutex_lock(&bus_lock);
	e = find(name);
	rc = e != NULL ? taken(e) : insert(name, VDPA_BUS_ADDING, mdev, &e);
	if (rc == 0) {
		e->fe = fe;
		*out = e;
	}
	pthread_mutex_unlock(&bus_lock);
	return rc;
}

static int
no_such_device(const char *name)
{
	return vdpa_error(ENODEV, "device '%s': there is none of that name", name);
}

int
vdpa_bus_claim(const char *name, enum vdpa_bus_state state, struct vdpa_bus_entry **out,
	       struct vdpa_device **vdev)
{
	struct vdpa_bus_entry *e;
	int rc = 0;

	pthread_mutex_lock(&bus_lock);
	e = find(name);
	if (e == NULL) {
		rc = no_such_device(name);
	} else if (e->state != VDPA_BUS_PRESENT) {
		rc = taken(e);
	} else {
		*vdev = claim(e, state);
		*out = e;
	}
	pthread_mutex_unlock(&bus_lock);
	return rc;
}

bool
vdpa_bus_claim_next(bool (*matches)(const struct vdpa_bus_entry *e, const void *arg),
		    const void *arg, struct vdpa_bus_entry **out, struct vdpa_device **vdev)
{
	struct vdpa_bus_entry *e;

	pthread_mutex_lock(&bus_lock);
	for (;;) {
		bool any = false;

		/* One may have been made of another that was there before. */
		TAILQ_FOREACH_REVERSE(e, &entries, entry_list, next)
		{
			if (!matches(e, arg))
				continue;
			any = true;
			if (e->state == VDPA_BUS_PRESENT)
				break;
		}
		if (e != NULL || !any)
			break;
		pthread_cond_wait(&released, &bus_lock);
	}
	if (e != NULL) {
		*vdev = claim(e, VDPA_BUS_REMOVING);
		*out = e;
	}
	pthread_mutex_unlock(&bus_lock);
	return e != NULL;
}

void
vdpa_bus_set_driver(struct vdpa_bus_entry *e, struct vdpa_driver *drv)
{
	pthread_mutex_lock(&bus_lock);
	e->drv = drv;
	/* Another one is no longer busy with it. */
	pthread_cond_broadcast(&released);
	pthread_mutex_unlock(&bus_lock);
}

void
vdpa_bus_set_words(struct vdpa_bus_entry *e, char *words)
{
	char *old = NULL;

	if (words == NULL)
		return;
	pthread_mutex_lock(&bus_lock);
	old = e->words;
	e->words = words;
	pthread_mutex_unlock(&bus_lock);
	free(old);
}

void
vdpa_bus_release(struct vdpa_bus_entry *e)
{
	pthread_mutex_lock(&bus_lock);
	if (e->vdev != NULL) {
		e->state = VDPA_BUS_PRESENT;
		announce(e);
	} else {
		drop(e);
	}
	pthread_cond_broadcast(&released);
	pthread_mutex_unlock(&bus_lock);
}

int
vdpa_bus_add(struct vdpa_device *vdev)
{
	struct vdpa_bus_entry *e;
	int rc = 0;

	pthread_mutex_lock(&bus_lock);
	e = find(vdev->name);
	if (e == NULL)
		rc = insert(vdev->name, VDPA_BUS_PRESENT, vdev->mdev, &e);
	else if (e->state != VDPA_BUS_ADDING || e->vdev != NULL || e->mdev != vdev->mdev)
		rc = taken(e);
	if (rc == 0) {
		e->vdev = vdev;
		if (e->state == VDPA_BUS_PRESENT)
			announce(e);
	}
	pthread_mutex_unlock(&bus_lock);
	return rc;
}

void
vdpa_bus_del(struct vdpa_device *vdev)
{
	struct vdpa_bus_entry *e;

	pthread_mutex_lock(&bus_lock);
	e = find(vdev->name);
	if (e != NULL && e->vdev == vdev) {
		e->vdev = NULL;
		/* Whoever has it gives the name back. */
		if (e->state == VDPA_BUS_PRESENT)
			drop(e);
	}
	pthread_mutex_unlock(&bus_lock);
}

struct vdpa_device *
vdpa_find_device(const char *name)
{
	struct vdpa_device *vdev = NULL;
	struct vdpa_bus_entry *e;

	pthread_mutex_lock(&bus_lock);
	e = find(name);
	if (e != NULL && e->vdev != NULL) {
		vdev = e->vdev;
		vdpa_get_device(vdev);
	}
	pthread_mutex_unlock(&bus_lock);
	return vdev;
}

bool
vdpa_bus_uses(const struct vdpa_mgmt_dev *mdev)
{
	bool used;

	pthread_mutex_lock(&bus_lock);
	used = mdev->users > 0;
	pthread_mutex_unlock(&bus_lock);
	return used;
}

int
vdpa_bus_look(const char *name, void (*fn)(const struct vdpa_bus_entry *e, void *arg), void *arg)
{
	struct vdpa_bus_entry *e;
	int rc = 0;

	pthread_mutex_lock(&bus_lock);
	e = find(name);
	if (e != NULL)
		fn(e, arg);
	else
		rc = no_such_device(name);
	pthread_mutex_unlock(&bus_lock);
	return rc;
}

void
vdpa_bus_for_each(bool (*fn)(const struct vdpa_bus_entry *e, void *arg), void *arg)
{
	struct vdpa_bus_entry *e;

	pthread_mutex_lock(&bus_lock);
	TAILQ_FOREACH (e, &entries, next)
		if (!fn(e, arg))
			break;
	pthread_mutex_unlock(&bus_lock);
}

bool
vdpa_bus_has(const char *name)
{
	bool has;

	pthread_mutex_lock(&tree_lock);
	has = find(name) != NULL;
	pthread_mutex_unlock(&tree_lock);
	return has;
}
