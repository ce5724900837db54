/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * A device's state as the parts that its owner gives and takes (virtio 1.4, 2.14).
 *
 * All of them are saved. Of those that are loaded, the common ones (features, status, queues with
 * their vectors and addresses) are the destination's own: a start has set them, as the guest is
 * served here, and a device that is set up over the source's would interrupt by the source's
 * vectors. They are checked. What is set are the parts of the device's type, such as the MAC
 * filters of a net device; but for commands that the service gives by its own control queue. No
 * part of virtio 1.4 holds where a queue stands.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_common.h>

#include "error_priv.h"
#include "virtio_admin.h"
#include "virtio_owner.h"
#include "virtio_priv.h"
#include "virtio_type.h"

/* Features of rings and transport, which may differ from host to host. */
#define TRANSPORT_BITS (RTE_BIT64(50) - RTE_BIT64(24))

/* Before the parts in what save_state gives: where they come from, and how to read them. */
struct state_hdr {
	uint32_t magic;
	uint16_t version;
	uint16_t type; /* virtio device id */
	uint32_t length;
	uint32_t reserved;
} __attribute__((packed));
_Static_assert(sizeof(struct state_hdr) == 16, "part of what is saved");

#define STATE_MAGIC   0x73705675u /* "uVps" */
#define STATE_VERSION 1u

/* Of a net device: a command of the control queue, in the selector. */
#define NET_PART_CVQ 0x200

static int
bad(const struct part *part, const char *what)
{
	return vdpa_error(EINVAL, "part 0x%x of %u bytes: %s", part->type, part->length, what);
}

static int
check_features(const struct virtio_device *dev, const struct part *part)
{
	/* The control queue is not the guest's. */
	uint64_t mask = ~(TRANSPORT_BITS | virtio_type(dev->hw.type)->ctrl), features;

	if (part->length < sizeof(features) || part->length % PART_FEATURES_WORD != 0)
		return bad(part, "is no set of features");
	memcpy(&features, part->value, sizeof(features));
	features = rte_le_to_cpu_64(features) & mask;
	for (uint32_t i = sizeof(features); i < part->length; i++)
		if (part->value[i] != 0)
			return bad(part, "has features beyond the 64th");
	if (part->type == PART_DRV_FEATURES && dev->negotiated != 0 &&
	    features != (dev->negotiated & mask))
		return vdpa_error(EINVAL,
				  "the state is of a device with the features 0x%" PRIx64
				  ", this one has 0x%" PRIx64,
				  features, dev->negotiated & mask);
	return 0;
}

/* Whether the service itself brings the device there, at a start and later. */
static bool
is_ours(const struct virtio_device *dev, const struct part *part)
{
	const uint8_t *selector = part->hdr.selector.raw;

	return dev->hw.type == VIRTIO_ID_NET && part->type == NET_PART_CVQ &&
	       virtio_ctrl_gives(dev, selector[0], selector[1]);
}

/* A length that a common part must have; 0: any. */
static uint32_t
common_length(uint16_t type)
{
	switch (type) {
	case PART_STATUS:
		return 1;
	case PART_VQ_CFG:
		return sizeof(struct part_vq_cfg);
	case PART_VQ_NOTIFY_CFG:
		return sizeof(struct part_vq_notify);
	default:
		return 0;
	}
}

/*
 * Check a list, and copy those that are to be set to `set`, which has room for it (NULL: only
 * check). *n: bytes of them. A list of another order is none of a device's (2.12.1.7).
 */
static int
sort_parts(const struct virtio_device *dev, const void *parts, size_t len, uint8_t *set, size_t *n)
{
	uint16_t last = 0;
	struct part part;
	size_t at = 0, from = 0;
	int rc;

	*n = 0;
	while ((rc = part_next(parts, len, &at, &part)) > 0) {
		uint32_t length = common_length(part.type);

		if (part.type < last || part.type > PART_TYPE_LAST)
			return bad(&part, "stands where none of its type can");
		if (length != 0 && part.length != length)
			return bad(&part, "has another length than that");
		if (part.type == PART_DEV_FEATURES || part.type == PART_DRV_FEATURES) {
			rc = check_features(dev, &part);
			if (rc < 0)
				return rc;
		}
		if (part.type >= PART_TYPE_FIRST && !is_ours(dev, &part)) {
			if (set != NULL)
				memcpy(set + *n, (const uint8_t *)parts + from, at - from);
			*n += at - from;
		}
		last = part.type;
		from = at;
	}
	return rc < 0 ? vdpa_error(EINVAL, "the device parts end in the middle of one, at byte %zu",
				   at)
		      : 0;
}

