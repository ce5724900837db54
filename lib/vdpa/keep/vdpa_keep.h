/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Where file descriptors outlive the process: each is kept under a name by systemd's file
 * descriptor store or by a vdpa-keeper, and the next process takes it from there. Private to the
 * library. keep.c; the two places are keep_systemd.c and keep_unix.c.
 *
 * A store holds a duplicate of its own, so a connection that is kept does not end, and an eventfd
 * that is kept does not lose its count, when the process that put it there dies.
 *
 * Each function may be called from any thread. One call runs at a time; it waits for the store
 * KEEP_PATIENCE_MS (keep_priv.h) at most. A store that has not answered in that time, or has gone,
 * is given up with one line of the log: every later call returns -EPIPE at once, so that a store
 * which dies takes no traffic with it.
 */

#ifndef VDPA_KEEP_H
#define VDPA_KEEP_H

/* Characters of a name, at most; allowed are letters, digits and . _ : - */
#define VDPA_KEEP_NAME_MAX 128

#include <stdbool.h>
#include <stddef.h>

/* A process has one at most. */
struct vdpa_keep;

/*
 * Reach the store, and see what a former life has left in it.
 *
 * where: "systemd" for the store of the service that this process is the main process of (it needs
 * NOTIFY_SOCKET, and finds what is left by LISTEN_FDS); "unix:PATH" for a vdpa-keeper that serves
 * PATH; NULL for systemd's where NOTIFY_SOCKET is set and the service has a store, else for the
 * keeper at the default path (vdpa_keep_default_path()).
 *
 * Before the process opens descriptors by number or starts threads that read the environment: of
 * "systemd" the variables LISTEN_* are removed once a descriptor of ours was among those they name.
 * Returns 0, or a negative errno with a message:
 *   -EINVAL   where is none of these
 *   -ENOENT   there is none: NOTIFY_SOCKET is not set, or nobody listens at PATH
 *   -ENOSPC   the service's store is absent or full (FileDescriptorStoreMax=)
 *   -EBUSY    the keeper serves another process, and has done so for KEEP_PATIENCE_MS
 *   -EPERM    the keeper, or the owner of this process in its eyes, is another user
 *   -EPROTO   the keeper speaks another version, or what was left is not a store of ours
 *   -ETIMEDOUT, or what socket(2) and connect(2) say.
 */
int vdpa_keep_open(const char *where, struct vdpa_keep **k);

/* Whether an error of these functions says that the store is given up, with all that is in it; any
 * other costs what was put alone. */
bool vdpa_keep_is_gone(int rc);

/* The path at which vdpa-keeper listens and vdpa_keep_open(NULL) looks: 0; -ENOENT without a
 * XDG_RUNTIME_DIR, -ENAMETOOLONG. No message. */
int vdpa_keep_default_path(char *buf, size_t size);

/*
 * Keep a descriptor under a name. fd stays the caller's, and may be one that other names have too.
 * What the name had before is dropped in the same moment: whenever the process dies, the store has
 * either the one or the other.
 * Returns 0, or a negative errno with a message: -EINVAL for a name, -EBADF for a descriptor,
 * -ENOSPC where the store is full, -EMFILE, -ENOMEM, -ETIMEDOUT, -EPIPE.
 */
int vdpa_keep_put(struct vdpa_keep *k, const char *name, int fd);

/*
 * Drop what a name has; a name that has nothing is no failure. 0, or a negative errno with a
 * message, as vdpa_keep_put().
 */
int vdpa_keep_del(struct vdpa_keep *k, const char *name);

/*
 * What a former life has left under a name, as a descriptor that is the caller's, closed by
 * exec(2); it remains in the store, so that a process which dies while it takes over has lost
 * nothing. -ENOENT where a former life has left nothing, or this one has put or dropped the name;
 * else as vdpa_keep_put(). A message with each.
 */
int vdpa_keep_take(struct vdpa_keep *k, const char *name);

/*
 * Call fn for each name that vdpa_keep_take() would find, in the order of strcmp(3), until it
 * returns anything but 0, which is then returned. fn may call any of these functions but close.
 */
int vdpa_keep_for_each(struct vdpa_keep *k, int (*fn)(const char *name, void *arg), void *arg);

/*
 * Wait until all that was put and dropped before has arrived, timeout_ms at most (0 or less:
 * KEEP_PATIENCE_MS). 0, or a negative errno with a message: -ETIMEDOUT, -EPIPE, and -ENOSPC where
 * systemd's store is full, so that something put before may be missing.
 */
int vdpa_keep_barrier(struct vdpa_keep *k, int timeout_ms);

/*
 * A store goes from one process to another while both live, connected by a socket pair of
 * SOCK_SEQPACKET: the one calls vdpa_keep_hand_over(), the other vdpa_keep_open_handed(). Until
 * that one calls vdpa_keep_go(), the store stays as it is: what is put and dropped waits in the
 * process. Before, the first one may have the store back by vdpa_keep_reopen(), once the other has
 * ended.
 *
 * Each 0, or a negative errno with a message. vdpa_keep_open_handed(): as vdpa_keep_open(); where
 * must be what the first one was given. vdpa_keep_go(): as vdpa_keep_barrier(); for each name of
 * which the store has refused what was put it calls refused(), which calls none of these functions,
 * with the reason in vdpa_error_message(). What was not refused is done.
 */
int vdpa_keep_hand_over(struct vdpa_keep *k, int sock);
int vdpa_keep_open_handed(const char *where, int sock, struct vdpa_keep **k);
int vdpa_keep_go(struct vdpa_keep *k, void (*refused)(const char *name, void *arg), void *arg);
/* former is still to be closed. */
int vdpa_keep_reopen(struct vdpa_keep *former, struct vdpa_keep **k);

/* Let go of the store, which keeps what it has. NULL: no-op. */
void vdpa_keep_close(struct vdpa_keep *k);

#endif /* VDPA_KEEP_H */
