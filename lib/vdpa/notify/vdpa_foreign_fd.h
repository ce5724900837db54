/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_foreign_fd.h
 * The end of file descriptors that a peer has sent, and of the connections they came on.
 *
 * close(2) of the last one can wait for as long as its sender likes. Whoever reads messages with
 * file descriptors therefore has an account for their sender: what closes at once is closed at
 * once, the rest waits in the account for a thread that closes it. Each account has one such thread
 * while something waits in it, so that one sender never holds up what another has sent.
 *
 * The bound on what waits is kept by whoever reads: when a function here returns -EBUSY, the caller
 * ends that connection, and as long as vdpa_fd_account_full() is true it takes no new one from the
 * same sender. For a server the sender is whoever can connect to the listening socket, so an
 * account belongs to that, not to a connection: a peer which comes back finds what it left.
 */

#ifndef VDPA_FOREIGN_FD_H
#define VDPA_FOREIGN_FD_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/** File descriptors of one account that may wait to be closed; with more it is full. */
#define VDPA_FD_WAITING_MAX 64

struct vdpa_fd_account;

/** An account in which nothing waits. NULL: out of memory. From any thread. */
struct vdpa_fd_account *vdpa_fd_account_create(void);

/**
 * Let go of an account. Never waits: what waits in it is closed all the same. NULL: no-op. From any
 * thread; nobody may use the account any more.
 */
void vdpa_fd_account_destroy(struct vdpa_fd_account *account);

/** File descriptors that wait in the account, with the one that is being closed. Any thread. */
unsigned int vdpa_fd_account_waiting(struct vdpa_fd_account *account);

/**
 * Whether the account is full: no connection is to be accepted on it. Every descriptor that closes
 * may change that, so ask again from time to time. From any thread.
 */
bool vdpa_fd_account_full(struct vdpa_fd_account *account);

/**
 * Close a file descriptor that the account's peer has sent. Never waits, and always takes fd over.
 * Closed at once are eventfds, memory files (memfd, tmpfs, hugetlbfs) with up to 64 MiB and the
 * memory devices of /dev (null, zero, full, random, urandom). Larger memory files are closed by a
 * thread, too, and are not charged to the account. -1: no-op. From any thread.
 * @return 0; -EBUSY when the account is full: end the connection and read nothing more of it.
 * (One that reads on waits itself once 576 more wait, which one message and the end of a connection
 * with 256 queues cannot bring about.)
 */
int vdpa_close_foreign(struct vdpa_fd_account *account, int fd);

/**
 * End a connection on a UNIX stream socket, other descriptors of it too, or a listening one. Never
 * waits for what was sent with messages that nobody has read. -1: no-op. From any thread.
 * @return as vdpa_close_foreign().
 */
int vdpa_close_connection(struct vdpa_fd_account *account, int fd);

/**
 * Whether a file descriptor that a peer has sent may be kept, for as long as a message takes to
 * come or longer: whoever keeps the peer's end of a connection never hears of its end. So a UNIX
 * socket may be kept only as a half of a stream socket pair, which no connection is: at one end of
 * those is a name. And only an empty one, since what is queued in a socket may be a file
 * descriptor, and be that end; its way to us is shut (SHUT_RD), so that it stays empty. Never
 * waits. From any thread.
 */
bool vdpa_fd_can_be_kept(int fd);

/** Whether fd is an eventfd. */
bool vdpa_fd_is_eventfd(int fd);
/** Whether fd is a pipe without a name. */
bool vdpa_fd_is_pipe(int fd);
/** Whether fd is the memory of a VDUSE device that its kernel's driver uses, in which rings lie: a
 * file that no file system has, without seals and size. Asks the file nothing. */
bool vdpa_fd_is_vduse_domain(int fd);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_FOREIGN_FD_H */
