/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What a keeper holds: descriptors under names. It has what it is given, and looks into none of it
 * but for a fence. One thread.
 */

#ifndef KEEPER_HOLD_H
#define KEEPER_HOLD_H

#include <stddef.h>

#include "fence.h"

struct hold;

/* At most max descriptors. NULL: out of memory. */
struct hold *hold_create(unsigned int max);

/*
 * Keep fd under a name, in place of what the name had. name: as in vdpa_keep.h. fd is taken over,
 * also on failure. 0; -EINVAL for a name, -ENOSPC when as many are held as may be, those that are
 * still being closed among them, -EBUSY when those of this name's device that are being closed have
 * no room for more, -ENOMEM.
 */
int hold_put(struct hold *h, const char *name, int fd);

/* Drop what a name has. 0; -ENOENT: it has nothing. */
int hold_del(struct hold *h, const char *name);

/* The descriptor of a name, which remains the hold's; -ENOENT. */
int hold_find(const struct hold *h, const char *name);

/*
 * Names in the order of strcmp(3), each with its end, from the first one after `after` ("": from
 * the beginning) as far as buf has room. *len: bytes of buf that have been written. How many.
 */
int hold_list(const struct hold *h, const char *after, char *buf, size_t size, size_t *len);

/* How many are held. */
unsigned int hold_count(const struct hold *h);

/* Functions of a fence. */
struct hold_fenced {
	unsigned int fenced;
	unsigned int failed; /* what was done to each is in its report */
};

/*
 * Fence the functions that are held (fence.h), whatever their names are, report each, and drop
 * them, with the groups and containers, which serve functions alone: `vfio-device`, `vfio-group`
 * and `vfio-container` behind the device's name. What is called `vfio-user` is a connection to the
 * process that has the function, which stops it when that ends: it is dropped, too. All else is
 * held on. Waits for functions that are slow, FENCE_PATIENCE_MS for every FENCE_THREADS of them at
 * most.
 */
struct hold_fenced hold_fence(struct hold *h, fence_report *report, void *arg);

/* Drop all that is held, as it is: hold_fence() first, unless a daemon has the functions too. */
void hold_drop_all(struct hold *h);

/* NULL: no-op. */
void hold_destroy(struct hold *h);

#endif /* KEEPER_HOLD_H */
