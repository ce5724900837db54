/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The state of a device that moves, as a struct and as a stream (saved_state.h). Reading is for
 * streams that anybody may have made: each length is checked before it is used, and a record that
 * comes twice, is too short or too long, or is missing ends it.
 */

#include <inttypes.h>
#include <string.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include <rte_byteorder.h>

#include "device_priv.h"
#include "saved_state.h"
#include "steps.h"
#include "tlv.h"
#include "virtio_type.h"

static const uint8_t magic[8] = {'u', 'v', 'd', 'p', 'a', 'd', 'e', 'v'};

enum record_type {
	RECORD_DEVICE = 1, /* u32 virtio device id, u32 bytes of configuration, u16 data queues */
	RECORD_FEATURES,   /* u64 */
	RECORD_MAC,	   /* 6 bytes */
	RECORD_PAIRS,	   /* u16 */
	RECORD_MTU,	   /* u16 */
	RECORD_CAPACITY,   /* u64 */
	RECORD_BLK_SIZE,   /* u32 */
	RECORD_QUEUES,	   /* for each that was set up: u16 index, u16 0, u32 size, u32 place */
	RECORD_DRIVER,	   /* the driver's own */
	RECORD_TYPES,
};

#define HEADER_SIZE 16
#define QUEUE_SIZE  12

/* Of each type: its name, its length (0: any), and which field of the configuration it is. */
static const struct {
	const char *name;
	uint32_t len;
	unsigned int field;
} records[RECORD_TYPES] = {
	[RECORD_DEVICE] = {"device", 10, 0},
	[RECORD_FEATURES] = {"features", 8, 0},
	[RECORD_MAC] = {"MAC", 6, VDPA_SAVED_MAC},
	[RECORD_PAIRS] = {"queue pairs", 2, VDPA_SAVED_PAIRS},
	[RECORD_MTU] = {"MTU", 2, VDPA_SAVED_MTU},
	[RECORD_CAPACITY] = {"capacity", 8, VDPA_SAVED_CAPACITY},
	[RECORD_BLK_SIZE] = {"block size", 4, VDPA_SAVED_BLK_SIZE},
	[RECORD_QUEUES] = {"queues", 0, 0},
	[RECORD_DRIVER] = {"driver", 0, 0},
};

/* Writing. */

static unsigned int
count_known(const struct vdpa_saved_state *s)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < RTE_DIM(s->vqs); i++)
		n += s->vqs[i].known;
	return n;
}

static size_t
queues_size(const struct vdpa_saved_state *s)
{
	return (size_t)count_known(s) * QUEUE_SIZE;
}

size_t
vdpa_saved_state_size(const struct vdpa_saved_state *s)
{
	size_t size = HEADER_SIZE;

	for (unsigned int type = RECORD_DEVICE; type < RECORD_TYPES; type++)
		if (records[type].len != 0 &&
		    (records[type].field == 0 || (s->has & records[type].field) != 0))
			size += VDPA_TLV_HEADER + records[type].len;
	size += VDPA_TLV_HEADER + queues_size(s);
	if (s->driver_len > 0)
		size += VDPA_TLV_HEADER + s->driver_len;
	return size;
}

/* The buffer has room for all of them. */
static void
put_value(struct vdpa_tlv_buf *buf, enum record_type type, uint64_t value)
{
	vdpa_tlv_put_number(buf, type, VDPA_TLV_CRITICAL, value, records[type].len);
}

static void
put_queues(struct vdpa_tlv_buf *buf, const struct vdpa_saved_state *s)
{
	uint8_t queues[VDPA_VQ_MAX * QUEUE_SIZE], *p = queues;

	for (unsigned int i = 0; i < RTE_DIM(s->vqs); i++) {
		if (!s->vqs[i].known)
			continue;
		p = vdpa_le_put(p, i, 2);
		p = vdpa_le_put(p, 0, 2);
		p = vdpa_le_put(p, s->vqs[i].num, 4);
		p = vdpa_le_put(p, s->vqs[i].base, 4);
	}
	vdpa_tlv_put(buf, RECORD_QUEUES, VDPA_TLV_CRITICAL, queues, (uint32_t)(p - queues));
}

