/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * What rte_vhost asks of a device: each operation finds the device, and does or answers one thing.
 * Also what is offered to a front end, and the statistics.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_net.h>
#include <rte_bitops.h>
#include <rte_common.h>

#include "rte_vdpa_priv.h"
#include "vdpa_log.h"

/* rte_vhost's buffer for configuration; up to 25.11 it does not check the length of a read. */
#define CONFIG_MAX 256

bool
vdpa_rte_type_of(struct vdpa_device *vdev, uint32_t *type)
{
	switch (vdpa_get_device_id(vdev)) {
	case VIRTIO_ID_NET:
		*type = RTE_VHOST_VDPA_DEVICE_TYPE_NET;
		return true;
	case VIRTIO_ID_BLOCK:
		*type = RTE_VHOST_VDPA_DEVICE_TYPE_BLK;
		return true;
	default:
		return false;
	}
}

/* The device of an operation, locked; -1 out of the operation when it is gone. */
static struct vdpa_rte_device *
lock_device(struct rte_vdpa_device *registered)
{
	struct vdpa_rte_device *dev;

	pthread_mutex_lock(&vdpa_rte_lock);
	dev = vdpa_rte_find(registered);
	if (dev == NULL)
		pthread_mutex_unlock(&vdpa_rte_lock);
	return dev;
}

/* The same by connection. */
static struct vdpa_rte_device *
lock_connection(int vid)
{
	struct vdpa_rte_device *dev;

	pthread_mutex_lock(&vdpa_rte_lock);
	dev = vdpa_rte_find_vid(vid);
	if (dev == NULL)
		pthread_mutex_unlock(&vdpa_rte_lock);
	return dev;
}

/* Whether another connection has the device. */
static bool
is_held(const struct vdpa_rte_device *dev, int vid)
{
	return dev->vid != VDPA_RTE_NO_VID && dev->vid != vid;
}

/* The device of a connection that it serves, or is free to. */
static struct vdpa_rte_device *
lock_session(int vid)
{
	struct vdpa_rte_device *dev = lock_connection(vid);

	if (dev == NULL || !is_held(dev, vid))
		return dev;
	pthread_mutex_unlock(&vdpa_rte_lock);
	return NULL;
}

static void
unlock(void)
{
	pthread_mutex_unlock(&vdpa_rte_lock);
}

/* Queue pairs of a net device, queues of another: so rte_vhost has it. */
static int
get_queue_num(struct rte_vdpa_device *registered, uint32_t *num)
{
	struct vdpa_rte_device *dev = lock_device(registered);

	if (dev == NULL)
		return -1;
	*num = vdpa_consumer_queue_num(dev->vdev);
	unlock();
	return 0;
}

static int
get_features(struct rte_vdpa_device *registered, uint64_t *features)
{
	struct vdpa_rte_device *dev = lock_device(registered);

	if (dev == NULL)
		return -1;
	/* rte_vhost counts rings in pairs: a control queue has no place among them. */
	*features = vdpa_consumer_offered_features(dev->vdev, false);
	unlock();
	return 0;
}

/*
 * No back-end channel: what rte_vhost sends there waits for an answer without a bound, and QEMU
 * does not answer while it waits itself. So there are no host notifiers (kicks are relayed) and
 * configuration changes are not notified. No inflight areas: rte_vhost does not hand out their
 * size.
 */
static int
get_protocol_features(struct rte_vdpa_device *registered, uint64_t *features)
{
	struct vdpa_rte_device *dev = lock_device(registered);

	if (dev == NULL)
		return -1;
	*features = RTE_BIT64(VHOST_USER_PROTOCOL_F_MQ) |
		    RTE_BIT64(VHOST_USER_PROTOCOL_F_REPLY_ACK) |
		    RTE_BIT64(VHOST_USER_PROTOCOL_F_CONFIG);
	/* rte_vhost tells of a block device neither its status nor DRIVER_OK: it calls dev_conf at
	 * the call eventfd of the last ring and never else, which QEMU has sent before. */
	if (dev->is_net)
		*features |= RTE_BIT64(VHOST_USER_PROTOCOL_F_STATUS) |
			     RTE_BIT64(VHOST_USER_PROTOCOL_F_RARP) |
			     RTE_BIT64(VHOST_USER_PROTOCOL_F_NET_MTU);
	if (vdpa_get_capabilities(dev->vdev)->log)
		*features |= RTE_BIT64(VHOST_USER_PROTOCOL_F_LOG_SHMFD);
	unlock();
	return 0;
}

