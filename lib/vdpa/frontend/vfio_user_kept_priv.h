/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between vfio_user_kept.c, a connection that is kept, and vfio_user_resume.c, the next process. */

#ifndef VFIO_USER_KEPT_PRIV_H
#define VFIO_USER_KEPT_PRIV_H

#include <stdint.h>
#include <sys/socket.h>

#include "vfio_user_kept.h"
#include "vfio_user_proto.h"

/* Names in the store. */
#define VFU_KEPT_CONNECTION "connection"
#define VFU_KEPT_DOORBELLS  "doorbells"

/* A place that no message has. */
#define VFU_NOWHERE UINT64_MAX

/* Places are counted in bytes from the connection's beginning. */
struct vfu_kept_shared {
	uint64_t done;	    /* messages up to here are done, as far as no record says so */
	uint64_t reply_for; /* the place behind the message that the reply is to */
	uint32_t reply_len, reply_fd; /* bytes; whether a descriptor goes with them */
	uint64_t sent;		      /* bytes that have left, but for the last call's */
	uint64_t out_at;	      /* what it was before that call, or will be */
	struct mmsghdr out;	      /* msg_len: of that call */
	uint64_t began[VDPA_VQ_MAX];  /* by queue: the place of the message that started it, + 1 */
	uint8_t reply[VFIO_USER_MSG_MAX];
};

/* The message of the last error, without the device's name. */
const char *vdpa_vfus_why(const struct vfu_device *dev);
/* Nothing is known of the connection any more. */
void vdpa_vfus_kept_forget(struct vfu_kept *k);

#endif /* VFIO_USER_KEPT_PRIV_H */