void
vdpa_saved_state_write(const struct vdpa_saved_state *s, uint8_t *p)
{
	size_t size = vdpa_saved_state_size(s) - HEADER_SIZE;
	struct vdpa_tlv_buf buf = {.data = p + HEADER_SIZE, .size = size};
	uint8_t device[10];

	memcpy(p, magic, sizeof(magic));
	p = vdpa_le_put(p + sizeof(magic), VDPA_SAVED_VERSION, 4);
	vdpa_le_put(p, size, 4);
	p = vdpa_le_put(device, s->device_id, 4);
	p = vdpa_le_put(p, s->config_size, 4);
	vdpa_le_put(p, s->data_vqs, 2);
	vdpa_tlv_put(&buf, RECORD_DEVICE, VDPA_TLV_CRITICAL, device, sizeof(device));
	put_value(&buf, RECORD_FEATURES, s->features);
	if ((s->has & VDPA_SAVED_MAC) != 0)
		vdpa_tlv_put(&buf, RECORD_MAC, VDPA_TLV_CRITICAL, s->mac, sizeof(s->mac));
	if ((s->has & VDPA_SAVED_PAIRS) != 0)
		put_value(&buf, RECORD_PAIRS, s->max_pairs);
	if ((s->has & VDPA_SAVED_MTU) != 0)
		put_value(&buf, RECORD_MTU, s->mtu);
	if ((s->has & VDPA_SAVED_CAPACITY) != 0)
		put_value(&buf, RECORD_CAPACITY, s->capacity);
	if ((s->has & VDPA_SAVED_BLK_SIZE) != 0)
		put_value(&buf, RECORD_BLK_SIZE, s->blk_size);
	put_queues(&buf, s);
	if (s->driver_len > 0)
		vdpa_tlv_put(&buf, RECORD_DRIVER, VDPA_TLV_CRITICAL, s->driver,
			     (uint32_t)s->driver_len);
}

/* Reading. */

static int
read_queues(struct vdpa_saved_state *s, const uint8_t *p, uint32_t len)
{
	if (len % QUEUE_SIZE != 0)
		return vdpa_error(EPROTO,
				  "the record 'queues' of the state has %u bytes, which is no "
				  "multiple of %u",
				  len, QUEUE_SIZE);
	for (uint32_t at = 0; at < len; at += QUEUE_SIZE) {
		uint16_t idx = (uint16_t)vdpa_le_get(p + at, 2);

		if (idx >= RTE_DIM(s->vqs) || s->vqs[idx].known)
			return vdpa_error(EPROTO,
					  "queue %u of the state comes twice, or is more than %zu",
					  idx, RTE_DIM(s->vqs) - 1);
		s->vqs[idx].known = true;
		s->vqs[idx].num = (uint32_t)vdpa_le_get(p + at + 4, 4);
		s->vqs[idx].base = (uint32_t)vdpa_le_get(p + at + 8, 4);
	}
	return 0;
}

static int
read_record(struct vdpa_saved_state *s, enum record_type type, const uint8_t *p, uint32_t len)
{
	s->has |= records[type].field;
	switch (type) {
	case RECORD_DEVICE:
		s->device_id = (uint32_t)vdpa_le_get(p, 4);
		s->config_size = (uint32_t)vdpa_le_get(p + 4, 4);
		s->data_vqs = (uint16_t)vdpa_le_get(p + 8, 2);
		break;
	case RECORD_FEATURES:
		s->features = vdpa_le_get(p, len);
		break;
	case RECORD_MAC:
		memcpy(s->mac, p, sizeof(s->mac));
		break;
	case RECORD_PAIRS:
		s->max_pairs = (uint16_t)vdpa_le_get(p, len);
		break;
	case RECORD_MTU:
		s->mtu = (uint16_t)vdpa_le_get(p, len);
		break;
	case RECORD_CAPACITY:
		s->capacity = vdpa_le_get(p, len);
		break;
	case RECORD_BLK_SIZE:
		s->blk_size = (uint32_t)vdpa_le_get(p, len);
		break;
	case RECORD_QUEUES:
		return read_queues(s, p, len);
	case RECORD_DRIVER:
		s->driver = p;
		s->driver_len = len;
		break;
	case RECORD_TYPES:
		break;
	}
	return 0;
}

/* A record of a type that is known here. */
static int
read_known(struct vdpa_saved_state *s, const struct vdpa_tlv *tlv, uint32_t *seen)
{
	if ((*seen & 1u << tlv->type) != 0)
		return vdpa_error(EPROTO, "the record '%s' of the state comes twice",
				  records[tlv->type].name);
	if (records[tlv->type].len != 0 && tlv->len != records[tlv->type].len)
		return vdpa_error(EPROTO, "the record '%s' of the state has %u bytes, expected %u",
				  records[tlv->type].name, tlv->len, records[tlv->type].len);
	*seen |= 1u << tlv->type;
	return read_record(s, tlv->type, tlv->data, tlv->len);
}

