/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Group administration commands (virtio 1.4, 2.12) of a function that owns others: those by which
 * the parts of a member are saved and loaded. As bytes; the queue that they come by is
 * model_admin.c's.
 */

#ifndef MODEL_ADMIN_COMMANDS_H
#define MODEL_ADMIN_COMMANDS_H

#include "function_parts.h"

/* Objects of each kind, and so ids of them. */
#define ADMIN_OBJECTS 8u

struct admin_object {
	bool there, sets;
	uint64_t member;
	uint32_t id;
};

struct admin {
	/* The member of that number; NULL: there is none. */
	struct vp_function *(*member)(void *arg, uint64_t number);
	void *arg;
	uint64_t used[2];	       /* commands that the driver uses, by group type */
	struct admin_cap_parts limits; /* as the driver has set them */
	struct admin_object objects[2 * ADMIN_OBJECTS];
	uint64_t commands; /* executed; atomic */
};

/* As after a reset of the owner. */
void admin_reset(struct admin *admin);
/*
 * Execute a request of in_len bytes and write its answer and result: at most room bytes of out.
 * How many. What lacks in the request counts as zero.
 */
size_t admin_execute(struct admin *admin, const uint8_t *in, size_t in_len, uint8_t *out,
		     size_t room);

#endif /* MODEL_ADMIN_COMMANDS_H */
