/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Devices and management devices as JSON, in the fields of iproute2's `vdpa -j` where it has them
 * (statistics: show_stats.c). Reads only; owns nothing. A device is shown from what the core knows
 * of it: no register is read and its lock is not taken, so one that hangs holds nobody up.
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

#include "add_words.h"
#include "bus.h"
#include "device_priv.h"
#include "feature_names.h"
#include "mgmt.h"
#include "page_holders.h"
#include "restart.h"
#include "show.h"
#include "snapshot.h"
#include "steps.h"
#include "virtio_type.h"

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
	struct virtio_net_config config;
	char mac[18];

	if (!vdpa_snapshot_get(vdev, &config, sizeof(config)))
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
	struct virtio_blk_config config;

	if (!vdpa_snapshot_get(vdev, &config, sizeof(config)))
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
	json_object_set_new(dma, "bytes_retained", json_integer((json_int_t)stats.bytes_retained));
	json_object_set_new(dma, "maps", json_integer((json_int_t)stats.maps));
	json_object_set_new(dma, "unmaps", json_integer((json_int_t)stats.unmaps));
	json_object_set_new(dma, "replaced", json_integer((json_int_t)stats.replaced));
	json_object_set_new(dma, "last_change_us", json_integer((json_int_t)stats.change_us));
	json_object_set_new(obj, "dma", dma);
}

/* The VM that the device serves, and how many devices do. */
static void
show_vm(const struct vdpa_device_core *core, json_t *obj)
{
	const struct vdpa_vm_member *vm = __atomic_load_n(&core->vm, __ATOMIC_ACQUIRE);

	if (vm == NULL)
		return;
	json_object_set_new(obj, "vm", json_string(vdpa_vm_name(vm)));
	json_object_set_new(obj, "vm_devices", json_integer(vdpa_vm_devices(vm)));
}

/* How a guest with it migrates, and whether what it writes is logged now, and by whom. */
static void
show_migration(struct vdpa_device *vdev, json_t *obj)
{
	const struct vdpa_device_core *core = vdev->core;

	json_object_set_new(obj, "migration",
			    json_pack("{s:s, s:b, s:s}", "mode",
				      vdpa_words_migration_name(core->migration), "logging",
				      (int)__atomic_load_n(&core->dirty.on, __ATOMIC_RELAXED),
				      "log", vdpa_log_logger(vdev)));
}

/* Who is given doorbell pages, and who may have one that cannot be taken back. */
static void
show_doorbells(struct vdpa_device *vdev, json_t *obj)
{
	struct vdpa_page_holders held = {.any = false};
	json_t *holder;

	if (vdev->dma != NULL)
		held = vdpa_page_holders_look(vdpa_dma_page_holders(vdev->dma));
	if (vdev->core->can.doorbells)
		json_object_set_new(obj, "doorbells",
				    json_string(vdpa_doorbells_name(vdev->core->doorbells)));
	if (!held.any)
		return;
	holder = json_object();
	json_object_set_new(holder, "uid", json_integer(held.first.uid));
	json_object_set_new(holder, "pid", json_integer(held.first.pid));
	json_object_set_new(holder, "others", json_boolean(held.several));
	json_object_set_new(obj, "page_holder", holder);
}

/* What is set at a step of the device's, as it is at this moment. */
static uint8_t
shown_status(const struct vdpa_device_core *core, enum vdpa_device_state state)
{
	uint8_t status = __atomic_load_n(&core->status, __ATOMIC_RELAXED);

	return state == VDPA_STATE_FAILED ? status | VIRTIO_CONFIG_S_NEEDS_RESET : status;
}

/* Under the show lock. */
static void
show_frontend_words(struct vdpa_device *vdev, json_t *obj)
{
	const struct vdpa_frontend_ops *ops = vdev->core->fe->ops;
	const char *name;
	char value[64];
	json_t *words;

	if (ops->word == NULL)
		return;
	words = json_object();
	for (unsigned int i = 0; (name = ops->word(vdev, i, value, sizeof(value))) != NULL; i++)
		json_object_set_new(words, name, json_string(value));
	json_object_set_new(obj, "frontend_words", words);
}