static int
get_dev_type(struct rte_vdpa_device *registered, uint32_t *type)
{
	struct vdpa_rte_device *dev = lock_device(registered);
	bool known;

	if (dev == NULL)
		return -1;
	known = vdpa_rte_type_of(dev->vdev, type);
	unlock();
	return known ? 0 : -1;
}

/*
 * From 24.03 on rte_vhost does not take the locks of a configured device's rings and asserts that
 * it has, for some messages: the process ends. A device whose configuration failed is treated as
 * every other: locked, and configured again after the next message. So rte_vhost gets that answer
 * there for a device that runs; and what is left to do after a message is a changed memory table,
 * for which the device need not stop. A block device that was configured would be closed for a
 * changed memory table and not configured again, in every release.
 */
static int
configure(struct vdpa_rte_device *dev, int vid)
{
	bool running = dev->vid == vid && vdpa_consumer_is_running(dev->consumer);
	int rc;

	rc = vdpa_rte_session_begin(dev, vid);
	if (rc == 0)
		rc = vdpa_rte_session_conf(dev);
	/* It must not go on with memory that the front end has taken back. */
	if (rc < 0 && running)
		vdpa_rte_session_stop(dev);
	if (rc < 0 && rc != -EAGAIN)
		VDPA_LOG(ERR, "%s: rte_vdpa: %s: %s", dev->vdev->name,
			 running ? "memory table" : "start", vdpa_error_message());
	return rc < 0 || vdpa_rte_aborts || !dev->is_net ? -1 : 0;
}

static int
dev_conf(int vid)
{
	struct vdpa_rte_device *dev = lock_connection(vid);
	int rc;

	if (dev == NULL) {
		VDPA_LOG(ERR, "rte_vdpa: connection %d refused: its device is gone", vid);
		return -1;
	}
	if (is_held(dev, vid)) {
		if (vdpa_rte_wait_complete(dev, vid) == 0)
			VDPA_LOG(WARNING,
				 "%s: rte_vdpa: connection %d waits for connection %d to end",
				 dev->vdev->name, vid, dev->vid);
		rc = -1;
	} else {
		rc = configure(dev, vid);
	}
	unlock();
	return rc;
}

static int
dev_close(int vid)
{
	struct vdpa_rte_device *dev = lock_connection(vid);

	if (dev == NULL)
		return -1;
	if (dev->vid == vid)
		vdpa_rte_session_stop(dev);
	else
		vdpa_rte_wait_stopped(dev, vid);
	unlock();
	return 0;
}

static int
dev_cleanup(int vid)
{
	struct vdpa_rte_device *dev = lock_connection(vid);
	int waits;

	if (dev == NULL)
		return -1;
	vdpa_rte_wait_over(dev, vid, NULL);
	if (dev->vid == vid) {
		vdpa_rte_session_end(dev);
		waits = vdpa_rte_wait_first_complete(dev);
		if (waits != VDPA_RTE_NO_VID)
			(void)configure(dev, waits);
	}
	unlock();
	return 0;
}

