/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * vfio-user on the wire: the subset of the protocol that the client (vfio_user.c) and the server
 * (app/vdpa-model) speak. Host byte order, both ends being on one host. Region and interrupt
 * numbers, and the flags of struct vfio_user_region_info and struct vfio_user_irq_set, are those of
 * linux/vfio.h.
 */

#ifndef VFIO_USER_PROTO_H
#define VFIO_USER_PROTO_H

#include <stdint.h>

#define VFIO_USER_MAJOR 0
#define VFIO_USER_MINOR 1

/* Largest data of one REGION_READ or _WRITE, "max_data_xfer_size" that we accept and offer. */
#define VFIO_USER_XFER_MAX 4096
/* Largest message in either direction. */
#define VFIO_USER_MSG_MAX  8192
/* "max_msg_fds" that we accept and offer; of a peer that says nothing: 1. */
#define VFIO_USER_FDS_MAX  64

enum vfio_user_command {
	VFIO_USER_VERSION = 1,
	VFIO_USER_DMA_MAP = 2,
	VFIO_USER_DMA_UNMAP = 3,
	VFIO_USER_DEVICE_GET_INFO = 4,
	VFIO_USER_DEVICE_GET_REGION_INFO = 5,
	VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
	VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
	VFIO_USER_DEVICE_SET_IRQS = 8,
	VFIO_USER_REGION_READ = 9,
	VFIO_USER_REGION_WRITE = 10,
	VFIO_USER_DMA_READ = 11,
	VFIO_USER_DMA_WRITE = 12,
	VFIO_USER_DEVICE_RESET = 13,
	VFIO_USER_REGION_WRITE_MULTI = 15,
	VFIO_USER_DEVICE_FEATURE = 16,
	VFIO_USER_MIG_DATA_READ = 17,
	VFIO_USER_MIG_DATA_WRITE = 18,
};

#define VFIO_USER_TYPE_MASK  0xfu
#define VFIO_USER_TYPE_CMD   0u
#define VFIO_USER_TYPE_REPLY 1u
#define VFIO_USER_NO_REPLY   (1u << 4)
#define VFIO_USER_ERROR	     (1u << 5)

struct vfio_user_header {
	uint16_t id;
	uint16_t command;
	uint32_t size; /* of the message, header included */
	uint32_t flags;
	uint32_t error; /* errno, with VFIO_USER_ERROR; the reply is the header only */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_header) == 16, "vfio-user, header");

/* Followed by JSON text and its NUL, or by nothing. */
struct vfio_user_version {
	uint16_t major;
	uint16_t minor;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_version) == 4, "vfio-user, VERSION");

#define VFIO_USER_DMA_READABLE 1u
#define VFIO_USER_DMA_WRITABLE 2u

struct vfio_user_dma_map {
	uint32_t argsz;
	uint32_t flags;
	uint64_t offset; /* in the file */
	uint64_t address;
	uint64_t size;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_dma_map) == 32, "vfio-user, DMA_MAP");

struct vfio_user_dma_unmap {
	uint32_t argsz;
	uint32_t flags; /* 1: dirty bitmap, 2: all */
	uint64_t address;
	uint64_t size;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_dma_unmap) == 24, "vfio-user, DMA_UNMAP");

struct vfio_user_device_info {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DEVICE_FLAGS_* */
	uint32_t num_regions;
	uint32_t num_irqs;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_device_info) == 16, "vfio-user, DEVICE_GET_INFO");

struct vfio_user_region_info {
	uint32_t argsz;
	uint32_t flags; /* VFIO_REGION_INFO_FLAG_* */
	uint32_t index;
	uint32_t cap_offset; /* from here; struct vfio_region_info_cap_sparse_mmap */
	uint64_t size;
	uint64_t offset; /* in the fd that comes along */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_region_info) == 32, "vfio-user, GET_REGION_INFO");

struct vfio_user_irq_info {
	uint32_t argsz;
	uint32_t flags; /* VFIO_IRQ_INFO_* */
	uint32_t index;
	uint32_t count;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_irq_info) == 16, "vfio-user, GET_IRQ_INFO");

/* Eventfds come along: as many as count, or none to let them go. */
struct vfio_user_irq_set {
	uint32_t argsz;
	uint32_t flags; /* VFIO_IRQ_SET_* */
	uint32_t index;
	uint32_t start;
	uint32_t count;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_irq_set) == 20, "vfio-user, SET_IRQS");

/* READ and WRITE alike; data follows in a write and in the reply of a read. */
struct vfio_user_region_access {
	uint64_t offset;
	uint32_t region;
	uint32_t count; /* bytes */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_region_access) == 16, "vfio-user, REGION_READ");

/* Followed by the feature's data; argsz: room for the reply's payload. */
struct vfio_user_device_feature {
	uint32_t argsz;
	uint32_t flags; /* VFIO_DEVICE_FEATURE_*: which one, and GET, SET or PROBE */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_device_feature) == 8, "vfio-user, DEVICE_FEATURE");

/* DMA_LOGGING_START; num_ranges ranges follow. */
struct vfio_user_dma_log_control {
	uint64_t page_size;
	uint32_t num_ranges;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_dma_log_control) == 16, "vfio-user, DMA_LOGGING_START");

struct vfio_user_dma_log_range {
	uint64_t iova;
	uint64_t length;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_dma_log_range) == 16, "vfio-user, DMA_LOGGING_START");

/* DMA_LOGGING_REPORT; in the reply the bitmap follows, in whole words of 64 bits. */
struct vfio_user_dma_log_report {
	uint64_t iova;
	uint64_t length;
	uint64_t page_size;
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_dma_log_report) == 24, "vfio-user, DMA_LOGGING_REPORT");

/* MIG_DEVICE_STATE. */
struct vfio_user_mig_state {
	uint32_t device_state; /* enum vfio_device_mig_state */
	uint32_t data_fd;      /* of no use here: the bytes go by MIG_DATA_READ and _WRITE */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_mig_state) == 8, "vfio-user, MIG_DEVICE_STATE");

/* MIG_DATA_READ and _WRITE; data follows in a write and in the reply of a read. */
struct vfio_user_mig_data {
	uint32_t argsz;
	uint32_t size; /* of the data: in the reply of a read, less than was asked for is the end */
} __attribute__((packed));
_Static_assert(sizeof(struct vfio_user_mig_data) == 8, "vfio-user, MIG_DATA_READ");

#endif /* VFIO_USER_PROTO_H */
