/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices, statistics and management devices as JSON, in the fields of iproute2's `vdpa -j` where
 * it has them. Reads only; owns nothing.
 */

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_byteorder.h>

#include "device_priv.h"
#include "mgmt.h"
#include "virtio_type.h"

#define STATS_MAX 64

static json_t *
hex(uint64_t value)
{
	char text[20];

	snprintf(text, sizeof(text), "0x%" PRIx64, value);
	return json_string(text);
}

static void
show_net_config(struct vdpa_device *vdev, json_t *obj)
{
	uint64_t features = vdev->config->get_device_features(vdev);
	struct virtio_net_config config = {0};
	size_t len = RTE_MIN(sizeof(config), vdev->config->get_config_size(vdev));
	char mac[18];

	if (vdpa_get_config(vdev, 0, &config, len) < 0)
		return;
	if (features & RTE_BIT64(VIRTIO_NET_F_MAC)) {
		snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", config.mac[0],
			 config.mac[1], config.mac[2], config.mac[3], config.mac[4], config.mac[5]);
		json_object_set_new(obj, "mac", json_string(mac));
	}
	if (features & RTE_BIT64(VIRTIO_NET_F_STATUS))
		json_object_set_new(
			obj, "link",
			json_string(rte_le_to_cpu_16(config.status) & VIRTIO_NET_S_LINK_UP
					    ? "up"
					    : "down"));
	if (features & RTE_BIT64(VIRTIO_NET_F_MQ))
		json_object_set_new(obj, "max_vq_pairs",
				    json_integer(rte_le_to_cpu_16(config.max_virtqueue_pairs)));
	if (features & RTE_BIT64(VIRTIO_NET_F_MTU))
		json_object_set_new(obj, "mtu", json_integer(rte_le_to_cpu_16(config.mtu)));
}

static void
show_blk_config(struct vdpa_device *vdev, json_t *obj)
{
	uint64_t features = vdev->config->get_device_features(vdev);
	struct virtio_blk_config config = {0};
	size_t len = RTE_MIN(sizeof(config), vdev->config->get_config_size(vdev));

	if (vdpa_get_config(vdev, 0, &config, len) < 0)
		return;
	json_object_set_new(obj, "capacity",
			    json_integer((json_int_t)(rte_le_to_cpu_64(config.capacity) * 512)));
	json_object_set_new(obj, "block_size", json_integer(rte_le_to_cpu_32(config.blk_size)));
	json_object_set_new(obj, "read_only", json_boolean(features & RTE_BIT64(VIRTIO_BLK_F_RO)));
}

/* What the device can reach through the IOMMU now. */
static void
show_dma(struct vdpa_device *vdev, json_t *obj)
{
	struct vdpa_dma_stats stats;
	json_t *dma;

	if (vdev->dma == NULL)
		return;
	vdpa_dma_get_stats(vdev->dma, &stats);
	dma = json_object();
	json_object_set_new(dma, "mappings", json_integer(stats.mappings));
	json_object_set_new(dma, "bytes_mapped", json_integer((json_int_t)stats.bytes_mapped));
	json_object_set_new(dma, "maps", json_integer((json_int_t)stats.maps));
	json_object_set_new(dma, "unmaps", json_integer((json_int_t)stats.unmaps));
	json_object_set_new(obj, "dma", dma);
}

static json_t *
show_device(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	const struct vdpa_frontend *fe = vdev->core->fe;
	char text[VDPA_FAILURE_MAX] = "";
	json_t *obj = json_object();

	json_object_set_new(obj, "type", json_string(virtio_type(ops->get_device_id(vdev))->name));
	json_object_set_new(obj, "mgmtdev",
			    vdev->mdev != NULL ? json_string(vdev->mdev->name) : json_null());
	json_object_set_new(obj, "vendor_id", json_integer(ops->get_vendor_id(vdev)));
	json_object_set_new(obj, "max_vqs", json_integer(vdev->core->nvqs));
	json_object_set_new(obj, "max_vq_size", json_integer(ops->get_vq_num_max(vdev)));
	json_object_set_new(obj, "state",
			    json_string(vdpa_device_state_name(vdpa_device_get_state(vdev))));
	json_object_set_new(obj, "status", hex(vdpa_get_status(vdev)));
	json_object_set_new(obj, "device_features", hex(ops->get_device_features(vdev)));
	json_object_set_new(obj, "negotiated_features", hex(vdev->core->features));
	vdpa_device_failure(vdev, text, sizeof(text));
	if (text[0] != '\0')
		json_object_set_new(obj, "failure", json_string(text));
	if (ops->get_device_id(vdev) == VIRTIO_ID_NET)
		show_net_config(vdev, obj);
	else if (ops->get_device_id(vdev) == VIRTIO_ID_BLOCK)
		show_blk_config(vdev, obj);
	show_dma(vdev, obj);
	json_object_set_new(obj, "frontend", fe != NULL ? json_string(fe->name) : json_null());
	if (fe != NULL && fe->ops->describe != NULL) {
		text[0] = '\0';
		fe->ops->describe(vdev, text, sizeof(text));
		json_object_set_new(obj, "frontend_info", json_string(text));
	}
	return obj;
}