static int
set_vring_state(int vid, int vring, int state)
{
	struct vdpa_rte_device *dev = lock_connection(vid);
	int rc = 0;

	if (dev == NULL)
		return -1;
	if (vring < 0 || vring >= dev->nrings) {
		if (state != 0) {
			VDPA_LOG(ERR, "%s: rte_vdpa: queue %d: there are %u", dev->vdev->name,
				 vring, dev->nrings);
			rc = -1;
		}
	} else if (is_held(dev, vid)) {
		rc = vdpa_rte_wait_ring(dev, vid, (uint16_t)vring, state != 0);
		if (rc < 0)
			VDPA_LOG(ERR, "%s: rte_vdpa: queue %d of connection %d is lost: %s",
				 dev->vdev->name, vring, vid, vdpa_error_message());
	} else if (state != 0) {
		rc = vdpa_rte_session_begin(dev, vid);
		if (rc == 0)
			rc = vdpa_rte_session_ring_ready(dev, (uint16_t)vring);
		if (rc < 0 && rc != -EAGAIN)
			VDPA_LOG(ERR, "%s: rte_vdpa: queue %d: %s", dev->vdev->name, vring,
				 vdpa_error_message());
	}
	unlock();
	return rc < 0 ? -1 : 0;
}

static int
set_features(int vid)
{
	struct vdpa_rte_device *dev = lock_session(vid);
	int rc;

	if (dev == NULL)
		return -1;
	rc = dev->vid == vid && vdpa_consumer_is_running(dev->consumer)
		     ? vdpa_rte_session_features(dev)
		     : 0;
	unlock();
	return rc < 0 ? -1 : 0;
}

/* SEND_RARP; rte_vhost does not pass on the address that the front end names, so it is the
 * device's. */
static int
migration_done(int vid)
{
	struct vdpa_rte_device *dev = lock_session(vid);
	uint8_t mac[6];
	int rc = 0;

	if (dev == NULL)
		return -1;
	if (dev->vid == vid && dev->is_net && vdpa_consumer_is_running(dev->consumer)) {
		rc = vdpa_get_config(dev->vdev, offsetof(struct virtio_net_config, mac), mac,
				     sizeof(mac));
		if (rc == 0)
			rc = vdpa_device_announce(dev->vdev, mac);
		/* Without an announcement the guest's own, which QEMU asks it for, does. */
		if (rc < 0 && rc != -EOPNOTSUPP)
			VDPA_LOG(WARNING, "%s: rte_vdpa: announce: %s", dev->vdev->name,
				 vdpa_error_message());
	}
	unlock();
	return rc < 0 ? -1 : 0;
}

static int
get_config(int vid, uint8_t *config, uint32_t size)
{
	struct vdpa_rte_device *dev = lock_connection(vid);
	size_t len;
	int rc;

	if (dev == NULL || size > CONFIG_MAX) {
		if (dev != NULL)
			unlock();
		return -1;
	}
	memset(config, 0, size);
	len = RTE_MIN((size_t)size, vdpa_get_config_size(dev->vdev));
	rc = vdpa_get_config(dev->vdev, 0, config, len);
	if (rc < 0)
		VDPA_LOG(ERR, "%s: rte_vdpa: configuration: %s", dev->vdev->name,
			 vdpa_error_message());
	unlock();
	return rc < 0 ? -1 : 0;
}

static int
set_config(int vid, uint8_t *config, uint32_t offset, uint32_t size, uint32_t flags)
{
	struct vdpa_rte_device *dev = lock_session(vid);
	int rc;

	RTE_SET_USED(flags);
	if (dev == NULL || size > CONFIG_MAX) {
		if (dev != NULL)
			unlock();
		return -1;
	}
	rc = vdpa_set_config(dev->vdev, offset, config, size);
	if (rc < 0)
		VDPA_LOG(WARNING, "%s: rte_vdpa: configuration: %s", dev->vdev->name,
			 vdpa_error_message());
	unlock();
	return rc < 0 ? -1 : 0;
}

/* The statistics of a queue; how many of stats, VDPA_RTE_STATS_MAX of them, are set. */
static unsigned int
queue_stats(struct vdpa_rte_device *dev, uint16_t q, struct vdpa_stat *stats)
{
	int n = vdpa_get_vq_stats(dev->vdev, q, stats, VDPA_RTE_STATS_MAX);

	return n < 0 ? 0 : RTE_MIN((unsigned int)n, (unsigned int)VDPA_RTE_STATS_MAX);
}

