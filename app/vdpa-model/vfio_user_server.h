/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vfio-user server: one device on one UNIX socket, one client at a time. It owns the sockets, the
 * messages and the file descriptors in them, checks sizes and bounds, and calls the device. It
 * knows nothing of what the device is.
 *
 * Everything, the device's calls too, runs on the loop that it was created on. Nothing waits for a
 * client: a message that has come in part is kept until the rest comes, a client that does not take
 * its reply is not read from meanwhile.
 */

#ifndef MODEL_VFIO_USER_SERVER_H
#define MODEL_VFIO_USER_SERVER_H

#include <stddef.h>
#include <stdint.h>

#include <linux/vfio.h>

#include "vdpa_event.h"
#include "vfio_user_proto.h"

/* DMA ranges that a client is told it may map: the specification's default. */
#define VFU_DMA_MAPS 65535

struct vfu_server;

/* A region as it is told to a client. */
struct vfu_region {
	uint64_t size;		       /* 0: none */
	uint32_t flags;		       /* VFIO_REGION_INFO_FLAG_READ, _WRITE, _MMAP */
	int fd;			       /* with FLAG_MMAP: region offset x is its offset x */
	uint64_t map_offset, map_size; /* the part that can be mapped */
};

/* The device. Calls that return an int return 0 or a negative errno, which the client is told. */
struct vfu_ops {
	void (*connected)(void *arg);
	/* Undo everything that the client has asked for. */
	void (*disconnected)(void *arg);
	void (*region_info)(void *arg, uint32_t index, struct vfu_region *region);
	/* The range is within the region, of 1 to VFIO_USER_XFER_MAX bytes. */
	void (*region_read)(void *arg, uint32_t index, uint64_t offset, void *buf, size_t len);
	void (*region_write)(void *arg, uint32_t index, uint64_t offset, const void *buf,
			     size_t len);
	uint32_t (*irq_count)(void *arg, uint32_t index);
	/* Takes over those of the fds that it sets to -1. data: of DATA_BOOL, set->count bytes. */
	int (*set_irqs)(void *arg, const struct vfio_user_irq_set *set, const uint8_t *data,
			int *fds, unsigned int n_fds);
	/* fd stays the server's; -1: none. */
	int (*dma_map)(void *arg, const struct vfio_user_dma_map *map, int fd);
	int (*dma_unmap)(void *arg, const struct vfio_user_dma_unmap *unmap);
	void (*reset)(void *arg);
};

struct vfu_params {
	const char *name; /* the device's, for messages; kept */
	const char *path;
	struct vdpa_event_loop *loop;
	const struct vfu_ops *ops;
	void *arg;
	const uint32_t *fault;	/* mask of MODEL_FAULT_*; atomic */
	unsigned int *delay_ms; /* of delayed replies; atomic */
};

/* 0; -EEXIST for a path that somebody listens on, -EINVAL for one that is too long or no socket,
 * else what the system says. */
int vfu_server_create(const struct vfu_params *params, struct vfu_server **out);
/* Hang up on the client, remove the socket: on return the device is called no more. Not on the
 * loop. */
void vfu_server_stop(struct vfu_server *s);
/* Stop it and free it. NULL: no-op. */
void vfu_server_destroy(struct vfu_server *s);
/* Hang up on the client. On the loop; the device is told before it returns. */
void vfu_server_disconnect(struct vfu_server *s);

#endif /* MODEL_VFIO_USER_SERVER_H */
