/* SPDX-License-Identifier: BSD-3-Clause */
/* Copyright (c) 2026 uvdpa contributors */

/*
 * sim_blk, the block class of the simulator: its words, configuration space and features. What a
 * virtqueue does is in sim_blk_queue.c, where the sectors are in the back ends.
 */

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <rte_byteorder.h>

#include "sim_blk.h"

#define VIRTIO_ID_BLOCK_DEVICE 2
/* Up to the fields of SECURE_ERASE, which is not offered. */
#define SIM_BLK_CONFIG_SIZE    offsetof(struct virtio_blk_config, max_secure_erase_sectors)
#define SIM_BLK_QUEUES_MAX     64
#define SIM_BLK_DELAY_MAX_MS   60000
#define BLK_STATE_VERSION      1
/* What the configuration asks the guest to align to, whatever blk_size is: a page of the host's
 * cache. */
#define SIM_BLK_PHYSICAL_BLOCK 4096u

/* A back end that completes at once also keeps order. */
#define SIM_BLK_FEATURES                                                                           \
	(SIM_RING_FEATURES | SIM_BIT(VIRTIO_BLK_F_SIZE_MAX) | SIM_BIT(VIRTIO_BLK_F_SEG_MAX) |      \
	 SIM_BIT(VIRTIO_BLK_F_RO) | SIM_BIT(VIRTIO_BLK_F_BLK_SIZE) | SIM_BIT(VIRTIO_BLK_F_FLUSH) | \
	 SIM_BIT(VIRTIO_BLK_F_TOPOLOGY) | SIM_BIT(VIRTIO_BLK_F_CONFIG_WCE) |                       \
	 SIM_BIT(VIRTIO_BLK_F_MQ) | SIM_BIT(VIRTIO_BLK_F_DISCARD) |                                \
	 SIM_BIT(VIRTIO_BLK_F_WRITE_ZEROES))

static const struct vdpa_param_choice backend_choices[] = {
	{"ram", "SIZE", VDPA_PARAM_SIZE, SIM_BLK_SECTOR_SIZE, UINT64_C(1) << 46,
	 "memory, sparse, gone with the device"},
	{"file", "PATH", VDPA_PARAM_STRING, 1, 4095, "an existing regular file or block device"},
	{.name = NULL},
};

static const struct vdpa_param_choice blk_size_choices[] = {
	{.name = "512"},
	{.name = "4096"},
	{.name = NULL},
};

static const struct vdpa_param_choice on_off_choices[] = {
	{.name = "on"},
	{.name = "off"},
	{.name = NULL},
};

static const struct vdpa_param params[] = {
	SIM_PARAMS,
	{.name = "backend",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = backend_choices,
	 .help = "where the sectors are (must be given)"},
	{.name = "queues",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = SIM_BLK_QUEUES_MAX,
	 .help = "virtqueues (default 1)"},
	{.name = "serial",
	 .type = VDPA_PARAM_STRING,
	 .metavar = "STRING",
	 .min = 1,
	 .max = VIRTIO_BLK_ID_BYTES,
	 .help = "serial number, up to 20 characters (default the name)"},
	{.name = "read-only", .type = VDPA_PARAM_FLAG, .help = "the guest may not write"},
	{.name = "blk_size",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = blk_size_choices,
	 .help = "logical block size in bytes (default 512)"},
	{.name = "write-cache",
	 .type = VDPA_PARAM_CHOICE,
	 .choices = on_off_choices,
	 .help = "on: durable at a flush; off: at every write (default on)"},
	{.name = "direct",
	 .type = VDPA_PARAM_FLAG,
	 .help = "file: O_DIRECT, past the host's page cache"},
	{.name = "share-rw",
	 .type = VDPA_PARAM_FLAG,
	 .help = "file: others may write to it at the same time"},
	{.name = "delay_ms",
	 .type = VDPA_PARAM_UINT,
	 .metavar = "N",
	 .min = 1,
	 .max = SIM_BLK_DELAY_MAX_MS,
	 .help = "each request waits so long before it is carried out, for tests"},
	{.name = NULL},
};

static const struct vdpa_param attr_params[] = {
	{.name = "resize",
	 .type = VDPA_PARAM_FLAG,
	 .help = "file: look at its size again and tell the guest"},
	{.name = NULL},
};

