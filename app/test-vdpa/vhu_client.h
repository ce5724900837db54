/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The front end's side of a vhost-user connection: one message and its answer at a time. While it
 * waits it serves the back end's own messages (host notifiers, configuration changes), so that a
 * back end that waits for those never waits for ever. Every wait is bounded.
 */

#ifndef VHU_CLIENT_H
#define VHU_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "vdpa.h"
#include "vhost_user_proto.h"

/* Not in what our back end speaks. */
#define VHU_BACKEND_HOST_NOTIFIER_MSG 3
#define VHU_F_PROTOCOL_FEATURES	      30

/* Protocol features, by bit. */
enum vhu_protocol_feature {
	VHU_P_MQ = 0,
	VHU_P_LOG_SHMFD = 1,
	VHU_P_REPLY_ACK = 3,
	VHU_P_MTU = 4,
	VHU_P_RARP = 2,
	VHU_P_BACKEND_REQ = 5,
	VHU_P_CONFIG = 9,
	VHU_P_BACKEND_SEND_FD = 10,
	VHU_P_HOST_NOTIFIER = 11,
	VHU_P_RESET_DEVICE = 13,
	VHU_P_STATUS = 16,
};

struct vhu_notifier {
	int fd; /* -1: none */
	uint64_t offset, size;
};

/* A back end may start or reset a device before it answers. Without --timeout-scale. */
#define VHU_ANSWER_MS 15000

struct vhu_client {
	int fd;	       /* -1: closed */
	int answer_ms; /* how long an answer may take */
	int backend_fd;
	uint64_t protocol; /* negotiated */
	uint64_t offered;  /* protocol features of the back end */
	unsigned int config_changes;
	struct vhu_notifier notifiers[VDPA_VQ_MAX];
};

static inline bool
vhu_client_has(const struct vhu_client *c, enum vhu_protocol_feature bit)
{
	return (c->protocol >> bit) & 1;
}

/* Connect. 0 or a negative errno with vdpa_error_message(), as all here. */
int vhu_client_connect(struct vhu_client *c, const char *path, int answer_ms);
void vhu_client_close(struct vhu_client *c);
/* Whether a vfio-user server listens on the socket; it takes one client at a time. */
bool vhu_client_is_vfio_user(const char *path);

/* A request without a reply of its own; with REPLY_ACK the back end's verdict, -EPROTO for a no. */
int vhu_client_send(struct vhu_client *c, enum vhu_request request, const void *payload,
		    uint32_t size, const int *fds, unsigned int nfds);
/* A request with a reply: what was sent is overwritten by it; size: of both. */
int vhu_client_ask(struct vhu_client *c, enum vhu_request request, void *payload,
		   uint32_t send_size, uint32_t reply_size);
/* SET_LOG_BASE: the dirty log, `size` bytes of a file. */
int vhu_client_set_log(struct vhu_client *c, int fd, uint64_t size);
/* Give the back end a channel for messages of its own. */
int vhu_client_open_backend_channel(struct vhu_client *c);
/* Whether the back end has hung up; asks nothing of it. The connection is open. */
bool vhu_client_is_closed(const struct vhu_client *c);
/* Serve that channel, at most so long. */
void vhu_client_serve(struct vhu_client *c, int timeout_ms);

#endif /* VHU_CLIENT_H */
