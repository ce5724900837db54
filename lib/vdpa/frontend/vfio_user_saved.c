/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The registers of a function as records (tlv.h), for another host: configuration space, MSI-X
 * table, common configuration, queues. What comes back may be made by anybody: all of it is read
 * and checked before a register changes. Kinds with registers of their own are not saved.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <rte_common.h>

#include "vdpa_args.h"
#include "vfio_user_saved.h"
#include "virtio_compat.h"

/* Bytes of records, and of what is in them. COMMON: u32 selects of device and driver features, u64
 * features, u16 vector of the configuration, u16 selected queue, u8 status, generation, ISR,
 * suspended, 0. A queue: u16 size, u16 vector, u8 enabled, three u64 addresses. */
#define CONFIG_LEN     256
#define COMMON_LEN     25
#define QUEUE_LEN      29
#define MSIX_ENTRY_LEN 16
#define STATUS_BITS                                                                                \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET |      \
	 VIRTIO_CONFIG_S_SUSPEND)
#define BIT64(n) (UINT64_C(1) << (n))

enum {
	RECORD_CONFIG = 1,
	RECORD_MSIX,
	RECORD_COMMON,
	RECORD_QUEUES,
	RECORD_SEEN, /* device configuration as the driver has seen it last: its generation is of it
		      */
	RECORD_LAST = VFU_SAVED_DEVICE,
};

static uint32_t
msix_len(const struct vp_function *vp)
{
	return vp->params.vectors * MSIX_ENTRY_LEN;
}

static uint32_t
queues_len(const struct vp_function *vp)
{
	return vp->params.nvqs * QUEUE_LEN;
}

size_t
vdpa_vp_saved_size(const struct vp_function *vp)
{
	return 5 * VDPA_TLV_HEADER + CONFIG_LEN + msix_len(vp) + COMMON_LEN + queues_len(vp) +
	       vp->params.device_size;
}

static void
put_common(const struct vp_function *vp, struct vdpa_tlv_buf *buf)
{
	uint8_t common[COMMON_LEN] = {0}, *p = common;

	p = vdpa_le_put(p, vp->device_feature_select, 4);
	p = vdpa_le_put(p, vp->driver_feature_select, 4);
	p = vdpa_le_put(p, vp->driver_features, 8);
	p = vdpa_le_put(p, vp->config_vector, 2);
	p = vdpa_le_put(p, vp->queue_select, 2);
	p = vdpa_le_put(p, vp->status, 1);
	p = vdpa_le_put(p, vp->generation, 1);
	p = vdpa_le_put(p, vp->isr, 1);
	vdpa_le_put(p, vp->suspended, 1);
	vdpa_tlv_put(buf, RECORD_COMMON, VDPA_TLV_CRITICAL, common, sizeof(common));
}

