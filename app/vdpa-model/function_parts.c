/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The parts of a function: what of its registers is saved and loaded, in the order of virtio 1.4,
 * 2.12.1.7. No part holds where a queue stands: of a split ring that is loaded the used index does.
 */

#include <errno.h>
#include <stdlib.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "function_parts.h"
#include "virtio_compat.h"

#define STATUS_BITS                                                                                \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_SUSPEND | VIRTIO_CONFIG_S_NEEDS_RESET |     \
	 VIRTIO_CONFIG_S_FAILED)

/* Fields of the common configuration that are parts. */
static const struct {
	uint16_t offset, len;
} common_fields[] = {
	{VIRTIO_PCI_COMMON_DFSELECT, 4}, {VIRTIO_PCI_COMMON_GFSELECT, 4},
	{VIRTIO_PCI_COMMON_MSIX, 2},	 {VIRTIO_PCI_COMMON_NUMQ, 2},
	{VIRTIO_PCI_COMMON_Q_SELECT, 2},
};

/* Features of the device and the driver before them, the status behind, then two for each queue. */
#define PARTS_FIXED (2 + RTE_DIM(common_fields) + 1)

static uint32_t
common_field(const struct vp_function *vp, uint32_t offset)
{
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return vp->device_feature_select;
	case VIRTIO_PCI_COMMON_GFSELECT:
		return vp->driver_feature_select;
	case VIRTIO_PCI_COMMON_MSIX:
		return vp->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return vp->params.nvqs;
	default:
		return vp->queue_select;
	}
}

static void
features_part(struct part_hdr *hdr, uint8_t *value, uint16_t type, uint64_t features)
{
	uint64_t le = rte_cpu_to_le_64(features);

	hdr->type = rte_cpu_to_le_16(type);
	hdr->flags = type == PART_DEV_FEATURES ? PART_F_OPTIONAL : 0;
	hdr->length = rte_cpu_to_le_32(sizeof(le));
	memcpy(value, &le, sizeof(le));
}

static void
queue_part(const struct vp_function *vp, uint32_t i, struct part_hdr *hdr, uint8_t *value)
{
	uint16_t nvqs = vp->params.nvqs, idx = (uint16_t)(i % nvqs);
	const struct vp_queue *q = &vp->queues[idx];
	const struct part_vq_cfg cfg = {
		.size = rte_cpu_to_le_16(q->size),
		.vector = rte_cpu_to_le_16(q->vector),
		.enabled = rte_cpu_to_le_16(q->enabled),
		.desc = rte_cpu_to_le_64(q->desc),
		.driver = rte_cpu_to_le_64(q->driver),
		.device = rte_cpu_to_le_64(q->device),
	};
	const struct part_vq_notify notify = {
		.notify_off = rte_cpu_to_le_16(idx),
		.notif_config_data = rte_cpu_to_le_16(idx),
	};

	hdr->selector.vq.index = rte_cpu_to_le_16(idx);
	if (i < nvqs) {
		hdr->type = RTE_LE16(PART_VQ_CFG);
		hdr->length = RTE_LE32(sizeof(cfg));
		memcpy(value, &cfg, sizeof(cfg));
	} else {
		hdr->type = RTE_LE16(PART_VQ_NOTIFY_CFG);
		hdr->length = RTE_LE32(sizeof(notify));
		memcpy(value, &notify, sizeof(notify));
	}
}

bool
vp_part_at(const struct vp_function *vp, uint32_t i, struct part_hdr *hdr, uint8_t *value)
{
	_Static_assert(sizeof(struct part_vq_cfg) <= PARTS_VALUE_MAX, "room for every value");

	if (i >= vp_parts_count(vp))
		return false;
	memset(hdr, 0, sizeof(*hdr));
	if (i == 0) {
		features_part(hdr, value, PART_DEV_FEATURES, vp->params.features);
	} else if (i == 1) {
		features_part(hdr, value, PART_DRV_FEATURES, vp->driver_features);
	} else if (i - 2 < RTE_DIM(common_fields)) {
		uint32_t field = common_field(vp, common_fields[i - 2].offset);

		field = rte_cpu_to_le_32(field);
		hdr->type = RTE_LE16(PART_PCI_COMMON);
		hdr->selector.common.offset = rte_cpu_to_le_32(common_fields[i - 2].offset);
		hdr->length = rte_cpu_to_le_32(common_fields[i - 2].len);
		memcpy(value, &field, sizeof(field));
	} else if (i == PARTS_FIXED - 1) {
		hdr->type = RTE_LE16(PART_STATUS);
		hdr->length = RTE_LE32(1);
		value[0] = vp->status;
	} else {
		queue_part(vp, i - (uint32_t)PARTS_FIXED, hdr, value);
	}
	return true;
}

