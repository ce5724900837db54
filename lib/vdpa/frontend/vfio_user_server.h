/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vfio-user server: one device on one UNIX socket, one client at a time. It owns the sockets, the
 * messages and the file descriptors in them, checks sizes and bounds, and calls the device. It
 * knows nothing of what the device is.
 *
 * Sockets are watched by the control loop, which waits for nothing. Everything else, the device's
 * calls too, happens in jobs of the work queue that it was created with: a device that takes its
 * time keeps its own clients waiting, and nobody else. Nothing waits for a client: a message that
 * has come in part is kept until the rest comes, a client that does not take its reply is not read
 * from meanwhile.
 */

#ifndef VFIO_USER_SERVER_H
#define VFIO_USER_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <linux/vfio.h>

#include "vdpa_peer.h"
#include "vdpa_work.h"
#include "vfio_user_proto.h"

/* DMA ranges that a client is told it may map: the specification's default. */
#define VFU_DMA_MAPS 65535

struct vfu_kept;
struct vfu_server;

/* A region as it is told to a client. */
struct vfu_region {
	uint64_t size;		       /* 0: none */
	uint32_t flags;		       /* VFIO_REGION_INFO_FLAG_READ, _WRITE, _MMAP */
	int fd;			       /* with FLAG_MMAP: region offset x is its offset */
	uint64_t fd_offset;	       /* fd_offset + x */
	uint64_t map_offset, map_size; /* the part that can be mapped */
};

/* The device. Calls that return an int return 0 or a negative errno, which the client is told. */
struct vfu_ops {
	/* This process has connected; it is hung up on when it may not be served. */
	int (*connected)(void *arg, const struct vdpa_peer *peer);
	/* Undo everything that the client has asked for. */
	void (*disconnected)(void *arg);
	/* Bytes of a region; 0: none. */
	uint64_t (*region_size)(void *arg, uint32_t index);
	/* The client asks for it, and gets its file. */
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
	/* Whether the device's DMA can be logged (DMA_LOGGING_*), in pages of 4096 bytes; without
	 * it the rest is not called. */
	bool (*logs_dma)(void *arg);
	int (*dma_log_start)(void *arg, const struct vfio_user_dma_log_range *ranges,
			     unsigned int n);
	/* bitmap is zero, and has a bit for each page. */
	int (*dma_log_report)(void *arg, const struct vfio_user_dma_log_report *report,
			      uint64_t *bitmap);
	int (*dma_log_stop)(void *arg);
	/* Whether its state can be saved and loaded (MIG_DEVICE_STATE, MIG_DATA_*); without it the
	 * rest is not called. States are enum vfio_device_mig_state. */
	bool (*moves)(void *arg);
	uint32_t (*get_state)(void *arg);
	int (*set_state)(void *arg, uint32_t state);
	/* Up to size bytes of the state, *n of them: fewer are the end. */
	int (*read_state)(void *arg, void *buf, uint32_t size, uint32_t *n);
	int (*write_state)(void *arg, const void *buf, uint32_t size);
	/* Optional: a reply is about to be sent; change it, and how many milliseconds it waits
	 * before. The bytes to send; 0: none. */
	size_t (*reply)(void *arg, uint8_t *msg, size_t len, unsigned int *delay_ms);
};

struct vfu_params {
	const char *name; /* the device's, for messages; kept */
	const char *path;
	mode_t mode; /* of the socket */
	gid_t group; /* (gid_t)-1: the process's */
	struct vdpa_work_queue *queue;
	struct vfu_kept *kept; /* the device's; NULL: its connection ends with the process */
	const struct vfu_ops *ops;
	void *arg;
};

/* 0, -ENOMEM, or what vdpa_listen_open() and vdpa_event_add() say. On error *out is NULL; or there
 * is a server, to be ended as any: it may have the client of a former process, which jobs of the
 * device's are at work for. */
int vdpa_vfus_server_create(const struct vfu_params *params, struct vfu_server **out);
/* Run no job any more: on return the device is not called. Not from a job of the queue. */
void vdpa_vfus_server_stop(struct vfu_server *s);
/* Remove the socket, or leave it to the next process where that has the device. Behind a stop, and
 * once it is known which. */
void vdpa_vfus_server_unlisten(struct vfu_server *s);
/* Hang up on the client of a server that was stopped; the device hears of it before the return. */
void vdpa_vfus_server_end(struct vfu_server *s);
/* All of these, and free it. NULL: no-op. */
void vdpa_vfus_server_destroy(struct vfu_server *s);
/* Hang up on the client, likewise. In a job of the queue. */
void vdpa_vfus_server_disconnect(struct vfu_server *s);

#endif /* VFIO_USER_SERVER_H */
