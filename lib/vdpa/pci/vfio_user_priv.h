/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The vfio-user client by its parts: vfio_user_conn.h and its three files own the socket,
 * vfio_user_info.c asks the server what the device is and checks the answers, vfio_user.c is the
 * transport.
 */

#ifndef VDPA_VFIO_USER_PRIV_H
#define VDPA_VFIO_USER_PRIV_H

#include <stddef.h>
#include <stdint.h>

#include "pci_priv.h"
#include "vfio_user_proto.h"

struct vfu_conn;

/* The address of a server's socket: bytes of a path that may be relative, or abstract. */
struct vfu_peer {
	uint32_t len;
	char path[108];
};

/* One request and what its reply may be. */
struct vfu_call {
	uint16_t command;
	const void *arg; /* the fixed part */
	size_t arg_len;
	const void *data; /* what follows it */
	size_t data_len;
	const int *fds; /* sent along; the caller keeps them */
	unsigned int n_fds;
	void *reply; /* the payload of the reply goes here: reply_min to reply_max bytes of it */
	size_t reply_min, reply_max;
	size_t reply_len; /* out */
	int *reply_fd;	  /* the file that may come along goes here, -1 for none; NULL: none may */
};

/*
 * Connect to the socket at path. name is for messages. 0, or a negative errno with vdpa_error().
 */
int vdpa_vfu_connect(const char *name, const char *path, unsigned int timeout_ms,
		     struct vfu_conn **out);
/*
 * Go on with the connection that a former process has had, by its socket, which is taken over, on
 * failure too. What that process has asked may be answered yet: a few replies that nobody waits for
 * are dropped. peer: what vdpa_vfu_peer() said of it. 0; -EPROTO for what is no connection, or not
 * this one; -ENOMEM.
 */
int vdpa_vfu_adopt(const char *name, int fd, const struct vfu_peer *peer, unsigned int timeout_ms,
		   struct vfu_conn **out);
/* Where the server listens, as the kernel has it. */
int vdpa_vfu_peer(const struct vfu_conn *conn, struct vfu_peer *peer);
/* The socket, which remains the connection's. */
int vdpa_vfu_socket(const struct vfu_conn *conn);
/* The next process has the connection: nothing here ends it from now on. Behind a request that is
 * under way. */
void vdpa_vfu_leave(struct vfu_conn *conn);
/* No other process has it: the server sees its end. */
void vdpa_vfu_hang_up(struct vfu_conn *conn);
/* NULL: no-op. Nothing may be in flight. */
void vdpa_vfu_disconnect(struct vfu_conn *conn);
/*
 * After a server has hung up at VERSION or not answered it, and the connection is closed: whether
 * the socket is a vhost-user back end's. rc again, with a message that says so, or the one there
 * was. It waits for a second at most.
 */
int vdpa_vfu_explain(const char *name, const char *path, int rc);

/*
 * From now on the end of the connection is reported to pci.c, and noticed without traffic where
 * there is a control loop.
 */
int vdpa_vfu_watch(struct vfu_conn *conn, struct vdpa_pci *pci);

/*
 * Send a request and wait for its reply. 0; a negative errno with vdpa_error(): what the server
 * answered, or that of the connection's end (vdpa_vfu_error()). From any thread, one at a time.
 */
int vdpa_vfu_call(struct vfu_conn *conn, struct vfu_call *call);

/* A REGION_WRITE of at most 8 bytes that no reply is asked for. Never waits. */
int vdpa_vfu_post(struct vfu_conn *conn, uint32_t region, uint64_t offset, const void *buf,
		  size_t len);

/* End the connection: a reply to the command was well-formed and yet nonsense. Returns -EPROTO,
 * with vdpa_error(). */
int vdpa_vfu_violation(struct vfu_conn *conn, uint16_t command, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Close a file that the server has sent; -1: no-op. Never waits; the connection ends when too many
 * wait. */
void vdpa_vfu_close_file(struct vfu_conn *conn, int fd);

/* 0 while the connection stands, otherwise the negative errno of its end. */
int vdpa_vfu_error(struct vfu_conn *conn);

const char *vdpa_vfu_command_name(uint16_t command);

/* What the server can take, from its VERSION reply. */
struct vfu_caps {
	unsigned int max_fds;  /* in one message: 1 to VFIO_USER_FDS_MAX */
	uint32_t max_xfer;     /* bytes of one access: 8 to VFIO_USER_XFER_MAX */
	unsigned int max_maps; /* DMA mappings */
	uint64_t page_size;    /* their alignment, a power of two */
};

/* Whether these can have been negotiated. */
bool vdpa_vfu_caps_ok(const struct vfu_caps *caps);
/* VERSION. 0 or a negative errno with vdpa_error(); so the next. */
int vdpa_vfu_negotiate(struct vfu_conn *conn, const char *name, struct vfu_caps *caps);
/* GET_INFO, GET_REGION_INFO, GET_IRQ_INFO. The files in info->regions[].fd are the caller's, after
 * a failure too; none is -1. */
int vdpa_vfu_get_info(struct vfu_conn *conn, const char *name, struct vdpa_pci_info *info);

/* Close those files. */
void vdpa_vfu_close_regions(struct vfu_conn *conn, struct vdpa_pci_info *info);

/* vfio_user_dma_log.c: as in struct vdpa_pci_transport. */
bool vdpa_vfu_dma_log_probe(struct vfu_conn *conn);
int vdpa_vfu_dma_log_start(struct vfu_conn *conn, const struct vdpa_dma_range *ranges,
			   unsigned int n);
int vdpa_vfu_dma_log_report(struct vfu_conn *conn, uint64_t iova, uint64_t size, uint64_t *bitmap);
int vdpa_vfu_dma_log_stop(struct vfu_conn *conn);

#endif /* VDPA_VFIO_USER_PRIV_H */