static void
fill_config(const struct sim_blk *blk, struct virtio_blk_config *c)
{
	const struct sim_blk_backend *be = blk->be;
	uint32_t physical = SIM_BLK_PHYSICAL_BLOCK / blk->blk_size;

	memset(c, 0, sizeof(*c));
	c->capacity = rte_cpu_to_le_64(be->size >> SIM_BLK_SECTOR_SHIFT);
	c->size_max = rte_cpu_to_le_32(SIM_BLK_SIZE_MAX);
	c->seg_max = rte_cpu_to_le_32(SIM_BLK_SEG_MAX);
	c->blk_size = rte_cpu_to_le_32(blk->blk_size);
	c->physical_block_exp = (uint8_t)__builtin_ctz(physical);
	c->min_io_size = rte_cpu_to_le_16((uint16_t)physical);
	c->wce = blk->write_cache;
	c->num_queues = rte_cpu_to_le_16(blk->dev->nvqs);
	if (be->can_discard) {
		c->max_discard_sectors = rte_cpu_to_le_32(be->max_discard);
		c->max_discard_seg = rte_cpu_to_le_32(SIM_BLK_DISCARD_SEGS);
		c->discard_sector_alignment =
			rte_cpu_to_le_32(blk->blk_size >> SIM_BLK_SECTOR_SHIFT);
	}
	if (be->can_write_zeroes) {
		c->max_write_zeroes_sectors = rte_cpu_to_le_32(be->max_write_zero);
		c->max_write_zeroes_seg = rte_cpu_to_le_32(SIM_BLK_WZ_SEGS);
		c->write_zeroes_may_unmap = be->may_unmap;
	}
}

static uint64_t
features_of(const struct sim_blk *blk)
{
	uint64_t f = SIM_BLK_FEATURES;

	if (!blk->be->ops->in_order)
		f &= ~SIM_BIT(SIM_F_IN_ORDER);
	if (!blk->read_only)
		f &= ~SIM_BIT(VIRTIO_BLK_F_RO);
	else
		f &= ~SIM_BIT(VIRTIO_BLK_F_CONFIG_WCE);
	if (blk->read_only || !blk->be->can_discard)
		f &= ~SIM_BIT(VIRTIO_BLK_F_DISCARD);
	if (blk->read_only || !blk->be->can_write_zeroes)
		f &= ~SIM_BIT(VIRTIO_BLK_F_WRITE_ZEROES);
	if (blk->dev->nvqs == 1)
		f &= ~SIM_BIT(VIRTIO_BLK_F_MQ);
	return f;
}

static int
open_backend(struct sim_blk *blk, const struct vdpa_args *args)
{
	const struct vdpa_arg *backend = vdpa_args_find(args, "backend");
	struct sim_blk_backend_params p = {
		.device = blk->dev->vdev.name,
		.blk_size = blk->blk_size,
		.read_only = blk->read_only,
		.direct = vdpa_args_has(args, "direct"),
		.share_rw = vdpa_args_has(args, "share-rw"),
	};

	if (backend == NULL)
		return vdpa_error(EINVAL, "%s: sim_blk needs backend ram SIZE or backend file PATH",
				  p.device);
	if (strcmp(backend->choice->name, "file") == 0) {
		p.path = backend->str;
		return sim_blk_file_open(&p, &blk->be);
	}
	if (p.direct || p.share_rw)
		return vdpa_error(EINVAL, "%s: %s is for backend file", p.device,
				  p.direct ? "direct" : "share-rw");
	p.size = backend->u64;
	return sim_blk_ram_open(&p, &blk->be);
}

/* The back end, slowed down by the word delay_ms. */
static int
open_disk(struct sim_blk *blk, const struct vdpa_args *args)
{
	uint64_t delay_ms = vdpa_args_u64(args, "delay_ms", 0);
	int err = open_backend(blk, args);

	if (err != 0 || delay_ms == 0)
		return err;
	err = sim_blk_delay_open((unsigned int)delay_ms, &blk->be);
	if (err != 0)
		blk->be->ops->close(blk->be);
	return err;
}

static int
blk_init(struct sim_device *dev, const struct vdpa_args *args, struct vdpa_worker **worker)
{
	const struct vdpa_arg *blk_size = vdpa_args_find(args, "blk_size");
	const struct vdpa_arg *cache = vdpa_args_find(args, "write-cache");
	const char *serial = vdpa_args_str(args, "serial", dev->vdev.name);
	struct sim_blk *blk = calloc(1, sizeof(*blk));
	struct virtio_blk_config config;
	int err;

	if (blk == NULL)
		return vdpa_error(ENOMEM, "%s: no memory for the device", dev->vdev.name);
	blk->dev = dev;
	blk->blk_size =
		blk_size == NULL ? SIM_BLK_SECTOR_SIZE : (uint32_t)atoi(blk_size->choice->name);
	blk->read_only = vdpa_args_has(args, "read-only");
	blk->write_cache = cache == NULL || strcmp(cache->choice->name, "on") == 0;
	/* Padded with zeroes; a full one has no terminator (virtio 1.2, 5.2.6.1). */
	memcpy(blk->serial, serial, strnlen(serial, sizeof(blk->serial)));
	dev->nvqs = (uint16_t)vdpa_args_u64(args, "queues", 1);
	err = open_disk(blk, args);
	if (err != 0) {
		free(blk);
		return err;
	}
	dev->priv = blk;
	dev->device_features = features_of(blk);
	fill_config(blk, &config);
	memcpy(dev->config, &config, SIM_BLK_CONFIG_SIZE);
	return 0;
}

