/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Who may do what with the control socket. Owns nothing. */

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "right.h"
#include "vdpa_peer.h"

/* Groups that are asked for at first; most have fewer. */
#define GROUPS_FEW 32

static bool
is_member(const struct control_cred *cred, gid_t group)
{
	if (group == (gid_t)-1)
		return false;
	for (unsigned int i = 0; i < cred->n_groups; i++)
		if (cred->groups[i] == group)
			return true;
	return cred->gid == group;
}

bool
control_is_owner(const struct control_policy *policy, const struct control_cred *cred)
{
	const struct vdpa_peer peer = {.known = true, .uid = cred->uid};
	const struct vdpa_peer owner = {.known = true, .uid = policy->owner};

	/* The uid that stands for users of other namespaces is nobody's. */
	return cred->uid == 0 || vdpa_peer_same_user(&peer, &owner);
}

enum control_right
control_right(const struct control_policy *policy, const struct control_cred *cred)
{
	if (control_is_owner(policy, cred) || is_member(cred, policy->group))
		return CONTROL_RIGHT_FULL;
	return is_member(cred, policy->read_group) ? CONTROL_RIGHT_READ : CONTROL_RIGHT_NONE;
}

/* How many groups there are is said where there is no room for them. */
static int
get_groups(int fd, struct control_cred *cred)
{
	socklen_t len = GROUPS_FEW * sizeof(gid_t);
	gid_t *groups;

	for (unsigned int i = 0; i < 2; i++) {
		groups = malloc(len + sizeof(gid_t));
		if (groups == NULL)
			return -ENOMEM;
		if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) == 0) {
			cred->groups = groups;
			cred->n_groups = (unsigned int)(len / sizeof(gid_t));
			return 0;
		}
		free(groups);
		if (errno != ERANGE)
			break;
	}
	/* Kernels before 4.13 do not say: the main group counts alone. */
	return errno == ENOPROTOOPT ? 0 : -errno;
}

int
control_cred_get(int fd, struct control_cred *cred)
{
	struct ucred ucred = {.pid = 0};
	socklen_t len = sizeof(ucred);

	*cred = (struct control_cred){.n_groups = 0};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &ucred, &len) < 0)
		return -errno;
	if (len != sizeof(ucred) || ucred.uid == (uid_t)-1)
		return -ENOTCONN;
	cred->uid = ucred.uid;
	cred->gid = ucred.gid;
	cred->pid = ucred.pid;
	return get_groups(fd, cred);
}

void
control_cred_free(struct control_cred *cred)
{
	free(cred->groups);
	cred->groups = NULL;
	cred->n_groups = 0;
}
