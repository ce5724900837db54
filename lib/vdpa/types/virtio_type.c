/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The table of virtio device types (virtio 1.2 and 1.3, 5). */

#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>

#include <rte_bitops.h>
#include <rte_common.h>

#include "virtio_compat.h"
#include "virtio_type.h"

/* virtio 1.3, 5.1.3; linux/virtio_net.h does not name them everywhere. */
#ifndef VIRTIO_NET_F_DEVICE_STATS
#define VIRTIO_NET_F_DEVICE_STATS 50
#endif
#ifndef VIRTIO_NET_F_HASH_TUNNEL
#define VIRTIO_NET_F_HASH_TUNNEL 51
#endif
#ifndef VIRTIO_NET_F_VQ_NOTF_COAL
#define VIRTIO_NET_F_VQ_NOTF_COAL 52
#endif

/* Bits of the transport and the rings are 24 to 49; of these a front end gets what concerns the
 * rings and their doorbells. */
#define TRANSPORT_BITS (RTE_BIT64(50) - RTE_BIT64(24))
#define RING_BITS                                                                                  \
	(RTE_BIT64(VIRTIO_RING_F_INDIRECT_DESC) | RTE_BIT64(VIRTIO_RING_F_EVENT_IDX) |             \
	 RTE_BIT64(VIRTIO_F_VERSION_1) | RTE_BIT64(VIRTIO_F_RING_PACKED) |                         \
	 RTE_BIT64(VIRTIO_F_IN_ORDER) | RTE_BIT64(VIRTIO_F_ORDER_PLATFORM) |                       \
	 RTE_BIT64(VIRTIO_F_NOTIFICATION_DATA))

/* A front end takes the configuration of a type that is not in the table up to here: vhost-user
 * carries no more. */
#define CONFIG_MAX 256

static const struct virtio_type types[] = {
	[VIRTIO_ID_NET] =
		{
			.name = "network",
			.class = "net",
			.config_size = 24,
			.pairs = true,
			.ctrl = RTE_BIT64(VIRTIO_NET_F_CTRL_VQ) | RTE_BIT64(VIRTIO_NET_F_CTRL_RX) |
				RTE_BIT64(VIRTIO_NET_F_CTRL_VLAN) |
				RTE_BIT64(VIRTIO_NET_F_CTRL_RX_EXTRA) |
				RTE_BIT64(VIRTIO_NET_F_CTRL_MAC_ADDR) |
				RTE_BIT64(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
			.ctrl_dependent =
				RTE_BIT64(VIRTIO_NET_F_MQ) | RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE),
			.hidden = RTE_BIT64(VIRTIO_NET_F_DEVICE_STATS) |
				  RTE_BIT64(VIRTIO_NET_F_HASH_TUNNEL) |
				  RTE_BIT64(VIRTIO_NET_F_VQ_NOTF_COAL) |
				  RTE_BIT64(VIRTIO_NET_F_NOTF_COAL) |
				  RTE_BIT64(VIRTIO_NET_F_HASH_REPORT) |
				  RTE_BIT64(VIRTIO_NET_F_RSS) | RTE_BIT64(VIRTIO_NET_F_STANDBY),
		},
	[VIRTIO_ID_BLOCK] = {.name = "block", .class = "block", .config_size = 96},
	[VIRTIO_ID_CONSOLE] = {.name = "console", .config_size = 12},
	[VIRTIO_ID_RNG] = {.name = "rng"},
	[VIRTIO_ID_BALLOON] = {.name = "balloon", .config_size = 16},
	[VIRTIO_ID_SCSI] = {.name = "scsi", .config_size = 36},
	/* As long as its tag. */
	[VIRTIO_ID_9P] = {.name = "9p", .config_size = CONFIG_MAX},
	[VIRTIO_ID_GPU] = {.name = "gpu", .config_size = 16},
	[VIRTIO_ID_INPUT] = {.name = "input", .config_size = 136},
	[VIRTIO_ID_VSOCK] = {.name = "vsock", .config_size = 8},
	[VIRTIO_ID_CRYPTO] = {.name = "crypto", .config_size = 56},
	[VIRTIO_ID_IOMMU] = {.name = "iommu", .config_size = 40},
	[VIRTIO_ID_MEM] = {.name = "mem", .config_size = 56},
	[VIRTIO_ID_SOUND] = {.name = "sound", .config_size = 16},
	[VIRTIO_ID_FS] = {.name = "fs", .config_size = 44},
	[VIRTIO_ID_PMEM] = {.name = "pmem", .config_size = 16},
	[VIRTIO_ID_SCMI] = {.name = "scmi"},
	[VIRTIO_ID_I2C_ADAPTER] = {.name = "i2c"},
	[VIRTIO_ID_GPIO] = {.name = "gpio", .config_size = 8},
};

static const struct virtio_type unknown = {.name = "unknown", .config_size = CONFIG_MAX};

const struct virtio_type *
virtio_type(uint32_t device_id)
{
	return device_id < RTE_DIM(types) && types[device_id].name != NULL ? &types[device_id]
									   : &unknown;
}

uint64_t
virtio_type_guest_features(uint32_t device_id, uint64_t features, uint16_t data_vqs)
{
	const struct virtio_type *type = virtio_type(device_id);
	uint64_t offered = features & ~(TRANSPORT_BITS & ~RING_BITS) & ~(type->ctrl | type->hidden);

	if (device_id != VIRTIO_ID_NET)
		return offered;
	/* A device without GUEST_ANNOUNCE asks for no announcement, which nobody could pass on to
	 * the guest. */
	offered &= ~RTE_BIT64(VIRTIO_NET_F_GUEST_ANNOUNCE);
	return data_vqs == 2 ? offered & ~RTE_BIT64(VIRTIO_NET_F_MQ) : offered;
}

bool
virtio_type_vq_drains(uint32_t device_id, uint16_t idx)
{
	switch (device_id) {
	case VIRTIO_ID_NET:
		/* Transmit queues; a control queue follows all pairs. */
		return (idx & 1) != 0;
	case VIRTIO_ID_BLOCK:
	case VIRTIO_ID_RNG:
	case VIRTIO_ID_CRYPTO:
	case VIRTIO_ID_FS:
	case VIRTIO_ID_PMEM:
		return true;
	default:
		return false;
	}
}

uint16_t
virtio_type_data_vqs(const struct virtio_type *type, uint16_t n)
{
	return type->pairs ? n & (uint16_t)~1u : n;
}

uint16_t
virtio_type_ctrl_vq(uint64_t features, uint16_t pairs)
{
	return (features & RTE_BIT64(VIRTIO_NET_F_MQ)) != 0 ? (uint16_t)(2 * pairs) : 2;
}
