/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* One request of a front end, between its checks (vhost_user_msg.c) and its handler
 * (vhost_user_requests.c). */

#ifndef VHOST_USER_REQUEST_H
#define VHOST_USER_REQUEST_H

#include <stdbool.h>

#include <rte_bitops.h>

#include "vhost_user_proto.h"
#include "vhost_user_record.h"

#define VHU_PROTOCOL(feature) RTE_BIT64(VHOST_USER_PROTOCOL_F_##feature)

struct vhu_session;

/* A message that came, while it is served. */
struct vhu_received {
	struct vhu_session *s;
	struct vhu_msg *msg; /* where it has a reply of its own, the handler leaves that here */
	const struct vhu_row *row;
	size_t len; /* bytes of the message */
	int fds[VHU_MSG_FDS_MAX];
	vhu_kept_id ids[VHU_MSG_FDS_MAX]; /* their names, of a connection that is kept */
	unsigned int nfds;
	int reply_fd; /* goes with the reply and is closed behind it; -1: none */
	vhu_kept_id reply_id;
	uint16_t idx; /* of the queue it is about */
	bool rests;   /* the handler: nothing is to be expected behind it */
};

/* What becomes of the connection. */
enum vhu_verdict {
	VHU_VERDICT_DONE,  /* nothing is to be said */
	VHU_VERDICT_REPLY, /* msg is the reply */
	VHU_VERDICT_CLOSE, /* it ends */
};

/* Where a message says which queue it is about. */
enum vhu_index { VHU_INDEX_NONE, VHU_INDEX_STATE, VHU_INDEX_ADDR, VHU_INDEX_FILE };

/* What follows from a message that was carried out. */
enum vhu_effect {
	VHU_EFFECT_REPLY = 1 << 0,   /* it has a reply of its own: the handler leaves it in msg */
	VHU_EFFECT_ADVANCE = 1 << 1, /* a queue may have become ready */
};

/* What we know of a request. */
struct vhu_row {
	const char *name;
	/* 0 or a negative errno with vdpa_error_message(). */
	int (*handle)(struct vhu_received *req);
	uint32_t size_min, size_max; /* of the payload, in bytes */
	uint8_t fds_min, fds_max;
	enum vhu_index index;
	unsigned int effect;
	uint64_t protocol; /* protocol features of which one must have been negotiated; 0: none */
};

/* The row of a request; NULL for one that we do not serve. */
const struct vhu_row *vdpa_vhu_row(uint32_t request);
/* Why one without a row is not served: an errno with its message. */
int vdpa_vhu_not_served(uint32_t request);

#endif /* VHOST_USER_REQUEST_H */
