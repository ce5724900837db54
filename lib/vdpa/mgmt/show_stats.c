/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * Statistics as JSON: those of the common vocabulary (vdpa_stats.h), the driver's own, and those of
 * a queue's path. Reads only; owns nothing. What is counted where is counts.c's and the drivers'.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>

#include "bus.h"
#include "counts.h"
#include "device_priv.h"
#include "figures.h"
#include "mgmt.h"
#include "show.h"
#include "vdpa.h"
#include "virtio_type.h"

/* What a virtqueue is for. */
enum queue_type {
	QUEUE_RX,
	QUEUE_TX,
	QUEUE_CONTROL,
	QUEUE_REQUEST,
	QUEUE_OTHER,
};

static const char *const queue_types[] = {
	[QUEUE_RX] = "rx",	     [QUEUE_TX] = "tx",	      [QUEUE_CONTROL] = "control_vq",
	[QUEUE_REQUEST] = "request", [QUEUE_OTHER] = "queue",
};

static enum queue_type
queue_type(struct vdpa_device *vdev, uint16_t idx)
{
	uint64_t features = __atomic_load_n(&vdev->core->features, __ATOMIC_RELAXED);
	uint16_t pairs = vdev->core->nvqs / 2;

	switch (vdev->config->get_device_id(vdev)) {
	case VIRTIO_ID_NET:
		/* Before the features are negotiated, the one that has no partner. */
		if ((features & RTE_BIT64(VIRTIO_NET_F_CTRL_VQ)) != 0
			    ? idx == virtio_type_ctrl_vq(features, pairs)
			    : idx == 2 * pairs)
			return QUEUE_CONTROL;
		return (idx & 1) != 0 ? QUEUE_TX : QUEUE_RX;
	case VIRTIO_ID_BLOCK:
		return QUEUE_REQUEST;
	default:
		return QUEUE_OTHER;
	}
}

/* Whether a statistic makes sense of such a queue, be it known or not. */
static bool
applies(enum queue_type type, enum vdpa_queue_stat_id id)
{
	switch (id) {
	case VDPA_QUEUE_STAT_PACKETS:
	case VDPA_QUEUE_STAT_DROPPED:
		return type == QUEUE_RX || type == QUEUE_TX;
	case VDPA_QUEUE_STAT_REQUESTS:
		return type == QUEUE_REQUEST;
	case VDPA_QUEUE_STAT_BYTES:
		return type == QUEUE_RX || type == QUEUE_TX || type == QUEUE_REQUEST;
	default:
		return true;
	}
}

/* null where it is not known. */
static void
set(json_t *obj, const char *name, bool known, uint64_t value)
{
	json_object_set_new(obj, name, known ? json_integer((json_int_t)value) : json_null());
}

static json_t *
show_queue(const struct vdpa_queue_stats *s, enum queue_type type)
{
#define NAME(id, name, ...) name,
	static const char *const names[] = {VDPA_QUEUE_STATS(NAME)};
#undef NAME
	json_t *obj = json_object();
	char key[64];

	json_object_set_new(obj, "queue_type", json_string(queue_types[type]));
	json_object_set_new(obj, "path", json_string(s->path));
	for (unsigned int id = 0; id < VDPA_QUEUE_STAT_COUNT; id++)
		if (s->known[id] || applies(type, id))
			set(obj, names[id], s->known[id], s->value[id]);
	for (unsigned int i = 0; i < s->n_vendor; i++)
		set(obj, s->vendor[i].name, true, s->vendor[i].value);
	for (unsigned int i = 0; i < s->n_path_stats; i++) {
		snprintf(key, sizeof(key), "path_%s", s->path_stats[i].name);
		set(obj, key, true, s->path_stats[i].value);
	}
	return obj;
}

static json_t *
show_queues(struct vdpa_device *vdev)
{
	uint16_t nvqs = vdev->core->nvqs;
	struct vdpa_queue_stats *s = calloc(RTE_MAX(nvqs, 1), sizeof(*s));
	json_t *queues = json_array();

	if (s == NULL)
		return queues;
	for (uint16_t i = 0; i < nvqs; i++)
		vdpa_device_get_vq_stats(vdev, i, &s[i]);
	vdpa_device_look_at_rings(vdev, s, nvqs);
	for (uint16_t i = 0; i < nvqs; i++)
		json_array_append_new(queues, show_queue(&s[i], queue_type(vdev, i)));
	free(s);
	return queues;
}

