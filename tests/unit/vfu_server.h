/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A vfio-user server in a thread, for tests of the client: it answers as the specification says,
 * and a hook may spoil each reply before it is sent. It shares nothing with app/vdpa-model but the
 * wire format.
 */

#ifndef VFU_SERVER_H
#define VFU_SERVER_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/vfio.h>

#include "vfio_user_proto.h"

#define VFU_REGIONS    VFIO_PCI_NUM_REGIONS
#define VFU_AREAS_MAX  20
#define VFU_LOG_MAX    256
#define VFU_REGION_MAX 16384
#define VFU_LOG_RANGES 32
#define VFU_WRITTEN    4

struct vfu_server;

/* A reply as it is about to be sent: the header, then len bytes. */
struct vfu_reply {
	struct vfio_user_header hdr;
	uint8_t data[VFIO_USER_MSG_MAX];
	size_t len;
	int fds[8]; /* stay the server's */
	unsigned int n_fds;
	unsigned int delay_us; /* before it is sent */
	size_t cut;	       /* send no more bytes than this, header included */
	bool drop;	       /* do not send it */
	bool hangup;	       /* close the connection after it */
};

/* On the server's thread. */
typedef void (*vfu_hook)(struct vfu_server *s, const struct vfio_user_header *request,
			 struct vfu_reply *reply);

struct vfu_server_irqs {
	uint32_t flags, index, start, count;
	unsigned int n_fds;
};

struct vfu_server_dma {
	bool map;
	struct vfio_user_dma_map m;
	unsigned int n_fds;
};

struct vfu_server_write {
	uint32_t region, count, flags;
	uint64_t offset, value;
};

struct vfu_server {
	/* The device; to be changed before vfu_server_start(). */
	uint16_t major, minor;
	const char *json; /* of the VERSION reply; NULL: none */
	uint32_t device_flags, num_regions, num_irqs;
	struct {
		uint64_t size, fd_offset;
		uint32_t flags;
		int fd;
		unsigned int n_areas;
		bool sparse;
		struct {
			uint64_t offset, size;
		} areas[VFU_AREAS_MAX];
	} regions[VFU_REGIONS];
	uint32_t nr_irqs[VFIO_PCI_NUM_IRQS];
	bool logs_dma; /* it answers to DMA_LOGGING_*; a log may be of log_max ranges */
	uint32_t log_max;
	vfu_hook hook; /* read with __atomic */
	void *arg;

	char dir[32], path[48];

	/* What it has seen; __atomic counters, records written before they count. */
	unsigned int connections, requests, n_irqs, n_dma, n_writes;
	struct vfu_server_irqs irqs[VFU_LOG_MAX];
	struct vfu_server_dma dma[VFU_LOG_MAX];
	struct vfu_server_write writes[VFU_LOG_MAX];
	unsigned int open_connections;
	unsigned int log_starts, log_stops, log_reports;	   /* __atomic */
	struct vfio_user_dma_log_range log_ranges[VFU_LOG_RANGES]; /* of the last start */
	unsigned int n_log_ranges;
	uint64_t
		written[VFU_WRITTEN]; /* IOVAs of pages that are reported once; 0: none; __atomic */
	bool paused;		      /* shall not read; __atomic */
	bool pausing;		      /* does not; __atomic */
	int vector0;		      /* the last eventfd for vector 0 of MSI-X, or -1 */

	uint8_t memory[VFU_REGIONS][VFU_REGION_MAX];
	int listen_fd, stop_fd, fd;
	pthread_t thread;
};

/* A modern device with configuration space, BAR 4 of four pages, its last one mappable, MSI-X. */
void vfu_server_init(struct vfu_server *s);
/* Listen on s->path and serve one connection after the other. False with errno. */
bool vfu_server_start(struct vfu_server *s);
/* Hang up and take everything back. */
void vfu_server_stop(struct vfu_server *s);
/* End the connection that is open, as a server that dies. */
void vfu_server_hangup(struct vfu_server *s);
/* Spoil replies from now on; NULL: no more. */
void vfu_server_set_hook(struct vfu_server *s, vfu_hook hook, void *arg);

#endif /* VFU_SERVER_H */
