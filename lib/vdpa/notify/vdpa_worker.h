/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_worker.h
 * Workers: event loops that execute virtqueues in software, shared by all devices that need one.
 * With vdpa-app's --poll-lcores there is one for each of these lcores, which never sleeps; else one
 * thread for everybody.
 */

#ifndef VDPA_WORKER_H
#define VDPA_WORKER_H

#include "vdpa_event.h"

#ifdef __cplusplus
extern "C" {
#endif

struct vdpa_worker;

/** One more user of a worker; of NULL: the next one in turn, created if need be. NULL with
 * vdpa_error_message(). From any thread. */
struct vdpa_worker *vdpa_worker_get(struct vdpa_worker *worker);
/** One less; the last stops its thread. From any thread but the worker itself. */
void vdpa_worker_put(struct vdpa_worker *worker);
/** One more user of n workers each, all different, into workers[] by ascending slot. 0; -EINVAL
 * with a message when there are not as many poll lcores; -ENOMEM. From any thread. */
int vdpa_worker_get_all(struct vdpa_worker **workers, unsigned int n);
/** Its loop, while the caller is a user. */
struct vdpa_event_loop *vdpa_worker_loop(const struct vdpa_worker *worker);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_WORKER_H */