static json_t *
show_device(struct vdpa_device *vdev)
{
#define NAME(id, name, ...) name,
	static const char *const names[] = {VDPA_DEVICE_STATS(NAME)};
#undef NAME
	const struct vdpa_config_ops *ops = vdev->config;
	struct vdpa_stat vendor[VDPA_VENDOR_STATS_MAX];
	struct vdpa_device_stats s;
	json_t *obj = json_object();
	int n = ops->get_stats != NULL ? ops->get_stats(vdev, vendor, RTE_DIM(vendor)) : 0;

	vdpa_device_get_stats(vdev, &s);
	json_object_set_new(obj, "state",
			    json_string(vdpa_device_state_name(vdpa_device_get_state(vdev))));
	for (unsigned int id = 0; id < VDPA_DEVICE_STAT_COUNT; id++)
		set(obj, names[id], s.known[id], s.value[id]);
	for (int i = 0; i < RTE_MIN(n, (int)RTE_DIM(vendor)); i++)
		set(obj, vendor[i].name, true, vendor[i].value);
	return obj;
}

/* What stops, moves and logs have cost. */
static json_t *
show_figures(struct vdpa_device *vdev)
{
	struct vdpa_stat stats[VDPA_VENDOR_STATS_MAX];
	unsigned int n = vdpa_device_figures(vdev, stats, RTE_DIM(stats));
	json_t *obj = json_object();

	for (unsigned int i = 0; i < RTE_MIN(n, (unsigned int)RTE_DIM(stats)); i++)
		set(obj, stats[i].name, true, stats[i].value);
	return obj;
}

static struct vdpa_device *
find(const char *name)
{
	struct vdpa_device *vdev = vdpa_find_device(name);

	if (vdev == NULL)
		vdpa_error(ENODEV, "device '%s': there is none of that name", name);
	return vdev;
}

/* Counters in memory, but read by the driver: with a reference and no lock. */
static json_t *
show_stats(const char *name)
{
	struct vdpa_device *vdev = find(name);
	json_t *obj;

	if (vdev == NULL)
		return NULL;
	obj = json_object();
	json_object_set_new(obj, "device", show_device(vdev));
	json_object_set_new(obj, "queues", show_queues(vdev));
	json_object_set_new(obj, "migration", show_figures(vdev));
	vdpa_put_device(vdev);
	return obj;
}

char *
vdpa_dev_stats(const char *name)
{
	return vdpa_show_one_or_all(name, show_stats);
}

/* As the kernel answers VDPA_CMD_DEV_VSTATS_GET, which iproute2 asks. */
static int
check_vstats(struct vdpa_device *vdev, unsigned int qidx)
{
	uint8_t status = __atomic_load_n(&vdev->core->status, __ATOMIC_RELAXED);

	if (vdev->config->get_device_id(vdev) != VIRTIO_ID_NET)
		return vdpa_error(EOPNOTSUPP,
				  "%s: vstats are of network devices alone; dev stats "
				  "has what this one counts",
				  vdev->name);
	if (qidx > VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX)
		return vdpa_error(ERANGE, "%s: queue index %u exceeds the largest, %u", vdev->name,
				  qidx, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX);
	if ((status & VIRTIO_CONFIG_S_FEATURES_OK) == 0)
		return vdpa_error(EAGAIN, "%s: features are not negotiated yet", vdev->name);
	if (qidx >= vdev->core->nvqs)
		return vdpa_error(EINVAL, "%s: queue %u: there are %u", vdev->name, qidx,
				  vdev->core->nvqs);
	return 0;
}

static int
show_vstats(struct vdpa_device *vdev, unsigned int qidx, json_t *obj)
{
	struct vdpa_queue_stats s;
	int rc = check_vstats(vdev, qidx);

	if (rc < 0)
		return rc;
	vdpa_device_get_vq_stats(vdev, (uint16_t)qidx, &s);
	if (!s.known[VDPA_QUEUE_STAT_RECEIVED_DESC] || !s.known[VDPA_QUEUE_STAT_COMPLETED_DESC])
		return vdpa_error(EOPNOTSUPP, "%s: the device does not count descriptors",
				  vdev->name);
	json_object_set_new(obj, "queue_type",
			    json_string(queue_types[queue_type(vdev, (uint16_t)qidx)]));
	set(obj, VDPA_QSTAT_RECEIVED_DESC, true, s.value[VDPA_QUEUE_STAT_RECEIVED_DESC]);
	set(obj, VDPA_QSTAT_COMPLETED_DESC, true, s.value[VDPA_QUEUE_STAT_COMPLETED_DESC]);
	return 0;
}

char *
vdpa_dev_vstats(const char *name, unsigned int qidx)
{
	struct vdpa_device *vdev = find(name);
	json_t *obj;
	int rc;

	if (vdev == NULL) {
		errno = ENODEV;
		return NULL;
	}
	obj = json_object();
	rc = show_vstats(vdev, qidx, obj);
	vdpa_put_device(vdev);
	if (rc == 0)
		return vdpa_show_text(obj);
	json_decref(obj);
	errno = -rc;
	return NULL;
}