int
vdpa_vp_save(const struct vp_function *vp, struct vdpa_tlv_buf *buf)
{
	uint8_t *queues = malloc(queues_len(vp)), *p = queues;

	if (queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	for (uint16_t i = 0; i < vp->params.nvqs; i++) {
		const struct vp_queue *q = &vp->queues[i];

		p = vdpa_le_put(p, q->size, 2);
		p = vdpa_le_put(p, q->vector, 2);
		p = vdpa_le_put(p, q->enabled, 1);
		p = vdpa_le_put(p, q->desc, 8);
		p = vdpa_le_put(p, q->driver, 8);
		p = vdpa_le_put(p, q->device, 8);
	}
	vdpa_tlv_put(buf, RECORD_CONFIG, VDPA_TLV_CRITICAL, vp->config, CONFIG_LEN);
	vdpa_tlv_put(buf, RECORD_MSIX, VDPA_TLV_CRITICAL, vp->msix_table, msix_len(vp));
	put_common(vp, buf);
	vdpa_tlv_put(buf, RECORD_QUEUES, VDPA_TLV_CRITICAL, queues, queues_len(vp));
	vdpa_tlv_put(buf, RECORD_SEEN, VDPA_TLV_CRITICAL, vp->device_config,
		     (uint32_t)vp->params.device_size);
	free(queues);
	return 0;
}

/* Reading. */

/* What no driver writes is what the function is: its ids, capabilities and BARs. */
static int
check_config(const struct vp_function *vp, const uint8_t *config)
{
	for (unsigned int i = 0; i < CONFIG_LEN; i++)
		if (((config[i] ^ vp->config[i]) & ~vp->wmask[i]) != 0)
			return vdpa_error(EINVAL,
					  "the state is of another function: its configuration "
					  "space has 0x%02x at 0x%02x, here is 0x%02x",
					  config[i], i, vp->config[i]);
	return 0;
}

static bool
is_vector(const struct vp_function *vp, uint16_t vector)
{
	return vector < vp->params.vectors || vector == VP_NO_VECTOR;
}

static int
read_common(const struct vp_function *vp, const uint8_t *p, struct vp_saved *s)
{
	const unsigned int needed = VIRTIO_CONFIG_S_FEATURES_OK;

	s->device_feature_select = (uint32_t)vdpa_le_get(p, 4);
	s->driver_feature_select = (uint32_t)vdpa_le_get(p + 4, 4);
	s->features = vdpa_le_get(p + 8, 8);
	s->config_vector = (uint16_t)vdpa_le_get(p + 16, 2);
	s->queue_select = (uint16_t)vdpa_le_get(p + 18, 2);
	s->status = p[20];
	s->generation = p[21];
	s->isr = p[22];
	s->suspended = p[23] != 0;
	if ((s->status & needed) != 0 && ((s->features & ~vp->params.features) != 0 ||
					  (s->features & BIT64(VIRTIO_F_VERSION_1)) == 0))
		return vdpa_error(EINVAL,
				  "the state has features 0x%" PRIx64 ", here 0x%" PRIx64
				  " are offered",
				  s->features, vp->params.features);
	if ((s->status & ~STATUS_BITS) != 0 || !is_vector(vp, s->config_vector) ||
	    ((s->status & VIRTIO_CONFIG_S_DRIVER_OK) != 0 && (s->status & needed) == 0) ||
	    (s->suspended &&
	     ((s->status & VIRTIO_CONFIG_S_SUSPEND) == 0 || (s->status & needed) == 0 ||
	      (s->features & BIT64(VIRTIO_F_SUSPEND)) == 0)))
		return vdpa_error(EINVAL,
				  "the state has status 0x%x, vector %u of the configuration, "
				  "which do not go together",
				  s->status, s->config_vector);
	return 0;
}

static int
read_queues(const struct vp_function *vp, const uint8_t *p, struct vp_queue *queues)
{
	for (uint16_t i = 0; i < vp->params.nvqs; i++, p += QUEUE_LEN) {
		struct vp_queue *q = &queues[i];

		*q = (struct vp_queue){.size = (uint16_t)vdpa_le_get(p, 2),
				       .vector = (uint16_t)vdpa_le_get(p + 2, 2),
				       .enabled = p[4] != 0,
				       .desc = vdpa_le_get(p + 5, 8),
				       .driver = vdpa_le_get(p + 13, 8),
				       .device = vdpa_le_get(p + 21, 8)};
		if (q->size == 0 || q->size > vp_queue_size_max(vp, i) || p[4] > 1 ||
		    !is_vector(vp, q->vector))
			return vdpa_error(EINVAL,
					  "queue %u of the state has %u entries, vector %u, "
					  "enabled %u: there are %u and %u vectors",
					  i, q->size, q->vector, p[4], vp_queue_size_max(vp, i),
					  vp->params.vectors);
	}
	return 0;
}

static int
read_record(const struct vp_function *vp, const struct vdpa_tlv *tlv, struct vp_saved *s)
{
	switch (tlv->type) {
	case RECORD_CONFIG:
		s->config = tlv->data;
		return check_config(vp, tlv->data);
	case RECORD_MSIX:
		s->msix = tlv->data;
		return 0;
	case RECORD_COMMON:
		return read_common(vp, tlv->data, s);
	case RECORD_QUEUES:
		return read_queues(vp, tlv->data, s->queues);
	case RECORD_SEEN:
		s->seen = tlv->data;
		return 0;
	default:
		s->device = tlv->data;
		s->device_len = tlv->len;
		return 0;
	}
}

int
vdpa_vp_saved_read(const struct vp_function *vp, const uint8_t *bytes, size_t len,
		   struct vp_saved *s)
{
	const uint32_t lens[] = {0,	     CONFIG_LEN,     msix_len(vp),
				 COMMON_LEN, queues_len(vp), (uint32_t)vp->params.device_size};
	struct vdpa_tlv_reader reader = {.data = bytes, .left = len, .what = "the state"};
	unsigned int seen = 0;
	struct vdpa_tlv tlv;
	int rc;

	*s = (struct vp_saved){.queues = calloc(vp->params.nvqs, sizeof(*s->queues))};
	if (s->queues == NULL)
		return vdpa_error(ENOMEM, "out of memory");
	while ((rc = vdpa_tlv_next(&reader, &tlv)) > 0) {
		if (tlv.type == 0 || tlv.type > RECORD_LAST)
			rc = vdpa_tlv_unknown(&reader, &tlv, RECORD_LAST);
		else if ((seen & 1u << tlv.type) != 0)
			rc = vdpa_error(EPROTO, "record %u of the state comes twice", tlv.type);
		else if (tlv.type < RTE_DIM(lens) && tlv.len != lens[tlv.type])
			rc = vdpa_error(EPROTO, "record %u of the state has %u bytes, expected %u",
					tlv.type, tlv.len, lens[tlv.type]);
		else
			rc = read_record(vp, &tlv, s);
		if (rc < 0)
			break;
		if (tlv.type <= RECORD_LAST)
			seen |= 1u << tlv.type;
	}
	for (unsigned int type = RECORD_CONFIG; rc == 0 && type <= RECORD_LAST; type++)
		if ((seen & 1u << type) == 0)
			rc = vdpa_error(EPROTO, "the state has no record %u", type);
	if (rc < 0)
		vdpa_vp_saved_free(s);
	return rc;
}

void
vdpa_vp_saved_free(struct vp_saved *s)
{
	free(s->queues);
	s->queues = NULL;
}

void
vdpa_vp_saved_apply(struct vp_function *vp, const struct vp_saved *s)
{
	for (unsigned int i = 0; i < CONFIG_LEN; i++)
		vp->config[i] =
			(uint8_t)((vp->config[i] & ~vp->wmask[i]) | (s->config[i] & vp->wmask[i]));
	memcpy(vp->msix_table, s->msix, msix_len(vp));
	memcpy(vp->queues, s->queues, vp->params.nvqs * sizeof(*vp->queues));
	memcpy(vp->device_config, s->seen, vp->params.device_size);
	vp->device_feature_select = s->device_feature_select;
	vp->driver_feature_select = s->driver_feature_select;
	vp->driver_features = s->features;
	vp->config_vector = s->config_vector;
	vp->queue_select = s->queue_select;
	vp->status = s->status;
	vp->generation = s->generation;
	vp->isr = s->isr;
	vp->suspended = s->suspended;
}
