/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/**
 * @file vdpa_peer.h
 * The process at the other end of a connection, as the kernel vouches for it (SO_PEERCRED).
 */

#ifndef VDPA_PEER_H
#define VDPA_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A process. All zero: an unknown one. */
struct vdpa_peer {
	bool known;
	uid_t uid;
	pid_t pid;	  /**< 0: it is outside of this process's PID namespace */
	uint64_t started; /**< clock ticks from boot to its start; 0: not known, or it has ended */
};

/**
 * The process that connected, listens, or made the socket pair.
 * @param fd    a connected socket of AF_UNIX.
 * @param peer  all zero on failure.
 * @return 0; what getsockopt(2) says, as a negative errno. From any thread, without waiting.
 */
int vdpa_peer_of_socket(int fd, struct vdpa_peer *peer);

/** This process. From any thread. */
void vdpa_peer_self(struct vdpa_peer *peer);

/** Whether both are known and have one uid; the overflow uid, which stands for every user that has
 * none in this user namespace, equals nothing. From any thread. */
bool vdpa_peer_same_user(const struct vdpa_peer *a, const struct vdpa_peer *b);

/** Whether both are known to be one process: pid and start. From any thread. */
bool vdpa_peer_same_process(const struct vdpa_peer *a, const struct vdpa_peer *b);

#ifdef __cplusplus
}
#endif

#endif /* VDPA_PEER_H */