static int
read_records(struct vdpa_saved_state *s, const uint8_t *p, size_t left)
{
	struct vdpa_tlv_reader reader = {.data = p, .left = left, .what = "the state"};
	struct vdpa_tlv tlv;
	uint32_t seen = 0;
	int rc;

	while ((rc = vdpa_tlv_next(&reader, &tlv)) > 0) {
		if (tlv.type == 0 || tlv.type >= RECORD_TYPES)
			rc = vdpa_tlv_unknown(&reader, &tlv, RECORD_TYPES - 1);
		else
			rc = read_known(s, &tlv, &seen);
		if (rc < 0)
			break;
	}
	if (rc < 0)
		return rc;
	for (unsigned int type = RECORD_DEVICE; type < RECORD_TYPES; type++)
		if ((seen & 1u << type) == 0 && records[type].field == 0 && type != RECORD_DRIVER)
			return vdpa_error(EPROTO, "the state has no record '%s'",
					  records[type].name);
	return 0;
}

int
vdpa_saved_state_read(struct vdpa_saved_state *s, const uint8_t *buf, size_t len)
{
	uint32_t version, follows;

	memset(s, 0, sizeof(*s));
	if (len > VDPA_SAVED_MAX)
		return vdpa_error(EPROTO, "the state is longer than %zu bytes", VDPA_SAVED_MAX);
	if (len < HEADER_SIZE)
		return vdpa_error(EPROTO, "the state ends after %zu bytes, its header has %d", len,
				  HEADER_SIZE);
	if (memcmp(buf, magic, sizeof(magic)) != 0)
		return vdpa_error(EPROTO, "the state is none of this framework's");
	version = (uint32_t)vdpa_le_get(buf + 8, 4);
	follows = (uint32_t)vdpa_le_get(buf + 12, 4);
	if (version != VDPA_SAVED_VERSION)
		return vdpa_error(EPROTO, "the state has version %u, this build reads version %d",
				  version, VDPA_SAVED_VERSION);
	if (follows != len - HEADER_SIZE)
		return vdpa_error(EPROTO,
				  "the state ends after %zu bytes, it was written with %" PRIu64,
				  len, (uint64_t)follows + HEADER_SIZE);
	return read_records(s, buf + HEADER_SIZE, follows);
}

/* The device's side. */

static int
read_net(struct vdpa_device *vdev, uint64_t features, struct vdpa_saved_state *s)
{
	struct virtio_net_config c = {0};
	int rc = vdpa_get_config(vdev, 0, &c, RTE_MIN(sizeof(c), (size_t)s->config_size));

	if (rc < 0)
		return rc;
	if ((features & RTE_BIT64(VIRTIO_NET_F_MAC)) != 0)
		s->has |= VDPA_SAVED_MAC;
	if ((features & RTE_BIT64(VIRTIO_NET_F_MQ)) != 0)
		s->has |= VDPA_SAVED_PAIRS;
	if ((features & RTE_BIT64(VIRTIO_NET_F_MTU)) != 0)
		s->has |= VDPA_SAVED_MTU;
	memcpy(s->mac, c.mac, sizeof(s->mac));
	s->max_pairs = rte_le_to_cpu_16(c.max_virtqueue_pairs);
	s->mtu = rte_le_to_cpu_16(c.mtu);
	return 0;
}

static int
read_block(struct vdpa_device *vdev, uint64_t features, struct vdpa_saved_state *s)
{
	struct virtio_blk_config c = {0};
	int rc = vdpa_get_config(vdev, 0, &c, RTE_MIN(sizeof(c), (size_t)s->config_size));

	if (rc < 0)
		return rc;
	s->has |= VDPA_SAVED_CAPACITY;
	if ((features & RTE_BIT64(VIRTIO_BLK_F_BLK_SIZE)) != 0)
		s->has |= VDPA_SAVED_BLK_SIZE;
	s->capacity = rte_le_to_cpu_64(c.capacity);
	s->blk_size = rte_le_to_cpu_32(c.blk_size);
	return 0;
}

int
vdpa_saved_state_of(struct vdpa_device *vdev, struct vdpa_saved_state *s)
{
	uint64_t features = vdpa_get_device_features(vdev);

	memset(s, 0, sizeof(*s));
	s->device_id = vdpa_get_device_id(vdev);
	s->config_size = (uint32_t)vdpa_get_config_size(vdev);
	s->data_vqs = virtio_type_data_vqs(virtio_type(s->device_id), vdpa_get_vq_count(vdev));
	switch (s->device_id) {
	case VIRTIO_ID_NET:
		return read_net(vdev, features, s);
	case VIRTIO_ID_BLOCK:
		return read_block(vdev, features, s);
	default:
		return 0;
	}
}