int
vdpa_virtio_save_parts(struct vdpa_virtio_device *pub, void *buf, size_t *len)
{
	struct virtio_device *dev = pub->core;
	size_t n;
	int rc;

	if (dev->owner == NULL)
		return vdpa_error(EOPNOTSUPP, "the device has no owner, which gives its parts");
	rc = virtio_owner_get_parts(dev->owner, dev->member, buf, len);
	return rc < 0 ? rc : sort_parts(dev, buf, *len, NULL, &n);
}

int
vdpa_virtio_load_parts(struct vdpa_virtio_device *pub, const void *parts, size_t len)
{
	struct virtio_device *dev = pub->core;
	bool stuck = false;
	uint8_t *set;
	size_t n;
	int rc;

	if (dev->owner == NULL)
		return vdpa_error(EOPNOTSUPP, "the device has no owner, which takes its parts");
	if (len > VDPA_STATE_MAX)
		return vdpa_error(E2BIG, "%zu bytes of device parts, at most %u", len,
				  VDPA_STATE_MAX);
	set = malloc(RTE_MAX(len, (size_t)1));
	if (set == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	rc = sort_parts(dev, parts, len, set, &n);
	if (rc == 0 && n > 0)
		rc = virtio_owner_set_parts(dev->owner, dev->member, set, n, &stuck);
	free(set);
	if (stuck) {
		struct vdpa_error_saved error;

		vdpa_error_save(&error);
		vdpa_device_fail(dev->vdev, -1, EIO, "it does not go on after its parts were set");
		vdpa_error_restore(&error);
	}
	return rc;
}

int
virtio_parts_save(struct virtio_device *dev, void *buf, size_t *len)
{
	struct state_hdr hdr = {.magic = rte_cpu_to_le_32(STATE_MAGIC),
				.version = rte_cpu_to_le_16(STATE_VERSION),
				.type = rte_cpu_to_le_16(dev->hw.type)};
	size_t room = *len, n = room - RTE_MIN(room, sizeof(hdr));
	int rc = vdpa_virtio_save_parts(dev->pub, (uint8_t *)buf + RTE_MIN(room, sizeof(hdr)), &n);

	*len = sizeof(hdr) + n;
	if (rc == 0 && room < sizeof(hdr))
		rc = vdpa_error(ENOSPC, "the state takes %zu bytes", *len);
	if (rc < 0)
		return rc;
	hdr.length = rte_cpu_to_le_32((uint32_t)n);
	memcpy(buf, &hdr, sizeof(hdr));
	return 0;
}

int
virtio_parts_load(struct virtio_device *dev, const void *buf, size_t len)
{
	struct state_hdr hdr;

	if (len < sizeof(hdr))
		return vdpa_error(EINVAL, "%zu bytes are no state of a virtio device", len);
	memcpy(&hdr, buf, sizeof(hdr));
	if (rte_le_to_cpu_32(hdr.magic) != STATE_MAGIC)
		return vdpa_error(EINVAL, "the state is not one of a virtio device");
	if (rte_le_to_cpu_16(hdr.version) != STATE_VERSION)
		return vdpa_error(EINVAL, "the state is of version %u, this is %u",
				  rte_le_to_cpu_16(hdr.version), STATE_VERSION);
	if (rte_le_to_cpu_16(hdr.type) != dev->hw.type)
		return vdpa_error(EINVAL, "the state is of a device of type %u, this one has %u",
				  rte_le_to_cpu_16(hdr.type), dev->hw.type);
	if (rte_le_to_cpu_32(hdr.length) != len - sizeof(hdr))
		return vdpa_error(EINVAL, "the state says that it has %u bytes, and has %zu",
				  rte_le_to_cpu_32(hdr.length), len - sizeof(hdr));
	return vdpa_virtio_load_parts(dev->pub, (const uint8_t *)buf + sizeof(hdr),
				      len - sizeof(hdr));
}
