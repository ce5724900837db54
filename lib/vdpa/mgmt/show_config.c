/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * The configuration of devices as JSON, in the very fields of iproute2's `vdpa -j dev config show`,
 * and by the kernel's rules of which there are: features of the device say what it has, and those
 * that were negotiated are shown once they are. Reads only; no device is asked.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include "bus.h"
#include "device_priv.h"
#include "feature_names.h"
#include "show.h"
#include "snapshot.h"
#include "vdpa.h"

json_t *
vdpa_show_features(uint64_t features, uint32_t device_id, vdpa_feature_namer *name_of)
{
	json_t *names = json_array();

	for (unsigned int bit = 0; bit < 64; bit++) {
		const char *name;

		if ((features & RTE_BIT64(bit)) == 0)
			continue;
		name = name_of(device_id, bit);
		json_array_append_new(names, name != NULL ? json_string(name) : json_integer(bit));
	}
	return names;
}

static void
show_net(struct vdpa_device *vdev, json_t *obj)
{
	uint64_t features = vdev->config->get_device_features(vdev);
	struct virtio_net_config config;
	uint16_t status;
	char mac[18];

	if (!vdpa_snapshot_get(vdev, &config, sizeof(config)))
		return;
	status = rte_le_to_cpu_16(config.status);
	if (features & RTE_BIT64(VIRTIO_NET_F_MAC)) {
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", config.mac[0],
			 config.mac[1], config.mac[2], config.mac[3], config.mac[4], config.mac[5]);
		json_object_set_new(obj, "mac", json_string(mac));
	}
	/* iproute2's keys do end in a blank. */
	if (features & RTE_BIT64(VIRTIO_NET_F_STATUS)) {
		json_object_set_new(obj, "link ",
				    json_string(status & VIRTIO_NET_S_LINK_UP ? "up" : "down"));
		json_object_set_new(obj, "link_announce ",
				    json_boolean(status & VIRTIO_NET_S_ANNOUNCE));
	}
	if (features & RTE_BIT64(VIRTIO_NET_F_MQ))
		json_object_set_new(obj, "max_vq_pairs",
				    json_integer(rte_le_to_cpu_16(config.max_virtqueue_pairs)));
	if (features & RTE_BIT64(VIRTIO_NET_F_MTU))
		json_object_set_new(obj, "mtu", json_integer(rte_le_to_cpu_16(config.mtu)));
}

/* Under the bus lock: the device stays registered meanwhile. */
static void
look(const struct vdpa_bus_entry *e, void *arg)
{
	struct vdpa_device *vdev = e->vdev;
	json_t *obj = arg;
	uint64_t features;

	if (vdev == NULL || vdev->config->get_device_id(vdev) != VIRTIO_ID_NET)
		return;
	show_net(vdev, obj);
	features = __atomic_load_n(&vdev->core->features, __ATOMIC_RELAXED);
	if (__atomic_load_n(&vdev->core->status, __ATOMIC_RELAXED) & VIRTIO_CONFIG_S_FEATURES_OK)
		json_object_set_new(
			obj, "negotiated_features",
			vdpa_show_features(features, VIRTIO_ID_NET, feature_name_iproute2));
}

static json_t *
show_config(const char *name)
{
	json_t *obj = json_object();

	if (vdpa_bus_look(name, look, obj) == 0)
		return obj;
	json_decref(obj);
	return NULL;
}

char *
vdpa_dev_config(const char *name)
{
	return vdpa_show_one_or_all(name, show_config);
}
