/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Containers of VFIO, for the groups that are in them: vfio_container.c. */

#ifndef VFIO_CONTAINER_H
#define VFIO_CONTAINER_H

#include <sys/queue.h>

#include "vfio_priv.h"

struct vfio_container {
	TAILQ_ENTRY(vfio_container) next;
	int fd;
	char *name;    /* "vm NAME", or the function that opened it, for messages */
	char *vm;      /* NULL: it is one group's */
	uint64_t page; /* of its IOMMUs, bytes */
	struct vdpa_dma_domain *dma;
	unsigned int groups;
	bool is_left; /* to the next process: what is mapped stays */
};

/* Whether a descriptor is of this file of /dev/vfio. */
bool vfio_is_file(int fd, const char *name);

/* Under the lock of the groups. */

/* The container for a group that is opened: its VM's, or a new one. */
int vfio_container_get(const struct vfio_function *fn, int group, struct vfio_container **out);
/* One group less, which is out of it already, or goes with its file. */
void vfio_container_put(struct vfio_container *c);

#endif /* VFIO_CONTAINER_H */
