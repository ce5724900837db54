/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What group administration commands and device parts look like (virtio 1.4, 2.12 to 2.14), as far
 * as they save and load the state of a group's member. All fields are little endian. Written from
 * the specification; the kernel's linux/virtio_pci.h has the same from 6.13 on, which is newer than
 * what we build with.
 */

#ifndef VDPA_VIRTIO_ADMIN_H
#define VDPA_VIRTIO_ADMIN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <rte_byteorder.h>

/* Commands, and so bits of a list of them. */
enum admin_opcode {
	ADMIN_LIST_QUERY = 0x0,
	ADMIN_LIST_USE = 0x1,
	ADMIN_CAP_LIST_QUERY = 0x7,
	ADMIN_DEVICE_CAP_GET = 0x8,
	ADMIN_DRIVER_CAP_SET = 0x9,
	ADMIN_OBJ_CREATE = 0xa,
	ADMIN_OBJ_DESTROY = 0xd,
	ADMIN_PARTS_METADATA_GET = 0xe,
	ADMIN_PARTS_GET = 0xf,
	ADMIN_PARTS_SET = 0x10,
	ADMIN_MODE_SET = 0x11,
};

/* Group types. */
#define ADMIN_GROUP_SELF  0
#define ADMIN_GROUP_SRIOV 1

/* Status, errno's numbers, and its qualifier. */
#define ADMIN_OK     0
#define ADMIN_ENXIO  6
#define ADMIN_ENOMEM 12
#define ADMIN_EBUSY  16
#define ADMIN_EEXIST 17
#define ADMIN_EINVAL 22
#define ADMIN_ENOSPC 28

#define ADMIN_Q_OK	       0
#define ADMIN_Q_INVALID_CMD    1
#define ADMIN_Q_INVALID_OPCODE 2
#define ADMIN_Q_INVALID_FIELD  3
#define ADMIN_Q_INVALID_GROUP  4
#define ADMIN_Q_INVALID_MEMBER 5

/* What the device reads, with the command's data behind it. */
struct admin_request {
	uint16_t opcode;
	uint16_t group_type;
	uint8_t reserved[12];
	uint64_t member;
} __attribute__((packed));
_Static_assert(sizeof(struct admin_request) == 24, "virtio 1.4, 2.12.1");

/* What it writes, with the command's result behind it. */
struct admin_answer {
	uint16_t status;
	uint16_t qualifier;
	uint8_t reserved[4];
} __attribute__((packed));
_Static_assert(sizeof(struct admin_answer) == 8, "virtio 1.4, 2.12.1");

/* Capabilities: ids, of which the first is the one of device parts. */
#define ADMIN_CAP_PARTS 0

struct admin_cap {
	uint16_t id;
	uint8_t reserved[6];
} __attribute__((packed));
_Static_assert(sizeof(struct admin_cap) == 8, "virtio 1.4, VIRTIO_ADMIN_CMD_DEVICE_CAP_GET");

/* How many objects of either kind there may be: ids from 0 on. */
struct admin_cap_parts {
	uint8_t get_limit;
	uint8_t set_limit;
} __attribute__((packed));
_Static_assert(sizeof(struct admin_cap_parts) == 2, "virtio 1.4, VIRTIO_DEV_PARTS_CAP");

/* Resource objects. */
#define ADMIN_OBJ_PARTS	    0
#define ADMIN_OBJ_PARTS_GET 0
#define ADMIN_OBJ_PARTS_SET 1

struct admin_obj {
	uint16_t type;
	uint8_t reserved[2];
	uint32_t id;
} __attribute__((packed));
_Static_assert(sizeof(struct admin_obj) == 8, "virtio 1.4, device resource objects");

struct admin_obj_create {
	struct admin_obj obj;
	uint64_t flags;
	uint8_t parts_type;
	uint8_t reserved[7];
} __attribute__((packed));
_Static_assert(sizeof(struct admin_obj_create) == 24,
	       "virtio 1.4, VIRTIO_ADMIN_CMD_RESOURCE_OBJ_CREATE of VIRTIO_RESOURCE_OBJ_DEV_PARTS");

