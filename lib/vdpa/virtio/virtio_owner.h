/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A function that owns a group of others, the physical function of virtual ones, as a parent
 * without queues of its own: it is opened once, for all its members that are devices here, and
 * executes group administration commands (virtio 1.4, 2.12) by its administration queue.
 */

#ifndef VIRTIO_OWNER_H
#define VIRTIO_OWNER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct virtio_owner;

/**
 * The owner of that name, opened by the first of those that ask for it; the last
 * virtio_owner_put() closes it.
 *
 * @param name        of a function, as of vdpa_pci_open().
 * @param timeout_ms  of the first who asks: the longest wait for one answer.
 * @return 0; a negative errno with one line that names the owner: what vdpa_pci_open() says, -EBUSY
 * for one that another driver has; -ENOTSUP for one without an administration queue, or whose queue
 * lacks a command or the objects for device parts; -EPROTO, -ETIMEDOUT for one that does not do
 * what it is to do. Any thread, with no lock that its waits could hold up.
 */
int virtio_owner_get(const char *name, unsigned int timeout_ms, struct virtio_owner **out);
/** NULL: no-op. */
void virtio_owner_put(struct virtio_owner *owner);

/**
 * The parts of a member (2.14), all of them.
 *
 * @param buf  room for *len bytes; *len becomes how many there are.
 * @return 0; -ENOSPC where there are more than *len (which becomes how many); -E2BIG for more than
 * VDPA_STATE_MAX; -EIO for what the owner refuses; -ETIMEDOUT, -EPROTO: it executes no more
 * commands, for any member, until it is opened again. One at a time for all members.
 */
int virtio_owner_get_parts(struct virtio_owner *owner, uint64_t member, void *buf, size_t *len);
/**
 * Set parts of a member, which stands still meanwhile and goes on then; all or none of them. As
 * above; *stuck is set where the member does not go on.
 */
int virtio_owner_set_parts(struct virtio_owner *owner, uint64_t member, const void *parts,
			   size_t len, bool *stuck);

#endif /* VIRTIO_OWNER_H */