static void
blk_fini(struct sim_device *dev)
{
	struct sim_blk *blk = dev->priv;

	blk->be->ops->close(blk->be);
	free(blk);
	dev->priv = NULL;
}

static void
blk_teardown(struct sim_device *dev)
{
	struct sim_blk *blk = dev->priv;

	for (uint16_t i = 0; i < dev->nvqs; i++)
		sim_blk_queue_close(&blk->queues[i]);
	free(blk->queues);
	blk->queues = NULL;
}

static int
blk_setup(struct sim_device *dev)
{
	struct sim_blk *blk = dev->priv;
	int err;

	blk->queues = calloc(dev->nvqs, sizeof(*blk->queues));
	if (blk->queues == NULL)
		return vdpa_error(ENOMEM, "%s: no memory for %u queues", dev->vdev.name, dev->nvqs);
	for (uint16_t i = 0; i < dev->nvqs; i++) {
		err = sim_blk_queue_open(&blk->queues[i], blk, &dev->vqs[i]);
		if (err != 0) {
			blk_teardown(dev);
			return err;
		}
	}
	return 0;
}

/*
 * The driver may write one field, the write cache's mode. It outlives a reset: a front end resets
 * the device whenever the virtual machine pauses, while the guest goes on to rely on its choice;
 * one that boots anew reads what is in force.
 */
static int
blk_set_config(struct sim_device *dev, size_t offset, const void *buf, size_t len)
{
	struct sim_blk *blk = dev->priv;
	uint8_t wce;

	if ((dev->device_features & SIM_BIT(VIRTIO_BLK_F_CONFIG_WCE)) == 0)
		return -EOPNOTSUPP;
	if (offset != offsetof(struct virtio_blk_config, wce) || len != sizeof(wce))
		return vdpa_error(EINVAL, "%s: configuration offset %zu, %zu bytes is read-only",
				  dev->vdev.name, offset, len);
	memcpy(&wce, buf, sizeof(wce));
	if (wce > 1)
		return vdpa_error(EINVAL, "%s: write-cache mode %u is not 0 or 1", dev->vdev.name,
				  wce);
	__atomic_store_n(&blk->write_cache, wce == 1, __ATOMIC_RELAXED);
	sim_config_write(dev, offset, &wce, sizeof(wce), false);
	return 0;
}

/*
 * The write cache's mode is what a driver may have set. It moves as the driver relies on it; what
 * the destination has by its words is for the next driver, and so is this: a reset keeps it.
 */
static int
blk_save_state(struct sim_device *dev, void *buf, size_t room)
{
	const struct sim_blk *blk = dev->priv;
	const uint8_t state[] = {BLK_STATE_VERSION,
				 __atomic_load_n(&blk->write_cache, __ATOMIC_RELAXED)};

	if ((dev->features & SIM_BIT(VIRTIO_BLK_F_CONFIG_WCE)) == 0)
		return 0;
	if (room < sizeof(state))
		return -ENOSPC;
	memcpy(buf, state, sizeof(state));
	return sizeof(state);
}

static int
blk_load_state(struct sim_device *dev, const void *buf, size_t len)
{
	const uint8_t *state = buf;

	if (len != 2 || state[0] != BLK_STATE_VERSION)
		return vdpa_error(EINVAL, "a state of %zu bytes, version %u, this is 2 bytes, %d",
				  len, len > 0 ? state[0] : 0, BLK_STATE_VERSION);
	if ((dev->features & SIM_BIT(VIRTIO_BLK_F_CONFIG_WCE)) == 0)
		return vdpa_error(EINVAL, "a state of the write cache's mode, which was not "
					  "negotiated");
	return blk_set_config(dev, offsetof(struct virtio_blk_config, wce), &state[1], 1);
}

