/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/* The names of feature bits, one row a bit, and which of them iproute2's `vdpa` knows. */

#include <stddef.h>

#include <linux/virtio_ids.h>

#include "feature_names.h"

struct feature {
	uint32_t device_id; /* 0: any */
	unsigned int bit;
	const char *name;
};

/* Virtio 1.3, 5 and 6; vhost-user's own bits among the last. */
static const struct feature features[] = {
	{VIRTIO_ID_NET, 0, "CSUM"},
	{VIRTIO_ID_NET, 1, "GUEST_CSUM"},
	{VIRTIO_ID_NET, 2, "CTRL_GUEST_OFFLOADS"},
	{VIRTIO_ID_NET, 3, "MTU"},
	{VIRTIO_ID_NET, 5, "MAC"},
	{VIRTIO_ID_NET, 7, "GUEST_TSO4"},
	{VIRTIO_ID_NET, 8, "GUEST_TSO6"},
	{VIRTIO_ID_NET, 9, "GUEST_ECN"},
	{VIRTIO_ID_NET, 10, "GUEST_UFO"},
	{VIRTIO_ID_NET, 11, "HOST_TSO4"},
	{VIRTIO_ID_NET, 12, "HOST_TSO6"},
	{VIRTIO_ID_NET, 13, "HOST_ECN"},
	{VIRTIO_ID_NET, 14, "HOST_UFO"},
	{VIRTIO_ID_NET, 15, "MRG_RXBUF"},
	{VIRTIO_ID_NET, 16, "STATUS"},
	{VIRTIO_ID_NET, 17, "CTRL_VQ"},
	{VIRTIO_ID_NET, 18, "CTRL_RX"},
	{VIRTIO_ID_NET, 19, "CTRL_VLAN"},
	{VIRTIO_ID_NET, 20, "CTRL_RX_EXTRA"},
	{VIRTIO_ID_NET, 21, "GUEST_ANNOUNCE"},
	{VIRTIO_ID_NET, 22, "MQ"},
	{VIRTIO_ID_NET, 23, "CTRL_MAC_ADDR"},
	{VIRTIO_ID_NET, 50, "DEVICE_STATS"},
	{VIRTIO_ID_NET, 51, "HASH_TUNNEL"},
	{VIRTIO_ID_NET, 52, "VQ_NOTF_COAL"},
	{VIRTIO_ID_NET, 53, "NOTF_COAL"},
	{VIRTIO_ID_NET, 54, "GUEST_USO4"},
	{VIRTIO_ID_NET, 55, "GUEST_USO6"},
	{VIRTIO_ID_NET, 56, "HOST_USO"},
	{VIRTIO_ID_NET, 57, "HASH_REPORT"},
	{VIRTIO_ID_NET, 59, "GUEST_HDRLEN"},
	{VIRTIO_ID_NET, 60, "RSS"},
	{VIRTIO_ID_NET, 61, "RSC_EXT"},
	{VIRTIO_ID_NET, 62, "STANDBY"},
	{VIRTIO_ID_NET, 63, "SPEED_DUPLEX"},
	{VIRTIO_ID_BLOCK, 1, "SIZE_MAX"},
	{VIRTIO_ID_BLOCK, 2, "SEG_MAX"},
	{VIRTIO_ID_BLOCK, 4, "GEOMETRY"},
	{VIRTIO_ID_BLOCK, 5, "RO"},
	{VIRTIO_ID_BLOCK, 6, "BLK_SIZE"},
	{VIRTIO_ID_BLOCK, 9, "FLUSH"},
	{VIRTIO_ID_BLOCK, 10, "TOPOLOGY"},
	{VIRTIO_ID_BLOCK, 11, "CONFIG_WCE"},
	{VIRTIO_ID_BLOCK, 12, "MQ"},
	{VIRTIO_ID_BLOCK, 13, "DISCARD"},
	{VIRTIO_ID_BLOCK, 14, "WRITE_ZEROES"},
	{VIRTIO_ID_BLOCK, 15, "LIFETIME"},
	{VIRTIO_ID_BLOCK, 16, "SECURE_ERASE"},
	{VIRTIO_ID_BLOCK, 17, "ZONED"},
	{VIRTIO_ID_CONSOLE, 0, "SIZE"},
	{VIRTIO_ID_CONSOLE, 1, "MULTIPORT"},
	{VIRTIO_ID_CONSOLE, 2, "EMERG_WRITE"},
	{VIRTIO_ID_BALLOON, 0, "MUST_TELL_HOST"},
	{VIRTIO_ID_BALLOON, 1, "STATS_VQ"},
	{VIRTIO_ID_BALLOON, 2, "DEFLATE_ON_OOM"},
	{VIRTIO_ID_BALLOON, 3, "FREE_PAGE_HINT"},
	{VIRTIO_ID_BALLOON, 4, "PAGE_POISON"},
	{VIRTIO_ID_BALLOON, 5, "PAGE_REPORTING"},
	{VIRTIO_ID_SCSI, 0, "INOUT"},
	{VIRTIO_ID_SCSI, 1, "HOTPLUG"},
	{VIRTIO_ID_SCSI, 2, "CHANGE"},
	{VIRTIO_ID_SCSI, 3, "T10_PI"},
	{VIRTIO_ID_9P, 0, "MOUNT_TAG"},
	{VIRTIO_ID_GPU, 0, "VIRGL"},
	{VIRTIO_ID_GPU, 1, "EDID"},
	{VIRTIO_ID_GPU, 2, "RESOURCE_UUID"},
	{VIRTIO_ID_GPU, 3, "RESOURCE_BLOB"},
	{VIRTIO_ID_GPU, 4, "CONTEXT_INIT"},
	{VIRTIO_ID_VSOCK, 0, "STREAM"},
	{VIRTIO_ID_VSOCK, 1, "SEQPACKET"},
	{VIRTIO_ID_VSOCK, 2, "NO_IMPLIED_STREAM"},
	{VIRTIO_ID_CRYPTO, 0, "REVISION_1"},
	{VIRTIO_ID_CRYPTO, 1, "CIPHER_STATELESS_MODE"},
	{VIRTIO_ID_CRYPTO, 2, "HASH_STATELESS_MODE"},
	{VIRTIO_ID_CRYPTO, 3, "MAC_STATELESS_MODE"},
	{VIRTIO_ID_CRYPTO, 4, "AEAD_STATELESS_MODE"},
	{VIRTIO_ID_CRYPTO, 5, "AKCIPHER_STATELESS_MODE"},
	{VIRTIO_ID_IOMMU, 0, "INPUT_RANGE"},
	{VIRTIO_ID_IOMMU, 1, "DOMAIN_RANGE"},
	{VIRTIO_ID_IOMMU, 2, "MAP_UNMAP"},
	{VIRTIO_ID_IOMMU, 3, "BYPASS"},
	{VIRTIO_ID_IOMMU, 4, "PROBE"},
	{VIRTIO_ID_IOMMU, 5, "MMIO"},
	{VIRTIO_ID_IOMMU, 6, "BYPASS_CONFIG"},
	{VIRTIO_ID_MEM, 0, "ACPI_PXM"},
	{VIRTIO_ID_MEM, 1, "UNPLUGGED_INACCESSIBLE"},
	{VIRTIO_ID_SOUND, 0, "CTLS"},
	{VIRTIO_ID_FS, 0, "NOTIFICATION"},
	{VIRTIO_ID_PMEM, 0, "SHMEM_REGION"},
	{VIRTIO_ID_SCMI, 0, "P2A_CHANNELS"},
	{VIRTIO_ID_SCMI, 1, "SHARED_MEMORY"},
	{VIRTIO_ID_I2C_ADAPTER, 0, "ZERO_LENGTH_REQUEST"},
	{VIRTIO_ID_GPIO, 0, "IRQ"},
	{0, 24, "NOTIFY_ON_EMPTY"},
	{0, 26, "LOG_ALL"},
	{0, 27, "ANY_LAYOUT"},
	{0, 28, "INDIRECT_DESC"},
	{0, 29, "EVENT_IDX"},
	{0, 30, "PROTOCOL_FEATURES"},
	{0, 32, "VERSION_1"},
	{0, 33, "ACCESS_PLATFORM"},
	{0, 34, "RING_PACKED"},
	{0, 35, "IN_ORDER"},
	{0, 36, "ORDER_PLATFORM"},
	{0, 37, "SR_IOV"},
	{0, 38, "NOTIFICATION_DATA"},
	{0, 39, "NOTIF_CONFIG_DATA"},
	{0, 40, "RING_RESET"},
	{0, 41, "ADMIN_VQ"},
};

const char *
feature_name(uint32_t device_id, unsigned int bit)
{
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		if (features[i].bit == bit &&
		    (features[i].device_id == 0 || features[i].device_id == device_id))
			return features[i].name;
	return NULL;
}

#define BIT(n)	       (UINT64_C(1) << (n))
#define BITS(from, to) (UINT64_MAX >> (63 - (to)) & UINT64_MAX << (from))

const char *
feature_name_iproute2(uint32_t device_id, unsigned int bit)
{
	static const uint64_t any = BITS(28, 29) | BITS(32, 38);
	static const uint64_t net =
		BITS(0, 3) | BIT(5) | BITS(7, 24) | BIT(27) | BIT(57) | BITS(60, 63);
	uint64_t known = any | (device_id == VIRTIO_ID_NET ? net : 0);

	if ((known & BIT(bit)) == 0)
		return NULL;
	/* As the kernel's headers have them. */
	if (bit == 28)
		return "RING_INDIRECT_DESC";
	if (bit == 29)
		return "RING_EVENT_IDX";
	return feature_name(device_id, bit);
}