static json_t *
stats_object(const struct vdpa_stat *stats, int n)
{
	json_t *obj = json_object();

	for (int i = 0; i < RTE_MIN(n, STATS_MAX); i++)
		json_object_set_new(obj, stats[i].name, json_integer((json_int_t)stats[i].value));
	return obj;
}

static json_t *
show_stats(struct vdpa_device *vdev)
{
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_stat stats[STATS_MAX];
	json_t *obj = json_object(), *vqs;
	int n;

	if (ops->get_stats != NULL) {
		n = ops->get_stats(vdev, stats, STATS_MAX);
		json_object_set_new(obj, "device", stats_object(stats, n));
	}
	if (ops->get_vendor_vq_stats != NULL) {
		vqs = json_array();
		for (uint16_t i = 0; i < vdev->core->nvqs; i++) {
			n = ops->get_vendor_vq_stats(vdev, i, stats, STATS_MAX);
			json_array_append_new(vqs, stats_object(stats, n));
		}
		json_object_set_new(obj, "queues", vqs);
	}
	return obj;
}

struct collect {
	json_t *all;
	json_t *(*show)(struct vdpa_device *vdev);
};

static int
collect_device(struct vdpa_device *vdev, void *arg)
{
	struct collect *c = arg;

	return json_object_set_new(c->all, vdev->name, c->show(vdev)) < 0 ? -ENOMEM : 0;
}

/* One device or all of them, by show(). */
static char *
dump(const char *name, json_t *(*show)(struct vdpa_device *vdev))
{
	struct collect c = {.show = show};
	struct vdpa_device *vdev;
	char *text;

	if (name != NULL) {
		vdev = vdpa_find_device(name);
		if (vdev == NULL) {
			errno = -vdpa_error(ENODEV, "device '%s': there is none of that name",
					    name);
			return NULL;
		}
		c.all = show(vdev);
		vdpa_put_device(vdev);
	} else {
		c.all = json_object();
		vdpa_bus_for_each(collect_device, &c);
	}
	text = json_dumps(c.all, JSON_COMPACT);
	json_decref(c.all);
	if (text == NULL)
		errno = ENOMEM;
	return text;
}

/* Under the management lock: a front end is asked for its part, and a device may be deleted by
 * another thread at any moment. */
char *
vdpa_dev_show(const char *name)
{
	char *text;

	vdpa_mgmt_lock();
	text = dump(name, show_device);
	vdpa_mgmt_unlock();
	return text;
}

char *
vdpa_dev_stats(const char *name)
{
	return dump(name, show_stats);
}

static int
collect_mgmtdev(struct vdpa_mgmt_dev *mdev, void *arg)
{
	json_t *all = arg, *obj = json_object(), *classes = json_array();
	const char *class = virtio_type(mdev->device_id)->class;

	if (mdev->device_id != 0)
		json_array_append_new(classes, json_string(class != NULL ? class : "other"));
	json_object_set_new(obj, "supported_classes", classes);
	json_object_set_new(obj, "max_supported_vqs", json_integer(mdev->max_supported_vqs));
	json_object_set_new(obj, "dev_features", hex(mdev->supported_features));
	json_object_set_new(obj, "help", json_string(mdev->help));
	return json_object_set_new(all, mdev->name, obj) < 0 ? -ENOMEM : 0;
}

char *
vdpa_mgmtdev_show(void)
{
	json_t *all = json_object();
	char *text;

	vdpa_mgmtdev_for_each(collect_mgmtdev, all);
	text = json_dumps(all, JSON_COMPACT);
	json_decref(all);
	return text;
}
