/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* vhost-user on the wire: what QEMU's specification (interop/vhost-user) defines, host-endian. */

#ifndef VHOST_USER_PROTO_H
#define VHOST_USER_PROTO_H

#include <stddef.h>
#include <stdint.h>

enum vhu_request {
	VHU_GET_FEATURES = 1,
	VHU_SET_FEATURES = 2,
	VHU_SET_OWNER = 3,
	VHU_RESET_OWNER = 4,
	VHU_SET_MEM_TABLE = 5,
	VHU_SET_LOG_BASE = 6,
	VHU_SET_LOG_FD = 7,
	VHU_SET_VRING_NUM = 8,
	VHU_SET_VRING_ADDR = 9,
	VHU_SET_VRING_BASE = 10,
	VHU_GET_VRING_BASE = 11,
	VHU_SET_VRING_KICK = 12,
	VHU_SET_VRING_CALL = 13,
	VHU_SET_VRING_ERR = 14,
	VHU_GET_PROTOCOL_FEATURES = 15,
	VHU_SET_PROTOCOL_FEATURES = 16,
	VHU_GET_QUEUE_NUM = 17,
	VHU_SET_VRING_ENABLE = 18,
	VHU_SEND_RARP = 19,
	VHU_NET_SET_MTU = 20,
	VHU_SET_BACKEND_REQ_FD = 21,
	VHU_IOTLB_MSG = 22,
	VHU_GET_CONFIG = 24,
	VHU_SET_CONFIG = 25,
	VHU_GET_INFLIGHT_FD = 31,
	VHU_SET_INFLIGHT_FD = 32,
	VHU_RESET_DEVICE = 34,
	VHU_GET_MAX_MEM_SLOTS = 36,
	VHU_ADD_MEM_REG = 37,
	VHU_REM_MEM_REG = 38,
	VHU_SET_STATUS = 39,
	VHU_GET_STATUS = 40,
	VHU_SET_DEVICE_STATE_FD = 42,
	VHU_CHECK_DEVICE_STATE = 43,
	VHU_GET_VRING_BASE_SKIP_DRAIN = 45,
	VHU_REQUEST_MAX = 46,
};

/* Feature bit 30: protocol features are negotiated. */
#define VHOST_USER_F_PROTOCOL_FEATURES 30

/* Protocol features, by the specification's names. */
#define VHOST_USER_PROTOCOL_F_MQ			0
#define VHOST_USER_PROTOCOL_F_LOG_SHMFD			1
#define VHOST_USER_PROTOCOL_F_RARP			2
#define VHOST_USER_PROTOCOL_F_REPLY_ACK			3
#define VHOST_USER_PROTOCOL_F_NET_MTU			4
#define VHOST_USER_PROTOCOL_F_BACKEND_REQ		5
#define VHOST_USER_PROTOCOL_F_CONFIG			9
#define VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD		10
#define VHOST_USER_PROTOCOL_F_HOST_NOTIFIER		11
#define VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD		12
#define VHOST_USER_PROTOCOL_F_RESET_DEVICE		13
#define VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS	15
#define VHOST_USER_PROTOCOL_F_STATUS			16
#define VHOST_USER_PROTOCOL_F_DEVICE_STATE		19
/* GET_VRING_BASE does not wait for requests; with the second one GET_VRING_BASE_SKIP_DRAIN does
 * not, and GET_VRING_BASE does. */
#define VHOST_USER_PROTOCOL_F_GET_VRING_BASE_INFLIGHT	20
#define VHOST_USER_PROTOCOL_F_GET_VRING_BASE_SKIP_DRAIN 23

/* Messages from us to the front end, on the fd of SET_BACKEND_REQ_FD. */
#define VHU_BACKEND_CONFIG_CHANGE_MSG	    2
#define VHU_BACKEND_VRING_HOST_NOTIFIER_MSG 3

#define VHU_FLAGS_VERSION_MASK 0x3u
#define VHU_FLAGS_VERSION      0x1u
#define VHU_FLAGS_REPLY	       0x4u
#define VHU_FLAGS_NEED_REPLY   0x8u