uint32_t
vp_parts_count(const struct vp_function *vp)
{
	return (uint32_t)PARTS_FIXED + 2u * vp->params.nvqs;
}

size_t
vp_parts_size(const struct vp_function *vp)
{
	uint8_t value[PARTS_VALUE_MAX];
	struct part_hdr hdr;
	size_t size = 0;

	for (uint32_t i = 0; vp_part_at(vp, i, &hdr, value); i++)
		size += sizeof(hdr) + rte_le_to_cpu_32(hdr.length);
	return size;
}

size_t
vp_parts_get(const struct vp_function *vp, uint8_t *buf)
{
	uint8_t value[PARTS_VALUE_MAX];
	struct part_hdr hdr;
	size_t at = 0;

	for (uint32_t i = 0; vp_part_at(vp, i, &hdr, value); i++) {
		uint32_t len = rte_le_to_cpu_32(hdr.length);

		memcpy(buf + at, &hdr, sizeof(hdr));
		memcpy(buf + at + sizeof(hdr), value, len);
		at += sizeof(hdr) + len;
	}
	return at;
}

/* What a list sets, before any of it is in force. */
struct staged {
	uint64_t features;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t config_vector, queue_select;
	uint8_t status;
	struct vp_queue *queues;
};

static bool
is_vector(const struct vp_function *vp, uint16_t vector)
{
	return vector < vp->params.vectors || vector == VP_NO_VECTOR;
}

static bool
stage_features(const struct vp_function *vp, const struct part *part, struct staged *s)
{
	uint64_t features;

	if (part->length != sizeof(features))
		return false;
	memcpy(&features, part->value, sizeof(features));
	features = rte_le_to_cpu_64(features);
	/* What the device offers is compared, and not set. */
	if (part->type == PART_DEV_FEATURES)
		return features == vp->params.features;
	s->features = features;
	return (features & ~vp->params.features) == 0;
}

static bool
stage_common(const struct vp_function *vp, const struct part *part, struct staged *s)
{
	uint32_t offset = rte_le_to_cpu_32(part->hdr.selector.common.offset), value = 0;
	unsigned int i = 0;

	while (i < RTE_DIM(common_fields) && common_fields[i].offset != offset)
		i++;
	if (i == RTE_DIM(common_fields) || part->length != common_fields[i].len)
		return false;
	memcpy(&value, part->value, part->length);
	value = rte_le_to_cpu_32(value);
	switch (offset) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		s->device_feature_select = value;
		return true;
	case VIRTIO_PCI_COMMON_GFSELECT:
		s->driver_feature_select = value;
		return true;
	case VIRTIO_PCI_COMMON_MSIX:
		s->config_vector = (uint16_t)value;
		return is_vector(vp, (uint16_t)value);
	case VIRTIO_PCI_COMMON_NUMQ:
		return value == vp->params.nvqs;
	default:
		s->queue_select = (uint16_t)value;
		return true;
	}
}