static void
show_frontend(struct vdpa_device *vdev, json_t *obj)
{
	struct vdpa_device_core *core = vdev->core;
	const char *path = NULL;
	char text[512] = "";
	bool client = false;

	pthread_mutex_lock(&core->show_lock);
	if (core->fe != NULL && core->fe->ops->socket != NULL)
		path = core->fe->ops->socket(vdev, &client);
	if (path != NULL) {
		json_object_set_new(obj, "socket", json_string(path));
		json_object_set_new(obj, "socket_mode", json_string(client ? "client" : "server"));
	}
	if (core->fe != NULL && core->fe->ops->describe != NULL) {
		core->fe->ops->describe(vdev, text, sizeof(text));
		json_object_set_new(obj, "frontend_info", json_string(text));
	}
	if (core->fe != NULL)
		show_frontend_words(vdev, obj);
	pthread_mutex_unlock(&core->show_lock);
}

/* How long the last start took, microseconds. */
static void
show_start(struct vdpa_device *vdev, json_t *obj)
{
	struct vdpa_device_stats stats;

	vdpa_device_get_stats(vdev, &stats);
	if (stats.known[VDPA_DEVICE_STAT_START_US])
		json_object_set_new(
			obj, VDPA_DSTAT_START_US,
			json_integer((json_int_t)stats.value[VDPA_DEVICE_STAT_START_US]));
}

/* Whether it goes on in the next daemon, where devices are kept for one. One that has failed has
 * nothing that another process could go on with; one that goes by itself is the kernel's to say. */
static void
show_restart(struct vdpa_device *vdev, enum vdpa_device_state state, const char *failure,
	     json_t *obj)
{
	char why[VDPA_FAILURE_MAX + 32] = "";
	enum vdpa_restart_fate fate = vdpa_restart_look(vdev->name, why, sizeof(why));
	json_t *restart;

	if (fate == VDPA_RESTART_NOT_KEPT)
		return;
	if (fate != VDPA_RESTART_BY_ITSELF && state == VDPA_STATE_FAILED) {
		fate = VDPA_RESTART_ENDS;
		snprintf(why, sizeof(why), "has failed: %s",
			 failure[0] != '\0' ? failure : "it does not reset");
	}
	restart = json_object();
	json_object_set_new(restart, "goes_on", json_boolean(fate != VDPA_RESTART_ENDS));
	if (fate == VDPA_RESTART_ENDS)
		json_object_set_new(restart, "why", json_string(why));
	else if (fate == VDPA_RESTART_GOES_ON_UNLESS_KILLED)
		json_object_set_new(restart, "ends_by_kill", json_string(why));
	json_object_set_new(obj, "restart", restart);
}

/* Under the bus lock: the device stays registered meanwhile. */
static void
show_registered(struct vdpa_device *vdev, json_t *obj)
{
	const struct vdpa_config_ops *ops = vdev->config;
	const struct vdpa_device_core *core = vdev->core;
	enum vdpa_device_state state = vdpa_device_get_state(vdev);
	uint64_t features = __atomic_load_n(&core->features, __ATOMIC_RELAXED);
	char text[VDPA_FAILURE_MAX] = "";

	json_object_set_new(obj, "type", json_string(virtio_type(ops->get_device_id(vdev))->name));
	json_object_set_new(obj, "vendor_id", json_integer(ops->get_vendor_id(vdev)));
	json_object_set_new(obj, "max_vqs", json_integer(core->nvqs));
	json_object_set_new(obj, "max_vq_size", json_integer(ops->get_vq_num_max(vdev)));
	json_object_set_new(obj, "state", json_string(vdpa_device_state_name(state)));
	json_object_set_new(obj, "status", hex(shown_status(core, state)));
	json_object_set_new(obj, "device_features", hex(ops->get_device_features(vdev)));
	json_object_set_new(obj, "device_features_names",
			    vdpa_show_features(ops->get_device_features(vdev),
					       ops->get_device_id(vdev), feature_name));
	json_object_set_new(obj, "negotiated_features", hex(features));
	json_object_set_new(obj, "negotiated_features_names",
			    vdpa_show_features(features, ops->get_device_id(vdev), feature_name));
	vdpa_device_failure(vdev, text, sizeof(text));
	if (text[0] != '\0')
		json_object_set_new(obj, "failure", json_string(text));
	show_restart(vdev, state, text, obj);
	show_start(vdev, obj);
	if (ops->get_device_id(vdev) == VIRTIO_ID_NET)
		show_net_config(vdev, obj);
	else if (ops->get_device_id(vdev) == VIRTIO_ID_BLOCK)
		show_blk_config(vdev, obj);
	show_vm(core, obj);
	show_migration(vdev, obj);
	show_dma(vdev, obj);
	show_doorbells(vdev, obj);
	show_frontend(vdev, obj);
}