/* Payload of SET_VRING_KICK, CALL and ERR; and first word of a vring area. */
#define VHU_FILE_INDEX_MASK 0xffu
#define VHU_FILE_NOFD	    0x100u

/* Flag of SET_VRING_ADDR: the used ring is logged at log_guest_addr. */
#define VHU_VRING_F_LOG 0x1u

#define VHU_MEM_REGIONS_MAX 8
#define VHU_MSG_FDS_MAX	    8
/* As many as a KVM guest has at most (QEMU, libvhost-user, rust-vmm). */
#define VHU_MEM_SLOTS_MAX   509
#define VHU_CONFIG_SIZE_MAX 256
#define VHU_VRING_NUM_MAX   32768

/* The payload begins at byte 12 of a message: 8-byte members lie on 4-byte boundaries. */
#define VHU_WIRE __attribute__((packed, aligned(4)))

struct vhu_vring_state {
	uint32_t index;
	uint32_t num;
};

struct vhu_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
} VHU_WIRE;

struct vhu_mem_region {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
} VHU_WIRE;

struct vhu_memory {
	uint32_t nregions;
	uint32_t padding;
	struct vhu_mem_region regions[VHU_MEM_REGIONS_MAX];
} VHU_WIRE;

/* Payload of ADD_MEM_REG and REM_MEM_REG. */
struct vhu_mem_slot {
	uint64_t padding;
	struct vhu_mem_region region;
} VHU_WIRE;

struct vhu_log {
	uint64_t mmap_size;
	uint64_t mmap_offset;
} VHU_WIRE;

struct vhu_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint32_t padding;
} VHU_WIRE;
/* The specification has 20 bytes; QEMU and DPDK send the padded struct. */
#define VHU_INFLIGHT_SIZE_MIN 20

/* Where a queue's doorbell is in the file that comes with it. */
struct vhu_vring_area {
	uint64_t u64;
	uint64_t size;
	uint64_t offset;
} VHU_WIRE;

/* Payload of SET_DEVICE_STATE_FD. */
struct vhu_device_state {
	uint32_t direction;
	uint32_t phase;
};

#define VHU_DEVICE_STATE_SAVE	 0u
#define VHU_DEVICE_STATE_LOAD	 1u
#define VHU_DEVICE_STATE_STOPPED 0u
/* Its reply: an error, and that the front end's own descriptor is used. */
#define VHU_DEVICE_STATE_ERROR	 0x1u
#define VHU_DEVICE_STATE_NOFD	 0x100u

struct vhu_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VHU_CONFIG_SIZE_MAX];
};
#define VHU_CONFIG_HDR_SIZE offsetof(struct vhu_config, data)

struct vhu_msg {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
	union {
		uint64_t u64;
		struct vhu_vring_state state;
		struct vhu_vring_addr addr;
		struct vhu_memory memory;
		struct vhu_mem_slot slot;
		struct vhu_log log;
		struct vhu_inflight inflight;
		struct vhu_config config;
		struct vhu_vring_area area;
		struct vhu_device_state device_state;
	} payload;
} __attribute__((packed));

#define VHU_HDR_SIZE offsetof(struct vhu_msg, payload)

_Static_assert(VHU_HDR_SIZE == 12, "message header");
_Static_assert(sizeof(struct vhu_vring_state) == 8, "vring state");
_Static_assert(sizeof(struct vhu_vring_addr) == 40, "vring address");
_Static_assert(sizeof(struct vhu_mem_region) == 32, "memory region");
_Static_assert(offsetof(struct vhu_memory, regions) == 8, "memory table");
_Static_assert(sizeof(struct vhu_mem_slot) == 40, "memory slot");
_Static_assert(sizeof(struct vhu_log) == 16, "log description");
_Static_assert(sizeof(struct vhu_inflight) == 24, "inflight description");
_Static_assert(sizeof(struct vhu_vring_area) == 24, "vring area");
_Static_assert(sizeof(struct vhu_device_state) == 8, "device state");
_Static_assert(VHU_CONFIG_HDR_SIZE == 12, "configuration header");

#endif /* VHOST_USER_PROTO_H */