/* Of ADMIN_PARTS_METADATA_GET and, with headers behind it, ADMIN_PARTS_GET. */
#define ADMIN_METADATA_SIZE  0
#define ADMIN_METADATA_COUNT 1
#define ADMIN_METADATA_LIST  2
#define ADMIN_GET_SELECTED   0
#define ADMIN_GET_ALL	     1

struct admin_parts_query {
	struct admin_obj obj;
	uint8_t type;
	uint8_t reserved[7];
} __attribute__((packed));
_Static_assert(sizeof(struct admin_parts_query) == 16,
	       "virtio 1.4, VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET");

/* Size in bytes, or how many parts; with headers behind it for the list. */
struct admin_parts_count {
	uint32_t value;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct admin_parts_count) == 8,
	       "virtio 1.4, VIRTIO_ADMIN_CMD_DEV_PARTS_METADATA_GET");

#define ADMIN_MODE_STOPPED 0x01 /* in the one byte of ADMIN_MODE_SET */

/* Device parts. */

#define PART_DEV_FEATURES  0x100
#define PART_DRV_FEATURES  0x101
#define PART_PCI_COMMON	   0x102
#define PART_STATUS	   0x103
#define PART_VQ_CFG	   0x104
#define PART_VQ_NOTIFY_CFG 0x105
/* Parts of a device type. */
#define PART_TYPE_FIRST	   0x200
#define PART_TYPE_LAST	   0x5ff

#define PART_F_OPTIONAL 0x01

struct part_hdr {
	uint16_t type;
	uint8_t flags;
	uint8_t reserved;
	union {
		struct {
			uint32_t offset; /* in the common configuration */
			uint32_t reserved;
		} common;
		struct {
			uint16_t index;
			uint8_t reserved[6];
		} vq;
		uint8_t raw[8];
	} selector;
	uint32_t length; /* of the value behind it, bytes */
} __attribute__((packed));
_Static_assert(sizeof(struct part_hdr) == 16, "virtio 1.4, 2.14: struct virtio_dev_part_hdr");

/* Value of PART_DEV_FEATURES and PART_DRV_FEATURES, one word or more of 64 bits. */
#define PART_FEATURES_WORD sizeof(uint64_t)

struct part_vq_cfg {
	uint16_t size;
	uint16_t vector;
	uint16_t enabled;
	uint16_t reserved;
	uint64_t desc, driver, device;
} __attribute__((packed));
_Static_assert(sizeof(struct part_vq_cfg) == 32, "virtio 1.4, 2.14.1.5");

struct part_vq_notify {
	uint16_t notify_off;
	uint16_t notif_config_data;
	uint8_t reserved[4];
} __attribute__((packed));
_Static_assert(sizeof(struct part_vq_notify) == 8, "virtio 1.4, 2.14.1.6");

/* A part that was found in a list of them, in host byte order. */
struct part {
	struct part_hdr hdr; /* as it lies there */
	uint16_t type;
	uint32_t length;
	const uint8_t *value;
};

/* Commands and answers are multiples of 64 bits (2.13): what fills them up is zero. */
static inline int
part_is_padding(const uint8_t *bytes, size_t len)
{
	static const uint8_t zero[sizeof(uint64_t) - 1];

	return len <= sizeof(zero) && memcmp(bytes, zero, len) == 0;
}

/*
 * The part at *at of a list of len bytes, which need not be aligned, and *at behind it. 1; 0 at the
 * end; -1 for a list that ends in the middle of a part.
 */
static inline int
part_next(const void *list, size_t len, size_t *at, struct part *part)
{
	const uint8_t *bytes = (const uint8_t *)list + *at;
	size_t left = len - *at;

	if (part_is_padding(bytes, left))
		return 0;
	if (left < sizeof(part->hdr))
		return -1;
	memcpy(&part->hdr, bytes, sizeof(part->hdr));
	part->type = rte_le_to_cpu_16(part->hdr.type);
	part->length = rte_le_to_cpu_32(part->hdr.length);
	part->value = bytes + sizeof(part->hdr);
	if (part->length > left - sizeof(part->hdr))
		return -1;
	*at += sizeof(part->hdr) + part->length;
	return 1;
}

#endif /* VDPA_VIRTIO_ADMIN_H */