static int
blk_set_attr(struct sim_device *dev, const struct vdpa_args *args)
{
	struct sim_blk *blk = dev->priv;
	uint64_t before = blk->be->size, capacity;
	int err;

	if (!vdpa_args_has(args, "resize"))
		return 0;
	if (blk->be->ops->resize == NULL)
		return vdpa_error(EOPNOTSUPP, "%s: backend %s has a fixed size", dev->vdev.name,
				  blk->be->ops->name);
	err = blk->be->ops->resize(blk->be);
	if (err != 0 || blk->be->size == before)
		return err;
	capacity = rte_cpu_to_le_64(blk->be->size >> SIM_BLK_SECTOR_SHIFT);
	sim_config_write(dev, offsetof(struct virtio_blk_config, capacity), &capacity,
			 sizeof(capacity), true);
	VDPA_LOG(NOTICE, "%s: grew from %" PRIu64 " to %" PRIu64 " bytes", dev->vdev.name, before,
		 blk->be->size);
	return 0;
}

static uint64_t
counted(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static int
blk_vq_stats(struct sim_queue *q, struct vdpa_stat *stats, unsigned int n)
{
	const struct sim_blk *blk = q->dev->priv;
	const struct sim_blk_stats *s = &blk->queues[q->idx].stats;
	uint64_t bytes = counted(&s->bytes[SIM_BLK_READ]) + counted(&s->bytes[SIM_BLK_WRITE]);
	uint64_t errors =
		counted(&s->io_errors) + counted(&s->unsupported) + counted(&s->malformed);
	struct vdpa_vq_counters c;
	int i = 0;

	vdpa_vq_counters(q->vq, &c);
	i = sim_stat(stats, n, i, VDPA_QSTAT_REQUESTS, &c.pushed);
	i = sim_stat(stats, n, i, VDPA_QSTAT_BYTES, &bytes);
	i = sim_stat(stats, n, i, VDPA_QSTAT_ERRORS, &errors);
	i = sim_stat(stats, n, i, "reads", &s->requests[SIM_BLK_READ]);
	i = sim_stat(stats, n, i, "read_bytes", &s->bytes[SIM_BLK_READ]);
	i = sim_stat(stats, n, i, "writes", &s->requests[SIM_BLK_WRITE]);
	i = sim_stat(stats, n, i, "write_bytes", &s->bytes[SIM_BLK_WRITE]);
	i = sim_stat(stats, n, i, "flushes", &s->requests[SIM_BLK_FLUSH]);
	i = sim_stat(stats, n, i, "discards", &s->requests[SIM_BLK_DISCARD]);
	i = sim_stat(stats, n, i, "write_zeroes", &s->requests[SIM_BLK_WRITE_ZEROES]);
	i = sim_stat(stats, n, i, "io_errors", &s->io_errors);
	i = sim_stat(stats, n, i, "unsupported", &s->unsupported);
	i = sim_stat(stats, n, i, "malformed", &s->malformed);
	i = sim_stat(stats, n, i, "inflight", &s->inflight);
	return i;
}

/* The sums of the queues'. */
static int
blk_stats(struct sim_device *dev, struct vdpa_stat *stats, unsigned int n)
{
	struct vdpa_stat one[16];
	int count = 0;

	for (uint16_t q = 0; q < dev->nvqs; q++) {
		count = blk_vq_stats(&dev->vqs[q], one, RTE_DIM(one));
		for (unsigned int i = 0; i < (unsigned int)count && i < n; i++) {
			if (q == 0)
				stats[i] = one[i];
			else
				stats[i].value += one[i].value;
		}
	}
	return count;
}

static int
blk_can_restart(struct sim_device *dev)
{
	const struct sim_blk *blk = dev->priv;

	if (blk->be->ends != NULL)
		return vdpa_error(EOPNOTSUPP, "%s", blk->be->ends);
	return blk->be->shared == NULL ? 0 : vdpa_error(EOPNOTSUPP, "%s", blk->be->shared);
}

static const char *
blk_get_tie(struct sim_device *dev)
{
	const struct sim_blk *blk = dev->priv;

	return blk->be->ends;
}

const struct sim_class sim_blk_class = {
	.name = "sim_blk",
	.help = "simulated block device",
	.device_id = VIRTIO_ID_BLOCK_DEVICE,
	.config_size = SIM_BLK_CONFIG_SIZE,
	.supported_features = SIM_BLK_FEATURES,
	.max_vqs = SIM_BLK_QUEUES_MAX,
	.params = params,
	.attr_params = attr_params,
	.init = blk_init,
	.setup = blk_setup,
	.teardown = blk_teardown,
	.fini = blk_fini,
	.set_attr = blk_set_attr,
	.process = sim_blk_process,
	.arm = sim_blk_arm,
	.vq_start = sim_blk_vq_start,
	.vq_stop = sim_blk_vq_stop,
	.outstanding = sim_blk_outstanding,
	.set_config = blk_set_config,
	.save_state = blk_save_state,
	.load_state = blk_load_state,
	.can_restart = blk_can_restart,
	.get_tie = blk_get_tie,
	.vq_stats = blk_vq_stats,
	.stats = blk_stats,
};
