/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What is said on the socket of a vdpa-keeper, by a UNIX socket of sequenced packets: one message a
 * packet, in the host's byte order, since both ends are on one host.
 *
 * The keeper sends the first message, KEEPER_HELLO: result 0, -EBUSY (it serves another process),
 * or -EPERM (not this user) before it closes the connection. Then each request is answered by one
 * message with its op and id, in order. A message that is none of these ends the connection.
 */

#ifndef KEEPER_PROTO_H
#define KEEPER_PROTO_H

#include <stdint.h>

#include "vdpa_keep.h"

#define KEEPER_MAGIC   0x706b7675u
#define KEEPER_VERSION 1

enum keeper_op {
	KEEPER_HELLO = 1, /* from the keeper alone */
	KEEPER_PUT,	  /* with one descriptor: keep it under this name */
	KEEPER_DEL,	  /* drop what the name has, if anything */
	KEEPER_TAKE,	  /* the answer has the descriptor; -ENOENT: the name has none */
	KEEPER_LIST,	  /* the answer has names behind the message: those after this one */
	KEEPER_NOOP,
	/*
	 * From an operator: fence the functions that are held, and drop them. name: empty. The
	 * answer has lines of text behind it, one a function; its result is how many are fenced,
	 * -EIO where one is not, -EBUSY while a daemon is served. A connection to which -EBUSY was
	 * said at first may send this, and KEEPER_FENCE_FORCED, in KEEPER_CALL_MS.
	 */
	KEEPER_FENCE,
	KEEPER_FENCE_FORCED, /* also while a daemon is served */
};

struct keeper_msg {
	uint32_t magic;
	uint16_t version;
	uint16_t op;
	uint32_t id;	/* of the request; KEEPER_HELLO: the pid of the process that is served */
	int32_t result; /* of an answer: 0 or a negative errno; KEEPER_LIST: how many names follow
			 */
	char name[132]; /* with its end */
} __attribute__((packed));
_Static_assert(sizeof(struct keeper_msg) == 148, "the protocol's format");
_Static_assert(VDPA_KEEP_NAME_MAX < sizeof(((struct keeper_msg *)0)->name), "a name fits");

/* How long one that is not served has for KEEPER_FENCE. */
#define KEEPER_CALL_MS 5000

/* Bytes of names in an answer to KEEPER_LIST, at most: each with its end, in order. Of lines in one
 * to KEEPER_FENCE, each with its newline. */
#define KEEPER_LIST_MAX 32768

#endif /* KEEPER_PROTO_H */