/* Under the bus lock. */
static json_t *
show_entry(const struct vdpa_bus_entry *e)
{
	json_t *obj = json_object();

	json_object_set_new(obj, "mgmtdev",
			    e->mdev != NULL ? json_string(e->mdev->name) : json_null());
	if (e->drv != NULL)
		json_object_set_new(obj, "driver", json_string(e->drv->name));
	json_object_set_new(obj, "frontend",
			    e->fe != NULL ? json_string(e->fe->name) : json_null());
	if (e->vdev != NULL)
		show_registered(e->vdev, obj);
	/* The device's own state is one that nobody can use yet, or any more. */
	if (e->state == VDPA_BUS_ADDING)
		json_object_set_new(obj, "state", json_string("adding"));
	else if (e->state == VDPA_BUS_REMOVING)
		json_object_set_new(obj, "state", json_string("removing"));
	return obj;
}

char *
vdpa_show_text(json_t *root)
{
	char *text = json_dumps(root, JSON_COMPACT);

	json_decref(root);
	if (text == NULL)
		errno = -vdpa_error(ENOMEM, "out of memory");
	return text;
}

static bool
collect_name(const struct vdpa_bus_entry *e, void *arg)
{
	json_array_append_new(arg, json_string(e->name));
	return true;
}

/* An object of one or of all that show() has something to say of. The bus lock is taken for each by
 * itself, so that showing thousands holds nobody up. */
static json_t *
for_all(json_t *(*show)(const char *name))
{
	json_t *names = json_array(), *all = json_object(), *name, *obj;
	size_t i;

	vdpa_bus_for_each(collect_name, names);
	json_array_foreach(names, i, name)
	{
		obj = show(json_string_value(name));
		if (obj != NULL)
			json_object_set_new(all, json_string_value(name), obj);
	}
	json_decref(names);
	return all;
}

static void
look(const struct vdpa_bus_entry *e, void *arg)
{
	*(json_t **)arg = show_entry(e);
}

static json_t *
show_device(const char *name)
{
	json_t *obj = NULL;

	return vdpa_bus_look(name, look, &obj) < 0 ? NULL : obj;
}

char *
vdpa_show_one_or_all(const char *name, json_t *(*show)(const char *name))
{
	json_t *root = name != NULL ? show(name) : for_all(show);

	if (root == NULL) {
		errno = ENODEV;
		return NULL;
	}
	return vdpa_show_text(root);
}

char *
vdpa_dev_show(const char *name)
{
	return vdpa_show_one_or_all(name, show_device);
}

static json_t *
show_mgmtdev(const struct vdpa_mgmt_dev *mdev)
{
	json_t *obj = json_object(), *classes = json_array();
	const char *class = virtio_type(mdev->device_id)->class;

	if (mdev->device_id != 0)
		json_array_append_new(classes,
				      json_string(class != NULL ? class : "< unknown class >"));
	json_object_set_new(obj, "supported_classes", classes);
	json_object_set_new(obj, "max_supported_vqs", json_integer(mdev->max_supported_vqs));
	json_object_set_new(obj, "dev_features",
			    vdpa_show_features(mdev->supported_features,
					       mdev->device_id == VIRTIO_ID_NET ? VIRTIO_ID_NET : 0,
					       feature_name_iproute2));
	json_object_set_new(obj, "features", hex(mdev->supported_features));
	json_object_set_new(obj, "help", json_string(mdev->help));
	return obj;
}

static int
collect_mgmtdev(struct vdpa_mgmt_dev *mdev, void *arg)
{
	return json_object_set_new(arg, mdev->name, show_mgmtdev(mdev)) < 0 ? -ENOMEM : 0;
}

char *
vdpa_mgmtdev_show(void)
{
	json_t *all = json_object();

	vdpa_mgmtdev_for_each(collect_mgmtdev, all);
	return vdpa_show_text(all);
}

static void
look_mgmtdev(const struct vdpa_mgmt_dev *mdev, void *arg)
{
	*(json_t **)arg = show_mgmtdev(mdev);
}

char *
vdpa_mgmtdev_show_one(const char *name)
{
	json_t *obj = NULL;
	int rc = vdpa_mgmtdev_look(name, look_mgmtdev, &obj);

	if (rc < 0) {
		errno = -rc;
		return NULL;
	}
	return vdpa_show_text(obj);
}
