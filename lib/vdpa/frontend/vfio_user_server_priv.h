/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* Between vfio_user_server.c, the sockets, and vfio_user_commands.c, the messages. */

#ifndef VFIO_USER_SERVER_PRIV_H
#define VFIO_USER_SERVER_PRIV_H

#include <stdbool.h>

#include "listen.h"
#include "log_limit.h"
#include "restart.h"
#include "vdpa_event.h"
#include "vdpa_timer.h"
#include "vfio_user_server.h"

struct vfu_server {
	struct vfu_params params;
	struct vdpa_listen listen;
	struct vdpa_fd_account *account; /* of all who can connect */
	int spare_fd; /* given up to refuse a client when no other is left; -1: it was */
	/* Seen once each, until the job that it posts has handed it back. client.fd -1: none. */
	struct vdpa_event listener, client;
	struct vdpa_work accept_work, client_work, delay_work;
	uint32_t revents; /* of the client, for its job; atomic */
	bool stopped;	  /* atomic */
	bool resumed;	  /* the client is a former process' one */
	struct vdpa_restart_waiter waiter;
	struct vdpa_timer delay; /* of a reply */
	struct vdpa_timer pause; /* the listener's rest while no client can be accepted */
	bool rested;		 /* that no client can be accepted was logged */
	bool version_done;
	bool delayed;			  /* a reply waits for its time */
	struct vdpa_log_limit lines;	  /* of the log about the client's requests */
	struct vdpa_log_limit full_lines; /* and about its descriptors that do not close */

	/* The message that is being read, and the file descriptors that came with it. */
	uint8_t in[VFIO_USER_MSG_MAX] __attribute__((aligned(8)));
	size_t in_len;
	int fds[VFIO_USER_FDS_MAX];
	uint64_t ids[VFIO_USER_FDS_MAX]; /* their names in the store, where it is kept */
	unsigned int n_fds;

	/* The reply on its way; the file descriptor goes with its first byte and is the device's.
	 */
	uint8_t out[VFIO_USER_MSG_MAX] __attribute__((aligned(8)));
	size_t out_len, out_sent;
	int out_fd;
};

/* Execute the complete message in `in`; its reply, if it is to have one, is in `out` then. */
void vdpa_vfus_command(struct vfu_server *s);

#endif /* VFIO_USER_SERVER_PRIV_H */