static bool
stage_queue(const struct vp_function *vp, const struct part *part, struct staged *s)
{
	uint16_t idx = rte_le_to_cpu_16(part->hdr.selector.vq.index);
	bool packed = (s->features & RTE_BIT64(VIRTIO_F_RING_PACKED)) != 0;
	struct part_vq_notify notify;
	struct part_vq_cfg cfg;
	struct vp_queue *q;

	if (idx >= vp->params.nvqs)
		return false;
	if (part->type == PART_VQ_NOTIFY_CFG) {
		if (part->length != sizeof(notify))
			return false;
		memcpy(&notify, part->value, sizeof(notify));
		return rte_le_to_cpu_16(notify.notify_off) == idx;
	}
	if (part->length != sizeof(cfg))
		return false;
	memcpy(&cfg, part->value, sizeof(cfg));
	q = &s->queues[idx];
	*q = (struct vp_queue){.size = rte_le_to_cpu_16(cfg.size),
			       .vector = rte_le_to_cpu_16(cfg.vector),
			       .enabled = rte_le_to_cpu_16(cfg.enabled) == 1,
			       .desc = rte_le_to_cpu_64(cfg.desc),
			       .driver = rte_le_to_cpu_64(cfg.driver),
			       .device = rte_le_to_cpu_64(cfg.device)};
	return q->size != 0 && q->size <= vp_queue_size_max(vp, idx) &&
	       (packed || rte_is_power_of_2(q->size)) && is_vector(vp, q->vector) &&
	       rte_le_to_cpu_16(cfg.enabled) <= 1;
}

static bool
stage(const struct vp_function *vp, const struct part *part, struct staged *s)
{
	switch (part->type) {
	case PART_DEV_FEATURES:
	case PART_DRV_FEATURES:
		return stage_features(vp, part, s);
	case PART_PCI_COMMON:
		return stage_common(vp, part, s);
	case PART_STATUS:
		if (part->length != 1 || (part->value[0] & ~STATUS_BITS) != 0)
			return false;
		s->status = part->value[0];
		return true;
	case PART_VQ_CFG:
	case PART_VQ_NOTIFY_CFG:
		return stage_queue(vp, part, s);
	default:
		return (part->hdr.flags & PART_F_OPTIONAL) != 0;
	}
}

int
vp_parts_set(struct vp_function *vp, const uint8_t *list, size_t len)
{
	size_t queues_len = vp->params.nvqs * sizeof(*vp->queues), at = 0;
	struct staged s = {.features = vp->driver_features,
			   .device_feature_select = vp->device_feature_select,
			   .driver_feature_select = vp->driver_feature_select,
			   .config_vector = vp->config_vector,
			   .queue_select = vp->queue_select,
			   .status = vp->status};
	struct part part;
	int rc;

	if (!vp->stopped)
		return -EBUSY;
	s.queues = malloc(queues_len);
	if (s.queues == NULL)
		return -ENOMEM;
	memcpy(s.queues, vp->queues, queues_len);
	do
		rc = part_next(list, len, &at, &part);
	while (rc > 0 && stage(vp, &part, &s));
	/* 1: a part that is not the function's. */
	if (rc == 0) {
		vp->driver_features = s.features;
		vp->device_feature_select = s.device_feature_select;
		vp->driver_feature_select = s.driver_feature_select;
		vp->config_vector = s.config_vector;
		vp->queue_select = s.queue_select;
		vp->status = s.status;
		memcpy(vp->queues, s.queues, queues_len);
		vp->loaded = true;
	}
	free(s.queues);
	return rc == 0 ? 0 : -EINVAL;
}

/* The device behind the registers begins anew, as they have it now. */
static int
start_loaded(struct vp_function *vp)
{
	const struct vp_ops *ops = vp->params.ops;
	void *arg = vp->params.arg;
	bool runs = (vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	int rc = 0;

	vp->loaded = false;
	ops->reset(arg);
	vp->suspended = !runs && (vp->status & VIRTIO_CONFIG_S_SUSPEND) != 0;
	if ((vp->status & VIRTIO_CONFIG_S_FEATURES_OK) != 0)
		rc = ops->set_features(arg, vp->driver_features);
	for (uint16_t i = 0; rc == 0 && i < vp->params.nvqs; i++)
		if (vp->queues[i].enabled)
			ops->place_by_ring(arg, i);
	return rc == 0 && (runs || vp->suspended) ? ops->start(arg) : rc;
}

void
vp_set_stopped(struct vp_function *vp, bool stopped)
{
	const struct vp_ops *ops = vp->params.ops;
	bool runs = (vp->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
	int rc = 0;

	if (vp->stopped == stopped)
		return;
	vp->stopped = stopped;
	if (!stopped && vp->loaded)
		rc = start_loaded(vp);
	else if (runs)
		rc = stopped ? ops->suspend(vp->params.arg) : ops->resume(vp->params.arg);
	if (rc < 0)
		vp->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
}
