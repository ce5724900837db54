/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Who may do what, by the credentials that the kernel vouches for. */

#ifndef RIGHT_H
#define RIGHT_H

#include <stdbool.h>
#include <sys/types.h>

/* A peer. groups is malloc'ed. */
struct control_cred {
	uid_t uid;
	gid_t gid;
	pid_t pid; /* 0: outside of this process's PID namespace */
	gid_t *groups;
	unsigned int n_groups;
};

/* Who is let in beside root. */
struct control_policy {
	uid_t owner;	  /* the process's own user */
	gid_t group;	  /* full; (gid_t)-1: none */
	gid_t read_group; /* read; (gid_t)-1: none */
};

enum control_right {
	CONTROL_RIGHT_NONE,
	CONTROL_RIGHT_READ,
	CONTROL_RIGHT_FULL,
};

/* What a peer may do. */
enum control_right control_right(const struct control_policy *policy,
				 const struct control_cred *cred);

/* Whether it is root or the owner, for whom connections are kept. */
bool control_is_owner(const struct control_policy *policy, const struct control_cred *cred);

/* The peer of a connected socket, by SO_PEERCRED and SO_PEERGROUPS: as it was when it connected.
 * 0, or a negative errno; control_cred_free() it. */
int control_cred_get(int fd, struct control_cred *cred);
void control_cred_free(struct control_cred *cred);

#endif /* RIGHT_H */
