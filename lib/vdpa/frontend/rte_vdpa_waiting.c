/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Connections of the front end rte_vdpa that wait for a device which another connection has. Owns
 * what rte_vhost says of them meanwhile, since it says so once: a front end that comes back at once
 * sets its rings up while rte_vhost still reads what its last connection had sent.
 */

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "rte_vdpa_priv.h"
#include "vdpa_args.h"

struct vdpa_rte_waiting {
	TAILQ_ENTRY(vdpa_rte_waiting) next;
	int vid;
	pthread_t thread; /* rte_vhost's, which handles the connection's messages */
	bool complete;	  /* rte_vhost has asked for the device's start */
	bool enabled[];
};

static struct vdpa_rte_waiting *
find(const struct vdpa_rte_device *dev, int vid)
{
	struct vdpa_rte_waiting *w;

	TAILQ_FOREACH (w, &dev->waiting, next)
		if (w->vid == vid)
			return w;
	return NULL;
}

static struct vdpa_rte_waiting *
find_or_add(struct vdpa_rte_device *dev, int vid)
{
	struct vdpa_rte_waiting *w = find(dev, vid);

	if (w != NULL)
		return w;
	if (vdpa_rte_session_hear(vid) < 0)
		return NULL;
	w = calloc(1, sizeof(*w) + dev->nrings * sizeof(w->enabled[0]));
	if (w == NULL) {
		vdpa_error(ENOMEM, "out of memory");
		return NULL;
	}
	w->vid = vid;
	w->thread = pthread_self();
	TAILQ_INSERT_TAIL(&dev->waiting, w, next);
	return w;
}

static void
drop(struct vdpa_rte_device *dev, struct vdpa_rte_waiting *w)
{
	TAILQ_REMOVE(&dev->waiting, w, next);
	free(w);
}

int
vdpa_rte_wait_ring(struct vdpa_rte_device *dev, int vid, uint16_t idx, bool enabled)
{
	struct vdpa_rte_waiting *w = enabled ? find_or_add(dev, vid) : find(dev, vid);

	if (w == NULL)
		return enabled ? -ENOMEM : 0;
	w->enabled[idx] = enabled;
	return 0;
}

int
vdpa_rte_wait_complete(struct vdpa_rte_device *dev, int vid)
{
	struct vdpa_rte_waiting *w = find_or_add(dev, vid);

	if (w == NULL)
		return -ENOMEM;
	if (w->complete)
		return -EALREADY;
	w->complete = true;
	return 0;
}

void
vdpa_rte_wait_stopped(struct vdpa_rte_device *dev, int vid)
{
	struct vdpa_rte_waiting *w = find(dev, vid);

	if (w != NULL)
		w->complete = false;
}

int
vdpa_rte_wait_first_complete(const struct vdpa_rte_device *dev)
{
	const struct vdpa_rte_waiting *w;

	TAILQ_FOREACH (w, &dev->waiting, next)
		if (w->complete && pthread_equal(w->thread, pthread_self()))
			return w->vid;
	return VDPA_RTE_NO_VID;
}

void
vdpa_rte_wait_over(struct vdpa_rte_device *dev, int vid, bool *enabled)
{
	struct vdpa_rte_waiting *w = find(dev, vid);

	if (w == NULL)
		return;
	for (uint16_t i = 0; enabled != NULL && i < dev->nrings; i++)
		enabled[i] = w->enabled[i];
	drop(dev, w);
}

void
vdpa_rte_wait_end(struct vdpa_rte_device *dev)
{
	while (!TAILQ_EMPTY(&dev->waiting))
		drop(dev, TAILQ_FIRST(&dev->waiting));
}