int
vdpa_rte_stats_init(struct vdpa_rte_device *dev)
{
	struct vdpa_stat stats[VDPA_RTE_STATS_MAX];

	for (uint16_t q = 0; q < dev->nrings; q++)
		vdpa_rte_stats_add(&dev->stats, stats, queue_stats(dev, q, stats));
	dev->stat_zero = calloc((size_t)dev->nrings * VDPA_RTE_STATS_MAX, sizeof(uint64_t));
	return dev->stat_zero != NULL ? 0 : vdpa_error(ENOMEM, "out of memory");
}

static int
get_stats_names(struct rte_vdpa_device *registered, struct rte_vdpa_stat_name *names,
		unsigned int size)
{
	struct vdpa_rte_device *dev = lock_device(registered);
	unsigned int n;

	if (dev == NULL)
		return -ENODEV;
	n = dev->stats.n;
	for (unsigned int i = 0; names != NULL && i < RTE_MIN(n, size); i++)
		snprintf(names[i].name, sizeof(names[i].name), "%s", dev->stats.names[i]);
	unlock();
	return (int)n;
}

/* The statistics of a queue since the last reset, by id. How many. */
static int
read_stats(struct vdpa_rte_device *dev, uint16_t q, struct rte_vdpa_stat *out, unsigned int size)
{
	const uint64_t *zero = &dev->stat_zero[(size_t)q * VDPA_RTE_STATS_MAX];
	struct vdpa_stat stats[VDPA_RTE_STATS_MAX];
	uint64_t values[VDPA_RTE_STATS_MAX];
	unsigned int n = RTE_MIN(dev->stats.n, size);

	vdpa_rte_stats_values(&dev->stats, stats, queue_stats(dev, q, stats), values);
	for (unsigned int id = 0; id < n; id++)
		out[id] = (struct rte_vdpa_stat){.id = id, .value = values[id] - zero[id]};
	return (int)n;
}

static int
get_stats(struct rte_vdpa_device *registered, int qid, struct rte_vdpa_stat *stats, unsigned int n)
{
	struct vdpa_rte_device *dev = lock_device(registered);
	int rc = -EINVAL;

	if (dev == NULL)
		return -ENODEV;
	if (qid >= 0 && qid < dev->nrings)
		rc = read_stats(dev, (uint16_t)qid, stats, n);
	unlock();
	return rc;
}

static int
reset_stats(struct rte_vdpa_device *registered, int qid)
{
	struct vdpa_rte_device *dev = lock_device(registered);
	struct rte_vdpa_stat stats[VDPA_RTE_STATS_MAX];
	int rc = -EINVAL;

	if (dev == NULL)
		return -ENODEV;
	if (qid >= 0 && qid < dev->nrings) {
		uint64_t *zero = &dev->stat_zero[(size_t)qid * VDPA_RTE_STATS_MAX];
		int n = read_stats(dev, (uint16_t)qid, stats, RTE_DIM(stats));

		for (int i = 0; i < n; i++)
			zero[stats[i].id] += stats[i].value;
		rc = 0;
	}
	unlock();
	return rc;
}

struct rte_vdpa_dev_ops vdpa_rte_ops = {
	.get_queue_num = get_queue_num,
	.get_features = get_features,
	.get_protocol_features = get_protocol_features,
	.dev_conf = dev_conf,
	.dev_close = dev_close,
	.dev_cleanup = dev_cleanup,
	.set_vring_state = set_vring_state,
	.set_features = set_features,
	.migration_done = migration_done,
	.get_stats_names = get_stats_names,
	.get_stats = get_stats,
	.reset_stats = reset_stats,
	.get_config = get_config,
	.set_config = set_config,
	.get_dev_type = get_dev_type,
};