static int
differs(struct vdpa_device *vdev, const char *what, uint64_t state, uint64_t here)
{
	return vdpa_error(EINVAL, "%s: %s: %" PRIu64 " in the state, %" PRIu64 " here", vdev->name,
			  what, state, here);
}

/* Two MAC addresses as an administrator writes them. */
static int
mac_differs(struct vdpa_device *vdev, const uint8_t *a, const uint8_t *b)
{
	return vdpa_error(EINVAL,
			  "%s: MAC: %02x:%02x:%02x:%02x:%02x:%02x in the state, "
			  "%02x:%02x:%02x:%02x:%02x:%02x here",
			  vdev->name, a[0], a[1], a[2], a[3], a[4], a[5], b[0], b[1], b[2], b[3],
			  b[4], b[5]);
}

/* A field that one of them does not have is one that a guest is not shown. */
static int
check_config(struct vdpa_device *vdev, const struct vdpa_saved_state *s)
{
	struct vdpa_saved_state here;
	int rc = vdpa_saved_state_of(vdev, &here);
	unsigned int both = s->has & here.has;

	if (rc < 0)
		return rc;
	/* Where it is known what the configuration means, that is compared, and not its length: a
	 * later version of a device has more fields. */
	if (here.has == 0 && s->config_size != here.config_size)
		return differs(vdev, "bytes of configuration", s->config_size, here.config_size);
	if ((both & VDPA_SAVED_MAC) != 0 && memcmp(s->mac, here.mac, sizeof(s->mac)) != 0)
		return mac_differs(vdev, s->mac, here.mac);
	if ((both & VDPA_SAVED_PAIRS) != 0 && s->max_pairs != here.max_pairs)
		return differs(vdev, "queue pairs", s->max_pairs, here.max_pairs);
	if ((both & VDPA_SAVED_MTU) != 0 && s->mtu != here.mtu)
		return differs(vdev, "MTU", s->mtu, here.mtu);
	if ((both & VDPA_SAVED_CAPACITY) != 0 && s->capacity != here.capacity)
		return differs(vdev, "sectors", s->capacity, here.capacity);
	if ((both & VDPA_SAVED_BLK_SIZE) != 0 && s->blk_size != here.blk_size)
		return differs(vdev, "block size", s->blk_size, here.blk_size);
	if (s->data_vqs != here.data_vqs)
		return differs(vdev, "queues", s->data_vqs, here.data_vqs);
	return 0;
}

static int
check_queue(struct vdpa_device *vdev, bool packed, uint16_t idx, const struct vdpa_saved_vq *vq)
{
	int rc = vdpa_check_vq_num(vdev, idx, packed, vq->num);
	bool inside;

	if (rc < 0)
		return rc;
	inside = packed ? (vq->base & 0x7fff) < vq->num && (vq->base >> 16 & 0x7fff) < vq->num
			: vq->base <= UINT16_MAX;
	return inside ? 0
		      : vdpa_error(EINVAL,
				   "%s: queue %u: the place 0x%x in the state is none of a %s ring "
				   "of %u",
				   vdev->name, idx, vq->base, packed ? "packed" : "split", vq->num);
}

int
vdpa_saved_state_check(struct vdpa_device *vdev, uint64_t offered, uint16_t nvqs,
		       const struct vdpa_saved_state *s)
{
	bool packed = (s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	uint32_t id = vdpa_get_device_id(vdev);
	int rc;

	if (s->device_id != id)
		return vdpa_error(EINVAL, "%s: class: %s (%u) in the state, %s (%u) here",
				  vdev->name, virtio_type(s->device_id)->name, s->device_id,
				  virtio_type(id)->name, id);
	if ((s->features & ~offered) != 0)
		return vdpa_error(EINVAL,
				  "%s: features: 0x%" PRIx64 " in the state, of 0x%" PRIx64
				  " here, which lack 0x%" PRIx64,
				  vdev->name, s->features, offered, s->features & ~offered);
	rc = check_config(vdev, s);
	for (unsigned int i = 0; i < RTE_DIM(s->vqs) && rc == 0; i++) {
		if (!s->vqs[i].known)
			continue;
		rc = i < nvqs ? check_queue(vdev, packed, (uint16_t)i, &s->vqs[i])
			      : vdpa_error(EINVAL, "%s: queue %u of the state: there are %u here",
					   vdev->name, i, nvqs);
	}
	return rc;
}
